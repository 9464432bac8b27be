"""The binary log as it comes over a connection: asking for it, and its events as bytes.

A reader of its own over the connection's socket, because a stream must be left the moment it runs
dry: PyMySQL's blocks until the next packet. Of an event that is too large only the beginning is
held, and a compressed transaction is unpacked while it arrives, however large either is. Sources:
MySQL's "COM_BINLOG_DUMP" pages, MariaDB's "Replica Protocol" pages.
"""

import select
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, Final, NamedTuple, cast

import pymysql
import zstandard
from pymysql.constants.COMMAND import COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID, COM_REGISTER_SLAVE
from pymysqlreplication.constants.BINLOG import (
    ANONYMOUS_GTID_LOG_EVENT,
    BINLOG_CHECKSUM_LEN,
    FORMAT_DESCRIPTION_EVENT,
    GTID_LOG_EVENT,
    HEARTBEAT_LOG_EVENT,
    MARIADB_GTID_EVENT,
    ROTATE_EVENT,
)
from pymysqlreplication.gtid import GtidSet as LibraryGtidSet

from eventing.mysqlserver import Facts, Opened, speaking
from eventing.sources.base import MOST_ROW_BYTES, START_ANEW, SourceBlocked, SourceUnavailable
from eventing.sources.mycolumns import length_at
from eventing.sources.myposition import Position, file_and_offset
from eventing.sources.myserver import shown_name

_HEARTBEAT_SECONDS: Final = 5
# A connection without even a heartbeat for this long is dead.
_SILENCE_SECONDS: Final = 30.0
# An event, or as much of one as a packet has, comes whole within so long.
_WHOLE_SECONDS: Final = 300.0
# What the server says when it has nothing more to send, in two versions.
_HEARTBEATS: Final = frozenset({HEARTBEAT_LOG_EVENT, 41})
BEGINNINGS: Final = frozenset({MARIADB_GTID_EVENT, GTID_LOG_EVENT, ANONYMOUS_GTID_LOG_EVENT})
# How long the server waits for a stream that is not read: a look ahead may be through gigabytes.
_UNREAD_SECONDS: Final = 86_400
_CHUNK_BYTES: Final = 256 * 1024
_WHOLE_PACKET: Final = 0xFFFFFF
# Where the first event of a file is, and how far into one a dump can be asked for.
FIRST_OFFSET: Final = 4
LAST_OFFSET: Final = 2**32 - 1
# What is kept of an event that is too large: all of it but its rows or its text.
_BEGINNING_BYTES: Final = 128 * 1024
# No statement that alters a table is nearly as long.
LONGEST_STATEMENT_BYTES: Final = 16 * 1024 * 1024
_THROUGH_GTID: Final = 4
_HEADER: Final = struct.Struct("<IBIIIH")
# Behind the byte that says that all is well, and the header.
_BODY_AT: Final = 1 + _HEADER.size
_CRC32: Final = 1
QUERY_COMPRESSED_EVENT: Final = 165
# A query event, with four numbers about a file before what follows its own.
EXECUTE_LOAD_QUERY_EVENT: Final = 18
_LOAD_BYTES: Final = 13
TRANSACTION_PAYLOAD_EVENT: Final = 40
# Fields of a compressed transaction; a field of 0 ends them.
_PACKED_BYTES: Final = 1
_COMPRESSION: Final = 2
_ZSTD: Final = 0


class Event(NamedTuple):
    """An event of the binary log, without its header and checksum. `end` is its end in the file.

    Of one that `is_cut`, `body` holds the beginning.
    """

    type: int
    timestamp: int
    server_id: int
    size: int
    end: int
    flags: int
    body: bytes
    is_cut: bool = False


class BrokenEvent(SourceBlocked):
    """What comes as an event is not what the server once wrote as one."""


@dataclass(slots=True)
class _Long:
    """An event of 16 MB or more while it arrives, in several packets: the packet at hand has
    `left` bytes to come, and another one follows it if it `goes_on`."""

    left: int
    goes_on: bool
    held: bytearray = field(default_factory=bytearray)
    # It was handed out cut: what has yet to arrive is for `more`, or for nobody.
    is_out: bool = False


class Wire:
    """A connection that sends the binary log from a position on. Raises pymysql.MySQLError."""

    def __init__(self, opened: Opened, place: str) -> None:
        # PyMySQL has no public way to send a command and to read its answer.
        self._opened: Any = opened
        self._place = place
        self._buffer = bytearray()
        self._at = 0
        self._checksums = False
        self._long: _Long | None = None
        self._heard_at = time.monotonic()
        # Since when what has come is no whole packet.
        self._partial_since: float | None = None

    def start(self, facts: Facts, position: Position, server_id: int, name: str) -> None:
        """Ask for everything after the whole transactions of `position`."""
        with self._opened.cursor() as at:
            at.execute("SET @master_binlog_checksum = @@global.binlog_checksum")
            at.execute("SET @source_binlog_checksum = @@global.binlog_checksum")
            period = _HEARTBEAT_SECONDS * 1_000_000_000
            at.execute(f"SET @master_heartbeat_period = {period}")
            at.execute(f"SET @source_heartbeat_period = {period}")
            at.execute(f"SET SESSION net_write_timeout = {_UNREAD_SECONDS}")
            if facts.is_mariadb:
                at.execute("SET @mariadb_slave_capability = 4")
            if position.kind == "mariadb":
                at.execute("SET @slave_connect_state = %s", [position.done.partition("@")[0]])
                at.execute("SET @slave_gtid_strict_mode = 1")
                at.execute("SET @slave_gtid_ignore_duplicates = 0")
        host = shown_name(name).encode()
        self._command(
            struct.pack("<BI", COM_REGISTER_SLAVE, server_id)
            + struct.pack("<B", len(host))
            + host
            + b"\0\0"
            + struct.pack("<HII", 0, 0, 0)
        )
        with speaking():
            self._opened._read_packet()
        if position.kind == "mysql":
            wanted = LibraryGtidSet(position.done.partition("@")[0]).encoded()
            self._command(
                struct.pack("<BHII", COM_BINLOG_DUMP_GTID, _THROUGH_GTID, server_id, 0)
                + struct.pack("<QI", 4, len(wanted))
                + wanted
            )
        else:
            file, offset = ("", 4) if position.kind == "mariadb" else file_and_offset(position.done)
            self._command(
                struct.pack("<BIHI", COM_BINLOG_DUMP, offset, 0, server_id) + file.encode()
            )
        self._socket = self._opened._sock
        self._socket.settimeout(_SILENCE_SECONDS)
        self._heard_at = time.monotonic()

    def read(self, patience_seconds: float) -> Event | None:
        """The next event; None when none has come within `patience_seconds`."""
        deadline = None
        while True:
            event = self._next()
            if event is not None:
                self._partial_since = None
                return event
            now = time.monotonic()
            self._refuse_what_never_ends(now)
            deadline = now + patience_seconds if deadline is None else deadline
            if not self._receive(max(0.0, deadline - now)) and time.monotonic() >= deadline:
                return None

    def more(self, most: int) -> bytes:
        """Up to `most` further bytes of the event that was read last, if that was cut.

        Waits for them; none at the event's end. Raises SourceUnavailable.
        """
        while (part := self._part(most)) is None:
            self._receive(_SILENCE_SECONDS)
        return part

    def begun_at(self) -> int:
        """When the file that was asked for was begun, in seconds since the epoch."""
        while True:
            event = self._awaited()
            if event.type == FORMAT_DESCRIPTION_EVENT and event.timestamp:
                return event.timestamp

    def checksum_at(self, offset: int) -> int:
        """The checksum of what begins there, where the log was asked for; of anything else, if
        neither the file nor a transaction does."""
        begun_at = self.begun_at()
        if offset == FIRST_OFFSET:
            return checksum_of(begun_at)
        while True:
            event = self._awaited()
            if event.type in BEGINNINGS or event.type in _HEARTBEATS:
                return checksum_of(begun_at, event)

    def _awaited(self) -> Event:
        """The next event. Raises SourceUnavailable if none comes."""
        event = self.read(_SILENCE_SECONDS)
        if event is None:
            raise self._silent()
        return event

    def _silent(self) -> SourceUnavailable:
        return SourceUnavailable(f"{self._place}: the server has fallen silent")

    def close(self) -> None:
        self._opened._force_close()  # a COM_QUIT would wait behind the stream

    def _refuse_what_never_ends(self, now: float) -> None:
        """Heartbeats within what would be a packet of megabytes look as if the server spoke."""
        if len(self._buffer) == self._at or self._long is not None:
            self._partial_since = None
        elif self._partial_since is None:
            self._partial_since = now
        elif now - self._partial_since > _WHOLE_SECONDS:
            raise SourceUnavailable(f"{self._place}: an event has begun to come, and does not end")

    def _command(self, command: bytes) -> None:
        self._opened._write_bytes(len(command).to_bytes(4, "little") + command)
        self._opened._next_seq_id = 1

    def _receive(self, patience_seconds: float) -> bool:
        """Take in what arrives within `patience_seconds`; whether anything has."""
        pending = getattr(self._socket, "pending", None)
        is_pending = bool(pending and pending())
        if not is_pending and not select.select([self._socket], [], [], patience_seconds)[0]:
            if time.monotonic() - self._heard_at > _SILENCE_SECONDS:
                raise self._silent()
            return False
        try:
            chunk = self._socket.recv(_CHUNK_BYTES)
        except OSError as error:
            text = type(error).__name__
            raise SourceUnavailable(f"{self._place}: the connection broke off: {text}") from None
        if not chunk:
            raise SourceUnavailable(f"{self._place}: the server closed the connection")
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += chunk
        self._heard_at = time.monotonic()
        return True

    def _next(self) -> Event | None:
        """The next event; None while what is wanted of it has yet to arrive."""
        while True:
            if self._long is None:
                packet = self._packet()
                if packet is not None:
                    return self._event(packet)
            if self._long is None:
                return None
            event = self._long_event(self._long)
            if event is not None or self._long is not None:
                return event

    def _packet(self) -> bytes | None:
        """The next whole packet in the buffer; of an event in several packets none."""
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 4:
            return None
        size = buffer[at] | buffer[at + 1] << 8 | buffer[at + 2] << 16
        at += 4
        if size == _WHOLE_PACKET:
            self._at = at
            self._long = _Long(size, goes_on=True)
            return None
        if len(buffer) < at + size:
            return None
        self._at = at + size
        return bytes(buffer[at : at + size])

    def _long_event(self, long: _Long) -> Event | None:
        """The event of several packets, once all that is wanted of it is there."""
        while part := self._part(_CHUNK_BYTES):
            if long.is_out:
                continue
            long.held += part
            if len(long.held) >= _BEGINNING_BYTES:
                beginning = self._event(bytes(long.held[:_BEGINNING_BYTES]), is_whole=False)
                is_too_large = max(beginning.size, len(long.held)) > MOST_ROW_BYTES
                if is_too_large or beginning.type == TRANSACTION_PAYLOAD_EVENT:
                    body = bytes(long.held[_BODY_AT:])
                    long.held.clear()
                    long.is_out = True
                    return beginning._replace(body=body, is_cut=True)
        if part is None:
            return None
        self._long = None
        if long.is_out:
            return None
        event = self._event(bytes(long.held[:_BEGINNING_BYTES]), is_whole=False)
        if self._checksums:
            self._refuse_broken(event.type, long.held)
            del long.held[-BINLOG_CHECKSUM_LEN:]
        del long.held[:_BODY_AT]
        return event._replace(body=bytes(long.held))

    def _part(self, most: int) -> bytes | None:
        """Up to `most` more bytes of the event in several packets: none at its end, None while
        they have yet to arrive."""
        long, buffer = self._long, self._buffer
        if long is None:
            return b""
        while not long.left:
            if not long.goes_on:
                return b""
            if len(buffer) - self._at < 4:
                return None
            at = self._at
            long.left = buffer[at] | buffer[at + 1] << 8 | buffer[at + 2] << 16
            long.goes_on = long.left == _WHOLE_PACKET
            self._at = at + 4
        part = bytes(buffer[self._at : self._at + min(most, long.left)])
        self._at += len(part)
        long.left -= len(part)
        return part or None

    def _event(self, packet: bytes, *, is_whole: bool = True) -> Event:
        first = packet[0] if packet else 0
        if first == 0xFF:
            with speaking():
                pymysql.err.raise_mysql_exception(packet)
        if first == 0xFE and len(packet) < 9:
            raise SourceUnavailable(f"{self._place}: the server ended the stream (it shuts down)")
        if first or len(packet) < _BODY_AT:
            raise SourceUnavailable(f"{self._place}: what comes is no binary log")
        timestamp, kind, server_id, size, end, flags = _HEADER.unpack_from(packet, 1)
        stop = len(packet)
        if kind == FORMAT_DESCRIPTION_EVENT:
            # The algorithm and a checksum are always its last five bytes.
            self._checksums = packet[-5] == _CRC32
            stop -= 5
        elif kind == ROTATE_EVENT:
            # The first comes before the server has said whether there are checksums.
            body = packet[1:-BINLOG_CHECKSUM_LEN]
            if zlib.crc32(body).to_bytes(4, "little") == packet[-BINLOG_CHECKSUM_LEN:]:
                stop -= BINLOG_CHECKSUM_LEN
        elif self._checksums:
            if is_whole:
                self._refuse_broken(kind, packet)
            stop -= BINLOG_CHECKSUM_LEN
        return Event(kind, timestamp, server_id, size, end, flags, packet[_BODY_AT:stop])

    def _refuse_broken(self, kind: int, packet: bytes | bytearray) -> None:
        """Raise BrokenEvent for an event whose checksum is another than that of its bytes."""
        with memoryview(packet) as every:
            found = zlib.crc32(every[1:-BINLOG_CHECKSUM_LEN])
        if found.to_bytes(BINLOG_CHECKSUM_LEN, "little") != packet[-BINLOG_CHECKSUM_LEN:]:
            raise BrokenEvent(
                f"{self._place}: an event of the binary log (of type {kind}) has a checksum that is"
                " not that of its bytes: the file or what came of it is damaged. It is read again"
                " every few seconds; if the file is damaged, what it has from there on is lost",
                START_ANEW,
            )


def checksum_of(begun_at: int, event: Event | None = None) -> int:
    """What tells a file that was begun then, or the transaction that an event of it begins, from
    others of the same name and place. In MySQL such an event holds microseconds."""
    said = f"{begun_at}"
    if event is None:
        return zlib.crc32(said.encode())
    said += f" {event.timestamp} {event.server_id} {event.size} {event.end}"
    return zlib.crc32(event.body, zlib.crc32(said.encode()))


def statement_of(event: Event) -> bytes:
    """The text of a query event, in the character set that its session used; of one as long as
    LONGEST_STATEMENT_BYTES, or longer, the beginning."""
    body = event.body
    start = 13 + body[8] + int.from_bytes(body[11:13], "little") + 1
    if event.type == EXECUTE_LOAD_QUERY_EVENT:
        start += _LOAD_BYTES
    if event.type == QUERY_COMPRESSED_EVENT:
        return _inflated(zlib.decompressobj(), body[start:], LONGEST_STATEMENT_BYTES)
    return body[start : start + LONGEST_STATEMENT_BYTES]


def database_of(event: Event) -> str:
    """The default database of the session whose statement a query event has."""
    at = 13 + int.from_bytes(event.body[11:13], "little")
    if event.type == EXECUTE_LOAD_QUERY_EVENT:
        at += _LOAD_BYTES
    return event.body[at : at + event.body[8]].decode("utf-8", "replace")


def inflated(part: bytes) -> bytes:
    """What MariaDB compressed; of more than MOST_ROW_BYTES, one byte more than that.

    Raises zlib.error.
    """
    unpacking = zlib.decompressobj()
    unpacked = _inflated(unpacking, part, MOST_ROW_BYTES + 1)
    if len(unpacked) <= MOST_ROW_BYTES and not unpacking.eof:
        raise zlib.error("what was compressed breaks off")
    return unpacked


def _inflated(unpacking: Any, part: bytes, most: int) -> bytes:
    """Zlib behind a length (MariaDB's sql/log_event.cc, binlog_buf_compress)."""
    unpacked: bytes = unpacking.decompress(part[1 + (part[0] & 7) :], most)
    return unpacked


class _Packed:
    """The compressed bytes of a transaction, as zstandard reads them."""

    def __init__(self, begun: bytes, size: int, more: Callable[[int], bytes]) -> None:
        self._begun = BytesIO(begun)
        self._left = size
        self._more = more

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        part = b"" if not size else self._begun.read(size) or self._more(size)
        self._left -= len(part)
        return part


def unpacked_events(event: Event, more: Callable[[int], bytes]) -> Iterator[Event]:
    """The events of a compressed transaction (MySQL's Transaction_payload_event), one by one.

    Their `end` is that of the whole. What has yet to arrive of a cut one comes from `more`.
    Raises SourceUnavailable for what is compressed otherwise.
    """
    body, at, fields = event.body, 0, {}
    while body[at]:
        kind, at = length_at(body, at)
        size, at = length_at(body, at)
        fields[kind] = length_at(body, at)[0]
        at += size
    if fields.get(_COMPRESSION) != _ZSTD:
        raise SourceUnavailable("a transaction is compressed in a way that is not known")
    packed = _Packed(body[at + 1 :], fields[_PACKED_BYTES], more)
    decompressor = zstandard.ZstdDecompressor()
    with decompressor.stream_reader(cast(IO[bytes], packed), read_across_frames=True) as reader:
        while header := reader.read(_HEADER.size):
            timestamp, kind, server_id, size, _, flags = _HEADER.unpack(header)
            is_cut = size > MOST_ROW_BYTES
            wanted = _BEGINNING_BYTES if is_cut else max(0, size - _HEADER.size)
            inner = reader.read(wanted)
            left = size - _HEADER.size - len(inner)
            yield Event(kind, timestamp, server_id, size, event.end, flags, inner, is_cut)
            while left > 0 and (part := reader.read(min(left, _CHUNK_BYTES))):
                left -= len(part)
            if left:
                raise SourceUnavailable("a compressed transaction breaks off")
