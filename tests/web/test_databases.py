"""Databases: the two ways to give an address, testing it, and what a blocked one offers."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client

from eventing.access import command_line
from eventing.history import redeliver
from eventing.models import CaptureLease, Database, Trigger
from eventing.projects import database_definition_of, save_database
from eventing.sources.base import START_ANEW
from tests.factories import make_database
from tests.servers import execute
from tests.web.conftest import SOURCE, Shop

FIELDS: dict[str, Any] = {
    "type": "postgres",
    "alias": "orders",
    "host": "db.example.com",
    "port": "5432",
    "database": "orders",
    "user": "reader",
    "password": "p@ss/word",
    "tls": "require",
}


def _is(shop: Shop, state: str, error: str = "", mend: str = "") -> None:
    CaptureLease.objects.update_or_create(
        database=shop.database,
        defaults={
            "state": state,
            "error": error,
            "mend": mend,
            "expires_at": Now() + timedelta(minutes=1),
        },
    )


def test_fields_make_the_address(shop: Shop, admin: Client) -> None:
    given = {**FIELDS, "schemas": "public, billing"}
    assert admin.post(shop.path("databases/add/"), given).status_code == 303
    stored = Database.objects.get(alias="orders")
    expected = "postgresql://reader:p%40ss%2Fword@db.example.com:5432/orders?sslmode=require"
    assert stored.url == expected
    assert stored.schemas == ["public", "billing"]


def test_the_connection_string_wins_over_the_fields(shop: Shop, admin: Client) -> None:
    url = "postgresql://other.example.com/stock"
    assert admin.post(shop.path("databases/add/"), {**FIELDS, "url": url}).status_code == 303
    assert Database.objects.get(alias="orders").url == url


def test_an_address_can_come_from_the_environment_for_those_who_run_the_installation(
    shop: Shop, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_URL", "postgresql://db/orders")
    given = {"type": "postgres", "alias": "orders", "url": "${ORDERS_URL}"}
    answer = admin.post(shop.path("databases/add/"), given)
    assert answer.status_code == 422
    assert "for administrators of the installation" in answer.content.decode()
    User.objects.filter(username="admin").update(is_superuser=True)
    assert admin.post(shop.path("databases/add/"), given).status_code == 303
    stored = Database.objects.get(alias="orders")
    assert (stored.url, stored.url_reference) == ("postgresql://db/orders", "${ORDERS_URL}")
    assert "${ORDERS_URL}" in admin.get(shop.path("databases/orders/")).content.decode()


def test_the_variable_that_holds_an_address_is_named_in_a_field_of_its_own(
    shop: Shop, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_URL", "postgresql://db/orders")
    path = shop.path("databases/add/")
    assert 'name="variable"' not in admin.get(path).content.decode()
    given = {**FIELDS, "variable": "ORDERS_URL"}
    answer = admin.post(path, given)
    assert answer.status_code == 422
    assert "for administrators of the installation" in answer.content.decode()
    User.objects.filter(username="admin").update(is_superuser=True)
    for wrong, words in (
        ("postgresql://u:hidden-word@db/orders", "the name of a variable"),
        ("${ORDERS_URL}/x", "the name of a variable"),
        ("NO_SUCH_URL", "NO_SUCH_URL"),
    ):
        answer = admin.post(path, given | {"variable": wrong})
        assert answer.status_code == 422
        (problem,) = answer.context["form"].problems
        assert problem.field == "variable"
        assert words in str(problem)
        assert "hidden-word" not in str(problem)
    # It wins over the fields and the connection string.
    assert admin.post(path, given | {"url": "postgresql://h/d"}).status_code == 303
    stored = Database.objects.get(alias="orders")
    assert (stored.url, stored.url_reference) == ("postgresql://db/orders", "${ORDERS_URL}")
    page = admin.get(shop.path("databases/orders/")).content.decode()
    assert 'placeholder="${ORDERS_URL}"' in page
    assert "Read from there now. Leave blank to keep that." in page
    given = {**FIELDS, "alias": "stock", "variable": "${ORDERS_URL}"}
    assert admin.post(path, given).status_code == 303
    assert Database.objects.get(alias="stock").url_reference == "${ORDERS_URL}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": ""}, "a host name or an IP address"),
        ({"host": "a b"}, "a host name or an IP address"),
        ({"port": "99999"}, "a whole number from 1 to 65535"),
        ({"database": ""}, "the name of the database"),
        ({"tls": "maybe"}, "one of disable"),
        ({"alias": "", "database": "…"}, "beginning with a letter or digit"),
        ({"alias": "MAIN"}, "an alias no other database has"),
        ({"alias": "builtin"}, "any name but `builtin`"),
        ({"type": "oracle"}, "one of postgres"),
        ({"url": "mysql://h/d"}, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
        ({"url": "postgres://h"}, "an address without database name"),
    ],
)
def test_bad_input_is_refused_at_its_field_and_changes_nothing(
    shop: Shop, admin: Client, change: dict[str, str], words: str
) -> None:
    answer = admin.post(shop.path("databases/add/"), FIELDS | change)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert Database.objects.count() == 1


def test_a_blank_alias_becomes_that_of_the_database(shop: Shop, admin: Client) -> None:
    path = shop.path("databases/add/")
    given = {**FIELDS, "alias": ""}
    assert admin.post(path, {**given, "database": "_all orders!"}).status_code == 303
    url = "postgresql://other.example.com/stock.2"
    assert admin.post(path, {**given, "url": url}).status_code == 303
    aliases = set(Database.objects.values_list("alias", flat=True))
    assert aliases == {"main", "all-orders-", "stock.2"}
    answer = admin.post(path, {**given, "database": "Main"})
    assert answer.status_code == 422
    assert "an alias no other database has" in answer.content.decode()
    answer = admin.post(shop.path("databases/main/"), {**_stored_fields(), "alias": ""})
    assert answer.status_code == 422


def test_an_alias_that_cannot_be_made_is_not_asked_for_beside_what_it_is_made_of(
    shop: Shop, admin: Client
) -> None:
    answer = admin.post(shop.path("databases/add/"), {"type": "postgres", "alias": ""})
    assert set(answer.context["form"].errors) == {"host", "database"}
    answer = admin.post(shop.path("databases/add/"), {**FIELDS, "alias": "a b", "host": ""})
    assert set(answer.context["form"].errors) == {"host", "alias"}


def _stored_fields() -> dict[str, str]:
    return {
        "type": "postgres",
        "alias": "main",
        "host": "db.example.com",
        "port": "5433",
        "database": "shop",
        "user": "reader",
        "tls": "",
        "password": "",
        "url": "",
    }


def test_editing_keeps_the_address_unless_another_is_given(shop: Shop, admin: Client) -> None:
    path = shop.path("databases/main/")
    assert admin.post(path, {**_stored_fields(), "alias": "renamed"}).status_code == 303
    shop.database.refresh_from_db()
    assert (shop.database.alias, shop.database.url) == ("renamed", SOURCE)


def test_editing_the_user_keeps_password_and_options(shop: Shop, admin: Client) -> None:
    given = {**_stored_fields(), "user": "other"}
    assert admin.post(shop.path("databases/main/"), given).status_code == 303
    shop.database.refresh_from_db()
    assert shop.database.url == SOURCE.replace("reader", "other")


def test_a_stored_password_is_not_sent_to_another_host(shop: Shop, admin: Client) -> None:
    given = {**_stored_fields(), "host": "evil.example.com"}
    for action in ("save", "check"):
        answer = admin.post(shop.path("databases/main/"), {**given, "action": action})
        assert answer.status_code == 422
        assert "the password; host or port is another one" in answer.content.decode()
    shop.database.refresh_from_db()
    assert shop.database.url == SOURCE


def test_a_connection_is_tested_with_nothing_saved(
    shop: Shop, admin: Client, source_database: str
) -> None:
    given = {"type": "postgres", "alias": "new", "url": source_database, "action": "check"}
    text = admin.post(shop.path("databases/add/"), given).content.decode()
    assert "eady to be captured" in text
    assert "wal_level" in text
    assert Database.objects.count() == 1


def test_a_connection_that_fails_is_a_finding(shop: Shop, admin: Client) -> None:
    url = "postgresql://u:hidden-word@127.0.0.1:1/none"
    given = {"type": "postgres", "alias": "new", "url": url, "action": "check"}
    answer = admin.post(shop.path("databases/add/"), given)
    assert answer.status_code == 200
    assert "Not ready to be captured" in answer.content.decode()
    assert Database.objects.count() == 1


def test_a_blocked_database_says_why_and_what_to_run(shop: Shop, admin: Client) -> None:
    _is(shop, "blocked", "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical';")
    text = admin.get(shop.path("databases/")).content.decode()
    assert "wal_level is replica" in text
    assert "ALTER SYSTEM SET wal_level" in text
    assert "Start anew from now" not in text


def test_capture_that_lost_its_place_can_be_started_anew(shop: Shop, admin: Client) -> None:
    _is(shop, "blocked", "the slot is gone", START_ANEW)
    path = shop.path("databases/main/start-anew/")
    assert f'href="{path}"' in admin.get(shop.path("databases/")).content.decode()
    text = admin.get(path).content.decode()
    assert "never become events" in text
    assert "1 trigger</strong> watches this database" in text
    assert not CaptureLease.objects.get(database=shop.database).restart_from_now
    assert admin.post(path).status_code == 303
    assert CaptureLease.objects.get(database=shop.database).restart_from_now


def test_deleting_a_database_says_how_many_events_are_still_delivered(
    shop: Shop, admin: Client
) -> None:
    path = shop.path("databases/main/delete/")
    assert "None of its events is waiting" in admin.get(path).content.decode()
    redeliver(shop.project, [UUID(each) for each in shop.add_events(3)], by=command_line())
    text = admin.get(path).content.decode()
    assert "3 events</strong> of it are not delivered yet and will still be delivered." in text
    Trigger.objects.get().databases.clear()
    assert admin.post(path).status_code == 303
    assert shop.log.counts(shop.project.pk)["pending"] == 3


def test_a_server_that_keeps_much_log_for_us_is_pointed_out(shop: Shop, admin: Client) -> None:
    _is(shop, "streaming")
    CaptureLease.objects.update(lag_bytes=900_000_000)
    assert "of its log" not in admin.get(shop.path("databases/")).content.decode()
    CaptureLease.objects.update(lag_bytes=5_000_000_000)
    assert "keeps 5 GB of its log" in admin.get(shop.path("databases/")).content.decode()
    # All of it is read, and a transaction that somebody left open holds it.
    CaptureLease.objects.update(lag_bytes=0, kept_log_bytes=6_000_000_000)
    assert "keeps 6 GB of its log" in admin.get(shop.path("databases/")).content.decode()


def test_a_database_that_a_trigger_names_alone_is_not_deleted(shop: Shop, admin: Client) -> None:
    path = shop.path("databases/main/delete/")
    answer = admin.post(path)
    assert answer.status_code == 422
    assert "welcome-email" in answer.content.decode()
    shop.trigger.delete()
    assert admin.post(path).status_code == 303
    assert not Database.objects.exists()


def test_the_trigger_form_gets_the_tables_that_there_are(
    shop: Shop, admin: Client, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE customers (id int primary key)")
    make_database(shop.project, source_database, alias="live")
    text = admin.get(shop.path("databases/live/tables/")).content.decode()
    assert 'value="customers"' in text
    make_database(shop.project, "postgresql://127.0.0.1:1/none", alias="dead")
    assert admin.get(shop.path("databases/dead/tables/")).status_code == 204


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@db/orders?sslkey=/etc/key&sslcert=/etc/cert",
        "postgresql:///orders",
        "postgresql://db/orders?host=/var/run/postgresql",
    ],
)
def test_files_and_sockets_of_the_machine_are_for_those_who_run_the_installation(
    url: str, shop: Shop, admin: Client
) -> None:
    given = {"type": "postgres", "alias": "orders", "url": url}
    answer = admin.post(shop.path("databases/add/"), given)
    assert answer.status_code == 422
    assert "administrators of the installation" in answer.content.decode()
    assert not Database.objects.filter(alias="orders").exists()
    User.objects.update(is_superuser=True)
    assert admin.post(shop.path("databases/add/"), given).status_code == 303
    assert Database.objects.get(alias="orders").url == url


def test_each_row_asks_for_the_number_of_its_tables_and_that_is_kept(
    shop: Shop, viewer: Client, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE customers (id int primary key)")
    live = make_database(shop.project, source_database, alias="live")
    make_database(shop.project, "postgresql://127.0.0.1:1/none", alias="dead")
    count = shop.path("databases/{}/tables/count/")
    # The page itself asks no server for anything.
    page = viewer.get(shop.path("databases/")).content.decode()
    assert page.count("/tables/count/") == 3 * 2
    htmx = {"HX-Request": "true"}
    assert viewer.get(count.format("live"), headers=htmx).content.decode().strip() == "1"
    assert "unknown" in viewer.get(count.format("dead"), headers=htmx).content.decode()
    execute(source_database, "CREATE TABLE orders (id int primary key)")
    page = viewer.get(shop.path("databases/")).content.decode()
    assert 'data-label="Tables">1\n' in page
    assert f"{count.format('live')}" not in page
    # Without a script it is a link, which leads back.
    assert viewer.get(count.format("main")).headers["Location"] == shop.path("databases/")
    # What is changed of the database is counted anew.
    save_database(
        shop.project, replace(database_definition_of(live), alias="moved"), live, by=command_line()
    )
    assert viewer.get(count.format("moved"), headers=htmx).content.decode().strip() == "2"


OWN = {"type": "mission-control", "port": "5432"}


def test_mission_control_itself_is_a_database_without_an_address(shop: Shop, admin: Client) -> None:
    path = shop.path("databases/add/")
    tested = admin.post(path, OWN | {"action": "check"}).content.decode()
    assert "Ready to be captured" in tested
    assert Database.objects.count() == 1
    assert admin.post(path, OWN).status_code == 303
    stored = Database.objects.get(alias="mission-control")
    assert (stored.type, stored.url, stored.url_reference) == ("mission-control", "", "")
    listed = admin.get(shop.path("databases/")).content.decode()
    assert "Mission Control: troubles" in listed
    htmx = {"HX-Request": "true"}
    counted = admin.get(shop.path("databases/mission-control/tables/count/"), headers=htmx)
    assert counted.content.decode().strip() == "1"
    offered = admin.get(shop.path("databases/mission-control/tables/")).content.decode()
    assert 'value="troubles"' in offered
    page = admin.get(shop.path("databases/mission-control/"))
    assert 'value="mission-control" data-port="" checked' in page.content.decode()
    change = OWN | {"alias": "own", "seen": page.context["seen"].token}
    assert admin.post(shop.path("databases/mission-control/"), change).status_code == 303
    deleting = admin.get(shop.path("databases/own/delete/")).content.decode()
    assert "Troubles of this project no longer become events." in deleting


@pytest.mark.parametrize("field", ["url", "host", "database", "user", "password"])
def test_an_address_of_mission_control_is_refused(shop: Shop, admin: Client, field: str) -> None:
    answer = admin.post(shop.path("databases/add/"), OWN | {field: "db.example.com/s3cret"})
    assert answer.status_code == 422
    assert "Mission Control itself is the source, and has no address" in answer.content.decode()
    assert Database.objects.count() == 1


def test_a_database_that_becomes_mission_control_forgets_its_address(
    shop: Shop, admin: Client
) -> None:
    given = {**OWN, "alias": "main"}
    assert admin.post(shop.path("databases/main/"), given).status_code == 303
    stored = Database.objects.get()
    assert (stored.type, stored.url) == ("mission-control", "")
