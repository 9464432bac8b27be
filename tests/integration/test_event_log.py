"""The log contract on Postgres, and what is special to a log there."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from urllib.parse import urlsplit

import psycopg2
import pytest

from demo.servers import execute
from eventing.logs import kinds
from eventing.logs.base import EventFilter, LogUnavailable
from eventing.logs.days import partition_suffix
from eventing.logs.postgres import PostgresEventLog
from tests.factories import make_outcome
from tests.integration.log_contract import (
    DAY_MS,
    ORIGIN,
    Log,
    LogContract,
    deliver,
    found,
    ids_of,
    status_of,
    stored,
)
from tests.proxy import Proxy
from tests.servers import (
    ExternalPostgres,
    PostgresServer,
    backup_of,
    name_in,
    new_database,
    new_postgres,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def tables(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The name of a database with the tables of a log, of which others are copies."""
    with new_database(postgres_server) as url:
        with closing(PostgresEventLog(url)) as log:
            log.make_tables()
        yield name_in(url)


class TestPostgres(LogContract):
    @pytest.fixture
    def source_database(
        self, postgres_server: PostgresServer | ExternalPostgres, tables: str
    ) -> Iterator[str]:
        with new_database(postgres_server, tables) as url:
            yield url

    @pytest.fixture
    def open_log(self, source_database: str) -> Callable[[], Log]:
        return lambda: PostgresEventLog(source_database)

    def test_a_page_takes_a_few_statements_however_many_events_there_are(self, log: Log) -> None:
        stored(log, 5000)
        before = log.statements
        log.browse(1, EventFilter(trigger="welcome-email", status="pending"), None, 50)
        assert log.statements - before == 3

    def test_a_connection_that_its_server_has_closed_is_not_asked(
        self, log: Log, source_database: str
    ) -> None:
        (event,) = stored(log)
        ours = (
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert execute(source_database, f"SELECT pg_terminate_backend(pid) {ours}") == [(True,)]
        wait_until(
            lambda: not execute(source_database, f"SELECT 1 {ours}"), 10, "it is still there"
        )
        assert found(log) == [event.id]

    def test_a_day_is_a_table_of_events_and_one_of_invocations(
        self, log: Log, source_database: str
    ) -> None:
        today = int(time.time() * 1000) // DAY_MS
        stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        assert len(log.drop_partitions_before(today - 30)) == 2
        left = "SELECT count(*) FROM mission_control.delivery"
        assert execute(source_database, left)[0][0] == 0

    def test_claims_of_a_backlog_do_not_read_what_is_gone_although_a_backup_keeps_it(
        self, log: Log, source_database: str
    ) -> None:
        stored(log, 3000)
        with backup_of(source_database):
            while claims := log.claim_due(1, 30, 60):
                log.record([make_outcome(claim, 200) for claim in claims], "w")
        log.close()
        # From the beginning each time it would be 150 000.
        assert entries_read(source_database, "delivery_due", at_least=3000) < 75_000

    def test_a_batch_is_looked_up_although_the_planner_holds_a_backlog_for_nothing(
        self, log: Log, source_database: str
    ) -> None:
        execute(
            source_database, "ALTER TABLE mission_control.delivery SET (autovacuum_enabled = off)"
        )
        backlog = 5000
        stored(log, backlog)
        # What autovacuum finds just after a burst was delivered: pages without rows.
        execute(source_database, "DELETE FROM mission_control.delivery")
        execute(source_database, "VACUUM (ANALYZE, TRUNCATE FALSE) mission_control.delivery")
        events = stored(log, backlog)
        execute(source_database, "UPDATE mission_control.delivery SET sweep_at = now()")
        before = entries_read(source_database, "delivery_pkey")
        (chunk,) = log.due([1])
        claimed = [claim.event_id for claim in log.claim_due(1, 100, 0)]
        assert log.expire_leases() == len(claimed) == 100
        cancelled = ids_of(events[-100:])
        assert log.cancel_events(1, cancelled).moved == 100
        log.redeliver(1, cancelled, [1], [1])
        assert len(log.claim(cancelled, 60)) == 1  # the others wait for their turn
        log.close()
        looked_up = len(chunk.event_ids) + 100 * 7
        read = entries_read(source_database, "delivery_pkey", before + looked_up) - before
        assert read < backlog

    def test_what_another_worker_let_go_of_is_claimed_although_later_ones_are_claimed_already(
        self, log: Log, source_database: str
    ) -> None:
        ids = ids_of(stored(log, 30))
        with closing(psycopg2.connect(source_database)) as other, other.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM mission_control.delivery WHERE event_id = ANY (%s::uuid[])"
                " FOR UPDATE",
                [[str(event_id) for event_id in ids[:3]]],
            )
            claimed = [claim.event_id for claim in log.claim_due(1, 10, 60)]
        assert claimed == ids[3:13]
        while some := log.claim_due(1, 10, 60):
            claimed += [claim.event_id for claim in some]
        assert sorted(claimed) == ids

    def test_a_backup_keeps_no_event_waiting_when_old_days_are_to_go(
        self, log: Log, source_database: str
    ) -> None:
        today = int(time.time() * 1000) // DAY_MS
        stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        with backup_of(source_database):
            assert log.drop_partitions_before(today - 30) == []
            stored(log, 1)
        assert len(log.drop_partitions_before(today - 30)) == 2

    def test_days_that_went_before_one_that_is_read_take_their_deliveries_along(
        self, log: Log, source_database: str
    ) -> None:
        today = int(time.time() * 1000) // DAY_MS
        stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        (read,) = stored(log, 1, committed_at_ms=(today - 39) * DAY_MS)
        name = f"mission_control.event_log_{partition_suffix(today - 39)}"
        with in_a_transaction(source_database, f"SELECT * FROM {name}"):
            assert len(log.drop_partitions_before(today - 30)) == 1
            assert log.pending_of([1]) == {1: 1}
            assert status_of(log, read.id) == "pending"
        assert len(log.drop_partitions_before(today - 30)) == 3
        assert log.pending_of([1]) == {1: 0}

    def test_an_event_whose_day_is_gone_keeps_no_other_lease_from_running_out(
        self, log: Log, source_database: str
    ) -> None:
        today = int(time.time() * 1000) // DAY_MS
        (gone,) = stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        (event,) = stored(log)
        assert len(log.claim(ids_of([gone, event]), 0)) == 2
        # Whoever drops it dies before it has done the rest.
        suffix = partition_suffix(today - 40)
        for parent in ("event_log", "invocation_log"):
            execute(source_database, f"DROP TABLE mission_control.{parent}_{suffix}")
        wait_until(lambda: log.expire_leases() > 0, 5, "no lease runs out")
        assert status_of(log, event.id) == "pending"
        assert log.drop_partitions_before(today - 30) == []
        assert log.pending_of([1]) == {1: 1}

    def test_a_backup_keeps_no_event_waiting_when_the_tables_are_to_be_changed(
        self, log: Log, source_database: str
    ) -> None:
        with backup_of(source_database):
            # Nothing is to be done, and nothing is done.
            log.make_tables()
            execute(source_database, "COMMENT ON TABLE mission_control.event_log IS 'older'")
            with pytest.raises(LogUnavailable, match="lock timeout"):
                log.make_tables()
            stored(log, 1)
        log.make_tables()

    def test_what_an_upgrade_takes_long_for_is_done_while_others_store_and_deliver(
        self, log: Log, source_database: str
    ) -> None:
        stored(log, 10)
        made_by_an_older_version(source_database)
        with ThreadPoolExecutor(2) as pool, somebody_stores_for_long(source_database):
            # Who is about to store makes the tables what they are to be, and does not wait.
            log.make_tables()
            assert log.is_behind()
            catching_up = pool.submit(catch_up_and_close, log)
            wait_until(lambda: is_building(source_database), 30, "no index is built")
            pool.submit(store_and_deliver_and_close, log, 10).result(timeout=60)
            log.make_tables()
            assert not catching_up.done()
        catching_up.result()
        assert not log.is_behind()
        assert log.counts(1)["delivered"] == 10
        assert len(found(log, EventFilter(trigger="welcome-email"))) == 20
        # A day that is made now has all indexes, too.
        stored(log, 1, committed_at_ms=int(time.time() * 1000) - 20 * DAY_MS)
        assert execute(source_database, _DAYS_LACKING) == []

    def test_an_index_whose_building_broke_off_is_built_anew(
        self, log: Log, source_database: str
    ) -> None:
        stored(log, 1)
        made_by_an_older_version(source_database)
        with ThreadPoolExecutor(1) as pool, somebody_stores_for_long(source_database):
            catching_up = pool.submit(catch_up_and_close, log)
            wait_until(lambda: is_building(source_database), 30, "no index is built")
            assert log.is_behind()
            log.catch_up()  # Another process is at it.
            execute(source_database, f"SELECT pg_terminate_backend(pid) {_BUILDING}")
            with pytest.raises(LogUnavailable):
                catching_up.result(timeout=60)
        assert log.is_behind()
        log.catch_up()
        assert not log.is_behind()
        assert execute(source_database, _DAYS_LACKING) == []

    def test_a_standby_that_has_yet_to_become_the_primary_is_unavailable_for_now(
        self, open_log: Callable[[], Log], log: Log, source_database: str
    ) -> None:
        server, _, name = source_database.rpartition("/")
        read_only = f'ALTER DATABASE "{name}" SET default_transaction_read_only ='
        execute(f"{server}/postgres", f"{read_only} on")
        demoted = open_log()
        with pytest.raises(LogUnavailable, match="read-only"):
            stored(demoted, 1)
        demoted.close()
        execute(f"{server}/postgres", f"{read_only} off")
        stored(log, 1)

    def test_a_kind_of_which_no_event_can_be_left_goes_with_its_days(
        self, log: Log, source_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kinds, "REMEMBERED_SECONDS", 0.0)
        today = int(time.time() * 1000) // DAY_MS

        def noted() -> list[str]:
            sql = "SELECT trigger FROM mission_control.event_kind ORDER BY 1"
            return [trigger for (trigger,) in execute(source_database, sql)]

        stored(log, 1, 1, "gone", committed_at_ms=(today - 40) * DAY_MS)
        stored(log, 1, 2, "lasting")
        execute(
            source_database,
            "UPDATE mission_control.event_kind SET noted_at = now() - interval '40 days'",
        )
        stored(log, 1, 2, "lasting")
        log.expire(2, today - 7, today - 7)
        assert noted() == ["gone", "lasting"]
        log.drop_partitions_before(today - 30)
        assert noted() == ["lasting"]
        stored(log, 1, 1, "gone")
        execute(
            source_database,
            "UPDATE mission_control.event_kind SET noted_at = now() - interval '10 days'"
            " WHERE trigger = 'gone'",
        )
        log.expire(1, today - 7, today - 7)
        assert noted() == ["lasting"]

    def test_events_of_an_older_version_expire_once_their_kinds_are_known(
        self, log: Log, source_database: str
    ) -> None:
        today = int(time.time() * 1000) // DAY_MS
        (old,) = stored(log, 1, committed_at_ms=(today - 9) * DAY_MS)
        made_by_an_older_version(source_database)
        assert log.expire(1, today - 7, today - 7) == (0, 0)
        log.catch_up()
        assert log.expire(1, today - 7, today - 7) == (1, 0)
        assert log.event(1, old.id) is None

    def test_what_is_redelivered_while_its_payload_is_being_forgotten_is_refused(
        self, log: Log, source_database: str
    ) -> None:
        (event,) = stored(log)
        deliver(log, [event])
        forget = "UPDATE mission_control.event_log SET payload = NULL"
        with ThreadPoolExecutor(1) as pool, in_a_transaction(source_database, forget):
            redelivering = pool.submit(log.redeliver, 1, [event.id], [1])
            wait_until(lambda: redelivering.done() or waits_for_a_lock(source_database), 30)
        assert redelivering.result() == []
        assert status_of(log, event.id) == "delivered"

    def test_what_is_being_redelivered_keeps_its_payload(
        self, log: Log, source_database: str
    ) -> None:
        now = int(time.time() * 1000)
        (event,) = stored(log, 1, committed_at_ms=now - 5 * DAY_MS)
        deliver(log, [event])
        redeliver = (
            "WITH chosen AS (SELECT * FROM mission_control.event_log FOR SHARE)"
            " INSERT INTO mission_control.delivery (event_id, trigger_id, project_id, sweep_at)"
            " SELECT id, trigger_id, project_id, now() FROM chosen"
        )
        with ThreadPoolExecutor(1) as pool, in_a_transaction(source_database, redeliver):
            forgetting = pool.submit(log.expire, 1, 0, now // DAY_MS - 3)
            wait_until(lambda: forgetting.done() or waits_for_a_lock(source_database), 30)
        assert forgetting.result() == (0, 0)
        (claim,) = log.claim([event.id], 60)
        assert claim.payload == event.payload

    def test_an_attempt_is_logged_once_though_the_answer_to_the_commit_was_lost(
        self, log: Log, source_database: str
    ) -> None:
        events = stored(log, 3)
        parts = urlsplit(source_database)
        assert parts.port is not None
        with Proxy("127.0.0.1", parts.port) as proxy:
            place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
            far = PostgresEventLog(parts._replace(netloc=place).geturl())
            outcomes = [
                make_outcome(claim, status_code, retry_in_ms=0 if status_code == 503 else None)
                for claim, status_code in zip(
                    far.claim(ids_of(events), 60), (200, 500, 503), strict=True
                )
            ]
            proxy.lose_answer_to(b"COMMIT\0")
            with pytest.raises(LogUnavailable):
                far.record(outcomes[:2], "worker")
            assert log.counts(1)["delivered"] == 1
            assert far.record(outcomes, "worker").moved == 1
            far.close()
        for event in events:
            detail = log.event(1, event.id)
            assert detail is not None
            assert [each.attempt for each in detail.invocations] == [1]


def made_by_an_older_version(url: str) -> None:
    """Have the log lack what this version has, and have what this version does not."""
    for statement in (
        "DROP INDEX mission_control.event_log_kind, mission_control.delivery_due",
        "CREATE INDEX event_log_trigger ON mission_control.event_log (trigger_id, id)",
        "DELETE FROM mission_control.event_kind",
        "CREATE TABLE mission_control.trigger_name (trigger_id bigint)",
        "COMMENT ON TABLE mission_control.event_log IS 'older'",
    ):
        execute(url, statement)


def somebody_stores_for_long(url: str) -> AbstractContextManager[None]:
    """Until the end of the block, in today's partition."""
    day = partition_suffix(int(time.time() * 1000) // DAY_MS)
    return in_a_transaction(
        url, f"LOCK TABLE mission_control.event_log_{day} IN ROW EXCLUSIVE MODE"
    )


def is_building(url: str) -> bool:
    """Whether an index is being built, and waits for somebody."""
    return bool(execute(url, f"SELECT 1 {_BUILDING} AND phase LIKE 'waiting%'"))


def catch_up_and_close(log: Log) -> None:
    try:
        log.catch_up()
    finally:
        log.close()


def store_and_deliver_and_close(log: Log, count: int) -> None:
    try:
        deliver(log, stored(log, count))
    finally:
        log.close()


_BUILDING = "FROM pg_stat_progress_create_index WHERE datname = current_database()"
# Partitions of the event log without an index of the kind.
_DAYS_LACKING = """
SELECT p.inhrelid::regclass::text FROM pg_inherits p
WHERE p.inhparent = 'mission_control.event_log'::regclass AND NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_inherits a ON a.inhrelid = i.indexrelid
    WHERE i.indrelid = p.inhrelid AND i.indisvalid
      AND a.inhparent = 'mission_control.event_log_kind'::regclass)
"""


def entries_read(url: str, index: str, at_least: int = 0) -> int:
    """How many entries of an index were read; of so many at least it is sure."""
    read = (
        "SELECT idx_tup_read FROM pg_stat_all_indexes WHERE schemaname = 'mission_control'"
        f" AND indexrelname = '{index}'"
    )
    (found,) = wait_until(
        lambda: [n for (n,) in execute(url, read) if n >= at_least],
        10,
        "the server has not counted",
    )
    return int(found)


@contextmanager
def in_a_transaction(url: str, sql: str) -> Iterator[None]:
    """Somebody else's transaction has run this statement, and is committed at the end."""
    with closing(psycopg2.connect(url)) as other:
        other.cursor().execute(sql)
        yield
        other.commit()


def waits_for_a_lock(url: str) -> bool:
    return bool(execute(url, "SELECT 1 FROM pg_locks WHERE NOT granted"))


def test_what_a_source_is_told_of_outlasts_a_crash_whatever_the_server_s_default() -> None:
    server = new_postgres(synchronous_commit="off", wal_writer_delay="10s")
    server.start()
    log = PostgresEventLog(server.create_database())
    log.make_tables()
    events = stored(log, 3)
    position = log.position(ORIGIN.database_id)
    server.kill()
    log.close()
    server.start()
    assert log.position(ORIGIN.database_id) == position
    assert sorted(found(log)) == sorted(ids_of(events))
    log.close()
    server.stop()
