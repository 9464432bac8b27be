"""A TCP proxy in front of a server, so that a test can break the way there and not the server.

It passes bytes on as they are, until it is told to break: each method says what a network does that
behaves like that. `heal` ends whatever was begun.
"""

import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final

from tests.ports import free_port

_CHUNK_BYTES: Final = 64 * 1024
_LOOK_MS: Final = 20


class Proxy:
    """Listens on a port of 127.0.0.1 and connects to `host:port` for each connection."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._passes = threading.Event()
        self._passes.set()
        self._closed = threading.Event()
        self._delay_seconds = 0.0
        self._truncates = False
        self._unanswered: bytes | None = None
        self._spoils: Callable[[bytes], bytes] | None = None
        # Connections made before the last reset are to be ended by one.
        self._resets = 0
        self._listen(self._listener)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def cut(self) -> None:
        """End the connections there are; new ones are welcome."""
        with self._lock:
            for pair in self._pairs:
                _shut(*pair)

    def reset(self) -> None:
        """As `cut`, but without a farewell: either side finds its connection reset."""
        self._resets += 1

    def truncate(self) -> None:
        """End each connection in the middle of the next message that passes, until `heal`."""
        self._truncates = True

    def lose_answer_to(self, message: bytes) -> None:
        """End one connection when the server has answered the next request that contains
        `message`, without passing the answer on."""
        self._unanswered = message

    def spoil(self, what: Callable[[bytes], bytes]) -> None:
        """Pass on what `what` makes of it in place of what the server says, until `heal`."""
        self._spoils = what

    def delay(self, seconds: float) -> None:
        """Let everything arrive so much later, until `heal`."""
        self._delay_seconds = seconds

    def stall(self) -> None:
        """Pass nothing on, and end nothing, until `resume` or `heal`."""
        self._passes.clear()

    def resume(self) -> None:
        self._passes.set()

    def refuse(self) -> None:
        """Be a server that does not run: no connection stays and none is taken, until `heal`."""
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def heal(self) -> None:
        """Be a network as it should be."""
        self._delay_seconds = 0.0
        self._truncates = False
        self._spoils = None
        self.resume()
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listen(self._listener)

    def close(self) -> None:
        self._closed.set()
        self._passes.set()
        self.refuse()

    def _listen(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(self._target, timeout=5)
            except OSError:
                inner.close()
                continue
            outer.settimeout(None)
            with self._lock:
                self._pairs.add((inner, outer))
            threading.Thread(target=self._carry, args=(inner, outer), daemon=True).start()

    def _carry(self, inner: socket.socket, outer: socket.socket) -> None:
        """Both directions of one connection, until either side ends it."""
        other = {inner: outer, outer: inner}
        ends = {inner.fileno(): inner, outer.fileno(): outer}
        # There may be more connections than `select` takes.
        ready = select.poll()
        for number in ends:
            ready.register(number, select.POLLIN)
        resets = self._resets
        is_answered_in_vain = False
        try:
            while not self._closed.is_set() and self._resets == resets:
                for end in [ends[number] for number, _ in ready.poll(_LOOK_MS)]:
                    self._passes.wait()
                    self._closed.wait(self._delay_seconds)
                    received = end.recv(_CHUNK_BYTES)
                    if not received:
                        return
                    if is_answered_in_vain and end is outer:
                        return
                    if end is inner and self._unanswered and self._unanswered in received:
                        self._unanswered, is_answered_in_vain = None, True
                    if self._spoils is not None and end is outer:
                        received = self._spoils(received)
                    if self._truncates:
                        other[end].sendall(received[: len(received) // 2])
                        return
                    other[end].sendall(received)
        except OSError:
            return
        finally:
            with self._lock:
                self._pairs.discard((inner, outer))
            if self._resets == resets:
                _shut(inner, outer)
            else:
                _forget(inner, outer)
            inner.close()
            outer.close()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # gone already


def _forget(*ends: socket.socket) -> None:
    """Lingering for no time at all turns the close that follows into a reset."""
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
