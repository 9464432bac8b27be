"""What may be written about projects, databases and triggers, and what is said of the rest."""

import re
from typing import Any

import pytest

from eventing.definitions import parse_database, parse_project, parse_settings, parse_trigger
from eventing.problems import InvalidInput

TRIGGER: dict[str, Any] = {
    "name": "welcome-email",
    "operations": ["insert"],
    "url": "https://example.com/hook",
}
DATABASE: dict[str, Any] = {
    "alias": "main",
    "type": "postgres",
    "url": "postgres://u:hunter2@db.example.com:5432/shop",
}


def problem_of(parse: Any, *arguments: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        parse(*arguments)
    assert len(refused.value.problems) == 1, refused.value
    return str(refused.value)


def test_a_trigger_of_three_fields_gets_the_defaults_of_the_contract() -> None:
    trigger = parse_trigger(TRIGGER, {})
    assert (trigger.databases, trigger.tables, trigger.operations) == ((), (), ("insert",))
    assert (trigger.retries, trigger.timeout_ms, trigger.state) == (3, 5000, "active")
    assert (trigger.concurrency, trigger.format) == (64, "spacecloud")
    backoff = trigger.backoff
    assert (backoff.initial_ms, backoff.factor, backoff.max_ms) == (2000, 4, 3_600_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "with space"}, r"name: got 'with space'; allowed: 1 to 63"),
        ({"name": None}, r"name: got nothing; allowed"),
        (
            {"operations": []},
            r"operations: got an empty list; allowed: a list of one or more of insert",
        ),
        ({"operations": ["upsert"]}, r"operations: got 'upsert'; allowed: a list of one or more"),
        ({"operations": "insert"}, r"operations: got 'insert'; allowed: a list of"),
        ({"tables": "users, orders"}, r"tables: got 'users, orders'; allowed: a list of table"),
        ({"databases": "main"}, r"databases: got 'main'; allowed: a list of database aliases"),
        ({"tables": {"users": True}}, r"tables: got .*; allowed: a list of table"),
        ({"url": "ftp://example.com"}, r"url: got 'ftp://example.com'; allowed: .*https://"),
        ({"url": "https://"}, r"url: got 'https://'"),
        ({"url": "https://u:p@example.com/"}, r"url: got an address with a user name.*header"),
        ({"url": "https://example.com:99999/"}, r"url: got"),
        ({"retries": -1}, r"retries: got -1; allowed: a whole number from 0 to 100"),
        ({"retries": True}, r"retries: got true"),
        ({"retries": "3"}, r"retries: got '3'"),
        ({"timeout_ms": 0}, r"timeout_ms: got 0"),
        ({"state": "off"}, r"state: got 'off'; allowed: one of active, paused, disabled"),
        ({"backoff": {"factor": 0.5}}, r"backoff.factor: got 0.5"),
        (
            {"backoff": {"speed": 1}},
            r"backoff.speed: got an unknown field; allowed: only initial_ms, factor, max_ms$",
        ),
        ({"headers": {"Content-Length": "1"}}, r"headers.Content-Length: got this header"),
        ({"headers": {"X": "a\r\nY: b"}}, r"headers.X: got what was given; allowed: text on one"),
        ({"headers": {"A b": "c"}}, r"headers: got 'A b'; allowed: a header name"),
        ({"colour": "red"}, r"colour: got an unknown field; allowed: only name, .*operations"),
    ],
)
def test_bad_input_names_field_value_and_what_is_allowed(
    change: dict[str, Any], message: str
) -> None:
    assert re.match(message, problem_of(parse_trigger, TRIGGER | change, {}))


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_trigger({"name": "", "operations": "", "url": "", "retries": 101}, {})
    fields = {problem.field for problem in refused.value.problems}
    assert fields == {"name", "operations", "url", "retries"}


def test_references_are_resolved_and_remembered() -> None:
    written = TRIGGER | {"headers": {"Authorization": "Bearer ${HOOK_TOKEN}", "X-Plain": "1"}}
    trigger = parse_trigger(written, {"HOOK_TOKEN": "s3cret"})
    assert trigger.headers == {"Authorization": "Bearer s3cret", "X-Plain": "1"}
    assert trigger.header_references == {"Authorization": "Bearer ${HOOK_TOKEN}"}
    assert "HOOK_TOKEN is unset" in problem_of(parse_trigger, written, {})


def test_a_definition_never_shows_its_secrets() -> None:
    assert "hunter2" not in repr(parse_database(DATABASE, {}))
    assert "s3cret" not in repr(parse_trigger(TRIGGER | {"headers": {"X": "s3cret"}}, {}))
    for url in ("mysql://u:hunter2@h/d", "postgres://u:hunter2@h", "postgres://u:hunter2@h:x/d"):
        assert "hunter2" not in problem_of(parse_database, DATABASE | {"url": url}, {})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "postgres",
            "sslmode=strict",
            "url: got another word for sslmode; allowed: one of disable",
        ),
        ("mysql", "ssl-mode=yes", "url: got another word for ssl-mode; allowed: one of DISABLED"),
        ("mysql", "ssl_mode=REQUIRED", "url: got the option 'ssl_mode'; allowed: the options of"),
        (
            "mysql",
            "useSSL=true",
            "url: got an option; allowed: the options of docs/guides/mysql.md",
        ),
        ("mongodb", "tls=yes", "url: got another word for tls; allowed: one of true, false"),
        ("mongodb", "sslmode=require", "url: got the option 'sslmode'; allowed: the options of"),
    ],
)
def test_encryption_asked_for_in_words_that_a_driver_passes_over_is_refused(
    kind: str, options: str, message: str
) -> None:
    scheme = {"postgres": "postgresql"}.get(kind, kind)
    given = {"alias": "main", "type": kind, "url": f"{scheme}://u:hunter2@h/d?{options}"}
    assert problem_of(parse_database, given, {}).startswith(message)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mysql", "ssl-mode=verify_ca&ssl-ca=%2Fca.pem&charset=utf8mb4"),
        ("mongodb", "TLS=true&tlsCAFile=%2Fca.pem&retryWrites=true"),
        ("mongodb", "ssl=true&replicaSet=rs0"),
    ],
)
def test_encryption_asked_for_as_the_driver_knows_it_is_taken(kind: str, options: str) -> None:
    given = {"alias": "main", "type": kind, "url": f"{kind}://u:hunter2@h/d?{options}"}
    assert parse_database(given, {}).url == given["url"]


def test_a_source_of_another_kind_is_refused_by_name() -> None:
    message = problem_of(parse_database, DATABASE | {"type": "oracle"}, {})
    assert message.startswith("type: got 'oracle'; allowed: one of postgres")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eventing": {"enabled": "yes"}}, "eventing.enabled: got 'yes'; allowed: true or false"),
        ({"eventing": {"db": "no name"}}, "eventing.db: got 'no name'; allowed: `builtin` or"),
        ({"retention": {"events": "a month"}}, "retention.events: got 'a month'"),
        ({"retention": {"events": "7d", "payloads": "8d"}}, "retention.payloads: got '8d'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    given = {"retention": {"payloads": "1d"}} | settings
    assert problem_of(parse_settings, given).startswith(message)


@pytest.mark.parametrize("written", [7, "7", "7d"])
def test_days_may_be_written_in_each_way_that_the_refusal_names(written: object) -> None:
    given = {"retention": {"events": written, "payloads": written}}
    assert parse_settings(given).retention_events_days == 7


def test_mission_control_itself_is_a_database_without_an_address() -> None:
    own = {"alias": "own", "type": "mission-control"}
    assert parse_database(own, {}) == parse_database({**own, "url": ""}, {})
    allowed = "allowed: nothing: Mission Control itself is the source, and has no address"
    for url in ("postgres://db/shop", "${EMPTY}"):
        message = problem_of(parse_database, {**own, "url": url}, {"EMPTY": ""})
        assert message == f"url: got what was given; {allowed}"
    message = problem_of(parse_database, {**own, "schemas": ["public"]}, {})
    assert message.startswith("schemas: got 'public'; allowed: nothing")


def test_a_database_names_the_field_that_may_be_left_out() -> None:
    message = problem_of(parse_database, DATABASE | {"schema": ["public"]}, {})
    assert message == "schema: got an unknown field; allowed: only alias, type, url, schemas"


def test_a_project_is_checked_as_a_whole() -> None:
    given = {
        "name": "shop",
        "databases": [DATABASE, DATABASE],
        "triggers": [TRIGGER | {"databases": ["nowhere"]}],
    }
    with pytest.raises(InvalidInput) as refused:
        parse_project(given, {}, "projects[0]")
    assert [problem.field for problem in refused.value.problems] == [
        "projects[0].databases[1].alias"
    ]
    given["databases"] = [DATABASE]
    assert "projects[0].triggers[0].databases: got 'nowhere'" in problem_of(
        parse_project, given, {}, "projects[0]"
    )
