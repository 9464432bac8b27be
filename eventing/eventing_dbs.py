"""Which Eventing DB holds what: the log a project writes to now, and those it wrote to before.

An Eventing DB is numbered by its `EventingDb` row, the built-in one by 0. Messages to the workers
carry that number, since what waits in an earlier log is delivered from there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from django.db.models.functions import Now

from eventing.changes import Finding
from eventing.connection_strings import ConnectionString
from eventing.definitions import BUILTIN_NAME, DatabaseDefinition, SettingsDefinition
from eventing.logs import builtin_log, log_at
from eventing.logs.base import EventLog, LogUnavailable
from eventing.models import Database, EventingDb, Installation, Project
from eventing.models.fields import UndecryptableValue, readable
from eventing.problems import InvalidInput, Problem
from eventing.projects import eventing_db_to_prepare

BUILTIN: Final = 0


@dataclass(frozen=True, slots=True)
class Store:
    """One Eventing DB of a project. `replaced_at` is None for the one that is written to now."""

    number: int
    name: str
    place: str
    log: EventLog
    replaced_at: datetime | None = None


def current_number(project: Project) -> int:
    """The number of the log that a project writes to now."""
    return project.eventing_db_id or BUILTIN


def current_log(project: Project) -> EventLog:
    """The log that a project writes to now."""
    return log_numbered(current_number(project))


def log_numbered(number: int) -> EventLog:
    """The log with a number. Raises LogUnavailable if there is none, or none any more."""
    if number == BUILTIN:
        return builtin_log()
    stored = EventingDb.objects.filter(pk=number).first()
    if stored is None:
        raise _gone(number)
    return _log_of(stored)


def owner_of(number: int) -> int | None:
    """The id of the project whose log has this number; None for the built-in one, which all share.

    Raises LogUnavailable if there is none any more.
    """
    if number == BUILTIN:
        return None
    found = EventingDb.objects.filter(pk=number).values_list("project_id", flat=True).first()
    if found is None:
        raise _gone(number)
    return found


def _gone(number: int) -> LogUnavailable:
    return LogUnavailable(f"there is no Eventing DB with the number {number} any more")


def _log_of(stored: EventingDb) -> EventLog:
    try:
        return log_at(stored.type, stored.url)
    except UndecryptableValue as error:
        return cast(EventLog, _UnreadableLog(str(error)))


class _UnreadableLog:
    """A log whose address no key opens: whatever is asked of it, it is unavailable."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise LogUnavailable(self._reason)


def external_numbers() -> list[int]:
    """The numbers of all logs but the built-in one."""
    return list(EventingDb.objects.order_by("pk").values_list("pk", flat=True))


def all_logs() -> Iterator[EventLog]:
    """Every log of the installation."""
    yield builtin_log()
    for stored in EventingDb.objects.all():
        yield _log_of(stored)


def stores_of(project: Project) -> list[Store]:
    """The logs of a project: the one in use first, then the others, the latest replaced first."""
    others = [
        Store(
            stored.pk,
            stored.alias,
            ConnectionString.parse(stored.type, readable(stored, "url")).place,  # type: ignore[arg-type]
            _log_of(stored),
            stored.replaced_at,
        )
        for stored in project.eventing_dbs.order_by("-replaced_at", "-pk")
    ]
    builtin = Store(BUILTIN, BUILTIN_NAME, "the control database", builtin_log())
    number = current_number(project)
    stores = [*others, builtin]
    return sorted(stores, key=lambda store: store.number != number)


def logs_of(project: Project) -> Iterator[EventLog]:
    """The logs of a project, the one in use first."""
    return (store.log for store in stores_of(project))


def forget_if_expired(number: int) -> bool:
    """Forget a log that was replaced, has nothing left to deliver and is older than the retention.

    Its tables stay where they are.
    """
    stored = EventingDb.objects.select_related("project").filter(pk=number).first()
    if stored is None or stored.replaced_at is None:
        return False
    kept = timedelta(days=stored.project.retention_events_days + 1)
    holds_a_position = Database.objects.filter(position_in=stored).exists()
    expired = EventingDb.objects.filter(
        pk=number, replaced_at=stored.replaced_at, replaced_at__lte=Now() - kept
    )
    if holds_a_position or not expired.exists():
        return False
    if _log_of(stored).triggers_with_deliveries():
        return False
    return bool(expired.delete()[0])


def _prepare(database: DatabaseDefinition, dry_run: bool) -> Sequence[Finding]:
    """Check a database's rights and version, and make the tables of a log in it.

    A dry run only checks. Returns what was found, none of it an error. Raises InvalidInput, with
    nothing changed, if it cannot hold a log.
    """
    log = log_at(database.type, database.url)
    owner = str(Installation.objects.values_list("node_id", flat=True).get())
    findings = log.check(owner)
    problems = [
        Problem("eventing.db", finding.what, needed(finding))
        for finding in findings
        if finding.status == "error"
    ]
    if problems:
        raise InvalidInput(problems)
    if dry_run:
        return findings
    try:
        log.make_tables(owner)
    except LogUnavailable as error:
        raise InvalidInput(
            [Problem("eventing.db", str(error), "a database that answers")]
        ) from None
    return findings


def needed(finding: Finding) -> str:
    """Why something found matters, and what mends it."""
    return f"{finding.why}: {finding.mend}" if finding.mend else finding.why


def prepare_for(
    project: Project | None,
    settings: SettingsDefinition,
    databases: Sequence[DatabaseDefinition] = (),
    *,
    dry_run: bool = False,
) -> Sequence[Finding]:
    """Make the log that `settings` name, unless it is in use already. Raises InvalidInput.

    To be called before the transaction that saves them; `databases` are about to be saved too.
    Returns what was found at a log that was made: nothing if there was nothing to make.
    """
    database = eventing_db_to_prepare(project, settings.eventing_db, databases)
    return () if database is None else _prepare(database, dry_run)
