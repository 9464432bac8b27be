"""The Celery tasks, a few lines each: what they do is in delivery and sweep."""

import os
import socket
import threading
import time
from uuid import UUID

import structlog
from celery import shared_task
from celery.signals import worker_ready, worker_shutdown
from django.conf import settings
from django.db import close_old_connections

from eventing import health
from eventing.delivery import Dispatcher
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.webhook import WebhookDestination
from eventing.endpoints import Endpoints
from eventing.logs import event_log
from eventing.sweep import sweep as sweep_once
from eventing.sweep import upkeep as upkeep_once

STOP_SECONDS = 4.0

logger = structlog.get_logger(__name__)


class _Worker:
    """What this process sends events with, made when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._stopped = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def dispatcher(self) -> Dispatcher:
        with self._lock:
            if self._dispatcher is None:
                guard = AddressGuard(settings.WEBHOOK_ALLOWED_NETWORKS)
                self._dispatcher = Dispatcher(
                    event_log(), WebhookDestination(guard), Endpoints().of_trigger, self.name
                )
            return self._dispatcher

    def beat(self) -> None:
        """Say every few seconds that this process lives, until it stops."""
        while not self._stopped.wait(health.HEARTBEAT_SECONDS):
            try:
                close_old_connections()
                health.beat("worker", self.name)
            except Exception:
                logger.exception("the heartbeat could not be written")

    def stop(self) -> None:
        self._stopped.set()
        if self._dispatcher is not None:
            self._dispatcher.stop(STOP_SECONDS)


_worker = _Worker()


@worker_ready.connect
def _start(**_: object) -> None:
    health.beat("worker", _worker.name)
    threading.Thread(target=_worker.beat, name="heartbeat", daemon=True).start()


@worker_shutdown.connect
def _stop(**_: object) -> None:
    _worker.stop()


@shared_task(name="eventing.tasks.deliver")
def deliver(trigger_id: int, event_ids: list[str]) -> None:
    """Send these events of one trigger, as far as they still wait."""
    _worker.dispatcher().deliver(trigger_id, [UUID(hex=event_id) for event_id in event_ids])


@shared_task(name="eventing.tasks.sweep")
def sweep() -> None:
    """Enqueue what is due; called every second, which also shows that beat lives."""
    close_old_connections()
    sweep_once()
    if int(time.time()) % int(health.HEARTBEAT_SECONDS) == 0:
        health.beat("beat", "beat")


@shared_task(name="eventing.tasks.upkeep")
def upkeep() -> None:
    """Partitions and retention; called every ten minutes."""
    close_old_connections()
    upkeep_once()
