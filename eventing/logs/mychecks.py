"""Whether a MySQL or MariaDB can hold a log, and what to run where it cannot. Changes nothing.

Rights are read from what the server says was granted, since trying them would leave tables behind.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import pymysql
from pymysql.constants import ER

from eventing.changes import Finding, prerequisite
from eventing.logs.myconnections import Connections, unavailable
from eventing.logs.mystatements import OWNER
from eventing.mysqlserver import OWN_TABLES, Facts, Opened, facts_of, quoted, version_finding

# The first with a collation that is neither blind to trailing spaces nor to case.
_OLDEST_MYSQL: Final = (8, 0, 17)
# The first with SKIP LOCKED.
_OLDEST_MARIADB: Final = (10, 6, 0)
RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")
# Lists of ids and rows of invocations, which cannot be made smaller, need no more than this.
_LEAST_PACKET_BYTES: Final = 1 << 20
_COMFORTABLE_PACKET_BYTES: Final = 64 << 20


def check(connections: Connections, owner: str) -> list[Finding]:
    """Whether the database can hold the log of the installation `owner`."""
    address = connections.address
    needs = "without a connection nothing can be stored"
    if not address.host or not address.database:
        what = "the connection string does not name a host and a database"
        mend = "mysql://user:password@host:3306/database"
        return [Finding("connection", "error", what, needs, mend)]
    try:
        # A user who has no right to the database can connect to the server all the same.
        with closing(connections.opened(None)) as opened:
            return list(_findings(opened, address.database, owner))
    except (pymysql.MySQLError, OSError) as error:
        return [Finding("connection", "error", str(unavailable(error)), needs)]


def _findings(opened: Opened, database: str, owner: str) -> Iterator[Finding]:
    facts = facts_of(opened)
    ((account,),) = _rows(opened, "SELECT CURRENT_USER()")
    yield Finding("connection", "ok", f"connected as {account}")
    yield from _of_server(facts)
    grants = [str(grant) for (grant,) in _rows(opened, "SHOW GRANTS")]
    folds_case = facts.variables.get("lower_case_table_names", "0") != "0"
    granted = _rights_to(database, grants, folds_case)
    missing = [right for right in RIGHTS if right not in granted]
    yield _of_rights(str(account), database, missing)
    if missing:
        return
    schemata = "SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
    exists = bool(_rows(opened, schemata, database))
    yield prerequisite(
        "database",
        exists,
        f"the database {database} exists" if exists else f"there is no database {database}",
        "the tables of the log live in it",
        f"CREATE DATABASE {quoted(database)};",
    )
    if exists:
        yield _of_owner(opened, owner, database)


def _rows(opened: Opened, sql: str, *arguments: str) -> list[tuple[Any, ...]]:
    with opened.cursor() as at:
        at.execute(sql, arguments or None)
        return list(at.fetchall())


def _of_server(facts: Facts) -> Iterator[Finding]:
    yield version_finding(facts, _OLDEST_MYSQL, _OLDEST_MARIADB, "hold the log")
    read_only = facts.on("read_only") or facts.on("super_read_only")
    yield prerequisite(
        "primary",
        not read_only,
        "the server is read-only" if read_only else "the server can be written to",
        "a replica cannot be written to",
        "use the address of the primary server, or SET GLOBAL read_only = OFF;",
    )
    if facts.on("log_bin") and facts.variables.get("binlog_format") == "STATEMENT":
        yield Finding(
            "binlog_format",
            "error",
            "binlog_format is STATEMENT",
            "the log writes at READ COMMITTED, which that format cannot log",
            facts.mend("binlog_format", "ROW"),
        )
    yield _of_packets(facts)
    yield _of_flushing(facts)


def _of_flushing(facts: Facts) -> Finding:
    """A source is told of what is stored, and may then forget it: a commit has to last."""
    value = facts.variables.get("innodb_flush_log_at_trx_commit", "1")
    what = f"innodb_flush_log_at_trx_commit is {value}"
    # MariaDB's 3 flushes more often than 1.
    if value not in ("0", "2"):
        return Finding("innodb_flush_log_at_trx_commit", "ok", what)
    crash = "the server" if value == "0" else "the server's machine"
    return Finding(
        "innodb_flush_log_at_trx_commit",
        "warning",
        what,
        f"a crash of {crash} takes about a second of commits with it: events whose source was told"
        " that they are stored",
        facts.mend("innodb_flush_log_at_trx_commit", "1"),
    )


def _of_packets(facts: Facts) -> Finding:
    packet_bytes = int(facts.variables.get("max_allowed_packet", "0"))
    what = f"max_allowed_packet is {packet_bytes} bytes"
    if packet_bytes >= _COMFORTABLE_PACKET_BYTES:
        return Finding("max_allowed_packet", "ok", what)
    return Finding(
        "max_allowed_packet",
        "error" if packet_bytes < _LEAST_PACKET_BYTES else "warning",
        what,
        "an event that is larger is stored as failed, without its payload",
        facts.mend("max_allowed_packet", str(_COMFORTABLE_PACKET_BYTES)),
    )


def _of_rights(account: str, database: str, missing: Sequence[str]) -> Finding:
    user, _, host = account.rpartition("@")
    return prerequisite(
        "rights",
        not missing,
        f"the user {account} may not {', '.join(missing)} in {database}"
        if missing
        else f"the user {account} may make and use the log's tables",
        f"they live in the database {database}, with names that begin with {OWN_TABLES}",
        f"GRANT {', '.join(RIGHTS)} ON {quoted(database)}.* TO"
        f" '{_doubled(user)}'@'{_doubled(host)}';",
    )


def _of_owner(opened: Opened, owner: str, database: str) -> Finding:
    table = f"{quoted(database)}.{OWNER}"
    try:
        owners = {str(mark) for (mark,) in _rows(opened, f"SELECT node_id FROM {table}")}
    except pymysql.ProgrammingError as error:
        if error.args[0] != ER.NO_SUCH_TABLE:
            raise
        owners = set()
    return prerequisite(
        "owner",
        owners <= {owner},
        "another installation keeps its log here"
        if owners - {owner}
        else "no other installation keeps its log here",
        "two installations in one log would take each other's events for their own",
        f"choose another database; if that installation is gone for good: DELETE FROM {table};",
    )


def _doubled(text: str) -> str:
    return text.replace("'", "''")


# Grants


def _rights_to(database: str, grants: Sequence[str], folds_case: bool) -> set[str]:
    """What a list of grants, as SHOW GRANTS words them, allows in all tables of a database."""
    given: set[str] = set()
    taken: set[str] = set()
    for grant in grants:
        verb, _, rest = grant.partition(" ")
        rights, on, rest = rest.partition(" ON ")
        where, to, _ = rest.partition(" TO " if verb == "GRANT" else " FROM ")
        if on and to and _covers(where, database, folds_case):
            words = {right.strip().upper() for right in rights.split(",")}
            (given if verb == "GRANT" else taken).update(words)
    if given & {"ALL", "ALL PRIVILEGES"}:
        given |= set(RIGHTS)
    return given - taken


def _covers(where: str, database: str, folds_case: bool) -> bool:
    """Whether a grant's scope takes in a database. Its name is a pattern as LIKE has it."""
    if where == "*.*":
        return True
    if not where.endswith("`.*"):
        return False
    pattern, name = where[1:-3].replace("``", "`"), database
    if folds_case:
        pattern, name = pattern.lower(), name.lower()
    return pattern == name or _is_like(name, pattern)


def _is_like(text: str, pattern: str) -> bool:
    """LIKE with `%`, `_` and the backslash that takes away their meaning."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(_is_like(text[start:], pattern[1:]) for start in range(len(text) + 1))
    if pattern[0] == "\\" and len(pattern) > 1:
        return text[:1] == pattern[1] and _is_like(text[1:], pattern[2:])
    matches = bool(text) if pattern[0] == "_" else text[:1] == pattern[0]
    return matches and _is_like(text[1:], pattern[1:])
