"""Pauses: work that comes back takes its share of the time, within the bounds it was given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventing.pauses import pause_seconds


@given(st.floats(0.001, 1000), st.floats(0.001, 1))
def test_work_and_pause_make_the_share(took: float, share: float) -> None:
    pause = pause_seconds(took, share)
    assert pause >= 0
    assert took / (took + pause) == pytest.approx(share)


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 3.0), (0.01, 3.0), (0.1, 9.9), (0.5, 49.5), (2.0, 60.0)]
)
def test_a_pause_keeps_within_its_bounds(took: float, pause: float) -> None:
    assert pause_seconds(took, 0.01, at_least=3.0, at_most=60.0) == pytest.approx(pause)
