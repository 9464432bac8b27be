"""Postgres as a source: a logical slot decoded by `pgoutput`, and publications kept in line.

All that is made at the server are the slot and three publications, named after the source. The
slot is never made anew by itself: if it is lost, a person must accept the loss first.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg2
import structlog
from psycopg2.extensions import connection
from psycopg2.extras import LogicalReplicationConnection

from eventing.changes import Batch, CatalogueTable, Finding
from eventing.pauses import pause_seconds
from eventing.sources import pgchecks, pgsample
from eventing.sources.base import START_ANEW, Sample, SourceBlocked, SourceUnavailable, Watch
from eventing.sources.pgoutput import MalformedMessage
from eventing.sources.pgpublishing import Publications
from eventing.sources.pgrows import Rows
from eventing.sources.pgserver import (
    GRACE_SECONDS,
    LOCK_TIMEOUT_MS,
    STATEMENT_TIMEOUT_MS,
    Facts,
    Server,
    Timeline,
    Watched,
    lsn_number,
    lsn_text,
    said_of,
)
from eventing.sources.pgstream import Position, Stream, parse_position

logger = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.5
# A look at a huge catalogue takes at most this part of the time.
_LOOK_SHARE: Final = 0.05
# What a look from within the stream may wait for a user's lock, and how long until it tries again.
_STREAM_LOCK_TIMEOUT_MS: Final = 100
_POSTPONED_SECONDS: Final = 2.0
# A slot becomes usable when the transactions open at that moment have ended.
_SLOT_SECONDS: Final = 30
# A reader of our slot that has said nothing for this long is no longer ours.
_STALE_READER_SECONDS: Final = 15
_REMOVE_SECONDS: Final = 10.0


class PostgresSource:
    """One Postgres database, read through the slot `name`; implements `base.Source`.

    `name` is also the beginning of the publications' names: at most 56 characters of a-z, 0-9
    and _. `schemas` limits what is captured; `excluded_tables` are the product's own tables, as
    `schema.table`, and count only in the control database.

    `read` must be called in a loop. A caller that stalls for longer than the server's
    wal_sender_timeout (60 s by default) loses the connection: the next call then raises
    SourceUnavailable, and nothing is lost by opening again.
    """

    def __init__(
        self,
        url: str,
        name: str,
        schemas: Sequence[str] | None,
        excluded_tables: frozenset[str] = frozenset(),
    ) -> None:
        self._server = Server(url, name)
        self._name = name
        self._schemas = None if schemas is None else frozenset(schemas)
        self._excluded = excluded_tables
        self._publications = Publications(name, schemas, excluded_tables)
        self._connection: Watched | None = None
        self._sender: LogicalReplicationConnection | None = None
        self._facts: Facts | None = None
        self._rows: Rows | None = None
        self._stream: Stream | None = None
        self._watch: Watch | None = None
        self._next_look = 0.0
        self._wal_end = 0
        self._kept_log_bytes: int | None = None

    def open(self, watch: Watch, after: str | None) -> None:
        self.close()
        self._watch = watch
        opened = self._connection = self._server.connect()
        try:
            facts = self._facts = self._server.facts(opened)
            pgchecks.refuse(self._server.place, facts)
            if after is not None:
                self._refuse_missing(self._publications.missing(opened), after)
            self._publications.make(opened, facts)
            self._look(LOCK_TIMEOUT_MS)
            sender = self._sender = self._server.connect_for_replication()
            timeline = self._server.timeline(sender)
            stored = None if after is None else self._stored_position(after, sender, timeline)
            start = self._slot_position(opened, facts, stored)._replace(timeline=timeline.number)
            excluded = self._excluded if facts.holds_control_plane else frozenset()
            rows = self._rows = Rows(opened, watch, self._schemas, excluded)
            self._announce(opened)
            # From here on rows are read there.
            opened.most_answer_bytes = None
            self._stream = Stream(sender, rows, start)
            self._stream.start(self._name, self._publications.names)
        except psycopg2.Error as error:
            failure = self._failure(error)
            self.close()
            raise failure from None
        except (SourceBlocked, SourceUnavailable):
            self.close()
            raise

    def refuse_if_read_before(self) -> None:
        opened = self._server.connect()
        try:
            with opened.cursor() as at:
                at.execute(_SLOT, [self._name])
                is_there = at.fetchone() is not None
        except psycopg2.Error as error:
            raise self._server.translated(error) from None
        finally:
            opened.close()
        if is_there:
            raise SourceBlocked(
                f"{self._server.place}: the replication slot {self._name} was read before, and the"
                " log knows nothing of it: it was restored from an older backup, and what was"
                " captured since then is not in it",
                START_ANEW,
            )

    def watch(self, watch: Watch) -> None:
        """Take new triggers into force; `base.Source.watch`.

        A table that stays locked by somebody (2 s) is published as soon as the lock is gone;
        until then its changes are not read. Rows that an open transaction wrote before this
        call may or may not be read.
        """
        self._watch = watch
        if self._rows is None:
            return
        self._rows.watch(watch)
        try:
            self._look(LOCK_TIMEOUT_MS)
        except psycopg2.Error as error:
            raise self._failure(error) from None

    def read(self, max_changes: int, timeout_seconds: float) -> Batch:
        if self._stream is None or self._rows is None:
            raise SourceUnavailable(f"{self._server.place}: not open")
        try:
            if time.monotonic() >= self._next_look:
                self._look(_STREAM_LOCK_TIMEOUT_MS)
            changes = self._stream.read(max_changes, timeout_seconds)
        except psycopg2.Error as error:
            if self._stream.is_stuck:
                raise self._stuck(error) from None
            raise self._failure(error) from None
        except MalformedMessage as error:
            raise SourceUnavailable(
                f"{self._server.place}: what comes is no stream of changes: {error}"
            ) from None
        if self._rows.saw_new_table:
            self._rows.saw_new_table = False
            self._next_look = 0.0
        position = self._stream.position
        lag_bytes = max(0, self._wal_end - position.lsn)
        kept = self._kept_log_bytes
        return Batch(changes, str(position), self._stream.drained, lag_bytes, kept)

    def acknowledge(self, position: str) -> None:
        if self._stream is None:
            return
        try:
            # The LSN of a commit record: the transaction itself, perhaps stored in part only,
            # is sent again after a restart.
            self._stream.acknowledge(parse_position(position).lsn)
        except psycopg2.Error as error:
            raise self._failure(error) from None

    def close(self) -> None:
        for opened in (self._sender, self._connection):
            if opened is not None:
                opened.close()
        self._sender = self._connection = self._stream = self._rows = None

    def remove(self) -> None:
        self.close()
        try:
            opened = self._server.connect(even_pooled=True)
        except SourceBlocked as error:
            if f'database "{self._server.database}" does not exist' in str(error):
                return  # a database with a slot cannot be dropped, so there is none
            raise SourceUnavailable(str(error)) from None
        try:
            self._drop_slot(opened)
            self._publications.drop(opened)
        except psycopg2.Error as error:
            raise SourceUnavailable(str(self._server.translated(error))) from None
        finally:
            opened.close()

    def check(self) -> Sequence[Finding]:
        try:
            with self._server.speaking():
                return pgchecks.check(self._server, self._publications, self._name)
        except SourceUnavailable as error:
            return [Finding("connection", "error", str(error), "the server cannot be examined")]

    def sample(self, table: str) -> Sample | None:
        with self._asked() as opened:
            return pgsample.sample(opened, table)

    def catalogue(self) -> Sequence[CatalogueTable]:
        with self._asked() as opened:
            return pgchecks.catalogue(opened, self._server.facts(opened), self._publications)

    @contextmanager
    def _asked(self) -> Iterator[Watched]:
        """A connection for a single question. Raises SourceUnavailable."""
        try:
            opened = self._server.connect()
        except SourceBlocked as error:
            raise SourceUnavailable(str(error)) from None
        try:
            with self._server.speaking():
                yield opened
        except psycopg2.Error as error:
            raise SourceUnavailable(str(self._server.translated(error))) from None
        finally:
            opened.close()

    def _look(self, lock_timeout_ms: int) -> None:
        """Look at the catalogue and bring the publications in line with it."""
        if self._connection is None or self._facts is None or self._watch is None:
            return
        started = time.monotonic()
        with self._connection.cursor() as at:
            at.execute("SELECT set_config('lock_timeout', %s, false)", [str(lock_timeout_ms)])
        look = self._publications.look(self._connection, self._facts)
        self._wal_end, self._kept_log_bytes = look.wal_end, look.kept_log_bytes
        self._refuse_missing(look.missing, self._stored_text())
        in_line = self._publications.bring_in_line(self._connection, self._facts, look, self._watch)
        now = time.monotonic()
        pause = pause_seconds(now - started, _LOOK_SHARE, at_least=_LOOK_SECONDS)
        self._next_look = now + (pause if in_line else max(pause, _POSTPONED_SECONDS))

    def _refuse_missing(self, publication: str | None, after: str | None) -> None:
        """Block if a publication of ours was dropped: made anew, it would lack what came between.

        Up to Postgres 17 the stream would end; a later server goes on without it.
        """
        if publication is not None:
            raise self._lost(f"the publication {publication} was dropped by someone else", after)

    def _stored_position(
        self, after: str, sender: LogicalReplicationConnection, timeline: Timeline
    ) -> Position:
        """Where to go on in the server's present log. After a failover that is no later than where
        the new primary left the log that was read: what the old one wrote behind that is gone."""
        try:
            stored = parse_position(after)
        except ValueError:
            raise SourceBlocked(
                f"{self._server.place}: the stored position is not one of Postgres", START_ANEW
            ) from None
        if stored.timeline in (0, timeline.number):
            if stored.lsn > timeline.end:
                raise self._lost(
                    f"the server's log ends at {lsn_text(timeline.end)}, before what was read of"
                    " it: the server was put back to an earlier state",
                    after,
                    for_good=True,
                )
            return stored
        left_at = self._server.left_at(sender, timeline.number).get(stored.timeline)
        if left_at is None:
            raise self._lost("the server's log does not go back to the one that was read", after)
        if stored.lsn <= left_at:
            return stored
        logger.warning(
            "the server that took over lacks the latest changes of the one before",
            server=self._server.place,
            after=lsn_text(left_at),
        )
        return Position(left_at)

    def _slot_position(self, opened: Watched, facts: Facts, stored: Position | None) -> Position:
        """Where to start: after the stored position, or at the slot's own, made if need be."""
        after = None if stored is None else str(stored)
        with opened.cursor() as at:
            at.execute(_SLOT, [self._name])
            slot = at.fetchone()
        if slot is None:
            if after is not None:
                raise self._lost("the replication slot is gone", after)
            return self._make_slot(opened, facts)
        plugin, database, wal_status, confirmed = slot
        if plugin != "pgoutput" or database != facts.database:
            raise SourceBlocked(
                f"{self._server.place}: the slot {self._name} belongs to something else",
                f"SELECT pg_drop_replication_slot('{self._name}');",
            )
        if wal_status == "lost":
            raise self._lost(
                "the server has thrown away WAL that the replication slot needs", after
            )
        if stored is None:
            return Position(lsn_number(confirmed))
        if lsn_number(confirmed) > stored.lsn:
            raise self._lost(
                f"the replication slot was moved on to {confirmed}, or made anew, by someone else",
                after,
            )
        return stored

    def _make_slot(self, opened: Watched, facts: Facts) -> Position:
        extra = ", false, false, true" if facts.version >= 170_000 else ""  # failover
        patience, opened.answer_seconds = opened.answer_seconds, _SLOT_SECONDS + GRACE_SECONDS
        with opened.cursor() as at:
            at.execute("SELECT set_config('statement_timeout', %s, false)", [f"{_SLOT_SECONDS}s"])
            try:
                at.execute(
                    f"SELECT lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput'{extra})",
                    [self._name],
                )
                made = at.fetchone()
            except psycopg2.errors.QueryCanceled:
                raise SourceUnavailable(
                    f"{self._server.place}: the slot waits for transactions that have been open"
                    f" for more than {_SLOT_SECONDS} s (see pg_stat_activity, pg_prepared_xacts)"
                ) from None
            at.execute(
                "SELECT set_config('statement_timeout', %s, false)", [str(STATEMENT_TIMEOUT_MS)]
            )
        opened.answer_seconds = patience
        logger.info("made a replication slot", slot=self._name, server=self._server.place)
        return Position(lsn_number(made[0] if made else "0/0"))

    def _announce(self, opened: connection) -> None:
        """Write a message into the WAL, so that the stream begins with one.

        Until a first message has come, psycopg2 answers a keepalive as if all were stored.
        """
        try:
            with opened.cursor() as at:
                at.execute("SELECT pg_logical_emit_message(true, %s, '')", [self._name])
        except psycopg2.errors.InsufficientPrivilege:
            logger.info("the role may not emit logical messages", server=self._server.place)

    def _drop_slot(self, opened: connection) -> None:
        """Drop the slot, ending whoever still reads it."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        with opened.cursor() as at:
            while True:
                at.execute(_END_READER, [self._name])
                try:
                    at.execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                        " WHERE slot_name = %s",
                        [self._name],
                    )
                    return
                except psycopg2.errors.ObjectInUse:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

    def _lost(self, what: str, after: str | None, *, for_good: bool = False) -> SourceBlocked:
        since = ""
        if after is not None:
            since = f"; changes committed after {lsn_text(parse_position(after).lsn)} may be lost"
        return SourceBlocked(f"{self._server.place}: {what}{since}", START_ANEW, for_good=for_good)

    def _stuck(self, error: psycopg2.Error) -> SourceBlocked:
        """An error of the stream that comes again at every try: a person is to know of it."""
        place = "" if self._stream is None else f" after {lsn_text(self._stream.position.lsn)}"
        return SourceBlocked(
            f"{self._server.place}: the server cannot read or send what its log has{place}:"
            f" {said_of(error)}",
            START_ANEW,
        )

    def _failure(self, error: psycopg2.Error) -> SourceBlocked | SourceUnavailable:
        """What an error of the stream or of the connection beside it means."""
        primary = error.diag.message_primary or str(error)
        if error.pgcode == "55006" or "is active for PID" in primary:
            self._end_stale_reader()
            return SourceUnavailable(
                f"{self._server.place}: another process still reads the slot {self._name}"
            )
        if "can no longer" in primary and "slot" in primary:
            return self._lost(primary, self._stored_text())
        if error.pgcode == "42704" and f'publication "{self._name}' in primary:
            return self._lost(f"{primary}: it was dropped while in use", self._stored_text())
        return self._server.translated(error)

    def _stored_text(self) -> str | None:
        return None if self._stream is None else str(self._stream.position)

    def _end_stale_reader(self) -> None:
        """End a reader of our slot whose machine has gone: only a lease's holder gets here."""
        if self._connection is None or self._connection.closed:
            return
        try:
            with self._connection.cursor() as at:
                at.execute(_END_STALE_READER, [self._name, _STALE_READER_SECONDS])
        except psycopg2.Error as error:
            logger.info("a stale reader could not be ended", code=error.pgcode)


_SLOT: Final = """
SELECT plugin, database, wal_status, confirmed_flush_lsn
FROM pg_replication_slots WHERE slot_name = %s
"""

_END_READER: Final = """
SELECT pg_terminate_backend(active_pid)
FROM pg_replication_slots WHERE slot_name = %s AND active_pid IS NOT NULL
"""

_END_STALE_READER: Final = """
SELECT pg_terminate_backend(r.pid)
FROM pg_replication_slots AS s
JOIN pg_stat_replication AS r ON r.pid = s.active_pid
WHERE s.slot_name = %s
  AND coalesce(r.reply_time, r.backend_start) < now() - make_interval(secs => %s)
"""
