"""Transactions on a Postgres that holds a log: a connection for each thread that asks.

Errors that another try may get past leave here as the log's own, which quote no values.
"""

import select
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import islice
from typing import Any, Final

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from eventing.logs.base import LogBusy, LogOutdated, LogUnavailable
from eventing.postgresserver import connect
from eventing.problems import first_line

# What the tables lack of a version that has yet to change them.
_OF_ANOTHER_VERSION: Final = (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn)

# How much of a COPY is made at a time: little enough that the server begins before all is made.
_LINES_AT_ONCE: Final = 300
_CHARACTERS_AT_ONCE: Final = 1 << 19
# libpq never shrinks its buffer, which is as large as the most that it was ever given at once.
_SENT_AT_ONCE: Final = 1 << 17


class Transaction(psycopg2.extensions.cursor):
    """One transaction, open. Counts its statements; raises psycopg2.Error."""

    statements = 0

    def execute(self, query: Any, vars: Any = None) -> None:
        """As psycopg2's; what it does of its own accord (`execute_values`) is counted, too."""
        self.statements += 1
        super().execute(query, vars)

    def run(self, sql: str, *arguments: Any) -> None:
        """Run a statement."""
        self.execute(sql, arguments or None)

    def copy(self, sql: str, lines: Iterable[str]) -> None:
        """Run a COPY FROM STDIN of these lines, in its text format.

        Lines are asked for as they are sent: the server takes some in while others are made.
        """
        self.statements += 1
        self.copy_expert(sql, _Lines(lines), size=_SENT_AT_ONCE)


class _Lines(BufferedIOBase):
    """Lines as a file that makes some of them at a time."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._made = memoryview(b"")

    def read(self, size: int | None = -1, /) -> bytes:
        if not self._made:
            self._made = memoryview("".join(self._some()).encode())
        part, self._made = self._made[:size], self._made[size:]
        return bytes(part)

    def _some(self) -> Iterator[str]:
        characters = 0
        for line in islice(self._lines, _LINES_AT_ONCE):
            yield line
            characters += len(line)
            if characters >= _CHARACTERS_AT_ONCE:
                return


class Connections:
    """The connections to the database that `dsn` names. Safe to share between threads."""

    def __init__(self, dsn: str, of_a_project: bool) -> None:
        self._dsn = dsn
        self._of_a_project = of_a_project
        self._local = threading.local()
        self.statements = 0

    def _connection(self) -> psycopg2.extensions.connection:
        connection = getattr(self._local, "connection", None)
        if connection is not None and not connection.closed and _has_ended(connection):
            connection.close()
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
            opened: psycopg2.extensions.connection = connect(address)
        except OSError as error:
            said = error.strerror or str(error)
            raise LogUnavailable(f"the Eventing DB cannot be used: {said}") from None
        return opened

    def aside(self) -> "Connections":
        """Other connections to the same database."""
        return Connections(self._dsn, self._of_a_project)

    def run_alone(self, sql: str) -> None:
        """Run a statement that cannot be part of a transaction. Raises LogUnavailable."""
        try:
            connection = self._connection()
            connection.autocommit = True
            try:
                with connection.cursor() as at:
                    at.execute(sql)
            finally:
                connection.autocommit = False
        except psycopg2.Error as error:
            if not _may_pass(error):
                raise
            raise self._unavailable(error) from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction on this thread's connection; a connection that broke is thrown away.

        Raises LogUnavailable.
        """
        try:
            connection = self._connection()
            with connection, connection.cursor(cursor_factory=Transaction) as at:
                yield at
                self.statements += at.statements
        except psycopg2.Error as error:
            if not _may_pass(error):
                raise
            raise self._unavailable(error) from error

    def _unavailable(self, error: psycopg2.Error) -> LogUnavailable:
        """Such an error in the log's own words; this thread's connection is thrown away."""
        self.close()
        if isinstance(error, _OF_ANOTHER_VERSION):
            return LogOutdated()
        reason = first_line(_first_failure(error))
        is_busy = isinstance(error, psycopg2.errors.LockNotAvailable)
        kind = LogBusy if is_busy else LogUnavailable
        return kind(f"the Eventing DB cannot be used: {reason}")

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.connection = None


def _has_ended(connection: psycopg2.extensions.connection) -> bool:
    """Whether the server has said something on a connection that asks nothing: nearly always that
    it has closed it, which the next statement would fail of."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _may_pass(error: psycopg2.Error) -> bool:
    """Whether trying again may help: the server is away, the connection or the memory for an answer
    gave out (which libpq tells without a code), a standby has yet to become the primary, or the
    tables have yet to be upgraded."""
    passing = (
        psycopg2.OperationalError,
        psycopg2.InterfaceError,
        psycopg2.errors.ReadOnlySqlTransaction,
        *_OF_ANOTHER_VERSION,
    )
    came_from_libpq = type(error) is psycopg2.DatabaseError and error.pgcode is None
    return isinstance(error, passing) or came_from_libpq


def _first_failure(error: psycopg2.Error) -> psycopg2.Error:
    """What broke the connection: the roll-back that follows fails too, and says less."""
    before = error.__context__
    return before if isinstance(before, psycopg2.Error) else error
