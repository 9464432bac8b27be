"""The doctor on MySQL and MariaDB: a prerequisite is broken, found, mended as printed, and fine."""

import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from eventing.changes import Finding
from eventing.matching import Matcher, Rule
from eventing.sources.base import SourceBlocked
from eventing.sources.mysql import MySqlSource
from tests.databases import MariaDbServer, MySqlServer, execute, new_mariadb, new_mysql
from tests.servers import name_in

EVERYTHING = Matcher([Rule(1, "all", (), frozenset({"insert"}))])  # type: ignore[arg-type]


def findings(url: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in MySqlSource(url, "mission_control_test").check()}


def run_mend(url: str, mend: str) -> None:
    """Run what the doctor printed, without its remarks."""
    for statement in mend.split(";"):
        if statement.strip() and not statement.strip().startswith("--"):
            execute(url, statement)


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[MySqlServer]:
    """A server of our own, whose settings may be broken."""
    found = new_mariadb() if request.param == "mariadb" else new_mysql()
    found.start()
    yield found
    found.kill()


@pytest.fixture
def url(server: MySqlServer) -> str:
    return server.create_database()


@pytest.mark.parametrize(
    ("name", "broken", "status"),
    [
        ("binlog_format", "'STATEMENT'", "error"),
        ("binlog_row_image", "'MINIMAL'", "error"),
        ("binlog_row_metadata", "'MINIMAL'", "warning"),
        ("binlog_expire_logs_seconds", "3600", "warning"),
        ("binlog_row_value_options", "'PARTIAL_JSON'", "error"),
    ],
)
def test_a_setting_that_is_wrong_is_found_and_mended(
    server: MySqlServer, url: str, name: str, broken: str, status: str
) -> None:
    if name == "binlog_row_value_options" and isinstance(server, MariaDbServer):
        # MariaDB has no such setting, so nothing of it can be wrong.
        assert name not in findings(url)
        return
    label = "binary log expiry" if name == "binlog_expire_logs_seconds" else name
    execute(url, f"SET GLOBAL {name} = {broken}")
    finding = findings(url)[label]
    assert finding.status == status
    assert finding.why
    assert not finding.restart
    if status == "error":
        with pytest.raises(SourceBlocked) as blocked:
            MySqlSource(url, "mission_control_test").open(EVERYTHING, None)
        assert blocked.value.mend == finding.mend
    run_mend(url, finding.mend)
    assert findings(url)[label].status == "ok"


def test_rights_that_are_missing_are_found_and_mended(server: MySqlServer, url: str) -> None:
    user = f"reader_{secrets.token_hex(4)}"
    database = name_in(url)
    execute(url, f"CREATE USER {user}@'%' IDENTIFIED BY 'secret'")
    theirs = f"mysql://{user}:secret@127.0.0.1:{server.port}/{database}"
    found = findings(theirs)
    assert found["connection"].status == "ok"
    assert found["replication client right"].status == "error"
    assert found["database"].status == "error"
    assert "Access denied" in found["database"].what
    run_mend(url, found["database"].mend)
    assert {finding.status for finding in findings(theirs).values()} <= {"ok", "warning"}
    for right, name in (
        ("REPLICATION CLIENT", "replication client right"),
        ("REPLICATION SLAVE", "replication slave right"),
    ):
        execute(url, f"REVOKE {right} ON *.* FROM {user}@'%'")
        finding = findings(theirs)[name]
        assert finding.status == "error"
        run_mend(url, finding.mend)
        assert {finding.status for finding in findings(theirs).values()} <= {"ok", "warning"}
    execute(url, f"DROP USER {user}@'%'")


def test_a_user_who_may_not_look_into_the_database_is_told_of_all_else_too(
    server: MySqlServer, url: str
) -> None:
    user = f"reader_{secrets.token_hex(4)}"
    database = name_in(url)
    execute(url, f"CREATE USER {user}@'%' IDENTIFIED BY 'secret'")
    execute(url, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}@'%'")
    execute(url, "SET GLOBAL binlog_row_image = 'MINIMAL'")
    theirs = f"mysql://{user}:secret@127.0.0.1:{server.port}/{database}"
    broken = {name for name, each in findings(theirs).items() if each.status == "error"}
    assert broken == {"binlog_row_image", "database"}
    with pytest.raises(SourceBlocked, match="Access denied") as blocked:
        MySqlSource(theirs, "mission_control_test").open(EVERYTHING, None)
    assert blocked.value.mend == findings(theirs)["database"].mend
    for name in sorted(broken):
        run_mend(url, findings(theirs)[name].mend)
    assert {finding.status for finding in findings(theirs).values()} <= {"ok", "warning"}
    execute(url, f"DROP USER {user}@'%'")


def test_a_database_that_is_not_there_is_found(server: MySqlServer) -> None:
    finding = findings(server.url("nowhere"))["database"]
    assert finding.status == "error"
    assert "Unknown database" in finding.what


def test_foreign_keys_whose_cascades_are_not_logged_are_named(
    server: MySqlServer, url: str
) -> None:
    execute(url, "CREATE TABLE parents (id int PRIMARY KEY)")
    execute(
        url,
        "CREATE TABLE children (id int PRIMARY KEY, parent int,"
        " FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE)",
    )
    source = MySqlSource(url, "mission_control_test")
    limits = {table.name: table.limits for table in source.catalogue()}
    source.open(Matcher([Rule(1, "all", (), frozenset({"delete"}))]), None)  # type: ignore[arg-type]
    execute(url, "INSERT INTO parents VALUES (1)")
    execute(url, "INSERT INTO children VALUES (7, 1)")
    execute(url, "DELETE FROM parents")
    deleted = {change.table for _ in range(5) for change in source.read(100, 0.2).changes}
    source.close()
    # What the catalogue says is what the server does.
    assert ("children" in deleted) == (limits["children"] == "")
    assert limits["parents"] == ""


@pytest.mark.parametrize("new_server", [new_mariadb, new_mysql])
def test_a_server_without_a_binary_log_is_found_and_mended(new_server: type[MySqlServer]) -> None:
    server = new_server()
    log_bin = server.settings.pop("log_bin")
    server.settings["skip_log_bin"] = "1"
    server.start()
    finding = findings(server.url())["binary log"]
    assert (finding.status, finding.restart) == ("error", True)
    assert "log_bin = binlog" in finding.mend
    del server.settings["skip_log_bin"]
    server.settings["log_bin"] = log_bin
    server.restart()
    assert findings(server.url())["binary log"].status == "ok"
    server.kill()


def test_a_database_that_is_left_out_of_the_log_is_found() -> None:
    server = new_mariadb(binlog_ignore_db="shop")
    server.start()
    finding = findings(server.create_database("shop"))["binlog_do_db"]
    assert (finding.status, finding.restart) == ("error", True)
    del server.settings["binlog_ignore_db"]
    server.restart()
    assert "binlog_do_db" not in findings(server.url("shop"))
    server.kill()


def test_a_server_without_global_ids_is_warned_of_and_mended() -> None:
    server = new_mysql(gtid_mode="OFF", enforce_gtid_consistency="OFF")
    server.start()
    finding = findings(server.url())["global transaction ids"]
    assert finding.status == "warning"
    run_mend(server.url(), finding.mend)
    assert findings(server.url())["global transaction ids"].status == "ok"
    server.kill()


def test_a_certificate_that_is_not_there_is_said_to_be_missing(url: str) -> None:
    with pytest.raises(SourceBlocked, match=r"ssl-ca.*No such file") as blocked:
        MySqlSource(f"{url}?ssl-mode=VERIFY_CA&ssl-ca=/nowhere.pem", "t").open(EVERYTHING, None)
    assert blocked.value.mend


def test_what_cannot_be_connected_to_is_said_without_the_password() -> None:
    (finding,) = findings("mysql://reader:hidden-word@127.0.0.1:1/shop").values()
    assert (finding.name, finding.status) == ("connection", "error")
    assert "hidden-word" not in finding.what + finding.mend


@pytest.mark.parametrize("trouble", ["ACCOUNT LOCK", "PASSWORD EXPIRE"])
def test_an_account_that_is_not_let_in_is_told_what_lets_it_in(url: str, trouble: str) -> None:
    user = f"reader_{secrets.token_hex(4)}"
    execute(url, f"CREATE USER '{user}'@'%' IDENTIFIED BY 'first'")
    execute(url, f"GRANT SELECT ON *.* TO '{user}'@'%'")
    execute(url, f"ALTER USER '{user}'@'%' {trouble}")
    parts = urlsplit(url)
    theirs = parts._replace(netloc=f"{user}:first@{parts.hostname}:{parts.port}").geturl()
    (finding,) = findings(theirs).values()
    assert (finding.name, finding.status) == ("connection", "error")
    execute(url, finding.mend.replace("a new password", "first"))
    assert findings(theirs)["connection"].status == "ok"
    execute(url, f"DROP USER '{user}'@'%'")
