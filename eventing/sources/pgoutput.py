"""The messages of Postgres's `pgoutput` plugin, protocol version 1: bytes in, named tuples out.

The layout is that of "Logical Replication Message Formats" in Postgres's manual. Values stay the
text that the server sent; nothing here knows a connection, a table or a type.
"""

import struct
from enum import Enum
from struct import Struct
from typing import Final, Literal, NamedTuple


class Absent(Enum):
    """What stands in a row for a value that the server did not send."""

    UNCHANGED = "unchanged"


# A TOASTed value that an UPDATE left alone: only the old row, or the table itself, has it.
UNCHANGED: Final = Absent.UNCHANGED

Text = str | Literal[Absent.UNCHANGED] | None


class MalformedMessage(ValueError):
    """The bytes are no message of this protocol. Says where, never what they contain."""


class Begin(NamedTuple):
    """A transaction's changes follow. `commit_lsn` is where its commit record begins, `transaction`
    the lower 32 bits of its id."""

    commit_lsn: int
    committed_at_ms: int
    transaction: int


class Commit(NamedTuple):
    """The transaction is complete; `end_lsn` is where the commit record ends."""

    end_lsn: int


class Column(NamedTuple):
    """A column of a relation; `is_key` if it belongs to the replica identity."""

    name: str
    type_oid: int
    is_key: bool


class Relation(NamedTuple):
    """The shape that rows of `oid` have from here on. `identity` is pg_class.relreplident."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


class Row(NamedTuple):
    """An inserted, updated or deleted row.

    `old_kind` says what `old` is: `O` the whole old row, `K` its key columns (the rest is None),
    or `` when there is none.
    """

    new: list[Text]
    old: list[Text]
    old_kind: str


BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
RELATION: Final = ord("R")
INSERT: Final = ord("I")
UPDATE: Final = ord("U")
DELETE: Final = ord("D")
# Origin, Type, Truncate, Message.
OTHERS: Final = frozenset(b"OYTM")

_NEW: Final = ord("N")
_TEXT: Final = ord("t")
_NULL: Final = ord("n")
_KEPT: Final = ord("u")

# Microseconds from the Unix epoch to 2000-01-01, which Postgres counts from.
_EPOCH_US: Final = 946_684_800_000_000

_BEGIN_BODY: Final = Struct(">QqI")
_COMMIT_BODY: Final = Struct(">BQQq")
_COLUMN_TAIL: Final = Struct(">Ii")
_OID: Final = Struct(">I")
_COUNT: Final = Struct(">H")
# A negative one is then longer than any message.
_LENGTH: Final = Struct(">I")
_read_length = _LENGTH.unpack_from


def begin(payload: bytes) -> Begin:
    """Decode a Begin message."""
    try:
        commit_lsn, microseconds, number = _BEGIN_BODY.unpack_from(payload, 1)
    except struct.error as error:
        raise MalformedMessage("a Begin message is cut short") from error
    return Begin(commit_lsn, (microseconds + _EPOCH_US) // 1000, number)


def commit(payload: bytes) -> Commit:
    """Decode a Commit message."""
    try:
        _, _, end_lsn, _ = _COMMIT_BODY.unpack_from(payload, 1)
    except struct.error as error:
        raise MalformedMessage("a Commit message is cut short") from error
    return Commit(end_lsn)


def relation(payload: bytes) -> Relation:
    """Decode a Relation message."""
    try:
        (oid,) = _OID.unpack_from(payload, 1)
        schema, at = _string(payload, 5)
        name, at = _string(payload, at)
        identity = chr(payload[at])
        (count,) = _COUNT.unpack_from(payload, at + 1)
        at += 3
        columns = []
        for _ in range(count):
            is_key = payload[at] & 1 == 1
            column, at = _string(payload, at + 1)
            type_oid, _ = _COLUMN_TAIL.unpack_from(payload, at)
            at += _COLUMN_TAIL.size
            columns.append(Column(column, type_oid, is_key))
    except (struct.error, IndexError, UnicodeDecodeError):
        raise MalformedMessage("a Relation message is cut short or no text") from None
    # An empty schema name stands for pg_catalog.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def relation_oid(payload: bytes) -> int:
    """Which relation an Insert, Update or Delete message is about, without decoding its row."""
    try:
        oid: int = _OID.unpack_from(payload, 1)[0]
    except struct.error as error:
        raise MalformedMessage("a change is cut short") from error
    return oid


def row(payload: bytes) -> Row:
    """Decode the rows of an Insert, Update or Delete message."""
    try:
        old: list[Text] = []
        old_kind = ""
        at = 5
        if payload[at] != _NEW:
            old_kind = chr(payload[at])
            old, at = _tuple(payload, at + 1)
            if payload[0] == DELETE:
                return Row([], old, old_kind)
        if payload[at] != _NEW:
            raise MalformedMessage("a change holds no new row")
        new, at = _tuple(payload, at + 1)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise MalformedMessage("a change is cut short or no text") from None
    return Row(new, old, old_kind)


def inserted(payload: bytes) -> list[Text]:
    """Decode the row of an Insert message; what `row` does, without the rest."""
    try:
        return _tuple(payload, 6)[0]
    except (struct.error, IndexError, UnicodeDecodeError):
        raise MalformedMessage("a change is cut short or no text") from None


def _tuple(payload: bytes, at: int) -> tuple[list[Text], int]:
    """The values of a TupleData that begins at `at`, and where it ends."""
    (count,) = _COUNT.unpack_from(payload, at)
    at += 2
    texts: list[Text] = []
    append = texts.append
    for _ in range(count):
        kind = payload[at]
        if kind == _TEXT:
            start = at + 5
            at = start + _read_length(payload, at + 1)[0]
            append(payload[start:at].decode())
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _KEPT:
            append(UNCHANGED)
            at += 1
        else:
            raise MalformedMessage("a value is neither text, null nor unchanged")
    if at > len(payload):
        raise MalformedMessage("a value is cut short")
    return texts, at


def _string(payload: bytes, at: int) -> tuple[str, int]:
    """The null-terminated string at `at`, and where the next field begins."""
    end = payload.find(b"\0", at)
    if end < 0:
        raise MalformedMessage("a name has no end")
    return payload[at:end].decode(), end + 1
