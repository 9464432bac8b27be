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
from eventing.history import cancel
from eventing.models import Project
from eventing.problems import InvalidInput, Problem
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request


@never_cache
@project_page(ADMIN)
def edit(request: Request, project: Project) -> HttpResponse:
    """The configuration; to POST shows the plan of another one, or applies it."""
    if request.method != "POST":
        return _page(request, project)
    is_to_apply = request.POST.get("action") == "apply"
    try:
        plan = apply_to(
            project,
            request.POST.get("text", ""),
            os.environ,
            by=request.actor,
            dry_run=not is_to_apply,
            prune="prune" in request.POST,
        )
    except InvalidInput as error:
        return _page(request, project, problems=error.problems)
    if not is_to_apply:
        return _page(request, project, plan=plan)
    cancel(plan.cancelled_triggers)
    steps = f"{len(plan.lines)} step{'s' if len(plan.lines) != 1 else ''}"
    messages.success(request, f"The configuration is applied: {steps}.")
    return SeeOther(resolve_url("settings-configuration", project.name))


def _page(
    request: Request,
    project: Project,
    *,
    plan: Plan | None = None,
    problems: list[Problem] | None = None,
) -> HttpResponse:
    exported = export(project.name)
    context: dict[str, Any] = {
        "exported": exported,
        # A browser sends lines that end with CR LF.
        "text": request.POST.get("text", exported).replace("\r\n", "\n"),
        "prune": "prune" in request.POST,
        "plan": plan,
        "problems": problems or [],
    }
    return form_answer(request, "settings/configuration.html", context, refused=bool(problems))


@require_safe
@project_page(ADMIN)
def download(request: Request, project: Project) -> HttpResponse:
    """The configuration as a file."""
    answer = HttpResponse(export(project.name), content_type="application/yaml; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{project.name}.yaml"'
    return answer
