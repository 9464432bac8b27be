"""One stay on a binary log: events in, changes out, and the position after each of them.

Rows are read one by one out of the event at hand, so memory holds one event and one batch however
large a transaction is. What nobody wants is stepped over undecoded, and still counted as events,
so that a row's position does not depend on what is wanted.
"""

import re
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pymysqlreplication.constants import BINLOG

from eventing.changes import Change, Operation
from eventing.sources.base import MOST_ROW_BYTES, SourceBlocked
from eventing.sources.mycolumns import RowFormat, RowsUnreadable, ValueUnreadable, length_at
from eventing.sources.myposition import (
    BEFORE,
    GtidSet,
    LogPlace,
    Mark,
    Place,
    Position,
    file_and_offset,
    moment_of,
)
from eventing.sources.myserver import Server
from eventing.sources.mystatements import Touched, tables_touched
from eventing.sources.mytables import Table, Tables
from eventing.sources.mywire import (
    BEGINNINGS,
    EXECUTE_LOAD_QUERY_EVENT,
    FIRST_OFFSET,
    LAST_OFFSET,
    QUERY_COMPRESSED_EVENT,
    TRANSACTION_PAYLOAD_EVENT,
    Event,
    Wire,
    checksum_of,
    database_of,
    inflated,
    statement_of,
    unpacked_events,
)

_INCIDENT: Final = 26
_TAGGED_GTID: Final = 42
# MariaDB's log_bin_compress: write, update, delete, of each version of the rows events.
_COMPRESSED: Final = frozenset(range(166, 172))
_OF_VERSION_2: Final = frozenset(
    {
        BINLOG.WRITE_ROWS_EVENT_V2,
        BINLOG.UPDATE_ROWS_EVENT_V2,
        BINLOG.DELETE_ROWS_EVENT_V2,
        BINLOG.PARTIAL_UPDATE_ROWS_EVENT,
        169,
        170,
        171,
    }
)
_ROWS: Final[dict[int, Operation]] = {
    BINLOG.WRITE_ROWS_EVENT_V1: "insert",
    BINLOG.UPDATE_ROWS_EVENT_V1: "update",
    BINLOG.DELETE_ROWS_EVENT_V1: "delete",
    BINLOG.WRITE_ROWS_EVENT_V2: "insert",
    BINLOG.UPDATE_ROWS_EVENT_V2: "update",
    BINLOG.DELETE_ROWS_EVENT_V2: "delete",
    BINLOG.PARTIAL_UPDATE_ROWS_EVENT: "update",
    166: "insert",
    167: "update",
    168: "delete",
    169: "insert",
    170: "update",
    171: "delete",
}
# Ends of a transaction, and what comes after one that a server's death has cut off.
_ENDS: Final = frozenset(
    {
        BINLOG.XID_EVENT,
        BINLOG.XA_PREPARE_EVENT,
        BINLOG.ROTATE_EVENT,
        BINLOG.FORMAT_DESCRIPTION_EVENT,
        BINLOG.STOP_EVENT,
    }
)
_STANDALONE: Final = 1
_BATCH_BYTES: Final = 8 * 1024 * 1024
# The most that is held, until its end, of a transaction that may yet be rolled back in the log.
_MOST_HELD_BYTES: Final = 8 * 1024 * 1024
# In place of an event whose rows were rolled back: it counts as one, so that places stay the same.
_ROLLED_BACK: Final = -1
# The rest of a transaction whose beginning is here is about to arrive.
_REST_SECONDS: Final = 0.005
# Characters that are shown as `?` in the name of a file; hardly any name has one.
_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]")
# How many unwanted events are read between two looks at the clock.
_EVENTS_A_LOOK: Final = 2000
_ROWS_NOT_LOGGED: Final = (
    "a statement may have changed rows of this table, and the binary log does not say which: its"
    " session does not log rows (binlog_format; a session that was open when the server was set to"
    " ROW keeps the old format until it connects anew)"
)


class _RowsAtHand(NamedTuple):
    """A rows event that is being read, unless it is too large."""

    table: Table
    operation: Operation
    body: bytes
    present: int
    present_after: int
    is_partial: bool
    is_too_large: bool


class _Beginning(NamedTuple):
    """Where a file begins, or, by its first event, a transaction in it."""

    file: str
    file_begun_at: int
    offset: int
    event: Event | None


class _Row(NamedTuple):
    """What came of a row; without an operation, nothing that anybody did to a row or wants."""

    operation: Operation | None
    identifier: str = ""
    document: str = "{}"
    old: str | None = None


_NO_ROW: Final = _Row(None)


class Stream:
    """Reads a started wire. Raises SourceBlocked, SourceUnavailable, pymysql.MySQLError."""

    def __init__(
        self, wire: Wire, tables: Tables, server: Server, after: Position, identity: str
    ) -> None:
        self._wire = wire
        self._tables = tables
        self._server = server
        self._kind = after.kind
        self._after = after
        self._gtids = GtidSet(after.kind == "mariadb", after.done if after.kind != "file" else "")
        self._done = after.done
        # When the file was begun, or the latest transaction was committed.
        self._moment = moment_of(after.done)
        # By what the log will be known again: the latest of what was read whole, and what the
        # transaction at hand begins with.
        self._identity = identity
        self._begun_at = 0
        self._mark = after.mark
        self._read: _Beginning | None = None
        self._at_hand: _Beginning | None = None
        # The transaction at hand; and how much of it is stored already.
        self._transaction = ""
        self._transaction_shown = ""
        self._begun = False
        self._committed_at_ms = 0
        self._event = -1
        self._row = -1
        self._index = -1
        self._stored = BEFORE
        self._rows: _RowsAtHand | None = None
        self._row_at = 0
        # What a statement may have changed, where its rows are not logged.
        self._touched: deque[Touched] = deque()
        # The statement that is a transaction by itself, until that has been told.
        self._standalone: Event | None = None
        # What is left of a transaction that came compressed; what is held of one that may yet be
        # rolled back; and what of it was not.
        self._packed: Iterator[Event] = iter(())
        self._held: list[Event] = []
        self._held_bytes = 0
        self._ready: deque[Event] = deque()
        self.file = file_and_offset(after.done)[0] if after.kind == "file" else ""
        self.offset = 0
        self.drained = False

    @property
    def position(self) -> Position:
        """Up to where the stream has been read."""
        done = self._done if self._kind == "file" else f"{self._gtids}@{self._moment}"
        if self._transaction:
            place = Place(self._event, self._row)
            if self._transaction == self._after.transaction and place <= self._after.place:
                return self._after
            if place > BEFORE:
                mark = self._mark_of(self._at_hand)
                return Position(self._kind, done, self._transaction, place, self._index, mark)
        elif self._after.transaction and done == self._after.done:
            return self._after
        if self._read is not None:
            self._mark = self._mark_of(self._read) or self._mark
            self._read = None
        return Position(self._kind, done, mark=self._mark)

    def read(self, max_changes: int, timeout_seconds: float) -> list[Change]:
        """Changes in order: as soon as there are enough, or the stream runs dry."""
        deadline = time.monotonic() + timeout_seconds
        changes: list[Change] = []
        self.drained = False
        size = events = 0
        while len(changes) < max_changes and size < _BATCH_BYTES:
            if self._rows is not None:
                if not self._is_understood(self._rows.table, deadline):
                    break
                change = self._next_row(self._rows)
                if change is not None:
                    changes.append(change)
                    size += len(change.document) + len(change.old or "")
                continue
            if self._touched:
                change = self._next_touched(self._touched.popleft())
                if change is not None:
                    changes.append(change)
                if self._standalone is not None and not self._touched:
                    self._finish(self._standalone)
                continue
            event = self._next_event(0)
            if event is None:
                if changes and not self._transaction:
                    self.drained = True
                    break
                remaining = deadline - time.monotonic()
                event = self._next_event(min(remaining, _REST_SECONDS) if changes else remaining)
                if event is None:
                    self.drained = True
                    break
            self._take(event)
            events += 1
            if events % _EVENTS_A_LOOK == 0 and time.monotonic() >= deadline:
                break
        return changes

    def close(self) -> None:
        self._wire.close()
        self._tables.close()

    def _next_event(self, patience_seconds: float) -> Event | None:
        """The next event; None if none has come within `patience_seconds`.

        From the first rows of a transaction on, what comes is held until the transaction ends: its
        end, or a savepoint, may take rows back. Whole logs of MySQL with global ids never do.
        """
        while not self._ready:
            event = next(self._packed, None) or self._wire.read(patience_seconds)
            if event is None:
                return None
            if event.type == TRANSACTION_PAYLOAD_EVENT:
                self._packed = unpacked_events(event, self._wire.more)
            if not (self._held or (event.type in _ROWS and self._kind != "mysql")):
                return event
            self._held.append(event)
            self._held_bytes += len(event.body)
            word = _word_of(event)
            is_over = event.type in _ENDS or word in (b"COMMIT", b"ROLLBACK")
            if is_over or event.is_cut or self._held_bytes > _MOST_HELD_BYTES:
                self._ready = deque(_without_what_was_rolled_back(self._held))
                self._held, self._held_bytes = [], 0
        return self._ready.popleft()

    def _take(self, event: Event) -> None:
        """Take in one event; after a rows event that is wanted, `_rows` holds it."""
        kind = event.type
        if kind in _ROWS:
            self._take_rows(event)
        elif kind == BINLOG.TABLE_MAP_EVENT:
            self._tables.describe(event.body)
        elif kind in BEGINNINGS:
            self._begin(event)
        elif kind in (BINLOG.XID_EVENT, BINLOG.XA_PREPARE_EVENT):
            self._finish(event)
        elif kind in (BINLOG.QUERY_EVENT, QUERY_COMPRESSED_EVENT):
            self._take_query(event)
        elif kind == EXECUTE_LOAD_QUERY_EVENT:
            self._take_statement(event, statement_of(event))
        elif kind == BINLOG.ROTATE_EVENT:
            self._take_rotation(event)
        elif kind == BINLOG.FORMAT_DESCRIPTION_EVENT:
            self._take_beginning(event)
        elif kind == _ROLLED_BACK:
            self._event, self._row = self._event + 1, -1
        elif kind == _TAGGED_GTID:
            raise SourceBlocked(
                f"{self._server.place}: a transaction has a tagged GTID, which cannot be read",
                "commit with GTID_NEXT = AUTOMATIC, without a tag; then start anew from now",
            )
        elif kind == _INCIDENT:
            raise self._server.lost("the binary log reports an incident: changes are missing in it")
        if event.end and event.timestamp:
            self.offset += (event.end - self.offset) & 0xFFFFFFFF

    def _begin(self, event: Event) -> None:
        body = event.body
        begin = event.end - event.size
        at = self.offset + ((begin - self.offset) & 0xFFFFFFFF)
        self._at_hand = _Beginning(self.file, self._begun_at, at, event)
        self._begun = False
        self._committed_at_ms = event.timestamp * 1000
        if event.type == BINLOG.MARIADB_GTID_EVENT:
            number, domain, flags = struct.unpack_from("<QIB", body)
            self._transaction = self._transaction_shown = f"{domain}-{event.server_id}-{number}"
            self._begun = not flags & _STANDALONE
            if self._identity == str(event.server_id):
                # A session may have set its clock back (SET timestamp); what is older than
                # retention keeps would be forgotten before it is sent.
                self._committed_at_ms = max(event.timestamp, self._begun_at) * 1000
        else:
            # A GTID of MySQL would take twice the room.
            self._transaction_shown = f"{_ODD.sub('?', self.file)}:{at}"
            if event.type == BINLOG.GTID_LOG_EVENT and self._kind == "mysql":
                raw = body[1:17].hex()
                source = f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"
                self._transaction = f"{source}:{int.from_bytes(body[17:25], 'little')}"
            else:
                self._transaction = f"{self.file}:{begin}"
            if len(body) >= 49:
                # MySQL 8: microseconds; the highest bit says that the original's follow.
                stamp = int.from_bytes(body[42:49], "little") & ~(1 << 55)
                self._committed_at_ms = stamp // 1000 or self._committed_at_ms
        self._event = self._row = self._index = -1
        self._stored = BEFORE
        if self._transaction == self._after.transaction:
            self._stored = self._after.place
            self._index = self._after.index

    def _finish(self, event: Event) -> None:
        if self._kind == "file":
            self._done = f"{self.file}:{event.end}@{self._moment}"
        elif self._transaction:
            self._gtids.add(self._transaction)
            self._moment = self._committed_at_ms // 1000
        self._read = self._at_hand or self._read
        self._at_hand = None
        self._transaction = ""
        self._begun = False
        self._standalone = None

    def _take_query(self, event: Event) -> None:
        statement = statement_of(event)
        word = statement[:64].strip().upper()
        if word == b"BEGIN" or word.startswith(b"XA START"):
            self._begun = True
        elif word in (b"COMMIT", b"ROLLBACK"):
            self._finish(event)
        else:
            self._take_statement(event, statement)
            if not self._touched and not word.startswith((b"SAVEPOINT", b"ROLLBACK TO", b"XA ")):
                self._tables.altered()
            if self._touched and not self._begun:
                self._standalone = event
            elif not self._begun:
                self._finish(event)

    def _take_statement(self, event: Event, statement: bytes) -> None:
        """Note the tables that a statement may have changed rows of."""
        touched = tables_touched(statement)
        if touched:
            self._event += 1
            self._row = -1
            database = database_of(event)
            self._touched.extend(each._replace(schema=each.schema or database) for each in touched)

    def _next_touched(self, touched: Touched) -> Change | None:
        """The failed event of a table that a statement touched; None if it is stored or nobody
        wants what may have been done there."""
        self._row += 1
        wanted = self._tables.wanted(touched.schema, touched.table)
        operation = next((each for each in touched.operations if each in wanted), None)
        if operation is None or Place(self._event, self._row) <= self._stored:
            return None
        return self._change(operation, touched.table, _Row(operation), _ROWS_NOT_LOGGED)

    def _take_rotation(self, event: Event) -> None:
        file = event.body[8:].decode()
        if file != self.file and self._kind == "file":
            self._moment = 0
        self.file = file
        self.offset = int.from_bytes(event.body[:8], "little")
        self._tables.forget()
        if self._kind == "file" and not self._transaction and event.timestamp:
            self._done = f"{self.file}:{self.offset}"

    def _take_beginning(self, event: Event) -> None:
        """The first event of a file: after a RESET its name comes back, but not its time."""
        self._begun_at = event.timestamp
        marked = self._mark and (self._mark.server, self._mark.file)
        if not self._transaction and marked != (self._identity, self.file):
            self._read = _Beginning(self.file, self._begun_at, FIRST_OFFSET, None)
        if self._kind != "file":
            return
        if self._moment not in (0, event.timestamp):
            raise self._server.lost("the binary log was begun anew at the server")
        self._moment = event.timestamp
        is_within = self._after.transaction and self._done == self._after.done
        if not (self._transaction or is_within or "@" in self._done):
            # Else nothing tells this file from another of its name until something is committed.
            self._done = f"{self._done}@{self._moment}"

    def _mark_of(self, at: _Beginning | None) -> Mark | None:
        """The mark of a beginning; None if it could not be looked up."""
        if at is None or not at.file_begun_at or at.offset > LAST_OFFSET or ";" in at.file:
            return None
        checksum = checksum_of(at.file_begun_at, at.event)
        return Mark(self._identity, at.file, at.offset, checksum)

    def _take_rows(self, event: Event) -> None:
        self._event += 1
        self._row = -1
        table = self._tables.of_rows(event.body[:6])
        operation = _ROWS[event.type]
        if table is None or operation not in table.logged or self._event < self._stored.event:
            return
        body, at = event.body, 8
        if event.type in _OF_VERSION_2:
            at += int.from_bytes(body[8:10], "little")
        count, at = length_at(body, at)
        width = (count + 7) // 8
        mask = (1 << count) - 1
        present = int.from_bytes(body[at : at + width], "little") & mask
        at += width
        after = present
        if operation == "update":
            after = int.from_bytes(body[at : at + width], "little") & mask
            at += width
        if event.type in _COMPRESSED and not event.is_cut:
            body, at = inflated(body[at:]), 0
        is_partial = event.type == BINLOG.PARTIAL_UPDATE_ROWS_EVENT
        is_too_large = event.is_cut or len(body) > MOST_ROW_BYTES
        self._rows = _RowsAtHand(table, operation, body, present, after, is_partial, is_too_large)
        self._row_at = at

    def _is_understood(self, table: Table, deadline: float) -> bool:
        """Whether it is known how a table's rows are read; finding out may take several reads."""
        if table.format is not None or table.problem is not None:
            return True
        here = LogPlace.of(self.file, self.offset)
        return self._tables.look_up(table, here, deadline)

    def _next_row(self, rows: _RowsAtHand) -> Change | None:
        """The change of the next row of the event at hand; None if it is stored or at its end."""
        if self._row_at >= len(rows.body):
            self._rows = None
            return None
        table = rows.table
        self._row += 1
        place = Place(self._event, self._row)
        is_stored = place <= self._stored
        if rows.operation not in table.logged:
            # No table, as it turned out; or the configuration has changed in the middle of it.
            self._rows = None
            return None
        row, problem = _Row(self._failing(rows)), None
        try:
            row = self._decoded(rows, self._tables.format(table))
        except ValueUnreadable as error:
            problem = str(error)
        except RowsUnreadable as error:
            problem = self._given_up(str(error))
        except (ValueError, LookupError, struct.error, zlib.error) as error:
            # Never the error's own words: they may quote the row.
            problem = self._given_up(f"the row could not be decoded ({type(error).__name__})")
        if is_stored or row.operation is None or row.operation not in table.wanted:
            return None
        return self._change(row.operation, table.name, row, problem)

    def _change(self, operation: Operation, table: str, row: _Row, problem: str | None) -> Change:
        """A change at the place that has been reached."""
        self._index += 1
        return Change(
            f"{self._transaction}/{self._event}/{self._row}",
            self._index,
            operation,
            table,
            row.identifier,
            row.document,
            self._committed_at_ms,
            row.old,
            problem,
            f"{self._transaction_shown}#{self._index}",
        )

    def _failing(self, rows: _RowsAtHand) -> Operation:
        """What a row that cannot be read is reported as."""
        return rows.operation if rows.operation in rows.table.wanted else "delete"

    def _given_up(self, problem: str) -> str:
        """Leave the event at hand: where its next row begins is not known."""
        self._rows = None
        return f"{problem}; neither this row nor those that the server logged together with it"

    def _decoded(self, rows: _RowsAtHand, shape: RowFormat) -> _Row:
        """The next row; goes on to the one after it."""
        if rows.is_too_large:
            raise RowsUnreadable(
                f"what takes more than {MOST_ROW_BYTES} bytes in the binary log is not read"
            )
        texts, at = shape.row(rows.body, self._row_at, rows.present)
        before = texts
        if rows.operation == "update":
            if rows.is_partial:
                options, at = length_at(rows.body, at)
                if options & 1:
                    raise RowsUnreadable(
                        "the server logs JSON columns in parts; run"
                        " SET PERSIST binlog_row_value_options = ''"
                    )
            texts, at = shape.row(rows.body, at, rows.present_after)
            if rows.present_after != rows.present:
                pairs = zip(texts, before, strict=True)
                texts = [old if new is None else new for new, old in pairs]
        self._row_at = at
        operation = shape.operation(rows.operation, before, texts)
        if operation is None or operation not in rows.table.wanted:
            return _NO_ROW
        if operation == "delete":
            texts = before
        document = shape.document(texts)
        old = None
        if operation != "insert":
            old = document if before is texts else shape.document(before)
        return _Row(operation, shape.document_id(texts), document, old)


def _word_of(event: Event) -> bytes:
    """The beginning of a query event's statement, in upper case; none of any other event."""
    if event.type not in (BINLOG.QUERY_EVENT, QUERY_COMPRESSED_EVENT):
        return b""
    return statement_of(event)[:512].strip().upper()


def _without_what_was_rolled_back(held: Sequence[Event]) -> list[Event]:
    """The events of a transaction, those of rows that it took back replaced.

    MariaDB logs such rows when the transaction also made or dropped a temporary table or changed a
    table without transactions (and MySQL without global ids, the latter). What a table without
    transactions keeps is logged apart.
    """
    left = list(held)
    savepoints: dict[bytes, int] = {}
    for at, event in enumerate(held):
        word = _word_of(event)
        if word.startswith(b"SAVEPOINT "):
            savepoints[word[10:].strip()] = at
        elif word == b"ROLLBACK" or word.startswith(b"ROLLBACK TO "):
            # A savepoint from before the first rows is not among them: all that is held goes.
            begin = savepoints.get(word[12:].strip(), 0) if len(word) > 8 else 0
            for number in range(begin, at):
                if left[number].type in _ROWS:
                    left[number] = left[number]._replace(type=_ROLLED_BACK, body=b"")
    return left
