"""API tokens: made, shown once, used, expired and revoked, in the console and over REST."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from eventing.access import actor_of_token
from eventing.models import ApiToken, AuditEntry, Membership
from tests.factories import make_project, make_token
from tests.web.api import Api
from tests.web.conftest import Shop

TOKENS = "projects/shop/tokens/"


def shown_once(page: str) -> str:
    found = re.search(r'<pre id="once"[^>]*>(mct_[^<]+)<', page)
    assert found, "no token is shown"
    return found[1]


def user(name: str) -> User:
    return User.objects.get(username=name)


def test_a_token_is_shown_once_works_and_can_be_revoked(shop: Shop, editor: Client) -> None:
    path = shop.path("settings/tokens/")
    given = {"name": "deploy", "role": "viewer", "expires_at": "30"}
    answer = editor.post(path, given)
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    secret = shown_once(answer.content.decode())
    page = editor.get(path).content.decode()
    assert secret not in page
    assert "deploy" in page
    assert "never" in page
    api = Api(secret)
    assert api.get("projects/shop/").json["role"] == "viewer"
    token = ApiToken.objects.get()
    assert token.last_used_at is not None
    assert token.expires_at is not None
    assert timedelta(days=29) < token.expires_at - timezone.now() <= timedelta(days=30)
    revoke = shop.path(f"settings/tokens/{token.pk}/revoke/")
    assert "It was last used" in editor.get(revoke).content.decode()
    assert editor.post(revoke).status_code == 303
    assert api.get("projects/shop/").status == 401
    assert secret not in str(list(AuditEntry.objects.values()))


def test_a_token_is_made_seen_and_revoked_over_rest(shop: Shop, admin: Client) -> None:
    api = Api(make_token(user("admin"), "admin", shop.project))
    answer = api.post(TOKENS, {"role": "editor", "name": "ci"})
    assert answer.status == 201
    secret = answer.json["token"]
    shown = api.get(answer.headers["Location"].removeprefix("/api/v1/")).json
    assert "token" not in shown
    assert (shown["name"], shown["role"], shown["user"]) == ("ci", "editor", "admin")
    assert (shown["project"], shown["expires_at"]) == ("shop", None)
    assert Api(secret).get("projects/shop/").json["role"] == "editor"
    assert [each["name"] for each in api.get(TOKENS).json] == ["ci", ""]
    assert api.delete(f"{TOKENS}{shown['id']}/").status == 204
    assert Api(secret).get("projects/shop/").status == 401


def test_an_expired_token_is_refused(shop: Shop, admin: Client) -> None:
    secret = make_token(user("admin"), "admin", shop.project)
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    answer = Api(secret).get("projects/shop/")
    assert answer.status == 401
    assert "has expired" in answer.json["detail"]
    assert actor_of_token(secret) is None


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"role": "owner"}, "role", "one of viewer, editor, admin"),
        ({"role": "admin"}, "role", "no stronger role than editor"),
        ({"name": "x" * 64}, "name", "at most 63 characters"),
        ({"name": "a\nb"}, "name", "on one line"),
        ({"expires_at": "soon"}, "expires_at", "an ISO 8601 time"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at", "a time to come"),
    ],
)
def test_a_bad_token_is_refused_at_its_field(
    shop: Shop, editor: Client, change: dict[str, str], field: str, words: str
) -> None:
    given = {"name": "x", "role": "viewer", **change}
    answer = editor.post(shop.path("settings/tokens/"), given)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not ApiToken.objects.exists()
    api = Api(make_token(user("editor"), "editor", shop.project))
    assert words in api.post(TOKENS, given).problems[field]
    assert ApiToken.objects.count() == 1


def test_a_token_never_makes_a_stronger_one(shop: Shop, admin: Client) -> None:
    ends = timezone.now() + timedelta(days=7)
    api = Api(make_token(user("admin"), "editor", shop.project, expires_at=ends))
    refused = api.post(TOKENS, {"role": "admin", "expires_at": ends.isoformat()})
    assert "that of the token that asks for it" in refused.problems["role"]
    for later in (None, (ends + timedelta(seconds=1)).isoformat()):
        refused = api.post(TOKENS, {"role": "editor", "expires_at": later})
        assert "at the latest" in refused.problems["expires_at"]
    assert ApiToken.objects.count() == 1
    made = api.post(TOKENS, {"role": "editor", "expires_at": ends.isoformat()})
    assert made.status == 201


def test_what_a_token_made_is_revoked_with_it(shop: Shop, admin: Client) -> None:
    first = Api(make_token(user("admin"), "admin", shop.project))
    second = Api(first.post(TOKENS, {"role": "editor"}).json["token"])
    third = Api(second.post(TOKENS, {"role": "viewer"}).json["token"])
    assert third.get("projects/shop/").status == 200
    path = shop.path(f"settings/tokens/{ApiToken.objects.earliest('pk').pk}/revoke/")
    assert "2 tokens made with it go too" in admin.get(path).content.decode()
    assert admin.post(path).status_code == 303
    assert {each.get("projects/shop/").status for each in (first, second, third)} == {401}
    assert AuditEntry.objects.filter(action="token.delete").count() == 3


def test_a_token_does_not_revoke_a_stronger_one(shop: Shop, admin: Client) -> None:
    make_token(user("admin"), "admin", shop.project)
    stronger = ApiToken.objects.get()
    weak = Api(make_token(user("admin"), "viewer", shop.project))
    answer = weak.delete(f"{TOKENS}{stronger.pk}/")
    assert "no stronger role" in answer.problems["token"]
    own = ApiToken.objects.latest("pk")
    assert weak.delete(f"{TOKENS}{own.pk}/").status == 204


def test_one_sees_ones_own_tokens_and_an_admin_all_of_the_project(
    shop: Shop, admin: Client, editor: Client
) -> None:
    make_token(user("admin"), "admin", shop.project, name="of-admin")
    make_token(user("editor"), "viewer", shop.project, name="of-editor")
    make_token(user("editor"), "viewer", None, name="everywhere")
    make_token(user("editor"), "viewer", make_project("other"), name="elsewhere")
    path = shop.path("settings/tokens/")
    of_admin, of_editor, everywhere, elsewhere = ApiToken.objects.order_by("pk")
    page = editor.get(path).content.decode()
    assert [name in page for name in ("of-admin", "of-editor", "everywhere", "elsewhere")] == [
        *(False, True, True, False)
    ]
    page = admin.get(path).content.decode()
    assert [name in page for name in ("of-admin", "of-editor", "everywhere", "elsewhere")] == [
        *(True, True, False, False)
    ]
    for token in (of_admin, elsewhere):
        assert editor.post(f"{path}{token.pk}/revoke/").status_code == 404
    assert admin.post(f"{path}{everywhere.pk}/revoke/").status_code == 404
    api = Api(make_token(user("editor"), "editor", shop.project))
    assert "of-admin" not in [each["name"] for each in api.get(TOKENS).json]
    assert "everywhere" not in [each["name"] for each in api.get(TOKENS).json]
    assert api.delete(f"{TOKENS}{of_admin.pk}/").status == 404
    assert admin.post(f"{path}{of_editor.pk}/revoke/").status_code == 303
    assert editor.post(f"{path}{everywhere.pk}/revoke/").status_code == 303


def test_tokens_of_another_project_do_not_exist(shop: Shop, admin: Client) -> None:
    other = make_project("other")
    make_token(User.objects.create_user("grace"), "viewer", other)
    token = ApiToken.objects.get()
    assert admin.get("/projects/other/settings/tokens/").status_code == 404
    api = Api(make_token(user("admin"), "admin", None))
    assert api.get("projects/other/tokens/").status == 404
    assert api.delete(f"{TOKENS}{token.pk}/").status == 404


def test_a_token_is_no_more_than_its_owner_is_by_now(shop: Shop, editor: Client) -> None:
    api = Api(make_token(user("editor"), "editor", shop.project))
    Membership.objects.update(role="viewer")
    assert api.get("projects/shop/").json["role"] == "viewer"
    assert "no stronger role than viewer" in api.post(TOKENS, {"role": "editor"}).problems["role"]


def test_the_command_still_makes_tokens(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    User.objects.create_superuser("root")
    call_command("token", "create", "--user", "root", "--role", "admin")
    assert Api(capsys.readouterr().out.strip()).get("projects/shop/").status == 200
    entry = AuditEntry.objects.latest("pk")
    assert (entry.action, entry.address, entry.user_name) == ("token.create", "manage.py", "")
    assert entry.project_id is None
