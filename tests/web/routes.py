"""Every address of the installation: who may do what there by which method, with a world in which
each of them can be asked for.

The table is what tests go by that must not miss an address: of roles, of secrets, of the audit log.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from eventing import redeliveries
from eventing.access import command_line, digest_of
from eventing.changes import Event
from eventing.definitions import parse_notification
from eventing.logs.base import EventFilter
from eventing.logs.postgres import PostgresEventLog
from eventing.models import ApiToken, Membership
from eventing.notifications import save_notification
from tests.factories import actor_called, make_outcome, make_project, make_token
from tests.web.api import HOOK, SOURCE, Api, Shop, deliver, make_shop

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# Each may what those before it may. `stranger` is a member of another project; `withheld` a viewer
# who may not see what rows contain, and may what a viewer may but for the exceptions of a rule.
ROLES: Final = ("anonymous", "stranger", "withheld", "viewer", "editor", "admin", "root")
# What the world's event has in its row, and what the endpoint has echoed of it.
IN_A_ROW: Final = ("planted-in-the-row", "planted-in-the-answer")


@dataclass(frozen=True)
class Rule:
    """From which role on a method is open, how those are answered, and what is sent."""

    role: str
    status: int
    body: Any = None
    # What those get who have too low a role in the project; a page for a few may not exist for all.
    exceptions: dict[str, int] = field(default_factory=dict)


def anyone(status: int = 200, body: Any = None, **exceptions: int) -> Rule:
    return Rule("anonymous", status, body, exceptions)


def signed_in(status: int = 200, body: Any = None, **exceptions: int) -> Rule:
    return Rule("stranger", status, body, exceptions)


def viewer(status: int = 200, body: Any = None, **exceptions: int) -> Rule:
    return Rule("viewer", status, body, exceptions)


def editor(status: int = 200, body: Any = None, **exceptions: int) -> Rule:
    return Rule("editor", status, body, exceptions)


def admin(status: int = 200, body: Any = None, **exceptions: int) -> Rule:
    return Rule("admin", status, body, exceptions)


def root(status: int = 200, body: Any = None, **exceptions: int) -> Rule:
    return Rule("root", status, body, exceptions)


_P: Final = "projects/<named:project>/"
_TRIGGER: Final = {"name": "new", "url": HOOK, "operations": ["insert"]}
_DATABASE: Final = {"alias": "new", "type": "postgres", "url": SOURCE}

# A page that takes no form has a GET alone; HEAD goes with GET. A form that is sent empty is 422.
CONSOLE: Final[dict[str, dict[str, Rule]]] = {
    "": {"GET": anyone(302)},
    "sign-in/": {
        "GET": anyone(200, **dict.fromkeys(ROLES[1:], 302)),
        "POST": anyone(422, **dict.fromkeys(ROLES[1:], 302)),
    },
    "sign-in/code/": {"GET": anyone(302), "POST": anyone(302)},
    "sign-in/sso/": {"GET": anyone(404)},
    "sign-in/sso/callback/": {"GET": anyone(404)},
    "account/": {"GET": signed_in()},
    "account/password/": {"GET": signed_in(403), "POST": signed_in(403)},
    # Nobody here has a password, or a second factor, with which they could confirm who they are.
    "account/confirm/": {"GET": signed_in(403), "POST": signed_in(403)},
    "account/confirm/code/": {"GET": signed_in(403), "POST": signed_in(403)},
    "account/two-factor/on/": {"GET": signed_in(403), "POST": signed_in(403)},
    "account/two-factor/off/": {"GET": signed_in(404), "POST": signed_in(404)},
    "account/recovery-codes/": {"GET": signed_in(404)},
    "account/recovery-codes/new/": {"GET": signed_in(403), "POST": signed_in(403)},
    "sign-out/": {"POST": anyone(303)},
    "first-run/": {"GET": anyone(302), "POST": anyone(302)},
    "theme/": {"POST": anyone(303)},
    "health/": {"GET": signed_in()},
    "health/dot/": {"GET": signed_in(302)},
    "audit/": {"GET": root()},
    "projects/": {"GET": signed_in()},
    "projects/add/": {"GET": root(), "POST": root(422)},
    _P: {"GET": viewer()},
    _P + "begin/": {"GET": editor(302)},
    _P + "begin/database/": {"GET": admin(), "POST": admin(422)},
    _P + "begin/trigger/": {"GET": editor(), "POST": editor(422)},
    _P + "begin/event/": {"GET": viewer()},
    _P + "begin/enable/": {"POST": admin(303)},
    _P + "figures/": {"GET": viewer()},
    _P + "databases/": {"GET": viewer()},
    _P + "databases/add/": {"GET": admin(), "POST": admin(422)},
    _P + "databases/<named:alias>/": {"GET": admin(), "POST": admin(422)},
    _P + "databases/<named:alias>/delete/": {"GET": admin(), "POST": admin(303)},
    _P + "databases/<named:alias>/start-anew/": {"GET": admin(), "POST": admin(303)},
    _P + "databases/<named:alias>/tables/": {"GET": editor(204)},
    _P + "databases/<named:alias>/tables/count/": {"GET": viewer(302)},
    _P + "triggers/": {"GET": viewer()},
    _P + "triggers/add/": {"GET": editor(), "POST": editor(422)},
    _P + "triggers/preview/": {"POST": editor()},
    _P + "triggers/sample/": {"POST": editor()},
    _P + "triggers/try/": {"POST": editor(422)},
    _P + "triggers/<named:name>/": {"GET": viewer()},
    _P + "triggers/<named:name>/edit/": {"GET": editor(), "POST": editor(422)},
    _P + "triggers/<named:name>/state/": {"POST": editor(422)},
    _P + "triggers/<named:name>/test/": {"POST": editor()},
    _P + "triggers/<named:name>/secret/": {"POST": editor()},
    _P + "triggers/<named:name>/secret/rotate/": {"POST": editor()},
    _P + "triggers/<named:name>/secret/retire/": {"GET": editor(303), "POST": editor(303)},
    _P + "triggers/<named:name>/delete/": {"GET": editor(), "POST": editor(303)},
    _P + "events/": {"GET": viewer()},
    _P + "events/chosen/": {"POST": editor(303)},
    _P + "events/export/": {"GET": viewer(422)},
    _P + "events/redeliver/": {"GET": editor(), "POST": editor(303)},
    _P + "redeliveries/": {"GET": viewer()},
    _P + "redeliveries/<int:number>/": {"GET": viewer()},
    _P + "redeliveries/<int:number>/cancel/": {"POST": editor(303)},
    _P + "events/<uuid:event_id>/": {"GET": viewer()},
    _P + "events/<uuid:event_id>/payload/": {"GET": viewer(withheld=404)},
    _P + "events/<uuid:event_id>/redeliver/": {"POST": editor(303)},
    _P + "settings/": {"GET": viewer(), "POST": admin(303)},
    _P + "settings/members/": {"GET": admin(), "POST": admin(422)},
    _P + "settings/members/<int:user_id>/role/": {"POST": admin(422)},
    _P + "settings/members/<int:user_id>/remove/": {"GET": admin(), "POST": admin(303)},
    _P + "settings/members/<int:user_id>/two-factor/": {"GET": root(), "POST": root(303)},
    _P + "settings/tokens/": {"GET": viewer(), "POST": viewer(422)},
    _P + "settings/tokens/<int:token_id>/revoke/": {
        "GET": admin(viewer=404, editor=404),
        "POST": admin(303, viewer=404, editor=404),
    },
    _P + "settings/notifications/": {"GET": admin()},
    _P + "settings/notifications/add/": {"GET": admin(), "POST": admin(422)},
    _P + "settings/notifications/<named:name>/": {"GET": admin(), "POST": admin(422)},
    _P + "settings/notifications/<named:name>/test/": {"POST": admin(303)},
    _P + "settings/notifications/<named:name>/delete/": {"GET": admin(), "POST": admin(303)},
    _P + "settings/configuration/": {"GET": admin(), "POST": admin(422)},
    _P + "settings/configuration/export/": {"GET": admin()},
    _P + "settings/audit/": {"GET": admin()},
    _P + "settings/rename/": {"POST": admin(303)},
    _P + "settings/delete/": {"GET": admin(), "POST": admin(422)},
}

PROJECTS: Final = "api/v1/projects/"
_A: Final = PROJECTS + "<name:project>/"
HEALTH: Final = "api/v1/health/"
AUDIT: Final = "api/v1/audit/"
API: Final[dict[str, dict[str, Rule]]] = {
    PROJECTS: {"GET": signed_in(), "POST": root(201, {"name": "new"}, stranger=403)},
    _A: {"GET": viewer(), "PATCH": admin(200, {}), "DELETE": admin(204)},
    _A + "settings/": {"GET": viewer(), "PUT": admin(200, {}), "PATCH": admin(200, {})},
    _A + "members/": {
        "GET": admin(),
        "POST": admin(201, {"user": "shop-stranger", "role": "viewer"}),
    },
    _A + "members/<str:username>/": {
        "GET": admin(),
        "PATCH": admin(200, {"role": "editor"}),
        "DELETE": admin(204),
    },
    # Nobody here has a second factor; who may not take it away does not learn of that.
    _A + "members/<str:username>/reset-two-factor/": {"POST": root(409)},
    _A + "tokens/": {"GET": viewer(), "POST": viewer(201, {"role": "viewer"})},
    _A + "tokens/<int:token_id>/": {
        "GET": admin(viewer=404, editor=404),
        "DELETE": admin(204, viewer=404, editor=404),
    },
    _A + "notifications/": {
        "GET": admin(),
        "POST": admin(201, {"name": "new", "url": HOOK}),
    },
    _A + "notifications/<name:name>/": {
        "GET": admin(),
        "PATCH": admin(200, {}),
        "DELETE": admin(204),
    },
    _A + "notifications/<name:name>/test/": {"POST": admin()},
    _A + "audit/": {"GET": admin()},
    _A + "databases/": {"GET": viewer(), "POST": admin(201, _DATABASE)},
    _A + "databases/<name:alias>/": {
        "GET": viewer(),
        "PUT": admin(200, {"type": "postgres", "url": SOURCE}),
        "PATCH": admin(200, {}),
        "DELETE": admin(204),
    },
    _A + "databases/<name:alias>/check/": {"POST": admin()},
    _A + "databases/<name:alias>/start-anew/": {"POST": admin(204)},
    _A + "databases/<name:alias>/tables/": {"GET": editor(503)},
    _A + "databases/<name:alias>/tables/count/": {"GET": viewer(503)},
    _A + "check/": {"POST": admin(200, _DATABASE)},
    _A + "triggers/": {"GET": viewer(), "POST": editor(201, _TRIGGER)},
    _A + "triggers/<name:name>/": {
        "GET": viewer(),
        "PUT": editor(200, _TRIGGER),
        "PATCH": editor(200, {}),
        "DELETE": editor(204),
    },
    _A + "triggers/<name:name>/history/": {"GET": viewer()},
    _A + "triggers/<name:name>/test/": {"POST": editor()},
    _A + "triggers/<name:name>/secret/": {"POST": editor()},
    _A + "triggers/<name:name>/secret/rotate/": {"POST": editor()},
    _A + "triggers/<name:name>/secret/retire/": {"POST": editor(409)},
    _A + "sample/": {"POST": editor(503, {"operations": ["insert"]})},
    _A + "try/": {"POST": editor(422, {"operations": ["insert"]})},
    _A + "events/": {"GET": viewer()},
    _A + "events/export/": {"GET": viewer(422)},
    _A + "events/count/": {"GET": editor()},
    _A + "events/cancel/": {"POST": editor(422, {})},
    _A + "events/redeliver/": {"POST": editor(202)},
    _A + "events/<uuid:event_id>/": {"GET": viewer()},
    _A + "events/<uuid:event_id>/redeliver/": {"POST": editor(202)},
    _A + "redeliveries/": {"GET": viewer(), "POST": editor(201, {})},
    _A + "redeliveries/<int:number>/": {"GET": viewer()},
    _A + "redeliveries/<int:number>/cancel/": {"POST": editor()},
    _A + "stats/": {"GET": viewer()},
    _A + "figures/": {"GET": viewer()},
    _A + "troubles/": {"GET": viewer()},
    _A + "eventing-dbs/": {"GET": viewer()},
    _A + "configuration/": {"GET": admin(), "PUT": admin(422)},
    HEALTH: {"GET": signed_in()},
    AUDIT: {"GET": root()},
}
# Open to everybody: they say nothing of any project, or only of those a token opens.
PUBLIC: Final[dict[str, dict[str, Rule]]] = {
    "healthz": {"GET": anyone()},
    "readyz": {"GET": anyone()},
    "metrics": {"GET": anyone()},
    "api/docs/": {"GET": anyone(), "OPTIONS": anyone(405)},
    "api/v1/schema/": {"GET": anyone(), "OPTIONS": anyone(405)},
    "^api/v1/(?P<path>.*)$": dict.fromkeys(METHODS, anyone(404)),
}
TABLE: Final = {**CONSOLE, **API, **PUBLIC}


def routes(patterns: list[Any] | None = None, before: str = "") -> Iterator[str]:
    """Every address of the installation, as the URL configuration writes it."""
    for each in get_resolver().url_patterns if patterns is None else patterns:
        route = before + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from routes(each.url_patterns, route)
        elif isinstance(each, URLPattern):
            yield route


def address(route: str, examples: Mapping[str, str]) -> str:
    """The path of `route` with these examples of what may stand in it."""
    if route.startswith("^"):
        return "/api/v1/nothing/"

    def example(found: re.Match[str]) -> str:
        assert found[1] in examples, f"say what <{found[1]}> is in {route}"
        return examples[found[1]]

    return "/" + re.sub(r"<\w+:(\w+)>", example, route)


@dataclass(frozen=True)
class World:
    """A project with one of everything, another one, and callers of every kind."""

    shop: Shop
    log: PostgresEventLog
    examples: dict[str, str]
    consoles: dict[str, Client]
    apis: dict[str, Api]

    def path(self, route: str, project: str = "shop") -> str:
        """The address of `route` for the objects of `shop`, asked for within `project`."""
        return address(route, {**self.examples, "project": project})

    def deliver_again(self) -> None:
        """The event is one that is finished, whatever was done to the one before."""
        self.examples["event_id"] = str(delivered_event(self.shop, self.log).id)


def delivered_event(shop: Shop, log: PostgresEventLog) -> Event:
    """A new event that has been delivered, with what is to be found in its row and its answer."""
    in_row, in_answer = IN_A_ROW
    (event,) = shop.events(log, document={"id": 1, "note": in_row})
    deliver(log, [event], lambda claim: make_outcome(claim, response_body=in_answer.encode()))
    return event


def make_world(log: PostgresEventLog) -> World:
    """The shop with an event that is delivered, a notification, a redelivery, a member, a token."""
    shop = make_shop()
    event = delivered_event(shop, log)
    withheld = User.objects.create_user("shop-withheld")
    shop.project.memberships.create(user=withheld, role="viewer", sees_payloads=False)
    # An address that is nobody's: what is sent there is refused before it leaves.
    given = {"name": shop.trigger.name, "url": "http://192.0.2.1/hook"}
    save_notification(shop.project, parse_notification(given), by=command_line())
    users = {name: User.objects.get(username=f"shop-{name}") for name in ROLES[1:]}
    make_project("other", owner=users["stranger"])
    consoles = {"anonymous": Client()}
    for name, user in users.items():
        consoles[name] = Client()
        consoles[name].force_login(user)
    member = User.objects.create_user("someone")
    Membership.objects.create(user=member, project=shop.project, role="viewer")
    token = make_token(member, "viewer", shop.project)
    examples = {
        "name": shop.trigger.name,
        "alias": shop.database.alias,
        "event_id": str(event.id),
        "number": str(
            redeliveries.start(shop.project, EventFilter(), 0, by=actor_called("ada")).pk
        ),
        "username": "someone",
        "user_id": str(member.pk),
        "token_id": str(ApiToken.objects.get(digest=digest_of(token)).pk),
    }
    shop.api_of["withheld"] = Api(make_token(withheld, "viewer", shop.project))
    apis = {"anonymous" if name == "nobody" else name: api for name, api in shop.api_of.items()}
    return World(shop, log, examples, consoles, apis)
