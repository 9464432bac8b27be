"""What the console's pages tell at a glance, over REST: figures, troubles, health, counts."""

from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from eventing import notifications
from eventing.breakers import Breakers
from eventing.eventing_dbs import BUILTIN, log_numbered
from eventing.health import beat
from eventing.logs.postgres import PostgresEventLog
from eventing.models import AuditEntry, CaptureLease, Database, EventingDb, Project
from tests.factories import make_database, make_outcome, make_project, make_trigger
from tests.servers import execute
from tests.web.api import HOOK, Shop, deliver, make_shop

FIGURES = "projects/shop/figures/"


@pytest.fixture
def shop(log: PostgresEventLog) -> Shop:
    return make_shop()


def add_figures(shop: Shop, log: PostgresEventLog) -> None:
    """Four events: three delivered, one failed for good, and one that waits."""
    deliver(log, shop.events(log, 3), make_outcome)
    deliver(log, shop.events(log, 1), lambda claim: make_outcome(claim, 500))
    shop.events(log)


@pytest.mark.parametrize(
    ("within", "steps", "seconds"), [("1h", 60, 60), ("24h", 48, 1800), ("7d", 56, 10_800)]
)
def test_figures_are_those_of_the_overview(
    shop: Shop, log: PostgresEventLog, within: str, steps: int, seconds: int
) -> None:
    add_figures(shop, log)
    found = shop.viewer.get(FIGURES, within=within).json
    assert (found["within"], found["step_seconds"], len(found["steps"])) == (within, seconds, steps)
    total = found["total"]
    assert total["per_minute"] == pytest.approx(5 * 60 / (steps * seconds))
    named = ("stored", "delivered", "retried", "failed", "success_rate")
    assert [total[name] for name in named] == [5, 3, 0, 1, 0.75]
    assert 0 < total["p50_ms"] <= total["p99_ms"]
    for name in ("stored", "delivered", "retried", "failed"):
        assert sum(step[name] for step in found["steps"]) == total[name]
    begins = [step["begins_at"] for step in found["steps"]]
    assert begins[0] == found["since"] < found["until"]
    assert begins == sorted(begins)
    (trigger,) = found["triggers"]
    assert (trigger.pop("name"), trigger.pop("backlog")) == ("welcome-email", 1)
    assert trigger == total
    assert found["unavailable"] == []


def test_figures_of_one_trigger_leave_the_others_out(shop: Shop, log: PostgresEventLog) -> None:
    add_figures(shop, log)
    make_trigger(shop.project, HOOK, "quiet")
    every = shop.viewer.get(FIGURES).json
    assert [each["name"] for each in every["triggers"]] == ["quiet", "welcome-email"]
    quiet = shop.viewer.get(FIGURES, trigger="quiet").json
    assert [each["name"] for each in quiet["triggers"]] == ["quiet"]
    assert (quiet["total"]["stored"], quiet["total"]["success_rate"]) == (0, None)
    assert quiet["steps"][0]["p99_ms"] is None
    one = shop.viewer.get(FIGURES, trigger="welcome-email").json
    assert one["total"] == every["total"]


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ({"within": "9y"}, "within", "one of 1h, 24h, 7d"),
        ({"trigger": "gone"}, "trigger", "the name of a trigger of this project"),
        ({"since": "now"}, "since", "one of within, trigger"),
    ],
)
def test_figures_that_are_asked_for_wrongly_are_refused(
    shop: Shop, query: dict[str, str], field: str, words: str
) -> None:
    answer = shop.viewer.get(FIGURES, **query)
    assert answer.status == 422
    assert words in answer.problems[field]


def test_figures_without_their_log_say_so(shop: Shop, log: PostgresEventLog) -> None:
    add_figures(shop, log)
    away = EventingDb.objects.create(
        project=shop.project, alias="away", type="postgres", url="postgresql://u@127.0.0.1:1/none"
    )
    Project.objects.update(eventing_db=away)
    found = shop.viewer.get(FIGURES).json
    assert found["unavailable"] == ["away"]
    assert found["total"]["delivered"] == 3
    assert [each["backlog"] for each in found["triggers"]] == [None]


def test_figures_take_the_same_number_of_queries_however_many_triggers(shop: Shop) -> None:
    in_use = log_numbered(BUILTIN)
    assert isinstance(in_use, PostgresEventLog)

    def cost() -> int:
        before = in_use.statements
        with CaptureQueriesContext(connection) as queries:
            assert shop.viewer.get(FIGURES).status == 200
        return len(queries) + in_use.statements - before

    few = cost()
    for number in range(5):
        make_trigger(shop.project, HOOK, f"t{number}")
    assert cost() == few


def test_troubles_are_told_while_they_last(shop: Shop, log: PostgresEventLog) -> None:
    path = "projects/shop/troubles/"
    assert shop.viewer.get(path).json == []
    CaptureLease.objects.create(
        database=shop.database, state="blocked", error="the slot is gone", mend="SELECT 1"
    )
    Breakers().open(shop.trigger.pk, "10 attempts in a row failed")
    notifications.watch()
    told = shop.viewer.get(path).json
    assert {(each["kind"], each["object"]) for each in told} == {
        ("source_blocked", "main"),
        ("breaker_open", "welcome-email"),
    }
    reasons = " ".join(each["reason"] for each in told)
    assert "the slot is gone" in reasons
    assert "10 attempts in a row failed" in reasons
    assert all(each["began_at"].endswith("Z") for each in told)


def test_earlier_eventing_dbs_are_told(shop: Shop, log: PostgresEventLog) -> None:
    path = "projects/shop/eventing-dbs/"
    builtin = {
        "name": "builtin",
        "place": "the control database",
        "replaced_at": None,
        "cursor": "0.",
    }
    assert shop.viewer.get(path).json == [builtin]
    EventingDb.objects.create(
        project=shop.project,
        alias="earlier",
        type="postgres",
        url="postgresql://reader:hunter2@db.example.com/logs",
        replaced_at=timezone.now(),
    )
    answer = shop.viewer.get(path)
    first, second = answer.json
    assert first == builtin
    assert (second["name"], second["place"]) == ("earlier", "db.example.com/logs")
    assert second["replaced_at"].endswith("Z")
    assert b"hunter2" not in answer.content
    (event,) = shop.events(log)
    (shown,) = shop.viewer.get("projects/shop/events/", cursor=first["cursor"]).json["results"]
    assert shown["id"] == str(event.id)
    # It is there, and does not answer.
    assert shop.viewer.get("projects/shop/events/", cursor=second["cursor"]).status == 503


def test_health_tells_of_processes_and_of_ones_own_projects(shop: Shop) -> None:
    beat("worker", "host-1:4711")
    hidden = make_project("hidden")
    make_database(hidden, "postgresql://h/d", "secret-database")
    Breakers().open(make_trigger(hidden, HOOK, "secret-trigger").pk, "it fails")
    Breakers().open(shop.trigger.pk, "it fails here")
    make_database(shop.project, "postgresql://h/d", "blocked")
    CaptureLease.objects.create(
        database=Database.objects.get(alias="blocked"), state="blocked", error="the slot is gone"
    )
    answer = shop.viewer.get("health/")
    health = answer.json
    assert health["reasons"] == []
    (process,) = health["processes"]
    assert process["seen_at"].endswith("Z")
    assert (process["process"], process["name"], process["alive"]) == (
        *("worker", "host-1:4711"),
        True,
    )
    assert health["unseen"] == ["capture", "beat"]
    assert health["waiting_messages"] >= 0
    states = [(each["alias"], each["capture"]["state"]) for each in health["databases"]]
    assert states == [("blocked", "blocked"), ("main", "starting")]
    assert [(each["trigger"], each["reason"]) for each in health["breakers"]] == [
        ("welcome-email", "it fails here")
    ]
    assert b"secret" not in answer.content
    root = shop.root.get("health/").json
    assert {each["project"] for each in root["databases"]} == {"shop", "hidden"}
    assert shop.api_of["stranger"].get("health/").json["databases"] == []


def test_a_viewer_learns_who_changed_a_trigger_but_not_from_where(shop: Shop) -> None:
    path = "projects/shop/triggers/welcome-email/"
    shop.editor.patch(path, {"retries": 5, "headers": {"X-Shop": "another-s3cret"}})
    shop.editor.patch(path, {"name": "hello"})
    answer = shop.viewer.get("projects/shop/triggers/hello/history/")
    renamed, changed, *_ = answer.json
    assert set(renamed) == {"at", "user", "action", "old", "new"}
    assert (renamed["user"], renamed["action"]) == ("shop-editor", "trigger.update")
    assert (renamed["old"], renamed["new"]) == ({"name": "welcome-email"}, {"name": "hello"})
    assert changed["new"] == {"retries": 5, "headers.X-Shop": "••••"}
    assert b"s3cret" not in answer.content


def test_tables_are_counted(shop: Shop, source_database: str) -> None:
    execute(source_database, "CREATE TABLE customers (id int PRIMARY KEY)")
    make_database(shop.project, source_database, alias="live")
    make_database(shop.project, "postgresql://127.0.0.1:1/none", alias="dead")
    path = "projects/shop/databases/{}/tables/count/"
    assert shop.viewer.get(path.format("live")).json == {"tables": 1}
    execute(source_database, "CREATE TABLE orders (id int PRIMARY KEY)")
    assert shop.viewer.get(path.format("live")).json == {"tables": 1}
    assert shop.admin.patch("projects/shop/databases/live/", {"schemas": ["public"]}).status == 200
    assert shop.viewer.get(path.format("live")).json == {"tables": 2}
    for _ in range(2):
        answer = shop.viewer.get(path.format("dead"))
        assert answer.status == 503
        assert "does not answer" in answer.json["detail"]


def test_what_matches_is_counted(shop: Shop, log: PostgresEventLog) -> None:
    add_figures(shop, log)
    shop.events(log, 2, table="pots")
    path = "projects/shop/events/count/"
    assert shop.editor.get(path).json == {"count": 7, "or_more": False}
    assert shop.editor.get(path, table="pots").json == {"count": 2, "or_more": False}
    assert shop.editor.get(path, status="failed").json == {"count": 1, "or_more": False}
    refused = shop.editor.get(path, status="lost", limit="3")
    assert refused.problems.keys() == {"status", "limit"}
    away = EventingDb.objects.create(
        project=shop.project, alias="away", type="postgres", url="postgresql://u@127.0.0.1:1/none"
    )
    Project.objects.update(eventing_db=away)
    assert shop.editor.get(path).json == {"count": None, "or_more": False}


def test_chosen_events_are_redelivered_and_no_others(shop: Shop, log: PostgresEventLog) -> None:
    events = shop.events(log, 4)
    deliver(log, events[:3], make_outcome)
    path = "projects/shop/events/redeliver/"
    ids = [str(each.id) for each in (events[0], events[1], events[3])]
    answer = shop.editor.post(path, {"ids": ids})
    assert (answer.status, answer.json) == (202, {"redelivered": 2})
    assert shop.viewer.get("projects/shop/stats/").json == {
        "pending": 3,
        "delivering": 0,
        "delivered": 1,
        "failed": 0,
        "cancelled": 0,
    }


@pytest.mark.parametrize(
    ("query", "body", "field"),
    [
        ("", {"ids": []}, "ids"),
        ("", {"ids": None}, "ids"),
        ("", {"ids": ["x"]}, "ids[0]"),
        ("", {"ids": ["0192f6a2-0000-8000-8000-000000000000"], "status": "failed"}, "status"),
        ("?table=a", {"ids": ["0192f6a2-0000-8000-8000-000000000000"]}, "table"),
    ],
)
def test_events_that_are_not_chosen_well_are_not_redelivered(
    shop: Shop, log: PostgresEventLog, query: str, body: dict[str, Any], field: str
) -> None:
    deliver(log, shop.events(log), make_outcome)
    answer = shop.editor.post(f"projects/shop/events/redeliver/{query}", body)
    assert answer.status == 422
    assert field in answer.problems
    assert shop.viewer.get("projects/shop/stats/").json["delivered"] == 1


def test_second_factors_are_taken_away_by_administrators_of_the_installation(shop: Shop) -> None:
    member = "projects/shop/members/shop-viewer/"
    user = User.objects.get(username="shop-viewer")
    Authenticator.objects.create(user=user, type=Authenticator.Type.TOTP, data={"secret": "x"})
    assert shop.admin.get(member).json["two_factor"] is True
    protected = {each["user"]: each["two_factor"] for each in shop.admin.get(
        "projects/shop/members/").json}  # fmt: skip
    assert protected == {"shop-admin": False, "shop-editor": False, "shop-viewer": True}
    path = f"{member}reset-two-factor/"
    assert shop.admin.post(path).status == 403
    assert shop.root.post(path).status == 204
    assert shop.root.post(path).status == 409
    assert shop.admin.get(member).json["two_factor"] is False
    entry = AuditEntry.objects.get(action="user.reset_factors")
    assert (entry.user_name, entry.object_name) == ("shop-root", "shop-viewer")
    assert entry.token_id is not None
