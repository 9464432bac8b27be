"""What can be opened or made to appear on the pages, at three widths in both themes: menus, panels,
folded parts, dialogs, answers, refusals and empty lists. Like the pages themselves it neither
scrolls sideways nor violates what axe-core knows of. It is opened once, in a narrow window that is
then made wider.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, expect

from eventing.access import Actor, command_line
from eventing.breakers import Breakers
from eventing.definitions import MemberDefinition
from eventing.health import PROCESSES, beat
from eventing.members import add_member
from eventing.models import Database, Trigger
from eventing.projects import (
    database_definition_of,
    save_database,
    save_trigger,
    trigger_definition_of,
)
from tests.browser.conftest import LONG, Complaints, sign_in
from tests.browser.test_every_page import WIDTHS, faults
from tests.web.conftest import Shop

LONG_PROCESS = "worker@" + "a-long-host-name." * 5 + "example.internal:12345"


class State(NamedTuple):
    """A page, what is done there, and what then must be visible."""

    path: str
    open: Callable[[Page], Any]
    seen: str
    # What is opened in a narrow window alone, and stands there by itself in a wider one.
    opened_at: tuple[int, ...] = WIDTHS[:1]


def click(selector: str, number: int = 0) -> Callable[[Page], Any]:
    return lambda page: page.locator(selector).nth(number).click()


def press(name: str, /, **filled: str) -> Callable[[Page], None]:
    """Fill fields by their ids, then press a button."""

    def act(page: Page) -> None:
        for field, text in filled.items():
            page.locator(f"#id_{field}").fill(text)
        page.get_by_role("button", name=name, exact=True).click()

    return act


def nothing(page: Page) -> None:
    """The page shows it as it is."""


def open_event(page: Page) -> None:
    page.locator(".row-link").first.click()
    # The last one is open, since it failed.
    page.locator(".invocation[open] .fold > summary").click()


def send_bad_trigger(page: Page) -> None:
    # What was refused before is in its draft, and has opened this already.
    page.evaluate("document.querySelector('.advanced').open = true")
    press("Add", retries="-1")(page)


def grace_is_faster(page: Page) -> None:
    """Of two who edit a trigger, the other one saves first."""
    trigger = Trigger.objects.get(name=LONG)
    definition = trigger_definition_of(trigger)
    changed = replace(definition, retries=definition.retries + 1, tables=("*." + "x" * 60,))
    grace = Actor(User.objects.get(username="grace"))
    save_trigger(trigger.project, changed, trigger, by=grace)
    press("Save")(page)


def grace_is_faster_with_a_database(page: Page) -> None:
    database = Database.objects.get(alias="main", project__name="shop")
    definition = database_definition_of(database)
    changed = replace(definition, schemas=(*(definition.schemas or ()), "billing"))
    grace = Actor(User.objects.get(username="grace"))
    save_database(database.project, changed, database, by=grace)
    press("Save")(page)


def grace_is_faster_than_the_plan(page: Page) -> None:
    text = page.locator("#id_text")
    text.fill(text.input_value().replace("concurrency: 64", "concurrency: 32"))
    press("Show the plan")(page)
    expect(page.get_by_role("heading", name="Plan")).to_be_visible()
    trigger = Trigger.objects.get(name=LONG)
    definition = trigger_definition_of(trigger)
    changed = replace(definition, retries=definition.retries + 1)
    save_trigger(trigger.project, changed, trigger, by=command_line())
    press("Apply")(page)


def choose_two(page: Page) -> None:
    for number in (0, 1):
        page.locator(".event-row .c-choose input").nth(number).check()


def open_side(page: Page) -> None:
    if page.viewport_size and page.viewport_size["width"] < 800:
        page.get_by_role("button", name="Menu").click()


STATES = {
    # Of the frame, which all pages have: on one of the smaller, since what takes long is the page.
    "project menu": State("settings/", click(".switcher"), ".menu-panel >> text=All projects"),
    "theme menu": State("settings/", click(".theme-menu > summary"), ".theme-menu button"),
    "account menu": State("settings/", click("[aria-label=Account]"), "text=Sign out"),
    "health panel": State(
        "settings/", click(".health"), ".menu-panel.wide >> text=messages waiting"
    ),
    "side bar": State("settings/", open_side, "nav.side a", opened_at=WIDTHS),
    "charts as a table": State("", click(".chart-table > summary"), ".behind td"),
    "charts of a trigger as a table": State(
        f"triggers/{LONG}/", click(".chart-table > summary"), ".behind td"
    ),
    "project refused": State(
        "../add/", press("Create project", name="A B"), "text=Got 'A B'. Allowed: 1 to 63"
    ),
    "first database refused": State(
        "begin/database/",
        press("Connect and go on", host="127.0.0.1", port="1", database="x"),
        "text=Save all the same",
    ),
    "first trigger refused": State(
        "begin/trigger/", press("Add", url="nonsense"), "text=Nothing was saved"
    ),
    "rename refused": State("settings/", press("Rename", title="x" * 64), "text=at most 63"),
    "matching events counted": State(
        "events/redeliver/?status=failed", nothing, "text=4 events match"
    ),
    "more filters": State("events/", click(".more-filters > summary"), "#id_error"),
    "an opened event": State(
        "events/?status=failed", open_event, ".invocation[open] >> text=Do it again by hand"
    ),
    "chosen events": State("events/?status=failed", choose_two, "text=2 chosen"),
    "export menu": State("events/", click("summary:has-text('Export')"), "text=CSV with payloads"),
    "shortcuts": State("events/", lambda page: page.keyboard.press("?"), "#h-keys"),
    "no event matches": State("events/?doc_id=none", nothing, "text=No event matches"),
    "filters refused": State("events/?after=nonsense", nothing, "text=From: Got 'nonsense'"),
    "trigger row menu": State("triggers/", click(".c-menu summary"), "text=Duplicate"),
    "no trigger matches": State("triggers/?q=none", nothing, "text=No trigger matches."),
    "trigger menu": State(f"triggers/{LONG}/", click("[aria-label='More actions']"), "text=Delete"),
    "a held trigger": State(f"triggers/{LONG}/", nothing, "text=Deliveries are held."),
    "secret revealed": State(f"triggers/{LONG}/", press("Reveal"), "#secret-1"),
    "history unfolded": State(f"triggers/{LONG}/", nothing, "#h-history"),
    "test event": State("triggers/paused/", press("Send test event"), "#h-trial"),
    "advanced settings": State(
        f"triggers/{LONG}/edit/", click(".advanced > summary"), "#id_backoff_factor"
    ),
    "timetable": State(f"triggers/{LONG}/edit/", click(".timetable > summary"), ".timetable td"),
    "sample refused": State("triggers/add/", press("Read a row"), "#sample .error, #sample .muted"),
    "trigger refused": State("triggers/add/", send_bad_trigger, "text=Nothing was saved"),
    "trigger changed meanwhile": State(
        f"triggers/{LONG}/edit/", grace_is_faster, "text=has been changed while you were editing"
    ),
    "database changed meanwhile": State(
        "databases/main/",
        grace_is_faster_with_a_database,
        "text=has been changed while you were editing",
    ),
    "plan out of date": State(
        "settings/configuration/", grace_is_faster_than_the_plan, "text=since its plan was shown"
    ),
    "database row menu": State("databases/", click(".c-menu summary"), "text=Edit and test"),
    "database refused": State("databases/add/", press("Save"), "text=Nothing was saved"),
    "connection tested": State(
        "databases/add/",
        press("Test connection", host="127.0.0.1", port="1", database="x", alias="x"),
        "text=Not ready to be captured",
    ),
    "settings refused": State(
        "settings/", press("Save", retention_events="x"), "text=Nothing was saved"
    ),
    "shorter retention asked about": State(
        "settings/",
        press("Save", retention_events="7", retention_payloads="1"),
        "text=3 events are older than 7 days",
    ),
    "member refused": State(
        "settings/members/", press("Add", user="nobody-here"), "text=Nothing was saved"
    ),
    "token made": State("settings/tokens/", press("Create"), "text=It is shown this once."),
    "how addresses are written": State(
        "settings/notifications/add/", click(".advanced > summary"), "text=Mattermost"
    ),
    "notification refused": State(
        "settings/notifications/add/", press("Save"), "text=Nothing was saved"
    ),
    "plan": State(
        "settings/configuration/",
        lambda page: (page.locator("#id_prune").check(), press("Show the plan")(page)),
        "#h-plan",
    ),
    "configuration refused": State(
        "settings/configuration/", press("Show the plan", text="nonsense"), "text=Nothing was"
    ),
    "audit log unfolded": State(
        "settings/audit/", click(".changes.fold > summary"), ".changes[open] dd"
    ),
    "no entry matches": State("settings/audit/?object=none", nothing, "text=No entry matches"),
}


@pytest.fixture
def busy_shop(shop: Shop) -> Shop:
    """The shop with a held trigger, events of last week, and processes whose names are long."""
    long_ago = timezone.now() - timedelta(days=9)
    shop.add_events(3, committed_at_ms=int(long_ago.timestamp() * 1000))
    for process in PROCESSES:
        beat(process, LONG_PROCESS)
    Breakers().open(shop.trigger.pk, "20 attempts in a row failed, over 31 seconds")
    return shop


@pytest.mark.parametrize("name", STATES)
def test_an_opened_state_is_fine_at_every_width_in_both_themes(
    name: str,
    busy_shop: Shop,
    live_server: Any,
    context: BrowserContext,
    page: Page,
    complaints: Complaints,
) -> None:
    complaints.expect(422)
    complaints.expect(409)
    sign_in(context, live_server)
    state = STATES[name]
    found = []
    for width in state.opened_at:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(live_server.url + busy_shop.path(state.path))
        state.open(page)
        expect(page.locator(state.seen).first).to_be_visible()
        found += faults(page, WIDTHS if state.opened_at == WIDTHS[:1] else (width,))
        expect(page.locator(state.seen).first).to_be_visible()
    assert found == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/projects/nowhere/", 404),
        ("/projects/shop/triggers/add/", 403),
        ("/projects/shop/settings/", 200),
    ],
)
def test_what_a_viewer_is_refused_is_said_well(
    path: str,
    status: int,
    shop: Shop,
    live_server: Any,
    context: BrowserContext,
    page: Page,
    complaints: Complaints,
) -> None:
    complaints.expect(status)
    sign_in(context, live_server)
    viewer = User.objects.get(username="ada")
    User.objects.filter(pk=viewer.pk).update(is_superuser=False)
    add_member(shop.project, MemberDefinition("ada", "viewer"), by=command_line())
    answer = page.goto(live_server.url + path)
    assert answer is not None
    assert answer.status == status
    assert faults(page) == []


def test_what_the_sign_in_refuses_is_said_well(
    shop: Shop, live_server: Any, page: Page, complaints: Complaints
) -> None:
    complaints.expect(422)
    page.goto(live_server.url + "/sign-in/")
    press("Sign in", username="ada", password="wrong")(page)
    expect(page.get_by_role("alert").first).to_be_visible()
    assert faults(page) == []


def test_each_page_is_gone_through_with_tab_alone(
    busy_shop: Shop, live_server: Any, context: BrowserContext, page: Page
) -> None:
    sign_in(context, live_server)
    for path in (
        "",
        "databases/",
        "triggers/",
        f"triggers/{LONG}/",
        "triggers/add/",
        "events/",
        "settings/",
        "settings/members/",
    ):
        page.goto(live_server.url + busy_shop.path(path))
        missed = page.evaluate(_UNREACHED)
        assert missed == [], path
        page.get_by_role("link", name="Skip to content").focus()
        for _ in range(12):
            page.keyboard.press("Tab")
            assert page.evaluate(_IS_SEEN_FOCUSED), (path, page.evaluate(_FOCUSED))


# What acts on a click but cannot be reached by Tab (the steps of charts are links that the table
# below them has, too).
_UNREACHED = """() => [...document.querySelectorAll("a, button, input, select, summary, textarea")]
    .filter(each => each.checkVisibility() && each.tabIndex < 0 && !each.closest(".chart"))
    .map(each => each.outerHTML.slice(0, 120))"""
_FOCUSED = "document.activeElement.outerHTML.slice(0, 120)"
# A ring, or what stands for one: the row of the event, or the box of a hidden input.
_IS_SEEN_FOCUSED = """() => {
    const of = each => each && getComputedStyle(each).outlineStyle !== "none";
    const it = document.activeElement;
    return of(it) || of(it.closest(".event-row"));
}"""


def test_headings_are_in_order_and_there_is_one_of_the_first(
    busy_shop: Shop, live_server: Any, context: BrowserContext, page: Page
) -> None:
    sign_in(context, live_server)
    for path in (
        "",
        "databases/",
        "databases/main/",
        "triggers/",
        f"triggers/{LONG}/",
        f"triggers/{LONG}/edit/",
        "events/",
        "settings/",
        "settings/members/",
        "settings/tokens/",
        "settings/notifications/",
        "settings/configuration/",
        "settings/audit/",
    ):
        page.goto(live_server.url + busy_shop.path(path))
        levels = page.evaluate(
            "() => [...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])"
        )
        assert levels.count(1) == 1, path
        assert all(below - above <= 1 for above, below in itertools.pairwise(levels)), (
            path,
            levels,
        )
