"""The order of events of one document, in a log in Postgres.

An event of an ordered trigger has a key and a place in `delivery`. The first of a key can be
claimed; those behind it have a `sweep_at` that never comes, until the one before is finished.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, cast
from uuid import UUID

from eventing.ids import order_key
from eventing.logs.base import DueChunk
from eventing.logs.chunks import SWEEP_GRACE_SECONDS, chunked
from eventing.logs.pgconnections import Transaction
from eventing.logs.pgstatements import BY_INDEX, SCHEMA, array

# More than one transaction ever stores.
_PLACES_IN_A_BLOCK: Final = 1 << 24


def lock_order(at: Transaction, trigger_ids: set[int]) -> None:
    """Keep others from adding to these triggers' orders or taking from them, until the end of
    the transaction: who looks for a predecessor must not miss that it is just finishing."""
    at.run(
        "SELECT pg_advisory_xact_lock(hashtext('mission_control.order'), (id %% 1000000007)"
        "::int) FROM unnest(%s::bigint[]) AS id",
        sorted(trigger_ids),
    )


def places_in_order(
    at: Transaction, events: Sequence[tuple[int, int, str]]
) -> dict[str, tuple[int, bool]]:
    """For (trigger, key, event) in order: each event's place, and whether it is its turn."""
    if not events:
        return {}
    lock_order(at, {trigger_id for trigger_id, _, _ in events})
    pairs = sorted({(trigger_id, key) for trigger_id, key, _ in events})
    # By delivery_order.
    at.run(
        f"""
        SELECT trigger_id, order_key FROM unnest(%s::bigint[], %s::bigint[])
            AS wanted (trigger_id, order_key)
        WHERE EXISTS (SELECT FROM {SCHEMA}.delivery d WHERE d.trigger_id = wanted.trigger_id
                      AND d.order_key = wanted.order_key)""",
        *map(list, zip(*pairs, strict=True)),
    )
    taken = set(at.fetchall())
    at.run(f"SELECT nextval('{SCHEMA}.delivery_order_block')")
    first_place = cast(tuple[int], at.fetchone())[0] * _PLACES_IN_A_BLOCK
    places = {}
    for number, (trigger_id, key, event_id) in enumerate(events):
        places[event_id] = (first_place + number, (trigger_id, key) not in taken)
        taken.add((trigger_id, key))
    return places


def free_next(at: Transaction, pairs: set[tuple[int, int]]) -> list[DueChunk]:
    """Let the first of each (trigger, key) be claimed, if it has been waiting for its turn."""
    if not pairs:
        return []
    # By delivery_order.
    at.run(
        f"""{BY_INDEX}
        SELECT done.trigger_id, next.event_id::text
        FROM unnest(%s::bigint[], %s::bigint[]) AS done (trigger_id, order_key)
        CROSS JOIN LATERAL (
            SELECT event_id, sweep_at FROM {SCHEMA}.delivery
            WHERE trigger_id = done.trigger_id AND order_key = done.order_key
            ORDER BY order_seq LIMIT 1
        ) next
        WHERE next.sweep_at = 'infinity'""",
        *map(list, zip(*sorted(pairs), strict=True)),
    )
    free = at.fetchall()
    if free:
        let_go_in(at, SWEEP_GRACE_SECONDS, [event_id for _, event_id in free])
    return chunks_of_rows(free)


def let_go_in(at: Transaction, seconds: float, event_ids: Sequence[str]) -> None:
    """Have the sweep look for these events in so many seconds, unless a worker claims them."""
    # By primary key.
    at.run(
        f"""{BY_INDEX}
        UPDATE {SCHEMA}.delivery SET sweep_at = now() + %s * interval '1 second'
        WHERE event_id = ANY (%s::uuid[])""",
        seconds,
        array(event_ids),
    )


def free_behind(at: Transaction) -> None:
    """Let go of what waited for the (trigger, key) that `at` has just deleted."""
    pairs = {(trigger_id, key) for trigger_id, key in at.fetchall() if key is not None}
    if pairs:
        lock_order(at, {trigger_id for trigger_id, _ in pairs})
        free_next(at, pairs)


def put_in_order(at: Transaction, texts: Sequence[str]) -> None:
    """Give pending events of ordered triggers a place behind the others of their documents."""
    if not texts:
        return
    at.run(
        f"""
        SELECT trigger_id, database_id, "table", doc_id, id::text FROM {SCHEMA}.event_log
        WHERE id = ANY (%s::uuid[]) ORDER BY id""",
        list(texts),
    )
    events = [
        (trigger_id, order_key(database_id, table, document_id), text)
        for trigger_id, database_id, table, document_id, text in at.fetchall()
    ]
    places = places_in_order(at, events)
    # By primary key.
    at.run(
        f"""{BY_INDEX}
        UPDATE {SCHEMA}.delivery d
        SET order_key = o.order_key, order_seq = o.place,
            sweep_at = CASE WHEN o.is_first THEN d.sweep_at ELSE 'infinity' END
        FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bool[])
            AS o (event_id, order_key, place, is_first)
        WHERE d.event_id = ANY (%s::uuid[]) AND d.event_id = o.event_id""",
        [text for _, _, text in events],
        [key for _, key, _ in events],
        [places[text][0] for _, _, text in events],
        [places[text][1] for _, _, text in events],
        array(texts),
    )


def chunks_of_rows(rows: Sequence[tuple[int, str]]) -> list[DueChunk]:
    """(trigger id, event id) pairs as chunks of one trigger each, ids in order."""
    by_trigger: dict[int, list[UUID]] = defaultdict(list)
    for trigger_id, event_id in rows:
        by_trigger[trigger_id].append(UUID(event_id))
    return chunked({trigger_id: sorted(ids) for trigger_id, ids in by_trigger.items()})
