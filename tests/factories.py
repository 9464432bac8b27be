"""Events, outcomes and control-plane rows as tests need them, with sensible defaults."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import orjson
from django.contrib.auth.models import User

from eventing.access import Actor, command_line
from eventing.changes import Change, Claim, Event, Exchange, Operation, Origin, Outcome
from eventing.cloudevents import EventBuilder
from eventing.definitions import (
    SettingsDefinition,
    TokenDefinition,
    parse_database,
    parse_trigger,
)
from eventing.matching import Matcher, Rule
from eventing.models import Database, Project, Trigger
from eventing.projects import create_project, save_database, save_trigger
from eventing.tokens import create_token

NODE_ID = "6f1ff0a4-6f2e-4d0c-9b8e-6f0a6a3f2a11"

_numbers = itertools.count(1)


def make_change(
    table: str = "users",
    operation: Operation = "insert",
    document_id: str = "1",
    document: Any = None,
    committed_at_ms: int | None = None,
) -> Change:
    """A change at a position of its own."""
    number = next(_numbers)
    return Change(
        position=f"{number:016X}/00000000",
        index=0,
        operation=operation,
        table=table,
        document_id=document_id,
        document=orjson.dumps({"id": 1} if document is None else document).decode(),
        committed_at_ms=committed_at_ms or int(time.time() * 1000),
        shown_position=f"0/{number:X}#0",
    )


def make_origin(project: Project | None = None, database_id: int = 1) -> Origin:
    """Where events come from; without a project, from project 1."""
    return Origin(
        project.pk if project else 1,
        project.name if project else "shop",
        database_id,
        "main",
        "postgres",
    )


def make_events(
    changes: Sequence[Change],
    origin: Origin | None = None,
    trigger_id: int = 1,
    trigger: str = "welcome-email",
) -> list[Event]:
    """One event a change, of one trigger on all tables."""
    rule = Rule(trigger_id, trigger, (), frozenset(("insert", "update", "delete")))
    return EventBuilder(origin or make_origin(), NODE_ID, Matcher([rule])).events(changes)


def make_outcome(
    claim: Claim, status_code: int | None = 200, retry_in_ms: int | None = None, **exchange: Any
) -> Outcome:
    """What an attempt came to; `status_code` None is a refused connection."""
    error = {} if status_code else {"error_kind": "refused", "error_message": "refused"}
    return Outcome(
        claim,
        1,
        Exchange(
            **{
                "started_at_ms": int(time.time() * 1000),
                "duration_ms": 7,
                "url": "http://127.0.0.1/hook",
                "request_headers": (("User-Agent", "MissionControl"),),
                "status_code": status_code,
                **error,
                **exchange,
            },
        ),
        retry_in_ms,
    )


def actor_called(name: str) -> Actor:
    """Somebody of that name, who is nobody else's business."""
    return Actor(User(username=name))


def make_project(name: str = "shop", *, enabled: bool = True, owner: Any = None) -> Project:
    """A project, its eventing on unless told otherwise."""
    return create_project(
        name, SettingsDefinition(eventing_enabled=enabled), owner, by=command_line()
    )


def make_database(project: Project, url: str, alias: str = "main", **fields: Any) -> Database:
    """A Postgres source of `project`."""
    given = {"alias": alias, "type": "postgres", "url": url} | fields
    return save_database(project, parse_database(given, {}), by=command_line())


def make_trigger(project: Project, url: str, name: str = "welcome-email", **fields: Any) -> Trigger:
    """A trigger of `project`, on inserts unless told otherwise."""
    given = {"name": name, "url": url, "operations": ["insert"]} | fields
    return save_trigger(project, parse_trigger(given, {}), by=command_line())


def make_token(user: Any, role: Any, project: Project | None, **fields: Any) -> str:
    """What the owner of a new API token sends."""
    definition = TokenDefinition(role, **fields)
    return create_token(user, project, definition, by=command_line()).secret
