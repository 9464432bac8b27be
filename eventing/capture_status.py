"""How the capture of each database fares, and which triggers it applies: read from the leases that
the capture loops keep. Nothing here changes anything or talks to a source.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django.db.models import prefetch_related_objects
from django.db.models.functions import Now

from eventing.models import CaptureLease, Database, Project, RetiredSource, Trigger
from eventing.models.fields import problem_of
from eventing.sources.base import MUCH_LOG_BYTES


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """How the capture of one database fares: what a lease keeps of it, and what people and REST are
    told. Every field has a column of its name.

    `lag_ms` is the age of the last change read while more are waiting, 0 when none is. `lag_bytes`
    is what of the source's log is not read yet, `kept_log_bytes` what its server keeps for us.
    """

    state: str = "off"
    error: str = ""
    mend: str = ""
    next_try_at: datetime | None = None
    position: str = ""
    lag_ms: int | None = None
    lag_bytes: int | None = None
    kept_log_bytes: int | None = None
    last_change_at: datetime | None = None
    applied_version: int = 0

    @property
    def waiting_log_bytes(self) -> int:
        """How much of its log waits at the source's server until it can go."""
        return max(self.lag_bytes or 0, self.kept_log_bytes or 0)

    @property
    def keeps_much_log(self) -> bool:
        """Whether the source keeps so much of its log for us that somebody should look into it."""
        return self.waiting_log_bytes > MUCH_LOG_BYTES


def capture_statuses(databases: Sequence[Database]) -> dict[int, CaptureStatus]:
    """The capture status of each of `databases`, by its id."""
    leases = CaptureLease.objects.filter(database__in=databases).annotate(now=Now())
    by_database = {lease.database_id: lease for lease in leases}
    enabled = dict(Project.objects.values_list("pk", "eventing_enabled"))
    stuck = dict(RetiredSource.objects.exclude(error="").values_list("source_name", "error"))
    return {
        database.pk: _status_of(
            by_database.get(database.pk),
            enabled[database.project_id],
            stuck.get(database.source_name, ""),
            problem_of(database),
        )
        for database in databases
    }


def _status_of(lease: Any, enabled: bool, stuck: str, problem: str | None) -> CaptureStatus:
    """What a lease tells; one that nobody renews any more tells only that capture is to start.

    `stuck` says why an earlier slot of the database cannot be taken away yet, `problem` why its row
    cannot be used.
    """
    if problem is not None:
        return CaptureStatus(state="blocked" if enabled else "off", error=problem)
    if not enabled:
        return CaptureStatus()
    if stuck:
        return CaptureStatus(state="retrying", error=f"an earlier slot is still there: {stuck}")
    if (
        lease is None
        or lease.state == CaptureLease.State.OFF
        or (lease.state == CaptureLease.State.STREAMING and lease.expires_at <= lease.now)
    ):
        return CaptureStatus(state="starting")
    return CaptureStatus(**{each.name: getattr(lease, each.name) for each in fields(CaptureStatus)})


def is_live(trigger: Trigger) -> bool:
    """Whether every database the trigger watches is read under its present definition."""
    return trigger.pk in live_triggers([trigger])


def live_triggers(triggers: Sequence[Trigger]) -> set[int]:
    """Ids of those of `triggers` that are live, in a fixed number of queries."""
    prefetch_related_objects(triggers, "databases", "project__databases")
    watched = {
        trigger.pk: list(trigger.databases.all()) or list(trigger.project.databases.all())
        for trigger in triggers
        if trigger.state != "disabled" and trigger.project.eventing_enabled
    }
    statuses = capture_statuses([each for databases in watched.values() for each in databases])
    return {
        trigger.pk
        for trigger in triggers
        if watched.get(trigger.pk)
        and all(
            statuses[database.pk].state == "streaming"
            and statuses[database.pk].applied_version >= trigger.configuration_version
            for database in watched[trigger.pk]
        )
    }
