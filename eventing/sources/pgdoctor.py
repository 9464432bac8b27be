"""The doctor for Postgres: what a server, a role and its tables need before they can be captured."""

from collections.abc import Iterator
from typing import Final

import psycopg2
import psycopg2.extras

from eventing.changes import Finding
from eventing.sources.pgcatalogue import Catalogue, identifier

_OLDEST: Final = 140_000
_TABLES_NAMED: Final = 20


def findings(
    catalogue: Catalogue, name: str, *, brief: bool, dsn: str | None = None
) -> list[Finding]:
    """Every finding; with `brief` only what decides whether capture can start at all.

    `name` is the slot's. With `dsn` a replication connection is tried as well.
    """
    found = [*_server(catalogue, name), *_role(catalogue)]
    if not brief:
        found += [*_protection(catalogue), *_future_tables(catalogue), *_tables(catalogue)]
        if dsn is not None:
            found += _replication_connection(dsn)
    return found


def _server(catalogue: Catalogue, name: str) -> Iterator[Finding]:
    if catalogue.version < _OLDEST:
        yield Finding(
            "version",
            "error",
            f"the server is Postgres {catalogue.version // 10_000}",
            "Logical replication as used here needs Postgres 14 or newer.",
            "Upgrade the server.",
        )
        return
    yield Finding("version", "ok", f"Postgres {catalogue.value('SHOW server_version')}")
    if catalogue.value("SELECT pg_is_in_recovery()"):
        yield Finding(
            "primary",
            "error",
            "this server is a standby",
            "Publications can be made on the primary alone.",
            "Connect to the primary.",
        )
    level = catalogue.value("SHOW wal_level")
    yield _setting(
        "wal_level",
        level == "logical",
        f"wal_level is {level}",
        "Only with wal_level = logical does the server's log say what changed in each row.",
        "ALTER SYSTEM SET wal_level = 'logical';",
    )
    yield from _room(catalogue, name)


def _room(catalogue: Catalogue, name: str) -> Iterator[Finding]:
    """Is there a slot and a walsender left for us, unless we have ours already?"""
    slots = int(catalogue.value("SHOW max_replication_slots"))
    used = catalogue.value(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> %s", name
    )
    yield _setting(
        "max_replication_slots",
        used < slots,
        f"{used} of {slots} replication slots are in use",
        "Mission Control needs one slot a database.",
        f"ALTER SYSTEM SET max_replication_slots = {slots + 10};",
    )
    senders = int(catalogue.value("SHOW max_wal_senders"))
    busy = catalogue.value("SELECT count(*) FROM pg_stat_replication")
    yield _setting(
        "max_wal_senders",
        busy < senders or _has_slot(catalogue, name),
        f"{busy} of {senders} walsenders are in use",
        "Mission Control needs one walsender a database.",
        f"ALTER SYSTEM SET max_wal_senders = {senders + 10};",
    )


def _has_slot(catalogue: Catalogue, name: str) -> bool:
    return bool(
        catalogue.value(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active", name
        )
    )


def _setting(name: str, fine: bool, what: str, why: str, mend: str) -> Finding:
    if fine:
        return Finding(name, "ok", what)
    return Finding(name, "error", what, why, mend, restart=True)


def _role(catalogue: Catalogue) -> Iterator[Finding]:
    role, may_replicate, is_superuser, may_create = catalogue.rows(
        "SELECT current_user, r.rolreplication, r.rolsuper,"
        " has_database_privilege(current_database(), 'CREATE')"
        " FROM pg_roles r WHERE r.rolname = current_user"
    )[0]
    if may_replicate or is_superuser or _may_replicate_on_a_managed_service(catalogue):
        yield Finding("replication right", "ok", f"{role} may replicate")
    else:
        yield Finding(
            "replication right",
            "error",
            f"{role} may not replicate",
            "Reading the server's log needs the attribute REPLICATION.",
            f"ALTER ROLE {identifier(role)} REPLICATION;",
        )
    database = catalogue.value("SELECT current_database()")
    if may_create:
        yield Finding("create right", "ok", f"{role} may create publications in {database}")
    else:
        yield Finding(
            "create right",
            "error",
            f"{role} may not create publications in {database}",
            "Publications say which tables are captured.",
            f"GRANT CREATE ON DATABASE {identifier(database)} TO {identifier(role)};",
        )


def _may_replicate_on_a_managed_service(catalogue: Catalogue) -> bool:
    """Amazon RDS and Aurora grant replication by membership of a role."""
    return bool(
        catalogue.value(
            "SELECT 1 FROM pg_roles WHERE rolname = 'rds_replication'"
            " AND pg_has_role(current_user, oid, 'USAGE')"
        )
    )


def _protection(catalogue: Catalogue) -> Iterator[Finding]:
    kept = catalogue.value("SHOW max_slot_wal_keep_size")
    if kept == "-1":
        yield Finding(
            "max_slot_wal_keep_size",
            "warning",
            "log that a slot still needs is kept without limit",
            "Should Mission Control stay away for long, the kept log could fill the server's disk.",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
        )
    else:
        yield Finding("max_slot_wal_keep_size", "ok", f"a slot keeps at most {kept} of log")


def _future_tables(catalogue: Catalogue) -> Iterator[Finding]:
    if catalogue.is_superuser:
        return
    yield Finding(
        "new tables",
        "warning",
        "the role is no superuser, so a new table is found up to a second after it is made",
        "Changes in a table's first second may be missed; tables that exist are not affected.",
        "Connect as a superuser, if triggers on tables yet to come matter.",
    )


def _tables(catalogue: Catalogue) -> Iterator[Finding]:
    tables = catalogue.tables()
    foreign = [table for table in tables if not table.is_ours]
    if foreign:
        yield Finding(
            "table ownership",
            "warning",
            f"{len(foreign)} tables belong to others: {_named([t.shown for t in foreign])}",
            "Only a table's owner can publish its updates and deletes.",
            "; ".join(
                f"ALTER TABLE {identifier(t.schema, t.name)} OWNER TO CURRENT_USER"
                for t in foreign[:_TABLES_NAMED]
            )
            + ";",
        )
    bare = [table for table in tables if not table.has_identity]
    for table in bare[:_TABLES_NAMED]:
        yield Finding(
            "replica identity",
            "warning",
            f"updates and deletes of {table.shown} are not captured",
            "It has no primary key and no replica identity, so the log does not say which row"
            " changed, and publishing it would make those statements fail.",
            f"ALTER TABLE {identifier(table.schema, table.name)} REPLICA IDENTITY FULL;",
        )
    if len(bare) > _TABLES_NAMED:
        rest = _named([table.shown for table in bare[_TABLES_NAMED:]])
        yield Finding("replica identity", "warning", f"the same holds for {rest}")
    if not bare:
        yield Finding("replica identity", "ok", f"all {len(tables)} tables have one")


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_TABLES_NAMED])
    more = len(names) - _TABLES_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _replication_connection(dsn: str) -> list[Finding]:
    """A pooler, or pg_hba.conf, may let ordinary connections through and these not."""
    factory = psycopg2.extras.LogicalReplicationConnection
    try:
        connection = psycopg2.connect(dsn, connection_factory=factory)
    except psycopg2.Error as error:
        words = str(error).strip().splitlines()
        return [
            Finding(
                "replication connection",
                "error",
                f"a replication connection is refused: {words[0] if words else 'no reason given'}",
                "A pooler such as PgBouncer cannot carry the stream, and pg_hba.conf must let it"
                " in.",
                "Connect to the server itself, not through a pooler; allow the role in pg_hba.conf.",
            )
        ]
    connection.close()
    return [Finding("replication connection", "ok", "the server accepts one")]
