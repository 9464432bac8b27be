"""The interface every event log has: events, their deliveries and invocations, and positions.

All of it works on batches. No method makes an HTTP request or publishes a message, and each one
that changes something is a single transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from eventing.changes import (
    Claim,
    DatabaseType,
    Event,
    EventStatus,
    Finding,
    Operation,
    Origin,
    Outcome,
)
from eventing.logs.counting import Statistic

# What `min_attempts` may be at most: retries and redeliveries together have no limit.
MOST_MIN_ATTEMPTS: Final = 1_000
# How long a page may be searched for.
PATIENCE_SECONDS: Final = 3.0
# What the log says of an attempt whose outcome nobody has reported.
LOST_ATTEMPT: Final = (
    "the worker stopped before it could record an answer; the endpoint may or may not have received"
    " this attempt"
)


class PositionMoved(Exception):
    """Another process has stored changes of this database since; nothing was written."""

    def __init__(self, database_id: int, previous: str | None) -> None:
        super().__init__(
            f"the position of database {database_id} is no longer {previous}: another process"
            " captures it"
        )


class LogUnavailable(Exception):
    """The Eventing DB cannot be reached or broke off; trying again may help."""


class LogBusy(LogUnavailable):
    """Somebody reads what is to be altered; to wait for them would make everybody else wait."""


class LogOutdated(LogUnavailable):
    """The log's tables are not those of this version. Says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "the Eventing DB has tables of another version: capture and the workers change them,"
            " or tell why they cannot; try again in a moment, and see that those run"
        )


class InvalidCursor(Exception):
    """A page's cursor was not made by this log."""


class SearchTooDeep(Exception):
    """The search for a page was ended: its filters leave too much to look through.

    `narrow` names the filters that are not set and would help: `trigger`, `table`, `document_id`
    or `after`. The text says so in words.
    """

    def __init__(self, filters: "EventFilter", patience_seconds: float) -> None:
        helpful = ("trigger", "table", "document_id", "after")
        self.narrow = tuple(name for name in helpful if getattr(filters, name) is None) or (
            "after",
        )
        self.patience_seconds = patience_seconds
        super().__init__(
            f"the search was ended after {patience_seconds:g} seconds, so as not to keep the"
            " database busy: choose a shorter time, or another filter beside these"
        )


class DueChunk(NamedTuple):
    """Events of one trigger to be enqueued in one message; at most 200.

    `more`: further ones of the trigger are due, which the worker is to fetch by `claim_due`.
    """

    trigger_id: int
    event_ids: list[UUID]
    more: bool = False


class Recorded(NamedTuple):
    """How many events moved on, and the events of ordered triggers that may now be sent."""

    moved: int
    freed: list[DueChunk]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of a project to list, count or redeliver. None means any.

    `after` is inclusive and `before` exclusive; both compare with the commit time. `error` is a
    text that occurs, in whatever case, in the message of the event's last attempt or in why the
    event can never be sent; or it is the status code that attempt was answered with (`503`). A
    delivered event has no error. `min_attempts`: how often it was tried to deliver the event at
    least; an attempt that is under way does not count yet.
    """

    trigger: str | None = None
    status: EventStatus | None = None
    database: str | None = None
    table: str | None = None
    operation: Operation | None = None
    document_id: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    error: str | None = None
    min_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event as a list shows it; `last_*` describe its latest invocation, if there is one."""

    id: UUID
    trigger_id: int
    trigger: str
    database: str
    database_type: DatabaseType
    table: str
    operation: Operation
    document_id: str
    committed_at: datetime
    stored_at: datetime
    status: EventStatus
    attempts: int
    next_attempt_at: datetime | None
    problem: str | None
    last_status_code: int | None
    last_error: str | None
    last_duration_ms: int | None


@dataclass(frozen=True, slots=True)
class Invocation:
    """One stored attempt. Header values that are secret were masked before they were stored."""

    attempt: int
    started_at: datetime
    duration_ms: int
    url: str
    request_headers: list[tuple[str, str]]
    status_code: int | None
    response_headers: list[tuple[str, str]]
    response_body: str
    error_kind: str | None
    error_message: str | None
    worker: str


@dataclass(frozen=True, slots=True)
class EventDetail:
    """One event with all that is known of it. `payload` is JSON text, None once it has expired.

    `position` is None for an event that an earlier version stored. `withheld`: payload and response
    bodies were taken out for someone who may not see them.
    """

    row: EventRow
    payload: str | None
    invocations: list[Invocation]
    position: str | None = None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Events newest first, and the cursor of the next page, None on the last.

    A page may hold fewer than were asked for, or none, and yet not be the last: by `min_attempts` a
    page looks through so many attempts and no more.
    """

    rows: list[EventRow]
    next_cursor: str | None


class EventLog(Protocol):
    """One Eventing DB. Safe to share between threads."""

    def check(self, owner: str) -> list[Finding]:
        """Whether this database can hold the log of the installation `owner` (its node id):
        connection, version, rights, and that no other installation keeps its log here. Changes
        nothing, never raises for a bad server."""
        ...

    def make_tables(self, owner: str | None = None) -> None:
        """Make or upgrade schema, tables and this week's partitions, as far as need be.

        With `owner`, the log is marked as that installation's. Raises LogUnavailable if it is
        another's.
        """
        ...

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        ...

    def is_behind(self) -> bool:
        """Whether tables of an older version lack what `catch_up` makes: searches may take longer,
        or be unavailable, until then. Raises LogUnavailable."""
        ...

    def catch_up(self) -> None:
        """Do what takes long after an upgrade, such as building indexes, while everybody stores and
        delivers. May wait for hours for who reads the log. Raises LogUnavailable."""
        ...

    def drop_partitions_before(self, day: int) -> list[str]:
        """Drop whole days older than `day` (counted from the epoch); returns what went."""
        ...

    def expire(self, project_id: int, events_before: int, payloads_before: int) -> tuple[int, int]:
        """Delete a project's events of days before `events_before`, and forget the payloads of days
        before `payloads_before` (both counted from the epoch); returns how many of each. An event
        that has yet to end keeps its payload until the first call after its end.

        In transactions of a few thousand events. What has been done is remembered, so that asking
        again the same day costs a look-up; what comes late, with a time long ago, goes with the
        next day's, its payload once it has ended.
        """
        ...

    # Capture

    def position(self, database_id: int) -> str | None:
        """Up to where the changes of this database are stored."""
        ...

    def append(
        self, origin: Origin, events: Sequence[Event], previous: str | None, position: str
    ) -> None:
        """Store `events` and move the position from `previous` to `position`, both or neither.

        Raises PositionMoved if the stored position is no longer `previous`.
        """
        ...

    def forget_position(self, database_id: int) -> None:
        """Forget how far a database was read; its next capture starts from now."""
        ...

    # Delivery

    def claim(self, event_ids: Sequence[UUID], lease_seconds: float) -> list[Claim]:
        """Take those of `event_ids` that are pending and whose turn it is; the rest is someone
        else's or done, or follows an unfinished event of its document in an ordered trigger."""
        ...

    def claim_due(self, trigger_id: int, limit: int, lease_seconds: float) -> list[Claim]:
        """Take up to `limit` events of a trigger that are due, or were stored a moment ago; those
        that have been due longest first."""
        ...

    def record(self, outcomes: Sequence[Outcome], worker: str) -> Recorded:
        """Store invocations, and what each attempt came to.

        An outcome of an attempt that is no longer the event's latest is stored as an invocation
        and changes nothing else.
        """
        ...

    def release(self, claims: Sequence[Claim]) -> None:
        """Give back claims that were never sent; their attempts are not counted."""
        ...

    def due(self, trigger_ids: Sequence[int]) -> list[DueChunk]:
        """A chunk for each of `trigger_ids` that has pending events whose time has come; they are
        marked so as not to be listed again for the next 10 seconds. Longest due first."""
        ...

    def expire_leases(self) -> int:
        """Return events whose worker vanished to `pending`; their lost attempt is logged and does
        not count as a failure."""
        ...

    def cancel(self, trigger_id: int) -> int:
        """Cancel what is pending or delivering for a deleted trigger; returns how many."""
        ...

    def cancel_events(self, project_id: int, event_ids: Sequence[UUID]) -> Recorded:
        """Cancel those of `event_ids` that are pending; what is being sent or has ended is left
        alone. In an ordered trigger the events that waited for these may then be sent."""
        ...

    def triggers_with_deliveries(self) -> list[int]:
        """Ids of all triggers that have unfinished (pending or delivering) events."""
        ...

    # Reading and redelivering

    def browse(
        self,
        project_id: int,
        filters: EventFilter,
        cursor: str | None,
        limit: int,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Page:
        """A page of events, newest first.

        Raises InvalidCursor, and SearchTooDeep if it takes longer than `patience_seconds`.
        """
        ...

    def count(
        self,
        project_id: int,
        filters: EventFilter,
        most: int,
        patience_seconds: float = PATIENCE_SECONDS,
        except_triggers: Sequence[int] = (),
    ) -> int:
        """How many events match, `most` if there are more; without those of `except_triggers`.

        Raises SearchTooDeep if it takes longer than `patience_seconds`.
        """
        ...

    def event(self, project_id: int, event_id: UUID) -> EventDetail | None:
        """One event with its payload and invocations, oldest first."""
        ...

    def rows(self, project_id: int, event_ids: Sequence[UUID]) -> list[EventRow]:
        """Those of these events that there are, newest first."""
        ...

    def payloads(self, project_id: int, event_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The payloads of these events as JSON text; one that has expired is no key."""
        ...

    def redeliver(
        self,
        project_id: int,
        event_ids: Sequence[UUID],
        trigger_ids: Sequence[int],
        ordered: Sequence[int] = (),
    ) -> list[DueChunk]:
        """Put finished events of `trigger_ids` back to `pending` with a fresh retry budget.

        Those of the `ordered` among these triggers go behind what is unfinished of their
        document. Leaves the others alone; returns what now waits to be enqueued.
        """
        ...

    def counts(self, project_id: int) -> dict[EventStatus, int]:
        """How many events of the project have which status; every status is a key."""
        ...

    def failed_since(self, since: datetime) -> dict[int, int]:
        """How many events of each trigger, of any project, failed for good in the minutes from
        `since` on; a trigger without one is no key."""
        ...

    def pending_of(self, trigger_ids: Sequence[int]) -> dict[int, int]:
        """How many unfinished events each of these triggers has; every id is a key."""
        ...

    # Statistics

    def settle_statistics(self) -> int:
        """Move what was counted into the sums of each span, and forget sums that are old enough.

        Returns how many rows were moved. Any number of processes may do it at once.
        """
        ...

    def statistics(
        self,
        project_id: int,
        since: datetime,
        until: datetime,
        step_seconds: int,
        *,
        by_trigger: bool = False,
        trigger_id: int | None = None,
    ) -> list[Statistic]:
        """What came of a project's events, of one trigger's or of each trigger's, in each step of
        time from `since` to `until`, oldest first; steps in which nothing happened are left out.

        Both ends are to be multiples of `step_seconds` since the epoch, and that a multiple of 60.
        """
        ...
