"""Every page for every role: who sees it, who does not, and what never shows on it."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from eventing import __version__
from eventing.access import command_line
from eventing.health import PROCESSES, beat
from eventing.history import redeliver
from eventing.logs import log_at
from eventing.models import Database, EventingDb, Heartbeat, Project
from tests.factories import make_database
from tests.proxy import Proxy
from tests.servers import execute
from tests.web.conftest import PASSWORD, ROLES, SOURCE, Shop
from tests.web.older import choose_older_log

READ = (
    *("", "databases/", "triggers/", "triggers/welcome-email/", "events/"),
    *("settings/", "settings/tokens/", "begin/event/"),
)
EDIT = (
    "triggers/add/",
    "begin/trigger/",
    "triggers/welcome-email/edit/",
    "triggers/welcome-email/delete/",
)
ADMINISTER = (
    *("databases/add/", "databases/main/", "databases/main/delete/", "begin/database/"),
    "databases/main/start-anew/",
    *("settings/members/", "settings/audit/", "settings/delete/"),
    *("settings/notifications/", "settings/notifications/add/"),
)
OF_NO_PROJECT = (
    *("/projects/", "/projects/add/", "/health/", "/audit/"),
    *("/account/", "/account/password/", "/account/confirm/"),
)
POST = {
    "triggers/preview/": "editor",
    "triggers/welcome-email/state/": "editor",
    "triggers/welcome-email/secret/": "editor",
    "triggers/welcome-email/delete/": "editor",
    "databases/add/": "admin",
    "databases/main/": "admin",
    "databases/main/delete/": "admin",
    "databases/main/start-anew/": "admin",
    "begin/trigger/": "editor",
    "begin/database/": "admin",
    "begin/enable/": "admin",
    "settings/": "admin",
    "settings/members/": "admin",
    "settings/members/0/role/": "admin",
    "settings/members/0/remove/": "admin",
    "settings/notifications/add/": "admin",
    "settings/notifications/on-call/": "admin",
    "settings/notifications/on-call/test/": "admin",
    "settings/notifications/on-call/delete/": "admin",
    "settings/rename/": "admin",
    "settings/delete/": "admin",
}

_AS_POSTGRES_13 = """
CREATE SCHEMA older;
CREATE FUNCTION older.current_setting(name text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE name WHEN 'server_version_num' THEN '130023' WHEN 'server_version' THEN '13.23'
           ELSE pg_catalog.current_setting(name) END $$;
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = older, pg_catalog, public',
                   current_database());
END $$;
"""


@pytest.mark.parametrize("role", ROLES)
def test_each_role_sees_its_pages(shop: Shop, as_role: Callable[[str], Client], role: str) -> None:
    (event_id,) = shop.add_events(1)
    client = as_role(role)
    allowed = {"viewer": (), "editor": EDIT, "admin": EDIT + ADMINISTER}[role]
    for path in (*READ, *EDIT, *ADMINISTER, f"events/{event_id}/"):
        answer = client.get(shop.path(path))
        expected = 403 if path in EDIT + ADMINISTER and path not in allowed else 200
        assert answer.status_code == expected, path
        assert answer.content.decode().count("<h1") == 1


@pytest.mark.parametrize("role", ROLES)
def test_each_role_posts_only_what_it_may(
    shop: Shop, as_role: Callable[[str], Client], role: str
) -> None:
    client = as_role(role)
    for path, needed in POST.items():
        if ROLES.index(role) < ROLES.index(needed):
            assert client.post(shop.path(path)).status_code == 403, path


def test_to_a_stranger_the_project_does_not_exist(
    shop: Shop, as_role: Callable[[str], Client]
) -> None:
    client = as_role("stranger")
    for path in (*READ, *EDIT, *ADMINISTER):
        assert client.get(shop.path(path)).status_code == 404, path
    for path in POST:
        assert client.post(shop.path(path)).status_code == 404, path
    assert "shop" not in client.get("/projects/").content.decode()


def test_without_signing_in_every_page_leads_to_the_sign_in(shop: Shop, client: Client) -> None:
    for path in READ:
        assert client.get(shop.path(path)).headers["Location"].startswith("/sign-in/?next=")


@pytest.mark.parametrize(
    ("came_from", "goes_to"),
    [
        ("http://testserver/projects/shop/settings/?a=b", "/projects/shop/settings/%3Fa%3Db"),
        ("http://elsewhere.example.com/x", "/projects/shop/settings/rename/"),
        ("", "/projects/shop/settings/rename/"),
    ],
)
def test_who_sends_a_form_signed_out_comes_back_to_its_page(
    came_from: str, goes_to: str, shop: Shop, client: Client
) -> None:
    answer = client.post(
        shop.path("settings/rename/"), {"title": "x"}, headers={"Referer": came_from}
    )
    assert answer.headers["Location"] == f"/sign-in/?next={goes_to}"


def test_what_does_not_exist_is_not_found(shop: Shop, admin: Client) -> None:
    for path in (
        "databases/other/",
        "triggers/other/",
        "triggers/other/edit/",
        f"events/{uuid4()}/",
        "events/?cursor=nonsense",
    ):
        assert admin.get(shop.path(path)).status_code == 404, path
    assert admin.get("/projects/other/").status_code == 404


def test_an_event_of_another_project_is_not_found(
    shop: Shop, as_role: Callable[[str], Client]
) -> None:
    (event_id,) = shop.add_events(1)
    client = as_role("stranger")
    user = User.objects.get(username="stranger")
    other = Project.objects.create(name="other")
    other.memberships.create(user=user, role="admin")
    assert client.get(f"/projects/other/events/{event_id}/").status_code == 404
    assert client.post(f"/projects/other/events/{event_id}/redeliver/").status_code == 404
    assert shop.log.counts(shop.project.pk)["pending"] == 0


def test_every_page_has_a_title_of_its_own(shop: Shop, admin: Client) -> None:
    User.objects.update(is_superuser=True)
    (event_id,) = shop.add_events(1)
    # The step to the first event is the form that adds a trigger.
    of_project = {*READ, *EDIT, *ADMINISTER, f"events/{event_id}/"} - {"begin/trigger/"}
    paths = [*map(shop.path, sorted(of_project)), *OF_NO_PROJECT]
    titles: dict[str, list[str]] = {}
    for path in paths:
        (title,) = re.findall("<title>(.*)</title>", admin.get(path).content.decode())
        assert title.endswith((" · shop · Mission Control", " · Mission Control")), path
        titles.setdefault(title, []).append(path)
    assert [each for each in titles.values() if len(each) > 1] == []


def test_no_page_shows_a_stored_secret(shop: Shop, admin: Client) -> None:
    (event_id,) = shop.add_events(1)
    for path in (*READ, *EDIT, *ADMINISTER, f"events/{event_id}/"):
        text = admin.get(shop.path(path)).content.decode()
        assert "s3cret" not in text, path
        assert "whsec_" not in text, path
        assert SOURCE not in text, path


def test_no_page_has_a_script_or_a_style_of_its_own(shop: Shop, admin: Client) -> None:
    (event_id,) = shop.add_events(1)
    for path in (*READ, *EDIT, *ADMINISTER, f"events/{event_id}/"):
        text = admin.get(shop.path(path)).content.decode()
        assert " style=" not in text, path
        assert "<style" not in text, path
        assert " onclick=" not in text, path
        assert text.count("<script") == text.count("<script src="), path


@pytest.mark.django_db
def test_a_project_is_created_and_its_bad_names_are_refused(client: Client) -> None:
    client.force_login(User.objects.create_superuser("ada", password=PASSWORD))
    assert "Create a project" in client.get("/projects/").content.decode()
    for name in ("", "Shop", "a b", "-x"):
        answer = client.post("/projects/add/", {"name": name})
        assert answer.status_code == 422
        assert "Allowed: 1 to 63 of a-z" in answer.content.decode()
    answer = client.post("/projects/add/", {"name": "shop"})
    assert (answer.status_code, answer.headers["Location"]) == (
        *(303, "/projects/shop/begin/database/"),
    )
    answer = client.post("/projects/add/", {"name": "shop"})
    assert answer.status_code == 422
    assert "a name no other project has" in answer.content.decode()
    assert Project.objects.count() == 1


def test_any_of_many_projects_is_found(shop: Shop, viewer: Client) -> None:
    user = User.objects.get(username="viewer")
    many = [Project(name=f"p{number:03}") for number in range(130)]
    many.append(Project(name="zzz", title="The <last> one"))
    for project in Project.objects.bulk_create(many):
        project.memberships.create(user=user, role="viewer")
    Project.objects.create(name="zzz-of-others")
    page = viewer.get(shop.path("settings/")).content.decode()
    assert "The first 100 by id; search for others." in page
    assert page.count('class="menu-item" href="/projects/p') == 100
    assert '<form class="menu-search" method="get" action="/projects/"' in page
    menu = {"HX-Request": "true", "HX-Target": "project-list"}
    for wanted in ("zzz", "LAST", " <last> "):
        part = viewer.get("/projects/", {"q": wanted}, headers=menu).content.decode()
        whole = viewer.get("/projects/", {"q": wanted}).content.decode()
        assert part.count("<li>") == 1
        assert whole.count('<li class="card">') == 1
        for text in (part, whole):
            assert "The &lt;last&gt; one" in text
            assert "others" not in text.replace("search for others", "")
    nothing = viewer.get("/projects/", {"q": "nowhere\x00"}).content.decode()
    assert "<p>No project matches.</p>" in nothing
    assert "No project matches." in viewer.get("/projects/?q=x", headers=menu).content.decode()
    every = viewer.get("/projects/").content.decode()
    assert every.count('<li class="card">') == 100
    assert re.findall(r'card-link" href="/projects/(p\d+)/', every) == [
        project.name for project in many[:100]
    ]
    assert "The first 100 by id; search for others.</p>" in every
    # Of as many as there is room for nothing is said.
    Project.objects.filter(name__in=[f"p{number:03}" for number in range(32)]).delete()
    every = viewer.get("/projects/").content.decode()
    assert every.count('<li class="card">') == 100
    assert "The first 100 by id" not in every


def test_only_administrators_of_the_installation_create_projects(admin: Client) -> None:
    assert admin.get("/projects/add/").status_code == 403
    assert admin.post("/projects/add/", {"name": "mine"}).status_code == 403


@pytest.mark.django_db
def test_a_project_called_like_one_of_our_addresses_can_be_reached(client: Client) -> None:
    client.force_login(User.objects.create_superuser("ada", password=PASSWORD))
    assert client.post("/projects/add/", {"name": "add"}).status_code == 303
    assert client.get("/projects/~add/").status_code == 200


def test_a_project_is_deleted_once_its_name_is_typed(shop: Shop, admin: Client) -> None:
    path = shop.path("settings/delete/")
    page = admin.get(path).content.decode()
    assert "1 database and 1 trigger and cannot be undone" in page
    assert "No event is waiting for delivery." in page
    redeliver(shop.project, [UUID(each) for each in shop.add_events(2)], by=command_line())
    page = admin.get(path).content.decode()
    assert "2 events</strong> not delivered yet will be cancelled." in page
    assert admin.post(path, {"name": "something"}).status_code == 422
    assert admin.post(path, {"name": "shop"}).headers["Location"] == "/projects/"
    assert not Project.objects.exists()
    assert shop.log.counts(shop.project.pk)["cancelled"] == 2


def test_a_project_is_renamed_and_all_that_goes_by_its_id_stays(shop: Shop, admin: Client) -> None:
    before = database_facts(shop)
    answer = admin.post(shop.path("settings/rename/"), {"title": "Corner <shop>"}, follow=True)
    assert "The project is called Corner &lt;shop&gt; now." in answer.content.decode()
    for path in ("/projects/", shop.path(), shop.path("settings/")):
        assert "Corner &lt;shop&gt;" in admin.get(path).content.decode(), path
    assert database_facts(shop) == before
    for title in ("x" * 64, "two\nlines"):
        answer = admin.post(shop.path("settings/rename/"), {"title": title})
        assert answer.status_code == 422
        assert "at most 63 characters on one line" in answer.content.decode()
        # It is far down the page.
        assert re.search('<input id="id_title"[^>]* autofocus', answer.content.decode())
    assert admin.post(shop.path("settings/rename/"), {"title": " "}).status_code == 303
    assert str(Project.objects.get()) == "shop"


@pytest.fixture
def way_to_log(shop: Shop, source_database: str) -> Iterator[Proxy]:
    """The project has its log in a database of its own; the way there."""
    parts = urlsplit(source_database)
    with closing(Proxy(parts.hostname or "", parts.port or 0)) as proxy:
        there = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
        url = parts._replace(netloc=there).geturl()
        log_at("postgres", url).make_tables()
        shop.project.eventing_db = EventingDb.objects.create(
            project=shop.project, alias="logs", type="postgres", url=url
        )
        shop.project.save()
        yield proxy


def database_facts(shop: Shop) -> object:
    """By what capture knows a source and where it is."""
    shop.project.refresh_from_db()
    return (shop.project.name, *Database.objects.values_list("source_name", "position_in"))


def test_settings_are_saved_and_bad_ones_refused(shop: Shop, admin: Client) -> None:
    path = shop.path("settings/")
    given = {"db": "builtin", "retention_events": "7", "retention_payloads": "3"}
    assert admin.post(path, given).status_code == 303
    shop.project.refresh_from_db()
    assert not shop.project.eventing_enabled
    assert shop.project.retention_events_days == 7
    assert admin.post(path, {**given, "enabled": "on"}).status_code == 303
    shop.project.refresh_from_db()
    assert shop.project.eventing_enabled
    for change, words in (
        ({"db": "elsewhere"}, "one of builtin"),
        ({"retention_events": "many"}, "a whole number of days from 1 to 36500"),
        ({"retention_payloads": "9"}, "at most as long as events"),
    ):
        answer = admin.post(path, given | change)
        assert answer.status_code == 422, change
        assert words in answer.content.decode()
    shop.project.refresh_from_db()
    assert shop.project.eventing_enabled


def test_shorter_retention_deletes_nothing_before_somebody_has_agreed(
    shop: Shop, admin: Client
) -> None:
    day_ms = 24 * 60 * 60 * 1000
    now_ms = int(timezone.now().timestamp() * 1000)
    for days_ago, count in ((0, 1), (5, 2), (9, 4)):
        shop.add_events(count, committed_at_ms=now_ms - days_ago * day_ms)
    path = shop.path("settings/")

    def save(events: int, payloads: int, **more: str) -> str | None:
        days = {"retention_events": f"{events}", "retention_payloads": f"{payloads}"}
        answer = admin.post(path, {"enabled": "on", "db": "builtin", **days, **more})
        shop.project.refresh_from_db()
        if answer.status_code == 303:
            return None
        assert answer.status_code == 422
        return " ".join(re.sub("<[^>]*>", "", answer.content.decode()).split())

    # What is as old as that is not there, or kept for longer.
    assert save(10, 10) is None
    assert save(30, 10) is None
    asked = save(7, 3)
    assert asked is not None
    assert "4 events are older than 7 days" in asked
    assert "2 events would stay without their payloads" in asked
    assert shop.project.retention_events_days == 30
    # Who agreed to that has not agreed to more.
    assert "6 events are older than 3 days" in (save(3, 3, drop="7 3") or "")
    assert shop.project.retention_events_days == 30
    assert save(7, 3, drop="7 3") is None
    assert shop.project.retention_events_days == 7
    assert "would stay" not in (save(4, 3) or "")


def test_saving_another_eventing_db_says_what_was_checked_and_made(
    shop: Shop, admin: Client, source_database: str
) -> None:
    make_database(shop.project, source_database, alias="logs")
    path = shop.path("settings/")
    given = {"enabled": "on", "db": "logs", "retention_events": "7", "retention_payloads": "3"}
    text = admin.post(path, given, follow=True).content.decode()
    for step in (
        "Checked logs: connected as ",
        "; Postgres ",
        "may make the log",
        "tables are made",
    ):
        assert step in text, step
    tables = execute(source_database, "SELECT to_regclass('mission_control.event_log')::text")
    assert tables == [("mission_control.event_log",)]
    # Saved once more there is nothing to make, and so nothing to tell.
    assert "Checked" not in admin.post(path, given, follow=True).content.decode()


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_pages_of_a_log_that_has_yet_to_be_upgraded_say_so(
    request: pytest.FixtureRequest, shop: Shop, admin: Client, kind: str
) -> None:
    choose_older_log(request, shop.project, kind)
    for path in (*READ, f"events/{uuid4()}/", "events/?table=users", "figures/"):
        answer = admin.get(shop.path(path))
        assert answer.status_code in (200, 503), path
        if "event" in path or path in ("", "triggers/welcome-email/"):
            assert "tables of another version" in answer.content.decode(), path
    for path in ("/projects/", "/health/", "/metrics"):
        assert admin.get(path).status_code == 200, path


def test_a_postgres_too_old_to_hold_the_log_is_refused_and_nothing_changes(
    shop: Shop, admin: Client, source_database: str
) -> None:
    # The server itself says that it is an older one, to whoever asks in this database.
    execute(source_database, _AS_POSTGRES_13)
    make_database(shop.project, source_database, alias="logs")
    given = {"enabled": "on", "db": "logs", "retention_events": "7", "retention_payloads": "3"}
    answer = admin.post(shop.path("settings/"), given)
    assert answer.status_code == 422
    text = answer.content.decode()
    assert "Postgres 13.23" in text
    assert "upgrade the server to Postgres 14 or newer" in text
    shop.project.refresh_from_db()
    assert shop.project.eventing_db is None
    assert shop.project.retention_events_days != 7
    schemas = "SELECT 1 FROM pg_namespace WHERE nspname = 'mission_control'"
    assert execute(source_database, schemas) == []


def test_the_health_page_says_what_has_not_been_seen(admin: Client) -> None:
    text = admin.get("/health/").content.decode()
    assert text.count("not seen for a day") == 3


def test_the_health_panel_says_what_keeps_a_process_from_its_work(admin: Client) -> None:
    for process in PROCESSES:
        beat(process, "host-1:1")
    panel = {"HX-Request": "true"}
    assert "notice" not in admin.get("/health/", headers=panel).content.decode()
    beat("worker", "host-1:2", "short of memory: some events are sent later")
    said = "Worker host-1:2: short of memory: some events are sent later."
    assert said in admin.get("/health/", headers=panel).content.decode()
    page = admin.get("/health/").content.decode()
    assert said in page
    # The dot of every page says it, too.
    assert "Health: worker: short of memory: some events are sent later" in page
    Heartbeat.objects.filter(name="host-1:2").update(seen_at=timezone.now() - timedelta(minutes=1))
    assert "short of memory" not in admin.get("/health/").content.decode()


def test_processes_that_are_gone_are_folded_away_while_others_of_their_kind_run(
    admin: Client,
) -> None:
    long_ago = timezone.now() - timedelta(hours=2)
    for number in range(3):
        for process in ("worker", "beat"):
            beat(process, f"gone-{number}:1")
    Heartbeat.objects.update(seen_at=long_ago)
    for name in ("host-2:1", "host-1:1"):
        beat("worker", name)
    text = admin.get("/health/").content.decode()
    shown, _, folded = text.partition('<details class="fold health-gone">')
    assert "5 others of the last day no longer run" in folded
    # Those that run in an order of their own; of what does not run, when it was last seen.
    assert shown.index("host-1:1") < shown.index("host-2:1") < shown.index('title="gone-')
    assert shown.count('title="gone-') == 1
    assert folded.count('title="gone-') == 5


def test_the_environment_stands_on_every_page_if_it_has_a_name(
    shop: Shop, admin: Client, settings: Any
) -> None:
    for path in ("/projects/", shop.path(), shop.path("settings/"), "/health/"):
        settings.ENVIRONMENT_NAME = ""
        text = admin.get(path).content.decode()
        assert f'<footer class="foot">Mission Control {__version__} ·' in text
        assert 'class="environment"' not in text
        assert "Mission Control</title>" in text
        settings.ENVIRONMENT_NAME = "EU <staging>"
        text = admin.get(path).content.decode()
        assert '<span class="environment" title="Environment">EU &lt;staging&gt;</span>' in text
        assert "Mission Control EU &lt;staging&gt;</title>" in text


def test_a_part_that_has_not_changed_is_not_sent_again(shop: Shop, admin: Client) -> None:
    for path in ("", "databases/", "triggers/", "triggers/welcome-email/"):
        page = admin.get(shop.path(path)).content.decode()
        digest = page.split("?digest=")[1].split('"')[0]
        htmx = {"HX-Request": "true"}
        again = admin.get(shop.path(path), {"digest": digest}, headers=htmx)
        assert again.status_code == 204, path
        other = admin.get(shop.path(path), {"digest": "other"}, headers=htmx)
        assert other.status_code == 200, path
        assert "<html" not in other.content.decode()


def test_a_part_of_a_page_without_session_says_so_and_leads_nowhere(
    shop: Shop, client: Client
) -> None:
    for path in (shop.path("events/?seen="), shop.path(""), "/projects/", "/health/"):
        answer = client.get(path, headers={"HX-Request": "true"})
        assert (answer.status_code, answer.content) == (401, b"Your session has ended."), path
        assert "HX-Refresh" not in answer.headers


def test_what_is_not_there_is_said_in_its_own_words_and_leads_back(
    shop: Shop, viewer: Client
) -> None:
    nowhere = viewer.get("/projects/nowhere/").content.decode()
    assert "There is no such project." in nowhere
    assert "All projects" in nowhere
    gone = viewer.get(shop.path("events/00000000-0000-8000-8000-000000000000/")).content.decode()
    assert "it may have expired." in gone
    assert f'href="{shop.path("")}">Overview of shop' in gone
    for path in ("/nothing-here/", shop.path("triggers/nothing/")):
        assert "There is nothing at this address" in viewer.get(path).content.decode()


def test_a_form_that_was_not_ours_is_refused_in_words(shop: Shop, admin: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = admin.cookies
    path, page = shop.path("triggers/welcome-email/state/"), shop.path("triggers/")
    for came_from, back in ((f"http://testserver{page}", page), ("https://elsewhere.test/", "/")):
        answer = strict.post(path, {"state": "paused"}, headers={"Referer": came_from})
        assert answer.status_code == 403
        assert "Nothing was changed" in answer.content.decode()
        assert f'href="{back}">Load the page again' in answer.content.decode()
    part = strict.post(path, {"state": "paused"}, headers={"HX-Request": "true"})
    assert (part.status_code, part.content) == (403, b"This page is out of date. Load it again.")


@pytest.mark.parametrize(
    ("chosen", "theme"), [("dark", "dark"), ("light", "light"), ("", "system")]
)
def test_pages_of_what_went_wrong_have_the_theme_that_was_chosen(
    shop: Shop, admin: Client, way_to_log: Proxy, chosen: str, theme: str
) -> None:
    strict = Client(enforce_csrf_checks=True, raise_request_exception=False)
    strict.cookies = admin.cookies
    strict.cookies["theme"] = chosen
    refused = strict.post(shop.path("triggers/welcome-email/state/"), {"state": "paused"})
    missing = strict.get(shop.path("triggers/nothing/"))
    elsewhere = strict.get("/projects/", headers={"Host": "elsewhere.example.com"})
    way_to_log.refuse()
    away = strict.get(shop.path("events/"))
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE eventing_project RENAME TO away")
    try:
        broken = strict.get(shop.path())
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE away RENAME TO eventing_project")
    for answer, status in (
        *((refused, 403), (missing, 404), (elsewhere, 400)),
        *((away, 503), (broken, 500)),
    ):
        assert answer.status_code == status
        page = answer.content.decode()
        assert f'<html lang="en" data-theme="{theme}">' in page, status
        assert page.count("<h1") == 1
    assert "Something went wrong here" in broken.content.decode()


def test_a_log_that_breaks_off_is_said_on_the_page(
    shop: Shop, admin: Client, way_to_log: Proxy
) -> None:
    unknown = f"events/{uuid4()}/"
    expected = {"": 200, "triggers/": 200, "events/": 503, unknown: 503}
    for path, status in expected.items():
        assert admin.get(shop.path(path)).status_code == (404 if path == unknown else 200)
        way_to_log.refuse()
        answer = admin.get(shop.path(path))
        way_to_log.heal()
        assert answer.status_code == status, path
        assert path == "triggers/" or "he Eventing DB cannot be used" in answer.content.decode()
