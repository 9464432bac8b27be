"""What the workers need to know of each trigger, read from the control plane and kept a moment.

Every process looks at the configuration version at most four times a second; as long as it stays
the same, so does everything that was read under it.
"""

import threading
import time
from dataclasses import replace
from typing import Final

import orjson
import structlog
from django.db import close_old_connections

from eventing.definitions import Backoff
from eventing.lanes import Endpoint
from eventing.models import Trigger
from eventing.models.fields import UndecryptableValue
from eventing.projects import configuration_version

_LOOK_EVERY_SECONDS: Final = 0.25

logger = structlog.get_logger(__name__)


class Endpoints:
    """Endpoints by trigger id. Safe to share between threads.

    Of a log that belongs to one project, whose administrators may write to it whatever they like,
    the triggers of other projects get nothing: they count as disabled.
    """

    def __init__(self, project_id: int | None = None) -> None:
        self._project_id = project_id
        self._lock = threading.Lock()
        self._known: dict[int, Endpoint | None] = {}
        self._version = -1
        self._looked_at = float("-inf")

    def of_trigger(self, trigger_id: int) -> Endpoint | None:
        """Where and how to send the trigger's events; None if there is no such trigger."""
        with self._lock:
            self._look()
            if trigger_id not in self._known:
                self._known[trigger_id] = self._read(trigger_id)
            return self._known[trigger_id]

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_SECONDS:
            return
        close_old_connections()
        version = configuration_version()
        self._looked_at = now
        if version != self._version:
            self._version = version
            self._known.clear()

    def _read(self, trigger_id: int) -> Endpoint | None:
        trigger = Trigger.objects.select_related("project", "breaker").filter(pk=trigger_id).first()
        if trigger is None:
            return None
        try:
            found = endpoint_of(trigger)
        except UndecryptableValue as error:
            # Without its headers and its signature nothing must be sent: its events wait.
            logger.error("the events of a trigger are held", trigger=trigger.name, error=str(error))
            found = _unreadable(trigger)
        is_foreign = self._project_id not in (None, trigger.project_id)
        return replace(found, state="disabled") if is_foreign else found


def _unreadable(trigger: Trigger) -> Endpoint:
    return Endpoint(
        trigger.pk,
        trigger.project_id,
        trigger.project.name,
        trigger.name,
        trigger.url,
        state="unreadable",
    )


def endpoint_of(trigger: Trigger) -> Endpoint:
    """A trigger as delivery sees it, secrets decrypted. Raises UndecryptableValue."""
    return Endpoint(
        trigger_id=trigger.pk,
        project_id=trigger.project_id,
        project=trigger.project.name,
        trigger=trigger.name,
        url=trigger.url,
        headers=tuple(orjson.loads(trigger.headers or "{}").items()),
        signing_secrets=tuple(orjson.loads(trigger.signing_secrets or "[]")),
        retries=trigger.retries,
        timeout_ms=trigger.timeout_ms,
        backoff=Backoff(trigger.backoff_initial_ms, trigger.backoff_factor, trigger.backoff_max_ms),
        concurrency=trigger.concurrency,
        rate_per_second=trigger.rate_per_second,
        state=trigger.state,
        format=trigger.format,  # type: ignore[arg-type]
        breaker_is_open=hasattr(trigger, "breaker"),
    )
