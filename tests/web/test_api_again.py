"""Requests that are sent again, made for something that has changed, or sent too often."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from threading import Barrier
from typing import Any

import psycopg2
import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from eventing.access import REQUESTS_PER_MINUTE
from eventing.api import idempotency
from eventing.logs import control_database_dsn
from eventing.logs.postgres import PostgresEventLog
from eventing.models import ApiToken, KeptAnswer, Membership, Redelivery, Trigger
from eventing.sweep import upkeep
from tests.waiting import wait_until
from tests.web.api import HOOK, Answer, Api, Shop, make_shop

NEW = {"name": "new", "url": HOOK, "operations": ["insert"]}
TRIGGERS = "projects/shop/triggers/"
TRIGGER = "projects/shop/triggers/welcome-email/"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


def test_a_post_with_the_same_key_is_done_once_and_answered_alike(shop: Shop) -> None:
    first = shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a-1")
    again = shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a-1")
    assert (first.status, again.status) == (201, 201)
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["ETag"] == first.headers["ETag"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Trigger.objects.filter(name="new").count() == 1


def test_an_answer_without_a_body_is_given_again_too(shop: Shop) -> None:
    path = "projects/shop/databases/main/start-anew/"
    answers = [shop.admin.post(path, Idempotency_Key="a") for _ in range(2)]
    assert [answer.status for answer in answers] == [204, 204]
    assert answers[1].content == b""


def test_the_same_key_with_another_body_is_refused(shop: Shop) -> None:
    shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a")
    answer = shop.editor.post(TRIGGERS, {**NEW, "name": "other"}, Idempotency_Key="a")
    assert answer.status == 422
    assert "used before" in answer.problems["Idempotency-Key"]
    assert not Trigger.objects.filter(name="other").exists()


def test_a_key_belongs_to_a_token_and_an_address(shop: Shop) -> None:
    for api, path in (
        (shop.editor, TRIGGERS),
        (shop.admin, TRIGGERS),
        (shop.admin, "projects/shop/redeliveries/"),
    ):
        body = NEW if path == TRIGGERS else {}
        answer = api.post(path, body, Idempotency_Key="a")
        assert "Idempotency-Replayed" not in answer.headers
    assert Redelivery.objects.count() == 1


def test_a_refusal_is_not_kept(shop: Shop) -> None:
    assert shop.editor.post(TRIGGERS, {**NEW, "retries": -1}, Idempotency_Key="a").status == 422
    assert shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a").status == 201


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256])
def test_a_malformed_key_is_refused(shop: Shop, key: str) -> None:
    answer = shop.editor.post(TRIGGERS, NEW, Idempotency_Key=key)
    assert answer.status == 422
    assert "1 to 255 visible ASCII characters" in answer.problems["Idempotency-Key"]


def test_what_is_shown_once_is_not_kept_in_clear(shop: Shop) -> None:
    path = "projects/shop/tokens/"
    made = shop.admin.post(path, {"role": "viewer"}, Idempotency_Key="a").json
    assert shop.admin.post(path, {"role": "viewer"}, Idempotency_Key="a").json == made
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM eventing_keptanswer")
        stored = str(cursor.fetchall())
    assert made["token"].startswith("mct_")
    assert "mct_" not in stored
    assert made["token"] not in stored


def test_of_two_at_once_one_is_done(shop: Shop) -> None:
    both = Barrier(2)

    def send(_: int) -> int:
        api = Api(shop.editor.token)
        both.wait()
        try:
            answer = api.post("projects/shop/redeliveries/", {}, Idempotency_Key="a")
            return answer.status
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(pool.map(send, range(2)))
    assert statuses in ([201, 201], [201, 409])
    assert Redelivery.objects.count() == 1


def test_a_request_whose_process_died_may_be_sent_again_after_a_minute(shop: Shop) -> None:
    shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a")
    Trigger.objects.filter(name="new").delete()
    KeptAnswer.objects.update(status=None, content="")
    assert shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a").status == 409
    KeptAnswer.objects.update(created_at=timezone.now() - timedelta(seconds=61))
    assert shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a").status == 201


def test_a_request_that_takes_longer_than_a_minute_is_not_taken_for_lost(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "_RENEW_SECONDS", 0.05)

    def send() -> Answer:
        try:
            return Api(shop.editor.token).post(TRIGGERS, NEW, Idempotency_Key="a")
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(control_database_dsn())) as other:
        with other.cursor() as cursor:
            cursor.execute("SELECT * FROM eventing_installation FOR UPDATE")
        first = pool.submit(send)
        wait_until(KeptAnswer.objects.exists)
        longer_ago = timezone.now() - timedelta(seconds=61)
        KeptAnswer.objects.update(created_at=longer_ago)
        wait_until(lambda: KeptAnswer.objects.get().created_at > longer_ago)
        assert send().status == 409
        other.rollback()
        assert first.result().status == 201
    again = shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a")
    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")


def test_answers_are_kept_for_a_day(shop: Shop) -> None:
    shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a")
    KeptAnswer.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert shop.editor.post(TRIGGERS, NEW, Idempotency_Key="a").status == 422
    shop.editor.post("projects/shop/redeliveries/", {}, Idempotency_Key="a")
    KeptAnswer.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    upkeep()
    assert not KeptAnswer.objects.exists()


EDITS = [
    (TRIGGER, {"retries": 5}, {"retries": 6}),
    ("projects/shop/databases/main/", {"schemas": ["a"]}, {"schemas": ["b"]}),
    ("projects/shop/settings/", {"retention": {"events": "40d"}}, {"eventing": {"enabled": True}}),
    ("projects/shop/members/shop-viewer/", {"role": "editor"}, {"role": "admin"}),
]


@pytest.mark.parametrize(("path", "first", "second"), EDITS, ids=[path for path, *_ in EDITS])
def test_a_lost_update_is_refused(
    shop: Shop, path: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    seen = shop.admin.get(path).headers["ETag"]
    assert shop.admin.get(path).headers["ETag"] == seen
    changed = shop.admin.patch(path, first, If_Match=seen)
    assert changed.status == 200
    present = changed.headers["ETag"]
    assert present != seen
    before = shop.admin.get(path).json
    for answer in (
        shop.admin.patch(path, second, If_Match=seen),
        shop.admin.patch(path, second, If_Match=f'W/{present}, "x"'),
        shop.admin.patch(path, second, If_Match="nonsense"),
    ):
        assert answer.status == 412
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert shop.admin.get(path).json == before
    assert shop.admin.patch(path, second, If_Match=f'"x", {present}').status == 200
    assert shop.admin.patch(path, first, If_Match="*").status == 200
    assert shop.admin.patch(path, second).status == 200


@pytest.mark.parametrize("path", [path for path, *_ in EDITS if "settings" not in path])
def test_what_was_changed_meanwhile_is_not_deleted(shop: Shop, path: str) -> None:
    assert shop.admin.delete(path, If_Match='"x"').status == 412
    seen = shop.admin.get(path).headers["ETag"]
    assert shop.admin.delete(path, If_Match=seen).status == 204


def test_a_replacement_of_something_else_is_refused(shop: Shop) -> None:
    for path, body in ((TRIGGER, NEW), ("projects/shop/settings/", {})):
        assert shop.admin.put(path, body, If_Match='"x"').status == 412
    assert Trigger.objects.get().name == "welcome-email"


def test_the_tag_of_a_trigger_tells_of_its_secrets_and_not_of_its_deliveries(shop: Shop) -> None:
    seen = shop.admin.get(TRIGGER).headers["ETag"]
    changed = shop.admin.patch(TRIGGER, {"headers": {"X-Shop": "another word"}})
    assert changed.json == {**shop.admin.get(TRIGGER).json, "live": changed.json["live"]}
    assert changed.headers["ETag"] != seen


def at_the_limit(role: str) -> None:
    token = ApiToken.objects.filter(user__username=f"shop-{role}")
    token.update(requests=REQUESTS_PER_MINUTE, counted_since=timezone.now())


@pytest.mark.parametrize(
    "ask", [lambda api: api.get("projects/"), lambda api: api.post(TRIGGERS, NEW)]
)
def test_a_token_that_is_used_too_often_has_to_wait(shop: Shop, ask: Callable[[Api], Any]) -> None:
    shop.viewer.get("projects/")
    at_the_limit("viewer")
    answer = ask(shop.viewer)
    assert answer.status == 429
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    # Others are not kept waiting.
    assert shop.editor.get("projects/").status == 200
    ApiToken.objects.update(counted_since=timezone.now() - timedelta(seconds=61))
    assert shop.viewer.get("projects/").status == 200


def test_metrics_count_as_requests_too(shop: Shop) -> None:
    at_the_limit("viewer")
    header = {"Authorization": f"Bearer {shop.viewer.token}"}
    answer = Client().get("/metrics", headers=header)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]
    assert Membership.objects.count() == 3


def test_a_signing_secret_is_revealed_over_rest_and_that_is_noted(shop: Shop) -> None:
    answer = shop.editor.post(TRIGGER + "secret/")
    assert answer.json["secrets"][0].startswith("whsec_")
    entry = shop.admin.get("projects/shop/audit/").json["results"][0]
    assert entry["action"] == "trigger.reveal_secret"
