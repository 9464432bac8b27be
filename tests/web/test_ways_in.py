"""Ways into a project that is not one's own, tried by its neighbour: ids, names, cursors and
references of somebody else's, wherever a request has room for them; and ways out of the console.
"""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from eventing import redeliveries
from eventing.logs.base import EventFilter
from eventing.logs.postgres import PostgresEventLog
from eventing.models import ApiToken, Trigger
from tests.factories import actor_called, make_token
from tests.web.api import Api, Shop, make_shop

PASSWORD = "correct-horse-battery"
WORD = "what-only-the-neighbour-may-read"
A_DATABASE = "{alias: a, type: postgres"


@pytest.fixture
def mine(log: PostgresEventLog) -> Shop:
    return make_shop("mine")


@pytest.fixture
def theirs(mine: Shop) -> Shop:
    return make_shop("theirs")


@pytest.fixture
def their_event(theirs: Shop, log: PostgresEventLog) -> str:
    (event,) = theirs.events(log, document={"word": WORD}, document_id=WORD, table=WORD)
    return event.id_text


@pytest.fixture
def console(mine: Shop) -> Client:
    client = Client()
    client.force_login(User.objects.get(username="mine-admin"))
    return client


@pytest.mark.parametrize("role", ["viewer", "editor", "admin"])
def test_no_filter_and_no_cursor_leads_into_the_log_of_another_project(
    mine: Shop, theirs: Shop, their_event: str, log: PostgresEventLog, role: str
) -> None:
    mine.events(log, 3)
    api = mine.api_of[role]
    theirs.events(log, 5)
    cursor = theirs.admin.get("projects/theirs/events/", limit="2").json["next"]
    for query in (
        {"cursor": cursor},
        {"doc_id": WORD},
        {"table": WORD},
        {"trigger": theirs.trigger.name, "database": theirs.database.alias},
        {"error": WORD},
    ):
        answer = api.get("projects/mine/events/", **query)
        assert answer.status == 200
        assert WORD.encode() not in answer.content
        assert {each["doc_id"] for each in answer.json["results"]} <= {"1"}
    assert api.get(f"projects/mine/events/{their_event}/").status == 404
    for kind in ("events/", "stats/", "audit/", "redeliveries/", "databases/", "triggers/"):
        assert WORD.encode() not in api.get(f"projects/mine/{kind}").content


def test_nothing_can_be_done_to_what_is_another_project_s(
    mine: Shop, theirs: Shop, their_event: str, log: PostgresEventLog
) -> None:
    theirs_running = redeliveries.start(
        theirs.project, EventFilter(), 0, by=actor_called("somebody")
    )
    their_token = ApiToken.objects.filter(project=theirs.project).first()
    assert their_token is not None
    for api in (mine.editor, mine.admin):
        cancelled = api.post("projects/mine/events/cancel/", {"ids": [their_event]})
        assert cancelled.json == {"cancelled": 0}
        for path in (
            f"events/{their_event}/redeliver/",
            f"redeliveries/{theirs_running.pk}/cancel/",
        ):
            assert api.post(f"projects/mine/{path}").status == 404, path
        for path in (f"redeliveries/{theirs_running.pk}/", f"tokens/{their_token.pk}/"):
            assert api.get(f"projects/mine/{path}").status == 404, path
        assert api.delete(f"projects/mine/tokens/{their_token.pk}/").status == 404
        assert api.get("projects/theirs/").status == 404
    assert log.counts(theirs.project.pk)["pending"] == 1


def test_a_database_of_another_project_cannot_be_named(mine: Shop, theirs: Shop) -> None:
    theirs.admin.patch("projects/theirs/databases/main/", {"alias": "their-own"})
    trigger = {"name": "new", "url": "https://example.com", "operations": ["insert"]}
    answer = mine.editor.post("projects/mine/triggers/", {**trigger, "databases": ["their-own"]})
    assert answer.status == 422
    settings = {"eventing": {"enabled": True, "db": "their-own"}}
    assert mine.admin.patch("projects/mine/settings/", settings).status == 422
    # Saved over one's own, a mask stands for one's own secret alone.
    masked = theirs.admin.get("projects/theirs/databases/their-own/").json["url"]
    answer = mine.admin.patch("projects/mine/databases/main/", {"url": masked + "x"})
    assert answer.status == 422


@pytest.mark.parametrize(
    "text",
    [
        "projects: [{name: theirs}]",
        "projects: [{name: mine}, {name: theirs}]",
        "projects: [{name: mine, eventing: {enabled: true, db: their-own}}]",
        f"projects: [{{name: mine, databases: [{A_DATABASE}, url: '${{THEIRS_MAIN_URL}}'}}]}}]",
        f"projects: [{{name: mine, databases: [{A_DATABASE}, url: '${{DATABASE_URL}}'}}]}}]",
    ],
)
def test_a_configuration_reaches_no_other_project_and_no_environment(
    mine: Shop, theirs: Shop, console: Client, text: str
) -> None:
    before = theirs.admin.get("projects/theirs/").json
    for action in ("plan", "apply"):
        answer = console.post(
            "/projects/mine/settings/configuration/",
            {"text": text, "action": action, "prune": "on"},
        )
        assert answer.status_code == 422
        assert b"hunter2" not in answer.content
    assert theirs.admin.get("projects/theirs/").json == before
    assert Trigger.objects.filter(project=theirs.project).count() == 1


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("GET", "triggers/add/?from={trigger}", {}),
        ("POST", "triggers/try/", {"of": "{trigger}", "name": "a", "operations": "insert"}),
        ("GET", "triggers/{trigger}/", {}),
        ("POST", "triggers/{trigger}/secret/", {}),
        ("GET", "databases/{alias}/", {}),
        ("GET", "databases/{alias}/tables/", {}),
        ("GET", "events/{event}/", {}),
        ("GET", "events/{event}/payload/", {}),
        ("POST", "events/{event}/redeliver/", {}),
    ],
)
def test_the_console_knows_nothing_of_another_project_s(
    theirs: Shop, their_event: str, console: Client, method: str, path: str, given: dict[str, str]
) -> None:
    theirs.admin.patch("projects/theirs/triggers/welcome-email/", {"name": "their-own"})
    theirs.admin.patch("projects/theirs/databases/main/", {"alias": "their-own"})
    names = {"trigger": "their-own", "alias": "their-own", "event": their_event}
    sent = {name: value.format(**names) for name, value in given.items()}
    answer = console.generic(
        method,
        f"/projects/mine/{path.format(**names)}",
        "&".join(f"{name}={value}" for name, value in sent.items()),
        content_type="application/x-www-form-urlencoded",
    )
    assert answer.status_code == 404
    assert WORD.encode() not in answer.content


def test_events_of_another_project_are_not_chosen_with_one_s_own(
    theirs: Shop, their_event: str, console: Client, log: PostgresEventLog
) -> None:
    for deed in ("cancel", "redeliver"):
        console.post("/projects/mine/events/chosen/", {"do": deed, "id": [their_event]})
    assert log.counts(theirs.project.pk)["pending"] == 1


ELSEWHERE = (
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example/",
    "\\\\evil.example/",
    "///evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    " https://evil.example/",
    "\thttps://evil.example",
    "http://testserver@evil.example/",
    "http://testserver.evil.example/",
    "/\r\nX-Mine: 1",
)


@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/theme/", {"theme": "dark"}),
        ("/projects/mine/triggers/welcome-email/state/", {"state": "paused"}),
        ("/projects/mine/events/chosen/", {"do": "cancel"}),
    ],
)
def test_no_form_leads_away_from_here(
    console: Client, path: str, given: dict[str, str], address: str
) -> None:
    leads_here(console.post(path, {**given, "next": address}))


@pytest.mark.parametrize("address", ELSEWHERE)
def test_signing_in_leads_nowhere_else(mine: Shop, address: str) -> None:
    User.objects.create_user("grace", password=PASSWORD)
    sent = {"username": "grace", "password": PASSWORD, "next": address}
    leads_here(Client().post("/sign-in/", sent))
    shown = Client().get("/sign-in/", {"next": address}).content.decode()
    assert "evil.example" not in shown


def leads_here(answer: Any) -> None:
    assert answer.status_code == 303
    location = answer.headers["Location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert "evil" not in location
    assert "X-Mine" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "a\r\nHost: evil.example"},
        {"X-A": "a\nb"},
        {"X-A\r\nX-B": "c"},
        {"X-A: b\r\nX-C": "d"},
        {"Host": "evil.example"},
        {"Content-Length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Webhook-Signature": "v1,x"},
        {"X-A": "a\0b"},
        {"X A": "b"},
        {"": "b"},
    ],
)
def test_no_header_becomes_another(mine: Shop, headers: dict[str, str]) -> None:
    answer = mine.editor.patch("projects/mine/triggers/welcome-email/", {"headers": headers})
    assert answer.status == 422
    assert Trigger.objects.get(project=mine.project).headers == mine.trigger.headers


def test_an_environment_with_line_ends_makes_no_header_either(
    mine: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "first\r\nX-Second: word")
    headers = {"X-A": "${HOOK_TOKEN}"}
    answer = mine.root.patch("projects/mine/triggers/welcome-email/", {"headers": headers})
    assert answer.status == 422
    assert b"Second" not in answer.content


def test_a_token_makes_no_stronger_one_and_none_of_another_project(
    mine: Shop, theirs: Shop
) -> None:
    for asked in (
        {"role": "admin"},
        {"role": "editor", "project": "theirs", "user": "theirs-admin"},
    ):
        made = mine.editor.post("projects/mine/tokens/", {"name": "n", **asked})
        if made.status == 201:
            assert (made.json["project"], made.json["user"]) == ("mine", "mine-editor")
            assert Api(made.json["token"]).get("projects/theirs/").status == 404
        else:
            assert made.status == 422


@pytest.mark.parametrize("ask", [Api.get, Api.delete], ids=["get", "delete"])
def test_a_token_of_all_projects_has_only_those_of_its_user(
    mine: Shop, theirs: Shop, ask: Callable[[Api, str], Any]
) -> None:
    user = User.objects.get(username="mine-admin")
    everywhere = Api(make_token(user, "admin", None))
    assert [each["name"] for each in everywhere.get("projects/").json] == ["mine"]
    assert ask(everywhere, "projects/theirs/").status == 404
