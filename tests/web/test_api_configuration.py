"""A project as YAML over REST: taken out, planned, and put in as long as nothing has changed."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import yaml
from django.db import connection

from eventing.access import command_line
from eventing.logs import control_database_dsn
from eventing.logs.postgres import PostgresEventLog
from eventing.models import Database, Project, Trigger
from eventing.projects import (
    configuration_held,
    configuration_version,
    delete_project,
    trigger_definition_of,
)
from tests.waiting import wait_until
from tests.web.api import SOURCE, Answer, Api, Shop, make_shop
from tests.web.conftest import somebody_waits_for_a_lock

PATH = "projects/shop/configuration/"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


def taken_out(shop: Shop) -> tuple[dict[str, Any], str]:
    """The document, and the tag of what it shows."""
    answer = shop.admin.get(PATH)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/yaml; charset=utf-8"
    return yaml.safe_load(answer.content), answer.headers["ETag"]


def put(api: Api, document: Any, query: str = "", **headers: str) -> Answer:
    content = document if isinstance(document, bytes) else yaml.safe_dump(document).encode()
    return api.send("PUT", f"{PATH}{query}", content, content_type="application/yaml", **headers)


def test_what_was_taken_out_changes_nothing_and_has_no_secret(shop: Shop) -> None:
    document, tag = taken_out(shop)
    assert "hunter2" not in str(document)
    assert "open sesame" not in str(document)
    version = configuration_version()
    answer = put(shop.admin, document, If_Match=tag)
    assert (answer.status, answer.json) == (200, {"plan": [], "applied": True})
    assert answer.headers["ETag"] == tag
    assert configuration_version() == version


def test_the_plan_is_told_and_then_carried_out_with_secrets_kept(shop: Shop) -> None:
    document, tag = taken_out(shop)
    document["projects"][0]["triggers"][0]["retries"] = 9
    planned = put(shop.admin, document, "?dry_run=true")
    plan = ["~ trigger shop/welcome-email: retries"]
    assert (planned.status, planned.json) == (200, {"plan": plan, "applied": False})
    assert planned.headers["ETag"] == tag
    assert Trigger.objects.get().retries == 3
    applied = put(shop.admin, document)
    assert applied.json == {"plan": plan, "applied": True}
    assert applied.headers["ETag"] == taken_out(shop)[1] != tag
    trigger = Trigger.objects.get()
    assert trigger.retries == 9
    assert dict(trigger_definition_of(trigger).headers) == {"X-Shop": "open sesame"}
    assert Database.objects.get().url == SOURCE


def test_what_the_file_leaves_out_goes_only_if_that_is_asked_for(
    shop: Shop, log: PostgresEventLog
) -> None:
    (event,) = shop.events(log)
    document, _ = taken_out(shop)
    document["projects"][0]["triggers"] = []
    assert put(shop.admin, document).json["plan"] == []
    assert put(shop.admin, document, "?prune=true").json["plan"] == ["- trigger shop/welcome-email"]
    assert not Trigger.objects.exists()
    shown = shop.viewer.get(f"projects/shop/events/{event.id}/").json
    assert shown["status"] == "cancelled"


def test_a_configuration_made_from_an_earlier_state_is_refused(shop: Shop) -> None:
    document, tag = taken_out(shop)
    # Nothing that the file shows, but what it would write over.
    changed = {"headers": {"X-Shop": "another word"}}
    assert shop.editor.patch("projects/shop/triggers/welcome-email/", changed).status == 200
    document["projects"][0]["triggers"][0]["retries"] = 9
    for query in ("", "?dry_run=true"):
        assert put(shop.admin, document, query, If_Match=tag).status == 412
    assert Trigger.objects.get().retries == 3
    assert put(shop.admin, document, If_Match=taken_out(shop)[1]).status == 200
    assert dict(trigger_definition_of(Trigger.objects.get()).headers) == {"X-Shop": "another word"}


def test_what_changes_while_a_configuration_waits_is_noticed(shop: Shop) -> None:
    document, tag = taken_out(shop)
    document["projects"][0]["triggers"][0]["retries"] = 9

    def send() -> Answer:
        try:
            return put(Api(shop.admin.token), document, If_Match=tag)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(control_database_dsn())) as other:
        with other.cursor() as cursor:
            cursor.execute("SELECT * FROM eventing_installation FOR UPDATE")
            waiting = pool.submit(send)
            wait_until(somebody_waits_for_a_lock)
            cursor.execute("UPDATE eventing_trigger SET timeout_ms = 1234")
        other.commit()
        assert waiting.result().status == 412
    trigger = Trigger.objects.get()
    assert (trigger.retries, trigger.timeout_ms) == (3, 1234)


def test_a_project_that_is_deleted_meanwhile_does_not_come_back(shop: Shop) -> None:
    document, _ = taken_out(shop)

    def send() -> Answer:
        try:
            return put(Api(shop.admin.token), document)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with configuration_held():
            waiting = pool.submit(send)
            wait_until(somebody_waits_for_a_lock)
            delete_project(shop.project, by=command_line())
        answer = waiting.result()
    assert answer.status == 422
    assert "it has just been deleted" in answer.problems["line 1: projects"]
    assert not Project.objects.exists()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"projects:\n  - name: shop\n    triggers:\n      - {name: a, retries: many}\n",
         "line 4: projects[0].triggers[0].retries"),
        (b"projects: [{name: other}]", "line 1: projects"),
        (b"projects: []", "line 1: projects"),
        (b"- : nonsense: [", "line 1"),
        (b"\x00", "line 1"),
        (b"", "line 1"),
    ],
)  # fmt: skip
def test_a_bad_file_names_line_and_field_and_changes_nothing(
    shop: Shop, text: bytes, field: str
) -> None:
    for query in ("", "?dry_run=true", "?prune=true"):
        answer = put(shop.admin, text, query)
        assert answer.status == 422
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert field in answer.problems
    assert Trigger.objects.count() == Project.objects.count() == 1


def test_what_is_no_yaml_or_asked_for_wrongly_is_refused(shop: Shop) -> None:
    document, _ = taken_out(shop)
    document["projects"][0]["triggers"] = []
    assert put(shop.admin, b"\xff\xfe").status == 400
    as_json = shop.admin.put(PATH, document)
    assert as_json.status == 415
    assert as_json.json["detail"].endswith("got 'application/json'; allowed: application/yaml")
    assert put(shop.admin, b"x" * 3_000_000).status == 413
    for query, name in (("?dry_run=1", "dry_run"), ("?prune=yes", "prune"), ("?x=true", "x")):
        assert name in put(shop.admin, document, query).problems
    assert shop.admin.get(PATH, prune="true").status == 422
    assert Trigger.objects.count() == 1


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_it_is_for_administrators(shop: Shop, role: str) -> None:
    document, _ = taken_out(shop)
    assert shop.api_of[role].get(PATH).status == 403
    assert put(shop.api_of[role], document).status == 403


def test_references_to_the_environment_are_for_administrators_of_the_installation(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "from-the-environment")
    document, _ = taken_out(shop)
    document["projects"][0]["triggers"][0]["headers"] = {"X-Token": "${HOOK_TOKEN}"}
    refused = put(shop.admin, document)
    assert refused.status == 422
    assert "HOOK_TOKEN is unset" in str(refused.problems)
    assert put(shop.root, document).status == 200
    headers = trigger_definition_of(Trigger.objects.get()).headers
    assert dict(headers) == {"X-Token": "from-the-environment"}
