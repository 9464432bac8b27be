"""The overview: what it counts, where its numbers lead, and what it costs."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from eventing.breakers import Breakers
from eventing.eventing_dbs import BUILTIN, log_numbered
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease
from tests.factories import make_database, make_trigger
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


def test_the_step_of_a_chart_leads_to_its_events(shop: Shop, admin: Client) -> None:
    shop.add_events(3)
    text = admin.get(shop.path()).content.decode()
    with_events = re.findall(r'<th scope="row"><a href="([^"]+)">.*?data-label="Events">3<', text)
    page = admin.get(with_events[0].replace("&amp;", "&")).content.decode()
    assert page.count('class="event-row"') == 3


def test_triggers_and_databases_say_how_they_fare(shop: Shop, admin: Client) -> None:
    shop.add_events(2)
    make_trigger(shop.project, "https://example.com/", "held")
    Breakers().open(shop.project.triggers.get(name="held").pk, "10 attempts in a row failed")
    CaptureLease.objects.create(
        database=shop.database, state="retrying", error="it does not answer",
        lag_ms=65_000, lag_bytes=2_000_000,
    )  # fmt: skip
    text = admin.get(shop.path()).content.decode()
    assert "10 attempts in a row failed" in text
    assert "<span>held</span>" in text
    assert "1 min 5 s" in text
    assert "2 MB" in text
    assert "It does not answer" in text


def test_a_period_that_there_is_not_is_the_last_hour(shop: Shop, admin: Client) -> None:
    assert "Last hour: " in admin.get(shop.path(), {"within": "9y"}).content.decode()


def test_it_takes_a_fixed_number_of_queries(
    shop: Shop, admin: Client, django_assert_num_queries: Any
) -> None:
    log = log_numbered(BUILTIN)
    assert isinstance(log, PostgresEventLog)
    shop.add_events(2)
    admin.get(shop.path())
    before = log.statements
    with django_assert_num_queries(15):
        admin.get(shop.path())
    first = log.statements - before
    for number in range(5):
        make_trigger(shop.project, "https://example.com/", f"t{number}")
        make_database(shop.project, "postgresql://h/d", f"d{number}")
    shop.add_events(5)
    before = log.statements
    with django_assert_num_queries(15):
        admin.get(shop.path())
    assert log.statements - before == first
