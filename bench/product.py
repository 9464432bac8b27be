"""What every benchmark has: servers of its own, the running product, a source, and its figures.

Nothing here measures; `captures`, `deliveries`, `logs`, `pages`, `live` and `comparison` do.
"""

import secrets
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import psycopg2
import requests
import yaml
from redis import Redis

from demo.servers import PostgresServer, RedisServer
from tests.servers import new_postgres, new_redis
from tests.stack import Stack
from tests.waiting import wait_until

_TABLE: Final = (
    "CREATE TABLE {table} (id bigint PRIMARY KEY, customer text, total numeric(12,2),"
    " paid boolean, placed_at timestamptz DEFAULT now())"
)
_INSERT: Final = (
    "INSERT INTO {table} SELECT i, 'customer ' || i, i * 1.01, i %% 2 = 0"
    " FROM generate_series(%s, %s) i"
)


MOST_WORKERS: Final = 4

# Nothing is delivered while captures are measured.
NOWHERE: Final = {"url": "http://127.0.0.1:9/", "state": "paused"}
# What the log has counted: settled, and not yet.
_COUNTED: Final = (
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
            copies={"worker": MOST_WORKERS},
        )
        for name in ("orders", "invoices"):
            self.run_sql(_TABLE.format(table=name))
        self.rows = 0
        # Of what was used, by name; benchmarks add their own.
        self.versions = {
            "postgres": str(self.postgres.execute("SHOW server_version")[0][0]),
            "redis": _redis_version(self.redis.url()),
        }

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
        self.run_sql(_INSERT.format(table="orders"), self.rows + 1, self.rows + rows)
        self.rows += rows

    def configure(
        self, *triggers: dict[str, object], source: tuple[str, str] | None = None
    ) -> None:
        """These triggers, on every insert unless told otherwise, in the Postgres or in another
        source (type, URL). One may name its `project`, which then watches the source as well."""
        type, source_url = source or ("postgres", self.source_url)
        usual = {
            "name": "bench",
            "databases": ["main"],
            "tables": ["orders"],
            "operations": ["insert"],
        }
        by_project: dict[object, list[dict[str, object]]] = {}
        for trigger in triggers:
            fields = usual | trigger
            by_project.setdefault(fields.pop("project", "bench"), []).append(fields)
        projects = [
            {
                "name": name,
                "eventing": {"enabled": True},
                "databases": [{"alias": "main", "type": type, "url": source_url}],
                "triggers": its_triggers,
            }
            for name, its_triggers in by_project.items()
        ]
        text = yaml.safe_dump({"projects": projects})
        self.stack.manage("apply", "-", "--prune", input=text)
        wait_until(self.is_live, 30, "capture does not apply the triggers")

    def is_live(self) -> bool:
        return not self.stack.execute(
            "SELECT 1 FROM eventing_database d LEFT JOIN eventing_capturelease l"
            " ON l.database_id = d.id AND l.state = 'streaming' AND l.applied_version >="
            " (SELECT max(configuration_version) FROM eventing_trigger)"
            " WHERE l.database_id IS NULL"
        )

    def stored(self) -> int:
        return self.number(_COUNTED.format(what="stored", only=""))

    def delivered(self, trigger: str = "") -> int:
        """How many events were delivered; of one trigger, if it is named."""
        only = f" AND trigger_id = (SELECT id FROM eventing_trigger WHERE name = '{trigger}')"
        return self.number(_COUNTED.format(what="delivered", only=only if trigger else ""))

    def unfinished(self) -> int:
        return self.number(
            "SELECT count(*) FROM mission_control.delivery WHERE state IN ('pending', 'delivering')"
        )

    def number(self, sql: str) -> int:
        return int(self.stack.execute(sql)[0][0])

    def stop(self) -> None:
        self.stack.stop_all()
        self.redis.stop()
        self.postgres.stop("immediate")


def _redis_version(url: str) -> str:
    with Redis.from_url(url) as client:
        return str(client.info("server")["redis_version"])


def seconds_until(condition: Callable[[], bool], limit_seconds: float) -> float:
    """How long it takes until `condition`, looked at ten times a second so as not to disturb."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > limit_seconds:
            raise TimeoutError("the benchmark did not end in time")
        time.sleep(0.1)
    return time.perf_counter() - started


def commit_steadily(bench: Bench, rate: int, rows: int, table: str = "orders") -> dict[str, float]:
    """Insert row by row at `rate` a second; returns when each one had committed, by its id."""
    connection = psycopg2.connect(bench.source_url)
    connection.autocommit = True
    committed = {}
    with connection.cursor() as cursor:
        started = time.perf_counter()
        for number in range(rows):
            time.sleep(max(0.0, started + number / rate - time.perf_counter()))
            bench.rows += 1
            cursor.execute(_INSERT.format(table=table), (bench.rows, bench.rows))
            committed[str(bench.rows)] = time.time()
    connection.close()
    return committed


def delays_ms(committed: dict[str, float], arrivals: Path) -> tuple[float, float]:
    """Median and 99th percentile from commit to arrival, in milliseconds."""
    received = dict(line.split() for line in arrivals.read_text().splitlines())
    delays = sorted((float(received[key]) - moment) * 1000 for key, moment in committed.items())
    return delays[len(delays) // 2], delays[len(delays) * 99 // 100]


@cache
def signed_in(url: str) -> requests.Session:
    """The first administrator's browser."""
    browser = requests.Session()
    browser.get(f"{url}/first-run/", timeout=30)
    password = secrets.token_urlsafe(24)
    form = {"username": "bench", "password": password, "again": password}
    form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
    browser.post(f"{url}/first-run/", form, timeout=30).raise_for_status()
    return browser
