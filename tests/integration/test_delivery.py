"""From ids that wait to what the log then knows, with the real log and real endpoints."""

import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import orjson
import psycopg2
import pytest
from django.db import connection

from eventing import delivery
from eventing.backoff import delay_ms
from eventing.breakers import Breakers, take_probe, triggers_to_probe
from eventing.cloudevents import EventBuilder
from eventing.definitions import Backoff
from eventing.delivery import Dispatcher, test_request
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import MASK
from eventing.destinations.webhook import WebhookDestination
from eventing.lanes import Endpoint, Tolerance
from eventing.limits import SharedLimits
from eventing.logs import control_database_dsn
from eventing.logs.base import EventDetail
from eventing.logs.postgres import PostgresEventLog
from eventing.matching import Matcher, Rule
from eventing.models import Breaker
from eventing.signing import new_secret, signature
from tests.factories import (
    NODE_ID,
    make_change,
    make_events,
    make_origin,
    make_outcome,
    make_project,
    make_trigger,
)
from tests.receiver import Behaviour, Receiver
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = make_origin()
OPEN = AddressGuard(["127.0.0.0/8"])
# Short, so that tests need not wait; what the delays should be has tests of its own.
SOON = Backoff(initial_ms=20, factor=1, max_ms=60_000)


class Bench:
    """Endpoints by trigger, and dispatchers that read them; `settle` plays the sweep."""

    def __init__(self, log: PostgresEventLog) -> None:
        self.log = log
        self.endpoints: dict[int, Endpoint] = {}
        self.dispatchers: list[Dispatcher] = []

    def endpoint(
        self, url: str, trigger_id: int = 1, project_id: int = 1, **fields: object
    ) -> Endpoint:
        given: dict[str, object] = {"backoff": SOON} | fields
        self.endpoints[trigger_id] = Endpoint(
            trigger_id,
            project_id,
            "shop",
            f"trigger-{trigger_id}",
            url,
            **given,  # type: ignore[arg-type]
        )
        return self.endpoints[trigger_id]

    def dispatcher(
        self,
        guard: AddressGuard = OPEN,
        log: PostgresEventLog | None = None,
        breakers: delivery.Breakers | None = None,
        **given: object,
    ) -> Dispatcher:
        worker = f"test-worker-{len(self.dispatchers)}"
        made = Dispatcher(
            log or self.log,
            WebhookDestination(guard),
            self.endpoints.get,
            SharedLimits(worker),
            breakers or Breakers(),
            worker,
            **given,  # type: ignore[arg-type]
        )
        self.dispatchers.append(made)
        return made

    def store(self, count: int = 1, trigger_id: int = 1, project_id: int = 1) -> list[UUID]:
        origin = replace(ORIGIN, project_id=project_id)
        events = make_events([make_change() for _ in range(count)], origin, trigger_id)
        self.log.append(origin, events, self.log.position(origin.database_id), uuid.uuid4().hex)
        return [event.id for event in events]

    def detail(self, event_id: UUID) -> EventDetail:
        found = self.log.event(1, event_id)
        assert found is not None
        return found

    def status(self, event_id: UUID) -> str:
        return self.detail(event_id).row.status

    def settle(self, event_id: UUID, dispatcher: Dispatcher, timeout: float = 10) -> EventDetail:
        """Enqueue the event, and again whenever it is due, until it is finished."""
        dispatcher.deliver(self.detail(event_id).row.trigger_id, [event_id])

        def is_finished() -> bool:
            for chunk in self.log.due(list(self.endpoints)):
                dispatcher.deliver(chunk.trigger_id, chunk.event_ids)
            return self.status(event_id) in {"delivered", "failed", "cancelled"}

        wait_until(is_finished, timeout, f"{event_id} is finished")
        return self.detail(event_id)


@pytest.fixture
def bench(log: PostgresEventLog) -> Iterator[Bench]:
    made = Bench(log)
    yield made
    for dispatcher in made.dispatchers:
        dispatcher.stop(0.5)


def count(sql: str, *arguments: object) -> int:
    connection = psycopg2.connect(control_database_dsn())
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])
    finally:
        connection.close()


def test_an_event_is_sent_as_stored_and_logged_as_delivered(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/hook", Behaviour(statuses=(201,), headers={"X-Took": "it"}, body=b"fine"))
    secrets = (new_secret(), new_secret())
    bench.endpoint(
        receiver.url("/hook"),
        signing_secrets=secrets,
        headers=(("Authorization", "Bearer hidden"), ("Host", "evil"), ("webhook-id", "evil")),
    )
    (event_id,) = bench.store()
    bench.dispatcher().deliver(1, [event_id])
    (request,) = receiver.wait_for(1)
    wait_until(lambda: bench.status(event_id) == "delivered")
    detail = bench.detail(event_id)
    assert request.body.decode() == detail.payload
    sent = request.headers
    assert sent["content-type"] == "application/json"
    assert sent["user-agent"] == "MissionControl/0.1.0"
    assert sent["authorization"] == "Bearer hidden"
    assert sent["host"] == f"127.0.0.1:{receiver.port}"
    assert sent["webhook-id"] == str(event_id) == request.json()["id"]
    timestamp = int(sent["webhook-timestamp"])
    assert abs(timestamp - time.time()) < 5
    assert sent["webhook-signature"] == signature(str(event_id), timestamp, request.body, secrets)
    (invocation,) = detail.invocations
    assert (invocation.attempt, invocation.status_code, invocation.response_body) == (
        1,
        201,
        "fine",
    )
    assert ("X-Took", "it") in invocation.response_headers
    assert ("Authorization", MASK) in invocation.request_headers
    assert "hidden" not in repr(invocation)
    assert (invocation.worker, invocation.url) == ("test-worker-0", receiver.url("/hook"))


def test_the_user_agent_is_the_users_to_choose(bench: Bench, receiver: Receiver) -> None:
    bench.endpoint(receiver.url(), headers=(("user-agent", "mine/1"),))
    bench.dispatcher().deliver(1, bench.store())
    assert receiver.wait_for(1)[0].headers["user-agent"] == "mine/1"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_failing_event_is_tried_1_and_retries_times_under_one_id_and_then_fails(
    retries: int, bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(statuses=(500,), body=b"no"))
    bench.endpoint(receiver.url(), retries=retries)
    (event_id,) = bench.store()
    detail = bench.settle(event_id, bench.dispatcher())
    assert detail.row.status == "failed"
    assert [item.attempt for item in detail.invocations] == list(range(1, retries + 2))
    assert [item.status_code for item in detail.invocations] == [500] * (retries + 1)
    assert [request.id for request in receiver.received()] == [str(event_id)] * (retries + 1)


def test_an_endpoint_that_recovers_gets_the_event(bench: Bench, receiver: Receiver) -> None:
    receiver.behave("/", Behaviour(statuses=(500, 404, 200)))
    bench.endpoint(receiver.url())
    (event_id,) = bench.store()
    detail = bench.settle(event_id, bench.dispatcher())
    assert detail.row.status == "delivered"
    assert [item.status_code for item in detail.invocations] == [500, 404, 200]


def test_a_retry_goes_on_time_without_waiting_for_the_sweep(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/hook", Behaviour(statuses=(500, 503, 204)))
    bench.endpoint(receiver.url("/hook"), backoff=Backoff(initial_ms=100, factor=2, max_ms=60_000))
    [event_id] = bench.store()
    bench.dispatcher().deliver(1, [event_id])
    wait_until(lambda: bench.status(event_id) == "delivered", 10, "nobody tries it again")
    first, second, third = bench.detail(event_id).invocations
    for before, after, least_ms in ((first, second, 80), (second, third, 160)):
        pause = after.started_at - before.started_at
        assert pause >= timedelta(milliseconds=least_ms)


@pytest.mark.parametrize(
    ("status", "asked", "waits_ms"),
    [(429, "30", 30_000), (503, "86400", 60_000), (500, "30", 6_000)],
)
def test_a_retry_after_is_honoured_up_to_the_longest_back_off(
    status: int, asked: str, waits_ms: int, bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(statuses=(status,), headers={"Retry-After": asked}))
    bench.endpoint(receiver.url(), backoff=Backoff(initial_ms=6_000, factor=1, max_ms=60_000))
    (event_id,) = bench.store()
    before = time.time()
    bench.dispatcher().deliver(1, [event_id])
    next_attempt_at = wait_until(lambda: bench.detail(event_id).row.next_attempt_at)
    assert next_attempt_at is not None
    waits = (next_attempt_at.timestamp() - before) * 1000
    assert waits_ms * 0.8 - 2 <= waits <= waits_ms * 1.2 + 2000


def test_the_back_off_grows_with_each_failure(bench: Bench, receiver: Receiver) -> None:
    receiver.behave("/", Behaviour(statuses=(500,)))
    backoff = Backoff(initial_ms=100, factor=3, max_ms=10_000)
    bench.endpoint(receiver.url(), retries=2, backoff=backoff)
    (event_id,) = bench.store()
    bench.settle(event_id, bench.dispatcher())
    times = [request.at for request in receiver.received()]
    for failures, (earlier, later) in enumerate(itertools.pairwise(times), 1):
        least = delay_ms(failures, backoff.initial_ms, backoff.factor, backoff.max_ms, lambda: 0.0)
        assert (later - earlier) * 1000 >= least - 5


def test_of_an_answer_that_repeats_the_headers_no_secret_is_logged(
    bench: Bench, receiver: Receiver
) -> None:
    headers = (("Authorization", "Bearer s3cret-word"), ("Accept", "text/plain"), ("X-Place", "eu"))
    repeated = "got " + ", ".join(f"{name}: {value}" for name, value in headers)
    answer = Behaviour(statuses=(401,), headers={"X-Got": repeated}, body=repeated.encode())
    receiver.behave("/", answer)
    bench.endpoint(receiver.url(), retries=0, headers=headers)
    (event_id,) = bench.store()
    detail = bench.settle(event_id, bench.dispatcher())
    (invocation,) = detail.invocations
    masked = f"got Authorization: {MASK}, Accept: text/plain, X-Place: eu"
    assert invocation.response_body == masked
    assert ("X-Got", masked) in invocation.response_headers


def test_an_endpoint_that_hangs_fails_after_its_timeout(bench: Bench, receiver: Receiver) -> None:
    receiver.behave("/", Behaviour(hang=True))
    bench.endpoint(receiver.url(), retries=0, timeout_ms=150)
    (event_id,) = bench.store()
    detail = bench.settle(event_id, bench.dispatcher())
    (invocation,) = detail.invocations
    assert (detail.row.status, invocation.error_kind) == ("failed", "timeout")
    assert "within 150 ms" in (invocation.error_message or "")


def test_a_redirect_is_a_failure_and_is_not_followed(bench: Bench, receiver: Receiver) -> None:
    location = {"Location": receiver.url("/elsewhere")}
    receiver.behave("/", Behaviour(statuses=(302,), headers=location))
    bench.endpoint(receiver.url(), retries=0)
    (event_id,) = bench.store()
    detail = bench.settle(event_id, bench.dispatcher())
    assert (detail.row.status, detail.row.last_status_code) == ("failed", 302)
    assert receiver.received("/elsewhere") == []


def test_a_forbidden_address_fails_with_the_way_out_and_gets_nothing(
    bench: Bench, receiver: Receiver
) -> None:
    bench.endpoint(receiver.url(host="localhost"), retries=0)
    (event_id,) = bench.store()
    detail = bench.settle(event_id, bench.dispatcher(AddressGuard()))
    (invocation,) = detail.invocations
    assert (detail.row.status, invocation.error_kind) == ("failed", "forbidden_address")
    assert "WEBHOOK_ALLOWED_NETWORKS" in (invocation.error_message or "")
    assert receiver.connections == 0


def test_a_signing_secret_that_is_none_fails_the_event_and_not_the_lane(
    bench: Bench, receiver: Receiver
) -> None:
    bench.endpoint(receiver.url(), retries=0, signing_secrets=("hunter2!",))
    (event_id,) = bench.store()
    dispatcher = bench.dispatcher()
    detail = bench.settle(event_id, dispatcher)
    assert (detail.row.status, detail.invocations[0].error_kind) == ("failed", "protocol")
    assert "hunter2" not in repr(detail)
    bench.endpoint(receiver.url())
    (next_id,) = bench.store()
    assert bench.settle(next_id, dispatcher).row.status == "delivered"


@pytest.mark.parametrize("concurrency", [1, 5])
def test_no_more_requests_than_the_concurrency_are_under_way(
    concurrency: int, bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(delay_seconds=0.02))
    bench.endpoint(receiver.url(), concurrency=concurrency)
    ids = bench.store(60)
    dispatcher = bench.dispatcher()
    for start in range(0, 60, 20):
        dispatcher.deliver(1, ids[start : start + 20])
    receiver.wait_for(60)
    wait_until(lambda: dispatcher.stats().recorded == 60)
    assert receiver.most_under_way("/") == concurrency


def test_a_hanging_endpoint_does_not_delay_the_events_of_another_trigger(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/hang", Behaviour(hang=True))
    bench.endpoint(receiver.url("/hang"), 1, timeout_ms=60_000, concurrency=20)
    bench.endpoint(receiver.url("/well"), 2)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, bench.store(500, trigger_id=1))
    receiver.wait_for(20, "/hang")
    healthy = bench.store(200, trigger_id=2)
    dispatcher.deliver(2, healthy)
    receiver.wait_for(200, "/well")
    wait_until(lambda: dispatcher.stats().recorded == 200)
    assert len(receiver.received("/hang")) == 20


def test_a_slow_endpoint_is_not_given_claims_it_cannot_send(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(hang=True))
    bench.endpoint(receiver.url(), timeout_ms=60_000, concurrency=2)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, bench.store(1000))
    receiver.wait_for(2)
    wait_until(lambda: dispatcher.stats().under_way == 2)
    assert dispatcher.stats().claimed <= 50
    assert dispatcher.stats().waiting >= 900


def test_stopping_sends_nothing_more_and_gives_back_what_was_not_sent(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(delay_seconds=0.3))
    bench.endpoint(receiver.url(), concurrency=3)
    ids = bench.store(50)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, ids)
    receiver.wait_for(3)
    started = time.monotonic()
    dispatcher.stop(4.0)
    assert time.monotonic() - started < 3
    statuses = [bench.status(event_id) for event_id in ids]
    sent = len(receiver.received())
    assert statuses.count("delivered") == sent
    assert statuses.count("pending") == 50 - sent
    assert 3 <= sent <= 6
    assert bench.log.claim(ids, 1) != []
    dispatcher.deliver(1, ids)
    assert dispatcher.stats().waiting == 0


def test_stopping_breaks_off_what_hangs_and_gives_it_back_uncounted(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(hang=True))
    bench.endpoint(receiver.url(), timeout_ms=60_000, retries=0)
    (event_id,) = bench.store()
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, [event_id])
    receiver.wait_for(1)
    dispatcher.stop(0.3)
    row = bench.detail(event_id).row
    assert (row.status, row.attempts) == ("pending", 0)


def test_a_late_outcome_of_an_older_attempt_changes_nothing(
    bench: Bench, receiver: Receiver, log: PostgresEventLog
) -> None:
    (event_id,) = bench.store()
    (old,) = log.claim([event_id], 0)
    wait_until(lambda: log.expire_leases() == 1)
    receiver.behave("/", Behaviour(statuses=(500,)))
    bench.endpoint(receiver.url(), retries=0)
    detail = bench.settle(event_id, bench.dispatcher())
    assert (detail.row.status, detail.row.attempts) == ("failed", 2)
    assert log.record([make_outcome(old, 200)], "late").moved == 0
    assert bench.status(event_id) == "failed"


def test_two_dispatchers_given_the_same_ids_send_each_event_once(
    bench: Bench, receiver: Receiver, log: PostgresEventLog
) -> None:
    bench.endpoint(receiver.url())
    ids = bench.store(400)
    other = PostgresEventLog(control_database_dsn())
    pair = [bench.dispatcher(), bench.dispatcher(log=other)]
    for start in range(0, 400, 40):
        for dispatcher in pair:
            dispatcher.deliver(1, ids[start : start + 40])
    wait_until(lambda: sum(each.stats().recorded for each in pair) == 400, 20)
    received = [request.id for request in receiver.received()]
    assert sorted(received) == sorted(map(str, ids))
    assert log.counts(1)["delivered"] == 400


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_events_of_a_trigger_that_is_not_active_are_held(
    state: str, bench: Bench, receiver: Receiver
) -> None:
    bench.endpoint(receiver.url(), state=state)
    ids = bench.store(3)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, ids)
    wait_until(lambda: dispatcher.stats().waiting == 0)
    assert {bench.status(event_id) for event_id in ids} == {"pending"}
    bench.endpoint(receiver.url())
    dispatcher.deliver(1, ids)
    receiver.wait_for(3)


def test_events_of_a_deleted_trigger_are_left_to_the_sweep(bench: Bench) -> None:
    ids = bench.store(3, trigger_id=77)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(77, ids)
    wait_until(lambda: dispatcher.stats().waiting == 0)
    assert {bench.status(event_id) for event_id in ids} == {"pending"}


def test_what_finds_no_room_in_a_lane_is_fetched_from_the_log(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(delay_seconds=0.1))
    bench.endpoint(receiver.url(), concurrency=200)
    dispatcher = bench.dispatcher()
    ids = bench.store(2_600)
    dispatcher.deliver(1, ids)
    assert dispatcher.stats().waiting <= 2_000
    receiver.wait_for(2_600, timeout=30)
    wait_until(lambda: bench.log.pending_of([1]) == {1: 0})
    assert {request.id for request in receiver.received()} == set(map(str, ids))


def test_a_worker_that_is_told_of_more_empties_the_backlog_by_itself(
    bench: Bench, receiver: Receiver
) -> None:
    bench.endpoint(receiver.url())
    ids = bench.store(1_000)
    bench.dispatcher().deliver(1, ids[:1], more_are_due=True)
    receiver.wait_for(1_000)


def test_the_concurrency_holds_across_workers(bench: Bench, receiver: Receiver) -> None:
    receiver.behave("/", Behaviour(delay_seconds=0.05))
    bench.endpoint(receiver.url(), concurrency=4)
    ids = bench.store(200)
    dispatchers = [bench.dispatcher() for _ in range(3)]
    for number, dispatcher in enumerate(dispatchers):
        dispatcher.deliver(1, ids[number::3])
    receiver.wait_for(200, timeout=20)
    assert receiver.most_under_way("/") <= 4
    assert sum(dispatcher.stats().recorded > 0 for dispatcher in dispatchers) == 3


def test_a_rate_holds_across_workers(bench: Bench, receiver: Receiver) -> None:
    bench.endpoint(receiver.url(), rate_per_second=50)
    ids = bench.store(150)
    dispatchers = [bench.dispatcher() for _ in range(4)]
    for number, dispatcher in enumerate(dispatchers):
        dispatcher.deliver(1, ids[number::4])
    requests = receiver.wait_for(150, timeout=20)
    took = requests[-1].at - requests[0].at
    # At most what is due and a burst of a fifth of a second; more slowly is no fault of the limit.
    assert took >= (150 - 10) / 50 - 0.25
    assert took < 6


@pytest.mark.parametrize("project_id", [1, 2])
def test_a_backlog_keeps_no_event_of_another_trigger_waiting(
    bench: Bench, receiver: Receiver, project_id: int
) -> None:
    receiver.behave("/busy", Behaviour(delay_seconds=0.05))
    bench.endpoint(receiver.url("/busy"), concurrency=2)
    bench.endpoint(receiver.url("/quiet"), 2, project_id=project_id)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, bench.store(3_000), more_are_due=True)
    receiver.wait_for(10, "/busy")
    for number in range(1, 6):
        dispatcher.deliver(2, bench.store(trigger_id=2, project_id=project_id))
        receiver.wait_for(number, "/quiet")
    # At two requests in a twentieth of a second the backlog would have taken more than a minute.
    assert bench.log.pending_of([1])[1] > 1_000


@pytest.mark.parametrize("workers", [1, 3])
def test_events_of_a_document_arrive_in_order_whatever_fails(
    bench: Bench, receiver: Receiver, workers: int
) -> None:
    # Every third request fails once or twice.
    receiver.behave("/", Behaviour(statuses=(200, 500, 200, 200, 503, 500) * 100))
    bench.endpoint(receiver.url(), retries=100)
    rule = Rule(1, "orders", (), frozenset(("insert",)), ordered=True)
    builder = EventBuilder(ORIGIN, NODE_ID, Matcher([rule]))
    events = builder.events([make_change(document_id=str(n % 7)) for n in range(140)])
    bench.log.append(ORIGIN, events, None, "1")
    dispatchers = [bench.dispatcher() for _ in range(workers)]
    for number, event in enumerate(events):
        dispatchers[number % workers].deliver(1, [event.id])

    def is_done() -> bool:
        for chunk in bench.log.due([1]):
            dispatchers[0].deliver(chunk.trigger_id, chunk.event_ids)
        return bench.log.pending_of([1]) == {1: 0}

    wait_until(is_done, 30)
    for document in range(7):
        wanted = [event.id_text for event in events if event.document_id == str(document)]
        sent = [
            request.json()["id"]
            for request in receiver.received()
            if request.json()["data"]["docId"] == str(document)
        ]
        # Repeats of one event stand together.
        assert [event_id for event_id, _ in itertools.groupby(sent)] == wanted


def test_what_waits_goes_in_batches_and_each_event_has_its_own_log(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(delay_seconds=0.2))
    bench.endpoint(receiver.url(), format="cloudevents-batch", concurrency=2)
    ids = bench.store(350)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, ids[:1])
    dispatcher.deliver(1, ids[1:])
    wait_until(lambda: bench.log.pending_of([1]) == {1: 0})
    bodies = [orjson.loads(request.body) for request in receiver.received()]
    assert sorted(event["id"] for body in bodies for event in body) == sorted(map(str, ids))
    assert max(map(len, bodies)) == 100
    assert len(bodies) <= 10
    (invocation,) = bench.detail(ids[-1]).invocations
    assert invocation.status_code == 200
    assert dict(invocation.request_headers)["webhook-id"] in {
        request.id for request in receiver.received()
    }


@pytest.mark.parametrize("format", ["spacecloud", "cloudevents-batch"])
def test_an_event_without_a_payload_fails_with_the_reason_and_the_others_go_on(
    bench: Bench, receiver: Receiver, format: str
) -> None:
    bench.endpoint(receiver.url(), format=format, retries=3)
    bare, *others = bench.store(3)
    with psycopg2.connect(control_database_dsn()) as connection, connection.cursor() as cursor:
        forget = "UPDATE mission_control.event_log SET payload = NULL WHERE id = %s"
        cursor.execute(forget, [str(bare)])
    connection.close()
    bench.dispatcher().deliver(1, [bare, *others])
    wait_until(lambda: bench.log.pending_of([1]) == {1: 0})
    assert [bench.status(each) for each in (bare, *others)] == ["failed", "delivered", "delivered"]
    (attempt,) = bench.detail(bare).invocations
    assert "older than payloads are kept" in str(attempt.error_message)


def test_an_event_that_failed_in_a_batch_is_tried_again_alone(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/", Behaviour(statuses=(500, 200), delay_seconds=0.1))
    bench.endpoint(receiver.url(), format="cloudevents-batch", concurrency=1)
    ids = bench.store(3)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, ids)
    for event_id in ids:
        bench.settle(event_id, dispatcher)
    assert [len(orjson.loads(each.body)) for each in receiver.received()] == [3, 1, 1, 1]
    assert bench.detail(ids[0]).row.attempts == 2


def test_an_endpoint_that_fails_all_the_time_is_left_alone_until_a_probe_succeeds(
    bench: Bench, receiver: Receiver
) -> None:
    trigger = make_trigger(make_project(), receiver.url())
    receiver.behave("/", Behaviour(statuses=(500,)))
    bench.endpoint(receiver.url(), trigger.pk, retries=0)
    ids = bench.store(40, trigger_id=trigger.pk)
    dispatcher = bench.dispatcher(tolerance=Tolerance(failures=5, seconds=0))
    dispatcher.deliver(trigger.pk, ids[:5])
    wait_until(lambda: Breaker.objects.filter(pk=trigger.pk).exists())
    wait_until(lambda: dispatcher.stats().unrecorded == 0)
    breaker = Breaker.objects.get()
    assert breaker.reason.startswith("5 attempts in a row failed")
    assert breaker.reason.endswith("the last one with the status 500")
    receiver.behave("/", Behaviour())
    bench.endpoint(receiver.url(), trigger.pk, retries=0, breaker_is_open=True)
    dispatcher.deliver(trigger.pk, ids[5:])
    wait_until(lambda: dispatcher.stats().waiting == 0)
    assert len(receiver.received()) == 5
    assert bench.status(ids[5]) == "pending"
    assert triggers_to_probe() == []
    Breaker.objects.update(next_probe_at=breaker.opened_at)
    assert triggers_to_probe() == [trigger.pk]
    assert take_probe(trigger.pk)
    assert not take_probe(trigger.pk)
    dispatcher.deliver(trigger.pk, ids[5:], is_probe=True)
    wait_until(lambda: not Breaker.objects.exists())
    assert len(receiver.received()) == 6
    bench.endpoint(receiver.url(), trigger.pk, retries=0)
    dispatcher.deliver(trigger.pk, [], more_are_due=True)
    receiver.wait_for(40)


class _BreakersThatBreak:
    """Fails in a way that nobody foresaw, once it is let."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_fail = threading.Event()

    def open(self, trigger_id: int, reason: str) -> None:
        self.asked.set()
        self.may_fail.wait(30)
        raise RuntimeError("nobody foresaw this")

    def close(self, trigger_id: int) -> None:
        """Nothing is ever open."""


def test_what_goes_back_does_so_although_what_is_recorded_with_it_fails(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.behave("/hangs", Behaviour(hang=True))
    receiver.behave("/fails", Behaviour(statuses=(500,)))
    bench.endpoint(receiver.url("/hangs"), 1, concurrency=1, timeout_ms=60_000)
    bench.endpoint(receiver.url("/fails"), 2, retries=0)
    held, failing = bench.store(10, trigger_id=1), bench.store(2, trigger_id=2)
    breakers = _BreakersThatBreak()
    dispatcher = bench.dispatcher(breakers=breakers, tolerance=Tolerance(failures=1, seconds=0))
    dispatcher.deliver(1, held)
    receiver.wait_for(1, "/hangs")
    wait_until(lambda: dispatcher.stats().claimed == 9)
    dispatcher.deliver(2, failing[:1])
    assert breakers.asked.wait(30)
    # While the recording thread is busy, claims come to be released, and an outcome recorded.
    bench.endpoint(receiver.url("/hangs"), 1, concurrency=1, timeout_ms=60_000, state="paused")
    dispatcher.deliver(1, held)
    wait_until(lambda: dispatcher.stats().claimed == 0)
    dispatcher.deliver(2, failing[1:])
    wait_until(lambda: dispatcher.stats().unrecorded == 2)
    breakers.may_fail.set()
    wait_until(lambda: [bench.status(each) for each in held].count("pending") == 9)


def test_breakers_outlive_a_connection_that_was_closed_under_them(bench: Bench) -> None:
    trigger = make_trigger(make_project(), "https://example.com/")
    breakers = Breakers()
    for change in (
        lambda: breakers.open(trigger.pk, "it fails"),
        lambda: breakers.close(trigger.pk),
    ):
        connection.ensure_connection()
        # It goes at the one moment after the check that it is there.
        connection.close_at, connection.health_check_enabled = None, False
        connection.connection.close()
        change()
    breakers.open(trigger.pk, "it fails")
    assert Breaker.objects.get().reason == "it fails"
    breakers.close(trigger.pk)
    assert not Breaker.objects.exists()


def test_outcomes_wait_for_a_log_that_is_away_and_are_then_recorded(
    bench: Bench, receiver: Receiver, log: PostgresEventLog
) -> None:
    receiver.behave("/", Behaviour(delay_seconds=0.3))
    bench.endpoint(receiver.url())
    ids = bench.store(20)
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, ids)
    receiver.wait_for(20)
    # The recording is held up by a lock, and its connection then cut, as in a failover.
    blocker = psycopg2.connect(control_database_dsn())
    with blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE mission_control.delivery IN ACCESS EXCLUSIVE MODE")
        cut = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        wait_until(lambda: count(cut) > 0)
        wait_until(lambda: count(cut) > 0)
    assert dispatcher.stats().recorded == 0
    blocker.rollback()
    blocker.close()
    wait_until(lambda: dispatcher.stats().recorded == 20)
    assert {bench.status(event_id) for event_id in ids} == {"delivered"}
    assert len(receiver.received()) == 20
    assert count("SELECT count(*) FROM mission_control.invocation_log") == 20


def test_a_single_event_is_sent_and_recorded_at_once(bench: Bench, receiver: Receiver) -> None:
    bench.endpoint(receiver.url())
    dispatcher = bench.dispatcher()
    dispatcher.deliver(1, bench.store())
    wait_until(lambda: dispatcher.stats().recorded == 1)
    (event_id,) = bench.store()
    handed_over = time.monotonic()
    dispatcher.deliver(1, [event_id])
    (_, request) = receiver.wait_for(2)
    assert request.at - handed_over < 0.25
    wait_until(lambda: dispatcher.stats().recorded == 2, 0.5)


def test_many_events_are_each_sent_and_logged_once(bench: Bench, receiver: Receiver) -> None:
    bench.endpoint(receiver.url())
    ids = bench.store(2_000)
    dispatcher = bench.dispatcher()
    for start in range(0, len(ids), 200):
        dispatcher.deliver(1, ids[start : start + 200])
    wait_until(lambda: dispatcher.stats().recorded == len(ids), 30)
    assert sorted(request.id for request in receiver.received()) == sorted(map(str, ids))
    assert count("SELECT count(*) FROM mission_control.delivery") == 0
    assert count("SELECT count(*) FROM mission_control.invocation_log") == len(ids)
    stats = dispatcher.stats()
    assert (stats.waiting, stats.claimed, stats.under_way, stats.unrecorded) == (0, 0, 0, 0)


def test_a_test_request_is_sent_like_an_event_and_logged_nowhere(
    bench: Bench, receiver: Receiver
) -> None:
    endpoint = bench.endpoint(receiver.url("/try"), headers=(("X-Key", "hidden"),))
    (event,) = make_events([make_change()])
    exchange = test_request(endpoint, event.payload, OPEN)
    assert exchange.succeeded
    assert ("X-Key", MASK) in exchange.request_headers
    (request,) = receiver.received("/try")
    assert (request.id, request.headers["x-key"]) == (str(event.id), "hidden")
    refused = test_request(endpoint, event.payload, AddressGuard())
    assert refused.error_kind == "forbidden_address"
    assert count("SELECT count(*) FROM mission_control.invocation_log") == 0
