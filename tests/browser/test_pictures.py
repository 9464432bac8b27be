"""Pictures of the main pages, as the README shows them, from a shop that looks like one.

They are written to the folder that `SCREENSHOTS` names, else to one that is thrown away:
`SCREENSHOTS=docs/images bin/test tests/browser/test_pictures.py`.
"""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from playwright.sync_api import BrowserContext, Page, expect

from eventing.changes import Claim, Operation, Outcome
from eventing.health import PROCESSES, beat
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Trigger
from tests.browser.conftest import sign_in
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_outcome,
    make_project,
    make_trigger,
)

_HOUR_MS = 3_600_000
_TRIGGERS: tuple[tuple[str, str, tuple[Operation, ...]], ...] = (
    ("order-fulfilment", "orders", ("insert", "update")),
    ("welcome-email", "customers", ("insert",)),
    ("search-index", "products", ("insert", "update", "delete")),
    ("invoice-archive", "billing.invoices", ("insert",)),
)


@pytest.fixture
def shop(log: PostgresEventLog) -> str:
    """A project `shop` whose last hour has mostly gone well."""
    project = make_project()
    database = make_database(project, "postgresql://shop:word@db.shop.example:5432/shop")
    CaptureLease.objects.update_or_create(
        database=database,
        defaults={
            "state": "streaming",
            "lag_ms": 0,
            "applied_version": 1_000_000,
            "expires_at": Now() + timedelta(minutes=5),
            "last_change_at": Now(),
        },
    )
    for process in PROCESSES:
        beat(process, f"{process}@node-1")
    triggers = [
        make_trigger(
            project,
            f"https://hooks.shop.example/{name}",
            name=name,
            tables=[table],
            operations=list(operations),
        )
        for name, table, operations in _TRIGGERS
    ]
    _fill(log, project.pk, make_origin(project, database.pk), triggers)
    return project.name


def _fill(log: PostgresEventLog, project_id: int, origin: Any, triggers: list[Trigger]) -> None:
    now_ms = int(time.time() * 1000)
    events = []
    for number in range(240):
        trigger = triggers[number * number % len(triggers) if number % 3 else number % 4]
        document = {"id": 1000 + number, "status": "paid", "total": 129.9, "currency": "EUR"}
        change = make_change(
            trigger.tables[0],
            trigger.operations[number % len(trigger.operations)],
            str(1000 + number),
            document,
            now_ms - int((240 - number) ** 2.1 / 240**2.1 * _HOUR_MS) - 900,
        )
        events += make_events([change], origin, trigger.pk, trigger.name)
    log.append(origin, events, None, f"{now_ms:016X}/00000000")
    claims = log.claim([event.id for event in events], 30)
    outcomes = [_outcome(claim, number) for number, claim in enumerate(claims)]
    log.record([each._replace(project_id=project_id) for each in outcomes], "worker@node-1")


def _outcome(claim: Claim, number: int) -> Outcome:
    if number % 41 == 7:
        outcome = make_outcome(claim, 503, 28_000)
    elif number % 37 == 5:
        outcome = make_outcome(claim, None, error_message="connection refused")
    else:
        outcome = make_outcome(claim)
    exchange = outcome.exchange._replace(
        started_at_ms=claim.committed_at_ms + 2 + number % 5, duration_ms=6 + number * 7 % 40
    )
    return outcome._replace(exchange=exchange)


def test_the_main_pages_have_their_pictures(
    shop: str, live_server: Any, context: BrowserContext, page: Page, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    sign_in(context, live_server)
    page.set_viewport_size({"width": 1280, "height": 800})
    for name, path in (
        ("overview", ""),
        ("triggers", "triggers/"),
        ("trigger-form", "triggers/add/"),
        ("event-log", "events/"),
    ):
        page.goto(f"{live_server.url}/projects/{shop}/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if name == "event-log":
            page.locator(".row-link").nth(2).click()
            expect(page.get_by_text("Invocations")).to_be_visible()
        for theme in ("light", "dark"):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            page.screenshot(path=folder / f"{name}-{theme}.png")
        assert (folder / f"{name}-dark.png").stat().st_size > 10_000
