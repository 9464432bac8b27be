"""The tables of a binary log as their table maps describe them, and what is wanted of them.

A table that nobody wants costs a look at its name. One that is wanted is looked up in the
catalogue once for each table map, when its first row arrives.
"""

from dataclasses import dataclass
from typing import Final

import structlog

from eventing.changes import Operation
from eventing.mysqlserver import OWN_TABLES, Facts, Opened
from eventing.sources.base import Watch
from eventing.sources.mycolumns import RowFormat, RowsUnreadable, names_of_map, table_map
from eventing.sources.myserver import Server

logger = structlog.get_logger(__name__)

_OPERATIONS: Final[tuple[Operation, ...]] = ("insert", "update", "delete")
_NOTHING: Final[frozenset[Operation]] = frozenset()


@dataclass(slots=True)
class Table:
    """A table as the stream has last described it. `format` is made when a row is first read."""

    body: bytes
    schema: str
    name: str
    wanted: frozenset[Operation]
    format: RowFormat | None = None
    problem: str | None = None


class Tables:
    """The table maps of one stream, by their number; the catalogue is read beside it."""

    def __init__(self, server: Server, opened: Opened, facts: Facts, watch: Watch) -> None:
        self._server = server
        self._opened = opened
        self._facts = facts
        self._watch = watch
        self._folds_case = facts.variables.get("lower_case_table_names", "0") != "0"
        self._tables: dict[bytes, Table] = {}

    def watch(self, watch: Watch) -> None:
        """Take a new configuration into force."""
        self._watch = watch
        for table in self._tables.values():
            table.wanted = self._wanted(table.schema, table.name)

    def describe(self, body: bytes) -> None:
        """Take in a table map."""
        number = body[:6]
        known = self._tables.get(number)
        if known is None or known.body != body:
            schema, name = names_of_map(body)
            self._tables[number] = Table(body, schema, name, self._wanted(schema, name))

    def of_rows(self, number: bytes) -> Table | None:
        """The table of a rows event."""
        return self._tables.get(number)

    def forget(self) -> None:
        """Another file has begun: a server that was restarted counts table maps from 1 again."""
        self._tables.clear()

    def altered(self) -> None:
        """Some table was altered: what did not fit the catalogue may now."""
        for table in self._tables.values():
            table.problem = None

    def format(self, table: Table) -> RowFormat:
        """How the rows of a table are read. Raises RowsUnreadable, pymysql.MySQLError."""
        if table.format is None:
            if table.problem is None:
                try:
                    columns = self._server.columns(self._opened, self._facts, table.name)
                    table.format = RowFormat(table_map(table.body), columns)
                    return table.format
                except RowsUnreadable as error:
                    table.problem = str(error)
                    logger.warning("rows cannot be read", table=table.name, reason=table.problem)
            raise RowsUnreadable(table.problem)
        return table.format

    def _wanted(self, schema: str, name: str) -> frozenset[Operation]:
        ours = self._server.database
        same = schema.lower() == ours.lower() if self._folds_case else schema == ours
        if not same or name.startswith(OWN_TABLES):
            return _NOTHING
        return frozenset(kind for kind in _OPERATIONS if self._watch.wants(name, kind))
