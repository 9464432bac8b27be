"""Every kind of source from end to end: kill -9 of capture under write load, and the log is exact.

`CHAOS_KILLS` is how often capture is killed for each kind of server, `CHAOS_SEED` repeats the
moments it is killed at (the seed is part of the test's name):
CHAOS_KILLS=20 bin/test tests/chaos/test_sources.py
"""

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.databases import MariaDbServer, MongoDbServer, MySqlServer
from tests.product import Product
from tests.receiver import Receiver
from tests.servers import PostgresServer
from tests.stack import Stack
from tests.subjects import MongoSubject, MySqlSubject, PostgresSubject, Subject
from tests.waiting import wait_until
from tests.writing import BackgroundWriter

KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
SEED = int(os.environ["CHAOS_SEED"])
_TYPES = {MongoSubject: "mongodb", MySqlSubject: "mysql", PostgresSubject: "postgres"}
_NAMES = {"mongodb": "mongodb", "mysql": "sql-mysql", "postgres": "sql-postgres"}


@pytest.fixture(params=["postgres", "mariadb", "mysql", "mongodb"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A database of each kind with a table `users`."""
    name = "postgres18_server" if request.param == "postgres" else f"{request.param}_server"
    server = request.getfixturevalue(name)
    made: Subject
    if isinstance(server, MongoDbServer):
        made = MongoSubject(server)
    elif isinstance(server, MySqlServer | MariaDbServer):
        made = MySqlSubject(server)
    else:
        assert isinstance(server, PostgresServer)
        made = PostgresSubject(server)
    made.create("users")
    yield made
    made.close()


@pytest.fixture
def product(stack: Stack, subject: Subject) -> Iterator[Product]:
    # A project's name may not come back: its earlier events would be counted.
    project = subject.name.replace("_", "-")
    found = Product(stack, project, subject.url, source_type=_TYPES[type(subject)])
    yield found
    found.disable()
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "a source stays"
    )


class Writer(BackgroundWriter):
    """Inserts in transactions of three and singly, and rolls one back, until told to stop."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._subject = subject
        self.written: list[int] = []

    def write(self) -> None:
        while not self.stopping.is_set():
            first = len(self.written)
            with self._subject.transaction() as writer:
                writer.insert("users", *((first + each, "x") for each in range(3)))
            with self._subject.transaction(commit=False) as writer:
                writer.insert("users", (first + 3, "rolled back"))
            self._subject.insert("users", (first + 3, "x"))
            self.written += range(first, first + 4)


@pytest.mark.parametrize("seed", [SEED], ids=[f"CHAOS_SEED={SEED}"])
def test_killing_capture_again_and_again_loses_and_doubles_nothing(
    product: Product, stack: Stack, subject: Subject, seed: int
) -> None:
    chance = random.Random(seed)
    with Receiver() as receiver:
        product.apply({"name": "all", "url": receiver.url("/all"), "tables": ["users"]})
        with Writer(subject) as writer:
            for _ in range(KILLS):
                # Before capture has come up again, while it begins, and while it reads.
                enough = len(writer.written) + chance.randrange(1, 400)
                wait_until(
                    lambda enough=enough: len(writer.written) >= enough,  # type: ignore[misc]
                    60,
                    "nobody writes",
                )
                stack.kill("capture")
                stack.start("capture")
        product.wait_for(delivered=len(writer.written), timeout_seconds=120)
        stored = Counter(event["doc_id"] for event in product.events())
        assert stored == {str(number): 1 for number in writer.written}
        payload = receiver.received("/all")[0].json()["data"]  # type: ignore[index]
        assert payload["db"] == _NAMES[_TYPES[type(subject)]]  # type: ignore[index]
        assert payload["doc"]["v"] == "x"  # type: ignore[index]
        assert product.capture()["state"] == "streaming"
