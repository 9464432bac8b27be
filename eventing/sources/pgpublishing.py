"""The publications of one source: which tables' changes Postgres sends, and keeping that in line.

A publication with updates or deletes makes those statements fail for everybody on a table without
replica identity. So such a table is never in that publication, and one that loses its identity is
taken out at the next look. Nothing here waits long for a user's lock: what could not be changed
is tried again at the next look.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import psycopg2
import structlog
from psycopg2 import sql
from psycopg2.extensions import connection, cursor

from eventing.changes import Operation
from eventing.postgresserver import OWN_SCHEMA, quoted
from eventing.sources.base import SourceBlocked, Watch
from eventing.sources.pgserver import Facts, column_name, lsn_number

logger = structlog.get_logger(__name__)

# The first versions with TABLES IN SCHEMA, and with generated columns that can be published.
_SCHEMAS_SINCE: Final = 150_000
_GENERATED_SINCE: Final = 180_000


class Table(NamedTuple):
    """A table as the catalogue has it at this moment.

    `eligible` if it may be captured at all, `identity` if updates and deletes may be published,
    `ours` if our role may publish it, else `owner` is who may; then which publications hold it by
    name.
    """

    oid: int
    schema: str
    name: str
    eligible: bool
    identity: bool
    ours: bool
    in_insert: bool
    in_change: bool
    owner: str
    owner_is_superuser: bool

    @property
    def column(self) -> str:
        """Its name as `data.col` shows it."""
        return column_name(self.schema, self.name)


class Look(NamedTuple):
    """What one look at the catalogue found; `wal_end` is the server's end of the log, and
    `kept_log_bytes` what it keeps of that for the slot, if there is one.

    `insert_schemas` are published as a whole, `schemas` are those that could be. `missing` is one
    of our publications that is not there.
    """

    wal_end: int
    kept_log_bytes: int | None
    missing: str | None
    all_inserts: bool
    insert_schemas: frozenset[str]
    schemas: frozenset[str]
    tables: list[Table]


class Publications:
    """The three publications of a source.

    `<name>_all` is for all tables and publishes inserts or nothing; `<name>_insert` and
    `<name>_change` hold tables by name (or whole schemas, for inserts).
    """

    def __init__(
        self, name: str, schemas: Sequence[str] | None, excluded_tables: frozenset[str]
    ) -> None:
        self._slot = name
        self.all = f"{name}_all"
        self.insert = f"{name}_insert"
        self.change = f"{name}_change"
        self._schemas = None if schemas is None else list(schemas)
        self._excluded = sorted(excluded_tables)

    @property
    def names(self) -> tuple[str, str, str]:
        """All three, as the stream is asked for them."""
        return (self.all, self.insert, self.change)

    def missing(self, opened: connection) -> str | None:
        """One of them that is not there. Raises psycopg2.Error."""
        with opened.cursor() as at:
            at.execute(_MISSING, [[*self.names]])
            found = at.fetchone()
        return found[0] if found else None

    def make(self, opened: connection, facts: Facts) -> None:
        """Make those that are missing. They must be there before the slot: up to Postgres 17 a
        publication that did not exist at the place being decoded ends the stream."""
        with opened.cursor() as at:
            at.execute(
                "SELECT pubname, pg_has_role(pubowner, 'USAGE') FROM pg_publication"
                " WHERE pubname = ANY(%s)",
                [[*self.names]],
            )
            present = dict(at.fetchall())
            # The one for all tables may stay a superuser's: only inserts come of it.
            for name in (self.insert, self.change):
                if not present.get(name, True):
                    raise SourceBlocked(
                        f"the publication {name} belongs to another role than {facts.role}",
                        f"ALTER PUBLICATION {quoted(name)} OWNER TO {quoted(facts.role)};",
                    )
            kinds = {self.all: "", self.insert: "insert", self.change: "update, delete"}
            for name, publish in kinds.items():
                if name in present:
                    continue
                everything = name == self.all and facts.is_superuser
                options = "publish = {}, publish_via_partition_root = true"
                if facts.version >= _GENERATED_SINCE:
                    options += ", publish_generated_columns = stored"
                at.execute(
                    sql.SQL("CREATE PUBLICATION {} {} WITH (" + options + ")").format(
                        sql.Identifier(name),
                        sql.SQL("FOR ALL TABLES" if everything else ""),
                        sql.Literal(publish),
                    )
                )

    def drop(self, opened: connection) -> None:
        """Drop all of them, present or not."""
        with opened.cursor() as at:
            for name in self.names:
                at.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))

    def look(self, opened: connection, facts: Facts) -> Look:
        """Read the catalogue once. Raises psycopg2.Error."""
        with opened.cursor() as at:
            at.execute(_STATE, [self._slot, [*self.names], self.all])
            wal_end, kept, missing, all_inserts = at.fetchone() or ("0/0", None, None, False)
            schemas: frozenset[str] = frozenset()
            if facts.version >= _SCHEMAS_SINCE:
                at.execute(_PUBLISHED_SCHEMAS, [self.insert])
                schemas = frozenset(name for (name,) in at.fetchall())
            at.execute(_SCHEMAS, {"own": OWN_SCHEMA, "schemas": self._schemas})
            present = frozenset(name for (name,) in at.fetchall())
            # The product's own tables can only be meant where the product itself lives.
            excluded = self._excluded if facts.holds_control_plane else []
            at.execute(
                _TABLES,
                {
                    "insert": self.insert,
                    "change": self.change,
                    "own": OWN_SCHEMA,
                    "schemas": self._schemas,
                    "excluded": excluded,
                },
            )
            tables = [Table(*row) for row in at.fetchall()]
        end, inserts = lsn_number(wal_end), bool(all_inserts)
        return Look(end, kept, missing, inserts, schemas, present, tables)

    def bring_in_line(self, opened: connection, facts: Facts, look: Look, watch: Watch) -> bool:
        """Publish what `watch` wants. Returns whether all of it could be done now.

        Dangerous tables leave first; a wider publication is on before a narrower one goes.
        """
        covers_all, schemas = self._coverage(facts, look, watch)
        wanted: dict[str, set[int]] = {self.insert: set(), self.change: set()}
        for table in look.tables:
            if not (table.eligible and table.ours):
                continue
            covered = covers_all or table.schema in schemas
            if not covered and watch.wants(table.column, "insert"):
                wanted[self.insert].add(table.oid)
            if table.identity and _wants(watch, table.column, ("update", "delete")):
                wanted[self.change].add(table.oid)
        inserts, changes = wanted[self.insert], wanted[self.change]
        with opened.cursor() as at:
            steps = [
                self._alter(at, self.change, "DROP", _only(look, changes, "change", present=True)),
                self._alter(at, self.change, "ADD", _only(look, changes, "change", present=False)),
                self._alter(at, self.insert, "ADD", _only(look, inserts, "insert", present=False)),
                self._alter_schemas(at, "ADD", schemas - look.insert_schemas),
                covers_all == look.all_inserts or self._toggle(at, covers_all),
                self._alter(at, self.insert, "DROP", _only(look, inserts, "insert", present=True)),
                self._alter_schemas(at, "DROP", look.insert_schemas - schemas),
            ]
        return all(steps)

    def _coverage(self, facts: Facts, look: Look, watch: Watch) -> tuple[bool, frozenset[str]]:
        """Whether inserts of all tables are published, and else of which whole schemas."""
        nothing: frozenset[str] = frozenset()
        present = {table.column for table in look.tables}
        named = {name.removeprefix("public.") for name in watch.named_tables}
        future = watch.wants_future_tables or not named <= present
        if not (facts.is_superuser and future and "insert" in watch.operations):
            return False, nothing
        if facts.has_own_schema or self._schemas is not None:
            # Everything would include the product's own writes, or schemas nobody asked for.
            if facts.version >= _SCHEMAS_SINCE:
                return False, look.schemas
            return not facts.has_own_schema, nothing
        return True, nothing

    def _toggle(self, at: cursor, on: bool) -> bool:
        statement = sql.SQL("ALTER PUBLICATION {} SET (publish = {})")
        return _attempt(
            at, statement.format(sql.Identifier(self.all), sql.Literal("insert" if on else ""))
        )

    def _alter(self, at: cursor, publication: str, verb: str, tables: list[Table]) -> bool:
        """Add or drop tables together, or one by one if one of them stands in the way."""
        if not tables:
            return True
        if _attempt(at, _alteration(publication, verb, tables), quiet=len(tables) > 1):
            return True
        if len(tables) == 1:
            return False
        # Another try each, and no more than one wait for locks each.
        done = [_attempt(at, _alteration(publication, verb, [table])) for table in tables]
        return all(done)

    def _alter_schemas(self, at: cursor, verb: str, schemas: Iterable[str]) -> bool:
        done = True
        for schema in sorted(schemas):
            statement = sql.SQL("ALTER PUBLICATION {} {} TABLES IN SCHEMA {}").format(
                sql.Identifier(self.insert), sql.SQL(verb), sql.Identifier(schema)
            )
            done = _attempt(at, statement) and done
        return done


def _wants(watch: Watch, table: str, operations: Sequence[Operation]) -> bool:
    return any(watch.wants(table, operation) for operation in operations)


def _only(look: Look, wanted: set[int], which: str, *, present: bool) -> list[Table]:
    """The tables that must leave a publication (`present`), or that are missing from it."""
    return [
        table
        for table in look.tables
        if (table.in_insert if which == "insert" else table.in_change) is present
        and (table.oid in wanted) is not present
    ]


def _alteration(publication: str, verb: str, tables: Sequence[Table]) -> sql.Composed:
    # ONLY: without it, adding a parent adds its children too.
    names = [
        sql.SQL("ONLY {}").format(sql.Identifier(table.schema, table.name)) for table in tables
    ]
    return sql.SQL("ALTER PUBLICATION {} {} TABLE {}").format(
        sql.Identifier(publication), sql.SQL(verb), sql.SQL(", ").join(names)
    )


def _attempt(at: cursor, statement: sql.Composed, *, quiet: bool = False) -> bool:
    """Run a statement; a table that is locked, gone or not ours is left for the next look."""
    try:
        at.execute(statement)
    except psycopg2.Error as error:
        if error.pgcode is None:
            raise
        if not quiet:
            logger.warning(
                "a publication could not be altered yet",
                code=error.pgcode,
                reason=error.diag.message_primary,
            )
        return False
    return True


_MISSING: Final = """
SELECT name FROM unnest(%s::text[]) AS name
WHERE name NOT IN (SELECT pubname FROM pg_publication)
LIMIT 1
"""

_STATE: Final = f"""
SELECT pg_current_wal_lsn(),
       (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
        FROM pg_replication_slots WHERE slot_name = %s),
       ({_MISSING}),
       (SELECT pubinsert FROM pg_publication WHERE pubname = %s)
"""

_SCHEMAS: Final = r"""
SELECT nspname
FROM pg_namespace
WHERE nspname NOT LIKE 'pg\_%%' AND nspname <> 'information_schema' AND nspname <> %(own)s
    AND (%(schemas)s::text[] IS NULL OR nspname = ANY (%(schemas)s))
"""

_PUBLISHED_SCHEMAS: Final = """
SELECT n.nspname
FROM pg_publication_namespace AS pn
JOIN pg_publication AS p ON p.oid = pn.pnpubid
JOIN pg_namespace AS n ON n.oid = pn.pnnspid
WHERE p.pubname = %s
"""

# What CheckCmdReplicaIdentity asks of a table before an UPDATE or DELETE of it may go on. A whole
# row cannot be the identity if part of it can never be published (Postgres 18, virtual columns).
_HAS_IDENTITY: Final = """
CASE {table}.relreplident
  WHEN 'f' THEN NOT EXISTS (
    SELECT FROM pg_attribute AS a
    WHERE a.attrelid = {table}.oid AND a.attgenerated = 'v' AND NOT a.attisdropped)
  WHEN 'd' THEN EXISTS (
    SELECT FROM pg_index AS i
    WHERE i.indrelid = {table}.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)
  WHEN 'i' THEN EXISTS (
    SELECT FROM pg_index AS i
    WHERE i.indrelid = {table}.oid AND i.indisreplident
      AND i.indisvalid AND i.indisunique AND i.indimmediate)
  ELSE false
END
"""

# A new partition has the default identity, so its root must give it a primary key; and each leaf
# that is there must have a usable identity. pg_partition_tree would say the same, but locks tables.
_TABLES: Final = f"""
WITH RECURSIVE below AS (
  SELECT i.inhparent AS root, i.inhrelid AS oid
  FROM pg_inherits AS i
  JOIN pg_class AS c ON c.oid = i.inhparent
  WHERE c.relkind = 'p' AND NOT c.relispartition
  UNION ALL
  SELECT below.root, i.inhrelid FROM below JOIN pg_inherits AS i ON i.inhparent = below.oid
), unfit AS (
  SELECT DISTINCT below.root
  FROM below
  JOIN pg_class AS leaf ON leaf.oid = below.oid
  WHERE leaf.relkind = 'r' AND NOT {_HAS_IDENTITY.format(table="leaf")}
), named AS (
  SELECT pr.prrelid AS oid,
         bool_or(p.pubname = %(insert)s) AS in_insert,
         bool_or(p.pubname = %(change)s) AS in_change
  FROM pg_publication_rel AS pr
  JOIN pg_publication AS p ON p.oid = pr.prpubid
  WHERE p.pubname IN (%(insert)s, %(change)s)
  GROUP BY pr.prrelid
), candidate AS (
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relowner,
         c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
         AND n.nspname NOT LIKE 'pg\\_%%'
         AND n.nspname NOT IN ('information_schema', %(own)s)
         AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY(%(schemas)s::text[]))
         AND n.nspname || '.' || c.relname <> ALL(%(excluded)s::text[]) AS eligible
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p')
)
SELECT c.oid, c.nspname, c.relname, c.eligible,
       CASE c.relkind
         WHEN 'r' THEN {_HAS_IDENTITY.format(table="c")}
         ELSE EXISTS (
                SELECT FROM pg_index AS i
                WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)
              AND c.oid NOT IN (SELECT root FROM unfit)
       END,
       pg_has_role(c.relowner, 'USAGE'),
       coalesce(named.in_insert, false),
       coalesce(named.in_change, false),
       owner.rolname, owner.rolsuper
FROM candidate AS c
JOIN pg_roles AS owner ON owner.oid = c.relowner
LEFT JOIN named ON named.oid = c.oid
WHERE c.eligible OR named.oid IS NOT NULL
ORDER BY c.nspname, c.relname
"""
