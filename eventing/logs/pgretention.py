"""What retention takes out of a log in Postgres: events, payloads, and what belongs to them.

Whole days that nobody keeps go with their partitions. Where a project keeps its events or payloads
for less long than others, they go in batches by primary key.
"""

import time
from collections.abc import Sequence
from typing import Final, cast
from uuid import UUID

from eventing.changes import Event
from eventing.ids import committed_at_ms_of, first_id_at
from eventing.logs.days import DAY_MS, day_of
from eventing.logs.kinds import SPARE_SECONDS
from eventing.logs.pgconnections import Connections, Transaction
from eventing.logs.pgorder import free_behind
from eventing.logs.pgstatements import SCHEMA

# Events that one transaction deletes, and how long one call goes on with it.
_EXPIRED_AT_ONCE: Final = 5_000
_EXPIRE_SECONDS: Final = 60.0
# Whether event {} has ended, looked up by primary key for each one: what the planner makes of
# EXISTS may be a comparison with all of a backlog.
_HAS_ENDED: Final = (
    f"coalesce((SELECT d.state FROM {SCHEMA}.delivery d WHERE d.event_id = {{}}), '')"
    " NOT IN ('pending', 'delivering')"
)
# By the catalogue: the names of partitions end with their day.
_OLDEST_DAY: Final = f"""
    SELECT min(right(c.relname, 8)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = '{SCHEMA}.event_log'::regclass"""
_FORGET_KINDS: Final = f"DELETE FROM {SCHEMA}.event_kind WHERE noted_at < to_timestamp(%s)"


def expire(
    connections: Connections, project_id: int, events_before: int, payloads_before: int
) -> tuple[int, int]:
    """Delete a project's old events, and forget the payloads of less old ones."""
    with connections.transaction() as at:
        at.run(
            f"SELECT events_from, payloads_from FROM {SCHEMA}.kept WHERE project_id = %s",
            project_id,
        )
        events_from, payloads_from = at.fetchone() or (0, 0)
    ends_at = time.monotonic() + _EXPIRE_SECONDS
    deleted = 0
    if events_before > events_from:
        while some := _delete_events(connections, project_id, events_before):
            deleted += some
            if time.monotonic() > ends_at:
                return deleted, 0
        with connections.transaction() as at:
            last_noted = _last_noted(events_before)
            at.run(f"{_FORGET_KINDS} AND project_id = %s", last_noted, project_id)
            _keep_from(at, project_id, events_before, 0)
    forgotten = _forget_overdue_payloads(connections, project_id)
    oldest = max(payloads_from, events_before, _oldest_day(connections))
    for day in range(oldest, payloads_before):
        forgotten += _forget_payloads(connections, project_id, day)
        _note_kept(connections, project_id, 0, day + 1)
        if time.monotonic() > ends_at:
            break
    return deleted, forgotten


def note_late(at: Transaction, project_id: int, events: Sequence[Event]) -> None:
    """Note those of these events whose payloads are not kept any longer, though they come now."""
    at.run(f"SELECT payloads_from FROM {SCHEMA}.kept WHERE project_id = %s", project_id)
    row = at.fetchone()
    kept_from = str(first_id_at((row[0] if row else 0) * DAY_MS))
    late = [event.id_text for event in events if event.id_text < kept_from]
    if late:
        at.run(
            f"INSERT INTO {SCHEMA}.overdue_payload SELECT %s, unnest(%s::uuid[])",
            project_id,
            late,
        )


def _oldest_day(connections: Connections) -> int:
    """The day of the oldest event there is, or today; by primary key."""
    with connections.transaction() as at:
        at.run(f"SELECT id::text FROM {SCHEMA}.event_log ORDER BY id LIMIT 1")
        row = at.fetchone()
    oldest_ms = committed_at_ms_of(UUID(row[0])) if row else int(time.time() * 1000)
    return oldest_ms // DAY_MS


def _delete_events(connections: Connections, project_id: int, before_day: int) -> int:
    """Delete some of a project's events of days before one; returns how many."""
    before = str(first_id_at(before_day * DAY_MS))
    with connections.transaction() as at:
        # By event_log_kind, then all by primary key.
        at.run(
            f"""
            SELECT old.id::text FROM (
                SELECT DISTINCT trigger_id, "table", operation, database_id
                FROM {SCHEMA}.event_kind WHERE project_id = %s
            ) AS kind
            CROSS JOIN LATERAL (
                SELECT e.id FROM {SCHEMA}.event_log e
                WHERE e.trigger_id = kind.trigger_id AND e."table" = kind."table"
                  AND e.operation = kind.operation AND e.database_id = kind.database_id
                  AND e.id < %s::uuid
                ORDER BY e.id LIMIT {_EXPIRED_AT_ONCE}
            ) AS old
            LIMIT {_EXPIRED_AT_ONCE}""",
            project_id,
            before,
        )
        ids = [text for (text,) in at.fetchall()]
        if not ids:
            return 0
        between = "BETWEEN %s::uuid AND %s::uuid"
        chosen = (ids, min(ids), max(ids))
        at.run(
            f"DELETE FROM {SCHEMA}.invocation_log WHERE event_id = ANY (%s::uuid[])"
            f" AND event_id {between}",
            *chosen,
        )
        at.run(
            f"DELETE FROM {SCHEMA}.delivery WHERE event_id = ANY (%s::uuid[])"
            " RETURNING trigger_id, order_key",
            ids,
        )
        free_behind(at)
        at.run(
            f"DELETE FROM {SCHEMA}.event_log WHERE id = ANY (%s::uuid[]) AND id {between}",
            *chosen,
        )
        return len(ids)


def _forget_payloads(connections: Connections, project_id: int, day: int) -> int:
    """Forget the payloads of one day, in batches by primary key; returns how many."""
    last, end = str(first_id_at(day * DAY_MS)), str(first_id_at((day + 1) * DAY_MS))
    forgotten = 0
    while True:
        with connections.transaction() as at:
            at.run(
                f"SELECT id::text FROM {SCHEMA}.event_log"
                " WHERE project_id = %s AND id > %s::uuid AND id < %s::uuid"
                f" ORDER BY id LIMIT {_EXPIRED_AT_ONCE}",
                project_id,
                last,
                end,
            )
            ids = [text for (text,) in at.fetchall()]
            if not ids:
                return forgotten
            last = ids[-1]
            forgotten += _forget_payloads_of(at, ids)
            at.run(
                f"INSERT INTO {SCHEMA}.overdue_payload SELECT project_id, id"
                f" FROM {SCHEMA}.event_log WHERE id = ANY (%s::uuid[])"
                " AND id BETWEEN %s::uuid AND %s::uuid AND payload IS NOT NULL"
                " ON CONFLICT DO NOTHING",
                ids,
                ids[0],
                ids[-1],
            )


def _forget_overdue_payloads(connections: Connections, project_id: int) -> int:
    """Forget the payloads of events that have ended since their day went; returns how many."""
    forgotten = 0
    while True:
        with connections.transaction() as at:
            # Both by primary key.
            at.run(
                f"""
                SELECT o.event_id::text FROM {SCHEMA}.overdue_payload o
                WHERE o.project_id = %s AND {_HAS_ENDED.format("o.event_id")}
                ORDER BY o.event_id LIMIT {_EXPIRED_AT_ONCE}""",
                project_id,
            )
            ids = [text for (text,) in at.fetchall()]
            if not ids:
                return forgotten
            forgotten += _forget_payloads_of(at, ids)
            at.run(
                f"""
                DELETE FROM {SCHEMA}.overdue_payload o
                WHERE project_id = %s AND event_id = ANY (%s::uuid[])
                  AND NOT EXISTS (SELECT FROM {SCHEMA}.event_log e WHERE e.id = o.event_id
                                  AND e.payload IS NOT NULL)""",
                project_id,
                ids,
            )


def _forget_payloads_of(at: Transaction, ids: Sequence[str]) -> int:
    """Forget the payloads of those of these events that have ended; returns how many.

    `ids` are in order. What still waits keeps its payload: it has yet to be sent. The rows are
    locked first, so that the next statement sees what has been redelivered until then.
    """
    chosen = (ids, ids[0], ids[-1])
    among = "id = ANY (%s::uuid[]) AND id BETWEEN %s::uuid AND %s::uuid"
    at.run(
        f"SELECT FROM {SCHEMA}.event_log WHERE {among} AND payload IS NOT NULL"
        " ORDER BY id FOR NO KEY UPDATE",
        *chosen,
    )
    at.run(
        f"UPDATE {SCHEMA}.event_log e SET payload = NULL WHERE {among} AND payload IS NOT NULL"
        f" AND {_HAS_ENDED.format('e.id')}",
        *chosen,
    )
    return at.rowcount


def forget_before(connections: Connections, day: int) -> None:
    """Remove deliveries and statistics of events that retention has dropped.

    Of days before `day`, and before the oldest that is left: while somebody reads it, it stays.
    """
    with connections.transaction() as at:
        # No older day comes meanwhile.
        at.run("SELECT pg_advisory_xact_lock(hashtext('mission_control.partitions'))")
        at.run(_OLDEST_DAY)
        (suffix,) = cast(tuple[str | None], at.fetchone())
        day = min(day, day_of(suffix)) if suffix else day
        at.run(
            f"DELETE FROM {SCHEMA}.delivery WHERE event_id < %s::uuid"
            " RETURNING trigger_id, order_key",
            str(first_id_at(day * DAY_MS)),
        )
        free_behind(at)
        at.run(
            f"DELETE FROM {SCHEMA}.overdue_payload WHERE event_id < %s::uuid",
            str(first_id_at(day * DAY_MS)),
        )
        at.run(_FORGET_KINDS, _last_noted(day))
        _keep_from(at, 0, day, 0)


def _note_kept(connections: Connections, project_id: int, events: int, payloads: int) -> None:
    with connections.transaction() as at:
        _keep_from(at, project_id, events, payloads)


def _keep_from(at: Transaction, project_id: int, events: int, payloads: int) -> None:
    """Note the first days that a project's events and payloads are kept of."""
    at.run(
        f"""
        INSERT INTO {SCHEMA}.kept AS k (project_id, events_from, payloads_from)
        VALUES (%s, %s, %s)
        ON CONFLICT (project_id) DO UPDATE SET
            events_from = greatest(k.events_from, EXCLUDED.events_from),
            payloads_from = greatest(k.payloads_from, EXCLUDED.payloads_from)""",
        project_id,
        events,
        payloads,
    )


def _last_noted(first_day: int) -> int:
    """When a kind was noted last that has no event from this day on, in seconds since the epoch."""
    return first_day * DAY_MS // 1000 - SPARE_SECONDS
