"""What goes wrong with a project's databases and triggers: noticed, kept while it lasts, and ended.

Nothing here tells anybody. A trouble that goes away and is back within a minute is the same one, so
that something which comes and goes is told of once. Beginnings and ends get numbers, in the order
in which they are committed: `eventing.sources.troubles` reads them as changes for triggers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from django.db.models import Exists, F, Max, OuterRef, Q
from django.db.models.functions import Greatest, Now
from django.utils import timezone

from eventing.capture_status import CaptureStatus, capture_statuses
from eventing.changes import MISSION_CONTROL
from eventing.definitions import TroubleKind
from eventing.eventing_dbs import all_logs
from eventing.logs.base import LogUnavailable
from eventing.matching import watches
from eventing.models import (
    Breaker,
    Database,
    Project,
    Trigger,
    Trouble,
    TroubleNumber,
    TroubleReader,
)
from eventing.projects import configuration_held
from eventing.quantities import duration, size
from eventing.sources.troubles import TABLE

# From this lag on it is trouble, where no notification sets a limit of its own.
LAG_SECONDS: Final = 300
FAILING_MINUTES: Final = 10
_GONE_SECONDS: Final = 60
_KEPT_DAYS: Final = 90
_OF_TRIGGERS: Final[frozenset[TroubleKind]] = frozenset({"breaker_open", "trigger_failing"})


class What(NamedTuple):
    """Which trouble: two at the same time never have the same."""

    kind: TroubleKind
    object_id: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A trouble as it is now. `lag_seconds` only of a source that lags."""

    project_id: int
    what: What
    object_name: str
    reason: str
    lag_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """What is wrong now. Troubles of the kinds in `unknown` could not be looked for."""

    seen: Mapping[What, Seen]
    unknown: frozenset[TroubleKind]


def look() -> Look:
    """Look at every source, breaker and trigger of the installation, in a few queries."""
    unknown: set[TroubleKind] = set()
    seen = [*_of_sources(), *_of_breakers(), *_of_triggers(unknown)]
    return Look({each.what: each for each in seen}, frozenset(unknown))


def _of_sources() -> Iterator[Seen]:
    databases = list(Database.objects.all())
    statuses = capture_statuses(databases)
    limits = _lag_limits()
    for database in databases:
        status = statuses[database.pk]
        place = (database.project_id, database.pk, database.alias)
        if status.state == "blocked":
            mend = f"\nTo mend it: {status.mend}" if status.mend else ""
            yield _seen("source_blocked", *place, f"{status.error}{mend}")
        lag = _lag_seconds(status)
        if lag >= limits.get(database.project_id, LAG_SECONDS) or status.keeps_much_log:
            reason = f"the last change that was read is {duration(lag * 1000)} old"
            if status.waiting_log_bytes:
                reason += f"; {size(status.waiting_log_bytes)} of its log wait at the server"
            # So much log is trouble whatever the limit of seconds.
            yield Seen(
                database.project_id,
                What("source_lag", database.pk),
                database.alias,
                reason,
                float("inf") if status.keeps_much_log else lag,
            )


def _lag_seconds(status: CaptureStatus) -> float:
    return (status.lag_ms or 0) / 1000 if status.state in ("streaming", "retrying") else 0.0


def _lag_limits() -> dict[int, int]:
    """The lowest limit that each project's notifications set."""
    found = Project.objects.filter(notifications__kinds__contains=["source_lag"]).values_list(
        "pk", "notifications__lag_seconds"
    )
    limits: dict[int, int] = {}
    for project_id, seconds in found:
        limits[project_id] = min(seconds, limits.get(project_id, seconds))
    return limits


def _of_breakers() -> Iterator[Seen]:
    for breaker in Breaker.objects.select_related("trigger"):
        trigger = breaker.trigger
        yield _seen("breaker_open", trigger.project_id, trigger.pk, trigger.name, breaker.reason)


def _of_triggers(unknown: set[TroubleKind]) -> Iterator[Seen]:
    """Triggers of which events have lately failed for good."""
    since = timezone.now() - timedelta(minutes=FAILING_MINUTES)
    failed: dict[int, int] = {}
    for log in all_logs():
        try:
            for trigger_id, count in log.failed_since(since).items():
                failed[trigger_id] = failed.get(trigger_id, 0) + count
        except LogUnavailable:
            unknown.add("trigger_failing")
    for trigger in Trigger.objects.filter(pk__in=failed):
        count = failed[trigger.pk]
        events = f"{count:,} event{'s' if count > 1 else ''}"
        reason = f"{events} failed for good within {FAILING_MINUTES} minutes"
        yield _seen("trigger_failing", trigger.project_id, trigger.pk, trigger.name, reason)


def _seen(kind: TroubleKind, project_id: int, object_id: int, name: str, reason: str) -> Seen:
    return Seen(project_id, What(kind, object_id), name, reason)


@dataclass(frozen=True, slots=True)
class Noted:
    """What lasts, and what has ended just now."""

    lasting: Sequence[Trouble]
    ended: Sequence[Trouble]


def note(found: Look) -> Noted:
    """Keep what has been seen: begin what is new, end what has been away for a minute.

    To be called while the configuration is held: others that note wait for the end of that, so that
    numbers are committed in their order.
    """
    Trouble.objects.bulk_create(
        [
            Trouble(
                project_id=seen.project_id,
                kind=seen.what.kind,
                object_id=seen.what.object_id,
                object_name=seen.object_name,
                reason=seen.reason,
            )
            for seen in found.seen.values()
        ],
        ignore_conflicts=True,
    )
    # Index one_trouble_at_a_time.
    open_ones = list(Trouble.objects.select_for_update().filter(ended_at=None).order_by("pk"))
    gone = [each for each in open_ones if not _lasts(each, found)]
    back = [each.pk for each in open_ones if each not in gone and each.gone_since is not None]
    Trouble.objects.filter(pk__in=back).update(gone_since=None)
    of_gone = Trouble.objects.filter(pk__in=[each.pk for each in gone])
    of_gone.filter(gone_since=None).update(gone_since=Now())
    away = Q(gone_since__lte=Now() - timedelta(seconds=_GONE_SECONDS))
    ended = list(of_gone.filter(away))
    Trouble.objects.filter(pk__in=[each.pk for each in ended]).update(ended_at=Now())
    over = {each.pk for each in ended}
    noted = Noted([each for each in open_ones if each.pk not in over], ended)
    _number(noted)
    return noted


def _lasts(trouble: Trouble, found: Look) -> bool:
    what = What(trouble.kind, trouble.object_id)  # type: ignore[arg-type]
    return what in found.seen or what.kind in found.unknown


def _number(noted: Noted) -> None:
    """Give what triggers are to see its number, which nothing gets a second time."""
    ended = [each for each in noted.ended if each.begun_as is not None]
    fresh = [each for each in noted.lasting if each.begun_as is None]
    listeners = _listeners_among(fresh)
    begun = [
        each for each in fresh if each.kind not in _OF_TRIGGERS or each.object_id not in listeners
    ]
    if not ended and not begun:
        return
    number = TroubleNumber.objects.values_list("latest", flat=True).first() or 0
    for trouble in ended:
        number += 1
        trouble.ended_as = number
    for trouble in begun:
        number += 1
        trouble.begun_as = number
    Trouble.objects.bulk_update([*ended, *begun], ["begun_as", "ended_as"])
    TroubleNumber.objects.update_or_create(pk=1, defaults={"latest": number})


def _listeners_among(troubled: Sequence[Trouble]) -> set[int]:
    """Ids of troubled triggers that watch troubles themselves.

    What befalls those is no change: an event that its endpoint does not take would be a trouble,
    and that an event, without end. Two such triggers could keep each other at it.
    """
    ids = {each.object_id for each in troubled if each.kind in _OF_TRIGGERS}
    if not ids:
        return set()
    triggers = Trigger.objects.filter(pk__in=ids)
    found = triggers.prefetch_related("databases", "project__databases")
    return {trigger.pk for trigger in found if _listens(trigger)}


def _listens(trigger: Trigger) -> bool:
    databases = trigger.databases.all() or trigger.project.databases.all()
    is_there = any(database.type == MISSION_CONTROL for database in databases)
    return is_there and watches(trigger.tables, TABLE, has_schemas=False)


def troubles_of(project: Project) -> Sequence[Trouble]:
    """What is wrong with a project's databases and triggers, the newest first."""
    return list(project.troubles.filter(ended_at=None))


def lasted(trouble: Trouble, until: datetime) -> timedelta:
    """For how long there was trouble."""
    return max(timedelta(), until - trouble.began_at)


def forget_old() -> None:
    """Remove what ended long ago, unless a database of its project has yet to read that."""
    behind = TroubleReader.objects.filter(
        project_id=OuterRef("project_id"), position__lt=OuterRef("ended_as")
    )
    long_ago = Trouble.objects.filter(ended_at__lt=Now() - timedelta(days=_KEPT_DAYS))
    with configuration_held():
        found = long_ago.exclude(Exists(behind))
        told = found.exclude(ended_as=None).order_by()
        for project_id, number in told.values_list("project_id").annotate(Max("ended_as")):
            readers = TroubleReader.objects.filter(project_id=project_id)
            readers.update(forgotten=Greatest(F("forgotten"), number))
        found.delete()
