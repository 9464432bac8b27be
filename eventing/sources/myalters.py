"""Whether a table was altered between a place in the binary log and now: a look ahead.

Under binlog_row_metadata=MINIMAL the columns of a row are those of the catalogue, which is as the
table is now. They are the row's only if nothing that lies between has altered the table; of columns
that change their names or places, no look at the row could tell.
"""

import re
import time
from typing import Final, NamedTuple

import structlog
from pymysqlreplication.constants.BINLOG import QUERY_EVENT, ROTATE_EVENT

from eventing.mysqlserver import Facts
from eventing.sources.myposition import LogPlace, Position
from eventing.sources.myserver import Server, passing_server_id
from eventing.sources.mywire import (
    FIRST_OFFSET,
    LAST_OFFSET,
    LONGEST_STATEMENT_BYTES,
    QUERY_COMPRESSED_EVENT,
    Wire,
    statement_of,
)

logger = structlog.get_logger(__name__)

_EVENTS_A_LOOK: Final = 500
# What may change the columns of a table: their names, places, types, members or the primary key.
_ALTERS: Final = re.compile(
    rb"""
    \b (?:
        CHANGE | MODIFY | CONVERT | VERSIONING | PRIMARY
      | OR \s+ REPLACE \s+ TABLE
      | RENAME (?! \s+ (?: INDEX | KEY | USER) \b)
      | ADD (?! \s+ (?: UNIQUE | INDEX | KEY | FULLTEXT | SPATIAL | CONSTRAINT | FOREIGN | CHECK
                      | PARTITION) \b)
      | DROP (?! \s+ (?: INDEX | KEY | FOREIGN | CONSTRAINT | CHECK | PARTITION | DEFAULT | VIEW
                       | TRIGGER | TEMPORARY | PROCEDURE | FUNCTION | EVENT | USER | ROLE) \b)
    ) \b""",
    re.IGNORECASE | re.VERBOSE,
)
# What alters no table that is there, whatever words are in it.
_HARMLESS: Final = re.compile(
    rb"""
    (?: \s | /\*(?!!) .*? \*/ )*
    (?: CREATE \s+ (?! OR \s+ REPLACE \s+ TABLE \b) | GRANT \b | REVOKE \b )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_OF_DATABASE: Final = re.compile(rb"\bDROP\s+(?:DATABASE|SCHEMA)\b", re.IGNORECASE)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_$]+")


class _Statement(NamedTuple):
    """A statement that may have altered tables, and where it ends; any table if `is_cut`."""

    place: LogPlace
    text: bytes
    is_cut: bool


class Alterations:
    """The statements ahead of a stream that may have altered tables, read once each."""

    def __init__(self, server: Server, facts: Facts, name: str) -> None:
        self._server = server
        self._facts = facts
        self._name = name
        self._statements: list[_Statement] = []
        self._reached = LogPlace(0, 0, "")
        self._wire: Wire | None = None

    def reach(self, here: LogPlace, end: LogPlace, deadline: float) -> bool:
        """Read ahead from the stream's place to `end`; False when the time is up before that.

        Then to be called again. Raises pymysql.MySQLError, SourceBlocked, SourceUnavailable.
        """
        self._statements = [each for each in self._statements if each.place > here]
        if self._reached < here:
            self.close()
            self._reached = here
        events = 0
        while self._reached < end:
            if self._wire is None:
                self._wire = self._opened_at(self._reached)
            event = self._wire.read(0.05)
            events += 1
            if event is not None:
                if event.type == ROTATE_EVENT:
                    self._rotate(event.body)
                elif event.end and event.timestamp:
                    self._reached = self._reached.at(event.end)
                if event.type in (QUERY_EVENT, QUERY_COMPRESSED_EVENT):
                    self._take(statement_of(event), event.is_cut)
            if (event is None or events % _EVENTS_A_LOOK == 0) and time.monotonic() >= deadline:
                return False
        self.close()
        return True

    def concern(self, table: str) -> bool:
        """Whether a statement ahead may have altered the columns of this table."""
        if _PLAIN_NAME.fullmatch(table) is None:
            # The statement may write it in many ways, and in any character set.
            return bool(self._statements)
        named = re.compile(rb"(?<![\w$])" + re.escape(table.encode()) + rb"(?![\w$])", re.I)
        return any(
            each.is_cut or named.search(each.text) or _OF_DATABASE.search(each.text)
            for each in self._statements
        )

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _opened_at(self, place: LogPlace) -> Wire:
        wire = Wire(self._server.connect(), self._server.place)
        # Further behind, from the file's beginning.
        offset = place.offset if place.offset <= LAST_OFFSET else FIRST_OFFSET
        self._reached = place._replace(offset=offset)
        start = Position("file", f"{place.file}:{offset}")
        try:
            wire.start(self._facts, start, passing_server_id(), f"{self._name}_ahead")
        except BaseException:
            wire.close()
            raise
        return wire

    def _rotate(self, body: bytes) -> None:
        place = LogPlace.of(body[8:].decode(), int.from_bytes(body[:8], "little"))
        # The first one, which no file holds, tells what was asked for.
        self._reached = max(self._reached, place)

    def _take(self, text: bytes, is_cut: bool) -> None:
        is_cut = is_cut or len(text) >= LONGEST_STATEMENT_BYTES
        if _HARMLESS.match(text) is None and (is_cut or _ALTERS.search(text)):
            self._statements.append(_Statement(self._reached, text, is_cut))
