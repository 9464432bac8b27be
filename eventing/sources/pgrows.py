"""Rows of the stream as changes: their relation, their JSON, and what is missing of them.

A value that the stream leaves out (an unchanged TOASTed column; a generated column before Postgres
18) is read from the table by primary key, one query a batch and table. It is then the latest one;
if the row is gone by then, or has no primary key, the column is left out of the document.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg2
import structlog
from psycopg2 import sql
from psycopg2.extensions import connection

from eventing.changes import Change, Operation
from eventing.postgresserver import OWN_SCHEMA
from eventing.sources import pgoutput
from eventing.sources.base import MOST_ROW_BYTES, SourceUnavailable, Watch
from eventing.sources.pgjson import FIRST_USER_OID, Row, RowShapeChanged, TypeFacts, Types
from eventing.sources.pgoutput import DELETE, INSERT, UNCHANGED, UPDATE, Relation, Text
from eventing.sources.pgserver import column_name, is_unsendable, said_of

logger = structlog.get_logger(__name__)

OPERATIONS: Final[dict[int, Operation]] = {INSERT: "insert", UPDATE: "update", DELETE: "delete"}

# Reading what the stream left out waits for a lock no longer than this.
_LOCK_TIMEOUT: Final = "5s"
# A commit is in the stream a moment before others see what it did; much longer where it waits for a
# synchronous standby.
_UNSEEN_SECONDS: Final = 5.0
_LOOK_AGAIN_SECONDS: Final = 0.005
# Syntax error or access rule violation; data exception; feature not supported.
_NOT_TO_BE_HAD: Final = frozenset({"42", "22", "0A"})
# What was left out is read of so many rows at once, or of as many as have about so many characters.
_MOST_MISSING: Final = 100
_MISSING_CHARACTERS: Final = 8 * 1024 * 1024
# In place of a value that is too large; no JSON is empty.
_TOO_LARGE: Final = ""


class RowTooLarge(ValueError):
    """A row of which no document is made; says how large it is."""


class _KeyColumn(NamedTuple):
    at: int
    name: str
    type: str


@dataclass(slots=True)
class Table:
    """A relation as the stream has last described it, and what is wanted of it.

    `shape` and what follows it are filled in when the first wanted row arrives. `unsent` counts
    generated columns, which stand behind the relation's own in `shape`.
    """

    relation: Relation
    name: str
    wanted: frozenset[int]
    shape: Row | None = None
    columns: tuple[str, ...] = ()
    primary_key: tuple[_KeyColumn, ...] = ()
    identity: tuple[int, ...] = ()
    id_index: int | None = None
    unsent: int = 0


class _Missing(NamedTuple):
    """A change whose document lacks columns: where it is in the batch, its values, which ones, and
    the id of its transaction."""

    at: int
    table: Table
    texts: list[Text]
    indexes: tuple[int, ...]
    transaction: int


class Rows:
    """The relations of one stream. Not shared between connections."""

    def __init__(
        self,
        opened: connection,
        watch: Watch,
        schemas: frozenset[str] | None,
        excluded_tables: frozenset[str],
    ) -> None:
        self._opened = opened
        self._watch = watch
        self._schemas = schemas
        self._excluded = excluded_tables
        self._types = Types()
        self._missing: list[_Missing] = []
        self._most_missing = 1
        self.tables: dict[int, Table] = {}
        self.saw_new_table = False
        # The number of the transaction that the changes to come belong to.
        self.transaction = 0

    def watch(self, watch: Watch) -> None:
        """Take a new configuration into force."""
        self._watch = watch
        for table in self.tables.values():
            table.wanted = self._wanted(table.relation)

    def describe(self, payload: bytes) -> None:
        """Take in a Relation message."""
        relation = pgoutput.relation(payload)
        if relation.oid not in self.tables:
            self.saw_new_table = True
        name = column_name(relation.schema, relation.name)
        self.tables[relation.oid] = Table(relation, name, self._wanted(relation))

    def change(
        self,
        payload: bytes,
        table: Table,
        position: str,
        index: int,
        committed_at_ms: int,
        shown_position: str,
        at: int,
    ) -> Change:
        """The change of a message of a wanted kind; it will stand at `at` of its batch."""
        if table.shape is None:
            self._prepare(table)
        kind = payload[0]
        identifier, document, old, problem = "", "{}", None, None
        try:
            identifier, document, old = self._decoded_anyhow(kind, payload, table, at)
        except RowTooLarge as error:
            problem = str(error)
        except (ValueError, LookupError, ArithmeticError) as error:
            # Never the error's own words: they may quote the row.
            problem = f"the row could not be decoded ({type(error).__name__})"
        return Change(
            position,
            index,
            OPERATIONS[kind],
            table.name,
            identifier,
            document,
            committed_at_ms,
            old,
            problem,
            shown_position,
        )

    @property
    def misses_enough(self) -> bool:
        """Whether as many changes of the batch wait for values from their tables as should."""
        return len(self._missing) >= self._most_missing

    def complete(self, changes: list[Change]) -> None:
        """Fill in what the stream left out, from the tables as they are now.

        Raises psycopg2.Error, SourceUnavailable.
        """
        if not self._missing:
            return
        self._await_sight_of({item.transaction for item in self._missing})
        waiting: dict[int, list[_Missing]] = defaultdict(list)
        for item in self._missing:
            waiting[id(item.table)].append(item)
        characters = 0
        for items in waiting.values():
            for item, found in zip(items, self._fetched(items[0].table, items), strict=True):
                changes[item.at] = _completed(changes[item.at], item, found)
                characters += len(changes[item.at].document)
        fitting = _MISSING_CHARACTERS * len(self._missing) // max(1, characters)
        self._most_missing = max(1, min(fitting, 2 * self._most_missing, _MOST_MISSING))
        self._missing = []

    def _wanted(self, relation: Relation) -> frozenset[int]:
        """The kinds of messages about a relation that some trigger wants."""
        schema = relation.schema
        if (
            schema == OWN_SCHEMA
            or f"{schema}.{relation.name}" in self._excluded
            or (self._schemas is not None and schema not in self._schemas)
        ):
            return frozenset()
        name = column_name(schema, relation.name)
        return frozenset(
            kind for kind, operation in OPERATIONS.items() if self._watch.wants(name, operation)
        )

    def _decoded_anyhow(
        self, kind: int, payload: bytes, table: Table, at: int
    ) -> tuple[str, str, str | None]:
        """What `_decoded` gives, after another look at the types if need be. Raises ValueError,
        LookupError, ArithmeticError."""
        if len(payload) > MOST_ROW_BYTES:
            raise RowTooLarge(
                f"the row, with what it was before, is {len(payload)} bytes long; at most"
                f" {MOST_ROW_BYTES} are read"
            )
        try:
            return self._decoded(kind, payload, table, at)
        except RowShapeChanged:
            self._types.forget()
            self._prepare(table)
            return self._decoded(kind, payload, table, at)

    def _decoded(
        self, kind: int, payload: bytes, table: Table, at: int
    ) -> tuple[str, str, str | None]:
        """Document id, document and old row of a message."""
        shape = table.shape
        assert shape is not None  # noqa: S101 — `change` has prepared the table
        if kind == INSERT:
            texts = pgoutput.inserted(payload)
            return _document_id(table, shape, texts), self._document(table, shape, texts, at), None
        row = pgoutput.row(payload)
        old = None
        if row.old_kind:
            sent = range(len(row.old)) if row.old_kind == "O" else table.identity
            padded = row.old + [UNCHANGED] * table.unsent
            old = shape.json_of(padded, sent)
            if kind == DELETE:
                return _document_id(table, shape, padded), old, old
        texts = row.new
        if UNCHANGED in texts and row.old_kind == "O":
            texts = [
                before if now is UNCHANGED else now
                for now, before in zip(texts, row.old, strict=True)
            ]
        return _document_id(table, shape, texts), self._document(table, shape, texts, at), old

    def _document(self, table: Table, shape: Row, texts: list[Text], at: int) -> str:
        """The JSON of a new row; what is missing of it is noted for the end of the batch."""
        if not table.unsent and UNCHANGED not in texts:
            return shape.json(texts)  # type: ignore[arg-type]
        texts = texts + [UNCHANGED] * table.unsent
        indexes = tuple(index for index, text in enumerate(texts) if text is UNCHANGED)
        self._missing.append(_Missing(at, table, texts, indexes, self.transaction))
        return shape.json_of(texts, range(len(texts)))

    def _prepare(self, table: Table) -> None:
        """Compile what rows of a relation need, with the catalogue's help."""
        relation = table.relation
        with self._opened.cursor() as at:
            at.execute(_COLUMNS, [relation.oid])
            catalogue = at.fetchall()
        names = [column.name for column in relation.columns]
        generated = [
            (name, type_oid)
            for name, _, type_oid, is_generated, _ in catalogue
            if is_generated and name not in names
        ]
        columns = [(column.name, column.type_oid) for column in relation.columns] + generated
        self._load_types([type_oid for _, type_oid in columns])
        key = sorted((place, name, kind) for name, kind, _, _, place in catalogue if place)
        table.primary_key = tuple(
            _KeyColumn(names.index(name), name, kind) for _, name, kind in key if name in names
        )
        table.identity = tuple(
            index for index, column in enumerate(relation.columns) if column.is_key
        )
        table.id_index = names.index("id") if "id" in names else None
        table.unsent = len(generated)
        table.columns = tuple(name for name, _ in columns)
        table.shape = self._types.row(columns)

    def _load_types(self, oids: Sequence[int]) -> None:
        """Ask the catalogue about types until nothing they are made of is unknown."""
        missing = self._types.unknown(oids)
        while missing:
            with self._opened.cursor() as at:
                at.execute(_TYPES, [list(missing)])
                found = [
                    TypeFacts(
                        oid,
                        element,
                        delimiter,
                        base,
                        None if names is None else tuple(zip(names, types, strict=True)),
                        is_hstore,
                    )
                    for oid, element, delimiter, base, names, types, is_hstore in at.fetchall()
                ]
            # A type that has been dropped since is shown as its text.
            gone = missing - {fact.oid for fact in found}
            self._types.learn([*found, *(TypeFacts(oid) for oid in gone)])
            missing = self._types.unknown(oids)

    def _await_sight_of(self, transactions: Iterable[int]) -> None:
        """Wait until what they did can be seen. Raises SourceUnavailable when that takes long."""
        deadline = time.monotonic() + _UNSEEN_SECONDS
        while True:
            with self._opened.cursor() as at:
                at.execute("SELECT pg_current_snapshot()::text")
                ((snapshot,),) = at.fetchall()
            if not any(is_hidden(each, snapshot) for each in transactions):
                return
            if time.monotonic() >= deadline:
                raise SourceUnavailable(
                    "what a transaction has committed cannot be seen yet, as while it waits for a"
                    " synchronous standby"
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def _fetched(self, table: Table, items: Sequence[_Missing]) -> list[dict[int, str] | str]:
        """For each item, JSON text by column index, which is empty where the row is gone; or why
        the server cannot tell it."""
        nothing: list[dict[int, str] | str] = [{} for _ in items]
        if not table.primary_key:
            return nothing
        keys: list[list[Text]] = [
            [item.texts[column.at] for item in items] for column in table.primary_key
        ]
        if any(UNCHANGED in values for values in keys):
            return nothing
        wanted = sorted({index for item in items for index in item.indexes})
        try:
            with self._opened.cursor() as at:
                at.execute("SELECT set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
                at.execute(_lookup(table, wanted), keys)
                rows = at.fetchall()
        except psycopg2.Error as error:
            is_altered = error.pgcode is not None and error.pgcode[:2] in _NOT_TO_BE_HAD
            if is_unsendable(error) and not is_altered:
                if len(items) == 1:
                    return [said_of(error)]
                return [found for item in items for found in self._fetched(table, [item])]
            if not is_altered:
                raise  # a lock, a timeout, a lost connection: to be tried again
            # The table was dropped, renamed or altered since, or may not be read by our role.
            logger.warning("columns that the stream left out could not be read", code=error.pgcode)
            return nothing
        for number, *values in rows:
            wanted_here = items[number - 1].indexes
            nothing[number - 1] = {
                index: "null" if value is None else value
                for index, value in zip(wanted, values, strict=True)
                if index in wanted_here
            }
        return nothing


def is_hidden(transaction: int, snapshot: str) -> bool:
    """Whether a snapshot, `xmin:xmax:xip,…`, does not show yet what a transaction did.

    The snapshot's ids have 64 bits, of which the stream has the lower 32.
    """
    _, end, running = snapshot.split(":")
    is_later = (transaction - int(end)) % 2**32 < 2**31
    return is_later or any(int(each) % 2**32 == transaction for each in running.split(",") if each)


def _completed(change: Change, item: _Missing, found: dict[int, str] | str) -> Change:
    """A change with what was found of what the stream left out, or with why it has no document."""
    if not isinstance(found, str) and _TOO_LARGE in found.values():
        found = f"a value has more than {MOST_ROW_BYTES} bytes"
    if isinstance(found, str):
        problem = f"what the update left alone of the row cannot be read: {found}"
        return change._replace(document="{}", problem=problem)
    if not found or item.table.shape is None:
        return change
    every = range(len(item.table.columns))
    return change._replace(document=item.table.shape.json_of(item.texts, every, found))


def _lookup(table: Table, wanted: Sequence[int]) -> sql.Composed:
    """A query for some columns of rows whose primary keys are given as one array a key column."""
    relation, key = table.relation, table.primary_key
    return sql.SQL(
        "SELECT k.number, {values} FROM unnest({arrays}) WITH ORDINALITY AS k({names}, number)"
        " JOIN {table} AS t ON {same}"
        # OFFSET: else each value would be made twice.
        " CROSS JOIN LATERAL (SELECT {texts} OFFSET 0) AS v"
    ).format(
        values=sql.SQL(", ").join(
            sql.SQL("CASE WHEN octet_length(v.{0}) > {1} THEN {2} ELSE v.{0} END").format(
                sql.Identifier(f"v{index}"), sql.Literal(MOST_ROW_BYTES), sql.Literal(_TOO_LARGE)
            )
            for index in wanted
        ),
        texts=sql.SQL(", ").join(
            sql.SQL("to_jsonb(t.{})::text AS {}").format(
                sql.Identifier(table.columns[index]), sql.Identifier(f"v{index}")
            )
            for index in wanted
        ),
        arrays=sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(key)),
        names=sql.SQL(", ").join(sql.Identifier(f"k{n}") for n in range(len(key))),
        table=sql.Identifier(relation.schema, relation.name),
        same=sql.SQL(" AND ").join(
            # The type as format_type wrote it: quoted by the server where it must be.
            sql.SQL("t.{} = k.{}::" + column.type.replace("%", "%%")).format(
                sql.Identifier(column.name), sql.Identifier(f"k{n}")
            )
            for n, column in enumerate(key)
        ),
    )


def _document_id(table: Table, shape: Row, texts: Sequence[Text]) -> str:
    """The contract's `docId`: the column `id`, else the primary key, else the replica identity's
    columns; empty for a table that has none of them."""
    if table.id_index is not None:
        text = texts[table.id_index]
        if isinstance(text, str):
            return text
    key = [column.at for column in table.primary_key]
    if not key and table.relation.identity != "f":
        key = list(table.identity)
    if len(key) == 1:
        text = texts[key[0]]
        return text if isinstance(text, str) else ""
    if not key:
        return ""
    padded = [*texts, *[UNCHANGED] * (len(table.columns) - len(texts))]
    return shape.json_of(padded, key)


_COLUMNS: Final = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::bigint,
       a.attgenerated <> '',
       -- From 1: an int2vector counts from 0.
       (SELECT array_position(i.indkey::int2[], a.attnum) + 1
        FROM pg_index AS i WHERE i.indrelid = a.attrelid AND i.indisprimary)
FROM pg_attribute AS a
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_TYPES: Final = f"""
SELECT t.oid::bigint,
       CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
            THEN t.typelem::bigint ELSE 0 END,
       t.typdelim::text,
       t.typbasetype::bigint,
       CASE WHEN t.typtype = 'c' THEN coalesce(a.names, '{{}}') END,
       coalesce(a.types, '{{}}'),
       t.oid >= {FIRST_USER_OID} AND t.typname = 'hstore' AND EXISTS (
         SELECT FROM pg_cast WHERE castsource = t.oid AND casttarget = 'json'::regtype)
FROM pg_type AS t
LEFT JOIN LATERAL (
  SELECT array_agg(attname::text ORDER BY attnum) AS names,
         array_agg(atttypid::bigint ORDER BY attnum) AS types
  FROM pg_attribute
  WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
) AS a ON true
WHERE t.oid = ANY(%s::oid[])
"""
