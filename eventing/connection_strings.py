"""Connection strings of sources taken apart and put together; never shown as a whole.

Every kind of database writes them as `scheme://user:password@host:port/database?options`; MongoDB
also with several hosts, or one that only DNS knows (`mongodb+srv`). Mission Control itself, as the
source of a project's troubles, has none: its connection string is empty.
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
    "mission-control": (),
}
DEFAULT_PORTS: Final[Mapping[DatabaseType, str]] = {
    "postgres": "5432",
    "mysql": "3306",
    "mongodb": "27017",
    "mission-control": "",
}
# The option that says how the connection is encrypted, and the words it takes.
TLS_OPTIONS: Final[Mapping[DatabaseType, str]] = {
    "postgres": "sslmode",
    "mysql": "ssl-mode",
    "mongodb": "tls",
    "mission-control": "",
}
TLS_MODES: Final[Mapping[DatabaseType, tuple[str, ...]]] = {
    "postgres": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "mysql": ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"),
    "mongodb": ("true", "false"),
    "mission-control": (),
}
# What libpq may be told. Not among them: files it would read passwords and further options from
# (passfile, service, servicefile), files it would write (sslkeylogfile), libraries and sign-ins of
# the machine (gsslib, gssdelegation, oauth_*), and another database than the path's (dbname).
_POSTGRES_OPTIONS: Final = frozenset(
    {"host", "hostaddr", "port", "user", "password", "connect_timeout", "client_encoding"}
    | {"application_name", "fallback_application_name", "options", "tcp_user_timeout"}
    | {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"}
    | {"sslmode", "ssl", "sslnegotiation", "sslcompression", "sslsni", "sslcertmode"}
    | {"ssl_min_protocol_version", "ssl_max_protocol_version", "sslpassword"}
    | {"channel_binding", "require_auth", "gssencmode", "krbsrvname"}
    | {"target_session_attrs", "load_balance_hosts"}
    | {"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir"}
)
# What the other drivers know of encryption: MySQL's as it is written, MongoDB's in lower case.
_ENCRYPTION_OPTIONS: Final[Mapping[DatabaseType, frozenset[str]]] = {
    "mysql": frozenset({"ssl-ca", "ssl-cert", "ssl-key"}),
    "mongodb": frozenset(
        {"tls", "ssl", "tlscafile", "tlscertificatekeyfile", "tlscertificatekeyfilepassword"}
        | {"tlscrlfile", "tlsinsecure", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames"}
        | {"tlsdisableocspendpointcheck"}
    ),
}
# Options, in lower case, whose values are files of the machine the product runs on, or which sign
# in as that machine.
_LOCAL_OPTIONS: Final[Mapping[DatabaseType, frozenset[str]]] = {
    "postgres": frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir"}),
    "mysql": frozenset({"ssl-ca", "ssl-cert", "ssl-key"}),
    "mongodb": frozenset(
        {"tlscafile", "tlscertificatekeyfile", "tlscrlfile", "authmechanismproperties"}
        | {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"}
    ),
}
_LOCAL_SIGN_INS: Final = frozenset({"gssapi", "mongodb-aws", "mongodb-oidc"})
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
        if self._is_nowhere:
            return ""
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
        """Where the database is, without who signs in there: `host:port/database`.

        Empty for a type that has no address.
        """
        if self._is_nowhere:
            return ""
        return f"{self._authority or 'local socket'}/{self.database}"

    @property
    def spoken(self) -> str:
        """Everything that a driver says to a server before the server has answered."""
        options = [text for pair in self.options for text in pair]
        return "".join((self.host, self.port, self.database, self.user, self.tls, *options))

    @property
    def unknown_options(self) -> tuple[str, ...]:
        """Options that must not be handed to libpq, or that seem to ask for encryption of another
        driver, which would pass over them and connect without."""
        names = tuple(name for name, _ in self.options)
        if self.type == "postgres":
            return tuple(name for name in names if name not in _POSTGRES_OPTIONS)
        known = _ENCRYPTION_OPTIONS.get(self.type, frozenset())
        return tuple(
            name
            for name in names
            if ("ssl" in name.lower() or "tls" in name.lower())
            and (name if self.type == "mysql" else name.lower()) not in known
        )

    @property
    def has_unknown_tls(self) -> bool:
        """Whether encryption is asked for in a word that the driver does not know."""
        words = TLS_MODES[self.type]
        given = self.tls.upper() if self.type == "mysql" else self.tls
        return bool(given) and given not in words

    @property
    def local_parts(self) -> tuple[str, ...]:
        """The parts that refer to the machine that connects: its files, sockets or identity."""
        if self._is_nowhere:
            return ()
        found = []
        for name, value in self.options:
            option = name.lower()
            if option in _LOCAL_OPTIONS[self.type] and (option, value) != ("sslrootcert", "system"):
                found.append(name)
            if option == "authmechanism" and value.lower() in _LOCAL_SIGN_INS:
                found.append(name)
        # MongoDB's driver takes any such name for a file.
        socket = ".sock" if self.type == "mongodb" else "\0"
        if any(
            not host or host.startswith(("/", "@")) or host.endswith(socket) for host in self._hosts
        ):
            found.append("a local socket")
        return tuple(found)

    @property
    def _is_nowhere(self) -> bool:
        """Whether databases of this type have no address."""
        return not SCHEMES[self.type]

    @property
    def _hosts(self) -> list[str]:
        """Every host that the driver connects to; an empty one is its default, a socket."""
        hosts = self.host
        if self.type == "postgres":
            chosen = dict(self.options)
            hosts = chosen.get("hostaddr") or chosen.get("host", hosts)
        return unquote(hosts).split(",")

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

    @property
    def hosts(self) -> list[str]:
        """The hosts of a MongoDB's members, but those that only DNS knows."""
        if self.scheme == "mongodb+srv":
            return []
        return [member.rpartition(":")[0].strip("[]") for member in sorted(self._members)]
