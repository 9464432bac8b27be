"""What the source contract needs of each kind of database, said in that database's own words.

A subject is one database on a server that the test may break. Its tables hold rows of a key `id`
and a text `v`. Everything here goes to the server past the source that is being tested.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import psycopg2

from eventing.sources.base import Source
from eventing.sources.mongodb import MongoSource
from eventing.sources.mysql import MySqlSource
from eventing.sources.postgres import PostgresSource
from tests.databases import MongoDbServer, MySqlServer, connect
from tests.servers import PostgresServer, drop_database, name_in
from tests.waiting import wait_until

Row = tuple[int, str]


class Writer(Protocol):
    """One connection; what it writes commits together."""

    def insert(self, table: str, *rows: Row) -> None: ...

    def update(self, table: str, key: int, value: str) -> None: ...

    def delete(self, table: str, key: int) -> None: ...


class Subject(ABC):
    """One database of one kind; made for a test and dropped with it."""

    # Whether an update is read with the row as it was then, not as it is when it is read.
    tells_past_rows = True
    # How many rows of a kilobyte one transaction can hold on the server that the tests run.
    huge_rows = 100_000

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"mission_control_{secrets.token_hex(6)}"

    @property
    def database(self) -> str:
        return name_in(self.url)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @abstractmethod
    def source(self, url: str = "") -> Source:
        """A source of this database, by this URL; every one of them has the same name."""

    @abstractmethod
    def transaction(self, *, commit: bool = True) -> Any:
        """A context in which a Writer is at hand; at its end all is committed or rolled back."""

    def insert(self, table: str, *rows: Row) -> None:
        with self.transaction() as writer:
            writer.insert(table, *rows)

    def update(self, table: str, key: int, value: str) -> None:
        with self.transaction() as writer:
            writer.update(table, key, value)

    def delete(self, table: str, key: int) -> None:
        with self.transaction() as writer:
            writer.delete(table, key)

    @abstractmethod
    def create(self, *tables: str) -> None: ...

    @abstractmethod
    def add_field(self, table: str, name: str) -> None:
        """From now on rows have one field more, with the text `new` in it."""

    @abstractmethod
    def rename(self, table: str, name: str) -> None: ...

    @abstractmethod
    def drop(self, table: str) -> None: ...

    @abstractmethod
    def truncate(self, table: str) -> None:
        """Take all rows away without deleting them one by one, where the database can."""

    @abstractmethod
    def beside(self) -> "Subject":
        """Another database on the same server."""

    @abstractmethod
    def restart(self) -> None:
        """Kill the server and start it again."""

    @abstractmethod
    def lost(self, position: str) -> str:
        """A position that the server has forgotten what comes after: this one, or an older one."""

    @abstractmethod
    def new_user(self) -> str:
        """A URL of this database for a new user who may capture it."""

    @abstractmethod
    def change_password(self, url: str) -> str:
        """Give the user of `url` another password; returns the URL with it."""

    def through(self, port: int) -> str:
        """The URL of this database by another port of this machine."""
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()

    @abstractmethod
    def close(self) -> None:
        """Drop the database with all that belongs to it."""


class SqlWriter:
    """A DB-API connection, with statements every SQL database understands."""

    def __init__(self, connection: Any, subject: "SqlSubject") -> None:
        self._connection = connection
        self._subject = subject

    def insert(self, table: str, *rows: Row) -> None:
        for first in range(0, len(rows), 1000):
            part = rows[first : first + 1000]
            values = ", ".join(["(%s, %s)"] * len(part))
            self._run(
                f"INSERT INTO {self._named(table)} (id, v) VALUES {values}",
                [value for row in part for value in row],
            )

    def update(self, table: str, key: int, value: str) -> None:
        self._run(f"UPDATE {self._named(table)} SET v = %s WHERE id = %s", [value, key])

    def delete(self, table: str, key: int) -> None:
        self._run(f"DELETE FROM {self._named(table)} WHERE id = %s", [key])

    def _run(self, statement: str, parameters: Sequence[object]) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)

    def _named(self, table: str) -> str:
        return self._subject.quoted(table).replace("%", "%%")


class SqlSubject(Subject):
    """A database that is spoken to in SQL."""

    @abstractmethod
    def connection(self) -> Any:
        """A DB-API connection that commits when it is told to."""

    @abstractmethod
    def quoted(self, name: str) -> str: ...

    @contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[SqlWriter]:
        connection = self.connection()
        try:
            yield SqlWriter(connection, self)
            if commit:
                connection.commit()
            else:
                connection.rollback()
        finally:
            connection.close()

    def run(self, *statements: str) -> None:
        connection = self.connection()
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()
        connection.close()

    def add_field(self, table: str, name: str) -> None:
        named = f"{self.quoted(table)} ADD COLUMN {self.quoted(name)}"
        self.run(f"ALTER TABLE {named} varchar(9) NOT NULL DEFAULT 'new'")

    def rename(self, table: str, name: str) -> None:
        self.run(f"ALTER TABLE {self.quoted(table)} RENAME TO {self.quoted(name)}")

    def drop(self, table: str) -> None:
        self.run(f"DROP TABLE {self.quoted(table)}")

    def truncate(self, table: str) -> None:
        self.run(f"TRUNCATE TABLE {self.quoted(table)}")


class PostgresSubject(SqlSubject):
    """A database of Postgres."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server.create_database())
        self._server = server
        self._role = ""

    def source(self, url: str = "") -> PostgresSource:
        return PostgresSource(url or self.url, self.name, None)

    def connection(self) -> Any:
        return psycopg2.connect(self.url)

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def create(self, *tables: str) -> None:
        self.run(*(f"CREATE TABLE {self.quoted(t)} (id int PRIMARY KEY, v text)" for t in tables))

    def beside(self) -> "PostgresSubject":
        return PostgresSubject(self._server)

    def restart(self) -> None:
        self._server.restart("immediate")

    def lost(self, position: str) -> str:
        def is_dropped() -> bool:
            self._server.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = %s AND NOT active",
                [self.name],
            )
            left = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s"
            return not self._server.execute(left, [self.name])

        wait_until(is_dropped, 20, "the slot stays")
        return position

    def new_user(self) -> str:
        self._role = f"reader_{secrets.token_hex(4)}"
        self.run(f"CREATE ROLE {self._role} LOGIN SUPERUSER REPLICATION PASSWORD 'first'")
        return _with_login(self.url, self._role, "first")

    def change_password(self, url: str) -> str:
        password = secrets.token_hex(8)
        self.run(f"ALTER ROLE {self._role} PASSWORD '{password}'")
        return _with_login(url, self._role, password)

    def close(self) -> None:
        self.source().remove()
        if self._role:
            self.run(f"REASSIGN OWNED BY {self._role} TO postgres", f"DROP ROLE {self._role}")
        drop_database(self._server, self.url)


class MySqlSubject(SqlSubject):
    """A database of MySQL or MariaDB."""

    def __init__(self, server: MySqlServer) -> None:
        super().__init__(server.create_database())
        self._server = server
        self._user = ""

    def source(self, url: str = "") -> MySqlSource:
        return MySqlSource(url or self.url, self.name)

    def connection(self) -> Any:
        return connect(self.url, autocommit=False)

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def create(self, *tables: str) -> None:
        rows = "(id int PRIMARY KEY, v longtext)"
        self.run(*(f"CREATE TABLE {self.quoted(table)} {rows}" for table in tables))

    def beside(self) -> "MySqlSubject":
        return MySqlSubject(self._server)

    def restart(self) -> None:
        self._server.kill()
        self._server.start()

    def lost(self, position: str) -> str:
        self._server.execute("FLUSH BINARY LOGS")
        (last, *_) = self._server.execute("SHOW BINARY LOGS")[-1]

        def is_purged() -> bool:
            self._server.execute(f"PURGE BINARY LOGS TO '{last}'")
            return len(self._server.execute("SHOW BINARY LOGS")) == 1

        wait_until(is_purged, 20, "the binary logs stay")
        return position

    def new_user(self) -> str:
        self._user = f"reader_{secrets.token_hex(4)}"
        self._server.execute(f"CREATE USER {self._user}@'%' IDENTIFIED BY 'first'")
        grants = "REPLICATION SLAVE, REPLICATION CLIENT ON *.*", f"SELECT ON `{self.database}`.*"
        for grant in grants:
            self._server.execute(f"GRANT {grant} TO {self._user}@'%'")
        return _with_login(self.url, self._user, "first")

    def change_password(self, url: str) -> str:
        password = secrets.token_hex(8)
        self._server.execute(f"ALTER USER {self._user}@'%' IDENTIFIED BY '{password}'")
        return _with_login(url, self._user, password)

    def close(self) -> None:
        if self._user:
            self._server.execute(f"DROP USER {self._user}@'%'")
        self._server.execute(f"DROP DATABASE {self.quoted(self.database)}")


class MongoWriter:
    """A session of MongoDB's in a transaction."""

    def __init__(self, database: Any, session: Any, fields: dict[str, str]) -> None:
        self._database = database
        self._session = session
        self._fields = fields

    def insert(self, table: str, *rows: Row) -> None:
        documents = [{"_id": key, "v": value, **self._fields} for key, value in rows]
        self._database[table].insert_many(documents, session=self._session)

    def update(self, table: str, key: int, value: str) -> None:
        change = {"$set": {"v": value}}
        self._database[table].update_one({"_id": key}, change, session=self._session)

    def delete(self, table: str, key: int) -> None:
        self._database[table].delete_one({"_id": key}, session=self._session)


class MongoSubject(Subject):
    """A database of MongoDB."""

    tells_past_rows = False
    huge_rows = 40_000

    def __init__(self, server: MongoDbServer) -> None:
        super().__init__(server.url(f"database_{secrets.token_hex(6)}"))
        self._server = server
        self._fields: dict[str, str] = {}
        self._user = ""

    def source(self, url: str = "") -> MongoSource:
        return MongoSource(url or self.url, self.name)

    @contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[MongoWriter]:
        with self._server.client() as client, client.start_session() as session:
            session.start_transaction()
            yield MongoWriter(client[self.database], session, self._fields)
            if commit:
                session.commit_transaction()
            else:
                session.abort_transaction()

    def create(self, *tables: str) -> None:
        with self._server.client() as client:
            for table in tables:
                client[self.database].create_collection(table)

    def add_field(self, table: str, name: str) -> None:
        self._fields = {**self._fields, name: "new"}

    def rename(self, table: str, name: str) -> None:
        with self._server.client() as client:
            client[self.database][table].rename(name)

    def drop(self, table: str) -> None:
        with self._server.client() as client:
            client[self.database][table].drop()

    def truncate(self, table: str) -> None:
        self.drop(table)
        self.create(table)

    def beside(self) -> "MongoSubject":
        return MongoSubject(self._server)

    def restart(self) -> None:
        self._server.kill()
        self._server.start()

    def lost(self, position: str) -> str:
        # The second to the fifth byte of a token are the seconds of its time.
        return f"{position[:2]}{1:08x}{position[10:]}"

    def new_user(self) -> str:
        self._user = f"reader_{secrets.token_hex(4)}"
        with self._server.client() as client:
            roles = [{"role": "read", "db": self.database}]
            client[self.database].command("createUser", self._user, pwd="first", roles=roles)
        return _with_login(self.url, self._user, "first")

    def change_password(self, url: str) -> str:
        password = secrets.token_hex(8)
        with self._server.client() as client:
            client[self.database].command("updateUser", self._user, pwd=password)
        return _with_login(url, self._user, password)

    def through(self, port: int) -> str:
        return f"mongodb://127.0.0.1:{port}/{self.database}?directConnection=true"

    def close(self) -> None:
        with self._server.client() as client:
            if self._user:
                client[self.database].command("dropUser", self._user)
            client.drop_database(self.database)


def _with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user)}:{quote(password)}@{place}").geturl()
