"""Waiting on conditions. A test that needs something to have happened asks for it here, by what can
be observed, and never sleeps for a time that is hoped to be long enough.
"""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

_INTERVAL_SECONDS = 0.02


def wait_until(
    condition: Callable[[], Answer], timeout_seconds: float = 10.0, message: str = ""
) -> Answer:
    """Call `condition` until its answer is true, and return that answer.

    Raises AssertionError with `message` and the last answer when the time is up.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            waited = (
                f"after {timeout_seconds:g} s: {message or 'the condition still does not hold'}"
            )
            raise AssertionError(f"{waited} (last answer: {answer!r})")
        time.sleep(_INTERVAL_SECONDS)
