"""API tokens: one's own, and for administrators of the project all of it."""

from typing import Final

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import VIEWER
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.representations import token_shown
from eventing.api.views.base import ProjectView, operation
from eventing.definitions import parse_token
from eventing.models import ApiToken
from eventing.tokens import create_token, revoke_token, tokens_open_to

# Shown with a token, and left alone when they are sent back.
_READ_ONLY: Final = frozenset({"id", "user", "project", "created_at", "last_used_at", "token"})


class Tokens(ProjectView):
    write_role = VIEWER

    @operation("list_tokens", {200: serializers.Token(many=True)}, tag="tokens")
    def get(self, request: Request, project: str) -> Response:
        """One's own tokens that open the project; for its administrators all tokens of it."""
        return Response([token_shown(each) for each in tokens_open_to(self.actor, self.project)])

    @operation("create_token", {201: serializers.NewToken}, request=serializers.Token, tag="tokens")
    def post(self, request: Request, project: str) -> Response:
        """Make a token for oneself in this project, no stronger than the one that asks for it."""
        body = mapping_of(request.data)
        definition = parse_token({name: body[name] for name in body if name not in _READ_ONLY})
        made = create_token(self.actor.user, self.project, definition, by=self.actor)
        address = reverse("api-token", args=[self.project.name, made.token.pk])
        shown = {**token_shown(made.token), "token": made.secret}
        return Response(shown, status=201, headers={"Location": address})


class OneToken(ProjectView):
    write_role = VIEWER

    def _token(self) -> ApiToken:
        return get_object_or_404(
            tokens_open_to(self.actor, self.project), pk=self.kwargs["token_id"]
        )

    @operation("get_token", {200: serializers.Token}, tag="tokens")
    def get(self, request: Request, project: str, token_id: int) -> Response:
        """A token, without what its owner sends."""
        return Response(token_shown(self._token()))

    @operation("revoke_token", {204: None}, tag="tokens")
    def delete(self, request: Request, project: str, token_id: int) -> Response:
        """Revoke a token, and those made with it, at once."""
        revoke_token(self._token(), self.project, by=self.actor)
        return Response(status=204)
