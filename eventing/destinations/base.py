"""The interface of a destination: many exchanges at once, from one thread of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from eventing.changes import Exchange


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to be made. `timeout_ms` spans the whole exchange.

    `shown_headers` are the headers as they may be stored, with secret values masked: what the
    exchange then carries in their place.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    timeout_ms: int
    shown_headers: tuple[tuple[str, str], ...] = ()


class Destination(Protocol):
    """Sends requests; every `submit` is answered by exactly one call of `on_done`."""

    def submit(self, request: Request, on_done: Callable[[Exchange], None]) -> None:
        """Queue a request; `on_done` is called on the destination's thread and must be quick."""
        ...

    def stop(self, timeout_seconds: float) -> None:
        """Finish what is under way for at most `timeout_seconds`; the rest ends as `stopped`."""
        ...
