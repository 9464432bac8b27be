"""Days as logs count them, from the epoch: each has a part of the log of its own."""

import time
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1)
# Whatever is committed on a day after this one, counted back from today, comes in time.
_IN_TIME_DAYS: Final = 1


def are_late(days: Iterable[int]) -> bool:
    """Whether retention may have passed one of these days already."""
    return min(days) < int(time.time() * 1000) // DAY_MS - _IN_TIME_DAYS


def partition_suffix(day: int) -> str:
    """The name's ending for a day counted from the epoch: 20261124."""
    return f"{_EPOCH + timedelta(days=day):%Y%m%d}"


def day_of(suffix: str) -> int:
    """The day that such an ending stands for, counted from the epoch."""
    return (date(int(suffix[:4]), int(suffix[4:6]), int(suffix[6:])) - _EPOCH).days
