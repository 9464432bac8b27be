"""What pages and single events have in common in every log: cursors, times as ids, what is shown.

A page's cursor is the id of its last event. Ids begin with the time of the commit, so that a range
of times is one of ids.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from eventing.ids import first_id_at
from eventing.logs.base import EventRow, InvalidCursor, Invocation, Page

# How many of the newest events are looked at for a page of a project that has many kinds.
DENSE_ROWS: Final = 1_000
FEW_KINDS: Final = 8

# What `invocation` takes.
INVOCATION_COLUMNS: Final = (
    "attempt, started_at, duration_ms, url, request_headers, status_code, response_headers,"
    " response_body, error_kind, error_message, worker"
)


def id_of_cursor(cursor: str | None) -> UUID | None:
    """The id that a page's events are older than. Raises InvalidCursor."""
    if cursor is None:
        return None
    try:
        return UUID(hex=cursor)
    except ValueError:
        raise InvalidCursor("the cursor was not made by this log") from None


def id_at(moment: datetime | None) -> UUID | None:
    """The first id of a moment."""
    return None if moment is None else first_id_at(int(moment.timestamp() * 1000))


def page(
    ids: Sequence[UUID], rows: Sequence[EventRow], limit: int, ended_at: UUID | None = None
) -> Page:
    """A page of at most `limit`; one more that was found leads to the next page, and else
    `ended_at`, if the search ended at that event before it was through."""
    if len(ids) > limit:
        ended_at = ids[limit - 1]
    return Page(list(rows[:limit]), None if ended_at is None else ended_at.hex)


def headers_text(headers: Sequence[tuple[str, str]]) -> str:
    """Headers as they are stored."""
    return orjson.dumps(headers).decode() if headers else "[]"


def invocation(row: Sequence[Any]) -> Invocation:
    """A row of the invocation log as it is shown."""
    attempt, started_at, duration_ms, url, request_headers, status_code, *rest = row
    response_headers, *last = rest
    return Invocation(
        attempt,
        started_at,
        duration_ms,
        url,
        [(name, value) for name, value in orjson.loads(request_headers)],
        status_code,
        [(name, value) for name, value in orjson.loads(response_headers)],
        *last,
    )
