"""A server that lacks a prerequisite says so in the console, before anything is saved."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from eventing.models import Database
from tests.browser.conftest import sign_in
from tests.databases import MongoDbServer, MySqlServer, execute, new_mariadb, new_mongodb, new_mysql
from tests.servers import PostgresServer, new_postgres
from tests.web.conftest import Shop


@pytest.fixture(autouse=True)
def signed_in(shop: Shop, live_server: Any, context: BrowserContext) -> None:
    sign_in(context, live_server)


def _without_logical_decoding() -> tuple[PostgresServer, str, Callable[[], None]]:
    server = new_postgres(wal_level="replica")
    server.start()

    def mend() -> None:
        server.execute("ALTER SYSTEM SET wal_level = 'logical'")
        server.settings.pop("wal_level")
        server.restart()

    return server, server.create_database("shop"), mend


def _without_binary_log() -> tuple[MySqlServer, str, Callable[[], None]]:
    server = new_mariadb()
    log_bin = server.settings.pop("log_bin")
    server.start()

    def mend() -> None:
        server.settings["log_bin"] = log_bin
        server.restart()

    return server, server.create_database("shop"), mend


def _with_statements_logged() -> tuple[MySqlServer, str, Callable[[], None]]:
    server = new_mysql(binlog_format="STATEMENT")
    server.start()
    url = server.create_database("shop")
    return server, url, lambda: execute(url, "SET PERSIST binlog_format = ROW") and None


def _standing_alone() -> tuple[MongoDbServer, str, Callable[[], None]]:
    server = new_mongodb()
    server.start()
    server.stop()
    server.replica_set = None
    server.start()

    def mend() -> None:
        server.replica_set = "rs0"
        server.restart()

    return server, f"mongodb://127.0.0.1:{server.port}/shop", mend


@pytest.mark.parametrize(
    ("lacking", "kind", "what", "mend", "restart"),
    [
        (
            _without_logical_decoding,
            "Postgres",
            "wal_level is replica",
            "ALTER SYSTEM SET wal_level = 'logical'",
            True,
        ),
        (
            _without_binary_log,
            "MySQL or MariaDB",
            "the binary log is off",
            "log_bin = binlog",
            True,
        ),
        (
            _with_statements_logged,
            "MySQL or MariaDB",
            "binlog_format is STATEMENT",
            "SET PERSIST binlog_format = ROW",
            False,
        ),
        (_standing_alone, "MongoDB", "the server stands alone", "--replSet rs0", True),
    ],
)
def test_what_a_server_lacks_is_named_with_its_mend_and_nothing_is_saved(
    shop: Shop,
    live_server: Any,
    page: Page,
    lacking: Callable[[], tuple[Any, str, Callable[[], None]]],
    kind: str,
    what: str,
    mend: str,
    restart: bool,
) -> None:
    before = Database.objects.count()
    server, url, mended = lacking()
    try:
        page.goto(live_server.url + shop.path("databases/add/"))
        page.get_by_text(kind, exact=True).click()
        page.get_by_label("Connection string").fill(url)
        page.get_by_role("button", name="Test connection").click()
        findings = page.locator("#findings")
        expect(findings).to_contain_text("Not ready to be captured", timeout=30_000)
        finding = findings.locator("li", has_text=what)
        expect(finding).to_contain_text(mend)
        expect(finding.get_by_text("The server must then be restarted.")).to_have_count(
            1 if restart else 0
        )
        mended()
        page.get_by_role("button", name="Test connection").click()
        expect(findings).to_contain_text("Ready to be captured", timeout=30_000)
        assert Database.objects.count() == before
    finally:
        server.kill()
