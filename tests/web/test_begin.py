"""The way from a new project to its first event: each step, skipped, left and found again."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client

from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Database, Project, Trigger
from eventing.projects import configuration_version
from tests.factories import make_database, make_project, make_trigger
from tests.web.conftest import HOOK, PASSWORD, Shop

TRIGGER = {"name": "welcome-email", "operations": ["insert"], "tables": "users", "url": HOOK}


@pytest.fixture
def root(log: PostgresEventLog) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada", password=PASSWORD))
    return client


def where(root: Client) -> str:
    """The step that one is led to."""
    return root.get("/projects/corner-shop/begin/").headers["Location"].split("/begin/")[1]


def test_the_id_is_made_from_the_name_and_the_way_goes_on_with_a_database(root: Client) -> None:
    given = {"title": "Corner Shop", "name": "", "enabled": "on"}
    answer = root.post("/projects/add/", given)
    assert answer.headers["Location"] == "/projects/corner-shop/begin/database/"
    project = Project.objects.get()
    assert (project.name, project.title) == ("corner-shop", "Corner Shop")
    assert project.eventing_enabled
    answer = root.post("/projects/add/", given)
    assert answer.status_code == 422
    assert "a name no other project has" in answer.content.decode()


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Čaj & Käse, Ltd.", "caj-kase-ltd"),
        ("--a--", "a"),
        ("x" * 63, "x" * 63),
    ],
)
def test_ids_are_plain(root: Client, title: str, name: str) -> None:
    assert root.post("/projects/add/", {"title": title}).status_code == 303
    assert Project.objects.get().name == name


def test_a_name_of_which_no_id_can_be_made_needs_one(root: Client) -> None:
    answer = root.post("/projects/add/", {"title": "商店"})
    assert answer.status_code == 422
    assert "1 to 63 of a-z, 0-9" in answer.content.decode()
    assert root.post("/projects/add/", {"title": "商店", "name": "shop"}).status_code == 303
    assert str(Project.objects.get()) == "商店"


def test_the_way_is_found_again_where_it_was_left(root: Client, source_database: str) -> None:
    root.post("/projects/add/", {"title": "Corner Shop", "enabled": "on"})
    assert where(root) == "database/"
    assert "/begin/database/" in root.get("/projects/corner-shop/").content.decode()
    given = {"type": "postgres", "url": source_database, "alias": "main"}
    answer = root.post("/projects/corner-shop/begin/database/", given)
    assert answer.headers["Location"] == "/projects/corner-shop/begin/trigger/"
    assert where(root) == "trigger/"
    answer = root.post("/projects/corner-shop/begin/trigger/", TRIGGER)
    assert answer.headers["Location"] == "/projects/corner-shop/begin/event/"
    assert where(root) == "event/"
    assert "/begin/event/" in root.get("/projects/corner-shop/").content.decode()


def test_a_database_that_cannot_be_captured_says_why_and_is_saved_only_if_one_insists(
    root: Client,
) -> None:
    make_project("corner-shop")
    path = "/projects/corner-shop/begin/database/"
    given = {"type": "postgres", "url": "postgresql://u:p@127.0.0.1:1/shop", "alias": "main"}
    answer = root.post(path, given)
    assert answer.status_code == 422
    assert "Not ready to be captured" in answer.content.decode()
    assert not Database.objects.exists()
    assert root.post(path, {**given, "action": "check"}).status_code == 200
    assert root.post(path, {**given, "action": "save"}).status_code == 303
    assert Database.objects.get().alias == "main"


def test_each_step_may_be_skipped(root: Client) -> None:
    make_project("corner-shop", enabled=False)
    path = "/projects/corner-shop/begin/"
    assert f'href="{path}trigger/">Skip' in root.get(path + "database/").content.decode()
    assert f'href="{path}event/">Skip' in root.get(path + "trigger/").content.decode()
    text = root.get(path + "event/").content.decode()
    for words in ("Eventing is off", "No database is connected yet", "There is no trigger yet"):
        assert words in text, words
    assert root.post(path + "enable/").headers["Location"] == path + "event/"
    assert Project.objects.get().eventing_enabled


def test_enabling_eventing_leaves_the_other_settings_alone(root: Client) -> None:
    project = make_project("corner-shop", enabled=False)
    Project.objects.filter(pk=project.pk).update(retention_events_days=7)
    root.post("/projects/corner-shop/begin/enable/")
    project.refresh_from_db()
    assert (project.eventing_enabled, project.retention_events_days) == (True, 7)


def _captured(database: Database) -> None:
    CaptureLease.objects.create(
        database=database,
        state="streaming",
        expires_at=Now() + timedelta(minutes=1),
        applied_version=configuration_version(),
    )


def test_what_is_still_needed_is_said_and_then_that_all_is_ready(root: Client) -> None:
    project = make_project("corner-shop")
    database = make_database(project, "postgresql://db/shop")
    make_trigger(project, HOOK, tables=["users"], operations=["insert"])
    path = "/projects/corner-shop/begin/event/"
    text = root.get(path).content.decode()
    assert "What is still needed" in text
    assert "is not live yet" in text
    _captured(database)
    text = root.get(path).content.decode()
    assert "Waiting for the first event…" in text
    assert "Insert a row in users of any database." in text


def test_a_source_that_is_blocked_is_said_with_its_reason(root: Client) -> None:
    database = make_database(make_project("corner-shop"), "postgresql://db/shop")
    CaptureLease.objects.create(
        database=database, state="blocked", error="wal_level is replica", mend="ALTER SYSTEM"
    )
    text = root.get("/projects/corner-shop/begin/event/").content.decode()
    assert "Wal_level is replica" in text
    assert "How to mend it" in text


def test_the_page_that_waits_turns_into_the_event(shop: Shop, admin: Client) -> None:
    htmx = {"HX-Request": "true"}
    path = shop.path("begin/event/")
    page = admin.get(path).content.decode()
    digest = page.split("?digest=")[1].split('"')[0]
    assert admin.get(path, {"digest": digest}, headers=htmx).status_code == 204
    # Without a script there is a link to look again.
    assert "Look again" in page
    (event_id,) = shop.add_events(1)
    part = admin.get(path, {"digest": digest}, headers=htmx).content.decode()
    assert "<html" not in part
    assert "Events come in" in part
    assert event_id in part
    # It settles: what came is not asked for again and again.
    assert "?digest=" not in part
    assert event_id in admin.get(path).content.decode()


def test_an_editor_begins_with_the_trigger(shop: Shop, editor: Client) -> None:
    Trigger.objects.all().delete()
    Database.objects.all().delete()
    answer = editor.get(shop.path("begin/"))
    assert answer.headers["Location"] == shop.path("begin/trigger/")
    assert "/begin/database/" not in editor.get(shop.path("begin/trigger/")).content.decode()


def test_whoever_may_not_see_payloads_sees_none_here_either(shop: Shop, viewer: Client) -> None:
    shop.project.memberships.update(sees_payloads=False)
    (event_id,) = shop.add_events(1)
    text = viewer.get(shop.path("begin/event/")).content.decode()
    assert event_id in text
    assert "You may not see what rows contain" in text
