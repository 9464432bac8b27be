"""The interface of a destination: many exchanges at once, from one thread of its own."""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from eventing.changes import Exchange

# What is stored in place of a secret.
MASK: Final = "••••"


class Request(NamedTuple):
    """One HTTP request to be made. `timeout_ms` spans the whole exchange.

    `shown_headers` are the headers as they may be stored, with secret values masked: what the
    exchange then carries in their place. `secrets` are masked wherever the answer repeats them.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout_ms: int
    shown_headers: tuple[tuple[str, str], ...] = ()
    secrets: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        """Where it goes, and nothing of what it carries."""
        return f"Request({self.url.partition('?')[0].rpartition('@')[2]})"


class Destination(Protocol):
    """Sends requests; every `submit` is answered by exactly one call of `on_done`."""

    def submit(
        self,
        request: Request,
        on_done: Callable[[Exchange], None],
        afterwards: Callable[[], None] | None = None,
    ) -> None:
        """Queue a request; `on_done` is called on the destination's thread and must be quick.

        After it, and after those of whatever else was answered at the same time, `afterwards` is
        called once, however many of them name it.
        """
        ...

    def stop(self, timeout_seconds: float) -> None:
        """Finish what is under way for at most `timeout_seconds`; the rest ends as `stopped`."""
        ...
