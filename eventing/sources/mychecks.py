"""What a MySQL or MariaDB must have to be captured, and what to run where it lacks that.

The doctor's findings and the refusals of `MySqlSource.open` come from the same facts.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final

import pymysql

from eventing.changes import CatalogueTable, Finding, prerequisite
from eventing.mysqlserver import OWN_TABLES, Facts, Opened, quoted, version_finding
from eventing.sources.myposition import Position
from eventing.sources.myserver import Server

_OLDEST_MYSQL: Final = (8, 0)
_OLDEST_MARIADB: Final = (10, 6)
# From here on the server itself carries out cascades, and logs them.
_CASCADES_LOGGED_SINCE: Final = (9, 6)
_DAY_SECONDS: Final = 86_400
_UNSEEN_CASCADES: Final = (
    "rows that a foreign key of this table changes by cascade are not in the binary log"
)

_UNSEEN_HISTORY: Final = (
    "its history is kept by transactions, so the server logs its changes as statements, and none"
    " of them can be captured"
)
_HISTORY_MEND: Final = (
    "let the columns of ROW START and ROW END be TIMESTAMP(6): the table must be made anew for it"
)


def of_server(facts: Facts) -> Iterator[Finding]:
    """What the server must have; without any of these nothing works."""
    yield version_finding(facts, _OLDEST_MYSQL, _OLDEST_MARIADB, "be captured")
    if not facts.on("log_bin"):
        yield Finding(
            "binary log",
            "error",
            "the binary log is off",
            "changes are read from the binary log",
            "in my.cnf, [mysqld]: log_bin = binlog, server_id = 1",
            restart=True,
        )
        return
    yield Finding("binary log", "ok", "the binary log is on")
    yield _setting(
        facts, "binlog_format", "ROW", "only the ROW format tells which rows were changed"
    )
    yield _setting(
        facts,
        "binlog_row_image",
        "FULL",
        "with less, an event holds only a part of the row's columns",
    )
    if "binlog_row_value_options" in facts.variables:
        value = facts.variables["binlog_row_value_options"]
        yield prerequisite(
            "binlog_row_value_options",
            not value,
            f"binlog_row_value_options is '{value}'",
            "an update of a JSON column would be logged in part, without the whole document",
            facts.mend("binlog_row_value_options", "''"),
        )


def _setting(facts: Facts, name: str, wanted: str, why: str) -> Finding:
    value = facts.variables.get(name, "").upper()
    mend = facts.mend(name, wanted)
    if name.startswith("binlog_") and value != wanted:
        mend += " -- sessions that are open keep the old value: reconnect them"
    return prerequisite(name, value == wanted, f"{name} is {value or 'unknown'}", why, mend)


def check(
    server: Server,
    opened: Opened,
    facts: Facts,
    refusal_of_stream: Callable[[Facts, Position], str | None],
) -> Iterator[Finding]:
    """Every finding there is behind the connection's own. Raises pymysql.MySQLError."""
    findings = list(of_server(facts))
    yield from findings
    if not facts.on("log_bin"):
        return
    yield from _of_rights(server, opened, facts, refusal_of_stream)
    yield _of_metadata(facts)
    yield _of_gtids(facts)
    yield _of_expiry(facts)
    database = _of_database(server, opened)
    yield database
    if database.status == "error":
        return
    for table in catalogue(server, opened, facts):
        if table.limits:
            name = "history" if table.limits == _UNSEEN_HISTORY else "cascades"
            yield Finding(name, "warning", f"{table.name}: {table.limits}", "", table.mend)


def _of_rights(
    server: Server,
    opened: Opened,
    facts: Facts,
    refusal_of_stream: Callable[[Facts, Position], str | None],
) -> Iterator[Finding]:
    why = "the server shows its binary log to whoever may replicate only"
    try:
        end = server.binlog_end(opened, facts)
    except pymysql.MySQLError:
        what = f"the user {server.user} may not ask for the place in the binary log"
        yield Finding("replication client right", "error", what, why, server.grants)
        return
    if end is not None and not end.holds(server.database):
        yield Finding(
            "binlog_do_db",
            "error",
            f"the server leaves {server.database} out of its binary log",
            "changes are read from the binary log",
            f"in my.cnf, [mysqld]: remove binlog_ignore_db = {server.database} and add"
            f" binlog_do_db = {server.database} where other binlog_do_db lines stand",
            restart=True,
        )
    refusal = refusal_of_stream(facts, server.end(opened, facts))
    if refusal is not None:
        what = f"the server refuses to send its binary log to {server.user}: {refusal}"
        yield Finding("replication slave right", "error", what, why, server.grants)
        return
    yield Finding("replication right", "ok", f"{server.user} may read the binary log")


def _of_database(server: Server, opened: Opened) -> Finding:
    try:
        with opened.cursor() as at:
            at.execute(f"USE {quoted(server.database)}")
    except pymysql.MySQLError as error:
        failure = server.translated(error)
        why = "the columns of its tables are looked up there"
        return Finding("database", "error", str(failure), why, failure.mend)
    return Finding("database", "ok", f"{server.user} may look up the tables of {server.database}")


def _of_metadata(facts: Facts) -> Finding:
    value = facts.variables.get("binlog_row_metadata", "MINIMAL").upper()
    what = f"binlog_row_metadata is {value}"
    if value == "FULL":
        return Finding("binlog_row_metadata", "ok", what)
    return Finding(
        "binlog_row_metadata",
        "warning",
        what,
        "the log names no columns: rows written before an ALTER TABLE and read after it may not"
        " be readable, and become failed events",
        facts.mend("binlog_row_metadata", "FULL"),
    )


def _of_gtids(facts: Facts) -> Finding:
    if facts.has_gtids:
        return Finding("global transaction ids", "ok", "transactions have global ids")
    return Finding(
        "global transaction ids",
        "warning",
        "gtid_mode is off",
        "the position is a place in this server's files: after a failover capture must start anew;"
        " capture uses the ids from when it is next started anew",
        "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE;"
        " SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON;",
    )


def _of_expiry(facts: Facts) -> Finding:
    seconds = int(float(facts.variables.get("binlog_expire_logs_seconds", "0")))
    if not seconds:
        return Finding("binary log expiry", "ok", "binary logs are kept until they are purged")
    what = f"binary logs are kept for {seconds / 3600:.0f} hours"
    if seconds >= _DAY_SECONDS:
        return Finding("binary log expiry", "ok", what)
    return Finding(
        "binary log expiry",
        "warning",
        what,
        "capture that stands still for longer loses its place",
        facts.mend("binlog_expire_logs_seconds", str(7 * _DAY_SECONDS)),
    )


def catalogue(server: Server, opened: Opened, facts: Facts) -> list[CatalogueTable]:
    """The tables that may be captured, sorted by name. Raises pymysql.MySQLError."""
    cascading: set[str] = set()
    by_transactions: set[str] = set()
    with opened.cursor() as at:
        if facts.is_mariadb or facts.number < _CASCADES_LOGGED_SINCE:
            at.execute(_CASCADING, [server.database])
            cascading = {str(row[0]) for row in at.fetchall()}
        if facts.is_mariadb:
            at.execute(_BY_TRANSACTIONS, [server.database])
            by_transactions = {str(row[0]) for row in at.fetchall()}
        at.execute(_TABLES, [server.database])
        rows = [(str(table), str(column)) for table, column in at.fetchall()]
    found = [
        CatalogueTable(
            table,
            tuple(column for _, column in columns),
            _UNSEEN_HISTORY
            if table in by_transactions
            else _UNSEEN_CASCADES
            if table in cascading
            else "",
            _HISTORY_MEND if table in by_transactions else "",
        )
        for table, columns in groupby(rows, key=itemgetter(0))
        if not table.startswith(OWN_TABLES)
    ]
    return sorted(found, key=lambda table: table.name)


_CASCADING: Final = """
SELECT TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS
WHERE CONSTRAINT_SCHEMA = %s
  AND (DELETE_RULE IN ('CASCADE', 'SET NULL') OR UPDATE_RULE IN ('CASCADE', 'SET NULL'))
"""

_BY_TRANSACTIONS: Final = """
SELECT TABLE_NAME FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA = %s AND GENERATION_EXPRESSION = 'ROW END' AND DATA_TYPE = 'bigint'
"""

_TABLES: Final = """
SELECT t.TABLE_NAME, c.COLUMN_NAME
FROM information_schema.TABLES AS t
JOIN information_schema.COLUMNS AS c
  ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME
WHERE t.TABLE_SCHEMA = %s AND t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')
ORDER BY t.TABLE_NAME, c.ORDINAL_POSITION
"""
