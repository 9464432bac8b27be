"""The whole product, running: web, capture, worker and beat as the Procfile starts them, against a
database of their own. Tests reach it as its users do: over HTTP and through `manage.py`.
"""

import atexit
import os
import secrets
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from demo.processes import ROOT, Processes, procfile
from demo.servers import execute
from tests.folders import temporary_folder
from tests.ports import free_port
from tests.servers import ExternalPostgres, PostgresServer, drop_database, name_in
from tests.waiting import wait_until

_READY_SECONDS = 60.0


class Stack:
    """The four processes. Outputs are in `folder`; `environment` is what they all run with.

    `copies` says of which kinds there are several, as on several machines: of three workers the
    names are `worker`, `worker-2` and `worker-3`. There is one `web`, since its port is one.
    `environments` has variables that the processes with those names alone are run with.
    """

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        folder: Path,
        copies: Mapping[str, int] | None = None,
        environments: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.database_url = database_url
        self.environment = {
            # Those of the tests; the benchmarks have none of their own.
            **{
                name: os.environ.get(name, secrets.token_urlsafe(48))
                for name in ("SECRET_KEY", "ENCRYPTION_KEYS")
            },
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            "BIND": "127.0.0.1",
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        commands = {
            name if number == 1 else f"{name}-{number}": command
            for name, command in procfile().items()
            for number in range(1, (copies or {}).get(name, 1) + 1)
        }
        for name, variables in (environments or {}).items():
            given = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
            commands[name] = f"export {given}; {commands[name]}"
        self._names = list(commands)
        self._processes = Processes(commands, self.environment, folder)

    def start_all(self) -> None:
        """Migrate, start everything and wait until `/readyz` says 200."""
        self.migrate()
        self.start_processes()

    def migrate(self) -> None:
        self.manage("migrate", "--verbosity", "0")

    def start_processes(self) -> None:
        """Start everything on a migrated database and wait until `/readyz` says 200."""
        self._processes.start_all()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            ended = self._processes.ended()
            assert not ended, f"ended while starting: {ended}\n" + self.output(*ended)
            return self.is_ready()

        wait_until(is_ready, _READY_SECONDS, f"/readyz is not 200\n{self.output('web')}")

    def why_not_ready(self) -> str:
        """What `/readyz` says while it is not 200, which it is waited for."""

        def answer() -> str:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=10):
                    return ""
            except urllib.error.HTTPError as error:
                text: str = error.read().decode()
                return text
            except (urllib.error.URLError, ConnectionError):
                return ""

        return wait_until(answer, 10, "/readyz stays 200")

    def readiness(self) -> tuple[int, str]:
        """How `/readyz` answers: the status and the text; 0 if it does not."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0, ""

    def start(self, name: str) -> None:
        self._processes.start(name)

    def start_what_ended(self) -> None:
        """Do what systemd and Docker do: start anew whatever has ended by itself."""
        for name in self._processes.ended():
            self.start(name)

    def stop(self, name: str) -> list[str]:
        """SIGTERM and wait; returns `[name]` if it did not end in time and had to be killed."""
        return self._processes.stop(name)

    def kill(self, name: str, *, whole_family: bool = True) -> None:
        self._processes.kill(name, whole_family=whole_family)

    def stop_all(self) -> list[str]:
        return self._processes.stop_all()

    def pid(self, name: str) -> int:
        return self._processes.pid(name)

    def is_running(self, name: str) -> bool:
        return self._processes.is_running(name)

    def output(self, *names: str) -> str:
        """What the processes have written so far, the last 40 lines of each."""
        logs = [self._processes.log(name) for name in names]
        tails = [log.read_text(errors="replace").splitlines()[-40:] for log in logs if log.exists()]
        return "\n".join(line for tail in tails for line in tail)

    def everything_written(self) -> str:
        """Whatever the processes have written, from the beginning."""
        logs = [self._processes.log(name) for name in self._names]
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def manage(
        self, *arguments: str, input: str | None = None, must_succeed: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `manage.py` with the stack's environment."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self._processes.environment,
            input=input,
            capture_output=True,
            text=True,
        )
        if must_succeed and done.returncode != 0:
            raise AssertionError(f"manage.py {arguments[0]} failed:\n{done.stdout}{done.stderr}")
        return done

    @property
    def process_environment(self) -> dict[str, str]:
        """All that its processes are run with."""
        return dict(self._processes.environment)

    def execute(
        self, sql: str, parameters: Sequence[object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run SQL in the stack's own database."""
        return execute(self.database_url, sql, parameters)

    def is_ready(self) -> bool:
        """Whether `/readyz` says 200."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@contextmanager
def running_stack(
    server: PostgresServer | ExternalPostgres,
    broker_url: str,
    folder: Path,
    copies: Mapping[str, int] | None = None,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Stack]:
    """The whole product on a new database of `server`, which is dropped when it has ended."""
    url = new_control_database(server)
    stack = Stack(url, broker_url, folder, copies, environments)
    try:
        stack.start_processes()
        yield stack
    finally:
        stack.stop_all()
        drop_database(server, url)


def new_control_database(server: PostgresServer | ExternalPostgres) -> str:
    """The URL of a new database as `migrate` makes it: a copy of one that it has made before."""
    url = server.create_database(template=_migrated(server))
    # Each installation has a number of its own.
    execute(url, "UPDATE eventing_installation SET node_id = gen_random_uuid()")
    return url


@cache
def _migrated(server: PostgresServer | ExternalPostgres) -> str:
    """The name of a migrated database of `server`, to which nobody connects."""
    url = server.create_database()
    name = name_in(url)
    if isinstance(server, ExternalPostgres):
        atexit.register(drop_database, server, url)
    # No broker is asked.
    Stack(url, "redis://127.0.0.1:1", temporary_folder()).migrate()
    return name
