"""Trying a trigger out: what it would send for a row that is there, and Send test event, one
exchange with its endpoint. Both are shown whole and logged nowhere.
"""

import time
import uuid
from dataclasses import dataclass
from typing import Final

import orjson
from django.conf import settings

from eventing.changes import (
    MISSION_CONTROL,
    OPERATIONS,
    SOURCE_NAMES,
    Change,
    DatabaseType,
    Exchange,
    Origin,
)
from eventing.cloudevents import EventBuilder
from eventing.definitions import TriggerDefinition
from eventing.delivery import test_request
from eventing.destinations.addresses import AddressGuard
from eventing.doctor import sample
from eventing.endpoints import endpoint_of
from eventing.matching import Matcher, Rule
from eventing.models import Database, Installation, Project, Trigger
from eventing.projects import draft_of
from eventing.sources import troubles
from eventing.sources.base import Sample

# Where a draft goes that is not to be sent.
NOWHERE: Final = "https://example.com"
# A page waits for it.
_DATABASES_SAMPLED: Final = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """What was sent and what came back."""

    payload: str
    exchange: Exchange

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took it."""
        return self.exchange.succeeded


def send_test_event(trigger: Trigger) -> Trial:
    """POST a made-up event of the trigger's first operation and table to its webhook."""
    return _sent(trigger, _first_database(trigger))


def try_out(project: Project, definition: TriggerDefinition, stored: Trigger | None) -> Trial:
    """The same for a trigger that is not saved; it is signed with the secrets of `stored`, if that
    is what it would become. Raises InvalidInput."""
    trigger, databases = draft_of(project, definition, stored)
    return _sent(trigger, databases[0] if databases else project.databases.first())


def _first_database(trigger: Trigger) -> Database | None:
    return trigger.databases.first() or trigger.project.databases.first()


def _sent(trigger: Trigger, database: Database | None) -> Trial:
    is_own = database is not None and database.type == MISSION_CONTROL
    payload = _payload(trigger, database, troubles.example() if is_own else _made_up(trigger))
    guard = AddressGuard(settings.WEBHOOK_ALLOWED_NETWORKS)
    return Trial(payload, test_request(endpoint_of(trigger), payload, guard))


def _made_up(trigger: Trigger) -> Sample:
    table = next((name for name in trigger.tables if "*" not in name), "sample")
    document = {"id": 1, "note": "A test event from Mission Control"}
    return Sample(table, "1", orjson.dumps(document).decode())


def sample_payload(project: Project, definition: TriggerDefinition) -> tuple[str, Database] | None:
    """What such a trigger would send for a row that is there now, and whose row that is; None if
    no table it watches has one. Raises InvalidInput, SourceUnavailable."""
    trigger, databases = draft_of(project, definition, None)
    for database in databases or project.databases.all()[:_DATABASES_SAMPLED]:
        found = sample(database, definition)
        if found is not None:
            return _payload(trigger, database, found), database
    return None


def _payload(trigger: Trigger, database: Database | None, row: Sample) -> str:
    """A payload as the trigger would send it."""
    kind: DatabaseType = database.type if database else "postgres"  # type: ignore[assignment]
    operation = next(item for item in OPERATIONS if item in trigger.operations)
    change = Change(
        position=uuid.uuid4().hex,
        index=0,
        operation=operation,
        table=row.table,
        document_id=row.document_id,
        document=row.document,
        committed_at_ms=int(time.time() * 1000),
    )
    rule = Rule(trigger.pk or 0, trigger.name, (), frozenset(OPERATIONS))
    node_id = settings.NODE_ID or str(Installation.objects.get().node_id)
    origin = Origin(trigger.project_id, trigger.project.name, 0, SOURCE_NAMES[kind], kind)
    return EventBuilder(origin, node_id, Matcher([rule])).events([change])[0].payload
