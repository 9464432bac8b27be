"""The event log in MySQL 8 or MariaDB 10.6: rows in long INSERTs, everything else set-based SQL.

The tables are those of the log in Postgres. A delivery that is finished (`failed` or `cancelled`)
has a `sweep_at` that never comes, and a delivered event has no delivery. What is asked for more
ids than a statement takes goes in portions, each of them a transaction.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import pymysql

from eventing.changes import Claim, Event, EventStatus, Finding, Origin, Outcome, ended_in_order
from eventing.ids import order_key
from eventing.logs import mychecks, mypages, mystatistics
from eventing.logs.base import (
    LOST_ATTEMPT,
    PATIENCE_SECONDS,
    DueChunk,
    EventDetail,
    EventFilter,
    EventRow,
    Page,
    PositionMoved,
    Recorded,
)
from eventing.logs.chunks import CHUNK_SIZE, chunked
from eventing.logs.counting import (
    DAY_SPAN,
    Statistic,
    counts_by_status,
    counts_of_outcomes,
    counts_of_stored,
)
from eventing.logs.days import DAY_MS, are_late
from eventing.logs.kinds import KnownKinds
from eventing.logs.myconnections import Connections, Transaction, again_after_a_deadlock
from eventing.logs.myorder import free_next, lock_order, places_in_order
from eventing.logs.mystatements import (
    AFTER_THE_GRACE,
    DELIVERY,
    EVENT_KIND,
    EVENT_LOG,
    INVOCATION_LOG,
    KEPT,
    LISTED_AT_ONCE,
    NEVER,
    NOW,
    POSITION,
    SELECTS_AT_ONCE,
    STATS,
    STATS_SPAN,
    hexadecimal,
    listed,
    portions,
)
from eventing.logs.mytables import Tables, note_late
from eventing.logs.paging import headers_text
from eventing.logs.places import Due, Places

_CANCELLED_AT_ONCE: Final = 5_000
_EXPIRED_AT_ONCE: Final = 9_000
# Room in a packet for all of an event but its payload and its document's id.
_PACKET_RESERVE_BYTES: Final = 16_384
_WORKER_CHARACTERS: Final = 255

Kind: TypeAlias = tuple[int, int, int, str, str, str, str]
"""Ids of project, trigger and database; names of trigger, database, table and operation."""


class MySqlEventLog:
    """The event log in the database that `url` names. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        self._tables = Tables(self._connections)
        self._known_kinds: KnownKinds[Kind] = KnownKinds()
        self._places = Places()
        self._writer = f"{int(time.time() * 1000):x}"

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
        return mychecks.check(self._connections, owner)

    def make_tables(self, owner: str | None = None) -> None:
        """Make or upgrade tables and this week's partitions, as far as need be."""
        self._tables.make(owner)

    def is_behind(self) -> bool:
        """Whether an upgrade has left something to `catch_up` with."""
        return self._tables.is_behind()

    def catch_up(self) -> None:
        """Do what takes long after an upgrade, while everybody goes on."""
        self._tables.catch_up()

    def drop_partitions_before(self, day: int) -> list[str]:
        """Drop whole days older than `day`; returns the names of the partitions that went."""
        return self._tables.drop_before(day)

    def expire(self, project_id: int, events_before: int, payloads_before: int) -> tuple[int, int]:
        """Delete a project's old events, and forget the payloads of less old ones."""
        return self._tables.expire(project_id, events_before, payloads_before)

    # Capture

    def position(self, database_id: int) -> str | None:
        """Up to where the changes of this database are stored."""
        with self._connections.transaction() as at:
            found = at.rows(f"SELECT position FROM {POSITION} WHERE database_id = %s", database_id)
        return str(found[0][0]) if found else None

    @again_after_a_deadlock
    def append(
        self, origin: Origin, events: Sequence[Event], previous: str | None, position: str
    ) -> None:
        """Store `events` and move the position from `previous` to `position`, both or neither."""
        kinds = _kinds_of(origin, events)
        with self._connections.transaction() as at:
            _move_position(at, origin.database_id, previous, position)
            if events:
                storable = [_storable(at, event) for event in events]
                unknown = self._known_kinds.unknown(kinds)
                _note_kinds(at, [(kind, kinds[kind]) for kind in sorted(unknown)])
                _insert_events(at, origin, storable, kinds)
                _insert_deliveries(at, origin, storable)
                counted = counts_of_stored(origin.project_id, storable)
                mystatistics.add(at, counted, self._writer)
                if are_late([min(event.committed_at_ms for event in events) // DAY_MS]):
                    note_late(at, origin.project_id, events)
        self._known_kinds.note(kinds)

    @again_after_a_deadlock
    def forget_position(self, database_id: int) -> None:
        """Forget how far a database was read; its next capture starts from now."""
        with self._connections.transaction() as at:
            at.run(f"DELETE FROM {POSITION} WHERE database_id = %s", database_id)

    # Delivery

    def claim(self, event_ids: Sequence[UUID], lease_seconds: float) -> list[Claim]:
        """Take those of `event_ids` that are pending and whose turn it is."""
        claims: list[Claim] = []
        for portion in portions(sorted(event_ids)):
            claims += self._claim(portion, lease_seconds)
        return claims

    @again_after_a_deadlock
    def _claim(self, event_ids: Sequence[UUID], lease_seconds: float) -> list[Claim]:
        with self._connections.transaction() as at:
            # By primary key.
            found = at.rows(
                f"""
                SELECT event_id, attempts + 1, failures, order_key FROM {DELIVERY}
                WHERE event_id IN ({listed(event_ids)})
                  AND state = 'pending' AND next_attempt_at <= {NOW} AND sweep_at < {NEVER}
                FOR UPDATE SKIP LOCKED"""
            )
            return _taken(at, found, lease_seconds)

    def claim_due(self, trigger_id: int, limit: int, lease_seconds: float) -> list[Claim]:
        """Take up to `limit` events of a trigger that are due, those due longest first."""
        claims: list[Claim] = []
        while len(claims) < limit:
            wanted = min(limit - len(claims), LISTED_AT_ONCE)
            some = self._claim_due(trigger_id, wanted, lease_seconds)
            claims += some
            if len(some) < wanted:
                break
        return claims

    @again_after_a_deadlock
    def _claim_due(self, trigger_id: int, limit: int, lease_seconds: float) -> list[Claim]:
        with self._connections.transaction() as at:
            found = self._places.find(
                trigger_id, limit, lambda place: _due(at, trigger_id, limit, place)
            )
            return _taken(at, [(event_id, *rest) for event_id, _, *rest in found], lease_seconds)

    @again_after_a_deadlock
    def record(self, outcomes: Sequence[Outcome], worker: str) -> Recorded:
        """Store invocations, and what each attempt came to."""
        if not outcomes:
            return Recorded(0, [])
        finished = ended_in_order(outcomes)
        with self._connections.transaction() as at:
            lock_order(at, {trigger_id for trigger_id, _ in finished})
            _insert_invocations(at, outcomes, worker)
            claims = [outcome.claim for outcome in outcomes]
            latest = _held(at, claims, _DELIVERING_OR_UNDONE)
            moved = [
                outcome
                for outcome in outcomes
                if (outcome.claim.event_id, outcome.claim.attempt) in latest
            ]
            _delete_delivered(at, moved)
            _update_retried(at, moved)
            _update_failed(at, moved)
            mystatistics.add(at, counts_of_outcomes(moved), self._writer)
            freed = free_next(at, finished)
        return Recorded(len(moved), freed)

    @again_after_a_deadlock
    def release(self, claims: Sequence[Claim]) -> None:
        """Give back claims that were never sent; their attempts are not counted."""
        if not claims:
            return
        with self._connections.transaction() as at:
            held = sorted(event_id for event_id, _ in _held(at, claims, _DELIVERING))
            for ids in portions(held):
                at.run(
                    f"""
                    UPDATE {DELIVERY} SET state = 'pending', attempts = attempts - 1,
                        lease_until = NULL, sweep_at = {NOW}
                    WHERE event_id IN ({listed(ids)})"""
                )

    def due(self, trigger_ids: Sequence[int]) -> list[DueChunk]:
        """A chunk for each trigger that has pending events whose time has come."""
        chunks: list[DueChunk] = []
        for portion in portions(trigger_ids, SELECTS_AT_ONCE):
            chunks += self._due(portion)
        return chunks

    @again_after_a_deadlock
    def _due(self, trigger_ids: Sequence[int]) -> list[DueChunk]:
        # By delivery_due.
        picked = " UNION ALL ".join(
            f"(SELECT trigger_id, event_id FROM {DELIVERY} FORCE INDEX (delivery_due)"
            f" WHERE trigger_id = {trigger_id:d} AND sweep_at <= {NOW} AND state = 'pending'"
            f" AND next_attempt_at <= {NOW}"
            f" ORDER BY sweep_at, event_id LIMIT {CHUNK_SIZE} FOR UPDATE SKIP LOCKED)"
            for trigger_id in trigger_ids
        )
        found: dict[int, list[UUID]] = defaultdict(list)
        with self._connections.transaction() as at:
            for trigger_id, event_id in at.rows(picked):
                found[int(trigger_id)].append(UUID(bytes=event_id))
            ids = sorted(event_id for of_trigger in found.values() for event_id in of_trigger)
            for portion in portions(ids):
                at.run(
                    f"UPDATE {DELIVERY} SET sweep_at = {AFTER_THE_GRACE}"
                    f" WHERE event_id IN ({listed(portion)})"
                )
        return [
            DueChunk(trigger_id, sorted(of_trigger), more=len(of_trigger) == CHUNK_SIZE)
            for trigger_id, of_trigger in found.items()
        ]

    @again_after_a_deadlock
    def expire_leases(self) -> int:
        """Return events whose worker vanished to `pending`; their lost attempt is logged."""
        with self._connections.transaction() as at:
            # By delivery_lease.
            found = at.rows(
                f"SELECT event_id FROM {DELIVERY} FORCE INDEX (delivery_lease)"
                f" WHERE lease_until < {NOW} AND state = 'delivering'"
                f" LIMIT {_EXPIRED_AT_ONCE} FOR UPDATE SKIP LOCKED"
            )
            expired = sorted(UUID(bytes=event_id) for (event_id,) in found)
            for ids in portions(expired):
                at.run(_LOST_INVOCATIONS.format(ids=listed(ids)))
                at.run(
                    f"""
                    UPDATE {DELIVERY}
                    SET state = 'pending', lease_until = NULL, sweep_at = {NOW}
                    WHERE event_id IN ({listed(ids)})"""
                )
        return len(expired)

    def cancel(self, trigger_id: int) -> int:
        """Cancel what is pending or delivering for a deleted trigger; returns how many.

        In batches, since a backlog may be large; what a crash leaves, the next call cancels.
        """
        cancelled = 0
        while True:
            some = self._cancel_some(trigger_id)
            cancelled += some
            if some < _CANCELLED_AT_ONCE:
                return cancelled

    @again_after_a_deadlock
    def _cancel_some(self, trigger_id: int) -> int:
        # By delivery_due.
        with self._connections.transaction() as at:
            return at.run(
                f"""
                UPDATE {DELIVERY}
                SET state = 'cancelled', lease_until = NULL, sweep_at = {NEVER}, order_key = NULL
                WHERE trigger_id = %s AND state IN ('pending', 'delivering')
                LIMIT {_CANCELLED_AT_ONCE}""",
                trigger_id,
            )

    def cancel_events(self, project_id: int, event_ids: Sequence[UUID]) -> Recorded:
        """Cancel those of `event_ids` that are pending; what waited for them may then be sent."""
        cancelled, freed = 0, []
        for portion in portions(sorted(event_ids)):
            some = self._cancel_events(project_id, portion)
            cancelled += some.moved
            freed += some.freed
        return Recorded(cancelled, freed)

    @again_after_a_deadlock
    def _cancel_events(self, project_id: int, event_ids: Sequence[UUID]) -> Recorded:
        # By primary key throughout.
        chosen = (
            f"SELECT event_id, trigger_id, order_key FROM {DELIVERY}"
            f" WHERE event_id IN ({listed(event_ids)}) AND project_id = %s AND state = 'pending'"
        )
        with self._connections.transaction() as at:
            # No row is locked yet: the locks of orders come before those of rows.
            found = at.rows(chosen, project_id)
            lock_order(at, {int(trigger_id) for _, trigger_id, key in found if key is not None})
            found = at.rows(f"{chosen} ORDER BY event_id FOR UPDATE", project_id)
            if not found:
                return Recorded(0, [])
            ids = [UUID(bytes=event_id) for event_id, _, _ in found]
            at.run(
                f"""
                UPDATE {DELIVERY}
                SET state = 'cancelled', lease_until = NULL, sweep_at = {NEVER}, order_key = NULL
                WHERE event_id IN ({listed(ids)})"""
            )
            keys = {(int(trigger), int(key)) for _, trigger, key in found if key is not None}
            return Recorded(len(ids), free_next(at, keys))

    def triggers_with_deliveries(self) -> list[int]:
        """Ids of all triggers that have unfinished (pending or delivering) events."""
        # A loose scan of delivery_due: one probe a trigger, whatever the backlog. Where some wait
        # for their turn, the first of them does not.
        with self._connections.transaction() as at:
            found = at.rows(
                f"SELECT trigger_id, MIN(sweep_at) FROM {DELIVERY} FORCE INDEX (delivery_due)"
                " GROUP BY trigger_id"
            )
        return [int(trigger_id) for trigger_id, sweep_at in found if sweep_at < NEVER]

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
        return mypages.page_of(
            self._connections, project_id, filters, cursor, limit, patience_seconds
        )

    def count(
        self,
        project_id: int,
        filters: EventFilter,
        most: int,
        patience_seconds: float = PATIENCE_SECONDS,
        except_triggers: Sequence[int] = (),
    ) -> int:
        """How many events match, `most` if there are more. Raises SearchTooDeep."""
        return mypages.count_of(
            self._connections, project_id, filters, most, patience_seconds, except_triggers
        )

    def event(self, project_id: int, event_id: UUID) -> EventDetail | None:
        """One event with its payload and invocations, oldest first."""
        return mypages.detail_of(self._connections, project_id, event_id)

    def rows(self, project_id: int, event_ids: Sequence[UUID]) -> list[EventRow]:
        """Those of these events that there are, newest first."""
        return mypages.rows_of(self._connections, project_id, event_ids)

    def payloads(self, project_id: int, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The payloads of these events as JSON text; one that has expired is no key."""
        return mypages.payloads_of(self._connections, project_id, event_ids)

    def redeliver(
        self,
        project_id: int,
        event_ids: Sequence[UUID],
        trigger_ids: Sequence[int],
        ordered: Sequence[int] = (),
    ) -> list[DueChunk]:
        """Put finished events of `trigger_ids` back to `pending` with a fresh retry budget."""
        waiting: dict[int, list[UUID]] = defaultdict(list)
        if trigger_ids:
            for portion in portions(sorted(event_ids)):
                for event_id, trigger_id in self._redeliver(
                    project_id, portion, trigger_ids, ordered
                ):
                    waiting[trigger_id].append(event_id)
        return chunked(waiting)

    @again_after_a_deadlock
    def _redeliver(
        self,
        project_id: int,
        event_ids: Sequence[UUID],
        trigger_ids: Sequence[int],
        ordered: Sequence[int],
    ) -> list[tuple[UUID, int]]:
        with self._connections.transaction() as at:
            lock_order(at, ordered)
            # By primary key. Locked, so that of two who ask at once one comes second.
            found = at.rows(
                f"""
                SELECT id, trigger_id FROM {EVENT_LOG}
                WHERE id IN ({listed(event_ids)}) AND project_id = %s AND trigger_id IN %s
                  AND payload IS NOT NULL AND problem IS NULL
                ORDER BY id FOR UPDATE""",
                project_id,
                list(trigger_ids),
            )
            if not found:
                return []
            stored = {UUID(bytes=event_id): int(trigger_id) for event_id, trigger_id in found}
            states = {
                UUID(bytes=event_id): state
                for event_id, state in at.rows(
                    f"SELECT event_id, state FROM {DELIVERY}"
                    f" WHERE event_id IN ({listed(stored)}) FOR UPDATE"
                )
            }
            # An event that has no delivery row was delivered; its attempts go on from the last.
            delivered = [event_id for event_id in stored if event_id not in states]
            finished = [
                event_id for event_id, state in states.items() if state in ("failed", "cancelled")
            ]
            if delivered:
                at.run(_DELIVERED_AGAIN.format(ids=listed(delivered)))
            if finished:
                at.run(_FINISHED_AGAIN.format(ids=listed(finished)))
            waiting = [(each, stored[each]) for each in sorted([*delivered, *finished])]
            _put_in_order(at, [each for each, trigger_id in waiting if trigger_id in ordered])
        return waiting

    def counts(self, project_id: int) -> dict[EventStatus, int]:
        """How many events of the project have which status; every status is a key."""
        with self._connections.transaction() as at:
            # One snapshot for both sums: what is stored and not in `delivery` is delivered.
            rows = at.rows(
                f"""
                SELECT CONCAT(state), COUNT(*) FROM {DELIVERY}
                WHERE project_id = %s GROUP BY state
                UNION ALL
                SELECT 'arrived', COALESCE(SUM(arrived), 0) FROM (
                    SELECT begins_at, arrived FROM {STATS_SPAN}
                    WHERE project_id = %s AND span_seconds = {DAY_SPAN}
                    UNION ALL
                    SELECT minute_at DIV 1000, arrived FROM {STATS} WHERE project_id = %s
                ) AS counted
                WHERE begins_at >= 86400 * (SELECT COALESCE(MAX(events_from), 0) FROM {KEPT}
                                            WHERE project_id IN (0, %s))""",
                *[project_id] * 4,
            )
        found = {state: int(count) for state, count in rows}
        return counts_by_status(found.pop("arrived"), found)

    def failed_since(self, since: datetime) -> dict[int, int]:
        """How many events of each trigger, of any project, lately failed for good."""
        with self._connections.transaction() as at:
            # By the primary keys of both: a range of minutes.
            rows = at.rows(
                f"""
                SELECT trigger_id, SUM(failed) FROM (
                    SELECT trigger_id, failed FROM {STATS} WHERE minute_at >= %s
                    UNION ALL
                    SELECT trigger_id, failed FROM {STATS_SPAN}
                    WHERE span_seconds = 60 AND begins_at >= %s
                ) AS counted
                WHERE failed > 0 GROUP BY trigger_id""",
                int(since.timestamp()) * 1000,
                int(since.timestamp()),
            )
        return {int(trigger_id): int(count) for trigger_id, count in rows}

    def pending_of(self, trigger_ids: Sequence[int]) -> dict[int, int]:
        """How many unfinished events each of these triggers has; every id is a key."""
        found: dict[int, int] = dict.fromkeys(trigger_ids, 0)
        if not found:
            return found
        with self._connections.transaction() as at:
            # By delivery_due.
            rows = at.rows(
                f"SELECT trigger_id, COUNT(*) FROM {DELIVERY} WHERE trigger_id IN %s"
                " AND state IN ('pending', 'delivering') GROUP BY trigger_id",
                list(trigger_ids),
            )
        return found | {int(trigger_id): int(count) for trigger_id, count in rows}

    # Statistics

    def settle_statistics(self) -> int:
        """Move what was counted into the sums of each span, and forget old sums."""
        return mystatistics.settle(self._connections)

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
        return mystatistics.read(
            self._connections, project_id, since, until, step_seconds, by_trigger, trigger_id
        )


# What storing a batch is made of


def _move_position(at: Transaction, database_id: int, previous: str | None, position: str) -> None:
    """The fence: whoever read from another position than the stored one writes nothing."""
    if previous is None:
        sql = f"INSERT INTO {POSITION} (database_id, position, updated_at) VALUES (%s, %s, {NOW})"
        try:
            at.run(sql, database_id, position)
        except pymysql.IntegrityError:
            raise PositionMoved(database_id, previous) from None
        return
    sql = (
        f"UPDATE {POSITION} SET position = %s, updated_at = {NOW}"
        " WHERE database_id = %s AND position = %s"
    )
    if at.run(sql, position, database_id, previous) != 1:
        raise PositionMoved(database_id, previous)


def _storable(at: Transaction, event: Event) -> Event:
    """`event`, or what is left of one that is larger than the server takes in a statement."""
    if len(event.payload) + len(event.document_id) < at.packet_bytes // 10:
        return event
    size = sum(len(at.quote(text).encode()) for text in (event.payload, event.document_id))
    if size < at.packet_bytes - _PACKET_RESERVE_BYTES:
        return event
    return event._replace(
        payload="",
        document_id=event.document_id[:1000],
        problem=f"the event of {size} bytes is larger than the Eventing DB's"
        f" max_allowed_packet of {at.packet_bytes} bytes",
    )


def _kind_of(origin: Origin, event: Event) -> Kind:
    ids = (origin.project_id, event.trigger_id, origin.database_id)
    return (*ids, event.trigger, origin.alias, event.table, event.operation)


def _kinds_of(origin: Origin, events: Sequence[Event]) -> dict[Kind, str]:
    """The kinds of these events, and the literal of each."""
    kinds = {_kind_of(origin, event) for event in events}
    return {kind: mypages.kind_of(*kind) for kind in sorted(kinds)}


def _note_kinds(at: Transaction, kinds: Sequence[tuple[Kind, str]]) -> None:
    at.insert(
        f"INSERT INTO {EVENT_KIND} (kind_hash, project_id, trigger_id, `trigger`, `database`,"
        " `table`, operation, noted_at)",
        [
            f"({literal},{project_id},{trigger_id},{','.join(map(at.quote, names))},{NOW})"
            for (project_id, trigger_id, _, *names), literal in kinds
        ],
        "ON DUPLICATE KEY UPDATE noted_at = VALUES(noted_at)",
    )


def _insert_events(
    at: Transaction, origin: Origin, events: Sequence[Event], kinds: Mapping[Kind, str]
) -> None:
    quote = at.quote
    head = f"',{origin.project_id},{quote(origin.project)},"
    source = f",{origin.database_id},{quote(origin.alias)},{quote(origin.type)},"
    triggers = {event.trigger: quote(event.trigger) for event in events}
    tables = {event.table: quote(event.table) for event in events}
    at.insert(
        f"INSERT INTO {EVENT_LOG} (id, project_id, project, trigger_id, `trigger`,"
        " database_id, `database`, database_type, `table`, operation, kind_hash, doc_hash, doc_id,"
        " payload, problem, committed_at, stored_at, position)",
        (
            f"(x'{event.id_hex}{head}{event.trigger_id},{triggers[event.trigger]}{source}"
            f"{tables[event.table]},'{event.operation}',{kinds[_kind_of(origin, event)]},"
            f"{mypages.hash_of(event.document_id)},"
            f"{quote(event.document_id)},{quote(event.payload or None)},"
            f"{quote(event.problem)},{event.committed_at_ms},{NOW},{quote(event.position)})"
            for event in events
        ),
    )


def _insert_deliveries(at: Transaction, origin: Origin, events: Sequence[Event]) -> None:
    places = places_in_order(
        at,
        [
            (event.trigger_id, event.order_key, event.id)
            for event in events
            if event.order_key is not None and not event.problem
        ],
    )
    pending = f",{origin.project_id},'pending',{NOW},{AFTER_THE_GRACE},NULL,NULL)"
    failed = f",{origin.project_id},'failed',{NOW},{NEVER},NULL,NULL)"

    def tail(event: Event) -> str:
        if event.order_key is None or event.problem:
            return failed if event.problem else pending
        place, is_first = places[event.id]
        turn = AFTER_THE_GRACE if is_first else NEVER
        return f",{origin.project_id},'pending',{NOW},{turn},{event.order_key},{place})"

    at.insert(
        f"INSERT INTO {DELIVERY} (event_id, trigger_id, project_id, state, next_attempt_at,"
        " sweep_at, order_key, order_seq)",
        (f"(x'{event.id_hex}',{event.trigger_id}{tail(event)}" for event in events),
    )


# What claiming is made of


def _due(at: Transaction, trigger_id: int, limit: int, place: Due | None) -> Sequence[Due]:
    """Up to `limit` events that are due, behind `place`, locked: id, when due, what a claim needs.

    By delivery_due; what was stored a moment ago stands within the grace.
    """
    behind = f"AND sweep_at >= {place[1]:d}" if place else ""
    return at.rows(
        f"""
        SELECT event_id, sweep_at, attempts + 1, failures, order_key
        FROM {DELIVERY} FORCE INDEX (delivery_due)
        WHERE trigger_id = %s {behind} AND sweep_at <= {AFTER_THE_GRACE}
          AND state = 'pending' AND next_attempt_at <= {NOW}
        ORDER BY sweep_at, event_id LIMIT {limit:d}
        FOR UPDATE SKIP LOCKED""",
        trigger_id,
    )


def _taken(at: Transaction, found: Sequence[tuple[Any, ...]], lease_seconds: float) -> list[Claim]:
    """Claims of rows of id, attempt, failures and order's key, which are locked."""
    if not found:
        return []
    free = {UUID(bytes=event_id): rest for event_id, *rest in found}
    ids = listed(sorted(free))
    # Both tables by primary key.
    at.run(
        f"""
        UPDATE {DELIVERY} SET state = 'delivering', attempts = attempts + 1,
            lease_until = {NOW} + %s
        WHERE event_id IN ({ids})""",
        int(lease_seconds * 1000),
    )
    stored = at.rows(
        f"""
        SELECT id, trigger_id, doc_id, payload FROM {EVENT_LOG} WHERE id IN ({ids}) ORDER BY id"""
    )
    claims = []
    for raw_id, trigger_id, document_id, payload in stored:
        event_id = UUID(bytes=raw_id)
        attempt, failures, key = free[event_id]
        claims.append(
            Claim(str(event_id), trigger_id, attempt, failures, document_id, payload or "", key)
        )
    return claims


# What recording outcomes is made of


def _insert_invocations(at: Transaction, outcomes: Sequence[Outcome], worker: str) -> None:
    quote = at.quote
    at.insert(
        f"INSERT INTO {INVOCATION_LOG} (event_id, attempt, started_at, worker, duration_ms,"
        " url, request_headers, status_code, response_headers, response_body, error_kind,"
        " error_message)",
        (
            f"({hexadecimal(outcome.claim.event_id)},{outcome.claim.attempt},"
            f"{exchange.started_at_ms},{quote(worker[:_WORKER_CHARACTERS])},{exchange.duration_ms},"
            f"{quote(exchange.url)},{quote(headers_text(exchange.request_headers))},"
            f"{quote(exchange.status_code)},"
            f"{quote(headers_text(exchange.response_headers))},"
            f"{quote(_body(exchange.response_body))},{quote(exchange.error_kind)},"
            f"{quote(exchange.error_message)})"
            for outcome in outcomes
            for exchange in (outcome.exchange,)
        ),
        "ON DUPLICATE KEY UPDATE attempt = attempt",
    )


_DELIVERING: Final = "state = 'delivering'"
# Of a claim that a crash has undone, the event waits with one attempt less: what it came to counts.
_DELIVERING_OR_UNDONE: Final = "state IN ('delivering', 'pending')"


def _held(at: Transaction, claims: Sequence[Claim], condition: str) -> set[tuple[UUID, int]]:
    """Events and attempts of those `claims` that hold still, locked. The attempt is the fence."""
    latest: set[tuple[UUID, int]] = set()
    for ids in portions(sorted({claim.event_id for claim in claims})):
        # By primary key.
        found = at.rows(
            f"SELECT event_id, attempts + (state = 'pending') FROM {DELIVERY}"
            f" WHERE event_id IN ({listed(ids)}) AND {condition} FOR UPDATE"
        )
        latest |= {(UUID(bytes=event_id), int(attempt)) for event_id, attempt in found}
    return latest & {(claim.event_id, claim.attempt) for claim in claims}


def _delete_delivered(at: Transaction, outcomes: Sequence[Outcome]) -> None:
    delivered = [outcome.claim.event_id for outcome in outcomes if outcome.exchange.succeeded]
    for ids in portions(sorted(delivered)):
        at.run(f"DELETE FROM {DELIVERY} WHERE event_id IN ({listed(ids)})")


def _update_retried(at: Transaction, outcomes: Sequence[Outcome]) -> None:
    # The rows are there, and locked; each has a time of its own.
    at.insert(
        f"INSERT INTO {DELIVERY}"
        " (event_id, trigger_id, project_id, state, attempts, next_attempt_at, sweep_at)",
        [
            f"({hexadecimal(outcome.claim.event_id)},{outcome.claim.trigger_id},"
            f"{outcome.project_id},'pending',{outcome.claim.attempt:d}"
            f",{NOW} + {outcome.retry_in_ms},{NOW} + {outcome.retry_in_ms})"
            for outcome in outcomes
            if not outcome.exchange.succeeded and outcome.retry_in_ms is not None
        ],
        "ON DUPLICATE KEY UPDATE state = 'pending', attempts = VALUES(attempts),"
        " failures = failures + 1, next_attempt_at = VALUES(next_attempt_at),"
        " sweep_at = VALUES(sweep_at), lease_until = NULL",
    )


def _update_failed(at: Transaction, outcomes: Sequence[Outcome]) -> None:
    failed = [
        outcome.claim.event_id
        for outcome in outcomes
        if not outcome.exchange.succeeded and outcome.retry_in_ms is None
    ]
    for ids in portions(sorted(failed)):
        at.run(
            f"""
            UPDATE {DELIVERY} SET attempts = attempts + (state = 'pending'), state = 'failed',
                failures = failures + 1, sweep_at = {NEVER}, lease_until = NULL, order_key = NULL
            WHERE event_id IN ({listed(ids)})"""
        )


_LOST_INVOCATIONS: Final = f"""
    INSERT INTO {INVOCATION_LOG} (event_id, attempt, started_at, duration_ms, url,
        request_headers, response_headers, response_body, error_kind, error_message, worker)
    SELECT event_id, attempts, {NOW}, 0, '', '[]', '[]', '', 'lost', '{LOST_ATTEMPT}', ''
    FROM {DELIVERY} WHERE event_id IN ({{ids}})"""

_DELIVERED_AGAIN: Final = f"""
    INSERT INTO {DELIVERY}
        (event_id, trigger_id, project_id, state, attempts, next_attempt_at, sweep_at)
    SELECT e.id, e.trigger_id, e.project_id, 'pending',
           COALESCE((SELECT MAX(attempt) FROM {INVOCATION_LOG} i WHERE i.event_id = e.id), 0),
           {NOW}, {AFTER_THE_GRACE}
    FROM {EVENT_LOG} e WHERE e.id IN ({{ids}})"""

_FINISHED_AGAIN: Final = f"""
    UPDATE {DELIVERY} SET state = 'pending', failures = 0, next_attempt_at = {NOW},
        sweep_at = {AFTER_THE_GRACE}
    WHERE event_id IN ({{ids}})"""


def _put_in_order(at: Transaction, event_ids: Sequence[UUID]) -> None:
    """Give pending events of ordered triggers a place behind the others of their documents."""
    if not event_ids:
        return
    found = at.rows(
        f"""
        SELECT trigger_id, project_id, database_id, `table`, doc_id, id FROM {EVENT_LOG}
        WHERE id IN ({listed(event_ids)}) ORDER BY id"""
    )
    events = [
        (trigger_id, project_id, order_key(database_id, table, document_id), UUID(bytes=event_id))
        for trigger_id, project_id, database_id, table, document_id, event_id in found
    ]
    places = places_in_order(at, [(trigger, key, each) for trigger, _, key, each in events])
    # The rows are there, and locked.
    at.insert(
        f"INSERT INTO {DELIVERY} (event_id, trigger_id, project_id, state, next_attempt_at,"
        " sweep_at, order_key, order_seq)",
        [
            f"({hexadecimal(each)},{trigger_id},{project_id},'pending',{NOW},"
            f"{AFTER_THE_GRACE if places[each][1] else NEVER},{key},{places[each][0]})"
            for trigger_id, project_id, key, each in events
        ],
        "ON DUPLICATE KEY UPDATE sweep_at = VALUES(sweep_at), order_key = VALUES(order_key),"
        " order_seq = VALUES(order_seq)",
    )


def _body(body: bytes) -> str:
    """A response as text. U+0000 is replaced, as in the other logs, one of which cannot hold it."""
    return body.decode("utf-8", "replace").replace("\x00", "\ufffd")
