"""Who changed what: the audit log of a project, in its Settings, and that of the installation."""

from typing import Any, Final

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing import audit
from eventing.access import ADMIN
from eventing.logs.base import InvalidCursor
from eventing.members import members_of
from eventing.models import Project
from webui.filters import AuditQuery, audit_query
from webui.pages import actor_of, project_page, signed_in
from webui.requests import Request

_PAGE_ROWS: Final = 50
# A field proposes no more names than that.
_MOST_PROPOSED: Final = 200


@require_safe
@project_page(ADMIN)
def index(request: Request, project: Project) -> HttpResponse:
    """A page of the project's audit log, newest first."""
    query = audit_query(request.GET)
    context = {
        "kinds": [kind for kind in audit.KINDS if kind != "installation"],
        "user_names": members_of(project).values_list("user__username", flat=True),
    }
    return _page(request, "settings/audit.html", query, project, context)


@require_safe
@never_cache
@signed_in
def of_installation(request: Request) -> HttpResponse:
    """A page of the whole audit log: of every project, also of those that are gone, and of none."""
    if not actor_of(request).administers_installation():
        raise PermissionDenied("Administrators of this installation may read its audit log.")
    query = audit_query(request.GET, of_installation=True)
    users = User.objects.order_by("username").values_list("username", flat=True)
    names = Project.objects.values_list("name", flat=True)
    context = {
        "is_of_installation": True,
        "kinds": audit.KINDS,
        "user_names": users[:_MOST_PROPOSED],
        "project_names": names[:_MOST_PROPOSED],
    }
    return _page(request, "audit/page.html", query, None, context)


def _page(
    request: Request,
    template: str,
    query: AuditQuery,
    project: Project | None,
    context: dict[str, Any],
) -> HttpResponse:
    cursor = request.GET.get("cursor") or None
    try:
        page = audit.browse(project, query.filters, cursor, _PAGE_ROWS)
    except InvalidCursor:
        raise Http404("This page of the audit log does not exist.") from None
    context |= {"query": query, "cursor": cursor, "page": page}
    if project is None:
        ids = [entry.project_id for entry in page.entries if entry.project_id is not None]
        context["present"] = set(Project.objects.filter(pk__in=ids).values_list("pk", flat=True))
    return render(request, template, context, status=422 if query.problems else 200)
