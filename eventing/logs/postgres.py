"""The event log in Postgres: bulk writes through COPY, everything else set-based SQL.

`event_log` and `invocation_log` are append-only and partitioned by the day of the event's commit,
on the time-ordered id. `delivery` holds a narrow row for each event that is not delivered; the
absence of a row is what `delivered` means. docs/explanation/event-log.md tells why.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import orjson
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import structlog

from eventing.changes import (
    EVENT_STATUSES,
    Claim,
    Event,
    EventStatus,
    Finding,
    Origin,
    Outcome,
)
from eventing.dialing import connect_to_postgres
from eventing.ids import committed_at_ms_of, first_id_at, order_key
from eventing.logs import pgpages, pgstatistics
from eventing.logs.base import (
    PATIENCE_SECONDS,
    DueChunk,
    EventDetail,
    EventFilter,
    EventRow,
    LogBusy,
    LogUnavailable,
    Page,
    PositionMoved,
    Recorded,
)
from eventing.logs.counting import (
    DAY_SPAN,
    MOVED_AT_ONCE,
    Statistic,
    counts_of_outcomes,
    counts_of_stored,
)
from eventing.logs.kinds import SPARE_SECONDS, KnownKinds
from eventing.logs.paging import INVOCATION_COLUMNS, invocation

SCHEMA: Final = "mission_control"
OLDEST_VERSION: Final = 140_000
CHUNK_SIZE: Final = 200
# How long a message has until the sweep supposes that it was lost.
SWEEP_GRACE_SECONDS: Final = 10
_DAY_MS: Final = 86_400_000
_PARTITIONED: Final = ("event_log", "invocation_log")
# How long a DROP may keep others waiting, and how often it is tried.
_DROP_LOCK_MS: Final = 200
_DROP_TRIES: Final = 5
_DROP_PAUSE_SECONDS: Final = 0.5
# Events that one transaction deletes, and how long one call goes on with it.
_EXPIRED_AT_ONCE: Final = 5_000
_EXPIRE_SECONDS: Final = 60.0
# More than one transaction ever stores.
_PLACES_IN_A_BLOCK: Final = 1 << 24

# Statistics lag behind a backlog, and then all of it would be sorted for its first rows.
_IN_ORDER_OF_THE_INDEX: Final = "SET LOCAL enable_sort = off;"

# Whoever waits for an exclusive lock keeps all others waiting behind it.
_IMPATIENT: Final = "SET LOCAL lock_timeout = '2s'"

# A batch is a few rows of a large table, of which stale statistics would have all read.
_BY_INDEX: Final = "SET LOCAL enable_seqscan = off;"

# A claim that a crash of the server undoes is an event that is sent again.
_NEED_NOT_LAST: Final = "SET LOCAL synchronous_commit = off;"

# Text that means the same to every session, whatever its DateStyle and time zone.
_AFTER_THE_GRACE: Final = (
    f"to_char((now() + interval '{SWEEP_GRACE_SECONDS} seconds') AT TIME ZONE 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US') || '+00'"
)

_TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS mission_control;

CREATE TABLE IF NOT EXISTS mission_control.event_log (
    id uuid NOT NULL,
    project_id bigint NOT NULL,
    project text NOT NULL,
    trigger_id bigint NOT NULL,
    trigger text NOT NULL,
    database_id bigint NOT NULL,
    database text NOT NULL,
    database_type text NOT NULL,
    "table" text NOT NULL,
    operation text NOT NULL,
    doc_id text NOT NULL,
    payload text,
    problem text,
    committed_at timestamptz NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
-- Events of one kind, see event_kind.
CREATE INDEX IF NOT EXISTS event_log_kind
    ON mission_control.event_log (trigger_id, "table", operation, database_id, id);
DROP INDEX IF EXISTS mission_control.event_log_trigger;
-- A key may be longer than an index entry can be.
CREATE INDEX IF NOT EXISTS event_log_doc_id ON mission_control.event_log (left(doc_id, 200), id);

-- Claims touch no indexed column, so that their updates stay within the page (HOT). `sweep_at` is
-- infinite for what must not be claimed: finished events, and those of an ordered trigger that
-- follow an unfinished one with the same `order_key` and a lower `order_seq`.
CREATE TABLE IF NOT EXISTS mission_control.delivery (
    event_id uuid PRIMARY KEY,
    trigger_id bigint NOT NULL,
    project_id bigint NOT NULL,
    state text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'delivering', 'failed', 'cancelled')),
    attempts integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    sweep_at timestamptz NOT NULL,
    lease_until timestamptz
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
DROP INDEX IF EXISTS mission_control.delivery_sweep;
CREATE INDEX IF NOT EXISTS delivery_due
    ON mission_control.delivery (trigger_id, sweep_at, event_id);
ALTER TABLE mission_control.delivery ADD COLUMN IF NOT EXISTS order_key bigint;
ALTER TABLE mission_control.delivery ADD COLUMN IF NOT EXISTS order_seq bigint;
CREATE INDEX IF NOT EXISTS delivery_order
    ON mission_control.delivery (trigger_id, order_key, order_seq) WHERE order_key IS NOT NULL;
CREATE SEQUENCE IF NOT EXISTS mission_control.delivery_order_block;

CREATE TABLE IF NOT EXISTS mission_control.invocation_log (
    event_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    url text NOT NULL,
    request_headers text NOT NULL,
    status_code integer,
    response_headers text NOT NULL,
    response_body text NOT NULL,
    error_kind text,
    error_message text,
    worker text NOT NULL
) PARTITION BY RANGE (event_id);
CREATE INDEX IF NOT EXISTS invocation_log_event
    ON mission_control.invocation_log (event_id, attempt);

CREATE TABLE IF NOT EXISTS mission_control.capture_position (
    database_id bigint PRIMARY KEY,
    position text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- How far retention has come: the first day (counted from the epoch) that a project's events are
-- kept of; project 0 stands for all.
CREATE TABLE IF NOT EXISTS mission_control.kept (
    project_id bigint PRIMARY KEY,
    events_from integer NOT NULL DEFAULT 0,
    payloads_from integer NOT NULL DEFAULT 0
);

-- Events whose payload outlives its day, since they have yet to end.
CREATE TABLE IF NOT EXISTS mission_control.overdue_payload (
    project_id bigint NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (project_id, event_id)
);

-- Every kind of event that a project has, noted anew while there are more. Filters choose among
-- these, and so find events of triggers and databases that are gone or had another name.
CREATE TABLE IF NOT EXISTS mission_control.event_kind (
    project_id bigint NOT NULL,
    trigger_id bigint NOT NULL,
    "table" text NOT NULL,
    operation text NOT NULL,
    database_id bigint NOT NULL,
    trigger text NOT NULL,
    database text NOT NULL,
    PRIMARY KEY (project_id, trigger_id, "table", operation, database_id, trigger, database)
);
ALTER TABLE mission_control.event_kind
    ADD COLUMN IF NOT EXISTS noted_at timestamptz NOT NULL DEFAULT now();
DO $$ BEGIN
    -- What knew the names of triggers before there were kinds.
    IF to_regclass('mission_control.trigger_name') IS NOT NULL THEN
        INSERT INTO mission_control.event_kind
        SELECT DISTINCT project_id, trigger_id, "table", operation, database_id, trigger, database
        FROM mission_control.event_log ON CONFLICT DO NOTHING;
        DROP TABLE mission_control.trigger_name;
    END IF;
END $$;
"""
_DEFINITIONS: Final = _TABLES + pgstatistics.TABLES
_DEFINITIONS_HASH: Final = blake2b(_DEFINITIONS.encode(), digest_size=8).hexdigest()
_MADE: Final = f"made by the definitions {_DEFINITIONS_HASH}"

logger = structlog.get_logger(__name__)

KindName: TypeAlias = tuple[int, int, str, str, int, str, str]
"""A row of event_kind, but for when it was noted."""


class PostgresEventLog:
    """The event log in the database that `dsn` names. Safe to share between threads.

    One `of_a_project` is reached as a source is, with nothing that this machine alone knows.
    """

    def __init__(self, dsn: str, *, of_a_project: bool = False) -> None:
        self._dsn = dsn
        self._of_a_project = of_a_project
        self._local = threading.local()
        self._known_days: set[int] = set()
        self._known_kinds: KnownKinds[KindName] = KnownKinds()
        self._writer = f"{int(time.time() * 1000):x}"
        # Events whose outcomes could not be recorded, unless only the server's answer was lost.
        self._in_doubt: set[str] = set()
        # How many statements were run; tests hold pages to a fixed number of them.
        self.statements = 0

    # Connections and transactions

    def _connection(self) -> psycopg2.extensions.connection:
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._opened()
            connection.set_client_encoding("UTF8")
            # Whatever the server's default: statements must see what others have committed.
            connection.set_session(isolation_level="READ COMMITTED")
            self._local.connection = connection
        return connection

    def _opened(self) -> psycopg2.extensions.connection:
        if not self._of_a_project:
            return psycopg2.connect(self._dsn, connect_timeout=5)
        address = {**psycopg2.extensions.parse_dsn(self._dsn), "connect_timeout": "5"}
        try:
            opened: psycopg2.extensions.connection = connect_to_postgres(address)
        except OSError as error:
            said = error.strerror or str(error)
            raise LogUnavailable(f"the Eventing DB cannot be used: {said}") from None
        return opened

    @contextmanager
    def _transaction(self) -> Iterator[psycopg2.extensions.cursor]:
        """A transaction on this thread's connection; a connection that broke is thrown away."""
        try:
            connection = self._connection()
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg2.Error as error:
            if not _may_pass(error):
                raise
            self.close()
            reason = _first_line(_first_failure(error))
            is_busy = isinstance(error, psycopg2.errors.LockNotAvailable)
            kind = LogBusy if is_busy else LogUnavailable
            raise kind(f"the Eventing DB cannot be used: {reason}") from error

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.connection = None

    def _run(self, cursor: psycopg2.extensions.cursor, sql: str, *arguments: Any) -> None:
        self.statements += 1
        cursor.execute(sql, arguments or None)

    # Tables and partitions

    def check(self, owner: str) -> list[Finding]:
        """Whether this database can hold the log of an installation."""
        try:
            with self._transaction() as cursor:
                self._run(cursor, _FACTS, SCHEMA, SCHEMA)
                facts = cast(tuple[Any, ...], cursor.fetchone())
                version, version_text, role, database, in_recovery, may_create, may_use = facts[:7]
                mark, is_control_database = facts[7:]
        except LogUnavailable as error:
            why = "without a connection nothing can be stored"
            return [Finding("connection", "error", str(error), why)]
        may = "may" if may_create and may_use else "may not"
        grant = f"GRANT CREATE ON DATABASE {_quoted(database)} TO {_quoted(role)};"
        if may_create:
            grant = f"ALTER SCHEMA {SCHEMA} OWNER TO {_quoted(role)};"
        return [
            Finding("connection", "ok", f"connected as {role}"),
            _finding(
                "version",
                version >= OLDEST_VERSION,
                f"Postgres {version_text}",
                "Postgres 14 is the oldest that can hold the log",
                "upgrade the server to Postgres 14 or newer",
            ),
            _finding(
                "primary",
                not in_recovery,
                "the server is a standby" if in_recovery else "the server is a primary",
                "a standby cannot be written to",
                "use the address of the primary server",
            ),
            _finding(
                "rights",
                may_create and may_use,
                f"the role {role} {may} make the log's tables",
                f"they live in a schema of their own, {SCHEMA}",
                grant,
            ),
            _finding(
                "owner",
                mark in (None, _mark_of(owner)),
                "another installation keeps its log here" if mark else "nobody keeps a log here",
                "two installations in one log would take each other's events for their own",
                "choose another database; if that installation is gone for good:"
                f" COMMENT ON SCHEMA {SCHEMA} IS NULL;",
            ),
            _finding(
                "control database",
                not is_control_database,
                "this is the control database of an installation"
                if is_control_database
                else "this is not a control database",
                "the log in it is the built-in one",
                "choose `builtin`",
            ),
        ]

    def make_tables(self, owner: str | None = None) -> None:
        """Make or upgrade schema, tables and this week's partitions, as far as need be."""
        with self._transaction() as cursor:
            if owner is not None or not self._is_defined(cursor):
                self._run(
                    cursor, "SELECT pg_advisory_xact_lock(hashtext('mission_control.tables'))"
                )
                self._define(cursor)
            if owner is not None:
                self._run(cursor, _MARK)
                (mark,) = cast(tuple[Any, ...], cursor.fetchone())
                if mark is None:
                    self._run(cursor, f"COMMENT ON SCHEMA {SCHEMA} IS %s", _mark_of(owner))
                elif mark != _mark_of(owner):
                    raise LogUnavailable("another installation keeps its log in this database")
        today = int(time.time() * 1000) // _DAY_MS
        self.make_partitions(range(today - 1, today + 7))

    def _define(self, cursor: psycopg2.extensions.cursor) -> None:
        """Run the definitions, unless these very ones have been run: they lock what they touch."""
        if not self._is_defined(cursor):
            self._run(cursor, _IMPATIENT)
            self._run(cursor, _DEFINITIONS)
            self._run(cursor, f"COMMENT ON TABLE {SCHEMA}.event_log IS %s", _MADE)

    def _is_defined(self, cursor: psycopg2.extensions.cursor) -> bool:
        self._run(cursor, "SELECT obj_description(to_regclass('mission_control.event_log'))")
        return cursor.fetchone() == (_MADE,)

    def make_partitions(self, days: Sequence[int]) -> None:
        """Make the partitions of these days (counted from the epoch) where they are missing.

        A table is made apart and then attached, which never waits for readers or writers.
        """
        missing = [day for day in days if day not in self._known_days]
        for day in missing:
            with self._transaction() as cursor:
                self._run(
                    cursor, "SELECT pg_advisory_xact_lock(hashtext('mission_control.partitions'))"
                )
                for parent in _PARTITIONED:
                    self._make_partition(cursor, parent, day)
            self._known_days.add(day)

    def _make_partition(self, cursor: psycopg2.extensions.cursor, parent: str, day: int) -> None:
        name = f"{parent}_{partition_suffix(day)}"
        self._run(cursor, "SELECT to_regclass(%s)", f"{SCHEMA}.{name}")
        if cast(tuple[Any], cursor.fetchone())[0] is not None:
            return
        key = "id" if parent == "event_log" else "event_id"
        low, high = first_id_at(day * _DAY_MS), first_id_at((day + 1) * _DAY_MS)
        self._run(
            cursor,
            f"CREATE TABLE {SCHEMA}.{name} (LIKE {SCHEMA}.{parent} INCLUDING DEFAULTS"
            f" INCLUDING CONSTRAINTS, CHECK ({key} >= '{low}' AND {key} < '{high}'))"
            " WITH (autovacuum_vacuum_insert_scale_factor = 0.2)",
        )
        self._run(
            cursor,
            f"ALTER TABLE {SCHEMA}.{parent} ATTACH PARTITION {SCHEMA}.{name}"
            f" FOR VALUES FROM ('{low}') TO ('{high}')",
        )

    def drop_partitions_before(self, day: int) -> list[str]:
        """Drop whole days older than `day`; returns the names of the tables that went.

        While somebody reads the log for long (a backup), old days stay until the next time.
        """
        with self._transaction() as cursor:
            self._run(
                cursor,
                # By the catalogue: partitions of both parents, by name.
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = ANY (%s::regclass[]) ORDER BY c.relname",
                [f"{SCHEMA}.{parent}" for parent in _PARTITIONED],
            )
            names = [name for (name,) in cursor.fetchall()]
        gone = [name for name in names if name[-8:] < partition_suffix(day)]
        for number, name in enumerate(gone):
            if not self._drop(name):
                logger.warning("the log is being read: its old days go later", table=name)
                return gone[:number]
        if gone:
            self._known_days = {known for known in self._known_days if known >= day}
            self._forget_before(day)
        return gone

    def _drop(self, name: str) -> bool:
        """Drop a partition; False if its table is in use, which everybody else would wait for, and
        so waits for a moment only, a few times."""
        for _ in range(_DROP_TRIES):
            with self._transaction() as cursor:
                self._run(cursor, f"SET LOCAL lock_timeout = {_DROP_LOCK_MS}")
                try:
                    self._run(cursor, f"DROP TABLE IF EXISTS {SCHEMA}.{name}")
                    return True
                except psycopg2.errors.LockNotAvailable:
                    cursor.connection.rollback()
            time.sleep(_DROP_PAUSE_SECONDS)
        return False

    def _forget_before(self, day: int) -> None:
        """Remove deliveries and statistics of events that retention has dropped."""
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"DELETE FROM {SCHEMA}.delivery WHERE event_id < %s::uuid"
                " RETURNING trigger_id, order_key",
                str(first_id_at(day * _DAY_MS)),
            )
            self._free_behind(cursor)
            self._run(
                cursor,
                f"DELETE FROM {SCHEMA}.overdue_payload WHERE event_id < %s::uuid",
                str(first_id_at(day * _DAY_MS)),
            )
            self._run(cursor, _FORGET_KINDS, _last_noted(day))
            self._keep_from(cursor, 0, day, 0)

    def expire(self, project_id: int, events_before: int, payloads_before: int) -> tuple[int, int]:
        """Delete a project's old events, and forget the payloads of less old ones."""
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"SELECT events_from, payloads_from FROM {SCHEMA}.kept WHERE project_id = %s",
                project_id,
            )
            events_from, payloads_from = cursor.fetchone() or (0, 0)
        ends_at = time.monotonic() + _EXPIRE_SECONDS
        deleted = 0
        if events_before > events_from:
            while some := self._delete_events(project_id, events_before):
                deleted += some
                if time.monotonic() > ends_at:
                    return deleted, 0
            with self._transaction() as cursor:
                last_noted = _last_noted(events_before)
                self._run(cursor, f"{_FORGET_KINDS} AND project_id = %s", last_noted, project_id)
                self._keep_from(cursor, project_id, events_before, 0)
        forgotten = self._forget_overdue_payloads(project_id)
        oldest = max(payloads_from, events_before, self._oldest_day())
        for day in range(oldest, payloads_before):
            forgotten += self._forget_payloads(project_id, day)
            self._note_kept(project_id, 0, day + 1)
            if time.monotonic() > ends_at:
                break
        return deleted, forgotten

    def _oldest_day(self) -> int:
        """The day of the oldest event there is, or today; by primary key."""
        with self._transaction() as cursor:
            self._run(cursor, f"SELECT id::text FROM {SCHEMA}.event_log ORDER BY id LIMIT 1")
            row = cursor.fetchone()
        oldest_ms = committed_at_ms_of(UUID(row[0])) if row else int(time.time() * 1000)
        return oldest_ms // _DAY_MS

    def _delete_events(self, project_id: int, before_day: int) -> int:
        """Delete some of a project's events of days before one; returns how many."""
        before = str(first_id_at(before_day * _DAY_MS))
        with self._transaction() as cursor:
            # By event_log_kind, then all by primary key.
            self._run(
                cursor,
                f"""
                SELECT old.id::text FROM (
                    SELECT DISTINCT trigger_id, "table", operation, database_id
                    FROM {SCHEMA}.event_kind WHERE project_id = %s
                ) AS kind
                CROSS JOIN LATERAL (
                    SELECT e.id FROM {SCHEMA}.event_log e
                    WHERE e.trigger_id = kind.trigger_id AND e."table" = kind."table"
                      AND e.operation = kind.operation AND e.database_id = kind.database_id
                      AND e.id < %s::uuid
                    ORDER BY e.id LIMIT {_EXPIRED_AT_ONCE}
                ) AS old
                LIMIT {_EXPIRED_AT_ONCE}""",
                project_id,
                before,
            )
            ids = [text for (text,) in cursor.fetchall()]
            if not ids:
                return 0
            between = "BETWEEN %s::uuid AND %s::uuid"
            chosen = (ids, min(ids), max(ids))
            self._run(
                cursor,
                f"DELETE FROM {SCHEMA}.invocation_log WHERE event_id = ANY (%s::uuid[])"
                f" AND event_id {between}",
                *chosen,
            )
            self._run(
                cursor,
                f"DELETE FROM {SCHEMA}.delivery WHERE event_id = ANY (%s::uuid[])"
                " RETURNING trigger_id, order_key",
                ids,
            )
            self._free_behind(cursor)
            self._run(
                cursor,
                f"DELETE FROM {SCHEMA}.event_log WHERE id = ANY (%s::uuid[]) AND id {between}",
                *chosen,
            )
            return len(ids)

    def _forget_payloads(self, project_id: int, day: int) -> int:
        """Forget the payloads of one day, in batches by primary key; returns how many."""
        last, end = str(first_id_at(day * _DAY_MS)), str(first_id_at((day + 1) * _DAY_MS))
        forgotten = 0
        while True:
            with self._transaction() as cursor:
                self._run(
                    cursor,
                    f"SELECT id::text FROM {SCHEMA}.event_log"
                    " WHERE project_id = %s AND id > %s::uuid AND id < %s::uuid"
                    f" ORDER BY id LIMIT {_EXPIRED_AT_ONCE}",
                    project_id,
                    last,
                    end,
                )
                ids = [text for (text,) in cursor.fetchall()]
                if not ids:
                    return forgotten
                last = ids[-1]
                forgotten += self._forget_payloads_of(cursor, ids)
                self._run(
                    cursor,
                    f"INSERT INTO {SCHEMA}.overdue_payload SELECT project_id, id"
                    f" FROM {SCHEMA}.event_log WHERE id = ANY (%s::uuid[])"
                    " AND id BETWEEN %s::uuid AND %s::uuid AND payload IS NOT NULL"
                    " ON CONFLICT DO NOTHING",
                    ids,
                    ids[0],
                    ids[-1],
                )

    def _forget_overdue_payloads(self, project_id: int) -> int:
        """Forget the payloads of events that have ended since their day went; returns how many."""
        forgotten = 0
        while True:
            with self._transaction() as cursor:
                # Both by primary key.
                self._run(
                    cursor,
                    f"""
                    SELECT o.event_id::text FROM {SCHEMA}.overdue_payload o
                    WHERE o.project_id = %s
                      AND NOT EXISTS (SELECT FROM {SCHEMA}.delivery d WHERE d.event_id = o.event_id
                                      AND d.state IN ('pending', 'delivering'))
                    ORDER BY o.event_id LIMIT {_EXPIRED_AT_ONCE}""",
                    project_id,
                )
                ids = [text for (text,) in cursor.fetchall()]
                if not ids:
                    return forgotten
                forgotten += self._forget_payloads_of(cursor, ids)
                self._run(
                    cursor,
                    f"""
                    DELETE FROM {SCHEMA}.overdue_payload o
                    WHERE project_id = %s AND event_id = ANY (%s::uuid[])
                      AND NOT EXISTS (SELECT FROM {SCHEMA}.event_log e WHERE e.id = o.event_id
                                      AND e.payload IS NOT NULL)""",
                    project_id,
                    ids,
                )

    def _forget_payloads_of(self, cursor: psycopg2.extensions.cursor, ids: Sequence[str]) -> int:
        """Forget the payloads of those of these events that have ended; returns how many.

        `ids` are in order. What still waits keeps its payload: it has yet to be sent. The rows are
        locked first, so that the next statement sees what has been redelivered until then.
        """
        chosen = (ids, ids[0], ids[-1])
        among = "id = ANY (%s::uuid[]) AND id BETWEEN %s::uuid AND %s::uuid"
        self._run(
            cursor,
            f"SELECT FROM {SCHEMA}.event_log WHERE {among} AND payload IS NOT NULL"
            " ORDER BY id FOR NO KEY UPDATE",
            *chosen,
        )
        self._run(
            cursor,
            f"UPDATE {SCHEMA}.event_log e SET payload = NULL WHERE {among} AND payload IS NOT NULL"
            f" AND NOT EXISTS (SELECT FROM {SCHEMA}.delivery d WHERE d.event_id = e.id"
            " AND d.state IN ('pending', 'delivering'))",
            *chosen,
        )
        return cursor.rowcount

    def _note_kept(self, project_id: int, events: int, payloads: int) -> None:
        with self._transaction() as cursor:
            self._keep_from(cursor, project_id, events, payloads)

    def _keep_from(
        self, cursor: psycopg2.extensions.cursor, project_id: int, events: int, payloads: int
    ) -> None:
        """Note the first days that a project's events and payloads are kept of."""
        self._run(
            cursor,
            f"""
            INSERT INTO {SCHEMA}.kept AS k (project_id, events_from, payloads_from)
            VALUES (%s, %s, %s)
            ON CONFLICT (project_id) DO UPDATE SET
                events_from = greatest(k.events_from, EXCLUDED.events_from),
                payloads_from = greatest(k.payloads_from, EXCLUDED.payloads_from)""",
            project_id,
            events,
            payloads,
        )

    def _free_behind(self, cursor: psycopg2.extensions.cursor) -> None:
        """Let go of what waited for the (trigger, key) that `cursor` has just deleted."""
        pairs = {(trigger_id, key) for trigger_id, key in cursor.fetchall() if key is not None}
        if pairs:
            self._lock_order(cursor, {trigger_id for trigger_id, _ in pairs})
            self._free_next(cursor, pairs)

    # Capture

    def position(self, database_id: int) -> str | None:
        """Up to where the changes of this database are stored."""
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"SELECT position FROM {SCHEMA}.capture_position WHERE database_id = %s",
                database_id,
            )
            row = cursor.fetchone()
        return row[0] if row else None

    def append(
        self, origin: Origin, events: Sequence[Event], previous: str | None, position: str
    ) -> None:
        """Store `events` and move the position from `previous` to `position`, both or neither."""
        if events:
            days = {committed_at_ms_of(event.id) // _DAY_MS for event in events}
            self.make_partitions(sorted(days))
        kinds = self._new_kinds(origin, events)
        with self._transaction() as cursor:
            sweep_at = self._move_position(cursor, origin.database_id, previous, position)
            if events:
                self._note_kinds(cursor, kinds)
                self._copy_events(cursor, origin, events)
                self._copy_deliveries(cursor, origin, events, sweep_at)
                self._add_stats(cursor, counts_of_stored(origin.project_id, events))
        self._known_kinds.note(kinds)

    def _move_position(
        self,
        cursor: psycopg2.extensions.cursor,
        database_id: int,
        previous: str | None,
        position: str,
    ) -> str:
        """The fence: whoever read from another position than the stored one writes nothing.

        Returns when the sweep is to look for what is stored now, by this database's clock.
        """
        if previous is None:
            sql = f"""
                INSERT INTO {SCHEMA}.capture_position (position, database_id)
                VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING {_AFTER_THE_GRACE}"""
            self._run(cursor, sql, position, database_id)
        else:
            sql = f"""
                UPDATE {SCHEMA}.capture_position SET position = %s, updated_at = now()
                WHERE database_id = %s AND position = %s RETURNING {_AFTER_THE_GRACE}"""
            self._run(cursor, sql, position, database_id, previous)
        moved = cursor.fetchone()
        if moved is None:
            raise PositionMoved(
                f"the position of database {database_id} is no longer {previous}: another process"
                " captures it"
            )
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
        cursor: psycopg2.extensions.cursor,
        kinds: set[KindName],
    ) -> None:
        if kinds:
            self.statements += 1
            psycopg2.extras.execute_values(
                cursor,
                f"INSERT INTO {SCHEMA}.event_kind VALUES %s"
                f" ON CONFLICT ON CONSTRAINT event_kind_pkey DO UPDATE SET noted_at = now()",
                sorted(kinds),
                page_size=10_000,
            )

    def _copy_events(
        self, cursor: psycopg2.extensions.cursor, origin: Origin, events: Sequence[Event]
    ) -> None:
        head = f"{origin.project_id}\t{_escaped(origin.project)}\t"
        source = f"\t{origin.database_id}\t{_escaped(origin.alias)}\t{origin.type}\t"
        lines = [
            f"{event.id_text}\t{head}{event.trigger_id}\t{_escaped(event.trigger)}{source}"
            f"{_escaped(event.table)}\t{event.operation}\t{_escaped(event.document_id)}\t"
            f"{_escaped(event.payload)}\t{_nullable(event.problem)}\t"
            f"{_timestamp(event.committed_at_ms)}\n"
            for event in events
        ]
        self._copy(
            cursor,
            f"COPY {SCHEMA}.event_log (id, project_id, project, trigger_id, trigger, database_id,"
            ' database, database_type, "table", operation, doc_id, payload, problem, committed_at)'
            " FROM STDIN",
            lines,
        )

    def _copy_deliveries(
        self,
        cursor: psycopg2.extensions.cursor,
        origin: Origin,
        events: Sequence[Event],
        sweep_at: str,
    ) -> None:
        places = self._places_in_order(
            cursor,
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
        self._copy(
            cursor,
            f"COPY {SCHEMA}.delivery"
            " (event_id, trigger_id, project_id, state, sweep_at, order_key, order_seq)"
            " FROM STDIN",
            lines,
        )

    def _places_in_order(
        self, cursor: psycopg2.extensions.cursor, events: Sequence[tuple[int, int, str]]
    ) -> dict[str, tuple[int, bool]]:
        """For (trigger, key, event) in order: each event's place, and whether it is its turn."""
        if not events:
            return {}
        self._lock_order(cursor, {trigger_id for trigger_id, _, _ in events})
        pairs = sorted({(trigger_id, key) for trigger_id, key, _ in events})
        # By delivery_order.
        self._run(
            cursor,
            f"""
            SELECT trigger_id, order_key FROM unnest(%s::bigint[], %s::bigint[])
                AS wanted (trigger_id, order_key)
            WHERE EXISTS (SELECT FROM {SCHEMA}.delivery d WHERE d.trigger_id = wanted.trigger_id
                          AND d.order_key = wanted.order_key)""",
            *map(list, zip(*pairs, strict=True)),
        )
        taken = set(cursor.fetchall())
        self._run(cursor, f"SELECT nextval('{SCHEMA}.delivery_order_block')")
        first_place = cast(tuple[int], cursor.fetchone())[0] * _PLACES_IN_A_BLOCK
        places = {}
        for number, (trigger_id, key, event_id) in enumerate(events):
            places[event_id] = (first_place + number, (trigger_id, key) not in taken)
            taken.add((trigger_id, key))
        return places

    def _lock_order(self, cursor: psycopg2.extensions.cursor, trigger_ids: set[int]) -> None:
        """Keep others from adding to these triggers' orders or taking from them, until the end of
        the transaction: who looks for a predecessor must not miss that it is just finishing."""
        self._run(
            cursor,
            "SELECT pg_advisory_xact_lock(hashtext('mission_control.order'), (id %% 1000000007)"
            "::int) FROM unnest(%s::bigint[]) AS id",
            sorted(trigger_ids),
        )

    def _free_next(
        self, cursor: psycopg2.extensions.cursor, pairs: set[tuple[int, int]]
    ) -> list[DueChunk]:
        """Let the first of each (trigger, key) be claimed, if it has been waiting for its turn."""
        if not pairs:
            return []
        # By delivery_order, then by primary key.
        self._run(
            cursor,
            f"""
            UPDATE {SCHEMA}.delivery d SET sweep_at = now() + %s * interval '1 second'
            FROM unnest(%s::bigint[], %s::bigint[]) AS done (trigger_id, order_key)
            CROSS JOIN LATERAL (
                SELECT event_id FROM {SCHEMA}.delivery
                WHERE trigger_id = done.trigger_id AND order_key = done.order_key
                ORDER BY order_seq LIMIT 1
            ) next
            WHERE d.event_id = next.event_id AND d.sweep_at = 'infinity'
            RETURNING d.trigger_id, d.event_id::text""",
            SWEEP_GRACE_SECONDS,
            *map(list, zip(*sorted(pairs), strict=True)),
        )
        return _chunks(cursor.fetchall())

    def _copy(self, cursor: psycopg2.extensions.cursor, sql: str, lines: Sequence[str]) -> None:
        self.statements += 1
        cursor.copy_expert(sql, BytesIO("".join(lines).encode()), size=1 << 17)

    def _add_stats(
        self, cursor: psycopg2.extensions.cursor, rows: Sequence[tuple[int, ...]]
    ) -> None:
        """Add what a batch counts to the statistics."""
        if rows:
            self.statements += 1
            pgstatistics.add(cursor, rows, self._writer)

    def forget_position(self, database_id: int) -> None:
        """Forget how far a database was read; its next capture starts from now."""
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"DELETE FROM {SCHEMA}.capture_position WHERE database_id = %s",
                database_id,
            )

    # Delivery

    def claim(self, event_ids: Sequence[UUID], lease_seconds: float) -> list[Claim]:
        """Take those of `event_ids` that are pending and whose turn it is."""
        if not event_ids:
            return []
        with self._transaction() as cursor:
            return self._claim(cursor, [str(event_id) for event_id in event_ids], lease_seconds)

    def claim_due(self, trigger_id: int, limit: int, lease_seconds: float) -> list[Claim]:
        """Take up to `limit` events of a trigger that are due, those due longest first."""
        with self._transaction() as cursor:
            # By delivery_due; what was stored a moment ago stands within the grace.
            self._run(
                cursor,
                f"""{_IN_ORDER_OF_THE_INDEX}
                SELECT d.event_id::text FROM {SCHEMA}.delivery d
                WHERE trigger_id = %s AND sweep_at <= now() + %s * interval '1 second'
                  AND state = 'pending' AND next_attempt_at <= now()
                ORDER BY d.sweep_at, d.event_id LIMIT %s
                FOR UPDATE SKIP LOCKED""",
                trigger_id,
                SWEEP_GRACE_SECONDS,
                limit,
            )
            texts = [event_id for (event_id,) in cursor.fetchall()]
            self._run(cursor, "SET LOCAL enable_sort TO DEFAULT")
            return self._claim(cursor, texts, lease_seconds) if texts else []

    def _claim(
        self, cursor: psycopg2.extensions.cursor, texts: Sequence[str], lease_seconds: float
    ) -> list[Claim]:
        # Both tables by primary key, whatever the statistics say: an array and OFFSET 0 leave the
        # planner no other way. The range on id lets it leave out partitions.
        self._run(
            cursor,
            f"""{_NEED_NOT_LAST}{_BY_INDEX}
            WITH free AS (
                SELECT event_id FROM {SCHEMA}.delivery
                WHERE event_id = ANY (%s::uuid[])
                  AND state = 'pending' AND next_attempt_at <= now() AND sweep_at < 'infinity'
                ORDER BY event_id
                FOR UPDATE SKIP LOCKED
            ), claimed AS (
                UPDATE {SCHEMA}.delivery d
                SET state = 'delivering', attempts = attempts + 1,
                    lease_until = now() + %s * interval '1 second'
                WHERE d.event_id = ANY (ARRAY(SELECT event_id FROM free))
                RETURNING d.event_id, d.trigger_id, d.attempts, d.failures, d.order_key
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
            _array(texts),
            lease_seconds,
            min(texts),
            max(texts),
        )
        return [Claim._make(row) for row in cursor.fetchall()]

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
        finished = {
            (outcome.claim.trigger_id, outcome.claim.order_key)
            for outcome in outcomes
            if outcome.claim.order_key is not None and outcome.retry_in_ms is None
        }
        with self._transaction() as cursor:
            if finished:
                self._lock_order(cursor, {trigger_id for trigger_id, _ in finished})
            unlogged = self._unlogged(cursor, outcomes, worker) if self._in_doubt else outcomes
            self._copy_invocations(cursor, unlogged, worker)
            moved = self._delete_delivered(cursor, delivered) if delivered else set()
            if others:
                moved |= self._update_undelivered(cursor, others)
            self._add_stats(
                cursor,
                counts_of_outcomes(
                    outcome for outcome in outcomes if outcome.claim.id_text in moved
                ),
            )
            return Recorded(len(moved), self._free_next(cursor, finished))

    def _unlogged(
        self, cursor: psycopg2.extensions.cursor, outcomes: Sequence[Outcome], worker: str
    ) -> Sequence[Outcome]:
        """Those of `outcomes` whose attempts are not in the log."""
        doubtful = [
            outcome.claim.id_text for outcome in outcomes if outcome.claim.id_text in self._in_doubt
        ]
        if not doubtful:
            return outcomes
        # By invocation_log_event.
        self._run(
            cursor,
            f"""{_BY_INDEX}
            SELECT event_id::text, attempt, round(extract(epoch FROM started_at) * 1000)::bigint
            FROM {SCHEMA}.invocation_log WHERE event_id = ANY (%s::uuid[]) AND worker = %s""",
            _array(doubtful),
            worker,
        )
        logged = set(cursor.fetchall())
        return [
            outcome
            for outcome in outcomes
            if (outcome.claim.id_text, outcome.claim.attempt, outcome.exchange.started_at_ms)
            not in logged
        ]

    def _copy_invocations(
        self, cursor: psycopg2.extensions.cursor, outcomes: Sequence[Outcome], worker: str
    ) -> None:
        tail = f"\t{_escaped(worker)}\n"
        lines = [
            f"{outcome.claim.id_text}\t{outcome.claim.attempt}\t"
            f"{_timestamp(exchange.started_at_ms)}\t{exchange.duration_ms}\t"
            f"{_escaped(exchange.url)}\t{_headers(exchange.request_headers)}\t"
            f"{_nullable(exchange.status_code)}\t{_headers(exchange.response_headers)}\t"
            f"{_escaped(exchange.response_body.decode('utf-8', 'replace'))}\t"
            f"{_nullable(exchange.error_kind)}\t{_nullable(exchange.error_message)}{tail}"
            for outcome in outcomes
            for exchange in (outcome.exchange,)
        ]
        self._copy(
            cursor,
            f"COPY {SCHEMA}.invocation_log (event_id, attempt, started_at, duration_ms, url,"
            " request_headers, status_code, response_headers, response_body, error_kind,"
            " error_message, worker) FROM STDIN",
            lines,
        )

    def _delete_delivered(
        self, cursor: psycopg2.extensions.cursor, outcomes: Sequence[Outcome]
    ) -> set[str]:
        # By primary key, and no join that could be made the other way round; the attempt number is
        # the fence, and nearly always the same.
        texts_by_attempt: dict[int, list[str]] = defaultdict(list)
        for outcome in outcomes:
            texts_by_attempt[outcome.claim.attempt].append(outcome.claim.id_text)
        moved = set()
        for attempt, texts in texts_by_attempt.items():
            self._run(
                cursor,
                f"""{_BY_INDEX}
                DELETE FROM {SCHEMA}.delivery
                WHERE event_id = ANY (%s::uuid[]) AND attempts = %s AND state = 'delivering'
                RETURNING event_id::text""",
                _array(texts),
                attempt,
            )
            moved |= {event_id for (event_id,) in cursor.fetchall()}
        return moved

    def _update_undelivered(
        self, cursor: psycopg2.extensions.cursor, outcomes: Sequence[Outcome]
    ) -> set[str]:
        # By primary key; the attempt number is the fence.
        self._run(
            cursor,
            f"""
            UPDATE {SCHEMA}.delivery d
            SET state = CASE WHEN o.retry_in IS NULL THEN 'failed' ELSE 'pending' END,
                failures = failures + 1,
                next_attempt_at = coalesce(now() + o.retry_in, next_attempt_at),
                sweep_at = coalesce(now() + o.retry_in, 'infinity'),
                order_key = CASE WHEN o.retry_in IS NOT NULL THEN order_key END,
                lease_until = NULL
            FROM (SELECT event_id, attempt, retry_in_ms * interval '1 millisecond'
                  FROM unnest(%s::uuid[], %s::int[], %s::bigint[])
                      AS given (event_id, attempt, retry_in_ms)
            ) AS o (event_id, attempt, retry_in)
            WHERE d.event_id = o.event_id AND d.attempts = o.attempt AND d.state = 'delivering'
            RETURNING d.event_id::text""",
            _array(outcome.claim.id_text for outcome in outcomes),
            _array(str(outcome.claim.attempt) for outcome in outcomes),
            [outcome.retry_in_ms for outcome in outcomes],
        )
        return {event_id for (event_id,) in cursor.fetchall()}

    def release(self, claims: Sequence[Claim]) -> None:
        """Give back claims that were never sent; their attempts are not counted."""
        if not claims:
            return
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"""
                UPDATE {SCHEMA}.delivery d
                SET state = 'pending', attempts = attempts - 1, lease_until = NULL,
                    sweep_at = now()
                FROM unnest(%s::uuid[], %s::int[]) AS o (event_id, attempt)
                WHERE d.event_id = o.event_id AND d.attempts = o.attempt
                  AND d.state = 'delivering'""",
                [claim.id_text for claim in claims],
                [claim.attempt for claim in claims],
            )

    def due(self, trigger_ids: Sequence[int]) -> list[DueChunk]:
        """A chunk for each trigger that has pending events whose time has come."""
        if not trigger_ids:
            return []
        # By delivery_due.
        sql = f"""{_IN_ORDER_OF_THE_INDEX}
            WITH due AS (
                SELECT picked.event_id
                FROM unnest(%s::bigint[]) AS wanted (trigger_id)
                CROSS JOIN LATERAL (
                    SELECT event_id FROM {SCHEMA}.delivery
                    WHERE trigger_id = wanted.trigger_id AND sweep_at <= now()
                      AND state = 'pending' AND next_attempt_at <= now()
                    ORDER BY sweep_at, event_id LIMIT %s
                    FOR UPDATE SKIP LOCKED
                ) picked
            )
            UPDATE {SCHEMA}.delivery d
            SET sweep_at = now() + %s * interval '1 second'
            FROM due WHERE d.event_id = due.event_id
            RETURNING d.trigger_id, d.event_id::text"""
        with self._transaction() as cursor:
            self._run(cursor, sql, list(trigger_ids), CHUNK_SIZE, SWEEP_GRACE_SECONDS)
            chunks = _chunks(cursor.fetchall())
        return [chunk._replace(more=len(chunk.event_ids) == CHUNK_SIZE) for chunk in chunks]

    def expire_leases(self) -> int:
        """Return events whose worker vanished to `pending`; their lost attempt is logged."""
        sql = f"""
            WITH expired AS (
                SELECT event_id FROM {SCHEMA}.delivery
                WHERE state = 'delivering' AND lease_until < now()
                LIMIT 10000
                FOR UPDATE SKIP LOCKED
            ), returned AS (
                UPDATE {SCHEMA}.delivery d
                SET state = 'pending', lease_until = NULL, sweep_at = now()
                FROM expired WHERE d.event_id = expired.event_id
                RETURNING d.event_id, d.attempts
            )
            INSERT INTO {SCHEMA}.invocation_log (event_id, attempt, started_at, duration_ms, url,
                request_headers, response_headers, response_body, error_kind, error_message, worker)
            SELECT event_id, attempts, now(), 0, '', '[]', '[]', '', 'lost',
                'the worker stopped before it could record an answer; the endpoint may or may not'
                ' have received this attempt', ''
            FROM returned"""
        with self._transaction() as cursor:
            self._run(cursor, sql)
            return cursor.rowcount

    def cancel(self, trigger_id: int) -> int:
        """Cancel what is pending or delivering for a deleted trigger; returns how many."""
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"""
                UPDATE {SCHEMA}.delivery
                SET state = 'cancelled', lease_until = NULL, sweep_at = 'infinity', order_key = NULL
                WHERE trigger_id = %s AND state IN ('pending', 'delivering')""",
                trigger_id,
            )
            return cursor.rowcount

    def cancel_events(self, project_id: int, event_ids: Sequence[UUID]) -> Recorded:
        """Cancel those of `event_ids` that are pending; their followers have their turn by that."""
        texts = [str(event_id) for event_id in event_ids]
        with self._transaction() as cursor:
            # By primary key, and no row locked yet: the locks of orders come before those of rows.
            self._run(
                cursor,
                f"""
                SELECT DISTINCT trigger_id FROM {SCHEMA}.delivery
                WHERE event_id = ANY (%s::uuid[]) AND project_id = %s AND order_key IS NOT NULL""",
                texts,
                project_id,
            )
            if ordered := {trigger_id for (trigger_id,) in cursor.fetchall()}:
                self._lock_order(cursor, ordered)
            # By primary key.
            self._run(
                cursor,
                f"""
                WITH chosen AS (
                    SELECT event_id, trigger_id, order_key FROM {SCHEMA}.delivery
                    WHERE event_id = ANY (%s::uuid[]) AND project_id = %s AND state = 'pending'
                    ORDER BY event_id FOR UPDATE
                )
                UPDATE {SCHEMA}.delivery d
                SET state = 'cancelled', lease_until = NULL, sweep_at = 'infinity', order_key = NULL
                FROM chosen WHERE d.event_id = chosen.event_id
                RETURNING chosen.trigger_id, chosen.order_key""",
                texts,
                project_id,
            )
            cancelled = cursor.fetchall()
            keys = {(trigger_id, key) for trigger_id, key in cancelled if key is not None}
            return Recorded(len(cancelled), self._free_next(cursor, keys))

    def triggers_with_deliveries(self) -> list[int]:
        """Ids of all triggers that have unfinished (pending or delivering) events."""
        # A loose scan of delivery_due: one probe a trigger, whatever the backlog.
        sql = f"""
            WITH RECURSIVE t (trigger_id) AS (
                (SELECT trigger_id FROM {SCHEMA}.delivery ORDER BY trigger_id LIMIT 1)
                UNION ALL
                SELECT (SELECT d.trigger_id FROM {SCHEMA}.delivery d
                        WHERE d.trigger_id > t.trigger_id ORDER BY d.trigger_id LIMIT 1)
                FROM t WHERE t.trigger_id IS NOT NULL
            )
            SELECT trigger_id FROM t WHERE trigger_id IS NOT NULL"""
        with self._transaction() as cursor:
            self._run(cursor, sql)
            return [trigger_id for (trigger_id,) in cursor.fetchall()]

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
        with self._transaction() as database_cursor:
            page, statements = pgpages.page_of(
                database_cursor, project_id, filters, cursor, limit, patience_seconds
            )
        self.statements += statements
        return page

    def count(
        self,
        project_id: int,
        filters: EventFilter,
        most: int,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> int:
        """How many events match, `most` if there are more. Raises SearchTooDeep."""
        with self._transaction() as cursor:
            return pgpages.count_of(cursor, project_id, filters, most, patience_seconds)

    def event(self, project_id: int, event_id: UUID) -> EventDetail | None:
        """One event with its payload and invocations, oldest first."""
        with self._transaction() as cursor:
            rows = pgpages.rows_of(cursor, project_id, [event_id])
            if not rows:
                return None
            self._run(
                cursor, f"SELECT payload FROM {SCHEMA}.event_log WHERE id = %s", str(event_id)
            )
            payload = cast(tuple[Any], cursor.fetchone())[0]
            # By invocation_log_event.
            self._run(
                cursor,
                f"SELECT {INVOCATION_COLUMNS} FROM {SCHEMA}.invocation_log WHERE event_id = %s"
                " ORDER BY attempt, started_at",
                str(event_id),
            )
            invocations = [invocation(found) for found in cursor.fetchall()]
        return EventDetail(rows[0], payload, invocations)

    def rows(self, project_id: int, event_ids: Sequence[UUID]) -> list[EventRow]:
        """Those of these events that there are, newest first."""
        with self._transaction() as cursor:
            self.statements += 1
            return pgpages.rows_of(cursor, project_id, event_ids)

    def payloads(self, project_id: int, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The payloads of these events as JSON text; one that has expired is no key."""
        with self._transaction() as cursor:
            # By primary key.
            self._run(
                cursor,
                f"""
                SELECT id::text, payload FROM {SCHEMA}.event_log
                WHERE id = ANY (%s::uuid[]) AND project_id = %s AND payload IS NOT NULL""",
                list(map(str, event_ids)),
                project_id,
            )
            return {UUID(event_id): payload for event_id, payload in cursor.fetchall()}

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
        with self._transaction() as cursor:
            if ordered:
                self._lock_order(cursor, set(ordered))
            self._run(cursor, sql, SWEEP_GRACE_SECONDS, texts, project_id, list(trigger_ids))
            waiting = cursor.fetchall()
            self._put_in_order(
                cursor, sorted(text for trigger_id, text in waiting if trigger_id in ordered)
            )
        return _chunks(waiting)

    def _put_in_order(self, cursor: psycopg2.extensions.cursor, texts: Sequence[str]) -> None:
        """Give pending events of ordered triggers a place behind the others of their documents."""
        if not texts:
            return
        self._run(
            cursor,
            f"""
            SELECT trigger_id, database_id, "table", doc_id, id::text FROM {SCHEMA}.event_log
            WHERE id = ANY (%s::uuid[]) ORDER BY id""",
            list(texts),
        )
        events = [
            (trigger_id, order_key(database_id, table, document_id), text)
            for trigger_id, database_id, table, document_id, text in cursor.fetchall()
        ]
        places = self._places_in_order(cursor, events)
        self._run(
            cursor,
            f"""
            UPDATE {SCHEMA}.delivery d
            SET order_key = o.order_key, order_seq = o.place,
                sweep_at = CASE WHEN o.is_first THEN d.sweep_at ELSE 'infinity' END
            FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bool[])
                AS o (event_id, order_key, place, is_first)
            WHERE d.event_id = o.event_id""",
            [text for _, _, text in events],
            [key for _, key, _ in events],
            [places[text][0] for _, _, text in events],
            [places[text][1] for _, _, text in events],
        )

    def counts(self, project_id: int) -> dict[EventStatus, int]:
        """How many events of the project have which status; every status is a key."""
        counts: dict[EventStatus, int] = dict.fromkeys(EVENT_STATUSES, 0)
        with self._transaction() as cursor:
            # One snapshot for both sums: what is stored and not in `delivery` is delivered.
            self._run(
                cursor,
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
            found = dict(cursor.fetchall())
        stored = found.pop("stored")
        counts.update(found)
        counts["delivered"] = max(0, stored - sum(found.values()))
        return counts

    def failed_since(self, since: datetime) -> dict[int, int]:
        """How many events of each trigger, of any project, lately failed for good."""
        with self._transaction() as cursor:
            # By the primary keys of both: a range of minutes.
            self._run(
                cursor,
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
            return dict(cursor.fetchall())

    def pending_of(self, trigger_ids: Sequence[int]) -> dict[int, int]:
        """How many unfinished events each of these triggers has; every id is a key."""
        with self._transaction() as cursor:
            self._run(
                cursor,
                f"""
                SELECT trigger_id, count(*) FROM {SCHEMA}.delivery
                WHERE trigger_id = ANY (%s) AND state IN ('pending', 'delivering')
                GROUP BY trigger_id""",
                list(trigger_ids),
            )
            return dict.fromkeys(trigger_ids, 0) | dict(cursor.fetchall())

    # Statistics

    def settle_statistics(self) -> int:
        """Move what was counted into the sums of each span, and forget old sums."""
        moved = 0
        while True:
            with self._transaction() as cursor:
                some = pgstatistics.move(cursor)
            moved += some
            if some < MOVED_AT_ONCE:
                break
        with self._transaction() as cursor:
            pgstatistics.forget_old(cursor)
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
        with self._transaction() as cursor:
            self.statements += 1
            return pgstatistics.read(
                cursor, project_id, since, until, step_seconds, by_trigger, trigger_id
            )


_FORGET_KINDS: Final = f"DELETE FROM {SCHEMA}.event_kind WHERE noted_at < to_timestamp(%s)"


def _last_noted(first_day: int) -> int:
    """When a kind was noted last that has no event from this day on, in seconds since the epoch."""
    return first_day * _DAY_MS // 1000 - SPARE_SECONDS


# A schema that is there already must be ours; one that is not must be ours to make.
_FACTS: Final = """
    SELECT current_setting('server_version_num')::int, current_setting('server_version'),
           current_user, current_database(), pg_is_in_recovery(),
           has_database_privilege(current_database(), 'CREATE')
               OR EXISTS (SELECT FROM pg_namespace WHERE nspname = %s),
           NOT EXISTS (SELECT FROM pg_namespace
                       WHERE nspname = %s AND NOT pg_has_role(nspowner, 'USAGE')),
           obj_description(to_regnamespace('mission_control'), 'pg_namespace'),
           to_regclass('public.eventing_installation') IS NOT NULL"""
_MARK: Final = "SELECT obj_description(to_regnamespace('mission_control'), 'pg_namespace')"


def _mark_of(owner: str) -> str:
    """The schema's comment that says whose log it is."""
    return f"event log of the installation {owner}"


def _finding(name: str, good: bool, what: str, why: str, mend: str) -> Finding:
    return Finding(name, "ok", what) if good else Finding(name, "error", what, why, mend)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _chunks(rows: Sequence[tuple[int, str]]) -> list[DueChunk]:
    """(trigger id, event id) pairs as chunks of one trigger each, ids in order."""
    by_trigger: dict[int, list[UUID]] = defaultdict(list)
    for trigger_id, event_id in rows:
        by_trigger[trigger_id].append(UUID(event_id))
    return chunked({trigger_id: sorted(ids) for trigger_id, ids in by_trigger.items()})


def chunked(ids_by_trigger: Mapping[int, Sequence[UUID]]) -> list[DueChunk]:
    """Ids as chunks of at most 200 of one trigger."""
    chunks = []
    for trigger_id, ids in ids_by_trigger.items():
        rest = iter(ids)
        while chunk := list(islice(rest, CHUNK_SIZE)):
            chunks.append(DueChunk(trigger_id, chunk))
    return chunks


def partition_suffix(day: int) -> str:
    """The name's ending for a day counted from the epoch: 20261124."""
    return f"{date(1970, 1, 1) + timedelta(days=day):%Y%m%d}"


def _array(texts: Iterable[str]) -> str:
    """Texts that need no quotes as one array literal: the server reads that at a fraction of the
    cost of an ARRAY[…] that psycopg2 would make of a list."""
    return f"{{{','.join(texts)}}}"


def _escaped(text: str) -> str:
    """`text` as a field of COPY's text format (Postgres manual, "COPY", File Formats); U+0000,
    which Postgres cannot hold, becomes U+FFFD."""
    # One search a character takes a tenth of what one expression over all of them does.
    if not ("\\" in text or "\n" in text or "\t" in text or "\r" in text or "\x00" in text):
        return text
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return text.replace("\r", "\\r").replace("\x00", "\ufffd")


def _nullable(value: str | int | None) -> str:
    return "\\N" if value is None else _escaped(str(value))


def _headers(headers: tuple[tuple[str, str], ...]) -> str:
    return _escaped(orjson.dumps(headers).decode()) if headers else "[]"


@lru_cache(maxsize=4096)
def _timestamp(milliseconds: int) -> str:
    """Milliseconds since the epoch as a timestamptz literal."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d}+00"


def _may_pass(error: psycopg2.Error) -> bool:
    """Whether trying again may help: the server is away, the connection or the memory for an answer
    gave out (which libpq tells without a code), or a standby has yet to become the primary."""
    passing = (
        psycopg2.OperationalError,
        psycopg2.InterfaceError,
        psycopg2.errors.ReadOnlySqlTransaction,
    )
    came_from_libpq = type(error) is psycopg2.DatabaseError and error.pgcode is None
    return isinstance(error, passing) or came_from_libpq


def _first_failure(error: psycopg2.Error) -> psycopg2.Error:
    """What broke the connection: the roll-back that follows fails too, and says less."""
    before = error.__context__
    return before if isinstance(before, psycopg2.Error) else error


def _first_line(error: Exception) -> str:
    """What the driver says, without the rest (which may quote values)."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
