"""Fixtures that every folder of tests shares: the servers, a source database, the running product.

A server that cannot be started fails the tests that asked for it.
"""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command
from django.db import connection

from eventing.logs import control_database_dsn
from eventing.logs.postgres import PostgresEventLog
from tests.databases import (
    ExternalMongoDb,
    ExternalMySql,
    MariaDbServer,
    MongoDbServer,
    MySqlServer,
    new_mariadb,
    session_mongodb,
    session_mysql,
)
from tests.folders import temporary_folder
from tests.receiver import Receiver
from tests.servers import (
    SHARED_FOLDER,
    ExternalPostgres,
    PostgresServer,
    RedisServer,
    new_database,
    new_postgres,
    new_redis,
    session_postgres,
    session_redis,
)
from tests.stack import Stack, running_stack

# Emptied row by row: after most tests few have any, while truncation makes every partition's files
# anew.
_LOG_TABLES = (
    "event_log",
    "delivery",
    "invocation_log",
    "capture_position",
    "event_stats",
    "event_stats_span",
    "kept",
    "event_kind",
    "overdue_payload",
)

# Those that take longest begin first, lest one worker is still at them when all others are done.
_FOLDERS = ("integration", "web", "unit")
_FIRST_OF_THEIR_FOLDERS = frozenset({"test_role_matrix.py"})
# Before them, file by file: chaos waits half of its time, while browsers keep a processor busy.
_TAKING_TURNS = ("chaos", "browser")


def pytest_configure() -> None:
    # So that a run that is told to end stops its servers and removes their folders.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # It is part of tests' names, which every worker must know by the same.
    os.environ.setdefault("CHAOS_SEED", str(secrets.randbelow(1_000_000) + 1))
    # Of the process that starts the workers, and so outlives them.
    if SHARED_FOLDER not in os.environ:
        os.environ[SHARED_FOLDER] = str(temporary_folder())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many workers `-n auto` means: one more than cores, since many tests wait for something.

    None for tests that are named: each worker would start servers and look at all files first. And
    none where tests use somebody's servers, which are one for all workers.
    """
    are_named = config.option.keyword or any(".py" in argument for argument in config.args)
    others = ("TEST_POSTGRES_URL", "TEST_MYSQL_URL", "TEST_MONGODB_URL")
    if are_named or any(os.environ.get(name) for name in others):
        return 0
    return 1 + len(os.sched_getaffinity(0))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        turns = _turns(items)
        ranks = {name: rank for rank, name in enumerate(_FOLDERS, len(turns))}
        items.sort(
            key=lambda item: (
                turns.get(item.path, ranks.get(item.path.parent.name, 0)),
                item.path.name not in _FIRST_OF_THEIR_FOLDERS,
            )
        )


def _turns(items: list[pytest.Item]) -> dict[Path, int]:
    """The files that take turns, and when it is the turn of each."""
    files = dict.fromkeys(item.path for item in items)
    queues = [[file for file in files if file.parent.name == each] for each in _TAKING_TURNS]
    taken = [file for turn in zip_longest(*queues) for file in turn if file is not None]
    return {file: number for number, file in enumerate(taken)}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer | ExternalPostgres]:
    """The Postgres that holds the product's own database, and source databases beside it."""
    server = session_postgres()
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture(scope="session")
def postgres18_server() -> Iterator[PostgresServer]:
    """The newest Postgres there is a wheel of, for what differs between versions."""
    server = new_postgres(version=18)
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """Debian's MariaDB, which logs rows."""
    server = new_mariadb()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MySqlServer | ExternalMySql]:
    """The newest MySQL that can be had, with GTIDs."""
    server = session_mysql()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mongodb_server() -> Iterator[MongoDbServer | ExternalMongoDb]:
    """A MongoDB replica set of one node."""
    server = session_mongodb()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def mariadb_database(mariadb_server: MariaDbServer) -> Iterator[str]:
    """The URL of a new database on MariaDB; gone afterwards."""
    yield from _new_mysql_database(mariadb_server)


@pytest.fixture
def second_mariadb_database(mariadb_server: MariaDbServer) -> Iterator[str]:
    """The URL of another new database on the same MariaDB; gone afterwards."""
    yield from _new_mysql_database(mariadb_server)


@pytest.fixture
def mysql_database(mysql_server: MySqlServer | ExternalMySql) -> Iterator[str]:
    """The URL of a new database on MySQL; gone afterwards."""
    yield from _new_mysql_database(mysql_server)


def _new_mysql_database(server: MySqlServer | ExternalMySql) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.execute(f"DROP DATABASE `{urlsplit(url).path.lstrip('/')}`")


@pytest.fixture
def mongodb_database(mongodb_server: MongoDbServer | ExternalMongoDb) -> Iterator[str]:
    """The URL of a new database on MongoDB; gone afterwards."""
    name = f"database_{secrets.token_hex(6)}"
    yield mongodb_server.url(name)
    with mongodb_server.client() as client:
        client.drop_database(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The broker."""
    server = session_redis()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    postgres_server: PostgresServer | ExternalPostgres,
    redis_server: RedisServer,
    django_db_modify_db_settings_parallel_suffix: None,
) -> None:
    """Whatever uses Django's database needs the servers first (pytest-django asks for this)."""


@pytest.fixture
def log(transactional_db: None) -> Iterator[PostgresEventLog]:
    with empty_log() as store:
        yield store


@contextmanager
def empty_log() -> Iterator[PostgresEventLog]:
    """The built-in event log, empty, and emptied again afterwards."""
    store = PostgresEventLog(control_database_dsn())
    store.make_tables()
    yield store
    store.close()
    with connection.cursor() as cursor:
        cursor.execute(";".join(f"DELETE FROM mission_control.{table}" for table in _LOG_TABLES))


def flush() -> None:
    """Empty the control database, as after each test that commits."""
    call_command("flush", verbosity=0, interactive=False)


@pytest.fixture
def source_database(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The URL of a new database on the shared server; gone afterwards, with its slots."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def source_database18(postgres18_server: PostgresServer) -> Iterator[str]:
    """The URL of a new database on Postgres 18; gone afterwards, with its slots."""
    with new_database(postgres18_server) as url:
        yield url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An endpoint of the test's own."""
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def stack_redis() -> Iterator[RedisServer]:
    """The stack's own broker, which tests may stop, kill and restart."""
    server = new_redis()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def broker_url(stack_redis: RedisServer) -> str:
    """The stack's broker; a module may have another."""
    return stack_redis.url()


@pytest.fixture(scope="module")
def copies() -> dict[str, int]:
    """Of which kinds of process the stack has several; a module may say so."""
    return {}


@pytest.fixture(scope="module")
def environments() -> dict[str, dict[str, str]]:
    """What some of the stack's processes alone are run with; a module may say so."""
    return {}


@pytest.fixture(scope="module")
def stack(
    postgres_server: PostgresServer | ExternalPostgres,
    broker_url: str,
    copies: dict[str, int],
    environments: dict[str, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The whole product, running; one for all the tests of a module."""
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(postgres_server, broker_url, folder, copies, environments) as running:
        yield running
