"""Who writes to the sources during a storm, and the ledger of all that they committed.

Documents of `orders` come, change and go, those of `stock` are few and change all the time; several
writers change the same ones. Each change raises its document's `version`, under the lock that its
update takes, so the versions of a document are the order of its changes. A transaction also notes
its number in `noted`: when a server dies in the middle of a commit, that tells what became of it.
"""

import random
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import psycopg2
import pymongo
import pymysql
from pymongo.errors import PyMongoError

from eventing.changes import Operation
from tests.databases import MongoDbServer, connect

ITEMS: Final = (1, 2, 3)
_FIRST_ORDER: Final = 1_000_000
_PAUSE_SECONDS: Final = 0.8


class Document(NamedTuple):
    """A row or document, by the alias of its database, its table and its key."""

    database: str
    table: str
    key: int


class Change(NamedTuple):
    """One committed change, and the version that its document has by it."""

    document: Document
    operation: Operation
    version: int


class Ledger:
    """All committed changes, from any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: list[Change] = []
        self._alive: dict[str, set[int]] = defaultdict(set)
        self._unsure: list[tuple[Callable[[int], bool], int, Sequence[Change]]] = []

    def note(self, changes: Sequence[Change]) -> None:
        with self._lock:
            self._changes += changes
            for document, operation, _ in changes:
                if document.table == "orders" and operation == "insert":
                    self._alive[document.database].add(document.key)
                elif operation == "delete":
                    self._alive[document.database].discard(document.key)

    def note_unsure(
        self, is_noted: Callable[[int], bool], number: int, changes: Sequence[Change]
    ) -> None:
        """A commit was not answered; `is_noted` asks the server whether it was made."""
        with self._lock:
            self._unsure.append((is_noted, number, changes))

    def settle(self) -> None:
        """Ask about the commits that were not answered; to be called when all servers run."""
        with self._lock:
            unsure, self._unsure = self._unsure, []
        for is_noted, number, changes in unsure:
            if is_noted(number):
                self.note(changes)

    def orders(self, database: str) -> list[int]:
        """Keys of orders that are there, as far as is known."""
        with self._lock:
            return sorted(self._alive[database])

    def changes(self, *tables: str) -> list[Change]:
        with self._lock:
            return [change for change in self._changes if change.document.table in tables]

    def by_document(self) -> dict[Document, list[Change]]:
        """The changes of each document, in the order in which they were committed."""
        found: dict[Document, list[Change]] = defaultdict(list)
        for change in sorted(self.changes("orders", "stock"), key=lambda each: each.version):
            found[change.document].append(change)
        return found


class Writer(ABC):
    """Makes transactions of one to four changes until told to stop; some are rolled back.

    Several of one database have different `number`s, and change each other's documents.
    """

    # What the driver raises when the server is away, or has chosen this transaction to give way.
    errors: type[Exception]

    def __init__(self, ledger: Ledger, alias: str, number: int, seed: int) -> None:
        self._ledger = ledger
        self._alias = alias
        self._next_order = _FIRST_ORDER * number
        self._next_transaction = _FIRST_ORDER * number
        self._random = random.Random(seed * 100 + number)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def stop(self) -> None:
        """End after the transaction at hand; the server must answer."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self.disconnect()

    def _write(self) -> None:
        while not self._stopping.wait(self._random.uniform(0.0, _PAUSE_SECONDS)):
            self._transact()

    def _transact(self) -> None:
        self._next_transaction += 1
        number = self._next_transaction
        try:
            self.begin(number)
            changes = self._change_some()
            if self._random.random() < 0.2:
                self.roll_back()
                return
        except self.errors:
            self.disconnect()
            return
        try:
            self.commit()
        except self.errors:
            self.disconnect()
            self._ledger.note_unsure(self.is_noted, number, changes)
        else:
            self._ledger.note(changes)

    def _change_some(self) -> list[Change]:
        changes = []
        for _ in range(self._random.randint(1, 4)):
            choice = self._random.random()
            orders = self._ledger.orders(self._alias)
            if choice < 0.45 or not orders:
                self._next_order += 1
                self.insert("orders", self._next_order)
                changes.append(self._change("orders", self._next_order, "insert", 1))
                continue
            if choice < 0.65:
                table, key = "stock", self._random.choice(ITEMS)
            else:
                table, key = "orders", self._random.choice(orders)
            operation: Operation = "delete" if choice > 0.9 else "update"
            version = (self.update if operation == "update" else self.delete)(table, key)
            if version is not None:
                changes.append(self._change(table, key, operation, version))
        return changes

    def _change(self, table: str, key: int, operation: Operation, version: int) -> Change:
        return Change(Document(self._alias, table, key), operation, version)

    @abstractmethod
    def prepare(self) -> None:
        """Make the tables, with the items of `stock` in theirs."""

    @abstractmethod
    def begin(self, number: int) -> None:
        """Begin the transaction with this number, connecting first if need be."""

    @abstractmethod
    def insert(self, table: str, key: int) -> None:
        """Insert the document, at version 1."""

    @abstractmethod
    def update(self, table: str, key: int) -> int | None:
        """Raise the document's version; returns it, None if there is no such document."""

    @abstractmethod
    def delete(self, table: str, key: int) -> int | None:
        """Delete the document; returns the version after its last one, None if it is not there."""

    @abstractmethod
    def commit(self) -> None: ...

    @abstractmethod
    def roll_back(self) -> None: ...

    @abstractmethod
    def disconnect(self) -> None: ...

    @abstractmethod
    def is_noted(self, number: int) -> bool:
        """Whether the transaction with this number was committed."""


class SqlWriter(Writer):
    """Writes to a Postgres or MariaDB."""

    def __init__(self, url: str, ledger: Ledger, alias: str, number: int, seed: int) -> None:
        super().__init__(ledger, alias, number, seed)
        self.url = url
        self._connection: Any = None

    @abstractmethod
    def connect(self) -> Any:
        """A new connection that commits when it is told to."""

    def prepare(self) -> None:
        self._connection = self.connect()
        self._run("CREATE TABLE orders (id bigint PRIMARY KEY, version int NOT NULL)")
        self._run("CREATE TABLE stock (id bigint PRIMARY KEY, version int NOT NULL)")
        self._run("CREATE TABLE noted (id bigint PRIMARY KEY)")
        for item in ITEMS:
            self.insert("stock", item)
        self.commit()
        self.disconnect()

    def begin(self, number: int) -> None:
        if self._connection is None:
            self._connection = self.connect()
        self._run("INSERT INTO noted VALUES (%s)", number)
        if self._random.random() < 0.1:
            # What a savepoint takes back has never been.
            self._run("SAVEPOINT before")
            self.insert("orders", 0)
            self._run("ROLLBACK TO SAVEPOINT before")

    def insert(self, table: str, key: int) -> None:
        self._run(f"INSERT INTO {table} (id, version) VALUES (%s, 1)", key)

    def update(self, table: str, key: int) -> int | None:
        version = self._locked(table, key)
        if version is not None:
            self._run(f"UPDATE {table} SET version = version + 1 WHERE id = %s", key)
        return version

    def delete(self, table: str, key: int) -> int | None:
        version = self._locked(table, key)
        if version is not None:
            self._run(f"DELETE FROM {table} WHERE id = %s", key)
        return version

    def _locked(self, table: str, key: int) -> int | None:
        found = self._run(f"SELECT version + 1 FROM {table} WHERE id = %s FOR UPDATE", key)
        return found[0][0] if found else None

    def commit(self) -> None:
        self._connection.commit()

    def roll_back(self) -> None:
        self._connection.rollback()

    def disconnect(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except self.errors:
                pass  # it is closed already
            finally:
                self._connection = None

    def is_noted(self, number: int) -> bool:
        self._connection = self.connect()
        found = self._run("SELECT 1 FROM noted WHERE id = %s", number)
        self.disconnect()
        return bool(found)

    def _run(self, statement: str, *parameters: object) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []


class PostgresWriter(SqlWriter):
    """Writes to a Postgres."""

    errors = psycopg2.Error

    def connect(self) -> Any:
        return psycopg2.connect(self.url)


class MariaDbWriter(SqlWriter):
    """Writes to a MariaDB."""

    errors = pymysql.MySQLError

    def connect(self) -> Any:
        return connect(self.url, autocommit=False)


class MongoWriter(Writer):
    """Writes to a MongoDB, in its transactions."""

    errors = PyMongoError

    def __init__(
        self, server: MongoDbServer, database: str, ledger: Ledger, alias: str, number: int,
        seed: int,
    ) -> None:  # fmt: skip
        super().__init__(ledger, alias, number, seed)
        self._server = server
        self._name = database
        self._client: Any = None
        self._session: Any = None

    @property
    def _database(self) -> Any:
        return self._client[self._name]

    def prepare(self) -> None:
        self._client = self._server.client()
        for name in ("orders", "stock", "noted"):
            self._database.create_collection(name)
        self._database.stock.insert_many({"_id": item, "version": 1} for item in ITEMS)
        self.disconnect()

    def begin(self, number: int) -> None:
        if self._client is None:
            self._client = self._server.client()
        self._session = self._client.start_session()
        self._session.start_transaction()
        self._database.noted.insert_one({"_id": number}, session=self._session)

    def insert(self, table: str, key: int) -> None:
        self._database[table].insert_one({"_id": key, "version": 1}, session=self._session)

    def update(self, table: str, key: int) -> int | None:
        found = self._database[table].find_one_and_update(
            {"_id": key},
            {"$inc": {"version": 1}},
            return_document=pymongo.ReturnDocument.AFTER,
            session=self._session,
        )
        return found and found["version"]

    def delete(self, table: str, key: int) -> int | None:
        found = self._database[table].find_one_and_delete({"_id": key}, session=self._session)
        return found and found["version"] + 1

    def commit(self) -> None:
        self._session.commit_transaction()
        self._session.end_session()

    def roll_back(self) -> None:
        self._session.abort_transaction()
        self._session.end_session()

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = self._session = None

    def is_noted(self, number: int) -> bool:
        self._client = self._server.client()
        found = self._database.noted.find_one({"_id": number})
        self.disconnect()
        return found is not None
