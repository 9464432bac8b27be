"""Settings, Configuration: the project as YAML, taken out and put in with its plan shown first."""

import os
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import resolve_url
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing.access import ADMIN
from eventing.configuration import Plan, apply_to, export
from eventing.definitions import ProjectDefinition
from eventing.history import cancel, unfinished_of
from eventing.models import Project
from eventing.problems import InvalidInput, Problem
from eventing.tags import tag_of
from webui.lost_updates import ChangedMeanwhile
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request


@never_cache
@project_page(ADMIN)
def edit(request: Request, project: Project) -> HttpResponse:
    """The configuration; to POST shows the plan of another one, or applies it as it was shown."""
    if request.method != "POST":
        return _page(request, project)
    is_to_apply = request.POST.get("action") == "apply"
    is_late = False
    try:
        try:
            plan, tag = _carry_out(request, project, dry_run=not is_to_apply)
        except ChangedMeanwhile:
            is_late = True
            plan, tag = _carry_out(request, project, dry_run=True)
    except InvalidInput as error:
        return _page(request, project, problems=error.problems)
    if is_late or not is_to_apply:
        return _page(request, project, plan=plan, tag=tag, is_late=is_late)
    cancel(plan.cancelled_triggers)
    steps = f"{len(plan.lines)} step{'s' if len(plan.lines) != 1 else ''}"
    messages.success(request, f"The configuration is applied: {steps}.")
    return SeeOther(resolve_url("settings-configuration", project.name))


def _carry_out(request: Request, project: Project, *, dry_run: bool) -> tuple[Plan, str]:
    """The plan, and the tag of the project that it was made for.

    Raises InvalidInput, and ChangedMeanwhile if the plan that was shown was made for another one.
    """
    tag = ""

    def check(stored: ProjectDefinition) -> None:
        nonlocal tag
        tag = tag_of(stored)
        if not dry_run and request.POST.get("planned", tag) != tag:
            raise ChangedMeanwhile([])

    plan = apply_to(
        project,
        request.POST.get("text", ""),
        os.environ,
        by=request.actor,
        dry_run=dry_run,
        prune="prune" in request.POST,
        check=check,
    )
    return plan, tag


def _page(
    request: Request,
    project: Project,
    *,
    plan: Plan | None = None,
    tag: str = "",
    is_late: bool = False,
    problems: list[Problem] | None = None,
) -> HttpResponse:
    exported = export(project.name)
    context: dict[str, Any] = {
        "exported": exported,
        # A browser sends lines that end with CR LF.
        "text": request.POST.get("text", exported).replace("\r\n", "\n"),
        "prune": "prune" in request.POST,
        "plan": plan,
        "pending": unfinished_of(project, plan.deleted_triggers) if plan else 0,
        "planned": tag,
        "is_late": is_late,
        "problems": problems or [],
    }
    template = "settings/configuration.html"
    return form_answer(request, template, context, refused=bool(problems), is_late=is_late)


@require_safe
@project_page(ADMIN)
def download(request: Request, project: Project) -> HttpResponse:
    """The configuration as a file."""
    answer = HttpResponse(export(project.name), content_type="application/yaml; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{project.name}.yaml"'
    return answer
