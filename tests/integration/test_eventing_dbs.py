"""The Eventing DB of one's choice: moving to another and back loses and doubles nothing."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from demo.servers import execute
from eventing.endpoints import Endpoints
from eventing.eventing_dbs import owner_of
from eventing.logs.postgres import PostgresEventLog
from eventing.models import EventingDb
from eventing.sweep import sweep
from tests.databases import execute as run_on_mysql
from tests.factories import make_change, make_events, make_origin, make_project, make_trigger
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.servers import ExternalPostgres, PostgresServer, name_in, new_database
from tests.stack import Stack
from tests.waiting import wait_until
from tests.writing import BackgroundWriter


@pytest.fixture
def logs_database(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def product(
    stack: Stack, source_database: str, logs_database: str, request: pytest.FixtureRequest
) -> Iterator[Product]:
    name = request.node.name.replace("_", "-").split("[")[0][:60].strip("-")
    others = [{"alias": "logs", "type": "postgres", "url": logs_database}]
    found = Product(stack, name, source_database, more_databases=others)
    execute(source_database, "CREATE TABLE users (id bigint PRIMARY KEY, email text)")
    yield found
    found.disable()
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "the slot stays"
    )


def trigger(receiver: Receiver, **fields: Any) -> dict[str, Any]:
    return {"name": "all", "url": receiver.url("/all"), "databases": ["main"]} | fields


class Writer(BackgroundWriter):
    """Commits one row after another until it is told to stop; counts them."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.rows = 0

    def write(self) -> None:
        connection = psycopg2.connect(self._url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not self.stopping.is_set():
                cursor.execute("INSERT INTO users VALUES (%s, 'a@example.com')", [self.rows])
                self.rows += 1
        connection.close()


def stored_in(url: str, project: str) -> int:
    """How many events of a project the log in this database has."""
    sql = "SELECT count(*) FROM mission_control.event_log WHERE project = %s"
    return int(execute(url, sql, [project])[0][0])


@pytest.mark.django_db(transaction=True)
def test_who_may_write_to_a_log_has_no_say_over_the_triggers_of_other_projects(
    logs_database: str,
) -> None:
    """A project's administrators own its log: they can put events there that are not theirs."""
    theirs, other = make_project("theirs"), make_project("other")
    trigger = make_trigger(other, "https://example.com/hook")
    stored = EventingDb.objects.create(
        project=theirs, alias="logs", type="postgres", url=logs_database
    )
    log = PostgresEventLog(logs_database)
    log.make_tables()
    forged = make_events([make_change()], make_origin(other), trigger.pk)
    log.append(make_origin(other), forged, None, "1")
    execute(logs_database, "UPDATE mission_control.delivery SET sweep_at = now()")
    assert sweep(stored.pk) == 0
    endpoint = Endpoints(owner_of(stored.pk)).of_trigger(trigger.pk)
    assert endpoint is not None
    assert endpoint.state == "disabled"
    # Nor are they cancelled: two projects may keep their logs in one database.
    assert log.counts(other.pk)["pending"] == 1
    log.close()
    EventingDb.objects.filter(pk=stored.pk).update(project=other)
    assert sweep(stored.pk) == 1
    endpoint = Endpoints(owner_of(stored.pk)).of_trigger(trigger.pk)
    assert endpoint is not None
    assert endpoint.state == "active"


def test_moving_between_eventing_dbs_under_load_keeps_every_change_exactly_once(
    product: Product, receiver: Receiver, logs_database: str
) -> None:
    product.apply(trigger(receiver))
    with Writer(product.source_url) as writer:
        for eventing_db in ("logs", "builtin", "logs"):
            rows = writer.rows
            wait_until(lambda rows=rows: writer.rows > rows + 100, 30, "nobody writes")  # type: ignore[misc]
            product.apply(trigger(receiver), eventing_db=eventing_db)
        rows = writer.rows
        wait_until(lambda: writer.rows > rows + 100, 30, "nobody writes")
    product.wait_for(delivered=writer.rows, timeout_seconds=60)
    times = Counter(event["doc_id"] for event in product.events())
    assert times == {str(number): 1 for number in range(writer.rows)}
    here = stored_in(product.stack.database_url, product.name)
    there = stored_in(logs_database, product.name)
    assert here > 0
    assert there > 0
    assert here + there == writer.rows


def test_what_waits_in_the_log_before_is_delivered_from_there_and_stays_readable(
    product: Product, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(statuses=(503,)))
    backoff = {"initial_ms": 500, "factor": 1, "max_ms": 500}
    product.apply(trigger(receiver, retries=100, backoff=backoff))
    product.run_sql("INSERT INTO users VALUES (1, 'a@example.com')")
    receiver.wait_for(1, "/all")
    product.apply(trigger(receiver, retries=100, backoff=backoff), eventing_db="logs")
    product.run_sql("INSERT INTO users VALUES (2, 'b@example.com')")
    wait_until(lambda: len(product.events()) == 2, 30, "the second row is not stored")
    receiver.behave("/all", Behaviour(statuses=(200,)))
    product.wait_for(delivered=2)
    assert [event["doc_id"] for event in product.events()] == ["2", "1"]
    earlier = product.events()[1]
    detail = product.event(earlier["id"])
    assert detail["payload"]["data"]["docId"] == "1"
    assert {each["status_code"] for each in detail["invocations"]} == {503, 200}
    product.post(f"events/{earlier['id']}/redeliver/")
    product.wait_for(delivered=2)
    wait_until(
        lambda: len(product.event(earlier["id"])["invocations"]) > len(detail["invocations"]),
        30,
        "the redelivery is not logged",
    )


def test_a_chosen_log_of_an_older_version_is_upgraded_before_anything_is_stored_there(
    product: Product, receiver: Receiver, logs_database: str
) -> None:
    product.apply(trigger(receiver, ordered=True), eventing_db="logs")
    product.run_sql("INSERT INTO users VALUES (1, 'a@example.com')")
    product.wait_for(delivered=1)
    with_older_tables(product, logs_database, execute, _OLDER_POSTGRES)
    product.run_sql("INSERT INTO users VALUES (2, 'b@example.com')")
    product.wait_for(delivered=2)
    assert stored_in(logs_database, product.name) == 2


# What versions before this one did not have.
_OLDER_POSTGRES = (
    "ALTER TABLE mission_control.delivery DROP COLUMN order_key, DROP COLUMN order_seq",
    "ALTER TABLE mission_control.event_log DROP COLUMN position",
    "DROP SEQUENCE mission_control.delivery_order_block",
    "DROP TABLE mission_control.event_kind, mission_control.kept",
    "COMMENT ON TABLE mission_control.event_log IS NULL",
)
_OLDER_MYSQL = (
    "ALTER TABLE mission_control_event_log DROP KEY event_log_kind, DROP COLUMN kind_hash,"
    " DROP COLUMN position, ADD KEY event_log_trigger (trigger_id, id)",
    "ALTER TABLE mission_control_event_stats DROP COLUMN latency_0, DROP COLUMN latency_9",
    "DROP TABLE mission_control_event_kind",
)


def with_older_tables(
    product: Product, url: str, run: Callable[[str, str], object], statements: Sequence[str]
) -> None:
    """Have the product stopped, its log in `url` made as an older version had it, and started."""
    names = ("capture", "worker", "beat")
    for name in names:
        assert product.stack.stop(name) == []
    for statement in statements:
        run(url, statement)
    for name in names:
        product.stack.start(name)
    wait_until(lambda: product.capture()["state"] == "streaming", 30, "capture does not stream")


def test_capture_that_fails_in_an_unforeseen_way_says_so_without_what_is_in_the_row(
    product: Product, receiver: Receiver, logs_database: str
) -> None:
    product.apply(trigger(receiver), eventing_db="logs")
    # Postgres tells of a constraint by quoting all of the row.
    execute(
        logs_database,
        "ALTER TABLE mission_control.event_log ADD CONSTRAINT never CHECK (doc_id <> '13')",
    )
    product.run_sql("INSERT INTO users VALUES (13, 'planted@example.com')")
    wait_until(lambda: product.capture()["state"] == "retrying", 30, "nothing is said")
    error = product.capture()["error"]
    assert "CheckViolation" in error
    assert "planted" not in error + product.stack.everything_written()
    execute(logs_database, "ALTER TABLE mission_control.event_log DROP CONSTRAINT never")
    product.wait_for(delivered=1)


def test_the_watched_database_may_hold_the_log_without_a_loop(
    product: Product, receiver: Receiver
) -> None:
    # On all tables of all databases: the log's own tables must not be among them.
    everything = trigger(receiver, databases=[], tables=[])
    product.apply(everything, eventing_db="main")
    product.run_sql("INSERT INTO users VALUES (1, 'a@example.com')")
    product.wait_for(delivered=1)
    product.run_sql("INSERT INTO users VALUES (2, 'b@example.com')")
    product.wait_for(delivered=2)
    assert stored_in(product.source_url, product.name) == 2
    assert {event["table"] for event in product.events()} == {"users"}


def test_a_database_that_cannot_hold_the_log_is_refused_and_nothing_changes(
    product: Product, receiver: Receiver, logs_database: str
) -> None:
    product.apply(trigger(receiver))
    name = name_in(logs_database)
    execute(logs_database, "CREATE ROLE reader LOGIN PASSWORD 'weak'")
    try:
        parts = urlsplit(logs_database)
        place = parts.netloc.rpartition("@")[2]
        weak = parts._replace(netloc=f"reader:weak@{place}").geturl()
        product.more_databases = [{"alias": "logs", "type": "postgres", "url": weak}]
        with pytest.raises(AssertionError, match=f'GRANT CREATE ON DATABASE "{name}" TO "reader"'):
            product.apply(trigger(receiver), eventing_db="logs")
        assert product.get("settings/")["eventing"]["db"] == "builtin"
        with pytest.raises(AssertionError, match=r"eventing\.db: got 'nowhere'"):
            product.apply(trigger(receiver), eventing_db="nowhere")
    finally:
        product.more_databases = [{"alias": "logs", "type": "postgres", "url": logs_database}]
        execute(logs_database, "DROP ROLE reader")


def test_the_database_that_holds_the_log_cannot_be_removed(
    product: Product, receiver: Receiver
) -> None:
    product.apply(trigger(receiver), eventing_db="logs")
    with pytest.raises(AssertionError, match="choose another one in Settings"):
        product.delete("databases/logs/")
    product.apply(trigger(receiver), eventing_db="builtin")
    product.delete("databases/logs/")


def test_a_database_with_the_log_of_another_installation_or_a_control_plane_is_refused(
    product: Product, stack: Stack, receiver: Receiver, logs_database: str
) -> None:
    product.apply(trigger(receiver), eventing_db="logs")
    product.apply(trigger(receiver))
    # Once chosen, it may be chosen again by the same installation.
    product.apply(trigger(receiver), eventing_db="logs")
    product.apply(trigger(receiver))
    mark = "event log of the installation 00000000-0000-0000-0000-000000000000"
    execute(logs_database, f"COMMENT ON SCHEMA mission_control IS '{mark}'")
    with pytest.raises(AssertionError, match="another installation keeps its log here"):
        product.apply(trigger(receiver), eventing_db="logs")
    execute(logs_database, "COMMENT ON SCHEMA mission_control IS NULL")
    execute(logs_database, "CREATE TABLE eventing_installation (id int PRIMARY KEY)")
    with pytest.raises(AssertionError, match="choose `builtin`"):
        product.apply(trigger(receiver), eventing_db="logs")
    assert "builtin" in stack.manage("export", product.name).stdout
    execute(logs_database, "DROP TABLE eventing_installation")


@pytest.fixture
def mariadb_product(
    stack: Stack,
    mariadb_database: str,
    second_mariadb_database: str,
    request: pytest.FixtureRequest,
) -> Iterator[Product]:
    """A project that watches one database of a MariaDB server; another one is `logs`."""
    name = request.node.name.replace("_", "-").split("[")[0][:60].strip("-")
    others = [{"alias": "logs", "type": "mysql", "url": second_mariadb_database}]
    found = Product(stack, name, mariadb_database, "mysql", more_databases=others)
    run_on_mysql(mariadb_database, "CREATE TABLE users (id BIGINT PRIMARY KEY, email TEXT)")
    yield found
    found.disable()


def stored_in_mysql(url: str, project: str) -> int:
    """How many events of a project the log in this database has."""
    sql = "SELECT COUNT(*) FROM mission_control_event_log WHERE project = %s"
    return int(run_on_mysql(url, sql, [project])[0][0])


def test_a_mariadb_holds_the_log_of_what_it_and_others_are_watched_for(
    mariadb_product: Product, receiver: Receiver, second_mariadb_database: str
) -> None:
    product = mariadb_product
    ordered = trigger(receiver, ordered=True, backoff={"initial_ms": 100, "factor": 1})
    receiver.behave("/all", Behaviour(statuses=(503, 200)))
    product.apply(ordered)
    insert = "INSERT INTO users VALUES (%s, 'a@example.com')"
    run_on_mysql(product.source_url, insert, [1])
    product.wait_for(delivered=1)
    product.apply(ordered, eventing_db="logs")
    for number in range(2, 42):
        run_on_mysql(product.source_url, insert, [number])
    product.wait_for(delivered=41, timeout_seconds=60)
    times = Counter(event["doc_id"] for event in product.events())
    assert times == {str(number): 1 for number in range(1, 42)}
    there = stored_in_mysql(second_mariadb_database, product.name)
    assert there + stored_in(product.stack.database_url, product.name) == 41
    assert there > 0
    # The binary log tells seconds only: within one, the newest may be any.
    (newest,) = product.events(doc_id="41")
    detail = product.event(newest["id"])
    assert detail["payload"]["data"]["doc"] == {"id": 41, "email": "a@example.com"}
    attempts = len(detail["invocations"])
    product.post(f"events/{newest['id']}/redeliver/")
    product.wait_for(delivered=41)
    wait_until(
        lambda: len(product.event(newest["id"])["invocations"]) > attempts,
        30,
        "the redelivery is not logged",
    )
    # Back into the control database, with the position.
    product.apply(ordered)
    before = stored_in(product.stack.database_url, product.name)
    number = 41
    while stored_in(product.stack.database_url, product.name) == before:
        number += 1
        run_on_mysql(product.source_url, insert, [number])
        product.wait_for(delivered=number)
    times = Counter(event["doc_id"] for event in product.events())
    assert times == {str(each): 1 for each in range(1, number + 1)}


def test_a_chosen_mariadb_of_an_older_version_is_upgraded_before_anything_is_stored_there(
    mariadb_product: Product, receiver: Receiver, second_mariadb_database: str
) -> None:
    product = mariadb_product
    product.apply(trigger(receiver), eventing_db="logs")
    run_on_mysql(product.source_url, "INSERT INTO users VALUES (1, 'a@example.com')")
    product.wait_for(delivered=1)
    with_older_tables(product, second_mariadb_database, run_on_mysql, _OLDER_MYSQL)
    run_on_mysql(product.source_url, "INSERT INTO users VALUES (2, 'b@example.com')")
    product.wait_for(delivered=2)
    assert stored_in_mysql(second_mariadb_database, product.name) == 2


def test_the_watched_mariadb_may_hold_the_log_without_a_loop(
    mariadb_product: Product, receiver: Receiver
) -> None:
    product = mariadb_product
    # On all tables of all databases: the log's own tables must not be among them.
    everything = trigger(receiver, databases=[], tables=[])
    product.apply(everything, eventing_db="main")
    for number in (1, 2):
        run_on_mysql(product.source_url, f"INSERT INTO users VALUES ({number}, 'a@example.com')")
        product.wait_for(delivered=number)
    assert stored_in_mysql(product.source_url, product.name) == 2
    assert {event["table"] for event in product.events()} == {"users"}


def test_a_mariadb_that_cannot_hold_the_log_is_refused_with_the_grant(
    mariadb_product: Product, receiver: Receiver, second_mariadb_database: str
) -> None:
    product = mariadb_product
    product.apply(trigger(receiver))
    parts = urlsplit(second_mariadb_database)
    run_on_mysql(second_mariadb_database, "CREATE USER weak@'%%' IDENTIFIED BY 'weak'", [])
    place = parts.netloc.rpartition("@")[2]
    weak = parts._replace(netloc=f"weak:weak@{place}").geturl()
    product.more_databases = [{"alias": "logs", "type": "mysql", "url": weak}]
    try:
        with pytest.raises(AssertionError, match="GRANT SELECT, INSERT, UPDATE, DELETE, CREATE"):
            product.apply(trigger(receiver), eventing_db="logs")
        assert product.get("settings/")["eventing"]["db"] == "builtin"
        assert run_on_mysql(second_mariadb_database, "SHOW TABLES") == []
    finally:
        product.more_databases = []
        run_on_mysql(second_mariadb_database, "DROP USER weak@'%'")
