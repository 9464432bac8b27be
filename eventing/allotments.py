"""How the workers share a trigger's `concurrency` and `rate_per_second` among themselves.

Every worker asks several times a second, and what it is allotted is written into a ledger that all
of them see, so that their sum keeps the limit. Pure: the clock and the ledger are handed in.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

# A worker that has not asked for this long is gone, and so are its requests.
HOLDS_SECONDS: Final = 3.0
# This part of a second may be made up for at once after a pause.
_BURST_SECONDS: Final = 0.2
# Where there are fewer slots than workers, they go round this often.
_ROUND_SECONDS: Final = 1.0


class Ask(NamedTuple):
    """What a worker has under way for a trigger, and what it would like to begin.

    `rate_per_second` 0 is no limit. `turns` is how many requests it would begin at once.
    """

    trigger_id: int
    concurrency: int
    rate_per_second: int
    under_way: int
    wants_slots: bool
    turns: int = 0


class Allotment(NamedTuple):
    """How many requests may be under way until the next ask, and how many may begin at once.

    `again_in_seconds`: when the next turn falls due, where fewer were given than asked for.
    """

    slots: int
    turns: int = 0
    again_in_seconds: float = 0.0


@dataclass(slots=True)
class Holder:
    """One worker's part: slots it may have in use until `until`, and whether it wants any."""

    slots: int
    wants: bool
    until: float


@dataclass(slots=True)
class Ledger:
    """What all workers hold of one trigger; times are seconds of one clock that they share."""

    holders: dict[str, Holder] = field(default_factory=dict)
    # Up to when the turns of the rate have been given away.
    turns_given_to: float = 0.0

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Ledger":
        """The ledger that `to_json` made; an empty mapping is an empty one."""
        holders = {who: Holder(*parts) for who, parts in stored.get("holders", {}).items()}
        return cls(holders, stored.get("turns_given_to", 0.0))

    def to_json(self) -> dict[str, Any]:
        """What can be stored as JSON, and made a ledger again by `from_json`."""
        holders = {who: [part.slots, part.wants, part.until] for who, part in self.holders.items()}
        return {"holders": holders, "turns_given_to": self.turns_given_to}

    def allot(self, who: str, ask: Ask, now: float) -> Allotment:
        """Give `who` its part of the slots, and the turns that are due, and note both."""
        self.holders = {
            name: part
            for name, part in self.holders.items()
            if part.until > now and name != who and (part.wants or part.slots)
        }
        slots = self._slots(who, ask, now) if ask.wants_slots else 0
        if slots or ask.under_way or ask.wants_slots:
            # What is under way cannot be taken back, so it counts until it is done.
            in_use = max(slots, ask.under_way)
            self.holders[who] = Holder(in_use, ask.wants_slots, now + HOLDS_SECONDS)
        turns, again = self._turns(ask, now) if ask.turns else (0, 0.0)
        return Allotment(slots, turns, again)

    def _slots(self, who: str, ask: Ask, now: float) -> int:
        wanting = sorted([who, *(name for name, part in self.holders.items() if part.wants)])
        each, left_over = divmod(ask.concurrency, len(wanting))
        place = (wanting.index(who) + int(now / _ROUND_SECONDS)) % len(wanting)
        share = each + (place < left_over)
        held_by_others = sum(part.slots for part in self.holders.values())
        return max(0, min(share, ask.concurrency - held_by_others))

    def _turns(self, ask: Ask, now: float) -> tuple[int, float]:
        interval = 1 / ask.rate_per_second
        burst = max(_BURST_SECONDS, interval)
        self.turns_given_to = max(self.turns_given_to, now - burst)
        # The sum of many intervals must not fall short of the whole by a rounding error.
        due = int((now - self.turns_given_to) / interval + 1e-6)
        turns = max(0, min(ask.turns, due))
        self.turns_given_to += turns * interval
        missing = turns < ask.turns
        return turns, max(0.0, self.turns_given_to + interval - now) if missing else 0.0
