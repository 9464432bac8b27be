"""Order per document: every interleaving of storing, sending, failing and vanishing keeps it."""

import itertools
import uuid
from collections import defaultdict
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)

from demo.servers import execute
from eventing.changes import Claim
from eventing.cloudevents import EventBuilder
from eventing.logs.mysql import MySqlEventLog
from eventing.logs.postgres import PostgresEventLog
from eventing.matching import Matcher, Rule
from tests import databases
from tests.factories import NODE_ID, make_change, make_origin, make_outcome
from tests.integration.log_contract import Log

_numbers = itertools.count(1)
DOCUMENTS = st.sampled_from("abc")
WHICH = st.integers(0, 1000)


class OrderMachine(RuleBasedStateMachine):
    """Workers that claim, record and vanish as they like; the oracle is a list a document.

    What is drawn does not depend on what was claimed: that follows the clock of the server.
    """

    def __init__(self, log: Log, end_lease: Callable[[uuid.UUID], None]) -> None:
        super().__init__()
        self.log = log
        self.end_lease = end_lease
        self.trigger_id = next(_numbers)
        self.origin = make_origin(database_id=self.trigger_id)
        rule = Rule(self.trigger_id, "orders", (), frozenset(("insert",)), ordered=True)
        self.builder = EventBuilder(self.origin, NODE_ID, Matcher([rule]))
        # What is not finished yet, by document, in the order of its commits.
        self.unfinished: dict[str, list[uuid.UUID]] = defaultdict(list)
        self.claims: list[Claim] = []
        self.redeliverable: list[tuple[str, uuid.UUID]] = []

    @rule(documents=st.lists(DOCUMENTS, min_size=1, max_size=6))
    def store(self, documents: list[str]) -> None:
        events = self.builder.events([make_change(document_id=each) for each in documents])
        before = self.log.position(self.origin.database_id)
        self.log.append(self.origin, events, before, uuid.uuid4().hex)
        for event in events:
            self.unfinished[event.document_id].append(event.id)

    @rule(limit=st.integers(1, 5))
    def claim(self, limit: int) -> None:
        self._take(self.log.claim_due(self.trigger_id, limit, 60))

    @rule()
    def claim_everything_by_id(self) -> None:
        self._take(self.log.claim([each for ids in self.unfinished.values() for each in ids], 60))

    def _take(self, claims: list[Claim]) -> None:
        for claim in claims:
            assert self.unfinished[claim.document_id][0] == claim.event_id
            assert claim.event_id not in {other.event_id for other in self.claims}
        self.claims += claims

    @rule(which=WHICH, status=st.sampled_from([200, 500]), retries=st.booleans())
    def record(self, which: int, status: int, retries: bool) -> None:
        if not self.claims:
            return
        claim = self.claims.pop(which % len(self.claims))
        retry_in_ms = 0 if retries and status == 500 else None
        recorded = self.log.record([make_outcome(claim, status, retry_in_ms)], "w")
        assert recorded.moved == 1
        if retry_in_ms is not None:
            assert recorded.freed == []
            return
        waiting = self.unfinished[claim.document_id]
        assert waiting.pop(0) == claim.event_id
        self.redeliverable.append((claim.document_id, claim.event_id))
        freed = [event_id for chunk in recorded.freed for event_id in chunk.event_ids]
        assert freed == waiting[:1]

    @rule(which=WHICH)
    def give_back(self, which: int) -> None:
        if not self.claims:
            return
        self.log.release([self.claims.pop(which % len(self.claims))])

    @rule(which=WHICH)
    def vanish(self, which: int) -> None:
        if not self.claims:
            return
        claim = self.claims.pop(which % len(self.claims))
        self.end_lease(claim.event_id)
        assert self.log.expire_leases() == 1

    @rule(which=WHICH)
    def redeliver(self, which: int) -> None:
        if not self.redeliverable:
            return
        document, event_id = self.redeliverable.pop(which % len(self.redeliverable))
        self.log.redeliver(1, [event_id], [self.trigger_id], [self.trigger_id])
        self.unfinished[document].append(event_id)

    def teardown(self) -> None:
        """Nothing is left behind that nobody will ever claim."""
        while self.claims:
            self.record(0, 200, False)
            self._take(self.log.claim_due(self.trigger_id, 100, 60))
        self._take(self.log.claim_due(self.trigger_id, 100, 60))
        if self.claims:
            self.teardown()
            return
        assert not any(self.unfinished.values())
        assert self.log.pending_of([self.trigger_id]) == {self.trigger_id: 0}


def test_no_interleaving_sends_an_event_before_those_of_its_document(source_database: str) -> None:
    log = PostgresEventLog(source_database)

    def end_lease(event_id: uuid.UUID) -> None:
        execute(
            source_database,
            "UPDATE mission_control.delivery SET lease_until = now() - interval '1 second'"
            " WHERE event_id = %s",
            [str(event_id)],
        )

    run_machine(log, end_lease)


def test_no_interleaving_breaks_the_order_in_a_mariadb(mariadb_database: str) -> None:
    log = MySqlEventLog(mariadb_database)

    def end_lease(event_id: uuid.UUID) -> None:
        databases.execute(
            mariadb_database,
            "UPDATE mission_control_delivery SET lease_until = 1 WHERE event_id = %s",
            [event_id.bytes],
        )

    run_machine(log, end_lease)


def run_machine(log: Log, end_lease: Callable[[uuid.UUID], None]) -> None:
    log.make_tables()
    run_state_machine_as_test(
        lambda: OrderMachine(log, end_lease),
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    log.close()
