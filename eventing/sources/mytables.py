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
from eventing.sources.myalters import Alterations
from eventing.sources.mycolumns import (
    RowFormat,
    RowsUnreadable,
    columns_not_known,
    names_of_map,
    table_map,
)
from eventing.sources.myposition import LogPlace
from eventing.sources.myserver import Server

logger = structlog.get_logger(__name__)

_OPERATIONS: Final[tuple[Operation, ...]] = ("insert", "update", "delete")
_NOTHING: Final[frozenset[Operation]] = frozenset()


@dataclass(slots=True)
class Table:
    """A table as the stream has last described it; `format` or `problem` come with a row."""

    body: bytes
    schema: str
    name: str
    wanted: frozenset[Operation] = _NOTHING
    # What is wanted as the log has it: in a table with its history a delete is an update.
    logged: frozenset[Operation] = _NOTHING
    format: RowFormat | None = None
    problem: str | None = None
    is_sequence: bool = False
    may_have_history: bool = False


class Tables:
    """The table maps of one stream, by their number; the catalogue is read beside it."""

    def __init__(
        self, server: Server, opened: Opened, facts: Facts, watch: Watch, ahead: Alterations
    ) -> None:
        self._server = server
        self._opened = opened
        self._facts = facts
        self._watch = watch
        self._ahead = ahead
        self._folds_case = facts.variables.get("lower_case_table_names", "0") != "0"
        self._tables: dict[bytes, Table] = {}

    def watch(self, watch: Watch) -> None:
        """Take a new configuration into force."""
        self._watch = watch
        for table in self._tables.values():
            self._want(table)

    def describe(self, body: bytes) -> None:
        """Take in a table map."""
        number = body[:6]
        known = self._tables.get(number)
        if known is None or known.body != body:
            table = Table(body, *names_of_map(body), may_have_history=self._facts.is_mariadb)
            self._tables[number] = table
            self._want(table)

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

    def wanted(self, schema: str, name: str) -> frozenset[Operation]:
        """What is wanted of a table, by its names."""
        ours = self._server.database
        same = schema.lower() == ours.lower() if self._folds_case else schema == ours
        if not same or name.startswith(OWN_TABLES):
            return _NOTHING
        return frozenset(kind for kind in _OPERATIONS if self._watch.wants(name, kind))

    def look_up(self, table: Table, here: LogPlace, deadline: float) -> bool:
        """Find out how the rows of a table are read that stand in the log `here`.

        False when the time is up before that is known: then to be called again.
        Raises pymysql.MySQLError, SourceBlocked, SourceUnavailable.
        """
        described = table_map(table.body)
        found = self._server.table(self._opened, self._facts, table.name)
        # Asked for behind the catalogue: what altered the table before that lies before this.
        end = None if described.has_names else self._server.binlog_end(self._opened, self._facts)
        if end is not None:
            there = LogPlace.of(end.file, end.offset)
            if not self._ahead.reach(here, there, deadline):
                return False
        table.is_sequence = found.is_sequence
        table.may_have_history &= found.may_have_history
        self._want(table)
        if end is not None and self._ahead.concern(table.name):
            self._give_up(table, columns_not_known(table.name))
            return True
        try:
            table.format = RowFormat(described, found.columns)
        except RowsUnreadable as error:
            self._give_up(table, str(error))
        return True

    def format(self, table: Table) -> RowFormat:
        """How the rows of a table are read, that was looked up. Raises RowsUnreadable."""
        if table.format is None:
            raise RowsUnreadable(table.problem or columns_not_known(table.name))
        return table.format

    def close(self) -> None:
        self._ahead.close()

    def _give_up(self, table: Table, problem: str) -> None:
        table.problem = problem
        logger.warning("rows cannot be read", table=table.name, reason=problem)

    def _want(self, table: Table) -> None:
        """Work out what is wanted of a table, by its names and by what is known of it."""
        table.wanted = table.logged = (
            _NOTHING if table.is_sequence else self.wanted(table.schema, table.name)
        )
        if table.may_have_history and "delete" in table.wanted:
            table.logged |= {"update"}
