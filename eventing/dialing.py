"""Where a source or an Eventing DB may be, the way to the very address that was looked at, and how
long and how large an answer from there may be.

Databases stand on private networks and on the machine itself, so those are let through; link-local
and metadata addresses are no database's. docs/decisions/0008-sources.md says why.
"""

import errno
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from ipaddress import ip_address
from types import FrameType
from typing import Any, Final, cast

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
# Of the addresses of a name, or of several, so many are tried, each so long after the one before.
_MOST_TRIED: Final = 16
_MOMENT_SECONDS: Final = 0.2
CONNECT_SECONDS: Final = 5.0
# Where Linux' struct tcp_info tells how many bytes have come (tcpi_bytes_received, since 4.2).
_BYTES_RECEIVED: Final = struct.Struct("128xQ")
# What drivers, and our own code, raise when an answer does not follow the protocol.
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
    """An address at which no database may be connected to; the message names it."""


# An IP address and a port.
Place = tuple[str, int]


def refusal(address: str) -> str | None:
    """Why no database may be connected to at an IP address; None if one may."""
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
    """A TCP connection to `host`, at the first of its addresses that answers, within the time.

    Raises ForbiddenPlace, OSError.
    """
    places = [(address, port) for address in addresses_of(host)]
    if not places:
        raise OSError(f"{host} has no address")
    opened, _ = connected(places, timeout_seconds)
    opened.settimeout(None)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return opened


def connected(places: Sequence[Place], timeout_seconds: float) -> tuple[socket.socket, set[Place]]:
    """A connection to one of some addresses with their ports, and those that did not answer before
    it did. Raises OSError.

    They are tried in their order, each a moment after the one before (RFC 8305), so that one that
    is dead takes no more time than that, and none is bothered where the one before it answers.
    """
    untried = list(dict.fromkeys(places))[:_MOST_TRIED]
    waiting: dict[socket.socket, Place] = {}
    failure: OSError = TimeoutError("timed out")
    deadline = time.monotonic() + timeout_seconds
    with ExitStack() as unused, selectors.DefaultSelector() as answers:
        while (untried or waiting) and (left := deadline - time.monotonic()) > 0:
            if untried:
                place = untried.pop(0)
                family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
                opened = unused.enter_context(socket.socket(family, socket.SOCK_STREAM))
                opened.setblocking(False)
                code = opened.connect_ex(place)
                if code not in (0, errno.EINPROGRESS):
                    failure = OSError(code, os.strerror(code))
                    continue
                waiting[opened] = place
                answers.register(opened, selectors.EVENT_WRITE)
                left = min(left, _MOMENT_SECONDS) if untried else left
            for key, _ in answers.select(left):
                opened = cast(socket.socket, key.fileobj)
                answers.unregister(opened)
                place = waiting.pop(opened)
                code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    tried = set(places) - {place} - set(untried)
                    # A copy of it, which is not closed here.
                    return opened.dup(), tried
                failure = OSError(code, os.strerror(code))
    raise failure


class EndlessAnswer(OSError):
    """What answers takes too long, or sends too much; the message says which."""


@contextmanager
def bounded(fileno: int, seconds: float, most_bytes: int | None = None) -> Iterator[None]:
    """Around a wait for an answer, by a driver that would itself wait for ever.

    The connection is shut down when that takes longer than `seconds`, or when about so many bytes
    have come, which ends the wait. Raises EndlessAnswer then.
    """
    # Of our own: the driver may close its, whose number would be another connection's then.
    with socket.socket(fileno=os.dup(fileno)) as held:
        most = None if most_bytes is None else received_bytes(held) + most_bytes
        with ended(lambda: nullcontext([held]), seconds, most_bytes, most):
            yield


@contextmanager
def ended(
    find: Callable[[], AbstractContextManager[list[socket.socket]]],
    seconds: float,
    most_bytes: int | None,
    most_received: int | None,
) -> Iterator[None]:
    """Within it the connections that `find` gives are waited for: shut down after `seconds`, or
    once more than `most_received` bytes have come on one."""
    is_over = threading.Event()
    refused: list[str] = []

    def watch() -> None:
        deadline = time.monotonic() + seconds
        pause = _LOOK_SECONDS
        while not is_over.wait(pause):
            is_late = time.monotonic() >= deadline
            if is_late:
                refused.append(f"no whole answer came within {seconds:g} s")
            with find() as found:
                for held in found:
                    if most_received is not None and received_bytes(held) > most_received:
                        refused.append(f"an answer is longer than {most_bytes} bytes")
                    if refused:
                        # The other side may have been quicker.
                        with suppress(OSError):
                            held.shutdown(socket.SHUT_RDWR)
            left = _LOOK_SECONDS if refused else deadline - time.monotonic()
            pause = min(_LOOK_SECONDS, max(0.0, left))

    watcher = threading.Thread(target=watch, name="bounded", daemon=True)
    try:
        watcher.start()
    except RuntimeError:
        raise EndlessAnswer("there is no memory for a thread that watches over answers") from None
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        if refused:
            raise EndlessAnswer(refused[0]) from None


def received_bytes(opened: socket.socket) -> int:
    """How many bytes have come on a connection; 0 where nobody counts, as on a local socket."""
    try:
        told = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        return int(_BYTES_RECEIVED.unpack(told)[0])
    except (OSError, struct.error):
        return 0


def guard_connections_of(package: str, local_sockets: Container[str]) -> None:
    """From now on a Python package connects only to addresses at which a database may be.

    For drivers that look names up by themselves and go wherever a server sends them: each
    connection is decided on by its address. Of local sockets, only `local_sockets` are let through.
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
