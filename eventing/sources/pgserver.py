"""How a watched Postgres is reached, and what its errors mean for the person who must act.

Messages name host, port and database. They never carry a password or a row's values: of an error
from within a session only its primary message or its code is used.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_type_hints

import psycopg2
from psycopg2.extensions import connection, cursor, parse_dsn
from psycopg2.extras import LogicalReplicationConnection, ReplicationCursor

from eventing.changes import THEN_RESTART
from eventing.dialing import (
    NOT_THE_PROTOCOL,
    EndlessAnswer,
    ForbiddenPlace,
    bounded,
)
from eventing.postgresserver import OWN_SCHEMA, connect, quoted
from eventing.problems import brief, first_line
from eventing.sources.base import (
    ANOTHER_ADDRESS,
    MOST_ANSWER_BYTES,
    SourceBlocked,
    SourceUnavailable,
)

# So that values arrive as `to_jsonb` would show them; see pgjson.
_TEXT_SETTINGS: Final = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
# Longer than deadlock_timeout, after which an autovacuum in the way gives up its lock.
LOCK_TIMEOUT_MS: Final = 2000
STATEMENT_TIMEOUT_MS: Final = 10_000
# How much longer than a statement may take at the server its answer is waited for.
GRACE_SECONDS: Final = 5.0
_RIGHTS: Final = {"database": "CONNECT, CREATE", "schema": "USAGE", "table": "SELECT"}
# Data exceptions, limits of the program and internal errors: trying again gives the same.
_UNSENDABLE: Final = frozenset({"22", "54", "XX"})
# Where the output plugin was, as an error's context has it in whatever language.
_IN_A_CHANGE: Final = re.compile(r'"?pgoutput.*\bchange\b.*?\b([0-9A-F]{1,8}/[0-9A-F]{1,8})\b')
_NOT_POSTGRES: Final = "what answers does not speak Postgres's protocol"
_ANSWER_SECONDS: Final = STATEMENT_TIMEOUT_MS / 1000 + GRACE_SECONDS

_SET: Final = (
    "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s(name, value)"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server and a role allow. `*_limit` count what the configuration grants in all."""

    version: int
    version_text: str
    wal_level: str
    in_recovery: bool
    database: str
    role: str
    is_superuser: bool
    may_replicate: bool
    may_create: bool
    has_own_schema: bool
    holds_control_plane: bool
    slots_limit: int
    slots_used: int
    senders_limit: int
    senders_used: int
    keeps_unlimited_wal: bool


_TYPES_OF_FACTS: Final = tuple(get_type_hints(Facts).values())


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which timeline a server writes its log on, and up to where it has."""

    number: int
    end: int


class Watched(connection):
    """A connection on which no answer is waited for without end, as libpq would do."""

    answer_seconds: float = _ANSWER_SECONDS
    # None where rows are read that may be as large as Postgres has them.
    most_answer_bytes: int | None = MOST_ANSWER_BYTES


class WatchedReplication(LogicalReplicationConnection):
    """The same for what is asked before a stream begins."""

    answer_seconds: float = _ANSWER_SECONDS
    most_answer_bytes: int | None = MOST_ANSWER_BYTES


Connection = TypeVar("Connection", Watched, WatchedReplication)


class _WatchedCursor(cursor):
    def execute(self, query: Any, vars: Any = None) -> None:
        with _waiting(self.connection):
            super().execute(query, vars)


class _WatchedReplicationCursor(ReplicationCursor):
    def execute(self, query: Any, vars: Any = None) -> None:
        with _waiting(self.connection):
            super().execute(query, vars)

    def start_replication_expert(
        self, command: Any, decode: Any = False, status_interval: Any = 10
    ) -> None:
        with _waiting(self.connection):
            super().start_replication_expert(command, decode, status_interval)  # type: ignore[no-untyped-call]


@contextmanager
def _waiting(opened: Any) -> Iterator[None]:
    """For an answer on a watched connection. Raises psycopg2.Error, as the driver does."""
    try:
        with bounded(opened.fileno(), opened.answer_seconds, opened.most_answer_bytes):
            yield
    except EndlessAnswer as error:
        opened.close()
        raise psycopg2.OperationalError(str(error)) from None
    except UnicodeDecodeError:
        opened.close()
        raise psycopg2.OperationalError(_NOT_POSTGRES) from None


class Pooled(SourceBlocked):
    """A pooler such as PgBouncer answers in the server's place."""


class Server:
    """The address of one watched database. Raises only SourceBlocked and SourceUnavailable."""

    def __init__(self, url: str, name: str) -> None:
        try:
            self._address: dict[str, str] = parse_dsn(url)
        except psycopg2.ProgrammingError:
            self._address = {}  # told when it is used; the text may hold the password
        host = self._address.get("hostaddr") or self._address.get("host", "localhost")
        user = self._address.get("user", "")
        self.database = self._address.get("dbname") or user
        self.place = f"{host}:{self._address.get('port', '5432')}/{self.database}"
        self._defaults = {
            "application_name": name,
            "keepalives_idle": "10",
            "keepalives_interval": "5",
            "keepalives_count": "3",
        }

    def connect(self, *, even_pooled: bool = False) -> Watched:
        """An ordinary connection in autocommit, with short timeouts.

        One by way of a pooler is refused, or (`even_pooled`) left as it is: what is set there
        would stay set for the pooler's other clients, of whom the Eventing DB may be one.
        """
        opened = self._open(Watched)
        opened.cursor_factory = _WatchedCursor
        opened.autocommit = True
        pooled = self._pooler()
        if pooled is not None:
            if even_pooled:
                return opened
            opened.close()
            raise pooled
        limits = {
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        }
        self._configure(opened, {**_TEXT_SETTINGS, **limits})
        return opened

    def connect_for_replication(self) -> WatchedReplication:
        """A replication connection that sends values in the form `pgjson` reads."""
        opened = self._open(WatchedReplication)
        opened.cursor_factory = _WatchedReplicationCursor
        settings = dict(_TEXT_SETTINGS)
        if opened.info.parameter_status("server_encoding") == "SQL_ASCII":
            # Nobody has seen to it there that texts are in an encoding; sent as UTF-8, one that is
            # not would end the stream, again and again.
            settings["client_encoding"] = "SQL_ASCII"
        self._configure(opened, settings)
        return opened

    def facts(self, opened: connection) -> Facts:
        """What the server and our role allow. Raises psycopg2.Error."""
        with opened.cursor() as cursor:
            cursor.execute(_FACTS, [OWN_SCHEMA])
            with self.speaking():
                row = cursor.fetchone()
        if row is None or [type(each) for each in row] != list(_TYPES_OF_FACTS):
            raise SourceUnavailable(f"{self.place}: {_NOT_POSTGRES}")
        return Facts(*row)

    def timeline(self, opened: LogicalReplicationConnection) -> Timeline:
        """The timeline that the server writes, and up to where. Raises psycopg2.Error."""
        with opened.cursor() as at:
            at.execute("IDENTIFY_SYSTEM")
            with self.speaking():
                _, number, end, _ = at.fetchall()[0]
                return Timeline(int(number), lsn_number(end))

    def left_at(self, opened: LogicalReplicationConnection, present: int) -> dict[int, int]:
        """Where the server left each timeline before the present one; none if it has forgotten.
        Raises psycopg2.Error."""
        with opened.cursor() as at:
            try:
                at.execute(f"TIMELINE_HISTORY {present}")
            except psycopg2.errors.UndefinedFile:
                return {}
            content = at.fetchall()[0][1]
        text = content if isinstance(content, str) else bytes(content).decode()
        lines = [line.split() for line in text.splitlines() if line[:1].isdigit()]
        return {int(number): lsn_number(place) for number, place, *_ in lines}

    def translated(self, error: psycopg2.Error) -> SourceBlocked | SourceUnavailable:
        """An error of an open session, without the values its details may hold."""
        code = error.pgcode
        if code is None:
            return SourceUnavailable(f"{self.place}: the connection broke off: {first_line(error)}")
        primary = brief(error.diag.message_primary or "") or type(error).__name__
        if code == "42501":
            said = f"{self.place}: {primary} (the role lacks a right)"
            return SourceBlocked(said, self._grant(primary))
        if code == "53400":
            return SourceBlocked(
                f"{self.place}: {primary}",
                "ALTER SYSTEM SET max_replication_slots = 20;"
                f" ALTER SYSTEM SET max_wal_senders = 20; {THEN_RESTART}",
            )
        return SourceUnavailable(f"{self.place}: {said_of(error)}")

    def _pooler(self) -> Pooled | None:
        """How a pooler that answers in the server's place can be told: it does not replicate."""
        try:
            self._open(WatchedReplication).close()
        except Pooled as error:
            return error
        except (SourceBlocked, SourceUnavailable):
            pass  # told better by whoever needs that connection
        return None

    def _open(self, factory: type[Connection]) -> Connection:
        if not self._address:
            raise SourceBlocked(
                "the connection string cannot be read as a Postgres address", ANOTHER_ADDRESS
            )
        # Whoever tests a connection holds a thread of the web process meanwhile.
        fixed = {"client_encoding": "UTF8", "connect_timeout": "5"}
        address: dict[str, Any] = {**self._defaults, **self._address, **fixed}
        try:
            opened: Connection = connect(address, factory)
        except psycopg2.Error as error:
            raise self._refused(first_line(error)) from None
        except ForbiddenPlace as error:
            raise SourceBlocked(f"{self.place}: {error}", "another address") from None
        except OSError as error:
            raise SourceUnavailable(f"{self.place}: {error.strerror or error}") from None
        return opened

    def _refused(self, text: str) -> SourceBlocked | SourceUnavailable:
        """What a failed connection means. libpq gives no code here, so its words decide."""
        said = f"{self.place}: {text}"
        user = quoted(self._address.get("user", ""))
        if "no pg_hba.conf entry" in text:
            kind = "replication connections" if "replication" in text else "connections"
            whom = self._address.get("user", "all")
            line = f"host  {self.database}  {whom}  <address of Mission Control>  scram-sha-256"
            return SourceBlocked(f"{said} ({kind} are not let in)", f"pg_hba.conf: {line}")
        if "unsupported startup parameter" in text or "not allowed to connect to pooler" in text:
            return Pooled(
                f"{said} (a pooler answers, which cannot stream)",
                "use the address of the Postgres server itself",
            )
        if "must be superuser or replication role" in text or "permission denied to start WAL" in (
            text
        ):
            return SourceBlocked(said, f"ALTER ROLE {user} REPLICATION;")
        if "wal_level" in text:
            return SourceBlocked(said, f"{WAL_LEVEL_MEND} {THEN_RESTART}")
        if "permission denied for database" in text:
            return SourceBlocked(said, self._grant(text))
        if "is not permitted to log in" in text:
            return SourceBlocked(said, f"ALTER ROLE {user} LOGIN;")
        if text.startswith("invalid "):
            # What libpq says of an option's value before it has tried to connect.
            return SourceBlocked(said, ANOTHER_ADDRESS)
        if "authentication failed" in text or "does not exist" in text or "no password" in text:
            return SourceBlocked(said, ANOTHER_ADDRESS)
        return SourceUnavailable(said)

    def _grant(self, text: str) -> str:
        """What gives our role the right that the server says it lacks."""
        role = quoted(self._address.get("user", ""))
        for kind, right in _RIGHTS.items():
            _, found, name = text.partition(f"permission denied for {kind} ")
            if found:
                what = quoted(name.strip('"'))
                return f"GRANT {right} ON {kind.upper()} {what} TO {role};"
        return f"GRANT <the role that owns the tables> TO {role};"

    def _configure(self, opened: connection, settings: dict[str, str]) -> None:
        try:
            with opened.cursor() as cursor:
                cursor.execute(_SET, [list(settings), list(settings.values())])
        except psycopg2.Error as error:
            opened.close()
            raise self.translated(error) from None

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Around what reads the server's answers. Raises SourceUnavailable if they do not follow
        Postgres's protocol; its text quotes nothing of them."""
        try:
            yield
        except NOT_THE_PROTOCOL:
            raise SourceUnavailable(f"{self.place}: {_NOT_POSTGRES}") from None


def said_of(error: psycopg2.Error) -> str:
    """The server's words and code for an error, without the values that it may quote."""
    primary = brief(error.diag.message_primary or "") or type(error).__name__
    if (error.pgcode or "")[:2] in {"22", "23"}:
        primary = type(error).__name__
    return f"{primary} ({error.pgcode})"


def is_unsendable(error: psycopg2.Error) -> bool:
    """Whether a stream ended with what the server itself cannot read or write out."""
    return (error.pgcode or "")[:2] in _UNSENDABLE


def unsendable_change(error: psycopg2.Error) -> int | None:
    """Where in the WAL the change is that the server could not write out; None if it was at
    something else."""
    found = _IN_A_CHANGE.search(error.diag.context or "") if is_unsendable(error) else None
    return lsn_number(found[1]) if found else None


WAL_LEVEL_MEND: Final = "ALTER SYSTEM SET wal_level = 'logical';"

_FACTS: Final = """
SELECT current_setting('server_version_num')::int,
       current_setting('server_version'),
       current_setting('wal_level'),
       pg_is_in_recovery(),
       current_database(),
       role.rolname,
       role.rolsuper,
       role.rolsuper OR role.rolreplication OR EXISTS (
         -- The role that Amazon RDS grants in place of the attribute.
         SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(oid, 'MEMBER')),
       has_database_privilege(current_database(), 'CREATE'),
       EXISTS (SELECT FROM pg_namespace WHERE nspname = %s),
       to_regclass('public.eventing_installation') IS NOT NULL,
       current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_replication_slots)::int,
       current_setting('max_wal_senders')::int,
       (SELECT count(*) FROM pg_stat_replication)::int,
       current_setting('max_slot_wal_keep_size') = '-1'
FROM pg_roles AS role WHERE role.rolname = current_user
"""


def column_name(schema: str, table: str) -> str:
    """A table as `data.col` shows it: its schema is named unless it is `public`."""
    return table if schema == "public" else f"{schema}.{table}"


def lsn_text(lsn: int) -> str:
    """A place in the WAL as Postgres writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """A place in the WAL from the way Postgres writes it."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)
