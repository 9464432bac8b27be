"""The log contract on Postgres, and what is special to a log there."""

import time
from collections.abc import Callable

import pytest

from demo.servers import execute
from eventing.logs.base import EventFilter
from eventing.logs.postgres import PostgresEventLog
from tests.integration.log_contract import DAY_MS, Log, LogContract, stored


class TestPostgres(LogContract):
    @pytest.fixture
    def open_log(self, source_database: str) -> Callable[[], Log]:
        return lambda: PostgresEventLog(source_database)

    def test_a_page_takes_one_statement_however_many_events_there_are(self, log: Log) -> None:
        stored(log, 5000)
        before = log.statements
        log.browse(1, EventFilter(trigger="welcome-email", status="pending"), None, 50)
        assert log.statements - before == 1

    def test_a_day_is_a_table_of_events_and_one_of_invocations(
        self, log: Log, source_database: str
    ) -> None:
        today = int(time.time() * 1000) // DAY_MS
        stored(log, 1, committed_at_ms=(today - 40) * DAY_MS)
        assert len(log.drop_partitions_before(today - 30)) == 2
        left = "SELECT count(*) FROM mission_control.delivery"
        assert execute(source_database, left)[0][0] == 0
