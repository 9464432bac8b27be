"""The Celery tasks, a few lines each: what they do is in delivery and sweep."""

import atexit
import gc
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from celery import shared_task
from celery.beat import Service
from celery.concurrency.thread import TaskPool
from celery.signals import beat_init, worker_init, worker_ready, worker_shutdown
from celery.worker.consumer import Consumer
from django.conf import settings
from django.db import close_old_connections

from eventing import health, notifications, redeliveries
from eventing.breakers import Breakers
from eventing.delivery import Dispatcher
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.webhook import WebhookDestination
from eventing.endpoints import Endpoints
from eventing.eventing_dbs import BUILTIN, external_numbers, log_numbered, owner_of
from eventing.limits import SharedLimits
from eventing.sweep import settle_statistics as settle_statistics_once
from eventing.sweep import sweep_patiently
from eventing.sweep import upkeep as upkeep_once

STOP_SECONDS: Final = 4.0
# How often at most is done what beat asks for once a second, should its messages have piled up. The
# messages do not expire: that would compare the clocks of two machines.
_LEAST_SECONDS: Final = 0.5
_SIGN_OFF_SECONDS: Final = 1.0

logger = structlog.get_logger(__name__)


def _process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class _Pulse:
    """Says every few seconds that this process lives, and what hinders it, until it ends.

    `is_at_work`: a process that is not, though it lives, is not said to.
    """

    def __init__(
        self, process: str, hindrance: Callable[[], str], is_at_work: Callable[[], bool]
    ) -> None:
        self._process = process
        self._name = _process_name()
        self._hindrance = hindrance
        self._is_at_work = is_at_work
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sign off, if the control database takes that in time."""
        self._stopped.set()
        self._thread.join(_SIGN_OFF_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                close_old_connections()
                if self._is_at_work():
                    health.beat(self._process, self._name, self._hindrance())
                if self._stopped.wait(health.HEARTBEAT_SECONDS):
                    health.sign_off(self._process, self._name)
                    return
            except Exception:
                logger.exception("the heartbeat could not be written")
                if self._stopped.wait(health.HEARTBEAT_SECONDS):
                    return


class _Worker:
    """What this process sends events with, made when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._destination: WebhookDestination | None = None
        self._dispatchers: dict[int, Dispatcher] = {}
        self.name = _process_name()
        # Containers on two machines may agree in both, and must not share what each is allotted.
        self._place = f"{self.name}/{secrets.token_hex(4)}"

    def dispatcher(self, log_number: int) -> Dispatcher:
        """What delivers from the log with this number. Raises LogUnavailable if it is gone."""
        with self._lock:
            if log_number not in self._dispatchers:
                log = log_numbered(log_number)
                if self._destination is None:
                    guard = AddressGuard(settings.WEBHOOK_ALLOWED_NETWORKS)
                    self._destination = WebhookDestination(guard)
                self._dispatchers[log_number] = Dispatcher(
                    log,
                    self._destination,
                    Endpoints(owner_of(log_number)).of_trigger,
                    SharedLimits(f"{self._place}/{log_number}"),
                    Breakers(),
                    self.name,
                )
            return self._dispatchers[log_number]

    def hindrance(self) -> str:
        """What keeps this process from some of its work; empty if nothing does."""
        return next(
            filter(None, (each.hindrance for each in self._dispatchers.copy().values())), ""
        )

    def stop(self) -> None:
        stopping = [
            threading.Thread(target=dispatcher.stop, args=[STOP_SECONDS])
            for dispatcher in self._dispatchers.values()
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()


class _Pace:
    """How often this process does what it is asked for again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done_at: dict[str, float] = {}

    def allows(self, what: str) -> bool:
        """Whether it is time for it; it then counts as done."""
        now = time.monotonic()
        with self._lock:
            if now - self._done_at.get(what, float("-inf")) < _LEAST_SECONDS:
                return False
            self._done_at[what] = now
            return True


_worker = _Worker()
_pace = _Pace()


@worker_init.connect
@beat_init.connect
def _refuse_newer_tables(**_: object) -> None:
    try:
        health.refuse_newer_tables()
    except health.NewerTables as error:
        sys.exit(f"mission_control: {error}")


@beat_init.connect
def _show_that_beat_lives(sender: Service, **_: object) -> None:
    """Several of them are several, and one that hangs is none."""
    asked = sender.scheduler.schedule["sweep"].total_run_count

    def has_asked() -> bool:
        nonlocal asked
        before, asked = asked, sender.scheduler.schedule["sweep"].total_run_count
        return bool(asked > before)

    # It ends by an exception, and has no signal for that.
    atexit.register(_Pulse("beat", str, has_asked).stop)


@worker_ready.connect
def _start(sender: Consumer, **_: object) -> None:
    _start_threads(sender.pool)
    pulse = _Pulse("worker", _worker.hindrance, lambda: True)
    worker_shutdown.connect(lambda **_: pulse.stop(), weak=False)
    # What is there now stays, and looking through all of it takes a tenth of a second.
    gc.collect()
    gc.freeze()
    # Connections are opened now, lest the first event wait for them.
    _worker.dispatcher(BUILTIN)


def _start_threads(pool: TaskPool) -> None:
    """Start all threads that the pool may have: where memory is short later there would be none.

    Celery starts one when a task needs it, and ends the worker if it cannot.
    """
    all_are_there = threading.Event()
    for _ in range(pool.limit):
        pool.executor.submit(all_are_there.wait)
    all_are_there.set()


@worker_shutdown.connect
def _stop(**_: object) -> None:
    _worker.stop()


@shared_task(name="eventing.tasks.deliver_chunks")
def deliver_chunks(
    chunks: list[tuple[int, list[str], bool]], log_number: int = BUILTIN, are_probes: bool = False
) -> None:
    """Send these events, as far as they still wait in the log of that number: of each trigger some
    ids, and whether more of it are due."""
    close_old_connections()
    dispatcher = _worker.dispatcher(log_number)
    for trigger_id, event_ids, more_are_due in chunks:
        ids = [UUID(hex=event_id) for event_id in event_ids]
        dispatcher.deliver(trigger_id, ids, more_are_due, are_probes)


@shared_task(name="eventing.tasks.deliver")
def deliver(
    trigger_id: int,
    event_ids: list[str],
    log_number: int = BUILTIN,
    more_are_due: bool = False,
    is_probe: bool = False,
) -> None:
    """What earlier versions sent and the broker still holds: one chunk a message."""
    deliver_chunks([(trigger_id, event_ids, more_are_due)], log_number, is_probe)


@shared_task(name="eventing.tasks.sweep")
def sweep() -> None:
    """Enqueue what is due; called every second.

    Every other log is swept by a task of its own, so that one that hangs keeps none waiting.
    """
    if not _pace.allows("sweep"):
        return
    close_old_connections()
    for number in external_numbers():
        sweep_external.apply_async(args=[number], queue="upkeep")
    for redelivery_id in redeliveries.waiting():
        redeliver.apply_async(args=[redelivery_id], queue="upkeep")
    sweep_patiently(BUILTIN)


@shared_task(name="eventing.tasks.sweep_external")
def sweep_external(log_number: int) -> None:
    """Enqueue what is due in a log that is not the built-in one, unless that is going on."""
    if _pace.allows(f"sweep {log_number}"):
        close_old_connections()
        sweep_patiently(log_number)


@shared_task(name="eventing.tasks.redeliver")
def redeliver(redelivery_id: int) -> None:
    """Go on with a redelivery of everything that matches a filter."""
    if _pace.allows(f"redeliver {redelivery_id}"):
        close_old_connections()
        redeliveries.advance(redelivery_id)


@shared_task(name="eventing.tasks.settle_statistics")
def settle_statistics() -> None:
    """What charts read; called every minute."""
    close_old_connections()
    settle_statistics_once()


@shared_task(name="eventing.tasks.watch")
def watch() -> None:
    """Look for troubles and tell of them; called every ten seconds."""
    close_old_connections()
    notifications.watch()
    notifications.send_due()


@shared_task(name="eventing.tasks.upkeep")
def upkeep() -> None:
    """Partitions and retention; called every ten minutes."""
    close_old_connections()
    upkeep_once()
