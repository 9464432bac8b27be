"""`manage.py capture`: one child process for each database that is to be captured.

Any number of these may run on any number of machines: they share the databases evenly, and a lease
decides which of them captures which. A child that dies is started again, and its neighbours never
notice.
"""

import ctypes
import gc
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any, Final

import structlog
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections

from eventing import health
from eventing.capture import (
    abandoned_databases,
    capture_database,
    databases_to_capture,
    has_retired_sources_due,
    number_of_databases,
    remove_retired_sources,
)
from eventing.problems import first_line
from eventing.sharing import FairShare

_LOOK_SECONDS: Final = 0.5
_SWITCH_SECONDS: Final = 0.0005
_STOP_SECONDS: Final = 4.0
_RESTART_SECONDS: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1

logger = structlog.get_logger(__name__)


class Command(BaseCommand):
    help = "Capture the changes of every database of every project whose eventing is enabled."
    # Django's checks would import all pages first, none of which this process needs.
    requires_system_checks = ()

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            health.refuse_newer_tables()
        except health.NewerTables as error:
            raise CommandError(str(error)) from None
        Supervisor().run()


class Supervisor:
    """Starts children, reaps them, and hands a termination on to them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("fork")
        self._children: dict[int, ForkProcess] = {}
        self._not_before: dict[int, float] = {}
        self._remover: ForkProcess | None = None
        self._share = FairShare()
        # Children that have been asked to end, so that another process takes their databases.
        self._leaving: set[int] = set()
        self._processes = 1
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._beat_at = float("-inf")
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then within five seconds."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        # What is there now stays: neither this process nor its children need look through it again.
        gc.collect()
        gc.freeze()
        # Storing waits for Postgres a dozen times a batch, and each time again for the interpreter
        # that reads the next one.
        sys.setswitchinterval(_SWITCH_SECONDS)
        logger.info("capture is running")
        while not self._stopping:
            try:
                self._look()
            except Error as error:
                connections.close_all()
                logger.warning("the control database does not answer", error=first_line(error))
            _sleep(_LOOK_SECONDS, lambda: self._stopping)
        self._end_children()
        self._sign_off()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _look(self) -> None:
        self._reap()
        now = time.monotonic()
        if now - self._beat_at >= health.HEARTBEAT_SECONDS:
            health.beat("capture", self._name)
            self._processes = health.alive("capture")
            self._beat_at = now
        self._balance(now)
        if self._remover is None and has_retired_sources_due():
            self._remover = self._fork("remove-sources", _remover_child)

    def _balance(self, now: float) -> None:
        """Take databases that nobody captures; let go of some while others have fewer."""
        databases = number_of_databases()
        free = [
            database_id
            for database_id in databases_to_capture()
            if database_id not in self._children and now >= self._not_before.get(database_id, 0)
        ]
        # Each in an order of its own, lest all reach for the same one.
        random.shuffle(free)
        own = [each for each in self._children if each not in self._leaving]
        # What somebody's death left has waited for long enough.
        abandoned = abandoned_databases().intersection(free) if free else set()
        unclaimed = [each for each in free if each not in abandoned]
        within_share = self._share.to_take(
            unclaimed, len(own) + len(abandoned), databases, self._processes, now
        )
        for database_id in (*abandoned, *within_share):
            self._children[database_id] = self._fork(
                f"capture-{database_id}", _capture_child, database_id
            )
        surplus = self._share.to_give(own, databases, self._processes, now)
        if surplus is not None:
            logger.info("leaving a database to another process", database=surplus)
            self._leaving.add(surplus)
            self._children[surplus].terminate()

    def _fork(self, name: str, target: Any, *arguments: Any) -> ForkProcess:
        # A child must not share a connection with its parent.
        connections.close_all()
        child = self._context.Process(
            target=_run_child, args=(target, os.getpid(), *arguments), name=name
        )
        child.start()
        return child

    def _reap(self) -> None:
        for database_id, child in list(self._children.items()):
            if not child.is_alive():
                child.join()
                del self._children[database_id]
                self._leaving.discard(database_id)
                if child.exitcode:
                    logger.error(
                        "a capture process died", database=database_id, exit_code=child.exitcode
                    )
                    self._not_before[database_id] = time.monotonic() + _RESTART_SECONDS
        if self._remover is not None and not self._remover.is_alive():
            self._remover.join()
            self._remover = None

    def _end_children(self) -> None:
        children = [*self._children.values(), *([self._remover] if self._remover else [])]
        for child in children:
            child.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in children:
            child.join(max(0.0, deadline - time.monotonic()))
            if child.is_alive():
                child.kill()
                child.join()
        logger.info("capture has stopped")

    def _sign_off(self) -> None:
        """Say that this process is gone, so that the others do not leave its share free."""
        try:
            health.sign_off("capture", self._name)
        except Error as error:
            logger.warning("the control database does not answer", error=first_line(error))


def _run_child(target: Any, parent: int, *arguments: Any) -> None:
    """A child's life: it ends with its parent, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target(lambda: bool(asked) or os.getppid() != parent, *arguments)


def _capture_child(stopping: Any, database_id: int) -> None:
    try:
        capture_database(database_id, stopping)
    except Exception:
        logger.exception("capture failed", database=database_id)
        raise SystemExit(1) from None


def _remover_child(_stopping: Any) -> None:
    remove_retired_sources()


def _sleep(seconds: float, stopping: Any) -> None:
    deadline = time.monotonic() + seconds
    while not stopping() and time.monotonic() < deadline:
        time.sleep(0.1)
