"""A MySQL or MariaDB server, for whoever uses one: the way in, and what the server is.

Sources read such a server, and an event log may be kept in one; neither knows the other.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CR
from pymysql.cursors import Cursor

from eventing.changes import Finding, prerequisite
from eventing.connection_strings import DEFAULT_PORTS, ConnectionString
from eventing.dialing import NOT_THE_PROTOCOL, EndlessAnswer, ForbiddenPlace, bounded, dial

Opened: TypeAlias = "Connection[Cursor]"
# Generic for mypy alone.
if TYPE_CHECKING:
    _Driver = Connection[Cursor]
else:
    _Driver = Connection

# The tables of an event log begin with this; they are never captured.
OWN_TABLES: Final = "mission_control_"
# The longest that the servers take: a connection may go unused for days.
_IDLE_SECONDS: Final = 31_536_000
_CONNECT_SECONDS: Final = 5
# From the first byte to the end of the sign-in.
_SIGN_IN_SECONDS: Final = 20
_SIGN_IN_BYTES: Final = 1024 * 1024
# A source's answer: the driver's own limit is on each part of one.
_ANSWER_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server is and how it is set up. `variables` are its global ones, by name."""

    version: str
    is_mariadb: bool
    variables: dict[str, str] = field(repr=False)

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, to be compared."""
        return tuple(int(part) for part in self.version.split("-")[0].split(".")[:3])

    @property
    def kind(self) -> str:
        """The product's name."""
        return "MariaDB" if self.is_mariadb else "MySQL"

    @property
    def identity(self) -> str:
        """What tells the server from the others of its group."""
        return self.variables.get("server_id" if self.is_mariadb else "server_uuid", "")

    @property
    def has_gtids(self) -> bool:
        """Whether every transaction has a global id: the position survives a failover then."""
        return self.is_mariadb or self.variables.get("gtid_mode", "OFF") == "ON"

    def on(self, name: str) -> bool:
        """Whether a switch among the variables is on."""
        return self.variables.get(name, "OFF").upper() in ("ON", "1", "YES")

    def mend(self, name: str, value: str) -> str:
        """The statement that sets a variable for good."""
        if self.is_mariadb:
            return f"SET GLOBAL {name} = {value}; -- and in my.cnf, [mysqld]: {name} = {value}"
        return f"SET PERSIST {name} = {value};"


@contextmanager
def speaking() -> Iterator[None]:
    """Around what reads a server's answer. The driver fails in many ways on one that does not
    follow MySQL's protocol (or that asks for our files); raises pymysql.OperationalError instead,
    which quotes nothing of it."""
    try:
        yield
    except (pymysql.MySQLError, OSError, UnicodeEncodeError):
        raise
    except NOT_THE_PROTOCOL:
        said = "what answers does not speak MySQL's protocol"
        raise pymysql.OperationalError(CR.CR_MALFORMED_PACKET, said) from None


class _Connection(_Driver):
    """A connection that is closed as soon as an answer is not of the protocol."""

    # The driver's own, which its types leave out.
    _force_close: Callable[[], None]
    _sock: socket.socket
    # None: no limit on the size of an answer, nor on its time.
    most_answer_bytes: int | None = None

    def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        try:
            with speaking(), self._waiting():
                return super().query(sql, unbuffered)
        except pymysql.OperationalError as error:
            if error.args[0] == CR.CR_MALFORMED_PACKET:
                # Whatever comes next would be taken for the answer to another question.
                self._force_close()
            raise

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """For an answer. Raises pymysql.OperationalError where it has no end."""
        if self.most_answer_bytes is None:
            yield
            return
        try:
            with bounded(self._sock.fileno(), _ANSWER_SECONDS, self.most_answer_bytes):
                yield
        except EndlessAnswer as error:
            self._force_close()
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, str(error)) from None


def address_of(url: str) -> ConnectionString:
    """The parts of a connection string; all empty if it cannot be read as one."""
    try:
        return ConnectionString.parse("mysql", url)
    except ValueError:
        return ConnectionString("mysql")


def connect(
    address: ConnectionString,
    database: str | None,
    *,
    answer_seconds: int,
    most_answer_bytes: int | None = None,
    settings: str = "",
    **options: Any,
) -> Opened:
    """A connection in UTC that waits `answer_seconds` for a part of an answer, and a year for a
    question. With `most_answer_bytes` the whole of an answer is bounded, too.

    `settings` are more variables of its session, as SET takes them. Raises pymysql.MySQLError,
    OSError.
    """
    chosen = ["time_zone = '+00:00'", f"wait_timeout = {_IDLE_SECONDS}", settings]
    opened = _Connection(
        defer_connect=True,
        host=address.host,
        port=int(address.port or DEFAULT_PORTS["mysql"]),
        user=address.user,
        password=address.password,
        database=database,
        charset="utf8mb4",
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=answer_seconds,
        write_timeout=answer_seconds,
        init_command=f"SET {', '.join(filter(None, chosen))}",
        **_tls((address.tls or "PREFERRED").upper(), dict(address.options)),
        **options,
    )
    port = int(address.port or DEFAULT_PORTS["mysql"])
    try:
        # Checked, and not looked up a second time.
        there = dial(address.host, port, _CONNECT_SECONDS)
    except ForbiddenPlace as error:
        raise pymysql.OperationalError(CR.CR_CONN_HOST_ERROR, str(error)) from None
    except OSError as error:
        said = f"Can't connect to {address.host!r} ({error.strerror or error})"
        raise pymysql.OperationalError(CR.CR_CONN_HOST_ERROR, said) from None
    try:
        with speaking(), bounded(there.fileno(), _SIGN_IN_SECONDS, _SIGN_IN_BYTES):
            opened.connect(there)
    except EndlessAnswer as error:
        raise pymysql.OperationalError(CR.CR_SERVER_LOST, str(error)) from None
    opened.most_answer_bytes = most_answer_bytes
    return opened


def facts_of(opened: Opened) -> Facts:
    """What the server is. Raises pymysql.MySQLError."""
    with opened.cursor() as at:
        at.execute("SHOW GLOBAL VARIABLES")
        variables = {str(name).lower(): str(value) for name, value in at.fetchall()}
    version = variables.get("version", "0")
    return Facts(version, "mariadb" in version.lower(), variables)


def version_finding(
    facts: Facts, oldest_mysql: tuple[int, ...], oldest_mariadb: tuple[int, ...], purpose: str
) -> Finding:
    """Whether a server is new enough for a purpose: "hold the log", "be captured"."""
    oldest = oldest_mariadb if facts.is_mariadb else oldest_mysql
    needed = f"{facts.kind} {'.'.join(map(str, oldest))}"
    return prerequisite(
        "version",
        facts.number >= oldest,
        f"{facts.kind} {facts.version}",
        f"{needed} is the oldest that can {purpose}",
        f"upgrade the server to {needed} or newer",
    )


def quoted(name: str) -> str:
    """A name as a statement takes it."""
    return "`" + name.replace("`", "``") + "`"


def _tls(mode: str, options: dict[str, str]) -> dict[str, Any]:
    """PyMySQL's words for MySQL's `ssl-mode`, `ssl-ca`, `ssl-cert`, `ssl-key`."""
    if mode == "DISABLED":
        return {"ssl_disabled": True}
    if mode == "PREFERRED":
        return {}
    ca = options.get("ssl-ca") or None
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if mode not in ("VERIFY_CA", "VERIFY_IDENTITY"):
        context.verify_mode = ssl.CERT_NONE
    if options.get("ssl-cert"):
        context.load_cert_chain(options["ssl-cert"], options.get("ssl-key") or None)
    return {"ssl": context}
