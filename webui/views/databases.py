"""The databases of a project: how capture fares, adding, testing and editing them."""

from collections.abc import Sequence
from typing import Any, Final

from django.contrib import messages
from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.views.decorators.http import require_safe

from eventing import history
from eventing.access import ADMIN, EDITOR
from eventing.capture_status import CaptureStatus, capture_statuses
from eventing.changes import DATABASE_TYPES, Finding
from eventing.connection_strings import DEFAULT_PORTS, TLS_MODES
from eventing.definitions import DatabaseDefinition
from eventing.doctor import catalogue, check, passes
from eventing.logs.base import EventFilter
from eventing.models import Database, Project
from eventing.problems import InvalidInput, Problem
from eventing.projects import (
    configuration_change,
    database_definition_of,
    delete_database,
    save_database,
    start_anew,
)
from eventing.sources.base import START_ANEW, SourceUnavailable
from eventing.table_counts import count_tables, kept_counts
from webui.forms import (
    Form,
    database_definition,
    given_database_form,
    new_database_form,
    place_of,
    stored_database_form,
)
from webui.lost_updates import (
    ChangedMeanwhile,
    edited,
    makes_anew,
    refuse_lost_update,
    seen,
)
from webui.pages import SeeOther, form_answer, live_answer, project_page
from webui.requests import Request
from webui.views.begin import steps

_MOST_COUNTED: Final = 100_000
_TYPE_NAMES: Final = {
    "postgres": "Postgres",
    "mysql": "MySQL or MariaDB",
    "mongodb": "MongoDB",
    "mission-control": "Mission Control",
}


@require_safe
@project_page()
def index(request: Request, project: Project) -> HttpResponse:
    """One row a database, kept up to date."""
    databases = list(project.databases.all())
    statuses = capture_statuses(databases)
    counts = kept_counts(databases)
    rows = [
        _row(database, statuses[database.pk], counts.get(database.pk)) for database in databases
    ]
    return live_answer(request, "databases/page.html", "databases/_rows.html", {"rows": rows})


@require_safe
@project_page()
def table_count(request: Request, project: Project, alias: str) -> HttpResponse:
    """How many tables of a database can be captured: asked for by each row for itself, so that a
    server that does not answer holds up nothing."""
    count = count_tables(get_object_or_404(project.databases, alias=alias))
    if not request.htmx:
        return redirect("databases", project.name)
    return render(request, "databases/_tables.html", {"count": count})


def _row(database: Database, capture: CaptureStatus, tables: int | None) -> dict[str, Any]:
    return {
        "tables": tables,
        "database": database,
        "type": _TYPE_NAMES[database.type],
        "place": place_of(database),
        "capture": capture,
        "may_start_anew": capture.state == "blocked" and capture.mend == START_ANEW,
    }


@project_page(ADMIN)
def add(request: Request, project: Project, begins: bool = False) -> HttpResponse:
    """Add a database, or test what has been typed so far.

    `begins`: as a step to the first event, which tests the connection before it saves.
    """
    if request.method != "POST":
        return _page(request, new_database_form(), None, begins=begins)
    return _submitted(request, project, None, begins=begins)


@project_page(ADMIN)
def edit(request: Request, project: Project, alias: str) -> HttpResponse:
    """Edit a database; its password stays unless another one is typed."""
    database = edited(project.databases.all(), request, alias=alias)
    if database is None:
        return _deleted_meanwhile(request, project)
    if request.method != "POST":
        return _page(request, stored_database_form(database_definition_of(database)), database)
    return _submitted(request, project, database)


def _deleted_meanwhile(request: Request, project: Project) -> HttpResponse:
    """The form of a database that is gone comes back to add another; sent once more, it does."""
    if makes_anew(request):
        return _submitted(request, project, None)
    return _page(request, given_database_form(request.POST, ()), None)


def _submitted(
    request: Request, project: Project, database: Database | None, *, begins: bool = False
) -> HttpResponse:
    action = request.POST.get("action", "")
    try:
        if action == "check" or (begins and action != "save"):
            findings = check(_definition(request, database))
            if action == "check" or not passes(findings):
                return _checked(request, findings, database, begins, refused=action != "check")
        with configuration_change():
            if database is not None:
                # What the form does not say stays as it is now, not as it was when we began.
                database = get_object_or_404(project.databases, pk=database.pk)
            definition = _definition(request, database)
            if database is not None:
                stored = database_definition_of(database)
                refuse_lost_update(request.POST, "database", database.pk, stored)
            saved = save_database(project, definition, database, by=request.actor)
    except InvalidInput as error:
        form = given_database_form(request.POST, error.problems)
        return _page(request, form, database, refused=True, begins=begins)
    except ChangedMeanwhile as conflict:
        form = given_database_form(request.POST, ())
        return _page(request, form, database, conflict=conflict)
    messages.success(request, f"The database {saved.alias} is saved.")
    return SeeOther(resolve_url("begin-trigger" if begins else "databases", project.name))


def _definition(request: Request, database: Database | None) -> DatabaseDefinition:
    stored = database_definition_of(database) if database else None
    return database_definition(request.POST, stored, request.actor)


def _checked(
    request: Request,
    findings: Sequence[Finding],
    database: Database | None,
    begins: bool,
    *,
    refused: bool,
) -> HttpResponse:
    """What the doctor found, with nothing saved."""
    found = {"findings": findings, "passes": passes(findings)}
    form = given_database_form(request.POST, ())
    return _page(request, form, database, refused=refused, found=found, begins=begins)


def _page(
    request: Request,
    form: Form,
    database: Database | None,
    *,
    refused: bool = False,
    conflict: ChangedMeanwhile | None = None,
    found: dict[str, Any] | None = None,
    begins: bool = False,
) -> HttpResponse:
    reference = database.url_reference if database else ""
    stored = database_definition_of(database) if database else None
    carried = seen(request, "database", database, stored, conflict)
    context: dict[str, Any] = {
        "form": form,
        "database": database,
        "seen": carried,
        "types": [(kind, _TYPE_NAMES[kind], DEFAULT_PORTS[kind]) for kind in DATABASE_TYPES],
        "tls_modes": [
            (kind, _TYPE_NAMES[kind], TLS_MODES[kind]) for kind in DATABASE_TYPES if TLS_MODES[kind]
        ],
        # A reference to one variable is no secret; with more around it, it might be.
        "reference": reference if reference.startswith("${") and reference.endswith("}") else "",
        "steps": steps(request, "begin-database") if begins else None,
        **(found or {}),
    }
    is_late = carried is not None and carried.is_late
    return form_answer(request, "databases/form.html", context, refused=refused, is_late=is_late)


@project_page(ADMIN)
def delete(request: Request, project: Project, alias: str) -> HttpResponse:
    """Delete a database, after a page that says what that means."""
    database = get_object_or_404(project.databases, alias=alias)
    problems: list[Problem] = []
    if request.method == "POST":
        try:
            delete_database(database, by=request.actor)
        except InvalidInput as error:
            problems = error.problems
        else:
            messages.success(request, f"The database {alias} is deleted.")
            return SeeOther(resolve_url("databases", project.name))
    triggers = list(database.triggers.values_list("name", flat=True))
    context = {
        "database": database,
        "place": place_of(database),
        "triggers": triggers,
        "problems": problems,
        "pending": history.count(
            project, EventFilter(database=alias, status="pending"), _MOST_COUNTED
        ),
        "most_counted": _MOST_COUNTED,
    }
    return form_answer(request, "databases/delete.html", context, refused=bool(problems))


@project_page(ADMIN)
def start_capture_anew(request: Request, project: Project, alias: str) -> HttpResponse:
    """Accept that changes may be lost, and capture from now on, after a page that says so."""
    database = get_object_or_404(project.databases, alias=alias)
    if request.method != "POST":
        watching = project.triggers.filter(Q(databases=None) | Q(databases=database))
        context = {
            "database": database,
            "last_change_at": capture_statuses([database])[database.pk].last_change_at,
            "watching": watching.distinct().count(),
        }
        return render(request, "databases/start_anew.html", context)
    start_anew(database, by=request.actor)
    messages.success(request, f"Capture of {alias} starts anew from now.")
    return SeeOther(resolve_url("databases", project.name))


@require_safe
@project_page(EDITOR)
def tables(request: Request, project: Project, alias: str) -> HttpResponse:
    """The options of the trigger form's list of tables; none if the database does not answer."""
    database = get_object_or_404(project.databases, alias=alias)
    try:
        found = catalogue(database)
    except SourceUnavailable:
        return HttpResponse(status=204)
    return render(request, "triggers/_tables.html", {"tables": found[:500]})
