"""Redeliveries of everything that matches a filter, in the background: a second of work at a time,
with what is done so far for all to see.

A step that dies on the way is done again from its last page; what that page had put back to
`pending` is left alone, unless it has been delivered since. Whoever has taken so long that another
process goes on with it changes nothing any more.
"""

import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from eventing import audit, history
from eventing.access import Actor
from eventing.changes import UNFINISHED, EventStatus
from eventing.logs.base import EventFilter, InvalidCursor, LogUnavailable, SearchTooDeep
from eventing.models import Project, Redelivery
from eventing.problems import InvalidInput, Problem

MOST_PER_SECOND: Final = 100_000
# What matches more events than that is not counted: a redelivery of it tells how far it is by time.
MOST_COUNTED: Final = 1_000_000
_PAGE: Final = 500
_STEP_SECONDS: Final = 0.8
# How long a step is left to its process, should that have died: longer than the longest search and
# what follows it.
BUSY: Final = timedelta(seconds=60)
# How far, and for how long, the events of a redelivery are counted in each status.
MOST_STANDING: Final = 10_000
_STANDING_SECONDS: Final = 0.5
# Together with the longest search for a page, this takes less than `BUSY`.
_COUNT_SECONDS: Final = 5.0
# For counting what a redelivery would leave alone: unfinished events, which are in a small table,
# and events of deleted triggers, which most projects do not have.
_LEFT_ALONE_SECONDS: Final = 1.0
_PAUSE: Final = timedelta(seconds=10)
KEPT: Final = timedelta(days=30)


class Matching(NamedTuple):
    """How many events match, and how many of those nothing would be done to: since they are not
    finished, or of deleted triggers. `MOST_COUNTED` if there are more, None if that could not be
    counted."""

    events: int | None
    unfinished: int | None
    of_deleted: int | None

    @property
    def would_do_nothing(self) -> bool:
        return self.events == 0 or self._are_all((self.unfinished or 0) + (self.of_deleted or 0))

    @property
    def none_is_finished(self) -> bool:
        """Whether all that match are on their way. Some that were may be finished since."""
        return self._are_all(self.unfinished)

    @property
    def all_are_of_deleted(self) -> bool:
        """Whether there is no trigger any more that could send what matches."""
        return self._are_all(self.of_deleted)

    def _are_all(self, some: int | None) -> bool:
        if not self.events or some is None:
            return False
        return self.events < MOST_COUNTED and some >= self.events


def matching(project: Project, filters: EventFilter) -> Matching:
    """What a redelivery with these filters would be about, counted for a few seconds at most."""
    events = history.count(project, filters, MOST_COUNTED)
    if filters.status in UNFINISHED:
        return Matching(events, events, 0)
    if not events:
        return Matching(events, 0, 0)
    present = list(project.triggers.values_list("pk", flat=True))
    of_deleted = history.count(project, filters, MOST_COUNTED, _LEFT_ALONE_SECONDS, present)
    unfinished = 0 if filters.status is not None else _unfinished(project, filters)
    return Matching(events, unfinished, of_deleted)


def _unfinished(project: Project, filters: EventFilter) -> int | None:
    """How many of the events of any status that match are not finished."""
    total = 0
    for status in UNFINISHED:
        of_status = replace(filters, status=status)
        found = history.count(project, of_status, MOST_COUNTED, _LEFT_ALONE_SECONDS)
        if found is None:
            return None
        total += found
    return total


def start(project: Project, filters: EventFilter, rate: object, *, by: Actor) -> Redelivery:
    """Begin with the newest event there is now. `rate` is a number of events a second, 0 for any.

    Raises InvalidInput.
    """
    if not isinstance(rate, int) or isinstance(rate, bool) or not 0 <= rate <= MOST_PER_SECOND:
        allowed = f"a whole number from 0 (no limit) to {MOST_PER_SECOND}"
        raise InvalidInput([Problem("rate_per_second", repr(rate)[:80], allowed)])
    now = datetime.now(UTC)
    bounded = replace(filters, before=min(filters.before or now, now))
    with transaction.atomic():
        begun = Redelivery.objects.create(
            project=project,
            filters=_stored(bounded),
            rate_per_second=rate,
            requested_by=by.user.get_username(),
        )
        facts = {"rate_per_second": rate, **history.facts_of(bounded)}
        audit.write(by, project, "redelivery.start", str(begun.pk), begun.pk, new=facts)
    return begun


def cancel(redelivery: Redelivery, *, by: Actor) -> bool:
    """Stop one that runs; False if it no longer does. What was put back stays put back."""
    running = Redelivery.objects.filter(pk=redelivery.pk, state=Redelivery.State.RUNNING)
    with transaction.atomic():
        is_stopped = bool(
            running.update(state=Redelivery.State.CANCELLED, finished_at=Now(), error="")
        )
        if is_stopped:
            _note_end("redelivery.cancel", redelivery, by)
    return is_stopped


def _note_end(action: str, redelivery: Redelivery, by: Actor) -> None:
    """Note how many events one has put back, before it is forgotten."""
    redelivery.refresh_from_db(fields=["redelivered"])
    facts = {"events": redelivery.redelivered}
    audit.write(by, redelivery.project, action, str(redelivery.pk), redelivery.pk, new=facts)


def filters_of(redelivery: Redelivery) -> EventFilter:
    """Which events it is about."""
    given: dict[str, Any] = dict(redelivery.filters)
    for name in ("after", "before"):
        if given.get(name) is not None:
            given[name] = datetime.fromisoformat(given[name])
    return EventFilter(**given)


class Standing(NamedTuple):
    """How many of the events that a redelivery was about have yet to be delivered, or have failed
    (again): those that match its filters by now, whatever their status and error were when it
    began. `MOST_STANDING` if there are more, None if that could not be counted."""

    filters: EventFilter
    counts: dict[EventStatus, int | None]


def standing(redelivery: Redelivery) -> Standing:
    """What has become of its events; counted for a second and a half at most."""
    filters = replace(filters_of(redelivery), status=None, error=None)
    counts: dict[EventStatus, int | None] = {}
    for status in (*UNFINISHED, "failed"):
        of_status = replace(filters, status=status)
        counts[status] = history.count(
            redelivery.project, of_status, MOST_STANDING, _STANDING_SECONDS
        )
    return Standing(filters, counts)


def _stored(filters: EventFilter) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(filters).items()
        if value is not None
    }


def waiting() -> list[int]:
    """Ids of those that somebody should go on with now."""
    return list(_free().order_by("pk").values_list("pk", flat=True))


def _free() -> Any:
    free = Q(busy_until=None) | Q(busy_until__lt=Now())
    return Redelivery.objects.filter(free, state=Redelivery.State.RUNNING)


class _Step:
    """A step of one redelivery, as long as no other process has taken that over."""

    def __init__(self, redelivery_id: int) -> None:
        self._rows = Redelivery.objects.filter(pk=redelivery_id)
        self._held_until: datetime | None = None

    def begin(self) -> bool:
        """Whether it is ours to go on with."""
        return self._hold(_free())

    def renew(self) -> bool:
        """Whether it still is, and for another while."""
        return self._hold(self._mine())

    def _hold(self, whose: Any) -> bool:
        held = self._rows & whose
        if not held.update(busy_until=Now() + BUSY):
            return False
        self._held_until = self._rows.values_list("busy_until", flat=True).first()
        return True

    def _mine(self) -> Any:
        # Cancelled meanwhile, it stays so.
        running = Redelivery.objects.filter(state=Redelivery.State.RUNNING)
        return running.filter(busy_until=self._held_until)

    def note(self, **fields: Any) -> bool:
        """Change what is known of it; False if it is not ours any more, or has been cancelled."""
        return bool((self._rows & self._mine()).update(**fields))

    def end(self, state: Redelivery.State, error: str = "", **fields: Any) -> None:
        """Nobody goes on with it; how many events were put back is noted under who asked for it."""
        with transaction.atomic():
            if self.note(state=state, finished_at=Now(), busy_until=None, error=error, **fields):
                ended = self._rows.select_related("project").get()
                _note_end("redelivery.end", ended, Actor(User(username=ended.requested_by)))


def advance(redelivery_id: int, patience_seconds: float = history.LONG_PATIENCE_SECONDS) -> None:
    """Go on for about a second, unless somebody else does.

    A page that takes longer than `patience_seconds` to find ends it, with what to do in `error`.
    """
    step = _Step(redelivery_id)
    if not step.begin():
        return
    redelivery = Redelivery.objects.select_related("project").get(pk=redelivery_id)
    try:
        _advance(redelivery, step, patience_seconds)
    except LogUnavailable as error:
        step.note(error=str(error), busy_until=Now() + _PAUSE)
    except SearchTooDeep as error:
        redelivery.refresh_from_db(fields=["reached_at"])
        step.end(Redelivery.State.FAILED, _what_to_do(redelivery, error))
    except InvalidCursor:
        # The log it was in has been forgotten: retention has passed all of that by.
        step.end(Redelivery.State.DONE)
    else:
        step.note(busy_until=None)


def _advance(redelivery: Redelivery, step: _Step, patience_seconds: float) -> None:
    """Page after page until the second is over, the rate is used up, or nothing is left."""
    project, filters = redelivery.project, filters_of(redelivery)
    if not redelivery.looked_at and redelivery.total is None:
        total = history.count(project, filters, MOST_COUNTED, _COUNT_SECONDS)
        if total is not None and total < MOST_COUNTED:
            Redelivery.objects.filter(pk=redelivery.pk).update(total=total)
    ordered = dict(project.triggers.values_list("pk", "ordered"))
    cursor = redelivery.cursor or None
    room = redelivery.rate_per_second or _PAGE
    ends_at = time.monotonic() + _STEP_SECONDS
    while room > 0 and time.monotonic() < ends_at:
        page = history.browse(project, filters, cursor, min(room, _PAGE), patience_seconds)
        if not step.renew():
            return
        ids = [row.id for row in page.rows]
        count = history.redeliver_in(page.store, project, ids, ordered)
        if redelivery.rate_per_second:
            room -= count
        cursor = page.next_cursor
        found: dict[str, Any] = {
            "cursor": cursor or "",
            "looked_at": F("looked_at") + len(ids),
            "redelivered": F("redelivered") + count,
            "reached_at": page.rows[-1].committed_at if page.rows else F("reached_at"),
        }
        if cursor is None:
            step.end(Redelivery.State.DONE, **found)
            return
        if not step.note(error="", **found):
            return


def _what_to_do(redelivery: Redelivery, error: SearchTooDeep) -> str:
    """Why no more is looked for, and how to go on."""
    if redelivery.reached_at is None:
        return f"{error}; then begin another redelivery"
    before = history.going_on_from(redelivery.reached_at)
    return f"{error}; then begin another redelivery, with before={before} to go on from here"


def forget_old() -> None:
    """Remove those that ended long ago."""
    Redelivery.objects.filter(finished_at__lt=Now() - KEPT).delete()
