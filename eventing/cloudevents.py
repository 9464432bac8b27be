"""The bytes an endpoint receives: the payload of contract section 2, built once per event as text.

The document arrives as JSON text and is placed as it is, so its numbers keep all their digits.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import orjson

from eventing.changes import EVENT_TYPES, SOURCE_NAMES, Change, Event, Origin
from eventing.ids import event_id_text, order_key
from eventing.matching import Matcher

MAX_PAYLOAD_CHARACTERS: Final = 64 * 1024 * 1024
# What a list of events shows of each has to be short.
MAX_ID_CHARACTERS: Final = 10_000


class EventBuilder:
    """Makes the events of one database's changes; `node_id` is their `source`."""

    def __init__(self, origin: Origin, node_id: str, matcher: Matcher) -> None:
        self._origin = origin
        self._matcher = matcher
        self._source = orjson.dumps(node_id).decode()
        self._database = orjson.dumps(SOURCE_NAMES[origin.type]).decode()
        self._heads: dict[tuple[str, str], tuple[str, str]] = {}

    def events(self, changes: Sequence[Change]) -> list[Event]:
        """One event for each change and each trigger that matches it, in order."""
        database_id = self._origin.database_id
        rules_for = self._matcher.rules_for
        events = []
        for change in changes:
            rules = rules_for(change.table, change.operation)
            if rules and _is_too_large(change):
                change = _without_what_is_too_large(change)
            for rule in rules:
                id_text = event_id_text(
                    change.committed_at_ms,
                    change.index,
                    rule.trigger_id,
                    database_id,
                    change.position,
                )
                problem = change.problem
                events.append(
                    Event(
                        id_text,
                        rule.trigger_id,
                        rule.trigger,
                        change.table,
                        change.operation,
                        change.document_id,
                        self._payload(id_text, change),
                        change.committed_at_ms,
                        problem,
                        order_key(database_id, change.table, change.document_id)
                        if rule.ordered and problem is None
                        else None,
                        change.shown_position,
                    )
                )
        return events

    def _payload(self, identifier: str, change: Change) -> str:
        key = (change.table, change.operation)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = (
                f'","type":"{EVENT_TYPES[change.operation]}","source":{self._source},"time":"',
                f'","data":{{"db":{self._database},"col":{orjson.dumps(change.table).decode()}'
                ',"docId":',
            )
        return (
            f'{{"specversion":"1.0-rc1","id":"{identifier}{head[0]}'
            f"{time_text(change.committed_at_ms)}{head[1]}"
            f'{orjson.dumps(change.document_id).decode()},"doc":{change.document}}}}}'
        )


def _is_too_large(change: Change) -> bool:
    return (
        len(change.document) > MAX_PAYLOAD_CHARACTERS or len(change.document_id) > MAX_ID_CHARACTERS
    )


def _without_what_is_too_large(change: Change) -> Change:
    """The change as it is logged as failed: with the beginning of its id, and no document."""
    if len(change.document) > MAX_PAYLOAD_CHARACTERS:
        problem = (
            f"the document is {len(change.document)} characters long; at most"
            f" {MAX_PAYLOAD_CHARACTERS} are delivered"
        )
    else:
        problem = (
            f"the document's id is {len(change.document_id)} characters long; at most"
            f" {MAX_ID_CHARACTERS} are delivered"
        )
    identifier = change.document_id[:MAX_ID_CHARACTERS]
    return change._replace(document_id=identifier, document="{}", problem=problem)


@lru_cache(maxsize=1024)
def time_text(milliseconds: int) -> str:
    """Milliseconds since the epoch as `2019-10-19T12:40:50.053Z`."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
