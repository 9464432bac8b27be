"""The API's description: OpenAPI, the page that shows it, the reference, and health endpoints."""

import re
from collections.abc import Callable, Mapping
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from prometheus_client.parser import text_string_to_metric_families

from eventing.api.definitions import changed_title, new_project
from eventing.breakers import Breakers
from eventing.definitions import (
    parse_database,
    parse_member,
    parse_notification,
    parse_settings,
    parse_token,
    parse_trigger,
)
from eventing.health import beat
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Heartbeat
from eventing.problems import InvalidInput
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


Parser = Callable[[Mapping[str, Any]], object]
TRIGGER = {"name": "a", "operations": ["insert"], "url": "https://example.com"}
DATABASE = {"alias": "a", "type": "postgres", "url": "postgresql://h/d"}
NOTIFICATION = {"name": "a", "url": "https://example.com"}
# Components whose fields can be written, something good to begin with, and who reads it.
WRITTEN: dict[str, Parser] = {
    "TriggerRequest": lambda given: parse_trigger({**TRIGGER, **given}, {}),
    "BackoffRequest": lambda given: parse_trigger({**TRIGGER, "backoff": given}, {}),
    "DatabaseRequest": lambda given: parse_database({**DATABASE, **given}, {}),
    "NotificationRequest": lambda given: parse_notification({**NOTIFICATION, **given}),
    "ProjectRequest": lambda given: new_project({"name": "a", **given}),
    "PatchedProjectTitleRequest": lambda given: changed_title("a", given),
    "EventingRequest": lambda given: parse_settings({"eventing": given}),
    "RetentionRequest": lambda given: parse_settings({"retention": {"payloads": "1d", **given}}),
    "MemberToAddRequest": lambda given: parse_member({"user": "a", "role": "viewer", **given}),
    "TokenRequest": lambda given: parse_token({"role": "viewer", **given}),
}
# Of these texts the description says all that counts; of others less than what is refused.
WHOLLY_DESCRIBED = {
    ("TriggerRequest", "name"),
    ("NotificationRequest", "name"),
    ("ProjectRequest", "name"),
    ("EventingRequest", "db"),
}


def test_the_ranges_of_numbers_are_those_that_are_enforced(openapi: dict[str, Any]) -> None:
    found = 0
    for component, read in WRITTEN.items():
        fields = openapi["components"]["schemas"][component]["properties"]
        for name, field in fields.items():
            if field.get("type") not in ("integer", "number"):
                continue
            found += 1
            least, most = field["minimum"], field["maximum"]
            for allowed in (least, most):
                read({name: allowed})
            for refused in (least - 1, most + 1):
                with pytest.raises(InvalidInput, match=rf"\b{name}: got {refused}; .*{most}"):
                    read({name: refused})
    assert found == 9


@settings(max_examples=200, deadline=None, suppress_health_check=[*HealthCheck])
@given(data=some.data())
def test_the_patterns_and_lengths_of_texts_are_those_that_are_enforced(
    openapi: dict[str, Any], data: some.DataObject
) -> None:
    """What the description does not allow is refused, and where it says all, the rest is taken."""
    component, name, described = data.draw(some.sampled_from(_texts(openapi)))
    is_list = described["type"] == "array"
    text = described["items"] if is_list else described
    # As JSON Schema means it, `$` is the end of the text alone.
    pattern = re.compile(re.sub(r"\$$", r"\\Z", text.get("pattern", "")))
    value = data.draw(some.text(max_size=70) | some.from_regex(pattern))
    value *= data.draw(some.sampled_from([1, 1, 1, 40]))
    is_long_enough = text.get("minLength", 0) <= len(value) <= text.get("maxLength", 10_000)
    is_allowed = is_long_enough and pattern.search(value) is not None
    try:
        WRITTEN[component]({name: [value] if is_list else value})
    except InvalidInput:
        assert not (is_allowed and (component, name) in WHOLLY_DESCRIBED)
    else:
        assert is_allowed


def _texts(openapi: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """The texts that can be written, and the lists of texts: component, name and description."""
    schemas = openapi["components"]["schemas"]
    return [
        (component, name, field)
        for component in WRITTEN
        for name, field in schemas[component]["properties"].items()
        if field.get("type") == "string" or field.get("items", {}).get("type") == "string"
    ]


def test_fields_that_nobody_knows_are_refused_and_described_as_such(
    openapi: dict[str, Any],
) -> None:
    for component, write in WRITTEN.items():
        assert openapi["components"]["schemas"][component]["additionalProperties"] is False
        with pytest.raises(InvalidInput) as refused:
            write({"nobody-knows": 1})
        assert "nobody-knows" in str(refused.value), component


def test_a_text_that_can_be_written_is_bounded_by_the_description(openapi: dict[str, Any]) -> None:
    bounds = {"pattern", "maxLength", "format", "enum"}
    unbounded = [
        (component, name)
        for component, name, field in _texts(openapi)
        if not bounds & field.get("items", field).keys()
    ]
    # Each kind of database has its own.
    assert unbounded == [("DatabaseRequest", "url")]


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


def test_probes_are_answered_under_whatever_host_and_nothing_else_is(
    transactional_db: None,
) -> None:
    client = Client(headers={"host": "10.1.2.3:8000"})
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert [client.get(path).status_code for path in ("/metrics", "/sign-in/", "/")] == [400] * 3


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
