"""Charts as shapes: all that a template needs to draw one as SVG without any style of its own.

A chart is drawn in units of its own (100 high, 10 a step wide) and stretched to where it stands;
scales, times and the table behind it are text beside it, so that nothing is too small to read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventing.stats import Bucket, Series

_HEIGHT: Final = 100.0
_STEP_WIDTH: Final = 10
_GAP: Final = 1
_LEAST_HEIGHT: Final = 1.5


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a bar: `kind` is what it counts."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one step, over the whole height."""

    x: int
    width: int
    bucket: Bucket
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """A line in steps, as the `d` of a path; it is interrupted where there is nothing to show."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: `ticks` are the values of the scale at even distances, from the top down."""

    width: int
    ticks: tuple[float, ...]
    slots: tuple[Slot, ...]
    parts: tuple[Part, ...] = ()
    lines: tuple[Line, ...] = ()

    @property
    def times(self) -> tuple[datetime, ...]:
        """Beginning, middle and end of the axis of time."""
        middle = self.slots[len(self.slots) // 2].bucket.begins_at
        return (self.slots[0].bucket.begins_at, middle, self.slots[-1].ends_at)

    @property
    def grid(self) -> tuple[float, ...]:
        """Heights of the lines behind the shapes, one a tick."""
        return tuple(
            round(_HEIGHT * number / (len(self.ticks) - 1), 2) for number in range(len(self.ticks))
        )

    @property
    def is_empty(self) -> bool:
        return not self.parts and not any(line.path for line in self.lines)


def outcomes_chart(series: Series) -> Chart:
    """Bars of what attempts came to: delivered, to be retried, failed, one upon the other."""
    top = _top(max(bucket.attempts for bucket in series.buckets))
    parts: list[Part] = []
    for number, bucket in enumerate(series.buckets):
        counts = (
            ("delivered", bucket.delivered),
            ("retried", bucket.retried),
            ("failed", bucket.failed),
        )
        parts += _bar(number, counts, top)
    return Chart(_width(series), (top, top / 2, 0), _slots(series), tuple(parts))


def sparkline(series: Series) -> Chart:
    """Bars of how many events were stored; its scale is its own."""
    top = max(1, *(bucket.stored for bucket in series.buckets))
    parts = [
        part
        for number, bucket in enumerate(series.buckets)
        for part in _bar(number, (("stored", bucket.stored),), top)
    ]
    return Chart(_width(series), (top, 0), _slots(series), tuple(parts))


def latency_chart(series: Series) -> Chart:
    """The median and the 99th percentile, in milliseconds on a scale of powers of ten."""
    found = [
        value
        for bucket in series.buckets
        for value in (bucket.p50_ms, bucket.p99_ms)
        if value is not None
    ]
    low = math.floor(math.log10(max(1.0, min(found, default=1.0))))
    high = max(low + 1, math.ceil(math.log10(max(1.0, *found, 10.0))))

    def height_of(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return round(_HEIGHT * (1 - share), 2)

    lines = (
        Line("p99", _steps(series, lambda bucket: bucket.p99_ms, height_of)),
        Line("p50", _steps(series, lambda bucket: bucket.p50_ms, height_of)),
    )
    ticks = tuple(10.0**power for power in range(high, low - 1, -1))
    return Chart(_width(series), ticks, _slots(series), lines=lines)


def _width(series: Series) -> int:
    return len(series.buckets) * _STEP_WIDTH


def _slots(series: Series) -> tuple[Slot, ...]:
    return tuple(
        Slot(number * _STEP_WIDTH, _STEP_WIDTH, bucket, bucket.begins_at + series.step)
        for number, bucket in enumerate(series.buckets)
    )


def _bar(number: int, counts: Sequence[tuple[str, int]], top: float) -> list[Part]:
    """The pieces of one bar from the bottom up; what is not nothing can be seen."""
    parts: list[Part] = []
    bottom = _HEIGHT
    for kind, count in counts:
        if not count:
            continue
        height = max(_LEAST_HEIGHT, _HEIGHT * count / top)
        bottom = max(0.0, bottom - height)
        x = number * _STEP_WIDTH + _GAP
        parts.append(Part(kind, x, round(bottom, 2), _STEP_WIDTH - 2 * _GAP, round(height, 2)))
    return parts


def _steps(
    series: Series,
    value_of: Callable[[Bucket], float | None],
    height_of: Callable[[float], float],
) -> str:
    path: list[str] = []
    is_drawing = False
    for number, bucket in enumerate(series.buckets):
        value = value_of(bucket)
        if value is None:
            is_drawing = False
            continue
        x, y = number * _STEP_WIDTH, height_of(value)
        path.append(f"V{y}" if is_drawing else f"M{x} {y}")
        path.append(f"H{x + _STEP_WIDTH}")
        is_drawing = True
    return "".join(path)


def _top(most: int) -> int:
    """The least of 2, 4, 6, 8, 10, 20, 40 … that is no less than `most`: its half is whole."""
    size = 1
    while True:
        for step in (2, 4, 6, 8, 10):
            if most <= step * size:
                return step * size
        size *= 10
