"""Pages and single events of a log in MySQL or MariaDB: their statements, and rows as shown.

A filter by trigger, table, operation or database is a choice among the kinds of events that there
ever were, and those of a kind are read off the end of an index, which is named: the optimizer would
sort instead. What takes too long for all that is ended by the server.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import orjson
import pymysql

from eventing.logs.base import EventDetail, EventFilter, EventRow, Page, SearchTooDeep
from eventing.logs.myconnections import Connections, Transaction
from eventing.logs.mystatements import (
    DELIVERY,
    EVENT_KIND,
    EVENT_LOG,
    INVOCATION_LOG,
    NEVER,
    SELECTS_AT_ONCE,
    hexadecimal,
    listed,
    portions,
)
from eventing.logs.paging import (
    DENSE_ROWS,
    FEW_KINDS,
    INVOCATION_COLUMNS,
    id_at,
    id_of_cursor,
    invocation,
    page,
)

# The server ended a statement that took too long: MariaDB's word for it, and MySQL's.
_TOOK_TOO_LONG: Final = (1969, 3024)

# The columns of EventRow for the ids that `found` selects: joins by key, for those rows only.
_ROWS: Final = f"""
    SELECT e.id, e.trigger_id, e.`trigger`, e.`database`, e.database_type, e.`table`,
           e.operation, e.doc_id, e.committed_at, e.stored_at,
           d.state, d.attempts, d.next_attempt_at, e.problem,
           (SELECT JSON_ARRAY(i.attempt, i.status_code, i.error_message, i.duration_ms)
            FROM {INVOCATION_LOG} i WHERE i.event_id = e.id
            ORDER BY i.attempt DESC, i.started_at DESC LIMIT 1)
    FROM {EVENT_LOG} e
    LEFT JOIN {DELIVERY} d ON d.event_id = e.id
    WHERE e.id IN ({{ids}}) AND e.project_id = {{project_id:d}}
    ORDER BY e.id DESC"""
# How many attempts a page of events that were tried often looks through, first few and then many,
# and how many of those that match it looks up at most. The rows are wide.
_LOOKED_THROUGH: Final = (2_000, 50_000)
_LOOKED_UP: Final = 10_000
# Attempt, status code, error and duration of an event that was never sent.
_NO_INVOCATION: Final = (0, None, None, None)


def page_of(
    connections: Connections,
    project_id: int,
    filters: EventFilter,
    cursor: str | None,
    limit: int,
    patience_seconds: float,
) -> Page:
    """A page of events, newest first. Raises InvalidCursor, SearchTooDeep."""
    before = id_of_cursor(cursor)
    with connections.transaction() as at:
        search = _Search(at, project_id, filters, before, patience_seconds)
        with search.in_time():
            ids = search.ids(limit + 1)
            rows = search.rows(ids)
    return page(ids, rows, limit, search.ended_at)


def count_of(
    connections: Connections,
    project_id: int,
    filters: EventFilter,
    most: int,
    patience_seconds: float,
    except_triggers: Sequence[int],
) -> int:
    """How many events match, `most` if there are more; without those of `except_triggers`.

    Raises SearchTooDeep.
    """
    with connections.transaction() as at:
        search = _Search(at, project_id, filters, None, patience_seconds, except_triggers)
        with search.in_time():
            return search.count(most)


def detail_of(connections: Connections, project_id: int, event_id: UUID) -> EventDetail | None:
    """One event with its payload and invocations, oldest first."""
    with connections.transaction() as at:
        found = at.rows(_ROWS.format(ids=hexadecimal(event_id), project_id=project_id))
        parts = at.rows(f"SELECT payload, position FROM {EVENT_LOG} WHERE id = %s", event_id.bytes)
        if not found or not parts:
            return None
        # By primary key.
        invocations = at.rows(
            f"SELECT {INVOCATION_COLUMNS} FROM {INVOCATION_LOG} WHERE event_id = %s"
            " ORDER BY attempt, started_at",
            event_id.bytes,
        )
    attempts = [
        invocation((attempt, _moment(started_at), *rest))
        for attempt, started_at, *rest in invocations
    ]
    payload, position = parts[0]
    return EventDetail(_event_row(found[0]), payload, attempts, position)


def rows_of(connections: Connections, project_id: int, event_ids: Sequence[UUID]) -> list[EventRow]:
    """Those of these events that there are, newest first."""
    rows: list[EventRow] = []
    with connections.transaction() as at:
        for portion in portions(sorted(event_ids, reverse=True)):
            # By primary key.
            found = at.rows(_ROWS.format(ids=listed(portion), project_id=project_id))
            rows += [_event_row(row) for row in found]
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


def kind_of(project_id: int, trigger_id: int, database_id: int, *names: str) -> str:
    """What the events of one kind have in common, as a literal. `names` are those of trigger,
    database, table and operation."""
    text = orjson.dumps([project_id, trigger_id, database_id, *names])
    return f"x'{blake2b(text, digest_size=8).hexdigest()}'"


def hash_of(document_id: str) -> str:
    """What a document's id is looked up by, as a literal."""
    return f"x'{blake2b(document_id.encode(), digest_size=8).hexdigest()}'"


class _Search:
    """The search for one page; ids carry the commit time, so times become ranges of ids."""

    def __init__(
        self,
        at: Transaction,
        project_id: int,
        filters: EventFilter,
        before: UUID | None,
        patience_seconds: float,
        except_triggers: Sequence[int] = (),
    ) -> None:
        self._at = at
        self._project_id = project_id
        self._filters = filters
        self._patience_seconds = patience_seconds
        self._ends_at = time.monotonic() + patience_seconds
        self._ends = [each for each in (before, id_at(filters.before)) if each is not None]
        self._since = id_at(filters.after)
        self._except_triggers = except_triggers
        self._has_many_kinds = False
        # Where the page ends though it is not full: what is older has not been looked at.
        self.ended_at: UUID | None = None

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Around the search. Raises SearchTooDeep if the time for it is over."""
        try:
            yield
        except pymysql.OperationalError as error:
            if error.args[0] in _TOOK_TOO_LONG:
                raise SearchTooDeep(self._filters, self._patience_seconds) from None
            raise

    def _rows(self, select: str) -> list[tuple[Any, ...]]:
        """The rows of a query, in what time is left: MariaDB reads the first limit, MySQL the
        second."""
        left_seconds = max(0.001, self._ends_at - time.monotonic())
        return self._at.rows(
            f"/*M! SET STATEMENT max_statement_time = {left_seconds:.3f} FOR */"
            f" SELECT /*+ MAX_EXECUTION_TIME({int(left_seconds * 1000)}) */ {select}"
        )

    def ids(self, limit: int) -> list[UUID]:
        """Ids of the newest events that match, newest first."""
        selects = self._selects(limit)
        if selects and self._goes_by_attempts:
            return self._found_by_attempts(limit)
        if self._has_many_kinds:
            found = self._of_the_newest(limit)
            if len(found) == limit:
                return found
        return self._found(selects, limit) if selects else []

    def count(self, most: int) -> int:
        """How many events match, `most` if there are more: all are looked at, none is fetched."""
        selects = self._selects(most)
        if not selects:
            return 0
        union = " UNION ALL ".join(f"({select})" for select in selects)
        counted = f"(SELECT 1 FROM ({union}) AS found LIMIT {most:d}) AS counted"
        ((count,),) = self._rows(f"COUNT(*) FROM {counted}")
        return int(count)

    def _selects(self, limit: int) -> list[str]:
        """Queries that together find the newest events that match; none if there can be none."""
        filters = self._filters
        if filters.error is not None and filters.status == "delivered":
            return []
        if filters.document_id is not None:
            return [self._select("event_log_doc", [self._document()], limit)]
        kinds, trigger_ids = self._kinds()
        if not kinds:
            return []
        if filters.status not in (None, "delivered") or filters.error is not None:
            return self._of_deliveries(trigger_ids, limit)
        if self._goes_by_attempts:
            return [self._of_attempts(limit)]
        self._has_many_kinds = len(kinds) > FEW_KINDS
        if len(kinds) > SELECTS_AT_ONCE:
            return [self._select("PRIMARY", self._match(), limit)]
        rest = self._rest()
        return [
            self._select("event_log_kind", [f"e.kind_hash = x'{kind.hex()}'", *rest], limit)
            for kind in kinds
        ]

    @property
    def _goes_by_attempts(self) -> bool:
        """Whether what is looked for is found by its attempts, and by nothing that is quicker."""
        filters = self._filters
        is_of_any_end = filters.status in (None, "delivered") and filters.error is None
        return filters.min_attempts is not None and filters.document_id is None and is_of_any_end

    def _found_by_attempts(self, limit: int) -> list[UUID]:
        """The newest that were tried so often, among as many attempts as a page looks through."""
        found: list[UUID] = []
        since = self._since
        for attempts in _LOOKED_THROUGH:
            edge = self._edge_of_attempts(attempts)
            self._since = since if edge is None else edge
            left = limit - len(found)
            found += self._found([self._of_attempts(left)], left)
            if len(found) == limit or edge is None:
                return found
            self._ends.append(edge)
            self._since = since
        self.ended_at = edge
        return found

    def _edge_of_attempts(self, attempts: int) -> UUID | None:
        """The event that so many attempts at newer ones follow, or so many of those that match; by
        primary key. None if there are fewer."""
        newest = (
            f"SELECT i.event_id, i.attempt FROM {INVOCATION_LOG} i FORCE INDEX (PRIMARY)"
            f" WHERE {' AND '.join(self._range('i.event_id')) or 'TRUE'}"
            " ORDER BY i.event_id DESC"
        )
        looked_at = f"(SELECT event_id FROM ({newest} LIMIT {attempts:d}, 1) AS looked_at)"
        matched = (
            f"(SELECT event_id FROM ({newest} LIMIT {attempts:d}) AS looked_at"
            f" WHERE attempt >= {self._filters.min_attempts:d}"
            f" ORDER BY event_id DESC LIMIT {_LOOKED_UP:d}, 1)"
        )
        ((edge,),) = self._rows(
            f"COALESCE(GREATEST({looked_at}, {matched}), {looked_at}, {matched})"
        )
        return None if edge is None else UUID(bytes=edge)

    def _of_attempts(self, limit: int) -> str:
        """The newest that were tried so often, by the primary key of attempts, then of events."""
        wanted = [f"i.attempt >= {self._filters.min_attempts:d}", *self._range("i.event_id")]
        tried = (
            f"SELECT DISTINCT i.event_id FROM {INVOCATION_LOG} i FORCE INDEX (PRIMARY)"
            f" WHERE {' AND '.join(wanted)}"
        )
        return (
            f"SELECT e.id FROM ({tried}) AS tried"
            f" STRAIGHT_JOIN {EVENT_LOG} e ON e.id = tried.event_id{self._deliveries()}"
            f" WHERE {' AND '.join(self._match())} ORDER BY e.id DESC LIMIT {limit:d}"
        )

    def rows(self, ids: Sequence[UUID]) -> list[EventRow]:
        """The events with these ids, newest first; by primary keys."""
        if not ids:
            return []
        sql = _ROWS.format(ids=listed(ids), project_id=self._project_id)
        return [_event_row(row) for row in self._rows(sql.strip().removeprefix("SELECT"))]

    def _kinds(self) -> tuple[list[bytes], list[int]]:
        """The kinds that the filters leave, and their triggers."""
        conditions = [f"e.project_id = {self._project_id:d}", *self._names()]
        found = self._rows(
            f"e.kind_hash, e.trigger_id FROM {EVENT_KIND} e WHERE {' AND '.join(conditions)}"
        )
        return [kind for kind, _ in found], sorted({int(trigger_id) for _, trigger_id in found})

    def _found(self, selects: Sequence[str], limit: int) -> list[UUID]:
        """The newest of what all of `selects` yield."""
        union = " UNION ALL ".join(f"({select})" for select in selects)
        found = self._rows(f"id FROM ({union}) AS found ORDER BY id DESC LIMIT {limit:d}")
        return [UUID(bytes=identifier) for (identifier,) in found]

    def _select(self, index: str, conditions: Sequence[str], limit: int) -> str:
        """Ids off the end of an index of the log."""
        wanted = " AND ".join([*conditions, *self._range("e.id")]) or "TRUE"
        return (
            f"SELECT e.id FROM {EVENT_LOG} e FORCE INDEX ({index}){self._deliveries()}"
            f" WHERE {wanted} ORDER BY e.id DESC LIMIT {limit:d}"
        )

    def _of_the_newest(self, limit: int) -> list[UUID]:
        """Those that match among the newest of all projects, by primary key."""
        newest = (
            f"SELECT * FROM {EVENT_LOG} e FORCE INDEX (PRIMARY)"
            f" WHERE {' AND '.join(self._range('e.id')) or 'TRUE'}"
            f" ORDER BY e.id DESC LIMIT {DENSE_ROWS}"
        )
        wanted = " AND ".join(self._match())
        return self._found(
            [
                f"SELECT e.id FROM ({newest}) AS e{self._deliveries()}"
                f" WHERE {wanted} ORDER BY e.id DESC LIMIT {limit:d}"
            ],
            limit,
        )

    def _of_deliveries(self, trigger_ids: Sequence[int], limit: int) -> list[str]:
        """The newest that are not delivered, from the small table.

        Failed and cancelled ones by delivery_due, where they are in order behind what never comes;
        the others by primary key.
        """
        conditions = [
            "(u.attempts > 0 OR u.state = 'failed')"
            if self._filters.status is None
            else f"u.state = {self._at.quote(self._filters.status)}",
            *self._range("u.event_id"),
        ]
        if self._filters.min_attempts is not None:
            ended = "u.attempts - (u.state = 'delivering')"
            conditions.append(f"{ended} >= {self._filters.min_attempts:d}")
        wanted = " AND ".join([*conditions, *self._names(), *self._error()])
        tail = f"AND {wanted} ORDER BY u.event_id DESC LIMIT {limit:d}"
        joined = f"STRAIGHT_JOIN {EVENT_LOG} e ON e.id = u.event_id"
        is_finished = self._filters.status in ("failed", "cancelled")
        if is_finished and len(trigger_ids) <= SELECTS_AT_ONCE:
            return [
                f"SELECT u.event_id AS id FROM {DELIVERY} u FORCE INDEX (delivery_due) {joined}"
                f" WHERE u.trigger_id = {trigger_id:d} AND u.sweep_at = {NEVER} {tail}"
                for trigger_id in trigger_ids
            ]
        return [
            f"SELECT u.event_id AS id FROM {DELIVERY} u FORCE INDEX (PRIMARY) {joined}"
            f" WHERE u.project_id = {self._project_id:d} {tail}"
        ]

    def _range(self, column: str) -> list[str]:
        """What filters and cursor say of the time."""
        conditions = [f"{column} < {hexadecimal(min(self._ends))}"] if self._ends else []
        if self._since is not None:
            conditions.append(f"{column} >= {hexadecimal(self._since)}")
        return conditions

    def _names(self) -> list[str]:
        """What the filters say of an event's kind."""
        conditions = [
            f"e.`{name}` = {self._at.quote(value)}"
            for name in ("trigger", "database", "table", "operation")
            if (value := getattr(self._filters, name)) is not None
        ]
        if self._except_triggers:
            excepted = ", ".join(f"{trigger_id:d}" for trigger_id in self._except_triggers)
            conditions.append(f"e.trigger_id NOT IN ({excepted})")
        return conditions

    def _document(self) -> str:
        document_id = self._filters.document_id or ""
        conditions = [
            f"e.doc_hash = {hash_of(document_id)}",
            f"e.doc_id = {self._at.quote(document_id)}",
            *self._match(),
        ]
        return " AND ".join(conditions)

    def _match(self) -> list[str]:
        """What the filters say of an event, its document and the time apart."""
        return [f"e.project_id = {self._project_id:d}", *self._names(), *self._rest()]

    def _rest(self) -> list[str]:
        """What an event's kind does not say."""
        conditions = self._error()
        if self._filters.min_attempts is not None and not self._goes_by_attempts:
            # By primary key.
            conditions.append(
                f"EXISTS (SELECT 1 FROM {INVOCATION_LOG} i WHERE i.event_id = e.id"
                f" AND i.attempt >= {self._filters.min_attempts:d})"
            )
        if self._filters.status == "delivered":
            conditions.append("u.event_id IS NULL")
        elif self._filters.status is not None:
            conditions.append(f"u.state = {self._at.quote(self._filters.status)}")
        return conditions

    def _deliveries(self) -> str:
        """What `_rest` needs beside the log, looked up by primary key for each event."""
        if self._filters.status is None:
            return ""
        join = "LEFT JOIN" if self._filters.status == "delivered" else "STRAIGHT_JOIN"
        return f" {join} {DELIVERY} u ON u.event_id = e.id"

    def _error(self) -> list[str]:
        """What the filters say of how the last attempt failed, or why there was none."""
        if self._filters.error is None:
            return []
        error = self._at.quote(self._filters.error)
        last = (
            f"(SELECT {{}} FROM {INVOCATION_LOG} i WHERE i.event_id = e.id"
            " ORDER BY i.attempt DESC, i.started_at DESC LIMIT 1)"
        )
        answered = last.format(
            "IF(i.error_message IS NULL AND i.status_code NOT BETWEEN 200 AND 299,"
            " i.status_code, NULL)"
        )
        return [
            f"(LOCATE(LOWER({error}), LOWER(e.problem)) > 0"
            f" OR LOCATE(LOWER({error}), LOWER({last.format('i.error_message')})) > 0"
            f" OR CONCAT({answered}) = {error})"
        ]


def _moment(milliseconds: int) -> datetime:
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


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
