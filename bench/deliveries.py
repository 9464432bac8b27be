"""How quickly, how fairly and within which limits what is in the log gets to its endpoints."""

import psutil

from bench.costs import cpu_seconds
from bench.endpoint import endpoint
from bench.product import (
    MOST_WORKERS,
    Bench,
    commit_steadily,
    delays_ms,
    seconds_until,
)
from bench.results import Figure
from tests.waiting import wait_until


def measure_delivery(bench: Bench, events: int) -> list[Figure]:
    """Events that wait in the log, from the trigger's resumption to the last one recorded; by one
    worker, then by two."""
    rate, resident = _delivered_backlog(bench, events)
    bench.stack.start("worker-2")
    rate_of_two, _ = _delivered_backlog(bench, events)
    bench.stack.stop("worker-2")
    return [
        Figure("delivery of a backlog, one worker", rate, "events/s", "≥ 15 000"),
        Figure("delivery of a backlog, two workers", rate_of_two, "events/s", "≥ 20 000"),
        Figure("worker, resident memory at most", resident / 1e6, "MB", "≤ 250"),
    ]


def _delivered_backlog(bench: Bench, events: int) -> tuple[float, int]:
    """Events a second, and the most bytes of memory that the first worker had."""
    worker = psutil.Process(bench.stack.pid("worker"))
    peak = 0

    def done() -> bool:
        nonlocal peak
        peak = max(peak, worker.memory_info().rss)
        return bench.delivered() >= total

    with endpoint(bench.folder, timed=False) as (url, _):
        bench.configure({"url": url, "state": "paused"})
        waiting = bench.stored()
        bench.insert(events)
        wait_until(lambda: bench.stored() - waiting >= events, 120, "not stored")
        total = bench.delivered() + bench.unfinished()
        before = bench.delivered()
        bench.configure({"url": url})
        wait_until(lambda: bench.delivered() > before, 30, "nothing is delivered")
        first = bench.delivered()
        seconds = seconds_until(done, 300)
    return (total - first) / seconds, peak


def measure_end_to_end(bench: Bench, events: int) -> list[Figure]:
    """One INSERT, from its commit to the last event delivered and logged; with one worker, then
    with two."""
    rate = _end_to_end(bench, events)
    bench.stack.start("worker-2")
    rate_of_two = _end_to_end(bench, events)
    bench.stack.stop("worker-2")
    name = "end to end, commit to delivered and logged"
    return [
        Figure(f"{name}, one worker", rate, "events/s", "≥ 12 000"),
        Figure(f"{name}, two workers", rate_of_two, "events/s", "≥ 12 000"),
    ]


def _end_to_end(bench: Bench, events: int) -> float:
    with endpoint(bench.folder, timed=False) as (url, _):
        bench.configure({"url": url})
        before = bench.delivered()
        bench.insert(events)
        return events / seconds_until(lambda: bench.delivered() - before >= events, 300)


def measure_ordered(bench: Bench, events: int) -> list[Figure]:
    """As end to end, with `ordered`: as many documents as events, then 100 with many each."""
    figures = []
    with endpoint(bench.folder, timed=False) as (url, _):
        bench.configure({"url": url, "ordered": True, "operations": ["insert", "update"]})
        before = bench.delivered()
        bench.insert(events)
        seconds = seconds_until(lambda: bench.delivered() - before >= events, 300)
        figures.append(Figure("ordered, a document an event", events / seconds, "events/s"))
        before, last = bench.delivered(), bench.rows
        each = max(1, events // 1000)
        for _ in range(each):
            bench.run_sql("UPDATE orders SET paid = NOT paid WHERE id > %s", last - 100)
        seconds = seconds_until(lambda: bench.delivered() - before >= each * 100, 300)
        figures.append(Figure("ordered, 100 documents", each * 100 / seconds, "events/s"))
    return figures


def measure_dead_endpoint(bench: Bench, events: int) -> list[Figure]:
    """A healthy endpoint alone and beside one that hangs and gets as much: how quickly a backlog
    goes, and what single commits take."""
    rates, delays = {}, {}
    for name in ("alone", "beside"):
        with endpoint(bench.folder, timed=True) as (url, arrivals):
            triggers = [{"name": "healthy", "url": url}]
            if name == "beside":
                triggers.append({"name": "dead", "url": url.replace("/hook", "/hang")})
            bench.configure(*({**each, "state": "paused"} for each in triggers))
            stored, before = bench.stored(), bench.delivered("healthy")
            bench.insert(events)
            wanted = events * len(triggers)
            wait_until(lambda s=stored, w=wanted: bench.stored() - s >= w, 120, "not stored")
            bench.configure(*triggers)
            seconds = seconds_until(lambda b=before: bench.delivered("healthy") - b >= events, 300)
            rates[name] = events / seconds
            committed = commit_steadily(bench, 200, 2000)
            wanted = events + len(committed)
            wait_until(
                lambda b=before, w=wanted: bench.delivered("healthy") - b >= w, 60, "not delivered"
            )
        delays[name] = delays_ms(committed, arrivals)[1]
    rate_ratio, delay_ratio = rates["beside"] / rates["alone"], delays["beside"] / delays["alone"]
    beside = "healthy endpoint, beside a dead one"
    return [
        Figure("healthy endpoint, alone", rates["alone"], "events/s"),
        Figure(beside, rates["beside"], "events/s", "≥ 90 %", rate_ratio, "alone"),
        Figure("healthy endpoint, alone, 200 commits/s, p99", delays["alone"], "ms"),
        Figure(f"{beside}, p99", delays["beside"], "ms", "≤ 200 %", delay_ratio, "alone"),
    ]


def measure_slow_endpoints(bench: Bench, _events: int) -> list[Figure]:
    """100 endpoints that take 2 seconds each, 8 requests at once to each of them."""
    endpoints, at_once, rows = 100, 8, 80
    with endpoint(bench.folder, timed=True) as (url, _):
        triggers = [
            {
                "name": f"slow-{number}",
                "url": url.replace("/hook", f"/wait/2000/{number}"),
                "concurrency": at_once,
            }
            for number in range(endpoints)
        ]
        bench.configure(*triggers)
        before = bench.delivered()
        bench.insert(rows)
        wanted = endpoints * rows
        seconds = seconds_until(lambda: bench.delivered() - before >= wanted, 300)
    possible = endpoints * at_once / 2
    rate = wanted / seconds
    return [
        Figure(
            "100 endpoints of 2 s, 8 at once each",
            rate,
            "events/s",
            "≥ 90 %",
            rate / possible,
            "what is possible",
        )
    ]


def measure_rate_limit(bench: Bench, _events: int) -> list[Figure]:
    """50 requests a second allowed, four workers, more than enough to send for 30 seconds."""
    limit, seconds = 50, 30
    others = [f"worker-{number}" for number in range(2, MOST_WORKERS + 1)]
    for name in others:
        bench.stack.start(name)
    with endpoint(bench.folder, timed=True) as (url, arrivals):
        bench.configure({"url": url, "rate_per_second": limit})
        before = bench.delivered()
        bench.insert(limit * (seconds + 5))
        wanted = limit * (seconds + 2)
        seconds_until(lambda: bench.delivered() - before >= wanted, 120)
        bench.configure({"url": url, "state": "disabled"})
    for name in others:
        bench.stack.stop(name)
    moments = sorted(float(line.split()[1]) for line in arrivals.read_text().splitlines())
    # From a second after the first request on, lest its start count.
    within = [moment for moment in moments if 1 <= moment - moments[0] < 1 + seconds]
    bench.stack.execute("TRUNCATE mission_control.delivery")
    return [
        Figure(
            "rate limit of 50/s, four workers, over 30 s",
            len(within) / seconds,
            "requests/s",
            "within 5 %",
            len(within) / seconds / limit,
            "the limit",
        )
    ]


def measure_fairness(bench: Bench, events: int) -> list[Figure]:
    """Single changes for one trigger while one of another project has a backlog, which the workers
    are sending."""
    with endpoint(bench.folder, timed=True) as (url, arrivals):
        busy = {"name": "busy", "url": url.replace("/hook", "/wait/5/hook")}
        quiet = {"name": "quiet", "project": "quiet", "url": url, "tables": ["invoices"]}
        bench.configure({**busy, "state": "paused"}, quiet)
        stored = bench.stored()
        bench.insert(events)
        patience_seconds = max(300, events // 2_000)
        wait_until(lambda: bench.stored() - stored >= events, patience_seconds, "not stored")
        bench.configure(busy, quiet)
        before = bench.delivered("busy")
        wait_until(lambda: bench.delivered("busy") > before, 30, "the backlog does not move")
        committed = commit_steadily(bench, 20, 200, "invoices")
        wait_until(lambda: bench.delivered("quiet") >= 200, 60, "not delivered")
        left = bench.unfinished()
        bench.configure({**busy, "state": "disabled"}, quiet)
    p50, p99 = delays_ms(committed, arrivals)
    bench.stack.execute("TRUNCATE mission_control.delivery")
    # The project of the quiet trigger goes, and its place in the source's log with it.
    bench.configure({**busy, "state": "disabled"})
    name = f"latency beside another project's backlog of {events:,}"
    note = f"{left:,} of the backlog still waited"
    return [
        Figure(f"{name}, p50", p50, "ms"),
        Figure(f"{name}, p99", p99, "ms", "≤ 1 000", note=note),
    ]


def measure_latency(bench: Bench, _events: int) -> list[Figure]:
    """Single-row commits at a steady rate, from each commit's return to its arrival."""
    figures = []
    for rate, target in ((200, "p50 ≤ 6, p99 ≤ 20"), (1000, "p99 ≤ 40")):
        with endpoint(bench.folder, timed=True) as (url, arrivals):
            bench.configure({"url": url})
            before = bench.delivered()
            committed = commit_steadily(bench, rate, rate * 10)
            count = len(committed)
            wait_until(lambda b=before, c=count: bench.delivered() - b >= c, 60, "not delivered")
        p50, p99 = delays_ms(committed, arrivals)
        for percent, value in ((50, p50), (99, p99)):
            name = f"latency, {rate} commits/s, p{percent}"
            figures.append(Figure(name, value, "ms", target))
    return figures


def measure_costs(bench: Bench, events: int) -> list[Figure]:
    """As end to end: the processor time that an event takes of each part."""
    with endpoint(bench.folder, timed=False) as (url, _):
        bench.configure({"url": url})
        before, delivered = cpu_seconds(bench.stack, bench.postgres, bench.redis), bench.delivered()
        bench.insert(events)
        seconds_until(lambda: bench.delivered() - delivered >= events, 300)
        spent = cpu_seconds(bench.stack, bench.postgres, bench.redis) - before
    return [
        Figure(f"processor time, {part}", seconds / events * 1e6, "µs an event")
        for part, seconds in spent.most_common()
    ]
