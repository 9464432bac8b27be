"""`python -m bench`: measures the running product on servers of its own, fsync on.

Each benchmark starts the real processes, gives them real work and reads the figures off the event
log or the endpoint; nothing is measured in a test harness's own shortcut.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench import captures, comparison, deliveries, live, logs, pages
from bench.endpoint import nginx_program
from bench.product import MOST_WORKERS, Bench
from bench.results import Figure, table, version_of, write_json

BENCHMARKS: Final = {
    "capture": captures.measure_capture,
    "capture-mysql": captures.measure_capture_mysql,
    "capture-mariadb": captures.measure_capture_mariadb,
    "capture-mongodb": captures.measure_capture_mongodb,
    "triggers": captures.measure_triggers,
    "configuration": captures.measure_configuration,
    "delivery": deliveries.measure_delivery,
    "end-to-end": deliveries.measure_end_to_end,
    "costs": deliveries.measure_costs,
    "ordered": deliveries.measure_ordered,
    "dead-endpoint": deliveries.measure_dead_endpoint,
    "slow-endpoints": deliveries.measure_slow_endpoints,
    "latency": deliveries.measure_latency,
    "rate-limit": deliveries.measure_rate_limit,
    "fairness": deliveries.measure_fairness,
    "logs": logs.measure_logs,
    "pages": pages.measure_pages,
    "live": live.measure_live,
    "debezium": comparison.measure_debezium,
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
        for number in range(2, MOST_WORKERS + 1):
            # Started where more than one is measured.
            bench.stack.stop(f"worker-{number}")
        for name in options.names or BENCHMARKS:
            print(f"{name} …", file=sys.stderr)
            figures += BENCHMARKS[name](bench, options.events)
        nginx = nginx_program()
        if nginx is not None and any(folder.glob("nginx-*.conf")):
            bench.versions["nginx"] = version_of(nginx, "-v")
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(table(figures))
    write_json(options.json, figures, bench.versions)


if __name__ == "__main__":
    main()
