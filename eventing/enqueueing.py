"""Telling the workers which events wait, by small messages of some chunks each.

The event log is the truth: a message that cannot be sent is logged, never an error, because the
sweep finds its events again.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from celery import current_app
from kombu.exceptions import LimitExceeded, OperationalError

from eventing.logs.base import DueChunk
from eventing.logs.chunks import CHUNK_SIZE, chunked

DELIVER_QUEUE: Final = "deliver"
_PAUSE_SECONDS: Final = 2.0
# A connection that was closed fails sooner than a broker that does not answer.
_AT_ONCE_SECONDS: Final = 1.5
# A message costs a worker as much as twenty events do, so under load events go together: the more
# there were, the longer the next ones wait for others.
_LEAST_PAUSE_SECONDS: Final = 0.004
_PAUSE_SECONDS_AN_EVENT: Final = 0.0003
_LONGEST_PAUSE_SECONDS: Final = 0.05
# Of the events of one trigger that wait for the broker, only this many are told by id.
_MOST_AT_ONCE: Final = 2_000

logger = structlog.get_logger(__name__)


class Enqueuer:
    """Sends chunks to the workers; after a failure it leaves the broker alone for two seconds."""

    def __init__(self) -> None:
        self._paused_until = 0.0

    def enqueue(
        self, chunks: Sequence[DueChunk], log_number: int, are_probes: bool = False
    ) -> None:
        """Tell of chunks of the log with this number. Never raises, never waits long.

        Probes are delivered although the breakers of their triggers are open.
        """
        if not chunks or time.monotonic() < self._paused_until:
            return
        messages = _messages(chunks)
        for number, told in enumerate(messages):
            try:
                _send([told, log_number, are_probes])
            except connection_errors() as error:
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                logger.warning(
                    "the broker did not take a message; the sweep will enqueue its events",
                    error=str(error),
                    messages=len(messages) - number,
                )
                return


def _messages(chunks: Sequence[DueChunk]) -> list[list[tuple[int, list[str], bool]]]:
    """Chunks as (trigger id, ids, more), as many in a message as have 200 ids together: one change
    that many triggers match is told of once."""
    messages: list[list[tuple[int, list[str], bool]]] = []
    room = 0
    for chunk in chunks:
        count = max(1, len(chunk.event_ids))
        if not messages or count > room:
            messages.append([])
            room = CHUNK_SIZE
        room -= count
        ids = [event_id.hex for event_id in chunk.event_ids]
        messages[-1].append((chunk.trigger_id, ids, chunk.more))
    return messages


def _send(arguments: list[Any]) -> None:
    """Send one message, over a new connection if the broker closed the one at hand for being idle
    (RabbitMQ does after minutes), or has been restarted."""
    begun_at = time.monotonic()
    try:
        _send_once(arguments)
    except connection_errors():
        if time.monotonic() - begun_at > _AT_ONCE_SECONDS:
            raise
        _send_once(arguments)


def _send_once(arguments: list[Any]) -> None:
    current_app.send_task(
        "eventing.tasks.deliver_chunks", args=arguments, queue=DELIVER_QUEUE, retry=False
    )


enqueuer = Enqueuer()


class BackgroundEnqueuer:
    """Enqueues on a thread of its own, so that who stores need not wait for the broker.

    What comes while a message is on its way goes into the next one together. Of very much only a
    little is sent: the workers claim the rest from the log.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, int], list[str]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def put(self, trigger_id: int, event_ids: Sequence[str], log_number: int) -> None:
        """Have these events of a trigger, named by their ids' texts, enqueued as soon as may be."""
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="enqueues", daemon=True)
                self._thread.start()
            waiting = self._waiting.setdefault((trigger_id, log_number), [])
            room = _MOST_AT_ONCE - len(waiting)
            waiting.extend(event_ids[: max(0, room)])
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, for a moment at most; the sweep finds what is left."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(_PAUSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                waiting, self._waiting = self._waiting, {}
            if not waiting:
                return
            sent_at = time.monotonic()
            count = sum(map(len, waiting.values()))
            chunks: dict[int, list[DueChunk]] = defaultdict(list)
            for (trigger_id, log_number), event_ids in waiting.items():
                is_much = len(event_ids) >= _MOST_AT_ONCE
                told = event_ids[:CHUNK_SIZE] if is_much else event_ids
                chunks[log_number] += (
                    chunk._replace(more=is_much)
                    for chunk in chunked({trigger_id: list(map(UUID, told))})
                )
            for log_number, of_log in chunks.items():
                enqueuer.enqueue(of_log, log_number)
            pause = _LEAST_PAUSE_SECONDS + _PAUSE_SECONDS_AN_EVENT * count
            go_on_at = sent_at + min(pause, _LONGEST_PAUSE_SECONDS)
            time.sleep(max(0.0, go_on_at - time.monotonic()))


def waiting_messages() -> int | None:
    """How many chunks wait for a worker; None if the broker does not answer."""
    try:
        with current_app.pool.acquire(block=True, timeout=2) as connection:
            # Not a passive one: for a queue that nobody has used, and in Redis for an empty one,
            # that is an error, and then the connection could not be used again.
            declared = connection.default_channel.queue_declare(
                DELIVER_QUEUE, durable=True, auto_delete=False
            )
            return int(declared.message_count)
    except connection_errors() as error:
        logger.warning("the broker did not tell how many messages wait", error=str(error))
        return None


def connection_errors() -> tuple[type[Exception], ...]:
    """What the broker's client raises when the broker is away, or takes nothing (it is full)."""
    connection = current_app.connection_for_write()
    errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    return (OperationalError, LimitExceeded, *errors)
