"""Where the next claim of a trigger's due events begins: behind those that the ones before took.

What was delivered stays in the index until no snapshot can see it any more, and a backup or a long
search holds a snapshot for as long as it takes. If each claim began with the first entry, it would
read all of that again, and ever more of it the longer the backlog lasts.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from eventing.pauses import pause_seconds

# What has become free before the place (a claim was rolled back, a transaction committed late)
# waits for the next look from the beginning, which takes this share of the time at most.
_FROM_THE_BEGINNING_EVERY_SECONDS: Final = 1.0
_FROM_THE_BEGINNING_SHARE: Final = 0.01

Due: TypeAlias = Sequence[Any]
"""A row of the event's id, of when it is due, and of whatever else, as the log's SQL has them."""
Find: TypeAlias = Callable[[Due | None], Sequence[Due]]


class Places:
    """Up to where this process has claimed, by trigger. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The last row that was found, and until when to go on behind it.
        self._places: dict[int, tuple[Due, float]] = {}

    def find(self, trigger_id: int, limit: int, find: Find) -> Sequence[Due]:
        """What `find` finds behind the place; if that is less than `limit`, or it is time to look,
        what it finds from the beginning."""
        place, until = self._places.get(trigger_id, (None, 0.0))
        began = self._clock()
        if place is not None and began < until:
            found = find(place)
            if len(found) == limit:
                self._places[trigger_id] = found[-1], until
                return found
        found = find(None)
        if len(found) == limit:
            now = self._clock()
            until = now + pause_seconds(
                now - began,
                _FROM_THE_BEGINNING_SHARE,
                at_least=_FROM_THE_BEGINNING_EVERY_SECONDS,
            )
            self._places[trigger_id] = found[-1], until
        else:
            self._places.pop(trigger_id, None)
        return found
