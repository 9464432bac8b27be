"""What reaches the queue of the workers, on a real broker that nobody reads."""

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
from tests.servers import RedisServer

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


def test_events_are_told_in_order_in_messages_of_one_trigger(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    enqueuer.put(1, TEXTS[:250], 0)
    enqueuer.put(2, TEXTS[250:251], 7)
    enqueuer.close()
    told = [
        (each[0], each[2], [uuid.UUID(hex=text) for text in each[1]]) for each in messages(broker)
    ]
    assert sorted(told) == sorted([(1, 0, IDS[:200]), (1, 0, IDS[200:250]), (2, 7, IDS[250:251])])
    assert waiting_messages() == 3


def test_of_very_many_only_the_first_are_told_and_that_there_are_more(broker: Any) -> None:
    enqueuer = BackgroundEnqueuer()
    enqueuer.put(1, TEXTS, 0)
    enqueuer.close()
    (only,) = messages(broker)
    assert only[1] == [event_id.hex for event_id in IDS[:200]]
    assert only[3] is True
