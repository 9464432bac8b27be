"""How quickly changes get from each kind of source into the log, beside a bare loop on the same."""

import time
import urllib.request
from datetime import UTC, datetime
from typing import Final

import psutil

from bench import bare
from bench.product import NOWHERE, Bench, seconds_until, signed_in
from bench.results import Figure
from tests.databases import MySqlServer, execute, new_mariadb, new_mongodb, new_mysql
from tests.waiting import wait_until

_MYSQL_TABLE: Final = """
CREATE TABLE orders (id int PRIMARY KEY, number bigint, customer varchar(60), status varchar(20),
 total decimal(10,2), note text, placed_at datetime(3))
"""
_MYSQL_VALUES: Final = (
    "'ada@example.com','paid',19.90,'leave it at the door','2026-01-02 03:04:05.678'"
)


def measure_capture(bench: Bench, events: int) -> list[Figure]:
    """One INSERT, stored in the log; no worker runs. Then the bare loop on the same rows."""
    bench.run_sql("CREATE PUBLICATION bench_bare FOR TABLE orders WITH (publish = 'insert')")
    bench.configure(NOWHERE)
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
    # The walsender notices only then that nobody listens any more.
    bench.run_sql(
        "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
        " WHERE slot_name = 'bench_bare' AND active"
    )
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
            bench.versions["mongodb"] = client.server_info()["version"]
            orders = database.create_collection("orders")
            bench.configure(NOWHERE, source=("mongodb", mongodb.url("bench")))
            bench.stack.stop("worker")
            bench.stack.stop("capture")
            with database.watch() as stream:
                stream.try_next()
                token = stream.resume_token
            before = bench.stored()
            for first in range(0, events, 1000):
                orders.insert_many(_document(number) for number in range(first, first + 1000))
            rate = _rate_of_waiting(bench, before, events)
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
        bench.versions[server.name.lower()] = str(execute(url, "SELECT version()")[0][0])
        bench.configure(NOWHERE, source=("mysql", url))
        bench.stack.stop("worker")
        bench.stack.stop("capture")
        end = bare.end_of_binary_log(url)
        before = bench.stored()
        for first in range(0, events, 1000):
            numbers = range(first, min(first + 1000, events))
            rows = ",".join(f"({number},{number},{_MYSQL_VALUES})" for number in numbers)
            execute(url, f"INSERT INTO orders VALUES {rows}")
        rate = _rate_of_waiting(bench, before, events)
        loop = bare.binary_log(url, end, events)
    finally:
        server.kill()
    return _figure_of_capture(bench, server.name, rate, loop, "≥ 80 %")


def _rate_of_waiting(bench: Bench, before: int, events: int) -> float:
    """Events a second, of `events` that wait at the source, from the first ones stored to the last.

    `before` says how many the log had stored until then. Capture runs just as long as this takes.
    """
    bench.stack.start("capture")
    wait_until(lambda: bench.stored() > before, 60, "nothing is stored")
    begun = bench.stored()
    seconds = seconds_until(lambda: bench.stored() - before >= events, 300)
    bench.stack.stop("capture")
    return (before + events - begun) / seconds


def _figure_of_capture(bench: Bench, name: str, rate: float, loop: float, target: str) -> Figure:
    # Nobody is to deliver these while something else is measured.
    bench.stack.execute("TRUNCATE mission_control.delivery")
    bench.stack.start("capture")
    bench.stack.start("worker")
    bench.configure(NOWHERE)
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


def measure_triggers(bench: Bench, events: int) -> list[Figure]:
    """As capture, with one trigger, then beside 999 others that watch other tables."""
    rates = []
    for others in (0, 999):
        bench.configure(
            NOWHERE,
            *({"name": f"t{n}", "tables": [f"part_{n}_*"], **NOWHERE} for n in range(others)),
        )
        bench.stack.stop("worker")
        before = bench.stored()
        bench.insert(events)
        rates.append(events / seconds_until(lambda b=before: bench.stored() - b >= events, 300))
        bench.stack.execute("TRUNCATE mission_control.delivery")
        bench.stack.start("worker")
    return [
        Figure("capture, one trigger", rates[0], "events/s"),
        Figure(
            "capture, 1 000 triggers", rates[1], "events/s", "≥ 50 %", rates[1] / rates[0], "one"
        ),
    ]


def measure_configuration(bench: Bench, _events: int) -> list[Figure]:
    """From a change of a trigger over REST to the capture loop that applies it, ten times."""
    bench.configure(NOWHERE)
    signed_in(bench.stack.url)
    made = bench.stack.manage("token", "create", "--user", "bench", "--role", "admin")
    url = f"{bench.stack.url}/api/v1/projects/bench/triggers/bench/"
    headers = {
        "Authorization": f"Bearer {made.stdout.strip()}",
        "Content-Type": "application/json",
    }
    delays = []
    for number in range(10):
        body = f'{{"tables": ["orders_{number}"]}}'.encode()
        request = urllib.request.Request(url, body, headers, method="PATCH")
        with urllib.request.urlopen(request):
            changed = time.perf_counter()
        while not bench.is_live():
            time.sleep(0.01)
        delays.append((time.perf_counter() - changed) * 1000)
    return [
        Figure("a change of configuration to its effect, longest", max(delays), "ms", "≤ 1 000")
    ]
