"""Where a change stands in a binary log, and up to where one has been read.

A transaction is known by its GTID, or by the file and offset where it begins. Within it a row is
known by its event and its place there, which are the same whatever triggers want.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

_MARIADB: Final = "mariadb"
_MYSQL: Final = "mysql"
_FILE: Final = "file"


class LogPlace(NamedTuple):
    """A place in a server's binary log: those of one server can be compared."""

    number: int
    offset: int
    file: str

    @classmethod
    def of(cls, file: str, offset: int) -> "LogPlace":
        return cls(int(file.rpartition(".")[2]), offset, file)

    def at(self, end: int) -> "LogPlace":
        """The end of the event behind this place, whose header tells its lowest 32 bits."""
        return self._replace(offset=self.offset + ((end - self.offset) & 0xFFFFFFFF))


class GtidSet:
    """The transactions that have been read, as the server writes such sets; grows in place.

    A moment behind `@`, as a position has it, is left out.
    """

    def __init__(self, is_mariadb: bool, text: str) -> None:
        text = text.partition("@")[0]
        self._is_mariadb = is_mariadb
        self._domains: dict[str, str] = {}
        self._intervals: dict[str, list[list[int]]] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            if is_mariadb:
                domain, _, _ = (str(int(number)) for number in part.split("-"))
                self._domains[domain] = part
            else:
                source, *intervals = part.split(":")
                for interval in intervals:
                    first, _, last = interval.partition("-")
                    self._put(source.lower(), int(first), int(last or first))

    def add(self, gtid: str) -> None:
        """Take in one transaction."""
        if self._is_mariadb:
            self._domains[gtid.partition("-")[0]] = gtid
            return
        source, _, number = gtid.rpartition(":")
        self._put(source, int(number), int(number))

    def sequence_of(self, domain: str) -> int:
        """The number of MariaDB's latest transaction of a domain; 0 if there is none."""
        return int(self._domains.get(domain, "0-0-0").rpartition("-")[2])

    def domains_of(self, server_id: str) -> list[str]:
        """The domains of MariaDB in which a server wrote the latest transaction."""
        return [domain for domain, gtid in self._domains.items() if gtid.split("-")[1] == server_id]

    def numbers_of(self, source: str) -> list[list[int]]:
        """First and last of each run of MySQL's transactions of one server."""
        return self._intervals.get(source.lower(), [])

    def holds(self, gtid: str) -> bool:
        """Whether MySQL's transaction is in the set."""
        source, _, number = gtid.rpartition(":")
        return any(a <= int(number) <= b for a, b in self._intervals.get(source, ()))

    def __str__(self) -> str:
        if self._is_mariadb:
            return ",".join(self._domains[domain] for domain in sorted(self._domains, key=int))
        return ",".join(
            ":".join([source, *(f"{a}-{b}" for a, b in intervals)])
            for source, intervals in sorted(self._intervals.items())
        )

    def _put(self, source: str, first: int, last: int) -> None:
        intervals = self._intervals.setdefault(source, [])
        if intervals and intervals[-1][1] + 1 == first:
            intervals[-1][1] = last
            return
        intervals.append([first, last])
        intervals.sort()
        merged: list[list[int]] = []
        for a, b in intervals:
            if merged and a <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], b)
            else:
                merged.append([a, b])
        self._intervals[source] = merged


class Mark(NamedTuple):
    """What a server's binary log is known again by: the beginning of a transaction or of a file in
    it, and a checksum of what is there. `server` tells the server from others."""

    server: str
    file: str
    offset: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}/{self.server}/{self.checksum:08x}"

    @classmethod
    def parsed(cls, text: str) -> "Mark":
        """A mark from its text. Raises ValueError."""
        place, server, checksum = text.rsplit("/", 2)
        file, offset = file_and_offset(place)
        return cls(server, file, offset, int(checksum, 16))


class Place(NamedTuple):
    """A row of a transaction: its event among the transaction's, and its place in that event."""

    event: int
    row: int


BEFORE: Final = Place(-1, -1)


@dataclass(frozen=True, slots=True)
class Position:
    """What is stored: whole transactions (`done`), and how far into the next (`transaction`).

    `kind` is `mariadb` or `mysql` (then `done` is a set of GTIDs) or `file` (then it is
    `file:offset`). Behind an `@`, `done` has a moment in seconds since the epoch that tells the log
    from a later one, begun anew with the same names: when the latest transaction was committed, or
    the file was begun. `index` counts the changes of the transaction that were read. `mark` is of
    the latest transaction or file that was read of; positions of earlier versions have none.
    """

    kind: str
    done: str
    transaction: str = ""
    place: Place = BEFORE
    index: int = 0
    mark: Mark | None = None

    def __str__(self) -> str:
        parts = [self.kind, self.done]
        if self.transaction:
            event, row = self.place
            parts += [self.transaction, f"{event}/{row}/{self.index}"]
        if self.mark is not None:
            parts.append(str(self.mark))
        return ";".join(parts)


def parse_position(text: str) -> Position:
    """A position from its text. Raises ValueError."""
    kind, done, *rest = text.split(";")
    if kind not in (_MARIADB, _MYSQL, _FILE) or len(rest) > 3:
        raise ValueError("not a position of a binary log")
    if kind == _FILE:
        file_and_offset(done)
    else:
        GtidSet(kind == _MARIADB, done)
    mark = Mark.parsed(rest.pop()) if len(rest) % 2 else None
    if not rest:
        return Position(kind, done, mark=mark)
    event, row, index = (int(number) for number in rest[1].split("/"))
    return Position(kind, done, rest[0], Place(event, row), index, mark)


def file_and_offset(text: str) -> tuple[str, int]:
    """File and offset of a place in the binary log. Raises ValueError."""
    file, _, offset = text.partition("@")[0].rpartition(":")
    return file, int(offset)


def moment_of(text: str) -> int:
    """The moment behind the `@`, in seconds since the epoch; 0 if there is none."""
    return int(text.partition("@")[2] or 0)
