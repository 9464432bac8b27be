"""The event log: filters in its address, paging, news, one event, and redelivering."""

from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from eventing.changes import Outcome
from eventing.history import redeliver
from eventing.logs import builtin_log
from tests.factories import make_change, make_events, make_origin, make_outcome, make_trigger
from tests.web.conftest import HOOK, Shop
from webui.templatetags.console import pretty_json

HTMX = {"HX-Request": "true"}


def _shown(text: str) -> list[str]:
    return [part.split('"')[0] for part in text.split('id="event-')[1:] if part[:4] != "rows"]


def test_the_newest_event_comes_first(shop: Shop, viewer: Client) -> None:
    ids = shop.add_events(3)
    text = viewer.get(shop.path("events/")).content.decode()
    assert sorted(_shown(text)) == sorted(ids)
    assert _shown(text) == sorted(ids, reverse=True)


def test_each_filter_of_the_address_filters(shop: Shop, viewer: Client) -> None:
    shop.add_events(2)
    shop.add_events(1, status_code=500)
    for query, count in (
        ("trigger=welcome-email", 3),
        ("trigger=gone", 0),
        ("status=failed", 1),
        ("status=delivered", 2),
        ("database=main", 3),
        ("database=other", 0),
        ("table=users", 3),
        ("operation=delete", 0),
        ("doc_id=1", 1),
        ("within=15m", 3),
        ("after=2000-01-01T00:00", 3),
        ("before=2000-01-01T00:00", 0),
        ("status=failed&trigger=welcome-email&within=1h", 1),
    ):
        answer = viewer.get(shop.path(f"events/?{query}"))
        assert answer.status_code == 200
        assert len(_shown(answer.content.decode())) == count, query


@pytest.mark.parametrize(
    "query", ["status=lost", "operation=drop", "within=2y", "after=yesterday", "before=32"]
)
def test_a_bad_filter_is_refused_and_shows_nothing(shop: Shop, viewer: Client, query: str) -> None:
    shop.add_events(1)
    answer = viewer.get(shop.path(f"events/?{query}"))
    assert answer.status_code == 422
    assert "Allowed: " in answer.content.decode()
    assert _shown(answer.content.decode()) == []


def test_older_events_follow_page_by_page(shop: Shop, viewer: Client) -> None:
    ids = shop.add_events(120)
    path = shop.path("events/?trigger=welcome-email")
    found: list[str] = []
    while True:
        text = viewer.get(path).content.decode()
        found += _shown(text)
        if ">Older<" not in text:
            break
        query = text.split('class="older"><a href="')[1].split('"')[0].replace("&amp;", "&")
        assert "trigger=welcome-email" in query
        path = shop.path("events/") + query
    assert found == sorted(ids, reverse=True)


def test_htmx_gets_only_the_older_rows(shop: Shop, viewer: Client) -> None:
    shop.add_events(60)
    headers = {**HTMX, "HX-Target": "older"}
    text = viewer.get(shop.path("events/"), headers=headers).content.decode()
    assert len(_shown(text)) == 50
    assert "<html" not in text


def test_what_is_new_or_changed_is_told_and_nothing_else(shop: Shop, viewer: Client) -> None:
    shop.add_events(2)
    path = shop.path("events/")

    def tokens() -> str:
        parts = viewer.get(path).content.decode().split('data-token="')[1:]
        return ",".join(part.split('"')[0] for part in parts)

    seen = tokens()
    assert viewer.get(path, {"seen": seen}, headers=HTMX).status_code == 204
    (fresh,) = shop.add_events(1)
    text = viewer.get(path, {"seen": seen}, headers=HTMX).content.decode()
    assert _shown(text) == [fresh]
    assert "hx-swap-oob" not in text
    seen = tokens()
    redeliver(shop.project, [UUID(fresh)])
    text = viewer.get(path, {"seen": seen}, headers=HTMX).content.decode()
    assert _shown(text) == []
    assert f'id="row-{fresh}"' in text
    assert "hx-swap-oob" in text


def test_when_too_much_is_new_that_is_said(shop: Shop, viewer: Client) -> None:
    shop.add_events(60)
    text = viewer.get(shop.path("events/"), {"seen": "0" * 12 + "21"}, headers=HTMX)
    assert "data-gap" in text.content.decode()


@pytest.mark.parametrize("count", [10, 400])
def test_the_log_page_costs_the_same_queries_however_long_the_log(
    shop: Shop, viewer: Client, count: int
) -> None:
    shop.add_events(count)
    before = builtin_log().statements
    with CaptureQueriesContext(connection) as queries:
        assert viewer.get(shop.path("events/")).status_code == 200
    assert (len(queries), builtin_log().statements - before) == (9, 1)


def test_an_event_shows_payload_invocations_and_the_command(shop: Shop, viewer: Client) -> None:
    (event_id,) = shop.add_events(1, status_code=500)
    text = viewer.get(shop.path(f"events/{event_id}/")).content.decode()
    for words in ("DB_INSERT", "Attempt 1", "curl -X POST", "500", event_id, "specversion"):
        assert words in text
    assert "Redeliver" not in text
    part = viewer.get(shop.path(f"events/{event_id}/"), headers=HTMX).content.decode()
    assert "<html" not in part
    assert "curl -X POST" in part


def test_an_editor_redelivers_a_finished_event(shop: Shop, editor: Client) -> None:
    (event_id,) = shop.add_events(1, status_code=500)
    path = shop.path(f"events/{event_id}/redeliver/")
    assert "Redeliver" in editor.get(shop.path(f"events/{event_id}/")).content.decode()
    answer = editor.post(path)
    assert (answer.status_code, answer.headers["Location"]) == (
        303,
        shop.path(f"events/{event_id}/"),
    )
    assert shop.log.counts(shop.project.pk)["pending"] == 1
    text = editor.get(answer.headers["Location"]).content.decode()
    assert "will be delivered again" in text
    assert "data-poll" in text
    again = editor.post(path, follow=True).content.decode()
    assert "Nothing to redeliver" in again


def test_a_viewer_does_not_redeliver(shop: Shop, viewer: Client) -> None:
    (event_id,) = shop.add_events(1, status_code=500)
    assert viewer.post(shop.path(f"events/{event_id}/redeliver/")).status_code == 403
    assert shop.log.counts(shop.project.pk)["failed"] == 1


def test_what_an_endpoint_answers_is_text_and_never_markup(shop: Shop, viewer: Client) -> None:
    trigger = make_trigger(shop.project, HOOK, name="markup")
    origin = make_origin(shop.project, shop.database.pk)
    change = make_change(table="<b>t</b>", document_id="<i>", document={"x": "<script>1</script>"})
    (event,) = make_events([change], origin, trigger.pk, trigger.name)
    shop.log.append(origin, [event], None, change.position)
    (claim,) = shop.log.claim([event.id], 30)
    outcome: Outcome = make_outcome(
        claim,
        500,
        response_body=b"<script>alert(1)</script>",
        response_headers=(("X-<b>", "<img src=x>"),),
    )
    shop.log.record([outcome], "worker-1")
    for path in ("events/", f"events/{event.id}/", ""):
        text = viewer.get(shop.path(path)).content.decode()
        for markup in ("<script>", "<b>t", "<i>", "<img src=x"):
            assert markup not in text, path


def test_numbers_of_a_payload_are_shown_as_they_were_stored() -> None:
    shown = pretty_json('{"a":[1.10,12345678901234567890123,{}],"b":"x\\"<y,{","c":[]}')
    assert "1.10" in shown
    assert "12345678901234567890123" in shown
    assert "&lt;y,{" in shown
    assert shown.count("\n") == 8
