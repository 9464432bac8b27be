"""Storms: everything that can break does so at random while Postgres, MariaDB and MongoDB are
written to; afterwards the log is compared with the ledger of what was committed.

Meanwhile somebody works through REST, and web is killed under them. Every other project has its log
in an Eventing DB of its own, and some move between that and the built-in one all the time.

`CHAOS_ROUNDS` is how many rounds there are, ten to a project; `CHAOS_SEED` repeats them. Each round
is told as it passes, and at the end how many faults of which kind there were; `CHAOS_REPORT` names
a file for that.
"""

import contextlib
import json
import os
import secrets
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson
import psutil
import pytest

from demo.servers import PostgresServer, RedisServer, execute
from tests.chaos.ledger import (
    Change,
    Document,
    Ledger,
    MariaDbWriter,
    MongoWriter,
    PostgresWriter,
    Writer,
)
from tests.chaos.operator import Operator
from tests.chaos.storm import (
    MIB,
    Fault,
    SmallDisk,
    Storm,
    faults_of_process,
    faults_of_server,
    faults_of_way,
)
from tests.databases import MariaDbServer, MongoDbServer, new_mariadb, new_mongodb
from tests.folders import temporary_folder
from tests.product import Product
from tests.proxy import Proxy
from tests.receiver import Behaviour, Receiver
from tests.servers import new_postgres, new_redis
from tests.stack import Stack
from tests.waiting import wait_until

SEED: Final = int(os.environ["CHAOS_SEED"])
ROUNDS: Final = int(os.environ.get("CHAOS_ROUNDS", "2"))
ROUNDS_A_PROJECT: Final = 10
STORM_SECONDS: Final = 5.0
MOST_FAULTS: Final = 4
# A source that was away is tried again after a pause that grows.
CAPTURED_SECONDS: Final = 120
# What a dead worker held is tried again after its lease, and a held endpoint after half a minute.
SETTLED_SECONDS: Final = 180
# Whatever is being read at that moment may go on for as long as its time limit.
LEFT_BEHIND_SECONDS: Final = 60
DISK_BYTES: Final = 400 * MIB
TIMEOUT_MS: Final = 2000
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "all": ("orders", "stock"),
    "ordered": ("orders", "stock"),
    "batch": ("orders",),
    "flaky": ("orders",),
}
# The Eventing DBs of a project, by the names that it has for them.
BUILTIN: Final = "builtin"
CHOSEN: Final = "chosen"
# The triggers whose events are sent until they arrive.
PATIENT: Final = ("all", "ordered", "batch")


@dataclass
class World:
    """The product with all that it depends on, each behind a proxy."""

    log_server: PostgresServer
    # Of the projects that have chosen one.
    chosen_log_server: PostgresServer
    disk: SmallDisk
    redis: RedisServer
    postgres: PostgresServer
    mariadb: MariaDbServer
    mongodb: MongoDbServer
    folder: Path

    def __post_init__(self) -> None:
        self.ways = {
            name: Proxy("127.0.0.1", server.port)
            for name, server in {
                "the log": self.log_server,
                "the chosen log": self.chosen_log_server,
                "Redis": self.redis,
                "Postgres": self.postgres,
                "MariaDB": self.mariadb,
                "MongoDB": self.mongodb,
            }.items()
        }
        self.log_url = self.log_server.create_database()
        self.stack = Stack(
            self.through("the log", self.log_url),
            self.through("Redis", self.redis.url()),
            self.folder,
            {"capture": 2, "worker": 2},
        )

    def through(self, name: str, url: str) -> str:
        """The URL by way of the proxy with that name."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        at = f"{login}@" if login else ""
        return parts._replace(netloc=f"{at}127.0.0.1:{self.ways[name].port}").geturl()

    @cached_property
    def faults(self) -> list[Fault]:
        found: list[Fault] = []
        for name in ("web", "capture", "capture-2", "worker", "worker-2", "beat"):
            found += faults_of_process(self.stack, name)
        found += faults_of_server(self.log_server, "the log")
        found += self.disk.faults(self.log_server, "the log")
        found += faults_of_server(self.redis, "Redis")
        found += faults_of_server(self.postgres, "Postgres")
        found += faults_of_server(self.mariadb, "MariaDB")
        found += faults_of_server(self.mongodb, "MongoDB")
        for name, proxy in self.ways.items():
            if name != "the chosen log":
                found += faults_of_way(proxy, name)
        return found

    def faults_of_chosen_log(self) -> list[Fault]:
        name = "the chosen log"
        of_server = faults_of_server(self.chosen_log_server, name)
        return [*of_server, *faults_of_way(self.ways[name], name)]

    def execute(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """SQL in the product's database, past the proxy."""
        return execute(self.log_url, sql, parameters)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    disk = SmallDisk(temporary_folder() / "disk", DISK_BYTES)
    log_server = new_postgres(folder=disk.folder / "log", max_wal_size="64MB", min_wal_size="32MB")
    servers = (
        log_server,
        new_postgres(),
        new_redis(),
        new_postgres(),
        # What is committed outlives the server's process.
        new_mariadb(innodb_flush_log_at_trx_commit="2"),
        new_mongodb(),
    )
    for server in servers:
        server.start()
    _, chosen_log_server, redis, postgres, mariadb, mongodb = servers
    folder = tmp_path_factory.mktemp("rounds")
    made = World(
        log_server, chosen_log_server, disk, redis, postgres, mariadb, mongodb, folder
    )  # fmt: skip
    try:
        made.stack.start_all()
        yield made
    finally:
        made.stack.stop_all()
        for proxy in made.ways.values():
            proxy.close()
        for server in servers:
            server.stop()
        disk.close()


@pytest.fixture(scope="module")
def injected(world: World, pytestconfig: pytest.Config) -> Iterator[Counter[str]]:
    """How many faults of each kind there were; told at the end."""
    counted: Counter[str] = Counter()
    yield counted
    kinds: dict[str, int] = dict(sorted(counted.items()))
    text = json.dumps({"seed": SEED, "rounds": ROUNDS, "faults": kinds}, indent=2)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n{text}\n")
    if "CHAOS_REPORT" in os.environ:
        Path(os.environ["CHAOS_REPORT"]).write_text(f"{text}\n")


class Stored(NamedTuple):
    """An event as the log has it."""

    id: str
    trigger: str
    document: Document
    operation: str
    payload: dict[str, Any]
    problem: str | None
    state: str | None

    @property
    def version(self) -> int | None:
        """The version in the payload. None where it need not be that of this change: MongoDB's
        updates come with the latest document, and what is deleted may be gone."""
        if self.operation == "delete":
            return None
        if self.operation == "update" and self.document.database == "mongo":
            return None
        found: int = self.payload["data"]["doc"]["version"]
        return found


class Season:
    """One project, its writers and its receiver, for some rounds."""

    def __init__(self, world: World, receiver: Receiver, seed: int, logs: Sequence[str]) -> None:
        """`logs` are the Eventing DBs that the project has, the first one to begin with."""
        self.world = world
        self.receiver = receiver
        self.way = Proxy("127.0.0.1", receiver.port)
        self.ledger = Ledger()
        suffix = f"{seed}_{secrets.token_hex(3)}"
        urls = {
            "main": world.postgres.create_database(f"main_{suffix}"),
            "maria": world.mariadb.create_database(f"maria_{suffix}"),
        }
        self.mongo = f"mongo_{suffix}"
        self.writers: list[Writer] = []
        for number in (1, 2):
            common = self.ledger, number, seed
            self.writers += [
                PostgresWriter(urls["main"], common[0], "main", *common[1:]),
                MariaDbWriter(urls["maria"], common[0], "maria", *common[1:]),
                MongoWriter(world.mongodb, self.mongo, common[0], "mongo", *common[1:]),
            ]
        for writer in self.writers[:3]:
            writer.prepare()
        self.logs = logs
        self.log_urls = {
            name: world.log_url
            if name == BUILTIN
            else world.chosen_log_server.create_database(f"log_{suffix}")
            for name in logs
        }
        through = f"mongodb://127.0.0.1:{world.ways['MongoDB'].port}/{self.mongo}"
        self.product = Product(
            world.stack,
            f"storm-{suffix.replace('_', '-')}",
            world.through("Postgres", urls["main"]),
            more_databases=[
                {"alias": "maria", "type": "mysql", "url": world.through("MariaDB", urls["maria"])},
                {"alias": "mongo", "type": "mongodb", "url": f"{through}?directConnection=true"},
                *self._chosen_log(),
            ],
        )
        faults = [*world.faults, *faults_of_way(self.way, "the receiver")]
        if CHOSEN in logs:
            faults += world.faults_of_chosen_log()
        self.storm = Storm(faults, seed)
        self.operator = Operator(self.product, PATIENT, seed, logs if self.moves else ())
        statuses = [200 if self.storm.toss(0.8) else 500 for _ in range(20_000)]
        receiver.behave("/flaky", Behaviour(statuses=statuses))
        self.keep_log_in(logs[0])

    @property
    def moves(self) -> bool:
        """Whether the project has another Eventing DB now and then."""
        return len(self.logs) > 1

    def keep_log_in(self, name: str) -> None:
        self.product.apply(*self._triggers(), eventing_db=name)

    def _chosen_log(self) -> list[dict[str, str]]:
        """The database that the project may keep its log in, if it has one."""
        if CHOSEN not in self.logs:
            return []
        url = self.world.through("the chosen log", self.log_urls[CHOSEN])
        return [{"alias": CHOSEN, "type": "postgres", "url": url}]

    def _triggers(self) -> list[dict[str, object]]:
        patient = {
            "timeout_ms": TIMEOUT_MS,
            "backoff": {"initial_ms": 100, "factor": 1.5, "max_ms": 2000},
        }
        own: dict[str, dict[str, object]] = {
            "all": {"retries": 100},
            "ordered": {"retries": 100, "ordered": True},
            "batch": {"retries": 100, "format": "cloudevents-batch"},
            "flaky": {"retries": 1},
        }
        return [
            {
                "name": name,
                "url": f"http://127.0.0.1:{self.way.port}/{name}",
                "tables": list(TABLES[name]),
                "databases": ["main", "maria", "mongo"],
                **patient,
                **more,
            }
            for name, more in own.items()
        ]

    def round(self) -> None:
        """Write while a storm blows, then wait until all that was committed is in the log."""
        at_work: list[Writer | Operator] = [*self.writers, self.operator]
        for each in at_work:
            each.start()
        try:
            if self.moves:
                self.world.stack.wait_until_ready()
                self.operator.note_applied(TIMEOUT_MS)
                self.keep_log_in(CHOSEN)
            self.storm.blow(STORM_SECONDS, MOST_FAULTS)
        finally:
            for each in at_work:
                each.stop()
        self.ledger.settle()
        wanted = {name: len(self.ledger.changes(*tables)) for name, tables in TABLES.items()}
        wait_until(lambda: self._counts() >= Counter(wanted), CAPTURED_SECONDS, f"{wanted} events")
        assert self._counts() == wanted

    def _counts(self) -> Counter[str]:
        rows = self.read_log(
            "SELECT trigger, count(*) FROM mission_control.event_log WHERE project = %s GROUP BY 1",
            self.product.name,
        )
        return added_up(rows)

    def read_log(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """SQL in each log of the project, past the proxy."""
        return [row for url in self.log_urls.values() for row in execute(url, sql, parameters)]

    def settle(self) -> None:
        """Wait until nothing is left to be delivered, and web answers."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._undelivered(), SETTLED_SECONDS)
        assert self._undelivered() == []
        self.world.stack.start_what_ended()
        self.world.stack.wait_until_ready()

    def _undelivered(self) -> list[tuple[Any, ...]]:
        """What waits, by trigger: its state, how many, attempts, and until when the first waits."""
        names = self.trigger_names
        waiting = self.read_log(
            "SELECT trigger_id, state, count(*), max(attempts), min(next_attempt_at) - now(),"
            " min(lease_until) - now() FROM mission_control.delivery"
            " WHERE trigger_id = ANY(%s) AND state IN ('pending', 'delivering') GROUP BY 1, 2",
            list(names),
        )
        probes = dict(
            self.world.execute("SELECT trigger_id, next_probe_at - now() FROM eventing_breaker")
        )
        return [(names[each], *rest, probes.get(each)) for each, *rest in waiting]

    @cached_property
    def trigger_names(self) -> dict[int, str]:
        """The project's triggers by their ids."""
        rows = self.world.execute(
            "SELECT t.id, t.name FROM eventing_trigger t"
            " JOIN eventing_project p ON p.id = t.project_id WHERE p.name = %s",
            self.product.name,
        )
        return dict(rows)

    def stored(self) -> list[Stored]:
        """Every event of the project, oldest first."""
        rows = self.read_log(
            'SELECT e.id::text, e.trigger, e.database, e."table", e.doc_id, e.operation, e.payload,'
            " e.problem, d.state FROM mission_control.event_log e"
            " LEFT JOIN mission_control.delivery d ON d.event_id = e.id"
            " WHERE e.project = %s ORDER BY e.id",
            self.product.name,
        )
        found = [
            Stored(
                event_id,
                trigger,
                Document(database, table, int(key)),
                operation,
                orjson.loads(payload),
                *rest,
            )
            for event_id, trigger, database, table, key, operation, payload, *rest in rows
        ]
        return sorted(found, key=lambda event: event.id)

    def sent(self) -> dict[str, list[str]]:
        """By trigger, the ids of the events that arrived, in that order and as often.

        Without those that somebody had made up for a test, which are in no log.
        """
        found: dict[str, list[str]] = defaultdict(list)
        for request in self.receiver.received():
            body = orjson.loads(request.body)
            events = body if isinstance(body, list) else [body]
            found[request.path.lstrip("/")] += [
                event["id"] for event in events if "note" not in event["data"]["doc"]
            ]
        return found

    def close(self) -> None:
        """Remove the project, whatever has come of it."""
        self.product.delete("")
        self.way.close()

    def assert_nothing_is_left(self) -> None:
        """Nothing of the removed project is left anywhere."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._left_behind(), LEFT_BEHIND_SECONDS)
        assert self._left_behind() == []

    def _left_behind(self) -> list[str]:
        """What the project has left, in words."""
        world = self.world
        left = [
            f"{what}: {rows}"
            for what, server, sql in (
                ("leases", None, "SELECT database_id, state FROM eventing_capturelease"),
                ("sources", None, "SELECT source_name, error FROM eventing_retiredsource"),
                ("slots", world.postgres, "SELECT slot_name FROM pg_replication_slots"),
                ("slots", world.chosen_log_server, "SELECT slot_name FROM pg_replication_slots"),
                (
                    "connections",
                    world.postgres,
                    "SELECT datname, application_name FROM pg_stat_activity"
                    f" WHERE datname = 'main_{self.suffix}'",
                ),
            )
            if (rows := (server.execute(sql) if server else world.execute(sql)))
        ]
        main = self.writers[0]
        assert isinstance(main, PostgresWriter)
        if publications := execute(main.url, "SELECT pubname FROM pg_publication"):
            left.append(f"publications: {publications}")
        dumps = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'"
        if readers := world.mariadb.execute(dumps):
            left.append(f"readers of the binary log: {readers}")
        with world.mongodb.client() as client:
            operations = client.admin.command("currentOp", {"$all": True, "idleCursors": True})
            names = [each.get("appName", "") for each in operations["inprog"]]
        if cursors := [name for name in names if name.startswith("mission_control")]:
            left.append(f"connections to MongoDB: {cursors}")
        for name in ("capture", "capture-2"):
            if children := psutil.Process(world.stack.pid(name)).children():
                left.append(f"children of {name}: {children}")
        return left

    @property
    def suffix(self) -> str:
        return self.mongo.removeprefix("mongo_")


def project_seeds() -> list[int]:
    return [SEED + number for number in range(-(-ROUNDS // ROUNDS_A_PROJECT))]


@pytest.mark.parametrize("seed", project_seeds(), ids="CHAOS_SEED={}".format)
def test_whatever_breaks_the_log_is_what_was_committed_and_all_of_it_is_sent(
    seed: int, world: World, injected: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = min(ROUNDS_A_PROJECT, ROUNDS - (seed - SEED) * ROUNDS_A_PROJECT)
    live_through(seed, rounds, [CHOSEN if seed % 2 else BUILTIN], world, injected, capsys)


def test_a_log_that_moves_in_the_middle_of_storms_has_each_event_once(
    world: World, injected: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    live_through(SEED, -(-ROUNDS // 10), [BUILTIN, CHOSEN], world, injected, capsys)


def live_through(
    seed: int,
    rounds: int,
    logs: Sequence[str],
    world: World,
    injected: Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A project from its beginning to its end, with a storm in each round."""
    with Receiver() as receiver:
        season = Season(world, receiver, seed, logs)
        try:
            for number in range(rounds):
                season.storm.done.clear()
                season.round()
                with capsys.disabled():
                    sys.stdout.write(
                        f"seed {seed} round {number}: {len(season.stored())} events,"
                        f" {season.operator.answered.total()} answers;"
                        f" {', '.join(season.storm.done)}\n"
                    )
            season.settle()
            stored = season.stored()
            assert_stored_once(season.ledger, stored)
            assert_explained(season, stored)
            assert_each_arrival_is_in_the_log(season)
            if season.moves:
                # What waits in one log knows nothing of the other.
                assert all(execute(url, "SELECT 1 FROM mission_control.event_log LIMIT 1")
                           for url in season.log_urls.values())  # fmt: skip
            else:
                assert_in_order(season, stored)
            season.operator.assert_what_was_answered_is_so(successes(season))
        finally:
            injected.update(season.storm.injected)
            season.close()
        season.assert_nothing_is_left()
    world.execute(
        "TRUNCATE mission_control.event_log, mission_control.invocation_log,"
        " mission_control.delivery"
    )


def assert_stored_once(ledger: Ledger, stored: Sequence[Stored]) -> None:
    """Every change has exactly one event for each trigger that matches, and nothing else has."""
    for trigger, tables in TABLES.items():
        wanted = Counter(map(_told, ledger.changes(*tables)))
        found = Counter(
            (event.document, event.operation, event.version)
            for event in stored
            if event.trigger == trigger
        )
        assert found - wanted == Counter(), f"{trigger}: never committed, or stored twice"
        assert wanted - found == Counter(), f"{trigger}: committed and not stored"


def _told(change: Change) -> tuple[Document, str, int | None]:
    """What an event tells of a change."""
    document, operation, version = change
    is_vague = operation == "delete" or (operation, document.database) == ("update", "mongo")
    return document, operation, None if is_vague else version


def assert_explained(season: Season, stored: Sequence[Stored]) -> None:
    """What was not delivered says why; what was delivered arrived; what arrived is in the log."""
    attempts: dict[str, list[tuple[int, int | None, str | None]]] = defaultdict(list)
    for event_id, *attempt in season.read_log(
        "SELECT event_id::text, attempt, status_code, error_kind"
        " FROM mission_control.invocation_log"
    ):
        attempts[event_id].append(tuple(attempt))
    arrived = {event_id for ids in season.sent().values() for event_id in ids}
    for event in stored:
        statuses = [status for _, status, _ in attempts[event.id]]
        if event.state is None:
            assert 200 in statuses, event
            assert event.id in arrived, event
        else:
            # Only the trigger with one retry gives up.
            assert (event.state, event.trigger) == ("failed", "flaky"), event
            failed = [each for each in attempts[event.id] if each[2] != "lost"]
            # A crash of the log may undo a claim: the same attempt is then made again.
            assert len({number for number, *_ in failed}) == 2, (event, attempts[event.id])
            assert all(status == 500 or error for _, status, error in failed)
    assert arrived <= {event.id for event in stored}


def assert_each_arrival_is_in_the_log(season: Season) -> None:
    """However often an event arrived, as many attempts are in the log: of one that its worker could
    not record, that it was lost."""
    rows = season.read_log(
        "SELECT event_id::text, count(*) FROM mission_control.invocation_log GROUP BY 1"
    )
    arrived = Counter(event_id for ids in season.sent().values() for event_id in ids)
    assert arrived - added_up(rows) == Counter(), "arrived, and not in the log"


def successes(season: Season) -> Counter[str]:
    """How often each event was delivered, by its id."""
    rows = season.read_log(
        "SELECT event_id::text, count(*) FROM mission_control.invocation_log"
        " WHERE status_code = 200 GROUP BY 1"
    )
    return added_up(rows)


def added_up(rows: Sequence[tuple[Any, ...]]) -> Counter[str]:
    """Names and numbers of several logs, a name's numbers added."""
    found = Counter[str]()
    for name, number in rows:
        found[name] += number
    return found


def assert_in_order(season: Season, stored: Sequence[Stored]) -> None:
    """The ordered trigger's events of each document arrived in the order of its changes; one that
    is sent again may come late."""
    events = {event.id: event for event in stored if event.trigger == "ordered"}
    arrived: dict[Document, list[Stored]] = defaultdict(list)
    for event_id in dict.fromkeys(season.sent()["ordered"]):
        arrived[events[event_id].document].append(events[event_id])
    for document, changes in season.ledger.by_document().items():
        wanted = [_told(change) for change in changes]
        found = [(each.document, each.operation, each.version) for each in arrived[document]]
        assert found == wanted
