"""One's account in the browser: a second factor from beginning to end, and another password."""

import time
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import Complaints
from tests.browser.test_every_page import faults

PASSWORD = "correct-horse-battery"
NEW = "a-staple-of-correct-horses"


def code_of(secret: str, steps_ahead: int = 0) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps_ahead))


def is_fine(page: Page) -> None:
    """As it stands, at every width and in both themes."""
    assert faults(page) == []


@pytest.mark.django_db(transaction=True)
def test_a_second_factor_is_turned_on_used_and_turned_off(
    live_server: Any, context: BrowserContext, page: Page, complaints: Complaints
) -> None:
    complaints.expect(422)
    User.objects.create_superuser("ada", password=PASSWORD)

    def sign_in(password: str) -> None:
        page.goto(f"{live_server.url}/sign-in/?next=/account/")
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    def confirm() -> None:
        page.get_by_role("heading", name="Confirm that it is you").wait_for()
        is_fine(page)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Confirm").click()

    sign_in(PASSWORD)
    page.get_by_role("heading", name="Account").wait_for()
    is_fine(page)
    page.get_by_role("link", name="Turn on").click()
    confirm()
    secret = page.locator("code").inner_text()
    page.get_by_label("Code", exact=True).fill("000000")
    page.get_by_role("button", name="Turn on").click()
    page.get_by_text("Incorrect code.").wait_for()
    is_fine(page)
    page.get_by_label("Code", exact=True).fill(code_of(secret))
    page.get_by_role("button", name="Turn on").click()
    page.get_by_role("heading", name="Recovery codes").wait_for()
    is_fine(page)
    page.get_by_role("link", name="Make new ones").click()
    page.get_by_role("heading", name="Make new recovery codes?").wait_for()
    is_fine(page)
    page.get_by_role("button", name="Make new ones").click()
    codes = page.get_by_label("Recovery codes").get_by_role("listitem").all_inner_texts()
    assert len(codes) == 10
    context.clear_cookies()
    sign_in(PASSWORD)
    page.get_by_role("heading", name="Second factor").wait_for()
    is_fine(page)
    page.get_by_label("Code", exact=True).fill(codes[0])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("9 recovery codes left").wait_for()
    is_fine(page)
    page.get_by_role("link", name="Turn off").click()
    confirm()
    page.get_by_role("heading", name="Turn off two-factor sign-in?").wait_for()
    is_fine(page)
    page.get_by_role("button", name="Turn off").click()
    page.get_by_role("link", name="Turn on").wait_for()
    page.get_by_role("link", name="Change password").click()
    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill("short")
    page.get_by_label("New password again").fill("short")
    page.get_by_role("button", name="Change password").click()
    page.get_by_text("too short").wait_for()
    is_fine(page)
    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill(NEW)
    page.get_by_label("New password again").fill(NEW)
    page.get_by_role("button", name="Change password").click()
    page.get_by_text("Your password is changed.").wait_for()
