"""What a page of the event log takes when it holds ten thousand events and when it holds many, and
what dropping its oldest day takes, which has half of them, while others are stored.
`--events 10000000` is the size that the targets speak of."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import Final, NamedTuple
from uuid import uuid4

import psycopg2

from bench.product import Bench
from bench.results import Figure
from eventing.changes import EVENT_STATUSES, Change, Origin
from eventing.cloudevents import EventBuilder
from eventing.logs.base import EventFilter
from eventing.logs.counting import LATENCY_BUCKETS, SPANS
from eventing.logs.pgconnections import Connections
from eventing.logs.pgtables import Tables
from eventing.logs.postgres import PostgresEventLog
from eventing.matching import Matcher, Rule
from tests.waiting import wait_until
from tests.writing import BackgroundWriter

# Twenty of as many events each, and one of ten.
TRIGGERS: Final = 21
_FEW: Final = 10_000
_DAYS: Final = 8
_AT_ONCE: Final = 250_000
_UNFINISHED_ONE_IN: Final = 100
_PAGES: Final = 15
_PAGES_BEFORE: Final = 99
# A ratio of less than that is one of the clock's.
_NO_MATTER_MS: Final = 2.0
# Stored at once beside the drop of a day, and how often before it.
_BATCH: Final = 200
_BATCHES: Final = 100
_DAY_MS: Final = 86_400_000

_KINDS: Final = """
INSERT INTO mission_control.event_kind
    (project_id, trigger_id, "table", operation, database_id, trigger, database)
SELECT {project}, {before} + t, 'orders', 'insert', {database}, 'trigger-' || t, 'main'
FROM generate_series(1, {triggers}) t
"""
# Events `first` to `last` of `count`: half of them on the oldest day, the others spread evenly over
# `span` milliseconds from its end, which is `start`. They are of twenty triggers,
# and of one that has an event in a thousand of the first ten thousand; of documents with five each.
_EVENTS: Final = """
INSERT INTO mission_control.event_log (id, project_id, project, trigger_id, trigger, database_id,
    database, database_type, "table", operation, doc_id, payload, committed_at)
SELECT (lpad(to_hex(ms), 12, '0') || '8' || lpad(to_hex(i % 4096), 3, '0') || 'a'
        || substr(md5(i::text), 1, 15))::uuid,
       {project}, 'bench', {before} + t, 'trigger-' || t, {database}, 'main', 'postgres', 'orders',
       'insert',
       (i % ({count} / 5))::text,
       '{{"data": {{"doc": {{"note": "' || repeat(md5(i::text), 9) || '"}}}}}}',
       to_timestamp(ms / 1000.0)
FROM (
    SELECT i, CASE WHEN i < {count} / 2 THEN {start} - {day} + i * 2 * {day} / {count}
                   ELSE {start} + (i - {count} / 2) * 2 * {span} / ({count} + 1) END AS ms,
           CASE WHEN i < 10000 AND i % 1000 = 0 THEN {triggers} ELSE 1 + i % 20 END AS t
    FROM generate_series({first}::bigint, {last}::bigint) i
) numbered
"""
# The newest of all wait; a tenth of those has failed, which an attempt tells more of, some were
# cancelled, and one is being sent.
_UNFINISHED: Final = """
INSERT INTO mission_control.delivery (event_id, trigger_id, project_id, state, attempts, failures,
    next_attempt_at, sweep_at, lease_until)
SELECT id, trigger_id, project_id, state, attempts, attempts, now(),
       CASE WHEN state IN ('failed', 'cancelled') THEN 'infinity' ELSE now() + interval '1 day' END,
       CASE WHEN state = 'delivering' THEN now() + interval '1 day' END
FROM (
    SELECT id, trigger_id, project_id, CASE WHEN number % 10 = 0 THEN 1 ELSE 0 END AS attempts,
           CASE WHEN number = 1 THEN 'delivering' WHEN number % 10 = 0 THEN 'failed'
                WHEN number % 50 = 3 THEN 'cancelled' ELSE 'pending' END AS state
    FROM (
        SELECT id, trigger_id, project_id, row_number() OVER (ORDER BY id DESC) AS number
        FROM mission_control.event_log WHERE project_id = {project} ORDER BY id DESC LIMIT {count}
    ) newest
) AS unfinished
"""
_INVOCATIONS: Final = """
INSERT INTO mission_control.invocation_log
SELECT id, 1, committed_at, 3, 'http://127.0.0.1/hook', '[["User-Agent", "MissionControl"]]', 200,
       '[["Server", "nginx"]]', '', NULL, NULL, 'worker'
FROM mission_control.event_log WHERE project_id = {project}
  AND id NOT IN (SELECT event_id FROM mission_control.delivery WHERE attempts = 0)
"""
_FAILED: Final = """
UPDATE mission_control.invocation_log SET status_code = 503, error_message = 'answered with 503'
WHERE event_id IN (SELECT event_id FROM mission_control.delivery WHERE state = 'failed')
"""
# What the charts read, of each span of statistics.
_STATISTICS: Final = """
INSERT INTO mission_control.event_stats_span
SELECT {span}, to_timestamp(floor(extract(epoch FROM committed_at) / {span}) * {span}), trigger_id,
       {project}, count(*), count(*), 0, 0, 3 * count(*), {latencies}
FROM mission_control.event_log WHERE project_id = {project} GROUP BY 2, 3
"""


class Owner(NamedTuple):
    """Whose events they are: ids in the control database, of triggers the one before the first."""

    project: int = 1
    database: int = 1
    before: int = 0


def measure_logs(bench: Bench, events: int) -> list[Figure]:
    """Pages by several filters in both logs; then the oldest day of the larger one is dropped."""
    few = filled(bench.postgres.create_database(), _FEW)
    many = filled(bench.postgres.create_database(), max(events, _FEW))
    now = datetime.now(UTC)
    figures = []
    for name, filters in (
        ("no filter", EventFilter()),
        ("a trigger", EventFilter(trigger="trigger-7")),
        ("a trigger with ten events", EventFilter(trigger="trigger-21")),
        ("a document", EventFilter(document_id="701")),
        ("a database", EventFilter(database="main")),
        ("a table", EventFilter(table="orders")),
        ("an operation", EventFilter(operation="insert")),
        ("an operation there was never", EventFilter(operation="delete")),
        *((status, EventFilter(status=status)) for status in EVENT_STATUSES),
        ("failed, of a trigger", EventFilter(status="failed", trigger="trigger-7")),
        ("an error", EventFilter(error="503")),
        ("an error there was never", EventFilter(error="refused")),
        ("tried twice, of which there are none", EventFilter(min_attempts=2)),
        ("before two days ago", EventFilter(before=now - timedelta(days=2))),
        ("after two days ago", EventFilter(after=now - timedelta(days=2))),
    ):
        little_ms, much_ms = _page_ms(few, filters), _page_ms(many, filters)
        figures.append(_page_figure(name, events, little_ms, much_ms))
    little_ms, much_ms = (_page_ms(log, EventFilter(), _PAGES_BEFORE) for log in (few, many))
    figures.append(_page_figure("the hundredth", events, little_ms, much_ms))
    figures += _dropped(many, events // 2)
    few.close()
    many.close()
    return figures


def _page_figure(name: str, events: int, little_ms: float, much_ms: float) -> Figure:
    ratio = much_ms / little_ms
    is_as_quick = ratio <= 1.2 or much_ms <= _NO_MATTER_MS
    note = "" if much_ms <= 50 and is_as_quick else "beyond the target"
    name = f"log page, {name}, {events:,} events"
    return Figure(name, much_ms, "ms", "≤ 50; ≤ 120 %", ratio, f"{_FEW:,} events", note)


def _dropped(log: PostgresEventLog, events: int) -> list[Figure]:
    """What dropping the oldest day takes, and what batches do that are stored meanwhile."""
    today = int(time.time() * 1000) // _DAY_MS
    with _Appending(log) as appended:
        wait_until(lambda: len(appended.taken_ms) >= _BATCHES, 60, "nothing is stored")
        before = len(appended.taken_ms)
        seconds = _seconds(lambda: log.drop_partitions_before(today - _DAYS + 2))
        beside = len(appended.taken_ms)
        # One that was waiting at the end is one of those beside it.
        wait_until(lambda: len(appended.taken_ms) > beside, 60, "nothing is stored")
    alone_ms = max(appended.taken_ms[:before])
    beside_ms = max(appended.taken_ms[before : beside + 1])
    return [
        Figure(f"dropping {events:,} events of one day", seconds * 1000, "ms", "≤ 2 000"),
        Figure(
            f"longest append of {_BATCH} events beside that",
            beside_ms,
            "ms",
            "",
            beside_ms / alone_ms,
            f"the longest of {before} before",
        ),
    ]


class _Appending(BackgroundWriter):
    """Stores batch after batch, as capture does, and notes what each took."""

    def __init__(self, log: PostgresEventLog) -> None:
        super().__init__()
        self._log = log
        self.taken_ms: list[float] = []

    def write(self) -> None:
        origin = Origin(2, "beside", 2, "main", "postgres")
        rule = Rule(TRIGGERS + 1, "beside", (), frozenset(("insert",)))
        builder = EventBuilder(origin, str(uuid4()), Matcher([rule]))
        position, number = None, 0
        while not self.stopping.wait(0.005):
            now_ms, number = int(time.time() * 1000), number + 1
            text = str(number)
            changes = [
                Change(text, row, "insert", "orders", str(row), '{"id": 1}', now_ms)
                for row in range(_BATCH)
            ]
            append = partial(self._log.append, origin, builder.events(changes), position, text)
            self.taken_ms.append(_seconds(append) * 1000)
            position = text


def filled(url: str, count: int, owner: Owner = Owner()) -> PostgresEventLog:  # noqa: B008
    """A log of `count` events of the last days, half of them of the oldest, each with its
    invocation; a hundredth of them, the newest, is not delivered, and most of it was not tried."""
    ids = owner._asdict() | {"triggers": TRIGGERS}
    log = PostgresEventLog(url)
    log.make_tables()
    now_ms = int(time.time() * 1000)
    today = now_ms // _DAY_MS
    connections = Connections(url, of_a_project=False)
    Tables(connections).make_partitions(range(today - _DAYS, today + 1))
    connections.close()
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(_KINDS.format(**ids))
        for first in range(0, count, _AT_ONCE):
            cursor.execute(
                _EVENTS.format(
                    start=(today - _DAYS + 2) * _DAY_MS,
                    span=now_ms - (today - _DAYS + 2) * _DAY_MS,
                    day=_DAY_MS,
                    count=count,
                    first=first,
                    last=min(first + _AT_ONCE, count) - 1,
                    **ids,
                )
            )
        cursor.execute(_UNFINISHED.format(count=count // _UNFINISHED_ONE_IN, **ids))
        cursor.execute(_INVOCATIONS.format(**ids))
        cursor.execute(_FAILED)
        for span in SPANS:
            latencies = ", ".join(["0"] * LATENCY_BUCKETS)
            cursor.execute(_STATISTICS.format(span=span, latencies=latencies, **ids))
        cursor.execute("VACUUM ANALYZE")
    connection.close()
    return log


def _page_ms(log: PostgresEventLog, filters: EventFilter, pages_before: int = 0) -> float:
    """What a page of 50 events takes: the median of fifteen, the first left out."""
    cursor = None
    for _ in range(pages_before):
        cursor = log.browse(1, filters, cursor, 50).next_cursor
    page = partial(log.browse, 1, filters, cursor, 50)
    page()
    return median(_seconds(page) for _ in range(_PAGES)) * 1000


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
