"""The log's tables in MySQL or MariaDB, their partitions, and what retention takes out of them.

They are those of the log in Postgres, in the database that the address names, and each name begins
with `mission_control_`. Times are milliseconds since the epoch. Definitions cannot be rolled back
here, so each is made on its own and may be made again; many rows go in portions.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from eventing.changes import Event
from eventing.ids import first_id_at
from eventing.logs import mystatistics
from eventing.logs.base import LogUnavailable
from eventing.logs.counting import LATENCY_COLUMNS
from eventing.logs.days import DAY_MS, partition_suffix
from eventing.logs.kinds import SPARE_SECONDS
from eventing.logs.myconnections import Connections, Transaction, again_after_a_deadlock
from eventing.logs.myorder import free_next, lock_order
from eventing.logs.mypages import kind_of
from eventing.logs.mystatements import (
    DELIVERY,
    EVENT_KIND,
    EVENT_LOG,
    INVOCATION_LOG,
    KEPT,
    LISTED_AT_ONCE,
    NOW,
    OVERDUE_PAYLOAD,
    OWNER,
    POSITION,
    STATS,
    TRIGGER_ORDER,
    hexadecimal,
    listed,
    portions,
)

DELETED_AT_ONCE: Final = 5_000

_PARTITIONED: Final = {EVENT_LOG: "id", INVOCATION_LOG: "event_id"}
# What finds events by their kind; what did in an older version; the kind of what has none.
_KEY: Final = "event_log_kind"
_KEY_BEFORE: Final = "event_log_trigger"
_NO_KIND: Final = "x'0000000000000000'"
# The last partition: what is committed later than the days that have one of their own.
_LATER: Final = "p_later"

_TABLES: Final = f"""
CREATE TABLE IF NOT EXISTS {EVENT_LOG} (
    id BINARY(16) NOT NULL,
    project_id BIGINT NOT NULL,
    project VARCHAR(255) NOT NULL,
    trigger_id BIGINT NOT NULL,
    `trigger` VARCHAR(255) NOT NULL,
    database_id BIGINT NOT NULL,
    `database` VARCHAR(255) NOT NULL,
    database_type VARCHAR(20) NOT NULL,
    `table` VARCHAR(1000) NOT NULL,
    operation VARCHAR(10) NOT NULL,
    -- A key may be longer than an index entry can be, so that its hash is what is indexed.
    doc_hash BINARY(8) NOT NULL,
    -- That of the event's kind, see the table of kinds.
    kind_hash BINARY(8) NOT NULL,
    doc_id LONGTEXT NOT NULL,
    payload LONGTEXT,
    problem MEDIUMTEXT,
    committed_at BIGINT NOT NULL,
    stored_at BIGINT NOT NULL,
    -- The change's, as it is shown. NULL for what earlier versions stored.
    position VARCHAR(1000),
    PRIMARY KEY (id),
    KEY event_log_kind (kind_hash, id),
    KEY event_log_doc (doc_hash, id)
) {{options}} {{partitions_id}};

CREATE TABLE IF NOT EXISTS {DELIVERY} (
    event_id BINARY(16) NOT NULL,
    trigger_id BIGINT NOT NULL,
    project_id BIGINT NOT NULL,
    state ENUM('pending', 'delivering', 'failed', 'cancelled') NOT NULL,
    attempts INT NOT NULL DEFAULT 0,
    failures INT NOT NULL DEFAULT 0,
    next_attempt_at BIGINT NOT NULL,
    sweep_at BIGINT NOT NULL,
    lease_until BIGINT,
    order_key BIGINT,
    order_seq BIGINT,
    PRIMARY KEY (event_id),
    KEY delivery_due (trigger_id, sweep_at, event_id),
    KEY delivery_order (trigger_id, order_key, order_seq),
    KEY delivery_lease (lease_until)
) {{options}};

-- The place of the next event of an ordered trigger; its row is what orders are locked by.
CREATE TABLE IF NOT EXISTS {TRIGGER_ORDER} (
    trigger_id BIGINT NOT NULL,
    next_place BIGINT NOT NULL,
    PRIMARY KEY (trigger_id)
) {{options}};

-- The key is the attempt and who made it when, so that one recorded twice is stored once.
CREATE TABLE IF NOT EXISTS {INVOCATION_LOG} (
    event_id BINARY(16) NOT NULL,
    attempt INT NOT NULL,
    started_at BIGINT NOT NULL,
    worker VARCHAR(255) NOT NULL,
    duration_ms INT NOT NULL,
    url MEDIUMTEXT NOT NULL,
    request_headers MEDIUMTEXT NOT NULL,
    status_code INT,
    response_headers MEDIUMTEXT NOT NULL,
    response_body MEDIUMTEXT NOT NULL,
    error_kind VARCHAR(40),
    error_message MEDIUMTEXT,
    PRIMARY KEY (event_id, attempt, started_at, worker)
) {{options}} {{partitions_event_id}};

CREATE TABLE IF NOT EXISTS {POSITION} (
    database_id BIGINT NOT NULL,
    position LONGTEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (database_id)
) {{options}};

-- How far retention has come: the first day (counted from the epoch) that a project's events are
-- kept of; project 0 stands for all.
CREATE TABLE IF NOT EXISTS {KEPT} (
    project_id BIGINT NOT NULL,
    events_from INT NOT NULL,
    payloads_from INT NOT NULL,
    PRIMARY KEY (project_id)
) {{options}};

-- Events whose payload outlives its day, since they have yet to end.
CREATE TABLE IF NOT EXISTS {OVERDUE_PAYLOAD} (
    project_id BIGINT NOT NULL,
    event_id BINARY(16) NOT NULL,
    PRIMARY KEY (project_id, event_id)
) {{options}};

-- Every kind of event that a project has, noted anew while there are more. Filters choose among
-- these, and so find events of triggers and databases that are gone or had another name.
CREATE TABLE IF NOT EXISTS {EVENT_KIND} (
    kind_hash BINARY(8) NOT NULL,
    project_id BIGINT NOT NULL,
    trigger_id BIGINT NOT NULL,
    `trigger` VARCHAR(255) NOT NULL,
    `database` VARCHAR(255) NOT NULL,
    `table` VARCHAR(1000) NOT NULL,
    operation VARCHAR(10) NOT NULL,
    noted_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, kind_hash)
) {{options}};

-- The installation whose log this is: one row.
CREATE TABLE IF NOT EXISTS {OWNER} (
    number TINYINT NOT NULL,
    node_id VARCHAR(64) NOT NULL,
    PRIMARY KEY (number)
) {{options}};
{mystatistics.TABLES}"""
_NAMES: Final = frozenset(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", _TABLES))

logger = structlog.get_logger(__name__)


class Tables:
    """The tables of the log that `connections` lead to."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def make(self, owner: str | None) -> None:
        """Make tables and this week's partitions, as far as need be, and mark whose log it is."""
        today = int(time.time() * 1000) // DAY_MS
        days = range(today - 1, today + 8)
        if self._lacks_tables() and not self._connections.define(
            *_statements(days, self._collation())
        ):
            raise LogUnavailable(
                "the tables of the Eventing DB are being changed by another process"
            )
        self._upgrade()
        for table in _PARTITIONED:
            self._make_partitions(table, days)
        if owner is not None:
            self._mark(owner)

    def _lacks_tables(self) -> bool:
        """Whether any is missing. What is there is not defined again: the server would log it."""
        with self._connections.transaction() as at:
            found = at.rows(
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
            )
        return not _NAMES.issubset(str(name) for (name,) in found)

    def _upgrade(self) -> None:
        """Give tables of an older version the columns they lack."""
        lacking = [name for name in LATENCY_COLUMNS if name not in self._columns(STATS)]
        if lacking:
            added = ", ".join(f"ADD COLUMN {name} BIGINT NOT NULL DEFAULT 0" for name in lacking)
            self._define_now(f"ALTER TABLE {STATS} {added}")
        if "kind_hash" not in self._columns(EVENT_LOG):
            self._define_now(
                f"ALTER TABLE {EVENT_LOG}"
                f" ADD COLUMN kind_hash BINARY(8) NOT NULL DEFAULT {_NO_KIND}"
            )
        if "position" not in self._columns(EVENT_LOG):
            self._define_now(f"ALTER TABLE {EVENT_LOG} ADD COLUMN position VARCHAR(1000)")
        if "noted_at" not in self._columns(EVENT_KIND):
            # What is there may have had its last event just now.
            now = int(time.time() * 1000)
            self._define_now(
                f"ALTER TABLE {EVENT_KIND} ADD COLUMN noted_at BIGINT NOT NULL DEFAULT {now}"
            )

    def is_behind(self) -> bool:
        """Whether an upgrade has left something to `catch_up` with."""
        keys = self._keys_of_events()
        return _KEY not in keys or _KEY_BEFORE in keys or bool(self._without_kind(1))

    def catch_up(self) -> None:
        """Do what takes long after an upgrade, while everybody goes on: the server builds a key of
        InnoDB's without keeping others from writing."""
        keys = self._keys_of_events()
        if _KEY not in keys:
            self._define_now(f"ALTER TABLE {EVENT_LOG} ADD KEY {_KEY} (kind_hash, id), LOCK = NONE")
        # What an older version stored, perhaps while this one was beginning.
        while self._give_kinds():
            continue
        if _KEY_BEFORE in keys:
            self._define_now(f"ALTER TABLE {EVENT_LOG} DROP KEY {_KEY_BEFORE}")

    def _keys_of_events(self) -> set[str]:
        with self._connections.transaction() as at:
            found = at.rows(
                "SELECT INDEX_NAME FROM information_schema.STATISTICS"
                " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s",
                EVENT_LOG,
            )
        return {str(name) for (name,) in found}

    def _without_kind(self, limit: int) -> list[tuple[Any, ...]]:
        """Some events that have no kind: ids, and the names that make the kind."""
        with self._connections.transaction() as at:
            return at.rows(
                "SELECT id, project_id, trigger_id, database_id, `trigger`, `database`, `table`,"
                f" operation FROM {EVENT_LOG} FORCE INDEX ({_KEY})"
                f" WHERE kind_hash = {_NO_KIND} LIMIT {limit}"
            )

    def _define_now(self, statement: str) -> None:
        if not self._connections.define(statement):
            raise LogUnavailable("a table of the Eventing DB is too busy to be upgraded")

    def _columns(self, table: str) -> set[str]:
        with self._connections.transaction() as at:
            found = at.rows(
                "SELECT COLUMN_NAME FROM information_schema.COLUMNS"
                " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s",
                table,
            )
        return {str(name) for (name,) in found}

    @again_after_a_deadlock
    def _give_kinds(self) -> int:
        """Give some events that have no kind theirs; returns how many."""
        found = self._without_kind(LISTED_AT_ONCE)
        ids: dict[tuple[Any, ...], list[UUID]] = defaultdict(list)
        for identifier, *kind_names in found:
            ids[tuple(kind_names)].append(UUID(bytes=identifier))
        with self._connections.transaction() as at:
            for names, of_kind in ids.items():
                literal = kind_of(*names)
                at.run(
                    f"INSERT INTO {EVENT_KIND} (kind_hash, project_id, trigger_id, `trigger`,"
                    " `database`, `table`, operation, noted_at)"
                    f" VALUES ({literal}, %s, %s, %s, %s, %s, %s, {NOW})"
                    " ON DUPLICATE KEY UPDATE noted_at = VALUES(noted_at)",
                    *names[:2],
                    *names[3:],
                )
                at.run(
                    f"UPDATE {EVENT_LOG} SET kind_hash = {literal} WHERE id IN ({listed(of_kind)})"
                )
        return len(found)

    def _collation(self) -> str:
        """What compares texts byte by byte, trailing spaces too, on this kind of server."""
        with self._connections.transaction() as at:
            ((version,),) = at.rows("SELECT VERSION()")
        return "utf8mb4_nopad_bin" if "mariadb" in str(version).lower() else "utf8mb4_0900_bin"

    @again_after_a_deadlock
    def _mark(self, owner: str) -> None:
        """Mark the log as an installation's. Raises LogUnavailable if it is another's."""
        with self._connections.transaction() as at:
            at.run(
                f"INSERT INTO {OWNER} (number, node_id) VALUES (1, %s)"
                " ON DUPLICATE KEY UPDATE number = number",
                owner,
            )
            if at.rows(f"SELECT node_id FROM {OWNER}") != [(owner,)]:
                raise LogUnavailable("another installation keeps its log in this database")

    def _partitions(self, table: str) -> list[str]:
        """The names of a table's partitions of days, oldest first."""
        with self._connections.transaction() as at:
            found = at.rows(
                "SELECT PARTITION_NAME FROM information_schema.PARTITIONS"
                " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
                " AND PARTITION_NAME <> %s ORDER BY PARTITION_ORDINAL_POSITION",
                table,
                _LATER,
            )
        return [str(name) for (name,) in found]

    def _make_partitions(self, table: str, days: Sequence[int]) -> None:
        """Give days at the end partitions of their own. What is stored never waits for one."""
        newest = max(self._partitions(table), default="")
        missing = [day for day in days if _partition(day) > newest]
        if missing:
            done = self._connections.define(
                f"ALTER TABLE {table} REORGANIZE PARTITION {_LATER}"
                f" INTO ({_partition_definitions(missing)})"
            )
            if not done:
                logger.warning("the table is busy: its partitions are made later", table=table)

    def drop_before(self, day: int) -> list[str]:
        """Drop whole days older than `day`; returns the names of the partitions that went.

        A table that stays busy keeps its old days until the next time, and so does the rest.
        """
        gone: list[str] = []
        first = hexadecimal(first_id_at(day * DAY_MS))
        for table, key in _PARTITIONED.items():
            old = [name for name in self._partitions(table) if name < _partition(day)]
            if old and not self._connections.define(
                f"ALTER TABLE {table} DROP PARTITION {', '.join(old)}"
            ):
                logger.warning("the table is busy: its old days go later", table=table)
                return gone
            gone += [f"{table}.{name}" for name in old]
            # What was older than the oldest partition when it was stored is in that one.
            self._delete_in_batches(table, f"{key} < {first}")
        while self._delete_deliveries(f"event_id < {first}") == DELETED_AT_ONCE:
            continue
        self._delete_in_batches(OVERDUE_PAYLOAD, f"event_id < {first}")
        self._delete_in_batches(EVENT_KIND, f"noted_at < {_last_noted(day)}")
        self._keep_from(0, day, 0)
        return gone

    def _delete_in_batches(self, table: str, condition: str) -> None:
        """Delete rows by primary key, never so many at once that others have to wait."""
        while self._delete_some(table, condition) == DELETED_AT_ONCE:
            continue

    @again_after_a_deadlock
    def _delete_some(self, table: str, condition: str) -> int:
        with self._connections.transaction() as at:
            return at.run(f"DELETE FROM {table} WHERE {condition} LIMIT {DELETED_AT_ONCE}")

    @again_after_a_deadlock
    def _delete_deliveries(self, condition: str) -> int:
        with self._connections.transaction() as at:
            return _delete_deliveries(at, f"{condition} LIMIT {DELETED_AT_ONCE}")

    def expire(self, project_id: int, events_before: int, payloads_before: int) -> tuple[int, int]:
        """Delete a project's old events, and forget the payloads of less old ones."""
        with self._connections.transaction() as at:
            found = at.rows(
                f"SELECT events_from, payloads_from FROM {KEPT} WHERE project_id = %s", project_id
            )
        events_from, payloads_from = found[0] if found else (0, 0)
        deleted = forgotten = 0
        if events_before > events_from:
            for ids in self._ids_before(project_id, 0, events_before, "TRUE"):
                deleted += self._delete_events(ids)
            noted = f"project_id = {project_id:d} AND noted_at < {_last_noted(events_before)}"
            self._delete_in_batches(EVENT_KIND, noted)
        while some := self._overdue_payloads(project_id):
            forgotten += self._forget_overdue_payloads(project_id, some)
        if payloads_before > payloads_from:
            for ids in self._ids_before(
                project_id, payloads_from, payloads_before, "payload IS NOT NULL"
            ):
                forgotten += self._forget_payloads(ids)
        self._keep_from(project_id, events_before, payloads_before)
        return deleted, forgotten

    @again_after_a_deadlock
    def _keep_from(self, project_id: int, events: int, payloads: int) -> None:
        """Note the first days that a project's events and payloads are kept of."""
        with self._connections.transaction() as at:
            at.run(
                f"INSERT INTO {KEPT} (project_id, events_from, payloads_from) VALUES (%s, %s, %s)"
                " ON DUPLICATE KEY UPDATE events_from = GREATEST(events_from, VALUES(events_from)),"
                " payloads_from = GREATEST(payloads_from, VALUES(payloads_from))",
                project_id,
                events,
                payloads,
            )

    def _ids_before(
        self, project_id: int, first_day: int, day: int, condition: str
    ) -> Iterator[list[UUID]]:
        """Ids of a project's events from `first_day` on and before `day`, oldest first, in
        portions."""
        last = first_id_at(first_day * DAY_MS)
        before = hexadecimal(first_id_at(day * DAY_MS))
        while True:
            with self._connections.transaction() as at:
                found = at.rows(
                    f"SELECT id FROM {EVENT_LOG} FORCE INDEX (PRIMARY)"
                    f" WHERE id > {hexadecimal(last)} AND id < {before}"
                    f" AND project_id = %s AND {condition} ORDER BY id LIMIT {LISTED_AT_ONCE}",
                    project_id,
                )
            ids = [UUID(bytes=identifier) for (identifier,) in found]
            if ids:
                yield ids
                last = ids[-1]
            if len(ids) < LISTED_AT_ONCE:
                return

    @again_after_a_deadlock
    def _delete_events(self, ids: Sequence[UUID]) -> int:
        # All by primary key.
        with self._connections.transaction() as at:
            at.run(f"DELETE FROM {INVOCATION_LOG} WHERE event_id IN ({listed(ids)})")
            _delete_deliveries(at, f"event_id IN ({listed(ids)})")
            return at.run(f"DELETE FROM {EVENT_LOG} WHERE id IN ({listed(ids)})")

    @again_after_a_deadlock
    def _forget_payloads(self, ids: Sequence[UUID]) -> int:
        with self._connections.transaction() as at:
            forgotten = _forget_payloads(at, ids)
            at.run(
                f"INSERT IGNORE INTO {OVERDUE_PAYLOAD} (project_id, event_id)"
                f" SELECT project_id, id FROM {EVENT_LOG}"
                f" WHERE id IN ({listed(ids)}) AND payload IS NOT NULL"
            )
            return forgotten

    def _overdue_payloads(self, project_id: int) -> list[UUID]:
        """Some events that have ended since the day of their payload went."""
        with self._connections.transaction() as at:
            # Both by primary key.
            found = at.rows(
                f"SELECT o.event_id FROM {OVERDUE_PAYLOAD} o LEFT JOIN {DELIVERY} d"
                " ON d.event_id = o.event_id AND d.state IN ('pending', 'delivering')"
                f" WHERE o.project_id = %s AND d.event_id IS NULL LIMIT {LISTED_AT_ONCE}",
                project_id,
            )
        return sorted(UUID(bytes=identifier) for (identifier,) in found)

    @again_after_a_deadlock
    def _forget_overdue_payloads(self, project_id: int, ids: Sequence[UUID]) -> int:
        with self._connections.transaction() as at:
            forgotten = _forget_payloads(at, ids)
            at.run(
                f"DELETE o FROM {OVERDUE_PAYLOAD} o LEFT JOIN {EVENT_LOG} e"
                " ON e.id = o.event_id AND e.payload IS NOT NULL"
                f" WHERE o.project_id = %s AND o.event_id IN ({listed(ids)}) AND e.id IS NULL",
                project_id,
            )
            return forgotten


def note_late(at: Transaction, project_id: int, events: Sequence[Event]) -> None:
    """Note those of these events whose payloads are not kept any longer, though they come now."""
    found = at.rows(f"SELECT payloads_from FROM {KEPT} WHERE project_id = %s", project_id)
    kept_from = first_id_at((found[0][0] if found else 0) * DAY_MS)
    at.insert(
        f"INSERT INTO {OVERDUE_PAYLOAD} (project_id, event_id)",
        [f"({project_id:d},{hexadecimal(event.id)})" for event in events if event.id < kept_from],
    )


def _forget_payloads(at: Transaction, ids: Sequence[UUID]) -> int:
    """Forget the payloads of those of these events that have ended; returns how many.

    What still waits keeps its payload: it has yet to be sent. The rows are locked first, so that
    the next statement sees what has been redelivered until then.
    """
    at.rows(
        f"SELECT id FROM {EVENT_LOG} WHERE id IN ({listed(ids)}) AND payload IS NOT NULL"
        " ORDER BY id FOR UPDATE"
    )
    return at.run(
        f"""
        UPDATE {EVENT_LOG} e LEFT JOIN {DELIVERY} d ON d.event_id = e.id
        SET e.payload = NULL
        WHERE e.id IN ({listed(ids)}) AND e.payload IS NOT NULL
          AND (d.event_id IS NULL OR d.state IN ('failed', 'cancelled'))"""
    )


def _delete_deliveries(at: Transaction, condition: str) -> int:
    """Delete deliveries, and let go of what waited for them; returns how many went."""
    found = at.rows(
        f"SELECT event_id, trigger_id, order_key FROM {DELIVERY} WHERE {condition} FOR UPDATE"
    )
    keys = {(int(trigger_id), int(key)) for _, trigger_id, key in found if key is not None}
    lock_order(at, {trigger_id for trigger_id, _ in keys})
    for ids in portions(sorted(UUID(bytes=event_id) for event_id, _, _ in found)):
        at.run(f"DELETE FROM {DELIVERY} WHERE event_id IN ({listed(ids)})")
    free_next(at, keys)
    return len(found)


def _statements(days: Sequence[int], collation: str) -> list[str]:
    """The statements that make the tables, with partitions for `days`."""
    partitions = {
        f"partitions_{key}": f"PARTITION BY RANGE COLUMNS ({key}) ({_partition_definitions(days)})"
        for key in _PARTITIONED.values()
    }
    text = _TABLES.format(
        options=f"ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4 COLLATE {collation}",
        **partitions,
    )
    return [statement for statement in text.split(";\n") if statement.strip()]


def _last_noted(first_day: int) -> int:
    """When a kind was noted last that has no event from this day on, in ms since the epoch."""
    return first_day * DAY_MS - SPARE_SECONDS * 1000


def _partition(day: int) -> str:
    return f"p{partition_suffix(day)}"


def _partition_definitions(days: Sequence[int]) -> str:
    """Partitions that end with each of `days`, and the one of what comes after them."""
    parts = [
        f"PARTITION {_partition(day)} VALUES LESS THAN"
        f" ({hexadecimal(first_id_at((day + 1) * DAY_MS))})"
        for day in days
    ]
    return ", ".join([*parts, f"PARTITION {_LATER} VALUES LESS THAN (MAXVALUE)"])
