"""Send test event: one exchange with a trigger's endpoint, shown whole and logged nowhere."""

import time
import uuid
from dataclasses import dataclass

import orjson
from django.conf import settings

from eventing.changes import OPERATIONS, SOURCE_NAMES, Change, DatabaseType, Exchange, Origin
from eventing.cloudevents import EventBuilder
from eventing.delivery import test_request
from eventing.destinations.addresses import AddressGuard
from eventing.endpoints import endpoint_of
from eventing.matching import Matcher, Rule
from eventing.models import Installation, Trigger


@dataclass(frozen=True, slots=True)
class Trial:
    """What was sent and what came back."""

    payload: str
    exchange: Exchange

    @property
    def delivered(self) -> bool:
        return self.exchange.succeeded


def send_test_event(trigger: Trigger) -> Trial:
    """POST a sample event of the trigger's first operation and table to its webhook."""
    payload = sample_payload(trigger)
    guard = AddressGuard(settings.WEBHOOK_ALLOWED_NETWORKS)
    return Trial(payload, test_request(endpoint_of(trigger), payload, guard))


def sample_payload(trigger: Trigger) -> str:
    """A payload as the trigger would send it, with made-up contents."""
    database = trigger.databases.first() or trigger.project.databases.first()
    kind: DatabaseType = database.type if database else "postgres"  # type: ignore[assignment]
    table = next((name for name in trigger.tables if "*" not in name), "sample")
    operation = next(item for item in OPERATIONS if item in trigger.operations)
    document = {"id": 1, "note": "A test event from Mission Control"}
    change = Change(
        position=uuid.uuid4().hex,
        index=0,
        operation=operation,
        table=table,
        document_id="1",
        document=orjson.dumps(document).decode(),
        committed_at_ms=int(time.time() * 1000),
    )
    rule = Rule(trigger.pk, trigger.name, (), frozenset(OPERATIONS))
    node_id = settings.NODE_ID or str(Installation.objects.get().node_id)
    origin = Origin(trigger.project_id, trigger.project.name, 0, SOURCE_NAMES[kind], kind)
    return EventBuilder(origin, node_id, Matcher([rule])).events([change])[0].payload
