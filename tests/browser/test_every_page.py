"""Each page at three widths in both themes: nothing in the console, no failed request, nothing that
scrolls sideways, and no violation that axe-core knows of.
"""

from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import BrowserContext, Page

from eventing import redeliveries
from eventing.logs.base import EventFilter
from eventing.models import ApiToken, Membership
from tests.browser.conftest import LONG, sign_in
from tests.factories import actor_called
from tests.web.conftest import Shop

WIDTHS = (360, 800, 1440)
THEMES = ("light", "dark")
PAGES = (
    "/projects/",
    "/projects/add/",
    "/health/",
    "/account/",
    "/audit/",
    "/account/password/",
    "/account/confirm/",
    "/projects/shop/",
    "/projects/shop/begin/event/",
    "/projects/empty/begin/database/",
    "/projects/empty/begin/trigger/",
    "/projects/empty/begin/event/",
    "/projects/shop/databases/",
    "/projects/shop/databases/add/",
    "/projects/shop/databases/main/",
    "/projects/shop/databases/main/delete/",
    "/projects/shop/databases/lost/start-anew/",
    "/projects/shop/triggers/",
    "/projects/shop/triggers/add/",
    f"/projects/shop/triggers/{LONG}/",
    f"/projects/shop/triggers/{LONG}/edit/",
    f"/projects/shop/triggers/{LONG}/delete/",
    "/projects/shop/triggers/paused/secret/retire/",
    "/projects/shop/events/",
    "/projects/shop/events/?status=failed&table=users",
    "/projects/shop/events/EVENT/",
    "/projects/shop/events/redeliver/?status=failed&trigger=x",
    "/projects/shop/redeliveries/REDELIVERY/",
    "/projects/shop/settings/",
    "/projects/shop/settings/members/",
    "/projects/shop/settings/members/MEMBER/remove/",
    "/projects/shop/settings/members/MEMBER/two-factor/",
    "/projects/shop/settings/tokens/",
    "/projects/shop/settings/tokens/TOKEN/revoke/",
    "/projects/shop/settings/audit/",
    "/projects/shop/settings/audit/?kind=user",
    "/projects/shop/settings/notifications/",
    "/projects/shop/settings/notifications/add/",
    "/projects/shop/settings/notifications/on-call/",
    "/projects/shop/settings/notifications/on-call/delete/",
    "/projects/empty/settings/notifications/",
    "/projects/shop/settings/configuration/",
    "/projects/shop/settings/delete/",
    "/projects/empty/",
    "/projects/empty/databases/",
    "/projects/empty/triggers/",
    "/projects/empty/events/",
)
_AXE = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
_RUN_AXE = """async () => (await axe.run({resultTypes: ["violations"]})).violations.map(
    each => each.id + ": " + each.nodes.map(node => node.html.slice(0, 200)).join(" | "))"""


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it stands."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE)
    found: list[str] = page.evaluate(_RUN_AXE)
    return found


def scrolls_sideways(page: Page) -> bool:
    wider: bool = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return wider


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_fine_at_every_width_in_both_themes(
    path: str, shop: Shop, live_server: Any, context: BrowserContext, page: Page
) -> None:
    sign_in(context, live_server)
    event = shop.log.browse(shop.project.pk, EventFilter(status="failed"), None, 1).rows[0]
    redelivery = redeliveries.start(
        shop.project, EventFilter(status="failed"), 5, by=actor_called("ada")
    )
    member, token = Membership.objects.latest("pk"), ApiToken.objects.latest("pk")
    for name, value in (
        ("EVENT", event.id),
        ("REDELIVERY", redelivery.pk),
        ("MEMBER", member.user_id),
        ("TOKEN", token.pk),
    ):
        path = path.replace(name, str(value))
    page.goto(live_server.url + path)
    for theme in THEMES:
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert not scrolls_sideways(page), (theme, width)
            assert violations(page) == [], (theme, width)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/first-run/", "/sign-in/"])
def test_a_page_before_signing_in_is_fine_too(path: str, live_server: Any, page: Page) -> None:
    if path == "/sign-in/":
        User.objects.create_superuser("ada", password="correct-horse-battery")
    page.goto(live_server.url + path)
    for theme in THEMES:
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert not scrolls_sideways(page), (theme, width)
            assert violations(page) == [], (theme, width)
