"""Taking away the second factors of somebody who has lost them: the authenticator app, and the
recovery codes that go with it.

Only administrators of the installation may, and `manage.py`; whoever does is noted. Afterwards the
password alone signs in, until the user turns two-factor sign-in on again.
"""

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction

from eventing import audit
from eventing.access import Actor


def with_second_factor(users: Iterable[User]) -> set[int]:
    """Ids of those of these users who sign in with more than a password."""
    return set(_factors().filter(user__in=users).values_list("user_id", flat=True))


def require_administrator(actor: Actor) -> None:
    """Raises PermissionDenied for whoever may not take second factors away."""
    if not actor.administers_installation():
        raise PermissionDenied("Administrators of the installation may do that; ask one of them.")


def reset_second_factors(user: User, *, by: Actor) -> bool:
    """Take them away; False if there were none. Raises PermissionDenied."""
    require_administrator(by)
    with transaction.atomic():
        deleted, _ = _factors().filter(user=user).delete()
        if deleted:
            audit.write(by, None, "user.reset_factors", user.username, user.pk)
    return bool(deleted)


def _factors() -> Any:
    """Django-allauth's rows, a few a user."""
    return apps.get_model("mfa", "Authenticator").objects
