"""A message for people, sent to one address: a webhook that takes what Slack's take, or any service
that Apprise knows and this module allows.

Each message is sent by a process of its own (`messenger`), which is killed when its time is over
and has only so much memory: Apprise reads whatever it is answered, for as long as there is some.
The address, which is a secret, goes there by a pipe, and is never in what is returned or logged.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import apprise
import structlog

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
# The whole of a message, from the start of the process that sends it.
TIME_LIMIT_SECONDS: Final = 15.0
_TOO_LATE: Final = "no answer in time"
_COMMAND: Final = (sys.executable, "-m", "eventing.destinations.messenger")
_ROOT: Final = Path(__file__).resolve().parents[2]
# Nothing else of this process's environment is the messenger's affair.
_INHERITED: Final = ("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")

logger = structlog.get_logger(__name__)
# Apprise quotes addresses, and what endpoints answer: none of it is logged.
APPRISE_LOG: Final = logging.getLogger("apprise")
APPRISE_LOG.propagate = False
APPRISE_LOG.addHandler(logging.NullHandler())


class NoSuchService(Exception):
    """Nothing can be sent to an address of that kind; the text says what can be."""


def service_of(url: str) -> str:
    """What is at an address: the service, and the host if the address has one of its own.

    Raises NoSuchService.
    """
    plugin = plugin_of(url)
    if plugin is None:
        return f"webhook at {urlsplit(url).hostname}"
    name = _SERVICES[_scheme(plugin)]
    host = getattr(plugin, "smtp_host", None) or own_host(plugin)
    return f"{name} at {host}" if host else name


def own_host(plugin: Any) -> str | None:
    """The host of a service that one runs oneself; elsewhere a secret stands in its place."""
    own = ("mmost", "rocket", "matrix", "ntfy", "gotify", "workflow", "mailto")
    host = plugin.host if _scheme(plugin).rstrip("s") in own else None
    return host if isinstance(host, str) and "." in host else None


def plugin_of(url: str) -> Any:
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
    """Sends messages to addresses that webhooks may be sent to; `allowed_networks` are exempt."""

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed = list(allowed_networks)

    def send(self, url: str, title: str, text: str) -> str | None:
        """Send a message; None when it was taken, else why it was not, in words for people.

        Takes no longer than TIME_LIMIT_SECONDS.
        """
        letter = json.dumps([url, title, text, self._allowed]).encode()
        try:
            done = subprocess.run(  # noqa: S603 — a command of our own
                _COMMAND,
                input=letter,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_ROOT,
                env=_environment(),
                timeout=TIME_LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return _TOO_LATE
        except OSError as error:
            logger.warning("no process could be started to send a notification", error=str(error))
            return "no process could be started to send it"
        if done.returncode == 0:
            why: str | None = json.loads(done.stdout)
            return why
        if done.returncode == -signal.SIGALRM:
            return _TOO_LATE
        logger.warning("the process that sent a notification ended", exit_code=done.returncode)
        return "the process that sent it ended before it was taken"


def _environment() -> dict[str, str]:
    """No proxy, which would connect in our place and past the guard, no `.netrc`, no secret."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", **inherited}
