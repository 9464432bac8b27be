"""Rows of MySQL's binary log as JSON text: one converter for each table map, made once.

What the stream leaves out under binlog_row_metadata=MINIMAL (names, signs, members, character
sets) comes from the catalogue. Where the two do not fit together the rows are refused, never
guessed. Formats: MySQL's "Rows_event" and "Table_map_event" in libs/mysql/binlog/event.
"""

import base64
import codecs
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson
from pymysql.charset import charset_by_id, charset_by_name
from pymysqlreplication.constants import FIELD_TYPE as TYPE

from eventing.changes import Operation
from eventing.sources.base import MOST_ROW_BYTES
from eventing.sources.myjson import Reader, decimal_reader, json_of_binary

_VECTOR: Final = 242
_BINARY: Final = "binary"
_BLOB_COMPRESSED: Final = 140
_VARCHAR_COMPRESSED: Final = 141
# How many bytes of the table map describe each type. Types not here have none.
_META_BYTES: Final = {
    TYPE.FLOAT: 1,
    TYPE.DOUBLE: 1,
    TYPE.BLOB: 1,
    TYPE.GEOMETRY: 1,
    TYPE.JSON: 1,
    TYPE.TIMESTAMP2: 1,
    TYPE.DATETIME2: 1,
    TYPE.TIME2: 1,
    _VECTOR: 1,
    _BLOB_COMPRESSED: 1,
    TYPE.VARCHAR: 2,
    TYPE.VAR_STRING: 2,
    TYPE.STRING: 2,
    TYPE.ENUM: 2,
    TYPE.SET: 2,
    TYPE.BIT: 2,
    TYPE.NEWDECIMAL: 2,
    _VARCHAR_COMPRESSED: 2,
}
_CHARACTERS: Final = frozenset(
    {
        TYPE.STRING,
        TYPE.VAR_STRING,
        TYPE.VARCHAR,
        TYPE.BLOB,
        _BLOB_COMPRESSED,
        _VARCHAR_COMPRESSED,
    }
)
_ENUMERATED: Final = frozenset({TYPE.ENUM, TYPE.SET})
_NUMERIC: Final = frozenset(
    {
        TYPE.TINY,
        TYPE.SHORT,
        TYPE.INT24,
        TYPE.LONG,
        TYPE.LONGLONG,
        TYPE.FLOAT,
        TYPE.DOUBLE,
        TYPE.NEWDECIMAL,
        TYPE.YEAR,
    }
)
# The catalogue's names of types, by what the stream calls them. Types not here fit anything.
_FITTING: Final[dict[int, frozenset[str]]] = {
    TYPE.TINY: frozenset({"tinyint"}),
    TYPE.SHORT: frozenset({"smallint"}),
    TYPE.INT24: frozenset({"mediumint"}),
    TYPE.LONG: frozenset({"int"}),
    TYPE.LONGLONG: frozenset({"bigint"}),
    TYPE.FLOAT: frozenset({"float"}),
    TYPE.DOUBLE: frozenset({"double"}),
    TYPE.NEWDECIMAL: frozenset({"decimal"}),
    TYPE.YEAR: frozenset({"year"}),
    TYPE.DATE: frozenset({"date"}),
    TYPE.TIME2: frozenset({"time"}),
    TYPE.DATETIME2: frozenset({"datetime"}),
    TYPE.TIMESTAMP2: frozenset({"timestamp"}),
    TYPE.BIT: frozenset({"bit"}),
    TYPE.ENUM: frozenset({"enum"}),
    TYPE.SET: frozenset({"set"}),
    TYPE.JSON: frozenset({"json"}),
    TYPE.VARCHAR: frozenset({"varchar", "varbinary"}),
}


class RowsUnreadable(Exception):
    """The rows of a table map cannot be read; says why and what to do, with no values."""


class ValueUnreadable(Exception):
    """One value of a row cannot be read; the rows behind it can. Says why, with no values."""


# When a row ends that has not ended: up to MariaDB 11.4, and after.
_NEVER: Final = frozenset({'"2038-01-19T03:14:07.999999Z"', '"2106-02-07T06:28:15.999999Z"'})
# Stands for such a value in a row. No JSON text is like it.
_UNREADABLE: Final = "\0"


class CatalogueColumn(NamedTuple):
    """A column as information_schema has it. `key_place` counts from 1, 0 outside the key."""

    name: str
    type: str
    full_type: str
    charset: str | None
    octets: int
    key_place: int
    is_json: bool
    is_row_end: bool = False


class FoundTable(NamedTuple):
    """What the catalogue has of a table: nothing of one that is gone."""

    columns: list[CatalogueColumn]
    is_sequence: bool

    @property
    def may_have_history(self) -> bool:
        """Whether earlier rows are kept in it (MariaDB's WITH SYSTEM VERSIONING), or were."""
        return not self.columns or any(column.is_row_end for column in self.columns)


class _Described(NamedTuple):
    """A column as a table map describes it; what MINIMAL leaves out is None.

    `charset` is `binary` for bytes.
    """

    type: int
    meta: int
    name: str | None = None
    unsigned: bool | None = None
    raw_members: tuple[bytes, ...] | None = None
    charset: str | None = None


@dataclass(frozen=True, slots=True)
class TableMap:
    """A table map of the stream. `key` are the indexes of the primary key's columns, if told."""

    schema: str
    table: str
    columns: tuple[_Described, ...]
    key: tuple[int, ...]

    @property
    def has_names(self) -> bool:
        """Whether the stream itself names the columns (binlog_row_metadata=FULL)."""
        return bool(self.columns) and all(column.name for column in self.columns)


def names_of_map(body: bytes) -> tuple[str, str]:
    """Schema and table of a table map, without reading the rest."""
    at = 9 + body[8]
    return body[9:at].decode(), body[at + 2 : at + 2 + body[at + 1]].decode()


def table_map(body: bytes) -> TableMap:
    """A whole table map, from behind the event's header."""
    schema, table = names_of_map(body)
    at = 9 + body[8] + 1
    at += 1 + body[at] + 1
    count, at = length_at(body, at)
    kinds = body[at : at + count]
    _, at = length_at(body, at + count)
    columns = []
    for kind in kinds:
        size = _META_BYTES.get(kind, 0)
        # Two bytes: those of strings, decimals and BIT are apart; only VARCHAR's are one number.
        meta = int.from_bytes(body[at : at + size], "little")
        at += size
        columns.append(_of_real_type(kind, meta))
    at += (count + 7) // 8
    described, key = _with_metadata(columns, body, at)
    return TableMap(schema, table, tuple(described), key)


def _of_real_type(kind: int, meta: int) -> _Described:
    """A column of its real type: ENUM, SET and long CHAR travel as STRING."""
    if kind != TYPE.STRING:
        return _Described(kind, meta)
    first, second = meta & 0xFF, meta >> 8
    if first & 0x30 != 0x30:
        return _Described(first | 0x30, second | (((first & 0x30) ^ 0x30) << 4))
    return _Described(first, second)


def _with_metadata(
    columns: list[_Described], body: bytes, at: int
) -> tuple[list[_Described], tuple[int, ...]]:
    """The optional metadata of a table map: what MINIMAL gives a part of, and FULL all of."""
    numeric = [n for n, column in enumerate(columns) if column.type in _NUMERIC]
    key: tuple[int, ...] = ()
    raw: dict[int, bytes] = {}
    while at < len(body):
        kind = body[at]
        size, at = length_at(body, at + 1)
        raw[kind] = body[at : at + size]
        at += size
    if 1 in raw:
        for place, n in enumerate(numeric):
            bit = raw[1][place // 8] & (0x80 >> (place % 8))
            columns[n] = columns[n]._replace(unsigned=bool(bit))
    if 4 in raw:
        for n, name in enumerate(_strings(raw[4], 0, len(columns))):
            columns[n] = columns[n]._replace(name=name.decode())
    for tag, wanted in ((5, TYPE.SET), (6, TYPE.ENUM)):
        if tag in raw:
            at = 0
            for n, column in enumerate(columns):
                if column.type == wanted:
                    members, at = _members(raw[tag], at)
                    columns[n] = column._replace(raw_members=members)
    for kinds, default_tag, tag in ((_CHARACTERS, 2, 3), (_ENUMERATED, 10, 11)):
        places = [n for n, column in enumerate(columns) if column.type in kinds]
        collations = _collations(raw, len(places), default_tag, tag)
        for n, collation in zip(places, collations, strict=False):
            columns[n] = columns[n]._replace(charset=_charset_of(collation))
    if 8 in raw:
        key = tuple(_numbers(raw[8]))
    elif 9 in raw:
        key = tuple(_numbers(raw[9])[::2])
    return columns, key


def _collations(raw: dict[int, bytes], count: int, default_tag: int, tag: int) -> list[int]:
    """The collation of each column that has one; empty if the map does not tell."""
    if tag in raw:
        return _numbers(raw[tag])
    if default_tag not in raw:
        return []
    default, *exceptions = _numbers(raw[default_tag])
    others = dict(zip(exceptions[::2], exceptions[1::2], strict=True))
    return [others.get(place, default) for place in range(count)]


def _charset_of(collation: int) -> str | None:
    """The character set of a collation; None for one that PyMySQL does not know yet."""
    try:
        return str(charset_by_id(collation).name)  # type: ignore[attr-defined]
    except KeyError:
        return None


def length_at(body: bytes, at: int) -> tuple[int, int]:
    """A length-encoded integer, and where what follows begins."""
    first = body[at]
    if first < 251:
        return first, at + 1
    size = {252: 2, 253: 3, 254: 8}[first]
    return int.from_bytes(body[at + 1 : at + 1 + size], "little"), at + 1 + size


def _numbers(part: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(part):
        number, at = length_at(part, at)
        numbers.append(number)
    return numbers


def _strings(part: bytes, at: int, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        size, at = length_at(part, at)
        found.append(part[at : at + size])
        at += size
    return found


def _members(part: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    count, at = length_at(part, at)
    found = []
    for _ in range(count):
        size, at = length_at(part, at)
        found.append(part[at : at + size])
        at += size
    return tuple(found), at


class RowFormat:
    """How the rows of one table map are read: columns, converters, and what makes the `docId`.

    Raises RowsUnreadable where map and catalogue do not fit together.
    """

    def __init__(self, described: TableMap, catalogue: Sequence[CatalogueColumn]) -> None:
        known = _fitted(described, catalogue)
        self.count = len(described.columns)
        self.names = tuple(
            column.name or known[n].name  # type: ignore[union-attr]  # one of both is there
            for n, column in enumerate(described.columns)
        )
        self._keys = [f"{orjson.dumps(name).decode()}:" for name in self.names]
        self._readers = [_reader(column, known[n]) for n, column in enumerate(described.columns)]
        id_names = [n for n, name in enumerate(self.names) if name.lower() == "id"]
        key = described.key or tuple(
            n
            for _, n in sorted(
                (column.key_place, n)
                for n, column in enumerate(known)
                if column is not None and column.key_place
            )
        )
        self._identity = tuple(id_names[:1]) or key
        ends = (n for n, column in enumerate(known) if column is not None and column.is_row_end)
        self._row_end = next(ends, None)

    def operation(
        self, logged: Operation, before: Sequence[str | None], texts: Sequence[str | None]
    ) -> Operation | None:
        """What was done to a row; None where only its history was written or thinned out.

        MariaDB logs a delete as an update that ends the row, and behind an update the insert of
        the earlier row.
        """
        if self._row_end is None:
            return logged
        if before[self._row_end] not in _NEVER:
            return None
        return logged if texts[self._row_end] in _NEVER else "delete"

    def row(self, body: bytes, at: int, present: int) -> tuple[list[str | None], int]:
        """The JSON texts of one row image, None for columns it leaves out, and its end."""
        full = present == (1 << self.count) - 1
        count = self.count if full else present.bit_count()
        size = (count + 7) // 8
        nulls = int.from_bytes(body[at : at + size], "little")
        at += size
        if full and not nulls:
            texts: list[str | None] = []
            for read in self._readers:
                text, at = read(body, at)
                texts.append(text)
            return texts, at
        texts = []
        bit = 1
        for n, read in enumerate(self._readers):
            if not present >> n & 1:
                texts.append(None)
                continue
            if nulls & bit:
                texts.append("null")
            else:
                text, at = read(body, at)
                texts.append(text)
            bit <<= 1
        return texts, at

    def document(self, texts: Sequence[str | None]) -> str:
        """One row as a JSON object; columns that the image leaves out are left out.

        Raises ValueUnreadable.
        """
        if _UNREADABLE in texts:
            name = self.names[texts.index(_UNREADABLE)]
            raise ValueUnreadable(
                f"column {name} holds bytes that its type does not allow, or compressed more than"
                f" {MOST_ROW_BYTES}"
            )
        pairs = [
            key + text for key, text in zip(self._keys, texts, strict=True) if text is not None
        ]
        return "{" + ",".join(pairs) + "}"

    def document_id(self, texts: Sequence[str | None]) -> str:
        """The contract's `docId`; without any key, empty as for the Postgres source."""
        if not self._identity:
            return ""
        if len(self._identity) == 1:
            text = texts[self._identity[0]]
            if text is None or text == "null":
                return ""
            return str(orjson.loads(text)) if text.startswith('"') else text
        return "{" + ",".join(self._keys[n] + (texts[n] or "null") for n in self._identity) + "}"


def _fitted(
    described: TableMap, catalogue: Sequence[CatalogueColumn]
) -> list[CatalogueColumn | None]:
    """The catalogue's column for each of the stream's."""
    if described.has_names:
        by_name = {column.name: column for column in catalogue}
        return [
            found if found is not None and _fits(column, found) else None
            for column in described.columns
            for found in [by_name.get(column.name or "")]
        ]
    fits = len(catalogue) == len(described.columns) and all(
        _fits(column, found) for column, found in zip(described.columns, catalogue, strict=True)
    )
    if not fits:
        raise RowsUnreadable(columns_not_known(described.table))
    return list(catalogue)


def columns_not_known(table: str) -> str:
    """Why rows cannot be read that were written before their table was altered."""
    return (
        f"the columns of {table} at the time of this change are not known: the table has been"
        f" altered since, and the binary log names no columns; run"
        f" SET GLOBAL binlog_row_metadata = FULL"
    )


def _fits(column: _Described, found: CatalogueColumn) -> bool:
    names = _FITTING.get(column.type)
    if names is not None and found.type not in names:
        return column.type == TYPE.JSON and found.is_json
    if column.type == TYPE.NEWDECIMAL:
        precision, scale = column.meta & 0xFF, column.meta >> 8
        return found.full_type.startswith(f"decimal({precision},{scale})")
    if column.unsigned is not None and column.type in _NUMERIC and column.type != TYPE.YEAR:
        return column.unsigned == ("unsigned" in found.full_type)
    if column.type == TYPE.VARCHAR:
        return column.meta == found.octets
    return True


def _reader(column: _Described, known: CatalogueColumn | None) -> Reader:
    """The converter of one column."""
    kind, meta = column.type, column.meta
    unsigned = column.unsigned
    if unsigned is None:
        unsigned = known is not None and "unsigned" in known.full_type
    if kind in _INTEGERS:
        return _integer(*_INTEGERS[kind], signed=not unsigned)
    if kind in (TYPE.ENUM, TYPE.SET):
        members = _member_names(column, known)
        size = meta & 0xFF
        return _enum(members, size) if kind == TYPE.ENUM else _set(members, size)
    if kind == TYPE.NEWDECIMAL:
        return decimal_reader(meta & 0xFF, meta >> 8)
    if kind == TYPE.BIT:
        return _bits((meta & 0xFF) + 8 * (meta >> 8))
    if kind in _TEMPORAL:
        return _TEMPORAL[kind](meta)
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == TYPE.JSON:
        return _length_prefixed(meta, json_of_binary)
    if kind in (TYPE.GEOMETRY, _VECTOR):
        return _length_prefixed(meta, _base64)
    if kind in _CHARACTERS:
        return _string(column, known)
    raise RowsUnreadable(f"a column has type {kind} of MySQL's, which this version cannot read")


_INTEGERS: Final = {
    TYPE.TINY: (1,),
    TYPE.SHORT: (2,),
    TYPE.INT24: (3,),
    TYPE.LONG: (4,),
    TYPE.LONGLONG: (8,),
}


def _integer(size: int, *, signed: bool) -> Reader:
    def read(body: bytes, at: int) -> tuple[str, int]:
        end = at + size
        return str(int.from_bytes(body[at:end], "little", signed=signed)), end

    return read


def _bits(count: int) -> Reader:
    size = (count + 7) // 8

    def read(body: bytes, at: int) -> tuple[str, int]:
        return str(int.from_bytes(body[at : at + size], "big")), at + size

    return read


def _enum(members: tuple[str, ...], size: int) -> Reader:
    texts = ['""', *(orjson.dumps(member).decode() for member in members)]

    def read(body: bytes, at: int) -> tuple[str, int]:
        return texts[int.from_bytes(body[at : at + size], "little")], at + size

    return read


def _set(members: tuple[str, ...], size: int) -> Reader:
    def read(body: bytes, at: int) -> tuple[str, int]:
        bits = int.from_bytes(body[at : at + size], "little")
        if bits >> len(members):
            raise ValueError("a member that the set does not have")
        chosen = ",".join(member for n, member in enumerate(members) if bits >> n & 1)
        return orjson.dumps(chosen).decode(), at + size

    return read


def _member_names(column: _Described, known: CatalogueColumn | None) -> tuple[str, ...]:
    # What the stream tells is in the column's character set, which only the catalogue names here.
    if column.raw_members is not None:
        charset = column.charset or (known.charset if known else None)
        if charset is None:
            raise _unknown_charset(column)
        encoding = encoding_of(charset)
        try:
            return tuple(_decoded(member, encoding) for member in column.raw_members)
        except UnicodeDecodeError:
            raise RowsUnreadable(f"the members of column {column.name} are no {charset}") from None
    if known is None:
        raise RowsUnreadable(f"the members of column {column.name} are not known")
    return members_of(known.full_type)


def members_of(full_type: str) -> tuple[str, ...]:
    """The members of `enum('a','it''s')`, as the catalogue writes them."""
    text = full_type[full_type.index("(") + 1 : full_type.rindex(")")]
    members, at = [], 0
    while at < len(text):
        at += 1  # the opening quote
        member = ""
        while text[at] != "'" or text[at : at + 2] == "''":
            member += text[at]
            at += 2 if text[at] == "'" else 1
        members.append(member)
        at += 2  # the closing quote and a comma
    return tuple(members)


def _base64(value: bytes) -> str:
    return f'"{base64.b64encode(value).decode()}"'


# Windows' code page, with the control characters in its five gaps, as MySQL has it.
_LATIN1: Final = "".join(
    bytes([code]).decode("cp1252", "replace").replace("\ufffd", chr(code)) for code in range(256)
)


def _decoded(value: bytes, encoding: str) -> str:
    if encoding == "cp1252":
        return codecs.charmap_decode(value, "strict", _LATIN1)[0]
    return value.decode(encoding)


def _text(encoding: str) -> Callable[[bytes], str]:
    return lambda value: orjson.dumps(_decoded(value, encoding)).decode()


def _length_prefixed(width: int, convert: Callable[[bytes], str]) -> Reader:
    def read(body: bytes, at: int) -> tuple[str, int]:
        start = at + width
        end = start + int.from_bytes(body[at:start], "little")
        try:
            return convert(body[start:end]), end
        except (ValueError, LookupError, struct.error, zlib.error, RecursionError):
            return _UNREADABLE, end

    return read


def _string(column: _Described, known: CatalogueColumn | None) -> Reader:
    convert = _conversion(column, known)
    kind, meta = column.type, column.meta
    if kind in (_BLOB_COMPRESSED, _VARCHAR_COMPRESSED):
        width = meta if kind == _BLOB_COMPRESSED else 1 if meta <= 255 else 2
        return _length_prefixed(width, lambda value: convert(_inflated(value)))
    if kind == TYPE.BLOB:
        return _length_prefixed(meta, convert)
    if kind == TYPE.STRING and convert is _base64:
        # The stream leaves out the zeros at the end of a BINARY.
        return _length_prefixed(
            1 if meta <= 255 else 2, lambda value: _base64(value.ljust(meta, b"\0"))
        )
    return _length_prefixed(1 if meta <= 255 else 2, convert)


def _conversion(column: _Described, known: CatalogueColumn | None) -> Callable[[bytes], str]:
    """How the bytes of a string become JSON."""
    if known is not None and known.type in _MARIADB_TYPES:
        return _MARIADB_TYPES[known.type]
    charset = column.charset
    if charset is None and known is not None:
        charset = known.charset or _BINARY
    if charset is None:
        raise _unknown_charset(column)
    if charset == _BINARY:
        return _base64
    if known is not None and known.is_json:
        return json_or_text(encoding_of(charset))
    return _text(encoding_of(charset))


def _unknown_charset(column: _Described) -> RowsUnreadable:
    return RowsUnreadable(
        f"column {column.name} is not in the table any more, so its character set is unknown"
    )


def json_or_text(encoding: str) -> Callable[[bytes], str]:
    """MariaDB's JSON is text that was checked, unless somebody switched the check off."""

    def convert(value: bytes) -> str:
        text = value.decode(encoding)
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return orjson.dumps(text).decode()
        return text.strip().replace("\n", " ").replace("\r", " ")

    return convert


def encoding_of(charset: str | None) -> str:
    """Python's name of a character set of MySQL's. Raises RowsUnreadable if it has none."""
    name = charset or "utf8mb4"
    own = {"latin1": "cp1252", "utf8mb3": "utf8", "utf8mb4": "utf8", "ucs2": "utf-16-be"}
    own |= {"utf16": "utf-16-be", "utf32": "utf-32-be", "utf16le": "utf-16-le", "ujis": "euc_jp"}
    if name in own:
        return own[name]
    found = charset_by_name(name)
    encoding = found.encoding if found else name
    try:
        b"".decode(encoding)
        "".encode(encoding)
    except LookupError:
        raise RowsUnreadable(f"the character set {name} cannot be read") from None
    return encoding


def _inflated(value: bytes) -> bytes:
    """A value of a COMPRESSED column of MariaDB's (sql/field_comp.cc)."""
    if not value or value[0] == 0:
        return value[1:]
    unpacking = zlib.decompressobj(zlib.MAX_WBITS if value[0] & 8 else -zlib.MAX_WBITS)
    unpacked = unpacking.decompress(value[1 + (value[0] & 7) :], MOST_ROW_BYTES + 1)
    if len(unpacked) > MOST_ROW_BYTES or not unpacking.eof:
        raise ValueError("too large, or cut short")
    return unpacked


def _uuid(value: bytes) -> str:
    raw = value.ljust(16, b"\0").hex()
    return f'"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"'


def float_reader(body: bytes, at: int) -> tuple[str, int]:
    """A FLOAT with as few digits as tell it from its neighbours, and where what follows begins."""
    value = struct.unpack_from("<f", body, at)[0]
    for digits in (6, 7, 8):
        text = f"{value:.{digits}g}"
        if struct.pack("<f", float(text)) == body[at : at + 4]:
            return text, at + 4
    return f"{value:.9g}", at + 4


def double_reader(body: bytes, at: int) -> tuple[str, int]:
    """The same of a DOUBLE."""
    text = repr(struct.unpack_from("<d", body, at)[0])
    return text.removesuffix(".0"), at + 8


def _year(body: bytes, at: int) -> tuple[str, int]:
    return (str(1900 + body[at]) if body[at] else "0"), at + 1


def _date(body: bytes, at: int) -> tuple[str, int]:
    packed = int.from_bytes(body[at : at + 3], "little")
    return f'"{packed >> 9:04d}-{packed >> 5 & 15:02d}-{packed & 31:02d}"', at + 3


def _fraction(body: bytes, at: int, places: int) -> str:
    """The fraction of a second, with its point; as declared."""
    if not places:
        return ""
    size = (places + 1) // 2
    digits = f"{int.from_bytes(body[at : at + size], 'big'):0{2 * size}d}"
    return "." + digits[:places]


def _datetime2(places: int) -> Reader:
    size = 5 + (places + 1) // 2

    def read(body: bytes, at: int) -> tuple[str, int]:
        packed = int.from_bytes(body[at : at + 5], "big") - (1 << 39)
        year, month = divmod(packed >> 22, 13)
        text = (
            f'"{year:04d}-{month:02d}-{packed >> 17 & 31:02d}T{packed >> 12 & 31:02d}:'
            f'{packed >> 6 & 63:02d}:{packed & 63:02d}{_fraction(body, at + 5, places)}"'
        )
        return text, at + size

    return read


def _timestamp2(places: int) -> Reader:
    size = 4 + (places + 1) // 2

    def read(body: bytes, at: int) -> tuple[str, int]:
        seconds = int.from_bytes(body[at : at + 4], "big")
        return _instant(seconds, _fraction(body, at + 4, places)), at + size

    return read


def _timestamp(meta: int) -> Reader:
    def read(body: bytes, at: int) -> tuple[str, int]:
        return _instant(int.from_bytes(body[at : at + 4], "little"), ""), at + 4

    return read


def _instant(seconds: int, fraction: str) -> str:
    if not seconds and not fraction.strip(".0"):
        return f'"0000-00-00T00:00:00{fraction}"'
    # The civil date of a day, by eras of 400 years; 3 times as fast as datetime.
    days, rest = divmod(seconds, 86400)
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year += 400 * era + (month <= 2)
    return (
        f'"{year:04d}-{month:02d}-{day:02d}T{rest // 3600:02d}:{rest // 60 % 60:02d}:'
        f'{rest % 60:02d}{fraction}Z"'
    )


def _time2(places: int) -> Reader:
    extra = (places + 1) // 2
    size = 3 + extra
    zero = 1 << (8 * size - 1)

    def read(body: bytes, at: int) -> tuple[str, int]:
        packed = int.from_bytes(body[at : at + size], "big") - zero
        sign = "-" if packed < 0 else ""
        packed = abs(packed)
        whole = packed >> 8 * extra
        fraction = ""
        if places:
            digits = f"{packed & ((1 << 8 * extra) - 1):0{2 * extra}d}"
            fraction = "." + digits[:places]
        text = f'"{sign}{whole >> 12:02d}:{whole >> 6 & 63:02d}:{whole & 63:02d}{fraction}"'
        return text, at + size

    return read


_TEMPORAL: Final[dict[int, Callable[[int], Reader]]] = {
    TYPE.DATETIME2: _datetime2,
    TYPE.TIMESTAMP2: _timestamp2,
    TYPE.TIMESTAMP: _timestamp,
    TYPE.TIME2: _time2,
}
_FIXED: Final[dict[int, Reader]] = {
    TYPE.FLOAT: float_reader,
    TYPE.DOUBLE: double_reader,
    TYPE.YEAR: _year,
    TYPE.DATE: _date,
    TYPE.NEWDATE: _date,
}
_MARIADB_TYPES: Final[dict[str, Callable[[bytes], str]]] = {"uuid": _uuid}
