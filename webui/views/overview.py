"""A project at a glance: do events flow, which do not, and why."""

from typing import Any

from django.http import HttpResponse
from django.views.decorators.http import require_safe

from eventing import history
from eventing.eventing_dbs import current_log
from eventing.logs.base import EventFilter, LogUnavailable
from eventing.models import Project
from eventing.projects import capture_statuses
from webui.pages import live_answer, project_page
from webui.requests import Request

_LATEST = 10


@require_safe
@project_page()
def show(request: Request, project: Project) -> HttpResponse:
    """Counts, databases, triggers and the last events, kept up to date."""
    databases = list(project.databases.all())
    statuses = capture_statuses(databases)
    triggers = list(project.triggers.all())
    context: dict[str, Any] = {
        "databases": [(database, statuses[database.pk]) for database in databases],
        "triggers": triggers,
    }
    try:
        backlogs = history.pending_of(project, [trigger.pk for trigger in triggers])
        context["counts"] = history.counts(project)
        context["rows"] = current_log(project).browse(project.pk, EventFilter(), None, _LATEST).rows
        context["triggers"] = [(trigger, backlogs[trigger.pk]) for trigger in triggers]
    except LogUnavailable as error:
        context |= {"log_error": str(error), "triggers": [(each, None) for each in triggers]}
    return live_answer(request, "overview/page.html", "overview/_state.html", context)
