"""What a Postgres must have to be captured, and what to run where it lacks that.

The doctor's findings and the refusals of `PostgresSource.open` come from the same facts.
"""

from collections.abc import Iterator
from typing import Final

import psycopg2
from psycopg2.extensions import connection

from eventing.changes import CatalogueTable, Finding, prerequisite
from eventing.postgresserver import primary_finding, quoted, version_finding
from eventing.sources.base import MUCH_LOG_BYTES, SourceBlocked, SourceUnavailable, unreached
from eventing.sources.pgpublishing import Publications, Table
from eventing.sources.pgserver import WAL_LEVEL_MEND, Facts, Server

_NO_IDENTITY: Final = "updates and deletes cannot be captured: no primary key or replica identity"
_NOT_OURS: Final = "cannot be captured: another role owns it"


def refuse(place: str, facts: Facts) -> None:
    """Raise SourceBlocked for the first thing that keeps capture from running."""
    for finding in _of_server(facts):
        if finding.status == "error":
            raise SourceBlocked(f"{place}: {finding.what}: {finding.why}", finding.whole_mend)


def check(server: Server, publications: Publications, name: str) -> list[Finding]:
    """Every finding there is; a server that cannot be reached is one too."""
    try:
        opened = server.connect()
    except (SourceBlocked, SourceUnavailable) as error:
        return [unreached(error)]
    try:
        facts = server.facts(opened)
        findings = [Finding("connection", "ok", f"connected to {server.place} as {facts.role}")]
        findings += _of_server(facts)
        if any(finding.status == "error" for finding in findings):
            return findings
        slot_exists = _slot_exists(opened, name)
        findings += _limits(facts, slot_exists)
        findings += _kept_log(opened, name)
        findings.append(_replication(server))
        findings += _of_tables(publications.look(opened, facts).tables, facts)
    except psycopg2.Error as error:
        failure = server.translated(error)
        return [Finding("connection", "error", str(failure), "the server cannot be examined")]
    finally:
        opened.close()
    return findings


def catalogue(opened: connection, facts: Facts, publications: Publications) -> list[CatalogueTable]:
    """The tables that may be captured, with what limits each. Raises psycopg2.Error."""
    tables = {
        table.oid: table for table in publications.look(opened, facts).tables if table.eligible
    }
    with opened.cursor() as at:
        at.execute(_COLUMN_NAMES, [list(tables)])
        columns = dict(at.fetchall())
    return sorted(
        (_suggested(table, tuple(columns.get(table.oid, ())), facts) for table in tables.values()),
        key=lambda table: table.name,
    )


def _suggested(table: Table, columns: tuple[str, ...], facts: Facts) -> CatalogueTable:
    if not table.ours:
        return CatalogueTable(table.column, columns, _NOT_OURS, _own(table, facts))
    if not table.identity:
        return CatalogueTable(table.column, columns, _NO_IDENTITY, _identify(table))
    return CatalogueTable(table.column, columns)


def _identify(table: Table) -> str:
    return f"ALTER TABLE {_name(table)} REPLICA IDENTITY FULL;"


def _own(table: Table, facts: Facts) -> str:
    """Our role among the owners: another owner would take the table from those who use it so.

    A superuser uses all tables anyway, and is nobody to be made a member of.
    """
    if table.owner_is_superuser:
        return f"ALTER TABLE {_name(table)} OWNER TO {quoted(facts.role)};"
    return f"GRANT {quoted(table.owner)} TO {quoted(facts.role)};"


def _name(table: Table) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def _of_server(facts: Facts) -> Iterator[Finding]:
    """What server and role must have; without any of these nothing works."""
    yield version_finding(facts.version, facts.version_text, "be captured")
    yield primary_finding(facts.in_recovery, "publications and slots are made at the primary")
    yield prerequisite(
        "wal_level",
        facts.wal_level == "logical",
        f"wal_level is {facts.wal_level}",
        "only with logical does the server's log hold what changed in which row",
        WAL_LEVEL_MEND,
        restart=True,
    )
    yield prerequisite(
        "replication right",
        facts.may_replicate,
        f"the role {facts.role} {'may' if facts.may_replicate else 'may not'} replicate",
        "a replication slot needs it",
        f"ALTER ROLE {quoted(facts.role)} REPLICATION;",
    )
    yield prerequisite(
        "create right",
        facts.may_create,
        f"the role {facts.role} {'may' if facts.may_create else 'may not'} create publications",
        "publications tell the server which tables are wanted",
        f"GRANT CREATE ON DATABASE {quoted(facts.database)} TO {quoted(facts.role)};",
    )


def _limits(facts: Facts, slot_exists: bool) -> Iterator[Finding]:
    """Room for a slot and a sender, and how much WAL a slot may keep."""
    slots_free = facts.slots_limit - facts.slots_used
    yield prerequisite(
        "max_replication_slots",
        slots_free > 0 or slot_exists,
        f"{slots_free} of {facts.slots_limit} replication slots are free",
        "each captured database needs one",
        f"ALTER SYSTEM SET max_replication_slots = {facts.slots_limit + 10};",
        restart=True,
    )
    senders_free = facts.senders_limit - facts.senders_used
    yield prerequisite(
        "max_wal_senders",
        senders_free > 0 or slot_exists,
        f"{senders_free} of {facts.senders_limit} WAL senders are free",
        "each captured database needs one",
        f"ALTER SYSTEM SET max_wal_senders = {facts.senders_limit + 10};",
        restart=True,
    )
    if facts.keeps_unlimited_wal:
        yield Finding(
            "max_slot_wal_keep_size",
            "warning",
            "max_slot_wal_keep_size is -1",
            "while capture stands still, the slot keeps WAL until the server's disk is full",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
        )
    else:
        yield Finding("max_slot_wal_keep_size", "ok", "the WAL that a slot keeps is limited")


def _kept_log(opened: connection, name: str) -> Iterator[Finding]:
    """How much of its log the server keeps for the slot, once there is one."""
    with opened.cursor() as at:
        at.execute(_KEPT_LOG, [name])
        row = at.fetchone()
    if row is None or row[0] is None:
        return
    kept, shown = row
    what = f"the server keeps {shown} of its log for the slot"
    if kept > MUCH_LOG_BYTES:
        why = "it grows until capture has read it, and could fill the server's disk"
        yield Finding(
            "kept log", "warning", what, why, "See why capture is behind or stands still."
        )
    else:
        yield Finding("kept log", "ok", what)


_KEPT_LOG: Final = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn),
    pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))
FROM pg_replication_slots WHERE slot_name = %s AND NOT pg_is_in_recovery()
"""


def _replication(server: Server) -> Finding:
    """Whether a replication connection comes about; through a pooler it does not."""
    try:
        server.connect_for_replication().close()
    except (SourceBlocked, SourceUnavailable) as error:
        why = "changes are streamed over a replication connection"
        return Finding("replication connection", "error", str(error), why, error.mend)
    return Finding("replication connection", "ok", "a replication connection can be opened")


def _of_tables(tables: list[Table], facts: Facts) -> Iterator[Finding]:
    """What limits the capture of present and future tables."""
    if not facts.is_superuser:
        yield Finding(
            "future tables",
            "warning",
            f"the role {facts.role} is no superuser",
            "a new table is published up to a second after it was made: rows that are inserted"
            " before that are not captured; only a superuser's publication has new tables at once",
        )
    for table in tables:
        if not table.eligible:
            continue
        if not table.ours:
            what = f"{table.column}: {_NOT_OURS}"
            yield Finding("ownership", "warning", what, "only a table's owner may publish it",
                          _own(table, facts))  # fmt: skip
        elif not table.identity:
            yield Finding(
                "replica identity",
                "warning",
                f"{table.column}: {_NO_IDENTITY}",
                "inserts are captured; publishing the rest would make UPDATE and DELETE fail",
                _identify(table),
            )


def _slot_exists(opened: connection, name: str) -> bool:
    with opened.cursor() as at:
        at.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [name])
        return at.fetchone() is not None


_COLUMN_NAMES: Final = """
SELECT attrelid::bigint, array_agg(attname::text ORDER BY attnum)
FROM pg_attribute
WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped
GROUP BY attrelid
"""
