"""Durations and sizes in words, and instants for programs, the same wherever they are written."""

from datetime import UTC, datetime


def instant(moment: datetime) -> str:
    """2019-10-19T12:40:50.053Z: UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(milliseconds: float) -> str:
    """7 ms, 1.25 s, 2 min 5 s, 3 h 20 min, 4 d 2 h."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.3g} s"
    for unit, size, smaller, part in (("min", 60, "s", 1), ("h", 3600, "min", 60)):
        if seconds < size * (60 if unit == "min" else 24):
            return _two(int(seconds), unit, size, smaller, part)
    return _two(int(seconds), "d", 86_400, "h", 3600)


def _two(seconds: int, unit: str, size: int, smaller: str, part: int) -> str:
    rest = seconds % size // part
    return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")


def size(number: int) -> str:
    """512 B, 1.4 MB: decimal units."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
