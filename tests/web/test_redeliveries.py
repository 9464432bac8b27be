"""Redelivering all that matches, in the background: from the console and over REST."""

import html
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client

from eventing import redeliveries
from eventing.history import LONG_PATIENCE_SECONDS, counts, redeliver, remove_trigger
from eventing.logs.base import EventFilter
from eventing.models import Redelivery
from eventing.problems import InvalidInput
from tests.factories import actor_called, make_outcome, make_trigger
from tests.waiting import wait_until
from tests.web.conftest import HOOK, Shop, kept_locked, somebody_waits_for_a_lock

EVERYTHING = EventFilter()


def finish(redelivery: Redelivery) -> Redelivery:
    """Steps as beat has them made, until it has ended."""
    for _ in range(100):
        for redelivery_id in redeliveries.waiting():
            redeliveries.advance(redelivery_id)
        redelivery.refresh_from_db()
        if redelivery.state != Redelivery.State.RUNNING:
            return redelivery
    raise AssertionError("it does not end")


def test_every_finished_event_that_matches_is_put_back_and_no_other(shop: Shop) -> None:
    shop.add_events(700, status_code=500)
    shop.add_events(20)
    begun = redeliveries.start(
        shop.project, EventFilter(status="failed"), 0, by=actor_called("ada")
    )
    done = finish(begun)
    assert (done.state, done.total, done.looked_at, done.redelivered) == ("done", 700, 700, 700)
    found = counts(shop.project)
    assert (found["pending"], found["delivered"], found["failed"]) == (700, 20, 0)
    assert redeliveries.waiting() == []


def test_what_is_stored_after_the_beginning_is_left_alone(shop: Shop) -> None:
    begun = redeliveries.start(shop.project, EVERYTHING, 0, by=actor_called("ada"))
    wait_until(lambda: time.time() > begun.created_at.timestamp() + 0.002)
    shop.add_events(3)
    assert finish(begun).looked_at == 0


def test_a_rate_is_kept_from_step_to_step(shop: Shop) -> None:
    shop.add_events(25)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, by=actor_called("ada"))
    seen = []
    for _ in range(3):
        redeliveries.advance(begun.pk)
        begun.refresh_from_db()
        seen.append(begun.redelivered)
    assert seen == [10, 20, 25]
    assert begun.state == "done"


def test_a_cancelled_one_goes_no_further_and_keeps_what_it_did(shop: Shop) -> None:
    shop.add_events(30)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, by=actor_called("ada"))
    redeliveries.advance(begun.pk)
    assert redeliveries.cancel(begun, by=actor_called("ada"))
    assert not redeliveries.cancel(begun, by=actor_called("ada"))
    redeliveries.advance(begun.pk)
    begun.refresh_from_db()
    assert (begun.state, begun.redelivered) == ("cancelled", 10)
    assert counts(shop.project)["pending"] == 10


def test_only_one_process_goes_on_with_it_at_a_time(shop: Shop) -> None:
    shop.add_events(30)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, by=actor_called("ada"))
    Redelivery.objects.filter(pk=begun.pk).update(busy_until="2999-01-01T00:00:00Z")
    assert redeliveries.waiting() == []
    redeliveries.advance(begun.pk)
    begun.refresh_from_db()
    assert begun.redelivered == 0
    # Its process has died.
    Redelivery.objects.filter(pk=begun.pk).update(busy_until="2020-01-01T00:00:00Z")
    assert finish(begun).redelivered == 30


def test_one_whose_search_is_too_deep_ends_and_says_how_to_go_on(
    shop: Shop, viewer: Client
) -> None:
    shop.add_events(30)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, by=actor_called("ada"))
    redeliveries.advance(begun.pk)
    with kept_locked("event_kind"):
        redeliveries.advance(begun.pk, patience_seconds=0.2)
    begun.refresh_from_db()
    assert (begun.state, begun.redelivered) == ("failed", 10)
    assert begun.finished_at is not None
    assert redeliveries.waiting() == []
    assert "choose a shorter time, or another filter beside these; then begin" in begun.error
    assert begun.reached_at is not None
    found = re.search(r"with before=(\S+) to go on from here", begun.error)
    assert found
    assert datetime.fromisoformat(found[1]) > begun.reached_at
    shown = viewer.get(shop.path(f"redeliveries/{begun.pk}/")).content.decode()
    assert "What was put back stays so." in shown
    assert "It goes on by itself" not in shown


def test_a_step_that_somebody_else_has_taken_over_changes_nothing(shop: Shop) -> None:
    shop.add_events(30)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, by=actor_called("ada"))

    def advance() -> None:
        try:
            redeliveries.advance(begun.pk)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with kept_locked("event_kind"):
            late = pool.submit(advance)
            # It knows by then until when it holds it.
            wait_until(somebody_waits_for_a_lock)
            # It has taken so long that another process holds it now.
            Redelivery.objects.update(busy_until="2999-01-01T00:00:00Z")
        late.result()
    begun.refresh_from_db()
    assert (begun.looked_at, begun.redelivered, begun.cursor) == (0, 0, "")
    assert begun.busy_until is not None
    assert begun.busy_until.year == 2999
    assert counts(shop.project)["pending"] == 0


def test_a_page_is_held_for_longer_than_the_longest_search() -> None:
    assert redeliveries.BUSY.total_seconds() > 2 * LONG_PATIENCE_SECONDS


@pytest.mark.parametrize("rate", [-1, 100_001, True, 1.5, "ten", None])
def test_a_rate_that_is_none_is_refused(shop: Shop, rate: object) -> None:
    with pytest.raises(InvalidInput, match="rate_per_second"):
        redeliveries.start(shop.project, EVERYTHING, rate, by=actor_called("ada"))
    assert Redelivery.objects.count() == 0


def test_the_console_asks_begins_shows_and_stops(
    shop: Shop, editor: Client, viewer: Client
) -> None:
    shop.add_events(30, status_code=500)
    log = viewer.get(shop.path("events/?status=failed")).content.decode()
    assert "Redeliver all that match" not in log
    log = editor.get(shop.path("events/?status=failed")).content.decode()
    path = shop.path("events/redeliver/?status=failed")
    assert path in log
    assert viewer.get(path).status_code == 403
    asked = editor.get(path).content.decode()
    assert "<dd>failed</dd>" in asked
    assert "Counting the events that match" in asked
    assert (
        '<strong class="tabular">30 events</strong> match.'
        in editor.get(path + "&count=1").content.decode()
    )
    refused = editor.post(path, {"rate_per_second": "many"})
    assert refused.status_code == 422
    assert "a whole number from 0" in refused.content.decode()
    answer = editor.post(path, {"rate_per_second": "10"})
    assert answer.status_code == 303
    (begun,) = Redelivery.objects.all()
    redeliveries.advance(begun.pk)
    shown = viewer.get(answer.headers["Location"]).content.decode()
    assert "10 of 30 events" in shown
    assert '<progress max="30" value="10"' in shown
    assert "Stop" not in shown
    stopped = editor.post(answer.headers["Location"] + "cancel/")
    assert stopped.status_code == 303
    assert "cancelled" in viewer.get(answer.headers["Location"]).content.decode()


def test_where_nothing_would_be_redelivered_it_is_said_and_not_offered(
    shop: Shop, editor: Client
) -> None:
    shop.add_events(3)
    path = shop.path("events/redeliver/")
    for filters, told in (
        ("?status=failed&count=1", "<strong>No event matches</strong>: there is nothing"),
        ("?status=pending", "Events that are pending are not finished: there is nothing"),
        ("?status=lost", "status"),
    ):
        page = editor.get(path + filters).content.decode()
        assert told in page
        assert ">Redeliver</button>" not in page
        assert "Back to the log" in page
    assert ">Redeliver</button>" in editor.get(path + "?count=1").content.decode()


def test_where_none_of_those_that_match_is_finished_nothing_is_offered(
    shop: Shop, editor: Client
) -> None:
    ids = [UUID(each) for each in shop.add_events(3)]
    path = shop.path("events/redeliver/?count=1&trigger=welcome-email")
    redeliver(shop.project, ids[:2], by=actor_called("ada"))
    page = editor.get(path).content.decode()
    assert '<strong class="tabular">3 events</strong> match.' in page
    assert "2</span> of them are not finished and are left alone." in page
    assert ">Redeliver</button>" in page
    redeliver(shop.project, ids[2:], by=actor_called("ada"))
    shop.log.claim(ids[:1], 30)
    page = editor.get(path).content.decode()
    assert "None of them is finished: they are still to be delivered" in page
    assert ">Redeliver</button>" not in page
    assert "Back to the log" in page
    # Where the filters say as much, the log itself offers nothing.
    for status, is_offered in (("pending", False), ("delivering", False), ("", True)):
        log = editor.get(shop.path(f"events/?status={status}")).content.decode()
        assert 'class="event-row"' in log
        assert ("Redeliver all that match…" in log) == is_offered, status


def test_where_all_that_match_are_of_deleted_triggers_nothing_is_offered(
    shop: Shop, editor: Client
) -> None:
    shop.add_events(2, status_code=500)
    remove_trigger(shop.trigger, by=actor_called("ada"))
    # One of the same name is another one, which has sent none of those.
    shop.trigger = make_trigger(shop.project, HOOK)
    for query in ("count=1", "count=1&status=failed", "count=1&trigger=welcome-email&doc_id=1"):
        page = editor.get(shop.path(f"events/redeliver/?{query}")).content.decode()
        assert "deleted: nobody knows where to send" in page, query
        assert ">Redeliver</button>" not in page
        assert "Back to the log" in page
    shop.add_events(1, status_code=500)
    path = shop.path("events/redeliver/?status=failed")
    page = editor.get(path + "&count=1").content.decode()
    assert '<strong class="tabular">3 events</strong> match.' in page
    assert "2</span> of them are of deleted triggers and are left alone." in page
    assert ">Redeliver</button>" in page
    editor.post(path, {"rate_per_second": ""})
    done = finish(Redelivery.objects.get())
    assert (done.looked_at, done.redelivered) == (3, 1)


def test_redeliveries_are_found_again_and_say_what_has_become_of_their_events(
    shop: Shop, editor: Client, viewer: Client
) -> None:
    log, listed = shop.path("events/"), shop.path("redeliveries/")
    assert listed not in editor.get(log).content.decode()
    assert "Nothing has been redelivered by filters lately." in viewer.get(listed).content.decode()
    failed = shop.add_events(3, status_code=500)
    shop.add_events(2)
    asked = EventFilter(trigger="welcome-email", status="failed", error="500")
    begun = redeliveries.start(shop.project, asked, 2, by=actor_called("ada"))
    redeliveries.advance(begun.pk)
    path = shop.path(f"redeliveries/{begun.pk}/")
    text = viewer.get(log).content.decode()
    assert f'<a href="{path}">Redelivery {begun.pk}</a> is under way: 2 of 3 events put' in text
    assert listed in text
    text = viewer.get(listed).content.decode()
    assert path in text
    assert "Trigger welcome-email, Status failed, Text of an error 500" in text

    def standing() -> dict[str, str]:
        page = viewer.get(path).content.decode()
        told = page.partition("What has become of them")[2].partition("</ul>")[0]
        found = {}
        for item in told.split("<li>")[1:]:
            (status,) = re.findall(r'class="status status-(\w+)"', item)
            (count,) = re.findall(r'class="tabular"[^>]*>(\d+)<', item)
            found[status] = count
            for address in re.findall(r'href="([^"]+)"', item):
                rows = (
                    viewer.get(html.unescape(address)).content.decode().count('class="event-row"')
                )
                assert str(rows) == count, address
        return found

    assert standing() == {"pending": "2", "delivering": "0", "failed": "1"}
    assert "deliveries are held" not in viewer.get(path).content.decode()
    shop.project.triggers.update(state="paused")
    assert "Events wait while deliveries are held" in viewer.get(path).content.decode()
    assert finish(begun).redelivered == 3
    assert "is under way" not in viewer.get(log).content.decode()
    claims = shop.log.claim([UUID(each) for each in failed], 30)
    shop.log.record([make_outcome(claim, 200) for claim in claims[:2]], "worker-1")
    shop.log.record([make_outcome(claim, 503) for claim in claims[2:]], "worker-1")
    assert standing() == {"pending": "0", "delivering": "0", "failed": "1"}


def test_a_bad_filter_begins_nothing(shop: Shop, editor: Client) -> None:
    answer = editor.post(shop.path("events/redeliver/?status=lost"))
    assert answer.status_code == 422
    assert Redelivery.objects.count() == 0


def test_more_than_can_be_counted_is_redelivered_all_the_same(
    shop: Shop, editor: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeliveries, "MOST_COUNTED", 20)
    shop.add_events(30)
    page = editor.get(shop.path("events/redeliver/?count=1")).content.decode()
    assert "20 events or more" in page
    begun = redeliveries.start(shop.project, EVERYTHING, 10, by=actor_called("ada"))
    redeliveries.advance(begun.pk)
    begun.refresh_from_db()
    assert (begun.total, begun.looked_at) == (None, 10)
    page = editor.get(shop.path(f"redeliveries/{begun.pk}/")).content.decode()
    assert "<progress aria-label" in page
    assert finish(begun).redelivered == 30
