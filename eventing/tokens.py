"""API tokens: how they are made, seen and revoked.

A token is never stronger than who makes it. One that is made with another token has at most that
one's role, lives no longer, and is revoked together with it.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from eventing import audit
from eventing.access import ADMIN, RANK, Actor, digest_of
from eventing.definitions import ROLES, Role, TokenDefinition
from eventing.models import ApiToken, Membership, Project
from eventing.problems import InvalidInput, Problem

_PREFIX: Final = "mct_"  # lets scanners recognise a token


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; `secret` is what its owner sends, shown once and kept nowhere."""

    token: ApiToken
    secret: str = field(repr=False)


def tokens_open_to(actor: Actor, project: Project) -> QuerySet[ApiToken]:
    """The tokens the actor may see and revoke, newest first.

    One's own of the project and those of one's own that open every project; for administrators of
    the project all of the project.
    """
    own = Q(user=actor.user)
    of_project = Q(project=project)
    if not actor.may(ADMIN, project):
        of_project &= own
    if actor.token is None or actor.token.project_id is None:
        of_project |= own & Q(project=None)
    tokens = ApiToken.objects.filter(of_project)
    return tokens.select_related("user", "project").order_by("-id")


def roles_open_to(actor: Actor, project: Project) -> list[Role]:
    """The roles that a token made by the actor may have."""
    own = actor.role_in(project)
    return [role for role in ROLES if own and RANK[Membership.Role(role)] <= RANK[own]]


def create_token(
    user: User, project: Project | None, definition: TokenDefinition, *, by: Actor
) -> NewToken:
    """Make a token that acts for `user`, in `project` or wherever the user may.

    Raises InvalidInput if it would be stronger than `by`.
    """
    problems = _stronger_than(by, project, definition) if project else []
    if definition.expires_at is not None and definition.expires_at <= timezone.now():
        problems.append(_refused_expiry(definition.expires_at, "a time to come"))
    if problems:
        raise InvalidInput(problems)
    secret = _PREFIX + secrets.token_urlsafe(32)
    with transaction.atomic():
        token = ApiToken.objects.create(
            user=user,
            project=project,
            role=definition.role,
            name=definition.name,
            expires_at=definition.expires_at,
            digest=digest_of(secret),
            made_with=by.token,
        )
        audit.write(by, project, "token.create", token.name, token.pk, new=_facts(token))
    return NewToken(token, secret)


def _stronger_than(by: Actor, project: Project, definition: TokenDefinition) -> list[Problem]:
    """In what a token would be stronger than the actor who asks for it."""
    problems = []
    who = "the token that asks for it" if by.token else "you"
    if not by.may(Membership.Role(definition.role), project):
        own = by.role_in(project)
        allowed = f"no stronger role than {own.value if own else 'none'}, that of {who}"
        problems.append(Problem("role", repr(definition.role), allowed))
    ends = by.token.expires_at if by.token else None
    if ends is not None and (definition.expires_at is None or definition.expires_at > ends):
        allowed = f"{ends.isoformat()} at the latest, when {who} expires"
        problems.append(_refused_expiry(definition.expires_at, allowed))
    return problems


def _refused_expiry(given: datetime | None, allowed: str) -> Problem:
    return Problem("expires_at", repr(given.isoformat()) if given else "nothing", allowed)


def revoke_token(token: ApiToken, project: Project, *, by: Actor) -> None:
    """End a token, and those made with it, at once.

    Raises InvalidInput when a token is to end a stronger one.
    """
    own = by.role_in(project)
    if by.token and (own is None or RANK[Membership.Role(token.role)] > RANK[own]):
        allowed = "one with no stronger role than the token that asks for it"
        raise InvalidInput([Problem("token", f"one with the role {token.role}", allowed)])
    with transaction.atomic():
        for each in [token, *made_with(token)]:
            place = each.project or project
            audit.write(by, place, "token.delete", each.name, each.pk, old=_facts(each))
        token.delete()


def made_with(token: ApiToken) -> list[ApiToken]:
    """The tokens that were made with this one, or with one of those."""
    made = list(ApiToken.objects.select_related("user", "project").filter(made_with=token))
    return made + [below for each in made for below in made_with(each)]


def _facts(token: ApiToken) -> audit.Facts:
    return {
        "user": token.user.username,
        "role": token.role,
        "expires_at": token.expires_at,
        "projects": token.project.name if token.project else "all",
    }
