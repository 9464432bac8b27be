"""The event log: filters in its address, paging, news, one event, and redelivering."""

import csv
import html
import json
import re
from io import StringIO
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from eventing.access import command_line
from eventing.breakers import Breakers
from eventing.changes import Outcome
from eventing.definitions import PayloadFormat
from eventing.exports import EXPORT_KINDS, ExportKind, lines
from eventing.formats import message
from eventing.history import MOST_CHOSEN, redeliver, remove_trigger
from eventing.logs import builtin_log, pgpages
from eventing.logs.base import EventFilter, SearchTooDeep
from eventing.models import AuditEntry, Membership
from tests.factories import (
    actor_called,
    make_change,
    make_events,
    make_origin,
    make_outcome,
    make_token,
    make_trigger,
)
from tests.web.conftest import HOOK, Shop, kept_locked
from webui.templatetags.console import folding_json, quick_part

HTMX = {"HX-Request": "true"}
BY = command_line()


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
        ("min_attempts=1", 3),
        ("min_attempts=1&status=failed", 1),
        ("min_attempts=2", 0),
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


def test_times_of_the_filters_are_shown_in_utc_and_are_so_without_a_zone(
    shop: Shop, viewer: Client
) -> None:
    shop.add_events(1)
    path = shop.path("events/")
    for given in ("2026-01-31T13:00:05+01:00", "2026-01-31T12:00:05Z", "2026-01-31T12:00:05"):
        text = viewer.get(path, {"after": given}).content.decode()
        assert 'value="2026-01-31T12:00:05"' in text
        assert "From (<span data-zone>UTC</span>)" in text
        assert 'class="event-row"' in text
    text = viewer.get(path, {"after": "2026-01-31T12:00:05.250Z"}).content.decode()
    assert 'step="0.001" id="id_after" name="after" value="2026-01-31T12:00:05.250"' in text


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


def test_a_search_by_attempts_goes_on_from_page_to_page(
    shop: Shop, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgpages, "_LOOKED_THROUGH", (2, 3))
    ids = shop.add_events(12)
    redeliver(shop.project, [UUID(ids[0])], by=BY)
    (claim,) = shop.log.claim([UUID(ids[0])], 30)
    shop.log.record([make_outcome(claim, 200)], "worker-1")
    further = r'href="([^"]*cursor=[^"]*)">Nothing so far: look further back'
    for number, end in (("2", ids[:1]), ("3", [])):
        path = shop.path("events/")
        text = viewer.get(f"{path}?min_attempts={number}").content.decode()
        assert "No event matches" not in text
        while found := re.search(further, text):
            answer = viewer.get(
                path + html.unescape(found[1]), headers=HTMX | {"HX-Target": "older"}
            )
            text = answer.content.decode()
        assert _shown(text) == end
        assert ("No older event matches." in text) == (not end)


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
    redeliver(shop.project, [UUID(fresh)], by=actor_called("ada"))
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
    assert len(queries) == 13
    assert builtin_log().statements - before <= 6


def test_an_event_shows_payload_invocations_and_the_command(shop: Shop, viewer: Client) -> None:
    (event_id,) = shop.add_events(1, status_code=500)
    text = viewer.get(shop.path(f"events/{event_id}/")).content.decode()
    detail = shop.log.event(shop.project.pk, UUID(event_id))
    assert detail is not None
    position = str(detail.position)
    for words in ("DB_INSERT", "Attempt 1", "curl -X POST", "500", event_id, position):
        assert words in text
    assert "specversion" in text
    assert "Redeliver" not in text
    part = viewer.get(shop.path(f"events/{event_id}/"), headers=HTMX).content.decode()
    assert "<html" not in part
    assert "curl -X POST" in part


@pytest.mark.parametrize("why", ["it is paused", "100 attempts in a row failed"])
def test_an_event_that_waits_says_that_deliveries_are_held(
    shop: Shop, viewer: Client, why: str
) -> None:
    (delivered,) = shop.add_events(1)
    origin, change = make_origin(shop.project, shop.database.pk), make_change(document_id="waits")
    (event,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    shop.log.append(origin, [event], shop.log.position(shop.database.pk), change.position)
    waiting = event.id
    told = f"are held:</strong> {why}."
    log = shop.path("events/")
    assert ">held</span>" not in viewer.get(log).content.decode()
    assert told not in viewer.get(f"/projects/shop/events/{waiting}/").content.decode()
    if why == "it is paused":
        shop.project.triggers.update(state="paused")
    else:
        Breakers().open(shop.trigger.pk, why)
    assert told in viewer.get(f"/projects/shop/events/{waiting}/").content.decode()
    assert told not in viewer.get(f"/projects/shop/events/{delivered}/").content.decode()
    assert viewer.get(log).content.decode().count(">held</span>") == 1


def test_a_retry_whose_time_has_come_is_due_and_was_not_made(shop: Shop, viewer: Client) -> None:
    (event_id,) = shop.add_events(1)
    redeliver(shop.project, [UUID(event_id)], by=BY)
    path = shop.path(f"events/{event_id}/")
    for retry_in_ms, told in ((3_600_000, " UTC</time>"), (-1, "data-due>due</time>")):
        (claim,) = shop.log.claim([UUID(event_id)], 30)
        shop.log.record([make_outcome(claim, 503, retry_in_ms)], "worker-1")
        for page in (path, shop.path("events/")):
            text = viewer.get(page).content.decode()
            times = re.findall(r"(?:retry|next attempt) (<time .*?</time>)", text)
            assert times
            assert all("data-due" in each and each.endswith(told) for each in times), page
        with connection.cursor() as cursor:
            cursor.execute("UPDATE mission_control.delivery SET next_attempt_at = now()")


def test_from_an_event_one_goes_back_to_the_log_as_it_was_filtered(
    shop: Shop, viewer: Client
) -> None:
    (event_id,) = shop.add_events(1)
    path, log = shop.path(f"events/{event_id}/"), shop.path("events/")
    filtered = f"{log}?status=delivered&trigger=welcome-email"
    for came_from, back in (
        (f"http://testserver{filtered}", filtered),
        (f"http://testserver{shop.path('triggers/')}", log),
        (f"https://elsewhere.test{filtered}", log),
    ):
        text = viewer.get(path, headers={"Referer": came_from}).content.decode()
        assert f'<a href="{html.escape(back)}">Event Logs</a>' in text


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


def test_an_event_that_cannot_be_redelivered_says_why(shop: Shop, editor: Client) -> None:
    (sent,) = shop.add_events(1)
    origin = make_origin(shop.project, shop.database.pk)
    change = make_change()._replace(problem="the row could not be decoded")
    (undecoded,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    shop.log.append(origin, [undecoded], shop.log.position(shop.database.pk), change.position)
    button, note = ">Redeliver</button>", "Cannot be redelivered: "

    def told(event_id: object) -> tuple[bool, str]:
        text = editor.get(shop.path(f"events/{event_id}/")).content.decode()
        return button in text, text.partition(note)[2].partition("<")[0]

    assert told(sent) == (True, "")
    assert told(undecoded.id) == (False, "it can never be sent")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mission_control.event_log SET payload = NULL WHERE id = %s", [sent])
    assert told(sent) == (False, "its payload has expired")
    remove_trigger(shop.trigger, by=BY)
    assert told(sent) == (False, "its trigger has been deleted")
    answer = editor.post(shop.path(f"events/{sent}/redeliver/"), follow=True)
    assert "Nothing to redeliver: its trigger has been deleted." in answer.content.decode()


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
    text = '{"a":[1.10,12345678901234567890123,{},[[]]],"b":"x\\"<y,{","c":[]}'
    shown = folding_json(text)
    assert "&lt;y,{" in shown
    assert (shown.count("<details"), shown.count("</details>")) == (3, 3)
    assert html.unescape(re.sub("<[^>]*>", "", shown)).replace(": ", ":") == text


def test_of_brackets_beside_right_to_left_text_only_so_many_are_shown() -> None:
    values = {"many": "[" * 100_000 + "x", "deep": ""}
    text = json.dumps(values, separators=(",", ": "))
    text = text.replace('""', "[" * 50_000 + "]" * 50_000)
    assert html.unescape(re.sub("<[^>]*>", "", folding_json(text))) == text
    assert quick_part(text) == text
    for other in ("\u05d0", "\u202e"):
        mixed = text.replace("many", other)
        lines = re.split("</?(?:div|summary|details)", folding_json(mixed))
        assert max(line.count("[") + line.count("]") for line in lines) == 2000
        assert "… 98,002 more characters" in folding_json(mixed)
        assert mixed.startswith(quick_part(mixed))
        assert quick_part(mixed).count("[") == 1999


@pytest.mark.parametrize(
    ("format_", "body"),
    [
        ("spacecloud", '{"specversion":"1.0-rc1","id":'),
        ("cloudevents", '{"specversion":"1.0","datacontenttype":"application/json","id":'),
        ("cloudevents-binary", '{"db":"sql-postgres"'),
        ("cloudevents-batch", '[{"specversion":"1.0","datacontenttype"'),
    ],
)
def test_the_command_sends_what_was_sent(
    shop: Shop, viewer: Client, format_: PayloadFormat, body: str
) -> None:
    (event,) = make_events(
        [make_change()],
        make_origin(shop.project, shop.database.pk),
        shop.trigger.pk,
        shop.trigger.name,
    )
    shop.log.append(make_origin(shop.project, shop.database.pk), [event], None, "1")
    (claim,) = shop.log.claim([event.id], 30)
    sent = message(format_, [claim.payload], [claim.id_text])
    outcome = make_outcome(claim, 200)
    exchange = outcome.exchange._replace(request_headers=sent.headers)
    shop.log.record([outcome._replace(exchange=exchange)], "worker-1")
    text = html.unescape(viewer.get(shop.path(f"events/{event.id}/")).content.decode())
    assert f"--data-raw '{body}" in text
    assert f"--data-raw '{sent.body.decode()}'" in text
    raw = viewer.get(shop.path(f"events/{event.id}/payload/"))
    assert (raw.headers["Content-Type"], raw.content.decode()) == (
        "application/json",
        event.payload,
    )


@pytest.mark.parametrize("format_", ["spacecloud", "cloudevents-batch"])
@pytest.mark.parametrize("length", [110_000, 300_000])
def test_a_body_that_is_too_long_for_a_command_is_a_file_that_is_whole(
    shop: Shop, viewer: Client, format_: PayloadFormat, length: int
) -> None:
    origin = make_origin(shop.project, shop.database.pk)
    change = make_change(document={"id": 1, "note": "x" * length})
    (event,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    shop.log.append(origin, [event], None, "1")
    (claim,) = shop.log.claim([event.id], 30)
    sent = message(format_, [claim.payload], [claim.id_text])
    outcome = make_outcome(claim, 200)
    exchange = outcome.exchange._replace(request_headers=sent.headers)
    shop.log.record([outcome._replace(exchange=exchange)], "worker-1")
    text = viewer.get(shop.path(f"events/{event.id}/")).content.decode()
    file = f"{event.id}.1.json"
    command = text[text.index("curl -X POST") :]
    assert f"--data-binary @{file}" in command[: command.index("</pre>")]
    assert "--data-raw" not in text
    (address,) = re.findall(rf'href="([^"]+)" download="{file}"', text)
    assert viewer.get(address).content == sent.body
    assert viewer.get(address.replace("=1", "=2")).status_code == 404
    raw = shop.path(f"events/{event.id}/payload/")
    assert viewer.get(raw).content.decode() == event.payload
    # What Copy takes is the whole payload, wherever it is.
    assert (f'data-copy-from="{raw}"' in text) == (length > 200_000)
    assert (f'<pre hidden id="raw-{event.id}">' in text) == (length < 200_000)


def test_a_command_without_its_body_says_so(shop: Shop, viewer: Client) -> None:
    (event_id,) = shop.add_events(1)
    Membership.objects.update(sees_payloads=False)
    text = viewer.get(shop.path(f"events/{event_id}/")).content.decode()
    assert "The command has no body: what rows contain is not shown to you." in text
    assert viewer.get(shop.path(f"events/{event_id}/payload/?attempt=1")).status_code == 404


def test_chosen_events_are_redelivered_and_pending_ones_cancelled(
    shop: Shop, editor: Client, viewer: Client
) -> None:
    ids = shop.add_events(3, status_code=500)
    path = shop.path("events/chosen/")
    back = shop.path("events/?status=failed")
    assert viewer.post(path, {"do": "redeliver", "id": ids}).status_code == 403
    asked = {"do": "redeliver", "id": [*ids[:2], "none"], "next": back}
    answer = editor.post(path, asked)
    assert (answer.status_code, answer.headers["Location"]) == (303, back)
    assert "2 events put back to pending." in editor.get(back).content.decode()
    text = editor.post(path, {"do": "cancel", "id": ids}, headers=HTMX).content.decode()
    assert "2 events cancelled. 1 left as it is: not pending." in text
    assert [text.count(f'id="row-{event_id}"') for event_id in ids] == [1, 1, 1]
    counts = shop.log.counts(shop.project.pk)
    assert (counts["pending"], counts["cancelled"], counts["failed"]) == (0, 2, 1)
    (entry,) = AuditEntry.objects.filter(kind="event", action="event.cancel")
    assert (entry.action, entry.object_name, entry.user_name) == (
        "event.cancel",
        "2 events",
        "editor",
    )
    bad = {"do": "cancel", "id": ids, "next": "https://evil.example/"}
    assert editor.post(path, bad).headers["Location"] == shop.path("events/")
    assert (
        "No event was chosen." in editor.post(path, {"do": "cancel"}, follow=True).content.decode()
    )


def test_a_thousand_events_are_chosen_at_once_and_more_are_refused(
    shop: Shop, editor: Client
) -> None:
    ids = shop.add_events(MOST_CHOSEN + 1, status_code=500)
    path = shop.path("events/chosen/")
    listed = f"http://testserver{shop.path('events/')}?status=failed&cursor=x"
    headers = {**HTMX, "HX-Current-URL": listed}
    refused = editor.post(path, {"do": "redeliver", "ids": ",".join(ids)}, headers=headers)
    assert refused.status_code == 422
    text = refused.content.decode()
    assert "1,001 events are chosen; at most 1,000 can be at once, so nothing was done." in text
    assert f'href="{shop.path("events/redeliver/")}?status=failed"' in text
    assert shop.log.counts(shop.project.pk)["failed"] == MOST_CHOSEN + 1
    plain = editor.post(path, {"do": "cancel", "ids": ",".join(ids)}, follow=True)
    assert "at most 1,000 can be at once" in plain.content.decode()
    taken = editor.post(path, {"do": "redeliver", "ids": ",".join(ids[1:])}, headers=headers)
    assert "1,000 events put back to pending." in taken.content.decode()
    assert shop.log.counts(shop.project.pk)["failed"] == 1


def test_a_viewer_has_nothing_to_choose_with(shop: Shop, editor: Client, viewer: Client) -> None:
    shop.add_events(1)
    for client, has_boxes in ((editor, True), (viewer, False)):
        text = client.get(shop.path("events/")).content.decode()
        assert ('form="chosen"' in text, "choice-bar" in text) == (has_boxes, has_boxes)


def _file(answer: HttpResponse) -> str:
    assert answer.status_code == 200
    return b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]


def test_events_are_exported_as_json_lines_with_the_filters(shop: Shop, viewer: Client) -> None:
    ids = shop.add_events(600)
    failed = shop.add_events(1, status_code=500)
    path = shop.path("events/export/?format=jsonl")
    rows = [json.loads(line) for line in _file(viewer.get(path)).splitlines()]
    assert [row["id"] for row in rows] == sorted([*ids, *failed], reverse=True)
    assert "payload" not in rows[0]
    (line,) = _file(viewer.get(f"{path}&status=failed&payloads=1")).splitlines()
    row = json.loads(line)
    assert (row["id"], row["status"], row["attempts"]) == (failed[0], "failed", 1)
    assert (row["type"], row["last_status_code"]) == ("DB_INSERT", 500)
    assert row["payload"]["id"] == failed[0]


def test_events_are_exported_as_csv_that_no_spreadsheet_runs(shop: Shop, viewer: Client) -> None:
    origin = make_origin(shop.project, shop.database.pk)
    documents = ("=1+1", "-5", "@x", "\n=1", "\uff1d1", 'a "b", c')
    changes = [make_change(document_id=each) for each in documents]
    events = make_events(changes, origin, shop.trigger.pk, shop.trigger.name)
    shop.log.append(origin, events, None, changes[-1].position)
    answer = viewer.get(shop.path("events/export/?format=csv&payloads=1"))
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert re.search(r'filename="shop-events-\d{8}T\d{6}Z.csv"', answer["Content-Disposition"])
    rows = list(csv.DictReader(StringIO(_file(answer), newline="")))
    assert {row["doc_id"] for row in rows} == {
        "'=1+1",
        "-5",
        "'@x",
        "'\n=1",
        "'\uff1d1",
        'a "b", c',
    }
    assert {row["payload"] for row in rows} == {event.payload for event in events}


def test_an_event_is_found_by_its_own_id(shop: Shop, viewer: Client) -> None:
    """What endpoints write into their logs is `webhook-id`."""
    (event_id, _) = shop.add_events(2)
    page = shop.path(f"events/{event_id}/")
    asked = shop.path(f"events/?trigger=welcome-email&doc_id={event_id.upper()}")
    answer = viewer.get(asked)
    assert (answer.status_code, answer.headers["Location"]) == (303, page)
    answer = viewer.get(asked, headers=HTMX)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, page)
    # Live mode leads nobody away from what they read.
    assert viewer.get(asked + "&seen=", headers=HTMX).status_code == 204
    other = f"{event_id[:-12]}000000000000"
    text = viewer.get(shop.path(f"events/?doc_id={other}")).content.decode()
    assert "No event matches these filters." in text
    # A document that has such an id comes first.
    origin = make_origin(shop.project, shop.database.pk)
    change = make_change(document_id=event_id)
    (event,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    shop.log.append(origin, [event], shop.log.position(shop.database.pk), change.position)
    assert _shown(viewer.get(shop.path(f"events/?doc_id={event_id}")).content.decode()) == [
        str(event.id)
    ]


@pytest.mark.parametrize("query", ["", "format=xml", "format=csv&status=lost"])
def test_a_bad_export_is_refused(shop: Shop, viewer: Client, query: str) -> None:
    answer = viewer.get(shop.path(f"events/export/?{query}"))
    assert answer.status_code == 422
    assert "llowed" in answer.content.decode()


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_an_export_that_is_cut_off_says_so_and_where_to_go_on(shop: Shop, kind: ExportKind) -> None:
    shop.add_events(5)
    whole = "".join(lines(shop.project, EventFilter(), kind, by=BY, with_payloads=False, most=5))
    assert "the export ends" not in whole
    cut = "".join(lines(shop.project, EventFilter(), kind, by=BY, with_payloads=False, most=3))
    *_, last = cut.splitlines()
    assert "the export ends after 3 events; the next begins at before=20" in last
    assert len(cut.splitlines()) == len(whole.splitlines()) - 1


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_an_export_whose_log_does_not_answer_in_time_begins_no_file(
    shop: Shop, kind: ExportKind
) -> None:
    shop.add_events(1)
    file = lines(
        shop.project, EventFilter(), kind, by=BY, with_payloads=False, patience_seconds=0.2
    )
    with kept_locked("event_kind"), pytest.raises(SearchTooDeep):
        next(file)


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_an_export_whose_log_gives_out_on_the_way_says_so_and_where_to_go_on(
    shop: Shop, kind: ExportKind
) -> None:
    shop.add_events(501)
    file = lines(
        shop.project, EventFilter(), kind, by=BY, with_payloads=False, patience_seconds=0.2
    )
    begun = [next(file) for _ in range(2 if kind == "csv" else 1)]
    assert begun[-1].count("users") == 500
    with kept_locked("event_kind"):
        (last,) = file
    assert "the export ends after 500 events, since the search was ended" in last
    assert "; the next begins at before=20" in last


def test_a_search_that_is_too_deep_is_a_bad_one_on_the_page_and_over_rest(
    shop: Shop, viewer: Client
) -> None:
    user = User.objects.get(username="viewer")
    token = make_token(user, Membership.Role.VIEWER, shop.project)
    header = {"Authorization": f"Bearer {token}"}
    with kept_locked("event_kind"):
        page = viewer.get(shop.path("events/"))
        rest = viewer.get("/api/v1/projects/shop/events/", headers=header)
    assert (page.status_code, rest.status_code) == (422, 422)
    assert "the search was ended after 3 seconds" in page.content.decode()


def test_one_who_reads_is_only_told_that_there_is_more(shop: Shop, viewer: Client) -> None:
    shop.add_events(60)
    asked = {"seen": "0" * 12 + "21"}
    whole = viewer.get(shop.path("events/"), asked, headers=HTMX).content.decode()
    assert len(_shown(whole)) == 50
    assert ">Older<" in whole
    told = viewer.get(shop.path("events/"), {**asked, "reading": "1"}, headers=HTMX)
    assert _shown(told.content.decode()) == []
    assert "data-gap" in told.content.decode()
