"""Events as a file: CSV or JSON lines, newest first, written page by page as they are read.

An export is bounded; one that ends at its bound, or because the log gives out, says so in its last
line, and with which filter the next begins. Whoever may not see payloads gets a file without that
column.
"""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from typing import Any, Final, Literal
from uuid import UUID

import orjson

from eventing import history
from eventing.access import Actor
from eventing.changes import EVENT_TYPES
from eventing.history import LogPage
from eventing.logs.base import EventFilter, EventRow, LogUnavailable, SearchTooDeep
from eventing.models import Project
from eventing.quantities import instant

ExportKind = Literal["csv", "jsonl"]
EXPORT_KINDS: Final[tuple[ExportKind, ...]] = ("csv", "jsonl")
MEDIA_TYPES: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
MOST_EVENTS: Final = 50_000
_PAGE: Final = 500
_COLUMNS: Final = (
    *("id", "type", "trigger", "database", "table", "doc_id", "committed_at", "stored_at"),
    *("status", "attempts", "next_attempt_at", "last_status_code", "last_error"),
    "last_duration_ms",
)
# What a spreadsheet takes for the beginning of a formula (OWASP, CSV Injection); the last ones are
# the same signs in full width.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")


def file_name(project: Project, kind: ExportKind) -> str:
    """What an export that begins now is called."""
    return f"{project.name}-events-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{kind}"


def lines(
    project: Project,
    filters: EventFilter,
    kind: ExportKind,
    *,
    by: Actor,
    with_payloads: bool,
    most: int = MOST_EVENTS,
    patience_seconds: float = history.LONG_PATIENCE_SECONDS,
) -> Iterator[str]:
    """The file, a page of events at a time; without payloads if `by` may not see them.

    Raises LogUnavailable, SearchTooDeep before the first line; after that the last line says so.
    """
    with_payloads = with_payloads and by.may_see_payloads(project)
    read = partial(_read, project, filters, patience_seconds, with_payloads)
    write = _csv if kind == "csv" else _json_lines
    page, payloads = read(None, min(most, _PAGE))
    if kind == "csv":
        yield _csv_lines([(*_COLUMNS, *(("payload",) if with_payloads else ()))])
    count = 0
    last: EventRow | None = None
    while True:
        yield write(page.rows, payloads)
        count += len(page.rows)
        last = page.rows[-1] if page.rows else last
        if page.next_cursor is None:
            return
        if count >= most:
            yield _end(kind, last, f"after {count} events")
            return
        try:
            page, payloads = read(page.next_cursor, min(most - count, _PAGE))
        except (LogUnavailable, SearchTooDeep) as error:
            yield _end(kind, last, f"after {count} events, since {error}")
            return


def _read(
    project: Project,
    filters: EventFilter,
    patience_seconds: float,
    with_payloads: bool,
    cursor: str | None,
    limit: int,
) -> tuple[LogPage, dict[UUID, str] | None]:
    """A page, and the payloads of its events if they are wanted."""
    page = history.browse(project, filters, cursor, limit, patience_seconds)
    if not with_payloads:
        return page, None
    return page, page.store.log.payloads(project.pk, [row.id for row in page.rows])


def _fields(row: EventRow) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "type": EVENT_TYPES[row.operation],
        "trigger": row.trigger,
        "database": row.database,
        "table": row.table,
        "doc_id": row.document_id,
        "committed_at": _moment(row.committed_at),
        "stored_at": _moment(row.stored_at),
        "status": row.status,
        "attempts": row.attempts,
        "next_attempt_at": _moment(row.next_attempt_at),
        "last_status_code": row.last_status_code,
        "last_error": row.problem or row.last_error,
        "last_duration_ms": row.last_duration_ms,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else instant(moment)


def _json_lines(rows: list[EventRow], payloads: dict[UUID, str] | None) -> str:
    written = []
    for row in rows:
        fields = _fields(row)
        if payloads is not None:
            text = payloads.get(row.id)
            # As it is stored: no number is rewritten.
            fields["payload"] = None if text is None else orjson.Fragment(text)
        written.append(orjson.dumps(fields).decode() + "\n")
    return "".join(written)


def _csv(rows: list[EventRow], payloads: dict[UUID, str] | None) -> str:
    return _csv_lines(
        [
            (*_fields(row).values(), *(() if payloads is None else (payloads.get(row.id),)))
            for row in rows
        ]
    )


def _csv_lines(table: list[tuple[Any, ...]]) -> str:
    text = StringIO()
    csv.writer(text).writerows([[_cell(value) for value in row] for row in table])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value that no spreadsheet runs; a negative number is one."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _end(kind: ExportKind, last: EventRow | None, why: str) -> str:
    """The line that says that there is more."""
    words = f"the export ends {why}"
    if last is not None:
        words = f"{words}; the next begins at before={history.going_on_from(last.committed_at)}"
    if kind == "csv":
        return _csv_lines([(words,)])
    return orjson.dumps({"note": words}).decode() + "\n"
