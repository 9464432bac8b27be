"""A source as tests read it: change by change, from one place to the next."""

from typing import Final

from eventing.changes import OPERATIONS, Change
from eventing.matching import Matcher, Rule
from eventing.sources.base import Source
from tests.waiting import wait_until

EVERYTHING: Final = Matcher([Rule(1, "all", (), frozenset(OPERATIONS))])


class Capture:
    """An open source, what was read of it, and the position it was last read to."""

    def __init__(self, source: Source, watch: Matcher, after: str | None) -> None:
        self.source = source
        self.source.open(watch, after)
        self.position = after
        self.seen: list[Change] = []

    def read(self, timeout_seconds: float = 0.2) -> list[Change]:
        batch = self.source.read(1000, timeout_seconds)
        self.seen += batch.changes
        self.position = batch.position
        return batch.changes

    def until(self, count: int) -> list[Change]:
        """Exactly `count` changes: as many come, and no more."""
        changes: list[Change] = []

        def are_enough() -> bool:
            changes.extend(self.read())
            return len(changes) >= count

        wait_until(are_enough, 20, "changes")
        changes += self.read()
        assert len(changes) == count
        return changes
