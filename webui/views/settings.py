"""A project's settings: whether eventing is on, where its log is, and how long that is kept."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import render, resolve_url

from eventing.access import ADMIN
from eventing.models import Project
from eventing.problems import InvalidInput
from eventing.projects import settings_of, update_settings
from webui.forms import Form, given_settings_form, settings_definition, stored_settings_form
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request


@project_page(to_post=ADMIN)
def edit(request: Request, project: Project) -> HttpResponse:
    """The settings; administrators may change them."""
    if request.method != "POST":
        context = _context(project, stored_settings_form(settings_of(project)))
        return render(request, "settings/page.html", context)
    try:
        update_settings(project, settings_definition(request.POST))
    except InvalidInput as error:
        form = given_settings_form(request.POST, error.problems)
        context = _context(project, form)
        return form_answer(request, "settings/page.html", context, refused=True)
    messages.success(request, "Settings saved.")
    return SeeOther(resolve_url("settings", project.name))


def _context(project: Project, form: Form) -> dict[str, object]:
    return {
        "form": form,
        "databases": project.databases.count(),
        "stores": [("builtin", "Built-in (the control database)")],
    }
