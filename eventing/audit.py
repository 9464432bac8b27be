"""The audit log: who changed what, when and from where.

An entry is written in the transaction of the change it tells of, by the function that makes the
change. Secrets never get into one: they are compared, so that a new one shows as changed, and
written down as a mask.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from django.contrib.auth.models import User
from django.db.models import QuerySet

from eventing.access import Actor
from eventing.changes import MISSION_CONTROL
from eventing.connection_strings import ConnectionString
from eventing.definitions import DatabaseDefinition, SettingsDefinition, TriggerDefinition
from eventing.logs.base import InvalidCursor
from eventing.models import AuditEntry, Project, Trigger
from eventing.parameters import choice_of
from eventing.problems import Problem

KINDS: Final = (
    "project",
    "settings",
    "database",
    "trigger",
    "member",
    "token",
    "user",
    "event",
    "redelivery",
    "notification",
    "installation",
)
MASK: Final = "••••"
_MOST_ID: Final = (1 << 63) - 1
_HISTORY_ROWS: Final = 10


@dataclass(frozen=True, slots=True)
class Masked:
    """A value that is compared, and never written down."""

    value: str = field(repr=False)


# What is noted of a thing, by field; of an update only the fields that differ are kept.
Facts = Mapping[str, Any]


def write(
    by: Actor,
    project: Project | None,
    action: str,
    name: str,
    object_id: int | None = None,
    *,
    old: Facts | None = None,
    new: Facts | None = None,
) -> None:
    """Note that `by` did `action` (`trigger.update`) to the thing called `name`.

    With both `old` and `new` only what differs is kept; if nothing does, nothing is noted.
    """
    if old is not None and new is not None:
        differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if not differing:
            return
        old = {key: old[key] for key in differing if key in old}
        new = {key: new[key] for key in differing if key in new}
    AuditEntry.objects.create(
        user_name=by.user.username,
        token_id=by.token.pk if by.token else None,
        address=by.address[:64],
        project_id=project.pk if project else None,
        project_name=project.name if project else "",
        kind=action.partition(".")[0],
        action=action,
        object_id=object_id,
        object_name=name,
        old=_written(old),
        new=_written(new),
    )


def _written(facts: Facts | None) -> dict[str, Any] | None:
    if facts is None:
        return None
    return {key: _shown(value) for key, value in facts.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, Masked):
        return MASK if value.value else ""
    return value.isoformat() if isinstance(value, datetime) else value


def settings_facts(settings: SettingsDefinition) -> Facts:
    """A project's settings."""
    return asdict(settings)


def database_facts(definition: DatabaseDefinition) -> Facts:
    """A database; of its address only where it is, not who signs in there."""
    address = ConnectionString.parse(definition.type, definition.url)
    options = [address.tls, *(f"{name}={value}" for name, value in address.options)]
    # A password with `/` in it, not encoded, is taken for part of the place.
    place: str | Masked = f"{address.scheme}://{address.place}"
    if "@" in address.place:
        place = Masked(address.place)
    if definition.type == MISSION_CONTROL:
        place = ""
    return {
        "alias": definition.alias,
        "type": definition.type,
        "url": place,
        "credentials": Masked("\n".join(filter(None, (address.user, address.password)))),
        "options": Masked("\n".join(filter(None, options))),
        "schemas": list(definition.schemas) if definition.schemas else None,
    }


def trigger_facts(definition: TriggerDefinition) -> Facts:
    """A trigger; of its headers only the names."""
    return {
        "name": definition.name,
        "databases": sorted(definition.databases),
        "tables": list(definition.tables),
        "operations": list(definition.operations),
        "url": definition.url,
        "state": definition.state,
        "retries": definition.retries,
        "timeout_ms": definition.timeout_ms,
        **{f"backoff.{name}": value for name, value in asdict(definition.backoff).items()},
        **{f"headers.{name}": Masked(value) for name, value in definition.headers.items()},
        "format": definition.format,
        "concurrency": definition.concurrency,
        "rate_per_second": definition.rate_per_second,
        "ordered": definition.ordered,
    }


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries to show; None means any. `project_name` is for the log of the installation."""

    project_name: str | None = None
    kind: str | None = None
    object_name: str | None = None
    user_name: str | None = None


def filter_of(given: Mapping[str, str], problems: list[Problem]) -> AuditFilter:
    """The filter that the texts of an address ask for; what is wrong with them is noted."""
    return AuditFilter(
        project_name=given.get("project"),
        kind=choice_of(given, "kind", KINDS, problems),
        object_name=given.get("object"),
        user_name=given.get("user"),
    )


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first."""

    entries: list[AuditEntry]
    next_cursor: str | None


def browse(
    project: Project | None, filters: AuditFilter, cursor: str | None, limit: int
) -> AuditPage:
    """A page of a project's entries; without one, of all the installation's, those included that
    are of no project, or of one that is gone. Raises InvalidCursor."""
    # The primary key, or index audit_of_project, read backwards from the cursor.
    entries = AuditEntry.objects.order_by("-id")
    if project is not None:
        entries = entries.filter(project_id=project.pk)
    wanted = {name: value for name, value in asdict(filters).items() if value is not None}
    entries = entries.filter(**wanted)
    if cursor is not None:
        if not (len(cursor) < 20 and cursor.isascii() and cursor.isdigit()):
            raise InvalidCursor("the cursor is not one of the audit log")
        entries = entries.filter(pk__lt=min(int(cursor), _MOST_ID))
    found = list(entries[: limit + 1])
    is_last = len(found) <= limit
    return AuditPage(found[:limit], None if is_last else str(found[limit - 1].pk))


def history_of_user(user: User) -> QuerySet[AuditEntry]:
    """The latest entries about a user: their sign-ins, and what they sign in with."""
    # Index audit_of_object.
    entries = AuditEntry.objects.filter(kind="user", object_id=user.pk, project_id=None)
    return entries.order_by("-id")[:_HISTORY_ROWS]


def history_of(trigger: Trigger) -> QuerySet[AuditEntry]:
    """The latest entries about a trigger, under whatever name, newest first."""
    return entries_since("trigger", trigger.pk, 0)


def entries_since(kind: str, object_id: int, entry_id: int) -> QuerySet[AuditEntry]:
    """The latest entries about a thing, of those that came after another one; newest first."""
    # Index audit_of_object.
    entries = AuditEntry.objects.filter(kind=kind, object_id=object_id, pk__gt=entry_id)
    return entries.order_by("-id")[:_HISTORY_ROWS]


def latest_id(kind: str, object_id: int) -> int:
    """The id of the latest entry about a thing; 0 if there is none."""
    # Index audit_of_object.
    entries = AuditEntry.objects.filter(kind=kind, object_id=object_id).order_by("-id")
    return entries.values_list("pk", flat=True).first() or 0
