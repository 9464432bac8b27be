"""What charts are drawn from: that shapes say what the numbers say, whatever those are."""

from datetime import UTC, datetime, timedelta

import pytest

from eventing.logs.counting import LATENCY_BOUNDS_MS, LATENCY_BUCKETS
from eventing.stats import Bucket, Series
from webui.charts import latency_chart, outcomes_chart, sparkline

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)
STEP = timedelta(minutes=1)
NONE = (0,) * LATENCY_BUCKETS


def bucket(number: int, stored: int = 0, delivered: int = 0, retried: int = 0, failed: int = 0,
           latency: tuple[int, ...] = NONE) -> Bucket:  # fmt: skip
    return Bucket(BEGIN + number * STEP, stored, delivered, retried, failed, 0, latency)


def series(*buckets: Bucket) -> Series:
    return Series(BEGIN, BEGIN + len(buckets) * STEP, STEP, buckets, buckets[0])


def took(at_most_ms: int, count: int = 1) -> tuple[int, ...]:
    """So many deliveries in the bucket of the histogram that ends with `at_most_ms`."""
    at = LATENCY_BOUNDS_MS.index(at_most_ms)
    return (*NONE[:at], count, *NONE[at + 1 :])


@pytest.mark.parametrize(
    ("most", "top"),
    [(0, 2), (1, 2), (3, 4), (9, 10), (11, 20), (70, 80), (981, 1000), (1001, 2000)],
)
def test_the_scale_ends_at_a_round_number_with_a_whole_half(most: int, top: int) -> None:
    chart = outcomes_chart(series(bucket(0, delivered=most)))
    assert chart.ticks == (top, top / 2, 0)


def test_a_bar_has_its_outcomes_one_upon_the_other() -> None:
    chart = outcomes_chart(series(bucket(0), bucket(1, delivered=5, retried=3, failed=2)))
    assert [(part.kind, part.y, part.height) for part in chart.parts] == [
        ("delivered", 50, 50),
        ("retried", 20, 30),
        ("failed", 0, 20),
    ]
    assert {part.x for part in chart.parts} == {11}


def test_one_failure_among_a_million_can_be_seen() -> None:
    chart = outcomes_chart(series(bucket(0, delivered=1_000_000, failed=1)))
    failed = chart.parts[1]
    assert failed.kind == "failed"
    assert failed.height >= 1
    assert failed.y >= 0


def test_nothing_at_all_is_said_to_be_nothing() -> None:
    nothing = series(bucket(0), bucket(1))
    assert outcomes_chart(nothing).is_empty
    assert latency_chart(nothing).is_empty
    assert sparkline(nothing).is_empty


def test_latency_is_drawn_in_steps_with_gaps_where_nothing_was_delivered() -> None:
    chart = latency_chart(
        series(
            bucket(0, latency=took(100)),
            bucket(1),
            bucket(2, latency=took(100)),
            bucket(3, latency=took(1000)),
        )
    )
    (p50,) = [line.path for line in chart.lines if line.kind == "p50"]
    assert p50.count("M") == 2
    assert p50.count("V") == 1
    assert "H10M20" in p50
    assert chart.ticks == (1000, 100, 10)


def test_a_latency_beyond_every_bound_is_still_on_the_scale() -> None:
    chart = latency_chart(series(bucket(0, latency=(*NONE[:-1], 1))))
    heights = [float(line.path.split(" ")[1].split("H")[0]) for line in chart.lines]
    assert all(0 <= height <= 100 for height in heights)


def test_a_sparkline_fills_its_height_with_its_own_most() -> None:
    chart = sparkline(series(bucket(0, stored=3), bucket(1, stored=6)))
    assert [(part.y, part.height) for part in chart.parts] == [(50, 50), (0, 100)]
    assert chart.times == (BEGIN, BEGIN + STEP, BEGIN + 2 * STEP)
