"""Who may do what over REST, and how every refusal is told."""

import orjson
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client, override_settings

from eventing.logs.postgres import PostgresEventLog
from eventing.models import Membership
from tests.factories import make_token
from tests.web.api import Api, Shop, make_shop


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


@pytest.mark.parametrize("header", ["Bearer mct_unknown", "Bearer ", "Basic dTpw", "mct_x", "ünï"])
def test_a_token_that_is_not_known_is_refused(db: None, header: str) -> None:
    answer = Client().get("/api/v1/projects/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_session_cookie_is_no_token(db: None) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get("/api/v1/projects/").status_code == 401


def test_a_token_never_does_more_than_its_role(db: None) -> None:
    root = User.objects.create_superuser("root")
    viewer = Api(make_token(root, Membership.Role.VIEWER, None))
    assert viewer.post("projects/", {"name": "shop"}).status == 403


def test_a_token_of_one_project_does_not_see_another(shop: Shop) -> None:
    other = make_shop("other")
    root = User.objects.create_superuser("root")
    token = Api(make_token(root, Membership.Role.ADMIN, other.project))
    assert [each["name"] for each in token.get("projects/").json] == ["other"]
    assert token.get("projects/shop/").status == 404
    assert token.post("projects/", {"name": "new"}).status == 403


def test_an_event_of_another_project_does_not_exist(shop: Shop, log: PostgresEventLog) -> None:
    other = make_shop("other")
    (event,) = other.events(log)
    assert shop.admin.get(f"projects/shop/events/{event.id}/").status == 404
    assert shop.admin.post(f"projects/shop/events/{event.id}/redeliver/").status == 404
    assert other.admin.get(f"projects/other/events/{event.id}/").status == 200


def test_a_refusal_says_what_the_role_lacks(shop: Shop) -> None:
    answer = shop.viewer.delete("projects/shop/triggers/welcome-email/")
    assert answer.json == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "instance": "/api/v1/projects/shop/triggers/welcome-email/",
        "detail": "this takes the role editor in the project; this token has the role viewer",
    }


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nothing/",
        "projects/shop/nothing/",
        "projects/shop/events/7/",
        "projects/a%00b/",
        "projects/shop/triggers/%2e%2e/",
        "projects/shop/events/0199d2f4-7a3e-7c61-9d41-5f2a3b6c8e10/",
    ],
)
def test_an_address_that_leads_nowhere_is_problem_details(shop: Shop, path: str) -> None:
    answer = shop.admin.get(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_what_is_sent_to_no_address_is_problem_details_without_any_cookie(shop: Shop) -> None:
    headers = {"Authorization": f"Bearer {shop.admin.token}"}
    answer = Client(enforce_csrf_checks=True).post("/api/v1/nothing/", headers=headers)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_request_that_no_view_sees_is_problem_details(shop: Shop) -> None:
    answer = Client().get("/api/v1/projects/", headers={"Host": "elsewhere.example"})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    page = Client().get("/projects/", headers={"Host": "elsewhere.example"})
    assert page.status_code == 400
    assert page.headers["Content-Type"].startswith("text/html")


def test_an_address_without_its_slash_says_so(shop: Shop) -> None:
    answer = shop.admin.get("projects")
    assert answer.status == 404
    assert "end with a slash" in answer.json["detail"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_a_method_that_is_not_there_is_405(shop: Shop, method: str) -> None:
    answer = shop.admin.send(method, "projects/shop/stats/")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert answer.json["title"] == "Method Not Allowed"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_announced_as_json_is_415(shop: Shop, content_type: str) -> None:
    path = "projects/shop/triggers/"
    answer = shop.admin.send("POST", path, b'{"name": "x"}', content_type)
    assert answer.status == 415
    given = repr(content_type) if content_type else "nothing"
    assert answer.json["detail"] == f"Content-Type: got {given}; allowed: application/json"
    assert answer.headers["Accept"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b'{"name": "\\ud800"}',
        b'{"retries": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{} {}",
    ],
)
def test_a_body_that_is_not_json_is_400(shop: Shop, body: bytes) -> None:
    answer = shop.admin.post("projects/shop/triggers/", body)
    assert answer.status == 400
    assert answer.json["detail"].startswith("the body is not JSON")


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_deeply_nested_body_is_refused(shop: Shop, method: str) -> None:
    path = "projects/shop/triggers/" + ("welcome-email/" if method == "PATCH" else "")
    body = b'{"headers":' * 1000 + b"1" + b"}" * 1000
    assert shop.admin.send(method, path, body).status == 422


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null"])
def test_a_body_that_is_no_object_is_refused(shop: Shop, body: bytes) -> None:
    answer = shop.admin.post("projects/shop/triggers/", body)
    assert answer.status == 422
    assert "allowed: a JSON object" in answer.problems["body"]


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100)
def test_a_body_that_is_too_large_is_413(shop: Shop) -> None:
    answer = shop.admin.post("projects/shop/triggers/", {"name": "x" * 100})
    assert answer.status == 413
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_body_in_chunks_is_refused_and_not_taken_for_an_empty_one(shop: Shop) -> None:
    token = make_token(User.objects.get(username="shop-admin"), Membership.Role.ADMIN, None)
    headers = {"Authorization": f"Bearer {token}", "Transfer-Encoding": "chunked"}
    answer = Client().generic("POST", "/api/v1/projects/shop/events/redeliver/", headers=headers)
    assert answer.status_code == 411


def test_a_parameter_nobody_knows_is_refused(shop: Shop) -> None:
    answer = shop.admin.get("projects/shop/triggers/", page="2")
    assert answer.status == 422
    assert answer.problems == {
        "page": "page: got this parameter; allowed: no parameter here",
    }


def test_an_unexpected_error_is_500_without_detail(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE eventing_trigger RENAME COLUMN tables TO hidden")
    try:
        answer = shop.admin.get("projects/shop/triggers/")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE eventing_trigger RENAME COLUMN hidden TO tables")
    assert answer.status == 500
    assert orjson.loads(answer.content) == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "instance": "/api/v1/projects/shop/triggers/",
    }
    assert "a request failed" in caplog.text


def test_answers_are_json_whatever_is_accepted(shop: Shop) -> None:
    token = make_token(User.objects.get(username="shop-viewer"), Membership.Role.VIEWER, None)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/html"}
    answer = Client().get("/api/v1/projects/", headers=headers)
    assert answer.headers["Content-Type"] == "application/json"
