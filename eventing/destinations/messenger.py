"""The process that sends one message for people: `announcement` starts it with the message on its
standard input, and reads why it was not taken.

Whoever administers a project chooses the address, and its services follow names and redirects of
their own, so AddressGuard decides about each connection at the moment it is made, whichever library
makes it. Time and memory are the system's to limit: nothing that is answered can be more.
"""

import json
import logging
import re
import resource
import signal
import sys
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_plus, urlsplit

import requests

from eventing.destinations.addresses import AddressGuard
from eventing.destinations.announcement import (
    APPRISE_LOG,
    TIME_LIMIT_SECONDS,
    NoSuchService,
    own_host,
    plugin_of,
)

# For the data of the process, a good third of which is Apprise and what it brings along.
_MEMORY_LIMIT_BYTES: Final = 128 * 1024 * 1024
_TIMEOUTS_SECONDS: Final = (4.0, 6.0)
# Apprise's pauses between the recipients of one message would otherwise take most of its time.
_LONGEST_PAUSE_SECONDS: Final = 0.2
# Shorter parts of an address are taken out of a text only where they are words of their own.
_SHORT: Final = 5
_MOST_CHARACTERS: Final = 300


class Letter(NamedTuple):
    """A message, its address, and the networks (CIDR) that are exempt from the guard."""

    url: str
    title: str
    text: str
    allowed_networks: list[str]


class AddressRefused(OSError):
    """The guard lets nothing be sent to this address."""


class Watched(logging.Handler):
    """What was refused, and what Apprise warned of lately; its return value is only yes or no."""

    def __init__(self, guard: AddressGuard) -> None:
        super().__init__(logging.WARNING)
        self._guard = guard
        self.refused: str | None = None
        self.said: str | None = None
        sys.addaudithook(self._decide)
        APPRISE_LOG.addHandler(self)

    def _decide(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python's audit hook: called before any connection of the interpreter's own sockets."""
        if event not in ("socket.connect", "socket.sendto"):
            return
        address = arguments[-1]
        is_of_a_network = isinstance(address, tuple) and isinstance(address[0], str)
        refusal = (
            self._guard.refusal(address[0])
            if is_of_a_network
            else "a socket of this machine is meant"
        )
        if refusal is not None:
            self.refused = refusal
            raise AddressRefused(refusal)

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()


def main() -> None:
    """Send what standard input has, and write why it was not taken, or null, as JSON."""
    _limit_time_and_memory()
    letter = Letter(*json.load(sys.stdin.buffer))
    json.dump(send(letter, Watched(AddressGuard(letter.allowed_networks))), sys.stdout)


def _limit_time_and_memory() -> None:
    # Whoever started this may be gone by then.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_SECONDS)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    is_less = 0 <= most < _MEMORY_LIMIT_BYTES
    limit = most if is_less else _MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # A dump of its memory would have the address in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def send(letter: Letter, watched: Watched) -> str | None:
    """Send a message; None when it was taken, else why it was not, in words for people."""
    url = letter.url
    try:
        plugin = plugin_of(url)
    except NoSuchService:
        return "nothing can be sent to this address any more; write it anew"
    try:
        if plugin is None:
            why = _post(url, f"{letter.title}\n{letter.text}")
        else:
            plugin.request_rate_per_sec = min(plugin.request_rate_per_sec, _LONGEST_PAUSE_SECONDS)
            is_taken = plugin.notify(body=letter.text, title=letter.title)
            why = None if is_taken else watched.said or "refused"
    except MemoryError:
        why = "its answer is too large"
    if why is None:
        return None
    host = urlsplit(url).hostname if plugin is None else own_host(plugin)
    return without_secrets(watched.refused or why, url, host)[:_MOST_CHARACTERS]


def _post(url: str, text: str) -> str | None:
    """As Slack's incoming webhooks take it, and those of many others."""
    try:
        answer = requests.post(
            url, json={"text": text}, timeout=_TIMEOUTS_SECONDS, allow_redirects=False, stream=True
        )
        answer.close()
    except requests.Timeout:
        return "no answer in time"
    except requests.exceptions.SSLError:
        return "its TLS certificate is not accepted"
    except requests.RequestException:
        return "it cannot be reached"
    return None if 200 <= answer.status_code < 300 else f"it answered {answer.status_code}"


def without_secrets(text: str, url: str, host: str | None) -> str:
    """`text` with everything of the address in it that might be a secret taken out; `host` is
    none."""
    for part in sorted(_parts_of(url, host), key=len, reverse=True):
        pattern = re.escape(part)
        if len(part) <= _SHORT:
            pattern = rf"(?<![^\W_]){pattern}(?![^\W_])"
        text = re.sub(pattern, "…", text, flags=re.IGNORECASE)
    return text


def _parts_of(url: str, host: str | None) -> set[str]:
    """What an address is made of, as it is written and as it is meant; without `host` and port, and
    without the names of its options."""
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    options = [option.partition("=") for option in parts.query.split("&")]
    wholes = [user, parts.path, parts.fragment, *(value or name for name, _, value in options)]
    if host is None:
        wholes.append(place)
    pieces = {piece for whole in wholes for piece in [whole, *re.split(r"[/:@]+", whole)]}
    return {each for piece in pieces for each in (piece, unquote(piece), unquote_plus(piece))} - {
        ""
    }


if __name__ == "__main__":
    main()
