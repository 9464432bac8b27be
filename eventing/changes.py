"""What flows through the product: changes read from a source, and the events made of them.

Everything below is immutable and knows neither Django nor any input or output. The types that are
made once per row or attempt are named tuples: making one costs a fifth of a frozen dataclass.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from uuid import UUID

from eventing.ids import committed_at_ms_in

Operation = Literal["insert", "update", "delete"]
OPERATIONS: Final[tuple[Operation, ...]] = ("insert", "update", "delete")

DatabaseType = Literal["postgres", "mysql", "mongodb", "mission-control"]
DATABASE_TYPES: Final[tuple[DatabaseType, ...]] = (
    "postgres",
    "mysql",
    "mongodb",
    "mission-control",
)
# The type without an address: what changes there is a project's own troubles.
MISSION_CONTROL: Final = "mission-control"

EVENT_TYPES: Final[Mapping[Operation, str]] = {
    "insert": "DB_INSERT",
    "update": "DB_UPDATE",
    "delete": "DB_DELETE",
}
SOURCE_NAMES: Final[Mapping[DatabaseType, str]] = {
    "postgres": "sql-postgres",
    "mysql": "sql-mysql",
    "mongodb": "mongodb",
    "mission-control": "mission-control",
}
# Their tables lie in schemas, and are named with them: `schema.table`.
TYPES_WITH_SCHEMAS: Final[frozenset[str]] = frozenset({"postgres"})

EventStatus = Literal["pending", "delivering", "delivered", "failed", "cancelled"]
EVENT_STATUSES: Final[tuple[EventStatus, ...]] = (
    "pending",
    "delivering",
    "delivered",
    "failed",
    "cancelled",
)
# More is to come of an event in one of these: it is not redelivered.
UNFINISHED: Final[tuple[EventStatus, ...]] = ("pending", "delivering")


class Change(NamedTuple):
    """One inserted, updated or deleted row or document, at one position of its source.

    `position` is unique within the database and the same whenever this change is read again;
    `index` is the change's number within its transaction, from 0.
    `document_id` is the contract's `docId`. `document` is JSON text in UTF-8. `old` is the row
    before the change as JSON text, where the source knows it. `committed_at_ms` counts from the
    Unix epoch. `problem`, if set, says why the row could not be decoded; `document` is then `{}`.
    `shown_position` is the position as people look it up with the source's own tools: a few
    characters that need no escaping anywhere.
    """

    position: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    operation: Operation
    table: str
    document_id: str
    document: str
    committed_at_ms: int
    old: str | None = None
    problem: str | None = None
    shown_position: str | None = None


class Batch(NamedTuple):
    """Changes in the order of their source, and the position up to which it has now been read.

    That position is what reading can go on from; it may hold more than a change's own.
    `changes` may be empty while `position` advances (idle stream, tables nobody watches).
    `drained` is true when the source had nothing more to read. `source_lag_bytes` is how much of
    the source's log lies between the server's end and `position`, where the source tells;
    `kept_log_bytes` how much of it the server keeps for this reader, also of what has been read.
    """

    changes: list[Change]
    position: str
    drained: bool
    source_lag_bytes: int | None = None
    kept_log_bytes: int | None = None


class Event(NamedTuple):
    """One change for one trigger, ready to be stored: what `event_log` holds.

    The id is text, since storing wants nothing else of it. `order_key` is set
    for a trigger that delivers in order: events of one trigger with the same key (a 64-bit number)
    are sent one after another. `position` is the change's, as it is shown.
    """

    id_text: str
    trigger_id: int
    trigger: str
    table: str
    operation: Operation
    document_id: str
    payload: str
    committed_at_ms: int
    problem: str | None
    order_key: int | None = None
    position: str | None = None

    @property
    def id(self) -> UUID:
        """The event's id."""
        return UUID(self.id_text)

    @property
    def id_hex(self) -> str:
        """The id as 32 hexadecimal digits."""
        return self.id_text.replace("-", "")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which project and database a batch of events comes from; constant for one capture loop."""

    project_id: int
    project: str
    database_id: int
    alias: str
    type: DatabaseType


class Exchange(NamedTuple):
    """One HTTP request and what came of it.

    `response_body` holds at most the first 10 000 bytes. `error_kind` is None exactly when a whole
    response arrived (of one beyond a megabyte, the first megabyte); else one of `refused`,
    `timeout`, `dns`, `tls`, `forbidden_address`, `connection`, `protocol`, `stopped`.
    `error_message` says it in words. `retry_after_ms` is the response's `Retry-After`, whatever
    the status.
    """

    started_at_ms: int
    duration_ms: int
    url: str
    request_headers: tuple[tuple[str, str], ...]
    status_code: int | None = None
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: bytes = b""
    error_kind: str | None = None
    error_message: str | None = None
    retry_after_ms: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the endpoint took the event: a whole response with a 2xx status."""
        return (
            self.error_kind is None
            and self.status_code is not None
            and 200 <= self.status_code < 300
        )


class Claim(NamedTuple):
    """An event that this process alone may now send, until its lease runs out.

    `attempt` counts every invocation of the event, `failures` those since it was last asked for
    (by its change or by a redelivery): `failures` before this attempt, so 0 at first. `order_key`
    is the event's, while others of its document may wait for it. The id is text, since delivery
    wants nothing else of it. `payload` is empty if retention has forgotten it.
    """

    id_text: str
    trigger_id: int
    attempt: int
    failures: int
    document_id: str
    payload: str
    order_key: int | None = None

    @property
    def event_id(self) -> UUID:
        """The event's id."""
        return UUID(self.id_text)

    @property
    def committed_at_ms(self) -> int:
        """When the change was committed, in milliseconds since the epoch."""
        return committed_at_ms_in(self.id_text)


class Outcome(NamedTuple):
    """What one attempt came to, and what is to happen with its event.

    `retry_in_ms` is set when the event is to be tried again, so long after this was recorded (the
    worker's clock need not be the log's); an attempt that did not succeed and has none ends the
    event as `failed`.
    """

    claim: Claim
    project_id: int
    exchange: Exchange
    retry_in_ms: int | None = None


def ended_in_order(outcomes: Iterable[Outcome]) -> set[tuple[int, int]]:
    """The trigger and order key of each ordered event that these end: its next has its turn."""
    return {
        (outcome.claim.trigger_id, outcome.claim.order_key)
        for outcome in outcomes
        if outcome.claim.order_key is not None and outcome.retry_in_ms is None
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """One prerequisite of a source or of an Eventing DB, as people are told of it.

    `status`: `ok`, `warning` (works, with a limit worth knowing) or `error` (cannot be used).
    `mend` is the exact statement or configuration line; `restart` whether the server must be
    restarted for it to count.
    """

    name: str
    status: Literal["ok", "warning", "error"]
    what: str
    why: str = ""
    mend: str = ""
    restart: bool = False

    @property
    def whole_mend(self) -> str:
        """`mend` for who is shown nothing else: it says that the server must be restarted."""
        return f"{self.mend} {THEN_RESTART}" if self.restart else self.mend


# A comment, so that a statement can be run with it.
THEN_RESTART: Final = "-- then restart the server"


def prerequisite(
    name: str, met: bool, what: str, why: str, mend: str, *, restart: bool = False
) -> Finding:
    """The finding about something without which nothing works: `ok`, or an error with its mend."""
    if met:
        return Finding(name, "ok", what)
    return Finding(name, "error", what, why, mend, restart)


@dataclass(frozen=True, slots=True)
class CatalogueTable:
    """A table or collection of a source, as the trigger form suggests it.

    `name` is what `data.col` shows. `limits` names what cannot be captured of it, and why.
    """

    name: str
    columns: tuple[str, ...] = ()
    limits: str = ""
    mend: str = ""
