"""Which kinds of events a process has noted in a log, so that a usual batch has none to write.

What is remembered is forgotten after an hour, so that a kind is noted anew as long as it has new
events. A kind that was not noted for longer than events are kept has no event left.
"""

import time
from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

REMEMBERED_SECONDS: Final = 3_600.0
# How long a kind outlives its last event: it is noted anew at most once an hour, and the clock of
# the log's server may differ from the one that tells the day.
SPARE_SECONDS: Final = 86_400

Kind = TypeVar("Kind", bound=Hashable)


class KnownKinds(Generic[Kind]):
    """The kinds that were noted lately. Safe to share between threads."""

    def __init__(self) -> None:
        self._noted: set[Kind] = set()
        self._forget_at = 0.0

    def unknown(self, kinds: Iterable[Kind]) -> set[Kind]:
        """Those of `kinds` that are to be noted."""
        now = time.monotonic()
        if now >= self._forget_at:
            self._noted = set()
            self._forget_at = now + REMEMBERED_SECONDS
        return set(kinds) - self._noted

    def note(self, kinds: Iterable[Kind]) -> None:
        """These are in the log."""
        self._noted.update(kinds)
