"""Where a source or an Eventing DB may be, the way to the very address that was looked at, and how
long and how large an answer from there may be.

Databases stand on private networks and on the machine itself, so those are let through; link-local
and metadata addresses are no database's. docs/decisions/0008-sources.md says why.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from types import FrameType
from typing import Any, Final

import psycopg2
from psycopg2.extensions import connection

from eventing.networks import special_kinds

_REFUSED: Final = frozenset(
    {
        "the cloud's metadata address",
        "a link-local address",
        "a multicast address",
        "the broadcast address",
        "a reserved address",
        "a discarded address",
    }
)
_LOOK_SECONDS: Final = 0.05
# Where Linux' struct tcp_info tells how many bytes have come (tcpi_bytes_received, since 4.2).
_BYTES_RECEIVED: Final = struct.Struct("128xQ")
# There is no such file: libpq then looks for no passwords in one of its own choice.
_NO_FILE: Final = "/nonexistent/pgpass"


# What drivers, and we, trip over where an answer is none of the protocol.
NOT_THE_PROTOCOL: Final = (
    struct.error,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
)


class ForbiddenPlace(OSError):
    """An address that no database is connected to at; the message names it."""


def refusal(address: str) -> str | None:
    """Why no database is connected to at an IP address; None if one is."""
    parsed = ip_address(address.partition("%")[0])
    for what in special_kinds(parsed):
        if what in _REFUSED:
            return f"{address} is {what}; no database is connected to there"
    return None


def addresses_of(host: str) -> list[str]:
    """The IP addresses of `host`, all of which may be connected to.

    Raises ForbiddenPlace if one may not, OSError if the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"the name {host!r} cannot be looked up") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        what = refusal(address)
        if what is not None:
            raise ForbiddenPlace(what)
    return addresses


def dial(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """A TCP connection to `host`. Raises ForbiddenPlace, OSError."""
    failure: OSError | None = None
    for address in addresses_of(host):
        try:
            opened = socket.create_connection((address, port), timeout_seconds)
        except OSError as error:
            failure = error
            continue
        opened.settimeout(None)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return opened
    raise failure or OSError(f"{host} has no address")


class EndlessAnswer(OSError):
    """What answers takes too long, or sends too much; the message says which."""


@contextmanager
def bounded(fileno: int, seconds: float, most_bytes: int | None = None) -> Iterator[None]:
    """Within it an answer is waited for on a connection, by a driver that knows no end itself.

    The connection is shut down when that takes longer than `seconds`, or when about so many bytes
    have come, which ends the wait. Raises EndlessAnswer then.
    """
    is_over = threading.Event()
    refused: list[str] = []
    # Of our own: the driver may close its, whose number would be another connection's then.
    held = socket.socket(fileno=os.dup(fileno))
    before = _received(held)

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not is_over.wait(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                refused.append(f"no whole answer came within {seconds:g} s")
            elif most_bytes is not None and _received(held) - before > most_bytes:
                refused.append(f"an answer is longer than {most_bytes} bytes")
            if refused:
                # The other side may have been quicker.
                with suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, name="bounded", daemon=True)
    try:
        watcher.start()
    except RuntimeError:
        held.close()
        raise EndlessAnswer("there is no memory for a thread that watches over answers") from None
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        held.close()
        if refused:
            raise EndlessAnswer(refused[0]) from None


def _received(opened: socket.socket) -> int:
    """How many bytes have come on a connection; 0 where nobody counts, as on a local socket."""
    try:
        told = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        return int(_BYTES_RECEIVED.unpack(told)[0])
    except (OSError, struct.error):
        return 0


def connect_to_postgres(address: dict[str, Any], factory: type[Any] = connection) -> Any:
    """A connection to a Postgres of a project, of type `factory`.

    `address` is libpq's, by keyword. What libpq would add from files of this machine (passwords,
    a certificate) is left out. Raises psycopg2.Error, ForbiddenPlace, OSError.
    """
    own = {"passfile": _NO_FILE, "password": ""}
    if "sslcert" not in address:
        own["sslcertmode"] = "disable"
    chosen = {**own, **address, **_pinned(address)}
    try:
        return psycopg2.connect(connection_factory=factory, **chosen)
    except UnicodeDecodeError:
        # Before a session has an encoding, errors come in the server's own.
        said = "the server refused with words that are not in UTF-8"
        raise psycopg2.OperationalError(said) from None


def _pinned(address: dict[str, Any]) -> dict[str, str]:
    """Hosts with the addresses they have now, so that libpq looks up none of them again."""
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
    names, numbers, at = (",".join(part) for part in zip(*found, strict=True))
    return {"host": names, "hostaddr": numbers, "port": at}


def guard_connections_of(package: str, local_sockets: Container[str]) -> None:
    """From now on a package of Python's connects to no address that is no database's.

    It is for drivers that look names up by themselves, and go wherever a server sends them: the
    decision is made on the address of each connection. Local sockets are those named alone.
    """

    def decide(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.connect" or not _is_of(sys._getframe(1), package):
            return
        address = arguments[1]
        if isinstance(address, tuple):
            what = refusal(address[0])
        else:
            what = None if address in local_sockets else "a socket of this machine is meant"
        if what is not None:
            raise ForbiddenPlace(what)

    sys.addaudithook(decide)


def _is_of(frame: FrameType, package: str) -> bool:
    name = str(frame.f_globals.get("__name__"))
    return name == package or name.startswith(f"{package}.")
