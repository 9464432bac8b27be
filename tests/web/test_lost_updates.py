"""Two people edit the same thing in the console: nobody undoes what they have not seen."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from eventing.models import Database, Notification, Project, Trigger
from eventing.projects import configuration_held, trigger_definition_of
from tests.factories import make_token
from tests.waiting import wait_until
from tests.web.api import Api
from tests.web.conftest import HOOK, SOURCE, Shop, somebody_waits_for_a_lock

TRIGGER = {
    "name": "welcome-email",
    "url": "https://example.com/mine",
    "operations": ["insert"],
    "databases": ["main"],
    "tables": "users",
    "retries": "7",
    "timeout_ms": "5000",
    "concurrency": "64",
    "rate_per_second": "0",
    "format": "spacecloud",
    "state": "active",
}
DATABASE = {
    "alias": "main",
    "type": "postgres",
    "host": "db.example.com",
    "port": "5433",
    "database": "shop",
    "user": "reader",
    "tls": "",
    "schemas": "mine",
}


@dataclass(frozen=True)
class Edit:
    """A form, what is typed into it, what another one does meanwhile, and what is then stored."""

    path: str
    form: dict[str, Any]
    theirs: tuple[str, dict[str, Any]]
    told: str
    typed: str
    stored: Callable[[], object]
    before: object
    after: object


EDITS = {
    "trigger": Edit(
        "triggers/welcome-email/edit/",
        TRIGGER,
        ("triggers/welcome-email/", {"timeout_ms": 9000}),
        r"<dt>timeout_ms</dt><dd><del>5000</del> → <ins>9000</ins>",
        'value="https://example.com/mine"',
        lambda: Trigger.objects.get().url,
        "https://example.com/hook",
        "https://example.com/mine",
    ),
    "database": Edit(
        "databases/main/",
        DATABASE,
        ("databases/main/", {"schemas": ["theirs"]}),
        "<dt>schemas</dt><dd><del>none</del> → <ins>theirs</ins>",
        'value="mine"',
        lambda: Database.objects.get().schemas,
        ["theirs"],
        ["mine"],
    ),
    "settings": Edit(
        "settings/",
        {"enabled": "on", "db": "builtin", "retention_events": "41", "retention_payloads": "5"},
        ("settings/", {"retention": {"events": "50d"}}),
        "<dt>retention_events_days</dt><dd><del>30</del> → <ins>50</ins>",
        'value="41"',
        lambda: Project.objects.get().retention_events_days,
        50,
        41,
    ),
    "notification": Edit(
        "settings/notifications/on-call/",
        {"name": "on-call", "kinds": ["source_lag"], "lag_seconds": "77", "repeat_hours": "24"},
        ("notifications/on-call/", {"repeat_hours": 3}),
        "<dt>repeat_hours</dt><dd><del>24</del> → <ins>3</ins>",
        'value="77"',
        lambda: Notification.objects.get().lag_seconds,
        300,
        77,
    ),
}


@pytest.fixture
def other(shop: Shop) -> Api:
    """Ada, who changes things over REST."""
    User.objects.create_superuser("ada")
    api = Api(make_token(User.objects.get(username="ada"), "admin", None))
    given = {"name": "on-call", "url": "https://chat.example.com/hooks/hook-s3cret"}
    assert api.post("projects/shop/notifications/", given).status == 201
    return api


def seen(page: str) -> str:
    """The state that a form carries along."""
    (found,) = re.findall(r'name="seen" value="([^"]+)"', page)
    return str(found)


def opened_at(client: Client, path: str) -> str:
    """What a form carries along that is opened now."""
    return seen(client.get(path).content.decode())


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_form_that_others_were_faster_than_comes_back_with_what_they_did(
    shop: Shop, admin: Client, other: Api, edit: Edit
) -> None:
    path = shop.path(edit.path)
    opened = opened_at(admin, path)
    their_path, theirs = edit.theirs
    assert other.patch(f"projects/shop/{their_path}", theirs).status == 200
    for _ in range(2):
        answer = admin.post(path, {**edit.form, "seen": opened})
        page = answer.content.decode()
        assert answer.status_code == 409
        assert edit.stored() == edit.before
        assert "Nothing was saved" in page
        assert "has been changed while you were editing" in page
        assert re.search(r"changed</strong> by ada, ", page)
        assert edit.told in page
        assert edit.typed in page
        assert "s3cret" not in page
    # Saved once more, knowing of it.
    assert seen(page) != opened
    assert admin.post(path, {**edit.form, "seen": seen(page)}).status_code == 303
    assert edit.stored() == edit.after


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_form_that_nobody_was_faster_than_is_saved(
    shop: Shop, admin: Client, other: Api, edit: Edit
) -> None:
    path = shop.path(edit.path)
    opened = opened_at(admin, path)
    # Another thing of the project is none of this one.
    assert other.patch("projects/shop/", {"title": "The shop"}).status == 200
    assert admin.post(path, {**edit.form, "seen": opened}).status_code == 303
    assert edit.stored() == edit.after


# The field of a form that names what it is of, and where the other one deletes that.
NAMED = {
    "trigger": ("name", "triggers/welcome-email/"),
    "database": ("alias", "databases/main/"),
    "notification": ("name", "notifications/on-call/"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_form_of_what_others_have_renamed_comes_back_and_can_be_saved(
    shop: Shop, admin: Client, other: Api, kind: str
) -> None:
    edit, (field, _) = EDITS[kind], NAMED[kind]
    path = shop.path(edit.path)
    opened = opened_at(admin, path)
    theirs = Client()
    theirs.force_login(User.objects.get(username="ada"))
    renamed = {**edit.form, field: "renamed", "seen": opened}
    assert theirs.post(path, renamed).status_code == 303
    assert admin.get(path).status_code == 404
    answer = admin.post(path, {**edit.form, "seen": opened})
    page = answer.content.decode()
    assert answer.status_code == 409
    assert "has been changed while you were editing" in page
    assert "<ins>renamed</ins>" in page
    assert edit.typed in page
    assert re.search(r'href="[^"]*/renamed/[^"]*" data-forget-draft>begin from how', page)
    saved = admin.post(path, {**edit.form, field: "mine", "seen": seen(page)})
    assert saved.status_code == 303
    assert edit.stored() == edit.after
    assert admin.get(path.replace(NAMED[kind][1].split("/")[1], "mine")).status_code == 200


@pytest.mark.parametrize("kind", NAMED)
def test_a_form_of_what_others_have_deleted_comes_back_to_add_it_anew(
    shop: Shop, admin: Client, other: Api, kind: str
) -> None:
    edit, (field, theirs) = EDITS[kind], NAMED[kind]
    path = shop.path(edit.path)
    opened = opened_at(admin, path)
    if kind == "database":
        assert other.delete("projects/shop/triggers/welcome-email/").status == 204
    assert other.delete(f"projects/shop/{theirs}").status == 204
    for given in ({"seen": opened}, {"seen": opened, field: "mine"}):
        answer = admin.post(path, {**edit.form, **given})
        page = answer.content.decode()
        assert answer.status_code == 409
        assert f"this {kind} has been deleted while you were editing" in page
        assert re.search(r"deleted</strong> by ada, ", page)
        assert edit.typed in page
    # Sent once more it is a form like that of a new one, refusals included.
    anew = {**edit.form, "seen": seen(page), "url": HOOK, "password": "word"}
    if kind == "database":
        anew["url"] = ""
    answer = admin.post(path, {**anew, field: "not a name"})
    assert (answer.status_code, seen(answer.content.decode())) == (422, "gone")
    assert admin.post(path, anew).status_code == 303
    assert admin.get(path).status_code == 200


def test_headers_of_a_deleted_trigger_are_asked_for_again(
    shop: Shop, admin: Client, other: Api
) -> None:
    path = shop.path("triggers/welcome-email/edit/")
    opened = opened_at(admin, path)
    assert other.delete("projects/shop/triggers/welcome-email/").status == 204
    given = {**TRIGGER, "header:Authorization": "keep", "seen": opened}
    page = admin.post(path, given).content.decode()
    assert 'name="header_name" value="Authorization"' in page
    assert "s3cret" not in page


def test_only_a_form_that_was_opened_for_something_comes_back(shop: Shop, admin: Client) -> None:
    for carried in ("", "x", "x.1", "x.1.x", "x.1.0"):
        answer = admin.post(shop.path("triggers/nothing/edit/"), {**TRIGGER, "seen": carried})
        assert answer.status_code == 404, carried


def test_what_was_changed_and_changed_back_is_as_it_was_seen(
    shop: Shop, admin: Client, other: Api
) -> None:
    path = shop.path("triggers/welcome-email/edit/")
    opened = opened_at(admin, path)
    for retries in (9, 3):
        other.patch("projects/shop/triggers/welcome-email/", {"retries": retries})
    assert admin.post(path, {**TRIGGER, "seen": opened}).status_code == 303


def test_a_secret_that_others_have_replaced_is_kept_and_not_told(
    shop: Shop, admin: Client, other: Api
) -> None:
    path = shop.path("triggers/welcome-email/edit/")
    opened = opened_at(admin, path)
    changed = {"headers": {"Authorization": "Bearer another-s3cret"}}
    other.patch("projects/shop/triggers/welcome-email/", changed)
    given = {**TRIGGER, "header:Authorization": "replace", "header_value:Authorization": "mine"}
    page = admin.post(path, {**given, "seen": opened}).content.decode()
    assert "<dt>headers.Authorization</dt><dd>another value" in page
    assert "s3cret" not in page
    assert re.search(r'name="header_value:Authorization"[^>]* value="mine"', page)
    headers = trigger_definition_of(Trigger.objects.get()).headers
    assert dict(headers) == {"Authorization": "Bearer another-s3cret"}


@pytest.mark.parametrize("way", ["refused", "tested"])
def test_a_form_that_comes_back_for_another_reason_still_carries_what_was_seen(
    shop: Shop, admin: Client, other: Api, way: str
) -> None:
    path = shop.path("databases/main/")
    opened = opened_at(admin, path)
    other.patch("projects/shop/databases/main/", {"schemas": ["theirs"]})
    more = {"action": "check"} if way == "tested" else {"port": "x"}
    page = admin.post(path, {**DATABASE, **more, "seen": opened}).content.decode()
    assert seen(page) == opened
    assert admin.post(path, {**DATABASE, "seen": seen(page)}).status_code == 409
    assert Database.objects.get().url == SOURCE


@pytest.mark.parametrize("carried", ["x.1", "x.", "x.٣", f"x.{10**30}", "x.-1"])
def test_a_state_that_never_was_is_another_one(shop: Shop, admin: Client, carried: str) -> None:
    answer = admin.post(shop.path("settings/"), {"db": "builtin", "seen": carried})
    assert answer.status_code == 409
    assert Project.objects.get().eventing_enabled


def test_a_refused_title_leaves_the_form_beside_it_as_it_was(
    shop: Shop, admin: Client, other: Api
) -> None:
    page = admin.post(shop.path("settings/rename/"), {"title": "x" * 64}).content.decode()
    form = {"enabled": "on", "db": "builtin", "retention_events": "41", "retention_payloads": "5"}
    assert admin.post(shop.path("settings/"), {**form, "seen": seen(page)}).status_code == 303


def test_turning_eventing_on_leaves_what_others_are_just_setting(shop: Shop, admin: Client) -> None:
    Project.objects.update(eventing_enabled=False)

    def enable() -> None:
        try:
            assert admin.post(shop.path("begin/enable/")).status_code == 303
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with configuration_held():
            waiting = pool.submit(enable)
            wait_until(somebody_waits_for_a_lock)
            Project.objects.update(retention_events_days=50)
        waiting.result()
    project = Project.objects.get()
    assert (project.eventing_enabled, project.retention_events_days) == (True, 50)
