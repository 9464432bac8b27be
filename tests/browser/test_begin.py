"""The way to the first event in a browser: the id that forms, the page that waits, and all of it
without JavaScript.
"""

from typing import Any

import pytest
from django.db import connection
from playwright.sync_api import Browser, BrowserContext, Page, expect

from eventing.models import Database
from tests.browser.conftest import Complaints, sign_in
from tests.web.conftest import Shop


@pytest.fixture(autouse=True)
def signed_in(shop: Shop, live_server: Any, context: BrowserContext) -> None:
    sign_in(context, live_server)


def test_the_id_forms_as_the_name_is_typed_until_it_is_typed_itself(
    live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + "/projects/add/")
    name, id_field = page.get_by_label("Project name"), page.get_by_label("Id", exact=True)
    name.press_sequentially("Käse & Brot,")
    expect(id_field).to_have_value("kase-brot")
    id_field.fill("cheese")
    name.press("End")
    name.press_sequentially(" Berlin")
    expect(id_field).to_have_value("cheese")
    page.get_by_role("button", name="Create project").click()
    page.wait_for_url("**/projects/cheese/begin/database/")
    expect(page.locator(".way [aria-current=step]")).to_contain_text("Database")
    expect(page.locator(".switcher")).to_have_text("Käse & Brot, Berlin")


def test_a_database_that_is_refused_is_mended_without_typing_it_again(
    shop: Shop, live_server: Any, page: Page, complaints: Complaints, source_database: str
) -> None:
    complaints.expect(422)
    page.goto(live_server.url + shop.path("begin/database/"))
    page.get_by_label("Connection string").fill("postgresql://u:p@127.0.0.1:1/orders")
    page.get_by_role("button", name="Connect and go on").click()
    expect(page.get_by_text("Not ready to be captured")).to_be_visible()
    expect(page.get_by_label("Alias")).to_have_value("orders")
    expect(page.locator("[data-draft-notice]")).to_be_hidden()
    page.get_by_label("Connection string").fill(source_database)
    page.get_by_role("button", name="Connect and go on").click()
    page.wait_for_url("**/begin/trigger/")
    assert Database.objects.get(alias="orders").url == source_database


def test_the_page_that_waits_turns_into_the_event_by_itself(
    shop: Shop, live_server: Any, page: Page
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE mission_control.event_log, mission_control.delivery")
    page.goto(live_server.url + shop.path("begin/event/"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Almost there")
    (event_id,) = shop.add_events(1)
    expect(page.get_by_role("heading", level=1)).to_have_text("Events come in")
    expect(page.locator(".event-detail")).to_contain_text(event_id)
    expect(page.locator("#announcer")).to_have_text("The first event is here.")
    expect(page.locator("main [data-poll]")).to_have_count(0)


def test_the_way_is_gone_without_javascript(
    shop: Shop, live_server: Any, browser: Browser, source_database: str
) -> None:
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    complaints = Complaints()
    complaints.watch(page)
    page.goto(live_server.url + "/projects/add/")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("correct-horse-battery")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Project name").fill("Plain shop")
    page.get_by_role("button", name="Create project").click()
    page.get_by_label("Connection string").fill(source_database)
    page.get_by_role("button", name="Connect and go on").click()
    page.get_by_role("link", name="Skip", exact=True).click()
    assert "There is no trigger yet" in page.content()
    page.get_by_role("link", name="Look again").click()
    assert page.url.endswith("/projects/plain-shop/begin/event/")
    page.get_by_role("link", name="Skip to Overview").click()
    page.get_by_role("link", name="Add a trigger").click()
    page.get_by_label("Trigger Name").fill("plain")
    page.get_by_label("Insert").check()
    page.get_by_label("Webhook URL").fill("https://example.com/plain")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("heading", name="Almost there").wait_for()
    assert complaints.found == []
    plain.close()
