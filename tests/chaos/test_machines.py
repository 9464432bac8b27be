"""Several machines' worth of processes come and go at random while rows pour into two databases:
every committed change has its one event, all of them arrive, and no limit is exceeded.

`CHAOS_SEED` repeats a run (the seed is part of the test's name), `CHAOS_STEPS` makes it longer.
"""

import contextlib
import os
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import psutil
import psycopg2
import pytest

from demo.servers import execute
from tests.chaos.storm import family, freeze, thaw
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.servers import ExternalPostgres, PostgresServer, name_in, new_database
from tests.stack import Stack
from tests.waiting import wait_until
from tests.writing import BackgroundWriter

SEED = int(os.environ["CHAOS_SEED"])
STEPS = int(os.environ.get("CHAOS_STEPS", "30"))
COPIES = {"capture": 2, "worker": 3, "beat": 2}
CONCURRENCY = 6
# What a dead worker held is tried again after its lease: 25 s and the trigger's time limit.
SETTLING_SECONDS = 60
COMMITS_A_STEP = (20, 120)
MOST_DOWN = 2
# In stock, in the first and in the second database.
ITEMS = (range(1, 6), range(101, 106))
# The contract: another process captures a database within so long of the death of the one that did.
TAKE_OVER_SECONDS = 10.0
# One that is asked to end gives its leases back; the others look twice a second.
HAND_OVER_SECONDS = 3.0
# What it takes a running stack to deliver a change, on a busy machine.
DETECTION_SECONDS = 2.0

COMERS_AND_GOERS = tuple(
    kind if number == 1 else f"{kind}-{number}"
    for kind, count in COPIES.items()
    for number in range(1, count + 1)
)


@pytest.fixture(scope="module")
def copies() -> dict[str, int]:
    return COPIES


@pytest.fixture(scope="module")
def machines(stack: Stack) -> Stack:
    """The product with several of each process, on one log and one broker."""
    return stack


@pytest.fixture
def second_database(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    with new_database(postgres_server) as url:
        yield url


class Writer(BackgroundWriter):
    """Commits rows 1, 2, 3… into `orders`, some together, some after a roll-back, and raises the
    version of a stock item each time, until told to stop."""

    def __init__(self, url: str, items: Sequence[int], first: int, seed: int) -> None:
        super().__init__()
        self._url = url
        self._items = items
        self._next = first
        self._random = random.Random(seed)
        self.commits = 0
        self.committed: list[int] = []
        self.updates = 0

    def write(self) -> None:
        connection = psycopg2.connect(self._url)
        with connection.cursor() as cursor:
            while not self.stopping.wait(0.015):
                rows = list(range(self._next, self._next + self._random.randint(1, 5)))
                cursor.execute("INSERT INTO orders SELECT unnest(%s::bigint[])", [rows])
                if self._random.random() < 0.2:
                    connection.rollback()
                    continue
                item = self._random.choice(self._items)
                cursor.execute("UPDATE stock SET version = version + 1 WHERE id = %s", [item])
                connection.commit()
                self._next += len(rows)
                self.committed += rows
                self.commits += 1
                self.updates += 1
        connection.close()


class Storm:
    """Ends and starts processes in an order that a seed decides."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self.done: list[str] = []

    def step(self) -> int:
        """One process ends or is started; returns how many commits to let pass before the next."""
        down = [name for name in COMERS_AND_GOERS if not self._stack.is_running(name)]
        name = self._random.choice(down if len(down) > MOST_DOWN else COMERS_AND_GOERS)
        if name in down:
            self._note("start", name)
            self._stack.start(name)
        elif self._random.random() < 0.3:
            self._note("stop", name)
            assert self._stack.stop(name) == [], f"{name} did not end by itself"
        else:
            # The supervisor alone, or with its children; a worker has none.
            whole = self._random.random() < 0.5
            self._note("kill all of" if whole else "kill", name)
            self._stack.kill(name, whole_family=whole)
        return self._random.randint(*COMMITS_A_STEP)

    def start_all(self) -> None:
        for name in COMERS_AND_GOERS:
            if not self._stack.is_running(name):
                self._stack.start(name)

    @property
    def story(self) -> str:
        """What it did."""
        return ", ".join(self.done)

    def _note(self, action: str, name: str) -> None:
        self.done.append(f"{action} {name}")


@pytest.fixture
def product(machines: Stack, source_database: str, second_database: str) -> Iterator[Product]:
    project = f"machines-{secrets.token_hex(3)}"
    second = {"alias": "second", "type": "postgres", "url": second_database}
    found = Product(machines, project, source_database, more_databases=[second])
    for url, items in zip((source_database, second_database), ITEMS, strict=True):
        execute(
            url,
            "CREATE TABLE orders (id bigint PRIMARY KEY);"
            " CREATE TABLE stock (id bigint PRIMARY KEY, version bigint NOT NULL);"
            " INSERT INTO stock SELECT unnest(%s), 0",
            [list(items)],
        )
    yield found
    found.disable()
    wait_until(
        lambda: not machines.execute("SELECT 1 FROM eventing_retiredsource"), 30, "a source stays"
    )


@pytest.mark.parametrize("seed", [SEED], ids=[f"CHAOS_SEED={SEED}"])
def test_processes_of_several_machines_come_and_go_and_nothing_is_lost_or_doubled(
    seed: int, machines: Stack, product: Product, source_database: str, second_database: str
) -> None:
    databases = {"main": source_database, "second": second_database}
    with Receiver() as receiver:
        receiver.behave("/all", Behaviour(delay_seconds=0.002))
        # Every fortieth attempt fails.
        receiver.behave("/ordered", Behaviour(statuses=(*(200,) * 39, 500) * 999))
        product.apply(*_triggers(receiver))
        writers = [
            (alias, Writer(url, items, 1_000_000 * number, seed + number))
            for (alias, url), items in zip(databases.items(), ITEMS, strict=True)
            for number in (1, 2)
        ]
        storm = Storm(machines, seed)
        blow(storm, [writer for _, writer in writers])
        storm.start_all()
        changes = sum(len(writer.committed) + writer.updates for _, writer in writers)
        outcome = {"pending": 0, "delivering": 0, "delivered": changes, "failed": 0, "cancelled": 0}
        assert settled(product, changes) == outcome, storm.story
        written = Counter((alias, str(row)) for alias, each in writers for row in each.committed)
        events = product.events()
        stored = [event for event in events if event["trigger"] == "all"]
        assert Counter((event["database"], event["doc_id"]) for event in stored) == written
        assert len(events) == changes
        assert {request.id for request in receiver.received()} == {event["id"] for event in events}
        assert receiver.most_under_way("/all") <= CONCURRENCY
        assert_in_order(receiver)
        assert_one_reader_each(product, databases.values())


def settled(product: Product, changes: int) -> dict[str, int]:
    """The project's statistics once so many events are delivered, or when the time is up."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: product.stats()["delivered"] >= changes, SETTLING_SECONDS)
    return product.stats()


def _triggers(receiver: Receiver) -> list[dict[str, object]]:
    patient = {"retries": 20, "timeout_ms": 1000, "backoff": {"initial_ms": 50, "factor": 1}}
    return [
        {
            "name": "all",
            "url": receiver.url("/all"),
            "tables": ["orders"],
            "concurrency": CONCURRENCY,
            **patient,
        },
        {
            "name": "ordered",
            "url": receiver.url("/ordered"),
            "tables": ["stock"],
            "ordered": True,
            **patient,
        },
    ]


def blow(storm: Storm, writers: Sequence[Writer]) -> None:
    """Let the storm make its steps while all of them write."""
    for writer in writers:
        writer.__enter__()
    try:
        for _ in range(STEPS):
            reached = sum(writer.commits for writer in writers) + storm.step()
            wait_until(
                lambda reached=reached: sum(each.commits for each in writers) >= reached,  # type: ignore[misc]
                20,
                "nobody writes",
            )
    finally:
        for writer in writers:
            writer.__exit__()


def assert_in_order(receiver: Receiver) -> None:
    """The versions of each item arrived in order; the same one may come twice in a row."""
    latest: dict[object, int] = defaultdict(int)
    for request in receiver.received("/ordered"):
        payload: dict[str, dict[str, int]] = request.json()["data"]  # type: ignore[assignment]
        item, version = payload["doc"]["id"], payload["doc"]["version"]
        assert latest[item] <= version <= latest[item] + 1
        latest[item] = version


def assert_one_reader_each(product: Product, urls: Iterable[str]) -> None:
    """One lease and one replication slot for each database, both in use."""
    leases = product.stack.execute(
        "SELECT l.state, l.holder IS NOT NULL AND l.expires_at > now()"
        " FROM eventing_capturelease l JOIN eventing_database d ON d.id = l.database_id"
        " JOIN eventing_project p ON p.id = d.project_id WHERE p.name = %s",
        [product.name],
    )
    assert leases == [("streaming", True)] * 2
    for url in urls:
        slots = "SELECT count(*), count(active_pid) FROM pg_replication_slots WHERE database = %s"
        assert execute(url, slots, [name_in(url)]) == [(1, 1)]


def capturer(stack: Stack, url: str) -> str:
    """The name of the process whose child reads the database; empty while nobody does."""
    ports = execute(
        url,
        "SELECT a.client_port FROM pg_replication_slots s JOIN pg_stat_activity a"
        " ON a.pid = s.active_pid WHERE s.database = %s",
        [name_in(url)],
    )
    for name in ("capture", "capture-2"):
        family = psutil.Process(stack.pid(name)).children() if stack.is_running(name) else []
        for child in family:
            if any((each.laddr.port,) in ports for each in child.net_connections("tcp")):
                return name
    return ""


def test_another_machine_takes_a_database_over_in_time(
    machines: Stack, product: Product, source_database: str, second_database: str
) -> None:
    with Receiver() as receiver:
        product.apply(*_triggers(receiver))
        wait_until(
            lambda: (
                {capturer(machines, source_database), capturer(machines, second_database)}
                == {"capture", "capture-2"}
            ),
            30,
            "the databases are not shared",
        )
        first = capturer(machines, source_database)
        other = capturer(machines, second_database)
        machines.kill(first)
        execute(source_database, "INSERT INTO orders VALUES (1)")
        # The other database goes on as if nothing had happened.
        execute(second_database, "INSERT INTO orders VALUES (2)")
        receiver.wait_for(1, "/all", timeout=DETECTION_SECONDS)
        receiver.wait_for(2, "/all", timeout=TAKE_OVER_SECONDS + DETECTION_SECONDS)
        assert capturer(machines, source_database) == other
        machines.start(first)
        wait_until(lambda: has_two_captures(machines), 20, "the process does not come back")
        # One that ends in good order hands over at once.
        assert machines.stop(other) == []
        for url in (source_database, second_database):
            execute(url, "INSERT INTO orders VALUES (3)")
        receiver.wait_for(4, "/all", timeout=HAND_OVER_SECONDS + DETECTION_SECONDS)
        machines.start(other)


def has_two_captures(machines: Stack) -> bool:
    seen = "process = 'capture' AND seen_at > now() - interval '5.5 seconds'"
    return machines.execute(f"SELECT count(*) FROM eventing_heartbeat WHERE {seen}") == [(2,)]


def test_each_beat_is_counted_and_one_that_stands_still_is_none(
    machines: Stack, source_database: str
) -> None:
    product = Product(machines, "beats", source_database)

    def beats() -> float | None:
        return product.metric('processes{process="beat"}')

    for name in ("beat", "beat-2"):
        if not machines.is_running(name):
            machines.start(name)
    wait_until(lambda: beats() == 2, 30, "two beats are not two")
    # It signs off.
    assert machines.stop("beat-2") == []
    wait_until(lambda: beats() == 1, 10, "it is still counted")
    still = family(machines.pid("beat"))
    freeze(still)
    wait_until(lambda: beats() == 0, 40, "one that stands still is counted")
    thaw(still)
    wait_until(lambda: beats() == 1, 30, "it is not counted any more")
    machines.start("beat-2")
