"""What is degraded for a while says so, and recovers without a hand: a full disk of the log, and
sources that restart again and again.
"""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from demo.servers import RedisServer
from tests.chaos.storm import MIB, SmallDisk
from tests.databases import MariaDbServer, MongoDbServer, new_mariadb, new_mongodb
from tests.folders import temporary_folder
from tests.product import Product
from tests.receiver import Receiver
from tests.servers import PostgresServer, new_postgres
from tests.stack import Stack
from tests.subjects import MongoSubject, MySqlSubject, PostgresSubject, Subject
from tests.waiting import wait_until

RESTARTS = 10
ROW_BYTES = 100_000


@pytest.fixture
def full_disk(
    stack_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stack, SmallDisk, PostgresServer]]:
    """The product on a Postgres whose disk is small and its own."""
    disk = SmallDisk(temporary_folder() / "disk", 250 * MIB)
    server = new_postgres(folder=disk.folder / "log", max_wal_size="64MB", min_wal_size="32MB")
    server.start()
    folder = tmp_path_factory.mktemp("full")
    stack = Stack(server.create_database(), stack_redis.url(), folder)
    try:
        stack.start_all()
        yield stack, disk, server
    finally:
        stack.stop_all()
        server.stop("immediate")
        disk.close()


def test_a_full_disk_of_the_log_is_told_and_nothing_is_lost_once_there_is_room(
    full_disk: tuple[Stack, SmallDisk, PostgresServer], source_database: str, receiver: Receiver
) -> None:
    stack, disk, server = full_disk
    product = Product(stack, "full", source_database)
    product.run_sql("CREATE TABLE files (id bigint PRIMARY KEY, content text)")
    product.apply({"name": "all", "url": receiver.url("/all")})
    product.run_sql("INSERT INTO files VALUES (0, 'before')")
    product.wait_for(delivered=1)
    said = reasons(stack)
    assert product.capture()["state"] == "streaming"
    assert stack.is_ready()
    disk.fill()
    # Far more than fits into what the server has of pages and segments at hand.
    product.run_sql(
        "INSERT INTO files SELECT n, (SELECT string_agg(md5(n::text || i::text), '')"
        f" FROM generate_series(1, {ROW_BYTES // 32}) i) FROM generate_series(1, 400) n"
    )
    wait_until(lambda: reasons(stack) > said, 60, "no process says why")
    wait_until(lambda: is_shown(stack, product), 60, "nobody could see it")
    disk.empty()
    if not server.is_running:
        # A server that cannot write its log ends; whoever watches over it starts it again.
        server.stop()
        server.start()
    wait_until(lambda: delivered(product) == 401, 120, "not all is delivered")
    stored = Counter(event["doc_id"] for event in product.events())
    assert stored == {str(number): 1 for number in range(401)}
    assert {request.id for request in receiver.received("/all")} == {
        event["id"] for event in product.events()
    }
    wait_until(lambda: stack.readiness() == (200, '{"status": "ok"}'), 60, "it is still shown")
    assert product.capture()["state"] == "streaming"
    product.disable()


def delivered(product: Product) -> int:
    try:
        return product.stats()["delivered"]
    except AssertionError:
        return 0  # web answers 503 while the log's server recovers


def reasons(stack: Stack) -> int:
    """How often the processes have told what the log's server says, or that it is gone.

    It ends when it cannot write its WAL.
    """
    written = stack.everything_written()
    return written.count("No space left on device") + written.count("does not answer")


def is_shown(stack: Stack, product: Product) -> bool:
    """Whether people and monitoring can see it: `/readyz` says that the log is away, or that there
    is a database which is not captured; then REST says what capture lacks."""
    status, text = stack.readiness()
    if status != 200:
        return status == 503
    try:
        capture = product.capture()
        shown = product.metric('captures{state="retrying"}')
    except (AssertionError, OSError):
        return False  # web answers 503 by now, as /readyz will
    return (
        (
            json.loads(text) == {"status": "degraded", "reasons": ["1 database is retrying"]}
            or "Eventing DB" in text
        )
        and (capture["state"], shown) == ("retrying", 1)
        and "No space left" in capture["error"]
    )


@pytest.fixture(params=["postgres", "mariadb", "mongodb"])
def source(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[PostgresServer | MariaDbServer | MongoDbServer, str, Subject]]:
    """A server of its own, its type, and a database in it with a table `users`."""
    server: PostgresServer | MariaDbServer | MongoDbServer
    if request.param == "postgres":
        server = new_postgres()
        server.start()
        kind, subject = "postgres", PostgresSubject(server)
    elif request.param == "mariadb":
        # What is committed outlives the server's process.
        server = new_mariadb(innodb_flush_log_at_trx_commit="2")
        server.start()
        kind, subject = "mysql", MySqlSubject(server)
    else:
        server = new_mongodb()
        server.start()
        kind, subject = "mongodb", MongoSubject(server)
    subject.create("users")
    yield server, kind, subject
    server.stop()


def test_a_source_that_restarts_ten_times_in_a_minute_is_said_to_and_loses_nothing(
    stack: Stack,
    source: tuple[PostgresServer | MariaDbServer | MongoDbServer, str, Subject],
    receiver: Receiver,
) -> None:
    server, kind, subject = source
    product = Product(stack, f"restarts-{kind}", subject.url, source_type=kind)
    product.apply({"name": "all", "url": receiver.url("/all"), "tables": ["users"]})
    for number in range(RESTARTS):
        subject.insert("users", (number, "x"))
        server.kill()
        if number == 0:
            wait_until(
                lambda: product.capture()["state"] == "retrying", 30, "nothing is said of it"
            )
            assert product.capture()["error"]
        server.start()
    subject.insert("users", (RESTARTS, "x"))
    product.wait_for(120, delivered=RESTARTS + 1)
    stored = Counter(event["doc_id"] for event in product.events())
    assert stored == {str(number): 1 for number in range(RESTARTS + 1)}
    assert product.capture()["state"] == "streaming"
    product.disable()
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "a slot stays"
    )
