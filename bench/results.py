"""One format for every benchmark's result: a row of the table, and of the JSON beside it."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `ratio` compares it with the bare loop of the same run."""

    name: str
    value: float
    unit: str
    target: str = ""
    ratio: float | None = None
    ratio_of: str = ""
    note: str = ""


def table(figures: Sequence[Figure]) -> str:
    """The figures as people read them."""
    rows = [("figure", "value", "target", "ratio", "note")]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.0%} of {figure.ratio_of}"
        value = (
            f"{figure.value:,.1f} {figure.unit}"
            if figure.value < 100
            else (f"{figure.value:,.0f} {figure.unit}")
        )
        rows.append((figure.name, value, figure.target, ratio, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def write_json(path: Path, figures: Sequence[Figure], versions: dict[str, str]) -> None:
    """The figures for programs, with what they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "measured_on": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "machine": platform.machine(),
        "python": platform.python_version(),
        **versions,
        "figures": [asdict(figure) for figure in figures],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _processor() -> str:
    """The processor's model, as Linux tells it; the kind of machine if it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def version_of(*command: str) -> str:
    """The first line of what a program says of its version, on either output."""
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().partition("\n")[0]
