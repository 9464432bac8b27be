"""The servers that the tests run against: real ones, on free ports, in folders thrown away after.

Postgres is Debian's newest where there is one, else the wheel's; `TEST_POSTGRES_URL` names another
one to use instead. A server that cannot be had fails the run: nothing here ever skips.
"""

import atexit
import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from kombu import Connection

from demo.servers import (
    PostgresServer,
    RedisServer,
    Server,
    ServerError,
    execute,
    give_away,
    wheel_postgres,
    wheel_redis,
)
from tests.folders import temporary_folder
from tests.ports import free_port
from tests.waiting import wait_until

__all__ = [
    "ExternalPostgres",
    "PgBouncer",
    "PostgresServer",
    "RabbitMqServer",
    "RedisServer",
    "ServerError",
    "drop_database",
    "execute",
    "name_in",
    "new_database",
    "new_pgbouncer",
    "new_postgres",
    "new_rabbitmq",
    "new_redis",
    "session_postgres",
    "session_redis",
]

# Names the folder that the processes of one run share; without it each process has its own.
SHARED_FOLDER = "TEST_SHARED_FOLDER"
# One for all servers of a run whose files are copies; its other processes have it from the first.
_PASSWORD = os.environ.setdefault("TEST_PASSWORD", secrets.token_urlsafe(18))
# Nothing of a test survives the machine, so nothing has to reach its disk.
_POSTGRES_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "checkpoint_timeout": "30s",
    "max_wal_size": "256MB",
}


class CopiedPostgres(PostgresServer):
    """One that begins with a copy of files: making them takes longer."""

    def __init__(self, folder: Path, binaries: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder, binaries, free_port(), _PASSWORD, settings)

    def _make_cluster(self) -> None:
        kind = "-".join(("postgres", *self._binaries.parts[1:]))
        made = made_once(kind, self._make_for_all)
        give_away(self.folder)
        # Under another name until it is whole; owners as they are.
        draft = self.folder / "draft"
        subprocess.run(["cp", "--archive", made / "cluster", draft], check=True)
        draft.rename(self._cluster)

    def _make_for_all(self, folder: Path) -> None:
        PostgresServer(folder, self._binaries, password=_PASSWORD)._make_cluster()


class ExternalPostgres:
    """The server of `TEST_POSTGRES_URL`: used as it is, never started, stopped or killed."""

    def __init__(self, url: str) -> None:
        self._url = url

    def start(self) -> None:
        """Raises ServerError when the server does not answer."""
        try:
            self.execute("SELECT 1")
        except psycopg2.OperationalError as error:
            raise ServerError(f"TEST_POSTGRES_URL: {error}") from error

    def stop(self, mode: str = "fast") -> None:
        """Leave it running, as it was found."""

    def restart(self, mode: str = "fast") -> None:
        raise ServerError("the server of TEST_POSTGRES_URL is not ours to restart")

    def kill(self) -> None:
        raise ServerError("the server of TEST_POSTGRES_URL is not ours to kill")

    def url(self, database: str = "postgres") -> str:
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()

    def create_database(self, name: str | None = None, template: str = "template1") -> str:
        name = name or f"database_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def execute(
        self, sql: str, parameters: Sequence[object] | None = None, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        return execute(self.url(database), sql, parameters)


class PgBouncer(Server):
    """Debian's PgBouncer before a Postgres; its few connections to it are for all clients."""

    name = "PgBouncer"

    def __init__(self, folder: Path, postgres: PostgresServer, mode: str, connections: int) -> None:
        super().__init__(folder, free_port())
        self._postgres = postgres
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(folder / "users"),
            "pool_mode": mode,
            "default_pool_size": str(connections),
            "max_client_conn": "200",
        }

    def start(self) -> None:
        users, configuration = self.folder / "users", self.folder / "pgbouncer.ini"
        users.write_text(f'"postgres" "{self._postgres.password}"\n')
        settings = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        server = f"host=127.0.0.1 port={self._postgres.port}"
        configuration.write_text(f"[databases]\n* = {server}\n[pgbouncer]\n{settings}")
        give_away(self.folder, users, configuration)
        self._spawn(["/usr/sbin/pgbouncer", configuration])
        self._wait_until_ready(self._answers)

    def restart(self) -> None:
        """Break off every connection."""
        self.kill()
        self.start()

    def url(self, database: str = "postgres") -> str:
        login = f"postgres:{self._postgres.password}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def through(self, url: str) -> str:
        """The URL of the same database by way of the pooler."""
        return self.url(name_in(url))

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class ErlangPorts(Server):
    """The daemon by which nodes of Erlang find each other; this one knows ours alone."""

    name = "epmd"

    def start(self) -> None:
        give_away(self.folder)
        self._spawn(["/usr/bin/epmd", "-port", str(self.port), "-address", "127.0.0.1"])
        self._wait_until_ready(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class RabbitMqServer(Server):
    """Debian's RabbitMQ as a node of our own; `restart(empty=True)` loses all it held."""

    name = "RabbitMQ"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())
        self.password = secrets.token_urlsafe(18)
        self._files = folder / "files"
        self._ports = ErlangPorts(folder / "epmd", free_port())

    def start(self) -> None:
        self._files.mkdir(exist_ok=True)
        configuration = self.folder / "rabbitmq.conf"
        configuration.write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            f"default_user = tester\ndefault_pass = {self.password}\ndefault_vhost = hooks\n"
            "log.console = true\nlog.file = false\n"
        )
        plugins = self.folder / "plugins"
        plugins.write_text("[].\n")
        give_away(self.folder, self._files, configuration, plugins)
        if not self._ports.is_running:
            self._ports.start()
        environment = {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._ports.port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(self._files),
            "RABBITMQ_LOG_BASE": str(self._files),
            "RABBITMQ_NODENAME": f"tests{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            # One thread that waits for work without turning round meanwhile.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        # The one in the path becomes the packaged service's user first.
        self._spawn(["/usr/lib/rabbitmq/bin/rabbitmq-server"], environment=environment)
        self._wait_until_ready(self._answers)

    def stop(self) -> None:
        self.kill()
        self._ports.stop()

    def kill(self) -> None:
        self._end_family()

    def restart(self, *, empty: bool) -> None:
        """Kill it and start it anew, with what it had on disk or with nothing."""
        self.kill()
        if empty:
            shutil.rmtree(self._files)
        self.start()

    def url(self) -> str:
        return f"amqp://tester:{self.password}@127.0.0.1:{self.port}/hooks"

    def _answers(self) -> bool:
        with Connection(self.url(), connect_timeout=2) as connection:
            try:
                connection.connect()
            except connection.connection_errors:
                return False
            return True


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in which `make` has made something, once for all tests of a run."""
    shared = _shared_folder()
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # Under another name until it is whole.
            draft = shared / f"{name}.draft"
            draft.mkdir()
            give_away(draft)
            make(draft)
            draft.rename(folder)
    return folder


@cache
def _shared_folder() -> Path:
    shared = os.environ.get(SHARED_FOLDER)
    return Path(shared) if shared else temporary_folder()


def new_postgres(
    version: int | None = None, folder: Path | None = None, **settings: str
) -> PostgresServer:
    """A Postgres of our own, not yet started: the wheel's `version` (16, 18) or the usual one."""
    binaries = wheel_postgres(version) if version else _debian_postgres() or wheel_postgres(16)
    folder = folder or temporary_folder() / "postgres"
    server = CopiedPostgres(folder, binaries, {**_POSTGRES_SETTINGS, **settings})
    atexit.register(server.stop, "immediate")
    return server


def new_redis() -> RedisServer:
    """A Redis of our own, not started yet."""
    debian = shutil.which("redis-server")
    binary = Path(debian) if debian else wheel_redis()
    server = RedisServer(temporary_folder() / "redis", binary, free_port())
    atexit.register(server.stop)
    return server


def new_pgbouncer(postgres: PostgresServer, mode: str, connections: int) -> PgBouncer:
    """A PgBouncer of our own, not started yet. Raises ServerError if the package is not there."""
    if not Path("/usr/sbin/pgbouncer").exists():
        raise ServerError("PgBouncer is not there: as root, apt-get install pgbouncer")
    server = PgBouncer(temporary_folder() / "pgbouncer", postgres, mode, connections)
    atexit.register(server.stop)
    return server


def new_rabbitmq() -> RabbitMqServer:
    """A RabbitMQ of our own, not started yet. Raises ServerError if the package is not there."""
    if not Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        raise ServerError("RabbitMQ is not there: as root, apt-get install rabbitmq-server")
    server = RabbitMqServer(temporary_folder() / "rabbitmq")
    atexit.register(server.stop)
    return server


@cache
def session_postgres() -> PostgresServer | ExternalPostgres:
    """The server that most tests share; its address is known before it is started."""
    external = os.environ.get("TEST_POSTGRES_URL")
    return ExternalPostgres(external) if external else new_postgres()


@cache
def session_redis() -> RedisServer:
    """The broker that most tests share; its address is known before it is started."""
    return new_redis()


@contextlib.contextmanager
def backup_of(url: str) -> Iterator[None]:
    """As pg_dump does it: no table can be altered, and nothing that goes is forgotten meanwhile."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(
            "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables"
            " WHERE schemaname IN ('public', 'mission_control')"
        )
        ((tables,),) = cursor.fetchall()
        cursor.execute(f"LOCK TABLE {tables} IN ACCESS SHARE MODE")
        yield
    connection.close()


def name_in(url: str) -> str:
    """The name of the database that a URL leads to."""
    return urlsplit(url).path.lstrip("/")


@contextlib.contextmanager
def new_database(
    server: PostgresServer | ExternalPostgres, template: str = "template1"
) -> Iterator[str]:
    """The URL of a new database, which is dropped afterwards."""
    url = server.create_database(template=template)
    try:
        yield url
    finally:
        drop_database(server, url)


def drop_database(server: PostgresServer | ExternalPostgres, url: str) -> None:
    """Drop a database with its replication slots, whoever is still reading them."""
    name = name_in(url)

    def slots_are_gone() -> bool:
        server.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE database = %s AND active",
            [name],
        )
        server.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s AND NOT active",
            [name],
            database=name,
        )
        query = "SELECT count(*) FROM pg_replication_slots WHERE database = %s"
        return bool(server.execute(query, [name])[0][0] == 0)

    # Most have none, and each question is a connection.
    found = server.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_replication_slots WHERE database = datname)"
        " FROM pg_database WHERE datname = %s",
        [name],
    )
    if found == [(True,)]:
        wait_until(slots_are_gone, 10, f"a replication slot of {name} stays in use")
    if found:
        server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _debian_postgres() -> Path | None:
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest_last = sorted(found, key=lambda program: float(program.parts[-3]))
    return newest_last[-1].parent if newest_last else None
