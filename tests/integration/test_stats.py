"""The series that charts show: steps without gaps, all logs of a project added up, percentiles."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from eventing import stats
from eventing.eventing_dbs import log_numbered
from eventing.logs.counting import LATENCY_BOUNDS_MS
from eventing.logs.postgres import PostgresEventLog
from eventing.models import EventingDb, Project, Trigger
from eventing.stats import Bucket
from tests.factories import (
    make_change,
    make_events,
    make_origin,
    make_outcome,
    make_project,
    make_trigger,
)

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def project(log: PostgresEventLog) -> Project:
    return make_project()


@pytest.fixture
def trigger(project: Project) -> Trigger:
    return make_trigger(project, "http://127.0.0.1:9/")


def stored(log: PostgresEventLog, trigger: Trigger, at: datetime, count: int = 1) -> None:
    """Store events and deliver the first of them 40 ms after its commit."""
    milliseconds = int(at.timestamp() * 1000)
    changes = [make_change(committed_at_ms=milliseconds) for _ in range(count)]
    origin = make_origin(trigger.project)
    events = make_events(changes, origin, trigger.pk, trigger.name)
    log.append(origin, events, log.position(origin.database_id), uuid4().hex)
    (claim,) = log.claim([events[0].id], 60)
    outcome = make_outcome(claim, 200, started_at_ms=milliseconds + 33)
    log.record([outcome._replace(project_id=trigger.project_id)], "worker")


def another_log(project: Project, url: str, **fields: object) -> EventingDb:
    return EventingDb.objects.create(
        project=project, alias="old", type="postgres", url=url, replaced_at=timezone.now(), **fields
    )


def bucket(**latencies: int) -> Bucket:
    """A bucket with so many deliveries below each bound: `below_5=3`."""
    counts = [latencies.get(f"below_{bound}", 0) for bound in LATENCY_BOUNDS_MS]
    counts.append(latencies.get("above", 0))
    return Bucket(datetime.now(UTC), 0, sum(counts), 0, 0, 0, tuple(counts))


def test_a_series_has_a_bucket_for_each_step_and_their_sum(
    log: PostgresEventLog, trigger: Trigger
) -> None:
    now = timezone.now()
    for minutes, count in ((5, 3), (70, 2), (130, 1)):
        stored(log, trigger, now - minutes * MINUTE, count)
    log.settle_statistics()
    found = stats.series(trigger.project, now - 3 * HOUR, now, HOUR)
    assert [each.begins_at for each in found.buckets] == [
        found.since + number * HOUR for number in range(len(found.buckets))
    ]
    assert found.since <= now - 3 * HOUR < found.since + HOUR
    assert found.until - HOUR < now <= found.until
    assert sum(each.stored for each in found.buckets) == found.total.stored == 6
    assert (found.total.delivered, found.total.retried, found.total.failed) == (3, 0, 0)
    assert (found.total.success_rate, found.total.mean_attempt_ms) == (1.0, 7.0)
    assert found.total.p50_ms is not None
    assert 20 < found.total.p50_ms <= 50
    assert found.unavailable == ()


def test_a_step_without_events_is_empty(log: PostgresEventLog, trigger: Trigger) -> None:
    now = timezone.now()
    found = stats.series(trigger.project, now - HOUR, now, MINUTE, trigger)
    assert len(found.buckets) in (60, 61)
    assert {(each.stored, each.p50_ms, each.success_rate) for each in found.buckets} == {
        (0, None, None)
    }
    assert (found.total.mean_attempt_ms, found.total.p99_ms) == (None, None)


def test_each_trigger_has_a_series_of_its_own(log: PostgresEventLog, trigger: Trigger) -> None:
    now = timezone.now()
    other = make_trigger(trigger.project, "http://127.0.0.1:9/", "other")
    idle = make_trigger(trigger.project, "http://127.0.0.1:9/", "idle")
    stored(log, trigger, now - 5 * MINUTE, 3)
    stored(log, other, now - 5 * MINUTE, 2)
    found = stats.series_by_trigger(trigger.project, now - HOUR, now, MINUTE)
    assert {pk: each.total.stored for pk, each in found.items()} == {
        trigger.pk: 3,
        other.pk: 2,
        idle.pk: 0,
    }
    assert stats.series(trigger.project, now - HOUR, now, MINUTE, other).total.stored == 2


def test_all_logs_of_a_project_are_added_up_and_one_that_is_away_is_named(
    log: PostgresEventLog, trigger: Trigger, source_database: str
) -> None:
    now = timezone.now()
    earlier = another_log(trigger.project, source_database)
    other_log = log_numbered(earlier.pk)
    other_log.make_tables()
    stored(log, trigger, now - 5 * MINUTE, 3)
    stored(other_log, trigger, now - 5 * MINUTE, 2)  # type: ignore[arg-type]
    found = stats.series(trigger.project, now - HOUR, now, MINUTE)
    assert (found.total.stored, found.total.delivered, found.unavailable) == (5, 2, ())
    EventingDb.objects.filter(pk=earlier.pk).update(url="postgresql://nobody@127.0.0.1:1/nothing")
    found = stats.series(trigger.project, now - HOUR, now, MINUTE)
    assert (found.total.stored, found.unavailable) == (3, ("old",))
    by_trigger = stats.series_by_trigger(trigger.project, now - HOUR, now, MINUTE)
    assert by_trigger[trigger.pk].unavailable == ("old",)
    other_log.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("back", "step"),
    [
        (HOUR, timedelta(seconds=90)),
        (HOUR, timedelta(seconds=59.5)),
        (HOUR, timedelta(0)),
        (-HOUR, MINUTE),
        (timedelta(days=2), MINUTE),
    ],
)
def test_a_series_that_cannot_be_is_refused(
    project: Project, back: timedelta, step: timedelta
) -> None:
    now = timezone.now()
    with pytest.raises(ValueError, match=r"step|end"):
        stats.series(project, now - back, now, step)


def test_percentiles_lie_within_their_bucket() -> None:
    assert bucket(below_5=2).p50_ms == 3.5
    assert bucket(below_5=1, below_1000=99).p50_ms == pytest.approx(747.5, abs=3)
    assert bucket(below_2=99, above=1).percentile_ms(99.5) == LATENCY_BOUNDS_MS[-1]
    assert bucket().p50_ms is None


@given(st.lists(st.integers(0, 50), min_size=17, max_size=17), st.floats(1, 100), st.floats(1, 100))
def test_percentiles_grow_with_what_is_asked(counts: list[int], one: float, two: float) -> None:
    found = Bucket(datetime.now(UTC), 0, 0, 0, 0, 0, tuple(counts))
    lower, higher = (found.percentile_ms(each) for each in sorted((one, two)))
    if not sum(counts):
        assert lower is higher is None
        return
    assert lower is not None
    assert higher is not None
    assert 0 <= lower <= higher <= LATENCY_BOUNDS_MS[-1]
