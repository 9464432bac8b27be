"""From a request's body to a definition. What is allowed is decided by `eventing.definitions`; here
lies only what HTTP adds: partial changes, fields that are read only, and masks sent back.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

from eventing.access import Actor
from eventing.api.bodies import merged
from eventing.api.representations import (
    database_written,
    masked_address,
    trigger_written,
)
from eventing.changes import MISSION_CONTROL
from eventing.configuration import settings_mapping
from eventing.connection_strings import SCHEMES
from eventing.definitions import (
    DatabaseDefinition,
    MemberDefinition,
    SettingsDefinition,
    TriggerDefinition,
    parse_database,
    parse_member,
    parse_project_name,
    parse_project_title,
    parse_settings,
    parse_trigger,
    references_in,
)
from eventing.destinations.base import MASK
from eventing.models import Membership, Project, Trigger
from eventing.problems import InvalidInput, Problem, named, parsed
from eventing.projects import trigger_definition_of

# Shown with a trigger, and left alone when they are sent back.
_READ_ONLY: Final = frozenset({"live", "problem", "signing_secrets", "breaker"})


def new_project(body: Mapping[str, Any]) -> tuple[str, str, SettingsDefinition]:
    """Name, title and settings of a project to be made. Raises InvalidInput with every problem."""
    apart = ("name", "title", "created_at", "role")
    settings = {name: value for name, value in body.items() if name not in apart}
    problems: list[Problem] = []
    name = parsed(problems, parse_project_name, body.get("name"))
    title = parsed(problems, parse_project_title, body.get("title", ""))
    definition = parsed(problems, parse_settings, settings)
    if name is None or title is None or definition is None:
        raise InvalidInput(problems)
    return name, title, definition


def changed_title(stored: str, patch: Mapping[str, Any]) -> str:
    """What a project is to be called, which is all of it that `patch` can change. Raises
    InvalidInput."""
    unknown = sorted(name for name in patch if name != "title")
    if unknown:
        allowed = "`title` alone; the rest is changed at its own address"
        raise InvalidInput([Problem(named(name), "a field", allowed) for name in unknown])
    given = patch.get("title", stored)
    return parse_project_title("" if given is None else given)


def changed_settings(stored: SettingsDefinition, patch: Mapping[str, Any]) -> SettingsDefinition:
    """`stored` with `patch` applied."""
    return parse_settings(merged(settings_mapping(stored), patch))


def changed_member(stored: Membership, patch: Mapping[str, Any]) -> MemberDefinition:
    """A member with `patch` applied. Raises InvalidInput; nobody becomes another user by it."""
    written = {"role": stored.role, "payloads": stored.sees_payloads}
    if patch.get("role", "viewer") != "viewer":
        # What could be kept from a viewer cannot be from the others.
        written["payloads"] = True
    name = stored.user.username
    definition = parse_member({"user": name, **written, **patch})
    if definition.user != name or definition.new_user:
        raise InvalidInput([Problem("user", repr(definition.user), f"{name!r}, as it is")])
    return definition


def database_definition(
    body: Mapping[str, Any], actor: Actor, stored: DatabaseDefinition | None = None
) -> DatabaseDefinition:
    """The database that `body` describes; the masked address of `stored` stands for its own."""
    written = {name: value for name, value in body.items() if name != "capture"}
    if written.get("schemas", ()) is None:
        del written["schemas"]
    url = written.get("url")
    has_address = stored is not None and stored.type != MISSION_CONTROL
    if stored is not None and has_address and url == masked_address(stored.url):
        return _with_stored_address(written, stored)
    if isinstance(url, str) and MASK in url:
        problem = Problem("url", "an address with a masked password", "the whole address")
        raise InvalidInput([problem])
    actor.refuse_references({"url": url})
    definition = parse_database(written, os.environ)
    actor.refuse_local_parts(definition, stored.url if stored else "")
    return definition


def _with_stored_address(
    written: Mapping[str, Any], stored: DatabaseDefinition
) -> DatabaseDefinition:
    """The rest of `written` checked with the address that is stored, which is taken as it is."""
    # One that no key opens is as good as any.
    url = stored.url or f"{SCHEMES[stored.type][0]}://h/d"
    literally = {name: f"${{{name}}}" for name in references_in(url)}
    definition = parse_database({**written, "url": url}, literally)
    return definition.at_address_of(stored)


def changed_database(
    stored: DatabaseDefinition, patch: Mapping[str, Any], actor: Actor
) -> DatabaseDefinition:
    """`stored` with `patch` applied."""
    return database_definition(merged(database_written(stored), patch), actor, stored)


def trigger_definition(
    body: Mapping[str, Any], actor: Actor, stored: TriggerDefinition | None = None
) -> TriggerDefinition:
    """The trigger that `body` describes; a masked header stands for that of `stored`."""
    written = {name: value for name, value in body.items() if name not in _READ_ONLY}
    kept: list[str] = []
    headers = written.get("headers")
    if isinstance(headers, Mapping):
        known = stored.headers if stored else {}
        kept = [name for name, value in headers.items() if value == MASK and name in known]
        fresh = {name: headers[name] for name in headers if name not in kept}
        actor.refuse_references({f"headers.{name}": value for name, value in fresh.items()})
        written["headers"] = fresh
    definition = parse_trigger(written, os.environ)
    unknown = [name for name, value in definition.headers.items() if MASK in value]
    if unknown:
        allowed = "the value itself; none is stored under this name"
        raise InvalidInput([Problem(f"headers.{name}", "a mask", allowed) for name in unknown])
    return definition.with_headers_of(stored, kept) if stored else definition


def changed_trigger(
    stored: TriggerDefinition, patch: Mapping[str, Any], actor: Actor
) -> TriggerDefinition:
    """`stored` with `patch` applied."""
    return trigger_definition(merged(trigger_written(stored), patch), actor, stored)


def drafted_trigger(
    project: Project, body: Mapping[str, Any], actor: Actor
) -> tuple[Trigger | None, TriggerDefinition]:
    """A trigger that is not saved, which may have no name yet, and the stored one that it would
    change (`of`), whose masked headers stand for themselves. Raises InvalidInput."""
    stored = None
    if body.get("of") is not None:
        stored = project.triggers.filter(name=str(body["of"])[:80]).first()
        if stored is None:
            problem = Problem("of", repr(body["of"])[:80], "the name of a trigger of this project")
            raise InvalidInput([problem])
    given = {name: value for name, value in body.items() if name != "of"}
    present = trigger_definition_of(stored) if stored else None
    return stored, trigger_definition({"name": "unnamed", **given}, actor, present)
