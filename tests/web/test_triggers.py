"""Triggers: the form with the seed's labels, its refusals, and what can be done with one."""

import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client

from eventing.access import command_line
from eventing.breakers import Breakers
from eventing.definitions import TROUBLE_KINDS, TriggerDefinition
from eventing.history import redeliver
from eventing.models import AuditEntry, Database, Trigger
from eventing.projects import configuration_change, rotate_signing_secret, trigger_definition_of
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_outcome,
    make_trigger,
)
from tests.receiver import Behaviour, Receiver
from tests.servers import execute
from tests.waiting import wait_until
from tests.web.conftest import HOOK, SOURCE, Shop

GIVEN: dict[str, Any] = {
    "name": "audit",
    "databases": ["main"],
    "tables": "users, billing.*",
    "operations": ["insert", "delete"],
    "url": "https://example.com/audit",
    "retries": "5",
    "timeout_ms": "2500",
    "backoff_initial_ms": "1000",
    "backoff_factor": "2.5",
    "backoff_max_ms": "60000",
    "concurrency": "8",
    "header_name": ["X-Tenant", ""],
    "header_value": ["eu", ""],
}


def test_the_form_makes_the_trigger_it_describes(shop: Shop, editor: Client) -> None:
    answer = editor.post(shop.path("triggers/add/"), GIVEN)
    assert (answer.status_code, answer.headers["Location"]) == (303, shop.path("triggers/audit/"))
    trigger = Trigger.objects.get(name="audit")
    definition = trigger_definition_of(trigger)
    assert definition.databases == ("main",)
    assert definition.tables == ("users", "billing.*")
    assert definition.operations == ("insert", "delete")
    assert (definition.retries, definition.timeout_ms, definition.concurrency) == (5, 2500, 8)
    assert (definition.backoff.factor, definition.backoff.max_ms) == (2.5, 60000)
    assert definition.headers == {"X-Tenant": "eu"}


def test_how_events_are_sent_can_be_set_seen_and_changed(shop: Shop, editor: Client) -> None:
    limits = {"format": "cloudevents-batch", "rate_per_second": "50", "ordered": "on"}
    editor.post(shop.path("triggers/add/"), {**GIVEN, **limits})
    definition = trigger_definition_of(Trigger.objects.get(name="audit"))
    assert (definition.format, definition.rate_per_second) == ("cloudevents-batch", 50)
    assert definition.ordered
    page = editor.get(shop.path("triggers/audit/")).content.decode()
    assert "At most 50 requests begin each second." in page
    assert "cloudevents-batch, in order" in page
    form = editor.get(shop.path("triggers/audit/edit/")).content.decode()
    assert 'value="cloudevents-batch" selected' in form
    assert re.search(r'<input[^>]*name="ordered"[^>]* checked', form)
    again = {name: given for name, given in GIVEN.items() if "header" not in name}
    editor.post(shop.path("triggers/audit/edit/"), again)
    assert not trigger_definition_of(Trigger.objects.get(name="audit")).ordered


def test_an_open_breaker_is_explained_and_can_be_closed(shop: Shop, editor: Client) -> None:
    Breakers().open(shop.trigger.pk, "100 attempts in a row failed")
    page = editor.get(shop.path("triggers/welcome-email/")).content.decode()
    assert "100 attempts in a row failed." in page
    assert "Deliver now" in page
    assert "deliveries held" in editor.get(shop.path("triggers/")).content.decode()
    editor.post(shop.path("triggers/welcome-email/state/"), {"state": "active"})
    assert "Deliver now" not in editor.get(shop.path("triggers/welcome-email/")).content.decode()


def test_what_is_left_blank_gets_its_default(shop: Shop, editor: Client) -> None:
    given = {"name": "small", "operations": ["update"], "url": HOOK, "retries": ""}
    assert editor.post(shop.path("triggers/add/"), given).status_code == 303
    definition = trigger_definition_of(Trigger.objects.get(name="small"))
    assert (definition.retries, definition.timeout_ms, definition.databases) == (3, 5000, ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "beginning with a letter or digit"),
        ({"name": "welcome-email"}, "a name no other trigger has"),
        ({"name": "Welcome-Email"}, "a name no other trigger has"),
        ({"url": "ftp://example.com"}, "an address that begins with http:// or https://"),
        ({"url": "https://user:word@example.com"}, "credentials in a header"),
        ({"operations": []}, "one or more of insert, update, delete"),
        ({"rate_per_second": "-1"}, "a whole number from 0 to 1000000"),
        ({"format": "xml"}, "one of spacecloud, cloudevents, cloudevents-binary"),
        ({"retries": "101"}, "a whole number from 0 to 100"),
        ({"retries": "many"}, "Got &#x27;many&#x27;"),
        ({"timeout_ms": "0"}, "a whole number from 1 to 600000"),
        ({"backoff_factor": "0.5"}, "a number from 1 to 100"),
        ({"concurrency": "1.5"}, "a whole number from 1 to 10000"),
        ({"databases": ["other"]}, "the aliases main"),
        ({"header_name": ["Host"], "header_value": ["x"]}, "it is set by Mission Control"),
        ({"header_name": ["a b"], "header_value": ["x"]}, "a header name of letters"),
        ({"header_name": ["X"], "header_value": ["${SECRET_KEY}"]}, "for administrators"),
        ({"state": "sleeping"}, "one of active, paused, disabled"),
    ],
)
def test_bad_input_is_refused_at_its_field_and_changes_nothing(
    shop: Shop, editor: Client, change: dict[str, Any], words: str
) -> None:
    answer = editor.post(shop.path("triggers/add/"), GIVEN | change)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert Trigger.objects.count() == 1


def test_headers_that_are_stored_can_be_kept_replaced_and_removed(
    shop: Shop, editor: Client
) -> None:
    headers = {"Keep": "k", "Replace": "r", "Remove": "x"}
    trigger = make_trigger(shop.project, HOOK, name="headers", headers=headers)
    given = {
        "name": "headers",
        "operations": ["insert"],
        "url": HOOK,
        "header:Replace": "replace",
        "header_value:Replace": "new",
        "header:Remove": "remove",
        "header_name": "Added",
        "header_value": "a",
    }
    assert editor.post(shop.path("triggers/headers/edit/"), given).status_code == 303
    trigger.refresh_from_db()
    expected = {"Keep": "k", "Replace": "new", "Added": "a"}
    assert trigger_definition_of(trigger).headers == expected
    answer = editor.post(shop.path("triggers/headers/edit/"), {**given, "header_name": "keep"})
    assert answer.status_code == 422
    trigger.refresh_from_db()
    assert trigger_definition_of(trigger).headers == expected


def test_a_trigger_called_add_has_a_page(shop: Shop, editor: Client) -> None:
    answer = editor.post(shop.path("triggers/add/"), {**GIVEN, "name": "add"})
    assert answer.headers["Location"] == shop.path("triggers/~add/")
    assert editor.get(shop.path("triggers/~add/")).status_code == 200


def test_the_switch_pauses_and_resumes(shop: Shop, editor: Client) -> None:
    path = shop.path("triggers/welcome-email/state/")
    back = shop.path("triggers/?state=active")
    answer = editor.post(path, {"state": "paused", "next": back})
    assert (answer.status_code, answer.headers["Location"]) == (303, back)
    shop.trigger.refresh_from_db()
    assert shop.trigger.state == "paused"
    assert editor.post(path, {"state": "asleep"}).status_code == 422
    answer = editor.post(path, {"state": "active", "next": "https://evil.example/"})
    assert answer.headers["Location"] == shop.path("triggers/welcome-email/")


def test_the_list_can_be_searched_and_filtered(shop: Shop, viewer: Client) -> None:
    make_trigger(shop.project, "https://erp.example.com", name="erp", operations=["delete"])
    for query, found in (
        ("q=ERP.ex", {"erp"}),
        ("q=users", {"welcome-email"}),
        ("operation=delete", {"erp"}),
        ("database=main", {"erp", "welcome-email"}),
        ("state=paused", set()),
        ("q=nothing-like-it", set()),
    ):
        text = viewer.get(shop.path(f"triggers/?{query}")).content.decode()
        shown = {name for name in ("erp", "welcome-email") if f"triggers/{name}/" in text}
        assert shown == found, query
    assert "No trigger matches" in text


def test_triggers_that_fail_are_found_and_stand_out(shop: Shop, viewer: Client) -> None:
    path, failing = shop.path("triggers/"), shop.path("triggers/?state=failing")
    shop.add_events(2)
    assert "No trigger matches." in viewer.get(failing).content.decode()
    # None of its events has failed yet: all of them are still being tried.
    refused = make_trigger(shop.project, HOOK, name="refused")
    origin, change = make_origin(shop.project, shop.database.pk), make_change(document_id="waits")
    (event,) = make_events([change], origin, refused.pk, refused.name)
    shop.log.append(origin, [event], shop.log.position(shop.database.pk), change.position)
    (claim,) = shop.log.claim([event.id], 30)
    shop.log.record([make_outcome(claim, 503, 60_000)], "worker-1")
    text = viewer.get(failing).content.decode()
    assert ">refused</a>" in text
    assert '<span class="tabular bad">retrying</span>' in text
    assert f">{shop.trigger.name}</a>" not in text
    assert f">{shop.trigger.name}</a>" in viewer.get(path).content.decode()
    shop.add_events(1, status_code=500)
    held = make_trigger(shop.project, HOOK, name="held")
    Breakers().open(held.pk, "100 attempts in a row failed")
    text = viewer.get(failing).content.decode()
    assert '<span class="tabular bad">' in text.partition(f">{shop.trigger.name}</a>")[2]
    assert ">held</a>" in text
    assert "3 of 3 triggers" in text


def test_the_list_tells_of_the_last_24_hours(shop: Shop, viewer: Client) -> None:
    make_trigger(shop.project, HOOK, name="quiet")
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    text = viewer.get(shop.path("triggers/")).content.decode()
    assert "75.0 %" in text
    assert "3 delivered, 0 attempts retried, 1 failed in the last 24 hours" in text
    assert text.count("chart-failed") == text.count("chart-delivered") == 1


def test_a_copy_begins_with_everything_but_the_secrets(shop: Shop, editor: Client) -> None:
    text = editor.get(shop.path("triggers/add/?from=welcome-email")).content.decode()
    assert 'value="welcome-email-copy"' in text
    assert 'value="Authorization"' in text
    assert "hook-s3cret" not in text


def test_deleting_says_how_many_pending_events_go_too(shop: Shop, editor: Client) -> None:
    from tests.factories import make_change, make_events, make_origin

    origin = make_origin(shop.project, shop.database.pk)
    changes = [make_change() for _ in range(3)]
    events = make_events(changes, origin, shop.trigger.pk, shop.trigger.name)
    shop.log.append(origin, events, None, changes[-1].position)
    path = shop.path("triggers/welcome-email/delete/")
    assert "3 events" in editor.get(path).content.decode()
    assert editor.post(path).headers["Location"] == shop.path("triggers/")
    assert not Trigger.objects.exists()
    assert shop.log.counts(shop.project.pk)["cancelled"] == 3


def test_the_signing_secret_is_shown_on_request_and_not_kept(shop: Shop, editor: Client) -> None:
    answer = editor.post(shop.path("triggers/welcome-email/secret/"))
    assert "whsec_" in answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"]
    assert editor.get(shop.path("triggers/welcome-email/secret/")).status_code == 405


def test_the_preview_says_what_the_trigger_will_do(shop: Shop, editor: Client) -> None:
    text = editor.post(shop.path("triggers/preview/"), GIVEN).content.decode()
    assert "When a row is inserted or deleted in users or billing.* of main" in text
    assert "after about 1 s, 2.5 s" in text
    bad = {**GIVEN, "url": "nonsense", "touched": "url"}
    text = editor.post(shop.path("triggers/preview/"), bad).content.decode()
    assert 'id="error_url"' in text
    assert "begins with http:// or https://" in text
    assert 'id="error_name"' not in text


def test_a_test_event_is_sent_and_the_whole_exchange_shown(shop: Shop, editor: Client) -> None:
    with Receiver() as receiver:
        receiver.behave("/hook", Behaviour(statuses=(418,), body=b"short <and> stout"))
        make_trigger(shop.project, receiver.url("/hook"), name="tea", tables=["pots"])
        text = editor.post(shop.path("triggers/tea/test/")).content.decode()
        (request,) = receiver.wait_for(1, "/hook")
    assert request.json()["data"]["col"] == "pots"
    for words in ("not taken", "418", "short &lt;and&gt; stout", "webhook-signature", request.id):
        assert words in text
    assert shop.log.counts(shop.project.pk)["failed"] == 0


def test_a_test_event_of_a_trigger_on_troubles_looks_like_one(
    shop: Shop, editor: Client, receiver: Receiver
) -> None:
    make_database(shop.project, "", "own", type="mission-control")
    make_trigger(shop.project, receiver.url("/hook"), "on-troubles", databases=["own"])
    assert editor.post(shop.path("triggers/on-troubles/test/")).status_code == 200
    (sent,) = receiver.received("/hook")
    of = sent.json()["data"]
    assert (of["db"], of["col"], of["docId"]) == ("mission-control", "troubles", "0")
    assert of["doc"]["kind"] in TROUBLE_KINDS
    assert list(of["doc"]) == ["id", "kind", "object", "reason", "began_at", "ended_at"]


def test_a_test_event_that_reaches_nobody_says_so(shop: Shop, editor: Client) -> None:
    make_trigger(shop.project, "http://127.0.0.1:1/none", name="nobody")
    answer = editor.post(shop.path("triggers/nobody/test/"), headers={"HX-Request": "true"})
    text = answer.content.decode()
    assert "not taken" in text
    assert "refused" in text
    assert "<html" not in text


def test_a_form_that_is_not_saved_is_tried_out(shop: Shop, editor: Client, viewer: Client) -> None:
    path = shop.path("triggers/try/")
    with Receiver() as receiver:
        given = {**GIVEN, "url": receiver.url("/draft"), "name": ""}
        assert viewer.post(path, given).status_code == 403
        text = editor.post(path, given).content.decode()
        (request,) = receiver.wait_for(1, "/draft")
        for words in ("taken", request.id, "X-Tenant", "Nothing was saved.", "not signed"):
            assert words in text
        assert "webhook-signature" not in {name.lower() for name in request.headers}
        assert request.json()["data"]["col"] == "users"
        # As the stored trigger it would become: signed, and with the header that it keeps.
        given = {**GIVEN, "url": receiver.url("/stored"), "of": "welcome-email"}
        text = editor.post(path, given, headers={"HX-Request": "true"}).content.decode()
        (request,) = receiver.wait_for(1, "/stored")
    assert "<html" not in text
    assert request.headers["authorization"] == "Bearer hook-s3cret"
    assert "hook-s3cret" not in text
    assert "webhook-signature" in text
    assert Trigger.objects.count() == 1
    refused = editor.post(path, {**GIVEN, "url": "nonsense"})
    assert refused.status_code == 422
    assert "begins with http:// or https://" in refused.content.decode()


def test_a_sample_is_a_payload_of_a_row_that_is_there(
    shop: Shop, editor: Client, viewer: Client, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE users (id bigint PRIMARY KEY, spent numeric)")
    path = shop.path("triggers/sample/")
    given = {"databases": ["live"], "tables": "us*", "operations": ["update"]}
    assert "the aliases main" in editor.post(path, given).content.decode()
    make_database(shop.project, source_database, alias="live")
    assert viewer.post(path, given).status_code == 403
    assert "No row yet" in editor.post(path, given).content.decode()
    execute(source_database, "INSERT INTO users VALUES (7, 12345678901234567890.10)")
    text = editor.post(path, given).content.decode()
    for words in ("DB_UPDATE", "12345678901234567890.10", "in live now"):
        assert words in text
    assert "one or more of" in editor.post(path, {**given, "operations": []}).content.decode()


def test_every_field_of_the_configuration_can_be_set_seen_and_changed(
    shop: Shop, editor: Client
) -> None:
    """Those of a trigger, counted: none that the file knows is missing in the console."""
    first: dict[str, Any] = {
        "name": "all-fields",
        "databases": ["main"],
        "tables": "a, b.*",
        "operations": ["insert", "delete"],
        "url": "https://example.com/first",
        "retries": "11",
        "timeout_ms": "1234",
        "state": "paused",
        "backoff_initial_ms": "1001",
        "backoff_factor": "1.5",
        "backoff_max_ms": "70001",
        "header_name": ["X-First"],
        "header_value": ["one"],
        "format": "cloudevents",
        "concurrency": "7",
        "rate_per_second": "41",
        "ordered": "on",
    }
    second: dict[str, Any] = {
        "name": "all-fields-2",
        "databases": [],
        "tables": "c",
        "operations": ["update"],
        "url": "https://example.com/second",
        "retries": "0",
        "timeout_ms": "4321",
        "state": "disabled",
        "backoff_initial_ms": "2002",
        "backoff_factor": "3",
        "backoff_max_ms": "80002",
        "header:X-First": "remove",
        "header_name": ["X-Second"],
        "header_value": ["two"],
        "format": "spacecloud",
        "concurrency": "9",
        "rate_per_second": "0",
    }
    assert editor.post(shop.path("triggers/add/"), first).status_code == 303
    before = trigger_definition_of(Trigger.objects.get(name="all-fields"))
    form = editor.get(shop.path("triggers/all-fields/edit/")).content.decode()
    for name, value in first.items():
        for each in [value] if isinstance(value, str) else value:
            if name not in ("ordered", "header_value"):
                assert each in form, name
    path = shop.path("triggers/all-fields/edit/")
    assert editor.post(path, second).status_code == 303
    after = trigger_definition_of(Trigger.objects.get(name="all-fields-2"))
    names = {field.name for field in fields(TriggerDefinition)} - {"header_references"}
    assert len(names) == 14
    assert [name for name in names if getattr(before, name) == getattr(after, name)] == []


def test_a_signing_secret_is_replaced_without_a_moment_unsigned(
    shop: Shop, editor: Client, viewer: Client
) -> None:
    path = shop.path("triggers/welcome-email/secret/")
    with Receiver() as receiver:
        Trigger.objects.update(url=receiver.url("/hook"))

        def signatures() -> int:
            editor.post(shop.path("triggers/welcome-email/test/"))
            sent = receiver.received("/hook")[-1]
            return len(sent.headers["webhook-signature"].split())

        assert signatures() == 1
        (old,) = re.findall("whsec_[^<]*", editor.post(path).content.decode())
        assert viewer.post(f"{path}rotate/").status_code == 403
        answer = editor.post(f"{path}rotate/")
        (new,) = re.findall("whsec_[^<]*", answer.content.decode())
        assert new != old
        assert "no-store" in answer.headers["Cache-Control"]
        assert re.findall("whsec_[^<]*", editor.post(path).content.decode()) == [new, old]
        assert signatures() == 2
        again = editor.post(f"{path}rotate/", follow=True).content.decode()
        assert "retire the old one first" in again
        assert "Two secrets are active" in again
        asked = editor.get(f"{path}retire/").content.decode()
        assert "refuses them" in asked
        assert "No event is waiting for delivery" in asked
        assert signatures() == 2
        editor.post(f"{path}retire/")
        assert signatures() == 1
    assert re.findall("whsec_[^<]*", editor.post(path).content.decode()) == [new]
    assert "no older secret" in editor.post(f"{path}retire/", follow=True).content.decode()
    entries = AuditEntry.objects.filter(action__contains="_secret")
    assert {entry.action for entry in entries} == {
        "trigger.reveal_secret",
        "trigger.rotate_secret",
        "trigger.retire_secret",
    }
    assert "whsec_" not in str(list(entries.values()))


@pytest.mark.django_db(transaction=True)
def test_saving_a_form_undoes_nothing_that_is_changed_at_that_moment(
    shop: Shop, editor: Client, admin: Client
) -> None:
    """A signing secret that is replaced and a password that is changed stay so."""
    trigger_form = {**GIVEN, "name": "welcome-email", "header_name": [], "header_value": []}
    database_form = {
        "alias": "main",
        "type": "postgres",
        "host": "db.example.com",
        "port": "5433",
        "database": "shop",
        "user": "somebody",
        "tls": "",
    }
    posts = [
        (editor, shop.path("triggers/welcome-email/edit/"), trigger_form),
        (admin, shop.path("databases/main/"), database_form),
    ]
    with ThreadPoolExecutor(2) as pool:
        with configuration_change():
            answers = [pool.submit(_post, *post) for post in posts]
            wait_until(lambda: _waiting_for_a_lock() == 2)
            new = rotate_signing_secret(shop.trigger, by=command_line())
            Trigger.objects.update(headers=json.dumps({"Authorization": "newer"}))
            Database.objects.update(url=SOURCE.replace("s3cret-word", "n3w-word"))
        assert [answer.result() for answer in answers] == [303, 303]
    trigger = Trigger.objects.get()
    assert trigger.retries == 5
    assert json.loads(trigger.signing_secrets)[0] == new
    assert json.loads(trigger.headers) == {"Authorization": "newer"}
    assert "somebody:n3w-word@" in Database.objects.get().url


def _post(client: Client, path: str, form: dict[str, Any]) -> int:
    try:
        return client.post(path, form).status_code
    finally:
        connection.close()


def _waiting_for_a_lock() -> int:
    with connection.cursor() as cursor:
        # Within a transaction it would else be seen as it was at first.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def test_its_page_charts_its_own_events_and_leads_to_them(shop: Shop, viewer: Client) -> None:
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    make_trigger(shop.project, HOOK, name="other")
    for within in ("1h", "24h", "7d"):
        text = viewer.get(shop.path("triggers/welcome-email/"), {"within": within}).content.decode()
        numbers = re.findall(r'<dd><a href="[^"]*">([^<]+)<', text)
        assert numbers[:4] == ["4", "3", "1", "0"]
        assert text.count('class="chart-delivered"') == text.count('class="chart-failed"') == 1
    assert "Last 7 days: 3 delivered, 0 retried, 1 failed." in text
    row = r'<th scope="row"><a href="([^"]+)">.{,300}?data-label="Events"><a[^>]*>4<'
    with_events = re.findall(row, text)
    page = viewer.get(with_events[0].replace("&amp;", "&")).content.decode()
    assert page.count('class="event-row"') == 4
    found = re.findall(r'href="([^"]*/events/\?[^"]*)"', text)
    assert all("trigger=welcome-email" in link for link in found)
    other = viewer.get(shop.path("triggers/other/")).content.decode()
    assert "No attempt in this time" in other


def test_its_page_says_why_events_fail_and_leads_to_those(shop: Shop, viewer: Client) -> None:
    path = shop.path("triggers/welcome-email/")
    shop.add_events(2)
    assert "Why events fail" not in viewer.get(path).content.decode()
    shop.add_events(3, status_code=503)
    shop.add_events(1, status_code=None)
    (waits,) = shop.add_events(1, status_code=None)
    # One that is to be sent again though it was delivered tells of no failure.
    again = shop.add_events(1)
    redeliver(shop.project, [UUID(each) for each in [waits, *again]], by=command_line())
    text = viewer.get(path).content.decode()
    told = text.partition("Why events fail")[2].partition("</section>")[0]
    found = re.findall(r'href="([^"]+)" title="([^"]+)".*?(\d+) event', told)
    assert [(words, count) for _, words, count in found] == [
        ("503 Service Unavailable", "3"),
        ("refused", "2"),
    ]
    for address, _, count in found:
        rows = viewer.get(html.unescape(address)).content.decode().count('class="event-row"')
        assert str(rows) == count, address


def test_triggers_are_found_by_a_table_that_they_watch(shop: Shop, viewer: Client) -> None:
    make_trigger(shop.project, HOOK, "every-table")
    make_trigger(shop.project, HOOK, "glob", tables=["us*"])
    make_trigger(shop.project, HOOK, "public-glob", tables=["public.us*"])
    make_trigger(shop.project, HOOK, "bills", tables=["billing.*"])

    def found(table: str) -> set[str]:
        text = viewer.get(shop.path("triggers/"), {"table": table}).content.decode()
        return set(re.findall(rf'href="{shop.path("triggers/")}([a-z-]+)/"', text))

    assert found("users") == {"welcome-email", "every-table", "glob", "public-glob"}
    assert found("public.users") == found("users")
    assert found("billing.users") == {"every-table", "bills"}
    assert found("users2") == {"every-table", "glob", "public-glob"}
    assert found("orders") == {"every-table"}
    make_database(shop.project, "mysql://u:p@h/d", "second", type="mysql")
    assert found("users") == {"welcome-email", "every-table", "glob", "public-glob"}
