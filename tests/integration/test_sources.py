"""The source contract on each kind of server."""

from collections.abc import Iterator

import pytest

from tests.databases import MariaDbServer, MongoDbServer, MySqlServer, new_mysql
from tests.integration.source_contract import SourceContract, reader
from tests.servers import PostgresServer, new_postgres
from tests.subjects import MongoSubject, MySqlSubject, PostgresSubject, Subject

__all__ = ["reader"]


@pytest.fixture(scope="module")
def postgres15() -> Iterator[PostgresServer]:
    """Debian's Postgres, of our own: the tests restart it."""
    server = new_postgres()
    server.start()
    yield server
    server.stop("immediate")


class TestPostgres15(SourceContract):
    @pytest.fixture
    def subject(self, postgres15: PostgresServer) -> Iterator[Subject]:
        yield from _closing(PostgresSubject(postgres15))


class TestPostgres18(SourceContract):
    @pytest.fixture
    def subject(self, postgres18_server: PostgresServer) -> Iterator[Subject]:
        yield from _closing(PostgresSubject(postgres18_server))


class TestMariaDb(SourceContract):
    @pytest.fixture
    def subject(self, mariadb_server: MariaDbServer) -> Iterator[Subject]:
        yield from _closing(MySqlSubject(mariadb_server))


class TestMySql(SourceContract):
    @pytest.fixture
    def subject(self, mysql_server: MySqlServer) -> Iterator[Subject]:
        yield from _closing(MySqlSubject(mysql_server))


@pytest.fixture(scope="module")
def mysql_without_gtids() -> Iterator[MySqlServer]:
    """A MySQL whose transactions have no global ids: positions are places in its files."""
    server = new_mysql(gtid_mode="OFF", enforce_gtid_consistency="OFF")
    server.start()
    yield server
    server.kill()


class TestMySqlWithoutGtids(SourceContract):
    @pytest.fixture
    def subject(self, mysql_without_gtids: MySqlServer) -> Iterator[Subject]:
        yield from _closing(MySqlSubject(mysql_without_gtids))


class TestMongoDb(SourceContract):
    @pytest.fixture
    def subject(self, mongodb_server: MongoDbServer) -> Iterator[Subject]:
        yield from _closing(MongoSubject(mongodb_server))


def _closing(subject: Subject) -> Iterator[Subject]:
    yield subject
    subject.close()
