"""Transactions on a MySQL or MariaDB that holds a log: a connection for each thread that asks.

Errors that leave here are the log's own and quote no values. A transaction that the server rolled
back in favour of another one is done again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import pymysql
from pymysql.constants import CLIENT, CR, ER
from pymysql.cursors import Cursor

from eventing.connection_strings import ConnectionString
from eventing.logs.base import LogOutdated, LogUnavailable
from eventing.mysqlserver import Opened, address_of, connect

_ANSWER_SECONDS: Final = 60
_LOCK_SECONDS: Final = 15
# A change of partitions waits for whoever reads the table, and everybody else waits for it.
_DEFINITION_LOCK_SECONDS: Final = 3
# Whatever cuts idle connections does so after minutes at the earliest.
_IDLE_SECONDS: Final = 30
_DEADLOCK_TRIES: Final = 5
_STATEMENT_CHARACTERS: Final = 1_000_000

# Errors of the server whose text names users, hosts and databases, never values.
_TELLING: Final = frozenset(
    {
        ER.ACCESS_DENIED_ERROR,
        ER.BAD_DB_ERROR,
        ER.CON_COUNT_ERROR,
        ER.DBACCESS_DENIED_ERROR,
        ER.HOST_IS_BLOCKED,
        ER.HOST_NOT_PRIVILEGED,
        ER.LOCK_WAIT_TIMEOUT,
        ER.OPTION_PREVENTS_STATEMENT,
        ER.RECORD_FILE_FULL,
        ER.TABLEACCESS_DENIED_ERROR,
    }
)
# What the tables lack of a version that has yet to change them: tables, columns, keys.
_OF_ANOTHER_VERSION: Final = frozenset(
    {ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.KEY_DOES_NOT_EXITS}
)
# Errors of the driver's own say what became of the connection.
_OF_THE_DRIVER: Final = range(CR.CR_ERROR_FIRST, CR.CR_ERROR_FIRST + 1000)
# Another process has made or dropped the partition in the meantime.
_DROP_PARTITION_NON_EXISTENT: Final = 1507
_RANGE_NOT_INCREASING: Final = 1493
_SAME_NAME_PARTITION: Final = 1517
_SETTLED: Final = frozenset(
    {_DROP_PARTITION_NON_EXISTENT, _RANGE_NOT_INCREASING, _SAME_NAME_PARTITION}
)

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class _Deadlock(Exception):
    """The server rolled this transaction back so that another could go on."""


def again_after_a_deadlock(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """`function`, one transaction, run anew when that was chosen as a deadlock's victim."""

    @wraps(function)
    def again(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        for _ in range(_DEADLOCK_TRIES):
            try:
                return function(*args, **kwargs)
            except _Deadlock:
                continue
        raise LogUnavailable("the Eventing DB cannot be used: one deadlock after another")

    return again


class Transaction:
    """One transaction, open. Counts its statements; raises pymysql.MySQLError, OSError."""

    def __init__(self, cursor: Cursor, packet_bytes: int) -> None:
        self._cursor = cursor
        self.packet_bytes = packet_bytes
        self.statements = 0

    def run(self, sql: str, *arguments: Any) -> int:
        """Run a statement; returns how many rows it found to change, or to return."""
        self.statements += 1
        return self._cursor.execute(sql, arguments or None)

    def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The rows that a statement returns."""
        self.run(sql, *arguments)
        return list(self._cursor.fetchall())

    def insert(self, head: str, rows: Iterable[str], tail: str = "") -> None:
        """Run `head VALUES rows tail` in as few statements as the server takes."""
        # A character is four bytes at most.
        room = min(_STATEMENT_CHARACTERS, self.packet_bytes // 4)
        held: list[str] = []
        size = 0
        for row in rows:
            if held and size + len(row) > room:
                self.run(f"{head} VALUES {','.join(held)} {tail}")
                held, size = [], 0
            held.append(row)
            size += len(row)
        if held:
            self.run(f"{head} VALUES {','.join(held)} {tail}")

    def quote(self, value: str | int | None) -> str:
        """A value as a statement takes it."""
        return str(self._cursor.connection.escape(value))


class Connections:
    """The connections to the database that `url` names. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self.address: ConnectionString = address_of(url)
        self._local = threading.local()
        self.statements = 0

    def opened(self, database: str | None, lock_seconds: int | None = None) -> Opened:
        """A new connection. Raises pymysql.MySQLError, OSError."""
        lock_seconds = lock_seconds or _LOCK_SECONDS
        connection = connect(
            self.address,
            database,
            answer_seconds=_ANSWER_SECONDS,
            settings=f"lock_wait_timeout = {lock_seconds},"
            f" innodb_lock_wait_timeout = {lock_seconds},"
            " sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
            # Row counts are those of the rows that matched, changed or not.
            client_flag=CLIENT.FOUND_ROWS,
        )
        with connection.cursor() as cursor:
            # Without gap locks those who store and those who claim do not meet.
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return connection

    def _connection(self) -> Opened:
        """This thread's connection, opened anew if it was idle for long and has been cut."""
        connection: Opened | None = getattr(self._local, "connection", None)
        if connection is not None and time.monotonic() - self._local.used_at > _IDLE_SECONDS:
            try:
                connection.ping(reconnect=False)
            except (pymysql.MySQLError, OSError):
                self.close()
                connection = None
        if connection is None:
            connection = self.opened(self.address.database)
            with connection.cursor() as cursor:
                cursor.execute("SELECT @@max_allowed_packet")
                self._local.packet_bytes = int(cursor.fetchall()[0][0])
            self._local.connection = connection
        self._local.used_at = time.monotonic()
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction on this thread's connection; a connection that broke is thrown away.

        Raises LogUnavailable.
        """
        try:
            connection = self._connection()
            try:
                with connection.cursor() as cursor:
                    transaction = Transaction(cursor, self._local.packet_bytes)
                    yield transaction
                    self.statements += transaction.statements
                connection.commit()
            except BaseException:
                if connection.open:
                    connection.rollback()
                raise
        except (pymysql.MySQLError, OSError) as error:
            if not _may_pass(error):
                raise
            if _code(error) == ER.LOCK_DEADLOCK:
                raise _Deadlock from error
            self.close()
            raise unavailable(error) from None

    def define(self, *statements: str) -> bool:
        """Run statements that change tables; False if others kept a table busy.

        Raises LogUnavailable.
        """
        try:
            with (
                closing(self.opened(self.address.database, _DEFINITION_LOCK_SECONDS)) as connection,
                connection.cursor() as cursor,
            ):
                for statement in statements:
                    self.statements += 1
                    cursor.execute(statement)
        except (pymysql.MySQLError, OSError) as error:
            if _code(error) == ER.LOCK_WAIT_TIMEOUT:
                return False
            if _code(error) not in _SETTLED:
                raise unavailable(error) from None
        return True

    def close(self) -> None:
        """Close this thread's connection; the next transaction opens another."""
        connection: Opened | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None and connection.open:
            try:
                connection.close()
            except (pymysql.MySQLError, OSError):
                # It said goodbye to a server that is gone; the socket is closed nevertheless.
                return


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help."""
    passing = (pymysql.OperationalError, pymysql.InterfaceError, pymysql.InternalError, OSError)
    return isinstance(error, passing) or _code(error) in _OF_ANOTHER_VERSION


def unavailable(error: Exception) -> LogUnavailable:
    """What the server, the driver or the system says, without what may quote values."""
    code = _code(error)
    if code in _OF_ANOTHER_VERSION:
        return LogOutdated()
    if isinstance(error, OSError):
        said = error.strerror or type(error).__name__
    elif code in _TELLING or code in _OF_THE_DRIVER:
        said = str(error.args[1])
    elif code:
        said = f"the server answered with error {code}"
    else:
        said = "the connection broke"
    return LogUnavailable(f"the Eventing DB cannot be used: {said}")


def _code(error: Exception) -> int:
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0
