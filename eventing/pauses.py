"""How long to leave alone what is done again and again, lest it take too much of the time. Pure."""

import math


def pause_seconds(
    took_seconds: float, share: float, *, at_least: float = 0.0, at_most: float = math.inf
) -> float:
    """The pause after work of `took_seconds`, with which it takes no more than `share` of the time
    (0.01: one hundredth) unless `at_most` cuts that short."""
    return min(max(at_least, took_seconds / share - took_seconds), at_most)
