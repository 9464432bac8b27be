"""The whole product with PgBouncer before its own database and before an Eventing DB."""

from collections.abc import Iterator

import pytest

from eventing.logs.postgres import PostgresEventLog
from tests.product import Product
from tests.receiver import Receiver
from tests.servers import (
    PgBouncer,
    PostgresServer,
    drop_database,
    execute,
    name_in,
    new_database,
    new_pgbouncer,
    new_postgres,
    new_redis,
)
from tests.stack import Stack
from tests.waiting import wait_until

ROWS = 1000
# Far fewer connections than clients where a transaction is what a client holds one for.
CONNECTIONS = {"transaction": 5, "session": 60}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server whose defaults are not ours, which a pooler may show to anybody."""
    server = new_postgres(timezone="Asia/Kolkata", default_transaction_isolation="repeatable read")
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture(scope="module", params=["transaction", "session"])
def pooler(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[PgBouncer]:
    server = new_pgbouncer(postgres, request.param, CONNECTIONS[request.param])
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def stack(
    postgres: PostgresServer, pooler: PgBouncer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The product, all of whose connections to its database go through the pooler."""
    redis = new_redis()
    redis.start()
    url = postgres.create_database()
    folder = tmp_path_factory.mktemp("pgbouncer")
    running = Stack(pooler.through(url), redis.url(), folder, copies={"worker": 2})
    try:
        running.start_all()
        yield running
    finally:
        ended_late = running.stop_all()
        pooler.stop()
        drop_database(postgres, url)
        redis.stop()
    assert ended_late == []


@pytest.fixture
def source(postgres: PostgresServer) -> Iterator[str]:
    """A source database, which no pooler is ever before."""
    with new_database(postgres) as url:
        yield url


def finish(product: Product) -> None:
    product.disable()
    wait_until(
        lambda: not product.stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "it stays"
    )


def test_changes_are_delivered_in_order_and_within_limits_whatever_the_pooler_does(
    stack: Stack, pooler: PgBouncer, source: str, receiver: Receiver
) -> None:
    product = Product(stack, "pooled", source)
    product.run_sql("CREATE TABLE orders (id bigint PRIMARY KEY, version int)")
    product.apply(
        {"name": "all", "url": receiver.url("/all"), "concurrency": 4, "rate_per_second": 900},
        {"name": "ordered", "url": receiver.url("/ordered"), "ordered": True},
    )
    product.run_sql(f"INSERT INTO orders SELECT i, 1 FROM generate_series(1, {ROWS // 2}) i")
    # Every connection breaks, of whoever holds one at that moment.
    pooler.restart()
    product.run_sql(
        f"INSERT INTO orders SELECT i, 1 FROM generate_series({ROWS // 2 + 1}, {ROWS}) i"
    )
    for version in (2, 3):
        product.run_sql(f"UPDATE orders SET version = {version} WHERE id <= 50")
    product.wait_for(90, delivered=2 * (ROWS + 100))
    assert receiver.most_under_way("/all") <= 4
    versions: dict[object, list[object]] = {}
    for request in receiver.received("/ordered"):
        document = request.json()["data"]["doc"]  # type: ignore[index]
        versions.setdefault(document["id"], []).append(document["version"])
    assert all(found == sorted(found) for found in versions.values())
    # The pages too, and times are what they were.
    newest, *_ = product.events()
    assert product.event(newest["id"])["payload"]["time"].endswith("Z")
    finish(product)


def test_an_eventing_db_behind_the_pooler_is_as_good_as_any(
    stack: Stack, postgres: PostgresServer, pooler: PgBouncer, source: str, receiver: Receiver
) -> None:
    log = postgres.create_database()
    behind = {"alias": "log", "type": "postgres", "url": pooler.through(log)}
    product = Product(stack, "pooled-log", source, more_databases=[behind])
    product.run_sql("CREATE TABLE orders (id bigint PRIMARY KEY)")
    product.apply(
        {"name": "all", "url": receiver.url("/all"), "databases": ["main"]}, eventing_db="log"
    )
    product.run_sql(f"INSERT INTO orders SELECT generate_series(1, {ROWS})")
    product.wait_for(60, delivered=ROWS)
    assert len(product.events(trigger="all")) == ROWS
    # Asked whether it could be captured too, the pooler's connections are left as they were.
    assert "a pooler answers" in product.get("databases/log/")["capture"]["error"]
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = %s"
    assert execute(log, slots, [name_in(log)]) == [(0,)]
    assert execute(pooler.through(log), "SHOW lock_timeout") == [("0",)]
    finish(product)


def test_statement_pooling_is_refused(postgres: PostgresServer) -> None:
    pooler = new_pgbouncer(postgres, "statement", 5)
    pooler.start()
    log = PostgresEventLog(pooler.through(postgres.create_database()))
    (finding,) = log.check("somebody")
    assert (finding.name, finding.status) == ("connection", "error")
    log.close()
    pooler.stop()
