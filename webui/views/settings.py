"""A project's settings: whether eventing is on, where its log is, and how long that is kept."""

from collections.abc import Sequence
from typing import Final

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, resolve_url
from django.views.decorators.http import require_POST

from eventing.access import ADMIN
from eventing.changes import Finding
from eventing.definitions import BUILTIN_NAME, SettingsDefinition, parse_project_title
from eventing.eventing_dbs import needed, prepare_for, stores_of
from eventing.history import Losses, losses
from eventing.logs import LOG_TYPES
from eventing.models import Project
from eventing.problems import InvalidInput
from eventing.projects import (
    configuration_held,
    rename_project,
    settings_of,
    update_settings,
)
from webui.forms import (
    Form,
    given_settings_form,
    in_words,
    place_of,
    settings_definition,
    stored_settings_form,
)
from webui.lost_updates import ChangedMeanwhile, refuse_lost_update, seen, seen_now
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request

_MOST_COUNTED: Final = 100_000


@project_page(to_post=ADMIN)
def edit(request: Request, project: Project) -> HttpResponse:
    """The settings; administrators may change them."""
    if request.method != "POST":
        form = stored_settings_form(settings_of(project))
        return _page(request, project, form)
    try:
        settings = settings_definition(request.POST)
        refuse_lost_update(request.POST, "settings", project.pk, settings_of(project))
        lost = losses(project, settings, _MOST_COUNTED)
        if any(each != 0 for each in lost) and request.POST.get("drop") != _kept(settings):
            form = given_settings_form(request.POST, ())
            return _page(request, project, form, refused=True, asked=(lost, _kept(settings)))
        found = prepare_for(project, settings)
        with configuration_held():
            project = get_object_or_404(Project, pk=project.pk)
            refuse_lost_update(request.POST, "settings", project.pk, settings_of(project))
            update_settings(project, settings, by=request.actor)
    except InvalidInput as error:
        form = given_settings_form(request.POST, error.problems)
        return _page(request, project, form, refused=True)
    except ChangedMeanwhile as conflict:
        form = given_settings_form(request.POST, ())
        return _page(request, project, form, conflict=conflict)
    messages.success(request, f"Settings saved.{_steps(settings.eventing_db, found)}")
    for finding in found:
        if finding.status == "warning":
            messages.warning(request, f"{settings.eventing_db}: {finding.what}. {needed(finding)}")
    return SeeOther(resolve_url("settings", project.name))


def _kept(settings: SettingsDefinition) -> str:
    """What somebody has agreed to after reading what it deletes; other days are asked anew."""
    return f"{settings.retention_events_days} {settings.retention_payloads_days}"


def _steps(name: str, found: Sequence[Finding]) -> str:
    """What was done to make a log, in words; nothing where none was made."""
    if not found:
        return ""
    checked = "; ".join(finding.what for finding in found if finding.status == "ok")
    return f" Checked {name}: {checked}. Its tables are made, and events are stored there now."


def _page(
    request: Request,
    project: Project,
    form: Form,
    *,
    refused: bool = False,
    conflict: ChangedMeanwhile | None = None,
    asked: tuple[Losses, str] | None = None,
) -> HttpResponse:
    carried = seen(request, "settings", project, settings_of(project), conflict)
    context = {**_context(project, form), "seen": carried}
    if asked:
        context |= {"losses": asked[0], "kept": asked[1], "most_counted": _MOST_COUNTED}
    template, is_late = "settings/page.html", conflict is not None
    return form_answer(request, template, context, refused=refused, is_late=is_late)


def _context(project: Project, form: Form) -> dict[str, object]:
    return {
        "form": form,
        "databases": project.databases.count(),
        "stores": [
            (BUILTIN_NAME, "Built-in (the control database)"),
            *(
                (database.alias, f"{database.alias} ({place_of(database)})")
                for database in project.databases.filter(type__in=LOG_TYPES)
            ),
        ],
        "earlier_stores": [store for store in stores_of(project) if store.replaced_at is not None],
        "title": project.title,
    }


@require_POST
@project_page(ADMIN)
def rename(request: Request, project: Project) -> HttpResponse:
    """Call the project something else."""
    title = request.POST.get("title", "")
    try:
        rename_project(project, parse_project_title(title), by=request.actor)
    except InvalidInput as error:
        stored = settings_of(project)
        carried = seen_now("settings", project.pk, stored)
        told = {"title": title, "title_error": in_words(error.problems[0]), "seen": carried}
        context = {**_context(project, stored_settings_form(stored)), **told}
        return form_answer(request, "settings/page.html", context, refused=True)
    messages.success(request, f"The project is called {project} now.")
    return SeeOther(resolve_url("settings", project.name))
