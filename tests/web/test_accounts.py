"""Signing in, the first administrator, and what is told to whom."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.web.conftest import PASSWORD

FIRST = {"username": "ada", "password": PASSWORD, "again": PASSWORD}


@pytest.mark.django_db
def test_without_any_user_one_is_led_to_make_the_first_administrator(client: Client) -> None:
    assert client.get("/").headers["Location"] == "/first-run/"
    assert client.get("/sign-in/").headers["Location"] == "/first-run/"
    answer = client.post("/first-run/", FIRST)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/projects/add/")
    assert User.objects.get().is_superuser
    assert client.get("/projects/add/").status_code == 200


@pytest.mark.django_db
def test_there_is_no_second_first_administrator(client: Client) -> None:
    User.objects.create_user("someone", password=PASSWORD)
    assert client.get("/first-run/").headers["Location"] == "/sign-in/"
    assert client.post("/first-run/", FIRST).headers["Location"] == "/sign-in/"
    assert User.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "12345", "again": "12345"}, "too short"),
        ({"again": "other"}, "The two passwords differ"),
        ({"username": "no spaces"}, "Enter a valid username"),
        ({"username": ""}, "This field cannot be blank"),
    ],
)
def test_a_bad_first_administrator_is_refused_at_its_field(
    client: Client, change: dict[str, str], words: str
) -> None:
    answer = client.post("/first-run/", FIRST | change)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not User.objects.exists()


@pytest.mark.django_db
def test_signing_in_leads_back_to_where_one_was_going(client: Client) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    asked = client.get("/projects/").headers["Location"]
    assert asked == "/sign-in/?next=/projects/"
    given = {"username": "ada", "password": PASSWORD, "next": "/projects/?a=1"}
    answer = client.post("/sign-in/", given)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/projects/?a=1")


@pytest.mark.django_db
def test_signing_in_never_leads_to_another_site(client: Client) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    given = {"username": "ada", "password": PASSWORD, "next": "https://evil.example/"}
    assert client.post("/sign-in/", given).headers["Location"] == "/projects/"


@pytest.mark.django_db
def test_a_wrong_password_and_an_unknown_name_are_answered_alike(client: Client) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    answers = [
        client.post("/sign-in/", {"username": name, "password": "wrong"}) for name in ("ada", "eve")
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    for answer in answers:
        assert "That user name and password do not match." in answer.content.decode()


@pytest.mark.django_db
def test_whoever_guesses_is_stopped_even_with_the_right_password(client: Client) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    for _ in range(5):
        assert client.post("/sign-in/", {"username": "ada", "password": "x"}).status_code == 422
    assert client.post("/sign-in/", {"username": "ADA", "password": "x"}).status_code == 429
    right = {"username": "ada", "password": PASSWORD}
    assert client.post("/sign-in/", right).status_code == 429
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    assert elsewhere.post("/sign-in/", right).status_code == 303


@pytest.mark.django_db
def test_signing_out_clears_what_the_browser_kept(client: Client) -> None:
    client.force_login(User.objects.create_superuser("ada", password=PASSWORD))
    assert client.get("/sign-out/").status_code == 405
    answer = client.post("/sign-out/")
    assert answer.status_code == 303
    assert answer.headers["Clear-Site-Data"] == '"cache"'
    assert client.get("/projects/").status_code == 302


@pytest.mark.django_db
def test_the_theme_is_rendered_by_the_server(client: Client) -> None:
    User.objects.create_superuser("ada", password=PASSWORD)
    assert 'data-theme="system"' in client.get("/sign-in/").content.decode()
    answer = client.post("/theme/", {"theme": "dark", "next": "/sign-in/"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in/")
    assert 'data-theme="dark"' in client.get("/sign-in/").content.decode()
    client.post("/theme/", {"theme": "neon"})
    assert 'data-theme="dark"' in client.get("/sign-in/").content.decode()


@pytest.mark.django_db
def test_every_page_says_that_only_our_own_files_may_run(client: Client) -> None:
    for path in ("/first-run/", "/nothing-here/"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
