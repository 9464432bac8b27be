"""Signing in and out, one's own account, the first administrator, and the theme of this browser."""

from typing import Final

from allauth.account.internal.flows.login import perform_password_login
from allauth.account.models import Login
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.providers.openid_connect.views import callback
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login, logout, update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe
from requests import RequestException

from eventing.audit import history_of_user
from eventing.models import Installation
from webui import throttle
from webui.frame import THEMES
from webui.pages import SeeOther, form_answer, own_address, page_asked_for, signed_in
from webui.requests import Request
from webui.sign_in import PROVIDER, note, refused

_YEAR_SECONDS: Final = 365 * 86_400
_REFUSED: Final = "That user name and password do not match."
_SLOW_DOWN: Final = (
    f"There were too many attempts. Wait {throttle.WINDOW_MINUTES} minutes, then try again."
)


@sensitive_post_parameters("password")
@never_cache
def sign_in(request: Request) -> HttpResponse:
    """Sign in; what is said of a wrong password is also said of a wrong name."""
    if request.user.is_authenticated:
        return redirect("projects")
    if not User.objects.exists():
        return redirect("first-run")
    following = own_address(request, request.POST.get("next") or request.GET.get("next") or "")
    username = request.POST.get("username", "")
    page = {"username": username, "next": following, "provider": _provider_name()}
    if request.method != "POST":
        return render(request, "accounts/sign_in.html", page)
    address = request.META.get("REMOTE_ADDR", "")
    if not throttle.may_try(username, address):
        context = {**page, "refusal": _SLOW_DOWN}
        return render(request, "accounts/sign_in.html", context, status=429)
    user = authenticate(request, username=username, password=request.POST.get("password", ""))
    if user is None:
        context = {**page, "refusal": _REFUSED}
        return form_answer(request, "accounts/sign_in.html", context, refused=True)
    throttle.succeeded(username, address)
    signing_in = Login(user=user, redirect_url=following or resolve_url("projects"))
    # Leads on to the second factor, if the user has one.
    response = perform_password_login(request, {"username": username}, signing_in)
    return SeeOther(response.headers["Location"]) if response.status_code == 302 else response


def _provider_name() -> str:
    """What to call the provider that one may sign in through; empty if there is none."""
    return str(settings.OIDC_APPS[0]["name"]) if settings.OIDC_APPS else ""


@require_safe
@never_cache
def sign_in_at_provider(request: Request) -> HttpResponse:
    """To the OpenID Connect provider, which leads back.

    A link, and not a form, since the policy of the page would refuse a form that leads elsewhere.
    """
    if not settings.OIDC_APPS:
        raise Http404("There is no provider to sign in through.")
    following = own_address(request, request.GET.get("next") or "")
    provider = get_adapter().get_provider(request, PROVIDER)
    try:
        answer: HttpResponse = provider.redirect(
            request, process="login", next_url=following or resolve_url("projects")
        )
    except RequestException:
        return refused(request, f"{provider.name} does not answer. Try again later.")
    return answer


@require_safe
@never_cache
def back_from_provider(request: Request, provider_id: str) -> HttpResponse:
    """Back from the provider: signed in, on to the second factor, or refused."""
    if not settings.OIDC_APPS:
        raise Http404("There is no provider to sign in through.")
    answer: HttpResponse = callback(request, provider_id)
    return answer


@require_safe
@never_cache
@signed_in
def show(request: Request) -> HttpResponse:
    """One's account: how one signs in, and the latest sign-ins."""
    factors = {each.type: each for each in Authenticator.objects.filter(user=request.user)}
    codes = factors.get(Authenticator.Type.RECOVERY_CODES)
    context = {
        "has_password": request.user.has_usable_password(),
        "provider": _provider_name(),
        "app": factors.get(Authenticator.Type.TOTP),
        "codes_left": len(codes.wrap().get_unused_codes()) if codes else 0,
        "history": history_of_user(request.user),
    }
    return render(request, "accounts/account.html", context)


@sensitive_post_parameters("old", "password", "again")
@never_cache
@signed_in
def change_password(request: Request) -> HttpResponse:
    """Change one's password; every other session of one's own ends."""
    if not request.user.has_usable_password():
        raise PermissionDenied("You sign in through a provider, and have no password here.")
    if request.method != "POST":
        return render(request, "accounts/password.html", {"errors": {}})
    address = request.META.get("REMOTE_ADDR", "")
    if not throttle.may_try(request.user.username, address):
        context: dict[str, object] = {"errors": {"old": _SLOW_DOWN}}
        return render(request, "accounts/password.html", context, status=429)
    errors = _problems_of_password(request.user, request.POST)
    if not request.user.check_password(request.POST.get("old", "")):
        errors["old"] = "That is not your present password."
    if errors:
        return form_answer(request, "accounts/password.html", {"errors": errors}, refused=True)
    throttle.succeeded(request.user.username, address)
    request.user.set_password(request.POST["password"])
    request.user.save(update_fields=["password"])
    update_session_auth_hash(request, request.user)
    note(request, request.user, "user.password")
    messages.success(request, "Your password is changed. You are signed out everywhere else.")
    return SeeOther(resolve_url("mfa_index"))


@require_POST
def sign_out(request: Request) -> HttpResponse:
    """Sign out; what the browser kept of the pages goes too."""
    logout(request)
    response = SeeOther(resolve_url("sign-in"))
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


@sensitive_post_parameters("password", "again")
@never_cache
def first_run(request: Request) -> HttpResponse:
    """Make the first administrator, as long as there is no user at all."""
    if User.objects.exists():
        return redirect("sign-in")
    if request.method != "POST":
        return render(request, "accounts/first_run.html", {"errors": {}})
    username = request.POST.get("username", "").strip()
    errors = _problems_of_first_user(username, request.POST)
    if errors:
        context = {"username": username, "errors": errors}
        return form_answer(request, "accounts/first_run.html", context, refused=True)
    with transaction.atomic():
        # If two requests come at once, the second waits here and then finds a user.
        Installation.objects.select_for_update().get()
        if User.objects.exists():
            return redirect("sign-in")
        user = User.objects.create_superuser(username, password=request.POST["password"])
        note(request, user, "user.create", administrator=True)
    login(request, user)
    return SeeOther(resolve_url("project-add"))


def _problems_of_first_user(username: str, post: dict[str, str]) -> dict[str, str]:
    errors: dict[str, str] = {}
    try:
        User._meta.get_field("username").clean(username, None)
    except ValidationError as error:
        errors["username"] = " ".join(error.messages)
    return errors | _problems_of_password(User(username=username), post)


def _problems_of_password(user: User, post: dict[str, str]) -> dict[str, str]:
    password = post.get("password", "")
    errors: dict[str, str] = {}
    try:
        validate_password(password, user)
    except ValidationError as error:
        errors["password"] = " ".join(error.messages)
    if password != post.get("again", ""):
        errors["again"] = "The two passwords differ."
    return errors


@require_POST
def set_theme(request: Request) -> HttpResponse:
    """Keep the theme of this browser in a cookie, so that the server can render it at once."""
    theme = request.POST.get("theme", "")
    back = page_asked_for(request) or "/"
    response = HttpResponse(status=204) if request.htmx else SeeOther(back)
    if theme in THEMES:
        response.set_cookie("theme", theme, max_age=_YEAR_SECONDS, samesite="Lax", httponly=True)
    return response
