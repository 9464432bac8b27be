"""What keeps the log moving when messages or workers are lost, and keeps it from growing.

Everything here may run in any number of processes at once: each step is one conditional statement
of the event log.
"""

import time
from typing import Final

import structlog
from django.db.models import Max

from eventing.enqueueing import enqueuer, waiting_messages
from eventing.logs import event_log
from eventing.models import Project, Trigger

# While this many messages wait, the workers have enough to do.
_ENOUGH_MESSAGES: Final = 100
_EVENTS_A_SWEEP: Final = 20_000
# Looking for leases that have run out reads all of the backlog.
_EXPIRE_EVERY_SECONDS: Final = 3

logger = structlog.get_logger(__name__)


def sweep() -> int:
    """Enqueue what is due and what was lost on the way; returns how many events that were."""
    log = event_log()
    if int(time.time()) % _EXPIRE_EVERY_SECONDS == 0:
        expired = log.expire_leases()
        if expired:
            logger.warning("events of a vanished worker are tried again", events=expired)
    states = dict(Trigger.objects.values_list("pk", "state"))
    waiting = log.triggers_with_deliveries()
    for trigger_id in set(waiting) - set(states):
        cancelled = log.cancel(trigger_id)
        if cancelled:
            logger.info(
                "cancelled events of a deleted trigger", trigger=trigger_id, events=cancelled
            )
    messages = waiting_messages()
    if messages is None or messages >= _ENOUGH_MESSAGES:
        return 0
    sendable = [trigger_id for trigger_id in waiting if states.get(trigger_id) == "active"]
    chunks = log.due(_EVENTS_A_SWEEP, sendable)
    enqueuer.enqueue(chunks)
    return sum(len(chunk.event_ids) for chunk in chunks)


def upkeep() -> None:
    """Make the partitions of the days to come, and drop what is not to be kept any longer."""
    log = event_log()
    log.make_tables()
    longest = Project.objects.aggregate(days=Max("retention_events_days"))["days"]
    if longest is None:
        return
    today = int(time.time()) // 86_400
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
