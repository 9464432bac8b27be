"""Processes are killed and the broker loses everything, while rows pour in: no event is lost."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import requests

from demo.servers import RedisServer
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.stack import Stack
from tests.waiting import wait_until
from tests.writing import BackgroundWriter

ROUNDS = 4
KILLS_OF_WEB = 6
ROWS_A_ROUND = 500


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
    product.disable()


@pytest.mark.parametrize("process", ["capture", "worker", "beat"])
def test_killing_a_process_at_any_moment_loses_no_event(
    process: str, stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, f"kill-{process}", source_database)

    def kill_and_restart() -> None:
        stack.kill(process)
        stack.start(process)

    pour(product, receiver, kill_and_restart)


class Author(BackgroundWriter):
    """Adds one trigger after another through REST, whether web is there or not."""

    def __init__(self, product: Product, url: str) -> None:
        super().__init__()
        self._product = product
        self._url = url
        self.asked: list[str] = []
        self.answered: list[str] = []

    def definition(self, name: str) -> dict[str, Any]:
        """What a trigger with this name is to be."""
        return {
            "name": name,
            "url": self._url,
            "databases": ["main"],
            "tables": ["orders", f"{name}.*"],
            "operations": ["insert"],
            "headers": {"X-Name": name},
            "retries": 9,
        }

    def write(self) -> None:
        url = f"{self._product.stack.url}/api/v1/projects/{self._product.name}/triggers/"
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {self._product.token}"
        while not self.stopping.is_set():
            name = f"written-{len(self.asked)}"
            self.asked.append(name)
            try:
                answer = session.post(url, json=self.definition(name), timeout=10)
            except requests.RequestException:
                self.stopping.wait(0.05)
                continue
            assert answer.status_code == 201, answer.text
            self.answered.append(name)


def test_a_trigger_that_is_being_written_when_web_is_killed_is_whole_or_not_there(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "kill-web", source_database)
    product.run_sql("CREATE TABLE orders (id bigint PRIMARY KEY)")
    product.apply()
    with Author(product, receiver.url("/all")) as author:
        for number in range(KILLS_OF_WEB):
            before = len(author.answered)
            wait_until(
                lambda before=before, more=number + 1: len(author.answered) >= before + more,  # type: ignore[misc]
                30,
                "nothing is answered",
            )
            stack.kill("web")
            stack.start("web")
            stack.wait_until_ready()
    written = {each["name"]: each for each in product.get("triggers/")}
    assert set(author.answered) <= set(written) <= set(author.asked)
    for name, found in written.items():
        wanted = author.definition(name) | {"headers": {"X-Name": "••••"}}
        assert {field: found[field] for field in wanted} == wanted
    noted = stack.execute(
        "SELECT object_name FROM eventing_auditentry"
        " WHERE project_name = %s AND action = 'trigger.create'",
        [product.name],
    )
    assert sorted(name for (name,) in noted) == sorted(written)
    wait_until(lambda: all(map(product.is_live, written)), 30, "capture does not know all of them")
    product.run_sql("INSERT INTO orders VALUES (1)")
    product.wait_for(60, delivered=len(written))
    assert {event["trigger"] for event in product.events()} == set(written)
    sent = [json.loads(request.body)["id"] for request in receiver.received("/all")]
    assert len(set(sent)) == len(written)
    product.disable()


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


def test_while_the_broker_is_away_web_says_so_and_does_not_hang(
    stack: Stack, stack_redis: RedisServer, source_database: str
) -> None:
    product = Product(stack, "redis-away", source_database)
    assert product.metric("queue_messages") == 0
    # A process that has never reached the broker.
    stack_redis.kill()
    stack.kill("web")
    stack.start("web")
    try:
        wait_until(lambda: "REDIS_URL" in stack.why_not_ready(), 20, "web does not start")
        assert product.metric("broker_up") == 0
    finally:
        stack_redis.start()
    stack.wait_until_ready()
    wait_until(lambda: product.metric("broker_up") == 1, 10, "the broker is not seen")


def test_an_event_whose_worker_dies_mid_request_is_sent_again_with_the_same_id(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(hang=True))
    limits = {"timeout_ms": 1000, "retries": 0}
    product = Product.of_orders(stack, "die-mid-request", source_database, receiver, **limits)
    product.run_sql("INSERT INTO orders VALUES (1)")
    (first,) = receiver.wait_for(1, "/all", timeout=20)
    stack.kill("worker")
    receiver.behave("/all", Behaviour())
    stack.start("worker")
    product.wait_for(60, delivered=1)
    assert {request.id for request in receiver.received("/all")} == {first.id}
    detail = product.event(first.id)
    assert [item["error_kind"] for item in detail["invocations"]] == ["lost", None]
    product.disable()


def test_events_of_a_document_stay_in_order_when_the_worker_is_killed(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "kill-in-order", source_database)
    product.run_sql("CREATE TABLE stock (id bigint PRIMARY KEY, version bigint)")
    product.run_sql("INSERT INTO stock SELECT i, 0 FROM generate_series(1, 20) i")
    # Every fourth attempt fails.
    receiver.behave("/all", Behaviour(statuses=(200, 200, 200, 500) * 1000))
    product.apply(
        {
            "name": "all",
            "url": receiver.url("/all"),
            "operations": ["update"],
            "ordered": True,
            "retries": 20,
            "backoff": {"initial_ms": 50, "factor": 1},
        }
    )
    for _ in range(ROUNDS):
        for _ in range(5):
            product.run_sql("UPDATE stock SET version = version + 1")
        stack.kill("worker")
        stack.start("worker")
    product.wait_for(120, delivered=20 * 5 * ROUNDS)
    versions: dict[object, list[object]] = defaultdict(list)
    for request in receiver.received("/all"):
        document = request.json()["data"]["doc"]  # type: ignore[index]
        versions[document["id"]].append(document["version"])
    wanted = list(range(1, 5 * ROUNDS + 1))
    for sent in versions.values():
        # An attempt may be repeated, right after itself.
        assert [version for version, _ in itertools.groupby(sent)] == wanted
    assert len(versions) == 20
    product.disable()
