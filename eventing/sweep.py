"""What keeps the log moving when messages or workers are lost, and keeps it from growing.

Everything here may run in any number of processes at once: each step is one conditional statement
of the event log.
"""

import threading
import time
from datetime import timedelta
from typing import Final

import structlog
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models import Max
from django.db.models.functions import Now

from eventing import redeliveries, troubles
from eventing.breakers import take_probe, triggers_to_probe
from eventing.enqueueing import enqueuer, waiting_messages
from eventing.eventing_dbs import (
    BUILTIN,
    external_numbers,
    forget_if_expired,
    log_numbered,
    owner_of,
)
from eventing.logs.base import DueChunk, EventLog, LogUnavailable
from eventing.models import Allotment, Breaker, KeptAnswer, Project, Trigger
from eventing.pauses import pause_seconds

# While this many messages wait, the workers have enough to do.
_ENOUGH_MESSAGES: Final = 100
# Looking for leases that have run out reads all of a backlog in Postgres: it is given no more than
# this share of a process's time.
_EXPIRE_EVERY_SECONDS: Final = 3.0
_EXPIRE_SHARE: Final = 0.01
_EXPIRE_AT_LEAST_EVERY_SECONDS: Final = 60.0
# While a backup keeps what is gone in the indexes, a sweep reads all of it.
_SWEEP_SHARE: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 10.0
# Long enough for every worker to have read a change of a trigger.
_LATELY_SECONDS: Final = 4

logger = structlog.get_logger(__name__)


def sweep(log_number: int) -> int:
    """Enqueue what is due in a log and what was lost on the way; returns how many events."""
    log = log_numbered(log_number)
    _expire_leases(log, log_number)
    # The log before the triggers: whichever has events and is then missing was deleted. Asked the
    # other way round, one that is made in between would pass for deleted.
    waiting = log.triggers_with_deliveries()
    states = dict(Trigger.objects.values_list("pk", "state"))
    for trigger_id in set(waiting) - set(states):
        cancelled = log.cancel(trigger_id)
        if cancelled:
            logger.info(
                "cancelled events of a deleted trigger", trigger=trigger_id, events=cancelled
            )
    messages = waiting_messages()
    if messages is None or messages >= _ENOUGH_MESSAGES:
        return 0
    active = {trigger_id for trigger_id in waiting if states.get(trigger_id) == "active"}
    owner = owner_of(log_number)
    if owner is not None:
        # Who may write to a log of one project's has no say over the triggers of others.
        active &= set(Trigger.objects.filter(project_id=owner).values_list("pk", flat=True))
    held = set(Breaker.objects.values_list("pk", flat=True))
    chunks = [*log.due(sorted(active - held)), *_resumed(active - held)]
    enqueuer.enqueue(chunks, log_number)
    probes = _probes(log, active)
    enqueuer.enqueue(probes, log_number, are_probes=True)
    return sum(len(chunk.event_ids) for chunk in [*chunks, *probes])


def _expire_leases(log: EventLog, log_number: int) -> None:
    """Give back what vanished workers had claimed; the more seldom, the longer a look takes."""
    if not _patience.begin("leases", log_number):
        return
    began = time.monotonic()
    try:
        expired = log.expire_leases()
    finally:
        pause = pause_seconds(
            time.monotonic() - began,
            _EXPIRE_SHARE,
            at_least=_EXPIRE_EVERY_SECONDS,
            at_most=_EXPIRE_AT_LEAST_EVERY_SECONDS,
        )
        _patience.end("leases", log_number, pause)
    if expired:
        logger.warning("events of a vanished worker are tried again", events=expired)


def _resumed(trigger_ids: set[int]) -> list[DueChunk]:
    """Word to the workers that triggers changed by a person may have events that were held; those
    stored a moment ago are not due yet."""
    lately = Trigger.objects.filter(changed_at__gte=Now() - timedelta(seconds=_LATELY_SECONDS))
    resumed = trigger_ids.intersection(lately.values_list("pk", flat=True))
    return [DueChunk(trigger_id, [], more=True) for trigger_id in sorted(resumed)]


def _probes(log: EventLog, active: set[int]) -> list[DueChunk]:
    """One event each for the endpoints that are left alone and are to be tried again now."""
    return [
        DueChunk(chunk.trigger_id, chunk.event_ids[:1])
        for chunk in log.due(sorted(active.intersection(triggers_to_probe())))
        if take_probe(chunk.trigger_id)
    ]


class _Patience:
    """What this process does with which log at the moment, and what it leaves alone for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[tuple[str, int]] = set()
        self._not_before: dict[tuple[str, int], float] = {}

    def begin(self, what: str, log_number: int) -> bool:
        key = (what, log_number)
        with self._lock:
            early = time.monotonic() < self._not_before.get(key, 0.0)
            if early or key in self._busy:
                return False
            self._busy.add(key)
            return True

    def end(self, what: str, log_number: int, seconds: float) -> None:
        key = (what, log_number)
        with self._lock:
            self._busy.discard(key)
            self._not_before[key] = time.monotonic() + seconds


_patience = _Patience()


def sweep_patiently(log_number: int) -> None:
    """Sweep a log unless this process is at it: the more seldom, the longer it takes.

    Several at once would keep what is gone in the indexes for each other, and be slow by that.
    """
    if not _patience.begin("sweep", log_number):
        return
    began = time.monotonic()
    try:
        sweep(log_number)
    except LogUnavailable as error:
        logger.warning("an Eventing DB cannot be swept", number=log_number, error=str(error))
    finally:
        took = time.monotonic() - began
        pause = pause_seconds(took, _SWEEP_SHARE, at_most=_LONGEST_PAUSE_SECONDS)
        _patience.end("sweep", log_number, pause)


def upkeep() -> None:
    """Make the partitions of the days to come, and drop what is not to be kept any longer."""
    forget_allotments()
    redeliveries.forget_old()
    KeptAnswer.objects.filter(created_at__lt=Now() - KeptAnswer.KEPT_FOR).delete()
    troubles.forget_old()
    Session.objects.filter(expire_date__lt=Now()).delete()
    for number in [BUILTIN, *external_numbers()]:
        try:
            log = log_numbered(number)
            _keep_up(log)
            if log.is_behind():
                _catch_up_meanwhile(number, log)
            if forget_if_expired(number):
                logger.info("forgot an earlier Eventing DB", number=number)
        except LogUnavailable as error:
            logger.warning("an Eventing DB cannot be looked after", number=number, error=str(error))


def _catch_up_meanwhile(log_number: int, log: EventLog) -> None:
    """Have a log catch up on a thread that nobody waits for, least of all who ends this process."""
    if _patience.begin("catch up", log_number):
        threading.Thread(
            target=_catch_up, args=[log_number, log], name="catches up", daemon=True
        ).start()


def _catch_up(log_number: int, log: EventLog) -> None:
    try:
        log.catch_up()
    except LogUnavailable as error:
        logger.warning("an Eventing DB catches up later", number=log_number, error=str(error))
    except Exception:
        logger.exception("an Eventing DB could not catch up", number=log_number)
    finally:
        log.close()
        _patience.end("catch up", log_number, 0.0)


def settle_statistics() -> None:
    """Move what the logs counted lately to where charts read it."""
    for number in [BUILTIN, *external_numbers()]:
        try:
            log_numbered(number).settle_statistics()
        except LogUnavailable as error:
            logger.warning("statistics cannot be settled", number=number, error=str(error))


def _today() -> int:
    """The day, counted from the epoch, by the control database's clock: what is deleted must not
    depend on which worker's clock is wrong."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT floor(extract(epoch FROM now()) / 86400)::int")
        row: tuple[int] = cursor.fetchone()
    return row[0]


def forget_allotments() -> None:
    """Remove what workers noted of the limits of triggers that are gone."""
    Allotment.objects.exclude(trigger_id__in=Trigger.objects.values("pk")).delete()


def _keep_up(log: EventLog) -> None:
    log.make_tables()
    longest = Project.objects.aggregate(days=Max("retention_events_days"))["days"]
    if longest is None:
        return
    today = _today()
    for name in log.drop_partitions_before(today - longest):
        logger.info("dropped a day that no project keeps", table=name)
    for project in Project.objects.all():
        keeps_events, keeps_payloads = (
            project.retention_events_days,
            project.retention_payloads_days,
        )
        if keeps_events < longest or keeps_payloads < keeps_events:
            events, payloads = log.expire(project.pk, today - keeps_events, today - keeps_payloads)
            if events or payloads:
                logger.info("expired", project=project.name, events=events, payloads=payloads)
