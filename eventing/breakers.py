"""Breakers: a trigger whose endpoint fails all the time is held instead of burning its events.

A worker opens one after sustained failure; the sweep then lets a single event through now and
then, and the first success closes it. Each step is one conditional statement.
"""

from datetime import timedelta
from typing import Final

import structlog
from django.db import Error, close_old_connections
from django.db.models import F
from django.db.models.functions import Now

from eventing.models import Breaker, Trigger
from eventing.projects import configuration_change

FIRST_PROBE_SECONDS: Final = 30.0
LONGEST_PROBE_SECONDS: Final = 300.0

logger = structlog.get_logger(__name__)


class Breakers:
    """Opens and closes breakers for the workers, who all see it within a moment."""

    def open(self, trigger_id: int, reason: str) -> None:
        """Hold the trigger's events from now on; `reason` is shown to people."""
        close_old_connections()
        try:
            with configuration_change():
                trigger = Trigger.objects.filter(pk=trigger_id, breaker__isnull=True).first()
                if trigger is None:
                    return
                Breaker.objects.create(
                    trigger=trigger,
                    reason=reason,
                    next_probe_at=Now() + timedelta(seconds=FIRST_PROBE_SECONDS),
                )
        except Error:
            logger.warning("a breaker could not be opened", trigger=trigger_id)
            return
        logger.warning("a breaker opened", trigger=trigger.name, reason=reason)

    def close(self, trigger_id: int) -> None:
        """The endpoint took an event: go on with all of them."""
        close_old_connections()
        try:
            with configuration_change():
                deleted, _ = Breaker.objects.filter(pk=trigger_id).delete()
        except Error:
            logger.warning("a breaker could not be closed", trigger=trigger_id)
            return
        if deleted:
            logger.info("a breaker closed", trigger_id=trigger_id)


def triggers_to_probe() -> list[int]:
    """Ids of triggers whose endpoint is to be tried now."""
    return list(Breaker.objects.filter(next_probe_at__lte=Now()).values_list("pk", flat=True))


def take_probe(trigger_id: int) -> bool:
    """Whether the caller is the one to send the next probe; sets the time of the one after it."""
    probes = Breaker.objects.filter(pk=trigger_id).values_list("probes", flat=True).first()
    if probes is None:
        return False
    seconds = min(LONGEST_PROBE_SECONDS, FIRST_PROBE_SECONDS * 2.0 ** min(probes + 1, 10))
    return bool(
        Breaker.objects.filter(pk=trigger_id, probes=probes, next_probe_at__lte=Now()).update(
            probes=F("probes") + 1, next_probe_at=Now() + timedelta(seconds=seconds)
        )
    )
