"""Settings, API tokens: one's own, and for administrators of the project all of it."""

from typing import Any, Final

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render, resolve_url
from django.views.decorators.cache import never_cache

from eventing.access import ADMIN
from eventing.definitions import parse_token
from eventing.models import Project
from eventing.problems import InvalidInput
from eventing.tokens import (
    NewToken,
    create_token,
    made_with,
    revoke_token,
    roles_open_to,
    tokens_open_to,
)
from webui.forms import Form, given_token, token_source
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request

_LIVES: Final = (
    ("", "never"),
    ("7", "in 7 days"),
    ("30", "in 30 days"),
    ("90", "in 90 days"),
    ("365", "in a year"),
)
_NEW: Final = Form({"role": "viewer"})


@never_cache
@project_page()
def index(request: Request, project: Project) -> HttpResponse:
    """The tokens; to POST makes one, and shows it once."""
    if request.method != "POST":
        return _page(request, project, _NEW)
    try:
        definition = parse_token(token_source(request.POST))
        made = create_token(request.user, project, definition, by=request.actor)
    except InvalidInput as error:
        form = Form(given_token(request.POST), error.problems, {"expires_at": "Expires"})
        return _page(request, project, form, refused=True)
    return _page(request, project, _NEW, made=made)


def _page(
    request: Request,
    project: Project,
    form: Form,
    *,
    refused: bool = False,
    made: NewToken | None = None,
) -> HttpResponse:
    context: dict[str, Any] = {
        "form": form,
        "made": made,
        "tokens": tokens_open_to(request.actor, project),
        "shows_all": request.actor.may(ADMIN, project),
        "roles": roles_open_to(request.actor, project),
        "lives": _LIVES,
    }
    return form_answer(request, "settings/tokens.html", context, refused=refused)


@project_page()
def revoke(request: Request, project: Project, token_id: int) -> HttpResponse:
    """Revoke a token, after a page that says what goes with it."""
    token = get_object_or_404(tokens_open_to(request.actor, project), pk=token_id)
    if request.method == "POST":
        revoke_token(token, project, by=request.actor)
        messages.success(request, f"The token {token.name or f'#{token_id}'} is revoked.")
        return SeeOther(resolve_url("settings-tokens", project.name))
    context = {"token": token, "made_with_it": len(made_with(token))}
    return render(request, "settings/token_revoke.html", context)
