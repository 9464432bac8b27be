"""Looks up the names of endpoints, each on a thread of its own.

libcurl has 20 threads for this: that many look-ups at silent DNS servers would hold up every other
endpoint's. Here a name is looked up once, whoever waits for it, and remembered a minute. Whether an
address may be reached is never decided here, but when it is connected to.
"""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

# As long as libcurl remembers a name.
_REMEMBERED_SECONDS: Final = 60.0
# So that those who wait for a name learn that it does not resolve.
_FAILURE_REMEMBERED_SECONDS: Final = 1.0
_MOST_AT_ONCE: Final = 256
_MOST_REMEMBERED: Final = 4096

# The addresses of a name, none if it does not resolve.
Addresses = tuple[str, ...]


class Named(NamedTuple):
    """Where a URL leads: a name to be looked up, and a port."""

    name: str
    port: int


class LookUps:
    """The addresses of names. `on_found` is called on the look-up's thread after each of them."""

    def __init__(self, on_found: Callable[[], None]) -> None:
        self._on_found = on_found
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Addresses]] = {}
        self._wanted: deque[str] = deque()
        self._asked_for: set[str] = set()
        self._threads = 0

    def addresses(self, name: str) -> Addresses | None:
        """The addresses of `name`; None while it is being looked up, which begins here.

        Raises MemoryError if there is no thread for it.
        """
        with self._lock:
            forget_at, found = self._known.get(name, (0.0, ()))
            if time.monotonic() < forget_at:
                return found
            if name not in self._asked_for:
                if self._threads < _MOST_AT_ONCE:
                    self._start_thread()
                self._asked_for.add(name)
                self._wanted.append(name)
            return None

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._look_up, name="look-up", daemon=True).start()
        except RuntimeError as error:
            # Those that run take the name on.
            if not self._threads:
                raise MemoryError("no thread can be started") from error
        else:
            self._threads += 1

    def _look_up(self) -> None:
        while (name := self._next()) is not None:
            found = _addresses_of(name)
            kept = _REMEMBERED_SECONDS if found else _FAILURE_REMEMBERED_SECONDS
            with self._lock:
                if len(self._known) >= _MOST_REMEMBERED:
                    self._known.clear()
                self._known[name] = (time.monotonic() + kept, found)
                self._asked_for.discard(name)
            self._on_found()

    def _next(self) -> str | None:
        with self._lock:
            if self._wanted:
                return self._wanted.popleft()
            self._threads -= 1
            return None


def _addresses_of(name: str) -> Addresses:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))


@lru_cache(maxsize=1024)
def named_in(url: str) -> Named | None:
    """The name that has to be looked up for `url`; None for an address, or where none is found."""
    try:
        parts = urlsplit(url)
        # An international name as libcurl is given it.
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        return None
    if not host or _is_address(host):
        return None
    return Named(host, port or (443 if parts.scheme == "https" else 80))


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
