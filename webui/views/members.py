"""Settings, Members: who belongs to the project, and with which role."""

from dataclasses import replace
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render, resolve_url
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from eventing.access import ADMIN
from eventing.definitions import parse_member
from eventing.members import (
    Added,
    add_member,
    change_member,
    is_last_administrator,
    members_of,
    remove_member,
)
from eventing.models import Membership, Project
from eventing.problems import InvalidInput
from eventing.second_factors import (
    require_administrator,
    reset_second_factors,
    with_second_factor,
)
from webui.forms import MEMBER_ROLES, Form, given_member, in_words, member_source
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request


@never_cache
@project_page(ADMIN)
def index(request: Request, project: Project) -> HttpResponse:
    """The members; to POST adds one, and shows the first password of a new user once."""
    if request.method != "POST":
        return _page(request, project, Form({"role": "viewer"}))
    given = given_member(request.POST)
    try:
        added = add_member(project, parse_member(member_source(given)), by=request.actor)
    except InvalidInput as error:
        # A field is called here what the form calls it.
        told = [
            replace(problem, allowed=problem.allowed.replace("`new_user`", "“A new user”"))
            for problem in error.problems
        ]
        form = Form(given, told, {"user": "User name"})
        return _page(request, project, form, refused=True)
    if added.first_password is not None:
        return _page(request, project, Form({"role": "viewer"}), added=added)
    name, role = added.membership.user.username, added.membership.role
    messages.success(request, f"{name} is a member now, with the role {role}.")
    return SeeOther(resolve_url("settings-members", project.name))


def _page(
    request: Request,
    project: Project,
    form: Form,
    *,
    refused: bool = False,
    refusal: str = "",
    added: Added | None = None,
) -> HttpResponse:
    members = list(members_of(project))
    context: dict[str, Any] = {
        "form": form,
        "refusal": refusal,
        "added": added,
        "members": members,
        "with_second_factor": with_second_factor([each.user for each in members]),
        "roles": MEMBER_ROLES,
        "may_make_users": request.actor.administers_installation(),
    }
    return form_answer(request, "settings/members.html", context, refused=refused)


def _membership(project: Project, user_id: int) -> Membership:
    return get_object_or_404(members_of(project).select_related("project"), user=user_id)


@require_POST
@project_page(ADMIN)
def change_role(request: Request, project: Project, user_id: int) -> HttpResponse:
    """Give a member another role."""
    membership = _membership(project, user_id)
    name = membership.user.username
    try:
        given = {"user": name, "role": request.POST.get("role")}
        wanted = parse_member(member_source(given))
        change_member(membership, wanted, by=request.actor)
    except InvalidInput as error:
        refusal = in_words(error.problems[0])
        form = Form({"role": "viewer"})
        return _page(request, project, form, refused=True, refusal=refusal)
    role = f"{wanted.role}{'' if wanted.payloads else ' without payloads'}"
    messages.success(request, f"{name} has the role {role} now.")
    return SeeOther(_after(request, project))


@project_page(ADMIN)
def remove(request: Request, project: Project, user_id: int) -> HttpResponse:
    """End a membership, after a page that says what goes with it."""
    membership = _membership(project, user_id)
    refusal = ""
    if request.method == "POST":
        try:
            remove_member(membership, by=request.actor)
        except InvalidInput as error:
            refusal = in_words(error.problems[0])
        else:
            name = membership.user.username
            messages.success(request, f"{name} is no member of {project.name} any more.")
            return SeeOther(_after(request, project))
    context = {
        "membership": membership,
        "tokens": project.api_tokens.filter(user=user_id).count(),
        "is_last": is_last_administrator(membership),
        "may_remove_last": request.actor.administers_installation(),
        "refusal": refusal,
    }
    return render(request, "settings/member_remove.html", context, status=422 if refusal else 200)


@project_page(ADMIN)
def reset_factors(request: Request, project: Project, user_id: int) -> HttpResponse:
    """Take a member's second factors away, after a page that says what that means."""
    membership = _membership(project, user_id)
    require_administrator(request.actor)
    if request.method != "POST":
        return render(request, "settings/member_two_factor.html", {"membership": membership})
    name = membership.user.username
    if reset_second_factors(membership.user, by=request.actor):
        messages.success(request, f"{name} signs in with the password alone now.")
    else:
        messages.warning(request, f"{name} had no second factor.")
    return SeeOther(_after(request, project))


def _after(request: Request, project: Project) -> str:
    """Where to go on: who has given up their own role may not see the members any more."""
    if request.actor.may(ADMIN, project):
        return resolve_url("settings-members", project.name)
    if request.actor.role_in(project) is None:
        return resolve_url("projects")
    return resolve_url("settings", project.name)
