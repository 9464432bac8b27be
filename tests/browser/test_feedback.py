"""What the pages do by themselves: tell that something has begun before the server has answered,
copy a text as it is, and ask less and less often where nothing happens.
"""

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from eventing.access import command_line, digest_of
from eventing.models import ApiToken, CaptureLease, Trigger
from eventing.projects import signing_secrets_of
from tests.browser.conftest import LONG, sign_in
from tests.waiting import wait_until
from tests.web.conftest import Shop


@pytest.fixture(autouse=True)
def signed_in(shop: Shop, live_server: Any, context: BrowserContext) -> None:
    sign_in(context, live_server)


@pytest.fixture
def held(page: Page) -> list[Route]:
    """What the page sends but never gets answered, until the test lets it go on."""
    routes: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            routes.append(route)
        else:
            route.continue_()

    page.route("**/triggers/**", hold)
    return routes


def after(element: Locator, name: str) -> str:
    """A computed style of what is drawn after an element's content."""
    value: str = element.evaluate("(it, name) => getComputedStyle(it, '::after')[name]", name)
    return value


def test_a_switch_shows_that_it_was_pressed_while_nothing_has_answered(
    shop: Shop, live_server: Any, page: Page, held: list[Route]
) -> None:
    page.goto(live_server.url + shop.path(f"triggers/?q={LONG[:20]}"))
    switch = page.get_by_role("switch")
    at_rest = after(switch, "transform")
    switch.click()
    expect(switch).to_have_css("cursor", "progress")
    assert after(switch, "transform") != at_rest
    expect(switch).to_have_attribute("aria-checked", "true")
    assert Trigger.objects.get(name=LONG).state == "active"
    (request,) = held
    request.continue_()
    expect(switch).to_have_attribute("aria-checked", "false")
    expect(switch).not_to_have_css("cursor", "progress")


@pytest.mark.parametrize("name", ["Send test event", "Reveal"])
def test_a_button_turns_a_ring_while_nothing_has_answered(
    name: str, shop: Shop, live_server: Any, page: Page, held: list[Route]
) -> None:
    page.goto(live_server.url + shop.path(f"triggers/{LONG}/"))
    button = page.get_by_role("button", name=name)
    assert after(button, "animationName") == "none"
    button.click()
    expect(button).to_have_css("cursor", "progress")
    assert after(button, "animationName") == "turn"
    (request,) = held
    request.abort("aborted")


@pytest.mark.parametrize("name", ["Pause", "Add a new one"])
def test_a_button_that_leads_to_another_page_turns_a_ring_before_it_comes(
    name: str, shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path(f"triggers/{LONG}/"))
    # Nothing can be asked of a page that is about to be left: it notes down what it shows.
    page.evaluate(
        """() => document.addEventListener("submit", ({submitter}) => {
            sessionStorage.setItem("shown", getComputedStyle(submitter, "::after").animationName);
        })"""
    )
    with page.expect_navigation():
        page.get_by_role("button", name=name).click()
    assert page.evaluate("sessionStorage.getItem('shown')") == "turn"


def copied(page: Page, button: Locator) -> str:
    """What is in the clipboard once a Copy button was pressed, which says that it is."""
    page.evaluate("navigator.clipboard.writeText('what was copied before')")
    button.click()
    expect(button).to_have_text("Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_copy_takes_the_exact_text(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    (event_id,) = shop.add_events(1, status_code=500)
    event = f"{live_server.url}{shop.path(f'events/{event_id}/')}"
    page.goto(event)
    raw = context.request.get(f"{event}payload/").text()
    assert copied(page, page.locator("[data-copy^='#raw-']")) == raw
    command = copied(page, page.locator("[data-copy^='#curl-']"))
    assert command.startswith("curl ")
    assert command == page.get_by_label("curl command of attempt 1").text_content()

    page.goto(live_server.url + shop.path(f"triggers/{LONG}/"))
    page.get_by_role("button", name="Reveal").click()
    (secret,) = signing_secrets_of(Trigger.objects.get(name=LONG), by=command_line())
    assert copied(page, page.locator("[data-copy='#secret-1']")) == secret

    page.goto(live_server.url + shop.path("settings/tokens/"))
    page.get_by_role("button", name="Create").click()
    token = copied(page, page.locator("[data-copy='#once']"))
    assert ApiToken.objects.latest("pk").digest == digest_of(token)

    page.goto(live_server.url + shop.path("databases/"))
    mend = CaptureLease.objects.get(database__alias="lost").mend
    assert copied(page, page.locator("[data-copy^='#mend-']")) == mend


# The page's own clock stands still but for what a test lets pass; requests take real time.
_COUNT_LIVE = """() => {
    window.live = {asked: 0, answered: 0};
    const count = (event, name) => document.addEventListener(event, ({detail}) => {
        if ("logNews" in detail.elt.dataset) live[name] += 1;
    });
    count("htmx:beforeRequest", "asked");
    count("htmx:afterRequest", "answered");
}"""
_STEP_MS = 250


def until_live_asks(page: Page) -> int:
    """Milliseconds of the page's clock until it asks for news; returns once it is answered."""
    before = page.evaluate("live.asked")
    for passed_ms in range(_STEP_MS, 30_000, _STEP_MS):
        page.clock.run_for(_STEP_MS)
        if page.evaluate("live.asked") > before:
            wait_until(lambda: page.evaluate("live.asked === live.answered"))
            return passed_ms
    raise AssertionError("it asks for nothing")


def test_live_asks_less_and_less_often_until_something_happens(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.clock.install()
    page.goto(live_server.url + shop.path("events/"))
    page.evaluate(_COUNT_LIVE)
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 1)
    until_live_asks(page)
    pauses = [until_live_asks(page) for _ in range(10)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 3_000
    assert pauses[-2:] == [15_000, 15_000]
    # Whoever does something on the page wants to see what is new.
    page.mouse.click(5, 5)
    assert until_live_asks(page) <= 2_000 + _STEP_MS
    # And what is new is followed by more.
    until_live_asks(page)
    shop.add_events(1)
    until_live_asks(page)
    expect(page.locator(".event-row")).to_have_count(13)
    assert until_live_asks(page) <= 2_000 + _STEP_MS
