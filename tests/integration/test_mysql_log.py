"""The log contract on MariaDB and MySQL, and what is special to a log there."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from eventing.changes import Finding
from eventing.logs import kinds, myconnections
from eventing.logs.base import EventFilter, LogUnavailable
from eventing.logs.mychecks import RIGHTS
from eventing.logs.mysql import MySqlEventLog
from eventing.mysqlserver import OWN_TABLES
from tests.databases import MariaDbServer, MySqlServer, connect, execute, new_mariadb
from tests.factories import make_change, make_events, make_outcome
from tests.integration.log_contract import (
    FAST_SERVERS,
    ORIGIN,
    OWNER,
    Log,
    LogContract,
    deliver,
    found,
    ids_of,
    not_ok,
    status_of,
    store,
    stored,
)
from tests.waiting import wait_until


class TestMariaDb(LogContract):
    @pytest.fixture
    def open_log(self, mariadb_database: str) -> Callable[[], Log]:
        return lambda: MySqlEventLog(mariadb_database)


class TestMySql(LogContract):
    @pytest.fixture
    def open_log(self, mysql_database: str) -> Callable[[], Log]:
        return lambda: MySqlEventLog(mysql_database)


@pytest.fixture(params=["mariadb", "mysql"])
def database(request: pytest.FixtureRequest) -> str:
    """A database on each kind of server, by its URL."""
    return str(request.getfixturevalue(f"{request.param}_database"))


@pytest.fixture
def log(database: str) -> Iterator[MySqlEventLog]:
    opened = MySqlEventLog(database)
    opened.make_tables()
    yield opened
    opened.close()


class User:
    """A user of a server who has no rights yet. `url` is the database as this user reaches it."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.name = "logs" + urlsplit(database).path[-8:]
        parts = urlsplit(database)
        place = parts.netloc.rpartition("@")[2]
        self.url = parts._replace(netloc=f"{self.name}:{quote('a p@ss')}@{place}").geturl()
        execute(database, f"CREATE USER '{self.name}'@'%%' IDENTIFIED BY %s", ["a p@ss"])

    def run(self, sql: str) -> None:
        execute(self._database, sql)


@pytest.fixture
def user(database: str) -> Iterator[User]:
    made = User(database)
    yield made
    made.run(f"DROP USER '{made.name}'")


def finding(log: MySqlEventLog, name: str) -> Finding:
    (one,) = [each for each in log.check(OWNER) if each.name == name]
    return one


def test_the_tables_have_a_prefix_and_a_partition_for_each_day(
    log: MySqlEventLog, database: str
) -> None:
    tables = {name for (name,) in execute(database, "SHOW TABLES")}
    assert len(tables) == 11
    assert {name[: len(OWN_TABLES)] for name in tables} == {OWN_TABLES}
    partitions = execute(
        database,
        "SELECT TABLE_NAME, COUNT(*) FROM information_schema.PARTITIONS"
        " WHERE TABLE_SCHEMA = DATABASE() AND PARTITION_NAME IS NOT NULL GROUP BY TABLE_NAME",
    )
    assert dict(partitions) == {f"{OWN_TABLES}event_log": 10, f"{OWN_TABLES}invocation_log": 10}


def test_the_printed_grant_is_all_that_the_log_needs(database: str, user: User) -> None:
    log = MySqlEventLog(user.url)
    assert finding(log, "connection").status == "ok"
    missing = finding(log, "rights")
    assert missing.status == "error"
    user.run(missing.mend)
    assert not_ok(log.check(OWNER)) <= FAST_SERVERS
    log.make_tables()
    (event,) = stored(log)
    deliver(log, [event])
    log.drop_partitions_before(today() + 1)
    log.make_tables(OWNER)
    assert found(log) == []
    log.close()


@pytest.mark.parametrize("right", RIGHTS)
def test_each_missing_right_is_named(user: User, database: str, right: str) -> None:
    others = ", ".join(each for each in RIGHTS if each != right)
    place = f"`{urlsplit(database).path[1:]}`.*"
    user.run(f"GRANT {others} ON {place} TO '{user.name}'")
    log = MySqlEventLog(user.url)
    missing = finding(log, "rights")
    assert missing.status == "error"
    assert f"may not {right} in" in missing.what
    user.run(missing.mend)
    assert finding(log, "rights").status == "ok"


@pytest.mark.parametrize("scope", ["*.*", "`database\\_%%`.*", "`data%%`.*"])
def test_rights_to_more_than_the_database_are_enough(user: User, scope: str) -> None:
    user.run(f"GRANT ALL ON {scope.replace('%%', '%')} TO '{user.name}'")
    assert finding(MySqlEventLog(user.url), "rights").status == "ok"


def test_rights_by_a_role_are_enough(user: User, database: str) -> None:
    role, place = f"{user.name}_role"[-30:], f"`{urlsplit(database).path[1:]}`.*"
    user.run(f"CREATE ROLE '{role}'")
    user.run(f"GRANT {', '.join(RIGHTS)} ON {place} TO '{role}'")
    user.run(f"GRANT '{role}' TO '{user.name}'@'%'")
    log = MySqlEventLog(user.url)
    assert finding(log, "rights").status == "error"
    is_mariadb = "MariaDB" in finding(log, "version").what
    default = (
        "SET DEFAULT ROLE '{0}' FOR '{1}'@'%'"
        if is_mariadb
        else ("SET DEFAULT ROLE '{0}' TO '{1}'@'%'")
    )
    user.run(default.format(role, user.name))
    assert finding(log, "rights").status == "ok"
    user.run(f"DROP ROLE '{role}'")


def test_a_database_that_does_not_exist_is_named(database: str) -> None:
    log = MySqlEventLog(urlsplit(database)._replace(path="/nowhere").geturl())
    missing = finding(log, "database")
    assert (missing.status, missing.mend) == ("error", "CREATE DATABASE `nowhere`;")
    with pytest.raises(LogUnavailable, match="nowhere"):
        log.make_tables()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:s3cret@127.0.0.1:1/shop",
        "mysql://root:s3cret@no-such-host.invalid/shop",
        "mysql://root:s3cret@127.0.0.1",
        "mysql://root:s3cret@[::/shop",
        "",
    ],
)
def test_an_address_that_leads_nowhere_is_said_without_the_password(url: str) -> None:
    log = MySqlEventLog(url)
    (only,) = log.check(OWNER)
    assert (only.name, only.status) == ("connection", "error")
    assert "s3cret" not in f"{only}"
    with pytest.raises(LogUnavailable) as unavailable:
        log.position(1)
    assert "s3cret" not in str(unavailable.value)


def test_a_wrong_password_is_refused_without_showing_it(database: str) -> None:
    parts = urlsplit(database)
    place = parts.netloc.rpartition("@")[2]
    log = MySqlEventLog(parts._replace(netloc=f"root:s3cret@{place}").geturl())
    (only,) = log.check(OWNER)
    assert only.status == "error"
    assert "Access denied" in only.what
    assert "s3cret" not in only.what


def test_a_connection_that_was_cut_is_said_and_the_next_call_opens_another(
    log: MySqlEventLog, database: str
) -> None:
    (event,) = stored(log)
    cut(database)
    with pytest.raises(LogUnavailable):
        log.append(ORIGIN, make_events([make_change()]), log.position(1), "B")
    assert found(log) == [event.id]


def test_a_kind_of_which_no_event_can_be_left_goes_with_its_days(
    log: MySqlEventLog, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "REMEMBERED_SECONDS", 0.0)

    def noted() -> list[str]:
        sql = f"SELECT `trigger` FROM {OWN_TABLES}event_kind ORDER BY 1"
        return [trigger for (trigger,) in execute(database, sql)]

    def age(days: int, trigger: str) -> None:
        noted_at = (today() - days) * 86_400_000
        execute(
            database,
            f"UPDATE {OWN_TABLES}event_kind SET noted_at = {noted_at} WHERE `trigger` = %s",
            [trigger],
        )

    stored(log, 1, 1, "gone")
    stored(log, 1, 2, "lasting")
    for trigger in ("gone", "lasting"):
        age(40, trigger)
    stored(log, 1, 2, "lasting")
    log.expire(2, today() - 7, today() - 7)
    assert noted() == ["gone", "lasting"]
    log.drop_partitions_before(today() - 30)
    assert noted() == ["lasting"]
    stored(log, 1, 1, "gone")
    age(10, "gone")
    log.expire(1, today() - 7, today() - 7)
    assert noted() == ["lasting"]


def test_an_attempt_that_is_recorded_again_is_logged_once(log: MySqlEventLog) -> None:
    events = stored(log, 2)
    claims = log.claim(ids_of(events), 60)
    outcomes = [make_outcome(claims[0], 200), make_outcome(claims[1], 500)]
    # As after a commit whose answer was lost.
    assert log.record(outcomes, "worker").moved == 2
    assert log.record(outcomes, "worker").moved == 0
    for event in events:
        detail = log.event(1, event.id)
        assert detail is not None
        assert [each.attempt for each in detail.invocations] == [1]


def cut(database: str) -> None:
    """End every connection to this database but our own."""
    name = urlsplit(database).path[1:]
    for (number,) in execute(
        database,
        "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s AND ID <> CONNECTION_ID()",
        [name],
    ):
        execute(database, f"KILL {number}")
    wait_until(lambda: not others(database), 5, "the connections are gone")


def others(database: str) -> list[tuple[Any, ...]]:
    return execute(
        database,
        "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s AND ID <> CONNECTION_ID()",
        [urlsplit(database).path[1:]],
    )


def test_a_row_that_another_process_holds_is_left_alone_by_claims(
    log: MySqlEventLog, database: str
) -> None:
    held, free = stored(log, 2)
    with closing(connect(database, autocommit=False)) as other, other.cursor() as cursor:
        cursor.execute(
            f"SELECT * FROM {OWN_TABLES}delivery WHERE event_id = %s FOR UPDATE", [held.id.bytes]
        )
        claims = log.claim([held.id, free.id], 60)
    assert [claim.event_id for claim in claims] == [free.id]


def test_a_deadlock_is_overcome(log: MySqlEventLog, database: str) -> None:
    first, second = stored(log, 2)
    claims = log.claim([first.id, second.id], 60)
    execute(database, "CREATE TABLE heavy (id INT PRIMARY KEY)")
    row = f"SELECT * FROM {OWN_TABLES}delivery WHERE event_id = %s FOR UPDATE"
    waiting = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
    with (
        ThreadPoolExecutor(1) as pool,
        closing(connect(database, autocommit=False)) as other,
        other.cursor() as cursor,
    ):
        # The server gives up the transaction that has changed less.
        cursor.executemany("INSERT INTO heavy VALUES (%s)", [[number] for number in range(500)])
        cursor.execute(row, [second.id.bytes])
        recording = pool.submit(log.record, [make_outcome(claim, 200) for claim in claims], "w")
        wait_until(lambda: execute(database, waiting)[0][1] != "0", 5, "nobody waits")
        cursor.execute(row, [first.id.bytes])
        other.rollback()
        assert recording.result(10).moved == 2
    assert log.counts(1)["delivered"] == 2


def test_a_row_that_somebody_keeps_locked_is_said_and_nothing_is_stored(
    log: MySqlEventLog, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(myconnections, "_LOCK_SECONDS", 1)
    (event,) = stored(log)
    before = log.position(ORIGIN.database_id)
    log.close()
    with closing(connect(database, autocommit=False)) as other, other.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {OWN_TABLES}capture_position FOR UPDATE")
        with pytest.raises(LogUnavailable, match="Lock wait timeout"):
            log.append(ORIGIN, make_events([make_change()]), before, "B")
    assert found(log) == [event.id]
    log.append(ORIGIN, make_events([make_change()]), before, "B")
    assert len(found(log)) == 2


def test_a_table_that_is_busy_keeps_its_old_days_and_nobody_from_storing(
    log: MySqlEventLog, database: str
) -> None:
    (old,) = stored(log)
    with closing(connect(database, autocommit=False)) as other, other.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {OWN_TABLES}event_log")
        log.drop_partitions_before(today() + 1)
        (event,) = stored(log)
        assert found(log) == [event.id, old.id]
    assert log.drop_partitions_before(today() + 1) != []
    assert found(log) == []


def today() -> int:
    return int(time.time()) // 86_400


@pytest.mark.parametrize(
    ("value", "status", "crash"),
    [(0, "warning", "crash of the server takes"), (1, "ok", ""), (2, "warning", "'s machine")],
)
def test_commits_that_a_crash_would_undo_are_warned_of_and_mended(
    log: MySqlEventLog, database: str, value: int, status: str, crash: str
) -> None:
    name = "innodb_flush_log_at_trx_commit"
    ((before,),) = execute(database, f"SELECT @@GLOBAL.{name}")
    try:
        execute(database, f"SET GLOBAL {name} = {value}")
        found = finding(log, name)
        assert (found.status, found.what) == (status, f"{name} is {value}")
        assert crash in found.why
        if found.mend:
            execute(database, found.mend.partition(";")[0].replace("PERSIST", "GLOBAL"))
        assert finding(log, name).status == "ok"
    finally:
        execute(database, f"SET GLOBAL {name} = {before}")


@pytest.fixture(scope="module")
def small_packets() -> Iterator[MariaDbServer]:
    """A MariaDB that takes a megabyte at a time."""
    server = new_mariadb(max_allowed_packet="1M")
    server.start()
    yield server
    server.kill()


def test_an_event_larger_than_a_packet_is_stored_as_failed_and_the_others_go_on(
    small_packets: MariaDbServer,
) -> None:
    log = MySqlEventLog(small_packets.create_database())
    log.make_tables()
    assert finding(log, "max_allowed_packet").status == "warning"
    documents = [{"n": "x" * 2_000_000}, *({"n": "ü" * 100_000} for _ in range(30)), {"n": 1}]
    events = store(log, make_events([make_change(document=each) for each in documents]))
    statuses = {event.id: status_of(log, event.id) for event in events}
    (failed,) = [event_id for event_id, status in statuses.items() if status == "failed"]
    detail = log.event(1, failed)
    assert detail is not None
    assert detail.payload is None
    assert "max_allowed_packet of 1048576 bytes" in str(detail.row.problem)
    others = [event for event in events if event.id != failed]
    claims = log.claim(ids_of(others), 60)
    assert [claim.payload for claim in claims] == [event.payload for event in others]
    log.close()


def test_a_read_only_server_is_found(mysql_server: MySqlServer, mysql_database: str) -> None:
    log = MySqlEventLog(mysql_database)
    mysql_server.execute("SET GLOBAL read_only = ON")
    try:
        assert finding(log, "primary").status == "error"
    finally:
        mysql_server.execute("SET GLOBAL read_only = OFF")
    assert finding(log, "primary").status == "ok"


def test_a_mariadb_too_old_to_hold_the_log_is_found() -> None:
    # A MariaDB says of itself what its variable `version` is set to.
    server = new_mariadb(version="10.5.29-MariaDB")
    server.start()
    try:
        wrong = finding(MySqlEventLog(server.create_database()), "version")
        assert wrong.status == "error"
        assert wrong.what == "MariaDB 10.5.29-MariaDB"
        assert wrong.mend == "upgrade the server to MariaDB 10.6.0 or newer"
    finally:
        server.kill()


def test_a_binary_log_of_statements_is_found(mariadb_server: MariaDbServer) -> None:
    log = MySqlEventLog(mariadb_server.create_database())
    mariadb_server.execute("SET GLOBAL binlog_format = STATEMENT")
    try:
        wrong = finding(log, "binlog_format")
        assert wrong.status == "error"
        mariadb_server.execute(wrong.mend.partition(";")[0])
        assert [each for each in log.check(OWNER) if each.name == "binlog_format"] == []
    finally:
        mariadb_server.execute("SET GLOBAL binlog_format = ROW")


@pytest.mark.parametrize(
    "filters",
    [
        EventFilter(),
        EventFilter(table="users"),
        EventFilter(trigger="welcome-email"),
        EventFilter(trigger="welcome-email", status="delivered"),
        EventFilter(document_id="1"),
        EventFilter(status="pending"),
        EventFilter(status="delivered"),
    ],
)
def test_a_page_reads_a_few_rows_off_the_end_of_an_index(
    log: MySqlEventLog, database: str, filters: EventFilter
) -> None:
    for _ in range(4):
        events = stored(log, 1000)
        deliver(log, events[::2])
    for table in ("event_log", "delivery", "invocation_log"):
        execute(database, f"ANALYZE TABLE {OWN_TABLES}{table}")
    before = rows_read(log)
    assert len(log.browse(1, filters, None, 50).rows) == 50
    # Of 4 000: some for each row of the page, and one for each partition.
    assert rows_read(log) - before < 1000


def rows_read(log: MySqlEventLog) -> int:
    """How many rows or index entries the log's connection has read so far."""
    with log._connections.transaction() as at:
        found = at.rows("SHOW SESSION STATUS LIKE 'Handler_read%'")
    return sum(int(value) for _, value in found)


def test_a_log_made_by_an_older_version_is_upgraded_with_what_it_holds(
    log: MySqlEventLog, database: str
) -> None:
    events = stored(log, 3) + stored(log, 2, trigger_id=2, trigger="other")
    older = (
        f"ALTER TABLE {OWN_TABLES}event_log DROP KEY event_log_kind, DROP COLUMN kind_hash,"
        " DROP COLUMN position, ADD KEY event_log_trigger (trigger_id, id)",
        f"ALTER TABLE {OWN_TABLES}event_stats DROP COLUMN latency_0, DROP COLUMN latency_9",
        f"DROP TABLE {OWN_TABLES}event_kind",
    )
    for statement in older:
        execute(database, statement)
    upgraded = MySqlEventLog(database)
    upgraded.make_tables()
    upgraded.make_tables()
    events += stored(upgraded, 1)
    assert upgraded.is_behind()
    upgraded.catch_up()
    assert not upgraded.is_behind()
    assert found(upgraded) == ids_of(events)[::-1]
    earlier = upgraded.event(1, events[0].id)
    assert earlier is not None
    assert (earlier.payload, earlier.position) == (events[0].payload, None)
    assert found(upgraded, EventFilter(trigger="other")) == ids_of(events[3:5])[::-1]
    deliver(upgraded, stored(upgraded, 1))
    assert upgraded.counts(1)["delivered"] == 1
    upgraded.close()
