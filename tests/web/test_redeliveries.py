"""Redelivering all that matches, in the background: from the console and over REST."""

import time

import pytest
from django.test import Client

from eventing import redeliveries
from eventing.history import counts
from eventing.logs.base import EventFilter
from eventing.models import Redelivery
from eventing.problems import InvalidInput
from tests.waiting import wait_until
from tests.web.conftest import Shop

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
    begun = redeliveries.start(shop.project, EventFilter(status="failed"), 0, "ada")
    done = finish(begun)
    assert (done.state, done.looked_at, done.redelivered) == ("done", 700, 700)
    found = counts(shop.project)
    assert (found["pending"], found["delivered"], found["failed"]) == (700, 20, 0)
    assert redeliveries.waiting() == []


def test_what_is_stored_after_the_beginning_is_left_alone(shop: Shop) -> None:
    begun = redeliveries.start(shop.project, EVERYTHING, 0, "ada")
    wait_until(lambda: time.time() > begun.created_at.timestamp() + 0.002)
    shop.add_events(3)
    assert finish(begun).looked_at == 0


def test_a_rate_is_kept_from_step_to_step(shop: Shop) -> None:
    shop.add_events(25)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, "ada")
    seen = []
    for _ in range(3):
        redeliveries.advance(begun.pk)
        begun.refresh_from_db()
        seen.append(begun.redelivered)
    assert seen == [10, 20, 25]
    assert begun.state == "done"


def test_a_cancelled_one_goes_no_further_and_keeps_what_it_did(shop: Shop) -> None:
    shop.add_events(30)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, "ada")
    redeliveries.advance(begun.pk)
    assert redeliveries.cancel(begun)
    assert not redeliveries.cancel(begun)
    redeliveries.advance(begun.pk)
    begun.refresh_from_db()
    assert (begun.state, begun.redelivered) == ("cancelled", 10)
    assert counts(shop.project)["pending"] == 10


def test_only_one_process_goes_on_with_it_at_a_time(shop: Shop) -> None:
    shop.add_events(30)
    begun = redeliveries.start(shop.project, EVERYTHING, 10, "ada")
    Redelivery.objects.filter(pk=begun.pk).update(busy_until="2999-01-01T00:00:00Z")
    assert redeliveries.waiting() == []
    redeliveries.advance(begun.pk)
    begun.refresh_from_db()
    assert begun.redelivered == 0
    # Its process has died.
    Redelivery.objects.filter(pk=begun.pk).update(busy_until="2020-01-01T00:00:00Z")
    assert finish(begun).redelivered == 30


@pytest.mark.parametrize("rate", [-1, 100_001, True, 1.5, "ten", None])
def test_a_rate_that_is_none_is_refused(shop: Shop, rate: object) -> None:
    with pytest.raises(InvalidInput, match="rate_per_second"):
        redeliveries.start(shop.project, EVERYTHING, rate, "ada")
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
    refused = editor.post(path, {"rate_per_second": "many"})
    assert refused.status_code == 422
    assert "a whole number from 0" in refused.content.decode()
    answer = editor.post(path, {"rate_per_second": "10"})
    assert answer.status_code == 303
    (begun,) = Redelivery.objects.all()
    redeliveries.advance(begun.pk)
    shown = viewer.get(answer.headers["Location"]).content.decode()
    assert "10 events" in shown
    assert "Stop" not in shown
    stopped = editor.post(answer.headers["Location"] + "cancel/")
    assert stopped.status_code == 303
    assert "cancelled" in viewer.get(answer.headers["Location"]).content.decode()


def test_a_bad_filter_begins_nothing(shop: Shop, editor: Client) -> None:
    answer = editor.post(shop.path("events/redeliver/?status=lost"))
    assert answer.status_code == 422
    assert Redelivery.objects.count() == 0
