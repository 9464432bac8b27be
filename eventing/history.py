"""What console and REST do with events beyond reading one log: looking through all logs of a
project, redelivering, cancelling, counting.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from http.client import responses
from typing import Final, NamedTuple
from uuid import UUID

from django.utils import timezone

from eventing import audit
from eventing.access import Actor
from eventing.changes import EVENT_STATUSES, EventStatus
from eventing.definitions import SettingsDefinition
from eventing.enqueueing import enqueuer
from eventing.eventing_dbs import Store, all_logs, logs_of, stores_of
from eventing.logs.base import (
    PATIENCE_SECONDS,
    EventDetail,
    EventFilter,
    EventLog,
    EventRow,
    InvalidCursor,
    LogUnavailable,
    SearchTooDeep,
)
from eventing.models import Project, Trigger
from eventing.projects import configuration_change, delete_project, delete_trigger
from eventing.quantities import instant

# How long a page may be searched for where nobody waits for the answer.
LONG_PATIENCE_SECONDS: Final = 20.0
# How many events a person or program may name at once, to redeliver or cancel them.
MOST_CHOSEN: Final = 1000
# How many events of a status tell why events fail.
MOST_REASONED: Final = 100
# How many characters of an error's text a filter looks for: an address of a page may not be long.
_MOST_LOOKED_FOR: Final = 200
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class LogPage:
    """Events of one log of a project, newest first; `next_cursor` may lead to an earlier log."""

    rows: list[EventRow]
    next_cursor: str | None
    store: Store


def going_on_from(committed_at: datetime) -> str:
    """The `before` of a filter that goes on after an event: all of its millisecond again, lest one
    of it be missed."""
    return instant(committed_at + timedelta(milliseconds=1))


def browse(
    project: Project,
    filters: EventFilter,
    cursor: str | None,
    limit: int,
    patience_seconds: float = PATIENCE_SECONDS,
) -> LogPage:
    """A page of a project's events: of the log in use, and when that ends, of those before it.

    A log that does not answer stops nobody from reading the others. Raises InvalidCursor,
    LogUnavailable if the log that is asked for does not answer, and SearchTooDeep if looking
    through it takes longer than `patience_seconds`: its text is for the person who asked, its
    `narrow` names the filters that would help.
    """
    stores = stores_of(project)
    at, within = _place_of(cursor, stores)
    for index in range(at, len(stores)):
        store = stores[index]
        try:
            page = store.log.browse(project.pk, filters, within, limit, patience_seconds)
        except LogUnavailable:
            if index == at:
                raise
            return LogPage([], first_cursor_of(store), stores[at])
        is_last = index + 1 == len(stores)
        if page.next_cursor is not None:
            return LogPage(page.rows, _cursor(index, store, page.next_cursor), store)
        if page.rows or is_last:
            following = None if is_last else first_cursor_of(stores[index + 1])
            return LogPage(page.rows, following, store)
        within = None
    raise AssertionError("a project has at least one log")


def first_cursor_of(store: Store) -> str:
    """The cursor of the newest events of one of a project's logs."""
    return f"{store.number}."


def _cursor(index: int, store: Store, within: str) -> str:
    return within if index == 0 else f"{store.number}.{within}"


def _place_of(cursor: str | None, stores: Sequence[Store]) -> tuple[int, str | None]:
    """Which of the logs a cursor points into, and where. A plain one belongs to the log in use."""
    number, dot, within = (cursor or "").rpartition(".")
    if not dot:
        return 0, cursor
    for index, store in enumerate(stores):
        if str(store.number) == number:
            return index, within or None
    raise InvalidCursor("the cursor points into a log that this project does not have")


def event(project: Project, event_id: UUID, *, by: Actor) -> EventDetail | None:
    """One event, from whichever log of the project has it, as far as `by` may see it.

    Raises LogUnavailable if none has it that could be asked.
    """
    found = _event(project, event_id)
    if found is None or by.may_see_payloads(project):
        return found
    invocations = [replace(each, response_body="") for each in found.invocations]
    return replace(found, payload=None, invocations=invocations, withheld=True)


def _event(project: Project, event_id: UUID) -> EventDetail | None:
    unavailable: LogUnavailable | None = None
    for log in logs_of(project):
        try:
            found = log.event(project.pk, event_id)
        except LogUnavailable as error:
            unavailable = unavailable or error
            continue
        if found is not None:
            return found
    if unavailable is not None:
        raise unavailable
    return None


def rows(project: Project, event_ids: Sequence[UUID]) -> list[EventRow]:
    """Those of these events that any log of the project has, newest first in each log."""
    return [row for log in logs_of(project) for row in log.rows(project.pk, event_ids)]


class Reason(NamedTuple):
    """Why events are not delivered: in words, and as a text that the filter `error` finds them by;
    how many of those that were looked at, and when the newest of them was committed."""

    words: str
    error: str
    events: int
    newest: datetime


def reasons(project: Project, filters: EventFilter) -> list[Reason]:
    """Why events that match have failed, or wait to be tried again; the most frequent first.

    Of the `MOST_REASONED` newest that failed, and as many that are pending. Raises LogUnavailable,
    SearchTooDeep.
    """
    found: dict[tuple[str, str], list[datetime]] = {}
    statuses: tuple[EventStatus, ...] = ("failed", "pending")
    for status in statuses:
        of_status = replace(filters, status=status)
        for row in browse(project, of_status, None, MOST_REASONED).rows:
            if (why := _why(row)) is not None:
                found.setdefault(why, []).append(row.committed_at)
    each = [Reason(*why, len(times), max(times)) for why, times in found.items()]
    return sorted(each, key=lambda reason: (-reason.events, reason.words))


def _why(row: EventRow) -> tuple[str, str] | None:
    """How its last attempt failed, in words and as a text to look for; None if it has not."""
    message = row.problem or row.last_error
    if message is not None:
        return message, message[:_MOST_LOOKED_FOR]
    code = row.last_status_code
    if code is None or 200 <= code < 300:
        return None
    phrase = responses.get(code)
    return f"{code} {phrase}" if phrase else str(code), str(code)


def cancel_events(project: Project, event_ids: Sequence[UUID], *, by: Actor) -> int:
    """Cancel those of these events that are pending; returns how many were.

    What is finished is left alone, and what is being sent at this moment: that can no longer be
    taken back. A cancelled event can be redelivered.
    """
    with _noted("event.cancel", project, by, event_ids) as done:
        for store in stores_of(project):
            moved, freed = store.log.cancel_events(project.pk, event_ids)
            enqueuer.enqueue(freed, store.number)
            done.events += moved
    return done.events


@dataclass(slots=True)
class _Done:
    """How many events something was done to so far."""

    events: int = 0


@contextmanager
def _noted(
    action: str,
    project: Project,
    by: Actor,
    event_ids: Sequence[UUID] = (),
    filters: EventFilter | None = None,
) -> Iterator[_Done]:
    """Note how many events something was done to, even if a later log fails."""
    done = _Done()
    try:
        yield done
    finally:
        if done.events:
            name = str(event_ids[0]) if len(event_ids) == 1 else f"{done.events} events"
            facts = {"events": done.events, **(facts_of(filters) if filters else {})}
            audit.write(by, project, action, name, new=facts)


def facts_of(filters: EventFilter) -> audit.Facts:
    """What events were asked for, as the audit log tells it."""
    given = asdict(filters).items()
    return {f"filters.{name}": value for name, value in given if value is not None}


def count(
    project: Project,
    filters: EventFilter,
    most: int,
    patience_seconds: float = PATIENCE_SECONDS,
    except_triggers: Sequence[int] = (),
) -> int | None:
    """How many events match, in all logs of a project, `most` if there are more; without those of
    `except_triggers`. None if a log does not answer, or if counting takes longer than
    `patience_seconds`."""
    total = 0
    ends_at = time.monotonic() + patience_seconds
    for log in logs_of(project):
        left_seconds = max(0.001, ends_at - time.monotonic())
        try:
            total += log.count(project.pk, filters, most - total, left_seconds, except_triggers)
        except (LogUnavailable, SearchTooDeep):
            return None
        if total >= most:
            break
    return total


class Losses(NamedTuple):
    """What settings would delete: events, and payloads of events that are kept. None: more than
    could be counted in time, or a log does not answer."""

    events: int | None
    payloads: int | None


def losses(project: Project, settings: SettingsDefinition, most: int) -> Losses:
    """What would go that the project has kept until now, `most` of each if there is more."""

    def first_day(days: int) -> datetime:
        midnight = timezone.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=days)

    events: int | None = 0
    payloads: int | None = 0
    events_from = first_day(settings.retention_events_days)
    if settings.retention_events_days < project.retention_events_days:
        events = count(project, EventFilter(before=events_from), most)
    if settings.retention_payloads_days < project.retention_payloads_days:
        payloads_from = first_day(settings.retention_payloads_days)
        payloads = count(project, EventFilter(after=events_from, before=payloads_from), most)
    return Losses(events, payloads)


def redeliver(project: Project, event_ids: Sequence[UUID], *, by: Actor) -> int:
    """Put finished events back to `pending`; returns how many were.

    Unfinished ones are left alone, and those of deleted triggers: nobody knows where to send them.
    """
    ordered = dict(project.triggers.values_list("pk", "ordered"))
    with _noted("event.redeliver", project, by, event_ids) as done:
        for store in stores_of(project):
            done.events += redeliver_in(store, project, event_ids, ordered)
    return done.events


def redeliver_in(
    store: Store, project: Project, event_ids: Sequence[UUID], ordered: Mapping[int, bool]
) -> int:
    """The same in one log. `ordered` says of each of the project's triggers whether it is."""
    in_order = [trigger_id for trigger_id, is_ordered in ordered.items() if is_ordered]
    chunks = store.log.redeliver(project.pk, event_ids, list(ordered), in_order)
    enqueuer.enqueue(chunks, store.number)
    return sum(len(chunk.event_ids) for chunk in chunks)


def redeliver_matching(project: Project, filters: EventFilter, *, by: Actor) -> int:
    """Put every finished event that matches, in any log, back to `pending`; returns how many."""
    ordered = dict(project.triggers.values_list("pk", "ordered"))
    with _noted("event.redeliver", project, by, filters=filters) as done:
        for store in stores_of(project):
            cursor: str | None = None
            while True:
                page = store.log.browse(project.pk, filters, cursor, _PAGE, LONG_PATIENCE_SECONDS)
                ids = [row.id for row in page.rows]
                done.events += redeliver_in(store, project, ids, ordered)
                cursor = page.next_cursor
                if cursor is None:
                    break
    return done.events


def counts(project: Project) -> dict[EventStatus, int]:
    """How many events of the project have which status, in all its logs."""
    total: dict[EventStatus, int] = dict.fromkeys(EVENT_STATUSES, 0)
    for log in logs_of(project):
        for status, count in log.counts(project.pk).items():
            total[status] += count
    return total


def pending_of(project: Project, trigger_ids: Sequence[int]) -> dict[int, int]:
    """How many unfinished events each of these triggers has, in all logs of the project."""
    total = dict.fromkeys(trigger_ids, 0)
    for log in logs_of(project):
        for trigger_id, count in log.pending_of(trigger_ids).items():
            total[trigger_id] += count
    return total


def unfinished_of(project: Project, trigger_ids: Sequence[int]) -> int | None:
    """How many unfinished events these triggers have together; None if a log does not answer."""
    try:
        return sum(pending_of(project, trigger_ids).values()) if trigger_ids else 0
    except LogUnavailable:
        return None


def remove_trigger(
    trigger: Trigger, *, by: Actor, check: Callable[[Trigger], None] | None = None
) -> int:
    """Delete a trigger and cancel its unfinished events; returns how many those were.

    `check` may raise when it sees the trigger as it is, while nobody else changes anything.
    """
    logs = list(logs_of(trigger.project))
    with configuration_change():
        if check is not None:
            check(trigger.project.triggers.get(pk=trigger.pk))
        trigger_id = delete_trigger(trigger, by=by)
    return _cancel(logs, [trigger_id])


def remove_project(project: Project, *, by: Actor) -> None:
    """Delete a project with all it owns and cancel its unfinished events; its logs stay."""
    logs = list(logs_of(project))
    _cancel(logs, delete_project(project, by=by))


def cancel(trigger_ids: Sequence[int]) -> int:
    """Cancel what is unfinished of deleted triggers, in whatever log; returns how many events."""
    return _cancel(all_logs(), trigger_ids) if trigger_ids else 0


def _cancel(logs: Iterable[EventLog], trigger_ids: Sequence[int]) -> int:
    """The same in these logs; one that does not answer now is seen to by the sweep."""
    cancelled = 0
    for log in logs:
        try:
            cancelled += sum(log.cancel(trigger_id) for trigger_id in trigger_ids)
        except LogUnavailable:
            continue
    return cancelled
