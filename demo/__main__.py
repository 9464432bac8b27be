"""`bin/demo`: the whole product on this machine, with a shop that changes and a receiver.

Everything it makes lies under var/demo; everything it starts ends with it.
"""

import argparse
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TextIO

from demo.processes import ROOT, Processes, procfile
from demo.servers import (
    PostgresServer,
    RedisServer,
    ServerError,
    free_port,
    wheel_postgres,
    wheel_redis,
)

FOLDER: Final = ROOT / "var" / "demo"
_DEFAULT_PORT: Final = 8000
_READY_SECONDS: Final = 90.0
_LOOK_EVERY_SECONDS: Final = 0.25


class DemoError(Exception):
    """The demo cannot go on; the text says why, in a line for the person who started it."""


@dataclass
class Kept:
    """What must be the same at the next start."""

    postgres_port: int
    redis_port: int
    receiver_port: int
    postgres_password: str
    redis_password: str
    secret_key: str
    encryption_key: str
    login_password: str


def main() -> int:
    options = _options()
    # SIGINT too: started in the background of a script, it would be ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as running:
            try:
                _run(options, running)
            except KeyboardInterrupt:
                _say("Stopping …")
                raise
            finally:
                _hold_signals()
    except KeyboardInterrupt:
        _say("Stopped.")
        return 0
    except (DemoError, ServerError) as error:
        sys.stderr.write(f"bin/demo: {error}\n")
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/demo", description="Mission Control with live demo traffic, all on this machine."
    )
    parser.add_argument("--port", type=_port, help=f"of the console (default {_DEFAULT_PORT})")
    parser.add_argument("--no-traffic", action="store_true", help="leave the shop's rows alone")
    return parser.parse_args()


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 1 to 65535")


def _run(options: argparse.Namespace, running: ExitStack) -> None:
    """Start everything, then watch it until a signal (KeyboardInterrupt) ends it."""
    lock = running.enter_context(_only_one_demo())
    port = _web_port(options.port)
    url = f"http://localhost:{port}/"
    kept = _kept()
    _say("Starting Postgres and Redis …")
    postgres, redis = _servers(kept, running)
    _say("Preparing the databases …")
    environment = _environment(kept, postgres, redis, port)
    _prepare(postgres, environment)
    _say("Starting web, capture, worker and beat …")
    commands = {"receiver": f"exec python -m demo.receiver {kept.receiver_port}", **procfile()}
    if not options.no_traffic:
        commands["traffic"] = "exec python -m demo.traffic"
    logs = FOLDER / "logs"
    for log in logs.glob("*.log"):
        log.unlink()
    processes = Processes(commands, environment, logs)
    running.callback(processes.stop_all, within_seconds=5.0)
    processes.start_all()
    _wait_until_ready(url, processes)
    lock.write(url)
    lock.flush()
    _say(
        f"\nMission Control is running.\n\n    {url}\n    sign in as admin, password"
        f" {kept.login_password}\n\nA MySQL, MariaDB or MongoDB of your own can be watched as well:"
        f" docs/guides/.\nWhat the processes say is in {_short(logs)}/. Ctrl-C stops everything."
    )
    while not (ended := processes.ended()):
        time.sleep(_LOOK_EVERY_SECONDS)
    raise DemoError(_last_words(processes, ended))


@contextmanager
def _only_one_demo() -> Iterator[TextIO]:
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        lock = (FOLDER / "running").open("a+")
    except PermissionError as error:
        raise DemoError(f"{_short(FOLDER)} belongs to another user: remove it first") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise DemoError(f"it is already running: {lock.read() or 'starting'}") from error
        lock.truncate(0)
        yield lock


def _hold_signals() -> None:
    # While everything is being stopped, a second Ctrl-C must not leave half of it behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _web_port(wanted: int | None) -> int:
    candidates = [wanted] if wanted else range(_DEFAULT_PORT, _DEFAULT_PORT + 100)
    for port in candidates:
        if _is_free(port):
            return port
    raise DemoError(f"port {candidates[0]} is in use: choose another one with --port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _kept() -> Kept:
    """What the last start kept, with new ports for those that something else uses by now."""
    file = FOLDER / "kept.json"
    try:
        kept = Kept(**json.loads(file.read_text()))
    except FileNotFoundError:
        kept = Kept(
            postgres_port=free_port(),
            redis_port=free_port(),
            receiver_port=free_port(),
            postgres_password=secrets.token_urlsafe(24),
            redis_password=secrets.token_urlsafe(24),
            secret_key=secrets.token_urlsafe(48),
            encryption_key=secrets.token_urlsafe(32),
            login_password=secrets.token_hex(5),
        )
    except (ValueError, TypeError) as error:
        raise DemoError(f"{_short(file)} is damaged: remove {_short(FOLDER)}") from error
    for name in ("postgres_port", "redis_port", "receiver_port"):
        if not _is_free(getattr(kept, name)):
            setattr(kept, name, free_port())
    file.touch(mode=0o600)
    file.write_text(json.dumps(asdict(kept), indent=2))
    return kept


def _servers(kept: Kept, running: ExitStack) -> tuple[PostgresServer, RedisServer]:
    postgres = PostgresServer(
        FOLDER / "postgres", wheel_postgres(16), kept.postgres_port, kept.postgres_password
    )
    redis = RedisServer(FOLDER / "redis", wheel_redis(), kept.redis_port, kept.redis_password)
    for server in (postgres, redis):
        running.callback(server.stop)
        server.start()
    return postgres, redis


def _environment(
    kept: Kept, postgres: PostgresServer, redis: RedisServer, port: int
) -> dict[str, str]:
    """The product's whole environment: nothing of the caller's own settings gets in."""
    return {
        "DATABASE_URL": postgres.url("mission_control"),
        "REDIS_URL": redis.url(),
        "SECRET_KEY": kept.secret_key,
        "ENCRYPTION_KEYS": kept.encryption_key,
        "ALLOWED_HOSTS": "localhost,127.0.0.1",
        "CSRF_TRUSTED_ORIGINS": "",
        "DEBUG": "false",
        "NODE_ID": "",
        "ENVIRONMENT_NAME": "demo",
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "LOG_FORMAT": "text",
        "LOG_LEVEL": "INFO",
        "BIND": "127.0.0.1",
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SHOP_DB_URL": postgres.url("shop"),
        "RECEIVER_URL": f"http://127.0.0.1:{kept.receiver_port}",
        "DEMO_PASSWORD": kept.login_password,
    }


def _prepare(postgres: PostgresServer, environment: Mapping[str, str]) -> None:
    present = {name for (name,) in postgres.execute("SELECT datname FROM pg_database")}
    for name in {"mission_control", "shop"} - present:
        postgres.create_database(name)
    prepared = subprocess.run(  # noqa: S603 — our own module
        [sys.executable, "-m", "demo.seed", str(FOLDER / "demo.yaml")],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if prepared.returncode != 0:
        raise DemoError(f"preparing the databases failed:\n{_tail(prepared.stderr)}")


def _wait_until_ready(url: str, processes: Processes) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not _is_ready(url):
        if ended := processes.ended():
            raise DemoError(_last_words(processes, ended))
        if time.monotonic() > deadline:
            raise DemoError(_last_words(processes, ["web"]))
        time.sleep(_LOOK_EVERY_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}readyz", timeout=5) as answer:  # noqa: S310 — ours
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _last_words(processes: Processes, names: list[str]) -> str:
    said = [
        f"{name} does not run; it said:\n{_tail(processes.log(name).read_text())}" for name in names
    ]
    return "\n".join(said)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
