"""How long to wait before a failed invocation is tried again (contract section 2)."""

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

JITTER: Final = 0.2
# Beyond this many steps, every delay has long reached its cap.
_MOST_STEPS: Final = 100
_LONGEST_RETRY_AFTER_MS: Final = 366 * 86_400_000


def delay_ms(
    failures: int, initial_ms: int, factor: float, max_ms: int, random: Callable[[], float]
) -> int:
    """Milliseconds to wait after the `failures`-th failure in a row, counted from 1.

    `initial_ms` × `factor`^(failures−1), with a jitter of ±20 % and never more than `max_ms`.
    `random` returns numbers from 0 up to 1.
    """
    steps = min(max(failures, 1) - 1, _MOST_STEPS)
    delay = min(initial_ms * float(factor) ** steps, float(max_ms))
    # Near the cap only the lower part of the jitter is left, so that delays still spread.
    shortest, longest = delay * (1 - JITTER), min(delay * (1 + JITTER), float(max_ms))
    return round(shortest + (longest - shortest) * random())


def retry_after_ms(value: str, now_ms: int) -> int | None:
    """Milliseconds that a `Retry-After` asks for: seconds or a date (RFC 9110, section 10.2.3).

    A date that has passed asks for 0; None if the value is neither, or longer than a year.
    """
    value = value.strip()
    if value.isascii() and value.isdecimal() and len(value) <= 10:
        delay = int(value) * 1000
    else:
        try:
            moment = parsedate_to_datetime(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            delay = max(0, int(moment.timestamp() * 1000) - now_ms)
        except (ValueError, OverflowError):
            return None
    return delay if delay <= _LONGEST_RETRY_AFTER_MS else None
