"""Delays and `Retry-After`, against the contract's rules rather than the code's own arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from eventing.backoff import delay_ms, retry_after_ms

NOW_MS = 1_571_489_570_000  # Sat, 19 Oct 2019 12:52:50 GMT


def middle() -> float:
    return 0.5


def test_each_failure_multiplies_the_delay_until_the_cap() -> None:
    delays = [delay_ms(failures, 2000, 4, 3_600_000, middle) for failures in range(1, 6)]
    assert delays == [2000, 8000, 32_000, 128_000, 512_000]
    assert delay_ms(7, 2000, 4, 3_600_000, lambda: 1.0) == 3_600_000


@given(
    failures=some.integers(1, 1000),
    initial_ms=some.integers(1, 86_400_000),
    factor=some.floats(1, 100),
    max_ms=some.integers(1, 604_800_000),
    chance=some.floats(0, 1, exclude_max=True),
)
def test_no_delay_leaves_the_jitter_or_exceeds_the_cap(
    failures: int, initial_ms: int, factor: float, max_ms: int, chance: float
) -> None:
    delay = delay_ms(failures, initial_ms, factor, max_ms, lambda: chance)
    without_jitter = min(initial_ms * factor ** min(failures - 1, 100), max_ms)
    assert without_jitter * 0.8 - 1 <= delay <= min(without_jitter * 1.2 + 1, max_ms)


def test_delays_at_the_cap_still_spread() -> None:
    assert delay_ms(50, 2000, 4, 10_000, lambda: 0.0) == 8000
    assert delay_ms(50, 2000, 4, 10_000, middle) == 9000


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("0", 0),
        ("120", 120_000),
        (" 7 ", 7000),
        ("Sat, 19 Oct 2019 12:53:50 GMT", 60_000),
        ("Saturday, 19-Oct-19 12:53:50 GMT", 60_000),
        ("Sat Oct 19 12:53:50 2019", 60_000),
        ("Sat, 19 Oct 2019 12:52:49 GMT", 0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("99999999999999999999", None),
        ("Sat, 99 Oct 2019 12:53:50 GMT", None),
        ("²", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(value: str, milliseconds: int | None) -> None:
    assert retry_after_ms(value, NOW_MS) == milliseconds


@given(some.text(max_size=60))
def test_no_retry_after_can_raise(value: str) -> None:
    delay = retry_after_ms(value, NOW_MS)
    assert delay is None or delay >= 0
