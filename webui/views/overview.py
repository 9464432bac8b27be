"""A project at a glance: do events flow, which do not, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from eventing import history
from eventing.capture_status import CaptureStatus, capture_statuses
from eventing.changes import EVENT_STATUSES
from eventing.eventing_dbs import current_log
from eventing.health import CAPTURE_STATES
from eventing.logs.base import EventFilter, LogUnavailable
from eventing.models import Database, Project, Trigger
from eventing.stats import PERIODS, Period, Series, series, series_by_trigger
from webui.charts import Chart, latency_chart, outcomes_chart, sparkline
from webui.pages import live_answer, project_page
from webui.requests import Request

_LATEST: Final = 10
# Of more triggers or databases than this, those that need somebody are shown.
_MOST_ROWS: Final = 50


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A trigger in the period; `backlog` is None while the log does not answer."""

    trigger: Trigger
    backlog: int | None
    series: Series
    spark: Chart


def period_asked_for(request: Request) -> Period:
    """The period that an address names; else the last hour."""
    wanted = request.GET.get("within", "")
    return next((each for each in PERIODS if each.name == wanted), PERIODS[0])


def charts_of(project: Project, period: Period, trigger: Trigger | None = None) -> dict[str, Any]:
    """What came of a project's events, or one trigger's, in a period: its numbers and charts."""
    since, until = period.bounds(timezone.now())
    found = series(project, since, until, period.step, trigger)
    return {
        "period": period,
        "periods": PERIODS,
        "series": found,
        "outcomes": outcomes_chart(found),
        "latency": latency_chart(found),
        "also": f"&{urlencode({'trigger': trigger.name})}" if trigger else "",
    }


@require_safe
@project_page()
def show(request: Request, project: Project) -> HttpResponse:
    """What came of events in a period, databases, triggers and the last events, kept up to date."""
    period = period_asked_for(request)
    databases = list(project.databases.all())
    statuses = capture_statuses(databases)
    triggers = list(project.triggers.select_related("breaker"))
    context: dict[str, Any] = {
        "databases": _database_rows(databases, statuses),
        "database_count": len(databases),
        "trigger_count": len(triggers),
        "counts": dict.fromkeys(EVENT_STATUSES),
    }
    backlogs: Mapping[int, int] = {}
    try:
        backlogs = history.pending_of(project, [trigger.pk for trigger in triggers])
        context["counts"] = history.counts(project)
        context["rows"] = current_log(project).browse(project.pk, EventFilter(), None, _LATEST).rows
    except LogUnavailable as error:
        context["log_error"] = str(error)
    # After what tells of a log that does not answer; charts only leave it out.
    context |= charts_of(project, period)
    context["triggers"] = _trigger_rows(project, period, triggers, backlogs)
    return live_answer(request, "overview/page.html", "overview/_state.html", context)


def _database_rows(
    databases: Sequence[Database], statuses: Mapping[int, CaptureStatus]
) -> list[tuple[Database, CaptureStatus]]:
    rows = [(database, statuses[database.pk]) for database in databases]
    if len(rows) > _MOST_ROWS:
        rows.sort(key=lambda row: CAPTURE_STATES.index(row[1].state))
    return rows[:_MOST_ROWS]


def _trigger_rows(
    project: Project, period: Period, triggers: list[Trigger], backlogs: Mapping[int, int]
) -> list[TriggerRow]:
    since, until = period.bounds(timezone.now())
    of_each = series_by_trigger(project, since, until, period.step)
    if len(triggers) > _MOST_ROWS:

        def trouble(trigger: Trigger) -> tuple[bool, int, int]:
            is_held = trigger.problem is not None or hasattr(trigger, "breaker")
            failed = of_each[trigger.pk].total.failed
            return not is_held, -failed, -backlogs.get(trigger.pk, 0)

        triggers = sorted(triggers, key=trouble)[:_MOST_ROWS]
    return [
        TriggerRow(
            trigger,
            backlogs.get(trigger.pk),
            of_each[trigger.pk],
            sparkline(of_each[trigger.pk]),
        )
        for trigger in triggers
    ]
