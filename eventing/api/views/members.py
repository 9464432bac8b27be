"""The members of a project, for its administrators."""

from typing import Any, Final

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import ADMIN
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.definitions import changed_member
from eventing.api.etags import refuse_lost_update, tagged
from eventing.api.problem_details import Conflict
from eventing.api.representations import member_shown
from eventing.api.views.base import ProjectView, operation
from eventing.definitions import parse_member
from eventing.members import (
    add_member,
    change_member,
    member_definition_of,
    members_of,
    remove_member,
)
from eventing.models import Membership
from eventing.second_factors import (
    require_administrator,
    reset_second_factors,
    with_second_factor,
)

# Shown with a member, and left alone when they are sent back.
_READ_ONLY: Final = frozenset({"active", "two_factor"})


def _shown(membership: Membership) -> dict[str, Any]:
    return member_shown(membership, bool(with_second_factor([membership.user])))


def _answer(membership: Membership) -> Response:
    return Response(_shown(membership), headers=tagged(member_definition_of(membership)))


class Members(ProjectView):
    read_role = ADMIN

    @operation("list_members", {200: serializers.Member(many=True)}, tag="members")
    def get(self, request: Request, project: str) -> Response:
        """The project's members, by name."""
        members = list(members_of(self.project))
        protected = with_second_factor([each.user for each in members])
        return Response([member_shown(each, each.user_id in protected) for each in members])

    @operation(
        "add_member",
        {201: serializers.AddedMember},
        request=serializers.MemberToAdd,
        tag="members",
        tagged=True,
    )
    def post(self, request: Request, project: str) -> Response:
        """Give a user a role in the project; with `new_user` the user is made first."""
        definition = parse_member(mapping_of(request.data))
        added = add_member(self.project, definition, by=self.actor)
        shown = {**_shown(added.membership), "first_password": added.first_password}
        address = reverse("api-member", args=[self.project.name, definition.user])
        headers = {"Location": address, **tagged(member_definition_of(added.membership))}
        return Response(shown, status=201, headers=headers)


class OneMember(ProjectView):
    read_role = ADMIN

    def _membership(self) -> Membership:
        members = members_of(self.project).select_related("project")
        return get_object_or_404(members, user__username=self.kwargs["username"])

    @operation("get_member", {200: serializers.Member}, tag="members", tagged=True)
    def get(self, request: Request, project: str, username: str) -> Response:
        """A member."""
        return _answer(self._membership())

    @operation(
        "change_member",
        {200: serializers.Member},
        request=serializers.MemberChange,
        tag="members",
        tagged=True,
    )
    def patch(self, request: Request, project: str, username: str) -> Response:
        """Give a member another role, or say whether a viewer sees payloads."""
        patch = {
            name: value
            for name, value in mapping_of(request.data).items()
            if name not in _READ_ONLY
        }
        with self.project.held():
            membership = self._membership()
            refuse_lost_update(request, member_definition_of(membership))
            definition = changed_member(membership, patch)
            change_member(membership, definition, by=self.actor)
        return _answer(membership)

    @operation("remove_member", {204: None}, tag="members", tagged=True)
    def delete(self, request: Request, project: str, username: str) -> Response:
        """End a membership; the member's tokens of this project are revoked."""
        with self.project.held():
            membership = self._membership()
            refuse_lost_update(request, member_definition_of(membership))
            remove_member(membership, by=self.actor)
        return Response(status=204)


class MemberFactorsReset(ProjectView):
    @operation("reset_two_factor", {204: None}, request=None, tag="members")
    def post(self, request: Request, project: str, username: str) -> Response:
        """Take a member's second factors away, for one who has lost them; the password then signs
        in alone. Administrators of the installation may; 409 if there are none."""
        membership = get_object_or_404(members_of(self.project), user__username=username)
        require_administrator(self.actor)
        if not reset_second_factors(membership.user, by=self.actor):
            raise Conflict("this member has no second factor")
        return Response(status=204)
