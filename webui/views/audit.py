"""Settings, Audit log: who changed what in the project."""

from typing import Final

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from eventing import audit
from eventing.access import ADMIN
from eventing.logs.base import InvalidCursor
from eventing.members import members_of
from eventing.models import Project
from webui.filters import audit_query
from webui.pages import project_page
from webui.requests import Request

_PAGE_ROWS: Final = 50


@require_safe
@project_page(ADMIN)
def index(request: Request, project: Project) -> HttpResponse:
    """A page of the audit log, newest first."""
    query = audit_query(request.GET)
    cursor = request.GET.get("cursor") or None
    try:
        page = audit.browse(project, query.filters, cursor, _PAGE_ROWS)
    except InvalidCursor:
        raise Http404("This page of the audit log does not exist.") from None
    context = {
        "query": query,
        "cursor": cursor,
        "page": page,
        "kinds": audit.KINDS,
        "user_names": members_of(project).values_list("user__username", flat=True),
    }
    status = 422 if query.problems else 200
    return render(request, "settings/audit.html", context, status=status)
