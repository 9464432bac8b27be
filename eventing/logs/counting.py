"""What the logs count of events: the sums of a batch, and how long each sum is kept.

A batch adds one row a minute and trigger to an inbox that each writer has a part of. Every minute
what lies there is moved, in one transaction, into sums of each of `SPANS`, so that a chart of a
month reads a few rows a trigger and nothing is counted twice or lost on the way. All of it is pure.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from eventing.changes import EVENT_STATUSES, Event, EventStatus, Outcome

# Upper ends, in milliseconds, of the latency histogram's buckets; one more takes what is longer.
LATENCY_BOUNDS_MS: Final = (
    2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000,
    3_600_000,
)  # fmt: skip
LATENCY_BUCKETS: Final = len(LATENCY_BOUNDS_MS) + 1
# The spans in seconds that sums are made of, and for how long those of each are kept.
SPANS: Final = {60: 86_400, 600: 9 * 86_400, 3_600: 100 * 86_400, 86_400: 800 * 86_400}
DAY_SPAN: Final = 86_400
# Minutes that writers are likely to be still adding to stay in the inbox.
SETTLED_SECONDS: Final = 120
# How many rows of the inbox one transaction moves.
MOVED_AT_ONCE: Final = 5_000

OUTCOME_COLUMNS: Final = ("delivered", "retried", "failed", "duration_ms_sum")
LATENCY_COLUMNS: Final = tuple(f"latency_{number}" for number in range(LATENCY_BUCKETS))


def columns_of_sums(stored: str) -> tuple[str, ...]:
    """The columns of the sums, in the order of `Sums`; the first is named by each store."""
    return (stored, *OUTCOME_COLUMNS, *LATENCY_COLUMNS)


class Sums(NamedTuple):
    """What came of events in a span of time.

    `stored` counts by the time of the commit, all else by when it happened. `duration_ms_sum` is
    of all attempts, `delivered + retried + failed` of them. `latency[n]` counts the delivered
    events that took, from their commit to the end of the answer, at most `LATENCY_BOUNDS_MS[n]`
    milliseconds and longer than the bound before; the last element those that took longer than any
    bound. Events that were sent again on request, or after a worker was lost, are not in it.
    """

    stored: int
    delivered: int
    retried: int
    failed: int
    duration_ms_sum: int
    latency: tuple[int, ...]


class Statistic(NamedTuple):
    """The sums of one step of time. `begins_at` is in seconds since the epoch; `trigger_id` is 0
    for all triggers together."""

    begins_at: int
    trigger_id: int
    sums: Sums


NOTHING: Final = Sums(0, 0, 0, 0, 0, (0,) * LATENCY_BUCKETS)


def span_for(step_seconds: int) -> int:
    """The longest of `SPANS` that steps of `step_seconds` consist of. Raises ValueError."""
    fitting = [span for span in SPANS if step_seconds > 0 and step_seconds % span == 0]
    if not fitting:
        raise ValueError(f"a step of {step_seconds} seconds is not a whole number of minutes")
    return max(fitting)


def counts_by_status(stored: int, deliveries: Mapping[str, int]) -> dict[EventStatus, int]:
    """How many of the `stored` events have which status, by how many deliveries there are in each
    state: what has none is delivered. Every status is a key."""
    counts = {status: deliveries.get(status, 0) for status in EVENT_STATUSES}
    counts["delivered"] = max(0, stored - sum(deliveries.values()))
    return counts


def statistic_of(row: Sequence[int]) -> Statistic:
    """A row as both stores read it: beginning, trigger, then the columns of the sums."""
    begins_at, trigger_id, stored, delivered, retried, failed, duration, *latency = map(int, row)
    sums = Sums(stored, delivered, retried, failed, duration, tuple(latency))
    return Statistic(begins_at, trigger_id, sums)


def counts_of_stored(project_id: int, events: Iterable[Event]) -> list[tuple[int, ...]]:
    """Rows of minute (in seconds since the epoch), trigger, project, then the sums, in order."""
    counted: dict[tuple[int, int], int] = defaultdict(int)
    for event in events:
        counted[event.committed_at_ms // 60_000 * 60, event.trigger_id] += 1
    rest = (0,) * (len(OUTCOME_COLUMNS) + LATENCY_BUCKETS)
    return [
        (minute, trigger_id, project_id, count, *rest)
        for (minute, trigger_id), count in sorted(counted.items())
    ]


def counts_of_outcomes(outcomes: Iterable[Outcome]) -> list[tuple[int, ...]]:
    """The same of what attempts came to, by the minute each began in."""
    width = 1 + len(OUTCOME_COLUMNS) + LATENCY_BUCKETS
    counted: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0] * width)
    for claim, project_id, exchange, retry_in_ms in outcomes:
        started_at_ms, duration_ms = exchange.started_at_ms, exchange.duration_ms
        row = counted[started_at_ms // 60_000 * 60, claim.trigger_id, project_id]
        row[4] += duration_ms
        if not exchange.succeeded:
            row[2 if retry_in_ms is not None else 3] += 1
            continue
        row[1] += 1
        if claim.attempt == claim.failures + 1:
            latency_ms = started_at_ms + duration_ms - claim.committed_at_ms
            row[5 + bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1
    return [(*key, *row) for key, row in sorted(counted.items())]
