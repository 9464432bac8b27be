"""Who may do what: every address × every method × every role, in the console and over REST.

The addresses come from the URL configuration itself. One that is not in the table
(tests/web/routes.py) fails the test, with the row to be added. What the table does not name is
refused: 405.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.utils import timezone

from eventing.access import digest_of
from eventing.exports import EXPORT_KINDS
from eventing.models import ApiToken, Project
from tests.conftest import empty_log, flush
from tests.factories import make_token
from tests.web.api import Api
from tests.web.routes import (
    API,
    AUDIT,
    CONSOLE,
    HEALTH,
    IN_A_ROW,
    METHODS,
    PROJECTS,
    ROLES,
    TABLE,
    World,
    make_world,
    routes,
)


def test_the_table_names_every_address_and_nothing_else() -> None:
    found = list(routes())
    missing = [route for route in found if route not in TABLE]
    rows = "\n".join(
        f'    "{route}": {{"GET": viewer(), "POST": editor(422)}},' for route in missing
    )
    assert not missing, (
        "these addresses are in no role's table. Add a row for each to CONSOLE or API in"
        " tests/web/routes.py: each method with the lowest role that may use it and how that is"
        " answered (see `Rule`); what is not named is to answer 405 (@require_safe,"
        f" @require_POST):\n{rows}"
    )
    assert set(found) == set(TABLE), "the table names addresses that are gone"


@pytest.fixture(scope="module")
def first_world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    """Made once: making it takes longer than most of these tests."""
    with django_db_blocker.unblock(), empty_log() as log:
        try:
            yield make_world(log)
        finally:
            flush()


@pytest.fixture
def world(first_world: World, db: None) -> World:
    """As it was made. What a test changes in the control database is rolled back; in the log there
    may be more events like the first one.
    """
    consoles = {}
    for name, console in first_world.consoles.items():
        consoles[name] = Client()
        consoles[name].cookies = copy.deepcopy(console.cookies)
    return replace(first_world, examples=dict(first_world.examples), consoles=consoles)


def _more_tokens(world: World) -> dict[str, tuple[str, Api]]:
    """Tokens that are less than their users; each with the role that they come to."""
    root, other = User.objects.get(username="shop-root"), Project.objects.get(name="other")
    ends = timezone.now() + timedelta(days=1)
    expired = make_token(root, "admin", None, expires_at=ends)
    ApiToken.objects.filter(digest=digest_of(expired)).update(expires_at=timezone.now())
    revoked = make_token(root, "admin", None)
    ApiToken.objects.filter(digest=digest_of(revoked)).delete()
    gone = User.objects.create_superuser("gone")
    inactive = make_token(gone, "admin", None)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    user = User.objects.get(username="shop-admin")
    return {
        "unknown": ("anonymous", Api("mct_unknown")),
        "expired": ("anonymous", Api(expired)),
        "revoked": ("anonymous", Api(revoked)),
        "of an inactive user": ("anonymous", Api(inactive)),
        "of another project": ("stranger", Api(make_token(root, "admin", other))),
        "viewer, of an admin": ("viewer", Api(make_token(user, "viewer", None))),
        "editor, of an admin": ("editor", Api(make_token(user, "editor", world.shop.project))),
        "admin, of an administrator": ("admin", Api(make_token(root, "admin", world.shop.project))),
    }


def expected(route: str, method: str, role: str) -> set[int]:
    """How a role is answered."""
    rules = TABLE[route]
    rule = rules.get("GET" if method == "HEAD" and "HEAD" not in rules else method)
    is_api = route in API
    asked_as, role = role, "viewer" if role == "withheld" else role
    if rule is None:
        # REST looks at the token first, so as to say nothing to strangers.
        if is_api and role == "anonymous":
            return {401}
        if is_api and role == "stranger" and route not in (PROJECTS, HEALTH, AUDIT):
            return {404}
        return {403, 405} if is_api and role in ("viewer", "editor") else {405}
    if asked_as in rule.exceptions:
        return {rule.exceptions[asked_as]}
    if role in rule.exceptions:
        return {rule.exceptions[role]}
    if ROLES.index(role) >= ROLES.index(rule.role):
        return {rule.status}
    if role == "anonymous":
        return {401} if is_api else {302}
    is_about_a_project = "project>" in route
    return {404} if role == "stranger" and is_about_a_project else {403}


@pytest.mark.parametrize("route", TABLE)
def test_each_role_may_do_what_the_table_says(world: World, route: str) -> None:
    callers = [(name, name, world.consoles[name], world.apis[name]) for name in ROLES]
    if route in API:
        more = _more_tokens(world).items()
        callers += [(name, role, Client(), api) for name, (role, api) in more]
    for method in METHODS:
        for name, role, console, api in callers:
            if "event_id" in route and method == "POST":
                world.deliver_again()
            rule = TABLE[route].get(method)
            body = rule.body if rule else None
            with transaction.atomic():
                if route in API:
                    path = world.path(route).removeprefix("/api/v1/")
                    answer = api.send(method, path, body)
                    status, headers = answer.status, answer.headers
                else:
                    page = console.generic(method, world.path(route))
                    status, headers = page.status_code, page.headers
                # Whoever succeeds leaves the shop to the next one as it was.
                transaction.set_rollback(True)
            assert status in expected(route, method, role), (method, name, status)
            if status == 302 and role == "anonymous" and "project>" in route:
                assert headers["Location"].startswith("/sign-in/?next="), (method, name)
            if route in API and status >= 400:
                assert headers["Content-Type"] == "application/problem+json", (method, name)


# Where a viewer sees what rows contain, or what an endpoint said of them.
SHOWING_ROWS = {
    "projects/<named:project>/events/export/",
    "projects/<named:project>/events/<uuid:event_id>/",
    "projects/<named:project>/events/<uuid:event_id>/payload/",
    "projects/<named:project>/begin/event/",
    PROJECTS + "<name:project>/events/export/",
    PROJECTS + "<name:project>/events/<uuid:event_id>/",
}
# Exports are asked for in each of their kinds, in the words of the console and of REST.
QUERIES = tuple(f"?format={kind}&payloads={yes}" for kind in EXPORT_KINDS for yes in ("1", "true"))
OF_A_PART = {"HX-Request": "true"}


def _read(world: World, route: str, role: str) -> str:
    """Whatever a role can get there to read."""
    path, texts = world.path(route), []
    token = world.apis[role].token
    ways: list[tuple[Client, dict[str, str]]] = [(world.consoles[role], {}), (Client(), {})]
    ways[1][1]["Authorization"] = f"Bearer {token}"
    ways.append((world.consoles[role], OF_A_PART))
    for client, headers in ways:
        for query in QUERIES if route.endswith("export/") else ("",):
            answer = client.get(path + query, headers=headers)
            texts.append(b"".join(answer) if answer.streaming else answer.content)  # type: ignore[arg-type]
    return b"".join(texts).decode()


@pytest.mark.parametrize("route", [each for each in TABLE if "GET" in TABLE[each]])
def test_what_rows_contain_is_nowhere_for_who_may_not_see_it(world: World, route: str) -> None:
    assert not [word for word in IN_A_ROW if word in _read(world, route, "withheld")]
    shows = any(word in _read(world, route, "viewer") for word in IN_A_ROW)
    assert shows == (route in SHOWING_ROWS)


@pytest.mark.parametrize("route", [each for each in TABLE if each.count("<") > 1])
def test_what_belongs_to_another_project_does_not_exist(world: World, route: str) -> None:
    stranger = User.objects.get(username="shop-stranger")
    api = Api(make_token(stranger, "admin", None))
    path = world.path(route, "other")
    for method, rule in TABLE[route].items():
        if route in API:
            status = api.send(method, path.removeprefix("/api/v1/"), rule.body).status
        else:
            status = world.consoles["stranger"].generic(method, path).status_code
        assert status == 404, method


@pytest.mark.parametrize("route", [each for each in CONSOLE if "POST" in CONSOLE[each]])
def test_no_form_can_be_sent_from_another_site(world: World, route: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="shop-root"))
    assert client.post(world.path(route)).status_code == 403
