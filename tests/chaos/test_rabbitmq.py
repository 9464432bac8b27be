"""The whole product on RabbitMQ: restarted in the middle, with its messages and without."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from celery import Celery

from config.celery import app
from eventing.enqueueing import enqueuer, waiting_messages
from eventing.logs.base import DueChunk
from tests.product import Product
from tests.proxy import Proxy
from tests.receiver import Receiver
from tests.servers import RabbitMqServer, new_rabbitmq
from tests.stack import Stack
from tests.waiting import wait_until

ROWS = 500


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMqServer]:
    server = new_rabbitmq()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def broker_url(rabbitmq: RabbitMqServer) -> str:
    return rabbitmq.url()


@pytest.fixture(scope="module")
def copies() -> dict[str, int]:
    return {"worker": 2}


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    """The product with RabbitMQ for its broker; its processes end in time."""
    yield stack
    assert stack.stop_all() == []


def test_a_message_goes_out_although_rabbitmq_has_closed_the_idle_connection(
    rabbitmq: RabbitMqServer,
) -> None:
    """As it does with one from which nothing has come for two or three minutes."""
    with Proxy("127.0.0.1", rabbitmq.port) as proxy:
        url = rabbitmq.url().replace(f":{rabbitmq.port}/", f":{proxy.port}/")
        with Celery("idle", broker=url, set_as_current=True) as idle:
            names = ("task_queues", "task_default_queue", "broker_transport_options")
            idle.conf.update({name: app.conf[name] for name in names})
            try:
                assert waiting_messages() == 0
                for number in (1, 2, 3):
                    proxy.cut()
                    enqueuer.enqueue([DueChunk(1, [uuid4()])], 0)
                    # The count comes over another connection than the message did.
                    wait_until(lambda number=number: waiting_messages() == number, 10)  # type: ignore[misc]
            finally:
                app.set_current()


def test_a_change_is_delivered_at_once(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product.of_orders(stack, "rabbit-at-once", source_database, receiver)
    product.run_sql("INSERT INTO orders VALUES (1)")
    # Sooner than the sweep looks for lost messages, so it was the message that did it.
    receiver.wait_for(1, "/all", timeout=3)
    product.run_sql(f"INSERT INTO orders SELECT generate_series(2, {ROWS})")
    product.wait_for(delivered=ROWS)
    product.disable()


@pytest.mark.parametrize("empty", [False, True], ids=["with-its-disk", "empty"])
def test_a_broker_that_restarts_loses_no_event(
    empty: bool,
    stack: Stack,
    rabbitmq: RabbitMqServer,
    source_database: str,
    receiver: Receiver,
) -> None:
    name = f"rabbit-{'empty' if empty else 'kept'}"
    product = Product.of_orders(stack, name, source_database, receiver)
    product.run_sql(f"INSERT INTO orders SELECT generate_series(1, {ROWS})")
    rabbitmq.restart(empty=empty)
    product.run_sql(f"INSERT INTO orders SELECT generate_series({ROWS + 1}, {2 * ROWS})")
    product.wait_for(60, delivered=2 * ROWS)
    assert len(product.events()) == 2 * ROWS
    # All is as before: a single change goes out by its message.
    stack.wait_until_ready()
    wait_until(lambda: product.metric("broker_up") == 1, 10, "the broker is not seen")
    before = len(receiver.received("/all"))
    product.run_sql(f"INSERT INTO orders VALUES ({2 * ROWS + 1})")
    receiver.wait_for(before + 1, "/all", timeout=3)
    product.disable()


def test_while_the_broker_is_away_web_says_so_and_does_not_hang(
    stack: Stack, rabbitmq: RabbitMqServer, source_database: str
) -> None:
    product = Product(stack, "rabbit-away", source_database)
    assert product.metric("queue_messages") == 0
    rabbitmq.kill()
    try:
        assert "the broker (REDIS_URL) does not answer" in stack.why_not_ready()
        assert product.metric("broker_up") == 0
    finally:
        rabbitmq.start()
    stack.wait_until_ready()
    wait_until(lambda: product.metric("broker_up") == 1, 10, "the broker is not seen")
