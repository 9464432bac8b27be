"""The audit log of a project, for its administrators."""

from rest_framework.request import Request
from rest_framework.response import Response

from eventing import audit
from eventing.access import ADMIN
from eventing.api import serializers
from eventing.api.filters import audit_selection_of, refused_cursor
from eventing.api.representations import entry_shown
from eventing.api.views.base import ProjectView, operation
from eventing.logs.base import InvalidCursor


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
        selection = audit_selection_of(request.query_params)
        try:
            page = audit.browse(self.project, selection.filters, selection.cursor, selection.limit)
        except InvalidCursor:
            raise refused_cursor(selection.cursor) from None
        return Response(
            {"results": [entry_shown(each) for each in page.entries], "next": page.next_cursor}
        )
