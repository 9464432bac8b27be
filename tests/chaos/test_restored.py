"""The control database, with the log in it, comes back from an older backup while the sources have
gone on: what can be read again is, and where something is missing capture says so and stops.
"""

import secrets
from collections.abc import Iterator

import pytest

from tests.databases import MariaDbServer, MongoDbServer, MySqlServer
from tests.product import Product
from tests.receiver import Receiver
from tests.servers import ExternalPostgres, PostgresServer, RedisServer, name_in
from tests.stack import Stack, running_stack
from tests.subjects import MongoSubject, MySqlSubject, PostgresSubject, Subject
from tests.waiting import wait_until

_ALIASES = {"main": "postgres", "maria": "mysql", "mysql": "mysql", "mongo": "mongodb"}


@pytest.fixture
def own_stack(
    postgres_server: PostgresServer | ExternalPostgres,
    stack_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The product, whose database nobody else uses."""
    folder = tmp_path_factory.mktemp("restored")
    with running_stack(postgres_server, stack_redis.url(), folder) as running:
        yield running


@pytest.fixture
def subjects(
    postgres18_server: PostgresServer,
    mariadb_server: MariaDbServer,
    mysql_server: MySqlServer,
    mongodb_server: MongoDbServer,
) -> Iterator[dict[str, Subject]]:
    made: dict[str, Subject] = {
        "main": PostgresSubject(postgres18_server),
        "maria": MySqlSubject(mariadb_server),
        "mysql": MySqlSubject(mysql_server),
        "mongo": MongoSubject(mongodb_server),
    }
    for subject in made.values():
        subject.create("users")
    yield made
    for subject in made.values():
        subject.close()


def test_a_restored_control_database_reads_again_or_says_what_it_cannot(
    own_stack: Stack,
    postgres_server: PostgresServer,
    subjects: dict[str, Subject],
) -> None:
    others = [
        {"alias": alias, "type": kind, "url": subjects[alias].url}
        for alias, kind in _ALIASES.items()
        if alias != "main"
    ]
    product = Product(own_stack, "restored", subjects["main"].url, more_databases=others)
    with Receiver() as receiver:
        product.apply({"name": "all", "url": receiver.url("/all"), "tables": ["users"]})
        insert_everywhere(subjects, 1)
        product.wait_for(delivered=4)
        backup = back_up(own_stack, postgres_server)
        start(own_stack)
        insert_everywhere(subjects, 2)
        product.wait_for(delivered=8)
        own_stack.stop_all()
        # What the source has been told is stored is not in the backup.
        insert_everywhere(subjects, 3)
        restore(own_stack, postgres_server, backup)
        start(own_stack)
        # Binary log and oplog still hold all of it: it is read again, under the same ids.
        product.wait_for(delivered=4 + 6)
        by_id = {request.id: request for request in receiver.received("/all")}
        assert len(by_id) == 4 + 4 + 3
        capture = wait_until(lambda: blocked(product), 30, "Postgres goes on as if nothing were")
        assert "changes committed after" in capture["error"]
        assert capture["mend"].startswith("start this database anew")
        assert {product.get(f"databases/{alias}/")["capture"]["state"] for alias in subjects} == {
            "blocked",
            "streaming",
        }
        start_anew(own_stack)
        wait_until(lambda: product.capture()["state"] == "streaming", 30, "it does not start anew")
        subjects["main"].insert("users", (4, "x"))
        product.wait_for(delivered=4 + 6 + 1)
        product.disable()
        wait_until(
            lambda: not own_stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "it stays"
        )


def test_a_postgres_that_was_told_of_nothing_since_the_backup_goes_on_and_lacks_nothing(
    own_stack: Stack, postgres_server: PostgresServer, postgres18_server: PostgresServer
) -> None:
    subject = PostgresSubject(postgres18_server)
    subject.create("users")
    product = Product(own_stack, "restored-untold", subject.url)
    with Receiver() as receiver:
        product.apply({"name": "all", "url": receiver.url("/all"), "tables": ["users"]})
        subject.insert("users", (1, "x"))
        product.wait_for(delivered=1)
        backup = back_up(own_stack, postgres_server)
        subject.insert("users", (2, "x"))
        restore(own_stack, postgres_server, backup)
        start(own_stack)
        product.wait_for(delivered=2)
        assert product.capture()["state"] == "streaming"
        assert {event["doc_id"] for event in product.events()} == {"1", "2"}
        # Now it is told of something, if only of what no trigger asks for, and the backup is older.
        backup = back_up(own_stack, postgres_server)
        start(own_stack)
        told = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = %s"
        ((before,),) = postgres18_server.execute(told, [subject.database])
        subject.create("unwatched")
        subject.insert("unwatched", (1, "x"))
        wait_until(
            lambda: postgres18_server.execute(told, [subject.database]) != [(before,)],
            30,
            "the server is not told",
        )
        own_stack.stop_all()
        restore(own_stack, postgres_server, backup)
        start(own_stack)
        capture = wait_until(lambda: blocked(product), 30, "it goes on as if nothing were")
        assert "changes committed after" in capture["error"]
        product.disable()
        wait_until(
            lambda: not own_stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "it stays"
        )
    subject.close()


def test_a_backup_older_than_the_first_capture_is_not_taken_for_a_new_beginning(
    own_stack: Stack,
    postgres_server: PostgresServer | ExternalPostgres,
    postgres18_server: PostgresServer,
) -> None:
    subject = PostgresSubject(postgres18_server)
    subject.create("users")
    product = Product(own_stack, "restored-early", subject.url)
    with Receiver() as receiver:
        trigger = {"name": "all", "url": receiver.url("/all"), "tables": ["users"]}
        product.apply(trigger, enabled=False, live=False)
        backup = back_up(own_stack, postgres_server)
        start(own_stack)
        product.apply(trigger)
        subject.insert("users", (1, "x"))
        product.wait_for(delivered=1)
        own_stack.stop_all()
        restore(own_stack, postgres_server, backup)
        start(own_stack)
        product.apply(trigger, live=False)
        capture = wait_until(lambda: blocked(product), 30, "it begins as if nothing were")
        assert "restored from an older backup" in capture["error"]
        assert capture["mend"].startswith("start this database anew")
        start_anew(own_stack)
        wait_until(lambda: product.capture()["state"] == "streaming", 30, "it does not start anew")
        subject.insert("users", (2, "x"))
        product.wait_for(delivered=1)
        product.disable()
        wait_until(
            lambda: not own_stack.execute("SELECT 1 FROM eventing_retiredsource"), 30, "it stays"
        )
    subject.close()


def back_up(stack: Stack, server: PostgresServer | ExternalPostgres) -> str:
    """Stop the product, and copy its database as it is; returns the copy's name."""
    stack.stop_all()
    backup = f"backup_{secrets.token_hex(4)}"
    name = name_in(stack.database_url)
    server.execute(f'CREATE DATABASE "{backup}" TEMPLATE "{name}"')
    return backup


def restore(stack: Stack, server: PostgresServer | ExternalPostgres, backup: str) -> None:
    """Have the database of the stopped product be what it was."""
    name = name_in(stack.database_url)
    server.execute(f'DROP DATABASE "{name}"')
    server.execute(f'ALTER DATABASE "{backup}" RENAME TO "{name}"')


def start_anew(stack: Stack) -> None:
    """A person accepts the loss: capture of `main` is to go on from now."""
    stack.manage(
        "shell",
        "-c",
        "from eventing.access import command_line; from eventing.models import Database;"
        " from eventing.projects import start_anew;"
        " start_anew(Database.objects.get(alias='main'), by=command_line())",
    )


def start(stack: Stack) -> None:
    for name in ("web", "capture", "worker", "beat"):
        stack.start(name)
    stack.wait_until_ready()


def insert_everywhere(subjects: dict[str, Subject], key: int) -> None:
    for subject in subjects.values():
        subject.insert("users", (key, "x"))


def blocked(product: Product) -> dict[str, str]:
    """How capture of Postgres fares once it is blocked."""
    capture: dict[str, str] = product.capture()
    return capture if capture["state"] == "blocked" else {}
