"""What a page of the event log takes when it holds ten thousand events and when it holds many, and
what dropping its oldest day takes. `--events 10000000` is the size that the targets speak of."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import Final, NamedTuple

import psycopg2

from bench.product import Bench
from bench.results import Figure
from eventing.logs.base import EventFilter
from eventing.logs.counting import LATENCY_BUCKETS, SPANS
from eventing.logs.pgconnections import Connections
from eventing.logs.pgtables import Tables
from eventing.logs.postgres import PostgresEventLog

# Twenty of as many events each, and one of ten.
TRIGGERS: Final = 21
_FEW: Final = 10_000
_DAYS: Final = 8
_AT_ONCE: Final = 250_000
_PAGES: Final = 15
_DAY_MS: Final = 86_400_000

_KINDS: Final = """
INSERT INTO mission_control.event_kind
    (project_id, trigger_id, "table", operation, database_id, trigger, database)
SELECT {project}, {before} + t, 'orders', 'insert', {database}, 'trigger-' || t, 'main'
FROM generate_series(1, {triggers}) t
"""
# Events `first` to `last`, spread evenly over `span` milliseconds from `start`: of twenty triggers,
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
    SELECT i, {start} + i * {span} / {count} AS ms,
           CASE WHEN i < 10000 AND i % 1000 = 0 THEN {triggers} ELSE 1 + i % 20 END AS t
    FROM generate_series({first}::bigint, {last}::bigint) i
) numbered
"""
_INVOCATIONS: Final = """
INSERT INTO mission_control.invocation_log
SELECT id, 1, committed_at, 3, 'http://127.0.0.1/hook', '[["User-Agent", "MissionControl"]]', 200,
       '[["Server", "nginx"]]', '', NULL, NULL, 'worker'
FROM mission_control.event_log WHERE project_id = {project}
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
        ("delivered", EventFilter(status="delivered")),
        ("failed, none", EventFilter(status="failed")),
        ("a time two days ago", EventFilter(before=now - timedelta(days=2))),
    ):
        little_ms, much_ms = _page_ms(few, filters), _page_ms(many, filters)
        figures.append(
            Figure(
                f"log page, {name}, {events:,} events",
                much_ms,
                "ms",
                "≤ 50; ≤ 120 %",
                much_ms / little_ms,
                f"{_FEW:,} events",
            )
        )
    today = int(time.time() * 1000) // _DAY_MS
    seconds = _seconds(lambda: many.drop_partitions_before(today - _DAYS + 2))
    name = f"dropping {events // _DAYS:,} events of one day"
    figures.append(Figure(name, seconds * 1000, "ms", "≤ 2 000"))
    few.close()
    many.close()
    return figures


def filled(url: str, count: int, owner: Owner = Owner()) -> PostgresEventLog:  # noqa: B008
    """A log of `count` delivered events of the last days, each with its invocation."""
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
                    start=(today - _DAYS + 1) * _DAY_MS,
                    span=now_ms - (today - _DAYS + 1) * _DAY_MS,
                    count=count,
                    first=first,
                    last=min(first + _AT_ONCE, count) - 1,
                    **ids,
                )
            )
        cursor.execute(_INVOCATIONS.format(**ids))
        for span in SPANS:
            latencies = ", ".join(["0"] * LATENCY_BUCKETS)
            cursor.execute(_STATISTICS.format(span=span, latencies=latencies, **ids))
        cursor.execute("VACUUM ANALYZE")
    connection.close()
    return log


def _page_ms(log: PostgresEventLog, filters: EventFilter) -> float:
    """What a page of 50 events takes: the median of fifteen, the first left out."""
    page = partial(log.browse, 1, filters, None, 50)
    page()
    return median(_seconds(page) for _ in range(_PAGES)) * 1000


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
