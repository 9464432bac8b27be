"""Every page that lists something takes the same number of queries, however much it lists."""

from typing import Final

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from eventing import redeliveries
from eventing.access import command_line
from eventing.definitions import MemberDefinition, parse_notification
from eventing.logs import builtin_log
from eventing.logs.base import EventFilter
from eventing.members import add_member
from eventing.models import CaptureLease
from eventing.notifications import save_notification
from tests.factories import actor_called, make_database, make_token, make_trigger
from tests.web.conftest import HOOK, Shop

PAGES: Final = (
    "/projects/",
    "/health/",
    "/projects/shop/",
    "/projects/shop/begin/event/",
    "/projects/shop/begin/trigger/",
    "/projects/shop/databases/",
    "/projects/shop/triggers/",
    "/projects/shop/triggers/?q=t",
    "/projects/shop/triggers/welcome-email/",
    "/projects/shop/events/",
    "/projects/shop/events/?status=failed",
    "/projects/shop/redeliveries/REDELIVERY/",
    "/projects/shop/settings/",
    "/projects/shop/settings/members/",
    "/projects/shop/settings/tokens/",
    "/projects/shop/settings/notifications/",
    "/projects/shop/settings/audit/",
)


def _add_more(shop: Shop, number: int) -> None:
    """One more of everything that a page lists."""
    database = make_database(shop.project, "postgresql://h/d", f"d{number}")
    CaptureLease.objects.create(database=database, state="blocked", error="it fails")
    make_trigger(shop.project, HOOK, f"t{number}", databases=[database.alias])
    member = User.objects.create_user(f"u{number}")
    add_member(shop.project, MemberDefinition(member.username, "viewer"), by=command_line())
    make_token(member, "viewer", shop.project)
    given = parse_notification({"name": f"n{number}", "url": "http://192.0.2.1/hook"})
    save_notification(shop.project, given, by=command_line())
    shop.add_events(3)
    shop.add_events(2, status_code=None)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_a_fixed_number_of_queries(shop: Shop, admin: Client, path: str) -> None:
    redelivery = redeliveries.start(shop.project, EventFilter(), 0, by=actor_called("ada"))
    path = path.replace("REDELIVERY", str(redelivery.pk))
    # Two of each, so that what is looked up only if there is any is looked up each time.
    for number in range(2):
        _add_more(shop, number)
    admin.get(path)
    before = builtin_log().statements
    with CaptureQueriesContext(connection) as first:
        assert admin.get(path).status_code == 200
    statements = builtin_log().statements - before
    for number in range(2, 7):
        _add_more(shop, number)
    before = builtin_log().statements
    with CaptureQueriesContext(connection) as then:
        admin.get(path)
    assert len(then) == len(first)
    # A page that is full need not look further back for more.
    assert builtin_log().statements - before <= statements
    assert len(first) + statements < 60
