"""The tables of a log in Postgres, and the partitions of its days.

`event_log` and `invocation_log` are append-only and partitioned by the day of the event's commit,
on the time-ordered id. `delivery` holds a narrow row for each event that is not delivered; the
absence of a row is what `delivered` means. docs/explanation/event-log.md tells why.
"""

import time
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Final

import psycopg2.errors
import structlog

from eventing.ids import first_id_at
from eventing.logs import pgindexes, pgstatistics
from eventing.logs.days import DAY_MS, partition_suffix
from eventing.logs.pgchecks import mark
from eventing.logs.pgconnections import Connections, Transaction
from eventing.logs.pgretention import forget_before
from eventing.logs.pgstatements import IMPATIENT, SCHEMA

_PARTITIONED: Final = ("event_log", "invocation_log")
# How long a DROP may keep others waiting, and how often it is tried.
_DROP_LOCK_MS: Final = 200
_DROP_TRIES: Final = 5
_DROP_PAUSE_SECONDS: Final = 0.5

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
-- The change's, as it is shown. NULL for what earlier versions stored.
ALTER TABLE mission_control.event_log ADD COLUMN IF NOT EXISTS position text;

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
ALTER TABLE mission_control.delivery ADD COLUMN IF NOT EXISTS order_key bigint;
ALTER TABLE mission_control.delivery ADD COLUMN IF NOT EXISTS order_seq bigint;
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
"""
# What knew the names of triggers before there were kinds.
_NAMES_OF_TRIGGERS: Final = "mission_control.trigger_name"
_GIVE_KINDS: Final = f"""
INSERT INTO mission_control.event_kind
SELECT DISTINCT project_id, trigger_id, "table", operation, database_id, trigger, database
FROM mission_control.event_log ON CONFLICT DO NOTHING;
DROP TABLE {_NAMES_OF_TRIGGERS};
"""
_DEFINITIONS: Final = _TABLES + pgstatistics.TABLES
_DEFINITIONS_HASH: Final = blake2b(_DEFINITIONS.encode(), digest_size=8).hexdigest()
_MADE: Final = f"made by the definitions {_DEFINITIONS_HASH}"

logger = structlog.get_logger(__name__)


class Tables:
    """The tables of the log that `connections` lead to."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known_days: set[int] = set()

    def make(self, owner: str | None = None) -> None:
        """Make or upgrade schema, tables and this week's partitions, as far as need be."""
        with self._connections.transaction() as at:
            if owner is not None or not self._is_defined(at):
                at.run("SELECT pg_advisory_xact_lock(hashtext('mission_control.tables'))")
                self._define(at)
            if owner is not None:
                mark(at, owner)
        today = int(time.time() * 1000) // DAY_MS
        self.make_partitions(range(today - 1, today + 7))

    def _define(self, at: Transaction) -> None:
        """Run the definitions, unless these very ones have been run: they lock what they touch."""
        if not self._is_defined(at):
            at.run(IMPATIENT)
            is_new = not _is_there(at, f"{SCHEMA}.event_log")
            at.run(_DEFINITIONS)
            if is_new:
                pgindexes.make(at)
            at.run(f"COMMENT ON TABLE {SCHEMA}.event_log IS %s", _MADE)

    def _is_defined(self, at: Transaction) -> bool:
        at.run("SELECT obj_description(to_regclass('mission_control.event_log'))")
        return at.fetchone() == (_MADE,)

    def is_behind(self) -> bool:
        """Whether an upgrade has left something to `catch_up` with."""
        with self._connections.transaction() as at:
            return _is_there(at, _NAMES_OF_TRIGGERS) or not pgindexes.are_as_they_should(at)

    def lacks_kinds(self) -> bool:
        """Whether `catch_up` has yet to note the kinds of events that an older version stored."""
        with self._connections.transaction() as at:
            return _is_there(at, _NAMES_OF_TRIGGERS)

    def catch_up(self) -> None:
        """Do what takes long after an upgrade, while everybody goes on."""
        pgindexes.build(self._connections)
        with self._connections.transaction() as at:
            if _is_there(at, _NAMES_OF_TRIGGERS):
                at.run(_GIVE_KINDS)

    def make_partitions(self, days: Sequence[int]) -> None:
        """Make the partitions of these days (counted from the epoch) where they are missing.

        A table is made apart and then attached, which never waits for readers or writers.
        """
        missing = [day for day in days if day not in self._known_days]
        for day in missing:
            with self._connections.transaction() as at:
                at.run("SELECT pg_advisory_xact_lock(hashtext('mission_control.partitions'))")
                for parent in _PARTITIONED:
                    self._make_partition(at, parent, day)
            self._known_days.add(day)

    def look_again_for(self, days: Collection[int]) -> None:
        """Do not take for granted that these days have partitions."""
        self._known_days.difference_update(days)

    def _make_partition(self, at: Transaction, parent: str, day: int) -> None:
        name = f"{parent}_{partition_suffix(day)}"
        if _is_there(at, f"{SCHEMA}.{name}"):
            return
        key = "id" if parent == "event_log" else "event_id"
        low, high = first_id_at(day * DAY_MS), first_id_at((day + 1) * DAY_MS)
        at.run(
            f"CREATE TABLE {SCHEMA}.{name} (LIKE {SCHEMA}.{parent} INCLUDING DEFAULTS"
            f" INCLUDING CONSTRAINTS, CHECK ({key} >= '{low}' AND {key} < '{high}'))"
            " WITH (autovacuum_vacuum_insert_scale_factor = 0.2)",
        )
        at.run(
            f"ALTER TABLE {SCHEMA}.{parent} ATTACH PARTITION {SCHEMA}.{name}"
            f" FOR VALUES FROM ('{low}') TO ('{high}')",
        )

    def drop_partitions_before(self, day: int) -> list[str]:
        """Drop whole days older than `day`; returns the names of the tables that went.

        While somebody reads the log for long (a backup), old days stay until the next time.
        """
        with self._connections.transaction() as at:
            # By the catalogue: partitions of both parents, by name.
            at.run(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = ANY (%s::regclass[]) ORDER BY c.relname",
                [f"{SCHEMA}.{parent}" for parent in _PARTITIONED],
            )
            names = [name for (name,) in at.fetchall()]
        old = [name for name in names if name[-8:] < partition_suffix(day)]
        gone: list[str] = []
        for name in old:
            if not self._drop(name):
                logger.warning("the log is being read: its old days go later", table=name)
                break
            gone.append(name)
        self._known_days = {known for known in self._known_days if known >= day}
        # Even if nothing has gone: whoever dropped a day may have died before this.
        forget_before(self._connections, day)
        return gone

    def _drop(self, name: str) -> bool:
        """Drop a partition; False if its table is in use, which everybody else would wait for, and
        so waits for a moment only, a few times."""
        for _ in range(_DROP_TRIES):
            with self._connections.transaction() as at:
                at.run(f"SET LOCAL lock_timeout = {_DROP_LOCK_MS}")
                try:
                    at.run(f"DROP TABLE IF EXISTS {SCHEMA}.{name}")
                    return True
                except psycopg2.errors.LockNotAvailable:
                    at.connection.rollback()
            time.sleep(_DROP_PAUSE_SECONDS)
        return False


def _is_there(at: Transaction, table: str) -> bool:
    at.run("SELECT to_regclass(%s) IS NOT NULL", table)
    return at.fetchone() == (True,)
