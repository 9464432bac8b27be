"""The interface every source has: what capture, the doctor and the console ask of one.

A source reads; it never writes a row of the user's. What it makes at the server (a slot,
publications) it names after itself and takes away in `remove`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from eventing.changes import Batch, CatalogueTable, Finding, Operation
from eventing.cloudevents import MAX_PAYLOAD_CHARACTERS

# The mend of a source that cannot go on where it stopped. The console offers it as a button, and
# for this mend alone: elsewhere it would lose changes for nothing.
START_ANEW: Final = "start this database anew from now (what happened meanwhile is not captured)"

# A character takes up to four bytes: of a row that takes more than this in its source's log no
# document is deliverable, and making one would take several times as much memory.
MOST_ROW_BYTES: Final = 4 * MAX_PAYLOAD_CHARACTERS

# What a server answers to a question about itself is not nearly as long.
MOST_ANSWER_BYTES: Final = 256 * 1024 * 1024

# A source that keeps more of its log for us than this could fill its disk: somebody is to look.
MUCH_LOG_BYTES: Final = 1 << 30
# What mends a sign-in that is refused, or an address that leads nowhere.
ANOTHER_ADDRESS: Final = "correct the connection string of this database"


class SourceBlocked(Exception):
    """A person must act before this source can be read.

    `str(error)` says what is wrong and why it matters; `mend` is the exact statement or command.
    `for_good`: what is wrong may later not show any more, and reading on would then skip changes.
    """

    def __init__(self, message: str, mend: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.mend = mend
        self.for_good = for_good


class SourceUnavailable(Exception):
    """The source cannot be reached or broke off; trying again may help. Says what and where."""

    # There is nothing for a person to run.
    mend: Final = ""


def unreached(error: SourceBlocked | SourceUnavailable) -> Finding:
    """What the doctor finds where no connection comes about."""
    why = "without a connection nothing can be captured"
    return Finding("connection", "error", str(error), why, error.mend)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a table as a change would show it. `document` is JSON text."""

    table: str
    document_id: str = field(repr=False)
    document: str = field(repr=False)


class Watch(Protocol):
    """What the triggers of one database want; compiled once per configuration version."""

    def wants(self, table: str, operation: Operation) -> bool:
        """Whether any trigger matches this operation on this table (named as in `data.col`)."""
        ...

    @property
    def operations(self) -> frozenset[Operation]:
        """Every operation that some trigger wants."""
        ...

    @property
    def wants_future_tables(self) -> bool:
        """Whether a table that does not exist yet could match by a wildcard."""
        ...

    @property
    def named_tables(self) -> frozenset[str]:
        """Tables that some trigger names in full, whether they exist or not."""
        ...


class Source(Protocol):
    """One database that other programs write to. Not thread-safe; one per capture loop."""

    def open(self, watch: Watch, after: str | None) -> None:
        """Make what the server needs, then stream changes that come after position `after`.

        With `after` None it starts from now. Raises SourceBlocked, SourceUnavailable.
        """
        ...

    def refuse_if_read_before(self) -> None:
        """To be called before the very first `open`, when the log knows of no earlier capture.

        Raises SourceBlocked if the server shows that there was one: the log was then restored from
        a backup that is older than that. Raises SourceUnavailable.
        """
        ...

    def watch(self, watch: Watch) -> None:
        """Take a new configuration into force without reconnecting where possible.

        When it returns, every transaction that commits afterwards is read under it.
        """
        ...

    def read(self, max_changes: int, timeout_seconds: float) -> Batch:
        """The next changes: as soon as `max_changes` are there or the stream runs dry.

        Returns an empty batch after `timeout_seconds` without a change.
        Raises SourceBlocked, SourceUnavailable.
        """
        ...

    def acknowledge(self, position: str) -> None:
        """Tell the server that everything up to `position` is stored. Never called beyond it."""
        ...

    def close(self) -> None:
        """Release connections; what the server keeps for this source stays."""
        ...

    def remove(self) -> None:
        """Drop everything this source made at the server. Idempotent.

        Raises SourceUnavailable if the server cannot be reached.
        """
        ...

    def check(self) -> Sequence[Finding]:
        """Every prerequisite, for the doctor; connects by itself. Never raises for a bad server."""
        ...

    def catalogue(self) -> Sequence[CatalogueTable]:
        """The tables that could be captured, sorted by name. Raises SourceUnavailable."""
        ...

    def sample(self, table: str) -> Sample | None:
        """Some row of a table, its values as capture shows them; None if it has none.

        Changes nothing and takes two seconds at most. Raises SourceUnavailable, which tells
        nothing of the row.
        """
        ...
