"""The state of the installation as Prometheus reads it, looked up whenever it is asked for.

Everything is a gauge of what is so now. What concerns the whole installation names nobody; what
concerns a project is only for who may see that project.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from eventing import __version__, history
from eventing.capture_status import CaptureStatus, capture_statuses
from eventing.changes import EVENT_STATUSES
from eventing.definitions import TROUBLE_KINDS
from eventing.enqueueing import waiting_messages
from eventing.health import PROCESSES, process_health
from eventing.logs.base import LogUnavailable
from eventing.models import Breaker, CaptureLease, Database, Project, Trouble
from eventing.stats import series_by_trigger

_PREFIX: Final = "mission_control"
_LATELY: Final = timedelta(minutes=5)


def metrics_text(projects: Sequence[Project]) -> bytes:
    """All metrics in Prometheus' text format; those of single projects for `projects` only."""
    registry = CollectorRegistry()
    registry.register(_Metrics(projects))
    return generate_latest(registry)


class _Metrics:
    """What the registry asks for metrics, of the installation and of `projects`."""

    def __init__(self, projects: Sequence[Project]) -> None:
        self._projects = projects

    def describe(self) -> list[Metric]:
        """Nothing, which keeps the registry from collecting just to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them, looked up now."""
        yield InfoMetricFamily(_PREFIX, "The version that answers.", {"version": __version__})
        yield from self._processes()
        yield from self._captures()
        if self._projects:
            yield from self._events()
            yield from self._triggers()

    def _processes(self) -> Iterator[Metric]:
        health = process_health()
        alive = _gauge("processes", "Processes seen within 20 seconds.", "process")
        seen = _gauge("process_silence_seconds", "Since each was last seen.", "process", "name")
        for kind in PROCESSES:
            alive.add_metric([kind], sum(each.alive for each in health if each.process == kind))
        hindered = _gauge("hindered_processes", "Kept from some of their work.", "process")
        for kind in PROCESSES:
            of_kind = [each for each in health if each.process == kind]
            hindered.add_metric([kind], sum(bool(each.hindrance) for each in of_kind))
        for each in health:
            silence = (datetime.now(UTC) - each.seen_at).total_seconds()
            seen.add_metric([each.process, each.name], max(0.0, silence))
        yield alive
        yield hindered
        yield seen
        messages = waiting_messages()
        broker = _gauge("broker_up", "Whether the broker answers.")
        broker.add_metric([], messages is not None)
        yield broker
        if messages is not None:
            queue = _gauge("queue_messages", "Messages that wait for a worker.")
            queue.add_metric([], messages)
            yield queue
        breakers = _gauge("open_breakers", "Triggers whose deliveries are held.")
        breakers.add_metric([], Breaker.objects.count())
        yield breakers
        lasting = Counter(Trouble.objects.filter(ended_at=None).values_list("kind", flat=True))
        troubles = _gauge("troubles", "What is wrong with sources and triggers.", "kind")
        for trouble in TROUBLE_KINDS:
            troubles.add_metric([trouble], lasting[trouble])
        yield troubles

    def _captures(self) -> Iterator[Metric]:
        databases = list(
            Database.objects.select_related("project").order_by("project__name", "alias")
        )
        statuses = capture_statuses(databases)
        states = Counter(status.state for status in statuses.values())
        captures = _gauge("captures", "Databases by the state of their capture.", "state")
        for state in CaptureLease.State.values:
            captures.add_metric([state], states[state])
        yield captures
        visible = {project.pk for project in self._projects}
        shown = [
            (database, statuses[database.pk])
            for database in databases
            if database.project_id in visible
        ]
        if shown:
            yield from _capture_metrics(shown)

    def _events(self) -> Iterator[Metric]:
        events = _gauge("events", "Events in the log, by status.", "project", "status")
        log_up = _gauge("log_up", "Whether the project's event log answers.", "project")
        for project in self._projects:
            try:
                counts = history.counts(project)
            except LogUnavailable:
                log_up.add_metric([project.name], 0)
                continue
            log_up.add_metric([project.name], 1)
            for status in EVENT_STATUSES:
                events.add_metric([project.name, status], counts[status])
        yield events
        yield log_up

    def _triggers(self) -> Iterator[Metric]:
        backlog = _gauge("trigger_backlog", "Unfinished events.", "project", "trigger")
        held = _gauge("trigger_breaker_open", "1 while deliveries are held.", "project", "trigger")
        for project in self._projects:
            triggers = list(project.triggers.select_related("breaker").order_by("name"))
            for trigger in triggers:
                held.add_metric([project.name, trigger.name], hasattr(trigger, "breaker"))
            try:
                pending = history.pending_of(project, [trigger.pk for trigger in triggers])
            except LogUnavailable:
                continue
            for trigger in triggers:
                backlog.add_metric([project.name, trigger.name], pending[trigger.pk])
        yield backlog
        yield held
        yield from self._attempts()

    def _attempts(self) -> Iterator[Metric]:
        labels = ("project", "trigger")
        attempts = _gauge(
            "trigger_attempts", "Requests of the last five whole minutes.", *labels, "outcome"
        )
        latency = _gauge(
            "trigger_latency_seconds",
            "From commit to delivery, in the last five whole minutes.",
            *labels,
            "quantile",
        )
        duration = _gauge(
            "trigger_attempt_seconds",
            "How long a request took on average, in the last five whole minutes.",
            *labels,
        )
        until = datetime.now(UTC).replace(second=0, microsecond=0)
        for project in self._projects:
            names = dict(project.triggers.values_list("pk", "name"))
            found = series_by_trigger(project, until - _LATELY, until, timedelta(minutes=1))
            for trigger_id, series in found.items():
                # A trigger made between the two look-ups is told of the next time.
                place = [project.name, names.get(trigger_id, "")]
                for outcome in ("delivered", "retried", "failed"):
                    attempts.add_metric([*place, outcome], getattr(series.total, outcome))
                if (mean_ms := series.total.mean_attempt_ms) is not None:
                    duration.add_metric(place, mean_ms / 1000)
                for quantile, percent in (("0.5", 50), ("0.99", 99)):
                    if (value := series.total.percentile_ms(percent)) is not None:
                        latency.add_metric([*place, quantile], value / 1000)
        yield attempts
        yield duration
        yield latency


def _capture_metrics(shown: Sequence[tuple[Database, CaptureStatus]]) -> Iterator[Metric]:
    labels = ("project", "database")
    state = _gauge("capture_state", "1 for the state that is.", *labels, "state")
    lag = _gauge("capture_lag_seconds", "Age of the last change that was read.", *labels)
    unread = _gauge("capture_lag_bytes", "Of the source's log, not read yet.", *labels)
    kept = _gauge("capture_kept_log_bytes", "Of its log, kept by the source for us.", *labels)
    for database, status in shown:
        names = [database.project.name, database.alias]
        for each in CaptureLease.State.values:
            state.add_metric([*names, each], status.state == each)
        if status.lag_ms is not None:
            lag.add_metric(names, status.lag_ms / 1000)
        if status.lag_bytes is not None:
            unread.add_metric(names, status.lag_bytes)
        if status.kept_log_bytes is not None:
            kept.add_metric(names, status.kept_log_bytes)
    yield state
    yield lag
    yield unread
    yield kept


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", what, labels=labels)
