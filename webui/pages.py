"""What every page has in common: who may see it, how it answers, and how it stays up to date.

A view parses, calls one function of `eventing` and renders; these are the few answers it can give.
"""

import re
from collections.abc import Callable, Mapping
from functools import wraps
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import cache_control

from eventing.access import ADMIN, EDITOR, RANK, VIEWER, Actor
from eventing.logs.base import LogUnavailable
from eventing.models import Membership, Project
from eventing.models.fields import UndecryptableValue
from webui.requests import Request

View = Callable[..., HttpResponseBase]
_TOKEN: Final = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')


class SeeOther(HttpResponseRedirect):
    """303: what was asked for is done, and this page shows it."""

    status_code = 303


def actor_of(request: Request) -> Actor:
    """Who makes a request, once they have signed in."""
    return Actor(request.user, address=request.META.get("REMOTE_ADDR", ""))


def project_page(
    role: Membership.Role = VIEWER, *, to_post: Membership.Role | None = None
) -> Callable[[View], View]:
    """A view of one project, for those who have at least `role` in it (to POST: `to_post`).

    The view gets the Project in place of its name. Without any role the project does not exist.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        # Without no-store, so that going back shows the page as it was left.
        @cache_control(private=True, no_cache=True, max_age=0)
        def page(request: Request, project: str, **named: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _sign_in_first(request)
            request.actor = actor_of(request)
            found = Project.objects.filter(name=project).first()
            own = request.actor.role_in(found) if found else None
            if found is None or own is None:
                raise Http404("There is no such project.")
            request.project = found
            request.role = own
            needed = to_post or role if request.method == "POST" else role
            if RANK[own] < RANK[needed]:
                raise PermissionDenied(_NEEDED[needed])
            try:
                return view(request, found, **named)
            except (LogUnavailable, UndecryptableValue) as error:
                return render(request, "503.html", {"error": str(error)}, status=503)

        return page

    return decorate


def signed_in(view: View) -> View:
    """A view for everyone who has signed in."""

    @wraps(view)
    def page(request: Request, **named: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return _sign_in_first(request)
        return view(request, **named)

    return page


def _sign_in_first(request: Request) -> HttpResponse:
    """To the sign-in page; a part of a page cannot show that one, and the page then says so."""
    if request.htmx:
        return HttpResponse("Your session has ended.", status=401, content_type="text/plain")
    return redirect_to_login(page_sent_from(request) or request.get_full_path())


def page_sent_from(request: Request) -> str | None:
    """The page of ours that a form was sent from: what takes it may not be one."""
    return page_come_from(request) if request.method == "POST" else None


def page_asked_for(request: Request) -> str:
    """The page of ours that a form (`next`) asks to be shown once it is done; empty if none."""
    return own_address(request, request.POST.get("next", ""))


def own_address(request: Request, address: str) -> str:
    """`address` if it is one of this site, else nothing."""
    is_own = url_has_allowed_host_and_scheme(
        address, {request.get_host()}, require_https=request.is_secure()
    )
    return address if is_own else ""


def page_come_from(request: Request) -> str | None:
    """The page of ours that a request comes from."""
    came_from = request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(came_from, {request.get_host()}):
        return None
    return urlsplit(came_from)._replace(scheme="", netloc="", fragment="").geturl()


_NEEDED: Final = {
    EDITOR: "Editors and administrators of this project may do that; you may look.",
    ADMIN: "Administrators of this project may do that; ask one of them.",
}


def form_answer(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    refused: bool,
    is_late: bool = False,
) -> HttpResponse:
    """A page with a form: 422 if what was given has been refused, 409 if others were faster."""
    status = 409 if is_late else 422 if refused else 200
    return render(request, template, dict(context), status=status)


def live_answer(request: Request, page: str, part: str, context: Mapping[str, Any]) -> HttpResponse:
    """A page, or the part of it that keeps itself up to date.

    The part carries the digest of its own contents, which the browser sends back; as long as it is
    the same there is nothing new, and the answer is 204.
    """
    body = render_to_string(part, dict(context), request)
    digest = sha256(_TOKEN.sub("", body).encode()).hexdigest()[:16]
    if "digest" not in request.GET or not request.htmx:
        return render(request, page, {**context, "part": body, "digest": digest})
    if request.GET["digest"] == digest:
        return HttpResponse(status=204)
    return render(request, "components/_live.html", {**context, "part": body, "digest": digest})
