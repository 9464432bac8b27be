"""`python -m bench`: measures the running product on servers of its own, fsync on.

Each benchmark starts the real processes, gives them real work and reads the figures off the event
log or the endpoint; nothing is measured in a test harness's own shortcut.
"""

import argparse
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg2
import yaml

from bench import bare, debezium
from bench.costs import cpu_seconds
from bench.endpoint import endpoint
from bench.results import Figure, table, write_json
from demo.servers import PostgresServer, RedisServer
from tests.databases import MySqlServer, execute, new_mariadb, new_mongodb, new_mysql
from tests.servers import new_postgres, new_redis
from tests.stack import Stack
from tests.waiting import wait_until

_TABLE = (
    "CREATE TABLE {table} (id bigint PRIMARY KEY, customer text, total numeric(12,2),"
    " paid boolean, placed_at timestamptz DEFAULT now())"
)
_INSERT = (
    "INSERT INTO {table} SELECT i, 'customer ' || i, i * 1.01, i %% 2 = 0"
    " FROM generate_series(%s, %s) i"
)


_MOST_WORKERS = 4

# Nothing is delivered while captures are measured.
_NOWHERE = {"url": "http://127.0.0.1:9/", "state": "paused"}
# What the log has counted: settled, and not yet.
_COUNTED = (
    "SELECT coalesce(sum({what}), 0) FROM (SELECT trigger_id, {what}"
    " FROM mission_control.event_stats_span WHERE span_seconds = 86400 UNION ALL"
    " SELECT trigger_id, {what} FROM mission_control.event_stats) AS counted WHERE true{only}"
)


class Bench:
    """The servers, the product's processes, a source database and an endpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres: PostgresServer = new_postgres(
            fsync="on", synchronous_commit="on", shared_buffers="1GB", max_wal_size="8GB"
        )
        self.redis: RedisServer = new_redis()
        self.postgres.start()
        self.redis.start()
        self.source_url = self.postgres.create_database()
        self.stack = Stack(
            self.postgres.create_database(),
            self.redis.url(),
            self._folder("stack"),
            copies={"worker": _MOST_WORKERS},
        )
        for name in ("orders", "invoices"):
            self.run_sql(_TABLE.format(table=name))
        self._rows = 0

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def run_sql(self, sql: str, *arguments: object) -> None:
        connection = psycopg2.connect(self.source_url)
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
        connection.close()

    def insert(self, rows: int) -> None:
        """One INSERT of that many new rows."""
        self.run_sql(_INSERT.format(table="orders"), self._rows + 1, self._rows + rows)
        self._rows += rows

    def configure(
        self, *triggers: dict[str, object], source: tuple[str, str] | None = None
    ) -> None:
        """These triggers, on every insert unless told otherwise, in the Postgres or in another
        source (type, URL)."""
        type, source_url = source or ("postgres", self.source_url)
        usual = {
            "name": "bench",
            "databases": ["main"],
            "tables": ["orders"],
            "operations": ["insert"],
        }
        project = {
            "name": "bench",
            "eventing": {"enabled": True},
            "databases": [{"alias": "main", "type": type, "url": source_url}],
            "triggers": [usual | trigger for trigger in triggers],
        }
        text = yaml.safe_dump({"projects": [project]})
        self.stack.manage("apply", "-", "--prune", input=text)
        wait_until(self._is_live, 30, "capture does not apply the triggers")

    def _is_live(self) -> bool:
        return bool(
            self.stack.execute(
                "SELECT 1 FROM eventing_capturelease WHERE state = 'streaming' AND"
                " applied_version >= (SELECT max(configuration_version) FROM eventing_trigger)"
            )
        )

    def stored(self) -> int:
        return self._number(_COUNTED.format(what="stored", only=""))

    def delivered(self, trigger: str = "") -> int:
        """How many events were delivered; of one trigger, if it is named."""
        only = f" AND trigger_id = (SELECT id FROM eventing_trigger WHERE name = '{trigger}')"
        return self._number(_COUNTED.format(what="delivered", only=only if trigger else ""))

    def unfinished(self) -> int:
        return self._number(
            "SELECT count(*) FROM mission_control.delivery WHERE state IN ('pending', 'delivering')"
        )

    def _number(self, sql: str) -> int:
        return int(self.stack.execute(sql)[0][0])

    def stop(self) -> None:
        self.stack.stop_all()
        self.redis.stop()
        self.postgres.stop("immediate")


_MYSQL_TABLE = """
CREATE TABLE orders (id int PRIMARY KEY, number bigint, customer varchar(60), status varchar(20),
 total decimal(10,2), note text, placed_at datetime(3))
"""
_MYSQL_VALUES = "'ada@example.com','paid',19.90,'leave it at the door','2026-01-02 03:04:05.678'"


def seconds_until(condition: Callable[[], bool], limit_seconds: float) -> float:
    """How long it takes until `condition`, looked at ten times a second so as not to disturb."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > limit_seconds:
            raise TimeoutError("the benchmark did not end in time")
        time.sleep(0.1)
    return time.perf_counter() - started


def measure_capture(bench: Bench, events: int) -> list[Figure]:
    """One INSERT, stored in the log; no worker runs. Then the bare loop on the same rows."""
    bench.run_sql("CREATE PUBLICATION bench_bare FOR TABLE orders WITH (publish = 'insert')")
    bench.configure(_NOWHERE)
    (child,) = psutil.Process(bench.stack.pid("capture")).children(recursive=True)
    bench.stack.stop("worker")
    bench.run_sql("SELECT pg_create_logical_replication_slot('bench_bare', 'pgoutput')")
    before = bench.stored()
    bench.insert(events)
    peak = 0

    def done() -> bool:
        nonlocal peak
        peak = max(peak, child.memory_info().rss)
        return bench.stored() - before >= events

    rate = events / seconds_until(done, 300)
    bench.stack.stop("capture")
    loop = bare.capture(bench.source_url, bench.source_url, events)
    bench.run_sql("SELECT pg_drop_replication_slot('bench_bare')")
    # Nobody is to deliver these while something else is measured.
    bench.stack.execute("TRUNCATE mission_control.delivery")
    bench.stack.start("capture")
    bench.stack.start("worker")
    return [
        Figure(
            "capture, one INSERT, stored in the log",
            rate,
            "events/s",
            "≥ 40 000; ≥ 70 % of the bare loop",
            rate / loop,
            "bare loop",
            f"bare loop {loop:,.0f}/s; walsender still decodes when the INSERT has committed",
        ),
        Figure("capture, resident memory at most", peak / 1e6, "MB", "≤ 150"),
    ]


def measure_capture_mongodb(bench: Bench, events: int) -> list[Figure]:
    """Documents that wait in the oplog, stored in the log; then `watch()` alone on the same."""
    mongodb = new_mongodb()
    mongodb.start()
    try:
        with mongodb.client() as client:
            database = client["bench"]
            orders = database.create_collection("orders")
            bench.configure(_NOWHERE, source=("mongodb", mongodb.url("bench")))
            bench.stack.stop("worker")
            bench.stack.stop("capture")
            with database.watch() as stream:
                stream.try_next()
                token = stream.resume_token
            before = bench.stored()
            for first in range(0, events, 1000):
                orders.insert_many(_document(number) for number in range(first, first + 1000))
            bench.stack.start("capture")
            wait_until(lambda: bench.stored() > before, 60, "nothing is stored")
            begun = bench.stored()
            seconds = seconds_until(lambda: bench.stored() - before >= events, 300)
            rate = (before + events - begun) / seconds
            bench.stack.stop("capture")
            loop = bare.watch(database, token, events)
    finally:
        mongodb.kill()
    return [_figure_of_capture(bench, "MongoDB", rate, loop, "≥ 70 %")]


def measure_capture_mysql(bench: Bench, events: int) -> list[Figure]:
    """Rows that wait in MySQL's binary log, stored in the log; then pymysqlreplication alone."""
    return [_capture_of_binary_log(bench, new_mysql(), events)]


def measure_capture_mariadb(bench: Bench, events: int) -> list[Figure]:
    """The same with MariaDB."""
    return [_capture_of_binary_log(bench, new_mariadb(), events)]


def _capture_of_binary_log(bench: Bench, server: MySqlServer, events: int) -> Figure:
    server.start()
    try:
        url = server.create_database("bench")
        execute(url, _MYSQL_TABLE)
        bench.configure(_NOWHERE, source=("mysql", url))
        bench.stack.stop("worker")
        bench.stack.stop("capture")
        end = bare.end_of_binary_log(url)
        before = bench.stored()
        for first in range(0, events, 1000):
            numbers = range(first, min(first + 1000, events))
            rows = ",".join(f"({number},{number},{_MYSQL_VALUES})" for number in numbers)
            execute(url, f"INSERT INTO orders VALUES {rows}")
        bench.stack.start("capture")
        wait_until(lambda: bench.stored() > before, 60, "nothing is stored")
        begun = bench.stored()
        seconds = seconds_until(lambda: bench.stored() - before >= events, 300)
        rate = (before + events - begun) / seconds
        bench.stack.stop("capture")
        loop = bare.binary_log(url, end, events)
    finally:
        server.kill()
    return _figure_of_capture(bench, server.name, rate, loop, "≥ 80 %")


def _figure_of_capture(bench: Bench, name: str, rate: float, loop: float, target: str) -> Figure:
    # Nobody is to deliver these while something else is measured.
    bench.stack.execute("TRUNCATE mission_control.delivery")
    bench.stack.start("capture")
    bench.stack.start("worker")
    bench.configure(_NOWHERE)
    return Figure(
        f"capture, {name}, stored in the log",
        rate,
        "events/s",
        f"{target} of the bare loop",
        rate / loop,
        "bare loop",
        f"bare loop {loop:,.0f}/s",
    )


def _document(number: int) -> dict[str, object]:
    return {
        "_id": number,
        "customer": f"customer {number}",
        "total": number * 1.01,
        "paid": number % 2 == 0,
        "placed_at": datetime.now(UTC),
    }


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
    """One INSERT, from its commit to the last event delivered and logged."""
    with endpoint(bench.folder, timed=False) as (url, _):
        bench.configure({"url": url})
        before = bench.delivered()
        bench.insert(events)
        seconds = seconds_until(lambda: bench.delivered() - before >= events, 300)
    return [
        Figure(
            "end to end, commit to delivered and logged", events / seconds, "events/s", "≥ 12 000"
        )
    ]


def measure_ordered(bench: Bench, events: int) -> list[Figure]:
    """As end to end, with `ordered`: as many documents as events, then 100 with many each."""
    figures = []
    with endpoint(bench.folder, timed=False) as (url, _):
        bench.configure({"url": url, "ordered": True, "operations": ["insert", "update"]})
        before = bench.delivered()
        bench.insert(events)
        seconds = seconds_until(lambda: bench.delivered() - before >= events, 300)
        figures.append(Figure("ordered, a document an event", events / seconds, "events/s"))
        before, last = bench.delivered(), bench._rows
        each = max(1, events // 1000)
        for _ in range(each):
            bench.run_sql("UPDATE orders SET paid = NOT paid WHERE id > %s", last - 100)
        seconds = seconds_until(lambda: bench.delivered() - before >= each * 100, 300)
        figures.append(Figure("ordered, 100 documents", each * 100 / seconds, "events/s"))
    return figures


def measure_dead_endpoint(bench: Bench, events: int) -> list[Figure]:
    """A backlog for a healthy endpoint, alone and beside as much for one that hangs."""
    rates = {}
    with endpoint(bench.folder, timed=True) as (url, _):
        healthy = {"name": "healthy", "url": url}
        dead = {"name": "dead", "url": url.replace("/hook", "/hang")}
        for name, triggers in (("alone", [healthy]), ("beside", [healthy, dead])):
            bench.configure(*({**each, "state": "paused"} for each in triggers))
            stored, before = bench.stored(), bench.delivered("healthy")
            bench.insert(events)
            wanted = events * len(triggers)
            wait_until(lambda s=stored, w=wanted: bench.stored() - s >= w, 120, "not stored")
            bench.configure(*triggers)
            seconds = seconds_until(lambda b=before: bench.delivered("healthy") - b >= events, 300)
            rates[name] = events / seconds
    ratio = rates["beside"] / rates["alone"]
    return [
        Figure("healthy endpoint, alone", rates["alone"], "events/s"),
        Figure(
            "healthy endpoint, beside a dead one",
            rates["beside"],
            "events/s",
            "≥ 90 %",
            ratio,
            "alone",
        ),
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
    others = [f"worker-{number}" for number in range(2, _MOST_WORKERS + 1)]
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
    """Single changes for one trigger while another has a backlog, which the workers are sending."""
    with endpoint(bench.folder, timed=True) as (url, arrivals):
        busy = {"name": "busy", "url": url.replace("/hook", "/wait/5/hook")}
        quiet = {"name": "quiet", "url": url, "tables": ["invoices"]}
        bench.configure({**busy, "state": "paused"}, quiet)
        stored = bench.stored()
        bench.insert(events)
        wait_until(lambda: bench.stored() - stored >= events, 300, "not stored")
        bench.configure(busy, quiet)
        before = bench.delivered("busy")
        wait_until(lambda: bench.delivered("busy") > before, 30, "the backlog does not move")
        committed = _commit_steadily(bench, 20, 200, "invoices")
        wait_until(lambda: bench.delivered("quiet") >= 200, 60, "not delivered")
        left = bench.unfinished()
        bench.configure({**busy, "state": "disabled"}, quiet)
    p50, p99 = _delays_ms(committed, arrivals)
    bench.stack.execute("TRUNCATE mission_control.delivery")
    note = f"{left:,} of the backlog still waited"
    return [
        Figure("latency beside another trigger's backlog, p50", p50, "ms"),
        Figure("latency beside another trigger's backlog, p99", p99, "ms", "≤ 1 000", note=note),
    ]


def measure_debezium(bench: Bench, events: int) -> list[Figure]:
    """The same rows to the same endpoint by the product and by Debezium's engine: one that answers
    at once, and one that takes 20 ms."""
    figures = []
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
    first = bench._rows + 1
    bench.insert(rows)
    together_at = time.time()
    wanted += rows
    wait_until(lambda: _arrived(url) >= wanted, 300, "not delivered")
    one_by_one = _commit_steadily(bench, rate, rate * 10)
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
    return _Measured(rate, *_delays_ms(work.one_by_one, arrivals))


def _latency_figures(name: str, rate: int, measured: _Measured) -> list[Figure]:
    return [
        Figure(f"{name}, {rate} commits/s, p50", measured.p50_ms, "ms"),
        Figure(f"{name}, {rate} commits/s, p99", measured.p99_ms, "ms"),
    ]


def measure_latency(bench: Bench, _events: int) -> list[Figure]:
    """Single-row commits at a steady rate, from each commit's return to its arrival."""
    figures = []
    for rate, target in ((200, "p50 ≤ 6, p99 ≤ 20"), (1000, "p99 ≤ 40")):
        with endpoint(bench.folder, timed=True) as (url, arrivals):
            bench.configure({"url": url})
            before = bench.delivered()
            committed = _commit_steadily(bench, rate, rate * 10)
            count = len(committed)
            wait_until(lambda b=before, c=count: bench.delivered() - b >= c, 60, "not delivered")
        p50, p99 = _delays_ms(committed, arrivals)
        for percent, value in ((50, p50), (99, p99)):
            name = f"latency, {rate} commits/s, p{percent}"
            figures.append(Figure(name, value, "ms", target))
    return figures


def _delays_ms(committed: dict[str, float], arrivals: Path) -> tuple[float, float]:
    """Median and 99th percentile from commit to arrival, in milliseconds."""
    received = dict(line.split() for line in arrivals.read_text().splitlines())
    delays = sorted((float(received[key]) - moment) * 1000 for key, moment in committed.items())
    return delays[len(delays) // 2], delays[len(delays) * 99 // 100]


def _commit_steadily(bench: Bench, rate: int, rows: int, table: str = "orders") -> dict[str, float]:
    """Insert row by row at `rate` a second; returns when each one had committed, by its id."""
    connection = psycopg2.connect(bench.source_url)
    connection.autocommit = True
    committed = {}
    with connection.cursor() as cursor:
        started = time.perf_counter()
        for number in range(rows):
            time.sleep(max(0.0, started + number / rate - time.perf_counter()))
            bench._rows += 1
            cursor.execute(_INSERT.format(table=table), (bench._rows, bench._rows))
            committed[str(bench._rows)] = time.time()
    connection.close()
    return committed


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


BENCHMARKS = {
    "capture": measure_capture,
    "capture-mysql": measure_capture_mysql,
    "capture-mariadb": measure_capture_mariadb,
    "capture-mongodb": measure_capture_mongodb,
    "delivery": measure_delivery,
    "end-to-end": measure_end_to_end,
    "costs": measure_costs,
    "ordered": measure_ordered,
    "dead-endpoint": measure_dead_endpoint,
    "slow-endpoints": measure_slow_endpoints,
    "latency": measure_latency,
    "rate-limit": measure_rate_limit,
    "fairness": measure_fairness,
    "debezium": measure_debezium,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--json", type=Path, default=Path("var/bench/results.json"))
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"NAME: got {', '.join(unknown)}; allowed: {', '.join(BENCHMARKS)}")
    figures: list[Figure] = []
    folder = Path(tempfile.mkdtemp(prefix="mission-control-bench-"))
    bench = Bench(folder)
    try:
        bench.stack.start_all()
        for number in range(2, _MOST_WORKERS + 1):
            # Started where more than one is measured.
            bench.stack.stop(f"worker-{number}")
        for name in options.names or BENCHMARKS:
            print(f"{name} …", file=sys.stderr)
            figures += BENCHMARKS[name](bench, options.events)
        versions = {"postgres": str(bench.postgres.execute("SHOW server_version")[0][0])}
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(table(figures))
    write_json(options.json, figures, versions)


if __name__ == "__main__":
    main()
