"""One stay on a replication slot: messages in, changes out, and feedback to the server.

Positions are text that sorts in the order of the stream: the LSN of the commit record, the LSN of
the change, and its place among those that share one (COPY writes many rows into one WAL record).
All three come from the WAL, so a replay gives each change the same position whatever is published
by then. `<lsn>/0/0` stands for everything that was committed before `lsn`. Up to where the stream
was read has a fourth part, the timeline of the server: after a failover or a restore the same LSN
may stand for something else.
"""

import os
import select
import socket
import time
from typing import Final, NamedTuple

import psycopg2
import structlog
from psycopg2.extras import LogicalReplicationConnection

from eventing.changes import Change
from eventing.dialing import received_bytes
from eventing.sources import pgoutput
from eventing.sources.pgoutput import (
    BEGIN,
    COMMIT,
    DELETE,
    INSERT,
    OTHERS,
    RELATION,
    UPDATE,
    MalformedMessage,
)
from eventing.sources.pgrows import OPERATIONS, Rows
from eventing.sources.pgserver import is_unsendable, lsn_text, said_of, unsendable_change

logger = structlog.get_logger(__name__)

_BATCH_BYTES: Final = 8 * 1024 * 1024
# The rest of a transaction whose beginning is here is about to arrive.
_REST_SECONDS: Final = 0.005
_SOONEST_FEEDBACK_SECONDS: Final = 0.25
_LATEST_FEEDBACK_SECONDS: Final = 5.0
# A server that is asked for a word answers within a fraction of this, whatever it is doing.
_SILENCE_SECONDS: Final = 300.0
# How many unwanted messages are read between two looks at the clock.
_MESSAGES_A_LOOK: Final = 2000


class Position(NamedTuple):
    """A place in the stream; see above. `timeline` is 0 if an earlier version stored it."""

    lsn: int
    change_lsn: int = 0
    place: int = 0
    timeline: int = 0

    def __str__(self) -> str:
        text = f"{self.lsn:016X}/{self.change_lsn:016X}/{self.place:08X}"
        return f"{text}/{self.timeline:X}" if self.timeline else text


def parse_position(text: str) -> Position:
    """A position from its text. Raises ValueError."""
    lsn, change_lsn, place, *timeline = (int(part, 16) for part in text.split("/"))
    return Position(lsn, change_lsn, place, *timeline[:1])


class Stream:
    """A started replication of a slot. Raises psycopg2.Error when the connection breaks off,
    MalformedMessage for what no server sends.

    Two cursors of one connection: psycopg2 forwards a cursor's flushed LSN by itself when a
    keepalive arrives, which would tell the server of more than is stored. So one cursor reads and
    never has anything flushed; the other only sends what was acknowledged.
    """

    def __init__(self, opened: LogicalReplicationConnection, rows: Rows, after: Position) -> None:
        """`after` is on the server's present timeline."""
        self._connection = opened
        self._reader = opened.cursor()
        self._sender = opened.cursor()
        self._rows = rows
        self._after = after
        self._stored: tuple[int, int, int] = after[:3]
        # Up to where the stream has been read: LSN of the commit and of the change, and place.
        self._read_to = self._stored
        self._acknowledged = after.lsn
        self._sent = 0
        self._sent_at = time.monotonic()
        # How much had come when the server was last asked for a word, and since when nothing has.
        self._heard_bytes = 0
        self._asked_at: float | None = None
        # The transaction being read.
        self._in_transaction = False
        self._commit_lsn = 0
        self._commit_text = ""
        self._commit_shown = ""
        self._committed_at_ms = 0
        self._index = -1
        self._lsn = 0
        self._place = 0
        self._replayed = False
        # Whether all tables that the stream has described yet are of the transaction being read.
        self._is_first = False
        self._failure: psycopg2.Error | None = None
        self.drained = False
        # Whether it ended at what the server cannot send, and nothing could be made of that.
        self.is_stuck = False

    def start(self, slot: str, publications: tuple[str, ...]) -> None:
        """Start streaming what was committed at or after the position's LSN."""
        self._reader.start_replication_expert(  # type: ignore[no-untyped-call]
            f"START_REPLICATION SLOT {slot} LOGICAL {lsn_text(self._after.lsn)}"
            f" (proto_version '1', messages 'true',"
            f" publication_names '{','.join(publications)}')",
            decode=False,
        )

    @property
    def position(self) -> Position:
        """Up to where the stream has been read."""
        return Position(*self._read_to, self._after.timeline)

    def read(self, max_changes: int, timeout_seconds: float) -> list[Change]:
        """Changes in order: as soon as there are enough, or the stream runs dry."""
        if self._failure is not None:
            raise self._failure
        deadline = time.monotonic() + timeout_seconds
        changes: list[Change] = []
        self.drained = False
        size = 0
        messages = 0
        read_message = self._reader.read_message
        while len(changes) < max_changes and size < _BATCH_BYTES:
            try:
                message = read_message()
            except psycopg2.Error as error:
                if not is_unsendable(error):
                    raise
                # For the next read: what came before it counts.
                self._failure = error
                changes += self._in_place_of_the_rest(error)
                break
            if message is None:
                if not self._wait(changes, deadline):
                    break
                continue
            payload = message.payload
            kind = payload[0] if payload else 0
            if kind in (INSERT, UPDATE, DELETE):
                change = self._change(kind, payload, message.data_start, len(changes))
                if change is not None:
                    changes.append(change)
                    size += len(payload)
                    if self._rows.misses_enough:
                        break
            else:
                self._control(kind, payload)
            messages += 1
            if messages % _MESSAGES_A_LOOK == 0 and time.monotonic() >= deadline:
                break
        self._rows.complete(changes)
        if self._failure is None:
            self._feed_back(_LATEST_FEEDBACK_SECONDS)
        return changes

    def acknowledge(self, lsn: int) -> None:
        """Everything committed before `lsn` is stored; tell the server, not too often."""
        self._acknowledged = max(self._acknowledged, lsn)
        if self._failure is None:
            self._feed_back(_SOONEST_FEEDBACK_SECONDS)

    def close(self) -> None:
        """End the replication; the slot stays."""
        self._connection.close()

    def _control(self, kind: int, payload: bytes) -> None:
        """Messages that are no row. Origin, Type, Truncate and logical messages say nothing to us.

        A Truncate in particular makes no deletes.
        """
        if kind == BEGIN:
            begin = pgoutput.begin(payload)
            self._rows.transaction = begin.transaction
            self._in_transaction = True
            self._is_first = not self._rows.tables
            self._commit_lsn = begin.commit_lsn
            self._commit_text = f"{begin.commit_lsn:016X}/"
            self._commit_shown = f"{lsn_text(begin.commit_lsn)}#"
            self._committed_at_ms = begin.committed_at_ms
            self._index = -1
            self._lsn = self._place = 0
            self._replayed = begin.commit_lsn <= self._after.lsn
        elif kind == COMMIT:
            self._in_transaction = False
            self._advance(pgoutput.commit(payload).end_lsn)
        elif kind == RELATION:
            self._rows.describe(payload)
        elif kind not in OTHERS:
            raise MalformedMessage("a message is of no kind that is known")

    def _change(self, kind: int, payload: bytes, lsn: int, at: int) -> Change | None:
        """The change of a row's message, None if nobody wants it or it is stored already."""
        self._index += 1
        if lsn == self._lsn:
            self._place += 1
        else:
            self._lsn = lsn
            self._place = 0
        if self._replayed and (self._commit_lsn, lsn, self._place) <= self._stored:
            return None
        table = self._rows.tables.get(pgoutput.relation_oid(payload))
        if table is None:
            raise MalformedMessage("a change is of a table that was not described")
        self._read_to = (self._commit_lsn, lsn, self._place)
        if kind not in table.wanted:
            return None
        # As Position writes it, once a row.
        position = f"{self._commit_text}{lsn:016X}/{self._place:08X}"
        return self._rows.change(
            payload,
            table,
            position,
            self._index,
            self._committed_at_ms,
            f"{self._commit_shown}{self._index}",
            at,
        )

    def _in_place_of_the_rest(self, error: psycopg2.Error) -> list[Change]:
        """Failed changes in place of one that the server cannot send and of what its transaction
        did after that, of which a server sends nothing to anybody; the stream that is started next
        begins behind it.

        They are of the tables that the transaction had changed up to there: which of them it was
        the server does not say. None if tables were described before the transaction: on a new
        connection those of it are known.
        """
        lsn = unsendable_change(error)
        if lsn is None or not self._in_transaction:
            self.is_stuck = True
            return []
        if not self._is_first:
            return []
        tables = self._rows.tables.values()
        whose = "of this table" if len(tables) == 1 else "maybe of this table"
        problem = (
            f"the server cannot send a change at {lsn_text(lsn)}, {whose}: {said_of(error)}; that"
            " and all that its transaction did after it, to other tables too, is missing"
        )
        first = self._place + 1 if lsn == self._lsn else 0
        missing = [(table.name, kind) for table in tables for kind in sorted(table.wanted)]
        changes = [
            Change(
                f"{self._commit_text}{lsn:016X}/{first + number:08X}",
                self._index + 1 + number,
                OPERATIONS[kind],
                name,
                "",
                "{}",
                self._committed_at_ms,
                problem=problem,
                shown_position=f"{self._commit_shown}{self._index + 1 + number}",
            )
            for number, (name, kind) in enumerate(missing)
            if not self._replayed or (self._commit_lsn, lsn, first + number) > self._stored
        ]
        # If nobody wants those tables, nobody would be told.
        self.is_stuck = not missing
        if missing:
            self._advance(self._commit_lsn + 1)
            logger.warning("the rest of a transaction is left out", at=lsn_text(lsn))
        return changes

    def _wait(self, changes: list[Change], deadline: float) -> bool:
        """Called when there is nothing to read; waits, and tells whether there is something now."""
        if not self._in_transaction:
            # All that was committed before this point has been sent to us.
            wal_end = self._reader.wal_end
            self._advance(wal_end)
            # What the next reply to a keepalive tells: received, and not yet stored. A server
            # that shuts down waits for no more than that.
            self._reader.send_feedback(write_lsn=wal_end)  # type: ignore[no-untyped-call]
            if changes:
                self.drained = True
                return False
        self._feed_back(_LATEST_FEEDBACK_SECONDS)
        remaining = deadline - time.monotonic()
        patience = min(remaining, _REST_SECONDS) if changes else remaining
        if patience > 0 and select.select([self._connection], [], [], patience)[0]:
            return True
        self.drained = not self._in_transaction
        return False

    def _advance(self, lsn: int) -> None:
        """All that was committed before `lsn` has been read."""
        self._read_to = max(self._read_to, (lsn, 0, 0))

    def _feed_back(self, interval_seconds: float) -> None:
        """Send what is acknowledged if that is due; also keeps wal_sender_timeout from striking."""
        now = time.monotonic()
        if self._acknowledged > self._sent:
            interval_seconds = min(interval_seconds, _SOONEST_FEEDBACK_SECONDS)
        if now - self._sent_at >= interval_seconds:
            self._refuse_silence(now)
            self._sender.send_feedback(  # type: ignore[no-untyped-call]
                write_lsn=self._acknowledged,
                flush_lsn=self._acknowledged,
                reply=True,
                force=True,
            )
            self._sent = self._acknowledged
            self._sent_at = now

    def _refuse_silence(self, now: float) -> None:
        """Each feedback asks for an answer: where none comes for long, what keeps the connection
        open is no server that streams."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as held:
            heard = received_bytes(held)
        if heard != self._heard_bytes or self._asked_at is None:
            self._heard_bytes, self._asked_at = heard, now
        elif heard and now - self._asked_at > _SILENCE_SECONDS:
            raise psycopg2.OperationalError("the server has fallen silent")
