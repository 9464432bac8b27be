"""Telling the workers which events wait, by one small message per chunk.

The event log is the truth: a message that cannot be sent is logged and counted, never an error,
because the sweep finds its events again.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog
from celery import current_app
from kombu.exceptions import OperationalError

from eventing.logs.base import DueChunk

DELIVER_QUEUE: Final = "deliver"
_PAUSE_SECONDS: Final = 2.0

logger = structlog.get_logger(__name__)


class Enqueuer:
    """Sends chunks to the workers; after a failure it leaves the broker alone for two seconds."""

    def __init__(self) -> None:
        self._paused_until = 0.0
        self.lost_messages = 0

    def enqueue(
        self, chunks: Sequence[DueChunk], log_number: int, are_probes: bool = False
    ) -> None:
        """Send one message a chunk of the log with this number. Never raises, never waits long.

        Probes are delivered although the breakers of their triggers are open.
        """
        if not chunks or time.monotonic() < self._paused_until:
            self.lost_messages += len(chunks)
            return
        for number, chunk in enumerate(chunks):
            try:
                current_app.send_task(
                    "eventing.tasks.deliver",
                    args=[
                        chunk.trigger_id,
                        [event_id.hex for event_id in chunk.event_ids],
                        log_number,
                        chunk.more,
                        are_probes,
                    ],
                    queue=DELIVER_QUEUE,
                    retry=False,
                )
            except (OperationalError, OSError) as error:
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                self.lost_messages += len(chunks) - number
                logger.warning(
                    "the broker did not take a message; the sweep will enqueue its events",
                    error=str(error),
                    messages=len(chunks) - number,
                )
                return


enqueuer = Enqueuer()


def waiting_messages() -> int | None:
    """How many chunks wait for a worker; None if the broker does not answer."""
    try:
        with current_app.pool.acquire(block=True, timeout=2) as connection:
            try:
                declared = connection.default_channel.queue_declare(DELIVER_QUEUE, passive=True)
            except connection.channel_errors:
                # An empty queue does not exist in Redis.
                return 0
            return int(declared.message_count)
    except connection_errors() as error:
        logger.warning("the broker did not tell how many messages wait", error=str(error))
        return None


def connection_errors() -> tuple[type[Exception], ...]:
    """What the broker's client raises when the broker is away."""
    connection = current_app.connection_for_write()
    errors = (*connection.connection_errors, *connection.channel_errors, OSError)
    return (OperationalError, *errors)
