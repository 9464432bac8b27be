"""The statistics of a log in Postgres: sums of minutes that batches add to, and what reads them.

`event_stats` is the inbox: a row a minute, trigger and writer, so that no two processes wait for
each other. `event_stats_span` holds the sums of each span. A row is moved from the first to all
spans of the second in one statement, so any number of beats may do it, and readers add the two up.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import psycopg2.extras

from eventing.logs.counting import (
    LATENCY_COLUMNS,
    MOVED_AT_ONCE,
    SETTLED_SECONDS,
    SPANS,
    Statistic,
    columns_of_sums,
    span_for,
    statistic_of,
)
from eventing.logs.pgconnections import Transaction

_COLUMNS: Final = columns_of_sums("stored")
# Before the sums, a row has minute, trigger and project.
_FIRST_SUM: Final = 3
_NAMES: Final = ", ".join(_COLUMNS)
_SUMS: Final = ", ".join(f"sum({name})::bigint" for name in _COLUMNS)
_ADDED: Final = ", ".join(f"{name} = s.{name} + EXCLUDED.{name}" for name in _COLUMNS)
_LATENCY_DEFINITIONS: Final = ", ".join(
    f"ADD COLUMN IF NOT EXISTS {name} bigint NOT NULL DEFAULT 0" for name in LATENCY_COLUMNS
)

# `stored` counts by the minute of the commit, the rest by the minute it happened in.
TABLES: Final = f"""
CREATE TABLE IF NOT EXISTS mission_control.event_stats (
    minute timestamptz NOT NULL,
    trigger_id bigint NOT NULL,
    writer text NOT NULL,
    project_id bigint NOT NULL,
    stored bigint NOT NULL DEFAULT 0,
    delivered bigint NOT NULL DEFAULT 0,
    retried bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    duration_ms_sum bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (minute, trigger_id, writer)
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS event_stats_project
    ON mission_control.event_stats (project_id, minute);
ALTER TABLE mission_control.event_stats {_LATENCY_DEFINITIONS};

CREATE TABLE IF NOT EXISTS mission_control.event_stats_span (
    span_seconds integer NOT NULL,
    begins_at timestamptz NOT NULL,
    trigger_id bigint NOT NULL,
    project_id bigint NOT NULL,
    {" bigint NOT NULL, ".join(_COLUMNS)} bigint NOT NULL,
    PRIMARY KEY (span_seconds, begins_at, trigger_id)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS event_stats_span_project
    ON mission_control.event_stats_span (project_id, span_seconds, begins_at);
"""

# The rows are found by primary key, oldest first; those that a writer or another beat holds wait
# for the next time. What comes late, for a minute that was moved before, is moved like any other.
_MOVE: Final = f"""
    WITH settled AS (
        SELECT minute, trigger_id, writer FROM mission_control.event_stats
        WHERE minute < now() - {SETTLED_SECONDS} * interval '1 second'
        ORDER BY minute, trigger_id, writer LIMIT {MOVED_AT_ONCE}
        FOR UPDATE SKIP LOCKED
    ), moved AS (
        DELETE FROM mission_control.event_stats s USING settled
        WHERE s.minute = settled.minute AND s.trigger_id = settled.trigger_id
          AND s.writer = settled.writer
        RETURNING s.*
    ), added AS (
        INSERT INTO mission_control.event_stats_span AS s
            (span_seconds, begins_at, trigger_id, project_id, {_NAMES})
        SELECT span,
               to_timestamp(floor(extract(epoch FROM minute) / span) * span) AS begins_at,
               trigger_id, max(project_id), {_SUMS}
        FROM moved CROSS JOIN unnest(%s::int[]) AS span
        GROUP BY span, begins_at, trigger_id
        ORDER BY span, begins_at, trigger_id
        ON CONFLICT (span_seconds, begins_at, trigger_id) DO UPDATE SET {_ADDED}
    )
    SELECT count(*) FROM moved"""


def add(at: Transaction, rows: Sequence[tuple[int, ...]], writer: str) -> None:
    """Add rows of `eventing.logs.counting` to the inbox, in one statement."""
    # Most batches count a few things only, and each column takes the server its time.
    used = [n for n in range(len(_COLUMNS)) if any(row[_FIRST_SUM + n] for row in rows)]
    names = ", ".join(_COLUMNS[n] for n in used)
    added = ", ".join(f"{_COLUMNS[n]} = s.{_COLUMNS[n]} + EXCLUDED.{_COLUMNS[n]}" for n in used)
    psycopg2.extras.execute_values(
        at,
        f"""
        INSERT INTO mission_control.event_stats AS s (minute, trigger_id, project_id, writer,
            {names})
        VALUES %s
        ON CONFLICT (minute, trigger_id, writer) DO UPDATE SET {added}""",
        [(*row[:_FIRST_SUM], writer, *(row[_FIRST_SUM + n] for n in used)) for row in rows],
        template=f"(to_timestamp(%s){', %s' * (3 + len(used))})",
        page_size=1000,
    )


def move(at: Transaction) -> int:
    """Move what is settled from the inbox into the spans; returns how many rows."""
    at.run(_MOVE, list(SPANS))
    found = at.fetchone()
    return int(found[0]) if found else 0


def forget_old(at: Transaction) -> None:
    """Delete the sums of each span that are older than it is kept for."""
    # By primary key.
    at.run(
        """
        DELETE FROM mission_control.event_stats_span s
        USING unnest(%s::int[], %s::int[]) AS kept (span_seconds, for_seconds)
        WHERE s.span_seconds = kept.span_seconds
          AND s.begins_at < now() - kept.for_seconds * interval '1 second'""",
        list(SPANS),
        list(SPANS.values()),
    )


def read(
    at: Transaction,
    project_id: int,
    since: datetime,
    until: datetime,
    step_seconds: int,
    by_trigger: bool,
    trigger_id: int | None,
) -> list[Statistic]:
    """The sums of steps that begin at or after `since` and before `until`, oldest first."""
    only = "" if trigger_id is None else " AND trigger_id = %(trigger)s"
    # By event_stats_span_project and event_stats_project, in one snapshot.
    at.execute(
        f"""
        SELECT (floor(extract(epoch FROM at) / %(step)s) * %(step)s)::bigint AS begins_at,
               {"trigger_id" if by_trigger else "0"} AS trigger_id, {_SUMS}
        FROM (
            SELECT begins_at AS at, trigger_id, {_NAMES} FROM mission_control.event_stats_span
            WHERE project_id = %(project)s AND span_seconds = %(span)s
              AND begins_at >= %(since)s AND begins_at < %(until)s{only}
            UNION ALL
            SELECT minute, trigger_id, {_NAMES} FROM mission_control.event_stats
            WHERE project_id = %(project)s AND minute >= %(since)s AND minute < %(until)s{only}
        ) AS counted
        GROUP BY 1, 2 ORDER BY 1, 2""",
        {
            "project": project_id,
            "trigger": trigger_id,
            "span": span_for(step_seconds),
            "step": step_seconds,
            "since": since,
            "until": until,
        },
    )
    return [statistic_of(row) for row in at.fetchall()]
