"""The way from a new project to its first event: connect a database, add a trigger, wait.

Each step is a page with an address of its own. What is done is read off the project and nothing
else is kept, so that the way can be left at any time and found again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.views.decorators.http import require_POST, require_safe

from eventing import history
from eventing.access import ADMIN, EDITOR, RANK, VIEWER
from eventing.capture_status import capture_statuses, live_triggers
from eventing.logs.base import EventFilter, EventRow, LogUnavailable
from eventing.models import Project
from eventing.projects import (
    configuration_held,
    settings_of,
    trigger_definition_of,
    update_settings,
)
from webui.pages import SeeOther, live_answer, project_page
from webui.requests import Request
from webui.sentences import first_change_of
from webui.views.events import detail_context

_MOST_TRIGGERS: Final = 5
# The steps within a project, by the names of their pages' addresses.
_WORDS: Final = {
    "begin-database": "Database",
    "begin-trigger": "Trigger",
    "begin-event": "First event",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the way; `address` is empty where it cannot be gone to from here."""

    name: str
    address: str = ""
    is_done: bool = False
    is_current: bool = False


def steps(request: Request, current: str, *, has_event: bool = False) -> Sequence[Step]:
    """The four steps as they stand; `current` is the name of the page's address."""
    project: Project | None = getattr(request, "project", None)
    if project is None:
        return (Step("Project", is_current=True), *(Step(words) for words in _WORDS.values()))
    done = {
        "begin-database": project.databases.exists(),
        "begin-trigger": project.triggers.exists(),
        "begin-event": has_event,
    }
    least = {"begin-database": ADMIN, "begin-trigger": EDITOR, "begin-event": VIEWER}
    addresses = {
        name: resolve_url(name, project.name)
        for name in done
        if RANK[request.role] >= RANK[least[name]]
    }
    return (
        Step("Project", is_done=True),
        *(
            Step(words, addresses.get(name, ""), done[name], name == current)
            for name, words in _WORDS.items()
        ),
    )


@require_safe
@project_page(EDITOR)
def resume(request: Request, project: Project) -> HttpResponse:
    """To the first step that is not done and open to whoever asks."""
    if request.role == ADMIN and not project.databases.exists():
        return redirect("begin-database", project.name)
    if not project.triggers.exists():
        return redirect("begin-trigger", project.name)
    return redirect("begin-event", project.name)


@require_POST
@project_page(ADMIN)
def enable(request: Request, project: Project) -> HttpResponse:
    """Turn eventing on, and leave the other settings as they are."""
    with configuration_held():
        project = get_object_or_404(Project, pk=project.pk)
        settings = replace(settings_of(project), eventing_enabled=True)
        update_settings(project, settings, by=request.actor)
    return SeeOther(resolve_url("begin-event", project.name))


@require_safe
@project_page()
def event(request: Request, project: Project) -> HttpResponse:
    """What the first event is waiting for, until it comes; then that event."""
    context: dict[str, Any] = {}
    try:
        found = history.browse(project, EventFilter(), None, 1).rows
    except LogUnavailable as error:
        found, context["log_error"] = [], str(error)
    context["steps"] = steps(request, "begin-event", has_event=bool(found))
    if found:
        return _came(request, project, found[0], context)
    context |= {"is_waiting": True, **_waited_for(project)}
    return live_answer(request, "begin/event.html", "begin/_waiting.html", context)


def _came(
    request: Request, project: Project, row: EventRow, context: dict[str, Any]
) -> HttpResponse:
    detail = history.event(project, row.id, by=request.actor)
    if detail is not None:
        context |= detail_context(project, detail)
    template = "begin/_came.html" if request.htmx else "begin/event.html"
    return render(request, template, context)


def _waited_for(project: Project) -> dict[str, Any]:
    """Databases and triggers, how each fares, and what to change to see an event."""
    databases = list(project.databases.all())
    statuses = capture_statuses(databases)
    triggers = list(project.triggers.select_related("project").prefetch_related("databases"))
    live = live_triggers(triggers)
    types = {database.alias: database.type for database in databases}
    return {
        "databases": [(database, statuses[database.pk]) for database in databases],
        "triggers": [
            (trigger, trigger.pk in live, first_change_of(trigger_definition_of(trigger), types))
            for trigger in triggers[:_MOST_TRIGGERS]
        ],
        "is_ready": bool(live),
    }
