"""Claim, send, record: from "these events wait" to "the log knows what came of them".

Claiming, sending and recording overlap, each on a thread of its own. An endpoint that is slow fills
its own lane and nothing else; whatever is lost here (ids, claims, the process) the sweep of the
event log finds again, so nothing may be held back for fear of losing it.
"""

import random
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import Final, Protocol
from uuid import UUID

import structlog

from eventing.allotments import Allotment, Ask
from eventing.backoff import delay_ms
from eventing.changes import Claim, Exchange, Outcome
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import Destination
from eventing.destinations.webhook import WebhookDestination
from eventing.formats import event_id_of
from eventing.lanes import LONGEST_WAIT_SECONDS, Endpoint, Lane, Requests, Tolerance
from eventing.logs.base import EventLog, LogUnavailable

_MOST_RECORDED_AT_ONCE: Final = 1_000
# Under load this much time lies between two recordings, unless this many outcomes have gathered:
# what a transaction costs is worth more than one.
_BETWEEN_RECORDINGS_SECONDS: Final = 0.025
_WORTH_A_TRANSACTION: Final = 500
_MOST_UNRECORDED: Final = 10_000
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_LAST_RECORD_SECONDS: Final = 1.0
_LEAST_PACE_SECONDS: Final = 0.005
_TEST_SPARE_SECONDS: Final = 15.0
# Retries that are due within this time are remembered by this process; the sweep finds the others.
_SOON_MS: Final = 60_000
_MOST_RETRIES: Final = 10_000

# How long a hindrance is still reported after it was last seen.
_TOLD_SECONDS: Final = 15.0
_SHORT_OF_MEMORY: Final = "short of memory: some events are sent later"
_LOG_REFUSES: Final = "an Eventing DB cannot be read or written: some events are sent later"

_ASKS_TO_WAIT: Final = frozenset({429, 503})

logger = structlog.get_logger(__name__)


class Limits(Protocol):
    """What keeps a trigger's limits across all workers."""

    def allot(self, asks: Sequence[Ask]) -> list[Allotment] | None:
        """An allotment for each ask, in order; None if that cannot be found out now."""
        ...


class Breakers(Protocol):
    """What holds the events of a trigger whose endpoint fails all the time, in all workers."""

    def open(self, trigger_id: int, reason: str) -> None:
        """Hold the trigger's events from now on; `reason` is shown to people."""
        ...

    def close(self, trigger_id: int) -> None:
        """The endpoint took an event: go on with all of them."""
        ...


@dataclass(frozen=True, slots=True)
class DispatcherStats:
    """How much a dispatcher holds, and what it has done since it was made."""

    waiting: int
    claimed: int
    under_way: int
    unrecorded: int
    recorded: int


class Dispatcher:
    """Sends the events of any number of triggers. Safe to call from any thread.

    `endpoint_of` says where a trigger's events go, None if there is no such trigger; `limits`
    what of their limits this process may use; `breakers` hears of endpoints that fail beyond
    `tolerance`, and of those that work again; `worker` names the process in the log.
    """

    def __init__(
        self,
        log: EventLog,
        destination: Destination,
        endpoint_of: Callable[[int], Endpoint | None],
        limits: Limits,
        breakers: Breakers,
        worker: str,
        tolerance: Tolerance = Tolerance(),  # noqa: B008 — it is immutable
    ) -> None:
        self._log = log
        self._destination = destination
        self._endpoint_of = endpoint_of
        self._limits = limits
        self._breakers = breakers
        self._tolerance = tolerance
        self._worker = worker
        self._lock = threading.Lock()
        self._lanes: dict[int, Lane] = {}
        self._to_claim: deque[Lane] = deque()
        self._paced: set[Lane] = set()
        self._outcomes: deque[Outcome] = deque()
        # Set when something waits for one of these to be recorded, as in an ordered trigger.
        self._hurry = threading.Event()
        self._recorded_at = 0.0
        self._to_release: deque[Claim] = deque()
        self._retries: list[tuple[float, int, UUID]] = []
        self._claim_wanted = threading.Event()
        self._pace_wanted = threading.Event()
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._all_is_sent = threading.Event()
        self._give_up = threading.Event()
        self._recording = 0
        self._recorded = 0
        # What was in the way, and when that was last so.
        self._hindered: tuple[str, float] = "", 0.0
        self._claimer = threading.Thread(target=self._claim_loop, name="claims", daemon=True)
        self._recorder = threading.Thread(target=self._record_loop, name="records", daemon=True)
        self._pacer = threading.Thread(target=self._pace_loop, name="paces", daemon=True)
        self._claimer.start()
        self._pacer.start()
        self._recorder.start()

    def deliver(
        self,
        trigger_id: int,
        event_ids: Sequence[UUID],
        more_are_due: bool = False,
        is_probe: bool = False,
    ) -> None:
        """Take these ids on, and whatever else of the trigger is due if there is more; at once.

        Ids that find no room are not lost: they are claimed from the log when there is. A probe
        goes even if the trigger's breaker is open.
        """
        if self._stopping.is_set():
            return
        with self._lock:
            lane = self._lanes.get(trigger_id)
            if lane is None:
                lane = self._lanes[trigger_id] = Lane(trigger_id)
                lane.on_answers = partial(self._send_from, lane)
            lane.add(event_ids)
            lane.is_behind |= more_are_due
            lane.is_probing |= is_probe
            self._ask_for_claims(lane)

    def stop(self, timeout_seconds: float) -> None:
        """Finish what is under way for at most `timeout_seconds`, and give back what was not sent.

        What the log cannot be told is left to its leases: those events are sent again.
        """
        deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._hurry.set()
        self._claim_wanted.set()
        self._pace_wanted.set()
        self._settled.set()
        self._destination.stop(timeout_seconds)
        self._claimer.join(max(_LAST_RECORD_SECONDS, deadline - time.monotonic()))
        with self._lock:
            for lane in self._lanes.values():
                self._to_release.extend(claim for claim, _ in lane.claimed)
                lane.claimed.clear()
                lane.waiting.clear()
                lane.is_behind = False
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
            )

    @property
    def hindrance(self) -> str:
        """What keeps this dispatcher from some of its work; empty if nothing lately did."""
        hindrance, at = self._hindered
        return hindrance if time.monotonic() - at < _TOLD_SECONDS else ""

    def _note_hindrance(self, error: Exception) -> None:
        is_of_memory = isinstance(error, MemoryError) or "out of memory" in str(error)
        hindrance = _SHORT_OF_MEMORY if is_of_memory else _LOG_REFUSES
        self._hindered = hindrance, time.monotonic()

    # Claim: on the claiming thread

    def _ask_for_claims(self, lane: Lane) -> None:
        """Put the lane in line if more waits and it has room; the caller holds the lock."""
        if (lane.waiting or lane.is_behind) and not lane.wants_claims and lane.room() > 0:
            lane.wants_claims = True
            self._to_claim.append(lane)
            self._claim_wanted.set()
            self._pace(lane)

    def _claim_loop(self) -> None:
        self._warm_up()
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
                except (LogUnavailable, MemoryError) as error:
                    self._note_hindrance(error)
                    told = str(error) or "short of memory"
                    logger.warning("events cannot be claimed; trying again", error=told)
                except Exception as error:
                    self._note_hindrance(error)
                    logger.exception("events could not be claimed; trying again")
                self._stopping.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                with self._lock:
                    self._ask_for_claims(lane)

    def _warm_up(self) -> None:
        """Open what the first event would otherwise wait for."""
        try:
            self._endpoint_of(0)
            # Whoever is first after an upgrade makes the tables what they are to be.
            self._log.make_tables()
        except LogUnavailable as error:
            logger.warning("the Eventing DB does not answer yet", error=str(error))
        except Exception:
            logger.exception("the control database does not answer yet")

    def _claim_for(self, lane: Lane) -> None:
        """Claim as much as the lane has room for, and send what may be sent."""
        ids: list[UUID] = []
        claims: list[Claim] = []
        was_behind = failed = False
        room = 0
        try:
            endpoint = self._endpoint_of(lane.trigger_id)
            is_held = endpoint is not None and endpoint.breaker_is_open and not lane.is_probing
            if endpoint is None or endpoint.state != "active" or is_held:
                self._hold(lane, endpoint)
                return
            with self._lock:
                lane.serve(endpoint)
                lane.is_probing = False
                room = 1 if endpoint.breaker_is_open else lane.room()
                was_behind, lane.is_behind = lane.is_behind, False
                if was_behind:
                    # All that is waiting here stands in the log, among what came before it.
                    lane.waiting.clear()
                else:
                    ids = lane.take_waiting(room)
            failed = True
            if was_behind:
                claims = self._log.claim_due(lane.trigger_id, room, endpoint.lease_seconds)
                was_behind = len(claims) == room
            else:
                claims = self._log.claim(ids, endpoint.lease_seconds)
                ids = []
            failed = False
            claims = self._with_payload(endpoint, claims)
        finally:
            with self._lock:
                lane.wants_claims = False
                now = time.monotonic()
                lane.claimed.extend((claim, now) for claim in claims)
                lane.is_behind |= was_behind
                if room:
                    lane.note_claims(room, failed)
                # Whatever was not asked about is asked about again, before the others.
                lane.waiting = {**dict.fromkeys(ids), **lane.waiting} if ids else lane.waiting
        self._send_from(lane)

    def _with_payload(self, endpoint: Endpoint, claims: list[Claim]) -> list[Claim]:
        """Those of `claims` that can be sent; the others fail, since nothing is left of them."""
        if all(claim.payload for claim in claims):
            return claims
        self._outcomes.extend(
            Outcome(claim, endpoint.project_id, _forgotten(endpoint), retry_in_ms=None)
            for claim in claims
            if not claim.payload
        )
        self._settled.set()
        return [claim for claim in claims if claim.payload]

    def _hold(self, lane: Lane, endpoint: Endpoint | None) -> None:
        """Let go of a lane that is held: its trigger is not active or gone, or its breaker open.

        What is left of a trigger that is gone the sweep cancels.
        """
        with self._lock:
            lane.waiting.clear()
            lane.is_behind = False
            self._to_release.extend(claim for claim, _ in lane.claimed)
            lane.claimed.clear()
            if endpoint is None and not lane.under_way:
                self._lanes.pop(lane.trigger_id, None)
        self._settled.set()

    # Pace: on the pacing thread

    def _pace(self, lane: Lane) -> None:
        """Have the lane looked after by the pacing thread; the caller holds the lock."""
        if lane not in self._paced:
            lane.ask_at_once()
            self._paced.add(lane)
            self._pace_wanted.set()

    def _pace_loop(self) -> None:
        wait: float | None = None
        self._limits.allot([])
        while not self._stopping.is_set():
            self._pace_wanted.wait(wait)
            self._pace_wanted.clear()
            try:
                wait = self._pace_some()
            except Exception:
                logger.exception("the limits of triggers could not be looked after; trying again")
                wait = _LONGEST_PAUSE_SECONDS

    def _pace_some(self) -> float | None:
        """Ask for allotments where it is time to, and for claims of what is to be tried again;
        returns when to look again, in seconds."""
        now = time.monotonic()
        self._deliver_retries(now)
        with self._lock:
            asking = [(lane, ask) for lane in self._paced if (ask := lane.ask(now))]
        allotments = self._limits.allot([ask for _, ask in asking]) if asking else []
        now = time.monotonic()
        with self._lock:
            for number, (lane, ask) in enumerate(asking):
                lane.allot(ask, allotments[number] if allotments else None, now)
            self._paced -= {lane for lane in self._paced if lane.is_done_with}
            ready = [lane for lane in self._paced if lane.claimed]
        for lane in ready:
            self._send_from(lane)
        now = time.monotonic()
        with self._lock:
            looks = [lane.looks_again_at(now) for lane in self._paced]
            looks += [at for at, _, _ in self._retries[:1]]
        return max(_LEAST_PACE_SECONDS, min(looks) - now) if looks else None

    def _deliver_retries(self, now: float) -> None:
        due: dict[int, list[UUID]] = defaultdict(list)
        with self._lock:
            while self._retries and self._retries[0][0] <= now:
                _, trigger_id, event_id = heappop(self._retries)
                due[trigger_id].append(event_id)
        for trigger_id, event_ids in due.items():
            self.deliver(trigger_id, event_ids)

    # Send: on the claiming and pacing threads, then on the destination's, as slots become free

    def _send_from(self, lane: Lane) -> None:
        """Send from the lane as far as its limits allow."""
        is_to_be_tried = True
        while is_to_be_tried and not self._stopping.is_set():
            now = time.monotonic()
            batches: list[list[Claim]] = []
            late: list[Claim] = []
            with self._lock:
                while taken := lane.next_claims(now):
                    claims = [claim for claim, at in taken if now - at <= LONGEST_WAIT_SECONDS]
                    if len(claims) < len(taken):
                        late += [claim for claim, at in taken if now - at > LONGEST_WAIT_SECONDS]
                    if claims:
                        lane.under_way += 1
                        batches.append(claims)
                if batches:
                    endpoint, requests = lane.endpoint, lane.requests
                self._ask_for_claims(lane)
                if lane.wants_turns and threading.current_thread() is not self._pacer:
                    self._pace_wanted.set()
            if late:
                self._to_release.extend(late)
                self._settled.set()
            is_to_be_tried = False
            for claims in batches:
                if not self._send(lane, endpoint, requests, claims):
                    is_to_be_tried = True

    def _send(
        self, lane: Lane, endpoint: Endpoint, requests: Requests, claims: list[Claim]
    ) -> bool:
        """Hand a request over to the destination; False if there is none to be made of these."""
        try:
            request = requests.request(
                [claim.payload for claim in claims], [claim.id_text for claim in claims]
            )
        except (ValueError, TypeError, AttributeError) as error:
            self._settle(lane, endpoint, claims, _impossible(endpoint, error))
            return False
        except MemoryError as error:
            self._note_hindrance(error)
            logger.warning("short of memory: events go back", trigger=endpoint.trigger)
            self._settle(lane, endpoint, claims, _short_of_memory(endpoint))
            return False
        self._destination.submit(
            request, partial(self._settle, lane, endpoint, claims), lane.on_answers
        )
        return True

    def _settle(
        self, lane: Lane, endpoint: Endpoint, claims: Sequence[Claim], exchange: Exchange
    ) -> None:
        """Hand what came of these claims to the recorder."""
        try:
            if exchange.error_kind == "stopped":
                # Nobody's failure: the events go back as if this attempt had not been made.
                if not self._stopping.is_set():
                    self._hindered = _SHORT_OF_MEMORY, time.monotonic()
                self._to_release.extend(claims)
            else:
                for claim in claims:
                    self._outcomes.append(outcome_of(claim, endpoint, exchange))
                    if claim.order_key is not None:
                        self._hurry.set()
        finally:
            # Also where there was no memory for an outcome, whose event its lease brings back.
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
                self._let_others_come()
                try:
                    self._record_some()
                    pause = _FIRST_PAUSE_SECONDS
                except LogUnavailable as error:
                    self._note_hindrance(error)
                    logger.warning("outcomes cannot be recorded; trying again", error=str(error))
                    self._give_up.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                except Exception as error:
                    self._note_hindrance(error)
                    logger.exception("outcomes could not be recorded; their events are sent again")
            if is_last or self._give_up.is_set():
                return

    def _let_others_come(self) -> None:
        """Soon after a recording wait for more outcomes, unless somebody waits for those there are.

        The first one after a pause is recorded at once.
        """
        lacking = 1 - len(self._outcomes) / _WORTH_A_TRANSACTION
        due_at = self._recorded_at + _BETWEEN_RECORDINGS_SECONDS * lacking
        wait = due_at - time.monotonic()
        if wait > 0 and not (self._to_release or self._stopping.is_set()):
            self._hurry.wait(wait)

    def _record_some(self) -> None:
        """Record what has come together so far; it is kept if the log is unavailable."""
        self._record_outcomes()
        released = [self._to_release.popleft() for _ in range(len(self._to_release))]
        if released:
            try:
                self._log.release(released)
            except LogUnavailable:
                self._to_release.extendleft(reversed(released))
                raise

    def _record_outcomes(self) -> None:
        self._hurry.clear()
        outcomes = [
            self._outcomes.popleft()
            for _ in range(min(len(self._outcomes), _MOST_RECORDED_AT_ONCE))
        ]
        self._recording = len(outcomes)
        try:
            if outcomes:
                self._record(outcomes)
        except LogUnavailable:
            self._outcomes.extendleft(reversed(outcomes))
            raise
        finally:
            self._recording = 0
            self._recorded_at = time.monotonic()

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes together; if the log refuses one of them, the others one by one."""
        try:
            recorded = self._log.record(outcomes, self._worker)
        except LogUnavailable:
            raise
        except Exception:
            if len(outcomes) == 1:
                raise
            logger.exception("outcomes could not be recorded together")
            middle = len(outcomes) // 2
            for part in (outcomes[:middle], outcomes[middle:]):
                self._record_apart(part)
            return
        self._recorded += recorded.moved
        self._note(outcomes)
        self._note_retries(outcomes)
        for chunk in recorded.freed:
            self.deliver(chunk.trigger_id, chunk.event_ids)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """See whether an endpoint fails all the time, or works again."""
        works: set[int] = set()
        fails: dict[int, str] = {}
        now = time.monotonic()
        if all(outcome.exchange.succeeded for outcome in outcomes):
            # One outcome of each trigger says as much as all, and others want the lock.
            outcomes = list({outcome.claim.trigger_id: outcome for outcome in outcomes}.values())
        with self._lock:
            for outcome in outcomes:
                lane = self._lanes.get(outcome.claim.trigger_id)
                if lane is None:
                    continue
                lane.note(outcome.exchange.succeeded, now)
                if not outcome.exchange.succeeded:
                    reason = lane.fails_too_long(self._tolerance, now)
                    if reason is not None and not lane.endpoint.breaker_is_open:
                        fails[lane.trigger_id] = reason + _last_words(outcome.exchange)
                elif lane.endpoint.breaker_is_open:
                    works.add(lane.trigger_id)
        for trigger_id in works:
            self._breakers.close(trigger_id)
        for trigger_id in fails.keys() - works:
            self._breakers.open(trigger_id, fails[trigger_id])
            lane = self._lanes.get(trigger_id)
            if lane is not None:
                self._hold(lane, lane.endpoint)

    def _note_retries(self, outcomes: Sequence[Outcome]) -> None:
        """Remember what is to be tried again soon, so that it goes on time. If this process ends
        before, the sweep finds it in the log."""
        now = time.monotonic()
        soon = [
            (now + outcome.retry_in_ms / 1000, outcome.claim.trigger_id, outcome.claim.event_id)
            for outcome in outcomes
            if outcome.retry_in_ms is not None and outcome.retry_in_ms <= _SOON_MS
        ]
        if not soon:
            return
        with self._lock:
            for retry in soon[: _MOST_RETRIES - len(self._retries)]:
                heappush(self._retries, retry)
        self._pace_wanted.set()

    def _record_apart(self, outcomes: Sequence[Outcome]) -> None:
        try:
            self._record(outcomes)
        except LogUnavailable:
            raise
        except Exception:
            logger.exception(
                "an outcome could not be recorded; its event is sent again",
                event=outcomes[0].claim.id_text,
            )


def outcome_of(claim: Claim, endpoint: Endpoint, exchange: Exchange) -> Outcome:
    """What one attempt came to: done, to be tried again after a while, or failed for good."""
    retry_in_ms = None
    if not exchange.succeeded and claim.failures < endpoint.retries:
        backoff = endpoint.backoff
        if exchange.status_code in _ASKS_TO_WAIT and exchange.retry_after_ms is not None:
            retry_in_ms = min(exchange.retry_after_ms, backoff.max_ms)
        else:
            retry_in_ms = delay_ms(
                claim.failures + 1,
                backoff.initial_ms,
                backoff.factor,
                backoff.max_ms,
                random.random,
            )
    return Outcome(claim, endpoint.project_id, exchange, retry_in_ms)


def test_request(endpoint: Endpoint, payload: str, guard: AddressGuard) -> Exchange:
    """Send one payload to an endpoint and wait for what comes of it; nothing is logged."""
    answered = threading.Event()
    answers: list[Exchange] = []

    def on_done(exchange: Exchange) -> None:
        answers.append(exchange)
        answered.set()

    try:
        request = Requests(endpoint).request([payload], [event_id_of(payload)])
    except ValueError as error:
        return _impossible(endpoint, error)
    try:
        destination = WebhookDestination(guard, max_connections=1)
    except MemoryError:
        return _short_of_memory(endpoint)
    try:
        destination.submit(request, on_done)
        answered.wait(endpoint.timeout_ms / 1000 + _TEST_SPARE_SECONDS)
    finally:
        destination.stop(0)
    return answers[0]


# pytest would take it for a test wherever it is imported.
test_request.__test__ = False  # type: ignore[attr-defined]


def _last_words(exchange: Exchange) -> str:
    """How the latest attempt failed, to be added to a sentence."""
    if exchange.status_code is not None and exchange.error_kind is None:
        return f"; the last one with the status {exchange.status_code}"
    return f"; the last one: {exchange.error_message or exchange.error_kind}"


def _short_of_memory(endpoint: Endpoint) -> Exchange:
    """The exchange of a request for which there was no room; the event has yet to be sent."""
    return _unsent(endpoint, "stopped", "the process is short of memory")


def _forgotten(endpoint: Endpoint) -> Exchange:
    """The exchange of an event whose payload is gone."""
    words = "nothing was sent: the payload is older than payloads are kept"
    return _unsent(endpoint, "forgotten", words)


def _impossible(endpoint: Endpoint, error: Exception) -> Exchange:
    """The exchange of a request that could not even be made; the error may quote a value."""
    words = str(error) if isinstance(error, ValueError) and "secret" in str(error) else ""
    return _unsent(endpoint, "protocol", f"the request cannot be made{': ' * bool(words)}{words}")


def _unsent(endpoint: Endpoint, kind: str, message: str) -> Exchange:
    now_ms = int(time.time() * 1000)
    return Exchange(now_ms, 0, endpoint.url, (), error_kind=kind, error_message=message)
