"""Claim, send, record: from "these events wait" to "the log knows what came of them".

Claiming, sending and recording overlap, each on a thread of its own. An endpoint that is slow fills
its own lane and nothing else; whatever is lost here (ids, claims, the process) the sweep of the
event log finds again, so nothing may be held back for fear of losing it.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from uuid import UUID

import orjson
import structlog

from eventing import __version__
from eventing.backoff import delay_ms
from eventing.changes import Claim, Exchange, Outcome
from eventing.definitions import Backoff
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import Destination, Request
from eventing.destinations.webhook import WebhookDestination
from eventing.logs.base import EventLog, LogUnavailable
from eventing.signing import signature_headers

MASK: Final = "••••"

# Ids a lane remembers. Further ones wait for a quick lane, in the task that brought them, and are
# left to the sweep by a slow one, lest its endpoint keep the tasks of others waiting.
_MOST_WAITING: Final = 20_000
_QUICK_MS: Final = 3_000
_LONGEST_ROOM_WAIT_SECONDS: Final = 2.0
# Claims a lane holds beyond those under way: what it sends in a second, between these.
_FEWEST_AHEAD: Final = 1
_MOST_AHEAD: Final = 400
_EFFICIENT_CLAIM: Final = 200
_FIRST_GUESS_MS: Final = 50.0
# A claim that has waited longer goes back; its lease lasts for that and a whole exchange.
_LONGEST_WAIT_SECONDS: Final = 10.0
_LEASE_SPARE_SECONDS: Final = 15.0
_MOST_RECORDED_AT_ONCE: Final = 1_000
_MOST_UNRECORDED: Final = 10_000
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_LAST_RECORD_SECONDS: Final = 1.0

_CONTENT_TYPES: Final[Mapping[str, str]] = {"spacecloud": "application/json"}
_NOT_TO_BE_SET: Final = frozenset(
    {"content-length", "content-type", "host", "transfer-encoding", "connection", "expect"}
)
_ASKS_TO_WAIT: Final = frozenset({429, 503})

logger = structlog.get_logger(__name__)


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
    state: str = "active"
    format: str = "spacecloud"


@dataclass(frozen=True, slots=True)
class DispatcherStats:
    """How much a dispatcher holds, and what it has done since it was made."""

    waiting: int
    claimed: int
    under_way: int
    unrecorded: int
    recorded: int
    dropped_ids: int


class _Requests:
    """Makes the requests of one endpoint; what is the same for all of them is made once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        own = [
            (name, value)
            for name, value in endpoint.headers
            if name.lower() not in _NOT_TO_BE_SET and not name.lower().startswith("webhook-")
        ]
        common = [("Content-Type", _CONTENT_TYPES[endpoint.format])]
        if all(name.lower() != "user-agent" for name, _ in own):
            common.append(("User-Agent", f"MissionControl/{__version__}"))
        self._headers = (*common, *own)
        self._shown_headers = (*common, *((name, MASK) for name, _ in own))

    def request(self, event_id: str, payload: str) -> Request:
        """The request for an event. Raises ValueError if a signing secret is none."""
        endpoint = self._endpoint
        body = payload.encode()
        signed = signature_headers(event_id, int(time.time()), body, endpoint.signing_secrets)
        return Request(
            endpoint.url,
            self._headers + signed,
            body,
            endpoint.timeout_ms,
            self._shown_headers + signed,
        )


class _Lane:
    """The events of one trigger in this process; the dispatcher's lock guards all of it."""

    def __init__(self, trigger_id: int) -> None:
        self.trigger_id = trigger_id
        self.waiting: dict[UUID, None] = {}
        self.claimed: deque[tuple[Claim, float]] = deque()
        self.under_way = 0
        self.wants_claims = False
        self.average_ms = _FIRST_GUESS_MS
        self._endpoint: Endpoint | None = None
        self._requests: _Requests | None = None

    def serve(self, endpoint: Endpoint) -> None:
        """From now on send as `endpoint` says."""
        if endpoint != self._endpoint:
            self._requests = _Requests(endpoint)
            self._endpoint = endpoint

    @property
    def endpoint(self) -> Endpoint:
        assert self._endpoint is not None  # noqa: S101 — a lane with claims has been given one
        return self._endpoint

    @property
    def requests(self) -> _Requests:
        assert self._requests is not None  # noqa: S101
        return self._requests

    def room(self) -> int:
        """How many events to claim now; 0 while the lane holds enough to go on with."""
        if self._endpoint is None:
            return _EFFICIENT_CLAIM
        concurrency = self._endpoint.concurrency
        in_a_second = int(concurrency * 1000 / max(self.average_ms, 1.0))
        window = concurrency + min(max(in_a_second, _FEWEST_AHEAD), _MOST_AHEAD)
        room = window - self.under_way - len(self.claimed)
        is_worth_it = room >= min(_EFFICIENT_CLAIM, window // 2) or not self.claimed
        return min(room, _MOST_AHEAD) if is_worth_it else 0

    def has_room(self) -> bool:
        return len(self.waiting) < _MOST_WAITING

    def is_quick(self) -> bool:
        """Whether all that waits will have been sent in a few seconds."""
        concurrency = self._endpoint.concurrency if self._endpoint is not None else 1
        return len(self.waiting) * self.average_ms / concurrency < _QUICK_MS

    def take_waiting(self, count: int) -> list[UUID]:
        taken = list(islice(self.waiting, count))
        for event_id in taken:
            del self.waiting[event_id]
        return taken

    def next_claim(self) -> tuple[Claim, float] | None:
        """The next claim to be sent, with the time of its claim, if one may be sent now."""
        if self._endpoint is None or self.under_way >= self._endpoint.concurrency:
            return None
        return self.claimed.popleft() if self.claimed else None


class Dispatcher:
    """Sends the events of any number of triggers. Safe to call from any thread.

    `endpoint_of` says where a trigger's events go, None if there is no such trigger; `worker`
    names this process in the log.
    """

    def __init__(
        self,
        log: EventLog,
        destination: Destination,
        endpoint_of: Callable[[int], Endpoint | None],
        worker: str,
    ) -> None:
        self._log = log
        self._destination = destination
        self._endpoint_of = endpoint_of
        self._worker = worker
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._lanes: dict[int, _Lane] = {}
        self._to_claim: deque[_Lane] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._to_release: deque[Claim] = deque()
        self._claim_wanted = threading.Event()
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._all_is_sent = threading.Event()
        self._give_up = threading.Event()
        self._recording = 0
        self._recorded = 0
        self._dropped_ids = 0
        self._claimer = threading.Thread(target=self._claim_loop, name="claims", daemon=True)
        self._recorder = threading.Thread(target=self._record_loop, name="records", daemon=True)
        self._claimer.start()
        self._recorder.start()

    def deliver(self, trigger_id: int, event_ids: Sequence[UUID]) -> None:
        """Take these ids on; returns at once, or within two seconds where a quick lane is full.

        Ids that find no room are left to the sweep.
        """
        if self._stopping.is_set():
            return
        with self._lock:
            lane = self._lanes.get(trigger_id)
            if lane is None:
                lane = self._lanes[trigger_id] = _Lane(trigger_id)
            self._room.wait_for(
                lambda: self._stopping.is_set() or lane.has_room() or not lane.is_quick(),
                _LONGEST_ROOM_WAIT_SECONDS,
            )
            room = max(0, _MOST_WAITING - len(lane.waiting))
            lane.waiting.update(dict.fromkeys(event_ids[:room]))
            self._dropped_ids += max(0, len(event_ids) - room)
            self._ask_for_claims(lane)

    def stop(self, timeout_seconds: float) -> None:
        """Finish what is under way for at most `timeout_seconds`, and give back what was not sent.

        What the log cannot be told is left to its leases: those events are sent again.
        """
        deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._claim_wanted.set()
        self._settled.set()
        self._destination.stop(timeout_seconds)
        self._claimer.join(max(_LAST_RECORD_SECONDS, deadline - time.monotonic()))
        with self._lock:
            for lane in self._lanes.values():
                self._to_release.extend(claim for claim, _ in lane.claimed)
                lane.claimed.clear()
                lane.waiting.clear()
        self._all_is_sent.set()
        self._settled.set()
        self._recorder.join(max(_LAST_RECORD_SECONDS, deadline - time.monotonic()))
        self._give_up.set()

    def stats(self) -> DispatcherStats:
        """What this dispatcher holds and has done."""
        with self._lock:
            lanes = list(self._lanes.values())
            return DispatcherStats(
                waiting=sum(len(lane.waiting) for lane in lanes),
                claimed=sum(len(lane.claimed) for lane in lanes),
                under_way=sum(lane.under_way for lane in lanes),
                unrecorded=len(self._outcomes) + self._recording,
                recorded=self._recorded,
                dropped_ids=self._dropped_ids,
            )

    # Claim: on the claiming thread

    def _ask_for_claims(self, lane: _Lane) -> None:
        """Put the lane in line if it has ids and room for them; the caller holds the lock."""
        if lane.waiting and not lane.wants_claims and lane.room() > 0:
            lane.wants_claims = True
            self._to_claim.append(lane)
            self._claim_wanted.set()

    def _claim_loop(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            self._claim_wanted.wait()
            self._claim_wanted.clear()
            while self._to_claim and not self._stopping.is_set():
                if len(self._outcomes) > _MOST_UNRECORDED:
                    self._stopping.wait(_FIRST_PAUSE_SECONDS)
                    continue
                lane = self._to_claim.popleft()
                try:
                    self._claim_for(lane)
                    pause = _FIRST_PAUSE_SECONDS
                    continue
                except LogUnavailable as error:
                    logger.warning("events cannot be claimed; trying again", error=str(error))
                except Exception:
                    logger.exception("events could not be claimed; trying again")
                self._stopping.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                with self._lock:
                    self._ask_for_claims(lane)

    def _claim_for(self, lane: _Lane) -> None:
        """Claim as much as the lane has room for, and send what may be sent."""
        ids: list[UUID] = []
        claims: list[Claim] = []
        try:
            endpoint = self._endpoint_of(lane.trigger_id)
            if endpoint is None or endpoint.state != "active":
                self._hold(lane, endpoint)
                return
            with self._lock:
                lane.serve(endpoint)
                ids = lane.take_waiting(lane.room())
                self._room.notify_all()
            lease = endpoint.timeout_ms / 1000 + _LONGEST_WAIT_SECONDS + _LEASE_SPARE_SECONDS
            claims = self._log.claim(ids, lease)
            ids = []
        finally:
            with self._lock:
                lane.wants_claims = False
                now = time.monotonic()
                lane.claimed.extend((claim, now) for claim in claims)
                # Whatever was not asked about is asked about again, before the others.
                lane.waiting = {**dict.fromkeys(ids), **lane.waiting} if ids else lane.waiting
        self._send_from(lane)

    def _hold(self, lane: _Lane, endpoint: Endpoint | None) -> None:
        """Let go of a lane whose trigger is paused, disabled or gone."""
        with self._lock:
            lane.waiting.clear()
            self._to_release.extend(claim for claim, _ in lane.claimed)
            lane.claimed.clear()
            if endpoint is None and not lane.under_way:
                self._lanes.pop(lane.trigger_id, None)
        self._settled.set()
        if endpoint is None:
            self._log.cancel(lane.trigger_id)

    # Send: on the claiming thread at first, then on the destination's, as slots become free

    def _send_from(self, lane: _Lane) -> None:
        """Send from the lane as far as its endpoint's concurrency allows."""
        while not self._stopping.is_set():
            with self._lock:
                taken = lane.next_claim()
                if taken is None:
                    self._ask_for_claims(lane)
                    return
                claim, claimed_at = taken
                endpoint, requests = lane.endpoint, lane.requests
                is_stale = time.monotonic() - claimed_at > _LONGEST_WAIT_SECONDS
                if not is_stale:
                    lane.under_way += 1
            if is_stale:
                self._to_release.append(claim)
                self._settled.set()
                continue
            try:
                request = requests.request(str(claim.event_id), claim.payload)
            except (ValueError, TypeError, AttributeError) as error:
                self._settle(lane, endpoint, claim, _impossible(endpoint, error))
                continue
            self._submit(lane, endpoint, claim, request)

    def _submit(self, lane: _Lane, endpoint: Endpoint, claim: Claim, request: Request) -> None:
        def on_done(exchange: Exchange) -> None:
            self._settle(lane, endpoint, claim, exchange)
            self._send_from(lane)

        self._destination.submit(request, on_done)

    def _settle(self, lane: _Lane, endpoint: Endpoint, claim: Claim, exchange: Exchange) -> None:
        """Hand what came of a claim to the recorder."""
        if exchange.error_kind == "stopped":
            # Nobody's failure: the event goes back as if this attempt had not been made.
            self._to_release.append(claim)
        else:
            self._outcomes.append(outcome_of(claim, endpoint, exchange))
        with self._lock:
            lane.under_way -= 1
            lane.average_ms += (exchange.duration_ms - lane.average_ms) * 0.1
        if not self._settled.is_set():
            self._settled.set()

    # Record: on the recording thread

    def _record_loop(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            is_last = self._all_is_sent.is_set()
            if not is_last:
                self._settled.wait()
            self._settled.clear()
            while (self._outcomes or self._to_release) and not self._give_up.is_set():
                try:
                    self._record_some()
                    pause = _FIRST_PAUSE_SECONDS
                except LogUnavailable as error:
                    logger.warning("outcomes cannot be recorded; trying again", error=str(error))
                    self._give_up.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                except Exception:
                    logger.exception("outcomes could not be recorded; their events are sent again")
            if is_last or self._give_up.is_set():
                return

    def _record_some(self) -> None:
        """Record what has come together so far; it is kept if the log is unavailable."""
        outcomes = [
            self._outcomes.popleft()
            for _ in range(min(len(self._outcomes), _MOST_RECORDED_AT_ONCE))
        ]
        released = [self._to_release.popleft() for _ in range(len(self._to_release))]
        self._recording = len(outcomes)
        try:
            if outcomes:
                self._record(outcomes)
                outcomes = []
            if released:
                self._log.release(released)
        except LogUnavailable:
            self._outcomes.extendleft(reversed(outcomes))
            self._to_release.extendleft(reversed(released))
            raise
        finally:
            self._recording = 0

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes together; if the log refuses one of them, the others one by one."""
        try:
            self._recorded += self._log.record(outcomes, self._worker)
        except LogUnavailable:
            raise
        except Exception:
            if len(outcomes) == 1:
                raise
            logger.exception("outcomes could not be recorded together")
            middle = len(outcomes) // 2
            for part in (outcomes[:middle], outcomes[middle:]):
                self._record_apart(part)

    def _record_apart(self, outcomes: Sequence[Outcome]) -> None:
        try:
            self._record(outcomes)
        except LogUnavailable:
            raise
        except Exception:
            logger.exception(
                "an outcome could not be recorded; its event is sent again",
                event=str(outcomes[0].claim.event_id),
            )


def outcome_of(claim: Claim, endpoint: Endpoint, exchange: Exchange) -> Outcome:
    """What one attempt came to: done, to be tried again at a time, or failed for good."""
    retry_at_ms = None
    if not exchange.succeeded and claim.failures < endpoint.retries:
        backoff = endpoint.backoff
        if exchange.status_code in _ASKS_TO_WAIT and exchange.retry_after_ms is not None:
            delay = min(exchange.retry_after_ms, backoff.max_ms)
        else:
            delay = delay_ms(
                claim.failures + 1,
                backoff.initial_ms,
                backoff.factor,
                backoff.max_ms,
                random.random,
            )
        retry_at_ms = exchange.started_at_ms + exchange.duration_ms + delay
    return Outcome(claim, endpoint.project_id, exchange, retry_at_ms)


def test_request(endpoint: Endpoint, payload: str, guard: AddressGuard) -> Exchange:
    """Send one payload to an endpoint and wait for what comes of it; nothing is logged."""
    answered = threading.Event()
    answers: list[Exchange] = []

    def on_done(exchange: Exchange) -> None:
        answers.append(exchange)
        answered.set()

    try:
        request = _Requests(endpoint).request(str(orjson.loads(payload)["id"]), payload)
    except ValueError as error:
        return _impossible(endpoint, error)
    destination = WebhookDestination(guard, max_connections=1)
    try:
        destination.submit(request, on_done)
        answered.wait(endpoint.timeout_ms / 1000 + _LEASE_SPARE_SECONDS)
    finally:
        destination.stop(0)
    return answers[0]


# pytest would take it for a test wherever it is imported.
test_request.__test__ = False  # type: ignore[attr-defined]


def _impossible(endpoint: Endpoint, error: Exception) -> Exchange:
    """The exchange of a request that could not even be made; the error may quote a value."""
    words = str(error) if isinstance(error, ValueError) and "secret" in str(error) else ""
    return Exchange(
        int(time.time() * 1000),
        0,
        endpoint.url,
        (),
        error_kind="protocol",
        error_message=f"the request cannot be made{': ' * bool(words)}{words}",
    )
