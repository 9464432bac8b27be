"""A Postgres server, for whoever uses one: the way in, what it must be, and what of it is ours.

Sources read such a server, and an event log may be kept in one; neither knows the other.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Any, Final

import psycopg2
from psycopg2.extensions import connection

from eventing.changes import Finding, prerequisite
from eventing.connection_strings import DEFAULT_PORTS
from eventing.dialing import CONNECT_SECONDS, addresses_of, connected, ended

# The schema of an event log's tables; they are never captured.
OWN_SCHEMA: Final = "mission_control"
# As server_version_num has it.
_OLDEST_VERSION: Final = 140_000
# There is no such file: libpq then looks for no passwords in one of its own choice.
_NO_FILE: Final = "/nonexistent/pgpass"
# What letting somebody in may take, and send, at most.
_SIGN_IN_SECONDS: Final = 10.0
_SIGN_IN_BYTES: Final = 4 * 1024 * 1024
# Milliseconds that nobody chooses, and that strike nobody while a connection is made.
_MARKS: Final = count(1_000_000_000)


def connect(address: dict[str, Any], factory: type[Any] = connection) -> Any:
    """A connection to a Postgres of a project, of type `factory`.

    `address` is libpq's, by keyword. What libpq would add from files of this machine (passwords,
    a certificate) is left out. Raises psycopg2.Error, ForbiddenPlace, OSError.
    """
    own = {"passfile": _NO_FILE, "password": ""}
    if "sslcert" not in address:
        own["sslcertmode"] = "disable"
    mark = next(_MARKS)
    chosen = {**own, **address, **_pinned(address), "tcp_user_timeout": str(mark)}
    try:
        # libpq bounds how long it waits, and not how much it is sent meanwhile; and psycopg2 then
        # asks a server whose dates are not as it knows them to change that, without any bound.
        with ended(lambda: _marked(mark), _SIGN_IN_SECONDS, _SIGN_IN_BYTES, _SIGN_IN_BYTES):
            opened = psycopg2.connect(connection_factory=factory, **chosen)
    except UnicodeDecodeError:
        # Before a session has an encoding, errors come in the server's own.
        said = "the server refused with words that are not in UTF-8"
        raise psycopg2.OperationalError(said) from None
    with suppress(OSError, ValueError), socket.socket(fileno=os.dup(opened.fileno())) as held:
        wanted = int(address.get("tcp_user_timeout", 0))
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wanted)
    return opened


@contextmanager
def _marked(mark: int) -> Iterator[list[socket.socket]]:
    """The connection that libpq is making with such a time limit, if it has one yet: until it is
    made, nobody else can say which it is."""
    found = []
    with ExitStack() as copies:
        # Others come and go meanwhile; and there may be no room for a copy.
        with suppress(OSError):
            for number in os.listdir("/dev/fd"):
                with suppress(OSError):
                    held = _copied(int(number))
                    if held is not None and mark == copies.enter_context(held).getsockopt(
                        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
                    ):
                        found.append(held)
        yield found


def _copied(number: int) -> socket.socket | None:
    """A connection's copy; None for what is no connection. Raises OSError."""
    copied = os.dup(number)
    if stat.S_ISSOCK(os.fstat(copied).st_mode):
        return socket.socket(fileno=copied)
    os.close(copied)
    return None


def _pinned(address: dict[str, Any]) -> dict[str, str]:
    """Hosts with the addresses they have now, so that libpq looks up none of them again; of
    several, which libpq tries one after another, those that answer come first."""
    if address.get("hostaddr"):
        for given in str(address["hostaddr"]).split(","):
            addresses_of(given)
        return {}
    hosts = str(address.get("host", "")).split(",")
    ports = str(address.get("port", "")).split(",")
    found: list[tuple[str, str, str]] = []
    for number, host in enumerate(hosts):
        port = ports[number] if len(ports) == len(hosts) else ports[0]
        is_socket = not host or host.startswith(("/", "@"))
        found += [(host, each, port) for each in ([""] if is_socket else addresses_of(host))]
    if not any(each for _, each, _ in found):
        return {}
    if len(found) > 1:
        found = _answering_first(found)
    names, numbers, at = (",".join(part) for part in zip(*found, strict=True))
    return {"host": names, "hostaddr": numbers, "port": at}


def _answering_first(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Hosts with addresses and ports in their order, but those that do not answer behind one that
    does. Raises TimeoutError."""
    try:
        places = [(each, int(port or DEFAULT_PORTS["postgres"])) for _, each, port in found]
        opened, silent = connected([place for place in places if place[0]], CONNECT_SECONDS)
    except TimeoutError:
        raise
    except (OSError, ValueError, OverflowError):
        return found  # told by libpq, in its words
    opened.close()
    last = [at for at, place in enumerate(places) if place in silent]
    first = [at for at, place in enumerate(places) if place not in silent]
    return [found[at] for at in first + last]


def version_finding(number: int, text: str, purpose: str) -> Finding:
    """Whether a version is new enough for a purpose: "hold the log", "be captured"."""
    return prerequisite(
        "version",
        number >= _OLDEST_VERSION,
        f"Postgres {text}",
        f"Postgres 14 is the oldest that can {purpose}",
        "upgrade the server to Postgres 14 or newer",
    )


def primary_finding(in_recovery: bool, why: str) -> Finding:
    """Whether the server is a primary, and `why` it has to be one."""
    return prerequisite(
        "primary",
        not in_recovery,
        "the server is a standby" if in_recovery else "the server is a primary",
        why,
        "use the address of the primary server",
    )


def quoted(name: str) -> str:
    """A name as an SQL identifier, as in a statement that a person is to run."""
    return '"' + name.replace('"', '""') + '"'
