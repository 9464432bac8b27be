"""A real HTTP endpoint for tests: records what it receives and answers as each path was told to.

It speaks HTTP over plain sockets, a thread a connection, so that it can also hang, drip, break off
or answer with nonsense. It listens on a free port of 127.0.0.1 (or the address given).
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Self

import orjson

from tests.waiting import wait_until


@dataclass(frozen=True)
class Received:
    """One request; header names are in lower case, `at` is `time.monotonic()`."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        """The `webhook-id`."""
        return self.headers["webhook-id"]

    def json(self) -> dict[str, object]:
        payload: dict[str, object] = orjson.loads(self.body)
        return payload


@dataclass(frozen=True)
class Behaviour:
    """How a path answers.

    `statuses` are used one after the other, the last one for good. `delay_seconds` passes before
    the answer; `hang` never answers; `drip_seconds` passes between the bytes of the body; `reset`
    breaks off without an answer; `raw` is sent in place of an HTTP answer.
    """

    statuses: Sequence[int] = (200,)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    delay_seconds: float = 0.0
    hang: bool = False
    drip_seconds: float = 0.0
    reset: bool = False
    raw: bytes | None = None


class Receiver:
    """The endpoint; use it as a context manager. Paths without a behaviour answer 200."""

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=1024)
        self._tls = tls
        self._lock = threading.Lock()
        self._behaviours: dict[str, Behaviour] = {}
        self._answered: dict[str, int] = defaultdict(int)
        self._received: list[Received] = []
        self._under_way: dict[str, int] = defaultdict(int)
        self._most_under_way: dict[str, int] = defaultdict(int)
        self._connections: set[socket.socket] = set()
        self._stopped = threading.Event()
        self.connections = 0
        self.port: int = self._listener.getsockname()[1]
        self._host = f"[{address}]" if ":" in address else address

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="receiver", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # A blocked accept() notices a shutdown, not a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def url(self, path: str = "/", host: str | None = None) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host or self._host}:{self.port}{path}"

    def behave(self, path: str, behaviour: Behaviour) -> None:
        """From now on answer requests to `path` like this."""
        with self._lock:
            self._behaviours[path] = behaviour
            self._answered[path] = 0

    def received(self, path: str | None = None) -> list[Received]:
        """What has arrived so far, in order."""
        with self._lock:
            return [each for each in self._received if path is None or each.path == path]

    def wait_for(self, count: int, path: str | None = None, timeout: float = 10) -> list[Received]:
        """Wait until `count` requests have arrived; returns all that have."""
        wait_until(
            lambda: len(self.received(path)) >= count, timeout, f"{count} requests to {path}"
        )
        return self.received(path)

    def most_under_way(self, path: str) -> int:
        """How many requests to `path` were unanswered at once, at most."""
        with self._lock:
            return self._most_under_way[path]

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._connections.add(connection)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as stream:
                while (request := _read_request(stream)) is not None:
                    if not self._answer(connection, request):
                        break
        except (OSError, ValueError):
            pass  # the client went away or speaks no HTTP, or we are stopping
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, request: Received) -> bool:
        """Answer a request; returns whether the connection stays open."""
        path = request.path
        with self._lock:
            behaviour = self._behaviours.get(path, Behaviour())
            number = self._answered[path]
            self._answered[path] += 1
            self._received.append(request)
            self._under_way[path] += 1
            self._most_under_way[path] = max(self._most_under_way[path], self._under_way[path])
        try:
            if behaviour.hang:
                self._stopped.wait()
                return False
            self._stopped.wait(behaviour.delay_seconds)
        finally:
            with self._lock:
                self._under_way[path] -= 1
        if behaviour.reset:
            # Lingering for no time at all turns the close into a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if behaviour.raw is not None:
            connection.sendall(behaviour.raw)
            return False
        status = behaviour.statuses[min(number, len(behaviour.statuses) - 1)]
        lines = {"Content-Length": str(len(behaviour.body)), **behaviour.headers}
        head = f"HTTP/1.1 {status} Whatever\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items()
        )
        if not behaviour.drip_seconds:
            connection.sendall(head.encode() + b"\r\n" + behaviour.body)
            return True
        connection.sendall(head.encode() + b"\r\n")
        for byte in _bytes_of(behaviour.body):
            if self._stopped.wait(behaviour.drip_seconds):
                return False
            connection.sendall(byte)
        return True


def _bytes_of(body: bytes) -> Iterator[bytes]:
    for index in range(len(body)):
        yield body[index : index + 1]


def _read_request(stream: BinaryIO) -> Received | None:
    """The next whole request of a connection; None when the client has closed it."""
    first = stream.readline()
    if not first:
        return None
    method, path, _ = first.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (line := stream.readline()) != b"\r\n":
        if not line.endswith(b"\r\n"):
            return None
        name, _, value = line.decode("utf-8").strip().partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    body = stream.read(length)
    if len(body) < length:
        return None
    return Received(method, path, headers, body, time.monotonic())
