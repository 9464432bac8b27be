"""Members of a project: each rule in the console and over REST."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from eventing.access import Actor
from eventing.members import remove_member
from eventing.models import ApiToken, AuditEntry, Membership
from eventing.problems import InvalidInput
from tests.factories import make_project, make_token
from tests.web.api import Api
from tests.web.conftest import PASSWORD, Shop

MEMBERS = "projects/shop/members/"


def api_of(role: str, shop: Shop) -> Api:
    """A caller with a token of a user with the role; `root` administers the installation."""
    user, made = User.objects.get_or_create(username=role, is_superuser=role == "root")
    if made and role in Membership.Role.values:
        Membership.objects.create(user=user, project=shop.project, role=role)
    return Api(make_token(user, "admin", None if role == "root" else shop.project))


def roles(shop: Shop) -> dict[str, str]:
    return dict(shop.project.memberships.values_list("user__username", "role"))


def path_of(shop: Shop, username: str, rest: str) -> str:
    return shop.path(f"settings/members/{User.objects.get(username=username).pk}/{rest}/")


def test_a_user_is_added_by_name_and_their_role_changed(shop: Shop, admin: Client) -> None:
    User.objects.create_user("grace")
    given = {"user": " grace ", "role": "viewer"}
    assert admin.post(shop.path("settings/members/"), given).status_code == 303
    assert roles(shop) == {"admin": "admin", "grace": "viewer"}
    page = admin.get(shop.path("settings/members/")).content.decode()
    assert "grace is a member now, with the role viewer." in page
    assert admin.post(path_of(shop, "grace", "role"), {"role": "editor"}).status_code == 303
    assert roles(shop)["grace"] == "editor"


def test_a_user_is_added_changed_and_removed_over_rest(shop: Shop) -> None:
    User.objects.create_user("grace@example.com")
    api = api_of("admin", shop)
    answer = api.post(MEMBERS, {"user": "grace@example.com", "role": "viewer"})
    assert answer.status == 201
    assert answer.json == {
        "user": "grace@example.com",
        "role": "viewer",
        "payloads": True,
        "active": True,
        "two_factor": False,
        "first_password": None,
    }
    address = answer.headers["Location"].removeprefix("/api/v1/")
    assert api.get(address).json["role"] == "viewer"
    assert [each["user"] for each in api.get(MEMBERS).json] == ["admin", "grace@example.com"]
    # What is read can be sent back.
    assert api.patch(address, {**api.get(address).json, "role": "editor"}).json["role"] == "editor"
    assert api.delete(address).status == 204
    assert api.get(address).status == 404


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"user": "nobody", "role": "viewer"}, "user", "the name of an active user"),
        ({"user": "gone", "role": "viewer"}, "user", "the name of an active user"),
        ({"user": "admin", "role": "viewer"}, "user", "a user who is no member"),
        ({"user": "", "role": "viewer"}, "user", "1 to 150 letters"),
        ({"user": "a\x00b", "role": "viewer"}, "user", "1 to 150 letters"),
        ({"user": "grace", "role": "owner"}, "role", "one of viewer, editor, admin"),
        ({"user": "fresh", "role": "viewer", "new_user": True}, "new_user", "administrators of"),
    ],
)
def test_a_bad_member_is_refused_at_its_field(
    shop: Shop, admin: Client, given: dict[str, object], field: str, words: str
) -> None:
    User.objects.create_user("grace")
    User.objects.create_user("gone", is_active=False)
    answer = admin.post(shop.path("settings/members/"), given)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    answer = api_of("admin", shop).post(MEMBERS, given)
    assert answer.status == 422
    assert words in answer.problems[field]
    assert roles(shop) == {"admin": "admin"}


def test_an_administrator_of_the_installation_makes_users_with_a_first_password(
    shop: Shop, client: Client
) -> None:
    root = User.objects.create_superuser("root")
    client.force_login(root)
    given = {"user": "fresh", "role": "editor", "new_user": "on"}
    answer = client.post(shop.path("settings/members/"), given)
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    found = re.search(r'<pre id="once"[^>]*>([^<]+)<', answer.content.decode())
    assert found
    assert Client().login(username="fresh", password=found[1])
    assert found[1] not in client.get(shop.path("settings/members/")).content.decode()
    unknown = client.post(shop.path("settings/members/"), {"user": "nobody", "role": "viewer"})
    assert "or with “A new user” that of a new one" in unknown.content.decode()
    again = client.post(shop.path("settings/members/"), given)
    assert (again.status_code, "a name no other user has" in again.content.decode()) == (422, True)
    api = api_of("root", shop)
    made = api.post(MEMBERS, {"user": "other", "role": "viewer", "new_user": True})
    assert Client().login(username="other", password=made.json["first_password"])
    assert roles(shop) == {"fresh": "editor", "other": "viewer"}
    written = str(list(AuditEntry.objects.values()))
    assert found[1] not in written
    assert made.json["first_password"] not in written


def test_a_token_of_one_project_makes_no_users(shop: Shop) -> None:
    root = User.objects.create_superuser("root")
    api = Api(make_token(root, "admin", shop.project))
    given = {"user": "fresh", "role": "viewer", "new_user": True}
    assert "new_user" in api.post(MEMBERS, given).problems


def test_the_last_admin_stays_until_another_is_named(shop: Shop, admin: Client) -> None:
    api = api_of("admin", shop)
    own = path_of(shop, "admin", "remove")
    assert "Make another member admin first." in admin.get(own).content.decode()
    for answer in (admin.post(own), admin.post(path_of(shop, "admin", "role"), {"role": "viewer"})):
        assert answer.status_code == 422
        assert "make another member admin first" in answer.content.decode()
    assert "the last one of this project" in api.delete(f"{MEMBERS}admin/").problems["user"]
    refused = api.patch(f"{MEMBERS}admin/", {"role": "editor"})
    assert "the last one of this project" in refused.problems["role"]
    asleep = User.objects.create_user("asleep", is_active=False)
    Membership.objects.create(user=asleep, project=shop.project, role="admin")
    assert api.delete(f"{MEMBERS}admin/").status == 422
    User.objects.create_user("grace")
    assert api.post(MEMBERS, {"user": "grace", "role": "admin"}).status == 201
    assert admin.post(own).headers["Location"] == "/projects/"
    assert admin.get(shop.path()).status_code == 404


def test_of_two_last_admins_who_leave_at_once_one_stays(shop: Shop) -> None:
    for name in ("ada", "grace"):
        user = User.objects.create_user(name)
        Membership.objects.create(user=user, project=shop.project, role="admin")
    both_ready = Barrier(2)

    def leave(name: str) -> bool:
        try:
            membership = Membership.objects.select_related("user", "project").get(
                user__username=name
            )
            both_ready.wait(10)
            remove_member(membership, by=Actor(membership.user))
        except InvalidInput:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(leave, ("ada", "grace"))) == [False, True]
    assert list(roles(shop).values()) == ["admin"]


def test_who_gives_up_their_role_is_led_to_what_they_may_still_see(
    shop: Shop, admin: Client
) -> None:
    user = User.objects.create_user("grace")
    Membership.objects.create(user=user, project=shop.project, role="admin")
    answer = admin.post(path_of(shop, "admin", "role"), {"role": "viewer"})
    assert answer.headers["Location"] == shop.path("settings/")


def test_an_administrator_of_the_installation_may_remove_the_last_admin(
    shop: Shop, admin: Client, client: Client
) -> None:
    client.force_login(User.objects.create_superuser("root"))
    path = path_of(shop, "admin", "remove")
    assert "only administrators of the installation" in client.get(path).content.decode()
    assert client.post(path).status_code == 303
    assert roles(shop) == {}
    assert "No member yet" in client.get(shop.path("settings/members/")).content.decode()


def test_the_tokens_of_a_removed_member_end_with_the_membership(
    shop: Shop, admin: Client, editor: Client
) -> None:
    user = User.objects.get(username="editor")
    api = Api(make_token(user, "editor", shop.project))
    elsewhere = make_token(user, "editor", make_project("other"))
    assert api.get("projects/shop/").status == 200
    path = path_of(shop, "editor", "remove")
    assert "1 API token of this project is revoked" in admin.get(path).content.decode()
    assert admin.post(path).status_code == 303
    assert api.get("projects/shop/").status == 401
    assert Api(elsewhere).get("projects/").status == 200
    assert ApiToken.objects.count() == 1


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_members_are_for_administrators(
    shop: Shop, as_role: Callable[[str], Client], role: str
) -> None:
    client = as_role(role)
    api = api_of(role, shop)
    assert "settings/members/" not in client.get(shop.path("settings/")).content.decode()
    for path in ("settings/members/", f"settings/members/{User.objects.get().pk}/remove/"):
        assert client.get(shop.path(path)).status_code == 403
        assert client.post(shop.path(path)).status_code == 403
    assert client.post(path_of(shop, role, "role"), {"role": "admin"}).status_code == 403
    assert api.get(MEMBERS).status == 403
    assert api.post(MEMBERS, {"user": role, "role": "admin"}).status == 403
    assert api.patch(f"{MEMBERS}{role}/", {"role": "admin"}).status == 403
    assert api.delete(f"{MEMBERS}{role}/").status == 403
    assert roles(shop) == {role: role}


def test_members_of_another_project_do_not_exist(
    shop: Shop, as_role: Callable[[str], Client], admin: Client
) -> None:
    other = make_project("other")
    stranger = User.objects.create_user("grace", password=PASSWORD)
    Membership.objects.create(user=stranger, project=other, role="admin")
    assert admin.get("/projects/other/settings/members/").status_code == 404
    path = path_of(shop, "grace", "remove")
    assert admin.post(path).status_code == 404
    api = api_of("admin", shop)
    assert api.get("projects/other/members/").status == 404
    assert api.delete(f"{MEMBERS}grace/").status == 404
    client = Client()
    client.force_login(stranger)
    assert client.get(shop.path("settings/members/")).status_code == 404
