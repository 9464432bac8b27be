"""The event log in Postgres: bulk writes through COPY, everything else set-based SQL.

Each method that changes something is one transaction. What must not be done twice is fenced by the
position that changes were read from, and by the number of an attempt.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias, cast
from uuid import UUID

import psycopg2.errors
import psycopg2.extras

from eventing.changes import Claim, Event, EventStatus, Finding, Origin, Outcome, ended_in_order
from eventing.ids import committed_at_ms_in
from eventing.logs import pgchecks, pgpages, pgretention, pgstatistics
from eventing.logs.base import (
    LOST_ATTEMPT,
    PATIENCE_SECONDS,
    DueChunk,
    EventDetail,
    EventFilter,
    EventRow,
    LogUnavailable,
    Page,
    PositionMoved,
    Recorded,
)
from eventing.logs.chunks import CHUNK_SIZE, SWEEP_GRACE_SECONDS
from eventing.logs.counting import (
    DAY_SPAN,
    MOVED_AT_ONCE,
    Statistic,
    counts_by_status,
    counts_of_outcomes,
    counts_of_stored,
)
from eventing.logs.days import DAY_MS, are_late
from eventing.logs.kinds import KnownKinds
from eventing.logs.paging import INVOCATION_COLUMNS, headers_text, invocation
from eventing.logs.pgconnections import Connections, Transaction
from eventing.logs.pgorder import (
    chunks_of_rows,
    free_next,
    let_go_in,
    lock_order,
    places_in_order,
    put_in_order,
)
from eventing.logs.pgstatements import (
    AFTER_THE_GRACE,
    BY_INDEX,
    IN_ORDER_OF_THE_INDEX,
    MUST_LAST,
    NEED_NOT_LAST,
    NULL,
    SCHEMA,
    array,
    escaped,
    nullable,
    timestamp,
)
from eventing.logs.pgtables import Tables
from eventing.logs.places import Due, Places

KindName: TypeAlias = tuple[int, int, str, str, int, str, str]
"""A row of event_kind, but for when it was noted."""


class PostgresEventLog:
    """The event log in the database that `dsn` names. Safe to share between threads.

    One `of_a_project` is reached as a source is, with nothing that this machine alone knows.
    """

    def __init__(self, dsn: str, *, of_a_project: bool = False) -> None:
        self._connections = Connections(dsn, of_a_project)
        self._tables = Tables(self._connections)
        self._known_kinds: KnownKinds[KindName] = KnownKinds()
        self._places = Places()
        self._writer = f"{int(time.time() * 1000):x}"
        # Events whose outcomes could not be recorded, unless only the server's answer was lost.
        self._in_doubt: set[str] = set()

    @property
    def statements(self) -> int:
        """How many statements were run; tests hold pages to a fixed number of them."""
        return self._connections.statements

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        self._connections.close()

    # Tables and retention

    def check(self, owner: str) -> list[Finding]:
        """Whether this database can hold the log of an installation."""
        return pgchecks.check(self._connections, owner)

    def make_tables(self, owner: str | None = None) -> None:
        """Make or upgrade schema, tables and this week's partitions, as far as need be."""
        self._tables.make(owner)

    def is_behind(self) -> bool:
        """Whether an upgrade has left something to `catch_up` with."""
        return self._tables.is_behind()

    def catch_up(self) -> None:
        """Do what takes long after an upgrade, while everybody goes on."""
        self._tables.catch_up()

    def drop_partitions_before(self, day: int) -> list[str]:
        """Drop whole days older than `day`; returns the names of the tables that went."""
        return self._tables.drop_partitions_before(day)

    def expire(self, project_id: int, events_before: int, payloads_before: int) -> tuple[int, int]:
        """Delete a project's old events, and forget the payloads of less old ones."""
        if self._tables.lacks_kinds():
            # They are found by their kinds; what is not found now would count as gone for good.
            return 0, 0
        return pgretention.expire(self._connections, project_id, events_before, payloads_before)

    # Capture

    def position(self, database_id: int) -> str | None:
        """Up to where the changes of this database are stored."""
        with self._connections.transaction() as at:
            at.run(
                f"SELECT position FROM {SCHEMA}.capture_position WHERE database_id = %s",
                database_id,
            )
            row = at.fetchone()
        return row[0] if row else None

    def append(
        self, origin: Origin, events: Sequence[Event], previous: str | None, position: str
    ) -> None:
        """Store `events` and move the position from `previous` to `position`, both or neither."""
        moments = {event.id_text[:13] for event in events}
        days = {committed_at_ms_in(moment) // DAY_MS for moment in moments}
        try:
            self._append(origin, events, previous, position, days)
        except psycopg2.errors.CheckViolation:
            # What comes late belongs to a day that another process has dropped in the meantime.
            self._tables.look_again_for(days)
            self._append(origin, events, previous, position, days)

    def _append(
        self,
        origin: Origin,
        events: Sequence[Event],
        previous: str | None,
        position: str,
        days: set[int],
    ) -> None:
        self._tables.make_partitions(sorted(days))
        kinds = self._new_kinds(origin, events)
        with self._connections.transaction() as at:
            sweep_at = self._move_position(at, origin.database_id, previous, position)
            if events:
                self._note_kinds(at, kinds)
                self._copy_events(at, origin, events)
                self._copy_deliveries(at, origin, events, sweep_at)
                self._add_stats(at, counts_of_stored(origin.project_id, events))
                if are_late(days):
                    pgretention.note_late(at, origin.project_id, events)
        self._known_kinds.note(kinds)

    def _move_position(
        self,
        at: Transaction,
        database_id: int,
        previous: str | None,
        position: str,
    ) -> str:
        """The fence: whoever read from another position than the stored one writes nothing.

        Returns when the sweep is to look for what is stored now, by this database's clock.
        """
        if previous is None:
            sql = f"""{MUST_LAST}
                INSERT INTO {SCHEMA}.capture_position (position, database_id)
                VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING {AFTER_THE_GRACE}"""
            at.run(sql, position, database_id)
        else:
            sql = f"""{MUST_LAST}
                UPDATE {SCHEMA}.capture_position SET position = %s, updated_at = now()
                WHERE database_id = %s AND position = %s RETURNING {AFTER_THE_GRACE}"""
            at.run(sql, position, database_id, previous)
        moved = at.fetchone()
        if moved is None:
            raise PositionMoved(database_id, previous)
        sweep_at: str = moved[0]
        return sweep_at

    def _new_kinds(self, origin: Origin, events: Sequence[Event]) -> set[KindName]:
        """The kinds of these events that this process has not noted yet."""
        kinds = {
            (event.trigger_id, event.table, event.operation, event.trigger) for event in events
        }
        project_id, database_id, alias = origin.project_id, origin.database_id, origin.alias
        found: set[KindName] = {
            (project_id, trigger_id, table, operation, database_id, trigger, alias)
            for trigger_id, table, operation, trigger in kinds
        }
        return self._known_kinds.unknown(found)

    def _note_kinds(
        self,
        at: Transaction,
        kinds: set[KindName],
    ) -> None:
        if kinds:
            psycopg2.extras.execute_values(
                at,
                f"INSERT INTO {SCHEMA}.event_kind VALUES %s"
                f" ON CONFLICT ON CONSTRAINT event_kind_pkey DO UPDATE SET noted_at = now()",
                sorted(kinds),
                page_size=10_000,
            )

    def _copy_events(self, at: Transaction, origin: Origin, events: Sequence[Event]) -> None:
        head = f"{origin.project_id}\t{escaped(origin.project)}\t"
        source = f"\t{origin.database_id}\t{escaped(origin.alias)}\t{origin.type}\t"
        lines = (
            f"{event.id_text}\t{head}{event.trigger_id}\t{escaped(event.trigger)}{source}"
            f"{escaped(event.table)}\t{event.operation}\t{escaped(event.document_id)}\t"
            f"{escaped(event.payload)}\t{nullable(event.problem)}\t"
            f"{timestamp(event.committed_at_ms)}\t{event.position or NULL}\n"
            for event in events
        )
        at.copy(
            f"COPY {SCHEMA}.event_log (id, project_id, project, trigger_id, trigger, database_id,"
            ' database, database_type, "table", operation, doc_id, payload, problem, committed_at,'
            " position) FROM STDIN",
            lines,
        )

    def _copy_deliveries(
        self,
        at: Transaction,
        origin: Origin,
        events: Sequence[Event],
        sweep_at: str,
    ) -> None:
        places = places_in_order(
            at,
            [
                (event.trigger_id, event.order_key, event.id_text)
                for event in events
                if event.order_key is not None
            ],
        )
        plain = (f"{sweep_at}\t\\N\t\\N", "pending")
        undeliverable = ("infinity\t\\N\t\\N", "failed")
        lines = []
        for event in events:
            tail, state = undeliverable if event.problem else plain
            if event.order_key is not None:
                place, is_first = places[event.id_text]
                turn = sweep_at if is_first else "infinity"
                tail = f"{turn}\t{event.order_key}\t{place}"
            lines.append(
                f"{event.id_text}\t{event.trigger_id}\t{origin.project_id}\t{state}\t{tail}\n"
            )
        at.copy(
            f"COPY {SCHEMA}.delivery"
            " (event_id, trigger_id, project_id, state, sweep_at, order_key, order_seq)"
            " FROM STDIN",
            lines,
        )

    def _add_stats(self, at: Transaction, rows: Sequence[tuple[int, ...]]) -> None:
        """Add what a batch counts to the statistics."""
        if rows:
            pgstatistics.add(at, rows, self._writer)

    def forget_position(self, database_id: int) -> None:
        """Forget how far a database was read; its next capture starts from now."""
        with self._connections.transaction() as at:
            at.run(
                f"DELETE FROM {SCHEMA}.capture_position WHERE database_id = %s",
                database_id,
            )

    # Delivery

    def claim(self, event_ids: Sequence[UUID], lease_seconds: float) -> list[Claim]:
        """Take those of `event_ids` that are pending and whose turn it is."""
        if not event_ids:
            return []
        with self._connections.transaction() as at:
            return self._claim(at, [str(event_id) for event_id in event_ids], lease_seconds)

    def claim_due(self, trigger_id: int, limit: int, lease_seconds: float) -> list[Claim]:
        """Take up to `limit` events of a trigger that are due, those due longest first."""
        with self._connections.transaction() as at:
            found = self._places.find(
                trigger_id, limit, lambda place: self._due(at, trigger_id, limit, place)
            )
            if not found:
                return []
            at.run("SET LOCAL enable_sort TO DEFAULT")
            return self._claim_locked(at, [event_id for event_id, _ in found], lease_seconds)

    def _due(
        self, at: Transaction, trigger_id: int, limit: int, place: Due | None
    ) -> Sequence[Due]:
        """Up to `limit` events that are due, behind `place`, locked: ids, and when they are due.

        By delivery_due; what was stored a moment ago stands within the grace.
        """
        behind = "AND (d.sweep_at, d.event_id) > (%s::timestamptz, %s::uuid)" if place else ""
        at.run(
            f"""{IN_ORDER_OF_THE_INDEX}
            SELECT d.event_id::text, d.sweep_at::text FROM {SCHEMA}.delivery d
            WHERE trigger_id = %s {behind} AND sweep_at <= now() + %s * interval '1 second'
              AND state = 'pending' AND next_attempt_at <= now()
            ORDER BY d.sweep_at, d.event_id LIMIT %s
            FOR UPDATE SKIP LOCKED""",
            trigger_id,
            *((place[1], place[0]) if place else ()),
            SWEEP_GRACE_SECONDS,
            limit,
        )
        return at.fetchall()

    def _claim(self, at: Transaction, texts: Sequence[str], lease_seconds: float) -> list[Claim]:
        # By primary key: IS TRUE keeps the planner from reading all of delivery_due for `sweep_at`.
        at.run(
            f"""{BY_INDEX}
            SELECT event_id::text FROM {SCHEMA}.delivery
            WHERE event_id = ANY (%s::uuid[])
              AND state = 'pending' AND next_attempt_at <= now()
              AND (sweep_at < 'infinity') IS TRUE
            ORDER BY event_id
            FOR UPDATE SKIP LOCKED""",
            array(texts),
        )
        free = [event_id for (event_id,) in at.fetchall()]
        return self._claim_locked(at, free, lease_seconds) if free else []

    def _claim_locked(
        self, at: Transaction, texts: Sequence[str], lease_seconds: float
    ) -> list[Claim]:
        """Take events that this transaction has found to be free, and has locked."""
        # Both tables by primary key, whatever the statistics say: an array and OFFSET 0 leave the
        # planner no other way. The range on id lets it leave out partitions.
        at.run(
            f"""{NEED_NOT_LAST}{BY_INDEX}
            WITH claimed AS (
                UPDATE {SCHEMA}.delivery
                SET state = 'delivering', attempts = attempts + 1,
                    lease_until = now() + %s * interval '1 second'
                WHERE event_id = ANY (%s::uuid[])
                RETURNING event_id, trigger_id, attempts, failures, order_key
            )
            SELECT c.event_id::text, c.trigger_id, c.attempts, c.failures, e.doc_id,
                   coalesce(e.payload, ''),
                   c.order_key
            FROM claimed c CROSS JOIN LATERAL (
                SELECT doc_id, payload FROM {SCHEMA}.event_log
                WHERE id = c.event_id AND id BETWEEN %s::uuid AND %s::uuid
                OFFSET 0
            ) e
            ORDER BY c.event_id""",
            lease_seconds,
            array(texts),
            min(texts),
            max(texts),
        )
        return [Claim._make(row) for row in at.fetchall()]

    def record(self, outcomes: Sequence[Outcome], worker: str) -> Recorded:
        """Store invocations, and what each attempt came to."""
        if not outcomes:
            return Recorded(0, [])
        try:
            recorded = self._record(outcomes, worker)
        except LogUnavailable:
            self._in_doubt.update(outcome.claim.id_text for outcome in outcomes)
            raise
        if self._in_doubt:
            self._in_doubt.difference_update(outcome.claim.id_text for outcome in outcomes)
        return recorded

    def _record(self, outcomes: Sequence[Outcome], worker: str) -> Recorded:
        delivered: list[Outcome] = []
        others: list[Outcome] = []
        for outcome in outcomes:
            (delivered if outcome.exchange.succeeded else others).append(outcome)
        finished = ended_in_order(outcomes)
        with self._connections.transaction() as at:
            if finished:
                lock_order(at, {trigger_id for trigger_id, _ in finished})
            unlogged = self._unlogged(at, outcomes, worker) if self._in_doubt else outcomes
            self._copy_invocations(at, unlogged, worker)
            moved = self._delete_delivered(at, delivered) if delivered else set()
            if others:
                moved |= self._update_undelivered(at, others)
            self._add_stats(
                at,
                counts_of_outcomes(
                    outcome for outcome in outcomes if outcome.claim.id_text in moved
                ),
            )
            return Recorded(len(moved), free_next(at, finished))

    def _unlogged(
        self, at: Transaction, outcomes: Sequence[Outcome], worker: str
    ) -> Sequence[Outcome]:
        """Those of `outcomes` whose attempts are not in the log."""
        doubtful = [
            outcome.claim.id_text for outcome in outcomes if outcome.claim.id_text in self._in_doubt
        ]
        if not doubtful:
            return outcomes
        # By invocation_log_event.
        at.run(
            f"""{BY_INDEX}
            SELECT event_id::text, attempt, round(extract(epoch FROM started_at) * 1000)::bigint
            FROM {SCHEMA}.invocation_log WHERE event_id = ANY (%s::uuid[]) AND worker = %s""",
            array(doubtful),
            worker,
        )
        logged = set(at.fetchall())
        return [
            outcome
            for outcome in outcomes
            if (outcome.claim.id_text, outcome.claim.attempt, outcome.exchange.started_at_ms)
            not in logged
        ]

    def _copy_invocations(self, at: Transaction, outcomes: Sequence[Outcome], worker: str) -> None:
        tail = f"\t{escaped(worker)}\n"
        lines = [
            f"{outcome.claim.id_text}\t{outcome.claim.attempt}\t"
            f"{timestamp(exchange.started_at_ms)}\t{exchange.duration_ms}\t"
            f"{escaped(exchange.url)}\t{escaped(headers_text(exchange.request_headers))}\t"
            f"{nullable(exchange.status_code)}\t{escaped(headers_text(exchange.response_headers))}\t"
            f"{escaped(exchange.response_body.decode('utf-8', 'replace'))}\t"
            f"{nullable(exchange.error_kind)}\t{nullable(exchange.error_message)}{tail}"
            for outcome in outcomes
            for exchange in (outcome.exchange,)
        ]
        at.copy(
            f"COPY {SCHEMA}.invocation_log (event_id, attempt, started_at, duration_ms, url,"
            " request_headers, status_code, response_headers, response_body, error_kind,"
            " error_message, worker) FROM STDIN",
            lines,
        )

    def _delete_delivered(self, at: Transaction, outcomes: Sequence[Outcome]) -> set[str]:
        # By primary key, and no join that could be made the other way round; the attempt number is
        # the fence, and nearly always the same. Of a claim that a crash has undone, the event waits
        # with one attempt less: what it came to counts.
        texts_by_attempt: dict[int, list[str]] = defaultdict(list)
        for outcome in outcomes:
            texts_by_attempt[outcome.claim.attempt].append(outcome.claim.id_text)
        moved = set()
        for attempt, texts in texts_by_attempt.items():
            at.run(
                f"""{BY_INDEX}
                DELETE FROM {SCHEMA}.delivery
                WHERE event_id = ANY (%s::uuid[])
                  AND (attempts = %s AND state = 'delivering'
                       OR attempts = %s AND state = 'pending')
                RETURNING event_id::text""",
                array(texts),
                attempt,
                attempt - 1,
            )
            moved |= {event_id for (event_id,) in at.fetchall()}
        return moved

    def _update_undelivered(self, at: Transaction, outcomes: Sequence[Outcome]) -> set[str]:
        # By primary key; the attempt number is the fence, as above.
        texts = array(outcome.claim.id_text for outcome in outcomes)
        at.run(
            f"""{BY_INDEX}
            UPDATE {SCHEMA}.delivery d
            SET state = CASE WHEN o.retry_in IS NULL THEN 'failed' ELSE 'pending' END,
                attempts = o.attempt,
                failures = failures + 1,
                next_attempt_at = coalesce(now() + o.retry_in, next_attempt_at),
                sweep_at = coalesce(now() + o.retry_in, 'infinity'),
                order_key = CASE WHEN o.retry_in IS NOT NULL THEN order_key END,
                lease_until = NULL
            FROM (SELECT event_id, attempt, retry_in_ms * interval '1 millisecond'
                  FROM unnest(%s::uuid[], %s::int[], %s::bigint[])
                      AS given (event_id, attempt, retry_in_ms)
            ) AS o (event_id, attempt, retry_in)
            WHERE d.event_id = ANY (%s::uuid[])
              AND d.event_id = o.event_id
              AND (d.attempts = o.attempt AND d.state = 'delivering'
                   OR d.attempts = o.attempt - 1 AND d.state = 'pending')
            RETURNING d.event_id::text""",
            texts,
            array(str(outcome.claim.attempt) for outcome in outcomes),
            [outcome.retry_in_ms for outcome in outcomes],
            texts,
        )
        return {event_id for (event_id,) in at.fetchall()}

    def release(self, claims: Sequence[Claim]) -> None:
        """Give back claims that were never sent; their attempts are not counted."""
        if not claims:
            return
        texts = array(claim.id_text for claim in claims)
        with self._connections.transaction() as at:
            # By primary key.
            at.run(
                f"""{BY_INDEX}
                UPDATE {SCHEMA}.delivery d
                SET state = 'pending', attempts = attempts - 1, lease_until = NULL,
                    sweep_at = now()
                FROM unnest(%s::uuid[], %s::int[]) AS o (event_id, attempt)
                WHERE d.event_id = ANY (%s::uuid[])
                  AND d.event_id = o.event_id AND d.attempts = o.attempt
                  AND d.state = 'delivering'""",
                texts,
                array(str(claim.attempt) for claim in claims),
                texts,
            )

    def due(self, trigger_ids: Sequence[int]) -> list[DueChunk]:
        """A chunk for each trigger that has pending events whose time has come."""
        if not trigger_ids:
            return []
        with self._connections.transaction() as at:
            # By delivery_due.
            at.run(
                f"""{IN_ORDER_OF_THE_INDEX}{BY_INDEX}
                SELECT wanted.trigger_id, picked.event_id::text
                FROM unnest(%s::bigint[]) AS wanted (trigger_id)
                CROSS JOIN LATERAL (
                    SELECT event_id FROM {SCHEMA}.delivery
                    WHERE trigger_id = wanted.trigger_id AND sweep_at <= now()
                      AND state = 'pending' AND next_attempt_at <= now()
                    ORDER BY sweep_at, event_id LIMIT %s
                    FOR UPDATE SKIP LOCKED
                ) picked""",
                list(trigger_ids),
                CHUNK_SIZE,
            )
            due = at.fetchall()
            if due:
                let_go_in(at, SWEEP_GRACE_SECONDS, [event_id for _, event_id in due])
        chunks = chunks_of_rows(due)
        return [chunk._replace(more=len(chunk.event_ids) == CHUNK_SIZE) for chunk in chunks]

    def expire_leases(self) -> int:
        """Return events whose worker vanished to `pending`; their lost attempt is logged."""
        with self._connections.transaction() as at:
            at.run(
                f"""
                SELECT event_id::text FROM {SCHEMA}.delivery
                WHERE state = 'delivering' AND lease_until < now()
                LIMIT 10000
                FOR UPDATE SKIP LOCKED"""
            )
            expired = [event_id for (event_id,) in at.fetchall()]
            if not expired:
                return 0
            # By primary key.
            at.run(
                f"""{BY_INDEX}
                WITH returned AS (
                    UPDATE {SCHEMA}.delivery
                    SET state = 'pending', lease_until = NULL, sweep_at = now()
                    WHERE event_id = ANY (%s::uuid[])
                    RETURNING event_id, attempts
                )
                INSERT INTO {SCHEMA}.invocation_log (event_id, attempt, started_at, duration_ms,
                    url, request_headers, response_headers, response_body, error_kind,
                    error_message, worker)
                SELECT event_id, attempts, now(), 0, '', '[]', '[]', '', 'lost', %s, ''
                FROM returned
                -- Without its day there is no table for it either, and all others would fail
                -- with it.
                WHERE EXISTS (SELECT FROM {SCHEMA}.event_log e WHERE e.id = event_id)""",
                array(expired),
                LOST_ATTEMPT,
            )
            return at.rowcount

    def cancel(self, trigger_id: int) -> int:
        """Cancel what is pending or delivering for a deleted trigger; returns how many."""
        with self._connections.transaction() as at:
            at.run(
                f"""
                UPDATE {SCHEMA}.delivery
                SET state = 'cancelled', lease_until = NULL, sweep_at = 'infinity', order_key = NULL
                WHERE trigger_id = %s AND state IN ('pending', 'delivering')""",
                trigger_id,
            )
            return at.rowcount

    def cancel_events(self, project_id: int, event_ids: Sequence[UUID]) -> Recorded:
        """Cancel those of `event_ids` that are pending; what waited for them may then be sent."""
        texts = [str(event_id) for event_id in event_ids]
        with self._connections.transaction() as at:
            # By primary key, and no row locked yet: the locks of orders come before those of rows.
            at.run(
                f"""{BY_INDEX}
                SELECT DISTINCT trigger_id FROM {SCHEMA}.delivery
                WHERE event_id = ANY (%s::uuid[]) AND project_id = %s AND order_key IS NOT NULL""",
                texts,
                project_id,
            )
            if ordered := {trigger_id for (trigger_id,) in at.fetchall()}:
                lock_order(at, ordered)
            # By primary key.
            at.run(
                f"""
                SELECT trigger_id, order_key, event_id::text FROM {SCHEMA}.delivery
                WHERE event_id = ANY (%s::uuid[]) AND project_id = %s AND state = 'pending'
                ORDER BY event_id FOR UPDATE""",
                texts,
                project_id,
            )
            cancelled = at.fetchall()
            at.run(
                f"""
                UPDATE {SCHEMA}.delivery
                SET state = 'cancelled', lease_until = NULL, sweep_at = 'infinity', order_key = NULL
                WHERE event_id = ANY (%s::uuid[])""",
                array(event_id for _, _, event_id in cancelled),
            )
            keys = {(trigger_id, key) for trigger_id, key, _ in cancelled if key is not None}
            return Recorded(len(cancelled), free_next(at, keys))

    def triggers_with_deliveries(self) -> list[int]:
        """Ids of all triggers that have unfinished (pending or delivering) events."""
        # A loose scan of delivery_due: one probe a trigger, whatever the backlog. Where some wait
        # for their turn, the first of them does not.
        sql = f"""{IN_ORDER_OF_THE_INDEX}{BY_INDEX}
            WITH RECURSIVE first (trigger_id, sweep_at) AS (
                (SELECT trigger_id, sweep_at FROM {SCHEMA}.delivery
                 ORDER BY trigger_id, sweep_at LIMIT 1)
                UNION ALL
                SELECT next.trigger_id, next.sweep_at
                FROM first CROSS JOIN LATERAL (
                    SELECT d.trigger_id, d.sweep_at FROM {SCHEMA}.delivery d
                    WHERE d.trigger_id > first.trigger_id
                    ORDER BY d.trigger_id, d.sweep_at LIMIT 1
                ) next
            )
            SELECT trigger_id FROM first WHERE sweep_at < 'infinity'"""
        with self._connections.transaction() as at:
            at.run(sql)
            return [trigger_id for (trigger_id,) in at.fetchall()]

    # Reading and redelivering

    def browse(
        self,
        project_id: int,
        filters: EventFilter,
        cursor: str | None,
        limit: int,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Page:
        """A page of events, newest first. Raises InvalidCursor, SearchTooDeep."""
        with self._connections.transaction() as at:
            return pgpages.page_of(at, project_id, filters, cursor, limit, patience_seconds)

    def count(
        self,
        project_id: int,
        filters: EventFilter,
        most: int,
        patience_seconds: float = PATIENCE_SECONDS,
        except_triggers: Sequence[int] = (),
    ) -> int:
        """How many events match, `most` if there are more. Raises SearchTooDeep."""
        with self._connections.transaction() as at:
            return pgpages.count_of(
                at, project_id, filters, most, patience_seconds, except_triggers
            )

    def event(self, project_id: int, event_id: UUID) -> EventDetail | None:
        """One event with its payload and invocations, oldest first."""
        with self._connections.transaction() as at:
            rows = pgpages.rows_of(at, project_id, [event_id])
            if not rows:
                return None
            at.run(f"SELECT payload, position FROM {SCHEMA}.event_log WHERE id = %s", str(event_id))
            payload, position = cast(tuple[Any, Any], at.fetchone())
            # By invocation_log_event.
            at.run(
                f"SELECT {INVOCATION_COLUMNS} FROM {SCHEMA}.invocation_log WHERE event_id = %s"
                " ORDER BY attempt, started_at",
                str(event_id),
            )
            invocations = [invocation(found) for found in at.fetchall()]
        return EventDetail(rows[0], payload, invocations, position)

    def rows(self, project_id: int, event_ids: Sequence[UUID]) -> list[EventRow]:
        """Those of these events that there are, newest first."""
        with self._connections.transaction() as at:
            return pgpages.rows_of(at, project_id, event_ids)

    def payloads(self, project_id: int, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The payloads of these events as JSON text; one that has expired is no key."""
        with self._connections.transaction() as at:
            # By primary key.
            at.run(
                f"""
                SELECT id::text, payload FROM {SCHEMA}.event_log
                WHERE id = ANY (%s::uuid[]) AND project_id = %s AND payload IS NOT NULL""",
                list(map(str, event_ids)),
                project_id,
            )
            return {UUID(event_id): payload for event_id, payload in at.fetchall()}

    def redeliver(
        self,
        project_id: int,
        event_ids: Sequence[UUID],
        trigger_ids: Sequence[int],
        ordered: Sequence[int] = (),
    ) -> list[DueChunk]:
        """Put finished events of `trigger_ids` back to `pending` with a fresh retry budget."""
        if not event_ids or not trigger_ids:
            return []
        # An event that has no delivery row was delivered; its attempts go on from the last one. The
        # lock keeps retention from forgetting a payload that is to be sent.
        sql = f"""
            INSERT INTO {SCHEMA}.delivery AS d
                (event_id, trigger_id, project_id, attempts, sweep_at)
            SELECT e.id, e.trigger_id, e.project_id,
                   coalesce((SELECT max(attempt) FROM {SCHEMA}.invocation_log i
                             WHERE i.event_id = e.id), 0),
                   now() + %s * interval '1 second'
            FROM (SELECT id, trigger_id, project_id FROM {SCHEMA}.event_log
                  WHERE id = ANY (%s::uuid[]) AND project_id = %s AND trigger_id = ANY (%s)
                    AND payload IS NOT NULL AND problem IS NULL
                  ORDER BY id FOR SHARE) e
            ON CONFLICT (event_id) DO UPDATE
                SET state = 'pending', failures = 0, next_attempt_at = now(),
                    sweep_at = EXCLUDED.sweep_at
                WHERE d.state IN ('failed', 'cancelled')
            RETURNING trigger_id, event_id::text"""
        texts = [str(event_id) for event_id in event_ids]
        with self._connections.transaction() as at:
            if ordered:
                lock_order(at, set(ordered))
            at.run(sql, SWEEP_GRACE_SECONDS, texts, project_id, list(trigger_ids))
            waiting = at.fetchall()
            put_in_order(at, sorted(text for trigger_id, text in waiting if trigger_id in ordered))
        return chunks_of_rows(waiting)

    def counts(self, project_id: int) -> dict[EventStatus, int]:
        """How many events of the project have which status; every status is a key."""
        with self._connections.transaction() as at:
            # One snapshot for both sums: what is stored and not in `delivery` is delivered.
            at.run(
                f"""
                SELECT state, count(*) FROM {SCHEMA}.delivery WHERE project_id = %s GROUP BY state
                UNION ALL
                SELECT 'stored', coalesce(sum(stored), 0)::bigint FROM (
                    SELECT begins_at AS at, stored FROM {SCHEMA}.event_stats_span
                    WHERE project_id = %s AND span_seconds = {DAY_SPAN}
                    UNION ALL
                    SELECT minute, stored FROM {SCHEMA}.event_stats WHERE project_id = %s
                ) AS counted
                WHERE at >= (SELECT to_timestamp(86400::bigint * coalesce(max(events_from), 0))
                             FROM {SCHEMA}.kept WHERE project_id IN (0, %s))""",
                *[project_id] * 4,
            )
            found = dict(at.fetchall())
        return counts_by_status(found.pop("stored"), found)

    def failed_since(self, since: datetime) -> dict[int, int]:
        """How many events of each trigger, of any project, lately failed for good."""
        with self._connections.transaction() as at:
            # By the primary keys of both: a range of minutes.
            at.run(
                f"""
                SELECT trigger_id, sum(failed)::bigint FROM (
                    SELECT trigger_id, failed FROM {SCHEMA}.event_stats WHERE minute >= %s
                    UNION ALL
                    SELECT trigger_id, failed FROM {SCHEMA}.event_stats_span
                    WHERE span_seconds = 60 AND begins_at >= %s
                ) AS counted
                WHERE failed > 0 GROUP BY trigger_id""",
                since,
                since,
            )
            return dict(at.fetchall())

    def pending_of(self, trigger_ids: Sequence[int]) -> dict[int, int]:
        """How many unfinished events each of these triggers has; every id is a key."""
        with self._connections.transaction() as at:
            at.run(
                f"""
                SELECT trigger_id, count(*) FROM {SCHEMA}.delivery
                WHERE trigger_id = ANY (%s) AND state IN ('pending', 'delivering')
                GROUP BY trigger_id""",
                list(trigger_ids),
            )
            return dict.fromkeys(trigger_ids, 0) | dict(at.fetchall())

    # Statistics

    def settle_statistics(self) -> int:
        """Move what was counted into the sums of each span, and forget old sums."""
        moved = 0
        while True:
            with self._connections.transaction() as at:
                some = pgstatistics.move(at)
            moved += some
            if some < MOVED_AT_ONCE:
                break
        with self._connections.transaction() as at:
            pgstatistics.forget_old(at)
        return moved

    def statistics(
        self,
        project_id: int,
        since: datetime,
        until: datetime,
        step_seconds: int,
        *,
        by_trigger: bool = False,
        trigger_id: int | None = None,
    ) -> list[Statistic]:
        """What came of a project's events in each step of time, oldest first."""
        with self._connections.transaction() as at:
            return pgstatistics.read(
                at, project_id, since, until, step_seconds, by_trigger, trigger_id
            )
