"""Signing in with a second factor, through a provider, and what is noted of it."""

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core import signing
from django.core.management import call_command
from django.core.management.base import CommandError
from django.core.signing import BadSignature
from django.db import connection
from django.test import Client, override_settings

from demo.processes import ROOT
from eventing.models import AuditEntry, Membership
from tests.factories import make_project
from tests.web.conftest import PASSWORD
from tests.web.oidc import CLIENT_ID, CLIENT_SECRET, Provider, running_provider
from webui.sessions import SessionStore

NEW = "a-staple-of-correct-horses"


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_user("ada", password=PASSWORD)


def sign_in(client: Client, password: str = PASSWORD) -> str:
    """Where the sign-in leads."""
    given = {"username": "ada", "password": password, "next": "/account/"}
    answer = client.post("/sign-in/", given)
    assert answer.status_code == 303, answer.content
    return answer.headers["Location"]


def confirm(client: Client) -> None:
    """That it is oneself, which is asked for before anything about the second factor."""
    given = {"password": PASSWORD, "next": "/account/two-factor/on/"}
    answer = client.post("/account/confirm/", given)
    assert answer.headers["Location"] == "/account/two-factor/on/"


def code_of(secret: str, steps_ahead: int = 0) -> str:
    """The code that an authenticator app shows now (RFC 6238), or some steps of 30 s later."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps_ahead))


def is_signed_in(client: Client) -> bool:
    return client.get("/projects/").status_code == 200


@pytest.fixture
def secret(ada: User, client: Client) -> str:
    """The key of Ada's authenticator app, which she has turned on."""
    assert sign_in(client) == "/account/"
    confirm(client)
    page = client.get("/account/two-factor/on/").content.decode()
    found = re.search(r"<code[^>]*>([A-Z2-7]{32})</code>", page)
    assert found, page
    assert "<svg" in page
    refused = client.post("/account/two-factor/on/", {"code": "000000"}).content.decode()
    assert "Incorrect code." in refused
    answer = client.post("/account/two-factor/on/", {"code": code_of(found[1])})
    assert answer.headers["Location"] == "/account/recovery-codes/"
    return found[1]


def recovery_codes(client: Client) -> list[str]:
    page = client.get("/account/recovery-codes/").content.decode()
    return re.findall(r"<li>(\d{8})</li>", page)


def test_with_a_second_factor_the_password_alone_does_not_sign_in(secret: str) -> None:
    client = Client()
    assert sign_in(client) == "/sign-in/code/"
    assert not is_signed_in(client)
    refused = client.post("/sign-in/code/", {"code": "000000"})
    assert "Incorrect code." in refused.content.decode()
    assert not is_signed_in(client)
    answer = client.post("/sign-in/code/", {"code": code_of(secret, 1)})
    assert answer.headers["Location"] == "/account/"
    assert is_signed_in(client)


def test_a_code_works_once(secret: str) -> None:
    code = code_of(secret, 1)
    first, second = Client(), Client()
    for client in (first, second):
        sign_in(client)
        client.post("/sign-in/code/", {"code": code})
    assert is_signed_in(first)
    assert not is_signed_in(second)


def test_a_recovery_code_signs_in_once(secret: str, client: Client) -> None:
    codes = recovery_codes(client)
    assert len(codes) == 10
    first, second = Client(), Client()
    for each in (first, second):
        sign_in(each)
        each.post("/sign-in/code/", {"code": codes[0]})
    assert is_signed_in(first)
    assert not is_signed_in(second)
    assert "9 recovery codes left" in client.get("/account/").content.decode()
    client.post("/account/recovery-codes/new/")
    assert not set(recovery_codes(client)) & set(codes)


def test_whoever_guesses_codes_is_stopped(secret: str) -> None:
    client = Client()
    sign_in(client)
    answers = [client.post("/sign-in/code/", {"code": f"{n:06}"}) for n in range(12)]
    assert "Too many failed login attempts" in answers[-1].content.decode()
    client.post("/sign-in/code/", {"code": code_of(secret, 1)})
    assert not is_signed_in(client)


def test_the_second_factor_is_turned_off_by_its_owner_alone(secret: str, client: Client) -> None:
    assert client.post("/account/two-factor/off/").headers["Location"] == "/account/"
    assert not Authenticator.objects.exists()
    assert sign_in(Client()) == "/account/"


def test_first_one_confirms_that_it_is_oneself_and_again_after_a_while(
    ada: User, client: Client
) -> None:
    sign_in(client)
    answer = client.get("/account/two-factor/on/")
    assert answer.headers["Location"].startswith("/account/confirm/?next=")
    wrong = client.post(answer.headers["Location"], {"password": "wrong"})
    assert wrong.status_code == 200
    assert 'class="error"' in wrong.content.decode()
    confirm(client)
    assert client.get("/account/two-factor/on/").status_code == 200
    session = client.session
    for record in session["account_authentication_methods"]:
        record["at"] -= 301
    session.save()
    again = client.get("/account/two-factor/on/")
    assert again.headers["Location"] == answer.headers["Location"]


def test_a_copy_of_the_sessions_signs_nobody_in_and_tells_nothing(
    ada: User, client: Client
) -> None:
    sign_in(client)
    key = client.cookies["sessionid"].value
    # What is sent waits in the session until one has confirmed that it is oneself.
    client.post("/account/two-factor/on/", {"code": "planted-code"})
    assert "planted-code" in str(dict(client.session))
    (row,) = Session.objects.all()
    thief = Client()
    thief.cookies["sessionid"] = row.session_key
    assert not is_signed_in(thief)
    assert key != row.session_key
    with pytest.raises(BadSignature):
        signing.loads(row.session_data, salt=client.session.key_salt)
    assert SessionStore(row.session_key).decode(row.session_data) == {}
    assert is_signed_in(client)


def test_signing_in_and_out_leaves_no_session_behind(ada: User, client: Client) -> None:
    sign_in(client)
    first = client.cookies["sessionid"].value
    client.post("/sign-out/")
    sign_in(client)
    assert client.cookies["sessionid"].value != first
    assert Session.objects.count() == 1
    client.post("/sign-out/")
    assert not Session.objects.exists()


def test_keys_are_encrypted_where_they_are_stored(secret: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT data::text FROM mfa_authenticator")
        stored = str(cursor.fetchall())
    assert secret not in stored
    assert '"seed": "gAAAA' in stored


def test_a_second_factor_outlives_the_key_it_was_encrypted_with(secret: str) -> None:
    fresh = "another key of the installation, long enough"
    with override_settings(ENCRYPTION_KEYS=[fresh, *settings.ENCRYPTION_KEYS]):
        said = io.StringIO()
        call_command("rotate_keys", stdout=said)
    assert "mfa_authenticator.data: 2 rewritten, 0 with the first key already" in said.getvalue()
    with override_settings(ENCRYPTION_KEYS=[fresh]):
        client = Client()
        sign_in(client)
        client.post("/sign-in/code/", {"code": code_of(secret, 1)})
        assert is_signed_in(client)


def test_who_has_lost_app_and_codes_is_let_in_by_an_administrator_of_the_installation(
    secret: str, ada: User, client: Client
) -> None:
    shop = make_project()
    Membership.objects.create(project=shop, user=ada, role="viewer")
    admin = User.objects.create_user("admin")
    Membership.objects.create(project=shop, user=admin, role="admin")
    path = f"/projects/shop/settings/members/{ada.pk}/two-factor/"
    administrator, root = Client(), Client()
    administrator.force_login(admin)
    root.force_login(User.objects.create_superuser("root"))
    members = "/projects/shop/settings/members/"
    assert path not in administrator.get(members).content.decode()
    assert administrator.post(path).status_code == 403
    assert sign_in(Client()) == "/sign-in/code/"
    assert path in root.get(members).content.decode()
    assert "the password alone signs in" in root.get(path).content.decode()
    assert root.post(path).headers["Location"] == members
    assert path not in root.get(members).content.decode()
    assert sign_in(Client()) == "/account/"
    entry = AuditEntry.objects.get(action="user.reset_factors")
    assert (entry.user_name, entry.object_name) == ("root", "ada")
    assert "Second factors taken away by root" in client.get("/account/").content.decode()
    assert "had no second factor" in root.post(path, follow=True).content.decode()


def test_a_command_takes_second_factors_away_too(secret: str, client: Client) -> None:
    said = io.StringIO()
    call_command("second_factor", "reset", "--user", "ada", stdout=said)
    assert said.getvalue() == "the password of ada signs in alone now\n"
    assert sign_in(Client()) == "/account/"
    assert "Second factors taken away by manage.py" in client.get("/account/").content.decode()
    for user, words in (("ada", "has no second factor"), ("nobody", "allowed: a user's name")):
        with pytest.raises(CommandError, match=words):
            call_command("second_factor", "reset", "--user", user)
    assert AuditEntry.objects.filter(action="user.reset_factors").count() == 1


@pytest.mark.django_db(transaction=True)
def test_sign_ins_and_what_one_signs_in_with_are_noted(secret: str, client: Client) -> None:
    Client().post("/sign-in/", {"username": "ada", "password": "wrong"})
    Client().post("/sign-in/", {"username": "hunter2", "password": "wrong"})
    client.post("/account/two-factor/off/")
    found = AuditEntry.objects.filter(project_id=None).order_by("pk")
    assert [(each.user_name, each.action, each.object_name) for each in found] == [
        ("ada", "user.sign_in", "ada"),
        ("ada", "user.add_factor", "ada"),
        ("ada", "user.add_factor", "ada"),
        ("", "user.sign_in_failed", "ada"),
        ("ada", "user.remove_factor", "ada"),
        ("ada", "user.remove_factor", "ada"),
    ]
    assert {each.address for each in found} == {"127.0.0.1"}
    assert "Sign-in refused" in client.get("/account/").content.decode()


def test_a_password_is_changed_by_who_knows_it(ada: User, client: Client) -> None:
    sign_in(client)
    elsewhere = Client()
    sign_in(elsewhere)
    wrong = {"old": "wrong", "password": NEW, "again": NEW}
    assert client.post("/account/password/", wrong).status_code == 422
    for password, words in (("short", "too short"), ("ada", "too similar"), ("password", "common")):
        given = {"old": PASSWORD, "password": password, "again": password}
        answer = client.post("/account/password/", given)
        assert answer.status_code == 422
        assert words in answer.content.decode()
    given = {"old": PASSWORD, "password": NEW, "again": NEW}
    assert client.post("/account/password/", given).status_code == 303
    assert is_signed_in(client)
    assert not is_signed_in(elsewhere)
    assert AuditEntry.objects.latest("pk").action == "user.password"
    assert sign_in(Client(), NEW) == "/account/"


@pytest.fixture
def provider(db: None) -> Iterator[Provider]:
    User.objects.create_superuser("root")
    with running_provider() as found:
        app = {
            "provider_id": "sso",
            "name": "Acme",
            "client_id": CLIENT_ID,
            "secret": CLIENT_SECRET,
            "settings": {"server_url": found.url, "oauth_pkce_enabled": True},
        }
        providers = {"openid_connect": {"APPS": [app]}}
        with override_settings(OIDC_APPS=[app], SOCIALACCOUNT_PROVIDERS=providers):
            yield found


def go_through(client: Client, provider: Provider) -> tuple[int, str]:
    """Follow the link, agree at the provider, and come back: how that is answered."""
    leads = client.get("/sign-in/sso/?next=/projects/").headers["Location"]
    assert leads.startswith(f"{provider.url}/authorize?")
    answer = client.get(provider.authorize(leads))
    return answer.status_code, answer.headers.get("Location", "")


def test_whoever_the_provider_knows_signs_in_and_sees_no_project(provider: Provider) -> None:
    shop = make_project()
    client = Client()
    page = client.get("/sign-in/?next=/projects/shop/").content.decode()
    assert '<a class="button" href="/sign-in/sso/?next=%2Fprojects%2Fshop%2F">' in page
    assert "Sign in with Acme" in page
    assert go_through(client, provider) == (302, "/projects/")
    user = User.objects.get(username="ada")
    assert not user.is_superuser
    assert not user.has_usable_password()
    assert client.get("/projects/").status_code == 200
    assert client.get("/projects/shop/").status_code == 404
    Membership.objects.create(project=shop, user=user, role="viewer")
    assert client.get("/projects/shop/").status_code == 200
    again = Client()
    assert go_through(again, provider) == (302, "/projects/")
    assert User.objects.filter(username__startswith="ada").count() == 1
    assert AuditEntry.objects.filter(action="user.sign_in", user_name="ada").count() == 2


def test_a_user_of_the_same_name_is_another_user(provider: Provider, ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(email="ada@example.com", is_superuser=True)
    provider.person |= {"email": "ada@example.com", "email_verified": True}
    client = Client()
    assert go_through(client, provider) == (302, "/projects/")
    signed_in = User.objects.get(pk=client.session["_auth_user_id"])
    assert signed_in != ada
    assert not signed_in.is_superuser
    # Nor does either become the other while both are signed in: there is no way to link them.
    client.force_login(ada)
    assert go_through(client, provider) == (302, "/projects/")
    assert client.session["_auth_user_id"] == str(signed_in.pk)
    assert list(SocialAccount.objects.values_list("user", flat=True)) == [signed_in.pk]


def test_who_may_no_longer_sign_in_is_told_so(provider: Provider) -> None:
    go_through(Client(), provider)
    User.objects.filter(username="ada").update(is_active=False)
    client = Client()
    assert go_through(client, provider)[0] == 403
    assert not is_signed_in(client)


@pytest.mark.parametrize("fault", ["audience", "state", "refused"])
def test_what_the_provider_did_not_say_to_us_signs_nobody_in(
    provider: Provider, fault: str
) -> None:
    client = Client()
    leads = client.get("/sign-in/sso/").headers["Location"]
    if fault == "audience":
        provider.audience = "another client"
    back = provider.authorize(leads)
    if fault == "state":
        back = re.sub(r"state=.*", "state=made-up", back)
    if fault == "refused":
        back = re.sub(r"code=[^&]*", "error=access_denied", back)
    answer = client.get(back)
    assert answer.status_code == 403
    assert "You were not signed in" in answer.content.decode()
    assert not is_signed_in(client)
    assert User.objects.count() == 1


def test_a_provider_that_is_away_is_said_so(provider: Provider) -> None:
    app = {"provider_id": "sso", "name": "Acme", "client_id": "a", "secret": "b"}
    app |= {"settings": {"server_url": "http://127.0.0.1:1"}}
    with override_settings(SOCIALACCOUNT_PROVIDERS={"openid_connect": {"APPS": [app]}}):
        answer = Client().get("/sign-in/sso/")
    assert answer.status_code == 403
    assert "Acme does not answer" in answer.content.decode()


@pytest.mark.django_db
def test_without_a_provider_there_is_none_to_sign_in_through(ada: User, client: Client) -> None:
    assert "sso" not in client.get("/sign-in/").content.decode()
    assert client.get("/sign-in/sso/").status_code == 404
    assert client.get("/sign-in/sso/callback/").status_code == 404


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"OIDC_ISSUER": "nonsense"}, "OIDC_ISSUER"),
        ({"OIDC_ISSUER": "http://idp.example.com"}, "OIDC_ISSUER"),
        ({"OIDC_CLIENT_ID": "a"}, "OIDC_ISSUER"),
        ({"OIDC_ISSUER": "https://idp.example.com"}, "OIDC_CLIENT_ID"),
        ({"OIDC_ISSUER": "https://i.example.com", "OIDC_CLIENT_ID": "a"}, "OIDC_CLIENT_SECRET"),
    ],
)
def test_a_malformed_provider_stops_the_process_with_one_line(
    given: dict[str, str], named: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"{named} is missing or malformed; allowed: ")
    assert len(done.stderr.splitlines()) == 1
