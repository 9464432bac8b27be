"""What the caller may do: reading and changing take the roles that the view says.

A project the caller has no role in does not exist for them: 404, never 403.
"""

from typing import Any, Final

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from eventing.access import Actor

_NEEDED: Final = "this takes the role {needed} in the project; this token has the role {own}"


class ProjectRole(BasePermission):
    """Whether the token's role is enough for the view's project and the request's method."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """False without a token (401). Raises PermissionDenied (403) and Http404."""
        actor = request.auth
        if not isinstance(actor, Actor):
            return False
        project = view.project
        if project is None:
            return True
        needed = view.read_role if request.method in SAFE_METHODS else view.write_role
        if not actor.may(needed, project):
            own = actor.role_in(project)
            raise PermissionDenied(_NEEDED.format(needed=needed.value, own=own or "none"))
        return True
