"""What charts show: events by outcome over time and how long deliveries took, from all logs.

Everything is read from sums that were made while events were stored and delivered, never by
counting rows of the log; so a chart of a month costs about as much as one of an hour.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from eventing.eventing_dbs import stores_of
from eventing.logs.base import LogUnavailable
from eventing.logs.counting import LATENCY_BOUNDS_MS, NOTHING, Statistic, Sums, span_for
from eventing.models import Project, Trigger

# More steps than any chart can show.
MOST_STEPS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Period:
    """A span of time up to now, in so many steps; `name` is short, `words` is what pages say."""

    name: str
    words: str
    step: timedelta
    steps: int

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """From when until when: whole steps, the present one being the last."""
        seconds = int(self.step.total_seconds())
        until = datetime.fromtimestamp((int(now.timestamp()) // seconds + 1) * seconds, UTC)
        return until - self.steps * self.step, until


LAST_HOUR: Final = Period("1h", "Last hour", timedelta(minutes=1), 60)
PERIODS: Final = (
    LAST_HOUR,
    Period("24h", "Last 24 hours", timedelta(minutes=30), 48),
    Period("7d", "Last 7 days", timedelta(hours=3), 56),
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened from `begins_at` on, for one step of a series, or for all of it.

    `stored` counts events by their commit; `delivered`, `retried` (attempts that failed and are
    tried again) and `failed` (retries used up) by the start of the attempt, so that more can be
    delivered than was stored in the same step. `latency` says how many deliveries took how long
    from commit to answer: one number for each of `LATENCY_BOUNDS_MS`, of those that took at most so
    many milliseconds and more than the bound before, and one for the rest.
    """

    begins_at: datetime
    stored: int
    delivered: int
    retried: int
    failed: int
    duration_ms_sum: int
    latency: tuple[int, ...]

    @property
    def attempts(self) -> int:
        """How many requests were made."""
        return self.delivered + self.retried + self.failed

    @property
    def success_rate(self) -> float | None:
        """The share, from 0 to 1, of finished events that were delivered; None if none finished."""
        finished = self.delivered + self.failed
        return self.delivered / finished if finished else None

    @property
    def mean_attempt_ms(self) -> float | None:
        """How long a request took on average, its failures included; None if there was none."""
        return self.duration_ms_sum / self.attempts if self.attempts else None

    @property
    def p50_ms(self) -> float | None:
        """The median from commit to delivery in milliseconds, None if nothing was delivered."""
        return self.percentile_ms(50)

    @property
    def p99_ms(self) -> float | None:
        """What 99 of 100 deliveries did not exceed, in milliseconds, None if there were none."""
        return self.percentile_ms(99)

    def percentile_ms(self, percent: float) -> float | None:
        """What `percent` of deliveries did not exceed, taking them as spread evenly within each
        bucket of the histogram; at most the last bound (an hour)."""
        wanted = sum(self.latency) * percent / 100
        if not wanted:
            return None
        below = 0
        low = 0.0
        for bound, count in zip(LATENCY_BOUNDS_MS, self.latency, strict=False):
            if count and below + count >= wanted:
                return low + (bound - low) * (wanted - below) / count
            below += count
            low = bound
        return low


@dataclass(frozen=True, slots=True)
class Series:
    """A bucket for each step from `since` to `until`, oldest first and without gaps, and their sum.

    `since` and `until` are what was asked for, widened to whole steps (counted from the epoch, so
    that steps of a day begin at midnight UTC). `unavailable` names the project's Eventing DBs that
    did not answer and are not counted.
    """

    since: datetime
    until: datetime
    step: timedelta
    buckets: tuple[Bucket, ...]
    total: Bucket
    unavailable: tuple[str, ...] = ()

    @property
    def per_minute(self) -> float:
        """How many events were stored a minute, on average."""
        return self.total.stored / ((self.until - self.since).total_seconds() / 60)


def series(
    project: Project,
    since: datetime,
    until: datetime,
    step: timedelta,
    trigger: Trigger | None = None,
) -> Series:
    """What came of a project's events, or one trigger's, in each step of time; one query a log.

    `step` is a whole number of minutes. What it is a multiple of decides how far back it reaches:
    a day 800 days, an hour 100 days, ten minutes 9 days, a minute one day. Good steps:
    a minute for an hour, ten minutes for a day, an hour for a week, a day for a month. `since` and
    `until` are aware. Raises ValueError for a step of anything else, an end that is not after the
    beginning, or more than 2 000 steps. Never raises LogUnavailable.
    """
    steps = _Steps(since, until, step)
    rows, unavailable = _read(project, steps, by_trigger=False, trigger=trigger)
    return steps.series(rows, unavailable)


def series_by_trigger(
    project: Project, since: datetime, until: datetime, step: timedelta
) -> dict[int, Series]:
    """The same for each of the project's triggers, by its id; one query a log for all of them.

    Triggers without events have a series of empty buckets; deleted ones are left out.
    """
    steps = _Steps(since, until, step)
    rows, unavailable = _read(project, steps, by_trigger=True, trigger=None)
    of_trigger: dict[int, list[Statistic]] = defaultdict(list)
    for row in rows:
        of_trigger[row.trigger_id].append(row)
    trigger_ids = project.triggers.values_list("pk", flat=True)
    return {pk: steps.series(of_trigger[pk], unavailable) for pk in trigger_ids}


def _read(
    project: Project, steps: "_Steps", *, by_trigger: bool, trigger: Trigger | None
) -> tuple[list[Statistic], tuple[str, ...]]:
    """What all logs have counted, and the names of those that did not answer."""
    rows: list[Statistic] = []
    unavailable = []
    for store in stores_of(project):
        # Nothing that is kept was counted in a log after it was replaced, but deliveries were.
        try:
            rows += store.log.statistics(
                project.pk,
                steps.since,
                steps.until,
                steps.seconds,
                by_trigger=by_trigger,
                trigger_id=trigger.pk if trigger else None,
            )
        except LogUnavailable:
            unavailable.append(store.name)
    return rows, tuple(unavailable)


class _Steps:
    """Whole steps that take in everything from one moment to another. Raises ValueError."""

    def __init__(self, since: datetime, until: datetime, step: timedelta) -> None:
        self.seconds = _seconds(step)
        span_for(self.seconds)
        self._first = int(since.timestamp()) // self.seconds
        self._end = -(-int(until.timestamp()) // self.seconds)
        if self._end <= self._first:
            raise ValueError("a series needs an end that is after its beginning")
        if self._end - self._first > MOST_STEPS:
            raise ValueError(f"a series has at most {MOST_STEPS} steps")
        self.since, self.until = self._moment(self._first), self._moment(self._end)

    def _moment(self, number: int) -> datetime:
        return datetime.fromtimestamp(number * self.seconds, UTC)

    def series(self, rows: Iterable[Statistic], unavailable: tuple[str, ...]) -> Series:
        """`rows` in their steps, those of one step added up."""
        found: dict[int, list[Sums]] = defaultdict(list)
        for row in rows:
            found[row.begins_at // self.seconds].append(row.sums)
        numbers = range(self._first, self._end)
        sums = [_added(found[number]) for number in numbers]
        buckets = [
            Bucket(self._moment(number), *each) for number, each in zip(numbers, sums, strict=True)
        ]
        total = Bucket(self.since, *_added(sums))
        step = timedelta(seconds=self.seconds)
        return Series(self.since, self.until, step, tuple(buckets), total, unavailable)


def _seconds(step: timedelta) -> int:
    seconds = step.total_seconds()
    if seconds != int(seconds):
        raise ValueError("a step is a whole number of minutes")
    return int(seconds)


def _added(sums: Sequence[Sums]) -> Sums:
    if not sums:
        return NOTHING
    *counts, latencies = zip(*sums, strict=True)
    stored, delivered, retried, failed, duration_ms_sum = (sum(each) for each in counts)
    latency = tuple(sum(each) for each in zip(*latencies, strict=True))
    return Sums(stored, delivered, retried, failed, duration_ms_sum, latency)
