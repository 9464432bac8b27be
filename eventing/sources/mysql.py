"""MySQL and MariaDB as a source: a replica's connection to the binary log, read event by event.

Nothing is made at the server. The position is the set of transactions read so far by their global
ids, or file and offset where the server keeps no ids, and the place within the next transaction.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pymysql

from eventing.changes import Batch, CatalogueTable, Finding
from eventing.mysqlserver import Facts, Opened, facts_of
from eventing.sources import mychecks, mysample
from eventing.sources.base import Sample, SourceBlocked, SourceUnavailable, Watch, unreached
from eventing.sources.myalters import Alterations
from eventing.sources.myposition import LogPlace, Mark, Position, moment_of, parse_position
from eventing.sources.myserver import Server, passing_server_id
from eventing.sources.mystream import Stream
from eventing.sources.mytables import Tables
from eventing.sources.mywire import FIRST_OFFSET, BrokenEvent, Wire

_LAG_SECONDS: Final = 5.0


class MySqlSource:
    """One database of a MySQL or MariaDB server; implements `base.Source`.

    `name` is what the server shows among its replicas, and what our server id is made from.
    """

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        self._server = Server(url, name)
        self._opened: Opened | None = None
        self._facts: Facts | None = None
        self._tables: Tables | None = None
        self._stream: Stream | None = None
        self._lag: int | None = None
        self._lag_at = 0.0

    def open(self, watch: Watch, after: str | None) -> None:
        self.close()
        try:
            opened = self._opened = self._server.connect()
            facts = self._facts = facts_of(opened)
            for finding in mychecks.of_server(facts):
                if finding.status == "error":
                    raise SourceBlocked(
                        f"{self._server.place}: {finding.what}: {finding.why}", finding.whole_mend
                    )
            position = self._position(opened, facts, after)
            server_id = self._server.free_server_id(opened, facts)
            wire = Wire(self._server.connect(), self._server.place)
            ahead = Alterations(self._server, facts, self._name)
            self._tables = Tables(self._server, opened, facts, watch, ahead)
            self._stream = Stream(wire, self._tables, self._server, position, facts.identity)
            wire.start(facts, position, server_id, self._name)
        except pymysql.MySQLError as error:
            self.close()
            raise self._server.translated(error) from None
        except (SourceBlocked, SourceUnavailable):
            self.close()
            raise

    def _position(self, opened: Opened, facts: Facts, after: str | None) -> Position:
        """Where to go on; without a stored position, behind what is committed now."""
        if after is None:
            return self._server.end(opened, facts)
        try:
            position = parse_position(after)
        except ValueError:
            raise self._server.lost("the stored position is none of a binary log") from None
        self._refuse_another_log(opened, facts, position)
        return position

    def _refuse_another_log(self, opened: Opened, facts: Facts, position: Position) -> None:
        """Block if the server's log is not the one that was read: it was reset, or put back to an
        earlier state, and may have reached the old numbers again."""
        files = self._server.files(opened)
        if self._is_marked(opened, facts, position.mark, files):
            return
        if position.kind == "mysql" and self._server.knows_none_of(opened, position):
            raise self._server.lost("the server knows none of the transactions that were read")
        if position.kind != "file" and moment_of(position.done):
            self._refuse_log_begun_anew(opened, facts, position, files[0])

    def _is_marked(
        self, opened: Opened, facts: Facts, mark: Mark | None, files: Sequence[str]
    ) -> bool:
        """Whether the log has a mark; False if that cannot be told, since it is another server's
        or its file is gone. Blocks if something else is in its place."""
        if mark is None or mark.server != facts.identity:
            return False
        if mark.file.rpartition(".")[0] != files[0].rpartition(".")[0]:
            # Since then log_bin was given another name.
            return False
        is_listed = mark.file in files
        found = self._looked_at(facts, mark) if is_listed else None
        if found == mark.checksum:
            return True
        oldest = self._server.files(opened)[0]
        if LogPlace.of(mark.file, 0) < LogPlace.of(oldest, 0):
            return False
        # A MariaDB's id may be another server's, too, to which a name leads for a while; and a
        # server that does not send a file may have other reasons.
        is_sure = found is not None or not is_listed
        raise self._server.lost(
            "the binary log was begun anew at the server, or put back to an earlier state",
            for_good=is_sure and not facts.is_mariadb,
        )

    def _looked_at(self, facts: Facts, mark: Mark) -> int | None:
        """The checksum of what the log has at the place of a mark; None if the server cannot send
        its log from there, or sends what is no event. Raises pymysql.MySQLError, SourceBlocked,
        SourceUnavailable."""
        try:
            with self._looking_at(facts, mark.file, mark.offset) as wire:
                return wire.checksum_at(mark.offset)
        except BrokenEvent:
            # Most likely the place is within an event of another log.
            return None
        except pymysql.MySQLError as error:
            if self._server.cannot_send(error):
                return None
            raise

    def _refuse_log_begun_anew(
        self, opened: Opened, facts: Facts, position: Position, first_file: str
    ) -> None:
        """Block if the log was begun after the latest transaction that was read, and still knows
        nothing of what this server had written before."""
        if not self._server.lacks(opened, facts, position, first_file):
            return
        with self._looking_at(facts, first_file, FIRST_OFFSET) as wire:
            begun_at = wire.begun_at()
        if begun_at > moment_of(position.done):
            raise self._server.lost("the binary log was begun anew at the server")

    @contextmanager
    def _looking_at(self, facts: Facts, file: str, offset: int) -> Iterator[Wire]:
        """A wire that sends the log from there, beside that of a capture."""
        wire = Wire(self._server.connect(), self._server.place)
        try:
            place = Position("file", f"{file}:{offset}")
            wire.start(facts, place, passing_server_id(), f"{self._name}_look")
            yield wire
        finally:
            wire.close()

    def refuse_if_read_before(self) -> None:
        """Nothing at the server could show it."""

    def watch(self, watch: Watch) -> None:
        """The whole log comes here whatever is wanted: only what is picked out changes."""
        if self._tables is not None:
            self._tables.watch(watch)

    def read(self, max_changes: int, timeout_seconds: float) -> Batch:
        stream = self._stream
        if stream is None:
            raise SourceUnavailable(f"{self._server.place}: not open")
        try:
            changes = stream.read(max_changes, timeout_seconds)
            lag = 0 if stream.drained else self._lag_bytes(stream)
        except pymysql.MySQLError as error:
            raise self._server.translated(error) from None
        return Batch(changes, str(stream.position), stream.drained, lag)

    def _lag_bytes(self, stream: Stream) -> int | None:
        """How much of the log is still to be read; asked for now and then."""
        now = time.monotonic()
        if now - self._lag_at < _LAG_SECONDS or self._opened is None:
            return self._lag
        self._lag_at = now
        self._lag = self._server.bytes_behind(self._opened, stream.file, stream.offset)
        return self._lag

    def acknowledge(self, position: str) -> None:
        """The server expires its logs by age: nothing has to be told."""

    def close(self) -> None:
        stream, self._stream = self._stream, None
        opened, self._opened = self._opened, None
        self._tables = None
        if stream is not None:
            stream.close()
        if opened is not None and opened.open:
            opened.close()

    def remove(self) -> None:
        """Nothing is left at the server."""
        self.close()

    def check(self) -> Sequence[Finding]:
        try:
            opened = self._opened = self._server.connect(to_the_database=False)
            facts = facts_of(opened)
            return [
                Finding("connection", "ok", f"connected to {self._server.place}"),
                *mychecks.check(self._server, opened, facts, self._refusal_of_stream),
            ]
        except pymysql.MySQLError as error:
            return [unreached(self._server.translated(error))]
        except (SourceBlocked, SourceUnavailable) as error:
            return [unreached(error)]
        finally:
            self.close()

    def _refusal_of_stream(self, facts: Facts, position: Position) -> str | None:
        """Why the server would not send its binary log; None if it does."""
        wire = Wire(self._server.connect(to_the_database=False), self._server.place)
        try:
            wire.start(facts, position, passing_server_id(), f"{self._name}_check")
            wire.read(0.5)
        except pymysql.MySQLError as error:
            return str(error.args[1]) if len(error.args) > 1 else type(error).__name__
        finally:
            wire.close()
        return None

    def sample(self, table: str) -> Sample | None:
        with self._asked() as (opened, facts):
            columns = self._server.table(opened, facts, table).columns
            return mysample.sample(opened, facts, self._server.database, table, columns)

    def catalogue(self) -> Sequence[CatalogueTable]:
        with self._asked() as (opened, facts):
            return mychecks.catalogue(self._server, opened, facts)

    @contextmanager
    def _asked(self) -> Iterator[tuple[Opened, Facts]]:
        """A connection for a single question. Raises SourceUnavailable."""
        try:
            opened = self._opened = self._server.connect()
            yield opened, facts_of(opened)
        except pymysql.MySQLError as error:
            raise SourceUnavailable(str(self._server.translated(error))) from None
        except SourceBlocked as error:
            raise SourceUnavailable(str(error)) from None
        finally:
            self.close()
