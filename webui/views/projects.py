"""The list of projects, and how one comes and goes."""

from collections.abc import Sequence
from typing import Final

from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing.access import ADMIN
from eventing.capture_status import capture_statuses
from eventing.definitions import (
    SettingsDefinition,
    parse_project_name,
    parse_project_title,
    proposed_project_name,
)
from eventing.history import remove_project, unfinished_of
from eventing.models import Database, Project, Trouble
from eventing.problems import InvalidInput
from eventing.projects import create_project
from eventing.stats import LAST_HOUR, series
from webui.charts import sparkline
from webui.forms import Form
from webui.frame import choice_of
from webui.pages import SeeOther, actor_of, form_answer, project_page, signed_in
from webui.requests import Request
from webui.views.begin import steps

# This many are looked over more quickly than searched.
_FEW: Final = 7
_MOST_CARDS: Final = 100
_ALL_STATES: Final = ("streaming", "starting", "retrying", "blocked")


@require_safe
def root(request: Request) -> HttpResponse:
    """Where one begins: the projects, or the first administrator's page."""
    if not request.user.is_authenticated and not User.objects.exists():
        return redirect("first-run")
    return redirect("projects")


@require_safe
@project_page()
def figures(request: Request, project: Project) -> HttpResponse:
    """What a project's card tells of its last hour; each card asks for its own."""
    since, until = LAST_HOUR.bounds(timezone.now())
    found = series(project, since, until, LAST_HOUR.step)
    context = {"series": found, "spark": sparkline(found)}
    return render(request, "projects/_figures.html", context)


@require_safe
@never_cache
@signed_in
def index(request: Request) -> HttpResponse:
    """Every project one has a role in, or those that match, and how their sources fare; for the
    menu of the top bar the first of their names."""
    wanted = request.GET.get("q", "").replace("\x00", "").strip()
    projects = actor_of(request).projects()
    matching = projects.filter(Q(name__icontains=wanted) | Q(title__icontains=wanted))
    if request.htmx.target == "project-list":
        context: dict[str, object] = {"choice": choice_of(matching)}
        return render(request, "components/_project_items.html", context)
    found = list(
        matching.annotate(
            trigger_count=Count("triggers", distinct=True),
            paused_count=Count("triggers", filter=Q(triggers__state="paused"), distinct=True),
        )
        .order_by("name")
        .prefetch_related("databases")[: _MOST_CARDS + 1]
    )
    is_cut, found = len(found) > _MOST_CARDS, found[:_MOST_CARDS]
    statuses = capture_statuses([each for project in found for each in project.databases.all()])
    troubled = _troubled(found)
    cards = [
        {
            "project": project,
            "troubled": troubled.get(project.pk, []),
            "sources": _by_state([statuses[each.pk].state for each in project.databases.all()]),
        }
        for project in found
    ]
    context = {
        "cards": cards,
        "is_cut": is_cut,
        "wanted": wanted,
        "may_search": wanted or len(cards) > _FEW,
    }
    return render(request, "projects/page.html", context)


def _troubled(projects: Sequence[Project]) -> dict[int, list[str]]:
    """The names of the triggers that fail or are held, by the id of their project."""
    kinds = ("trigger_failing", "breaker_open")
    lasting = Trouble.objects.filter(project__in=projects, ended_at=None, kind__in=kinds)
    names: dict[int, list[str]] = {}
    for project_id, name in lasting.order_by("object_name").values_list(
        "project_id", "object_name"
    ):
        of_project = names.setdefault(project_id, [])
        if name not in of_project:
            of_project.append(name)
    return names


def _by_state(states: list[str]) -> list[tuple[str, int]]:
    return [(state, states.count(state)) for state in _ALL_STATES if state in states]


@never_cache
@signed_in
def add(request: Request) -> HttpResponse:
    """Create a project, the first step to its first event; its creator administers it."""
    actor = actor_of(request)
    if not actor.may_create_projects():
        raise PermissionDenied("Administrators of this installation may create projects.")
    if request.method != "POST":
        return _add_page(request, Form({"title": "", "name": "", "enabled": True}))
    given = {name: request.POST.get(name, "").strip() for name in ("title", "name")}
    enabled = "enabled" in request.POST
    try:
        title = parse_project_title(given["title"])
        name = parse_project_name(given["name"] or proposed_project_name(title))
        settings = SettingsDefinition(eventing_enabled=enabled)
        project = create_project(name, settings, request.user, by=actor, title=title)
    except InvalidInput as error:
        return _add_page(request, Form({**given, "enabled": enabled}, error.problems))
    return SeeOther(resolve_url("begin-database", project.name))


def _add_page(request: Request, form: Form) -> HttpResponse:
    context = {"form": form, "steps": steps(request, "project-add")}
    return form_answer(request, "projects/add.html", context, refused=bool(form.problems))


@project_page(ADMIN)
def delete(request: Request, project: Project) -> HttpResponse:
    """Delete a project once its name has been typed."""
    wrong = request.method == "POST" and request.POST.get("name", "").strip() != project.name
    if request.method == "POST" and not wrong:
        remove_project(project, by=request.actor)
        messages.success(request, f"The project {project} is deleted.")
        return SeeOther(resolve_url("projects"))
    triggers = list(project.triggers.values_list("pk", flat=True))
    context = {
        "databases": Database.objects.filter(project=project).count(),
        "triggers": len(triggers),
        "pending": unfinished_of(project, triggers),
        "error": f"Type {project.name} to delete it." if wrong else "",
    }
    return form_answer(request, "projects/delete.html", context, refused=wrong)
