"""What every event log must do, whatever database it is in: run by `test_event_log.py`.

Nothing here looks behind the interface, and each test has a database of its own.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Barrier
from typing import TypeAlias, TypeVar, cast
from uuid import UUID, uuid4

import pytest

from eventing.changes import Change, Claim, Event, EventStatus, Finding
from eventing.cloudevents import EventBuilder
from eventing.logs import mypages, pgpages
from eventing.logs.base import (
    DueChunk,
    EventFilter,
    InvalidCursor,
    LogUnavailable,
    Page,
    PositionMoved,
    Recorded,
    SearchTooDeep,
)
from eventing.logs.counting import LATENCY_BOUNDS_MS, NOTHING, Statistic, Sums
from eventing.logs.mysql import MySqlEventLog
from eventing.logs.postgres import PostgresEventLog
from eventing.matching import Matcher, Rule
from tests.factories import NODE_ID, make_change, make_events, make_origin, make_outcome
from tests.waiting import wait_until

Log: TypeAlias = PostgresEventLog | MySqlEventLog
Answer = TypeVar("Answer")

ORIGIN = make_origin()
OWNER = "6f1ff0a4-6f2e-4d0c-9b8e-6f0a6a3f2a11"
SOMEBODY_ELSE = "0e2cdbd4-1d5b-4a43-9a0c-1f6f3d1f5c22"
DAY_MS = 86_400_000
ANYTHING = EventFilter()


def store(log: Log, events: Sequence[Event]) -> list[Event]:
    """Store `events` behind what is stored already, and return them oldest first."""
    log.append(ORIGIN, events, log.position(ORIGIN.database_id), uuid4().hex)
    return sorted(events)


def stored(
    log: Log, count: int = 1, trigger_id: int = 1, trigger: str = "welcome-email", **fields: object
) -> list[Event]:
    """Store `count` events and return them, oldest first."""
    changes = [make_change(**fields) for _ in range(count)]  # type: ignore[arg-type]
    return store(log, make_events(changes, ORIGIN, trigger_id, trigger))


def ids_of(events: Sequence[Event]) -> list[UUID]:
    return [event.id for event in events]


def found(log: Log, filters: EventFilter = ANYTHING, project_id: int = 1) -> list[UUID]:
    return [row.id for row in log.browse(project_id, filters, None, 100).rows]


def paged(log: Log, filters: EventFilter, limit: int) -> list[UUID]:
    """All that match, page by page."""
    seen: list[UUID] = []
    cursor = None
    while True:
        page = log.browse(1, filters, cursor, limit)
        seen += [row.id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            return seen


def status_of(log: Log, event_id: UUID) -> EventStatus:
    detail = log.event(1, event_id)
    assert detail is not None
    return detail.row.status


def deliver(log: Log, events: Sequence[Event], status_code: int | None = 200) -> None:
    claims = log.claim(ids_of(events), 60)
    assert len(claims) == len(events)
    log.record([make_outcome(claim, status_code) for claim in claims], "worker")


def given_up(log: Log, count: int, trigger_id: int = 1) -> list[UUID]:
    """Store `count` events that were claimed and given back, so that they are due; their ids."""
    ids = ids_of(stored(log, count, trigger_id))
    log.release(log.claim(ids, 60))
    return ids


def in_order(log: Log, changes: Sequence[Change]) -> list[UUID]:
    """Store an event of ordered trigger 1 for each of these changes; returns their ids."""
    rule = Rule(1, "orders", (), frozenset(("insert",)), ordered=True)
    events = EventBuilder(ORIGIN, NODE_ID, Matcher([rule])).events(changes)
    log.append(ORIGIN, events, log.position(ORIGIN.database_id), uuid4().hex)
    return [event.id for event in events]


def chain(log: Log, *documents: str) -> list[UUID]:
    """Store an event of ordered trigger 1 for each of these documents; returns their ids."""
    return in_order(log, [make_change(document_id=document) for document in documents])


def wait_for_expiry(log: Log, count: int) -> None:
    wait_until(lambda: log.expire_leases() == count, 5, "the leases have expired")


def at_once(log: Log, count: int, function: Callable[[int], Answer]) -> list[Answer]:
    """What `function` answers in each of `count` threads that begin together."""
    barrier = Barrier(count)

    def run(number: int) -> Answer:
        try:
            log.position(0)
            barrier.wait(10)
            return function(number)
        finally:
            log.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# What is found of the tests' own servers, which need not outlast a crash.
FAST_SERVERS = {("innodb_flush_log_at_trx_commit", "warning")}


def not_ok(findings: Sequence[Finding]) -> set[tuple[str, str]]:
    """What is found that is not as it should be: name and status."""
    return {(each.name, each.status) for each in findings if each.status != "ok"}


class LogContract:
    """The contract; a subclass says with `open_log` in which database."""

    @pytest.fixture
    def open_log(self) -> Callable[[], Log]:
        """What opens the log of this test's database, as another process would."""
        raise NotImplementedError

    @pytest.fixture
    def log(self, open_log: Callable[[], Log]) -> Iterator[Log]:
        """The log, empty."""
        opened = open_log()
        opened.make_tables()
        yield opened
        opened.close()

    # Tables

    def test_a_database_that_can_hold_the_log_is_found_to_be_fit(
        self, open_log: Callable[[], Log]
    ) -> None:
        log = open_log()
        findings = log.check(OWNER)
        assert not_ok(findings) <= FAST_SERVERS
        assert {"connection", "version", "primary", "rights"} <= {each.name for each in findings}
        log.make_tables(OWNER)
        assert not_ok(log.check(OWNER)) <= FAST_SERVERS
        log.close()

    def test_a_log_belongs_to_one_installation(self, log: Log) -> None:
        log.make_tables(OWNER)
        log.make_tables(OWNER)
        log.make_tables()
        (refusal,) = [each for each in log.check(SOMEBODY_ELSE) if each.status == "error"]
        assert refusal.name == "owner"
        with pytest.raises(LogUnavailable, match="another installation"):
            log.make_tables(SOMEBODY_ELSE)
        assert not_ok(log.check(OWNER)) <= FAST_SERVERS

    def test_tables_may_be_made_again_and_by_several_at_once(
        self, open_log: Callable[[], Log]
    ) -> None:
        log = open_log()
        with ThreadPoolExecutor(4) as pool:
            for made in [pool.submit(make_tables_and_close, open_log()) for _ in range(4)]:
                made.result()
        (event,) = stored(log)
        log.make_tables()
        assert found(log) == [event.id]
        log.close()

    # Capture

    def test_an_event_may_have_no_position_that_is_shown(self, log: Log) -> None:
        (event,) = make_events([make_change()._replace(shown_position=None)])
        log.append(ORIGIN, [event], None, "A")
        detail = log.event(1, event.id)
        assert detail is not None
        assert detail.position is None

    def test_events_and_their_position_are_stored_together(self, log: Log) -> None:
        text = "tab\t, newline\n, back\\slash, 'quotes\", %s %, ünï, 🦆, \\N, \x1a"
        (event,) = make_events(
            [make_change(document={"n": text}, document_id=text, table="odd 'täble'")]
        )
        log.append(ORIGIN, [event], None, "A")
        detail = log.event(1, event.id)
        assert detail is not None
        assert detail.payload == event.payload
        assert detail.position == event.position is not None
        row = detail.row
        assert (row.table, row.document_id, row.status) == ("odd 'täble'", text, "pending")
        assert (row.trigger, row.database, row.database_type) == (
            "welcome-email",
            "main",
            "postgres",
        )
        assert row.committed_at == datetime.fromtimestamp(event.committed_at_ms / 1000, UTC)
        assert abs(row.stored_at - datetime.now(UTC)) < timedelta(minutes=1)
        assert (row.attempts, row.next_attempt_at, row.last_status_code) == (0, None, None)
        assert log.position(ORIGIN.database_id) == "A"
        assert log.position(77) is None

    def test_a_position_moves_without_events_and_to_where_it_is(self, log: Log) -> None:
        log.append(ORIGIN, [], None, "A")
        log.append(ORIGIN, [], "A", "A")
        log.append(ORIGIN, [], "A", "A ")
        with pytest.raises(PositionMoved):
            log.append(ORIGIN, [], "A", "B")
        with pytest.raises(PositionMoved):
            log.append(ORIGIN, [], "a ", "B")
        assert log.position(ORIGIN.database_id) == "A "

    def test_a_process_that_read_from_another_position_stores_nothing(self, log: Log) -> None:
        stored(log)
        before = log.position(ORIGIN.database_id)
        with pytest.raises(PositionMoved):
            log.append(ORIGIN, make_events([make_change()]), "elsewhere", "B")
        with pytest.raises(PositionMoved):
            log.append(ORIGIN, make_events([make_change()]), None, "B")
        assert log.position(ORIGIN.database_id) == before
        assert len(found(log)) == 1
        assert log.counts(1)["pending"] == 1

    def test_a_batch_that_cannot_be_stored_leaves_nothing_behind(self, log: Log) -> None:
        (event,) = stored(log)
        before = log.position(ORIGIN.database_id)
        new = make_events([make_change() for _ in range(500)])
        with pytest.raises(Exception, match=r"(?i)duplicate"):
            log.append(ORIGIN, [*new, event], before, "B")
        assert log.position(ORIGIN.database_id) == before
        assert found(log) == [event.id]
        assert log.pending_of([1]) == {1: 1}
        log.append(ORIGIN, new, before, "B")
        assert log.pending_of([1]) == {1: 501}

    @pytest.mark.parametrize("is_first", [True, False])
    def test_of_several_that_store_from_one_position_one_succeeds(
        self, log: Log, is_first: bool
    ) -> None:
        if not is_first:
            log.append(ORIGIN, [], None, "A")
        previous = None if is_first else "A"

        def attempt(number: int) -> bool:
            events = make_events([make_change() for _ in range(50)])
            try:
                log.append(ORIGIN, events, previous, f"by {number}")
            except PositionMoved:
                return False
            return True

        won = at_once(log, 6, attempt)
        assert won.count(True) == 1
        assert log.position(ORIGIN.database_id) == f"by {won.index(True)}"
        assert log.pending_of([1]) == {1: 50}

    def test_a_forgotten_position_starts_anew(self, log: Log) -> None:
        log.append(ORIGIN, [], None, "A")
        log.forget_position(ORIGIN.database_id)
        assert log.position(ORIGIN.database_id) is None
        log.append(ORIGIN, [], None, "B")
        assert log.position(ORIGIN.database_id) == "B"

    def test_an_event_that_cannot_be_sent_is_failed_with_its_reason(self, log: Log) -> None:
        change = make_change()._replace(problem="the row could not be decoded")
        (event,) = store(log, make_events([change]))
        detail = log.event(1, event.id)
        assert detail is not None
        assert (detail.row.status, detail.row.problem) == ("failed", "the row could not be decoded")
        assert log.redeliver(1, [event.id], [1]) == []
        assert log.claim([event.id], 60) == []
        assert log.triggers_with_deliveries() in ([], [1])
        assert log.pending_of([1]) == {1: 0}

    def test_a_large_payload_and_a_long_document_id_are_stored_and_found(self, log: Log) -> None:
        long_id = "k" * 10_000
        large = {"n": "ü'" * 2_500_000}
        stored(log, 1, document_id=long_id[:-1])
        (event,) = stored(log, 1, document_id=long_id, document=large)
        assert found(log, EventFilter(document_id=long_id)) == [event.id]
        (claim,) = log.claim([event.id], 60)
        assert (claim.payload, claim.document_id) == (event.payload, long_id)

    def test_a_commit_time_of_any_day_is_stored(self, log: Log) -> None:
        now = int(time.time() * 1000)
        times = [1, now - 400 * DAY_MS, now - DAY_MS, now, now + DAY_MS, now + 400 * DAY_MS]
        events = store(log, make_events([make_change(committed_at_ms=moment) for moment in times]))
        assert found(log) == ids_of(events)[::-1]
        log.make_tables()
        assert len(log.claim(ids_of(events), 60)) == len(times)

    def test_a_batch_takes_a_few_statements_however_many_events_it_has(self, log: Log) -> None:
        stored(log)
        before = log.statements
        events = stored(log, 1000)
        after_storing = log.statements
        claims = log.claim(ids_of(events)[:200], 60)
        after_claiming = log.statements
        log.record([make_outcome(claim, 200) for claim in claims], "worker")
        assert after_storing - before <= 7
        assert after_claiming - after_storing <= 3
        assert log.statements - after_claiming <= 4

    # Delivery

    def test_a_claim_carries_all_that_is_sent(self, log: Log) -> None:
        (event,) = stored(log, 1, operation="delete", table="orders", document_id="7")
        (claim,) = log.claim([event.id], 60)
        assert claim[:4] == (str(event.id), 1, 1, 0)
        assert claim[4:6] == ("7", event.payload)
        assert claim.event_id == event.id
        assert claim.committed_at_ms == event.committed_at_ms
        assert status_of(log, event.id) == "delivering"

    def test_two_claims_of_the_same_events_share_none(self, log: Log) -> None:
        ids = ids_of(stored(log, 5))
        first = log.claim(ids[:3], 60)
        second = log.claim(ids, 60)
        assert [claim.event_id for claim in first] == ids[:3]
        assert [claim.event_id for claim in second] == ids[3:]
        assert {(claim.attempt, claim.failures) for claim in first} == {(1, 0)}
        assert log.claim([], 60) == log.claim([uuid4()], 60) == []

    def test_claims_at_the_same_moment_share_none_and_leave_none(self, log: Log) -> None:
        ids = ids_of(stored(log, 600))

        def claimed(number: int) -> list[UUID]:
            mine: list[UUID] = []
            for start in range(0, 600, 50):
                portion = ids[start : start + 200] if number % 2 else ids[::-1][start : start + 200]
                mine += [claim.event_id for claim in log.claim(portion, 60)]
            return mine

        taken = [event_id for mine in at_once(log, 6, claimed) for event_id in mine]
        taken += [claim.event_id for claim in log.claim(ids, 60)]
        assert sorted(taken) == ids

    def test_storing_claiming_and_recording_go_on_beside_each_other(self, log: Log) -> None:
        events = stored(log, 400)
        ids = ids_of(events)

        def work(number: int) -> int:
            if number == 0:
                for _ in range(5):
                    stored(log, 100, trigger_id=2, trigger="other")
                return 0
            moved = 0
            for start in range(0, 400, 40):
                claims = log.claim(ids[start : start + 40], 60)
                outcomes = [
                    make_outcome(claim, 200 if claim.event_id.int % 2 else 500) for claim in claims
                ]
                moved += log.record(outcomes, f"worker {number}").moved
            return moved

        assert sum(at_once(log, 4, work)) == 400
        failed = sum(1 for event_id in ids if event_id.int % 2 == 0)
        assert log.counts(1) == {
            "pending": 500,
            "delivering": 0,
            "delivered": 400 - failed,
            "failed": failed,
            "cancelled": 0,
        }

    def test_a_success_is_delivered_and_every_attempt_is_kept(self, log: Log) -> None:
        (event,) = stored(log)
        (claim,) = log.claim([event.id], 60)
        log.record([make_outcome(claim, 500, retry_in_ms=0)], "worker")
        assert status_of(log, event.id) == "pending"
        (claim,) = log.claim([event.id], 60)
        assert (claim.attempt, claim.failures) == (2, 1)
        headers = (("Content-Type", "text/plain; ü"), ("Set-Cookie", "a"), ("Set-Cookie", "b"))
        body = b"a\x00b\xff"
        outcome = make_outcome(claim, 204, response_body=body, response_headers=headers)
        assert log.record([outcome], "worker").moved == 1
        detail = log.event(1, event.id)
        assert detail is not None
        row = detail.row
        assert (row.status, row.attempts, row.last_status_code) == ("delivered", 2, 204)
        assert (row.last_error, row.last_duration_ms) == (None, 7)
        first, second = detail.invocations
        assert (first.status_code, second.status_code) == (500, 204)
        assert second.response_body == "a\ufffdb\ufffd"
        assert second.response_headers == list(headers)
        assert second.request_headers == [("User-Agent", "MissionControl")]
        assert (second.worker, second.attempt, second.url) == ("worker", 2, outcome.exchange.url)
        started_at_ms = round(second.started_at.timestamp() * 1000)
        assert started_at_ms == outcome.exchange.started_at_ms

    def test_an_event_whose_retries_are_used_up_fails(self, log: Log) -> None:
        (event,) = stored(log)
        deliver(log, [event], None)
        detail = log.event(1, event.id)
        assert detail is not None
        assert (detail.row.status, detail.row.last_error) == ("failed", "refused")
        assert detail.row.last_status_code is None
        assert log.pending_of([1]) == {1: 0}

    def test_whatever_an_error_says_is_shown(self, log: Log) -> None:
        (event,) = stored(log)
        (claim,) = log.claim([event.id], 60)
        said = "'quotes\", back\\slash\n, \x01, ünï, 🦆, %s"
        log.record([make_outcome(claim, None, error_kind="tls", error_message=said)], "worker")
        detail = log.event(1, event.id)
        assert detail is not None
        assert (detail.row.last_error, detail.invocations[0].error_message) == (said, said)

    def test_a_retry_is_not_claimed_before_its_time(self, log: Log) -> None:
        (event,) = stored(log)
        (claim,) = log.claim([event.id], 60)
        later = int(time.time() * 1000) + 60_000
        log.record([make_outcome(claim, 500, retry_in_ms=60_000)], "worker")
        no_later = int(time.time() * 1000) + 60_000
        assert log.claim([event.id], 60) == []
        assert log.due([1]) == []
        (row,) = log.browse(1, ANYTHING, None, 1).rows
        assert row.next_attempt_at is not None
        assert later <= row.next_attempt_at.timestamp() * 1000 <= no_later

    def test_a_retry_is_due_once_its_time_has_come(self, log: Log) -> None:
        events = stored(log, 2)
        claims = log.claim(ids_of(events), 60)
        soon = int(time.time() * 1000) + 200
        log.record([make_outcome(claim, 500, retry_in_ms=200) for claim in claims], "worker")
        chunks = wait_until(lambda: log.due([1]), 5, "the retries are due")
        assert int(time.time() * 1000) >= soon
        assert [chunk.event_ids for chunk in chunks] == [ids_of(events)]

    def test_a_late_outcome_of_an_older_attempt_changes_nothing(self, log: Log) -> None:
        (event,) = stored(log)
        (late,) = log.claim([event.id], 0)
        wait_for_expiry(log, 1)
        (claim,) = log.claim([event.id], 60)
        assert (claim.attempt, claim.failures) == (2, 0)
        assert log.record([make_outcome(late, 200)], "late").moved == 0
        log.release([late])
        assert status_of(log, event.id) == "delivering"
        assert log.record([make_outcome(claim, 200)], "worker").moved == 1
        assert status_of(log, event.id) == "delivered"
        detail = log.event(1, event.id)
        assert detail is not None
        assert [item.error_kind for item in detail.invocations] == ["lost", None, None]
        counts = log.counts(1)
        assert (counts["delivered"], counts["pending"], counts["delivering"]) == (1, 0, 0)

    @pytest.mark.parametrize(("status_code", "retry"), [(200, None), (500, 60_000), (500, None)])
    def test_an_attempt_whose_claim_was_undone_by_a_crash_counts(
        self, log: Log, status_code: int, retry: int | None
    ) -> None:
        ids = ids_of(stored(log, 2))
        claims = log.claim(ids, 30)
        # What is left of a claim that the server's disk has not seen.
        log.release(claims[1:])
        outcomes = [make_outcome(claim, status_code, retry) for claim in claims]
        assert log.record(outcomes, "worker-1").moved == 2
        rows = log.rows(1, ids)
        assert {row.attempts for row in rows} == {1}
        wanted = "delivered" if status_code == 200 else "pending" if retry else "failed"
        assert {row.status for row in rows} == {wanted}
        assert log.claim(ids, 30) == []
        assert log.record(outcomes, "worker-1").moved == 0

    def test_an_outcome_recorded_twice_counts_once(self, log: Log) -> None:
        events = stored(log, 2)
        claims = log.claim(ids_of(events), 60)
        outcomes = [make_outcome(claims[0], 200), make_outcome(claims[1], 500)]
        assert log.record(outcomes, "worker").moved == 2
        assert log.record(outcomes, "worker").moved == 0
        counts = log.counts(1)
        assert (counts["delivered"], counts["failed"]) == (1, 1)
        assert log.record([], "worker").moved == 0

    def test_leases_that_run_on_are_not_expired(self, log: Log) -> None:
        expiring, held, waiting = stored(log, 3)
        log.claim([held.id], 60)
        log.claim([expiring.id], 0)
        wait_for_expiry(log, 1)
        assert log.expire_leases() == 0
        statuses = [status_of(log, event.id) for event in (expiring, held, waiting)]
        assert statuses == ["pending", "delivering", "pending"]
        assert [chunk.event_ids for chunk in log.due([1])] == [[expiring.id]]

    def test_a_released_claim_counts_no_attempt(self, log: Log) -> None:
        (event,) = stored(log)
        log.release(log.claim([event.id], 60))
        log.release([])
        (claim,) = log.claim([event.id], 60)
        assert claim.attempt == 1

    def test_what_was_lost_on_the_way_is_due_after_its_time_and_listed_once(self, log: Log) -> None:
        ids = given_up(log, 250)
        assert log.due([]) == log.due([2]) == []
        first = wait_until(lambda: log.due([1]), 5, "nothing is due")
        second = log.due([1])
        assert [(len(chunk.event_ids), chunk.more) for chunk in first + second] == [
            (200, True),
            (50, False),
        ]
        assert sorted(i for chunk in first + second for i in chunk.event_ids) == ids
        assert log.due([1]) == []

    def test_every_trigger_has_a_chunk_of_what_is_due(self, log: Log) -> None:
        for trigger_id in range(1, 251):
            given_up(log, 1, trigger_id)
        given_up(log, 300, 251)
        wait_until(lambda: log.due([251]), 5, "nothing is due")
        chunks = wait_until(lambda: log.due(list(range(1, 252))), 5, "nothing is due")
        assert sorted(chunk.trigger_id for chunk in chunks) == list(range(1, 252))

    def test_what_is_due_is_listed_once_however_many_ask(self, log: Log) -> None:
        ids = given_up(log, 400)
        wait_until(lambda: log.pending_of([1]) == {1: 400}, 5, "they are not pending")
        answers = at_once(log, 5, lambda _: log.due([1]))
        answers += [log.due([1]), log.due([1])]
        listed = [i for chunks in answers for chunk in chunks for i in chunk.event_ids]
        assert sorted(listed) == ids

    def test_a_worker_with_room_claims_what_is_due_without_being_told_ids(self, log: Log) -> None:
        ids = ids_of(stored(log, 30))
        stored(log, 1, 2, "other")
        taken = log.claim([ids[3]], 60)
        claims = log.claim_due(1, 20, 60)
        rest = log.claim_due(1, 20, 60)
        assert [claim.event_id for claim in [*claims, *rest]] == [*ids[:3], *ids[4:]]
        assert len(claims) == 20
        log.record([make_outcome(taken[0], 500, retry_in_ms=60_000)], "w")
        assert log.claim_due(1, 20, 60) == []

    def test_workers_that_claim_what_is_due_at_once_share_none_and_leave_none(
        self, log: Log
    ) -> None:
        ids = ids_of(stored(log, 1500))

        def claimed(_: int) -> list[UUID]:
            mine: list[UUID] = []
            while some := log.claim_due(1, 100, 60):
                mine += [claim.event_id for claim in some]
            return mine

        taken = [event_id for mine in at_once(log, 4, claimed) for event_id in mine]
        taken += [claim.event_id for claim in log.claim_due(1, 2000, 60)]
        assert sorted(taken) == ids

    # Order

    def test_an_event_of_an_ordered_trigger_is_claimed_after_those_of_its_document(
        self, log: Log
    ) -> None:
        first, other, second, third = chain(log, "a", "b", "a", "a")
        (later,) = chain(log, "a")
        claims = log.claim([first, other, second, third, later], 60)
        assert {claim.event_id for claim in claims} == {first, other}
        claims.sort(key=lambda claim: claim.event_id != first)
        assert log.claim_due(1, 100, 60) == []
        assert log.pending_of([1]) == {1: 5}
        # A failure that will be tried again keeps the others waiting, the last one does not.
        assert log.record([make_outcome(claims[0], 500, retry_in_ms=0)], "w").freed == []
        assert log.claim([second], 60) == []
        (claim,) = log.claim([first], 60)
        recorded = log.record([make_outcome(claim, 500)], "w")
        assert recorded == Recorded(1, [DueChunk(1, [second])])
        (claim,) = log.claim([second, third, later], 60)
        assert claim.event_id == second
        assert log.record([make_outcome(claim, 200)], "w").freed == [DueChunk(1, [third])]
        (claim,) = log.claim_due(1, 100, 60)
        assert claim.event_id == third
        assert log.record([make_outcome(claim, 200)], "w").freed == [DueChunk(1, [later])]

    def test_a_worker_that_vanishes_keeps_the_others_of_the_document_waiting(
        self, log: Log
    ) -> None:
        first, second = chain(log, "a", "a")
        log.claim([first], 0)
        wait_for_expiry(log, 1)
        assert [claim.event_id for claim in log.claim([first, second], 60)] == [first]

    def test_an_event_that_cannot_be_sent_holds_nobody_back(self, log: Log) -> None:
        bad = make_change(document_id="a")._replace(problem="the row could not be decoded")
        _, good = in_order(log, [bad, make_change(document_id="a")])
        assert [claim.event_id for claim in log.claim([good], 60)] == [good]

    def test_a_redelivery_in_an_ordered_trigger_goes_behind_what_waits(self, log: Log) -> None:
        first, second, third = chain(log, "a", "a", "a")
        for event_id in (first, second):
            log.record([make_outcome(claim, 200) for claim in log.claim([event_id], 60)], "w")
        (chunk,) = log.redeliver(1, [first, second], [1], [1])
        assert set(chunk.event_ids) == {first, second}
        order = []
        for _ in range(3):
            (claim,) = log.claim([first, second, third], 60)
            order.append(claim.event_id)
            log.record([make_outcome(claim, 200)], "w")
        assert order == [third, *sorted([first, second])]

    def test_a_deleted_triggers_chain_is_cancelled_whole(self, log: Log) -> None:
        chain(log, "a", "a", "b")
        assert log.cancel(1) == 3
        assert log.triggers_with_deliveries() in ([], [1])
        (again,) = chain(log, "a")
        assert [claim.event_id for claim in log.claim([again], 60)] == [again]

    def test_whoever_stores_while_the_predecessor_finishes_is_not_left_waiting(
        self, log: Log
    ) -> None:
        """The two transactions meet at every point, for hundreds of events of one document."""
        sent: list[UUID] = []
        stop = threading.Event()

        def deliver_all() -> None:
            while not stop.is_set() or len(sent) < 200:
                for claim in log.claim_due(1, 100, 60):
                    sent.append(claim.event_id)
                    log.record([make_outcome(claim, 200)], "w")
            log.close()

        worker = threading.Thread(target=deliver_all)
        worker.start()
        ids = [event_id for _ in range(200) for event_id in chain(log, "a")]
        stop.set()
        worker.join(60)
        assert sent == ids

    def test_what_waits_for_an_event_that_retention_deletes_goes_on(self, log: Log) -> None:
        long_ago = int(time.time() * 1000) - 10 * DAY_MS
        changes = [make_change(committed_at_ms=long_ago), make_change()]
        _, new = in_order(log, changes)
        assert log.claim([new], 60) == []
        log.drop_partitions_before(int(time.time()) // 86_400 - 2)
        assert [claim.event_id for claim in log.claim([new], 60)] == [new]

    def test_what_waits_for_an_event_that_its_project_keeps_less_long_goes_on(
        self, log: Log
    ) -> None:
        long_ago = int(time.time() * 1000) - 10 * DAY_MS
        changes = [make_change(committed_at_ms=long_ago), make_change()]
        _, new = in_order(log, changes)
        assert log.expire(1, int(time.time()) // 86_400 - 2, 0) == (1, 0)
        assert [claim.event_id for claim in log.claim([new], 60)] == [new]

    def test_a_deleted_triggers_events_are_cancelled(self, log: Log) -> None:
        sent, held, *_ = events = stored(log, 4)
        other = stored(log, 1, trigger_id=2, trigger="other")
        deliver(log, [sent])
        (claim,) = log.claim([held.id], 60)
        assert log.triggers_with_deliveries() == [1, 2]
        assert log.cancel(1) == 3
        assert log.cancel(1) == 0
        assert [status_of(log, event.id) for event in events] == ["delivered", *["cancelled"] * 3]
        assert log.record([make_outcome(claim, 200)], "worker").moved == 0
        assert log.claim(ids_of(events), 60) == []
        assert log.pending_of([1, 2]) == {1: 0, 2: 1}
        assert status_of(log, other[0].id) == "pending"

    # Cancelling events of one's choice

    def test_pending_events_are_cancelled_and_the_others_left_alone(self, log: Log) -> None:
        sent, failed, held, waiting, other = events = stored(log, 5)
        deliver(log, [sent])
        deliver(log, [failed], 500)
        (claim,) = log.claim([held.id], 60)
        assert log.cancel_events(2, ids_of(events)) == Recorded(0, [])
        asked = [sent.id, failed.id, held.id, waiting.id, uuid4()]
        assert log.cancel_events(1, asked) == Recorded(1, [])
        assert log.cancel_events(1, asked) == Recorded(0, [])
        assert status_of(log, waiting.id) == "cancelled"
        assert status_of(log, held.id) == "delivering"
        assert status_of(log, other.id) == "pending"
        assert log.record([make_outcome(claim, 200)], "worker").moved == 1
        assert log.claim([waiting.id], 60) == log.due([1]) == []
        log.redeliver(1, [waiting.id], [1])
        assert [claim.event_id for claim in log.claim([waiting.id], 60)] == [waiting.id]

    def test_what_follows_a_cancelled_event_in_its_order_has_its_turn(self, log: Log) -> None:
        first, second, third, fourth = chain(log, "a", "a", "a", "a")
        assert log.cancel_events(1, [third]) == Recorded(1, [])
        assert log.cancel_events(1, [first]) == Recorded(1, [DueChunk(1, [second])])
        for event_id in (second, fourth):
            (claim,) = log.claim([second, fourth], 60)
            assert claim.event_id == event_id
            log.record([make_outcome(claim, 200)], "worker")

    def test_events_cancelled_by_several_at_once_are_cancelled_once(self, log: Log) -> None:
        ids = [*ids_of(stored(log, 30)), *chain(log, *"abababab")]
        assert sum(at_once(log, 4, lambda _: log.cancel_events(1, ids).moved)) == len(ids)

    # Redelivering

    def test_any_finished_event_can_be_redelivered_with_its_attempts_kept(self, log: Log) -> None:
        delivered, failed, waiting = stored(log, 3)
        claims = log.claim([delivered.id, failed.id], 60)
        log.record([make_outcome(claims[0], 200), make_outcome(claims[1], 500)], "worker")
        chunks = log.redeliver(1, [delivered.id, failed.id, waiting.id, uuid4()], [1])
        assert [set(chunk.event_ids) for chunk in chunks] == [{delivered.id, failed.id}]
        assert log.due([1]) == []
        again = log.claim([delivered.id, failed.id], 60)
        assert {(claim.attempt, claim.failures) for claim in again} == {(2, 0)}
        assert log.redeliver(1, [delivered.id], [1]) == []

    def test_only_what_the_project_and_its_triggers_own_is_redelivered(self, log: Log) -> None:
        (event,) = stored(log)
        deliver(log, [event])
        assert log.redeliver(2, [event.id], [1]) == []
        assert log.redeliver(1, [event.id], [2]) == []
        assert log.redeliver(1, [event.id], []) == log.redeliver(1, [], [1]) == []
        assert status_of(log, event.id) == "delivered"

    def test_a_cancelled_event_can_be_redelivered(self, log: Log) -> None:
        (event,) = stored(log)
        log.cancel(1)
        assert [chunk.event_ids for chunk in log.redeliver(1, [event.id], [1])] == [[event.id]]
        assert status_of(log, event.id) == "pending"
        assert log.triggers_with_deliveries() == [1]

    def test_events_redelivered_by_several_at_once_are_redelivered_once(self, log: Log) -> None:
        events = stored(log, 60)
        deliver(log, events[:30])
        deliver(log, events[30:], 500)
        answers = at_once(log, 4, lambda _: log.redeliver(1, ids_of(events), [1]))
        listed = [i for chunks in answers for chunk in chunks for i in chunk.event_ids]
        assert sorted(listed) == ids_of(events)

    # Reading

    def test_chosen_events_are_read_with_and_without_their_payloads(self, log: Log) -> None:
        first, second, _ = stored(log, 3)
        asked = [first.id, second.id, uuid4()]
        page = log.browse(1, ANYTHING, None, 10).rows
        assert log.rows(1, asked) == [row for row in page if row.id in asked]
        assert log.payloads(1, asked) == {first.id: first.payload, second.id: second.payload}
        assert log.rows(2, asked) == log.rows(1, []) == []
        assert log.payloads(2, asked) == log.payloads(1, []) == {}

    def test_pages_go_from_newest_to_oldest_without_gap_or_repetition(self, log: Log) -> None:
        ids = {event.id for event in stored(log, 25)}
        ids |= set(ids_of(stored(log, 5, committed_at_ms=int(time.time() * 1000) - 3 * DAY_MS)))
        seen: list[UUID] = []
        cursor = None
        while True:
            page = log.browse(1, ANYTHING, cursor, 10)
            seen += [row.id for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == sorted(ids, reverse=True)
        assert (log.count(1, ANYTHING, 99), log.count(1, ANYTHING, 7)) == (30, 7)
        with pytest.raises(InvalidCursor):
            log.browse(1, ANYTHING, "not a cursor", 10)

    @pytest.mark.parametrize(
        "filters",
        [
            EventFilter(trigger="welcome-email", table="orders"),
            EventFilter(document_id="77"),
            EventFilter(document_id="77", trigger="welcome-email", status="failed"),
            EventFilter(document_id="77", operation="delete", database="main"),
            EventFilter(status="failed"),
            EventFilter(status="failed", trigger="welcome-email", table="orders"),
            EventFilter(table="orders"),
            EventFilter(operation="delete"),
            EventFilter(operation="delete", database="main", status="failed"),
            EventFilter(error="REFUSED by"),
            EventFilter(error="refused", status="failed", operation="delete"),
            EventFilter(error="%' É_", document_id="77"),
            EventFilter(after=datetime.now(UTC) + timedelta(minutes=50)),
            EventFilter(
                after=datetime.now(UTC) + timedelta(minutes=50),
                before=datetime.now(UTC) + timedelta(days=2),
                trigger="welcome-email",
            ),
        ],
    )
    def test_each_filter_finds_the_one_event_it_describes(
        self, log: Log, filters: EventFilter
    ) -> None:
        stored(log, 3)
        stored(log, 1, table="Orders", document_id="77 ")
        soon = int(time.time() * 1000) + 3_600_000
        (event,) = stored(
            log, 1, table="orders", operation="delete", document_id="77", committed_at_ms=soon
        )
        (claim,) = log.claim([event.id], 60)
        said = "Refused by example.com, 100%' É_\\"
        log.record([make_outcome(claim, None, error_message=said)], "worker")
        assert found(log, filters) == [event.id]
        assert found(log, filters, 2) == []
        assert (log.count(1, filters, 10), log.count(2, filters, 10)) == (1, 0)

    @pytest.mark.parametrize(
        "filters",
        [
            EventFilter(trigger="nobody"),
            EventFilter(database="Main"),
            EventFilter(table="users "),
            EventFilter(document_id="' OR 1=1 --"),
            EventFilter(before=datetime(2001, 1, 1, tzinfo=UTC)),
            EventFilter(status="cancelled"),
            EventFilter(error="%"),
            EventFilter(error="7", status="delivered"),
        ],
    )
    def test_a_filter_that_fits_nothing_finds_nothing(self, log: Log, filters: EventFilter) -> None:
        stored(log, 3)
        assert found(log, filters) == []
        assert log.count(1, filters, 10) == 0

    @pytest.mark.parametrize(
        "filters",
        [
            ANYTHING,
            EventFilter(table="users"),
            EventFilter(document_id="7"),
            EventFilter(status="failed"),
            EventFilter(status="delivered"),
            EventFilter(error="500"),
        ],
    )
    def test_events_of_excepted_triggers_are_not_counted(
        self, log: Log, filters: EventFilter
    ) -> None:
        for trigger_id, trigger in ((1, "welcome-email"), (2, "welcome-email"), (3, "other")):
            failed, sent = stored(log, 2, trigger_id, trigger, document_id="7")
            deliver(log, [failed], 500)
            deliver(log, [sent])
        each = 1 if filters.status or filters.error else 2
        counts = [log.count(1, filters, 99, 60, without) for without in ((), (2,), (1, 3))]
        assert counts == [3 * each, 2 * each, each]
        assert log.count(1, filters, 99, 60, (1, 2, 3)) == 0

    def test_each_status_lists_its_events(self, log: Log) -> None:
        waiting, held, sent, failed, cancelled = stored(log, 5)
        (gone,) = stored(log, 1, trigger_id=2, trigger="other")
        log.cancel(2)
        log.claim([held.id], 60)
        deliver(log, [sent])
        deliver(log, [failed, cancelled], 500)
        expected: dict[EventStatus, list[UUID]] = {
            "pending": [waiting.id],
            "delivering": [held.id],
            "delivered": [sent.id],
            "failed": [cancelled.id, failed.id],
            "cancelled": [gone.id],
        }
        assert {status: found(log, EventFilter(status=status)) for status in expected} == expected
        mine = {
            status: found(log, EventFilter(status=status, trigger="welcome-email"))
            for status in expected
        }
        assert mine == expected | {"cancelled": []}
        assert log.counts(1) == {status: len(ids) for status, ids in expected.items()}
        counted = {status: log.count(1, EventFilter(status=status), 99) for status in expected}
        assert counted == log.counts(1)
        assert set(log.counts(2).values()) == {0}

    def test_an_error_is_that_of_the_last_attempt_its_status_or_why_there_was_none(
        self, log: Log
    ) -> None:
        bad = make_change()._replace(problem="the row could not be decoded")
        (undecoded,) = store(log, make_events([bad]))
        retried, recovered, waiting, lost = stored(log, 4)
        deliver_failing = log.claim([retried.id, recovered.id], 60)
        log.record([make_outcome(claim, 503, retry_in_ms=0) for claim in deliver_failing], "worker")
        (claim,) = wait_until(lambda: log.claim([recovered.id], 60), 5, "the retry is not due")
        log.record([make_outcome(claim, 200)], "worker")
        log.claim([lost.id], 0)
        wait_for_expiry(log, 1)
        assert found(log, EventFilter(error="503")) == [retried.id]
        assert found(log, EventFilter(error="503", status="pending")) == [retried.id]
        assert found(log, EventFilter(error="50")) == []
        assert found(log, EventFilter(error="DECODED")) == [undecoded.id]
        assert found(log, EventFilter(error="worker stopped")) == [lost.id]
        assert waiting.id in found(log, EventFilter(status="pending"))

    def test_events_are_found_by_how_often_they_were_tried(self, log: Log) -> None:
        once, waits, held, recovered, failed, _ = stored(log, 6)
        again = [waits, held, recovered, failed]
        deliver(log, [once])
        outcomes = [make_outcome(claim, 503, 0) for claim in log.claim(ids_of(again), 60)]
        log.record(outcomes, "worker")
        claims: dict[UUID, Claim] = {}
        for each in again[1:]:
            due = partial(log.claim, [each.id], 60)
            (claims[each.id],) = wait_until(due, 5, "the retry is not due")
        sent = [(recovered, 200), (failed, 500)]
        log.record([make_outcome(claims[each.id], code) for each, code in sent], "worker")
        tried = sorted(ids_of([once, *again]), reverse=True)
        twice = sorted([recovered.id, failed.id], reverse=True)
        assert found(log, EventFilter(min_attempts=1)) == tried
        # The second attempt at one of them is under way.
        assert found(log, EventFilter(min_attempts=2)) == twice
        assert found(log, EventFilter(min_attempts=3)) == []
        for status, number, expected in (
            ("delivered", 2, [recovered.id]),
            ("failed", 2, [failed.id]),
            ("pending", 1, [waits.id]),
            ("delivering", 1, [held.id]),
            ("delivering", 2, []),
        ):
            filters = EventFilter(status=cast(EventStatus, status), min_attempts=number)
            assert found(log, filters) == expected, filters
            assert log.count(1, filters, 9) == len(expected)
        named = EventFilter(trigger="welcome-email", operation="insert", min_attempts=2)
        assert (found(log, named), found(log, named, 2)) == (twice, [])
        assert found(log, replace(named, trigger="other")) == []
        assert found(log, EventFilter(document_id=failed.document_id, min_attempts=2)) == twice
        assert found(log, EventFilter(error="500", min_attempts=2)) == [failed.id]
        assert (log.count(1, named, 9), log.count(1, named, 9, 60, [1])) == (2, 0)

    @pytest.mark.parametrize("looked_up", [2, 999])
    @pytest.mark.parametrize("limit", [1, 4, 100])
    def test_a_page_by_attempts_looks_through_so_many_and_leads_on(
        self, log: Log, monkeypatch: pytest.MonkeyPatch, limit: int, looked_up: int
    ) -> None:
        for module in (pgpages, mypages):
            monkeypatch.setattr(module, "_LOOKED_THROUGH", (3, 10))
            monkeypatch.setattr(module, "_LOOKED_UP", looked_up)
        events = stored(log, 60)
        deliver(log, events)
        again = events[:5] + events[50:55]
        log.redeliver(1, ids_of(again), [1])
        deliver(log, again)
        tried = EventFilter(min_attempts=2)
        assert paged(log, tried, limit) == sorted(ids_of(again), reverse=True)
        assert log.count(1, tried, 99) == len(again)
        assert paged(log, replace(tried, min_attempts=1), limit) == sorted(
            ids_of(events), reverse=True
        )
        first = log.browse(1, replace(tried, min_attempts=3), None, limit)
        assert first.rows == []
        assert first.next_cursor is not None

    @pytest.mark.parametrize("status", [None, "delivered", "failed", "pending"])
    def test_pages_of_many_kinds_of_events_go_on_without_gap_or_repetition(
        self, log: Log, status: EventStatus | None
    ) -> None:
        events: list[Event] = []
        for day in (0, 0, 3, 12, 40):
            for number in range(30):
                moment = int(time.time() * 1000) - day * DAY_MS - number
                fields = {"table": f"table {number}", "committed_at_ms": moment}
                events += stored(log, 1 + number % 3, 1 + number % 4, **fields)
        deliver(log, events[::4])
        deliver(log, events[1::4], 500)
        expected = {
            None: events,
            "delivered": events[::4],
            "failed": events[1::4],
            "pending": events[2::4] + events[3::4],
        }[status]
        assert paged(log, EventFilter(status=status), 17) == sorted(ids_of(expected), reverse=True)
        assert log.count(1, EventFilter(status=status), 999) == len(expected)

    def test_delivered_events_are_found_behind_a_backlog_and_among_it(self, log: Log) -> None:
        moment = int(time.time() * 1000)
        before = stored(log, 30, committed_at_ms=moment - 2 * DAY_MS)
        yesterday = stored(log, 1500, committed_at_ms=moment - DAY_MS)
        backlog = stored(log, 3000, committed_at_ms=moment)
        among = [*yesterday[::500], *backlog[::300]]
        deliver(log, [*before, *among])
        delivered = EventFilter(status="delivered")
        wanted = sorted(ids_of([*before, *among]), reverse=True)
        assert paged(log, delivered, 7) == wanted
        assert found(log, EventFilter(status="delivered", trigger="welcome-email")) == wanted
        assert (log.count(1, delivered, 9999), log.count(1, delivered, 15)) == (len(wanted), 15)

    def test_a_trigger_that_had_another_name_is_found_by_either(self, log: Log) -> None:
        old = stored(log, 3)
        new = stored(log, 3, trigger="renamed")
        assert found(log, EventFilter(trigger="welcome-email")) == ids_of(old)[::-1]
        assert found(log, EventFilter(trigger="renamed")) == ids_of(new)[::-1]
        assert found(log, EventFilter(table="users")) == sorted(ids_of(old + new), reverse=True)

    def test_a_search_that_takes_too_long_is_ended_and_says_what_would_help(self, log: Log) -> None:
        deliver(log, stored(log, 2000), 500)
        filters = EventFilter(error="nothing of the kind", table="users")
        with pytest.raises(SearchTooDeep, match="shorter time") as ended:
            log.browse(1, filters, None, 50, patience_seconds=0.002)
        with pytest.raises(SearchTooDeep, match="shorter time"):
            log.count(1, filters, 50, patience_seconds=0.002)
        assert ended.value.narrow == ("trigger", "document_id", "after")
        assert log.browse(1, filters, None, 50, patience_seconds=60) == Page([], None)

    def test_a_trigger_made_anew_under_its_name_is_listed_with_the_one_before(
        self, log: Log
    ) -> None:
        old = stored(log, 8)
        stored(log, 4, trigger_id=5, trigger="other")
        new = stored(log, 8, trigger_id=9)
        wanted = sorted(ids_of([*old, *new]), reverse=True)
        filters = EventFilter(trigger="welcome-email")
        page = log.browse(1, filters, None, 10)
        rest = log.browse(1, filters, page.next_cursor, 10)
        assert [row.id for row in [*page.rows, *rest.rows]] == wanted
        assert rest.next_cursor is None

    def test_what_another_project_owns_is_not_shown(self, log: Log) -> None:
        (event,) = stored(log)
        assert log.event(2, event.id) is None
        assert log.event(1, uuid4()) is None
        assert log.browse(2, ANYTHING, None, 10).rows == []

    def test_every_status_is_counted(self, log: Log) -> None:
        events = stored(log, 5)
        claims = log.claim(ids_of(events[:3]), 60)
        log.record([make_outcome(claims[0], 200), make_outcome(claims[1], 500)], "worker")
        assert log.counts(1) == {
            "pending": 2,
            "delivering": 1,
            "delivered": 1,
            "failed": 1,
            "cancelled": 0,
        }
        assert log.pending_of([1, 2]) == {1: 3, 2: 0}
        assert log.pending_of([]) == {}

    def test_a_page_takes_as_many_statements_however_many_events_there_are(self, log: Log) -> None:
        def statements_of_a_page() -> int:
            before = log.statements
            log.browse(1, EventFilter(trigger="welcome-email", status="pending"), None, 50)
            log.browse(1, ANYTHING, None, 50)
            return log.statements - before

        stored(log, 10)
        few = statements_of_a_page()
        stored(log, 5000)
        assert statements_of_a_page() <= few <= 12

    @pytest.mark.parametrize("field", [None, *(each.name for each in fields(EventFilter))])
    def test_a_page_by_any_filter_takes_a_few_statements(self, log: Log, field: str | None) -> None:
        events = stored(log, 60)
        stored(log, 60, trigger_id=2, trigger="other", table="orders", operation="update")
        deliver(log, events[:20], 500)
        deliver(log, events[20:40])
        now = datetime.now(UTC)
        given: dict[str, object] = {
            "trigger": "welcome-email",
            "status": "delivered",
            "database": "main",
            "table": "users",
            "operation": "insert",
            "document_id": "1",
            "after": now - timedelta(days=3),
            "before": now + timedelta(days=1),
            "error": "500",
            "min_attempts": 1,
        }
        filters = ANYTHING if field is None else replace(ANYTHING, **{field: given[field]})  # type: ignore[arg-type]
        cursor = None
        for _ in range(2):
            before = log.statements
            page = log.browse(1, filters, cursor, 10)
            assert len(page.rows) == 10
            assert log.statements - before <= 6
            cursor = page.next_cursor

    # Statistics

    def test_statistics_say_what_came_of_events_and_how_long_they_took(self, log: Log) -> None:
        minute = minutes_ago(10)
        slow, quick, failed, retried = stored(log, 4, committed_at_ms=minute + 100)
        stored(log, 1, trigger_id=2, trigger="other", committed_at_ms=minute + 100)
        claims = {
            claim.event_id: claim for claim in log.claim(ids_of([slow, quick, failed, retried]), 60)
        }
        log.record(
            [
                make_outcome(claims[slow.id], 200, started_at_ms=minute + 900),
                make_outcome(claims[quick.id], 200, started_at_ms=minute + 101, duration_ms=1),
                make_outcome(claims[failed.id], 500, started_at_ms=minute + 101),
                make_outcome(claims[retried.id], 500, 0, started_at_ms=minute + 101),
            ],
            "worker",
        )
        latency = latencies((2, 1), (1000, 1))
        mine = Sums(4, 2, 1, 1, 22, latency)
        begins_at = minute // 1000
        expected = [
            Statistic(begins_at, 1, mine),
            Statistic(begins_at, 2, NOTHING._replace(stored=1)),
        ]
        for _ in range(2):
            assert counted(log, by_trigger=True) == expected
            assert counted(log) == [Statistic(begins_at, 0, mine._replace(stored=5))]
            assert counted(log, trigger_id=1) == [Statistic(begins_at, 0, mine)]
            assert counted(log, project_id=2) == []
            log.settle_statistics()
        assert log.counts(1) == {
            "pending": 2, "delivering": 0, "delivered": 2, "failed": 1, "cancelled": 0,
        }  # fmt: skip

    def test_a_redelivery_does_not_count_as_a_long_delivery(self, log: Log) -> None:
        events = stored(log, 2, committed_at_ms=minutes_ago(10))
        deliver(log, events)
        log.redeliver(1, ids_of(events), [1])
        deliver(log, events)
        sums = [row.sums for row in counted(log)]
        assert sum(each.delivered for each in sums) == 4
        assert sum(sum(each.latency) for each in sums) == 2

    def test_statistics_are_the_same_at_any_step_settled_or_not(self, log: Log) -> None:
        ages = [0, 3, 59, 61, 200, 1000]
        for age in ages:
            stored(log, age + 1, committed_at_ms=minutes_ago(age))
        total = sum(ages) + len(ages)
        steps = (60, 600, 3600, 7200, 86_400)
        before = {step: counted(log, step=step) for step in steps}
        assert log.settle_statistics() == len(ages) - 1
        assert {step: counted(log, step=step) for step in steps} == before
        assert {sum(row.sums.stored for row in rows) for rows in before.values()} == {total}
        assert [row.begins_at % 7200 for row in before[7200]] == [0] * len(before[7200])

    def test_several_that_settle_statistics_while_others_count_lose_and_repeat_nothing(
        self, log: Log
    ) -> None:
        minutes = [minutes_ago(age) for age in range(3, 33)]

        def work(number: int) -> None:
            for minute in minutes:
                if number < 2:
                    log.settle_statistics()
                    continue
                trigger_id = number % 2 + 1
                change = make_change(committed_at_ms=minute)
                origin = make_origin(database_id=number)
                events = make_events([change], origin, trigger_id, f"trigger {trigger_id}")
                log.append(origin, events, log.position(number), uuid4().hex)

        at_once(log, 5, work)
        assert sum(row.sums.stored for row in counted(log)) == 3 * len(minutes)
        log.settle_statistics()
        assert log.settle_statistics() == 0
        assert [row.sums.stored for row in counted(log)] == [3] * len(minutes)

    def test_counts_that_come_late_are_added(self, log: Log) -> None:
        minute = minutes_ago(30)
        for count in (1, 2, 3):
            stored(log, count, committed_at_ms=minute)
            assert log.settle_statistics() == 1
        assert [row.sums.stored for row in counted(log, step=3600)] == [6]

    def test_sums_of_long_ago_are_kept_by_the_day(self, log: Log) -> None:
        stored(log, 3, committed_at_ms=minutes_ago(50 * 1440))
        stored(log, 2, committed_at_ms=minutes_ago(2))
        for step, expected in ((86_400, [3, 2]), (3600, [3, 2]), (600, [2]), (60, [2])):
            log.settle_statistics()
            assert [row.sums.stored for row in counted(log, step=step, days=60)] == expected
        log.drop_partitions_before(int(time.time()) // 86_400 - 30)
        assert log.counts(1)["pending"] == 2
        assert log.counts(1)["delivered"] == 0

    # Retention

    def test_days_beyond_retention_go_with_their_deliveries_and_counts(self, log: Log) -> None:
        now = int(time.time() * 1000)
        today = now // DAY_MS
        gone = stored(log, 3, committed_at_ms=now - 40 * DAY_MS)
        deliver(log, gone[:1])
        kept = stored(log, 1, committed_at_ms=now - 30 * DAY_MS) + stored(log)
        log.drop_partitions_before(today - 30)
        assert log.drop_partitions_before(today - 30) == []
        assert [log.event(1, event.id) for event in gone] == [None] * 3
        assert found(log) == ids_of(kept)[::-1]
        assert [status_of(log, event.id) for event in kept] == ["pending", "pending"]
        counts = log.counts(1)
        assert (counts["pending"], counts["delivered"]) == (2, 0)
        assert log.pending_of([1]) == {1: 2}

    def test_days_that_come_and_go_leave_a_log_that_goes_on(self, log: Log) -> None:
        today = int(time.time()) // 86_400
        (event,) = stored(log)
        assert log.drop_partitions_before(today + 1)
        assert log.event(1, event.id) is None
        log.make_tables()
        (event,) = stored(log)
        assert found(log) == [event.id]

    def test_what_comes_late_is_stored_though_another_process_has_dropped_its_day(
        self, log: Log, open_log: Callable[[], Log]
    ) -> None:
        today = int(time.time()) // 86_400
        (gone,) = stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        other = open_log()
        other.drop_partitions_before(today - 30)
        other.close()
        assert log.event(1, gone.id) is None
        (late,) = stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        assert found(log) == [late.id]

    def test_a_project_may_keep_its_events_and_payloads_for_less_long(self, log: Log) -> None:
        now = int(time.time() * 1000)
        today = now // DAY_MS
        (gone,) = stored(log, 1, committed_at_ms=now - 9 * DAY_MS)
        (bare, waiting) = stored(log, 2, committed_at_ms=now - 5 * DAY_MS)
        (kept,) = stored(log)
        deliver(log, [bare])
        assert log.expire(2, today - 7, today - 3) == (0, 0)
        assert log.expire(1, today - 7, today - 3) == (1, 1)
        assert log.expire(1, today - 7, today - 3) == (0, 0)
        assert log.event(1, gone.id) is None
        payloads = [detail.payload for e in (bare, waiting, kept) if (detail := log.event(1, e.id))]
        assert payloads == [None, waiting.payload, kept.payload]
        assert log.counts(1)["pending"] == 2
        assert log.redeliver(1, [bare.id], [1]) == []
        (late,) = stored(log, 1, committed_at_ms=now - 9 * DAY_MS)
        before = log.statements
        assert log.expire(1, today - 7, today - 3) == (0, 0)
        assert log.statements - before <= 4
        assert log.expire(1, today - 6, today - 2) == (1, 0)
        assert log.event(1, late.id) is None

    def test_payloads_of_events_that_end_after_their_day_went_are_forgotten_too(
        self, log: Log
    ) -> None:
        now = int(time.time() * 1000)
        today = now // DAY_MS
        events = stored(log, 4, committed_at_ms=now - 5 * DAY_MS)
        delivered, failed, cancelled, waiting = events
        assert log.expire(1, 0, today - 3) == (0, 0)
        assert payloads(log, events) == [event.payload for event in events]
        deliver(log, [delivered])
        deliver(log, [failed], 500)
        assert log.cancel_events(1, [cancelled.id]).moved == 1
        assert log.expire(2, 0, today - 3) == (0, 0)
        assert log.expire(1, 0, today - 3) == (0, 3)
        assert payloads(log, events) == [None, None, None, waiting.payload]
        assert log.redeliver(1, ids_of([failed]), [1]) == []
        assert log.expire(1, 0, today - 3) == (0, 0)
        deliver(log, [waiting])
        assert log.expire(1, 0, today - 2) == (0, 1)
        assert payloads(log, events) == [None] * 4

    def test_payloads_of_events_that_are_stored_after_their_day_went_are_forgotten_too(
        self, log: Log
    ) -> None:
        now = int(time.time() * 1000)
        today = now // DAY_MS
        (before,) = stored(log, 1, committed_at_ms=now - 5 * DAY_MS)
        deliver(log, [before])
        assert log.expire(1, 0, today - 3) == (0, 1)
        late, recent = stored(log, 1, committed_at_ms=now - 6 * DAY_MS) + stored(log)
        deliver(log, [late, recent])
        assert log.expire(1, 0, today - 3) == (0, 1)
        assert payloads(log, [late, recent]) == [None, recent.payload]

    def test_an_event_that_is_redelivered_keeps_its_payload_until_it_has_ended_again(
        self, log: Log
    ) -> None:
        now = int(time.time() * 1000)
        today = now // DAY_MS
        (event,) = stored(log, 1, committed_at_ms=now - 5 * DAY_MS)
        log.expire(1, 0, today - 3)
        deliver(log, [event])
        assert log.redeliver(1, ids_of([event]), [1]) != []
        assert log.expire(1, 0, today - 3) == (0, 0)
        deliver(log, [event])
        assert log.expire(1, 0, today - 3) == (0, 1)

    def test_many_old_events_expire(self, log: Log) -> None:
        now = int(time.time() * 1000)
        stored(log, 2500, committed_at_ms=now - 9 * DAY_MS)
        today = now // DAY_MS
        assert log.expire(1, today - 7, today - 3) == (2500, 0)
        assert found(log) == []
        assert log.pending_of([1]) == {1: 0}


def payloads(log: Log, events: Sequence[Event]) -> list[str | None]:
    return [detail.payload for each in events if (detail := log.event(1, each.id))]


def minutes_ago(count: int) -> int:
    """The beginning of a minute that was over so many minutes ago, in milliseconds."""
    return (int(time.time()) // 60 - count - 1) * 60_000


def latencies(*counts: tuple[int, int]) -> tuple[int, ...]:
    """A histogram of so many events that took at most so many milliseconds."""
    found = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for bound, count in counts:
        found[LATENCY_BOUNDS_MS.index(bound)] = count
    return tuple(found)


def counted(
    log: Log,
    step: int = 60,
    days: int = 2,
    project_id: int = 1,
    by_trigger: bool = False,
    trigger_id: int | None = None,
) -> list[Statistic]:
    """The statistics of the last days in steps of so many seconds."""
    end = datetime.fromtimestamp((int(time.time()) // 86_400 + 1) * 86_400, UTC)
    begin = end - timedelta(days=days)
    return log.statistics(
        project_id, begin, end, step, by_trigger=by_trigger, trigger_id=trigger_id
    )


def make_tables_and_close(log: Log) -> None:
    """Make the tables in a thread that ends."""
    log.make_tables()
    log.close()
