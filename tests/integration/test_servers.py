"""The test bed itself: servers that stop, restart and die as the other tests need them to."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import psycopg2
import pytest
import redis

from tests.databases import MySqlServer, new_mariadb, new_mongodb, new_mysql
from tests.databases import execute as execute_mysql
from tests.folders import FOLDER
from tests.servers import PostgresServer, RedisServer, new_postgres, new_redis
from tests.waiting import wait_until


@pytest.mark.parametrize("version", [None, 16, 18])
def test_a_postgres_streams_logically_and_keeps_its_rows_when_killed(version: int | None) -> None:
    server = new_postgres(version)
    server.start()
    url = server.create_database("kept")
    server.execute("CREATE TABLE rows (id int)", database="kept")
    server.execute("INSERT INTO rows VALUES (1)", database="kept")
    server.kill()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(url)
    server.start()
    assert server.execute("SELECT id FROM rows", database="kept") == [(1,)]
    server.restart("immediate")
    assert server.execute("SHOW wal_level") == [("logical",)]
    server.stop()
    assert not server.is_running


def test_a_redis_that_restarts_has_lost_everything() -> None:
    server = new_redis()
    server.start()
    with redis.Redis.from_url(server.url()) as client:
        client.set("key", "value")
        server.restart()
        assert client.get("key") is None
    server.stop()


def test_a_source_database_can_be_had_beside_the_products_own(
    source_database: str, source_database18: str, postgres_server: PostgresServer
) -> None:
    for url in (source_database, source_database18):
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_create_logical_replication_slot('one', 'pgoutput')")
        connection.close()
    assert postgres_server.execute("SHOW max_replication_slots") == [("50",)]


def test_the_broker_answers(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url()) as client:
        assert client.ping()


@pytest.fixture
def short_folder() -> Iterator[str]:
    """One whose path leaves room for that of a server's socket."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield folder


def test_servers_end_with_a_process_that_is_killed(short_folder: str) -> None:
    starter = (
        "from tests.databases import new_mariadb, new_mongodb, new_mysql\n"
        "from tests.servers import new_postgres, new_redis\n"
        "import sys, signal\n"
        "servers = new_postgres(), new_redis(), new_mariadb(), new_mysql(), new_mongodb()\n"
        "for server in servers: server.start()\n"
        "print(*(server.port for server in servers), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, FOLDER: short_folder},
    ) as process:
        assert process.stdout is not None
        ports = [int(port) for port in process.stdout.readline().split()]
        assert len(ports) == 5
        assert all(accepts_connections(port) for port in ports)
        process.kill()
    for port in ports:
        wait_until(lambda port=port: not accepts_connections(port), 10, "the server still runs")


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("make", [new_mariadb, new_mysql])
def test_a_mysql_keeps_what_it_had_when_it_is_killed_and_started_again(
    make: Callable[[], MySqlServer],
) -> None:
    server = make()
    server.start()
    try:
        url = server.create_database("shop")
        server.execute("CREATE TABLE shop.users (id int PRIMARY KEY)")
        server.execute("INSERT INTO shop.users VALUES (7)")
        server.restart()
        server.kill()
        server.start()
        assert execute_mysql(url, "SELECT id FROM users") == [(7,)]
        assert server.execute("SELECT @@log_bin, @@binlog_format") == [(1, "ROW")]
    finally:
        server.kill()


def test_a_mongodb_streams_changes_after_it_was_killed_and_started_again() -> None:
    server = new_mongodb()
    server.start()
    try:
        server.kill()
        server.start()
        with server.client() as client, client["shop"].watch() as stream:
            client["shop"]["users"].insert_one({"_id": 7})
            assert stream.next()["documentKey"] == {"_id": 7}
    finally:
        server.kill()
