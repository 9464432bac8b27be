"""Pages and single events of a log in Postgres: their statements, and rows as shown.

A page costs the same however many events there are. A filter by trigger, table, operation or
database is a choice among the *kinds* of events that the project ever had, and events of one kind
are read off the end of an index; a page is the newest of the newest of each. Days are looked at
from the newest on, in three portions, so that the plan for a page of new events has few partitions.
A page of delivered events is looked for among what was attempted; where that is not enough, a
backlog is passed by with a hash of a part of it at a time. What none of that makes quick is given
up when the time for it is over.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg2.errors
import psycopg2.extensions

from eventing.ids import committed_at_ms_of, first_id_at
from eventing.logs.base import EventFilter, EventRow, Page, SearchTooDeep
from eventing.logs.days import DAY_MS
from eventing.logs.paging import DENSE_ROWS, FEW_KINDS, id_at, id_of_cursor, page
from eventing.logs.pgstatements import IN_ORDER_OF_THE_INDEX

# How far back each of the first two portions of a search goes; the third goes to the end.
_PORTIONS_DAYS: Final = (1, 8)

# How many events that are not delivered a search for delivered ones passes at once: few where there
# is no backlog, then as many as fit into the memory given for it, 100 bytes each.
_PASSED_FIRST: Final = 1_000
_PASSED_NEXT: Final = 100_000
# How many of the newest that were attempted are looked at before, to find a page among them.
_ATTEMPTED: Final = 20_000
_WORK_MEM: Final = "SET LOCAL work_mem = '32MB';"

# How many attempts a page of events that were tried often looks through, first few and then many,
# and how many of those that match it looks up at most: what a quarter of a second is enough for.
_LOOKED_THROUGH: Final = (20_000, 200_000)
_LOOKED_UP: Final = 20_000

# The columns of EventRow for ids between two: joins by key, for those rows only.
_ROWS: Final = """
    SELECT e.id::text, e.trigger_id, e.trigger, e.database, e.database_type, e."table",
           e.operation, e.doc_id, e.committed_at, e.stored_at,
           coalesce(d.state, 'delivered'), coalesce(d.attempts, i.attempt, 0),
           CASE WHEN d.state = 'pending' AND d.attempts > 0 THEN d.next_attempt_at END,
           e.problem, i.status_code, i.error_message, i.duration_ms
    FROM mission_control.event_log e
    LEFT JOIN mission_control.delivery d ON d.event_id = e.id
    LEFT JOIN LATERAL (
        SELECT attempt, status_code, error_message, duration_ms
        FROM mission_control.invocation_log
        WHERE event_id = e.id AND event_id BETWEEN %(first)s::uuid AND %(last)s::uuid
        ORDER BY attempt DESC, started_at DESC LIMIT 1
    ) i ON true
    WHERE e.id = ANY (%(ids)s::uuid[]) AND e.project_id = %(project)s
    ORDER BY e.id DESC"""


class Kind(NamedTuple):
    """What many events have in common: an index leads to the newest of them."""

    trigger_id: int
    table: str
    operation: str
    database_id: int


def page_of(
    cursor: psycopg2.extensions.cursor,
    project_id: int,
    filters: EventFilter,
    before: str | None,
    limit: int,
    patience_seconds: float,
) -> Page:
    """A page of events, newest first.

    Raises InvalidCursor, SearchTooDeep.
    """
    search = _Search(cursor, project_id, filters, patience_seconds)
    with search.in_time():
        ids = search.ids(id_of_cursor(before), limit + 1)
        rows = search.rows(ids)
    return page(ids, rows, limit, search.ended_at)


def count_of(
    cursor: psycopg2.extensions.cursor,
    project_id: int,
    filters: EventFilter,
    most: int,
    patience_seconds: float,
    except_triggers: Sequence[int],
) -> int:
    """How many events match, `most` if there are more; without those of `except_triggers`.

    Raises SearchTooDeep.
    """
    search = _Search(cursor, project_id, filters, patience_seconds, except_triggers)
    with search.in_time():
        return search.count(most)


class _Select(NamedTuple):
    """A query for ids, what it is asked with beside the filters, and what is set before it."""

    sql: str
    arguments: dict[str, Any] = {}
    before: str = ""


class _Search:
    """The search for one page."""

    def __init__(
        self,
        cursor: psycopg2.extensions.cursor,
        project_id: int,
        filters: EventFilter,
        patience_seconds: float,
        except_triggers: Sequence[int] = (),
    ) -> None:
        self._cursor = cursor
        self._project_id = project_id
        self._filters = filters
        self._except_triggers = list(except_triggers)
        self._patience_seconds = patience_seconds
        self._ends_at = time.monotonic() + patience_seconds
        self._kinds: list[Kind] = []
        self._are_named_alike = False
        # Where the page ends though it is not full: what is older has not been looked at.
        self.ended_at: UUID | None = None

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Around the search. Raises SearchTooDeep if the time for it is over."""
        try:
            yield
        except psycopg2.errors.QueryCanceled:
            raise SearchTooDeep(self._filters, self._patience_seconds) from None

    def _run(self, sql: str, arguments: dict[str, Any] | list[Any]) -> list[tuple[Any, ...]]:
        """Run a query in what time is left. Compiling a plan takes longer than any page."""
        left_ms = max(1, int((self._ends_at - time.monotonic()) * 1000))
        limits = f"SET LOCAL statement_timeout = {left_ms}; SET LOCAL jit = off;"
        self._cursor.execute(f"{limits}{sql}", arguments)
        return list(self._cursor.fetchall())

    def ids(self, before: UUID | None, limit: int) -> list[UUID]:
        """Ids of the newest events that match and are older than `before`, newest first."""
        filters = self._filters
        if filters.error is not None and filters.status == "delivered":
            return []
        whole = _Portion.of(filters, before)
        if filters.document_id is not None:
            return self._found(self._of_document(whole), whole, limit)
        self._choose_kinds()
        if not self._kinds:
            return []
        if filters.status not in (None, "delivered") or filters.error is not None:
            return self._found(self._of_deliveries(whole), whole, limit)
        if filters.min_attempts is not None:
            return self._found_by_attempts(whole, limit)
        portions = list(_portions(filters, before))
        if not portions:
            return []
        edge = self._edge_of_backlog(portions)
        found = self._among_a_few(portions, edge, limit)
        if len(found) == limit:
            return found
        found = []
        for portion in self._passing_backlog(portions, edge):
            left = limit - len(found)
            found += self._found(self._of_kinds(portion, left), portion, left)
            if len(found) == limit:
                break
        return found

    def _among_a_few(
        self, portions: Sequence["_Portion"], edge: UUID | None, limit: int
    ) -> list[UUID]:
        """Those that match among a thousand that are read quickly: all of a page, or too few."""
        if edge is not None:
            whole = _whole(portions)
            return self._found(self._of_the_attempted(whole), whole, limit)
        if len(self._kinds) > FEW_KINDS:
            return self._found(self._of_the_newest(portions[0]), portions[0], limit)
        return []

    def count(self, most: int) -> int:
        """How many events match, `most` if there are more: all are looked at, none is fetched."""
        filters = self._filters
        if filters.error is not None and filters.status == "delivered":
            return 0
        whole = _Portion.of(filters, None)
        if filters.document_id is None:
            self._choose_kinds()
            if not self._kinds:
                return 0
        if filters.document_id is not None:
            select = self._of_document(whole)
        elif filters.status not in (None, "delivered") or filters.error is not None:
            select = self._of_deliveries(whole)
        elif filters.min_attempts is not None:
            select = self._of_attempts(whole)
        else:
            return self._count_of_kinds(whole, most)
        return self._counted(select, whole, most)

    def _count_of_kinds(self, whole: "_Portion", most: int) -> int:
        count = 0
        for portion in self._passing_backlog([whole], self._edge_of_backlog([whole])):
            left = most - count
            count += self._counted(self._of_kinds(portion, left), portion, left)
            if count == most:
                break
        return count

    def _counted(self, select: _Select, portion: "_Portion", most: int) -> int:
        counting = select._replace(sql=f"SELECT count(*) FROM ({select.sql}) AS found")
        ((count,),) = self._selected(counting, portion, most)
        return int(count)

    def _found_by_attempts(self, whole: "_Portion", limit: int) -> list[UUID]:
        """The newest that were tried so often, among as many attempts as a page looks through."""
        found: list[UUID] = []
        for attempts in _LOOKED_THROUGH:
            edge = self._edge_of_attempts(whole, attempts)
            part = whole if edge is None else whole._replace(since=edge)
            left = limit - len(found)
            found += self._found(self._of_attempts(part), part, left)
            if len(found) == limit or edge is None:
                return found
            whole = whole._replace(until=edge)
        self.ended_at = edge
        return found

    def _edge_of_attempts(self, portion: "_Portion", attempts: int) -> UUID | None:
        """The event that so many attempts at newer ones follow, or so many of those that match;
        by invocation_log_event. None if there are fewer.
        """
        newest = f"""
            SELECT i.event_id, i.attempt FROM mission_control.invocation_log i
            WHERE true {portion.condition("i.event_id")}
            ORDER BY i.event_id DESC"""
        sql = f"""
            SELECT greatest(
                (SELECT event_id FROM ({newest} OFFSET {attempts} LIMIT 1) AS looked_at),
                (SELECT event_id FROM ({newest} LIMIT {attempts}) AS looked_at
                 WHERE attempt >= %(attempts)s
                 ORDER BY event_id DESC OFFSET {_LOOKED_UP} LIMIT 1)
            )::text"""
        ((text,),) = self._selected(_Select(sql, {}, IN_ORDER_OF_THE_INDEX), portion, 1)
        return None if text is None else UUID(text)

    def _edge_of_backlog(self, portions: Sequence["_Portion"]) -> UUID | None:
        """Where the first part of a backlog ends that a search for delivered events has to pass;
        None if there is little of it, or other events are looked for."""
        if self._filters.status != "delivered":
            return None
        return self._edge(_whole(portions), _PASSED_FIRST)

    def _passing_backlog(
        self, portions: Sequence["_Portion"], edge: UUID | None
    ) -> Iterator["_Portion"]:
        """The portions, in parts that hold no more of a backlog than can be passed at once, the
        first from `edge` on."""
        whole = _whole(portions)
        while edge is not None:
            yield from _within(portions, whole._replace(since=edge))
            whole = whole._replace(until=edge)
            edge = self._edge(whole, _PASSED_NEXT)
        yield from _within(portions, whole)

    def _edge(self, portion: "_Portion", passed: int) -> UUID | None:
        """The event that so many newer ones of a portion, not delivered, follow; by primary key.

        None if there are fewer.
        """
        sql = f"""
            SELECT u.event_id::text FROM mission_control.delivery u
            WHERE true {portion.condition("u.event_id")}
            ORDER BY u.event_id DESC OFFSET {passed} LIMIT 1"""
        found = self._found(_Select(sql, {}, IN_ORDER_OF_THE_INDEX), portion, 1)
        return found[0] if found else None

    def rows(self, ids: Sequence[UUID]) -> list[EventRow]:
        """The events with these ids, newest first; by primary keys."""
        if not ids:
            return []
        found = self._run(_ROWS, _arguments_of_rows(self._project_id, ids))
        return [event_row(row) for row in found]

    def _choose_kinds(self) -> None:
        """Which kinds the filters leave, by primary key of event_kind.

        A trigger or database that had several names has a kind for each of them. Their events are
        told apart by name only if some of these names are asked for and others are not.
        """
        wanted = {
            name: value
            for name, value in (
                ("trigger", self._filters.trigger),
                ("database", self._filters.database),
                ('"table"', self._filters.table),
                ("operation", self._filters.operation),
            )
            if value is not None
        }
        matches = " AND ".join([f"{name} = %s" for name in wanted] or ["true"])
        sql = f"""
            SELECT trigger_id, "table", operation, database_id, bool_and({matches})
            FROM mission_control.event_kind
            WHERE project_id = %s AND trigger_id <> ALL (%s::bigint[])
            GROUP BY trigger_id, "table", operation, database_id
            HAVING bool_or({matches})"""
        values = [*wanted.values()]
        found = self._run(sql, [*values, self._project_id, self._except_triggers, *values])
        self._kinds = [Kind(*row[:4]) for row in found]
        self._are_named_alike = all(row[4] for row in found)

    def _of_kinds(self, portion: "_Portion", limit: int) -> _Select:
        """The newest of a portion, by event_log_kind."""
        kinds = """unnest(%(triggers)s::bigint[], %(tables)s::text[], %(operations)s::text[],
                          %(databases)s::bigint[])
                   AS kind (trigger_id, "table", operation, database_id)"""
        of_kind = f"""
            SELECT e.id FROM mission_control.event_log e
            WHERE e.trigger_id = kind.trigger_id AND e."table" = kind."table"
              AND e.operation = kind.operation AND e.database_id = kind.database_id
              {portion.condition("e.id")} {self._names("e")}
            ORDER BY e.id DESC"""
        if self._filters.status == "delivered":
            # OFFSET keeps the planner from making a hash for each day of the log.
            of_kind = f"""
                SELECT e.id FROM ({of_kind} OFFSET 0) AS e
                WHERE e.id NOT IN (
                    SELECT u.event_id FROM mission_control.delivery u
                    WHERE true {portion.condition("u.event_id")}
                )
                ORDER BY e.id DESC"""
        newest = f"CROSS JOIN LATERAL ({of_kind} LIMIT {{}}) AS newest"
        if len(self._kinds) > limit:
            # Only the kinds whose newest events are newest of all can have events of the page.
            kinds = f"""(SELECT kind.* FROM {kinds} {newest.format(1)}
                         ORDER BY newest.id DESC LIMIT %(limit)s) AS kind"""
        sql = f"""
            SELECT newest.id::text FROM {kinds} {newest.format("%(limit)s")}
            ORDER BY newest.id DESC LIMIT %(limit)s"""
        columns = dict(
            zip(
                ("triggers", "tables", "operations", "databases"),
                map(list, zip(*self._kinds, strict=True)),
                strict=True,
            )
        )
        return _Select(sql, columns, _WORK_MEM)

    def _of_the_newest(self, portion: "_Portion") -> _Select:
        """Those that match among the newest of all projects, by primary key."""
        sql = f"""
            SELECT e.id::text FROM (
                SELECT * FROM mission_control.event_log e
                WHERE true {portion.condition("e.id")}
                ORDER BY e.id DESC LIMIT {DENSE_ROWS}
            ) AS e
            WHERE e.project_id = %(project)s {self._match("e")} {self._rest("e")}
            ORDER BY e.id DESC LIMIT %(limit)s"""
        return _Select(sql)

    def _of_the_attempted(self, portion: "_Portion") -> _Select:
        """Those that match among the newest of all projects with an attempt, which every delivered
        event has and a backlog has not, by invocation_log_event and primary keys."""
        # OFFSET keeps the planner from joining them with all of the log.
        sql = f"""
            SELECT e.id::text FROM (
                SELECT attempted.event_id FROM (
                    SELECT DISTINCT i.event_id FROM mission_control.invocation_log i
                    WHERE true {portion.condition("i.event_id")}
                    ORDER BY i.event_id DESC LIMIT {_ATTEMPTED}
                ) AS attempted
                WHERE {self._state("attempted.event_id")} IS NULL
                ORDER BY attempted.event_id DESC LIMIT {DENSE_ROWS}
            ) AS delivered
            CROSS JOIN LATERAL (
                SELECT * FROM mission_control.event_log e WHERE e.id = delivered.event_id OFFSET 0
            ) AS e
            WHERE e.project_id = %(project)s {self._match("e")} {self._names("e")}
            ORDER BY delivered.event_id DESC LIMIT %(limit)s"""
        return _Select(sql, {}, IN_ORDER_OF_THE_INDEX)

    def _of_document(self, portion: "_Portion") -> _Select:
        """The newest of one document, by event_log_doc_id."""
        sql = f"""
            SELECT e.id::text FROM mission_control.event_log e
            WHERE left(e.doc_id, 200) = left(%(document)s, 200) AND e.doc_id = %(document)s
              AND e.project_id = %(project)s AND e.trigger_id <> ALL (%(excepted)s::bigint[])
              {portion.condition("e.id")} {self._match("e")} {self._rest("e")}
            ORDER BY e.id DESC LIMIT %(limit)s"""
        return _Select(sql)

    def _of_attempts(self, portion: "_Portion") -> _Select:
        """The newest that were tried so often, by invocation_log_event; then each by primary key.

        One attempt may be there twice: as it was lost, and as a late worker has recorded it.
        """
        is_delivered = f"AND {self._state('tried.event_id')} IS NULL"
        delivered = is_delivered if self._filters.status == "delivered" else ""
        sql = f"""
            SELECT e.id::text FROM (
                SELECT DISTINCT i.event_id FROM mission_control.invocation_log i
                WHERE i.attempt >= %(attempts)s {portion.condition("i.event_id")}
                ORDER BY i.event_id DESC
            ) AS tried
            CROSS JOIN LATERAL (
                SELECT * FROM mission_control.event_log e WHERE e.id = tried.event_id OFFSET 0
            ) AS e
            WHERE e.project_id = %(project)s AND e.trigger_id <> ALL (%(excepted)s::bigint[])
              {self._match("e")} {delivered}
            ORDER BY tried.event_id DESC LIMIT %(limit)s"""
        return _Select(sql, {}, IN_ORDER_OF_THE_INDEX)

    def _of_deliveries(self, portion: "_Portion") -> _Select:
        """The newest that are not delivered, from the small table.

        Failed and cancelled ones by delivery_due, where they are in order behind `infinity`; those
        that are being sent, of which there are few, by reading all; the others by primary key. The
        log is asked only where a filter needs it.
        """
        filters = self._filters
        state = "" if filters.status is None else "AND u.state = %(state)s"
        if filters.status is None:
            state = "AND (u.attempts > 0 OR u.state = 'failed')"
        if filters.min_attempts is not None:
            state += " AND u.attempts - (u.state = 'delivering')::int >= %(attempts)s"
        # As in `_state`: what is made of EXISTS may be a scan of the whole log.
        of_event = "SELECT {} FROM mission_control.event_log e WHERE e.id = u.event_id {}"
        log = error = ""
        if any((filters.database, filters.table, filters.operation)) or not self._are_named_alike:
            log = f"AND ({of_event.format('true', self._match('e'))})"
        if filters.error is not None:
            # What could not be sent at all was never attempted.
            problem = of_event.format(self._problem("e"), "")
            error = f"""
                AND CASE u.attempts WHEN 0 THEN ({problem})
                    ELSE {self._last_attempt("u.event_id")} END"""
        conditions = f"{state} {portion.condition('u.event_id')} {log} {error}"
        deliveries = "mission_control.delivery"
        if filters.status == "delivering":
            # OFFSET keeps the planner from looking all of them up in order.
            deliveries = f"""(SELECT * FROM {deliveries} u WHERE true {state} OFFSET 0)"""
        if filters.status in ("failed", "cancelled"):
            sql = f"""
                SELECT found.event_id::text FROM unnest(%(triggers)s::bigint[]) AS t (id)
                CROSS JOIN LATERAL (
                    SELECT u.event_id FROM mission_control.delivery u
                    WHERE u.trigger_id = t.id AND u.sweep_at = 'infinity' {conditions}
                    ORDER BY u.event_id DESC LIMIT %(limit)s
                ) AS found
                ORDER BY found.event_id DESC LIMIT %(limit)s"""
        else:
            sql = f"""
                SELECT u.event_id::text FROM {deliveries} u
                WHERE u.project_id = %(project)s AND u.trigger_id = ANY (%(triggers)s)
                  {conditions}
                ORDER BY u.event_id DESC LIMIT %(limit)s"""
        triggers = sorted({kind.trigger_id for kind in self._kinds})
        return _Select(sql, {"triggers": triggers}, IN_ORDER_OF_THE_INDEX)

    def _found(self, select: _Select, portion: "_Portion", limit: int) -> list[UUID]:
        return [UUID(text) for (text,) in self._selected(select, portion, limit)]

    def _selected(self, select: _Select, portion: "_Portion", limit: int) -> list[tuple[Any, ...]]:
        filters = self._filters
        arguments = {
            "project": self._project_id,
            "limit": limit,
            "since": str(portion.since),
            "until": str(portion.until),
            "trigger": filters.trigger,
            "database": filters.database,
            "table": filters.table,
            "operation": filters.operation,
            "document": filters.document_id,
            "state": filters.status,
            "error": filters.error,
            "attempts": filters.min_attempts,
            "excepted": self._except_triggers,
            **select.arguments,
        }
        return self._run(select.before + select.sql, arguments)

    def _match(self, event: str) -> str:
        """What the filters say of an event's own columns, its document apart."""
        conditions = [
            f'AND {event}."{name}" = %({name})s'
            for name in ("trigger", "database", "table", "operation")
            if getattr(self._filters, name) is not None
        ]
        return " ".join(conditions)

    def _rest(self, event: str) -> str:
        """What an event's kind does not say."""
        conditions = [self._names(event)]
        state = self._state(f"{event}.id")
        if self._filters.status == "delivered":
            conditions.append(f"AND {state} IS NULL")
        elif self._filters.status is not None:
            conditions.append(f"AND {state} = %(state)s")
        if self._filters.min_attempts is not None:
            # By invocation_log_event.
            conditions.append(f"""
                AND EXISTS (
                    SELECT FROM mission_control.invocation_log i
                    WHERE i.event_id = {event}.id AND i.attempt >= %(attempts)s
                )""")
        conditions.append(self._error(event))
        return " ".join(conditions)

    def _state(self, event_id: str) -> str:
        """NULL if it is delivered. A subquery of its own is looked up by primary key, event by
        event; what the planner makes of EXISTS may be a hash of the whole backlog."""
        return f"(SELECT u.state FROM mission_control.delivery u WHERE u.event_id = {event_id})"

    def _names(self, event: str) -> str:
        """The names asked for, where events of one kind differ in them."""
        if self._are_named_alike:
            return ""
        return " ".join(
            f"AND {event}.{name} = %({name})s"
            for name in ("trigger", "database")
            if getattr(self._filters, name) is not None
        )

    def _error(self, event: str) -> str:
        """What the filters say of how the last attempt failed, or why there was none."""
        if self._filters.error is None:
            return ""
        return f"AND ({self._problem(event)} OR {self._last_attempt(f'{event}.id')})"

    def _problem(self, event: str) -> str:
        return f"strpos(lower({event}.problem), lower(%(error)s)) > 0"

    def _last_attempt(self, event_id: str) -> str:
        """Whether the last attempt failed with the error asked for, by invocation_log_event."""
        return f"""
            EXISTS (
                SELECT FROM (
                    SELECT status_code, error_message FROM mission_control.invocation_log i
                    WHERE i.event_id = {event_id}
                    ORDER BY attempt DESC, started_at DESC LIMIT 1
                ) AS last
                WHERE strpos(lower(last.error_message), lower(%(error)s)) > 0
                   OR last.error_message IS NULL AND last.status_code NOT BETWEEN 200 AND 299
                      AND last.status_code::text = %(error)s
            )"""


class _Portion(NamedTuple):
    """Ids from `since` on and before `until`."""

    since: UUID
    until: UUID

    @classmethod
    def of(cls, filters: EventFilter, before: UUID | None) -> "_Portion":
        """What filters and cursor say of the time."""
        ends = [each for each in (before, id_at(filters.before)) if each is not None]
        return cls(id_at(filters.after) or UUID(int=0), min(ends, default=UUID(int=(1 << 128) - 1)))

    def condition(self, column: str) -> str:
        """The ids themselves, not as parameters of a plan, so that partitions can be left out."""
        conditions = f"AND {column} < %(until)s::uuid"
        if self.since.int:
            conditions = f"AND {column} >= %(since)s::uuid {conditions}"
        return conditions


def _portions(filters: EventFilter, before: UUID | None) -> Iterator[_Portion]:
    """The portions of a search, newest first, without empty ones."""
    whole = _Portion.of(filters, before)
    newest_ms = min(int(time.time() * 1000), committed_at_ms_of(whole.until))
    day = newest_ms // DAY_MS
    until = whole.until
    for days in (*_PORTIONS_DAYS, None):
        edge = UUID(int=0) if days is None else first_id_at((day - days) * DAY_MS)
        since = max(edge, whole.since)
        if since < until:
            yield _Portion(since, until)
        until = min(until, edge)


def _whole(portions: Sequence[_Portion]) -> _Portion:
    """From the beginning of the oldest to the end of the newest."""
    return _Portion(portions[-1].since, portions[0].until)


def _within(portions: Iterable[_Portion], whole: _Portion) -> Iterator[_Portion]:
    """What of these portions lies within another one."""
    for portion in portions:
        part = _Portion(max(portion.since, whole.since), min(portion.until, whole.until))
        if part.since < part.until:
            yield part


def event_row(row: tuple[Any, ...]) -> EventRow:
    """A row of `_ROWS` as it is shown."""
    return EventRow(UUID(row[0]), *row[1:])


def rows_of(
    cursor: psycopg2.extensions.cursor, project_id: int, event_ids: Sequence[UUID]
) -> list[EventRow]:
    """Those of these events that there are, newest first."""
    if not event_ids:
        return []
    cursor.execute(_ROWS, _arguments_of_rows(project_id, event_ids))
    return [event_row(row) for row in cursor.fetchall()]


def _arguments_of_rows(project_id: int, ids: Sequence[UUID]) -> dict[str, Any]:
    first, last = str(min(ids)), str(max(ids))
    return {"ids": list(map(str, ids)), "first": first, "last": last, "project": project_id}
