"""Postgres as a source: `pgoutput` over psycopg2's replication connection, one slot a database.

A position is the LSN of a commit record and the change's number within the transaction, from 1; the
LSN after a commit with number 0 stands for everything before it. Postgres sends a transaction again
whole and in the same order until what follows it is acknowledged, so positions are a total order.
"""

import select
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from json.encoder import encode_basestring as quoted
from typing import Any, Final

import psycopg2
import psycopg2.errors
import psycopg2.extras
from psycopg2.extensions import make_dsn, parse_dsn

from eventing.changes import Batch, CatalogueTable, Change, Finding, Operation
from eventing.sources import pgmessages as pgoutput
from eventing.sources.base import SourceBlocked, SourceUnavailable, Watch
from eventing.sources.pgcatalogue import Catalogue, identifier, shown_name
from eventing.sources.pgdoctor import findings
from eventing.sources.pgvalues import Converter, StaleType, converter
from eventing.sources.pgmessages import UNCHANGED, Relation, Row
from eventing.sources.pgpublications import Publications

# The text that values arrive as, whatever the server's or the role's settings.
_FORMATS: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1"
    " -c bytea_output=hex -c client_encoding=UTF8"
)
_CONNECT_SECONDS: Final = 5
_FEEDBACK_SECONDS: Final = 5
_LOOK_SECONDS: Final = 0.5
_BATCH_BYTES: Final = 8 * 1024 * 1024
_LOST: Final = (
    " Changes committed since {since} may be lost to Mission Control. Start capture anew from now on"
    " the database's page once you have taken note of that."
)


@dataclass(slots=True)
class _Table:
    """A relation as the stream last described it, with what turns its rows into documents."""

    relation: Relation
    shown: str
    is_captured: bool
    heads: list[str]
    converters: list[Converter]
    key: list[int]
    id_column: int | None
    wanted: dict[Operation, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Gap:
    """A change of the present batch that lacks columns which its UPDATE did not touch."""

    change: int
    row: Row
    key: tuple[str, ...]


class PostgresSource:
    """One Postgres database. Not thread-safe.

    `read` must be called at least every few seconds, lest the server end the connection
    (wal_sender_timeout); should it do so, the source is simply opened again.
    """

    def __init__(
        self,
        url: str,
        name: str,
        schemas: Sequence[str] | None,
        product_tables: frozenset[str] = frozenset(),
    ) -> None:
        self._url = url
        self._name = name
        self._schemas = schemas
        self._product_tables = product_tables
        self._connection: Any = None
        self._stream: Any = None
        self._reader: Any = None
        self._watch: Watch | None = None
        self._tables: dict[int, _Table] = {}
        self._after = (0, 0)
        self._transaction: tuple[int, int] | None = None
        self._index = 0
        self._reached = 0
        self._acknowledged = 0
        self._looked_at = float("-inf")
        self._look_every = _LOOK_SECONDS
        self._lag_bytes: int | None = None

    # Opening

    def open(self, watch: Watch, after: str | None) -> None:
        """Make what the server needs, then stream changes that come after position `after`."""
        self.close()
        self._watch = watch
        with self._spoken():
            self._connect()
            self._check_server()
            self._publications.create()
            self._align(patiently=True)
            self._check_slot(after)
            self._start(after)

    def _connect(self) -> None:
        self._connection = psycopg2.connect(self._dsn())
        self._connection.autocommit = True
        self._catalogue = Catalogue(self._connection, self._schemas, self._product_tables)
        self._publications = Publications(self._catalogue, self._name)

    def _dsn(self) -> str:
        """The address with our formats, behind the options that it came with."""
        parts = parse_dsn(self._url)
        parts["options"] = f"{parts.get('options', '')} {_FORMATS}".strip()
        parts.setdefault("connect_timeout", str(_CONNECT_SECONDS))
        parts.setdefault("application_name", "Mission Control")
        parts.setdefault("keepalives_idle", "30")
        return str(make_dsn(**parts))

    def _check_server(self) -> None:
        """Refuse what only a person can mend, before anything is made."""
        for finding in findings(self._catalogue, self._name, brief=True):
            if finding.status == "error":
                raise SourceBlocked(f"{finding.what}. {finding.why}", finding.mend)

    def _check_slot(self, after: str | None) -> None:
        """Make the slot for a first start; refuse one that has lost what comes after `after`."""
        slot = self._catalogue.rows(
            "SELECT plugin, active_pid, wal_status FROM pg_replication_slots WHERE slot_name = %s",
            self._name,
        )
        if not slot and after is not None:
            raise SourceBlocked(
                f"the replication slot {self._name} is gone: it was dropped, or the server failed"
                " over to one without it." + _LOST.format(since="the last change that was stored")
            )
        if not slot:
            self._create_slot()
            return
        _plugin, active_pid, wal_status = slot[0]
        if wal_status == "lost":
            raise SourceBlocked(
                f"the replication slot {self._name} was invalidated: the server has removed log"
                " that it still needed (max_slot_wal_keep_size)."
                + _LOST.format(since="the last change that was stored"),
                f"SELECT pg_drop_replication_slot('{self._name}');",
            )
        if active_pid is not None:
            raise SourceUnavailable(
                f"the replication slot {self._name} is still in use by server process {active_pid}"
            )

    def _create_slot(self) -> None:
        arguments = "%s, 'pgoutput', false, false"
        if self._catalogue.version >= 170_000:
            arguments += ", true"
        self._catalogue.rows(f"SELECT pg_create_logical_replication_slot({arguments})", self._name)

    def _start(self, after: str | None) -> None:
        factory = psycopg2.extras.LogicalReplicationConnection
        self._stream = psycopg2.connect(self._dsn(), connection_factory=factory)
        self._reader = self._stream.cursor()
        names = ",".join(identifier(name) for name in self._publications.names)
        self._reader.start_replication(
            self._name,
            decode=False,
            status_interval=_FEEDBACK_SECONDS,
            options={"proto_version": "1", "publication_names": names},
        )
        self._tables.clear()
        self._transaction = None
        self._after = _parsed(after) if after else (0, 0)
        self._reached = self._after[0]
        self._acknowledged = 0

    def watch(self, watch: Watch) -> None:
        """Take a new configuration into force without reconnecting."""
        self._watch = watch
        for table in self._tables.values():
            table.wanted.clear()
        with self._spoken():
            self._align(patiently=True)

    def _align(self, *, patiently: bool) -> None:
        """Bring the publications in line; a user's lock is waited for a while, or not at all."""
        assert self._watch is not None
        started = time.monotonic()
        for _ in range(10 if patiently else 1):
            try:
                self._publications.align(self._watch)
                break
            except psycopg2.errors.LockNotAvailable:
                continue
        # A large catalogue is looked at less often.
        self._look_every = max(_LOOK_SECONDS, 20 * (time.monotonic() - started))
        self._looked_at = time.monotonic()

    def _look(self) -> None:
        """Every half second: have tables come, gone or changed, and how far is the server's log?"""
        if time.monotonic() - self._looked_at < self._look_every:
            return
        self._align(patiently=False)
        end = self._catalogue.value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        self._lag_bytes = max(0, int(end) - self._reached)

    # Reading

    def read(self, max_changes: int, timeout_seconds: float) -> Batch:
        """The next changes: as soon as `max_changes` are there or the stream runs dry."""
        with self._spoken():
            self._look()
            changes: list[Change] = []
            gaps: dict[int, list[_Gap]] = defaultdict(list)
            drained = self._drain(changes, gaps, max_changes)
            if drained and not changes:
                select.select([self._stream], [], [], timeout_seconds)
                drained = self._drain(changes, gaps, max_changes)
            for relation_id, missing in gaps.items():
                self._fill(changes, self._tables[relation_id], missing)
        return Batch(changes, self._position(), drained, self._lag_bytes)

    def _drain(
        self, changes: list[Change], gaps: dict[int, list[_Gap]], max_changes: int
    ) -> bool:
        """Read messages until the batch is full (False) or none is there (True)."""
        read_message = self._reader.read_message
        size = 0
        while len(changes) < max_changes and size < _BATCH_BYTES:
            message = read_message()
            if message is None:
                if self._transaction is None:
                    # A keep-alive may have told of log that holds nothing for us.
                    self._reached = max(self._reached, self._reader.wal_end)
                return True
            payload = message.payload
            kind = payload[0]
            if kind in (pgoutput.INSERT, pgoutput.UPDATE, pgoutput.DELETE):
                self._take_change(payload, changes, gaps)
                size += len(payload)
            elif kind == pgoutput.BEGIN:
                self._transaction = pgoutput.begin(payload)
                self._index = 0
            elif kind == pgoutput.COMMIT:
                self._reached = pgoutput.commit_end(payload)
                self._transaction = None
            elif kind == pgoutput.RELATION:
                self._take_relation(pgoutput.relation(payload))
        return False

    def _position(self) -> str:
        """Up to where everything has been handed out."""
        if self._transaction is None:
            return _position(self._reached, 0)
        return _position(self._transaction[0], self._index)

    def _take_change(
        self, payload: bytes, changes: list[Change], gaps: dict[int, list[_Gap]]
    ) -> None:
        """Append the change of one message, unless nobody wants it or it is stored already."""
        assert self._transaction is not None
        lsn, committed_at_ms = self._transaction
        self._index += 1
        table = self._tables[pgoutput.relation_id(payload)]
        operation = _OPERATIONS[payload[0]]
        if not self._wants(table, operation) or (lsn, self._index) <= self._after:
            return
        row, old = _rows(payload, operation)
        try:
            change = self._change(table, operation, row, old, committed_at_ms)
        except StaleType:
            table = self._take_relation(table.relation)
            change = self._change_or_problem(table, operation, row, old, committed_at_ms)
        except (ValueError, IndexError):
            change = self._change_or_problem(table, operation, row, old, committed_at_ms)
        changes.append(change)
        if operation == "update" and UNCHANGED in row:
            key = tuple(str(row[column]) for column in table.key)
            gaps[table.relation.id].append(_Gap(len(changes) - 1, row, key))

    def _wants(self, table: _Table, operation: Operation) -> bool:
        wanted = table.wanted.get(operation)
        if wanted is None:
            assert self._watch is not None
            wanted = table.is_captured and self._watch.wants(table.shown, operation)
            table.wanted[operation] = wanted
        return wanted

    def _take_relation(self, relation: Relation) -> _Table:
        """Compile what turns a relation's rows into documents."""
        catalogue = self._catalogue
        catalogue.forget_types()
        names = [column.name for column in relation.columns]
        key = [name for name in catalogue.primary_key(relation.id) if name in names]
        if not key and relation.identity != "f":
            key = [column.name for column in relation.columns if column.is_key]
        table = self._tables[relation.id] = _Table(
            relation,
            shown_name(relation.schema, relation.name),
            catalogue.is_captured(relation.schema, relation.name),
            [f"{quoted(name)}:" for name in names],
            [converter(column.type_id, catalogue.type_facts) for column in relation.columns],
            [names.index(name) for name in key],
            names.index("id") if "id" in names else None,
        )
        # A table made a moment ago: its updates and deletes are to be published, too.
        self._looked_at = float("-inf")
        return table

    def _change(
        self,
        table: _Table,
        operation: Operation,
        row: Row,
        old: Row | None,
        committed_at_ms: int,
    ) -> Change:
        assert self._transaction is not None
        if old is not None and UNCHANGED in row:
            # Under REPLICA IDENTITY FULL the old row has what the new one leaves out.
            for place, value in enumerate(row):
                if value is UNCHANGED and old[place] is not None:
                    row[place] = old[place]
        return Change(
            _position(self._transaction[0], self._index),
            self._index - 1,
            operation,
            table.shown,
            _document_id(table, row),
            _document(table, row, key_only=operation == "delete" and old is None),
            committed_at_ms,
            None if old is None else _document(table, old, key_only=False),
        )

    def _change_or_problem(
        self,
        table: _Table,
        operation: Operation,
        row: Row,
        old: Row | None,
        committed_at_ms: int,
    ) -> Change:
        """The change, or one that says it could not be decoded: the stream goes on."""
        assert self._transaction is not None
        try:
            return self._change(table, operation, row, old, committed_at_ms)
        except (StaleType, ValueError, IndexError) as error:
            return Change(
                _position(self._transaction[0], self._index),
                self._index - 1,
                operation,
                table.shown,
                "",
                "{}",
                committed_at_ms,
                problem=f"the row could not be decoded ({type(error).__name__}); its types may"
                " have been altered since it was written",
            )

    def _fill(self, changes: list[Change], table: _Table, gaps: Sequence[_Gap]) -> None:
        """Read what updates left out from the source, one query for all of a table's.

        That gives the columns as they are now, which may be later than the change. Of a row that
        is gone, or that has no key, they stay out of the document.
        """
        relation = table.relation
        if not table.key:
            return
        names = [column.name for column in relation.columns]
        missing = sorted(
            {place for gap in gaps for place, v in enumerate(gap.row) if v is UNCHANGED}
        )
        key = ", ".join(identifier(names[place]) for place in table.key)
        texts = ", ".join(f"{identifier(names[place])}::text" for place in table.key)
        values = ", ".join(f"to_jsonb({identifier(names[place])})::text" for place in missing)
        keys = sorted({gap.key for gap in gaps})
        try:
            rows = self._catalogue.rows(
                f"SELECT {texts}, {values} FROM {identifier(relation.schema, relation.name)}"
                f" WHERE ({key}) IN ({', '.join(['%s'] * len(keys))})",
                *[each if len(each) > 1 else each[0] for each in keys],
            )
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn):
            return
        width = len(table.key)
        found = {row[:width]: dict(zip(missing, row[width:], strict=True)) for row in rows}
        for gap in gaps:
            present = found.get(gap.key, {})
            changes[gap.change] = changes[gap.change]._replace(
                document=_document(table, gap.row, key_only=False, filled=present)
            )

    def acknowledge(self, position: str) -> None:
        """Let the server drop its log up to `position`; told at once if that is a new place."""
        lsn, _ = _parsed(position)
        if lsn <= self._acknowledged or self._reader is None:
            return
        self._acknowledged = lsn
        with self._spoken():
            self._reader.send_feedback(write_lsn=lsn, flush_lsn=lsn, apply_lsn=lsn)

    # Ending

    def close(self) -> None:
        """Release connections; slot and publications stay."""
        for connection in (self._stream, self._connection):
            if connection is not None:
                try:
                    connection.close()
                except psycopg2.Error:
                    pass
        self._stream = self._reader = self._connection = None

    def remove(self) -> None:
        """Drop slot and publications, whoever still reads from them."""
        with self._spoken():
            self._connect()
            self._catalogue.rows(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE slot_name = %s AND active_pid IS NOT NULL",
                self._name,
            )
            self._drop_slot()
            self._publications.drop()

    def _drop_slot(self) -> None:
        """Drop the slot; its reader, told to end, may take a moment to let go of it."""
        for attempt in range(20):
            try:
                self._catalogue.rows(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                    " WHERE slot_name = %s",
                    self._name,
                )
                return
            except psycopg2.errors.ObjectInUse:
                if attempt == 19:
                    raise
                time.sleep(0.1)

    # Looking

    def check(self) -> Sequence[Finding]:
        """Every prerequisite, for the doctor."""
        try:
            self._connect()
        except psycopg2.Error as error:
            return [
                Finding(
                    "connection",
                    "error",
                    f"{self._where()} cannot be reached: {self._words(error)}",
                    "Without a connection nothing can be captured.",
                    "Check host, port, user, password and pg_hba.conf.",
                )
            ]
        try:
            return [
                Finding("connection", "ok", f"{self._where()} answers"),
                *findings(self._catalogue, self._name, brief=False, dsn=self._dsn()),
            ]
        except psycopg2.Error as error:
            return [Finding("connection", "error", f"{self._where()}: {self._words(error)}")]
        finally:
            self.close()

    def catalogue(self) -> Sequence[CatalogueTable]:
        """The tables that could be captured, sorted by name."""
        with self._spoken():
            self._connect()
            columns = self._catalogue.columns()
            tables = [
                CatalogueTable(
                    table.shown,
                    tuple(columns.get(table.id, ())),
                    *(() if table.has_identity else _no_identity(table.schema, table.name)),
                )
                for table in self._catalogue.tables()
            ]
        return sorted(tables, key=lambda table: table.name)

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turns the driver's errors into ours, which say where and never show a secret or a row."""
        try:
            yield
        except psycopg2.errors.InsufficientPrivilege as error:
            raise SourceBlocked(
                f"{self._where()}: the role may not do what capture needs ({self._words(error)})",
                "ALTER ROLE <the role> REPLICATION; GRANT CREATE ON DATABASE <the database> TO"
                " <the role>;",
            ) from None
        except (psycopg2.Error, OSError, ValueError) as error:
            raise SourceUnavailable(f"{self._where()}: {self._words(error)}") from None

    def _where(self) -> str:
        try:
            parts = parse_dsn(self._url)
        except psycopg2.ProgrammingError:
            return "Postgres"
        host, port = parts.get("host", "localhost"), parts.get("port", "5432")
        return f"Postgres at {host}:{port}, database {parts.get('dbname', '')!r}"

    def _words(self, error: Exception) -> str:
        """The first line of what the driver says: the rest may quote values."""
        if isinstance(error, psycopg2.ProgrammingError) and "dsn" in str(error):
            return "the address is malformed"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__


_OPERATIONS: Final[dict[int, Operation]] = {
    pgoutput.INSERT: "insert",
    pgoutput.UPDATE: "update",
    pgoutput.DELETE: "delete",
}


def _rows(payload: bytes, operation: Operation) -> tuple[Row, Row | None]:
    """The row a change is about and, where it is known whole, the row before it."""
    if operation == "insert":
        return pgoutput.insert(payload), None
    if operation == "update":
        kind, old, row = pgoutput.update(payload)
        return row, old if kind == pgoutput.OLD_ROW else None
    kind, row = pgoutput.delete(payload)
    return row, row if kind == pgoutput.OLD_ROW else None


def _document(
    table: _Table, row: Row, *, key_only: bool, filled: dict[int, str] | None = None
) -> str:
    """A row as JSON text. `filled` has columns as JSON that the stream left out."""
    if key_only or UNCHANGED in row:
        return _partial_document(table, row, key_only, filled or {})
    pairs = zip(table.heads, table.converters, row, strict=True)
    return "{%s}" % ",".join(
        [head + ("null" if value is None else convert(value)) for head, convert, value in pairs]  # type: ignore[arg-type]
    )


def _partial_document(
    table: _Table, row: Row, key_only: bool, filled: dict[int, str]
) -> str:
    parts = []
    for place, value in enumerate(row):
        head = table.heads[place]
        if key_only and not table.relation.columns[place].is_key:
            continue
        if value is UNCHANGED:
            if filled.get(place) is not None:
                parts.append(head + filled[place])
        elif value is None:
            parts.append(head + "null")
        else:
            parts.append(head + table.converters[place](str(value)))
    return "{%s}" % ",".join(parts)


def _document_id(table: _Table, row: Row) -> str:
    """The column `id`, else the primary key, else nothing: a row without key has no name."""
    if table.id_column is not None and isinstance(row[table.id_column], str):
        return str(row[table.id_column])
    if len(table.key) == 1:
        return str(row[table.key[0]] or "")
    if not table.key:
        return ""
    pairs = [
        table.heads[place] + table.converters[place](str(row[place]))
        for place in table.key
        if row[place] is not None
    ]
    return "{%s}" % ",".join(pairs)


def _no_identity(schema: str, name: str) -> tuple[str, str]:
    return (
        "only inserts: it has no primary key and no replica identity",
        f"ALTER TABLE {identifier(schema, name)} REPLICA IDENTITY FULL;",
    )


def _position(lsn: int, index: int) -> str:
    return f"{lsn:016X}/{index:08X}"


def _parsed(position: str) -> tuple[int, int]:
    lsn, index = position.split("/")
    return int(lsn, 16), int(index, 16)


