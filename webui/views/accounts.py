"""Signing in and out, the first administrator, and the theme of this browser."""

from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from eventing.models import Installation
from webui import throttle
from webui.frame import THEMES
from webui.pages import SeeOther, form_answer
from webui.requests import Request

_YEAR_SECONDS = 365 * 86_400
_REFUSED = "That user name and password do not match."
_SLOW_DOWN = (
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
    following = _own_address(request, request.POST.get("next") or request.GET.get("next") or "")
    username = request.POST.get("username", "")
    page = {"username": username, "next": following}
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
    login(request, user)
    return SeeOther(following or resolve_url("projects"))


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
        # Of two requests at once the second waits here, and then finds a user.
        Installation.objects.select_for_update().get()
        if User.objects.exists():
            return redirect("sign-in")
        user = User.objects.create_superuser(username, password=request.POST["password"])
    login(request, user)
    return SeeOther(resolve_url("projects"))


def _problems_of_first_user(username: str, post: dict[str, str]) -> dict[str, str]:
    password = post.get("password", "")
    errors: dict[str, str] = {}
    try:
        User._meta.get_field("username").clean(username, None)
    except ValidationError as error:
        errors["username"] = " ".join(error.messages)
    try:
        validate_password(password, User(username=username))
    except ValidationError as error:
        errors["password"] = " ".join(error.messages)
    if password != post.get("again", ""):
        errors["again"] = "The two passwords differ."
    return errors


@require_POST
def set_theme(request: Request) -> HttpResponse:
    """Keep the theme of this browser in a cookie, so that the server can render it at once."""
    theme = request.POST.get("theme", "")
    back = _own_address(request, request.POST.get("next", "")) or "/"
    response = HttpResponse(status=204) if request.htmx else SeeOther(back)
    if theme in THEMES:
        response.set_cookie("theme", theme, max_age=_YEAR_SECONDS, samesite="Lax", httponly=True)
    return response


def _own_address(request: Request, address: str) -> str:
    """`address` if it is one of this site, else nothing."""
    own = url_has_allowed_host_and_scheme(
        address, {request.get_host()}, require_https=request.is_secure()
    )
    return address if own else ""
