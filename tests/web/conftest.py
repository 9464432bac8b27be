"""What tests of the pages share: people with each role, a project with something to see in it."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg2
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from eventing.logs import control_database_dsn
from eventing.logs.postgres import PostgresEventLog
from eventing.models import Database, Membership, Project, Trigger
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_outcome,
    make_project,
    make_trigger,
)

PASSWORD = "correct-horse-battery"
SOURCE = "postgresql://reader:s3cret-word@db.example.com:5433/shop?application_name=mc"
HOOK = "https://example.com/hook"
ROLES = ("viewer", "editor", "admin")


@dataclass
class Shop:
    """A project with one of everything."""

    project: Project
    database: Database
    trigger: Trigger
    log: PostgresEventLog

    def path(self, rest: str = "") -> str:
        return f"/projects/{self.project.name}/{rest}"

    def add_events(
        self, count: int, status_code: int | None = 200, committed_at_ms: int | None = None
    ) -> list[str]:
        """Events of the trigger, each sent once; returns their ids, oldest first."""
        origin = make_origin(self.project, self.database.pk)
        changes = [
            make_change(document_id=str(number), committed_at_ms=committed_at_ms)
            for number in range(count)
        ]
        events = make_events(changes, origin, self.trigger.pk, self.trigger.name)
        before = self.log.position(self.database.pk)
        self.log.append(origin, events, before, changes[-1].position)
        claims = self.log.claim([event.id for event in events], 30)
        self.log.record([make_outcome(claim, status_code) for claim in claims], "worker-1")
        return [str(event.id) for event in events]


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    project = make_project()
    database = make_database(project, SOURCE)
    headers = {"Authorization": "Bearer hook-s3cret"}
    trigger = make_trigger(project, HOOK, databases=["main"], tables=["users"], headers=headers)
    return Shop(project, database, trigger, log)


@pytest.fixture
def as_role(shop: Shop) -> Callable[[str], Client]:
    """A client signed in as someone with the role in the shop; `stranger` has none."""

    def client_of(role: str) -> Client:
        user = User.objects.create_user(role, password=PASSWORD)
        if role in ROLES:
            Membership.objects.create(user=user, project=shop.project, role=role)
        client = Client()
        client.force_login(user)
        return client

    return client_of


@pytest.fixture
def admin(as_role: Callable[[str], Client]) -> Client:
    return as_role("admin")


@pytest.fixture
def editor(as_role: Callable[[str], Client]) -> Client:
    return as_role("editor")


@pytest.fixture
def viewer(as_role: Callable[[str], Client]) -> Client:
    return as_role("viewer")


@contextmanager
def kept_locked(table: str) -> Iterator[None]:
    """Nobody else reads a table of the log meanwhile."""
    with closing(psycopg2.connect(control_database_dsn())) as holder, holder.cursor() as cursor:
        cursor.execute(f"LOCK TABLE mission_control.{table} IN ACCESS EXCLUSIVE MODE")
        yield


def somebody_waits_for_a_lock() -> bool:
    """Whether a session of the database server waits for what another one holds."""
    with connection.cursor() as cursor:
        # Not pg_stat_activity, which is the same throughout a transaction.
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
