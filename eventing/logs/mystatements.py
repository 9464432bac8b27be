"""What the statements of a log in MySQL or MariaDB are made of: its tables' names, times, and ids.

Times are milliseconds since the epoch, ids are sixteen bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar
from uuid import UUID

from eventing.logs.chunks import SWEEP_GRACE_SECONDS
from eventing.mysqlserver import OWN_TABLES

EVENT_LOG: Final = f"{OWN_TABLES}event_log"
DELIVERY: Final = f"{OWN_TABLES}delivery"
INVOCATION_LOG: Final = f"{OWN_TABLES}invocation_log"
POSITION: Final = f"{OWN_TABLES}capture_position"
STATS: Final = f"{OWN_TABLES}event_stats"
STATS_SPAN: Final = f"{OWN_TABLES}event_stats_span"
KEPT: Final = f"{OWN_TABLES}kept"
OVERDUE_PAYLOAD: Final = f"{OWN_TABLES}overdue_payload"
EVENT_KIND: Final = f"{OWN_TABLES}event_kind"
TRIGGER_ORDER: Final = f"{OWN_TABLES}trigger_order"
OWNER: Final = f"{OWN_TABLES}owner"

# MariaDB makes a temporary table of a list of a thousand.
LISTED_AT_ONCE: Final = 900
# So that a statement stays readable for the server's parser.
SELECTS_AT_ONCE: Final = 100

NOW: Final = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)"
AFTER_THE_GRACE: Final = f"{NOW} + {SWEEP_GRACE_SECONDS * 1000}"
# The `sweep_at` of what must not be claimed.
NEVER: Final = 1 << 62

Item = TypeVar("Item")


def hexadecimal(identifier: UUID) -> str:
    """An id as a literal."""
    return f"x'{identifier.hex}'"


def listed(ids: Iterable[UUID]) -> str:
    """Ids as IN takes them."""
    return ",".join([f"x'{identifier.hex}'" for identifier in ids])


def portions(items: Sequence[Item], size: int = LISTED_AT_ONCE) -> Iterator[Sequence[Item]]:
    """`items` in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
