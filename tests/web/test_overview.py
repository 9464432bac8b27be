"""The overview: what it counts, where its numbers lead, and what it costs."""

import re
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from eventing import notifications
from eventing.breakers import Breakers
from eventing.eventing_dbs import BUILTIN, log_numbered
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease
from tests.factories import make_database, make_project, make_trigger
from tests.web.conftest import Shop


def links(page: str) -> list[str]:
    return re.findall(r'href="([^"]*/events/\?[^"]*)"', page.replace("&amp;", "&"))


@pytest.mark.parametrize("within", ["1h", "24h", "7d"])
def test_it_counts_what_happened_in_the_period(shop: Shop, admin: Client, within: str) -> None:
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    text = admin.get(shop.path(), {"within": within}).content.decode()
    numbers = re.findall(r'<dd><a href="[^"]*">([^<]+)<', text)
    assert numbers[:4] == ["4", "3", "1", "0"]
    assert "75.0 % of finished" in text
    assert text.count('class="chart-delivered"') == 1
    assert text.count('class="chart-failed"') == 1
    assert f"?within={within}" in text


def test_every_number_leads_to_the_log_that_shows_it(shop: Shop, admin: Client) -> None:
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    text = admin.get(shop.path()).content.decode()
    found = links(text)
    assert len(found) > 60
    for link in {re.sub(r"(after|before)=[^&]*", r"\1=", each): each for each in found}.values():
        page = admin.get(link).content.decode()
        assert "Got " not in page, link
    (failed,) = [each for each in found if parse_qs(urlsplit(each).query) == {
        "status": ["failed"], "within": ["1h"]}]  # fmt: skip
    assert admin.get(failed).content.decode().count('class="event-row"') == 1


_VOID: Final = ("br", "input", "link", "meta")


class _Unlinked(HTMLParser):
    """The texts with a number in them that stand in no link, times apart; p50 and p99 are names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[bool] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = (given.get("class") or "").split()
        is_beside = given.get("aria-hidden") == "true" or "visually-hidden" in names
        if tag not in _VOID:
            self._open.append(tag in ("a", "time") or is_beside)

    def handle_endtag(self, tag: str) -> None:
        # What is read is a part of a page, which closes more than it opens.
        if tag not in _VOID and self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not any(self._open) and re.search(r"[1-9]", data.replace("p50", "").replace("p99", "")):
            self.texts.append(data.strip())


@pytest.mark.parametrize("path", ["", "triggers/welcome-email/"])
def test_every_number_is_a_link_to_what_explains_it(shop: Shop, admin: Client, path: str) -> None:
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    CaptureLease.objects.create(
        database=shop.database, state="retrying", lag_ms=65_000, lag_bytes=2_000_000,
        kept_log_bytes=3_000_000,
        last_change_at="2026-01-31T12:00:00Z",
    )  # fmt: skip
    text = admin.get(shop.path(path), {"within": "7d"}).content.decode()
    # Each row of the last events, which come then, is a link as a whole.
    numbers = text[text.index('<dl class="numbers"') : text.index('aria-labelledby="h-events"')]
    # How many are looked at is no number of what there is.
    unlinked = [each for each in _Unlinked(numbers).texts if not each.startswith("The newest ")]
    assert unlinked == []
    for words in ("attempts retried", "p99 "):
        assert re.search(rf'<a href="#by-time">[^<]*{words}', text), words
    assert 'id="by-time"' in text
    # A step of the table leads to what came of it in that step.
    (events, delivered, failed) = (
        re.search(rf'data-label="{label}"><a href="([^"]+)">{number}<', text)
        for label, number in (("Events", 4), ("Delivered", 3), ("Failed", 1))
    )
    for found, rows in ((events, 4), (delivered, 3), (failed, 1)):
        assert found, rows
        page = admin.get(found[1].replace("&amp;", "&")).content.decode()
        assert page.count('class="event-row"') == rows
    if not path:
        row = f'href="{shop.path("databases/")}#database-main"'
        assert text.count(row) == 2
        assert 'id="database-main"' in admin.get(shop.path("databases/")).content.decode()


def test_the_step_of_a_chart_leads_to_its_events(shop: Shop, admin: Client) -> None:
    shop.add_events(3)
    text = admin.get(shop.path()).content.decode()
    row = r'<th scope="row"><a href="([^"]+)">.{,300}?data-label="Events"><a[^>]*>3<'
    with_events = re.findall(row, text)
    page = admin.get(with_events[0].replace("&amp;", "&")).content.decode()
    assert page.count('class="event-row"') == 3


def test_triggers_and_databases_say_how_they_fare(shop: Shop, admin: Client) -> None:
    shop.add_events(2)
    make_trigger(shop.project, "https://example.com/", "held")
    Breakers().open(shop.project.triggers.get(name="held").pk, "10 attempts in a row failed")
    CaptureLease.objects.create(
        database=shop.database, state="retrying", error="it does not answer",
        lag_ms=65_000, lag_bytes=2_000_000,
        kept_log_bytes=3_000_000,
    )  # fmt: skip
    text = admin.get(shop.path()).content.decode()
    assert "10 attempts in a row failed" in text
    assert "deliveries held" in text
    assert "1 min 5 s" in text
    assert "2 MB" in text
    assert "3 MB" in text
    assert "It does not answer" in text


def test_a_period_that_there_is_not_is_the_last_hour(shop: Shop, admin: Client) -> None:
    assert "Last hour: " in admin.get(shop.path(), {"within": "9y"}).content.decode()


def test_of_more_than_one_reads_those_in_trouble_come_first(shop: Shop, admin: Client) -> None:
    for number in range(60):
        make_trigger(shop.project, "https://example.com/", f"t{number:02}")
        database = make_database(shop.project, "postgresql://h/d", f"d{number:02}")
    text = admin.get(shop.path()).content.decode()
    assert text.count('<th scope="row" class="truncate" title="t') == 50
    assert 'title="t59"' not in text
    assert "50 of 61, those that fail or wait the most first." in text
    assert "50 of 61, those that need somebody first." in text
    assert text.count("(61)") == 2
    Breakers().open(shop.project.triggers.get(name="t59").pk, "10 attempts in a row failed")
    CaptureLease.objects.create(database=database, state="blocked", error="it is away")
    shop.add_events(1, status_code=None)
    text = admin.get(shop.path()).content.decode()
    named = re.findall(r'<th scope="row" class="truncate" title="([^"]+)"', text)
    assert named[:3] == ["t59", "welcome-email", "t00"]
    assert named[50:52] == ["d59", "d00"]
    # Of fewer, all are shown by their names.
    shop.project.triggers.filter(name__gt="t10").exclude(name="t59").delete()
    assert "those that fail" not in admin.get(shop.path()).content.decode()


def test_it_takes_a_fixed_number_of_queries(
    shop: Shop, admin: Client, django_assert_num_queries: Any
) -> None:
    log = log_numbered(BUILTIN)
    assert isinstance(log, PostgresEventLog)
    shop.add_events(2)
    admin.get(shop.path())
    before = log.statements
    with django_assert_num_queries(17):
        admin.get(shop.path())
    first = log.statements - before
    for number in range(5):
        make_trigger(shop.project, "https://example.com/", f"t{number}")
        make_database(shop.project, "postgresql://h/d", f"d{number}")
    shop.add_events(5)
    before = log.statements
    with django_assert_num_queries(17):
        admin.get(shop.path())
    assert log.statements - before == first


def test_a_project_card_tells_of_its_last_hour_and_of_failing_triggers(
    shop: Shop, admin: Client
) -> None:
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    notifications.watch()
    page = admin.get("/projects/").content.decode()
    assert "failing: welcome-email" in page
    assert f'hx-get="{shop.path("figures/")}"' in page
    card = admin.get(shop.path("figures/")).content.decode()
    assert card.count('class="chart-stored"') == 1
    assert "0.067</strong> a minute" in card
    assert "75.0 %</strong> delivered" in card


def test_projects_and_health_take_a_fixed_number_of_queries(shop: Shop, admin: Client) -> None:
    user = User.objects.get(username="admin")
    for path, queries in (("/projects/", 12), ("/health/", 30)):
        admin.get(path)
        with CaptureQueriesContext(connection) as first:
            admin.get(path)
        for number in range(3):
            other = make_project(f"{path.strip('/')}-{number}", owner=user)
            make_database(other, "postgresql://h/d")
            Breakers().open(make_trigger(other, "https://example.com/").pk, "it fails")
        with CaptureQueriesContext(connection) as then:
            admin.get(path)
        assert len(then) == len(first) < queries


def test_the_health_page_tells_only_of_projects_one_may_see(shop: Shop, admin: Client) -> None:
    other = make_project("hidden")
    make_database(other, "postgresql://h/d", "unseen-database")
    Breakers().open(make_trigger(other, "https://example.com/", "unseen-trigger").pk, "it fails")
    Breakers().open(shop.trigger.pk, "it fails here")
    text = admin.get("/health/").content.decode()
    assert "It fails here" in text
    assert "1 open" in text
    assert "main" in text
    assert "unseen" not in text
    panel = admin.get("/health/", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in panel
    assert "starting" in panel
