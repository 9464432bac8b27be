"""Projects, settings, databases and triggers over REST."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from eventing.breakers import Breakers
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Database, Project, RetiredSource, Trigger
from eventing.projects import configuration_version, trigger_definition_of
from tests.conftest import PostgresServer
from tests.factories import make_database, make_trigger
from tests.receiver import Behaviour, Receiver
from tests.servers import execute
from tests.web.api import HOOK, SOURCE, Shop, make_shop

MASKED = "postgres://reader:••••@db.example.com:5432/shop"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


# Projects and settings


CLOSED = {"state": "closed", "reason": None, "opened_at": None, "next_probe_at": None}


def test_a_project_is_made_found_and_deleted(shop: Shop) -> None:
    root = shop.api_of["root"]
    body = {"name": "books", "retention": {"events": "7d", "payloads": "3d"}}
    answer = root.post("projects/", body)
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/projects/books/"
    made = answer.json
    assert made.pop("created_at").endswith("Z")
    assert made == {
        "name": "books",
        "title": "books",
        "role": "admin",
        "eventing": {"enabled": False, "db": "builtin"},
        "retention": {"events": "7d", "payloads": "3d"},
    }
    assert [each["name"] for each in root.get("projects/").json] == ["books", "shop"]
    assert root.get("projects/books/").json["name"] == "books"
    assert root.delete("projects/books/").status == 204
    assert root.get("projects/books/").status == 404


def test_a_bad_project_names_every_field_and_is_not_made(shop: Shop) -> None:
    body = {"name": "Books!", "retention": {"events": "x"}, "color": 1}
    answer = shop.api_of["root"].post("projects/", body)
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["title"] == "Unprocessable Entity"
    assert set(answer.problems) == {"name", "retention.events", "color"}
    assert answer.problems["name"] == (
        "name: got 'Books!'; allowed: 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit"
    )
    assert Project.objects.count() == 1


def test_a_name_that_is_taken_is_refused(shop: Shop) -> None:
    answer = shop.api_of["root"].post("projects/", {"name": "shop"})
    assert answer.status == 422
    assert answer.problems == {"name": "name: got 'shop'; allowed: a name no other project has"}


def test_a_project_is_called_something_else_and_keeps_its_name(shop: Shop) -> None:
    path = "projects/shop/"
    renamed = shop.admin.patch(path, {"title": " The corner shop "})
    assert (renamed.json["title"], renamed.json["name"]) == ("The corner shop", "shop")
    assert shop.admin.patch(path, {}).json["title"] == "The corner shop"
    for body, field in (
        ({"title": "x" * 64}, "title"),
        ({"title": "a\nb"}, "title"),
        ({"title": 7}, "title"),
        ({"name": "books"}, "name"),
    ):
        answer = shop.admin.patch(path, body)
        assert answer.status == 422
        assert set(answer.problems) == {field}
    assert shop.admin.get(path).json["title"] == "The corner shop"
    assert shop.admin.patch(path, {"title": None}).json["title"] == "shop"
    made = shop.api_of["root"].post("projects/", {"name": "books", "title": "Books, old & new"})
    assert made.json["title"] == "Books, old & new"


def test_settings_are_replaced_or_changed(shop: Shop) -> None:
    path = "projects/shop/settings/"
    assert shop.admin.get(path).json["eventing"] == {"enabled": True, "db": "builtin"}
    changed = shop.admin.patch(path, {"retention": {"payloads": "5d"}})
    assert changed.json == {
        "eventing": {"enabled": True, "db": "builtin"},
        "retention": {"events": "30d", "payloads": "5d"},
    }
    replaced = shop.admin.put(path, {"retention": {"events": "9d", "payloads": "5d"}})
    assert replaced.json == {
        "eventing": {"enabled": False, "db": "builtin"},
        "retention": {"events": "9d", "payloads": "5d"},
    }
    assert shop.admin.get(path).json == replaced.json


def test_bad_settings_change_nothing(shop: Shop) -> None:
    path = "projects/shop/settings/"
    before, version = shop.admin.get(path).json, configuration_version()
    body = {"eventing": {"enabled": "yes"}, "retention": {"payloads": "31d"}, "x": 1}
    answer = shop.admin.patch(path, body)
    assert answer.status == 422
    assert set(answer.problems) == {"eventing.enabled", "retention.payloads", "x"}
    assert shop.admin.get(path).json == before
    assert configuration_version() == version


# Databases


def test_a_database_is_shown_without_its_password(shop: Shop) -> None:
    answer = shop.admin.post(
        "projects/shop/databases/",
        {"alias": "b", "type": "postgres", "url": SOURCE + "?sslmode=require&password=s3cret"},
    )
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/projects/shop/databases/b/"
    assert answer.json["url"] == MASKED + "?••••"
    for path in ("", "b/", "main/"):
        shown = shop.viewer.get(f"projects/shop/databases/{path}")
        assert b"hunter2" not in shown.content
        assert b"s3cret" not in shown.content


def test_files_of_the_machine_are_for_those_who_run_the_installation(shop: Shop) -> None:
    body = {"alias": "b", "type": "mongodb", "url": "mongodb://db/shop?tlsCAFile=/etc/ca.pem"}
    answer = shop.admin.post("projects/shop/databases/", body)
    assert answer.status == 422
    assert "tlsCAFile" in answer.problems["url"]
    assert shop.root.post("projects/shop/databases/", body).status == 201
    # What an administrator of the installation has chosen stays where others change the rest.
    changed = {"url": "mongodb://u:p@db/shop?tlsCAFile=/etc/ca.pem"}
    assert shop.admin.patch("projects/shop/databases/b/", changed).status == 200


def test_a_masked_address_sent_back_keeps_the_stored_one(shop: Shop) -> None:
    path = "projects/shop/databases/main/"
    body = shop.admin.get(path).json
    body["schemas"] = ["public"]
    assert shop.admin.put(path, body).json["schemas"] == ["public"]
    assert shop.admin.patch(path, {"alias": "renamed"}).json["alias"] == "renamed"
    shop.database.refresh_from_db()
    assert shop.database.url == SOURCE
    assert not RetiredSource.objects.exists()


def test_a_reference_to_the_environment_survives_a_change(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", SOURCE)
    path = "projects/shop/databases/main/"
    assert shop.api_of["root"].patch(path, {"url": "${SHOP_URL}"}).json["url"] == MASKED
    monkeypatch.delenv("SHOP_URL")
    assert shop.admin.patch(path, {"schemas": ["public"]}).status == 200
    shop.database.refresh_from_db()
    assert (shop.database.url, shop.database.url_reference) == (SOURCE, "${SHOP_URL}")


def test_a_reference_to_a_variable_that_is_not_set_is_refused(shop: Shop) -> None:
    answer = shop.api_of["root"].patch(
        "projects/shop/databases/main/", {"url": "${NOT_SET_ANYWHERE}"}
    )
    assert answer.status == 422
    assert "NOT_SET_ANYWHERE" in answer.problems["url"]


def test_another_address_is_another_source(shop: Shop) -> None:
    path = "projects/shop/databases/main/"
    answer = shop.admin.patch(path, {"url": "postgres://reader:x@other.example.com/shop"})
    assert answer.json["url"] == "postgres://reader:••••@other.example.com/shop"
    assert RetiredSource.objects.get().url == SOURCE


def test_mission_control_itself_is_a_database_without_an_address(shop: Shop) -> None:
    path = "projects/shop/databases/own/"
    answer = shop.admin.post(
        "projects/shop/databases/", {"alias": "own", "type": "mission-control"}
    )
    assert answer.status == 201
    made = answer.json
    assert made.pop("capture")["state"] == "starting"
    assert made == {"alias": "own", "type": "mission-control", "url": ""}
    assert shop.admin.put(path, shop.admin.get(path).json).status == 200
    assert shop.admin.post(path + "check/").json["ok"]
    assert [table["name"] for table in shop.admin.get(path + "tables/").json] == ["troubles"]
    for url in ("postgres://db/shop", "://", 7):
        answer = shop.admin.patch(path, {"url": url})
        assert answer.status == 422
        assert set(answer.problems) == {"url"}
    assert shop.admin.patch(path, {"schemas": ["public"]}).status == 422
    assert shop.admin.patch(path, {"type": "postgres"}).status == 422
    assert shop.admin.patch(path, {"type": "postgres", "url": SOURCE}).json["url"] == MASKED
    # And back: the address is not kept for it.
    assert shop.admin.patch(path, {"type": "mission-control"}).status == 422
    assert shop.admin.patch(path, {"type": "mission-control", "url": None}).json["url"] == ""
    assert shop.admin.patch(path, {"alias": "renamed"}).json["alias"] == "renamed"
    assert Database.objects.get(alias="renamed").url == ""


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"url": "mysql://u:hunter2@h/d"}, "url", "the scheme 'mysql'"),
        ({"url": "postgres://u:hunter2@h"}, "url", "without database name"),
        ({"url": MASKED.replace("db.", "db2.")}, "url", "masked password"),
        ({"url": 7}, "url", ""),
        ({"url": "${SECRET_KEY}"}, "url", "for administrators of the installation"),
        ({"alias": "no spaces"}, "alias", "'no spaces'"),
        ({"alias": "OTHER"}, "alias", "an alias no other database has"),
        ({"type": "oracle"}, "type", "'oracle'"),
        ({"schemas": "a\x00b"}, "schemas", "a list of schema names"),
        ({"port": 5432}, "port", "an unknown field"),
    ],
)
def test_a_bad_database_is_refused_and_changes_nothing(
    shop: Shop, fields: dict[str, Any], field: str, message: str
) -> None:
    make_database(shop.project, SOURCE, alias="other")
    before = shop.admin.get("projects/shop/databases/").json
    given = {"alias": "new", "type": "postgres", "url": SOURCE} | fields
    for answer in (
        shop.admin.post("projects/shop/databases/", given),
        shop.admin.patch("projects/shop/databases/main/", fields),
    ):
        assert answer.status == 422
        assert message in answer.problems[field]
        assert b"hunter2" not in answer.content
    assert shop.admin.get("projects/shop/databases/").json == before


def test_how_capture_fares_is_shown(shop: Shop) -> None:
    path = "projects/shop/databases/main/"
    assert shop.viewer.get(path).json["capture"] == {
        "state": "starting",
        "error": None,
        "mend": None,
        "next_try_at": None,
        "lag_ms": None,
        "lag_bytes": None,
        "kept_log_bytes": None,
        "position": None,
        "last_change_at": None,
    }
    CaptureLease.objects.create(
        database=shop.database,
        state="blocked",
        error="wal_level is replica",
        mend="ALTER SYSTEM SET wal_level = logical",
        position="0/1",
        lag_ms=7,
        expires_at=timezone.now() + timedelta(minutes=1),
    )
    capture = shop.viewer.get(path).json["capture"]
    assert capture["state"] == "blocked"
    assert capture["mend"] == "ALTER SYSTEM SET wal_level = logical"
    assert (capture["lag_ms"], capture["position"]) == (7, "0/1")
    shop.admin.patch("projects/shop/settings/", {"eventing": {"enabled": False}})
    assert shop.viewer.get(path).json["capture"]["state"] == "off"


def test_a_database_that_a_trigger_names_alone_stays(shop: Shop) -> None:
    make_trigger(shop.project, HOOK, name="bound", databases=["main"])
    answer = shop.admin.delete("projects/shop/databases/main/")
    assert answer.status == 422
    assert "bound" in answer.problems["alias"]
    assert shop.admin.get("projects/shop/databases/main/").status == 200


def test_the_doctor_checks_a_database(
    shop: Shop, postgres_server: PostgresServer, source_database: str
) -> None:
    path = "projects/shop/databases/source/"
    make_database(shop.project, source_database, alias="source")
    answer = shop.admin.post(path + "check/")
    assert answer.status == 200
    assert answer.json["ok"] is True
    for finding in answer.json["findings"]:
        assert set(finding) == {"name", "status", "what", "why", "mend", "restart"}
    missing = source_database.rpartition("/")[0] + "/no_such_database"
    assert shop.admin.patch(path, {"url": missing}).status == 200
    answer = shop.admin.post(path + "check/")
    assert answer.status == 200
    assert answer.json["ok"] is False


# Triggers


def test_a_trigger_is_made_with_its_defaults(shop: Shop) -> None:
    body = {"name": "t", "url": HOOK, "operations": ["delete", "insert"], "tables": ["users"]}
    answer = shop.editor.post("projects/shop/triggers/", body)
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/projects/shop/triggers/t/"
    assert answer.json == {
        "name": "t",
        "databases": [],
        "tables": ["users"],
        "operations": ["insert", "delete"],
        "url": HOOK,
        "retries": 3,
        "timeout_ms": 5000,
        "state": "active",
        "backoff": {"initial_ms": 2000, "factor": 4.0, "max_ms": 3_600_000},
        "headers": {},
        "format": "spacecloud",
        "concurrency": 64,
        "rate_per_second": 0,
        "ordered": False,
        "live": False,
        "problem": None,
        "signing_secrets": 1,
        "breaker": CLOSED,
    }
    assert shop.viewer.get("projects/shop/triggers/t/").json == answer.json


def test_a_trigger_read_and_sent_back_is_the_same(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    body = shop.editor.get(path).json
    before = trigger_definition_of(shop.trigger)
    assert shop.editor.put(path, body).json == body
    assert trigger_definition_of(Trigger.objects.get(name="welcome-email")) == before


def test_header_values_are_written_and_never_read(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    assert shop.editor.get(path).json["headers"] == {"X-Shop": "••••"}
    answer = shop.editor.patch(path, {"headers": {"Authorization": "Bearer s3cret"}})
    assert answer.json["headers"] == {"X-Shop": "••••", "Authorization": "••••"}
    headers = {"Authorization": "••••", "X-New": "n"}
    answer = shop.editor.put(path, {"url": HOOK, "operations": ["insert"], "headers": headers})
    assert set(answer.json["headers"]) == {"Authorization", "X-New"}
    stored = trigger_definition_of(Trigger.objects.get(name="welcome-email"))
    assert stored.headers == {"Authorization": "Bearer s3cret", "X-New": "n"}
    answer = shop.editor.patch(path, {"headers": {"X-New": None}})
    assert answer.json["headers"] == {"Authorization": "••••"}
    assert b"s3cret" not in answer.content


def test_a_mask_for_a_header_that_is_not_stored_is_refused(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    answer = shop.editor.patch(path, {"headers": {"X-Other": "••••"}})
    assert answer.status == 422
    assert "headers.X-Other" in answer.problems


def test_a_reference_in_a_header_survives_a_change(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "t0ken")
    path = "projects/shop/triggers/welcome-email/"
    body = {"headers": {"Authorization": "Bearer ${HOOK_TOKEN}"}}
    assert shop.api_of["root"].patch(path, body).status == 200
    monkeypatch.delenv("HOOK_TOKEN")
    assert shop.editor.patch(path, {"retries": 5}).status == 200
    stored = trigger_definition_of(Trigger.objects.get(name="welcome-email"))
    assert stored.headers["Authorization"] == "Bearer t0ken"
    assert stored.header_references == {"Authorization": "Bearer ${HOOK_TOKEN}"}


def test_a_trigger_is_changed_field_by_field(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    answer = shop.editor.patch(path, {"backoff": {"factor": 2}, "state": "paused", "retries": 7})
    assert answer.json["backoff"] == {"initial_ms": 2000, "factor": 2.0, "max_ms": 3_600_000}
    assert (answer.json["state"], answer.json["retries"]) == ("paused", 7)
    assert shop.editor.patch(path, {"retries": None}).json["retries"] == 3
    assert shop.editor.patch(path, {"name": "hello"}).json["name"] == "hello"
    assert shop.editor.get(path).status == 404
    assert shop.editor.get("projects/shop/triggers/hello/").status == 200


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"url": "ftp://example.com"}, "url", "http:// or https://"),
        ({"url": "https://u:p@example.com"}, "url", "a user name or password"),
        ({"retries": 101}, "retries", "retries: got 101; allowed: a whole number from 0 to 100"),
        ({"retries": -1}, "retries", "-1"),
        ({"retries": "3"}, "retries", "'3'"),
        ({"retries": 10**19}, "retries", "a whole number"),
        ({"timeout_ms": 0}, "timeout_ms", "from 1 to 600000"),
        ({"operations": []}, "operations", "insert, update, delete"),
        ({"operations": ["truncate"]}, "operations", "insert, update, delete"),
        ({"databases": ["nope"]}, "databases", "the aliases main"),
        ({"tables": ["a\x00b"]}, "tables", "a list of table names"),
        ({"state": "off"}, "state", "active, paused, disabled"),
        ({"backoff": {"factor": 0}}, "backoff.factor", "from 1 to 100"),
        ({"backoff": {"colour": 0}}, "backoff.colour", "an unknown field"),
        ({"headers": {"Host": "x"}}, "headers.Host", "set by Mission Control"),
        ({"headers": {"X": "${SECRET_KEY}"}}, "headers.X", "for administrators"),
        ({"headers": {"X": {"y": 1}}}, "headers.X", "text on one line"),
        ({"name": "OTHER"}, "name", "a name no other trigger has"),
        ({"name": "-"}, "name", "'-'"),
        ({"retrys": 1}, "retrys", "an unknown field"),
    ],
)
def test_a_bad_trigger_is_refused_and_changes_nothing(
    shop: Shop, fields: dict[str, Any], field: str, message: str
) -> None:
    make_trigger(shop.project, HOOK, name="other")
    before = shop.editor.get("projects/shop/triggers/").json
    given = {"name": "new", "url": HOOK, "operations": ["insert"]} | fields
    for answer in (
        shop.editor.post("projects/shop/triggers/", given),
        shop.editor.patch("projects/shop/triggers/welcome-email/", fields),
    ):
        assert answer.status == 422
        assert message in answer.problems[field]
    assert shop.editor.get("projects/shop/triggers/").json == before


def test_an_open_breaker_is_shown_and_closed_by_a_change(shop: Shop) -> None:
    Breakers().open(shop.trigger.pk, "100 attempts in a row failed")
    path = "projects/shop/triggers/welcome-email/"
    breaker = shop.viewer.get(path).json["breaker"]
    assert breaker["state"] == "open"
    assert breaker["reason"] == "100 attempts in a row failed"
    assert breaker["opened_at"] < breaker["next_probe_at"]
    assert shop.editor.patch(path, {"url": "http://127.0.0.1/mended"}).json["breaker"] == CLOSED


def test_a_trigger_is_live_once_capture_applies_it(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    assert shop.viewer.get(path).json["live"] is False
    CaptureLease.objects.create(
        database=shop.database,
        state="streaming",
        applied_version=configuration_version(),
        expires_at=timezone.now() + timedelta(minutes=1),
    )
    assert shop.viewer.get(path).json["live"] is True
    assert [each["live"] for each in shop.viewer.get("projects/shop/triggers/").json] == [True]
    assert shop.editor.patch(path, {"tables": ["users"]}).json["live"] is False


def test_a_deleted_trigger_takes_its_unfinished_events_with_it(
    shop: Shop, log: PostgresEventLog
) -> None:
    (event,) = shop.events(log)
    assert shop.editor.delete("projects/shop/triggers/welcome-email/").status == 204
    shown = shop.viewer.get(f"projects/shop/events/{event.id}/").json
    assert shown["status"] == "cancelled"


def test_a_test_event_shows_the_whole_exchange(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    with Receiver() as receiver:
        receiver.behave("/hook", Behaviour(statuses=[418], body=b"short and stout"))
        assert shop.editor.patch(path, {"url": receiver.url("/hook")}).status == 200
        answer = shop.editor.post(path + "test/")
        (received,) = receiver.received("/hook")
    assert answer.status == 200
    trial = answer.json
    assert (trial["delivered"], trial["status_code"]) == (False, 418)
    assert trial["response_body"] == "short and stout"
    assert trial["payload"] == received.json()
    assert trial["error_kind"] is None
    assert received.headers["x-shop"] == "open sesame"
    assert trial["request_headers"]["X-Shop"] == "••••"
    assert b"open sesame" not in answer.content
    assert shop.viewer.get("projects/shop/events/").json["results"] == []


def test_a_test_event_to_nobody_says_why(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    with Receiver() as receiver:
        url = receiver.url("/hook")
    shop.editor.patch(path, {"url": url})
    trial = shop.editor.post(path + "test/").json
    assert (trial["delivered"], trial["status_code"]) == (False, None)
    assert trial["error_kind"] == "refused"


def test_a_trigger_that_is_not_saved_is_tried_out(shop: Shop) -> None:
    draft = {"operations": ["insert"], "tables": ["pots"], "headers": {"X-Shop": "••••"}}
    with Receiver() as receiver:
        url = receiver.url("/draft")
        refused = shop.editor.post("projects/shop/try/", {**draft, "url": url})
        assert "none is stored under this name" in refused.problems["headers.X-Shop"]
        trial = shop.editor.post("projects/shop/try/", {**draft, "url": url, "headers": {}}).json
        given = {**draft, "url": url, "of": "welcome-email"}
        as_stored = shop.editor.post("projects/shop/try/", given).json
        unsigned, signed = receiver.received("/draft")
    assert trial["delivered"]
    assert as_stored["delivered"]
    assert trial["payload"]["data"]["col"] == "pots"
    assert "webhook-signature" not in unsigned.headers
    assert "webhook-signature" in signed.headers
    assert signed.headers["x-shop"] == "open sesame"
    assert [each["name"] for each in shop.viewer.get("projects/shop/triggers/").json] == [
        "welcome-email"
    ]
    unknown = shop.editor.post("projects/shop/try/", {**given, "of": "nothing"})
    assert "the name of a trigger of this project" in unknown.problems["of"]
    assert "url" in shop.editor.post("projects/shop/try/", draft).problems


def test_a_sample_shows_what_would_be_sent_for_a_row_that_is_there(
    shop: Shop, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE pots (id bigint PRIMARY KEY, price numeric)")
    Database.objects.update(url=source_database)
    draft = {"operations": ["insert"], "tables": ["pots"]}
    assert shop.editor.post("projects/shop/sample/", draft).json == {
        "payload": None,
        "database": None,
    }
    execute(source_database, "INSERT INTO pots VALUES (7, 1.50)")
    answer = shop.editor.post("projects/shop/sample/", draft)
    assert answer.json["database"] == "main"
    assert answer.json["payload"]["data"]["docId"] == "7"
    assert b'"price":1.50' in answer.content.replace(b" ", b"")
    wrong = shop.editor.post("projects/shop/sample/", {**draft, "operations": ["look"]})
    assert "operations" in str(wrong.problems)


def test_signing_secrets_are_replaced_and_retired(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/secret/"
    (old,) = shop.editor.post(path).json["secrets"]
    none_older = shop.editor.post(f"{path}retire/")
    assert (none_older.status, none_older.json["detail"]) == (
        409,
        "there is no older secret to retire",
    )
    (new,) = shop.editor.post(f"{path}rotate/").json["secrets"]
    assert shop.editor.post(path).json["secrets"] == [new, old]
    again = shop.editor.post(f"{path}rotate/")
    assert again.status == 409
    assert "retire the old one first" in again.json["detail"]
    assert shop.editor.post(f"{path}retire/").status == 204
    assert shop.editor.post(path).json["secrets"] == [new]
    actions = [each["action"] for each in shop.admin.get("projects/shop/audit/").json["results"]]
    assert {"trigger.rotate_secret", "trigger.retire_secret"} <= set(actions)


@pytest.mark.parametrize("path", ["projects/shop/triggers/", "projects/shop/databases/"])
def test_a_list_costs_the_same_number_of_queries_however_long(shop: Shop, path: str) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert shop.viewer.get(path).status == 200
        return len(queries)

    few = cost()
    for number in range(5):
        make_database(shop.project, SOURCE, alias=f"d{number}")
        make_trigger(shop.project, HOOK, name=f"t{number}", databases=[f"d{number}"])
    assert cost() <= few
