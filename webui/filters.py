"""What the event log and the audit log show, read from their addresses and written back there."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast
from urllib.parse import urlencode

from django.http import QueryDict

from eventing import audit
from eventing.changes import EVENT_STATUSES, OPERATIONS, EventStatus, Operation
from eventing.logs.base import MOST_MIN_ATTEMPTS, EventFilter
from eventing.parameters import LONGEST, choice_of, moment_of, number_of, utc_of
from eventing.problems import Problem
from eventing.quantities import instant

PERIODS: Final[Mapping[str, tuple[str, timedelta]]] = {
    "15m": ("Last 15 minutes", timedelta(minutes=15)),
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
}
_FIRST: Final = ("trigger", "status", "within", "doc_id")
_MORE: Final = ("operation", "database", "table", "error", "min_attempts", "after", "before")
# What the list offers; an address may have any number.
ATTEMPTS: Final = ("1", "2", "3", "5", "10")
_LABELS: Final = {
    "within": "Time",
    "doc_id": "Document or event id",
    "error": "Text of an error",
    "min_attempts": "Attempts",
    "after": "From",
    "before": "Until",
    "object": "Name",
}
_MOMENT_ALLOWED: Final = "a time such as 2026-01-31T12:00Z"


@dataclass(frozen=True, slots=True)
class _Query:
    """What was asked for, as text for the form, and what is wrong with it."""

    given: Mapping[str, str]
    problems: list[Problem]

    @property
    def is_filtered(self) -> bool:
        return any(self.given.values())

    @property
    def errors(self) -> dict[str, str]:
        return {
            problem.field: f"Got {problem.given}. Allowed: {problem.allowed}."
            for problem in self.problems
        }

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """What is wrong, by the names that the form has for its fields."""
        return [(_label_of(field), error) for field, error in self.errors.items()]


@dataclass(frozen=True, slots=True)
class LogQuery(_Query):
    """What was asked of the event log."""

    filters: EventFilter

    @property
    def more_is_used(self) -> bool:
        """Whether a filter is set that the bar does not show at first."""
        return any(self.given.get(name) for name in _MORE)

    @property
    def fields_of_time(self) -> list["TimeField"]:
        """The fields for times, as the bar shows them."""
        return [
            TimeField(name, _LABELS[name], self.given.get(name, ""), name in self.errors)
            for name in ("after", "before")
        ]


@dataclass(frozen=True, slots=True)
class TimeField:
    """A field for a time. Browsers send it without zone: in UTC, unless a script makes it local."""

    name: str
    label: str
    given: str
    is_refused: bool

    @property
    def value(self) -> str:
        """UTC, as fields of type `datetime-local` take it; what was refused, as it was given."""
        if self.is_refused or not self.given:
            return self.given
        moment = utc_of(self.given)
        precision = "milliseconds" if moment.microsecond else "seconds"
        return moment.replace(tzinfo=None).isoformat(timespec=precision)

    @property
    def step(self) -> str:
        """The least difference between two times that the field takes, in seconds."""
        return "0.001" if "." in self.value else "1"


@dataclass(frozen=True, slots=True)
class AuditQuery(_Query):
    """What was asked of the audit log."""

    filters: audit.AuditFilter


def _label_of(field: str) -> str:
    return _LABELS.get(field, field.capitalize())


def audit_query(query: QueryDict, *, of_installation: bool = False) -> AuditQuery:
    """The filters of an address; what is wrong with them is noted, and filters nothing."""
    problems: list[Problem] = []
    also = ("project",) if of_installation else ()
    given = _texts(query, ("kind", "user", "object", *also), problems)
    filters = audit.filter_of(given, problems)
    return AuditQuery(given, problems, filters)


def log_query(query: QueryDict, now: datetime) -> LogQuery:
    """The filters of an address; what is wrong with them is noted, and filters nothing."""
    problems: list[Problem] = []
    given = _texts(query, (*_FIRST, *_MORE), problems)
    status = choice_of(given, "status", EVENT_STATUSES, problems)
    operation = choice_of(given, "operation", OPERATIONS, problems)
    within = choice_of(given, "within", tuple(PERIODS), problems)
    after = moment_of(given, "after", _MOMENT_ALLOWED, problems)
    if within:
        begin = now - PERIODS[within][1]
        after = max(after, begin) if after else begin
    filters = EventFilter(
        trigger=given.get("trigger"),
        status=cast(EventStatus | None, status),
        database=given.get("database"),
        table=given.get("table"),
        operation=cast(Operation | None, operation),
        document_id=given.get("doc_id"),
        after=after,
        before=moment_of(given, "before", _MOMENT_ALLOWED, problems),
        error=given.get("error"),
        min_attempts=number_of(given, "min_attempts", MOST_MIN_ATTEMPTS, problems),
    )
    return LogQuery(given, problems, filters)


def query_of(filters: EventFilter) -> str:
    """The address's part that asks for these events."""
    given = {
        "trigger": filters.trigger,
        "status": filters.status,
        "database": filters.database,
        "table": filters.table,
        "operation": filters.operation,
        "doc_id": filters.document_id,
        "error": filters.error,
        "min_attempts": filters.min_attempts,
        "after": filters.after and instant(filters.after),
        "before": filters.before and instant(filters.before),
    }
    return urlencode({name: value for name, value in given.items() if value is not None})


def _texts(query: QueryDict, names: tuple[str, ...], problems: list[Problem]) -> dict[str, str]:
    """What was given under these names, without what is blank."""
    given: dict[str, str] = {}
    for name in names:
        value = query.get(name, "").strip()
        if "\x00" in value or len(value) > LONGEST:
            problems.append(
                Problem(name, "something else", f"text of at most {LONGEST} characters")
            )
        elif value:
            given[name] = value
    return given
