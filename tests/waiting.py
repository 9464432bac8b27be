"""Waiting on conditions. A test that needs something to have happened asks for it here, by what can
be observed, and never sleeps for a time that is hoped to be long enough.
"""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

# Asking is work, too, and may be most of what the product does meanwhile: whoever has waited for
# long is not in a hurry.
_SHORTEST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.3
_PAUSE_OF_WAITED = 0.08


def wait_until(
    condition: Callable[[], Answer], timeout_seconds: float = 10.0, message: str = ""
) -> Answer:
    """Call `condition` until its answer is true, and return that answer.

    Raises AssertionError with `message` and the last answer when the time is up.
    """
    begun = time.monotonic()
    while True:
        answer = condition()
        if answer:
            return answer
        waited_seconds = time.monotonic() - begun
        if waited_seconds > timeout_seconds:
            waited = (
                f"after {timeout_seconds:g} s: {message or 'the condition still does not hold'}"
            )
            raise AssertionError(f"{waited} (last answer: {answer!r})")
        pause_seconds = max(_SHORTEST_PAUSE_SECONDS, waited_seconds * _PAUSE_OF_WAITED)
        time.sleep(min(pause_seconds, _LONGEST_PAUSE_SECONDS))
