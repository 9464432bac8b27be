"""What a request asks for by its parameters, checked: which events, entries of the audit log or
figures, and how a configuration is put in.

A parameter that is not known is refused by name, since leaving it out would widen the selection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from django.http import QueryDict

from eventing import audit
from eventing.changes import EVENT_STATUSES, EVENT_TYPES, EventStatus
from eventing.exports import EXPORT_KINDS, ExportKind
from eventing.history import MOST_CHOSEN
from eventing.logs.base import MOST_MIN_ATTEMPTS, EventFilter
from eventing.models import Project, Trigger
from eventing.parameters import LONGEST, choice_of, moment_of, number_of
from eventing.problems import InvalidInput, Problem, named, shown
from eventing.stats import LAST_HOUR, PERIODS, Period

FILTERS: Final = (
    "trigger",
    "status",
    "database",
    "table",
    "type",
    "doc_id",
    "after",
    "before",
    "error",
    "min_attempts",
)
_NUMBERS: Final = ("min_attempts",)
PAGING: Final = ("cursor", "limit")
DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 500
_MOMENT_ALLOWED: Final = (
    "an ISO 8601 time such as 2026-01-31T12:00:00Z (in an address, write + as %2B)"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Events to show: which, from where on, and how many."""

    filters: EventFilter
    cursor: str | None
    limit: int


def selection_of(query: QueryDict) -> Selection:
    """A page's selection from the query. Raises InvalidInput."""
    given, problems = _texts(query, (*FILTERS, *PAGING))
    filters = _filters(given, problems)
    limit = _limit(given, problems)
    if problems:
        raise InvalidInput(problems)
    return Selection(filters, given.get("cursor"), limit)


@dataclass(frozen=True, slots=True)
class ExportSelection:
    """Events for a file: which, in which format, and whether with their payloads."""

    filters: EventFilter
    kind: ExportKind
    with_payloads: bool


def export_selection_of(query: QueryDict) -> ExportSelection:
    """A file's selection from the query. Raises InvalidInput."""
    given, problems = _texts(query, (*FILTERS, "format", "payloads"))
    filters = _filters(given, problems)
    kind = choice_of(given, "format", EXPORT_KINDS, problems)
    payloads = choice_of(given, "payloads", ("true", "false"), problems)
    if "format" not in given:
        problems.append(Problem("format", "nothing", "one of " + ", ".join(EXPORT_KINDS)))
    if problems:
        raise InvalidInput(problems)
    return ExportSelection(filters, cast(ExportKind, kind), payloads == "true")


@dataclass(frozen=True, slots=True)
class FiguresSelection:
    """What figures to show: of which period, and of which trigger, None meaning all."""

    period: Period
    trigger: Trigger | None


def figures_selection_of(query: QueryDict, project: Project) -> FiguresSelection:
    """The figures that a query asks for. Raises InvalidInput."""
    given, problems = _texts(query, ("within", "trigger"))
    within = choice_of(given, "within", [each.name for each in PERIODS], problems)
    name = given.get("trigger")
    trigger = project.triggers.filter(name=name).first() if name else None
    if name and trigger is None:
        allowed = "the name of a trigger of this project"
        problems.append(Problem("trigger", repr(name[:80]), allowed))
    if problems:
        raise InvalidInput(problems)
    return FiguresSelection(
        next((each for each in PERIODS if each.name == within), LAST_HOUR), trigger
    )


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How a configuration is put in: `dry_run` only plans, `prune` deletes what it leaves out."""

    dry_run: bool
    prune: bool


def apply_options_of(query: QueryDict) -> ApplyOptions:
    """The options of a query. Raises InvalidInput."""
    given, problems = _texts(query, ("dry_run", "prune"))
    values = {name: choice_of(given, name, ("true", "false"), problems) for name in given}
    if problems:
        raise InvalidInput(problems)
    return ApplyOptions(values.get("dry_run") == "true", values.get("prune") == "true")


@dataclass(frozen=True, slots=True)
class AuditSelection:
    """Entries of the audit log to show: which, from where on, and how many."""

    filters: audit.AuditFilter
    cursor: str | None
    limit: int


def audit_selection_of(query: QueryDict, *, of_installation: bool = False) -> AuditSelection:
    """A page's selection from the query. Raises InvalidInput."""
    also = ("project",) if of_installation else ()
    given, problems = _texts(query, ("kind", "object", "user", *also, *PAGING))
    filters = audit.filter_of(given, problems)
    limit = _limit(given, problems)
    if problems:
        raise InvalidInput(problems)
    return AuditSelection(filters, given.get("cursor"), limit)


def filters_of(query: QueryDict, body: Mapping[str, Any]) -> EventFilter:
    """Which events are meant, by query and body together. Raises InvalidInput."""
    given, problems = _texts(query, FILTERS)
    also, more = _texts(body, FILTERS)
    problems += more
    for name in sorted(given.keys() & also.keys()):
        problems.append(Problem(name, "a filter twice", "either in the query or in the body"))
    filters = _filters({**given, **also}, problems)
    if problems:
        raise InvalidInput(problems)
    return filters


def event_ids_of(body: Mapping[str, Any]) -> list[UUID]:
    """The events that `{"ids": […]}` names. Raises InvalidInput."""
    problems = [
        Problem(named(name), "this parameter", "ids alone")
        for name in sorted(body.keys() - {"ids"})
    ]
    given = body.get("ids")
    found: list[UUID] = []
    if not isinstance(given, list) or not 0 < len(given) <= MOST_CHOSEN:
        problems.append(Problem("ids", shown(given), f"a list of 1 to {MOST_CHOSEN} event ids"))
    else:
        for index, text in enumerate(given):
            try:
                found.append(UUID(text))
            except (TypeError, ValueError, AttributeError):
                problems.append(Problem(f"ids[{index}]", repr(text)[:80], "an event's id"))
    if problems:
        raise InvalidInput(problems)
    return found


def _texts(
    source: QueryDict | Mapping[str, Any], known: Sequence[str]
) -> tuple[dict[str, str], list[Problem]]:
    """What was given, by name, and what is wrong with it; a blank value means any."""
    given: dict[str, str] = {}
    problems = []
    for name in source:
        values = source.getlist(name) if isinstance(source, QueryDict) else [source[name]]
        value = values[-1]
        if name not in known:
            allowed = "one of " + ", ".join(known) if known else "no parameter here"
            problems.append(Problem(named(name), "this parameter", allowed))
        elif len(values) > 1:
            problems.append(Problem(name, f"{len(values)} values", "one value"))
        elif value is None or value == "":
            continue
        elif name in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            # In a body of JSON.
            given[name] = str(value)
        elif not isinstance(value, str) or "\x00" in value or len(value) > LONGEST:
            allowed = f"text of at most {LONGEST} characters, without U+0000"
            problems.append(Problem(name, shown(value), allowed))
        else:
            given[name] = value
    return given, problems


def _filters(given: Mapping[str, str], problems: list[Problem]) -> EventFilter:
    operation_of = {event_type: operation for operation, event_type in EVENT_TYPES.items()}
    status = choice_of(given, "status", EVENT_STATUSES, problems)
    event_type = choice_of(given, "type", tuple(operation_of), problems)
    return EventFilter(
        trigger=given.get("trigger"),
        status=cast(EventStatus | None, status),
        database=given.get("database"),
        table=given.get("table"),
        operation=operation_of[event_type] if event_type else None,
        document_id=given.get("doc_id"),
        after=moment_of(given, "after", _MOMENT_ALLOWED, problems),
        before=moment_of(given, "before", _MOMENT_ALLOWED, problems),
        error=given.get("error"),
        min_attempts=number_of(given, "min_attempts", MOST_MIN_ATTEMPTS, problems),
    )


def _limit(given: Mapping[str, str], problems: list[Problem]) -> int:
    return number_of(given, "limit", MOST_LIMIT, problems) or DEFAULT_LIMIT


def refused_cursor(cursor: str | None) -> InvalidInput:
    """What to raise for a cursor that no page has given out."""
    return InvalidInput([Problem("cursor", shown(cursor), "`next` of the page before")])


def refuse_parameters(query: QueryDict) -> None:
    """Raises InvalidInput for any parameter: this address takes none."""
    _, problems = _texts(query, ())
    if problems:
        raise InvalidInput(problems)
