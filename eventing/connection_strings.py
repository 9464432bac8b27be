"""Connection strings of sources taken apart and put together; never shown as a whole.

Every kind of database writes them as `scheme://user:password@host:port/database?options`; MongoDB
also with several hosts, or one that only DNS knows (`mongodb+srv`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from eventing.changes import DatabaseType

SCHEMES: Final[Mapping[DatabaseType, tuple[str, ...]]] = {
    "postgres": ("postgresql", "postgres"),
    "mysql": ("mysql", "mariadb"),
    "mongodb": ("mongodb", "mongodb+srv"),
}
DEFAULT_PORTS: Final[Mapping[DatabaseType, str]] = {
    "postgres": "5432",
    "mysql": "3306",
    "mongodb": "27017",
}
# The option that says how the connection is encrypted, and the words it takes.
TLS_OPTIONS: Final[Mapping[DatabaseType, str]] = {
    "postgres": "sslmode",
    "mysql": "ssl-mode",
    "mongodb": "tls",
}
TLS_MODES: Final[Mapping[DatabaseType, tuple[str, ...]]] = {
    "postgres": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "mysql": ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"),
    "mongodb": ("true", "false"),
}
# Options that name a place a driver connects to, whatever the host says.
_PLACE_OPTIONS: Final = ("host", "hostaddr", "port", "unix_socket")


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """The parts of a connection string, decoded.

    `host` is one host without its port. Several hosts (MongoDB) stay together, with their ports,
    as `a:27017,b:27017`; `port` is then empty.
    """

    type: DatabaseType
    scheme: str = ""
    host: str = ""
    port: str = ""
    database: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    tls: str = ""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, type: DatabaseType, url: str) -> "ConnectionString":
        """Take `url` apart. Raises ValueError for what is no address."""
        parts = urlsplit(url)
        sign_in, _, place = parts.netloc.rpartition("@")
        user, _, password = sign_in.partition(":")
        if "," in place:
            host, port = place, ""
        else:
            host, port = parts.hostname or "", str(parts.port or "")
        options = parse_qsl(parts.query, keep_blank_values=True)
        tls_option = TLS_OPTIONS[type]
        return cls(
            type=type,
            scheme=parts.scheme,
            host=host,
            port=port,
            database=unquote(parts.path.strip("/")),
            user=unquote(user),
            password=unquote(password),
            tls=dict(options).get(tls_option, ""),
            options=tuple(pair for pair in options if pair[0] != tls_option),
        )

    @property
    def url(self) -> str:
        """The connection string; `${NAME}` in it stays a reference."""
        sign_in = quote(self.user, safe="${}")
        if self.password:
            sign_in += ":" + quote(self.password, safe="${}")
        options = [*self.options, *([(TLS_OPTIONS[self.type], self.tls)] if self.tls else [])]
        query = "?" + urlencode(options) if options else ""
        database = quote(self.database, safe="${}")
        scheme = self.scheme or SCHEMES[self.type][0]
        return f"{scheme}://{sign_in}{'@' if sign_in else ''}{self._authority}/{database}{query}"

    @property
    def place(self) -> str:
        """Where the database is, without who signs in there: `host:port/database`."""
        return f"{self._authority or 'local socket'}/{self.database}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and "," not in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    def names_the_same_database(self, other: "ConnectionString") -> bool:
        """Whether both name one database of one server, whoever signs in there and how.

        Replica sets are the same if they share a member, since their lists of members grow and
        shrink.
        """
        if (self.type, self.database) != (other.type, other.database):
            return False
        if self.type == "mongodb":
            return bool(self._members & other._members)
        return self._server == other._server

    @property
    def _server(self) -> tuple[object, ...]:
        chosen = dict(self.options)
        port = self.port or DEFAULT_PORTS[self.type]
        return (self.host, port, *(chosen.get(option) for option in _PLACE_OPTIONS))

    @property
    def _members(self) -> frozenset[str]:
        if self.scheme == "mongodb+srv":
            return frozenset({self.host.lower()})
        members = self._authority.lower().split(",")
        return frozenset(
            member if ":" in member.rpartition("]")[2] else f"{member}:27017" for member in members
        )
