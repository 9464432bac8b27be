"""One row of a table in MySQL or MariaDB, as capture would show it: for the sample payload.

Capture reads values as the binary log packs them; here the server is asked for texts of them, which
become the same JSON.
"""

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from eventing.mysqlserver import Facts, Opened, quoted
from eventing.sources.base import Sample
from eventing.sources.mycolumns import CatalogueColumn, double_reader, float_reader, json_or_text

_LONGEST_MS: Final = 2000
Conversion = tuple[str, Callable[[str], str]]


def sample(
    opened: Opened, facts: Facts, database: str, table: str, columns: Sequence[CatalogueColumn]
) -> Sample | None:
    """Some row of the table; None if it has none. Raises pymysql.MySQLError."""
    if not columns:
        return None
    conversions = [_conversion(column) for column in columns]
    expressions = ", ".join(
        sql.format(column=quoted(column.name))
        for (sql, _), column in zip(conversions, columns, strict=True)
    )
    rows = f"{expressions} FROM {quoted(database)}.{quoted(table)} LIMIT 1"
    if facts.is_mariadb:
        statement = f"SET STATEMENT max_statement_time = {_LONGEST_MS / 1000} FOR SELECT {rows}"
    else:
        statement = f"SELECT /*+ MAX_EXECUTION_TIME({_LONGEST_MS}) */ {rows}"
    with opened.cursor() as at:
        at.execute("SET SESSION TRANSACTION READ ONLY")
        at.execute(statement)
        row = at.fetchone()
    if row is None:
        return None
    texts = [
        "null" if value is None else convert(_text_of(value))
        for value, (_, convert) in zip(row, conversions, strict=True)
    ]
    named = {column.name: text for column, text in zip(columns, texts, strict=True)}
    return Sample(table, _document_id(columns, named), _object(named))


def _text_of(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _object(texts: Mapping[str, str]) -> str:
    pairs = (f"{orjson.dumps(name).decode()}:{text}" for name, text in texts.items())
    return "{" + ",".join(pairs) + "}"


def _document_id(columns: Sequence[CatalogueColumn], texts: Mapping[str, str]) -> str:
    """The contract's `docId`: the column `id`, else the primary key; empty without either."""
    identity = [name for name in texts if name.lower() == "id"][:1]
    if not identity:
        keyed = sorted((column.key_place, column.name) for column in columns if column.key_place)
        identity = [name for _, name in keyed]
    if len(identity) > 1:
        return _object({name: texts[name] for name in identity})
    text = texts[identity[0]] if identity else "null"
    if text == "null":
        return ""
    return str(orjson.loads(text)) if text.startswith('"') else text


def _conversion(column: CatalogueColumn) -> Conversion:
    """What to ask the server for, and how its answer becomes JSON."""
    if column.is_json:
        return "CAST({column} AS CHAR)", _json
    if column.type in _CONVERSIONS:
        return _CONVERSIONS[column.type]
    if column.charset is not None:
        return "CONVERT({column} USING utf8mb4)", _string
    return "HEX({column})", _base64


def _json(text: str) -> str:
    return json_or_text("utf-8")(text.encode())


def _float(text: str) -> str:
    return float_reader(struct.pack("<f", float(text)), 0)[0]


def _double(text: str) -> str:
    return double_reader(struct.pack("<d", float(text)), 0)[0]


def _string(text: str) -> str:
    return orjson.dumps(text).decode()


def _base64(text: str) -> str:
    return f'"{base64.b64encode(bytes.fromhex(text)).decode()}"'


def _moment(text: str) -> str:
    return f'"{text.replace(" ", "T")}"'


def _instant(text: str) -> str:
    return _moment(text) if text.startswith("0000") else _moment(text + "Z")


_NUMBER: Final[Conversion] = ("CAST({column} AS CHAR)", str)
_CONVERSIONS: Final[Mapping[str, Conversion]] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "decimal"), _NUMBER),
    "bit": ("CAST({column} + 0 AS CHAR)", str),
    "year": ("CAST({column} + 0 AS CHAR)", str),
    "float": ("{column} + 0e0", _float),
    "double": ("{column} + 0e0", _double),
    "date": ("CAST({column} AS CHAR)", _moment),
    "time": ("CAST({column} AS CHAR)", _moment),
    "datetime": ("CAST({column} AS CHAR)", _moment),
    "timestamp": ("CAST({column} AS CHAR)", _instant),
    "uuid": ("CAST({column} AS CHAR)", _string),
}
