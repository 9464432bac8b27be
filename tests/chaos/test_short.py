"""What a worker does that is short of memory, or stood still for longer than its claims last."""

import json
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.chaos.storm import MIB, family, freeze, lift_limit, limit_memory, thaw
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.stack import Stack
from tests.waiting import wait_until

LEFT_BYTES = 64 * MIB


@pytest.fixture(scope="module")
def copies() -> dict[str, int]:
    return {"worker": 2}


def insert_files(product: Product, count: int, size_bytes: int) -> None:
    product.run_sql(
        f"INSERT INTO files SELECT i, repeat(md5(i::text), {size_bytes // 32})"
        f" FROM generate_series(1, {count}) i"
    )


def test_a_worker_with_64_mb_left_says_so_and_loses_nothing_of_its_backlog(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "short", source_database)
    product.run_sql("CREATE TABLE files (id bigint PRIMARY KEY, content text)")
    trigger = {"name": "all", "url": receiver.url("/all")}
    product.apply({**trigger, "state": "paused"})
    insert_files(product, 40, 4 * MIB)
    product.wait_for(pending=40)
    stack.stop("worker-2")
    (worker,) = family(stack.pid("worker"))
    said = stack.everything_written().count("emory")
    limit_memory(worker, LEFT_BYTES)
    product.apply(trigger)
    wait_until(lambda: stack.everything_written().count("emory") > said, 60, "64 MB are enough")
    wait_until(lambda: is_shown_to_be_short(stack, product), 30, "nobody could see it")
    lift_limit(worker)
    product.wait_for(120, delivered=40)
    wait_until(lambda: stack.readiness() == (200, '{"status": "ok"}'), 60, "it is still shown")
    assert product.metric('hindered_processes{process="worker"}') == 0
    assert {request.id for request in receiver.received("/all")} == {
        event["id"] for event in product.events()
    }
    stack.start("worker-2")
    product.disable()


def is_shown_to_be_short(stack: Stack, product: Product) -> bool:
    """To monitoring with a token and without, and to people."""
    status, text = stack.readiness()
    request = urllib.request.Request(f"{stack.url}/api/v1/health/")
    request.add_header("Authorization", f"Bearer {product.token}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        processes = json.load(answer)["processes"]
    hindrances = [each["hindrance"] for each in processes if each["process"] == "worker"]
    return (
        (status, json.loads(text)["status"]) == (200, "degraded")
        and "short of memory" in text
        and product.metric('hindered_processes{process="worker"}') == 1
        and any("short of memory" in each for each in hindrances)
    )


def test_a_worker_for_which_one_event_is_too_much_sends_it_once_it_has_room(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "too-much", source_database)
    product.run_sql("CREATE TABLE files (id bigint PRIMARY KEY, content text)")
    stack.stop("worker-2")
    # The only slot there is must come back each time.
    product.apply(
        {"name": "large", "url": receiver.url("/all"), "concurrency": 1, "retries": 0},
    )
    # One that has freed nothing which it could take again.
    stack.kill("worker")
    stack.start("worker")
    stack.wait_until_ready()
    seen = "SELECT 1 FROM eventing_heartbeat WHERE process = 'worker' AND name LIKE %s"
    wait_until(
        lambda: stack.execute(seen, [f"%:{stack.pid('worker')}"]), 60, "the worker does not start"
    )
    (worker,) = family(stack.pid("worker"))
    said = stack.everything_written().count("emory")
    limit_memory(worker, LEFT_BYTES)
    insert_files(product, 1, 28 * MIB)
    wait_until(lambda: stack.everything_written().count("emory") > said, 60, "64 MB are enough")
    lift_limit(worker)
    product.wait_for(60, delivered=1)
    (event,) = product.events()
    assert [each["status_code"] for each in product.event(event["id"])["invocations"]] == [200]
    stack.start("worker-2")
    product.disable()


def test_web_without_memory_for_a_thread_says_so_and_goes_on(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product(stack, "short-web", source_database)
    product.apply({"name": "all", "url": receiver.url("/all")})
    url = f"{stack.url}/api/v1/projects/{product.name}/triggers/all/test/"
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {product.token}"
    # One that has had no other threads yet than those that answer requests, and all of these.
    stack.stop("web")
    stack.start("web")
    stack.wait_until_ready()
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(product.get, ["triggers/"] * 64))
    web = family(stack.pid("web"))
    for process in web:
        # Less than the stack of a thread.
        limit_memory(process, 4 * MIB)
    short = session.post(url, timeout=10)
    keyed = session.post(url, headers={"Idempotency-Key": "once"}, timeout=10)
    for process in web:
        lift_limit(process)
    assert short.status_code == 200, short.text
    assert "short of memory" in short.json()["error"]
    assert (keyed.status_code, "memory" in keyed.json()["detail"]) == (503, True)
    again = session.post(url, headers={"Idempotency-Key": "once"}, timeout=10)
    assert again.json()["status_code"] == 200
    product.disable()


def test_a_worker_that_stood_still_for_longer_than_its_claims_changes_nothing_by_what_it_knows(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(delay_seconds=1.0))
    limits = {"timeout_ms": 2000, "retries": 0, "concurrency": 5}
    product = Product.of_orders(stack, "stood-still", source_database, receiver, **limits)
    stack.stop("worker-2")
    product.run_sql("INSERT INTO orders SELECT generate_series(1, 20)")
    receiver.wait_for(1, "/all", timeout=20)
    still = family(stack.pid("worker"))
    freeze(still)
    stack.start("worker-2")
    receiver.behave("/all", Behaviour())
    # Its claims run out after 27 seconds.
    product.wait_for(60, delivered=20)
    attempts = invocations(product)
    thaw(still)
    # It lives on, and delivers again.
    stack.stop("worker-2")
    product.run_sql("INSERT INTO orders VALUES (21)")
    product.wait_for(60, delivered=21)
    assert product.stats()["failed"] == 0
    # What it had under way is in the log as attempts, late, and changes nothing.
    later = invocations(product)
    assert all(later[event_id] >= count for event_id, count in attempts.items())
    stack.start("worker-2")
    product.disable()


def invocations(product: Product) -> Counter[str]:
    return Counter(
        {event["id"]: len(product.event(event["id"])["invocations"]) for event in product.events()}
    )
