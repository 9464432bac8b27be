"""A MySQL or MariaDB as a source: what capture asks of it, and what its errors mean.

Errors that leave here name the server and what to do, never a password or a row's values.
"""

import secrets
import zlib
from typing import Final, NamedTuple

import pymysql
from pymysql.constants import CR, ER

from eventing.mysqlserver import Facts, Opened, address_of, connect
from eventing.sources.base import (
    ANOTHER_ADDRESS,
    MOST_ANSWER_BYTES,
    START_ANEW,
    SourceBlocked,
    SourceUnavailable,
)
from eventing.sources.mycolumns import CatalogueColumn, FoundTable
from eventing.sources.myposition import GtidSet, Position

_READ_SECONDS: Final = 30
_BROKEN: Final = frozenset(
    {
        CR.CR_SERVER_GONE_ERROR,
        CR.CR_SERVER_LOST,
        CR.CR_CONN_HOST_ERROR,
        CR.CR_MALFORMED_PACKET,
    }
)
_SIGN_IN: Final = frozenset({ER.ACCESS_DENIED_ERROR, ER.BAD_DB_ERROR, ER.HOST_NOT_PRIVILEGED})
_NO_RIGHT: Final = frozenset(
    {ER.SPECIFIC_ACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR}
)
# Locked in MySQL and in MariaDB; a password that has run out, before and after signing in.
_ACCOUNT: Final = {
    3118: "ALTER USER {user} ACCOUNT UNLOCK;",
    4151: "ALTER USER {user} ACCOUNT UNLOCK;",
    1820: "ALTER USER {user} IDENTIFIED BY 'a new password';",
    1862: "ALTER USER {user} IDENTIFIED BY 'a new password';",
}
_BINLOG_FAILURE: Final = 1236
# MariaDB's code for a second replica with one server id (ER_SLAVE_SAME_ID).
_SAME_SERVER_ID: Final = 4052

# The columns of MariaDB's WITH SYSTEM VERSIONING where none are declared: the catalogue hides them.
_IMPLICIT_PERIOD: Final = [
    CatalogueColumn("row_start", "timestamp", "timestamp(6)", None, 0, 0, False),
    CatalogueColumn("row_end", "timestamp", "timestamp(6)", None, 0, 0, False, is_row_end=True),
]


class BinlogEnd(NamedTuple):
    """Where a binary log ends, and which databases are in it: `only` these, all `without` those."""

    file: str
    offset: int
    only: tuple[str, ...]
    without: tuple[str, ...]

    def holds(self, database: str) -> bool:
        """Whether changes of this database are logged."""
        return database in self.only if self.only else database not in self.without


def passing_server_id() -> int:
    """The server id of a replica that only looks into the log and goes: hardly anybody's.

    Under the id of a capture it would end the stream of that.
    """
    return secrets.randbelow(2**31) + 2**31


def shown_name(name: str) -> str:
    """A source's name as the server's list of replicas has room for it."""
    return name[:60]


class Server:
    """Where a source's database is. Connects when asked, with timeouts."""

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._address = address_of(url)
        self.database = self._address.database
        self.place = f"{self._address.host}:{self._address.port or 3306}/{self.database}"
        self.user = self._address.user

    @property
    def server_id(self) -> int:
        """The id our replica asks for: the same for one source, hardly the same for two."""
        return zlib.crc32(self._name.encode()) or 1

    def connect(self, *, to_the_database: bool = True) -> Opened:
        """A connection in autocommit and UTC. Raises SourceBlocked, SourceUnavailable.

        A user with no right to the database can connect to the server all the same.
        """
        if not self._address.host or not self.database:
            raise SourceBlocked(
                "the connection string does not name a host and a database",
                "mysql://user:password@host:3306/database",
            )
        try:
            database = self.database if to_the_database else None
            return connect(
                self._address,
                database,
                answer_seconds=_READ_SECONDS,
                most_answer_bytes=MOST_ANSWER_BYTES,
                autocommit=True,
            )
        except pymysql.MySQLError as error:
            raise self.translated(error) from None
        except (FileNotFoundError, PermissionError) as error:
            raise SourceBlocked(
                f"{self.place}: the file of ssl-ca, ssl-cert or ssl-key: {error.strerror}",
                ANOTHER_ADDRESS,
            ) from None
        except OSError as error:
            raise SourceUnavailable(f"{self.place}: {type(error).__name__}") from None

    def binlog_end(self, opened: Opened, facts: Facts) -> BinlogEnd | None:
        """Where the binary log ends now; None when it is off. Raises pymysql.MySQLError."""
        new_words = not facts.is_mariadb and facts.number >= (8, 2, 0)
        with opened.cursor() as at:
            at.execute("SHOW BINARY LOG STATUS" if new_words else "SHOW MASTER STATUS")
            row = at.fetchone()
        if not row:
            return None
        only, without = (tuple(filter(None, str(part).split(","))) for part in row[2:4])
        return BinlogEnd(str(row[0]), int(row[1]), only, without)

    def end(self, opened: Opened, facts: Facts) -> Position:
        """The position behind everything that is committed. Raises pymysql.MySQLError."""
        if not facts.has_gtids:
            end = self.binlog_end(opened, facts)
            if end is None:
                raise SourceBlocked(
                    f"{self.place}: the binary log is off",
                    "in my.cnf, [mysqld]: log_bin = binlog, server_id = 1; then restart the server",
                )
            return Position("file", f"{end.file}:{end.offset}")
        name = "gtid_binlog_pos" if facts.is_mariadb else "gtid_executed"
        with opened.cursor() as at:
            at.execute(f"SELECT @@GLOBAL.{name}, UNIX_TIMESTAMP()")
            text, moment = at.fetchall()[0]
        done = f"{str(text or '').replace(chr(10), '')}@{int(moment)}"
        return Position("mariadb" if facts.is_mariadb else "mysql", done)

    def files(self, opened: Opened) -> list[str]:
        """The files of the binary log that are left, oldest first. Raises pymysql.MySQLError."""
        with opened.cursor() as at:
            at.execute("SHOW BINARY LOGS")
            return [str(row[0]) for row in at.fetchall()]

    def knows_none_of(self, opened: Opened, position: Position) -> bool:
        """Whether a MySQL has none of the transactions that were read, though some were. Raises
        pymysql.MySQLError."""
        read = position.done.partition("@")[0]
        with opened.cursor() as at:
            at.execute("SELECT GTID_SUBTRACT(%s, @@GLOBAL.gtid_executed)", [read])
            unknown = str(at.fetchall()[0][0] or "")
        return bool(read) and str(GtidSet(False, unknown)) == str(GtidSet(False, read))

    def lacks(self, opened: Opened, facts: Facts, position: Position, first_file: str) -> bool:
        """Whether transactions of this very server that `position` has read are not among those
        from before its first file. Raises pymysql.MySQLError."""
        read = GtidSet(facts.is_mariadb, position.done)
        with opened.cursor() as at:
            if facts.is_mariadb:
                at.execute("SELECT BINLOG_GTID_POS(%s, 4)", [first_file])
            else:
                at.execute("SELECT @@GLOBAL.gtid_purged")
            before = GtidSet(facts.is_mariadb, str(at.fetchall()[0][0] or "").replace("\n", ""))
        if facts.is_mariadb:
            return any(
                before.sequence_of(domain) < read.sequence_of(domain)
                for domain in read.domains_of(facts.variables.get("server_id", ""))
            )
        source = facts.variables.get("server_uuid", "")
        return any(not before.holds(f"{source}:{last}") for _, last in read.numbers_of(source))

    def bytes_behind(self, opened: Opened, file: str, offset: int) -> int | None:
        """How much binary log lies behind a place. Raises pymysql.MySQLError."""
        with opened.cursor() as at:
            at.execute("SHOW BINARY LOGS")
            sizes = {str(row[0]): int(row[1]) for row in at.fetchall()}
        if file not in sizes:
            return None
        return sum(size for name, size in sizes.items() if name >= file) - offset

    def replicas(self, opened: Opened, facts: Facts) -> list[tuple[int, str]]:
        """Server id and host of every replica that is registered, where the user may see them."""
        new_words = not facts.is_mariadb and facts.number >= (8, 0, 22)
        with opened.cursor() as at:
            try:
                at.execute("SHOW REPLICAS" if new_words else "SHOW SLAVE HOSTS")
            except pymysql.MySQLError as error:
                if error.args[0] in _NO_RIGHT:
                    return []
                raise
            return [(int(row[0]), str(row[1])) for row in at.fetchall()]

    def free_server_id(self, opened: Opened, facts: Facts) -> int:
        """Our server id, or one beside it if somebody else replicates under it."""
        ours = shown_name(self._name)
        taken = {number for number, host in self.replicas(opened, facts) if host != ours}
        taken.add(int(facts.variables.get("server_id", "0")))
        number = self.server_id
        while number in taken:
            number = number % 0xFFFFFFFF + 1
        return number

    def table(self, opened: Opened, facts: Facts, name: str) -> FoundTable:
        """A table as it is now. Raises pymysql.MySQLError."""
        with opened.cursor() as at:
            at.execute(_COLUMNS, [self.database, name])
            rows = at.fetchall()
            checked: set[str] = set()
            if facts.is_mariadb:
                at.execute(_JSON_CHECKS, [self.database, name])
                checked = {str(row[0]).strip("`") for row in at.fetchall()}
        columns = [
            CatalogueColumn(
                column,
                kind.lower(),
                full_type,
                charset,
                int(octets or 0),
                int(place or 0),
                kind.lower() == "json" or column in checked,
                generated == "ROW END",
            )
            for _, column, kind, full_type, charset, octets, generated, place in rows
        ]
        table_type = str(rows[0][0]) if rows else ""
        if table_type == "SYSTEM VERSIONED" and not any(each.is_row_end for each in columns):
            columns += _IMPLICIT_PERIOD
        return FoundTable(columns, table_type == "SEQUENCE")

    def translated(self, error: pymysql.MySQLError) -> SourceBlocked | SourceUnavailable:
        """What an error of the server's or of the connection means."""
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[1]) if len(error.args) > 1 else type(error).__name__
        said = f"{self.place}: {text} ({code})"
        if code == _BINLOG_FAILURE:
            return self._stream_refused(text)
        if code == _SAME_SERVER_ID:
            return SourceUnavailable(f"{self.place}: another replica uses our server id")
        if code in _SIGN_IN:
            return SourceBlocked(said, ANOTHER_ADDRESS)
        if code in _ACCOUNT:
            return SourceBlocked(said, _ACCOUNT[code].format(user=self._grantee))
        if code in _NO_RIGHT:
            return SourceBlocked(said, self.grants)
        if code in _BROKEN or code == 0:
            return SourceUnavailable(f"{self.place}: the connection failed: {text}")
        return SourceUnavailable(f"{self.place}: the server answered with error {code}")

    @property
    def grants(self) -> str:
        """The smallest rights that capture needs."""
        database = self.database.replace("`", "``")
        return (
            f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {self._grantee};"
            f" GRANT SELECT ON `{database}`.* TO {self._grantee};"
        )

    @property
    def _grantee(self) -> str:
        user = self.user.replace("'", "''")
        return f"'{user}'@'%'"

    def lost(self, what: str, *, for_good: bool = False) -> SourceBlocked:
        """The stored position cannot be gone on from."""
        return SourceBlocked(
            f"{self.place}: {what}; changes committed since the last stored one may be lost",
            START_ANEW,
            for_good=for_good,
        )

    def cannot_send(self, error: pymysql.MySQLError) -> bool:
        """Whether an error says that the binary log cannot be sent from where it was asked for."""
        is_of_the_log = bool(error.args) and error.args[0] == _BINLOG_FAILURE
        return is_of_the_log and isinstance(self.translated(error), SourceBlocked)

    def _stream_refused(self, text: str) -> SourceBlocked | SourceUnavailable:
        """Error 1236, which stands for all that can go wrong in a binary log."""
        if "same server_" in text:
            return SourceUnavailable(f"{self.place}: another replica uses our server id")
        if "max_allowed_packet" in text:
            # A dump may send whatever can be logged, so that what is too large for it is no event:
            # the place is within one (Binlog_sender::init in MySQL's sql/rpl_binlog_sender.cc).
            return self.lost(
                "at the stored position no event begins: the binary log was begun anew or is broken"
            )
        return self.lost(f"the server cannot send the binary log from the stored position: {text}")


# By the primary keys of information_schema's tables: schema, then table.
_COLUMNS: Final = """
SELECT t.TABLE_TYPE, c.COLUMN_NAME, c.DATA_TYPE, c.COLUMN_TYPE, c.CHARACTER_SET_NAME,
       c.CHARACTER_OCTET_LENGTH, c.GENERATION_EXPRESSION, s.SEQ_IN_INDEX
FROM information_schema.TABLES AS t
JOIN information_schema.COLUMNS AS c
  ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME
LEFT JOIN information_schema.STATISTICS AS s
  ON s.TABLE_SCHEMA = c.TABLE_SCHEMA AND s.TABLE_NAME = c.TABLE_NAME
  AND s.COLUMN_NAME = c.COLUMN_NAME AND s.INDEX_NAME = 'PRIMARY'
WHERE t.TABLE_SCHEMA = %s AND t.TABLE_NAME = %s
ORDER BY c.ORDINAL_POSITION
"""

_JSON_CHECKS: Final = """
SELECT substring(CHECK_CLAUSE, 12, char_length(CHECK_CLAUSE) - 12)
FROM information_schema.CHECK_CONSTRAINTS
WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s AND CHECK_CLAUSE LIKE 'json\\_valid(`%%`)'
"""
