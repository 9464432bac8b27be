"""What rows contain is shown to those who may see it, and to nobody else, wherever one asks."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from eventing.logs.postgres import PostgresEventLog
from eventing.models import AuditEntry, Membership
from tests.factories import make_outcome, make_token
from tests.web.api import Api, Shop, deliver, make_shop

ROW = "a word of the row"
BODY = "what the endpoint echoed"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


@pytest.fixture
def event_id(shop: Shop, log: PostgresEventLog) -> str:
    (event,) = shop.events(log, document={"id": 1, "note": ROW})
    deliver(log, [event], lambda claim: make_outcome(claim, response_body=BODY.encode()))
    return str(event.id)


def keep_from_payloads(shop: Shop, user: str = "shop-viewer") -> None:
    answer = shop.admin.patch(f"projects/shop/members/{user}/", {"payloads": False})
    assert (answer.status, answer.json["payloads"]) == (200, False)


def everything(shop: Shop, event_id: str, user: str) -> str:
    """Every answer about the event that the user can get, in the console and over REST."""
    found = User.objects.get(username=user)
    console = Client()
    console.force_login(found)
    api = Api(make_token(found, "admin", shop.project))
    pages = ["events/", f"events/{event_id}/", "", "triggers/welcome-email/"]
    answers = [console.get(f"/projects/shop/{page}") for page in pages]
    parts = {"HX-Request": "true"}
    answers.append(console.get(f"/projects/shop/events/{event_id}/", headers=parts))
    assert {answer.status_code for answer in answers} == {200}
    texts = [answer.content.decode() for answer in answers]
    texts += [
        api.get(f"projects/shop/{each}").content.decode()
        for each in ("events/", f"events/{event_id}/")
    ]
    return "".join(texts)


def test_a_viewer_sees_payloads_unless_an_administrator_says_otherwise(
    shop: Shop, event_id: str
) -> None:
    before = everything(shop, event_id, "shop-viewer")
    assert ROW in before
    assert BODY in before
    keep_from_payloads(shop)
    after = everything(shop, event_id, "shop-viewer")
    assert ROW not in after
    assert BODY not in after
    # The rest stays: that there was an attempt, and how it was answered.
    assert "You may not see what rows contain." in after
    shown = shop.viewer.get(f"projects/shop/events/{event_id}/").json
    assert (shown["payload"], shown["withheld"]) == (None, True)
    assert shown["invocations"][0]["status_code"] == 200
    for role in ("editor", "admin", "root"):
        assert ROW in everything(shop, event_id, f"shop-{role}")


def test_a_token_with_the_role_of_a_viewer_sees_what_its_user_may(
    shop: Shop, event_id: str
) -> None:
    admin = User.objects.get(username="shop-admin")
    token = Api(make_token(admin, "viewer", shop.project))
    assert token.get(f"projects/shop/events/{event_id}/").json["withheld"] is False


@pytest.mark.parametrize("role", ["editor", "admin"])
def test_only_a_viewer_can_be_kept_from_payloads(shop: Shop, role: str) -> None:
    answer = shop.root.patch(f"projects/shop/members/shop-{role}/", {"payloads": False})
    assert answer.status == 422
    allowed = f"allowed: true with the role {role}; only a viewer can be kept from them"
    assert answer.problems["payloads"] == f"payloads: got false; {allowed}"


def test_who_becomes_an_editor_sees_payloads(shop: Shop, event_id: str) -> None:
    keep_from_payloads(shop)
    answer = shop.admin.patch("projects/shop/members/shop-viewer/", {"role": "editor"})
    assert (answer.status, answer.json["payloads"]) == (200, True)
    assert ROW in everything(shop, event_id, "shop-viewer")


def test_the_console_keeps_a_viewer_from_payloads(shop: Shop) -> None:
    console = Client()
    console.force_login(User.objects.get(username="shop-admin"))
    path = "/projects/shop/settings/members/"
    User.objects.create_user("new")
    given: dict[str, Any] = {"user": "new", "role": "viewer-without-payloads"}
    assert console.post(path, given).status_code == 303
    added = Membership.objects.get(user__username="new")
    assert (added.role, added.sees_payloads) == ("viewer", False)
    page = console.get(path).content.decode()
    assert '<option value="viewer-without-payloads" selected>viewer, no payloads</option>' in page
    assert console.post(f"{path}{added.user_id}/role/", {"role": "viewer"}).status_code == 303
    added.refresh_from_db()
    assert added.sees_payloads is True
    entry = AuditEntry.objects.latest("pk")
    assert (entry.old, entry.new) == ({"payloads": False}, {"payloads": True})
