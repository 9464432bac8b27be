"""Who belongs to a project, and with which role.

A project keeps an administrator: the last one may neither leave nor take a lower role until another
one is named. Administrators of the installation are not bound by that, since they can always name
one later.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.db.models.signals import post_save

from eventing import audit
from eventing.access import ADMIN, Actor
from eventing.definitions import MemberDefinition, Role
from eventing.models import ApiToken, Membership, Project
from eventing.problems import InvalidInput, Problem

_PASSWORD_BYTES: Final = 15


@dataclass(frozen=True, slots=True)
class Added:
    """A new member; `first_password` is that of a user who was made with it, shown once."""

    membership: Membership
    first_password: str | None = field(default=None, repr=False)


def members_of(project: Project) -> QuerySet[Membership]:
    """The members of a project with their users, by name."""
    return project.memberships.select_related("user").order_by("user__username")


def add_member(project: Project, definition: MemberDefinition, *, by: Actor) -> Added:
    """Give a user a role in a project, and make the user first if that is asked for."""
    with project.held():
        if definition.new_user:
            user, first_password = _new_user(project, definition.user, by=by)
        else:
            user, first_password = _user_called(definition.user, by), None
        if project.memberships.filter(user=user).exists():
            raise InvalidInput(
                [Problem("user", repr(user.username), "a user who is no member of the project yet")]
            )
        membership = project.memberships.create(
            user=user, role=definition.role, sees_payloads=definition.payloads
        )
        facts = _facts(membership)
        audit.write(by, project, "member.create", user.username, user.pk, new=facts)
    return Added(membership, first_password)


def _user_called(name: str, by: Actor) -> User:
    user = User.objects.filter(username=name, is_active=True).first()
    if user is None:
        allowed = "the name of an active user"
        if by.administers_installation():
            allowed += "; or with `new_user` that of a new one"
        raise InvalidInput([Problem("user", repr(name), allowed)])
    return user


def _new_user(project: Project, name: str, *, by: Actor) -> tuple[User, str]:
    if not by.administers_installation():
        allowed = "an existing user; administrators of the installation make new ones"
        raise InvalidInput([Problem("new_user", "true", allowed)])
    if User.objects.filter(username__iexact=name).exists():
        raise InvalidInput([Problem("user", repr(name), "a name no other user has")])
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    user = User.objects.create_user(name, password=password)
    audit.write(by, project, "user.create", user.username, user.pk)
    return user, password


@contextmanager
def noting_users(by: Actor) -> Iterator[None]:
    """Whatever user is made or changed meanwhile is noted: for code of Django's own."""

    def note(instance: User, created: bool, **_: Any) -> None:
        action = "user.create" if created else "user.password"
        facts = {"administrator": instance.is_superuser} if created else None
        audit.write(by, None, action, instance.username, instance.pk, new=facts)

    post_save.connect(note, sender=User, weak=False)
    try:
        yield
    finally:
        post_save.disconnect(note, sender=User)


def _facts(membership: Membership) -> audit.Facts:
    return {"role": membership.role, "payloads": membership.sees_payloads}


def member_definition_of(membership: Membership) -> MemberDefinition:
    """A stored member as a definition."""
    role = cast(Role, membership.role)
    return MemberDefinition(membership.user.username, role, membership.sees_payloads)


def change_member(membership: Membership, definition: MemberDefinition, *, by: Actor) -> None:
    """Give a member another role, and say whether a viewer sees payloads."""
    with membership.project.held():
        membership.refresh_from_db(fields=["role", "sees_payloads"])
        role = definition.role
        if Membership.Role(role) is not ADMIN:
            _refuse_to_lose_the_last_administrator(membership, "role", repr(role), by)
        old = _facts(membership)
        membership.role, membership.sees_payloads = role, definition.payloads
        membership.save(update_fields=["role", "sees_payloads"])
        user = membership.user
        name, project = user.username, membership.project
        audit.write(by, project, "member.update", name, user.pk, old=old, new=_facts(membership))


def remove_member(membership: Membership, *, by: Actor) -> None:
    """End a membership; the member's tokens of this project go with it."""
    project, user = membership.project, membership.user
    with project.held():
        membership.refresh_from_db(fields=["role"])
        _refuse_to_lose_the_last_administrator(membership, "user", repr(user.username), by)
        tokens = ApiToken.objects.filter(project=project, user=user)
        facts = {**_facts(membership), "tokens": tokens.count()}
        audit.write(by, project, "member.delete", user.username, user.pk, old=facts)
        tokens.delete()
        membership.delete()


def is_last_administrator(membership: Membership) -> bool:
    """Whether the project would be left without an administrator among its active members."""
    administrators = membership.project.memberships.filter(role=ADMIN, user__is_active=True)
    return membership.role == ADMIN and not administrators.exclude(pk=membership.pk).exists()


def _refuse_to_lose_the_last_administrator(
    membership: Membership, field: str, given: str, by: Actor
) -> None:
    if is_last_administrator(membership) and not by.administers_installation():
        allowed = (
            f"to keep {membership.user.username} an admin, the last one of this project;"
            " make another member admin first"
        )
        raise InvalidInput([Problem(field, given, allowed)])
