"""Days as logs count them, from the epoch: each has a part of the log of its own."""

from datetime import date, timedelta
from typing import Final

DAY_MS: Final = 86_400_000


def partition_suffix(day: int) -> str:
    """The name's ending for a day counted from the epoch: 20261124."""
    return f"{date(1970, 1, 1) + timedelta(days=day):%Y%m%d}"
