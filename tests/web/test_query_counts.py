"""Every page that lists something takes the same number of queries, however much it lists."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from eventing import history, notifications, redeliveries
from eventing.access import command_line
from eventing.breakers import Breakers
from eventing.definitions import MemberDefinition, parse_notification
from eventing.logs import builtin_log
from eventing.logs.base import EventFilter
from eventing.members import add_member
from eventing.models import CaptureLease, Project
from tests.factories import (
    actor_called,
    make_database,
    make_outcome,
    make_project,
    make_token,
    make_trigger,
)
from tests.web.conftest import HOOK, Shop

PAGES: Final = (
    "/projects/",
    "/projects/shop/figures/",
    "/health/",
    "/projects/shop/",
    "/projects/shop/begin/event/",
    "/projects/shop/begin/trigger/",
    "/projects/shop/databases/",
    "/projects/shop/triggers/",
    "/projects/shop/triggers/?q=t",
    "/projects/shop/triggers/add/",
    "/projects/shop/triggers/welcome-email/",
    "/projects/shop/events/",
    "/projects/shop/events/?status=failed",
    "/projects/shop/events/EVENT/",
    "/projects/shop/events/redeliver/?status=failed",
    "/projects/shop/redeliveries/",
    "/projects/shop/redeliveries/REDELIVERY/",
    "/projects/shop/settings/",
    "/projects/shop/settings/members/",
    "/projects/shop/settings/tokens/",
    "/projects/shop/settings/notifications/",
    "/projects/shop/settings/configuration/",
    "/projects/shop/settings/audit/",
    "/projects/shop/settings/audit/?kind=trigger",
)


def _add_source(project: Project, alias: str, trigger: str) -> None:
    """A database and a trigger that watches it, both in trouble."""
    database = make_database(project, "postgresql://h/d", alias)
    CaptureLease.objects.create(database=database, state="blocked", error="it fails")
    made = make_trigger(project, HOOK, trigger, databases=[alias])
    Breakers().open(made.pk, "10 attempts in a row failed")


@dataclass
class _Growing:
    """A shop of which there is more and more, and a member of each project who looks at it."""

    shop: Shop
    event_id: UUID
    looking: User

    def add_more(self, number: int) -> None:
        """One more of everything that a page lists."""
        project = self.shop.project
        _add_source(project, f"d{number}", f"t{number}")
        member = User.objects.create_user(f"u{number}")
        add_member(project, MemberDefinition(member.username, "viewer"), by=command_line())
        make_token(member, "viewer", project)
        given = parse_notification({"name": f"n{number}", "url": "http://192.0.2.1/hook"})
        notifications.save_notification(project, given, by=command_line())
        redeliveries.start(project, EventFilter(), 0, by=actor_called("ada"))
        _add_source(make_project(f"other-{number}", owner=self.looking), "main", "hook")
        notifications.watch()
        self.shop.add_events(3)
        self.shop.add_events(2, status_code=None)
        self._attempt_again()

    def _attempt_again(self) -> None:
        """One more invocation of the one event."""
        history.redeliver(self.shop.project, [self.event_id], by=command_line())
        claims = self.shop.log.claim([self.event_id], 30)
        self.shop.log.record([make_outcome(claim, None) for claim in claims], "worker-1")


def fewest_of(client: Client, path: str) -> tuple[int, int]:
    """Queries and statements of the log that a page takes; what is looked up only now and then,
    since it is kept for some seconds, is left out."""
    taken = []
    for _ in range(2):
        before = builtin_log().statements
        with CaptureQueriesContext(connection) as queries:
            assert client.get(path).status_code == 200
        taken.append((len(queries), builtin_log().statements - before))
    return min(count for count, _ in taken), min(count for _, count in taken)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_a_fixed_number_of_queries(shop: Shop, admin: Client, path: str) -> None:
    (event_id,) = shop.add_events(1, status_code=None)
    growing = _Growing(shop, UUID(event_id), User.objects.get(username="admin"))
    redelivery = redeliveries.start(shop.project, EventFilter(), 0, by=actor_called("ada"))
    path = path.replace("REDELIVERY", str(redelivery.pk)).replace("EVENT", event_id)
    # Two of each, so that what is looked up only if there is any is looked up each time.
    for number in range(2):
        growing.add_more(number)
    admin.get(path)
    queries, statements = fewest_of(admin, path)
    for number in range(2, 7):
        growing.add_more(number)
    queries_then, statements_then = fewest_of(admin, path)
    assert queries_then == queries, path
    # A page that is full need not look further back for more.
    assert statements_then <= statements
    assert queries + statements < 60
