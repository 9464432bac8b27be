"""What Postgres' catalogue tells about a source: types, tables, what may be published of them.

Every statement here reads. All of it goes over an ordinary connection beside the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import psycopg2.extensions

from eventing.logs.postgres import SCHEMA
from eventing.sources.pgvalues import TypeFacts

_FIRST_USER_TYPE: Final = 16_384

# A replica identity that UPDATE and DELETE can use (manual, "Publication", replica identity).
_HAS_IDENTITY: Final = """(
    {c}.relreplident = 'f'
    OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = {c}.oid AND i.indisvalid
               AND i.indimmediate
               AND CASE {c}.relreplident WHEN 'd' THEN i.indisprimary
                                         WHEN 'i' THEN i.indisreplident ELSE false END))"""

# New partitions get the default identity, so a partitioned table needs a primary key itself.
_TABLES: Final = f"""
    SELECT c.oid, n.nspname, c.relname, pg_has_role(c.relowner, 'USAGE'),
           CASE c.relkind
               WHEN 'r' THEN {_HAS_IDENTITY.format(c="c")}
               ELSE EXISTS (SELECT FROM pg_index p WHERE p.indrelid = c.oid AND p.indisprimary)
                    AND NOT EXISTS (
                        SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
                        WHERE t.isleaf AND l.relkind = 'r'
                          AND NOT {_HAS_IDENTITY.format(c="l")})
           END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
      AND n.nspname <> ALL (ARRAY['information_schema', '{SCHEMA}'])
      AND n.nspname NOT LIKE 'pg\\_%%' AND (%s::text[] IS NULL OR n.nspname = ANY (%s))
    ORDER BY 2, 3"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be published. `has_identity`: updates and deletes too, without harm."""

    id: int
    schema: str
    name: str
    is_ours: bool
    has_identity: bool

    @property
    def shown(self) -> str:
        """Its name as `data.col` shows it."""
        return shown_name(self.schema, self.name)


def shown_name(schema: str, name: str) -> str:
    """`name` for the schema public, else `schema.name`."""
    return name if schema == "public" else f"{schema}.{name}"


def identifier(*names: str) -> str:
    """Names as a quoted SQL identifier."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


class Catalogue:
    """Reads the catalogue of one source."""

    def __init__(
        self,
        connection: psycopg2.extensions.connection,
        schemas: Sequence[str] | None,
        product_tables: frozenset[str],
    ) -> None:
        self._connection = connection
        self._schemas = list(schemas) if schemas else None
        self._product_tables = product_tables
        self._types: dict[int, TypeFacts | None] = {}

    def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *arguments: Any) -> Any:
        """The first value of the first row, None without one."""
        rows = self.rows(sql, *arguments)
        return rows[0][0] if rows else None

    @cached_property
    def holds_product(self) -> bool:
        """Whether this database is also one that the product keeps its own tables in."""
        return bool(self.value("SELECT 1 FROM pg_namespace WHERE nspname = %s", SCHEMA))

    @cached_property
    def version(self) -> int:
        """The server's version as a number: 150004."""
        return int(self.value("SHOW server_version_num"))

    @cached_property
    def is_superuser(self) -> bool:
        """Whether the role is a superuser."""
        return self.value("SHOW is_superuser") == "on"

    def schemas(self) -> list[str]:
        """The schemas whose tables may be captured."""
        found = self.rows(
            "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%%'"
            " AND nspname <> ALL (ARRAY['information_schema', %s])"
            " AND (%s::text[] IS NULL OR nspname = ANY (%s))",
            SCHEMA,
            self._schemas,
            self._schemas,
        )
        return [name for (name,) in found]

    def is_captured(self, schema: str, name: str) -> bool:
        """Whether changes of a table may become events at all."""
        if schema == SCHEMA or (self._schemas is not None and schema not in self._schemas):
            return False
        return not (self.holds_product and f"{schema}.{name}" in self._product_tables)

    def tables(self) -> list[Table]:
        """Every table that could be captured, by schema and name."""
        found = [Table(*row) for row in self.rows(_TABLES, self._schemas, self._schemas)]
        return [table for table in found if self.is_captured(table.schema, table.name)]

    def primary_key(self, relation_id: int) -> list[str]:
        """The columns of a table's primary key, in the key's order."""
        return [
            name
            for (name,) in self.rows(
                "SELECT a.attname FROM pg_index i"
                " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, place)"
                " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number"
                " WHERE i.indrelid = %s AND i.indisprimary ORDER BY k.place",
                relation_id,
            )
        ]

    def columns(self) -> dict[int, list[str]]:
        """The columns of each ordinary table, by the table's id."""
        return {
            table: names
            for table, names in self.rows(
                "SELECT a.attrelid, array_agg(a.attname::text ORDER BY a.attnum)"
                " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
                " WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped"
                " AND c.oid >= %s GROUP BY 1",
                _FIRST_USER_TYPE,
            )
        }

    def type_facts(self, type_id: int) -> TypeFacts | None:
        """What is known of a type, read when first asked for."""
        if type_id not in self._types:
            self._types[type_id] = self._read_type(type_id)
        return self._types[type_id]

    def forget_types(self) -> None:
        """Types that users made may have been altered: read them again."""
        self._types = {
            type_id: facts for type_id, facts in self._types.items() if type_id < _FIRST_USER_TYPE
        }

    def _read_type(self, type_id: int) -> TypeFacts | None:
        rows = self.rows(
            "SELECT typname, typtype, typbasetype, typrelid, typelem,"
            " typsubscript = 'array_subscript_handler'::regproc, typdelim"
            " FROM pg_type WHERE oid = %s",
            type_id,
        )
        if not rows:
            return None
        name, kind, base, composite_id, element, is_array, _delimiter = rows[0]
        if kind == "d":
            return TypeFacts(type_id, name, "domain", base=base)
        if kind == "c":
            attributes = self.rows(
                "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = %s AND attnum > 0"
                " AND NOT attisdropped ORDER BY attnum",
                composite_id,
            )
            return TypeFacts(type_id, name, "composite", attributes=tuple(attributes))
        if is_array and element:
            delimiter = self.value("SELECT typdelim FROM pg_type WHERE oid = %s", element)
            return TypeFacts(type_id, name, "array", element=element, delimiter=delimiter)
        return TypeFacts(type_id, name, "scalar")
