"""The audit log of a project, for its administrators; of the installation, for its own."""

from collections.abc import Callable
from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from eventing import audit
from eventing.access import ADMIN
from eventing.api import serializers
from eventing.api.filters import AuditSelection, audit_selection_of, refused_cursor
from eventing.api.representations import entry_shown, installation_entry_shown
from eventing.api.views.base import ApiView, ProjectView, operation
from eventing.logs.base import InvalidCursor
from eventing.models import AuditEntry, Project


class AuditLog(ProjectView):
    read_role = ADMIN
    takes_parameters = True

    @operation(
        "list_audit_entries",
        {200: serializers.AuditPage},
        parameters=[serializers.AuditSelection],
        tag="audit",
    )
    def get(self, request: Request, project: str) -> Response:
        """Who changed what in the project, newest first."""
        return _page(self.project, audit_selection_of(request.query_params), entry_shown)


class InstallationAuditLog(ApiView):
    takes_parameters = True

    @operation(
        "list_installation_audit_entries",
        {200: serializers.InstallationAuditPage},
        parameters=[serializers.InstallationAuditSelection],
        tag="audit",
    )
    def get(self, request: Request) -> Response:
        """Who changed what in the installation, in whatever project or none, newest first."""
        if not self.actor.administers_installation():
            raise PermissionDenied(
                "this takes an administrator of the installation, and a token with the role admin"
                " that is not bound to a project"
            )
        selection = audit_selection_of(request.query_params, of_installation=True)
        return _page(None, selection, installation_entry_shown)


def _page(
    project: Project | None,
    selection: AuditSelection,
    shown: Callable[[AuditEntry], dict[str, Any]],
) -> Response:
    try:
        page = audit.browse(project, selection.filters, selection.cursor, selection.limit)
    except InvalidCursor:
        raise refused_cursor(selection.cursor) from None
    return Response({"results": [shown(each) for each in page.entries], "next": page.next_cursor})
