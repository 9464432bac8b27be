"""Event ids: time-ordered and deterministic, so that a replayed change gets the same id.

A version-8 UUID (RFC 9562 section 5.8): 48 bits of commit milliseconds, 12 bits of the change's
place among its neighbours, then 62 bits of a hash over trigger, database and position.
"""

from hashlib import blake2b
from typing import Final
from uuid import UUID

_VARIANT: Final = 0b10 << 62
_LOW_62: Final = (1 << 62) - 1
_MAX_MS: Final = (1 << 48) - 1


def event_id_text(
    committed_at_ms: int, index: int, trigger_id: int, database_id: int, position: str
) -> str:
    """The id of the event that `trigger_id` makes of the change at `position` of `database_id`, as
    the text of a UUID.

    `index` is the change's number within its transaction: it orders events of one millisecond,
    up to 4 095 of them, and never tells them apart.
    """
    digest = blake2b(f"{trigger_id}/{database_id}/{position}".encode(), digest_size=8).digest()
    low = _VARIANT | (int.from_bytes(digest, "big") & _LOW_62)
    head = f"{max(0, min(committed_at_ms, _MAX_MS)):012x}"
    tail = f"{low:016x}"
    # A UUID object would be made for nothing but this text, at several times the cost.
    return f"{head[:8]}-{head[8:]}-8{min(index, 4095):03x}-{tail[:4]}-{tail[4:]}"


def event_id_in(text: str) -> UUID | None:
    """The event's id that a text is, None if it is none."""
    try:
        identifier = UUID(text)
    except ValueError:
        return None
    return identifier if identifier.version == 8 else None


def first_id_at(milliseconds: int) -> UUID:
    """The smallest id an event committed at `milliseconds` since the epoch can have."""
    return UUID(int=max(0, min(milliseconds, _MAX_MS)) << 80)


def committed_at_ms_of(identifier: UUID) -> int:
    """The commit time an id carries, in milliseconds since the epoch."""
    return identifier.int >> 80


def committed_at_ms_in(text: str) -> int:
    """The same of an id as text, without making a UUID of it first."""
    return int(text[:8] + text[9:13], 16)


def order_key(database_id: int, table: str, document_id: str) -> int:
    """A signed 64-bit number, the same for every event of one document.

    Two documents that share one by chance wait for each other, which is slow and never wrong.
    """
    name = f"{database_id}/{table}/{document_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big", signed=True)
