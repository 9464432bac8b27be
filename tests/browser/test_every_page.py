"""Each page at three widths in both themes: nothing in the console, no failed request, nothing that
scrolls sideways, and no violation that axe-core knows of.

Pages that change nothing share a shop and a tab, a group at a time, and are loaded once: then the
window is made wider and the theme changed, as a reader would. What is wrong with any page of a
group is told at once.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, Page, expect

from eventing import redeliveries
from eventing.logs.base import EventFilter
from eventing.models import ApiToken, Membership
from tests.browser.conftest import LONG, Complaints, sign_in
from tests.factories import actor_called, make_database
from tests.web.conftest import Shop

WIDTHS = (360, 800, 1440)
THEMES = ("light", "dark")
PAGES: Mapping[str, Sequence[str]] = {
    "the installation": (
        "/projects/",
        "/projects/add/",
        "/health/",
        "/account/",
        "/account/password/",
        "/account/confirm/",
        "/audit/",
    ),
    "the overview and the first steps": (
        "/projects/shop/",
        "/projects/shop/begin/event/",
        "/projects/empty/begin/database/",
        "/projects/empty/begin/trigger/",
        "/projects/empty/begin/event/",
    ),
    "databases": (
        "/projects/shop/databases/",
        "/projects/shop/databases/add/",
        "/projects/shop/databases/main/",
        "/projects/shop/databases/main/delete/",
        "/projects/shop/databases/own/",
        "/projects/shop/databases/own/delete/",
        "/projects/shop/databases/lost/start-anew/",
    ),
    "triggers": (
        "/projects/shop/triggers/",
        "/projects/shop/triggers/add/",
        f"/projects/shop/triggers/{LONG}/",
        f"/projects/shop/triggers/{LONG}/edit/",
        f"/projects/shop/triggers/{LONG}/delete/",
        "/projects/shop/triggers/paused/secret/retire/",
    ),
    "events": (
        "/projects/shop/events/",
        "/projects/shop/events/?status=failed&table=users",
        "/projects/shop/events/EVENT/",
        "/projects/shop/events/redeliver/?status=failed&trigger=x",
        "/projects/shop/redeliveries/",
        "/projects/shop/redeliveries/REDELIVERY/",
        "/projects/shop/redeliveries/ENDED/",
    ),
    "settings": (
        "/projects/shop/settings/",
        "/projects/shop/settings/members/",
        "/projects/shop/settings/members/MEMBER/remove/",
        "/projects/shop/settings/members/MEMBER/two-factor/",
        "/projects/shop/settings/tokens/",
        "/projects/shop/settings/tokens/TOKEN/revoke/",
        "/projects/shop/settings/delete/",
    ),
    "notifications, configuration and the audit log": (
        "/projects/shop/settings/notifications/",
        "/projects/shop/settings/notifications/add/",
        "/projects/shop/settings/notifications/on-call/",
        "/projects/shop/settings/notifications/on-call/delete/",
        "/projects/shop/settings/configuration/",
        "/projects/shop/settings/audit/",
        "/projects/shop/settings/audit/?kind=user",
    ),
    "a project with nothing in it": (
        "/projects/empty/",
        "/projects/empty/databases/",
        "/projects/empty/triggers/",
        "/projects/empty/events/",
        "/projects/empty/redeliveries/",
        "/projects/empty/settings/notifications/",
    ),
}

# In the other theme only what depends on colours can differ: its tokens are the same but for them
# (static/css/app.css), and nothing is shown or hidden but a picture without words. This is the one
# rule of axe-core's about colours that is on (of its tag cat.color).
OF_COLOURS = ("color-contrast",)
_AXE = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
# Otherwise each element is written out for each rule that looks at it, with all that is in it.
_WRITE_NOTHING = "axe.configure({noHtml: true})"
_RUN_AXE = """async (rules) => {
    const only = rules.length ? {runOnly: {type: "rule", values: rules}} : {};
    const {violations} = await axe.run(
        {resultTypes: ["violations"], elementRef: true, ...only});
    return violations.map(each => each.id + ": "
        + each.nodes.map(node => node.element.outerHTML.slice(0, 200)).join(" | "));
}"""
_IS_AT_REST = """() => !document.querySelector(
    ".htmx-request, .htmx-swapping, .htmx-settling, .htmx-added")"""


def violations(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe-core finds wrong with the page as it stands, once htmx is done with it.

    By all rules that are on, or by those named.
    """
    page.wait_for_function(_IS_AT_REST)
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE)
        page.evaluate(_WRITE_NOTHING)
    found: list[str] = page.evaluate(_RUN_AXE, list(rules))
    return found


def scrolls_sideways(page: Page) -> bool:
    wider: bool = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return wider


def show_in(page: Page, theme: str) -> None:
    """As the theme's menu does; a page that has no theme of its own follows the system's."""
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.evaluate(
        "theme => { const root = document.documentElement;"
        " if (root.dataset.theme) root.dataset.theme = theme; }",
        theme,
    )


def faults(page: Page, widths: Sequence[int] = WIDTHS, rules: Sequence[str] = ()) -> list[str]:
    """What is wrong with the page as it stands, at each width and in both themes.

    By all rules of axe-core's that are on, or by those named.
    """
    found = []
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        for theme in THEMES:
            show_in(page, theme)
            where = f"{page.url} at {width} px, {theme}: "
            if scrolls_sideways(page):
                found.append(f"{where}scrolls sideways")
            asked = rules if theme == THEMES[0] else OF_COLOURS
            found += [where + each for each in violations(page, asked)]
    return found


def _named(shop: Shop) -> dict[str, str]:
    """What stands in an address for one of the things that are there."""
    make_database(shop.project, "", "own", type="mission-control")
    event = shop.log.browse(shop.project.pk, EventFilter(status="failed"), None, 1).rows[0]
    ended = redeliveries.start(shop.project, EventFilter(trigger=LONG), 0, by=actor_called("ada"))
    redeliveries.advance(ended.pk)
    redelivery = redeliveries.start(
        shop.project, EventFilter(status="failed"), 5, by=actor_called("ada")
    )
    return {
        "EVENT": str(event.id),
        "REDELIVERY": str(redelivery.pk),
        "ENDED": str(ended.pk),
        "MEMBER": str(Membership.objects.latest("pk").user_id),
        "TOKEN": str(ApiToken.objects.latest("pk").pk),
    }


@pytest.mark.parametrize("group", PAGES)
def test_the_pages_are_fine_at_every_width_in_both_themes(
    group: str, shop: Shop, live_server: Any, context: BrowserContext, page: Page
) -> None:
    sign_in(context, live_server)
    named = _named(shop)
    found = []
    for path in PAGES[group]:
        address = re.sub("[A-Z]{5,}", lambda name: named[name[0]], path)
        answer = page.goto(live_server.url + address)
        assert answer is not None
        assert answer.status == 200
        found += faults(page)
    assert found == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/first-run/", "/sign-in/"])
def test_a_page_before_signing_in_is_fine_too(path: str, live_server: Any, page: Page) -> None:
    if path == "/sign-in/":
        User.objects.create_superuser("ada", password="correct-horse-battery")
    page.goto(live_server.url + path)
    assert faults(page) == []


def _send_as_without_javascript(page: Page, form: str) -> None:
    """Send a form past htmx, so that the answer is a page of its own."""
    with page.expect_navigation():
        page.locator(form).first.evaluate("form => form.submit()")


def test_pages_that_answer_a_form_are_fine_too(
    shop: Shop, live_server: Any, context: BrowserContext, page: Page
) -> None:
    sign_in(context, live_server)
    trigger = live_server.url + shop.path(f"triggers/{LONG}/")
    found = []
    page.goto(trigger)
    _send_as_without_javascript(page, "form[action$='/test/']")
    expect(page.get_by_role("heading", name="Test event", level=1)).to_be_visible()
    found += faults(page)
    page.goto(trigger + "edit/")
    page.locator("[formaction$='/try/']").evaluate(
        "button => button.form.action = button.formAction"
    )
    _send_as_without_javascript(page, "[data-trigger-form]")
    expect(page.get_by_text("it is as you left it")).to_be_visible()
    found += faults(page)
    page.goto(trigger)
    page.get_by_role("button", name="Add a new one").click()
    expect(page.get_by_text("A new secret beside the old one.")).to_be_visible()
    found += faults(page)
    page.goto(trigger)
    _send_as_without_javascript(page, "form[action$='/secret/']")
    expect(page.get_by_text("Old, until it is retired")).to_be_visible()
    found += faults(page)
    page.goto(live_server.url + shop.path("settings/tokens/"))
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_text("It is shown this once.")).to_be_visible()
    found += faults(page)
    assert found == []


def test_pages_of_what_went_wrong_are_fine_too(
    shop: Shop,
    live_server: Any,
    context: BrowserContext,
    page: Page,
    complaints: Complaints,
    settings: Any,
) -> None:
    sign_in(context, live_server)
    found = []
    complaints.expect(404)
    page.goto(live_server.url + "/projects/nowhere/")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    found += faults(page)
    # Somebody has signed in anew in another tab.
    complaints.expect(403)
    page.goto(live_server.url + shop.path("settings/"))
    context.clear_cookies(name="csrftoken")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="This page was out of date")).to_be_visible()
    found += faults(page)
    # A key that secrets were encrypted with has been taken away.
    complaints.expect(503)
    page.goto(live_server.url + shop.path(f"triggers/{LONG}/"))
    settings.ENCRYPTION_KEYS = ["another-key-than-secrets-were-encrypted-with"]
    _send_as_without_javascript(page, "form[action$='/secret/']")
    expect(page.get_by_role("heading", name="That cannot be done now")).to_be_visible()
    found += faults(page)
    complaints.expect(500)
    settings.ROOT_URLCONF = "tests.browser.failing"
    page.goto(live_server.url + "/fails/")
    expect(page.get_by_role("heading", name="Something went wrong here")).to_be_visible()
    found += faults(page)
    assert found == []


def test_the_description_of_the_api_is_fine_too(live_server: Any, page: Page) -> None:
    page.goto(live_server.url + "/api/docs/")
    expect(page.locator(".opblock").first).to_be_visible()
    assert faults(page, rules=_OURS_OF_SWAGGER_UI) == []


# What its markup lacks beside is Swagger UI's to mend.
_OURS_OF_SWAGGER_UI = (*OF_COLOURS, "document-title", "html-has-lang", "landmark-no-duplicate-main")


def test_pages_follow_a_system_that_is_dark(
    shop: Shop, live_server: Any, browser: Browser, complaints: Complaints
) -> None:
    """Whoever has chosen no theme has the colours that one who has chosen the dark one has."""
    context = browser.new_context(color_scheme="dark", viewport={"width": 1440, "height": 900})
    sign_in(context, live_server)
    page = context.new_page()
    complaints.watch(page)
    found = []
    for path in ("/projects/", *(shop.path(each) for each in _MAIN)):
        page.goto(live_server.url + path)
        assert page.locator("html").get_attribute("data-theme") == "system"
        found += violations(page)
        by_system, dark, light = page.evaluate(_COLOURS)
        assert by_system == dark, path
        assert by_system != light, path
    context.close()
    assert found == []


_MAIN = ("", "databases/", "triggers/", "triggers/add/", "events/", "settings/")
# Every colour of every element, and whether it is there at all, in each theme.
_COLOURS = """() => ["system", "dark", "light"].map(theme => {
    document.documentElement.dataset.theme = theme;
    return [...document.querySelectorAll("body, body *")].map(each => {
        const {color, backgroundColor, borderTopColor, fill, display} = getComputedStyle(each);
        return [color, backgroundColor, borderTopColor, fill, display].join();
    }).join("\\n");
})"""
