"""The event log over REST: browsing, payloads digit for digit, redelivery, statistics."""

import re
import time
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from django.test import Client

from eventing.logs.base import EventFilter
from eventing.logs.postgres import PostgresEventLog
from eventing.models import EventingDb, Membership, Project
from tests.factories import make_change, make_events, make_origin, make_outcome
from tests.web.api import Shop, deliver, make_shop
from tests.web.older import choose_older_log

EVENTS = "projects/shop/events/"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


def now_ms() -> int:
    return int(time.time() * 1000)


def test_an_event_shows_what_is_known_of_it(shop: Shop, log: PostgresEventLog) -> None:
    (event,) = shop.events(log, table="billing.bills", operation="update", document_id="42")
    (shown,) = shop.viewer.get(EVENTS).json["results"]
    stored_at = shown.pop("stored_at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stored_at)
    payload = shop.viewer.get(f"{EVENTS}{event.id}/").json["payload"]
    assert shown.pop("time") == payload["time"]
    assert shown == {
        "id": str(event.id),
        "trigger": "welcome-email",
        "type": "DB_UPDATE",
        "database": "main",
        "db": "sql-postgres",
        "table": "billing.bills",
        "doc_id": "42",
        "status": "pending",
        "attempts": 0,
        "next_attempt_at": None,
        "problem": None,
        "last_status_code": None,
        "last_error": None,
        "last_duration_ms": None,
    }


def test_a_payload_keeps_every_digit(shop: Shop, log: PostgresEventLog) -> None:
    document = (
        '{"id": 9223372036854775808123, "price": 12345678901234567890.12345678901234567890,'
        ' "zero": 1.50, "tiny": 1e-400, "text": "ünï \\u0001"}'
    )
    (event,) = shop.events(log)
    payload = event.payload.replace('"doc":{"id":1}', f'"doc":{document}')
    assert document in payload
    other = UUID(int=event.id.int + 1)
    changed = event._replace(id_text=str(other), payload=payload)
    origin_position = log.position(shop.database.pk)
    log.append(make_origin(shop.project, shop.database.pk), [changed], origin_position, "later")
    answer = shop.viewer.get(f"{EVENTS}{changed.id}/")
    assert document in answer.content.decode()


def test_every_invocation_is_shown_oldest_first(shop: Shop, log: PostgresEventLog) -> None:
    events = shop.events(log)
    deliver(log, events, lambda claim: make_outcome(claim, None, retry_in_ms=0))
    deliver(
        log,
        events,
        lambda claim: make_outcome(
            claim,
            503,
            retry_in_ms=3_600_000,
            response_headers=(("Via", "a"), ("Via", "b")),
            response_body=b"busy \xff",
        ),
    )
    shown = shop.viewer.get(f"{EVENTS}{events[0].id}/").json
    assert (shown["status"], shown["attempts"]) == ("pending", 2)
    assert shown["next_attempt_at"] is not None
    assert (shown["last_status_code"], shown["last_duration_ms"]) == (503, 7)
    first, second = shown["invocations"]
    assert set(first) == {
        "attempt",
        "started_at",
        "duration_ms",
        "url",
        "request_headers",
        "status_code",
        "response_headers",
        "response_body",
        "error_kind",
        "error",
        "worker",
    }
    assert shown["position"] == events[0].position
    assert (first["attempt"], first["error_kind"], first["status_code"]) == (1, "refused", None)
    assert first["request_headers"] == {"User-Agent": "MissionControl"}
    assert (second["attempt"], second["status_code"], second["error"]) == (2, 503, None)
    assert second["response_headers"] == {"Via": "a, b"}
    assert second["response_body"].startswith("busy ")


def test_pages_go_newest_first_and_meet_every_event_once(shop: Shop, log: PostgresEventLog) -> None:
    events = shop.events(log, 5)
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    sizes = []
    while True:
        page = shop.viewer.get(EVENTS, **query).json
        sizes.append(len(page["results"]))
        seen += [event["id"] for event in page["results"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert sizes == [2, 2, 1]
    assert seen == [str(event.id) for event in reversed(events)]


def test_a_page_has_fifty_events_unless_told_otherwise(shop: Shop, log: PostgresEventLog) -> None:
    shop.events(log, 51)
    assert len(shop.viewer.get(EVENTS).json["results"]) == 50
    assert len(shop.viewer.get(EVENTS, limit="500").json["results"]) == 51


def test_filters_select(shop: Shop, log: PostgresEventLog) -> None:
    start = now_ms() - 10_000
    (first,) = shop.events(log, committed_at_ms=start, table="users", document_id="é/1")
    (second,) = shop.events(log, committed_at_ms=start + 1000, operation="delete", table="bills")
    deliver(log, [second], make_outcome)
    path = f"{EVENTS}{second.id}/"
    middle = shop.viewer.get(path).json["time"]

    def found(**query: str) -> list[str]:
        return [each["id"] for each in shop.viewer.get(EVENTS, **query).json["results"]]

    one, two = [str(first.id)], [str(second.id)]
    assert found(table="users") == one
    assert found(type="DB_DELETE") == two
    assert found(type="DB_UPDATE") == []
    assert found(doc_id="é/1") == one
    assert found(status="delivered") == two
    assert found(status="pending") == one
    assert found(after=middle) == two
    assert found(before=middle) == one
    assert found(before=middle.replace("Z", "+00:00")) == one
    assert found(before=middle.removesuffix("Z")) == one
    assert found(after="2020-01-01", before="9999-12-31") == two + one
    assert found(before="0001-01-01") == []
    assert found(trigger="welcome-email", database="main") == two + one
    assert found(trigger="another") == []
    assert found(table="users", status="delivered") == []
    assert found(trigger="", status="", after="") == two + one
    assert found(min_attempts="1") == two
    assert found(min_attempts="1", status="pending") == []
    assert found(min_attempts="2") == []


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("status=done", "status", "'done'; allowed: one of pending, delivering, delivered"),
        ("type=insert", "type", "one of DB_INSERT, DB_UPDATE, DB_DELETE"),
        ("after=yesterday", "after", "'yesterday'; allowed: an ISO 8601 time"),
        ("before=2026-01-31T12:00:00+00:00", "before", "write + as %2B"),
        ("limit=0", "limit", "a whole number from 1 to 500"),
        ("limit=501", "limit", "'501'"),
        ("limit=ten", "limit", "'ten'"),
        ("limit=%D9%A1", "limit", "a whole number"),
        ("min_attempts=0", "min_attempts", "a whole number from 1 to 1000"),
        ("min_attempts=1001", "min_attempts", "'1001'"),
        ("cursor=zzz", "cursor", "`next` of the page before"),
        ("tabel=users", "tabel", "one of trigger, status, database, table"),
        ("status=failed&status=pending", "status", "2 values"),
        ("table=a%00b", "table", "U+0000"),
        ("doc_id=" + "x" * 1001, "doc_id", "at most 1000 characters"),
    ],
)
def test_a_bad_filter_is_refused_by_name(shop: Shop, query: str, field: str, message: str) -> None:
    answer = shop.viewer.send("GET", f"{EVENTS}?{query}")
    assert answer.status == 422
    assert message in answer.problems[field]


def test_a_finished_event_is_redelivered(shop: Shop, log: PostgresEventLog) -> None:
    (event,) = shop.events(log)
    deliver(log, [event], make_outcome)
    answer = shop.editor.post(f"{EVENTS}{event.id}/redeliver/")
    assert answer.status == 202
    assert (answer.json["id"], answer.json["status"]) == (str(event.id), "pending")
    shown = shop.viewer.get(f"{EVENTS}{event.id}/").json
    assert (shown["status"], len(shown["invocations"])) == ("pending", 1)
    again = shop.editor.post(f"{EVENTS}{event.id}/redeliver/")
    assert again.status == 409
    assert again.json["detail"] == "this event is pending; only a finished one can be redelivered"


def test_an_event_that_can_never_be_sent_says_so(shop: Shop, log: PostgresEventLog) -> None:
    change = make_change()._replace(problem="the row could not be decoded")
    origin = make_origin(shop.project, shop.database.pk)
    (event,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    log.append(origin, [event], None, "A")
    shown = shop.viewer.get(f"{EVENTS}{event.id}/").json
    assert (shown["status"], shown["problem"]) == ("failed", "the row could not be decoded")
    answer = shop.editor.post(f"{EVENTS}{event.id}/redeliver/")
    assert answer.status == 409
    assert "the row could not be decoded" in answer.json["detail"]


@pytest.mark.parametrize("place", ["query", "body"])
def test_what_matches_is_redelivered(shop: Shop, log: PostgresEventLog, place: str) -> None:
    failed = shop.events(log, 3, table="users")
    delivered = shop.events(log, 2, table="users")
    shop.events(log, table="users")
    deliver(log, failed, lambda claim: make_outcome(claim, 500))
    deliver(log, delivered, make_outcome)
    filters: dict[str, Any] = {"status": "failed", "table": "users", "min_attempts": 1}
    path = f"{EVENTS}redeliver/"
    if place == "query":
        answer = shop.editor.post(path + "?status=failed&table=users")
    else:
        answer = shop.editor.post(path, filters)
    assert (answer.status, answer.json) == (202, {"redelivered": 3})
    waiting = log.browse(shop.project.pk, EventFilter(status="pending"), None, 10).rows
    assert {event.id for event in failed} <= {row.id for row in waiting}
    assert len(waiting) == 4
    assert shop.editor.post(path).json == {"redelivered": 2}


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ("?limit=3", None, "limit"),
        ("", {"limit": 3}, "limit"),
        ("", {"status": ["failed"]}, "status"),
        ("", {"status": "lost"}, "status"),
        ("", {"min_attempts": 0}, "min_attempts"),
        ("", {"min_attempts": True}, "min_attempts"),
        ("", {"min_attempts": 1.5}, "min_attempts"),
        ("?status=failed", {"status": "failed"}, "status"),
        ("", {"tabel": "users"}, "tabel"),
        ("?x=1", {}, "x"),
    ],
)
def test_a_bad_selection_redelivers_nothing(
    shop: Shop, log: PostgresEventLog, query: str, body: object, field: str
) -> None:
    events = shop.events(log)
    deliver(log, events, make_outcome)
    answer = shop.editor.post(f"{EVENTS}redeliver/{query}", body)
    assert answer.status == 422
    assert field in answer.problems
    assert shop.viewer.get("projects/shop/stats/").json["delivered"] == 1


def test_stats_count_every_status(shop: Shop, log: PostgresEventLog) -> None:
    events = shop.events(log, 4)
    deliver(log, events[:1], make_outcome)
    deliver(log, events[1:2], lambda claim: make_outcome(claim, 500))
    log.claim([events[2].id], 60)
    assert shop.viewer.get("projects/shop/stats/").json == {
        "pending": 1,
        "delivering": 1,
        "delivered": 1,
        "failed": 1,
        "cancelled": 0,
    }


def test_a_filter_takes_any_name_a_table_may_have(shop: Shop, log: PostgresEventLog) -> None:
    table = 'odd "name" & más?'
    shop.events(log, table=table)
    answer = shop.viewer.send("GET", f"{EVENTS}?table={quote(table)}")
    assert [each["table"] for each in answer.json["results"]] == [table]


def test_named_events_that_are_pending_are_cancelled(shop: Shop, log: PostgresEventLog) -> None:
    ids = [str(shop.events(log)[0].id) for _ in range(2)]
    sent = shop.events(log)[0]
    deliver(log, [sent], make_outcome)
    path = f"{EVENTS}cancel/"
    assert shop.viewer.post(path, {"ids": ids}).status == 403
    answer = shop.editor.post(path, {"ids": [*ids, str(sent.id)]})
    assert (answer.status, answer.json) == (200, {"cancelled": 2})
    assert log.counts(shop.project.pk)["cancelled"] == 2
    assert shop.editor.post(f"{EVENTS}{ids[0]}/redeliver/").status == 202


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": ["x"]}, {"ids": "x"}, {"trigger": "x"}])
def test_events_that_are_not_named_well_are_not_cancelled(
    shop: Shop, log: PostgresEventLog, body: dict[str, Any]
) -> None:
    shop.events(log)
    answer = shop.editor.post(f"{EVENTS}cancel/", body)
    assert answer.status == 422
    assert log.counts(shop.project.pk)["cancelled"] == 0


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_events_are_exported_with_payloads_for_those_who_may_see_them(
    shop: Shop, log: PostgresEventLog, kind: str
) -> None:
    events = shop.events(log, 3)
    shop.events(log, table="other")

    def export(**query: str) -> Any:
        header = {"Authorization": f"Bearer {shop.viewer.token}"}
        query = {"format": kind, "table": events[0].table, **query}
        return Client().get(f"/api/v1/{EVENTS}export/", query, headers=header)

    def lines(**query: str) -> list[str]:
        return export(**query).getvalue().decode().splitlines()[kind == "csv" :]

    answer = export()
    assert answer.headers["Content-Type"] in ("text/csv; charset=utf-8", "application/jsonl")
    assert answer.headers["Content-Disposition"].endswith(f'.{kind}"')
    answer.close()
    assert [str(each.id) in line for each, line in zip(events[::-1], lines(), strict=True)] == [
        True
    ] * 3
    assert "specversion" not in lines()[0]
    assert "specversion" in lines(payloads="true")[0]
    Membership.objects.filter(role="viewer").update(sees_payloads=False)
    assert "specversion" not in lines(payloads="true")[0]


def test_an_export_that_is_asked_for_wrongly_or_found_no_log_begins_no_file(shop: Shop) -> None:
    path = f"{EVENTS}export/"
    wrong = shop.viewer.get(path, format="xml", payloads="1", triger="x")
    assert wrong.status == 422
    assert wrong.problems.keys() == {"format", "payloads", "triger"}
    assert shop.viewer.get(path).problems.keys() == {"format"}
    away = EventingDb.objects.create(
        project=shop.project, alias="away", type="postgres", url="postgresql://u@127.0.0.1:1/none"
    )
    Project.objects.update(eventing_db=away)
    for kind in ("csv", "jsonl"):
        answer = shop.viewer.get(path, format=kind)
        assert answer.status == 503
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_log_that_has_yet_to_be_upgraded_is_said_to_be(
    request: pytest.FixtureRequest, shop: Shop, kind: str
) -> None:
    choose_older_log(request, shop.project, kind)
    for path, query in (
        ("projects/shop/stats/", {}),
        (EVENTS, {}),
        (EVENTS, {"table": "users"}),
        (f"{EVENTS}{UUID(int=0)}/", {}),
        (f"{EVENTS}export/", {"format": "csv"}),
    ):
        answer = shop.viewer.get(path, **query)
        assert answer.status == 503, path
        assert "tables of another version" in answer.json["detail"], path
