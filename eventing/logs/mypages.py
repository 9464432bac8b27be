"""Pages and single events of a log in MySQL or MariaDB: their statements, and rows as shown.

Each page is read off the end of one index, which is named: the optimizer would sort instead.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import orjson

from eventing.ids import first_id_at
from eventing.logs.base import EventDetail, EventFilter, EventRow, InvalidCursor, Invocation, Page
from eventing.logs.myconnections import Connections
from eventing.logs.mystatements import (
    DELIVERY,
    EVENT_LOG,
    INVOCATION_LOG,
    TRIGGER_NAME,
    listed,
    portions,
)

# The columns of EventRow for the ids that `found` selects: joins by key, for those rows only.
_ROWS: Final = f"""
    SELECT e.id, e.trigger_id, e.`trigger`, e.`database`, e.database_type, e.`table`,
           e.operation, e.doc_id, e.committed_at, e.stored_at,
           d.state, d.attempts, d.next_attempt_at, e.problem,
           (SELECT JSON_ARRAY(i.attempt, i.status_code, i.error_message, i.duration_ms)
            FROM {INVOCATION_LOG} i WHERE i.event_id = e.id
            ORDER BY i.attempt DESC, i.started_at DESC LIMIT 1)
    FROM ({{found}}) AS e
    LEFT JOIN {DELIVERY} d ON d.event_id = e.id
    ORDER BY e.id DESC"""

_COLUMNS: Final = (
    "e.id, e.trigger_id, e.`trigger`, e.`database`, e.database_type, e.`table`, e.operation,"
    " e.doc_id, e.committed_at, e.stored_at, e.problem"
)
# Attempt, status code, error and duration of an event that was never sent.
_NO_INVOCATION: Final = (0, None, None, None)
_FOUND_BY_ID: Final = f"SELECT {_COLUMNS} FROM {EVENT_LOG} e WHERE e.id = %s AND e.project_id = %s"


def page_of(
    connections: Connections, project_id: int, filters: EventFilter, cursor: str | None, limit: int
) -> Page:
    """A page of events, newest first. Raises InvalidCursor."""
    before_id = _id_of_cursor(cursor)
    with connections.transaction() as at:
        trigger_ids: list[int] | None = None
        if filters.trigger is not None:
            found = at.rows(
                f"SELECT trigger_id FROM {TRIGGER_NAME} WHERE project_id = %s AND name = %s",
                project_id,
                filters.trigger,
            )
            trigger_ids = [int(trigger_id) for (trigger_id,) in found]
            if not trigger_ids:
                return Page([], None)
        query = _Query(project_id, filters, before_id, trigger_ids, limit + 1)
        rows = [_event_row(row) for row in at.rows(query.sql, *query.arguments)]
    more = len(rows) > limit
    return Page(rows[:limit], rows[limit - 1].id.hex if more else None)


def detail_of(connections: Connections, project_id: int, event_id: UUID) -> EventDetail | None:
    """One event with its payload and invocations, oldest first."""
    with connections.transaction() as at:
        found = at.rows(_ROWS.format(found=_FOUND_BY_ID), event_id.bytes, project_id)
        payloads = at.rows(f"SELECT payload FROM {EVENT_LOG} WHERE id = %s", event_id.bytes)
        if not found or not payloads:
            return None
        # By primary key.
        invocations = at.rows(
            f"""
            SELECT attempt, started_at, duration_ms, url, request_headers, status_code,
                   response_headers, response_body, error_kind, error_message, worker
            FROM {INVOCATION_LOG} WHERE event_id = %s
            ORDER BY attempt, started_at""",
            event_id.bytes,
        )
    return EventDetail(
        _event_row(found[0]), payloads[0][0], [_invocation(row) for row in invocations]
    )


def rows_of(connections: Connections, project_id: int, event_ids: Sequence[UUID]) -> list[EventRow]:
    """Those of these events that there are, newest first."""
    rows: list[EventRow] = []
    with connections.transaction() as at:
        for portion in portions(sorted(event_ids, reverse=True)):
            # By primary key.
            found = (
                f"SELECT {_COLUMNS} FROM {EVENT_LOG} e"
                f" WHERE e.id IN ({listed(portion)}) AND e.project_id = %s"
            )
            rows += [_event_row(row) for row in at.rows(_ROWS.format(found=found), project_id)]
    return rows


def payloads_of(
    connections: Connections, project_id: int, event_ids: Sequence[UUID]
) -> dict[UUID, str]:
    """The payloads of these events as JSON text; one that has expired is no key."""
    payloads: dict[UUID, str] = {}
    with connections.transaction() as at:
        for portion in portions(event_ids):
            # By primary key.
            found = at.rows(
                f"SELECT id, payload FROM {EVENT_LOG}"
                f" WHERE id IN ({listed(portion)}) AND project_id = %s AND payload IS NOT NULL",
                project_id,
            )
            payloads |= {UUID(bytes=event_id): payload for event_id, payload in found}
    return payloads


def hash_of(document_id: str) -> str:
    """What a document's id is looked up by, as a literal."""
    return f"x'{blake2b(document_id.encode(), digest_size=8).hexdigest()}'"


def headers_text(headers: tuple[tuple[str, str], ...]) -> str:
    """Headers as they are stored."""
    return orjson.dumps(headers).decode() if headers else "[]"


class _Query:
    """The statement for one page; ids carry the commit time, so times become ranges of ids."""

    def __init__(
        self,
        project_id: int,
        filters: EventFilter,
        before_id: UUID | None,
        trigger_ids: Sequence[int] | None,
        limit: int,
    ) -> None:
        self._limit = limit
        self._conditions = ["e.project_id = %s"]
        self._arguments: list[Any] = [project_id]
        ends = [identifier for identifier in (before_id, _id_at(filters.before)) if identifier]
        if ends:
            self._add("e.id < %s", min(ends).bytes)
        if filters.after is not None:
            self._add("e.id >= %s", first_id_at(_milliseconds(filters.after)).bytes)
        for column, value in (
            ("e.`trigger`", filters.trigger),
            ("e.`database`", filters.database),
            ("e.`table`", filters.table),
            ("e.operation", filters.operation),
            ("e.doc_id", filters.document_id),
        ):
            if value is not None:
                self._add(f"{column} = %s", value)
        found = self._found(filters, trigger_ids)
        self.sql = _ROWS.format(found=found)
        self.arguments = self._arguments

    def _add(self, condition: str, value: object) -> None:
        self._conditions.append(condition)
        self._arguments.append(value)

    def _found(self, filters: EventFilter, trigger_ids: Sequence[int] | None) -> str:
        if filters.status is not None and filters.status != "delivered":
            # From the small table: its rows of that state, then the log by primary key.
            self._add("u.state = %s", filters.status)
            if trigger_ids is not None:
                self._add("u.trigger_id IN %s", list(trigger_ids))
            source = f"{DELIVERY} u FORCE INDEX (PRIMARY) STRAIGHT_JOIN {EVENT_LOG} e"
            return self._select(f"{source} ON e.id = u.event_id", "u.event_id")
        joined = ""
        if filters.status == "delivered":
            joined = f" LEFT JOIN {DELIVERY} u ON u.event_id = e.id"
            self._conditions.append("u.event_id IS NULL")
        if filters.document_id is not None:
            self._conditions.append(f"e.doc_hash = {hash_of(filters.document_id)}")
            return self._select(f"{EVENT_LOG} e FORCE INDEX (event_log_doc){joined}")
        if trigger_ids is None:
            return self._select(f"{EVENT_LOG} e FORCE INDEX (PRIMARY){joined}")
        source = f"{EVENT_LOG} e FORCE INDEX (event_log_trigger){joined}"
        selects = [
            f"({self._select(source, condition=f'e.trigger_id = {trigger_id:d}')})"
            for trigger_id in trigger_ids
        ]
        self._arguments *= len(selects)
        return f"{' UNION ALL '.join(selects)} ORDER BY id DESC LIMIT {self._limit:d}"

    def _select(self, source: str, key: str = "e.id", condition: str = "TRUE") -> str:
        return (
            f"SELECT {_COLUMNS} FROM {source} WHERE {' AND '.join([*self._conditions, condition])}"
            f" ORDER BY {key} DESC LIMIT {self._limit:d}"
        )


def _moment(milliseconds: int) -> datetime:
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _id_at(moment: datetime | None) -> UUID | None:
    return None if moment is None else first_id_at(_milliseconds(moment))


def _id_of_cursor(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(hex=cursor)
    except ValueError:
        raise InvalidCursor("the cursor was not made by this log") from None


def _event_row(row: tuple[Any, ...]) -> EventRow:
    event_id, *names, committed_at, stored_at, state, attempts, next_attempt_at, problem, last = row
    last_attempt, *last_exchange = orjson.loads(last) if last else _NO_INVOCATION
    status_code, error, duration_ms = last_exchange
    trigger_id, trigger, database, database_type, table, operation, document_id = names
    return EventRow(
        id=UUID(bytes=event_id),
        trigger_id=trigger_id,
        trigger=trigger,
        database=database,
        database_type=database_type,
        table=table,
        operation=operation,
        document_id=document_id,
        committed_at=_moment(committed_at),
        stored_at=_moment(stored_at),
        status=state or "delivered",
        attempts=last_attempt if attempts is None else attempts,
        next_attempt_at=_moment(next_attempt_at) if state == "pending" and attempts else None,
        problem=problem,
        last_status_code=status_code,
        last_error=error,
        last_duration_ms=duration_ms,
    )


def _invocation(row: tuple[Any, ...]) -> Invocation:
    attempt, started_at, duration_ms, url, request_headers, status_code, *rest = row
    response_headers, *last = rest
    return Invocation(
        attempt,
        _moment(started_at),
        duration_ms,
        url,
        [(name, value) for name, value in orjson.loads(request_headers)],
        status_code,
        [(name, value) for name, value in orjson.loads(response_headers)],
        *last,
    )
