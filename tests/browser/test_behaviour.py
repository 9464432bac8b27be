"""What the pages do in a browser: rows that open, live news, filters in the address, keys, themes,
and the same forms without JavaScript.
"""

import re
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db.models.functions import Now
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response, expect

from config.celery import app
from eventing.access import command_line
from eventing.health import PROCESSES, beat
from eventing.history import remove_trigger
from eventing.models import Heartbeat, Project, Trigger
from eventing.projects import trigger_definition_of
from tests.browser.conftest import LONG, Complaints, sign_in
from tests.browser.test_every_page import WIDTHS, faults, violations
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_outcome,
)
from tests.ports import free_port
from tests.servers import execute
from tests.web.conftest import Shop


@pytest.fixture(autouse=True)
def signed_in(shop: Shop, live_server: Any, context: BrowserContext) -> None:
    sign_in(context, live_server)


def test_rows_open_in_place_by_key_and_by_click(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path("events/?status=failed"))
    links = page.locator(".row-link")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Invocations")).to_be_visible()
    expect(links.nth(0)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_text("Invocations")).to_be_hidden()
    page.locator(".event-row").nth(2).click(position={"x": 300, "y": 10})
    expect(page.get_by_text("Invocations")).to_be_visible()
    page.get_by_role("button", name="Redeliver").click()
    expect(page.locator(".event-detail .status-pending").first).to_be_visible()


@pytest.mark.parametrize("path", ["", f"triggers/{LONG}/"])
@pytest.mark.parametrize("within", ["hour", "day", "week"])
def test_the_steps_of_a_chart_tell_the_time_of_its_axis(
    path: str, within: str, shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(f"{live_server.url}{shop.path(path)}?within={within}")
    for chart in page.locator(".chart").all():
        steps = chart.locator(".chart-slot title")
        axis = chart.locator(".chart-times time").all_text_contents()
        told = steps.first.text_content() or ""
        assert told.startswith(f"{axis[0]} to ")
        begin = datetime.fromisoformat(steps.first.get_attribute("data-from") or "")
        local = f"{begin.astimezone(ZoneInfo('Europe/Berlin')):%H:%M}"
        assert axis[0].endswith(local)
        last = steps.last.text_content() or ""
        assert f" to {axis[2][-5:]}: " in last
        assert "UTC" not in told + last
        assert chart.locator(".chart-slot").count() > 5


def test_a_number_without_a_filter_of_its_own_leads_to_when_that_was(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path())
    table = page.get_by_role("region", name="The charts as a table")
    expect(table).to_be_hidden()
    page.get_by_role("link", name=re.compile("attempts retried")).click()
    expect(table).to_be_visible()
    page.reload()
    page.get_by_role("link", name=re.compile("^p99")).first.click()
    expect(table).to_be_visible()
    table.get_by_role("row").nth(1).get_by_role("link").first.click()
    expect(page).to_have_url(re.compile("/events/.after=.*before="))


def test_what_would_do_nothing_is_not_offered(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path("events/?status=failed"))
    page.locator(".c-choose label").nth(1).click()
    bar = page.locator("#chosen")
    expect(bar.get_by_role("button", name="Redeliver", exact=True)).to_be_enabled()
    expect(bar.get_by_role("button", name="Cancel pending")).to_be_disabled()
    page.goto(live_server.url + shop.path("events/redeliver/?table=nothing"))
    expect(page.get_by_text("No event matches")).to_be_visible()
    expect(page.get_by_role("button", name="Redeliver")).to_have_count(0)
    page.get_by_role("link", name="Back to the log").click()
    expect(page.get_by_text("No event matches these filters.")).to_be_visible()
    expect(page.get_by_text("Redeliver all that match")).to_be_hidden()
    expect(page.get_by_text("Export")).to_be_hidden()
    page.get_by_role("link", name="Clear the filters").click()
    expect(page.get_by_text("Redeliver all that match")).to_be_visible()


def test_events_of_a_deleted_trigger_are_not_offered_to_be_redelivered(
    shop: Shop, live_server: Any, page: Page
) -> None:
    remove_trigger(shop.trigger, by=command_line())
    shop.trigger = shop.project.triggers.get(name="paused")
    shop.add_events(1, status_code=500)
    page.goto(live_server.url + shop.path("events/?status=failed"))
    bar = page.locator("#chosen")
    boxes = page.locator(".event-row .c-choose input")
    boxes.nth(1).check()
    expect(bar.get_by_role("button", name="Redeliver")).to_be_disabled()
    boxes.nth(0).check()
    redeliver = bar.get_by_role("button", name="Redeliver (1)")
    expect(redeliver).to_be_enabled()
    redeliver.click()
    expect(bar).to_contain_text("1 event put back to pending. 1 left as it is:")
    page.goto(live_server.url + shop.path(f"events/redeliver/?trigger={LONG}"))
    expect(page.get_by_text("Their triggers are deleted")).to_be_visible()
    expect(page.get_by_role("button", name="Redeliver")).to_have_count(0)


def test_new_events_come_in_by_themselves(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path("events/"))
    expect(page.locator(".event-row")).to_have_count(12)
    (fresh,) = shop.add_events(1)
    expect(page.locator(".event-row")).to_have_count(13)
    expect(page.locator(".event").first).to_have_id(f"event-{fresh}")
    page.locator(".row-link").first.click()
    expect(page.locator(f"#detail-{fresh}")).to_contain_text("Payload")


def test_news_wait_while_an_event_is_being_read(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path("events/"))
    page.locator(".row-link").nth(3).click()
    expect(page.get_by_text("Invocations")).to_be_visible()
    before = page.locator(".event-row").nth(3).bounding_box()
    shop.add_events(2)
    pill = page.get_by_role("button", name="2 new")
    expect(pill).to_be_visible()
    assert page.locator(".event-row").nth(3).bounding_box() == before
    pill.click()
    expect(page.locator(".event-row")).to_have_count(14)


def test_news_wait_while_the_pointer_is_on_a_row(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path("events/"))
    row = page.locator(".event-row").nth(3)
    row.hover()
    before = row.bounding_box()
    shop.add_events(2)
    expect(page.get_by_role("button", name="2 new")).to_be_visible()
    assert row.bounding_box() == before
    page.get_by_label("Trigger").hover()
    shop.add_events(1)
    expect(page.locator(".event-row")).to_have_count(15)


def test_news_wait_while_text_of_a_row_is_selected(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("events/"))
    row = page.locator(".event-row").nth(3)
    row.locator(".c-table").evaluate("cell => getSelection().selectAllChildren(cell)")
    before = row.bounding_box()
    shop.add_events(2)
    expect(page.get_by_role("button", name="2 new")).to_be_visible()
    assert row.bounding_box() == before
    assert page.evaluate("String(getSelection())").strip() == "users"
    page.evaluate("getSelection().removeAllRanges()")
    shop.add_events(1)
    expect(page.locator(".event-row")).to_have_count(15)


def test_the_health_dot_turns_red_on_a_page_left_open(
    shop: Shop, live_server: Any, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    for process in PROCESSES:
        beat(process, f"{process}@host:1")
    # However long the test takes.
    Heartbeat.objects.update(seen_at=Now() + timedelta(minutes=10))
    page.clock.install()
    page.goto(live_server.url + shop.path("settings/"))
    dot = page.locator("#health-summary")
    expect(dot).to_have_attribute("aria-label", "Health: all processes are running")
    Heartbeat.objects.filter(process="worker").update(seen_at=Now() - timedelta(minutes=1))
    page.clock.fast_forward(11_000)
    expect(dot).to_have_attribute("aria-label", "Health: worker is not running")
    expect(dot).to_have_class(re.compile("health-bad"))
    Heartbeat.objects.update(seen_at=Now() + timedelta(minutes=10))
    monkeypatch.setattr(app.conf, "broker_url", f"redis://127.0.0.1:{free_port()}/0")
    cache.clear()
    page.clock.fast_forward(16_000)
    expect(dot).to_have_attribute("aria-label", "Health: the broker does not answer")
    expect(dot).to_have_class(re.compile("health-bad"))
    page.goto(live_server.url + shop.path("settings/"))
    expect(dot).to_have_attribute("aria-label", "Health: the broker does not answer")
    cache.clear()


def test_more_than_a_page_of_news_takes_its_place(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path("events/"))
    expect(page.locator(".event-row")).to_have_count(12)
    newest = max(shop.add_events(120))
    expect(page.locator(".event").first).to_have_id(f"event-{newest}")
    expect(page.locator(".event-row")).to_have_count(50)
    page.keyboard.press("End")
    expect(page.locator(".event-row")).to_have_count(100)
    row = page.locator(".event-row").nth(70)
    before = row.bounding_box()
    shop.add_events(120)
    pill = page.get_by_role("button", name="Many new events: show the newest")
    expect(pill).to_be_visible()
    assert row.bounding_box() == before
    pill.click()
    expect(page.locator(".event-row")).to_have_count(50)
    expect(page.locator(f"#event-{newest}")).to_have_count(0)


def test_going_back_to_the_log_shows_it_as_it_was_left(
    shop: Shop, live_server: Any, page: Page
) -> None:
    shop.add_events(100)
    page.goto(live_server.url + shop.path("events/?status=delivered"))
    page.keyboard.press("End")
    expect(page.locator(".event-row")).to_have_count(100)
    link = page.locator(".row-link").nth(80)
    link.focus()
    link.scroll_into_view_if_needed()
    top = page.evaluate("scrollY")
    assert top > 1000
    page.keyboard.press("o")
    page.get_by_role("heading", name="Timeline").wait_for()
    shop.add_events(5)
    page.go_back()
    expect(page.locator(".event-row")).to_have_count(100)
    assert page.evaluate("scrollY") == top
    page.locator(".row-link").nth(80).click()
    expect(page.get_by_text("Invocations")).to_be_visible()


def test_events_are_chosen_and_redelivered_or_cancelled_together(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("events/?status=failed"))
    bar = page.locator(".choice-bar")
    expect(bar).to_be_hidden()
    boxes = page.locator(".event-row .c-choose input")
    boxes.nth(0).check()
    boxes.nth(2).click(modifiers=["Shift"])
    expect(bar).to_contain_text("3 chosen")
    page.keyboard.press("k")
    page.keyboard.press("x")
    expect(bar).to_contain_text("2 chosen")
    bar.get_by_role("button", name="Redeliver").click()
    expect(bar).to_contain_text("2 events put back to pending.")
    expect(page.locator(".event-row .status-pending")).to_have_count(2)
    expect(page.locator(".event-row .c-choose input:checked")).to_have_count(0)
    page.get_by_label("Choose all that are loaded").check()
    bar.get_by_role("button", name="Cancel pending").click()
    expect(bar).to_contain_text("2 events cancelled. 2 left as they are: not pending.")
    expect(page.locator(".event-row .status-cancelled")).to_have_count(2)


def test_more_events_than_can_be_chosen_stay_chosen_and_are_refused_in_a_sentence(
    shop: Shop, live_server: Any, page: Page, complaints: Complaints
) -> None:
    complaints.expect(422)
    shop.add_events(1_001, status_code=500)
    page.goto(live_server.url + shop.path("events/?status=failed"))
    rows = page.locator(".event-row")
    page.wait_for_function(
        """() => {
            document.getElementById("older")?.scrollIntoView();
            return document.getElementById("older") === null;
        }""",
        timeout=120_000,
    )
    expect(rows).to_have_count(1_005)
    page.locator("#choose-all").check()
    bar = page.locator(".choice-bar")
    expect(bar).to_contain_text("1,005 chosen")
    expect(bar).to_contain_text("at most 1,000 at once")
    bar.get_by_role("button", name="Redeliver").click()
    expect(bar).to_contain_text("1,005 events are chosen; at most 1,000 can be at once")
    expect(page.locator(".event-row .c-choose input:checked")).to_have_count(1_005)
    assert shop.log.counts(shop.project.pk)["failed"] == 1_005
    page.locator("#choose-all").uncheck()
    for number in range(5):
        rows.nth(number).locator(".c-choose input").check()
    bar.get_by_role("button", name="Redeliver").click()
    expect(bar).to_contain_text("5 events put back to pending.")
    assert shop.log.counts(shop.project.pk)["failed"] == 1_000


def test_shortcuts_are_explained_and_what_is_exported_follows_the_filters(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("events/"))
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_label("Trigger")).to_be_focused()
    page.get_by_label("Status").select_option("failed")
    expect(page.locator(".event-row")).to_have_count(4)
    page.get_by_text("Export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON lines", exact=True).click()
    assert len(download.value.path().read_text().splitlines()) == 4
    page.get_by_role("link", name="Redeliver all that match").click()
    expect(page.locator("dd", has_text="failed")).to_be_visible()


def test_live_can_be_switched_off(shop: Shop, live_server: Any, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    page.goto(live_server.url + shop.path("events/"))
    with page.expect_request(_is_of_live):
        page.clock.run_for(3_000)
    page.get_by_label("Live").uncheck()
    asked.clear()
    # The dot goes on asking, and so tells that what was asked until then is known here.
    with page.expect_response("**/health/dot/*"):
        page.clock.run_for(12_000)
    assert [url for url in asked if "/events/?" in url] == []
    page.get_by_label("Live").check()
    with page.expect_request(_is_of_live):
        page.clock.run_for(3_000)


def test_a_hidden_tab_asks_for_nothing(shop: Shop, live_server: Any, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    page.goto(live_server.url + shop.path("events/"))
    with page.expect_response(_is_of_live):
        page.clock.run_for(3_000)
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", { get: () => true, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    asked.clear()
    page.clock.run_for(60_000)
    # What is asked by hand is known here after all that was asked before.
    with page.expect_response("**/healthz"):
        page.evaluate("fetch('/healthz')")
    assert [url.rsplit("/", 1)[1] for url in asked] == ["healthz"]
    page.evaluate(
        """() => {
            delete document.hidden;
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    with page.expect_request(_is_of_live):
        page.clock.run_for(3_000)


def _is_of_live(asked: Request | Response) -> bool:
    return "/events/?" in asked.url and "seen=" in asked.url


def test_filters_stand_in_the_address_and_going_back_undoes_them(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("events/"))
    page.get_by_label("Status").select_option("failed")
    expect(page.locator(".event-row")).to_have_count(4)
    assert page.url.endswith("/events/?status=failed")
    page.go_back()
    expect(page.locator(".event-row")).to_have_count(12)
    assert page.url.endswith("/events/")


def test_older_events_load_at_the_end_of_the_page(shop: Shop, live_server: Any, page: Page) -> None:
    shop.add_events(100)
    page.goto(live_server.url + shop.path("events/"))
    expect(page.locator(".event-row")).to_have_count(50)
    page.keyboard.press("End")
    expect(page.locator(".event-row")).to_have_count(100)
    page.keyboard.press("End")
    expect(page.locator(".event-row")).to_have_count(112)
    expect(page.get_by_role("link", name="Older")).to_have_count(0)


def test_a_payload_that_is_too_long_for_the_page_is_copied_whole(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    origin = make_origin(shop.project, shop.database.pk)
    change = make_change(document={"id": 1, "note": "x" * 300_000})
    (event,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    before = shop.log.position(shop.database.pk)
    shop.log.append(origin, [event], before, change.position)
    page.goto(live_server.url + shop.path(f"events/{event.id}/"))
    expect(page.get_by_text("Raw has them all, and Copy takes them all.")).to_be_visible()
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == event.payload
    # Where it does not work, the button says where all of it is.
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error()); }")
    page.get_by_role("button", name=re.compile("Cop")).first.click()
    expect(page.get_by_role("button", name="Not copied: use Raw")).to_be_visible()


def test_a_card_without_its_figures_says_so(
    shop: Shop, live_server: Any, context: BrowserContext, browser: Browser
) -> None:
    card = page_of(context, f"{live_server.url}/projects/").locator(".card", has_text="shop")
    expect(card.locator(".card-figures")).to_contain_text("a minute")
    expect(card.get_by_text("Its last hour is on its Overview.")).to_be_hidden()
    context.route("**/figures/", lambda route: route.abort())
    card = page_of(context, f"{live_server.url}/projects/").locator(".card", has_text="shop")
    expect(card.get_by_text("The last hour cannot be shown now.")).to_be_visible()
    state = context.storage_state()
    plain = browser.new_context(java_script_enabled=False, storage_state=state)
    card = page_of(plain, f"{live_server.url}/projects/").locator(".card", has_text="shop")
    expect(card.get_by_text("Its last hour is on its Overview.")).to_be_visible()
    expect(card.locator(".card-hour")).to_be_hidden()
    plain.close()


def page_of(context: BrowserContext, address: str) -> Page:
    """Not the page that notices failed requests."""
    page = context.new_page()
    page.goto(address)
    return page


def test_any_of_many_projects_is_switched_to_by_keyboard_and_without_javascript(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext, browser: Browser
) -> None:
    Project.objects.bulk_create(Project(name=f"p{number:03}") for number in range(130))
    Project.objects.create(name="zzz", title="The last one")
    page.goto(live_server.url + shop.path("settings/"))
    page.locator(".switcher").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("searchbox", name="Search projects")).to_be_focused()
    page.keyboard.type("last")
    item = page.locator("#project-list").get_by_role("link")
    expect(item).to_have_text(["The last one zzz"])
    assert violations(page) == []
    page.keyboard.press("ArrowDown")
    expect(item).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{live_server.url}/projects/zzz/")
    plain = browser.new_context(java_script_enabled=False, storage_state=context.storage_state())
    page = plain.new_page()
    page.goto(live_server.url + shop.path("settings/"))
    page.locator(".switcher").click()
    page.get_by_role("searchbox", name="Search projects").fill("last")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="The last one", exact=True).last.click()
    assert page.url == f"{live_server.url}/projects/zzz/"
    plain.close()


def test_of_few_projects_too_one_is_found_by_typing_and_opened_with_enter(
    shop: Shop, live_server: Any, page: Page
) -> None:
    Project.objects.create(name="zzz", title="The last one")
    page.goto(live_server.url + shop.path("settings/"))
    page.locator(".switcher").click()
    search = page.get_by_role("searchbox", name="Search projects")
    expect(search).to_be_focused()
    page.keyboard.type("nowhere")
    nothing = page.get_by_text("No project matches.")
    expect(nothing).to_be_visible()
    page.keyboard.press("Enter")
    expect(search).to_be_focused()
    search.fill("last")
    expect(nothing).to_be_hidden()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{live_server.url}/projects/zzz/")


def test_the_environment_is_read_at_every_width(
    shop: Shop, live_server: Any, page: Page, settings: Any
) -> None:
    settings.ENVIRONMENT_NAME = "Europe, production two"
    Project.objects.update(title="A project of a name that no bar at the top has room for")
    page.goto(live_server.url + shop.path("settings/"))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        expect(page.locator(".environment")).to_be_in_viewport(ratio=1)
        # It keeps nobody from what is beside it.
        page.locator(".switcher").click()
        expect(page.get_by_role("link", name="All projects", exact=True)).to_be_visible()
        page.keyboard.press("Escape")
    assert faults(page) == []


def test_a_plan_is_what_one_sees_once_it_is_shown(shop: Shop, live_server: Any, page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 600})
    page.goto(live_server.url + shop.path("settings/configuration/"))
    page.get_by_role("button", name="Show the plan").click()
    plan = page.get_by_role("heading", name="Plan")
    expect(plan).to_be_focused()
    expect(plan).to_be_in_viewport()


def test_a_role_is_changed_with_a_button_that_comes_when_another_is_chosen(
    shop: Shop, live_server: Any, page: Page, browser: Browser, context: BrowserContext
) -> None:
    page.goto(live_server.url + shop.path("settings/members/"))
    role = page.get_by_label("Role of grace", exact=True)
    change = page.get_by_role("button", name="Change the role of grace")
    expect(change).to_be_hidden()
    role.select_option("editor")
    expect(change).to_be_visible()
    role.select_option("admin")
    expect(change).to_be_hidden()
    role.select_option("viewer")
    role.focus()
    page.keyboard.press("Tab")
    expect(change).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("grace has the role viewer now.")).to_be_visible()
    expect(change).to_be_hidden()
    plain = browser.new_context(java_script_enabled=False, storage_state=context.storage_state())
    page = plain.new_page()
    page.goto(live_server.url + shop.path("settings/members/"))
    expect(page.get_by_role("button", name="Change the role of grace")).to_be_visible()
    plain.close()


def test_the_theme_changes_at_once_and_stays(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path())
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_label("Theme").click()
    with page.expect_response("**/theme/"):
        page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark


def test_under_800_pixels_the_side_bar_is_a_drawer(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(live_server.url + shop.path())
    entry = page.get_by_role("navigation").get_by_role("link", name="Event Logs")
    expect(entry).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    expect(entry).to_be_visible()
    page.keyboard.press("Escape")
    expect(entry).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    entry.click()
    page.wait_for_url("**/events/")


def test_a_trigger_is_paused_in_the_list(shop: Shop, live_server: Any, page: Page) -> None:
    page.goto(live_server.url + shop.path(f"triggers/?q={LONG[:20]}"))
    switch = page.get_by_role("switch")
    expect(switch).to_have_attribute("aria-checked", "true")
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "false")
    assert page.url.endswith(f"triggers/?q={LONG[:20]}")
    assert Trigger.objects.get(name=LONG).state == "paused"


def test_the_form_says_what_the_trigger_will_do_and_what_is_wrong(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("triggers/add/"))
    page.get_by_label("Trigger Name").fill("audit")
    page.get_by_label("Webhook URL").fill("example.com/hook")
    page.get_by_label("Insert").check()
    expect(page.locator("#error_url")).to_contain_text("begins with http:// or https://")
    page.get_by_label("Webhook URL").fill("https://example.com/hook")
    expect(page.locator("#preview")).to_contain_text("When a row is inserted in any table")
    expect(page.locator("#error_url")).to_have_text("")


def test_the_connection_string_and_its_fields_fill_each_other(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("databases/add/"))
    page.get_by_label("Connection string").fill("postgresql://ann:p%40ss@db.local:6543/orders")
    expect(page.get_by_label("Host")).to_have_value("db.local")
    expect(page.get_by_label("Port")).to_have_value("6543")
    expect(page.get_by_label("Password")).to_have_value("p@ss")
    expect(page.get_by_label("Alias")).to_have_value("orders")
    page.get_by_label("User").fill("bob")
    expected = "postgresql://bob:p%40ss@db.local:6543/orders"
    expect(page.get_by_label("Connection string")).to_have_value(expected)


def test_a_connection_is_tested_in_place(
    shop: Shop, live_server: Any, page: Page, source_database: str
) -> None:
    page.goto(live_server.url + shop.path("databases/add/"))
    page.get_by_label("Connection string").fill(source_database)
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#findings")).to_contain_text("wal_level")
    expect(page.get_by_label("Connection string")).to_have_value(source_database)


def test_without_javascript_the_forms_and_links_do_the_work(
    shop: Shop, live_server: Any, browser: Browser
) -> None:
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    complaints = Complaints()
    complaints.watch(page)
    page.goto(live_server.url + shop.path("triggers/"))
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("correct-horse-battery")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Add").click()
    page.get_by_label("Trigger Name").fill("plain")
    page.get_by_label("Collection / Table name(s)").fill("users")
    page.get_by_label("Update").check()
    page.get_by_label("Webhook URL").fill("https://example.com/plain")
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Retries").fill("7")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("heading", name="plain").wait_for()
    assert trigger_definition_of(Trigger.objects.get(name="plain")).retries == 7
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    page.goto(live_server.url + shop.path("settings/"))
    page.get_by_label("Keep events for").fill("41")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Settings saved.").wait_for()
    page.goto(live_server.url + shop.path("events/"))
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    assert page.locator(".event-row").count() == 4
    page.locator(".event-row .c-choose input").first.check()
    page.get_by_role("button", name="Redeliver chosen").click()
    page.get_by_text("1 event put back to pending.").wait_for()
    assert "status=failed" in page.url
    page.locator(".row-link").first.click()
    page.get_by_role("button", name="Redeliver").click()
    page.get_by_text("will be delivered again").wait_for()
    shop.add_events(60)
    page.goto(live_server.url + shop.path("events/"))
    assert page.locator(".event-row").count() == 50
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newest events").wait_for()
    assert page.locator(".event-row").count() == 22
    assert complaints.found == []
    plain.close()


def test_tables_are_suggested_from_the_database_name_by_name(
    shop: Shop, live_server: Any, page: Page, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE customers (id int PRIMARY KEY)")
    make_database(shop.project, source_database, alias="live")
    page.goto(live_server.url + shop.path("triggers/add/"))
    field = page.get_by_label("Collection / Table name(s)")
    field.focus()
    option = page.locator('#table-names option[data-name="customers"]')
    expect(option).to_have_attribute("value", "customers")
    field.fill("users, cu")
    expect(option).to_have_attribute("value", "users, customers")


def test_a_session_that_ends_while_one_types_is_said_in_place(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext, complaints: Complaints
) -> None:
    complaints.expect(401)
    address = live_server.url + shop.path("triggers/add/?from=paused")
    page.goto(address)
    page.get_by_label("Trigger Name").fill("kept")
    context.clear_cookies(name="sessionid")
    page.get_by_label("Webhook URL").fill("https://example.com/kept")
    notice = page.get_by_role("alert").filter(has_text="Your session has ended.")
    expect(notice).to_be_visible()
    assert violations(page) == []
    # One may go on typing; it is kept, too.
    page.get_by_label("Collection / Table name(s)").fill("orders")
    assert page.url == address
    notice.get_by_role("link", name="Sign in").click()
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("correct-horse-battery")
    page.keyboard.press("Enter")
    page.wait_for_url(address)
    expect(page.get_by_label("Trigger Name")).to_have_value("kept")
    expect(page.get_by_label("Webhook URL")).to_have_value("https://example.com/kept")
    expect(page.get_by_label("Collection / Table name(s)")).to_have_value("orders")
    expect(page.get_by_text("Your session has ended.")).to_be_hidden()


@pytest.mark.parametrize("path", ["events/", "", "triggers/", "databases/"])
def test_a_page_that_keeps_itself_up_to_date_stays_when_the_session_ends(
    path: str,
    shop: Shop,
    live_server: Any,
    page: Page,
    context: BrowserContext,
    complaints: Complaints,
) -> None:
    complaints.expect(401)
    address = live_server.url + shop.path(path)
    page.goto(address)
    heading = page.locator("h1").inner_text()
    context.clear_cookies(name="sessionid")
    expect(page.get_by_text("Your session has ended.")).to_be_visible(timeout=30_000)
    assert page.url == address
    expect(page.locator("h1")).to_have_text(heading)
    # Somebody has signed in again in another tab.
    sign_in_again(context, live_server)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("Your session has ended.")).to_be_hidden(timeout=30_000)


def sign_in_again(context: BrowserContext, live_server: Any) -> None:
    client = Client()
    client.force_login(User.objects.get(username="ada"))
    cookie = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": cookie, "url": live_server.url}])


def test_times_of_the_filters_are_local_here_and_utc_in_the_address(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("events/?after=2026-01-31T12:00:05Z"))
    after = page.get_by_label("From (your time)")
    expect(after).to_have_value("2026-01-31T13:00:05")
    after.fill("2026-07-31T13:00:07")
    page.wait_for_url("**/events/?after=2026-07-31T11%3A00%3A07Z")
    expect(page.locator(".event-row")).to_have_count(12)
    page.get_by_label("Status").select_option("failed")
    page.wait_for_url("**/events/?status=failed&after=2026-07-31T11%3A00%3A07Z")
    page.reload()
    expect(after).to_have_value("2026-07-31T13:00:07")
    page.get_by_label("Until (your time)").fill("2026-07-31T13:00:08")
    expect(page.get_by_text("No event matches these filters.")).to_be_visible()


def test_brackets_beside_right_to_left_text_keep_no_browser_busy(
    shop: Shop, live_server: Any, page: Page
) -> None:
    origin = make_origin(shop.project, shop.database.pk)
    change = make_change(document={"\u05d0": "[" * 100_000})
    (event,) = make_events([change], origin, shop.trigger.pk, shop.trigger.name)
    before = shop.log.position(shop.database.pk)
    shop.log.append(origin, [event], before, change.position)
    claims = shop.log.claim([event.id], 30)
    body = ("\u05d0" + "[" * 9_990).encode()
    shop.log.record([make_outcome(each, 500, response_body=body) for each in claims], "worker-1")
    page.goto(live_server.url + shop.path(f"events/{event.id}/"))
    expect(page.get_by_text("98,001 more characters")).to_be_visible()
    page.get_by_text("Body", exact=True).click()
    expect(page.get_by_label("Request body of attempt 1")).to_be_visible()


def test_a_session_that_ends_in_the_middle_of_a_form_loses_nothing_typed(
    shop: Shop, live_server: Any, page: Page, context: BrowserContext, complaints: Complaints
) -> None:
    # What the preview is answered, if it asks once more.
    complaints.expect(401)
    address = live_server.url + shop.path("triggers/add/")
    page.goto(address)
    page.get_by_label("Trigger Name").fill("kept")
    page.get_by_label("Insert").check()
    page.get_by_label("Webhook URL").fill("https://example.com/kept")
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Retries").fill("8")
    page.get_by_label("Header name").fill("Authorization")
    with page.expect_response(lambda answer: "s3cret" in (answer.request.post_data or "")):
        page.get_by_label("Header value").fill("Bearer s3cret")
    context.clear_cookies(name="sessionid")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("correct-horse-battery")
    page.keyboard.press("Enter")
    page.wait_for_url(address)
    expect(page.get_by_text("This is what you had typed here before.")).to_be_visible()
    expect(page.get_by_label("Trigger Name")).to_have_value("kept")
    expect(page.get_by_label("Insert")).to_be_checked()
    expect(page.get_by_label("Retries")).to_have_value("8")
    expect(page.get_by_label("Header name")).to_have_value("Authorization")
    expect(page.get_by_label("Header value")).to_have_value("")
    assert "s3cret" not in page.evaluate("JSON.stringify(sessionStorage)")
    page.get_by_label("Header value").fill("Bearer s3cret")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("heading", name="kept").wait_for()
    page.goto(address)
    expect(page.get_by_label("Trigger Name")).to_have_value("")


def test_a_trigger_is_tried_out_before_it_is_saved(
    shop: Shop, live_server: Any, page: Page, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE customers (id int PRIMARY KEY, name text)")
    execute(source_database, "INSERT INTO customers VALUES (7, 'Ada')")
    make_database(shop.project, source_database, alias="live")
    page.goto(live_server.url + shop.path("triggers/add/"))
    page.get_by_label("live", exact=True).check()
    page.get_by_label("Insert").check()
    page.get_by_role("button", name="Read a row").click()
    expect(page.locator("#sample .json")).to_contain_text('"name": "Ada"')
    page.get_by_role("button", name="Send test event").click()
    expect(page.locator("#trial")).to_contain_text("Webhook URL")
    page.get_by_label("Webhook URL").fill("http://127.0.0.1:1/none")
    expect(page.locator("#preview")).to_contain_text("When a row is inserted")
    page.get_by_text("Timetable of the attempts").click()
    expect(page.locator(".timetable tbody tr")).to_have_count(4)
    page.get_by_role("button", name="Send test event").click()
    expect(page.locator("#trial")).to_contain_text("not taken")
    expect(page.locator("#trial")).to_contain_text("Nothing was saved.")
    assert violations(page) == []


def test_settings_tell_what_is_being_done_while_an_eventing_db_is_made(
    shop: Shop, live_server: Any, page: Page, source_database: str
) -> None:
    make_database(shop.project, source_database, alias="logs")
    page.goto(live_server.url + shop.path("settings/"))
    page.get_by_label("Eventing DB").select_option("logs")
    page.evaluate(
        """() => {
            const line = document.querySelector("[data-progress]");
            const keep = () => sessionStorage.setItem("told", line.textContent);
            new MutationObserver(keep).observe(line, { childList: true });
        }"""
    )
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Settings saved.")).to_be_visible()
    expect(page.get_by_label("Eventing DB")).to_have_value("logs")
    told = page.evaluate("sessionStorage.getItem('told')")
    assert told.startswith("Checking logs")
    assert told.endswith("and making its tables…")
    made = "SELECT to_regclass('mission_control.event_log') IS NOT NULL"
    assert execute(source_database, made) == [(True,)]


def test_mission_control_as_a_database_is_asked_for_no_address(
    shop: Shop, live_server: Any, page: Page
) -> None:
    page.goto(live_server.url + shop.path("databases/add/"))
    hint = page.get_by_text("Mission Control itself is the source")
    expect(hint).to_be_hidden()
    page.get_by_label("Host").fill("db.example.com")
    page.get_by_label("Mission Control", exact=True).check()
    expect(hint).to_be_visible()
    for label in ("Host", "Port", "Database", "User", "Password", "Connection string", "Schemas"):
        expect(page.get_by_label(label, exact=True)).to_be_hidden()
    page.get_by_label("MongoDB").check()
    expect(page.get_by_label("Host")).to_have_value("db.example.com")
    expect(page.get_by_label("Port")).to_have_value("27017")
    page.get_by_label("Mission Control", exact=True).check()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#findings")).to_contain_text("Ready to be captured")
    expect(page.get_by_label("Host")).to_be_hidden()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The database mission-control is saved.")).to_be_visible()
    page.get_by_role("link", name="mission-control", exact=True).click()
    expect(page.get_by_label("Mission Control", exact=True)).to_be_checked()
    expect(page.get_by_label("Host")).to_be_hidden()


def test_mission_control_is_added_as_a_database_without_javascript(
    shop: Shop, live_server: Any, browser: Browser, context: BrowserContext
) -> None:
    plain = browser.new_context(java_script_enabled=False)
    plain.add_cookies(context.cookies())  # type: ignore[arg-type]
    page = plain.new_page()
    page.goto(live_server.url + shop.path("databases/add/"))
    page.get_by_label("Mission Control", exact=True).check()
    expect(page.get_by_text("Leave it empty below.")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The database mission-control is saved.")).to_be_visible()
    plain.close()
