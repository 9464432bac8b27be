"""The REST API as a program sees it: bytes in, bytes out, a token in the header."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from eventing.changes import Event
from eventing.logs.postgres import PostgresEventLog
from eventing.models import Database, Membership, Project, Trigger
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_project,
    make_token,
    make_trigger,
)

# Nothing connects there: web and API leave sources alone.
SOURCE = "postgres://reader:hunter2@db.example.com:5432/shop"
HOOK = "https://example.com/hook"


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Any
    content: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.content)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with which field."""
        return {each["field"]: each["detail"] for each in self.json["errors"]}


class Api:
    """Calls below `/api/v1/`, as the owner of a token."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self._client = Client(headers={"Authorization": f"Bearer {token}"} if token else {})

    def get(self, path: str, **query: str) -> Answer:
        return _answer(self._client.get(f"/api/v1/{path}", query))

    def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return self.send("POST", path, body, **headers)

    def put(self, path: str, body: object, **headers: str) -> Answer:
        return self.send("PUT", path, body, **headers)

    def patch(self, path: str, body: object, **headers: str) -> Answer:
        return self.send("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Answer:
        return self.send("DELETE", path, **headers)

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        **headers: str,
    ) -> Answer:
        """A request with `body` as JSON, or as it is if it is bytes. `If_Match` is `If-Match`."""
        content = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return _answer(
            self._client.generic(
                method, f"/api/v1/{path}", content, content_type=content_type, headers=named
            )
        )


def _answer(response: HttpResponse) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


@dataclass(frozen=True)
class Shop:
    """A project with a database and a trigger, and a caller for each role."""

    project: Project
    database: Database
    trigger: Trigger
    api_of: dict[str, Api]

    @property
    def viewer(self) -> Api:
        return self.api_of["viewer"]

    @property
    def editor(self) -> Api:
        return self.api_of["editor"]

    @property
    def admin(self) -> Api:
        return self.api_of["admin"]

    @property
    def root(self) -> Api:
        return self.api_of["root"]

    def events(self, log: PostgresEventLog, count: int = 1, **change: Any) -> list[Event]:
        """Store events of the shop's trigger; oldest first."""
        changes = [make_change(**change) for _ in range(count)]
        origin = make_origin(self.project, self.database.pk)
        events = make_events(changes, origin, self.trigger.pk, self.trigger.name)
        log.append(origin, events, log.position(self.database.pk), uuid4().hex)
        return sorted(events)


def make_shop(name: str = "shop") -> Shop:
    """The project, and members of it with a token each; `root` administers the installation."""
    project = make_project(name)
    database = make_database(project, SOURCE)
    trigger = make_trigger(project, HOOK, headers={"X-Shop": "open sesame"})
    api_of = {"nobody": Api(), "stranger": Api(_token(f"{name}-stranger"))}
    for role in Membership.Role:
        user = User.objects.create_user(f"{name}-{role.value}")
        Membership.objects.create(user=user, project=project, role=role)
        api_of[role.value] = Api(make_token(user, role, project))
    root = User.objects.create_superuser(f"{name}-root")
    api_of["root"] = Api(make_token(root, Membership.Role.ADMIN, None))
    return Shop(project, database, trigger, api_of)


def _token(username: str) -> str:
    user = User.objects.create_user(username)
    return make_token(user, Membership.Role.ADMIN, None)


def deliver(log: PostgresEventLog, events: Sequence[Event], outcome: Callable[[Any], Any]) -> None:
    """Claim events and record what `outcome` makes of each claim."""
    log.record([outcome(claim) for claim in log.claim([each.id for each in events], 60)], "worker")
