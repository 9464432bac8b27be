"""Whoever is signed out or loses the connection in the middle of a form finds what they had typed;
nobody else does.

Secrets are the exception: they are not kept in the browser, and the form says so.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Locator, Page, expect

from eventing.access import command_line
from eventing.projects import delete_trigger, settings_of, update_settings
from tests.browser.conftest import Complaints, sign_in
from tests.browser.test_every_page import THEMES, WIDTHS, scrolls_sideways, violations
from tests.web.conftest import Shop

SECRET = "s3cret-that-stays-nowhere"
YAML = "settings/configuration/"
TYPED = "projects: [{name: shop, triggers: []}]"


class Typing(NamedTuple):
    """A form: what is typed at which label, what is secret in it, and what sends it."""

    path: str
    typed: dict[str, str]
    button: str
    chosen: dict[str, str] = {}
    ticked: tuple[str, ...] = ()
    secret: str = ""


FORMS = (
    Typing(
        "triggers/add/",
        {"Trigger Name": "kept", "Webhook URL": "https://example.com/kept"},
        "Add",
        ticked=("Insert", "main"),
    ),
    Typing(
        "databases/add/",
        {"Host": "db.local", "Port": "6543", "Database": "orders", "User": "ann", "Alias": "mine"},
        "Save",
        ticked=("MySQL or MariaDB",),
        secret="Password",
    ),
    Typing("settings/", {"Keep events for": "41", "Keep payloads for": "5"}, "Save"),
    Typing("settings/", {"Project name": "Our shop"}, "Rename"),
    Typing(
        "settings/notifications/add/",
        {"Name": "nightly", "Lag over": "77"},
        "Save",
        secret="Address",
    ),
    Typing("settings/members/", {"User name": "somebody"}, "Add", ticked=("A new user",)),
    Typing(
        "settings/configuration/",
        {"The project as YAML": "projects: [{name: shop, triggers: []}]"},
        "Show the plan",
        ticked=("Delete what it does not mention",),
    ),
    Typing("settings/tokens/", {"Name": "deploy"}, "Create", chosen={"Role": "admin"}),
)


@pytest.fixture(autouse=True)
def signed_in(shop: Shop, live_server: Any, context: BrowserContext) -> None:
    sign_in(context, live_server)


def form_of(page: Page, form: Typing) -> Locator:
    button = page.get_by_role("button", name=form.button, exact=True)
    return page.locator("form[data-draft]", has=button)


def beginning(label: str) -> re.Pattern[str]:
    """A label's first words, which notes may follow."""
    return re.compile(f"^{re.escape(label)}")


def fill_in(page: Page, form: Typing) -> None:
    """As somebody who types and has not sent it yet."""
    within = form_of(page, form)
    for label in form.ticked:
        within.get_by_label(label, exact=True).check()
    for label, text in form.typed.items():
        within.get_by_label(beginning(label)).fill(text)
    for label, option in form.chosen.items():
        within.get_by_label(label, exact=True).select_option(option)
    if form.secret:
        within.get_by_label(form.secret).fill(SECRET)


def awaiting_preview(page: Page, form: Typing) -> AbstractContextManager[Any]:
    """Until the trigger form's preview shows what was typed last; other forms have none."""
    if not form.path.startswith("triggers/"):
        return nullcontext()
    last = quote(list(form.typed.values())[-1], safe="")
    return page.expect_response(lambda answer: last in (answer.request.post_data or ""))


def expect_what_was_typed(page: Page, form: Typing) -> None:
    within = form_of(page, form)
    expect(within.get_by_text("This is what you had typed here before.")).to_be_visible()
    for label, text in form.typed.items():
        expect(within.get_by_label(beginning(label))).to_have_value(text)
    for label, option in form.chosen.items():
        expect(within.get_by_label(label, exact=True)).to_have_value(option)
    for label in form.ticked:
        expect(within.get_by_label(label, exact=True)).to_be_checked()
    if form.secret:
        expect(within.get_by_label(form.secret)).to_have_value("")
    assert SECRET not in page.evaluate("JSON.stringify(sessionStorage)")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.path} {form.button}")
def test_a_session_that_ends_loses_nothing_typed(
    form: Typing,
    shop: Shop,
    live_server: Any,
    page: Page,
    context: BrowserContext,
    complaints: Complaints,
) -> None:
    # What the preview of the trigger form is answered, if it asks once more.
    complaints.expect(401)
    address = live_server.url + shop.path(form.path)
    page.goto(address)
    with awaiting_preview(page, form):
        fill_in(page, form)
    context.clear_cookies(name="sessionid")
    page.get_by_role("button", name=form.button, exact=True).click()
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("correct-horse-battery")
    page.keyboard.press("Enter")
    page.wait_for_url(address)
    expect_what_was_typed(page, form)
    page.get_by_role("link", name="Begin anew").click()
    expect(page.locator("[data-draft-notice]:visible")).to_have_count(0)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.path} {form.button}")
def test_a_connection_that_is_lost_loses_nothing_typed(
    form: Typing, shop: Shop, live_server: Any, context: BrowserContext
) -> None:
    # Not the page that notices failed requests: here one fails.
    page = context.new_page()
    address = live_server.url + shop.path(form.path)
    page.goto(address)
    with awaiting_preview(page, form):
        fill_in(page, form)
    context.set_offline(True)
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name=form.button, exact=True).click()
    context.set_offline(False)
    page.goto(address)
    expect_what_was_typed(page, form)


def test_what_was_typed_before_others_saved_does_not_undo_that(
    shop: Shop, live_server: Any, page: Page, complaints: Complaints
) -> None:
    complaints.expect(409)
    address = live_server.url + shop.path("settings/")
    page.goto(address)
    page.get_by_label("Keep events for").fill("41")
    settings = replace(settings_of(shop.project), retention_payloads_days=3)
    update_settings(shop.project, settings, by=command_line())
    # As it is now, with what was typed before.
    page.goto(address)
    expect(page.get_by_label("Keep events for")).to_have_value("41")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("has been changed while you were editing")).to_be_visible()
    expect(page.get_by_text("Settings changed by a command")).to_be_visible()
    expect(page.get_by_label("Keep events for")).to_have_value("41")
    page.get_by_role("link", name="begin from how it is now").click()
    expect(page.get_by_label("Keep events for")).to_have_value("30")
    expect(page.get_by_label("Keep payloads for")).to_have_value("3")


def test_what_has_been_saved_is_not_offered_again(shop: Shop, live_server: Any, page: Page) -> None:
    address = live_server.url + shop.path("settings/")
    page.goto(address)
    page.get_by_label("Keep events for").fill("41")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Settings saved.")).to_be_visible()
    page.goto(address)
    expect(page.locator("[data-draft-notice]:visible")).to_have_count(0)
    kept = page.evaluate("Object.keys(sessionStorage)")
    assert [key for key in kept if key.startswith("draft:")] == []


def drafts(page: Page) -> list[str]:
    kept: list[str] = page.evaluate("Object.keys(sessionStorage)")
    return [key for key in kept if key.startswith("draft:")]


def test_what_one_person_typed_is_not_shown_to_who_signs_in_next(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext
) -> None:
    User.objects.create_superuser("bob", password="correct-horse-battery")
    address = live_server.url + shop.path(YAML)
    page.goto(address)
    page.get_by_label("The project as YAML").fill(TYPED)
    assert len(drafts(page)) == 1
    context.clear_cookies(name="sessionid")
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_label("Username").fill("bob")
    # It waits for whose it is, and for nobody else.
    assert len(drafts(page)) == 1
    page.get_by_label("Password").fill("correct-horse-battery")
    page.keyboard.press("Enter")
    page.wait_for_url(address)
    expect(page.get_by_label("The project as YAML")).not_to_have_value(TYPED)
    expect(page.locator("[data-draft-notice]:visible")).to_have_count(0)
    assert drafts(page) == []


def test_signing_out_forgets_what_was_typed_in_other_tabs_too(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext
) -> None:
    address = live_server.url + shop.path(YAML)
    # Not the page that notices failed requests: its session ends here.
    other = context.new_page()
    other.goto(address)
    other.get_by_label("The project as YAML").fill(TYPED)
    assert len(drafts(other)) == 1
    page.goto(live_server.url + shop.path(YAML))
    page.get_by_label("The project as YAML").fill(TYPED)
    page.get_by_label("Account").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Username")).to_be_visible()
    assert drafts(page) == []
    expect(other.get_by_text("Your session has ended.")).to_be_visible()
    expect(other.get_by_text("What you typed here is kept")).to_be_hidden()
    assert drafts(other) == []
    other.get_by_label("The project as YAML").fill("projects: []")
    other.evaluate("new Promise(done => setTimeout(done))")
    assert drafts(other) == []
    sign_in_again(page, address)
    other.goto(address)
    expect(other.locator("[data-draft-notice]:visible")).to_have_count(0)


def sign_in_again(page: Page, address: str) -> None:
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("correct-horse-battery")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Projects")).to_be_visible()


@pytest.mark.parametrize(("path", "keeps_secrets"), [(YAML, True), ("triggers/add/", False)])
def test_what_is_kept_and_until_when_is_said(
    path: str, keeps_secrets: bool, shop: Shop, live_server: Any, context: BrowserContext
) -> None:
    page = context.new_page()
    page.goto(live_server.url + shop.path(path))
    told = page.get_by_text("What you type is kept in this tab, secrets that you write into it too")
    expect(told).to_be_visible(visible=keeps_secrets)
    context.clear_cookies(name="sessionid")
    page.evaluate("htmx.trigger('#health-dot', 'poll')")
    notice = page.locator("#signed-out")
    expect(notice).to_contain_text("until it is saved, you sign out or the tab is closed")
    expect(notice.get_by_text(", secrets apart")).to_be_visible(visible=not keeps_secrets)


def test_what_was_typed_for_something_that_is_gone_can_be_read(
    shop: Shop, live_server: Any, page: Page, complaints: Complaints
) -> None:
    complaints.expect(404)
    address = live_server.url + shop.path("triggers/paused/edit/")
    page.goto(address)
    page.get_by_label("Trigger Name").fill("long-considered")
    with page.expect_response(lambda answer: "triggers/preview" in answer.url):
        page.get_by_label("Delete", exact=True).check()
    delete_trigger(shop.project.triggers.get(name="paused"), by=command_line())
    page.goto(address)
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
    lost = page.get_by_label("What you had typed here", exact=True).last
    expect(lost).to_contain_text("name: long-considered")
    expect(lost).to_contain_text("operations: delete")
    assert violations(page) == []


def test_the_form_of_a_deleted_trigger_comes_back_as_one_that_adds_it(
    shop: Shop, live_server: Any, page: Page, complaints: Complaints
) -> None:
    complaints.expect(409)
    page.goto(live_server.url + shop.path("triggers/paused/edit/"))
    page.get_by_label("Trigger Name").fill("long-considered")
    delete_trigger(shop.project.triggers.get(name="paused"), by=command_line())
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("this trigger has been deleted while you were")).to_be_visible()
    expect(page.get_by_label("Trigger Name")).to_have_value("long-considered")
    for theme in THEMES:
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert not scrolls_sideways(page), (theme, width)
            assert violations(page) == [], (theme, width)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("The trigger long-considered is saved.")).to_be_visible()
