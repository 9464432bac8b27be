"""The statistics of a log in MySQL or MariaDB: sums of minutes that batches add to, and readers.

The inbox has a row a minute, trigger and writer, so that no two processes wait for each other. Its
rows are locked, added to the sums of each span and deleted in one transaction, so any number of
beats may do it, and readers add the two up.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from eventing.logs.counting import (
    MOVED_AT_ONCE,
    SETTLED_SECONDS,
    SPANS,
    Statistic,
    columns_of_sums,
    span_for,
    statistic_of,
)
from eventing.logs.myconnections import Connections, Transaction, again_after_a_deadlock
from eventing.logs.mystatements import NOW, STATS, STATS_SPAN, portions

# `STORED` is a word of the language.
_COLUMNS: Final = columns_of_sums("arrived")
_NAMES: Final = ", ".join(_COLUMNS)
_SUMS: Final = ", ".join(f"SUM({name})" for name in _COLUMNS)
_ADDED: Final = ", ".join(f"{name} = {name} + VALUES({name})" for name in _COLUMNS)
_DEFINED: Final = ", ".join(f"{name} BIGINT NOT NULL" for name in _COLUMNS)

# `arrived` counts by the minute of the commit, the rest by the minute it happened in.
TABLES: Final = f"""
CREATE TABLE IF NOT EXISTS {STATS} (
    minute_at BIGINT NOT NULL,
    trigger_id BIGINT NOT NULL,
    writer VARCHAR(40) NOT NULL,
    project_id BIGINT NOT NULL,
    {_DEFINED},
    PRIMARY KEY (minute_at, trigger_id, writer),
    KEY event_stats_project (project_id, minute_at)
) {{options}};

CREATE TABLE IF NOT EXISTS {STATS_SPAN} (
    span_seconds INT NOT NULL,
    begins_at BIGINT NOT NULL,
    trigger_id BIGINT NOT NULL,
    project_id BIGINT NOT NULL,
    {_DEFINED},
    PRIMARY KEY (span_seconds, begins_at, trigger_id),
    KEY event_stats_span_project (project_id, span_seconds, begins_at)
) {{options}};
"""


def add(at: Transaction, rows: Sequence[tuple[int, ...]], writer: str) -> None:
    """Add rows of `eventing.logs.counting` to the inbox."""
    at.insert(
        f"INSERT INTO {STATS} (minute_at, trigger_id, project_id, {_NAMES}, writer)",
        [f"({minute * 1000},{','.join(map(str, row))},'{writer}')" for minute, *row in rows],
        f"ON DUPLICATE KEY UPDATE {_ADDED}",
    )


def settle(connections: Connections) -> int:
    """Move what is settled from the inbox into the spans, and forget old sums; returns how many
    rows were moved."""
    moved = 0
    while some := _move(connections):
        moved += some
    _forget_old(connections)
    return moved


@again_after_a_deadlock
def _move(connections: Connections) -> int:
    with connections.transaction() as at:
        # By primary key, oldest first; those that somebody holds wait for the next time.
        found = at.rows(
            f"""
            SELECT minute_at, trigger_id, writer, project_id, {_NAMES} FROM {STATS}
            WHERE minute_at < {NOW} - {SETTLED_SECONDS * 1000}
            ORDER BY minute_at, trigger_id, writer LIMIT {MOVED_AT_ONCE}
            FOR UPDATE SKIP LOCKED"""
        )
        if not found:
            return 0
        sums: dict[tuple[int, ...], list[int]] = defaultdict(lambda: [0] * len(_COLUMNS))
        for minute_at, trigger_id, _, project_id, *counted in found:
            for span in SPANS:
                begins_at = minute_at // 1000 // span * span
                row = sums[span, begins_at, trigger_id, project_id]
                for number, count in enumerate(counted):
                    row[number] += count
        at.insert(
            f"INSERT INTO {STATS_SPAN} (span_seconds, begins_at, trigger_id, project_id, {_NAMES})",
            [f"({','.join(map(str, (*key, *row)))})" for key, row in sorted(sums.items())],
            f"ON DUPLICATE KEY UPDATE {_ADDED}",
        )
        for keys in portions(found):
            listed = ",".join(
                f"({minute:d},{trigger:d},'{writer}')" for minute, trigger, writer, *_ in keys
            )
            at.run(f"DELETE FROM {STATS} WHERE (minute_at, trigger_id, writer) IN ({listed})")
        return len(found)


@again_after_a_deadlock
def _forget_old(connections: Connections) -> None:
    for span, kept_seconds in SPANS.items():
        with connections.transaction() as at:
            # By primary key.
            at.run(
                f"DELETE FROM {STATS_SPAN} WHERE span_seconds = {span:d}"
                f" AND begins_at < {NOW} DIV 1000 - {kept_seconds:d}"
            )


def read(
    connections: Connections,
    project_id: int,
    since: datetime,
    until: datetime,
    step_seconds: int,
    by_trigger: bool,
    trigger_id: int | None,
) -> list[Statistic]:
    """The sums of steps that begin at or after `since` and before `until`, oldest first."""
    begin, end = int(since.timestamp()), int(until.timestamp())
    only = "" if trigger_id is None else f" AND trigger_id = {trigger_id:d}"
    step = f"{step_seconds:d}"
    with connections.transaction() as at:
        # By event_stats_span_project and event_stats_project, in one snapshot.
        found = at.rows(
            f"""
            SELECT at DIV {step} * {step} AS step_at,
                   {"trigger_id" if by_trigger else "0"} AS of_trigger, {_SUMS}
            FROM (
                SELECT begins_at AS at, trigger_id, {_NAMES} FROM {STATS_SPAN}
                WHERE project_id = {project_id:d} AND span_seconds = {span_for(step_seconds):d}
                  AND begins_at >= {begin} AND begins_at < {end}{only}
                UNION ALL
                SELECT minute_at DIV 1000, trigger_id, {_NAMES} FROM {STATS}
                WHERE project_id = {project_id:d}
                  AND minute_at >= {begin}000 AND minute_at < {end}000{only}
            ) AS counted
            GROUP BY step_at, of_trigger ORDER BY step_at, of_trigger"""
        )
    return [statistic_of(row) for row in found]
