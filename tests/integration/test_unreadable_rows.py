"""Rows that no encryption key opens: they are shown as broken with what to do, nothing of them is
lost, and all others go on as if they were not there.
"""

import io
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client, override_settings

from eventing import notifications
from eventing.access import command_line
from eventing.breakers import Breakers
from eventing.capture import capture_database
from eventing.definitions import parse_notification
from eventing.delivery import Dispatcher
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.webhook import WebhookDestination
from eventing.endpoints import Endpoints
from eventing.limits import SharedLimits
from eventing.logs.postgres import PostgresEventLog
from eventing.models import (
    CaptureLease,
    Database,
    EventingDb,
    Membership,
    Notice,
    Notification,
    Project,
    Trigger,
)
from eventing.notifications import save_notification
from eventing.projects import trigger_definition_of
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_project,
    make_token,
    make_trigger,
)
from tests.receiver import Receiver
from tests.waiting import wait_until

OTHER = "other-" * 10
SAID = "o key of ENCRYPTION_KEYS opens eventing_"


@dataclass
class Half:
    """A project of which every second row was encrypted with a key that is lost."""

    project: Project
    log: PostgresEventLog
    triggers: dict[str, Trigger]
    client: Client
    token: str

    def get(self, path: str) -> Any:
        header = {"Authorization": f"Bearer {self.token}"}
        return self.client.get(f"/api/v1/projects/shop/{path}", headers=header)


@pytest.fixture
def half(log: PostgresEventLog, receiver: Receiver) -> Half:
    project = make_project()
    triggers = {}
    make_database(project, "postgresql://u:planted@db.example.com/shop", "fine")
    triggers["fine"] = make_trigger(project, receiver.url("/fine"), "fine")
    _notification(project, "fine", receiver)
    with override_settings(ENCRYPTION_KEYS=[OTHER]):
        make_database(project, "postgresql://u:planted@db.example.com/shop", "lost")
        headers = {"Authorization": "planted"}
        triggers["lost"] = make_trigger(project, receiver.url("/lost"), "lost", headers=headers)
        _notification(project, "lost", receiver)
    user = User.objects.create_superuser("ada")
    client = Client()
    client.force_login(user)
    return Half(project, log, triggers, client, make_token(user, Membership.Role.ADMIN, None))


def _notification(project: Project, name: str, receiver: Receiver) -> None:
    given = {"name": name, "url": receiver.url(f"/told-{name}")}
    save_notification(project, parse_notification(given), by=command_line())


def tokens_of(name: str) -> list[str]:
    """What is stored of everything with that name, as it is stored."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT url FROM eventing_database WHERE alias = %(name)s"
            " UNION ALL SELECT headers FROM eventing_trigger WHERE name = %(name)s"
            " UNION ALL SELECT signing_secrets FROM eventing_trigger WHERE name = %(name)s"
            " UNION ALL SELECT url FROM eventing_notification WHERE name = %(name)s",
            {"name": name},
        )
        return sorted(row[0] for row in cursor.fetchall())


@pytest.mark.parametrize(
    "path",
    [
        *("", "databases/", "databases/lost/", "triggers/", "triggers/lost/"),
        *("triggers/lost/edit/", "databases/lost/delete/", "triggers/lost/delete/"),
        *("settings/", "settings/notifications/", "settings/notifications/lost/"),
        "settings/configuration/",
    ],
)
def test_every_page_shows_what_is_there(half: Half, path: str) -> None:
    answer = half.client.get(f"/projects/shop/{path}")
    assert answer.status_code == 200
    assert b"planted" not in answer.content


def test_pages_and_rest_say_what_is_broken_and_what_to_do(half: Half) -> None:
    Project.objects.update(eventing_enabled=True)
    for path in ("databases/", "triggers/lost/"):
        assert SAID in half.client.get(f"/projects/shop/{path}").content.decode()
    databases = {each["alias"]: each for each in half.get("databases/").json()}
    assert databases["lost"]["capture"]["state"] == "blocked"
    assert SAID in databases["lost"]["capture"]["error"]
    assert databases["fine"]["capture"]["error"] is None
    assert "db.example.com" in databases["fine"]["url"]
    triggers = {each["name"]: each for each in half.get("triggers/").json()}
    assert SAID in triggers["lost"]["problem"]
    assert triggers["fine"]["problem"] is None
    assert half.get("databases/lost/").status_code == 200
    assert half.get("notifications/").status_code == 200
    said = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", stdout=said)
    assert "shop/lost\n  ERROR   address: its address cannot be read" in said.getvalue()
    assert SAID in said.getvalue()


def test_what_needs_it_refuses_and_says_why(half: Half) -> None:
    for path in ("triggers/lost/test/", "triggers/lost/secret/"):
        answer = half.client.post(f"/projects/shop/{path}")
        assert answer.status_code == 503
        assert SAID in answer.content.decode()
        header = {"Authorization": f"Bearer {half.token}"}
        answer = half.client.post(f"/api/v1/projects/shop/{path}", headers=header)
        assert answer.status_code == 503
        assert SAID in answer.json()["detail"]


def test_saving_a_row_as_it_is_loses_nothing_and_entering_it_anew_mends_it(half: Half) -> None:
    before = tokens_of("lost")
    header = {"Authorization": f"Bearer {half.token}"}

    def patch(path: str, body: object) -> int:
        path = f"/api/v1/projects/shop/{path}"
        kind = "application/json"
        return half.client.patch(path, json.dumps(body), kind, headers=header).status_code

    assert patch("triggers/lost/", {"retries": 7}) == 200
    assert patch("databases/lost/", {"schemas": ["public"]}) == 200
    assert tokens_of("lost") == before
    assert Trigger.objects.get(name="lost").retries == 7
    lease = CaptureLease.objects.count()
    assert patch("databases/lost/", {"url": "postgresql://u:new@db.example.com/shop"}) == 200
    assert patch("triggers/lost/", {"headers": {"X-New": "word"}}) == 200
    rotated = half.client.post("/projects/shop/triggers/lost/secret/rotate/")
    assert "whsec_" in rotated.content.decode()
    assert Database.objects.get(alias="lost").url == "postgresql://u:new@db.example.com/shop"
    assert trigger_definition_of(Trigger.objects.get(name="lost")).headers == {"X-New": "word"}
    # It is the same source: capture goes on from where it stood.
    assert CaptureLease.objects.count() == lease
    assert half.get("triggers/lost/").json()["problem"] is None


def test_it_can_be_deleted(half: Half) -> None:
    for path in ("databases/lost/", "triggers/lost/", "settings/notifications/lost/"):
        assert (
            half.client.post(f"/projects/shop/{path}delete/", {"alias": "lost"}).status_code == 303
        )
    assert Database.objects.get().alias == "fine"
    assert Trigger.objects.get().name == "fine"
    assert Notification.objects.get().name == "fine"


def test_events_of_others_are_delivered_and_its_own_wait(half: Half, receiver: Receiver) -> None:
    stored: dict[str, list[UUID]] = {}
    for name, trigger in half.triggers.items():
        origin = make_origin(half.project, Database.objects.get(alias=name).pk)
        events = make_events([make_change() for _ in range(5)], origin, trigger.pk, name)
        half.log.append(origin, events, half.log.position(origin.database_id), name)
        stored[name] = [event.id for event in events]
    guard = AddressGuard(["127.0.0.0/8"])
    dispatcher = Dispatcher(
        half.log,
        WebhookDestination(guard),
        Endpoints().of_trigger,
        SharedLimits("worker"),
        Breakers(),
        "worker",
    )
    try:
        for name in ("lost", "fine"):
            dispatcher.deliver(half.triggers[name].pk, stored[name])
        receiver.wait_for(5, "/fine")
        wait_until(lambda: dispatcher.stats().waiting == 0)
    finally:
        dispatcher.stop(1)
    assert receiver.received("/lost") == []
    assert half.log.pending_of([half.triggers["lost"].pk]) == {half.triggers["lost"].pk: 5}


def test_capture_of_it_is_blocked_and_says_why(half: Half) -> None:
    Project.objects.update(eventing_enabled=True)
    lost = Database.objects.get(alias="lost")
    said: list[str] = []

    def is_blocked() -> bool:
        said.extend(
            CaptureLease.objects.filter(database=lost, state="blocked").values_list(
                "error", flat=True
            )
        )
        return bool(said)

    capture_database(lost.pk, is_blocked)
    assert SAID in said[0]


def test_others_are_told_of_troubles(half: Half, receiver: Receiver) -> None:
    Project.objects.update(eventing_enabled=True)
    fine = Database.objects.get(alias="fine")
    CaptureLease.objects.update_or_create(
        database=fine, defaults={"state": "blocked", "error": "the slot is gone"}
    )
    notifications.watch()
    assert notifications.send_due() == 2
    told = [str(each.json()["text"]) for each in receiver.received("/told-fine")]
    assert [SAID in text for text in sorted(told)] == [False, True]
    assert receiver.received("/told-lost") == []
    errors = Notice.objects.exclude(error="").values_list("error", flat=True)
    assert [SAID in error for error in errors] == [True, True]


def test_an_eventing_db_that_cannot_be_read_hides_no_other_log(half: Half) -> None:
    with override_settings(ENCRYPTION_KEYS=[OTHER]):
        EventingDb.objects.create(
            project=half.project,
            database=None,
            alias="old",
            type="postgres",
            url="postgresql://u:planted@db.example.com/log",
            replaced_at="2026-01-01T00:00:00Z",
        )
    for path in ("events/", "settings/", ""):
        assert half.client.get(f"/projects/shop/{path}").status_code == 200
    assert half.get("events/").status_code == 200
