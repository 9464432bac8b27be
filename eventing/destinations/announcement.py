"""A message for people, sent to one address: a webhook that takes what Slack's take, or any service
that Apprise knows and this module allows.

Whoever administers a project chooses the address, and its services follow names and redirects of
their own, so AddressGuard decides about each connection at the moment it is made, whichever library
makes it. Neither the address nor a part of it is ever in what is returned or logged.
"""

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import apprise
import requests

from eventing.destinations.addresses import AddressGuard

_SERVICES: Final = {
    "mailto": "e-mail",
    "mailtos": "e-mail",
    "slack": "Slack",
    "workflow": "Microsoft Teams",
    "workflows": "Microsoft Teams",
    "discord": "Discord",
    "mmost": "Mattermost",
    "mmosts": "Mattermost",
    "rocket": "Rocket.Chat",
    "rockets": "Rocket.Chat",
    "gchat": "Google Chat",
    "webex": "Webex",
    "wxteams": "Webex",
    "zulip": "Zulip",
    "matrix": "Matrix",
    "matrixs": "Matrix",
    "tgram": "Telegram",
    "pagerduty": "PagerDuty",
    "opsgenie": "Opsgenie",
    "pover": "Pushover",
    "ntfy": "ntfy",
    "ntfys": "ntfy",
    "gotify": "Gotify",
    "gotifys": "Gotify",
}
ALLOWED: Final = "an https:// webhook, or an address of Apprise's that begins with " + ", ".join(
    f"{scheme}://" for scheme in _SERVICES
)
# Options of Apprise's that read files of this machine, or hold a process up.
_REFUSED_OPTIONS: Final = frozenset(
    ("template", "attach", "pgp", "pgppub", "pgpprv", "wkd", "smime", "retry", "wait", "rto", "cto")
)
_TIMEOUTS_SECONDS: Final = (4.0, 6.0)
# Shorter parts of an address are taken out of a text only where they are words of their own.
_SHORT: Final = 5
_MOST_CHARACTERS: Final = 300


class NoSuchService(Exception):
    """Nothing can be sent to an address of that kind; the text says what can be."""


class _Guarded(threading.local):
    """What this thread may connect to, and what was refused lately."""

    guard: AddressGuard | None = None
    refused: str | None = None
    said: str | None = None


_here = _Guarded()


class AddressRefused(OSError):
    """The guard lets nothing be sent to this address."""


def _decide(event: str, arguments: tuple[Any, ...]) -> None:
    """Python's audit hook: called before any connection of the interpreter's own sockets."""
    if event not in ("socket.connect", "socket.sendto") or _here.guard is None:
        return
    address = arguments[-1]
    is_of_a_network = isinstance(address, tuple) and isinstance(address[0], str)
    refusal = (
        _here.guard.refusal(address[0]) if is_of_a_network else "a socket of this machine is meant"
    )
    if refusal is not None:
        _here.refused = refusal
        raise AddressRefused(refusal)


sys.addaudithook(_decide)


def _keep(record: logging.LogRecord) -> bool:
    """Keep what Apprise warns of in the thread that sends; its return value is only yes or no.

    None of it is logged: it quotes addresses, and what endpoints answer.
    """
    if _here.guard is not None and record.levelno >= logging.WARNING:
        _here.said = record.getMessage()
    return False


logging.getLogger("apprise").addFilter(_keep)


class _NoEnvironment:
    """`trust_env` of requests' sessions: never while a message is sent.

    A proxy of the environment would connect in our place and past the guard, and a `.netrc` would
    sign in to whatever host an address names. Apprise makes its sessions out of anybody's reach.
    """

    def __get__(self, session: requests.Session | None, owner: type) -> bool:
        trusts = session is None or session.__dict__.get("trust_env", True)
        return bool(trusts) and _here.guard is None

    def __set__(self, session: requests.Session, trusts: bool) -> None:
        session.__dict__["trust_env"] = trusts


requests.Session.trust_env = _NoEnvironment()  # type: ignore[assignment]


@contextmanager
def _connecting_within(guard: AddressGuard) -> Iterator[None]:
    _here.guard, _here.refused, _here.said = guard, None, None
    try:
        yield
    finally:
        _here.guard = None


def service_of(url: str) -> str:
    """What is at an address: the service, and the host if the address has one of its own.

    Raises NoSuchService.
    """
    plugin = _plugin(url)
    if plugin is None:
        return f"webhook at {urlsplit(url).hostname}"
    name = _SERVICES[_scheme(plugin)]
    host = getattr(plugin, "smtp_host", None) or _own_host(plugin)
    return f"{name} at {host}" if host else name


def _own_host(plugin: Any) -> str | None:
    """The host of a service that one runs oneself; elsewhere a secret stands in its place."""
    own = ("mmost", "rocket", "matrix", "ntfy", "gotify", "workflow", "mailto")
    host = plugin.host if _scheme(plugin).rstrip("s") in own else None
    return host if isinstance(host, str) and "." in host else None


def _plugin(url: str) -> Any:
    """Apprise's way to an address; None for a webhook that it does not know."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname)
    except ValueError:
        raise NoSuchService(ALLOWED) from None
    refused = _REFUSED_OPTIONS.intersection(
        name.lower() for name, _ in parse_qsl(parts.query, True)
    )
    if refused:
        raise NoSuchService(f"{ALLOWED}; without the option {min(refused)}")
    is_webhook = parts.scheme in ("http", "https")
    if not is_webhook and parts.scheme not in _SERVICES:
        raise NoSuchService(ALLOWED)
    plugin = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if plugin is not None and _scheme(plugin) in _SERVICES:
        return plugin
    if is_webhook and has_host:
        return None
    raise NoSuchService(f"{ALLOWED}; complete, as Apprise's pages describe them")


def _scheme(plugin: Any) -> str:
    """The first scheme by which Apprise knows a service."""
    schemes = plugin.secure_protocol or plugin.protocol
    return str(schemes if isinstance(schemes, str) else schemes[0])


class Announcer:
    """Sends messages to addresses that `guard` lets pass."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard

    def send(self, url: str, title: str, text: str) -> str | None:
        """Send a message; None when it was taken, else why it was not, in words for people."""
        try:
            plugin = _plugin(url)
        except NoSuchService:
            return "nothing can be sent to this address any more; write it anew"
        with _connecting_within(self._guard):
            if plugin is None:
                why = _post(url, f"{title}\n{text}")
            else:
                why = None if plugin.notify(body=text, title=title) else _here.said or "refused"
        if why is None:
            return None
        host = urlsplit(url).hostname if plugin is None else _own_host(plugin)
        return _without_secrets(_here.refused or why, url, host)[:_MOST_CHARACTERS]


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


def _without_secrets(text: str, url: str, host: str | None) -> str:
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
