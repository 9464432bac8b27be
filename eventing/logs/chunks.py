"""Chunks of events as they are enqueued: at most 200 of one trigger, which one message carries."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final
from uuid import UUID

from eventing.logs.base import DueChunk

CHUNK_SIZE: Final = 200
# How long a message has until the sweep supposes that it was lost.
SWEEP_GRACE_SECONDS: Final = 10


def chunked(ids_by_trigger: Mapping[int, Sequence[UUID]]) -> list[DueChunk]:
    """Ids as chunks of at most 200 of one trigger."""
    chunks = []
    for trigger_id, ids in ids_by_trigger.items():
        rest = iter(ids)
        while chunk := list(islice(rest, CHUNK_SIZE)):
            chunks.append(DueChunk(trigger_id, chunk))
    return chunks
