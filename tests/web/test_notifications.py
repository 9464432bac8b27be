"""Settings, Notifications: made, tested, changed and deleted in the console and over REST."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from eventing import notifications
from eventing.breakers import Breakers
from eventing.logs import control_database_dsn
from eventing.models import AuditEntry, CaptureLease, Notice, Notification
from eventing.models.fields import encrypted
from tests.factories import make_token
from tests.receiver import Behaviour, Receiver
from tests.waiting import wait_until
from tests.web.api import Api
from tests.web.conftest import ROLES, Shop, somebody_waits_for_a_lock

REST = "projects/shop/notifications/"
SECRET = "https://chat.example.com/hooks/hook-s3cret"
FORM = {"name": "on-call", "url": SECRET, "kinds": ["source_blocked", "breaker_open"]}


def test_one_is_added_seen_changed_and_deleted(shop: Shop, admin: Client) -> None:
    index = shop.path("settings/notifications/")
    assert "Nobody is told yet." in admin.get(index).content.decode()
    answer = admin.post(index + "add/", FORM)
    assert (answer.status_code, answer.headers["Location"]) == (303, index)
    text = admin.get(index).content.decode()
    assert "webhook at chat.example.com" in text
    assert "Blocked database, Open breaker" in text
    one = index + "on-call/"
    assert "s3cret" not in text + admin.get(one).content.decode()
    changed = {"name": "night", "url": "", "kinds": ["source_lag"], "lag_seconds": "60"}
    assert admin.post(one, changed).status_code == 303
    notification = Notification.objects.get()
    assert (notification.name, notification.lag_seconds) == ("night", 60)
    assert notification.url == SECRET
    delete = index + "night/delete/"
    assert "webhook at chat.example.com" in admin.get(delete).content.decode()
    assert admin.post(delete).status_code == 303
    assert not Notification.objects.exists()


def test_bad_ones_are_refused_with_nothing_of_the_address(shop: Shop, admin: Client) -> None:
    add = shop.path("settings/notifications/add/")
    for change, words in (
        ({"name": ""}, "Allowed: 1 to 63 of a-z"),
        ({"url": ""}, "Nothing was given. Allowed: the address of a webhook"),
        ({"url": "nonsense://s3cret"}, "Got another address. Allowed: an https:// webhook"),
        ({"kinds": []}, "one or more of source_blocked"),
        ({"kinds": ["weather"]}, "one or more of source_blocked"),
        ({"repeat_hours": "0"}, "a whole number from 1 to 720"),
        ({"lag_seconds": "soon"}, "a whole number from 10 to 604800"),
    ):
        answer = admin.post(add, FORM | change)
        assert answer.status_code == 422, change
        assert words in answer.content.decode(), change
    assert not Notification.objects.exists()
    admin.post(add, FORM)
    answer = admin.post(add, FORM | {"name": "ON-CALL"})
    assert "a name no other notification" in answer.content.decode()


def test_a_test_says_whether_it_was_taken(shop: Shop, admin: Client, receiver: Receiver) -> None:
    index = shop.path("settings/notifications/")
    admin.post(index + "add/", FORM | {"url": receiver.url("/hook")})
    answer = admin.post(index + "on-call/test/", follow=True)
    assert "the test was taken by the webhook at 127.0.0.1" in answer.content.decode()
    (request,) = receiver.received("/hook")
    assert str(request.json()["text"]).startswith("shop: a test\n")
    receiver.behave("/hook", Behaviour(statuses=(404,)))
    answer = admin.post(index + "on-call/test/", follow=True)
    assert "the test was not taken: it answered 404." in answer.content.decode()
    assert not Notice.objects.exists()


def test_the_page_says_what_is_wrong_and_what_became_of_telling_it(
    shop: Shop, admin: Client, receiver: Receiver
) -> None:
    index = shop.path("settings/notifications/")
    admin.post(index + "add/", FORM | {"url": receiver.url("/hook")})
    receiver.behave("/hook", Behaviour(statuses=(500, 200)))
    CaptureLease.objects.create(
        database=shop.database, state="blocked", error="the slot is gone", mend="SELECT 1"
    )
    notifications.watch()
    notifications.send_due()
    text = admin.get(index).content.decode()
    assert "The slot is gone" in text
    assert "shop: the database main is blocked" in text
    assert "not taken: it answered 500; next try" in text
    Notice.objects.update(next_attempt_at="2026-01-01T00:00:00Z")
    notifications.send_due()
    assert "sent <time" in admin.get(index).content.decode()


def test_what_is_wrong_leads_to_what_it_is_wrong_with_whatever_that_is_called_now(
    shop: Shop, admin: Client
) -> None:
    CaptureLease.objects.create(database=shop.database, state="blocked", error="it is away")
    Breakers().open(shop.trigger.pk, "it fails")
    notifications.watch()
    shop.trigger.name = "welcome"
    shop.trigger.save()
    text = admin.get(shop.path("settings/notifications/")).content.decode()
    assert f'<a href="{shop.path("databases/")}#database-main">main</a>' in text
    assert f'<a href="{shop.path("triggers/welcome/")}">welcome-email</a>' in text


def test_the_page_takes_a_fixed_number_of_queries(
    shop: Shop, admin: Client, receiver: Receiver, django_assert_num_queries: object
) -> None:
    index = shop.path("settings/notifications/")
    for number in range(2):
        admin.post(index + "add/", FORM | {"name": f"n{number}"})
    admin.get(index)
    with django_assert_num_queries(12):  # type: ignore[operator]
        admin.get(index)
    for number in range(2, 8):
        admin.post(index + "add/", FORM | {"name": f"n{number}"})
    admin.get(index)
    with django_assert_num_queries(12):  # type: ignore[operator]
        admin.get(index)


@pytest.mark.parametrize("role", ROLES)
def test_only_administrators_see_and_change_them(
    shop: Shop, as_role: Callable[[str], Client], role: str
) -> None:
    client = as_role(role)
    may = role == "admin"
    assert client.get(shop.path("settings/notifications/")).status_code == (200 if may else 403)
    answer = client.post(shop.path("settings/notifications/add/"), FORM)
    assert answer.status_code == (303 if may else 403)
    rest = Api(make_token(User.objects.get(username=role), role, shop.project))
    assert rest.get(REST).status == (200 if may else 403)
    assert rest.post(REST + "on-call/test/").status in ((200,) if may else (403,))


def test_a_lost_update_is_refused_over_rest(shop: Shop, admin: Client) -> None:
    api = Api(make_token(User.objects.get(username="admin"), "admin", shop.project))
    made = api.post(REST, {"name": "on-call", "url": SECRET})
    one, seen = REST + "on-call/", made.headers["ETag"]
    assert api.get(one).headers["ETag"] == seen
    # Nothing that is shown, and yet another state.
    changed = api.patch(one, {"url": SECRET + "2"}, If_Match=seen)
    assert changed.status == 200
    present = changed.headers["ETag"]
    assert present != seen
    assert api.patch(one, {"lag_seconds": 60}, If_Match=seen).status == 412
    assert api.delete(one, If_Match=seen).status == 412
    assert api.patch(one, {"lag_seconds": 60}, If_Match=present).status == 200
    assert api.patch(one, {"lag_seconds": None}).json["lag_seconds"] == 300
    assert Notification.objects.get().url == SECRET + "2"
    assert api.delete(one, If_Match=api.get(one).headers["ETag"]).status == 204


@pytest.mark.parametrize("way", ["rest", "form"])
def test_of_two_changes_at_once_neither_undoes_the_other(
    shop: Shop, admin: Client, way: str
) -> None:
    index = shop.path("settings/notifications/")
    admin.post(index + "add/", FORM)
    api = Api(make_token(User.objects.get(username="admin"), "admin", shop.project))
    another = "https://chat.example.com/another"

    def change() -> None:
        try:
            if way == "rest":
                assert api.patch(REST + "on-call/", {"lag_seconds": 60}).status == 200
            else:
                form = {**FORM, "url": "", "lag_seconds": "60"}
                assert admin.post(index + "on-call/", form).status_code == 303
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(control_database_dsn())) as other:
        with other.cursor() as cursor:
            cursor.execute("SELECT * FROM eventing_project FOR UPDATE")
            waiting = pool.submit(change)
            wait_until(somebody_waits_for_a_lock)
            cursor.execute("UPDATE eventing_notification SET url = %s", [encrypted(another)])
        other.commit()
        waiting.result()
    notification = Notification.objects.get()
    assert (notification.url, notification.lag_seconds) == (another, 60)


def test_over_rest_too(shop: Shop, admin: Client, receiver: Receiver) -> None:
    api = Api(make_token(User.objects.get(username="admin"), "admin", shop.project))
    answer = api.post(REST, {"name": "on-call", "url": receiver.url("/hook-s3cret")})
    assert answer.status == 201
    shown = answer.json
    assert shown == {
        "name": "on-call",
        "url": "••••",
        "service": "webhook at 127.0.0.1",
        "kinds": ["source_blocked", "source_lag", "breaker_open", "trigger_failing"],
        "repeat_hours": 24,
        "lag_seconds": 300,
        "last": None,
    }
    assert api.get(REST).json == [shown]
    one = answer.headers["Location"].removeprefix("/api/v1/")
    assert api.get(one).json == shown
    changed = api.send("PATCH", one, {**shown, "repeat_hours": 2})
    assert changed.json == {**shown, "repeat_hours": 2}
    assert api.post(one + "test/").json == {"taken": True, "error": None}
    receiver.behave("/hook-s3cret", Behaviour(statuses=(410,)))
    assert api.post(one + "test/").json == {"taken": False, "error": "it answered 410"}
    bad = api.send("PATCH", one, {"url": "nonsense-s3cret"})
    assert bad.status == 422
    assert "got another address" in bad.problems["url"]
    assert api.send("PATCH", one, {"lag_seconds": 1}).status == 422
    assert api.send("DELETE", one).status == 204
    assert api.get(one).status == 404
    noted = list(AuditEntry.objects.filter(kind="notification").order_by("pk"))
    assert [each.action.partition(".")[2] for each in noted] == ["create", "update", "delete"]
    assert noted[0].new["url"] == "••••"
    assert (noted[1].old, noted[1].new) == ({"repeat_hours": 24}, {"repeat_hours": 2})
    assert "s3cret" not in str([(each.old, each.new) for each in noted])
