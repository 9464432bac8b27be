"""What the statements of a log in Postgres are made of: settings, times, ids and lines of COPY.

The settings hold for one transaction each, and keep the planner from what stale statistics would
make it do.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from eventing.logs.chunks import SWEEP_GRACE_SECONDS
from eventing.postgresserver import OWN_SCHEMA

SCHEMA: Final = OWN_SCHEMA

# Statistics lag behind a backlog, and then all of it would be sorted for its first rows.
IN_ORDER_OF_THE_INDEX: Final = "SET LOCAL enable_sort = off;"

# Whoever waits for an exclusive lock keeps all others waiting behind it.
IMPATIENT: Final = "SET LOCAL lock_timeout = '2s'"

# A batch is a few rows of a large table, of which stale statistics would have all read.
BY_INDEX: Final = "SET LOCAL enable_seqscan = off;"

# In COPY's text format.
NULL: Final = "\\N"

# A claim that a crash of the server undoes is an event that is sent again.
NEED_NOT_LAST: Final = "SET LOCAL synchronous_commit = off;"

# A source is told of what is stored, and then forgets it: that has to last, whatever the server's
# default. What also waits for standbys stays as it is.
MUST_LAST: Final = (
    "SELECT set_config('synchronous_commit', replace(current_setting('synchronous_commit'),"
    " 'off', 'on'), true);"
)

# Text that means the same to every session, whatever its DateStyle and time zone.
AFTER_THE_GRACE: Final = (
    f"to_char((now() + interval '{SWEEP_GRACE_SECONDS} seconds') AT TIME ZONE 'UTC',"
    " 'YYYY-MM-DD HH24:MI:SS.US') || '+00'"
)


def array(texts: Iterable[str]) -> str:
    """Texts that need no quotes as one array literal: the server reads that at a fraction of the
    cost of an ARRAY[…] that psycopg2 would make of a list."""
    return f"{{{','.join(texts)}}}"


def escaped(text: str) -> str:
    """`text` as a field of COPY's text format (Postgres manual, "COPY", File Formats); U+0000,
    which Postgres cannot hold, becomes U+FFFD."""
    # One search a character takes a tenth of what one expression over all of them does.
    if not ("\\" in text or "\n" in text or "\t" in text or "\r" in text or "\x00" in text):
        return text
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return text.replace("\r", "\\r").replace("\x00", "\ufffd")


def nullable(value: str | int | None) -> str:
    """A value as a field of COPY's text format, or NULL."""
    return NULL if value is None else escaped(str(value))


@lru_cache(maxsize=4096)
def timestamp(milliseconds: int) -> str:
    """Milliseconds since the epoch as a timestamptz literal."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d}+00"
