"""The whole road, every process running: a committed row reaches a webhook, and all can see it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.endpoint import endpoint
from demo.servers import execute
from eventing.sources.base import START_ANEW
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.stack import Stack
from tests.waiting import wait_until

USERS = "CREATE TABLE users (id bigint PRIMARY KEY, email text, balance numeric)"


@pytest.fixture
def product(
    stack: Stack, source_database: str, request: pytest.FixtureRequest
) -> Iterator[Product]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    found = Product(stack, name, source_database)
    yield found
    found.disable()
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "the slot stays"
    )


def trigger(receiver: Receiver, name: str = "all", **fields: Any) -> dict[str, Any]:
    return {"name": name, "url": receiver.url(f"/{name}")} | fields


def test_insert_update_and_delete_arrive_as_the_contract_says(
    product: Product, receiver: Receiver
) -> None:
    product.run_sql(USERS)
    product.apply(trigger(receiver, tables=["users"]))
    product.run_sql(
        "INSERT INTO users VALUES (7, 'a@example.com', 12345678901234567890.10)",
        "UPDATE users SET email = 'b@example.com'",
        "DELETE FROM users",
    )
    requests = receiver.wait_for(3, "/all", timeout=20)
    product.wait_for(delivered=3)
    by_type = {request.json()["type"]: request for request in requests}
    inserted = by_type["DB_INSERT"]
    payload = inserted.json()
    assert list(payload) == ["specversion", "id", "type", "source", "time", "data"]
    assert payload["specversion"] == "1.0-rc1"
    assert payload["id"] == inserted.headers["webhook-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(payload["time"]))
    data = payload["data"]
    assert isinstance(data, dict)
    assert list(data) == ["db", "col", "docId", "doc"]
    assert (data["db"], data["col"], data["docId"]) == ("sql-postgres", "users", "7")
    assert b'"balance":12345678901234567890.10' in inserted.body
    assert by_type["DB_UPDATE"].json()["data"]["doc"]["email"] == "b@example.com"  # type: ignore[index]
    assert by_type["DB_DELETE"].json()["data"]["doc"] == {"id": 7}  # type: ignore[index]
    assert inserted.headers["content-type"] == "application/json"
    assert inserted.headers["user-agent"].startswith("MissionControl/")
    assert inserted.headers["webhook-signature"].startswith("v1,")
    event = product.event(str(payload["id"]))
    assert event["payload"]["data"]["doc"]["email"] == "a@example.com"
    assert [item["status_code"] for item in event["invocations"]] == [200]


def test_a_failing_webhook_is_tried_one_and_retries_times_with_one_id(
    product: Product, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(statuses=[500], body=b"out of order"))
    product.run_sql(USERS)
    product.apply(trigger(receiver, retries=2, backoff={"initial_ms": 50}))
    product.run_sql("INSERT INTO users VALUES (1)")
    product.wait_for(failed=1)
    requests = receiver.received("/all")
    assert len(requests) == 3
    assert len({request.id for request in requests}) == 1
    (event,) = product.events(status="failed")
    detail = product.event(event["id"])
    assert [item["attempt"] for item in detail["invocations"]] == [1, 2, 3]
    assert {item["response_body"] for item in detail["invocations"]} == {"out of order"}
    receiver.behave("/all", Behaviour(statuses=[500, 204]))
    product.post(f"events/{event['id']}/redeliver/")
    product.wait_for(delivered=1)
    assert [item["attempt"] for item in product.event(event["id"])["invocations"]] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_everything_that_matches_is_redelivered_in_the_background(
    product: Product, receiver: Receiver
) -> None:
    receiver.behave("/all", Behaviour(statuses=[500]))
    product.run_sql(USERS)
    product.apply(trigger(receiver, retries=0))
    product.run_sql("INSERT INTO users SELECT n FROM generate_series(1, 300) n")
    product.wait_for(failed=300)
    receiver.behave("/all", Behaviour(statuses=[204]))
    begun = product.post("redeliveries/")
    product.wait_for(delivered=300)
    wait_until(
        lambda: product.get(f"redeliveries/{begun['id']}/")["state"] == "done", 10, "it goes on"
    )
    assert product.get(f"redeliveries/{begun['id']}/")["redelivered"] == 300
    assert {event["attempts"] for event in product.events()} == {2}


def test_users_keep_working_on_tables_without_primary_key(
    product: Product, receiver: Receiver
) -> None:
    product.run_sql("CREATE TABLE bare (note text)")
    product.apply(trigger(receiver))
    product.run_sql(
        "INSERT INTO bare VALUES ('one'), ('two')", "UPDATE bare SET note = 'x'", "DELETE FROM bare"
    )
    product.wait_for(delivered=2)


def test_truncate_makes_no_events_and_a_new_table_is_seen_at_once(
    product: Product, receiver: Receiver
) -> None:
    product.run_sql(USERS)
    product.apply(trigger(receiver))
    product.run_sql(
        "INSERT INTO users VALUES (1)",
        "TRUNCATE users",
        "CREATE TABLE made_a_moment_ago (id int PRIMARY KEY)",
        "INSERT INTO made_a_moment_ago VALUES (1)",
    )
    product.wait_for(delivered=2)
    tables = {(event["table"], event["type"]) for event in product.events()}
    assert tables == {("users", "DB_INSERT"), ("made_a_moment_ago", "DB_INSERT")}


def test_a_paused_trigger_holds_its_events_and_delivers_them_when_resumed(
    product: Product, receiver: Receiver
) -> None:
    product.run_sql(USERS)
    product.apply(trigger(receiver, state="paused"))
    product.run_sql("INSERT INTO users SELECT generate_series(1, 300)")
    product.wait_for(pending=300)
    assert receiver.received("/all") == []
    product.apply(trigger(receiver))
    # Not only when the sweep takes them for lost, which is after ten seconds.
    product.wait_for(8, delivered=300)


def test_a_resumed_trigger_delivers_oldest_first_and_at_its_rate(
    product: Product, receiver: Receiver
) -> None:
    product.run_sql(USERS)
    limits = {"concurrency": 1, "rate_per_second": 40}
    product.apply(trigger(receiver, state="paused", **limits))
    product.run_sql(*(f"INSERT INTO users VALUES ({number})" for number in range(100)))
    product.wait_for(pending=100)
    product.apply(trigger(receiver, **limits))
    product.wait_for(delivered=100)
    requests = receiver.received("/all")
    # Those of one millisecond are of no order.
    committed = [str(request.json()["time"]) for request in requests]
    assert len(set(committed)) > 1
    assert committed == sorted(committed)
    # What a fifth of a second has room for may go at once; none of it later than that is sooner.
    took = requests[-1].at - requests[0].at
    assert took >= (100 - 8) / 40 - 0.25


def test_the_events_of_a_deleted_trigger_are_cancelled(
    product: Product, receiver: Receiver
) -> None:
    product.run_sql(USERS)
    product.apply(trigger(receiver, state="paused"))
    product.run_sql("INSERT INTO users VALUES (1)")
    product.wait_for(pending=1)
    product._request("DELETE", "triggers/all/", {})
    product.wait_for(cancelled=1)


def test_switching_eventing_off_gives_up_slot_and_publications(
    product: Product, receiver: Receiver, stack: Stack
) -> None:
    product.run_sql(USERS)
    product.apply(trigger(receiver))
    product.apply(trigger(receiver), enabled=False, live=False)
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "the slot stays"
    )
    left = _made_at(product.source_url)
    assert left == (0, 0)
    assert product.capture()["state"] == "off"
    product.run_sql("INSERT INTO users VALUES (1)")
    product.apply(trigger(receiver))
    product.run_sql("INSERT INTO users VALUES (2)")
    product.wait_for(delivered=1)
    assert [event["doc_id"] for event in product.events()] == ["2"]


def most_memory_of_capture(stack: Stack, is_done: Callable[[], bool]) -> int:
    """The most bytes that any one process of capture has taken until `is_done`."""
    capture = psutil.Process(stack.pid("capture"))
    most = 0

    def is_done_by_now() -> bool:
        nonlocal most
        sizes = [child.memory_info().rss for child in capture.children(recursive=True)]
        most = max(most, *sizes)
        return is_done()

    wait_until(is_done_by_now, 180, "not all events are there")
    return most


def test_a_hundred_thousand_rows_of_one_insert_are_delivered_in_bounded_memory(
    product: Product, stack: Stack, tmp_path: Path
) -> None:
    rows = 100_000
    product.run_sql(USERS)
    with endpoint(tmp_path, timed=True) as (url, arrivals):
        product.apply({"name": "all", "url": url})
        product.run_sql(
            f"INSERT INTO users SELECT i, 'x' || i, i FROM generate_series(1, {rows}) i"
        )
        most = most_memory_of_capture(stack, lambda: product.stats()["delivered"] == rows)
    received = [line.split()[0] for line in arrivals.read_text().splitlines()]
    assert set(received) == {str(number) for number in range(1, rows + 1)}
    assert most < 150 * 1024 * 1024
    logged = stack.execute(
        "SELECT count(DISTINCT event_id) FROM mission_control.invocation_log i"
        " JOIN mission_control.event_log e ON e.id = i.event_id WHERE e.project = %s"
        " AND i.status_code = 200",
        [product.name],
    )
    assert logged == [(rows,)]


def test_rows_that_many_triggers_match_are_captured_in_bounded_memory(
    product: Product, stack: Stack
) -> None:
    rows, triggers = 200, 50
    product.run_sql("CREATE TABLE files (id bigint PRIMARY KEY, content text)")
    unreachable = {"url": "http://127.0.0.1:1/", "tables": ["files"], "state": "paused"}
    product.apply(*({"name": f"t{number}", **unreachable} for number in range(triggers)))
    product.run_sql(
        f"INSERT INTO files SELECT i, repeat(md5(i::text), 1250) FROM generate_series(1, {rows}) i"
    )
    most = most_memory_of_capture(stack, lambda: product.stats()["pending"] == rows * triggers)
    assert most < 150 * 1024 * 1024


def _made_at(url: str) -> tuple[int, int]:
    """How many slots and publications there are in the source."""
    slots = execute(
        url, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    )
    publications = execute(url, "SELECT count(*) FROM pg_publication")
    return slots[0][0], publications[0][0]


def test_the_products_own_tables_are_never_captured(stack: Stack, receiver: Receiver) -> None:
    product = Product(stack, "itself", stack.database_url)
    product.apply(trigger(receiver))
    product.run_sql("CREATE TABLE guests (id int PRIMARY KEY)", "INSERT INTO guests VALUES (1)")
    product.wait_for(delivered=1)
    product.run_sql("INSERT INTO guests VALUES (2)")
    product.wait_for(delivered=2)
    assert {event["table"] for event in product.events()} == {"guests"}
    product.disable()
    product.run_sql("DROP TABLE guests")
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "the slot stays"
    )


def test_a_lost_slot_blocks_capture_until_a_person_starts_it_anew(
    product: Product, receiver: Receiver, stack: Stack
) -> None:
    product.run_sql(USERS)
    product.apply(trigger(receiver))
    product.run_sql("INSERT INTO users VALUES (1)")
    product.wait_for(delivered=1)
    stack.stop("capture")
    product.run_sql(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE database = current_database()"
    )
    stack.start("capture")
    wait_until(lambda: product.capture()["state"] == "blocked", 30, "not blocked")
    assert "slot" in product.capture()["error"]
    assert product.capture()["mend"] == START_ANEW
    stack.manage(
        "shell",
        "-c",
        "from eventing.models import Database; from eventing.projects import start_anew;"
        "from eventing.access import command_line;"
        f"start_anew(Database.objects.get(project__name={product.name!r}), by=command_line())",
    )
    wait_until(lambda: product.capture()["state"] == "streaming", 30, "not streaming")
    product.run_sql("INSERT INTO users VALUES (2)")
    product.wait_for(delivered=2)
