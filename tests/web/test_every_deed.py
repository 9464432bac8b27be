"""Each way to change something, in the console and over REST, leaves an entry in the audit log.

The ways come from the table of all addresses: one that is in neither list here fails the test.
What is done without an address, by `manage.py`, is at the end.
"""

import io
from typing import Any, Final

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from eventing.access import command_line
from eventing.definitions import SettingsDefinition
from eventing.logs.postgres import PostgresEventLog
from eventing.models import AuditEntry, Project
from eventing.projects import rotate_signing_secret, update_settings
from tests.web.api import HOOK, SOURCE
from tests.web.conftest import PASSWORD
from tests.web.routes import API, CONSOLE, PROJECTS, TABLE, World, make_world

Way = tuple[str, str]
_P: Final = "projects/<named:project>/"
_A: Final = PROJECTS + "<name:project>/"
_TRIGGER: Final = {"name": "new", "operations": ["insert"], "url": HOOK}
_DATABASE: Final = {"alias": "new", "type": "postgres", "url": SOURCE}
_YAML: Final = "projects: [{name: shop, triggers: [{name: new, operations: [insert], url: '%s'}]}]"
_TO_APPLY: Final = _YAML % HOOK
# Of a form: its fields. `{event_id}` and the like are those of the world.
_FIELDS: Final[dict[str, Any]] = {
    "type": "postgres",
    "alias": "new",
    "host": "db.example.com",
    "port": "5432",
    "database": "shop",
    "user": "reader",
    "password": "word",
    "tls": "require",
}

# What is noted of what is sent there.
NOTED: Final[dict[Way, tuple[str, Any]]] = {
    ("projects/add/", "POST"): ("project.create", {"name": "more"}),
    (_P + "begin/database/", "POST"): ("database.create", {**_FIELDS, "action": "save"}),
    (_P + "begin/trigger/", "POST"): ("trigger.create", _TRIGGER),
    (_P + "begin/enable/", "POST"): ("settings.update", {}),
    (_P + "databases/add/", "POST"): ("database.create", _FIELDS),
    (_P + "databases/<named:alias>/", "POST"): ("database.update", {**_FIELDS, "alias": "main"}),
    (_P + "databases/<named:alias>/delete/", "POST"): ("database.delete", {}),
    (_P + "databases/<named:alias>/start-anew/", "POST"): ("database.start_anew", {}),
    (_P + "triggers/add/", "POST"): ("trigger.create", _TRIGGER),
    (_P + "triggers/<named:name>/edit/", "POST"): (
        "trigger.update",
        {**_TRIGGER, "name": "welcome-email", "retries": "9"},
    ),
    (_P + "triggers/<named:name>/state/", "POST"): ("trigger.update", {"state": "paused"}),
    (_P + "triggers/<named:name>/secret/", "POST"): ("trigger.reveal_secret", {}),
    (_P + "triggers/<named:name>/secret/rotate/", "POST"): ("trigger.rotate_secret", {}),
    (_P + "triggers/<named:name>/secret/retire/", "POST"): ("trigger.retire_secret", {}),
    (_P + "triggers/<named:name>/delete/", "POST"): ("trigger.delete", {}),
    (_P + "events/chosen/", "POST"): ("event.redeliver", {"id": "{event_id}"}),
    (_P + "events/redeliver/", "POST"): ("redelivery.start", {}),
    (_P + "redeliveries/<int:number>/cancel/", "POST"): ("redelivery.cancel", {}),
    (_P + "events/<uuid:event_id>/redeliver/", "POST"): ("event.redeliver", {}),
    (_P + "settings/", "POST"): ("settings.update", {"retention_events": "60"}),
    (_P + "settings/members/", "POST"): (
        "member.create",
        {"user": "shop-stranger", "role": "viewer"},
    ),
    (_P + "settings/members/<int:user_id>/role/", "POST"): ("member.update", {"role": "editor"}),
    (_P + "settings/members/<int:user_id>/remove/", "POST"): ("member.delete", {}),
    (_P + "settings/members/<int:user_id>/two-factor/", "POST"): ("user.reset_factors", {}),
    (_P + "settings/tokens/", "POST"): ("token.create", {"name": "ci", "role": "viewer"}),
    (_P + "settings/tokens/<int:token_id>/revoke/", "POST"): ("token.delete", {}),
    (_P + "settings/notifications/add/", "POST"): (
        "notification.create",
        {"name": "new", "url": HOOK, "kinds": ["source_blocked"]},
    ),
    (_P + "settings/notifications/<named:name>/", "POST"): (
        "notification.update",
        {"name": "welcome-email", "lag_seconds": "60", "kinds": ["source_blocked"]},
    ),
    (_P + "settings/notifications/<named:name>/delete/", "POST"): ("notification.delete", {}),
    (_P + "settings/configuration/", "POST"): (
        "trigger.create",
        {"text": _TO_APPLY, "action": "apply"},
    ),
    (_P + "settings/rename/", "POST"): ("project.update", {"title": "The shop"}),
    (_P + "settings/delete/", "POST"): ("project.delete", {"name": "shop"}),
    (PROJECTS, "POST"): ("project.create", {"name": "more"}),
    (_A, "PATCH"): ("project.update", {"title": "The shop"}),
    (_A, "DELETE"): ("project.delete", None),
    (_A + "settings/", "PUT"): ("settings.update", {"retention": {"events": "60d"}}),
    (_A + "settings/", "PATCH"): ("settings.update", {"retention": {"events": "60d"}}),
    (_A + "members/", "POST"): ("member.create", {"user": "shop-stranger", "role": "viewer"}),
    (_A + "members/<str:username>/", "PATCH"): ("member.update", {"role": "editor"}),
    (_A + "members/<str:username>/", "DELETE"): ("member.delete", None),
    (_A + "members/<str:username>/reset-two-factor/", "POST"): ("user.reset_factors", None),
    (_A + "tokens/", "POST"): ("token.create", {"role": "viewer"}),
    (_A + "tokens/<int:token_id>/", "DELETE"): ("token.delete", None),
    (_A + "notifications/", "POST"): ("notification.create", {"name": "new", "url": HOOK}),
    (_A + "notifications/<name:name>/", "PATCH"): ("notification.update", {"lag_seconds": 60}),
    (_A + "notifications/<name:name>/", "DELETE"): ("notification.delete", None),
    (_A + "databases/", "POST"): ("database.create", _DATABASE),
    (_A + "databases/<name:alias>/", "PUT"): (
        "database.update",
        {"type": "postgres", "url": SOURCE, "schemas": ["a"]},
    ),
    (_A + "databases/<name:alias>/", "PATCH"): ("database.update", {"schemas": ["a"]}),
    (_A + "databases/<name:alias>/", "DELETE"): ("database.delete", None),
    (_A + "databases/<name:alias>/start-anew/", "POST"): ("database.start_anew", None),
    (_A + "triggers/", "POST"): ("trigger.create", _TRIGGER),
    (_A + "triggers/<name:name>/", "PUT"): ("trigger.update", {**_TRIGGER, "retries": 9}),
    (_A + "triggers/<name:name>/", "PATCH"): ("trigger.update", {"retries": 9}),
    (_A + "triggers/<name:name>/", "DELETE"): ("trigger.delete", None),
    (_A + "triggers/<name:name>/secret/", "POST"): ("trigger.reveal_secret", None),
    (_A + "triggers/<name:name>/secret/rotate/", "POST"): ("trigger.rotate_secret", None),
    (_A + "triggers/<name:name>/secret/retire/", "POST"): ("trigger.retire_secret", None),
    (_A + "events/cancel/", "POST"): ("event.cancel", {"ids": ["{event_id}"]}),
    (_A + "events/redeliver/", "POST"): ("event.redeliver", None),
    (_A + "events/<uuid:event_id>/redeliver/", "POST"): ("event.redeliver", None),
    (_A + "redeliveries/", "POST"): ("redelivery.start", {}),
    (_A + "redeliveries/<int:number>/cancel/", "POST"): ("redelivery.cancel", None),
    (_A + "configuration/", "PUT"): ("trigger.create", _TO_APPLY.encode()),
}
_OWN: Final = "of one's own account; what is noted of it is in test_sign_in.py"
_SENDS: Final = "sends something once, to see whether it arrives, and stores nothing"
_LOOKS: Final = "looks at what is typed, or at a source, and stores nothing"
NOT_NOTED: Final[dict[Way, str]] = {
    ("sign-in/", "POST"): _OWN,
    ("sign-in/code/", "POST"): _OWN,
    ("account/password/", "POST"): _OWN,
    ("account/two-factor/on/", "POST"): _OWN,
    ("account/two-factor/off/", "POST"): _OWN,
    ("account/recovery-codes/new/", "POST"): _OWN,
    ("account/confirm/", "POST"): "asks once more who one is, and changes nothing",
    ("account/confirm/code/", "POST"): "asks once more who one is, and changes nothing",
    ("sign-out/", "POST"): "ends one's own session alone",
    ("first-run/", "POST"): "there is somebody already; the first one is below",
    ("theme/", "POST"): "a cookie of one browser",
    (_P + "triggers/preview/", "POST"): _LOOKS,
    (_P + "triggers/sample/", "POST"): _LOOKS,
    (_P + "triggers/try/", "POST"): _SENDS,
    (_P + "triggers/<named:name>/test/", "POST"): _SENDS,
    (_P + "settings/notifications/<named:name>/test/", "POST"): _SENDS,
    (_A + "notifications/<name:name>/test/", "POST"): _SENDS,
    (_A + "databases/<name:alias>/check/", "POST"): _LOOKS,
    (_A + "check/", "POST"): _LOOKS,
    (_A + "triggers/<name:name>/test/", "POST"): _SENDS,
    (_A + "sample/", "POST"): _LOOKS,
    (_A + "try/", "POST"): _SENDS,
}
_ANY_METHOD: Final = "^api/v1/(?P<path>.*)$"
WAYS: Final = [
    (route, method)
    for route, rules in TABLE.items()
    for method in rules
    if method in ("POST", "PUT", "PATCH", "DELETE") and route != _ANY_METHOD
]


@pytest.fixture
def world(log: PostgresEventLog) -> World:
    return make_world(log)


def test_each_way_to_change_something_is_in_one_of_the_lists() -> None:
    assert not NOTED.keys() & NOT_NOTED.keys()
    missing = set(WAYS) - NOTED.keys() - NOT_NOTED.keys()
    assert not missing, (
        "say in NOTED which entry of the audit log tells of these, and what is to be sent for one;"
        f" or in NOT_NOTED why there is nothing to tell: {sorted(missing)}"
    )
    assert set(WAYS) == NOTED.keys() | NOT_NOTED.keys(), "these are no ways any more"


def _prepare(world: World, way: Way) -> None:
    """What must be there for something to change."""
    route, _ = way
    shop = world.shop
    if "two-factor" in route:
        user = User.objects.get(username="someone")
        Authenticator.objects.create(user=user, type=Authenticator.Type.TOTP, data={})
    if route.endswith("secret/retire/"):
        rotate_signing_secret(shop.trigger, by=command_line())
    if route.endswith("begin/enable/"):
        off = SettingsDefinition(eventing_enabled=False)
        update_settings(shop.project, off, by=command_line())
    if route.endswith("events/cancel/"):
        (event,) = shop.events(world.log)
        world.examples["event_id"] = event.id_text


def _sent(world: World, body: Any) -> Any:
    """`body` with the ids of the world."""
    if isinstance(body, dict):
        return {name: _sent(world, value) for name, value in body.items()}
    if isinstance(body, list):
        return [_sent(world, value) for value in body]
    return world.examples["event_id"] if body == "{event_id}" else body


def _do(world: World, way: Way, body: Any) -> int:
    route, method = way
    path = world.path(route)
    if route in CONSOLE:
        client = world.consoles["root"]
        given = {name: value for name, value in (body or {}).items() if value is not None}
        status: int = client.post(path, given, REMOTE_ADDR="192.0.2.7").status_code
        return status
    is_yaml = isinstance(body, bytes)
    content_type = "application/yaml" if is_yaml else "application/json"
    api = world.apis["root"]
    return api.send(method, path.removeprefix("/api/v1/"), body, content_type).status


@pytest.mark.parametrize("way", NOTED, ids=" ".join)
def test_each_change_is_noted_with_who_and_from_where(world: World, way: Way) -> None:
    action, body = NOTED[way]
    _prepare(world, way)
    before = set(AuditEntry.objects.values_list("pk", flat=True))
    assert _do(world, way, _sent(world, body)) < 400
    entries = {each.action: each for each in AuditEntry.objects.exclude(pk__in=before)}
    entry = entries[action]
    assert entry.user_name == "shop-root"
    is_rest = way[0] in API
    assert (entry.token_id is not None) == is_rest
    assert entry.address == ("127.0.0.1" if is_rest else "192.0.2.7")
    if action in ("event.redeliver", "event.cancel"):
        assert entry.new is not None
        assert entry.new["events"] == 1


@pytest.mark.parametrize("way", NOT_NOTED, ids=" ".join)
def test_what_changes_nothing_is_not_noted(world: World, way: Way) -> None:
    before = AuditEntry.objects.count()
    _do(world, way, TABLE[way[0]][way[1]].body)
    assert AuditEntry.objects.count() == before


def test_how_many_events_were_redelivered_is_noted_and_for_which_filters(world: World) -> None:
    shop = world.shop
    for _ in range(2):
        world.deliver_again()
        shop.events(world.log)
    world.deliver_again()
    answer = shop.editor.post("projects/shop/events/redeliver/?status=delivered")
    count = answer.json["redelivered"]
    entry = AuditEntry.objects.latest("pk")
    assert count > 0
    assert entry.new == {"events": count, "filters.status": "delivered"}
    assert entry.user_name == "shop-editor"
    # Nothing is finished any more: nothing is done, and nothing noted.
    assert shop.editor.post("projects/shop/events/redeliver/").json["redelivered"] == 0
    assert AuditEntry.objects.latest("pk") == entry


@pytest.mark.django_db
def test_the_first_administrator_is_noted(client: Client) -> None:
    given = {"username": "ada", "password": PASSWORD, "again": PASSWORD}
    assert client.post("/first-run/", given, REMOTE_ADDR="192.0.2.7").status_code == 303
    entry = AuditEntry.objects.get(action="user.create")
    assert (entry.user_name, entry.object_name, entry.address) == ("ada", "ada", "192.0.2.7")
    assert entry.new == {"administrator": True}


@pytest.mark.django_db
def test_users_that_a_command_makes_or_changes_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
    given = {"username": "ada", "email": "ada@example.com"}
    call_command("createsuperuser", interactive=False, stdout=io.StringIO(), **given)
    user = User.objects.get()
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.object_id, entry.object_name) == ("user.create", user.pk, "ada")
    assert (entry.user_name, entry.address) == ("", "manage.py")
    assert entry.new == {"administrator": True}
    monkeypatch.setattr("getpass.getpass", lambda **_: "a-staple-of-correct-horses")
    call_command("changepassword", "ada", stdout=io.StringIO())
    entry = AuditEntry.objects.latest("pk")
    assert (entry.action, entry.object_id, entry.address) == ("user.password", user.pk, "manage.py")
    assert "staple" not in str(list(AuditEntry.objects.values()))
    # Only what the command does is noted so.
    User.objects.create_user("grace")
    assert AuditEntry.objects.latest("pk") == entry
    assert not Project.objects.exists()
