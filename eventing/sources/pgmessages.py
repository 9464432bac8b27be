"""The messages of Postgres' `pgoutput` plugin, protocol version 1, decoded from bytes.

Pure: bytes in, messages out. Source: PostgreSQL manual, "Logical Replication Message Formats".
Values stay as the text that the server sent; `eventing.sources.pgjson` knows what they mean.
"""

from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final

_BEGIN: Final = Struct("!xQqI")
_COMMIT: Final = Struct("!xBQQq")
_RELATION_ID: Final = Struct("!xI")
_COLUMN: Final = Struct("!Ii")
_SHORT: Final = Struct("!H")
_LENGTH: Final = Struct("!i")
# Microseconds from the Unix epoch to that of Postgres, 2000-01-01.
_EPOCH_US: Final = 946_684_800_000_000

BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
RELATION: Final = ord("R")
INSERT: Final = ord("I")
UPDATE: Final = ord("U")
DELETE: Final = ord("D")
_NEW: Final = ord("N")
OLD_ROW: Final = ord("O")
OLD_KEY: Final = ord("K")
_NULL: Final = ord("n")
_UNCHANGED: Final = ord("u")
_TEXT: Final = ord("t")


class MalformedMessage(Exception):
    """The stream holds something that is not a message of protocol version 1."""


class Unchanged(Enum):
    """Stands for a TOASTed value that an UPDATE left as it was and that is not in the stream."""

    UNCHANGED = 0


UNCHANGED: Final = Unchanged.UNCHANGED
Value = str | Unchanged | None
Row = list[Value]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation; `is_key` if it is part of the replica identity."""

    name: str
    type_id: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is for the changes that follow. `identity` is pg_class.relreplident."""

    id: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


def begin(message: bytes) -> tuple[int, int]:
    """The LSN of the transaction's commit, and its time in milliseconds since the Unix epoch."""
    lsn, committed_at_us, _ = _BEGIN.unpack_from(message)
    return lsn, (committed_at_us + _EPOCH_US) // 1000


def commit_end(message: bytes) -> int:
    """The LSN right after the transaction's commit."""
    end: int = _COMMIT.unpack_from(message)[2]
    return end


def relation_id(message: bytes) -> int:
    """The relation that an Insert, Update or Delete is about."""
    identifier: int = _RELATION_ID.unpack_from(message)[0]
    return identifier


def relation(message: bytes) -> Relation:
    """A Relation message."""
    identifier = relation_id(message)
    schema, place = _name(message, 5)
    name, place = _name(message, place)
    identity = chr(message[place])
    (count,) = _SHORT.unpack_from(message, place + 1)
    place += 3
    columns = []
    for _ in range(count):
        is_key = bool(message[place] & 1)
        column, place = _name(message, place + 1)
        type_id, _modifier = _COLUMN.unpack_from(message, place)
        place += _COLUMN.size
        columns.append(Column(column, type_id, is_key))
    # An empty name is how pgoutput writes pg_catalog.
    return Relation(identifier, schema or "pg_catalog", name, identity, tuple(columns))


def insert(message: bytes) -> Row:
    """The new row."""
    return _row(message, 6)[0]


def update(message: bytes) -> tuple[int | None, Row | None, Row]:
    """What the old row is (`OLD_ROW`, `OLD_KEY` or None), the old row, the new row."""
    kind = message[5]
    if kind == _NEW:
        return None, None, _row(message, 6)[0]
    old, place = _row(message, 6)
    return kind, old, _row(message, place + 1)[0]


def delete(message: bytes) -> tuple[int, Row]:
    """What the old row is (`OLD_ROW` or `OLD_KEY`), and the old row."""
    return message[5], _row(message, 6)[0]


def _name(message: bytes, place: int) -> tuple[str, int]:
    end = message.index(0, place)
    return message[place:end].decode(), end + 1


def _row(message: bytes, place: int) -> tuple[Row, int]:
    """A TupleData and the place after it."""
    (count,) = _SHORT.unpack_from(message, place)
    place += 2
    row: Row = []
    append = row.append
    length_at = _LENGTH.unpack_from
    for _ in range(count):
        kind = message[place]
        if kind == _TEXT:
            start = place + 5
            place = start + length_at(message, place + 1)[0]
            append(message[start:place].decode())
        elif kind == _NULL:
            append(None)
            place += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            place += 1
        else:
            raise MalformedMessage(f"a column of unknown kind {kind:#x}")
    return row, place
