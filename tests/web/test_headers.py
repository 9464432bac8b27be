"""What every answer tells browsers, and where a request is said to come from."""

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings

from eventing.logs.postgres import PostgresEventLog
from eventing.models import AuditEntry
from tests.factories import make_token
from tests.web.api import Api
from tests.web.conftest import PASSWORD
from tests.web.routes import API, TABLE, World, make_world

HTTPS = {"X-Forwarded-Proto": "https"}
EVERYWHERE = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'self'; object-src 'none';"
    " form-action 'self'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(),"
    " payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# What the last words of an address lead to, where it is no page, or no JSON.
YAML = "application/yaml; charset=utf-8"
NO_PAGES = {"payload": "application/json", "export": YAML}
NO_JSON = {"configuration": YAML}


@pytest.fixture
def world(log: PostgresEventLog) -> World:
    return make_world(log)


def test_every_answer_tells_browsers_what_they_may_do(world: World) -> None:
    for route in TABLE:
        path = world.path(route)
        for role in ("anonymous", "root"):
            console, api = world.consoles[role], world.apis[role]
            token = {"Authorization": f"Bearer {api.token}"} if route in API and api.token else {}
            answer = console.get(path, headers=token)
            told = {name: answer.headers.get(name) for name in EVERYWHERE}
            assert told == EVERYWHERE, (path, role, answer.status_code)
            assert "Strict-Transport-Security" not in answer.headers
            secure = console.get(path, headers={**token, **HTTPS})
            assert secure.headers["Strict-Transport-Security"] == "max-age=31536000", path
            kind = answer.headers.get("Content-Type", "")
            if route in API:
                shown = NO_JSON.get(path.split("/")[-2], "application/json")
                assert kind in (shown, "application/problem+json"), path
                assert answer.headers["Cache-Control"] == "no-store", path
            elif answer.status_code == 200 and path.startswith(("/projects/", "/health/")):
                assert kind == NO_PAGES.get(path.split("/")[-2], "text/html; charset=utf-8"), path
                cached = answer.headers["Cache-Control"]
                assert "private" in cached or "no-store" in cached, path


@pytest.mark.django_db
@pytest.mark.parametrize("is_secure", [False, True])
def test_cookies_are_for_this_site_and_over_https_for_https_alone(is_secure: bool) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    client = Client(headers=HTTPS if is_secure else {})
    client.get("/sign-in/")
    client.post("/sign-in/", {"username": "ada", "password": PASSWORD})
    client.post("/theme/", {"theme": "dark"})
    assert set(client.cookies) == {"sessionid", "csrftoken", "theme"}
    for name, cookie in client.cookies.items():
        assert cookie["samesite"] == "Lax", name
        assert bool(cookie["secure"]) is is_secure, name
        assert cookie["httponly"], name


def address_told(client: Client, forwarded: str) -> str:
    """Where a sign-in's audit entry, or a change over REST, is said to come from."""
    answer = client.post(
        "/api/v1/projects/",
        '{"name": "new"}',
        "application/json",
        headers={"X-Forwarded-For": forwarded},
    )
    assert answer.status_code == 201, answer.content
    return AuditEntry.objects.latest("pk").address


@pytest.mark.parametrize(
    ("connected", "forwarded", "told"),
    [
        ("10.0.0.9", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.9", "1.2.3.4, 192.0.2.7, 10.0.0.3", "192.0.2.7"),
        ("10.0.0.9", "10.0.0.3", "10.0.0.3"),
        ("10.0.0.9", "", "10.0.0.9"),
        ("10.0.0.9", "nonsense", "10.0.0.9"),
        ("10.0.0.9", "192.0.2.7, nonsense", "10.0.0.9"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("192.0.2.99", "192.0.2.7", "192.0.2.99"),
    ],
)
def test_only_a_trusted_proxy_says_where_a_request_comes_from(
    log: PostgresEventLog, connected: str, forwarded: str, told: str
) -> None:
    root = User.objects.create_superuser("root")
    token = Api(make_token(root, "admin", None)).token
    with override_settings(TRUSTED_PROXIES=["10.0.0.0/8", "fd00::/8"]):
        client = Client(REMOTE_ADDR=connected, headers={"Authorization": f"Bearer {token}"})
        assert address_told(client, forwarded) == told
