"""What reaches the queue of the workers, on a real broker that nobody reads."""

import time
import uuid
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import redis
from django.conf import settings

from config.celery import app
from eventing.enqueueing import DELIVER_QUEUE, BackgroundEnqueuer, waiting_messages
from eventing.enqueueing import enqueuer as shared_enqueuer
from tests.servers import RedisServer
from tests.waiting import wait_until

IDS = [uuid.uuid4() for _ in range(2_500)]
TEXTS = [str(event_id) for event_id in IDS]


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator["redis.Redis[bytes]"]:
    app.set_current()
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.delete(DELIVER_QUEUE)
    yield client
    client.delete(DELIVER_QUEUE)
    client.close()


def messages(broker: "redis.Redis[bytes]") -> list[list[Any]]:
    """The arguments of the waiting tasks, oldest first."""
    found = reversed(broker.lrange(DELIVER_QUEUE, 0, -1))
    return [orjson.loads(b64decode(orjson.loads(each)["body"]))[0] for each in found]


def test_events_are_told_in_order(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    enqueuer.put(1, TEXTS[:250], 0)
    enqueuer.put(2, TEXTS[250:251], 7)
    enqueuer.close()
    assert sorted(told(broker), key=str) == sorted(
        [(0, {1: IDS[:200]}), (0, {1: IDS[200:250]}), (7, {2: IDS[250:251]})], key=str
    )
    assert waiting_messages() == 3


def test_what_many_triggers_get_of_one_change_is_told_together(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    # The first one may leave at once; the others come while the sending thread pauses.
    for trigger_id in range(1, 251):
        enqueuer.put(trigger_id, TEXTS[trigger_id : trigger_id + 1], 0)
    enqueuer.close()
    found = told(broker)
    together = {trigger_id: ids for _, each in found for trigger_id, ids in each.items()}
    assert together == {trigger_id: [IDS[trigger_id]] for trigger_id in range(1, 251)}
    assert max(len(each) for _, each in found) <= 200
    assert len(found) < 125


def told(broker: Any) -> list[tuple[int, dict[int, list[uuid.UUID]]]]:
    """The log of each message, and the events of each trigger in it."""
    return [
        (log_number, {trigger_id: list(map(uuid.UUID, ids)) for trigger_id, ids, _ in chunks})
        for chunks, log_number, _ in messages(broker)
    ]


def test_who_looks_at_the_queue_again_and_again_opens_no_connection_each_time(broker: Any) -> None:
    def opened() -> int:
        return int(broker.info("stats")["total_connections_received"])

    assert waiting_messages() == 0
    before = opened()
    for _ in range(5):
        assert waiting_messages() == 0
    assert opened() == before
    # The broker forgets its clients, as one that was restarted does.
    broker.client_kill_filter(_type="normal", skipme=True)
    assert 0 in (waiting_messages(), waiting_messages())


def test_a_message_goes_out_although_the_broker_has_closed_the_connection(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    enqueuer.put(1, TEXTS[:1], 0)
    wait_until(lambda: len(messages(broker)) == 1, 10)
    broker.client_kill_filter(_type="normal", skipme=True)
    enqueuer.put(1, TEXTS[1:2], 0)
    enqueuer.close()
    assert told(broker) == [(0, {1: [event_id]}) for event_id in IDS[:2]]


def test_a_broker_that_was_full_is_told_again_once_it_has_room(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    broker.config_set("maxmemory", 1)
    try:
        enqueuer.put(1, TEXTS[:1], 0)
        wait_until(lambda: is_left_alone(), 10, "the broker took it")
    finally:
        broker.config_set("maxmemory", 0)
    wait_until(lambda: not is_left_alone(), 10)
    enqueuer.put(1, TEXTS[1:2], 0)
    enqueuer.close()
    assert told(broker) == [(0, {1: [IDS[1]]})]


def is_left_alone() -> bool:
    """Whether the broker, having failed, is left alone at present."""
    return shared_enqueuer._paused_until > time.monotonic()


def test_of_very_many_only_the_first_are_told_and_that_there_are_more(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    enqueuer.put(1, TEXTS, 0)
    enqueuer.close()
    (((only,), _, _),) = messages(broker)
    assert only == [1, [event_id.hex for event_id in IDS[:200]], True]
