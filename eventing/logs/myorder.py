"""The order of events of one document, in a log in MySQL or MariaDB.

An event of an ordered trigger has a key and a place in `delivery`. The first of a key can be
claimed; those behind it have a `sweep_at` that never comes, until the one before is finished.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from eventing.logs.base import DueChunk
from eventing.logs.chunks import chunked
from eventing.logs.myconnections import Transaction
from eventing.logs.mystatements import (
    AFTER_THE_GRACE,
    DELIVERY,
    NEVER,
    SELECTS_AT_ONCE,
    TRIGGER_ORDER,
    listed,
    portions,
)

Key: TypeAlias = tuple[int, int]
"""A trigger's id, and the key of a document."""


def lock_order(at: Transaction, trigger_ids: Iterable[int]) -> None:
    """Keep others from adding to these triggers' orders or taking from them, until the end of the
    transaction: who looks for a predecessor must not miss that it is just finishing."""
    wanted = sorted(set(trigger_ids))
    if wanted:
        # By primary key. A trigger that has no row never had an event in order.
        at.rows(
            f"SELECT trigger_id FROM {TRIGGER_ORDER} WHERE trigger_id IN %s"
            " ORDER BY trigger_id FOR UPDATE",
            wanted,
        )


def places_in_order(
    at: Transaction, events: Sequence[tuple[int, int, UUID]]
) -> dict[UUID, tuple[int, bool]]:
    """For (trigger, key, event) in order: each event's place, and whether it is its turn."""
    if not events:
        return {}
    next_places = _take_places(at, Counter(trigger_id for trigger_id, _, _ in events))
    taken = _taken(at, {(trigger_id, key) for trigger_id, key, _ in events})
    places = {}
    for trigger_id, key, event_id in events:
        places[event_id] = (next_places[trigger_id], (trigger_id, key) not in taken)
        next_places[trigger_id] += 1
        taken.add((trigger_id, key))
    return places


def _take_places(at: Transaction, counts: Counter[int]) -> dict[int, int]:
    """As many places of each trigger as `counts` says: the first of them. Locks the orders."""
    at.insert(
        f"INSERT INTO {TRIGGER_ORDER} (trigger_id, next_place)",
        [f"({trigger_id:d},{count:d})" for trigger_id, count in sorted(counts.items())],
        "ON DUPLICATE KEY UPDATE next_place = next_place + VALUES(next_place)",
    )
    found = at.rows(
        f"SELECT trigger_id, next_place FROM {TRIGGER_ORDER} WHERE trigger_id IN %s", list(counts)
    )
    return {int(trigger_id): int(end) - counts[trigger_id] for trigger_id, end in found}


def _taken(at: Transaction, keys: Iterable[Key]) -> set[Key]:
    """Those keys that have an event in order."""
    by_trigger: dict[int, list[int]] = defaultdict(list)
    for trigger_id, key in sorted(keys):
        by_trigger[trigger_id].append(key)
    taken: set[Key] = set()
    for trigger_id, of_trigger in by_trigger.items():
        for portion in portions(of_trigger):
            # By delivery_order alone.
            found = at.rows(
                f"SELECT DISTINCT order_key FROM {DELIVERY} FORCE INDEX (delivery_order)"
                " WHERE trigger_id = %s AND order_key IN %s",
                trigger_id,
                list(portion),
            )
            taken |= {(trigger_id, int(key)) for (key,) in found}
    return taken


def free_next(at: Transaction, keys: Iterable[Key]) -> list[DueChunk]:
    """Let the first of each of `keys` be claimed, if it has been waiting for its turn."""
    freed: dict[int, list[UUID]] = defaultdict(list)
    for portion in portions(sorted(keys), SELECTS_AT_ONCE):
        # By delivery_order.
        firsts = " UNION ALL ".join(
            f"(SELECT trigger_id, event_id, sweep_at FROM {DELIVERY} FORCE INDEX (delivery_order)"
            f" WHERE trigger_id = {trigger_id:d} AND order_key = {key:d}"
            " ORDER BY order_seq LIMIT 1)"
            for trigger_id, key in portion
        )
        waiting = [
            (int(trigger_id), UUID(bytes=event_id))
            for trigger_id, event_id, sweep_at in at.rows(firsts)
            if sweep_at == NEVER
        ]
        if not waiting:
            continue
        at.run(
            f"UPDATE {DELIVERY} SET sweep_at = {AFTER_THE_GRACE}"
            f" WHERE event_id IN ({listed(event_id for _, event_id in waiting)})"
        )
        for trigger_id, event_id in waiting:
            freed[trigger_id].append(event_id)
    return chunked({trigger_id: sorted(ids) for trigger_id, ids in freed.items()})
