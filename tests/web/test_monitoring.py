"""The dashboard and the alert rules name what /metrics has, and it has what the reference says."""

import json
import re
from pathlib import Path

import pytest
import yaml
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from eventing import notifications
from eventing.health import PROCESSES, beat
from eventing.models import CaptureLease
from tests.factories import make_token
from tests.web.conftest import Shop

DOCS = Path("docs")
NAME = re.compile(r"\bmission_control_\w+")


def scraped(shop: Shop) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample of /metrics of a shop in which everything that can be told is so."""
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    CaptureLease.objects.create(
        database=shop.database, state="blocked", error="gone", lag_ms=5000, lag_bytes=77,
        kept_log_bytes=99,
    )  # fmt: skip
    for process in PROCESSES:
        beat(process, process)
    notifications.watch()
    token = make_token(User.objects.create_superuser("ada"), "viewer", None)
    answer = Client().get("/metrics", headers={"Authorization": f"Bearer {token}"})
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def minutes_pass() -> None:
    """What has been counted so far was counted in a minute that is over."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE mission_control.event_stats SET minute = minute - interval '1 minute'"
        )


def test_every_metric_of_dashboard_and_alerts_exists(shop: Shop) -> None:
    shop.add_events(1)
    minutes_pass()
    found = scraped(shop)
    for file in ("grafana-dashboard.json", "alerts.yml"):
        named = set(NAME.findall((DOCS / "monitoring" / file).read_text()))
        assert len(named) > 5
        assert named <= found.keys(), file


def test_the_reference_names_every_metric_and_its_labels(shop: Shop) -> None:
    shop.add_events(1)
    minutes_pass()
    found = scraped(shop)
    table = (DOCS / "reference" / "rest.md").read_text()
    rows = dict(re.findall(r"^\| `(mission_control_\w+)` \|([^|]*)\|", table, re.MULTILINE))
    assert rows.keys() == found.keys()
    for name, labels in rows.items():
        assert set(re.findall(r"`(\w+)`", labels)) == found[name][0][0].keys(), name


def test_the_labels_that_dashboard_and_alerts_ask_for_exist(shop: Shop) -> None:
    shop.add_events(1)
    minutes_pass()
    found = scraped(shop)
    board = json.loads((DOCS / "monitoring" / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(queries) > 20
    for query in queries:
        (name,) = set(NAME.findall(query))
        labels = {label for each, _ in found[name] for label in each}
        asked = re.findall(r"by \(([^)]*)\)", query) + re.findall(r"[{,](\w+)=", query)
        for label in re.findall(r"\w+", " ".join(asked)):
            assert label in labels, query


def test_what_has_lately_come_of_attempts_is_told_by_trigger(shop: Shop) -> None:
    shop.add_events(3)
    shop.add_events(1, status_code=500)
    minutes_pass()
    found = scraped(shop)
    attempts = {
        labels["outcome"]: value for labels, value in found["mission_control_trigger_attempts"]
    }
    assert attempts == {"delivered": 3, "retried": 0, "failed": 1}
    ((_, seconds),) = found["mission_control_trigger_attempt_seconds"]
    assert seconds == pytest.approx(0.007)
    troubles = {labels["kind"]: value for labels, value in found["mission_control_troubles"]}
    assert (troubles["source_blocked"], troubles["trigger_failing"]) == (1, 1)
    assert troubles["breaker_open"] == 0
