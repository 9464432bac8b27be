"""The event log's operations, on real Postgres: what is stored, claimed, recorded and shown."""

import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg2
import pytest

from eventing.changes import Event
from eventing.cloudevents import EventBuilder
from eventing.logs import control_database_dsn
from eventing.logs.base import DueChunk, EventFilter, InvalidCursor, PositionMoved, Recorded
from eventing.logs.postgres import PostgresEventLog
from eventing.matching import Matcher, Rule
from tests.factories import NODE_ID, make_change, make_events, make_origin, make_outcome
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = make_origin()


def stored(log: PostgresEventLog, count: int = 1, **fields: object) -> list[Event]:
    """Store `count` events and return them, oldest first."""
    events = make_events([make_change(**fields) for _ in range(count)])  # type: ignore[arg-type]
    log.append(ORIGIN, events, log.position(ORIGIN.database_id), uuid4().hex)
    return sorted(events)


def run(sql: str, *arguments: object) -> list[tuple[object, ...]]:
    with psycopg2.connect(control_database_dsn()) as connection, connection.cursor() as cursor:
        cursor.execute(sql, arguments)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def status_of(log: PostgresEventLog, event_id: UUID) -> str:
    detail = log.event(1, event_id)
    assert detail is not None
    return detail.row.status


def test_events_and_their_position_are_stored_together(log: PostgresEventLog) -> None:
    events = make_events([make_change(document={"n": "tab\t, newline\n, back\\slash, ünï"})])
    log.append(ORIGIN, events, None, "A")
    detail = log.event(1, events[0].id)
    assert detail is not None
    assert detail.payload == events[0].payload
    assert log.position(ORIGIN.database_id) == "A"
    assert detail.row.status == "pending"


def test_a_process_that_read_from_another_position_stores_nothing(log: PostgresEventLog) -> None:
    stored(log)
    before = log.position(ORIGIN.database_id)
    with pytest.raises(PositionMoved):
        log.append(ORIGIN, make_events([make_change()]), "elsewhere", "B")
    with pytest.raises(PositionMoved):
        log.append(ORIGIN, make_events([make_change()]), None, "B")
    assert log.position(ORIGIN.database_id) == before
    assert len(log.browse(1, EventFilter(), None, 10).rows) == 1


def test_two_claims_of_the_same_events_share_none(log: PostgresEventLog) -> None:
    ids = [event.id for event in stored(log, 5)]
    first = log.claim(ids[:3], 60)
    second = log.claim(ids, 60)
    assert [claim.event_id for claim in first] == ids[:3]
    assert [claim.event_id for claim in second] == ids[3:]
    assert {(claim.attempt, claim.failures) for claim in first} == {(1, 0)}


def test_a_success_is_delivered_and_every_attempt_is_kept(log: PostgresEventLog) -> None:
    (event,) = stored(log)
    (claim,) = log.claim([event.id], 60)
    log.record([make_outcome(claim, 500, retry_at_ms=int(time.time() * 1000))], "worker")
    assert status_of(log, event.id) == "pending"
    (claim,) = log.claim([event.id], 60)
    assert (claim.attempt, claim.failures) == (2, 1)
    log.record([make_outcome(claim, 204, response_body=b"a\x00b\xff")], "worker")
    detail = log.event(1, event.id)
    assert detail is not None
    assert detail.row.status == "delivered"
    assert detail.row.attempts == 2
    assert [item.status_code for item in detail.invocations] == [500, 204]
    assert detail.invocations[1].response_body == "a\ufffdb\ufffd"


def test_an_event_whose_retries_are_used_up_fails(log: PostgresEventLog) -> None:
    (event,) = stored(log)
    (claim,) = log.claim([event.id], 60)
    log.record([make_outcome(claim, None)], "worker")
    detail = log.event(1, event.id)
    assert detail is not None
    assert (detail.row.status, detail.row.last_error) == ("failed", "refused")


def test_a_retry_is_not_claimed_before_its_time(log: PostgresEventLog) -> None:
    (event,) = stored(log)
    (claim,) = log.claim([event.id], 60)
    later = int(time.time() * 1000) + 60_000
    log.record([make_outcome(claim, 500, retry_at_ms=later)], "worker")
    assert log.claim([event.id], 60) == []
    assert log.due([1]) == []


def test_a_late_outcome_of_an_older_attempt_changes_nothing(log: PostgresEventLog) -> None:
    (event,) = stored(log)
    (late,) = log.claim([event.id], 0)
    wait_until(lambda: log.expire_leases() == 1, 5, "the lease has expired")
    (claim,) = log.claim([event.id], 60)
    assert (claim.attempt, claim.failures) == (2, 0)
    assert log.record([make_outcome(late, 200)], "late").moved == 0
    assert status_of(log, event.id) == "delivering"
    assert log.record([make_outcome(claim, 200)], "worker").moved == 1
    assert status_of(log, event.id) == "delivered"
    detail = log.event(1, event.id)
    assert detail is not None
    assert [item.error_kind for item in detail.invocations] == ["lost", None, None]


def test_a_released_claim_counts_no_attempt(log: PostgresEventLog) -> None:
    (event,) = stored(log)
    log.release(log.claim([event.id], 60))
    (claim,) = log.claim([event.id], 60)
    assert claim.attempt == 1


def test_what_was_lost_on_the_way_is_due_after_the_grace_and_listed_once(
    log: PostgresEventLog,
) -> None:
    ids = [event.id for event in stored(log, 250)]
    assert log.due([1]) == []
    run("UPDATE mission_control.delivery SET sweep_at = now()")
    assert log.due([1]) == [DueChunk(1, ids[:200], more=True)]
    assert log.due([1]) == [DueChunk(1, ids[200:], more=False)]
    assert log.due([1]) == []


def test_a_worker_with_room_claims_what_is_due_without_being_told_ids(
    log: PostgresEventLog,
) -> None:
    ids = [event.id for event in stored(log, 30)]
    log.append(ORIGIN, make_events([make_change()], trigger_id=2), log.position(1), "B")
    taken = log.claim([ids[3]], 60)
    claims = log.claim_due(1, 20, 60)
    rest = log.claim_due(1, 20, 60)
    assert [claim.event_id for claim in [*claims, *rest]] == [*ids[:3], *ids[4:]]
    assert len(claims) == 20
    log.record([make_outcome(taken[0], 500, retry_at_ms=int(time.time() * 1000) + 60_000)], "w")
    assert log.claim_due(1, 20, 60) == []


def chain(log: PostgresEventLog, *documents: str) -> list[UUID]:
    """Store an event of ordered trigger 1 for each of these documents; returns their ids."""
    rule = Rule(1, "orders", (), frozenset(("insert",)), ordered=True)
    builder = EventBuilder(ORIGIN, NODE_ID, Matcher([rule]))
    events = builder.events([make_change(document_id=document) for document in documents])
    log.append(ORIGIN, events, log.position(ORIGIN.database_id), uuid4().hex)
    return [event.id for event in events]


def test_an_event_of_an_ordered_trigger_is_claimed_after_those_of_its_document(
    log: PostgresEventLog,
) -> None:
    first, other, second, third = chain(log, "a", "b", "a", "a")
    (later,) = chain(log, "a")
    claims = log.claim([first, other, second, third, later], 60)
    assert {claim.event_id for claim in claims} == {first, other}
    claims.sort(key=lambda claim: claim.event_id != first)
    assert log.claim_due(1, 100, 60) == []
    # A failure that will be tried again keeps the others waiting, the last one does not.
    soon = int(time.time() * 1000)
    assert log.record([make_outcome(claims[0], 500, retry_at_ms=soon)], "w").freed == []
    assert log.claim([second], 60) == []
    (claim,) = log.claim([first], 60)
    assert log.record([make_outcome(claim, 500)], "w") == Recorded(1, [DueChunk(1, [second])])
    (claim,) = log.claim([second, third, later], 60)
    assert claim.event_id == second
    assert log.record([make_outcome(claim, 200)], "w").freed == [DueChunk(1, [third])]
    (claim,) = log.claim_due(1, 100, 60)
    assert claim.event_id == third
    assert log.record([make_outcome(claim, 200)], "w").freed == [DueChunk(1, [later])]


def test_a_redelivery_in_an_ordered_trigger_goes_behind_what_waits(log: PostgresEventLog) -> None:
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
    assert order[0] == third
    assert set(order[1:]) == {first, second}


def test_whoever_stores_while_the_predecessor_finishes_is_not_left_waiting(
    log: PostgresEventLog,
) -> None:
    """The two transactions meet at every point, for hundreds of events of one document."""
    sent: list[UUID] = []
    stop = threading.Event()

    def deliver() -> None:
        while not stop.is_set() or len(sent) < 300:
            for claim in log.claim_due(1, 100, 60):
                sent.append(claim.event_id)
                log.record([make_outcome(claim, 200)], "w")
        log.close()

    worker = threading.Thread(target=deliver)
    worker.start()
    ids = [event_id for _ in range(300) for event_id in chain(log, "a")]
    stop.set()
    worker.join(30)
    assert sent == ids


def test_what_waits_for_an_event_that_retention_deletes_goes_on(log: PostgresEventLog) -> None:
    long_ago = int((time.time() - 10 * 86_400) * 1000)
    rule = Rule(1, "orders", (), frozenset(("insert",)), ordered=True)
    builder = EventBuilder(ORIGIN, NODE_ID, Matcher([rule]))
    old, new = builder.events([make_change(committed_at_ms=long_ago), make_change()])
    log.append(ORIGIN, [old, new], None, "1")
    assert log.claim([new.id], 60) == []
    log.drop_partitions_before(int(time.time()) // 86_400 - 2)
    assert [claim.event_id for claim in log.claim([new.id], 60)] == [new.id]


def test_a_deleted_triggers_events_are_cancelled(log: PostgresEventLog) -> None:
    events = stored(log, 3)
    log.claim([events[0].id], 60)
    assert log.triggers_with_deliveries() == [1]
    assert log.cancel(1) == 3
    assert status_of(log, events[0].id) == "cancelled"


def test_any_finished_event_can_be_redelivered_with_its_attempts_kept(
    log: PostgresEventLog,
) -> None:
    delivered, failed, waiting = stored(log, 3)
    claims = log.claim([delivered.id, failed.id], 60)
    log.record([make_outcome(claims[0], 200), make_outcome(claims[1], 500)], "worker")
    chunks = log.redeliver(1, [delivered.id, failed.id, waiting.id], [1])
    assert [set(chunk.event_ids) for chunk in chunks] == [{delivered.id, failed.id}]
    again = log.claim([delivered.id, failed.id], 60)
    assert {(claim.attempt, claim.failures) for claim in again} == {(2, 0)}
    assert log.redeliver(2, [delivered.id], [1]) == []


def test_an_event_that_cannot_be_sent_is_failed_with_its_reason(log: PostgresEventLog) -> None:
    change = make_change()._replace(problem="the row could not be decoded")
    (event,) = make_events([change])
    log.append(ORIGIN, [event], None, "A")
    detail = log.event(1, event.id)
    assert detail is not None
    assert (detail.row.status, detail.row.problem) == ("failed", "the row could not be decoded")
    assert log.redeliver(1, [event.id], [1]) == []


def test_pages_go_from_newest_to_oldest_without_gap_or_repetition(log: PostgresEventLog) -> None:
    ids = {event.id for event in stored(log, 25)}
    seen: list[UUID] = []
    cursor = None
    while True:
        page = log.browse(1, EventFilter(), cursor, 10)
        seen += [row.id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(ids, reverse=True)
    with pytest.raises(InvalidCursor):
        log.browse(1, EventFilter(), "not a cursor", 10)


@pytest.mark.parametrize(
    "filters",
    [
        EventFilter(trigger="welcome-email", table="orders"),
        EventFilter(document_id="77"),
        EventFilter(document_id="77", operation="delete", database="main"),
        EventFilter(status="failed"),
        EventFilter(after=datetime.now(UTC) + timedelta(minutes=50)),
    ],
)
def test_each_filter_finds_the_one_event_it_describes(
    log: PostgresEventLog, filters: EventFilter
) -> None:
    stored(log, 3)
    soon = int(time.time() * 1000) + 3_600_000
    (event,) = stored(
        log, 1, table="orders", operation="delete", document_id="77", committed_at_ms=soon
    )
    log.record([make_outcome(log.claim([event.id], 60)[0], 500)], "worker")
    assert [row.id for row in log.browse(1, filters, None, 10).rows] == [event.id]
    assert log.browse(2, filters, None, 10).rows == []


def test_every_status_is_counted(log: PostgresEventLog) -> None:
    events = stored(log, 5)
    claims = log.claim([event.id for event in events[:3]], 60)
    log.record([make_outcome(claims[0], 200), make_outcome(claims[1], 500)], "worker")
    assert log.counts(1) == {
        "pending": 2,
        "delivering": 1,
        "delivered": 1,
        "failed": 1,
        "cancelled": 0,
    }
    assert log.pending_of([1, 2]) == {1: 3, 2: 0}


def test_a_page_takes_one_statement_however_many_events_there_are(log: PostgresEventLog) -> None:
    def statements_of_a_page() -> int:
        before = log.statements
        log.browse(1, EventFilter(trigger="welcome-email", status="pending"), None, 50)
        return log.statements - before

    stored(log, 10)
    few = statements_of_a_page()
    for _ in range(100):
        stored(log, 1000)
    assert statements_of_a_page() == few == 1


def test_days_beyond_retention_go_with_their_deliveries_and_counts(log: PostgresEventLog) -> None:
    old = int(time.time() * 1000) - 40 * 86_400_000
    (gone,) = stored(log, 1, committed_at_ms=old)
    (kept,) = stored(log)
    dropped = log.drop_partitions_before(int(time.time()) // 86_400 - 30)
    assert len(dropped) == 2
    assert log.event(1, gone.id) is None
    assert status_of(log, kept.id) == "pending"
    assert log.counts(1)["pending"] == 1
    assert run("SELECT count(*) FROM mission_control.delivery") == [(1,)]


def test_a_project_may_keep_its_events_and_payloads_for_less_long(log: PostgresEventLog) -> None:
    today = int(time.time()) // 86_400
    now = int(time.time() * 1000)
    (gone,) = stored(log, 1, committed_at_ms=now - 9 * 86_400_000)
    (bare, waiting) = stored(log, 2, committed_at_ms=now - 5 * 86_400_000)
    (kept,) = stored(log)
    log.record([make_outcome(log.claim([bare.id], 60)[0], 200)], "worker")
    assert log.expire(2, today - 7, today - 3) == (0, 0)
    assert log.expire(1, today - 7, today - 3) == (1, 1)
    assert log.event(1, gone.id) is None
    payloads = [detail.payload for e in (bare, waiting, kept) if (detail := log.event(1, e.id))]
    assert payloads == [None, waiting.payload, kept.payload]
    assert log.counts(1)["pending"] == 2


def test_a_document_id_longer_than_an_index_entry_is_stored_and_found(
    log: PostgresEventLog,
) -> None:
    long_id = "k" * 100_000
    (event,) = stored(log, 1, document_id=long_id)
    page = log.browse(1, EventFilter(document_id=long_id), None, 10)
    assert [row.id for row in page.rows] == [event.id]
