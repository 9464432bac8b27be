"""What the product makes at a Postgres source: one slot, and three publications it reads from.

`<name>_all` publishes inserts of all tables, `<name>_insert` those of listed ones, `<name>_change`
updates and deletes of listed tables. The last never lists a table without a replica identity:
Postgres would refuse that table's updates and deletes to the user's own programs.
"""

from collections.abc import Iterable

import psycopg2
import psycopg2.errors

from eventing.sources.base import Watch
from eventing.sources.pgcatalogue import Catalogue, Table, identifier

_LOCK_TIMEOUT = "1s"


class Publications:
    """The publications of one source, brought in line with what its triggers want."""

    def __init__(self, catalogue: Catalogue, name: str) -> None:
        self._catalogue = catalogue
        self._all = f"{name}_all"
        self._insert = f"{name}_insert"
        self._change = f"{name}_change"

    @property
    def names(self) -> tuple[str, str, str]:
        return self._all, self._insert, self._change

    def create(self) -> None:
        """Make those that are missing, publishing nothing yet.

        They must exist before the slot does: a publication that was made after a change is
        unknown when that change is decoded, which is an error before Postgres 18.
        """
        missing = set(self.names) - self._existing()
        if self._all in missing:
            self._create_all()
        for name, operations in ((self._insert, "insert"), (self._change, "update, delete")):
            if name in missing:
                self._run(f"CREATE PUBLICATION {identifier(name)} WITH ({_options(operations)})")

    def _create_all(self) -> None:
        """For all tables where the role may and the product's own are not among them."""
        name = identifier(self._all)
        if not self._catalogue.holds_product:
            try:
                self._run(f"CREATE PUBLICATION {name} FOR ALL TABLES WITH ({_options('')})")
            except psycopg2.errors.InsufficientPrivilege:
                pass
            else:
                return
        self._run(f"CREATE PUBLICATION {name} WITH ({_options('')})")

    def align(self, watch: Watch) -> list[str]:
        """Publish what `watch` wants of the tables there are now.

        Returns the tables that could not be added for want of ownership. Raises LockNotAvailable
        if a user's lock stands in the way: try again soon.
        """
        tables = self._catalogue.tables()
        future = self._cover_future_tables(watch, tables)
        inserts = {t.id: t for t in tables if not future and watch.wants(t.shown, "insert")}
        changes = {
            table.id: table
            for table in tables
            if table.has_identity
            and (watch.wants(table.shown, "update") or watch.wants(table.shown, "delete"))
        }
        refused = self._list(self._insert, inserts) + self._list(self._change, changes)
        return sorted(set(refused))

    def _cover_future_tables(self, watch: Watch, tables: Iterable[Table]) -> bool:
        """Publish inserts of tables that do not exist yet, where a trigger wants them.

        True if the inserts of all tables are then published without being listed.
        """
        present = {table.shown for table in tables}
        missing = any(name.removeprefix("public.") not in present for name in watch.named_tables)
        wanted = "insert" in watch.operations and (watch.wants_future_tables or missing)
        for_all, publishes = self._catalogue.rows(
            "SELECT puballtables, pubinsert FROM pg_publication WHERE pubname = %s", self._all
        )[0]
        if for_all:
            if publishes != wanted:
                operations = "insert" if wanted else ""
                self._run(
                    f"ALTER PUBLICATION {identifier(self._all)} SET (publish = '{operations}')"
                )
            return wanted
        return self._cover_schemas(wanted)

    def _cover_schemas(self, wanted: bool) -> bool:
        """The same by schemas (Postgres 15 and newer, superusers only).

        For a database that also holds the product's own tables, whose inserts would otherwise all
        be decoded.
        """
        catalogue = self._catalogue
        if not catalogue.holds_product or catalogue.version < 150_000 or not catalogue.is_superuser:
            return False
        listed = {
            schema
            for (schema,) in catalogue.rows(
                "SELECT n.nspname FROM pg_publication_namespace s"
                " JOIN pg_publication p ON p.oid = s.pnpubid"
                " JOIN pg_namespace n ON n.oid = s.pnnspid WHERE p.pubname = %s",
                self._insert,
            )
        }
        schemas = set(catalogue.schemas()) if wanted else set()
        name = identifier(self._insert)
        for schema in listed - schemas:
            self._alter(f"ALTER PUBLICATION {name} DROP TABLES IN SCHEMA {identifier(schema)}")
        for schema in schemas - listed:
            self._alter(f"ALTER PUBLICATION {name} ADD TABLES IN SCHEMA {identifier(schema)}")
        return wanted

    def _list(self, publication: str, wanted: dict[int, Table]) -> list[str]:
        """Make a publication list exactly `wanted`, tables that lost their identity first."""
        listed = dict(
            self._catalogue.rows(
                "SELECT r.prrelid, quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
                " FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
                " JOIN pg_class c ON c.oid = r.prrelid"
                " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
                publication,
            )
        )
        name = identifier(publication)
        for relation_id in listed.keys() - wanted.keys():
            self._alter(f"ALTER PUBLICATION {name} DROP TABLE ONLY {listed[relation_id]}")
        refused = []
        for relation_id in wanted.keys() - listed.keys():
            table = wanted[relation_id]
            if not table.is_ours:
                refused.append(table.shown)
                continue
            table_name = identifier(table.schema, table.name)
            self._alter(f"ALTER PUBLICATION {name} ADD TABLE ONLY {table_name}")
        return refused

    def _alter(self, sql: str) -> None:
        """Alter without waiting long for anybody's lock; a table that is gone needs nothing."""
        try:
            self._run(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            self._run(sql)
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedObject):
            pass
        except psycopg2.errors.DuplicateObject:
            pass

    def drop(self) -> None:
        """Drop all of them."""
        for name in self.names:
            self._run(f"DROP PUBLICATION IF EXISTS {identifier(name)}")

    def _existing(self) -> set[str]:
        rows = self._catalogue.rows(
            "SELECT pubname FROM pg_publication WHERE pubname = ANY (%s)", list(self.names)
        )
        return {name for (name,) in rows}

    def _run(self, sql: str) -> None:
        self._catalogue.rows(sql)


def _options(operations: str) -> str:
    return f"publish = '{operations}', publish_via_partition_root = true"
