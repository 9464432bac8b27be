"""A TCP proxy in front of a server, so that a test can break the way there and not the server.

It passes bytes on as they are. `cut` ends every connection at once, `stall` lets them stand while
nothing passes (as a network does that drops packets), `resume` lets go on what was held back.
"""

import select
import socket
import threading
from types import TracebackType
from typing import Final

_CHUNK_BYTES: Final = 64 * 1024
_LOOK_SECONDS: Final = 0.02


class Proxy:
    """Listens on a free port of 127.0.0.1 and connects to `host:port` for each connection."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._passes = threading.Event()
        self._passes.set()
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

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

    def stall(self) -> None:
        """Pass nothing on, and end nothing, until `resume`."""
        self._passes.clear()

    def resume(self) -> None:
        self._passes.set()

    def close(self) -> None:
        self._closing = True
        self._passes.set()
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closing:
            try:
                inner, _ = self._listener.accept()
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
        try:
            while not self._closing:
                for end in select.select([inner, outer], [], [], _LOOK_SECONDS)[0]:
                    self._passes.wait()
                    received = end.recv(_CHUNK_BYTES)
                    if not received:
                        return
                    other[end].sendall(received)
        except OSError:
            return
        finally:
            with self._lock:
                self._pairs.discard((inner, outer))
            _shut(inner, outer)
            inner.close()
            outer.close()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # gone already
