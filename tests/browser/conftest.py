"""One Chromium for the whole session, and pages that notice whatever goes wrong in them."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from eventing import notifications
from eventing.access import Actor, command_line
from eventing.definitions import MemberDefinition, Role, parse_notification
from eventing.health import beat
from eventing.logs.postgres import PostgresEventLog
from eventing.members import add_member
from eventing.models import CaptureLease, Notice, Project
from eventing.projects import rotate_signing_secret, save_trigger, trigger_definition_of
from tests.factories import make_database, make_project, make_token, make_trigger
from tests.web.conftest import Shop

# Playwright's loop runs in the tests' thread, where Django would refuse to touch the database.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"

# A busy machine is no failure.
expect.set_options(timeout=30_000)

LONG = "a-trigger-whose-name-is-as-long-as-names-may-be-63-characters-x"
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Complaints:
    """Console errors, exceptions, failed requests and refused answers of a context's pages."""

    found: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)

    def expect(self, status: int) -> None:
        """A page that refuses bad input answers 422, which the console then shows as an error."""
        self.expected.add(status)

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"{page.url}: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _console(self, message: ConsoleMessage) -> None:
        refused = any(
            f"status of {status}" in message.text or f"Error Code {status}" in message.text
            for status in self.expected
        )
        if message.type in ("error", "warning") and not refused:
            on = message.page.url if message.page else "no page"
            self.found.append(f"{on}: console: {message.text}")

    def _failed(self, request: Request) -> None:
        # Leaving a page ends what it was still asking for; that is no failure.
        if request.failure != "net::ERR_ABORTED":
            self.found.append(f"{request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.found.append(f"{response.url}: {response.status}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "the browser tests need Chromium (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """What went wrong in the pages; asserted to be nothing when the test ends."""
    complaints = Complaints()
    yield complaints
    assert complaints.found == []


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(locale="en-GB", timezone_id="Europe/Berlin")
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, complaints: Complaints) -> Page:
    page = context.new_page()
    complaints.watch(page)
    return page


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    """A project in which much goes on and some goes wrong, with names as long as may be."""
    project = make_project()
    make_project("empty", enabled=False)
    database = make_database(project, "postgresql://u:p@a-long-host-name.example.com/shop")
    lost = make_database(project, "postgresql://h/d", alias="lost")
    CaptureLease.objects.create(
        database=lost,
        state="blocked",
        error="the slot is gone. Start capture anew from now on the database's page",
        mend="SELECT pg_drop_replication_slot('mission_control_0123456789abcdef');",
    )
    trigger = make_trigger(
        project,
        "https://hooks.example.com/" + "a-long-path/" * 8,
        name=LONG,
        operations=["insert", "update", "delete"],
        tables=["a_table_with_a_name_of_no_less_than_sixty_three_characters_in_it"],
        headers={"Authorization": "word"},
    )
    paused = make_trigger(project, "https://example.com/", name="paused", state="paused")
    rotate_signing_secret(paused, by=command_line())
    found = Shop(project, database, trigger, log)
    found.add_events(8)
    found.add_events(4, status_code=None)
    make_notifications(project)
    beat("capture", "capture@host:1")
    for name, role in (("grace", "admin"), ("a-user-of-" + "x" * 140, "viewer")):
        member = User.objects.create_user(name)
        add_member(project, MemberDefinition(name, cast(Role, role)), by=command_line())
        make_token(member, role, project, name="a deploy script with a name of " + "x" * 32)
    save_trigger(
        project,
        replace(trigger_definition_of(trigger), retries=9, headers={"Authorization": "other"}),
        trigger,
        by=Actor(member, address="2001:db8:85a3:8d3:1319:8a2e:370:7348"),
    )
    return found


def make_notifications(project: Project) -> None:
    """One whose message has been sent, one that nobody takes, and what is wrong now."""
    for name, url in (
        (
            "on-call",
            "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        ),
        (LONG, f"mailtos://u:p@{'a-long-host-name.' * 6}example.com?to=a@example.com"),
    ):
        given = parse_notification({"name": name, "url": url})
        notifications.save_notification(project, given, by=command_line())
    notifications.watch()
    of_one = Notice.objects.filter(notification__name="on-call")
    of_one.update(sent_at=Now(), next_attempt_at=None)
    Notice.objects.exclude(pk__in=of_one).update(
        next_attempt_at=None, attempts=8, error="a connection error occurred sending it there"
    )


def sign_in(context: BrowserContext, live_server: Any) -> None:
    """As the administrator of the installation, without going through the form."""
    client = Client()
    client.force_login(User.objects.create_superuser("ada", password="correct-horse-battery"))
    cookie = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": cookie, "url": live_server.url}])
