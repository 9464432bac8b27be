"""How several capture processes share the databases: about as many for each of them.

The lease alone decides who captures a database; what is said here only keeps one process from
taking all of them while others stand idle. Pure: the clock and the counts are handed in.
"""

from collections.abc import Sequence
from typing import Final

# A process with fewer databases than its share goes first; then any takes what is still free.
OTHERS_FIRST_SECONDS: Final = 1.5
# A process that died still counts for a while, and until then none of its share is given away.
PATIENCE_SECONDS: Final = 25.0
# A database that is given away stands still for a moment, so they go one after another.
GIVE_EVERY_SECONDS: Final = 2.0


class FairShare:
    """What one process takes and gives back. All times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._free_since: dict[int, float] = {}
        self._too_many_since: float | None = None
        self._gave_at = float("-inf")

    def to_take(
        self, free: Sequence[int], own: int, databases: int, processes: int, now: float
    ) -> list[int]:
        """Which of the databases that nobody captures to take, when `own` are captured already."""
        self._free_since = {each: self._free_since.get(each, now) for each in free}
        room = _share(databases, processes) - own
        return [
            each
            for place, each in enumerate(free)
            if place < room or now - self._free_since[each] >= OTHERS_FIRST_SECONDS
        ]

    def to_give(self, own: Sequence[int], databases: int, processes: int, now: float) -> int | None:
        """A database to let go of, since others have fewer; None as long as all is well."""
        if len(own) <= _share(databases, processes):
            self._too_many_since = None
            return None
        if self._too_many_since is None:
            self._too_many_since = now
        if (
            now - self._too_many_since < PATIENCE_SECONDS
            or now - self._gave_at < GIVE_EVERY_SECONDS
        ):
            return None
        self._gave_at = now
        return own[-1]


def _share(databases: int, processes: int) -> int:
    return -(-databases // max(1, processes))
