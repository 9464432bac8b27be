"""Processes are killed and the broker loses everything, while rows pour in: no event is lost."""

from collections.abc import Callable, Iterator

import pytest

from demo.servers import RedisServer
from tests.product import Product
from tests.receiver import Receiver
from tests.stack import Stack

ROUNDS = 4
ROWS_A_ROUND = 500


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as endpoint:
        yield endpoint


def pour(product: Product, receiver: Receiver, disturb: Callable[[], None]) -> None:
    """Commit rows round by round with a disturbance in each, then compare with what arrived."""
    product.run_sql("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
    product.apply(
        {"name": "all", "url": receiver.url("/all"), "retries": 10, "backoff": {"initial_ms": 100}}
    )
    for number in range(ROUNDS):
        first = number * ROWS_A_ROUND + 1
        half = first + ROWS_A_ROUND // 2
        product.run_sql(
            f"INSERT INTO orders SELECT i, 'x' FROM generate_series({first}, {half - 1}) i"
        )
        disturb()
        product.run_sql(
            f"INSERT INTO orders SELECT i, 'x' FROM generate_series({half},"
            f" {first + ROWS_A_ROUND - 1}) i"
        )
    total = ROUNDS * ROWS_A_ROUND
    product.wait_for(90, delivered=total)
    committed = {str(number) for number in range(1, total + 1)}
    events = product.events()
    assert len(events) == total
    assert {event["doc_id"] for event in events} == committed
    ids = {request.id for request in receiver.received("/all")}
    assert ids == {event["id"] for event in events}
    product.apply(enabled=False, live=False)


@pytest.mark.parametrize("process", ["capture", "worker", "beat"])
def test_killing_a_process_at_any_moment_loses_no_event(
    process: str, stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, f"kill-{process}", source_database)

    def kill_and_restart() -> None:
        stack.kill(process)
        stack.start(process)

    pour(product, receiver, kill_and_restart)


def test_killing_only_the_supervisor_of_capture_leaves_no_orphan_and_loses_nothing(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "kill-supervisor", source_database)

    def kill_and_restart() -> None:
        stack.kill("capture", whole_family=False)
        stack.start("capture")

    pour(product, receiver, kill_and_restart)


def test_a_broker_that_loses_everything_loses_no_event(
    stack: Stack, stack_redis: RedisServer, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "lose-redis", source_database)

    def restart_empty() -> None:
        stack_redis.kill()
        stack_redis.start()

    pour(product, receiver, restart_empty)


def test_an_event_whose_worker_dies_mid_request_is_sent_again_with_the_same_id(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    from tests.receiver import Behaviour

    receiver.behave("/all", Behaviour(hang=True))
    product = Product(stack, "die-mid-request", source_database)
    product.run_sql("CREATE TABLE orders (id bigint PRIMARY KEY)")
    product.apply({"name": "all", "url": receiver.url("/all"), "timeout_ms": 1000, "retries": 0})
    product.run_sql("INSERT INTO orders VALUES (1)")
    (first,) = receiver.wait_for(1, "/all", timeout=20)
    stack.kill("worker")
    receiver.behave("/all", Behaviour())
    stack.start("worker")
    product.wait_for(60, delivered=1)
    assert {request.id for request in receiver.received("/all")} == {first.id}
    detail = product.event(first.id)
    assert [item["error_kind"] for item in detail["invocations"]] == ["lost", None]
    product.apply(enabled=False, live=False)
