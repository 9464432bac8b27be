"""The API's description: OpenAPI, the page that shows it, the reference, and health endpoints."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from eventing.breakers import Breakers
from eventing.health import beat
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Heartbeat
from tests.factories import make_outcome
from tests.ports import free_port
from tests.receiver import Receiver
from tests.web.api import Shop, deliver, make_shop

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "rest.md"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


@pytest.fixture
def openapi() -> dict[str, Any]:
    answer = Client().get("/api/v1/schema/", headers={"Accept": "application/json"})
    assert answer.status_code == 200
    described: dict[str, Any] = orjson.loads(answer.content)
    return described


def test_the_description_is_valid_and_complete(tmp_path: Path) -> None:
    file = tmp_path / "openapi.yaml"
    call_command("spectacular", "--fail-on-warn", "--validate", file=str(file))
    described = yaml.safe_load(file.read_text())
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, methods in described["paths"].items():
        for method in methods.values():
            assert "ProblemDetails" in str(method["responses"]["default"]), path


def test_the_reference_names_every_address(openapi: dict[str, Any]) -> None:
    text = REFERENCE.read_text()
    for path, methods in openapi["paths"].items():
        short = re.sub(r"\{event_id\}", "{id}", path.removeprefix("/api/v1/"))
        short = short.replace("{project}", "{name}", 1) if "{name}" not in short else short
        for method in methods:
            assert re.search(rf"\| `{method.upper()} {re.escape(short)}` ", text), (method, short)


def test_the_reference_names_every_field(openapi: dict[str, Any]) -> None:
    text = REFERENCE.read_text()
    for name, component in openapi["components"]["schemas"].items():
        for field in component.get("properties", {}):
            assert f"`{field}`" in text or f'"{field}"' in text, (name, field)


def test_answers_are_as_described(
    shop: Shop, log: PostgresEventLog, openapi: dict[str, Any]
) -> None:
    events = shop.events(log, 2)
    deliver(log, events[:1], lambda claim: make_outcome(claim, None))
    trigger = "projects/shop/triggers/welcome-email/"
    with Receiver() as receiver:
        shop.admin.patch(trigger, {"url": receiver.url()})
        answers = {
            "Trial": shop.admin.post(trigger + "test/").json,
            "Project": shop.admin.get("projects/shop/").json,
            "Settings": shop.admin.get("projects/shop/settings/").json,
            "Database": shop.admin.get("projects/shop/databases/main/").json,
            "Trigger": shop.admin.get(trigger).json,
            "EventPage": shop.admin.get("projects/shop/events/").json,
            "EventDetail": shop.admin.get(f"projects/shop/events/{events[0].id}/").json,
            "Member": shop.admin.get("projects/shop/members/shop-viewer/").json,
            "AddedMember": shop.root.post(
                "projects/shop/members/", {"user": "new", "role": "viewer", "new_user": True}
            ).json,
            "Token": shop.admin.get("projects/shop/tokens/").json[0],
            "NewToken": shop.admin.post("projects/shop/tokens/", {"role": "viewer"}).json,
            "AuditPage": shop.admin.get("projects/shop/audit/").json,
            "InstallationAuditPage": shop.root.get("audit/").json,
            "Counts": shop.admin.get("projects/shop/stats/").json,
            "Figures": shop.admin.get("projects/shop/figures/").json,
            "EventingDb": shop.admin.get("projects/shop/eventing-dbs/").json[0],
            "Deed": shop.admin.get(trigger + "history/").json[0],
            "EventCount": shop.admin.get("projects/shop/events/count/").json,
            "Health": shop.admin.get("health/").json,
            "Findings": shop.admin.post("projects/shop/databases/main/check/").json,
            "Redelivered": shop.admin.post("projects/shop/events/redeliver/").json,
            "ProblemDetails": shop.admin.patch(trigger, {"retries": -1}).json,
        }
    for name, answer in answers.items():
        jsonschema.validate(answer, _closed(openapi, name))


def _closed(openapi: dict[str, Any], name: str) -> dict[str, Any]:
    """A component as a JSON Schema that allows nothing it does not name."""
    text = orjson.dumps(openapi["components"]["schemas"]).replace(
        b"#/components/schemas", b"#/$defs"
    )
    components = orjson.loads(text)
    for component in components.values():
        if component["type"] == "object":
            component["additionalProperties"] = False
        for field in component.get("properties", {}).values():
            # OpenAPI 3.0's way of saying that null is allowed too.
            if field.pop("nullable", False) and "type" in field:
                field["type"] = [field["type"], "null"]
    return {"$ref": f"#/$defs/{name}", "$defs": components}


def test_the_page_of_the_description_keeps_to_the_content_security_policy() -> None:
    client = Client()
    page = client.get("/api/docs/")
    assert page.status_code == 200
    html = page.content.decode()
    assert not re.search(r"<script(?![^>]*src=)", html)
    assert "<style" not in html
    addresses = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/"), address
        asset = client.get(address.replace("&amp;", "&"))
        assert asset.status_code == 200, address
        asset.close()


def test_healthz_needs_no_database() -> None:
    # Without a database mark, any query would fail this test.
    answer = Client().get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_readyz_is_200_when_all_is_fine(transactional_db: None) -> None:
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_readyz_says_that_the_broker_is_away(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from config.celery import app

    monkeypatch.setattr(app.conf, "broker_url", f"redis://127.0.0.1:{free_port()}/0")
    answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["the broker (REDIS_URL) does not answer"]


def test_readyz_says_what_stands_still_and_names_nobody(shop: Shop) -> None:
    CaptureLease.objects.create(database=shop.database, state="retrying", error="it is away")
    beat("worker", "host-1:4711", "short of memory")
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "degraded", "reasons": ["1 database is retrying", "1 process: short of memory"]},
    )
    shown = shop.viewer.get("health/").json
    assert [each["hindrance"] for each in shown["processes"]] == ["short of memory"]
    # What one said that has gone since is over with it.
    Heartbeat.objects.update(seen_at=timezone.now() - timedelta(minutes=1))
    assert Client().get("/readyz").json()["reasons"] == ["1 database is retrying"]
    CaptureLease.objects.update(state="streaming")
    assert Client().get("/readyz").json() == {"status": "ok"}


def test_metrics_name_nobody_without_a_token(shop: Shop) -> None:
    answer = Client().get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    values = metric_values(answer.content.decode())
    assert values["mission_control_captures", (("state", "starting"),)] == 1
    assert values["mission_control_processes", (("process", "worker"),)] == 0
    assert "shop" not in answer.content.decode()


def test_metrics_of_a_project_are_for_who_may_see_it(shop: Shop, log: PostgresEventLog) -> None:
    shop.events(log, 2)
    Breakers().open(shop.trigger.pk, "100 attempts in a row failed")
    header = {"Authorization": f"Bearer {shop.viewer.token}"}
    values = metric_values(Client().get("/metrics", headers=header).content.decode())
    trigger = (("project", "shop"), ("trigger", "welcome-email"))
    assert values["mission_control_open_breakers", ()] == 1
    assert values["mission_control_trigger_breaker_open", trigger] == 1
    assert values["mission_control_trigger_backlog", trigger] == 2
    assert values["mission_control_events", (("project", "shop"), ("status", "pending"))] == 2
    state = (("database", "main"), ("project", "shop"), ("state", "starting"))
    assert values["mission_control_capture_state", state] == 1
    assert Client().get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401


def metric_values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus' own reader finds, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
