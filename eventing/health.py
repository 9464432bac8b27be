"""Which processes are alive, and whether the installation can do its work."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from celery import current_app
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.models.functions import Now

from eventing.capture_status import CaptureStatus, capture_statuses
from eventing.enqueueing import connection_errors, waiting_messages
from eventing.models import Breaker, CaptureLease, Database, Heartbeat, Project

PROCESSES: Final = ("capture", "worker", "beat")
HEARTBEAT_SECONDS: Final = 5.0
_SILENCE_SECONDS: Final = 20
_APPLICATIONS: Final = ("eventing", "webui")


class NewerTables(Exception):
    """The tables are those of a newer version, which this one does not know."""


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """One process: `process` is capture, worker or beat, `name` tells several of them apart.

    `hindrance` is what keeps it from some of its work; empty if nothing does.
    """

    process: str
    name: str
    seen_at: datetime
    alive: bool
    hindrance: str = ""


def beat(process: str, name: str, hindrance: str = "") -> None:
    """Note that a process is alive; called every `HEARTBEAT_SECONDS`."""
    Heartbeat.objects.update_or_create(
        process=process, name=name, defaults={"seen_at": Now(), "hindrance": hindrance}
    )


def sign_off(process: str, name: str) -> None:
    """Note that a process has ended in good order, so that nobody waits for it."""
    Heartbeat.objects.filter(process=process, name=name).delete()


def alive(process: str) -> int:
    """How many processes of a kind have lately been seen."""
    since = Now() - timedelta(seconds=_SILENCE_SECONDS)
    return Heartbeat.objects.filter(process=process, seen_at__gt=since).count()


def process_health() -> list[ProcessHealth]:
    """Every process seen during the last day, the latest first."""
    rows = Heartbeat.objects.annotate(now=Now()).order_by("-seen_at")
    found = []
    for row in rows:
        silence = (row.now - row.seen_at).total_seconds()
        if silence < 86_400:
            alive = silence < _SILENCE_SECONDS
            # What a process said that has gone is over with it.
            hindrance = row.hindrance if alive else ""
            found.append(ProcessHealth(row.process, row.name, row.seen_at, alive, hindrance))
    return found


def refuse_newer_tables() -> None:
    """Raises NewerTables if a newer version has changed the control database's tables.

    One that does not answer yet refuses nothing.
    """
    try:
        unknown = _unknown_migrations(MigrationLoader(connection))
    except Error:
        connection.close()
        return
    if unknown:
        raise NewerTables(_newer(unknown))


def _unknown_migrations(loader: MigrationLoader) -> list[str]:
    applied = loader.applied_migrations or {}
    known = loader.disk_migrations
    return [
        f"{application} {name}"
        for application, name in sorted(applied)
        if application in _APPLICATIONS and (application, name) not in known
    ]


def _newer(unknown: list[str]) -> str:
    return (
        f"a newer version has changed the tables of DATABASE_URL ({', '.join(unknown)}): run that"
        " version, or go back as docs/guides/upgrade.md says"
    )


def readiness() -> list[str]:
    """Why the installation is not ready; empty when it is."""
    reasons = []
    try:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            reasons.append("migrations are missing: run `python manage.py migrate`")
        if unknown := _unknown_migrations(executor.loader):
            reasons.append(_newer(unknown))
    except Error:
        reasons.append("the control database (DATABASE_URL) does not answer")
    if not broker_answers():
        reasons.append("the broker (REDIS_URL) does not answer")
    return reasons


def degradations() -> list[str]:
    """What the installation does not do though it is ready: in sums, which name nobody.

    It is no reason to keep requests from web, where people look what it is.
    """
    found = []
    try:
        waiting = CaptureLease.objects.filter(
            database__project__eventing_enabled=True, state__in=("blocked", "retrying")
        )
        states = Counter(waiting.values_list("state", flat=True))
        found += [
            f"{states[state]} {'database is' if states[state] == 1 else 'databases are'} {state}"
            for state in ("blocked", "retrying")
            if states[state]
        ]
        hindered = Counter(each.hindrance for each in process_health() if each.hindrance)
        found += [
            f"{count} {'process' if count == 1 else 'processes'}: {hindrance}"
            for hindrance, count in sorted(hindered.items())
        ]
    except Error:
        found.append("the control database (DATABASE_URL) does not answer")
    return found


def broker_answers() -> bool:
    """Whether the broker can be reached; one that is silent is waited for some seconds."""
    try:
        with current_app.connection_for_write(transport_options=_IMPATIENT) as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    except connection_errors():
        return False
    return True


_IMPATIENT: Final = {"socket_timeout": 2, "socket_connect_timeout": 2}

# In the order in which somebody should look at them.
CAPTURE_STATES: Final = ("blocked", "retrying", "starting", "streaming", "off")


@dataclass(frozen=True, slots=True)
class Health:
    """How the installation is, and what stands still in some of its projects.

    `unseen` are the kinds of process of which none was seen for a day; `waiting_messages` is None
    if the broker does not answer. The sources that need somebody come first, and the breakers that
    have been open the longest.
    """

    processes: list[ProcessHealth]
    unseen: list[str]
    reasons: list[str]
    waiting_messages: int | None
    sources: list[tuple[Database, CaptureStatus]]
    breakers: list[Breaker]


def health_of(projects: Iterable[Project]) -> Health:
    """The health of the installation, and of these projects' databases and triggers."""
    processes = process_health()
    seen = {process.process for process in processes}
    databases = Database.objects.filter(project__in=projects).select_related("project")
    by_project = list(databases.order_by("project__name", "alias"))
    statuses = capture_statuses(by_project)
    sources = [(database, statuses[database.pk]) for database in by_project]
    breakers = Breaker.objects.filter(trigger__project__in=projects)
    return Health(
        processes,
        [name for name in PROCESSES if name not in seen],
        readiness(),
        waiting_messages(),
        sorted(sources, key=lambda each: CAPTURE_STATES.index(each[1].state)),
        list(breakers.select_related("trigger__project").order_by("opened_at")),
    )
