"""Telling people of a project's troubles: what is to be told to whom, and that it gets there.

Whatever is to be told becomes a row first and is sent afterwards, outside any transaction and with
retries that are kept in the row. The same trouble is told once, again every so many hours while it
lasts, and a last time when it is over.
"""

import random
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import structlog
from django.conf import settings
from django.db.models import F, Max, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from eventing import audit, troubles
from eventing.access import Actor
from eventing.backoff import delay_ms
from eventing.definitions import NotificationDefinition, TroubleKind
from eventing.destinations.announcement import (
    TIME_LIMIT_SECONDS,
    Announcer,
    NoSuchService,
    service_of,
)
from eventing.models import Notice, Notification, Project, Trouble
from eventing.models.fields import problem_of, readable
from eventing.problems import InvalidInput, Problem
from eventing.projects import configuration_held, refuse_taken
from eventing.troubles import Look, What

_BEGUN: Final[Mapping[TroubleKind, str]] = {
    "source_blocked": "the database {} is blocked",
    "source_lag": "the database {} lags",
    "breaker_open": "deliveries of the trigger {} are held",
    "trigger_failing": "the trigger {} fails",
}
_MOST_ATTEMPTS: Final = 8
_FIRST_PAUSE_MS: Final = 30_000
_LONGEST_PAUSE_MS: Final = 3_600_000
# Longer than any single message takes.
_LEASE_SECONDS: Final = TIME_LIMIT_SECONDS + 105
# Each is a process while it is sent.
_AT_ONCE: Final = 4
_BEGIN_FOR_SECONDS: Final = 10.0
# A test holds up whoever answers pages and REST.
_TESTS_AT_ONCE: Final = 2

_sending = threading.Lock()
_tests_lock = threading.Lock()
# The projects whose tests are under way in this process.
_testing: set[int] = set()

logger = structlog.get_logger(__name__)


def notifications_of(project: Project) -> QuerySet[Notification]:
    """Where a project's troubles are told, by name."""
    return project.notifications.all()


def notification_definition_of(notification: Notification) -> NotificationDefinition:
    """A stored notification as a definition, its address included."""
    return NotificationDefinition(
        name=notification.name,
        url=readable(notification, "url"),
        kinds=tuple(notification.kinds),  # type: ignore[arg-type]
        repeat_hours=notification.repeat_hours,
        lag_seconds=notification.lag_seconds,
    )


def save_notification(
    project: Project,
    definition: NotificationDefinition,
    existing: Notification | None = None,
    *,
    by: Actor,
) -> Notification:
    """Create a notification, or make `existing` what `definition` says. Raises InvalidInput.

    Who makes a definition of what is stored reads that within `project.held()`.
    """
    try:
        service = service_of(definition.url)
    except NoSuchService as allowed:
        raise InvalidInput([Problem("url", "another address", str(allowed))]) from None
    # Two of one name must not slip in side by side.
    with project.held():
        allowed_name = "a name no other notification of the project has"
        refuse_taken(project.notifications, existing, "name", definition.name, allowed_name)
        old = _facts(existing) if existing else None
        notification = existing or Notification(project=project)
        notification.name = definition.name
        notification.url = definition.url
        notification.service = service[:300]
        notification.kinds = list(definition.kinds)
        notification.repeat_hours = definition.repeat_hours
        notification.lag_seconds = definition.lag_seconds
        notification.save()
        action = "notification.update" if existing else "notification.create"
        name, new = notification.name, _facts(notification)
        audit.write(by, project, action, name, notification.pk, old=old, new=new)
    return notification


def delete_notification(notification: Notification, *, by: Actor) -> None:
    """Tell nothing there any more, not even what is waiting to be told."""
    project, old = notification.project, _facts(notification)
    with project.held():
        audit.write(by, project, "notification.delete", notification.name, notification.pk, old=old)
        notification.delete()


def _facts(notification: Notification) -> audit.Facts:
    return {
        "name": notification.name,
        "service": notification.service,
        "url": audit.Masked(readable(notification, "url")),
        "kinds": list(notification.kinds),
        "repeat_hours": notification.repeat_hours,
        "lag_seconds": notification.lag_seconds,
    }


@lru_cache(maxsize=1)
def _announcer() -> Announcer:
    return Announcer(settings.WEBHOOK_ALLOWED_NETWORKS)


def send_test(notification: Notification) -> str | None:
    """Send a message that says it is a test; None when it was taken, else why it was not.

    A project has one test under way at a time, and all of them together have few.
    """
    name = notification.project.name
    text = f"This is a test from Mission Control: troubles of {name} will be told here."
    with _place_for_a_test(notification.project_id) as has_place:
        if not has_place:
            return "another test is under way; try again in a few seconds"
        return _sent(notification, f"{name}: a test", text)


@contextmanager
def _place_for_a_test(project_id: int) -> Iterator[bool]:
    with _tests_lock:
        has_place = project_id not in _testing and len(_testing) < _TESTS_AT_ONCE
        if has_place:
            _testing.add(project_id)
    try:
        yield has_place
    finally:
        if has_place:
            with _tests_lock:
                _testing.remove(project_id)


def _sent(notification: Notification, title: str, text: str) -> str | None:
    problem = problem_of(notification)
    return problem or _announcer().send(notification.url, title, text)


def watch() -> None:
    """Look for troubles, note them, and write down what is to be told of them."""
    found = troubles.look()
    with configuration_held():
        noted = troubles.note(found)
        _write_notices(found, noted)


def _write_notices(found: Look, noted: troubles.Noted) -> None:
    told_at = {
        (row["notification_id"], row["trouble_id"]): row["at"]
        for row in Notice.objects.filter(trouble__in=[*noted.lasting, *noted.ended])
        .values("notification_id", "trouble_id")
        .annotate(at=Max("created_at"))
    }
    concerned = {each.project_id for each in [*noted.lasting, *noted.ended]}
    by_project: dict[int, list[Notification]] = {}
    for notification in Notification.objects.filter(project__in=concerned).select_related(
        "project"
    ):
        by_project.setdefault(notification.project_id, []).append(notification)
    now = timezone.now()
    notices = [
        _notice(notification, trouble, word, found, now)
        for trouble in noted.lasting
        for notification in by_project.get(trouble.project_id, ())
        if (word := _word(notification, trouble, found, told_at, now))
    ]
    # What has not been told by its end need not be told any more.
    waiting = Notice.objects.filter(trouble__in=noted.ended, sent_at=None)
    waiting.exclude(next_attempt_at=None).delete()
    told = set(
        Notice.objects.filter(trouble__in=noted.ended)
        .exclude(sent_at=None)
        .values_list("notification_id", "trouble_id")
    )
    notices += [
        _notice(notification, trouble, Notice.Word.OVER, found, now)
        for trouble in noted.ended
        for notification in by_project.get(trouble.project_id, ())
        if (notification.pk, trouble.pk) in told
    ]
    Notice.objects.bulk_create(notices)


def _word(
    notification: Notification,
    trouble: Trouble,
    found: Look,
    told_at: Mapping[tuple[int, int], datetime],
    now: datetime,
) -> Notice.Word | None:
    """What is to be told of a trouble that lasts, if anything."""
    seen = found.seen.get(What(trouble.kind, trouble.object_id))  # type: ignore[arg-type]
    if seen is None or trouble.kind not in notification.kinds:
        return None
    if trouble.kind == "source_lag" and seen.lag_seconds < notification.lag_seconds:
        return None
    last = told_at.get((notification.pk, trouble.pk))
    if last is None:
        return Notice.Word.BEGUN
    is_time = now - last >= timedelta(hours=notification.repeat_hours)
    return Notice.Word.STILL if is_time else None


def _notice(
    notification: Notification, trouble: Trouble, word: Notice.Word, found: Look, now: datetime
) -> Notice:
    seen = found.seen.get(What(trouble.kind, trouble.object_id))  # type: ignore[arg-type]
    since = f"Since {trouble.began_at:%Y-%m-%d %H:%M:%S} UTC"
    if word is Notice.Word.OVER:
        text = f"{since}, for {_in_words(troubles.lasted(trouble, now))}."
    else:
        reason = seen.reason if seen else trouble.reason
        text = f"{reason[:1].upper()}{reason[1:]}\n{since}."
    return Notice(notification=notification, trouble=trouble, word=word, text=text)


def _in_words(span: timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def title_of(notice: Notice) -> str:
    """The first line of a message: whose trouble, and how it stands."""
    trouble = notice.trouble
    what = _BEGUN[trouble.kind].format(trouble.object_name)  # type: ignore[index]
    before = {Notice.Word.BEGUN: "", Notice.Word.STILL: "still: ", Notice.Word.OVER: "over: "}
    return f"{trouble.project.name}: {before[Notice.Word(notice.word)]}{what}"


def send_due() -> int:
    """Send what is to be told now, unless this process is at it; returns how many were taken.

    Services that do not answer may hold up one thread of a worker, never all of them, and no
    messages but those of their own project, of which one is sent at a time.
    """
    if not _sending.acquire(blocking=False):
        return 0
    try:
        return _send_those_due()
    finally:
        _sending.release()


def _send_those_due() -> int:
    """Messages are begun for some seconds, as places become free; then what is under way ends."""
    until = time.monotonic() + _BEGIN_FOR_SECONDS
    under_way: dict[Future[str | None], Notice] = {}
    taken = 0
    # Its threads know nothing of the database: rows are read and written here.
    with ThreadPoolExecutor(_AT_ONCE, "notification") as threads:
        while True:
            if time.monotonic() < until and len(under_way) < _AT_ONCE:
                busy = {each.trouble.project_id for each in under_way.values()}
                for notice in _due(busy)[: _AT_ONCE - len(under_way)]:
                    if _claim(notice):
                        title = title_of(notice)
                        sending = threads.submit(_sent, notice.notification, title, notice.text)
                        under_way[sending] = notice
            if not under_way:
                return taken
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            taken += sum(_record(under_way.pop(each), each.result()) for each in done)


def _due(busy: Collection[int]) -> list[Notice]:
    """What is to be told now, one message of each project that is not busy, the oldest first."""
    # Index notice_due.
    due = Notice.objects.filter(next_attempt_at__lte=Now()).exclude(trouble__project__in=busy)
    first = due.order_by("trouble__project_id", "next_attempt_at").distinct("trouble__project_id")
    found = list(first.select_related("notification", "trouble__project"))
    return sorted(found, key=lambda notice: (notice.next_attempt_at, notice.pk))


def _claim(notice: Notice) -> bool:
    """Whether a message is this process's to send now."""
    mine = Notice.objects.filter(
        pk=notice.pk, attempts=notice.attempts, next_attempt_at__lte=Now()
    ).update(
        attempts=F("attempts") + 1,
        next_attempt_at=Now() + timedelta(seconds=_LEASE_SECONDS),
    )
    return bool(mine)


def _record(notice: Notice, error: str | None) -> bool:
    """Note what came of the message that was claimed; returns whether it was taken."""
    attempt = notice.attempts + 1
    row = Notice.objects.filter(pk=notice.pk, attempts=attempt)
    if error is None:
        row.update(sent_at=Now(), next_attempt_at=None, error="")
        return True
    logger.warning(
        "a notification was not taken", notification=notice.notification_id, attempt=attempt
    )
    if attempt >= _MOST_ATTEMPTS:
        row.update(next_attempt_at=None, error=error)
    else:
        pause = delay_ms(attempt, _FIRST_PAUSE_MS, 2, _LONGEST_PAUSE_MS, random.random)
        row.update(next_attempt_at=Now() + timedelta(milliseconds=pause), error=error)
    return False


def latest_notices(project: Project) -> dict[int, Notice]:
    """The latest message to each of the project's notifications, by the notification's id."""
    notices = Notice.objects.filter(notification__project=project)
    latest = notices.order_by("notification_id", "-pk").distinct("notification_id")
    return {each.notification_id: each for each in latest.select_related("trouble__project")}
