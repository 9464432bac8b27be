"""Who calls the API: the bearer token of RFC 6750, looked up in `eventing.access`.

A session cookie is never enough here, so no request of a browser can be forged against the API.
"""

from typing import Any

from django.contrib.auth.models import User
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from eventing.access import Actor, actor_of_token


def actor_of_header(header: str, address: str = "") -> Actor | None:
    """Who an Authorization header stands for, None if it is empty. Raises AuthenticationFailed."""
    scheme, _, token = header.partition(" ")
    if not scheme:
        return None
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthenticationFailed(
            "the Authorization header is not understood; allowed: Bearer <token>"
        )
    actor = actor_of_token(token.strip(), address)
    if actor is None:
        raise AuthenticationFailed(
            "this token is unknown or has expired, or its user is no longer active"
        )
    return actor


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`; `request.auth` is then the Actor."""

    def authenticate(self, request: Request) -> tuple[User, Actor] | None:
        """The user and the actor, None without the header. Raises AuthenticationFailed."""
        header = get_authorization_header(request).decode("latin-1")
        actor = actor_of_header(header, request.META.get("REMOTE_ADDR", ""))
        return (actor.user, actor) if actor else None

    def authenticate_header(self, request: Request) -> str:
        """What a 401 says in WWW-Authenticate (RFC 9110 section 11.6.1)."""
        return "Bearer"


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How OpenAPI describes the above."""

    target_class = "eventing.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A token made in the console's settings, by this API, or by"
            " `python manage.py token create`.",
        }
