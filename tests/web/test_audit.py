"""The audit log: an entry for each change, whoever makes it by whatever way, and never a secret."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from eventing.breakers import Breakers
from eventing.models import AuditEntry, Project, Trigger
from tests.factories import make_token
from tests.web.api import Api
from tests.web.conftest import HOOK, SOURCE, Shop

AUDIT = "projects/shop/audit/"
SECRETS = ("s3cret-word", "reader", "hook-s3cret", "application_name", "whsec_", "n3w-word")


def api_of(username: str, shop: Shop) -> Api:
    return Api(make_token(User.objects.get(username=username), "admin", shop.project))


def last(action: str) -> AuditEntry:
    return AuditEntry.objects.filter(action=action).latest("pk")


def test_a_change_says_who_did_what_from_where(shop: Shop, editor: Client) -> None:
    given = {"name": "welcome-email", "operations": ["insert"], "url": HOOK, "retries": "7"}
    path = shop.path("triggers/welcome-email/edit/")
    assert editor.post(path, given, REMOTE_ADDR="192.0.2.7").status_code == 303
    entry = last("trigger.update")
    assert (entry.user_name, entry.token_id, entry.address) == ("editor", None, "192.0.2.7")
    assert (entry.project_id, entry.project_name) == (shop.project.pk, "shop")
    assert (entry.object_id, entry.object_name) == (shop.trigger.pk, "welcome-email")
    assert entry.old == {"retries": 3, "databases": ["main"], "tables": ["users"]}
    assert entry.new == {"retries": 7, "databases": [], "tables": []}


def test_a_change_over_rest_names_the_token(shop: Shop, editor: Client) -> None:
    api = api_of("editor", shop)
    trigger = "projects/shop/triggers/welcome-email/"
    assert api.patch(trigger, {"timeout_ms": 900}).status == 200
    entry = last("trigger.update")
    token = User.objects.get(username="editor").api_tokens.get()
    assert (entry.user_name, entry.token_id) == ("editor", token.pk)
    assert (entry.address, entry.old, entry.new) == (
        *("127.0.0.1", {"timeout_ms": 5000}, {"timeout_ms": 900}),
    )


def test_deliveries_that_are_let_go_are_noted(shop: Shop, admin: Client) -> None:
    Breakers().open(shop.trigger.pk, "100 attempts in a row failed")
    admin.post(shop.path("triggers/welcome-email/state/"), {"state": "paused"})
    assert AuditEntry.objects.latest("pk").action == "trigger.close_breaker"


def test_no_entry_holds_a_secret(shop: Shop, admin: Client) -> None:
    api = api_of("admin", shop)
    moved = SOURCE.replace("s3cret-word", "n3w-word")
    assert api.patch("projects/shop/databases/main/", {"url": moved}).status == 200
    entry = last("database.update")
    assert (entry.old, entry.new) == ({"credentials": "••••"}, {"credentials": "••••"})
    headers = {"headers": {"Authorization": "n3w-word", "X-More": "n3w-word"}}
    assert api.patch("projects/shop/triggers/welcome-email/", headers).status == 200
    entry = last("trigger.update")
    assert entry.old == {"headers.Authorization": "••••"}
    assert entry.new == {"headers.Authorization": "••••", "headers.X-More": "••••"}
    admin.post(shop.path("triggers/welcome-email/secret/"))
    admin.post(shop.path("databases/main/delete/"))
    created = last("database.create").new
    assert created is not None
    assert created["url"] == "postgresql://db.example.com:5433/shop"
    written = str(list(AuditEntry.objects.values()))
    page = admin.get(shop.path("settings/audit/")).content.decode()
    for secret in SECRETS:
        assert secret not in written, secret
        assert secret not in page, secret
    assert "another value" in page


def test_a_password_that_looks_like_a_place_is_masked_too(shop: Shop, admin: Client) -> None:
    url = "postgresql://reader:12/s3cret-word@db.example.com/shop"
    given = {"alias": "odd", "type": "postgres", "url": url}
    assert api_of("admin", shop).post("projects/shop/databases/", given).status == 201
    assert "s3cret-word" not in str(last("database.create").new)


def test_what_changes_nothing_or_is_refused_is_not_noted(shop: Shop, admin: Client) -> None:
    api = api_of("admin", shop)
    before = AuditEntry.objects.count()
    assert api.patch("projects/shop/triggers/welcome-email/", {}).status == 200
    assert api.patch("projects/shop/settings/", {}).status == 200
    assert api.patch("projects/shop/triggers/welcome-email/", {"retries": -1}).status == 422
    assert api.delete("projects/shop/databases/main/").status == 422
    assert api.delete("projects/shop/members/admin/").status == 422
    assert AuditEntry.objects.count() == before


def test_apply_notes_its_changes_and_a_dry_run_none(shop: Shop, tmp_path: Any) -> None:
    file = tmp_path / "shop.yaml"
    text = (
        f"projects: [{{name: shop, triggers: [{{name: a, operations: [insert], url: '{HOOK}'}}]}}]"
    )
    file.write_text(text)
    before = AuditEntry.objects.count()
    call_command("apply", str(file), "--dry-run")
    file.write_text(text.replace("[insert]", "[upsert]"))
    with pytest.raises(CommandError):
        call_command("apply", str(file))
    assert AuditEntry.objects.count() == before
    file.write_text(text)
    call_command("apply", str(file), "--prune")
    found = AuditEntry.objects.filter(project_id=shop.project.pk).order_by("-pk")
    actions = found.values_list("action", "user_name", "address")
    assert set(actions[: AuditEntry.objects.count() - before]) == {
        ("trigger.create", "", "manage.py"),
        ("trigger.delete", "", "manage.py"),
        ("database.delete", "", "manage.py"),
    }


def test_the_log_outlives_its_project(shop: Shop, admin: Client) -> None:
    project_id = shop.project.pk
    admin.post(shop.path("settings/delete/"), {"name": "shop"})
    assert not Project.objects.exists()
    entry = last("project.delete")
    assert (entry.project_id, entry.project_name) == (project_id, "shop")
    assert entry.old is not None
    assert entry.old["triggers"] == ["welcome-email"]
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    client.post("/projects/add/", {"name": "shop"})
    text = client.get("/projects/shop/settings/audit/").content.decode()
    assert "Project created" in text
    assert "Project deleted" not in text


def test_the_audit_log_is_filtered_and_paged_by_keyset(shop: Shop, admin: Client) -> None:
    api = api_of("admin", shop)
    for retries in range(60):
        body = {"retries": retries}
        api.patch("projects/shop/triggers/welcome-email/", body)
    total = AuditEntry.objects.filter(project_id=shop.project.pk).count()
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(AUDIT, limit="25", **cursor).json
        seen += [each["id"] for each in page["results"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == total
    found = api.get(AUDIT, kind="trigger", user="admin", object="welcome-email").json["results"]
    assert {(each["action"], each["user"]) for each in found} == {("trigger.update", "admin")}
    assert found[0]["new"] == {"retries": 59}
    assert api.get(AUDIT, user="nobody").json == {"results": [], "next": None}
    first = admin.get(shop.path("settings/audit/?kind=trigger")).content.decode()
    assert first.count('data-label="Time"') == 50
    (older,) = {part.split('"')[0] for part in first.split('href="?')[1:]}
    second = admin.get(shop.path("settings/audit/?") + older.replace("&amp;", "&"))
    assert second.content.decode().count('data-label="Time"') == 11
    assert "Newest entries" in second.content.decode()
    assert "No entry matches" in admin.get(shop.path("settings/audit/?user=x")).content.decode()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"kind": "x"}, "kind"),
        ({"limit": "0"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"a": "b"}, "a"),
    ],
)
def test_a_bad_question_is_refused(
    shop: Shop, admin: Client, query: dict[str, str], field: str
) -> None:
    assert field in api_of("admin", shop).get(AUDIT, **query).problems


def test_a_bad_filter_is_said_on_the_page(shop: Shop, admin: Client) -> None:
    path = shop.path("settings/audit/")
    answer = admin.get(path, {"kind": "x", "user": "a\x00b"})
    assert answer.status_code == 422
    assert "one of project, settings" in answer.content.decode()
    for cursor in ("x", "9" * 20, "-1"):
        assert admin.get(path, {"cursor": cursor}).status_code == 404
    assert admin.get(path, {"cursor": "9" * 19}).status_code == 200


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_the_audit_log_is_for_administrators(
    shop: Shop, as_role: Callable[[str], Client], role: str
) -> None:
    client = as_role(role)
    assert client.get(shop.path("settings/audit/")).status_code == 403
    assert api_of(role, shop).get(AUDIT).status == 403


def test_the_audit_log_of_another_project_does_not_exist(
    shop: Shop, as_role: Callable[[str], Client]
) -> None:
    assert as_role("stranger").get(shop.path("settings/audit/")).status_code == 404
    assert api_of("stranger", shop).get(AUDIT).status == 404


def test_a_triggers_page_shows_who_changed_it_under_whatever_name(
    shop: Shop, editor: Client, as_role: Callable[[str], Client]
) -> None:
    api_of("editor", shop).patch("projects/shop/triggers/welcome-email/", {"name": "hello"})
    page = as_role("viewer").get(shop.path("triggers/hello/")).content.decode()
    assert "Trigger changed</strong> by editor" in page
    assert "<del>welcome-email</del> → <ins>hello</ins>" in page
    assert "Trigger added</strong> by a command" in page
    assert Trigger.objects.get().name == "hello"


def test_the_installation_has_a_log_of_every_project_and_of_none(
    shop: Shop, admin: Client, editor: Client
) -> None:
    shop_id = shop.project.pk
    with override_settings(ENCRYPTION_KEYS=["new-" * 10, *settings.ENCRYPTION_KEYS]):
        call_command("rotate_keys")
        admin.post(shop.path("settings/delete/"), {"name": "shop"})
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    root.post("/projects/add/", {"name": "other"})
    text = root.get("/audit/").content.decode()
    for words in ("Secrets encrypted anew", "Project deleted", "Project created", "Trigger added"):
        assert words in text, words
    assert '<a href="/projects/other/settings/audit/">other</a>' in text
    assert "/projects/shop/" not in text
    # A project's own page has none of that; a filter leads to it.
    own = root.get("/projects/other/settings/audit/").content.decode()
    assert "Secrets encrypted anew" not in own
    assert "<option>installation</option>" not in own
    for query, number in (("project=shop&object=welcome-email&kind=trigger", 1), ("project=x", 0)):
        page = root.get(f"/audit/?{query}").content.decode()
        assert page.count('data-label="What"') == number, query
    api = Api(make_token(User.objects.get(username="root"), "admin", None))
    rotated = api.get("audit/?kind=installation").json["results"]
    assert rotated
    assert {(each["action"], each["project"]) for each in rotated} == {
        ("installation.rotate_keys", None)
    }
    (deleted,) = api.get("audit/?project=shop&kind=project&limit=1").json["results"]
    assert (deleted["action"], deleted["project"]) == ("project.delete", "shop")
    assert AuditEntry.objects.filter(project_id=shop_id).exists()
    refused = api.get("projects/other/audit/?project=other")
    assert (refused.status, "project" in refused.problems) == (422, True)


def test_the_log_of_the_installation_is_for_its_administrators(
    shop: Shop, admin: Client, viewer: Client
) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    assert 'href="/audit/"' in root.get("/projects/").content.decode()
    for client in (admin, viewer):
        assert client.get("/audit/").status_code == 403
        assert 'href="/audit/"' not in client.get("/projects/").content.decode()


def test_the_log_of_the_installation_costs_the_same_however_long_it_is(
    shop: Shop, admin: Client
) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    root.get("/audit/")
    with CaptureQueriesContext(connection) as first:
        root.get("/audit/")
    for retries in range(60):
        api_of("admin", shop).patch("projects/shop/triggers/welcome-email/", {"retries": retries})
    with CaptureQueriesContext(connection) as then:
        page = root.get("/audit/").content.decode()
    assert len(first) == len(then) < 12
    assert page.count('data-label="What"') == 50
    assert ">Older</a>" in page
