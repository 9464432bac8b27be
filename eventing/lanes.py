"""The events of one trigger in one worker process: where they go, and which may be sent now.

A lane is only a queue with rules; the dispatcher of `eventing.delivery` fills and empties it and
holds its lock while it calls anything here.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from uuid import UUID

from eventing import __version__
from eventing.allotments import Allotment, Ask
from eventing.changes import Claim
from eventing.definitions import Backoff, PayloadFormat
from eventing.destinations.base import MASK, Request
from eventing.formats import BATCH_CHARACTERS, BATCH_EVENTS, message
from eventing.signing import signature_headers

# Not masked where an answer repeats it: a shorter value, or one of these headers, is no secret and
# may be anywhere in an answer.
_SHORTEST_SECRET: Final = 8
_NO_SECRETS: Final = frozenset(
    {"accept", "accept-charset", "accept-language", "cache-control", "user-agent"}
)
# Ids a lane remembers; what does not fit is claimed from the log, in order, once there is room.
_MOST_WAITING: Final = 2_000
# Claims that a lane holds beyond those under way: what it sends in a second, within these limits.
_FEWEST_AHEAD: Final = 1
_MOST_AHEAD: Final = 400
_EFFICIENT_CLAIM: Final = 200
_MOST_CLAIMED_AT_ONCE: Final = 2_000
_FIRST_GUESS_MS: Final = 50.0
# A claim that has waited longer goes back; its lease lasts for that and a whole exchange.
LONGEST_WAIT_SECONDS: Final = 10.0
_LEASE_SPARE_SECONDS: Final = 15.0
# A batch that is not full goes once nothing of its lane is under way, or after this long.
_BATCH_FILLS_SECONDS: Final = 0.1
# How often a busy lane asks for its allotment anew.
_ASK_EVERY_SECONDS: Final = 0.2
# A lane keeps its slots for this long after its last request, lest the next one wait for them.
_KEEPS_SLOTS_SECONDS: Final = 1.0
_TURNS_LAST_SECONDS: Final = 0.5
_TURNS_EVERY_SECONDS: Final = 0.02

_NOT_TO_BE_SET: Final = frozenset(
    {"content-length", "content-type", "host", "transfer-encoding", "connection", "expect"}
    | {"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"}
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how the events of one trigger are sent. Header values and secrets are in clear."""

    trigger_id: int
    project_id: int
    project: str
    trigger: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    retries: int = 3
    timeout_ms: int = 5000
    backoff: Backoff = field(default_factory=Backoff)
    concurrency: int = 64
    rate_per_second: int = 0
    state: str = "active"
    format: PayloadFormat = "spacecloud"
    breaker_is_open: bool = False

    @property
    def lease_seconds(self) -> float:
        """How long a claim holds: a wait in the lane, a whole exchange, and some to spare."""
        return self.timeout_ms / 1000 + LONGEST_WAIT_SECONDS + _LEASE_SPARE_SECONDS


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An endpoint fails all the time when this many attempts in a row failed, over this long."""

    failures: int = 100
    seconds: float = 60.0


class Requests:
    """Makes the requests of one endpoint; what is the same for all of them is made once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        own = [
            (name, value)
            for name, value in endpoint.headers
            if name.lower() not in _NOT_TO_BE_SET and not name.lower().startswith("webhook-")
        ]
        common: list[tuple[str, str]] = []
        if all(name.lower() != "user-agent" for name, _ in own):
            common.append(("User-Agent", f"MissionControl/{__version__}"))
        self._headers = (*common, *own)
        self._shown_headers = (*common, *((name, MASK) for name, _ in own))
        self._secrets = _secrets_of(v for name, v in own if name.lower() not in _NO_SECRETS)

    def request(self, payloads: Sequence[str], ids: Sequence[str]) -> Request:
        """The request for these events. Raises ValueError if a signing secret is none."""
        endpoint = self._endpoint
        made = message(endpoint.format, payloads, ids)
        added = made.headers + signature_headers(
            made.id, int(time.time()), made.body, endpoint.signing_secrets
        )
        return Request(
            endpoint.url,
            self._headers + added,
            made.body,
            endpoint.timeout_ms,
            self._shown_headers + added,
            self._secrets,
        )


def _secrets_of(values: Iterable[str]) -> tuple[bytes, ...]:
    """Header values, and their last words (of `Bearer …`), in the order to look for them."""
    parts = {part for value in values for part in (value, value.rpartition(" ")[2])}
    long = (part.encode() for part in parts if len(part) >= _SHORTEST_SECRET)
    return tuple(sorted(long, key=len, reverse=True))


class Lane:
    """Ids and claims of one trigger, and what of its limits this process has been allotted."""

    def __init__(self, trigger_id: int) -> None:
        self.trigger_id = trigger_id
        self.waiting: dict[UUID, None] = {}
        # More waits in the log than ids have been told.
        self.is_behind = False
        # One event may go although the breaker is open.
        self.is_probing = False
        self.claimed: deque[tuple[Claim, float]] = deque()
        self.under_way = 0
        # What to call when requests were answered, and others may go.
        self.on_answers: Callable[[], None] | None = None
        self.wants_claims = False
        self.average_ms = _FIRST_GUESS_MS
        # How many events are claimed at once at most: fewer where payloads are too much for the
        # memory there is.
        self._portion = _MOST_CLAIMED_AT_ONCE
        self._slots = 0
        self._wants_slots_until = 0.0
        self._turns = 0
        self._turns_until = 0.0
        self._turns_at = 0.0
        self._ask_at = 0.0
        self._endpoint: Endpoint | None = None
        self._requests: Requests | None = None
        self._failures = 0
        self._failing_since = 0.0

    def serve(self, endpoint: Endpoint) -> None:
        """From now on send as `endpoint` says."""
        if endpoint != self._endpoint:
            self._requests = Requests(endpoint)
            self._endpoint = endpoint
            self._ask_at = 0.0
            # How the endpoint before fared says nothing of this one.
            self._failures = 0

    @property
    def endpoint(self) -> Endpoint:
        """What `serve` was given last; only of a lane that has claims."""
        assert self._endpoint is not None  # noqa: S101 — a lane with claims has been given one
        return self._endpoint

    @property
    def requests(self) -> Requests:
        """What makes the requests of the endpoint."""
        assert self._requests is not None  # noqa: S101
        return self._requests

    # What waits

    def add(self, event_ids: Sequence[UUID]) -> None:
        """Remember ids as far as there is room; the others are left to the log."""
        room = max(0, _MOST_WAITING - len(self.waiting))
        self.waiting.update(dict.fromkeys(event_ids[:room]))
        self.is_behind |= len(event_ids) > room

    def take_waiting(self, count: int) -> list[UUID]:
        """The first `count` ids that wait, which are then no longer remembered."""
        taken = list(islice(self.waiting, count))
        for event_id in taken:
            del self.waiting[event_id]
        return taken

    def room(self) -> int:
        """How many events to claim now; 0 while the lane holds enough to go on with."""
        if self._endpoint is None:
            return _EFFICIENT_CLAIM
        slots = self._slots or self._endpoint.concurrency
        in_a_second = int(slots * 1000 / max(self.average_ms, 1.0))
        if self._endpoint.rate_per_second:
            in_a_second = min(in_a_second, self._endpoint.rate_per_second)
            slots = min(slots, self._endpoint.rate_per_second)
        window = slots + min(max(in_a_second, _FEWEST_AHEAD), _MOST_AHEAD)
        events_under_way = self.under_way * self._batch_size()
        window *= self._batch_size()
        room = window - events_under_way - len(self.claimed)
        is_worth_it = room >= min(_EFFICIENT_CLAIM, window // 2) or not self.claimed
        most = _MOST_AHEAD if self._batch_size() == 1 else _MOST_CLAIMED_AT_ONCE
        return max(0, min(room, most, self._portion)) if is_worth_it else 0

    def note_claims(self, asked: int, failed: bool) -> None:
        """After a claim that failed ask for half as much, else for twice as much."""
        if failed:
            self._portion = max(1, min(asked, self._portion) // 2)
        else:
            self._portion = min(_MOST_CLAIMED_AT_ONCE, self._portion * 2)

    def _batch_size(self) -> int:
        return BATCH_EVENTS if self.endpoint.format == "cloudevents-batch" else 1

    # What came of it

    def note(self, succeeded: bool, now: float) -> None:
        """Remember how attempts go."""
        if succeeded:
            self._failures = 0
            return
        if not self._failures:
            self._failing_since = now
        self._failures += 1

    def fails_too_long(self, tolerance: Tolerance, now: float) -> str | None:
        """Why this endpoint had better be left alone for a while, in words."""
        seconds = now - self._failing_since
        if self._failures < tolerance.failures or seconds < tolerance.seconds:
            return None
        return f"{self._failures} attempts in a row failed, over {seconds:.0f} seconds"

    # What may be sent

    def next_claims(self, now: float) -> list[tuple[Claim, float]]:
        """The claims of the next request, each with the time of its claim; none if it must wait."""
        if not self.claimed or self.under_way >= self._slots:
            return []
        if self.endpoint.rate_per_second:
            if now > self._turns_until:
                self._turns = 0
            if self._turns <= 0:
                return []
        count = self._next_count(now)
        if count:
            self._turns -= 1
            self._wants_slots_until = now + _KEEPS_SLOTS_SECONDS
        return [self.claimed.popleft() for _ in range(count)]

    def _next_count(self, now: float) -> int:
        """How many of the claims the next request carries."""
        if self.endpoint.format != "cloudevents-batch":
            return 1
        if self.claimed[0][0].failures:
            # Alone, lest it be what made its batch fail.
            return 1
        count = characters = 0
        for claim, _ in islice(self.claimed, BATCH_EVENTS):
            characters += len(claim.payload)
            if claim.failures or (count and characters > BATCH_CHARACTERS):
                return count
            count += 1
        waited = now - self.claimed[0][1]
        is_full = count == BATCH_EVENTS or characters > BATCH_CHARACTERS
        return count if is_full or not self.under_way or waited >= _BATCH_FILLS_SECONDS else 0

    # What it has been allotted

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, is claimed or is under way."""
        waits = self.waiting or self.claimed or self.is_behind or self.wants_claims
        return not (waits or self.under_way)

    @property
    def is_done_with(self) -> bool:
        """Whether nothing is to be done and nothing is held that others could use."""
        return self.is_idle and not self._slots

    @property
    def wants_turns(self) -> bool:
        """Whether it only waits for the rate to let the next request begin."""
        return bool(self.claimed) and self.endpoint.rate_per_second > 0 and self._turns <= 0

    def looks_again_at(self, now: float) -> float:
        """When this lane wants to ask for an allotment, or to see whether a batch may go."""
        if self.wants_turns:
            return min(self._ask_at, self._turns_at)
        if self.claimed and self.endpoint.format == "cloudevents-batch":
            return min(self._ask_at, max(now, self.claimed[0][1] + _BATCH_FILLS_SECONDS))
        return self._ask_at

    def ask(self, now: float) -> Ask | None:
        """What to ask for now, None if it is too early or nothing is known of the endpoint."""
        turns = 0
        if self._endpoint is None:
            return None
        if self.wants_turns and now >= self._turns_at:
            turns = min(len(self.claimed), max(1, self._endpoint.rate_per_second))
        elif now < self._ask_at:
            return None
        return Ask(
            self.trigger_id,
            self._endpoint.concurrency,
            self._endpoint.rate_per_second,
            self.under_way,
            not self.is_idle or now < self._wants_slots_until,
            turns,
        )

    def allot(self, ask: Ask, allotment: Allotment | None, now: float) -> None:
        """Go on with what was allotted; without an answer, with the slots there are."""
        self._ask_at = now + _ASK_EVERY_SECONDS
        if not ask.wants_slots and not self.is_idle:
            # What came in the meantime was not asked for.
            self._ask_at = 0.0
        if allotment is None:
            self._slots = self._slots or (ask.concurrency if ask.wants_slots else 0)
            # Nobody counts: one turn each time keeps this process at or below the rate.
            self._turns = 1 if ask.turns else self._turns
            self._turns_until = now + _TURNS_LAST_SECONDS
            self._turns_at = now + max(_TURNS_EVERY_SECONDS, 1 / max(ask.rate_per_second, 1))
            return
        self._slots = allotment.slots
        if ask.turns:
            self._turns = allotment.turns
            self._turns_until = now + _TURNS_LAST_SECONDS
            self._turns_at = now + max(_TURNS_EVERY_SECONDS, allotment.again_in_seconds)

    def ask_at_once(self) -> None:
        """Ask for an allotment as soon as possible: slots are wanted now."""
        self._ask_at = self._turns_at = 0.0
