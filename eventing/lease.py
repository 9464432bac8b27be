"""Who captures a database: a lease in the control plane, kept alive by a thread of its own.

The thread also publishes how capture fares and watches the configuration version. Should the lease
be lost all the same, the event log's position refuses whatever the old holder still tries to store.
"""

import threading
import time
import uuid
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Final

import structlog
from django.db import Error, connection
from django.db.models import Q
from django.db.models.functions import Now

from eventing.capture_status import CaptureStatus
from eventing.models import CaptureLease
from eventing.problems import first_line
from eventing.projects import configuration_version

LEASE_SECONDS: Final = 8
_RENEW_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.25

logger = structlog.get_logger(__name__)


class Lease:
    """The right to capture one database. `lost` is set once it is gone."""

    def __init__(self, database_id: int, holder: uuid.UUID) -> None:
        self._database_id = database_id
        self._holder = holder
        self._status = CaptureStatus(state="starting")
        self._wake = threading.Event()
        self._stopping = False
        self.lost = threading.Event()
        self.configuration_version = configuration_version()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @classmethod
    def acquire(cls, database_id: int) -> "Lease | None":
        """Take the lease if it is free or has run out; None if someone else holds it."""
        holder = uuid.uuid4()
        CaptureLease.objects.bulk_create(
            [CaptureLease(database_id=database_id)], ignore_conflicts=True
        )
        taken = CaptureLease.objects.filter(
            Q(holder=None) | Q(expires_at__lt=Now()), database_id=database_id
        ).update(
            holder=holder,
            expires_at=_after_seconds(LEASE_SECONDS),
            state=CaptureLease.State.STARTING,
            next_try_at=None,
        )
        if not taken:
            return None
        lease = cls(database_id, holder)
        lease._thread.start()
        return lease

    @property
    def status(self) -> CaptureStatus:
        """What was published last."""
        return self._status

    def publish(self, **changes: Any) -> None:
        """Show how capture fares; a new state at once, the rest with the next renewal."""
        before = self._status
        self._status = replace(before, **changes)
        if (before.state, before.applied_version) != (
            self._status.state,
            self._status.applied_version,
        ):
            self._wake.set()

    def release(self) -> None:
        """Give the lease back, so that another process may take it at once."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=3)
        CaptureLease.objects.filter(database_id=self._database_id, holder=self._holder).update(
            holder=None, expires_at=Now(), state=CaptureLease.State.STARTING
        )

    def _keep(self) -> None:
        """Renew every two seconds, publish changes at once, look for a new configuration."""
        renewed_at = float("-inf")
        while not self._stopping and not self.lost.is_set():
            now = time.monotonic()
            try:
                if now - renewed_at >= _RENEW_SECONDS or self._wake.is_set():
                    self._wake.clear()
                    self._renew()
                    renewed_at = now
                self.configuration_version = configuration_version()
            except Error as error:
                # Without the control plane the lease runs out, and someone else may take it.
                connection.close()
                logger.warning("the lease could not be renewed", error=first_line(error))
                if now - renewed_at > LEASE_SECONDS:
                    self.lost.set()
            self._wake.wait(_LOOK_SECONDS)
        connection.close()

    def _renew(self) -> None:
        mine = CaptureLease.objects.filter(database_id=self._database_id, holder=self._holder)
        if not mine.update(expires_at=_after_seconds(LEASE_SECONDS), **asdict(self._status)):
            self.lost.set()


def _after_seconds(seconds: int) -> Any:
    return Now() + timedelta(seconds=seconds)
