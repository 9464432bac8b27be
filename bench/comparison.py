"""The product and Debezium's engine beside each other: the same rows, the same endpoints."""

import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from bench import debezium
from bench.endpoint import endpoint
from bench.product import Bench, commit_steadily, delays_ms
from bench.results import Figure, version_of
from tests.waiting import wait_until


def measure_debezium(bench: Bench, events: int) -> list[Figure]:
    """The same rows to the same endpoint by the product and by Debezium's engine: one that answers
    at once, and one that takes 20 ms."""
    figures = []
    bench.versions["java"] = version_of("java", "-version")
    for what, path, rows, rate, target in (
        ("endpoint that answers at once", "/hook", min(events, 30_000), 200, "≥ 2 ×"),
        ("endpoint of 20 ms", "/wait/20/hook", 1_000, 20, "≥ 50 ×"),
    ):
        with endpoint(bench.folder, timed=True) as (url, arrivals):
            bench.configure({"url": url.replace("/hook", path)})
            work = _do_work(bench, url, rows, rate)
        ours = _measured(work, arrivals)
        bench.configure({"url": url, "state": "disabled"})
        bench.stack.stop("worker")
        bench.stack.stop("capture")
        theirs = {}
        for poll_ms in (500, 5):
            with (
                endpoint(bench.folder, timed=True) as (url, arrivals),
                debezium.engine(
                    bench.folder, bench.source_url, url.replace("/hook", path), poll_ms
                ),
            ):
                work = _do_work(bench, url, rows, rate)
            theirs[poll_ms] = _measured(work, arrivals)
            name = f"Debezium, polls every {poll_ms} ms, {what}"
            figures.append(Figure(name, theirs[poll_ms].rate, "events/s"))
            figures += _latency_figures(name, rate, theirs[poll_ms])
        bench.stack.start("capture")
        bench.stack.start("worker")
        name = f"Mission Control, every attempt logged, {what}"
        ratio = ours.rate / max(each.rate for each in theirs.values())
        figures.append(Figure(name, ours.rate, "events/s", target, ratio, "Debezium's better"))
        figures += _latency_figures(name, rate, ours)
    return figures


class _Work(NamedTuple):
    """Rows committed together at one moment, and rows committed one by one, by their ids."""

    together: range
    together_at: float
    one_by_one: dict[str, float]


class _Measured(NamedTuple):
    """From commit to arrival: rows a second of those committed together, delays of the others."""

    rate: float
    p50_ms: float
    p99_ms: float


def _do_work(bench: Bench, url: str, rows: int, rate: int) -> _Work:
    """Rows for a running pipeline that ends at the endpoint of `url`, which has to be a new one:
    some to warm up, `rows` by one INSERT, ten seconds of single ones at `rate` a second."""
    wanted = max(100, rows // 10)
    bench.insert(wanted)
    wait_until(lambda: _arrived(url) >= wanted, 120, "the first rows do not arrive")
    first = bench.rows + 1
    bench.insert(rows)
    together_at = time.time()
    wanted += rows
    wait_until(lambda: _arrived(url) >= wanted, 300, "not delivered")
    one_by_one = commit_steadily(bench, rate, rate * 10)
    wanted += rate * 10
    wait_until(lambda: _arrived(url) >= wanted, 60, "not delivered")
    return _Work(range(first, first + rows), together_at, one_by_one)


def _arrived(url: str) -> int:
    """How many requests have reached the endpoint."""
    with urllib.request.urlopen(url.replace("/hook", "/arrived")) as response:
        return int(response.read())


def _measured(work: _Work, arrivals: Path) -> _Measured:
    received = dict(line.split() for line in arrivals.read_text().splitlines())
    last = max(float(received[str(number)]) for number in work.together)
    rate = len(work.together) / (last - work.together_at)
    return _Measured(rate, *delays_ms(work.one_by_one, arrivals))


def _latency_figures(name: str, rate: int, measured: _Measured) -> list[Figure]:
    return [
        Figure(f"{name}, {rate} commits/s, p50", measured.p50_ms, "ms"),
        Figure(f"{name}, {rate} commits/s, p99", measured.p99_ms, "ms"),
    ]
