"""How django-allauth signs people in here: what it may do, what it stores, and what is noted of it.

Users are made by administrators, or by a sign-in through the provider of `OIDC_ISSUER`; such a user
is a new one, whatever their name or e-mail address, and sees no project until they are a member.
"""

from typing import Any, Final, NoReturn

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authenticator_added, authenticator_removed, authenticator_reset
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_login_failed
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from eventing import audit
from eventing.access import Actor
from eventing.models.fields import decrypted, encrypted

PROVIDER: Final = "sso"
_FACTORS: Final = {
    Authenticator.Type.TOTP: "authenticator app",
    Authenticator.Type.RECOVERY_CODES: "recovery codes",
}
_NOT_SIGNED_IN: Final = (
    "You were not signed in: the provider did not say who you are, or this took too long."
)
_INACTIVE: Final = "This user may no longer sign in. Ask an administrator of the installation."


def refused(request: HttpRequest, why: str) -> HttpResponse:
    """The page that says why somebody is not signed in."""
    return render(request, "accounts/refused.html", {"why": why}, status=403)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Nobody makes a user for themselves; who signs in is noted."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def add_message(self, *_: Any, **__: Any) -> None:
        """The pages say what was done."""

    def respond_user_inactive(self, request: HttpRequest, user: User) -> HttpResponse:
        return refused(request, _INACTIVE)

    def login(self, request: HttpRequest, user: User) -> None:
        super().login(request, user)
        note(request, user, "user.sign_in")


class ProviderAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Whoever the provider knows may have a user."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        with transaction.atomic():
            user: User = super().save_user(request, sociallogin, form)
            note(request, user, "user.create", administrator=user.is_superuser)
        return user

    def on_authentication_error(self, request: HttpRequest, *_: Any, **__: Any) -> NoReturn:
        raise ImmediateHttpResponse(refused(request, _NOT_SIGNED_IN))


class SecondFactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Secrets are encrypted at rest, as all others are."""

    def encrypt(self, text: str) -> str:
        return encrypted(text)

    def decrypt(self, encrypted_text: str) -> str:
        return decrypted(encrypted_text, "mfa_authenticator.data")


def note(request: HttpRequest, user: User, action: str, by: User | None = None, **new: Any) -> None:
    """Write down what was done about a user, by themselves unless told otherwise."""
    actor = Actor(by or user, address=request.META.get("REMOTE_ADDR", ""))
    audit.write(actor, None, action, user.username, user.pk, new=new or None)


def _note_failure(request: HttpRequest | None, credentials: Any, **_: Any) -> None:
    """Nothing is kept of names that nobody has: people type passwords there by mistake."""
    user = User.objects.filter(username=credentials.get("username") or "").first()
    if user is not None and request is not None:
        note(request, user, "user.sign_in_failed", by=User(username=""))


def _noting(action: str) -> Any:
    def receiver(request: HttpRequest, user: User, authenticator: Any, **_: Any) -> None:
        note(request, user, action, factor=_FACTORS[authenticator.type])

    return receiver


def connect() -> None:
    """Have what happens noted; called once, when the application is ready."""
    user_login_failed.connect(_note_failure, dispatch_uid="note", weak=False)
    for signal, action in (
        (authenticator_added, "user.add_factor"),
        (authenticator_removed, "user.remove_factor"),
        (authenticator_reset, "user.renew_factor"),
    ):
        signal.connect(_noting(action), dispatch_uid=action, weak=False)
