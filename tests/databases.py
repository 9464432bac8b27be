"""MySQL, MariaDB and MongoDB for the tests: real servers, each in a folder thrown away after.

MariaDB is Debian's; MySQL and MongoDB are what `bin/test` fetched into `var/servers`.
`TEST_MYSQL_URL` and `TEST_MONGODB_URL` name others to use instead. A server that cannot be had
fails the run.
"""

import atexit
import os
import secrets
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pymongo
import pymysql
import pymysql.cursors
from pymongo.errors import PyMongoError

from demo.servers import Server, ServerError, give_away, without_root
from tests.folders import temporary_folder
from tests.ports import free_port
from tests.servers import made_once

_FETCHED = Path(__file__).resolve().parent.parent / "var" / "servers"
_LIBRARIES = "root/usr/lib/x86_64-linux-gnu"
# Nothing of a test survives the machine, so nothing has to reach its disk.
_MYSQL_SETTINGS = {
    "log_bin": "binlog",
    "binlog_format": "ROW",
    "server_id": "1",
    "sync_binlog": "0",
    "innodb_flush_log_at_trx_commit": "0",
    "innodb_flush_method": "nosync",
    "innodb_doublewrite": "OFF",
    "max_allowed_packet": "64M",
    "character_set_server": "utf8mb4",
    "default_time_zone": "+01:00",
}


def connect(url: str, **options: Any) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """A connection of our own to a MySQL or MariaDB, in autocommit."""
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.lstrip("/")) or None,
        charset="utf8mb4",
        **{"autocommit": True, **options},
    )


def execute(url: str, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Run one statement at `url`; returns its rows, or an empty list."""
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())
    finally:
        connection.close()


def is_mariadb(url: str) -> bool:
    return "MariaDB" in str(execute(url, "SELECT version()")[0][0])


class SqlServer(ABC):
    """What tests do in a MySQL or MariaDB, ours or somebody's."""

    @abstractmethod
    def url(self, database: str = "mysql") -> str: ...

    def create_database(self, name: str | None = None) -> str:
        """Make a database (with a name of its own unless one is given); returns its URL."""
        name = name or f"database_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE `{name}`")
        return self.url(name)

    def execute(
        self, sql: str, parameters: Any = None, database: str = "mysql"
    ) -> list[tuple[Any, ...]]:
        """Run one statement; returns its rows, or an empty list."""
        return execute(self.url(database), sql, parameters)


class ExternalMySql(SqlServer):
    """The server of `TEST_MYSQL_URL`: used as it is, never started, stopped or killed."""

    def __init__(self, url: str) -> None:
        self._url = url

    def start(self) -> None:
        try:
            self.execute("SELECT 1")
        except pymysql.MySQLError as error:
            raise ServerError(f"TEST_MYSQL_URL: {error}") from error

    def stop(self) -> None:
        """Leave it running, as it was found."""

    def url(self, database: str = "mysql") -> str:
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()


class MySqlServer(SqlServer, Server):
    """A MySQL 9, run with the libraries it was built for. Its superuser is `root`."""

    name = "MySQL"
    # It takes no notice of an interrupt.
    farewell = "TERM"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, free_port())
        self.password = secrets.token_urlsafe(18)
        self._files = folder / "data"
        self.settings = {**_MYSQL_SETTINGS, **self._own_settings(), **(settings or {})}

    def _own_settings(self) -> dict[str, str]:
        return {"mysqlx": "OFF", "gtid_mode": "ON", "enforce_gtid_consistency": "ON"}

    @property
    def _program(self) -> list[str]:
        root = _FETCHED / "mysql"
        server = root / "root/usr/sbin/mysqld"
        if not server.exists():
            raise ServerError("MySQL is not there: bin/test fetches it")
        libraries = root / _LIBRARIES
        loader = libraries / "ld-linux-x86-64.so.2"
        return [str(loader), "--library-path", str(libraries), str(server), "--no-defaults",
                f"--basedir={root / 'root/usr'}", "--secure-file-priv="]  # fmt: skip

    def _initialize(self) -> None:
        """Files of a server that has never been started are a copy: making them takes longer."""
        made = made_once(self.name, lambda folder: self._make_files(folder / "data"))
        # Links and owners as they are.
        subprocess.run(["cp", "--archive", made / "data", self._files], check=True)

    def _make_files(self, files: Path) -> None:
        self._run_once([*self._program, "--initialize-insecure", f"--datadir={files}",
                        "--innodb-flush-method=nosync"])  # fmt: skip
        # The server's identity; each makes one of its own when there is none.
        (files / "auto.cnf").unlink(missing_ok=True)

    def _run_once(self, command: Sequence[str]) -> None:
        done = subprocess.run(
            [*without_root(self.folder, Path(command[0])), *command],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise ServerError(f"{self.name} cannot be initialized:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        # Not /tmp: a MariaDB that starts deletes the temporary tables of all others there.
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        give_away(self.folder, temporary)
        is_new = not self._files.exists()
        if is_new:
            self._initialize()
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        own = [
            f"--datadir={self._files}",
            f"--tmpdir={temporary}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
        ]
        self._spawn([*self._program, *own, *options])
        self._wait_until_ready(lambda: self._answers("" if is_new else self.password))
        if is_new:
            self._set_password()

    def _answers(self, password: str) -> bool:
        try:
            self._connect(password).close()
        except pymysql.MySQLError:
            return False
        return True

    def _connect(self, password: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", password=password, autocommit=True
        )

    def _set_password(self) -> None:
        connection = self._connect("")
        with connection.cursor() as cursor:
            cursor.execute("ALTER USER 'root'@'localhost' IDENTIFIED BY %s", [self.password])
        connection.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def url(self, database: str = "mysql") -> str:
        return f"mysql://root:{self.password}@127.0.0.1:{self.port}/{database}"


class MariaDbServer(MySqlServer):
    """Debian's MariaDB."""

    name = "MariaDB"

    def _own_settings(self) -> dict[str, str]:
        return {}

    @property
    def _program(self) -> list[str]:
        server = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if server is None:
            raise ServerError("MariaDB is not there: apt-get install mariadb-server")
        return [server, "--no-defaults"]

    def _make_files(self, files: Path) -> None:
        installer = shutil.which("mariadb-install-db")
        if installer is None:
            raise ServerError("MariaDB is not there: apt-get install mariadb-server")
        self._run_once(
            [installer, "--no-defaults", f"--datadir={files}", "--skip-test-db",
             "--auth-root-authentication-method=normal", "--innodb-flush-method=nosync"]
        )  # fmt: skip


class MongoDbServer(Server):
    """A MongoDB replica set of one node."""

    name = "MongoDB"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, free_port())
        self._files = folder / "data"
        self.options = options
        # None: the next start is that of a server that stands alone.
        self.replica_set: str | None = "rs0"

    def start(self) -> None:
        program = _FETCHED / "mongodb/bin/mongod"
        if not program.exists():
            raise ServerError("MongoDB is not there: bin/test fetches it")
        is_new = not self._files.exists()
        self._files.mkdir(exist_ok=True)
        give_away(self.folder, self._files)
        loader = ["/lib64/ld-linux-x86-64.so.2", "--library-path"]
        command = [*loader, str(_FETCHED / "openssl1.1" / _LIBRARIES), str(program)]
        command += ["--dbpath", str(self._files), "--port", str(self.port)]
        command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.5"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        # How often a position moves on where nobody writes; else every ten seconds.
        command += ["--setParameter", "periodicNoopIntervalSecs=1", *self.options]
        if self.replica_set is not None:
            command += ["--replSet", self.replica_set]
        self._spawn(command)
        self._wait_until_ready(self._answers)
        if is_new:
            member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
            with self.client() as client:
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        if self.replica_set is not None:
            self._wait_until_ready(self._is_primary)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                client.admin.command("ping")
            except PyMongoError:
                return False
            return True

    def _is_primary(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.admin.command("hello")["isWritablePrimary"])
            except PyMongoError:
                return False

    def restart(self) -> None:
        self.stop()
        self.start()

    def client(self) -> "pymongo.MongoClient[dict[str, Any]]":
        """A client of our own; to be closed."""
        return pymongo.MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=2000
        )

    def url(self, database: str = "test") -> str:
        return f"mongodb://127.0.0.1:{self.port}/{database}?replicaSet=rs0"


class ExternalMongoDb:
    """The server of `TEST_MONGODB_URL`: used as it is, never started, stopped or killed."""

    def __init__(self, url: str) -> None:
        self._url = url

    def start(self) -> None:
        try:
            with self.client() as client:
                client.admin.command("ping")
        except PyMongoError as error:
            raise ServerError(f"TEST_MONGODB_URL: {error}") from error

    def stop(self) -> None:
        """Leave it running, as it was found."""

    def client(self) -> "pymongo.MongoClient[dict[str, Any]]":
        return pymongo.MongoClient(self._url, serverSelectionTimeoutMS=5000)

    def url(self, database: str = "test") -> str:
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()


def new_mysql(**settings: str) -> MySqlServer:
    """A MySQL of our own, not started yet."""
    server = MySqlServer(temporary_folder() / "mysql", settings)
    atexit.register(server.kill)
    return server


def new_mariadb(**settings: str) -> MariaDbServer:
    """A MariaDB of our own, not started yet."""
    server = MariaDbServer(temporary_folder() / "mariadb", settings)
    atexit.register(server.kill)
    return server


def new_mongodb(*options: str) -> MongoDbServer:
    """A MongoDB of our own, not started yet."""
    server = MongoDbServer(temporary_folder() / "mongodb", *options)
    atexit.register(server.kill)
    return server


def session_mysql() -> MySqlServer | ExternalMySql:
    """The MySQL that most tests share."""
    external = os.environ.get("TEST_MYSQL_URL")
    return ExternalMySql(external) if external else new_mysql()


def session_mongodb() -> MongoDbServer | ExternalMongoDb:
    """The MongoDB that most tests share."""
    external = os.environ.get("TEST_MONGODB_URL")
    return ExternalMongoDb(external) if external else new_mongodb()
