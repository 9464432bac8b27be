"""MongoDB from end to end: kill -9 of capture under write load, and what arrives is exact."""

from collections import Counter
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest

from tests.databases import ExternalMongoDb, MongoDbServer
from tests.product import Product
from tests.receiver import Receiver
from tests.stack import Stack
from tests.waiting import wait_until

KILLS = 5


@pytest.fixture
def product(stack: Stack, mongodb_database: str) -> Iterator[Product]:
    found = Product(stack, "documents", mongodb_database, source_type="mongodb")
    yield found
    found.apply(enabled=False, live=False)
    wait_until(
        lambda: not stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "a source stays"
    )


class Writer:
    """Inserts in transactions of three and singly, until it is told to stop."""

    def __init__(self, server: MongoDbServer | ExternalMongoDb, database: str) -> None:
        self._server = server
        self._database = database
        self._stopping = Event()
        self._thread = Thread(target=self._write)
        self.written: list[int] = []

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _write(self) -> None:
        with self._server.client() as client:
            users: Any = client[self._database]["users"]
            while not self._stopping.is_set():
                first = len(self.written)
                with client.start_session() as session, session.start_transaction():
                    users.insert_many([{"_id": first + each} for each in range(3)], session=session)
                users.insert_one({"_id": first + 3})
                self.written += range(first, first + 4)


def test_killing_capture_again_and_again_loses_and_doubles_no_document(
    product: Product,
    stack: Stack,
    mongodb_server: MongoDbServer | ExternalMongoDb,
    mongodb_database: str,
) -> None:
    name = mongodb_database.split("?")[0].rpartition("/")[2]
    with mongodb_server.client() as client:
        client[name].create_collection("users")
    with Receiver() as receiver:
        product.apply({"name": "all", "url": receiver.url("/all"), "tables": ["users"]})
        with Writer(mongodb_server, name) as writer:
            for _ in range(KILLS):
                written = len(writer.written)
                wait_until(
                    lambda written=written: len(writer.written) > written + 200,  # type: ignore[misc]
                    30,
                    "nobody writes",
                )
                stack.kill("capture")
                stack.start("capture")
        product.wait_for(delivered=len(writer.written), timeout_seconds=90)
        stored = Counter(event["doc_id"] for event in product.events())
        assert stored == {str(number): 1 for number in writer.written}
        payload = receiver.received("/all")[0].json()
        assert payload["data"]["db"] == "mongodb"  # type: ignore[index]
        assert payload["data"]["doc"] == {"_id": int(payload["data"]["docId"])}  # type: ignore[index]
        assert product.capture()["state"] == "streaming"
