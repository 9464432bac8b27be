"""Upgrades of the tables, while the product runs and somebody reads what is to be altered."""

import base64
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from redis import Redis

from demo.processes import ROOT
from eventing import tasks
from eventing.logs.chunks import SWEEP_GRACE_SECONDS
from eventing.logs.mysql import MySqlEventLog
from eventing.logs.postgres import PostgresEventLog
from eventing.sources.pgstream import parse_position
from tests import databases
from tests.factories import make_change, make_events, make_origin
from tests.product import Product
from tests.receiver import Receiver
from tests.servers import (
    ExternalPostgres,
    PostgresServer,
    RedisServer,
    backup_of,
    drop_database,
    execute,
    name_in,
    new_database,
)
from tests.stack import Stack, new_control_database
from tests.waiting import wait_until

BEFORE = "0007_kept_answers_and_rate_limits"


@pytest.fixture
def newest_database(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """A control database of this version."""
    url = new_control_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


@pytest.fixture(scope="module")
def made_older(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The name of what each older database begins as a copy of."""
    url = new_control_database(postgres_server)
    migrated(url, "eventing", BEFORE)
    execute(url, "COMMENT ON TABLE mission_control.event_log IS 'older'")
    yield name_in(url)
    drop_database(postgres_server, url)


@pytest.fixture
def older_database(
    postgres_server: PostgresServer | ExternalPostgres, made_older: str
) -> Iterator[str]:
    """A control database, and a log in it, as an earlier version would have left them."""
    with new_database(postgres_server, made_older) as url:
        yield url


def migrate(url: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings"},
        stderr=subprocess.PIPE,
        text=True,
    )


def migrated(url: str, *arguments: str) -> None:
    upgrade = migrate(url, *arguments)
    _, said = upgrade.communicate()
    assert upgrade.returncode == 0, said


_STEP_BY_STEP = """
import sys
import django
django.setup()
from django.core.management import call_command
for step in sys.stdin:
    call_command("migrate", *step.split(), verbosity=0)
    print("done", flush=True)
"""


@contextmanager
def step_by_step(url: str) -> Iterator[Callable[[str, str], None]]:
    """Migrates an application to a migration, by one process: it takes longer to start than most
    steps take."""
    with subprocess.Popen(
        [sys.executable, "-c", _STEP_BY_STEP],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "config.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def migrate_to(application: str, name: str) -> None:
            print(application, name, file=ask, flush=True)
            if answers.readline() != "done\n":
                raise AssertionError((application, name, process.communicate()[1]))

        yield migrate_to
        ask.close()
        process.wait()


def test_migrate_waits_for_a_backup_and_nobody_waits_for_migrate(older_database: str) -> None:
    log = PostgresEventLog(older_database)
    events = make_events([make_change()])
    try:
        with backup_of(older_database):
            upgrade = migrate(older_database)
            assert upgrade.stderr is not None
            assert "being read; trying again" in upgrade.stderr.readline()
            # Both have to wait behind what waits for the backup: for a moment, not for its end.
            patiently = "SET lock_timeout = '30s';"
            execute(older_database, f"{patiently} SELECT count(*) FROM eventing_auditentry")
            log.append(make_origin(), events, None, "1")
            assert log.claim([events[0].id], 30)
            assert upgrade.poll() is None
        _, said = upgrade.communicate()
        assert upgrade.returncode == 0, said
    finally:
        log.close()
    execute(older_database, "SELECT 1 FROM eventing_trouble")
    latest = "SELECT obj_description('mission_control.event_log'::regclass)"
    ((comment,),) = execute(older_database, latest)
    assert comment.startswith("made by the definitions")


def test_migrate_that_is_kept_waiting_for_too_long_says_so_and_can_be_run_again(
    older_database: str,
) -> None:
    execute(older_database, "ALTER TABLE mission_control.event_log DROP COLUMN position")
    with backup_of(older_database):
        upgrade = migrate(older_database, "--lock-wait-seconds", "0")
        _, said = upgrade.communicate()
    assert upgrade.returncode == 1
    assert "being read all the time" in said
    assert "Traceback" not in said
    migrated(older_database)
    execute(older_database, "SELECT position FROM mission_control.event_log")


NEWER = "a newer version has changed the tables of DATABASE_URL (eventing 9999_from_the_future)"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "django", "capture"],
        ["-m", "celery", "-A", "config", "worker"],
        ["-m", "celery", "-A", "config", "beat"],
    ],
    ids=lambda command: command[-1],
)
def test_no_process_of_an_earlier_version_starts_beside_newer_tables(
    newest_database: str, command: list[str]
) -> None:
    sql = "INSERT INTO django_migrations (app, name, applied) VALUES ('eventing', %s, now())"
    execute(newest_database, sql, ["9999_from_the_future"])
    started = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": newest_database},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert started.returncode == 1
    assert NEWER in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.django_db
def test_web_of_an_earlier_version_says_that_the_tables_are_newer() -> None:
    MigrationRecorder(connection).record_applied("eventing", "9999_from_the_future")
    answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert any(reason.startswith(NEWER) for reason in answer.json()["reasons"])


# From these on migrations only add, see docs/guides/upgrade.md.
ONLY_ADDING_SINCE = {"eventing": BEFORE, "webui": "0002_cache_table"}


class Column(NamedTuple):
    """What an earlier version relies on in a column that it knows."""

    type: str
    length: int | None
    is_nullable: bool
    must_be_given: bool


class Tables(NamedTuple):
    """All columns by table and name; and what is checked: by table and name, the columns of it."""

    columns: dict[tuple[str, str], Column]
    checked: dict[tuple[str, str], list[str]]


_COLUMNS = """
SELECT table_name, column_name, data_type, character_maximum_length, is_nullable = 'YES',
       is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'
FROM information_schema.columns WHERE table_schema = 'public'
"""
# Unique indexes and checks. Of an index on an expression it is not known what that reads.
_CHECKED = """
SELECT t.relname, c.conname, array(
    SELECT attname::text FROM pg_attribute WHERE attrelid = t.oid AND attnum = ANY (c.conkey))
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
WHERE c.contype IN ('c', 'x') AND t.relnamespace = 'public'::regnamespace
UNION ALL
SELECT t.relname, x.relname, CASE WHEN i.indexprs IS NOT NULL THEN '{an expression}' ELSE array(
    SELECT attname::text FROM pg_attribute WHERE attrelid = t.oid AND attnum = ANY (i.indkey)) END
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace
"""


def tables_of(url: str) -> Tables:
    columns = {(row[0], row[1]): Column(*row[2:]) for row in execute(url, _COLUMNS)}
    return Tables(columns, {(row[0], row[1]): row[2] for row in execute(url, _CHECKED)})


def what_an_earlier_version_misses(before: Tables, after: Tables) -> Iterator[str]:
    """Why processes that know the tables as they were `before` cannot go on `after`wards."""
    known = {table for table, _ in before.columns}
    for (table, name), was in before.columns.items():
        now = after.columns.get((table, name))
        if now is None:
            yield f"{table}.{name} is gone"
        elif now.type != was.type or (now.length or 1 << 31) < (was.length or 1 << 31):
            yield f"{table}.{name} was {was.type} {was.length}, is {now.type} {now.length}"
        elif (was.is_nullable and not now.is_nullable) or (
            now.must_be_given and not was.must_be_given
        ):
            yield f"{table}.{name} must be given now"
    for (table, name), column in after.columns.items():
        if table in known and (table, name) not in before.columns and column.must_be_given:
            yield f"{table}.{name} is new, cannot be NULL, and the database has no default for it"
    for (table, name), columns in after.checked.items():
        is_new = table in known and (table, name) not in before.checked
        if is_new and not {(table, each) for each in columns}.isdisjoint(
            {*before.columns, (table, "an expression")}
        ):
            yield f"{table}: {name} now refuses some of what was allowed"


def test_migrations_only_add_so_that_the_version_before_goes_on_beside_them(
    newest_database: str,
) -> None:
    graph = MigrationLoader(None).graph
    in_order = dict.fromkeys(
        each for leaf in graph.leaf_nodes() for each in graph.forwards_plan(leaf)
    )
    plan = [
        (application, name)
        for application, name in in_order
        if application in ONLY_ADDING_SINCE and name > ONLY_ADDING_SINCE[application]
    ]
    assert len(plan) >= 4
    with step_by_step(newest_database) as migrate_to:
        for application, name in ONLY_ADDING_SINCE.items():
            migrate_to(application, name)
        before = tables_of(newest_database)
        for application, name in plan:
            migrate_to(application, name)
            after = tables_of(newest_database)
            assert not [*what_an_earlier_version_misses(before, after)], (application, name)
            before = after


@pytest.mark.parametrize(
    ("statement", "misses"),
    [
        ("ALTER TABLE shop DROP COLUMN name", "shop.name is gone"),
        ("ALTER TABLE shop RENAME TO store", "shop.id is gone"),
        ("ALTER TABLE shop ALTER COLUMN name TYPE varchar(10)", "shop.name was character varying"),
        ("ALTER TABLE shop ALTER COLUMN note SET NOT NULL", "shop.note must be given now"),
        ("ALTER TABLE shop ALTER COLUMN size DROP DEFAULT", "shop.size must be given now"),
        ("ALTER TABLE shop ADD COLUMN place text NOT NULL", "shop.place is new"),
        ("ALTER TABLE shop ADD CHECK (size < 5)", "shop: shop_size_check now refuses"),
        ("CREATE UNIQUE INDEX one_name ON shop (lower(name))", "shop: one_name now refuses"),
        ("ALTER TABLE shop ADD COLUMN place text NOT NULL DEFAULT ''", ""),
        ("ALTER TABLE shop ADD COLUMN place text UNIQUE CHECK (place <> '')", ""),
        ("ALTER TABLE shop ALTER COLUMN name TYPE varchar(90)", ""),
        ("ALTER TABLE shop ALTER COLUMN name DROP NOT NULL", ""),
        ("CREATE TABLE other (id int PRIMARY KEY, name text NOT NULL)", ""),
    ],
)
def test_what_an_earlier_version_would_miss_is_seen(
    source_database: str, statement: str, misses: str
) -> None:
    execute(
        source_database,
        "CREATE TABLE shop (id int PRIMARY KEY, name varchar(20) NOT NULL, note text,"
        " size int NOT NULL DEFAULT 1)",
    )
    before = tables_of(source_database)
    execute(source_database, statement)
    found = [*what_an_earlier_version_misses(before, tables_of(source_database))]
    assert bool(found) == bool(misses)
    assert not found or found[0].startswith(misses)


# What the version of 27 November 2026 reads and writes, which it must be able to beside each later
# one. A later column is added here once a version that needs it has become the version before.
_SUMS = "delivered retried failed duration_ms_sum " + " ".join(f"latency_{n}" for n in range(17))
_EVENT = (
    "id project_id project trigger_id trigger database_id database database_type table operation"
    " doc_id payload problem committed_at stored_at"
)
_KIND = "project_id trigger_id table operation trigger database"
_SPAN = f"span_seconds begins_at trigger_id project_id {_SUMS}"
_OF_BOTH_LOGS = {
    "delivery": "event_id trigger_id project_id state attempts failures next_attempt_at sweep_at"
    " lease_until order_key order_seq",
    "invocation_log": "event_id attempt started_at duration_ms url request_headers status_code"
    " response_headers response_body error_kind error_message worker",
    "capture_position": "database_id position updated_at",
    "kept": "project_id events_from payloads_from",
    "overdue_payload": "project_id event_id",
}
LOG_COLUMNS = {
    "postgres": {
        **_OF_BOTH_LOGS,
        "event_log": _EVENT,
        "event_kind": f"{_KIND} database_id noted_at",
        "event_stats": f"minute trigger_id writer project_id stored {_SUMS}",
        "event_stats_span": f"{_SPAN} stored",
    },
    "mysql": {
        **_OF_BOTH_LOGS,
        "event_log": f"{_EVENT} doc_hash kind_hash",
        "event_kind": f"{_KIND} kind_hash noted_at",
        "event_stats": f"minute_at trigger_id writer project_id arrived {_SUMS}",
        "event_stats_span": f"{_SPAN} arrived",
        "trigger_order": "trigger_id next_place",
    },
}
_LOG_COLUMNS = """
SELECT column_name, is_nullable = 'NO' AND column_default IS NULL FROM information_schema.columns
WHERE table_schema = {schema} AND table_name = '{prefix}{table}'
"""


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_the_tables_of_the_log_only_get_more(kind: str, request: pytest.FixtureRequest) -> None:
    log: PostgresEventLog | MySqlEventLog
    if kind == "postgres":
        url = str(request.getfixturevalue("source_database"))
        log, schema, prefix = PostgresEventLog(url), "'mission_control'", ""
    else:
        url = str(request.getfixturevalue("mariadb_database"))
        log, schema, prefix = MySqlEventLog(url), "database()", "mission_control_"
    log.make_tables()
    log.close()
    for table, columns in LOG_COLUMNS[kind].items():
        sql = _LOG_COLUMNS.format(schema=schema, prefix=prefix, table=table)
        rows = execute(url, sql) if kind == "postgres" else databases.execute(url, sql)
        found = dict(rows)
        known = set(columns.split())
        assert known <= set(found), table
        assert not [name for name in set(found) - known if found[name]], table


# What workers of the version before have put into the broker, and what they understand.
TASKS = {
    "deliver_chunks": "chunks log_number are_probes",
    "sweep": "",
    "sweep_external": "log_number",
    "redeliver": "redelivery_id",
    "settle_statistics": "",
    "watch": "",
    "upkeep": "",
}


def test_workers_understand_the_messages_of_the_version_before() -> None:
    for name, known in TASKS.items():
        parameters = inspect.signature(getattr(tasks, name).run).parameters
        assert getattr(tasks, name).name == f"eventing.tasks.{name}"
        assert list(parameters)[: len(known.split())] == known.split()
        added = list(parameters.values())[len(known.split()) :]
        assert all(parameter.default is not parameter.empty for parameter in added)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("16B3748/16B3700/2", (0x16B3748, 0x16B3700, 2, 0)),
        ("16B3748/16B3700/2/1", (0x16B3748, 0x16B3700, 2, 1)),
        # A later version may add a part.
        ("16B3748/16B3700/2/1/5", (0x16B3748, 0x16B3700, 2, 1)),
    ],
)
def test_positions_of_the_versions_before_and_after_are_read(
    text: str, position: tuple[int, ...]
) -> None:
    assert parse_position(text) == position


def test_migrations_that_are_taken_back_and_made_again_lose_nothing(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    own = {"alias": "own", "type": "mission-control"}
    product = Product(stack, "shop", source_database, more_databases=[own])
    product.run_sql("CREATE TABLE orders (id int PRIMARY KEY)")
    hook = {"name": "all", "url": receiver.url("/all")}
    of_troubles = {"name": "on-call", "url": receiver.url("/call"), "databases": ["own"]}
    product.apply(hook | {"state": "paused"}, of_troubles)
    product.run_sql("INSERT INTO orders VALUES (1), (2)")
    product.wait_for(pending=2)
    stack.stop_all()
    product.run_sql("INSERT INTO orders VALUES (3)")
    stack.manage("migrate", "eventing", BEFORE)
    assert stack.execute("SELECT count(*) FROM mission_control.delivery") == [(2,)]
    # What the version before cannot read is gone, and its trigger does not come to mean all.
    assert stack.execute("SELECT type FROM eventing_database") == [("postgres",)]
    states = stack.execute("SELECT name, state FROM eventing_trigger ORDER BY name")
    assert states == [("all", "paused"), ("on-call", "disabled")]
    stack.start_all()
    product.apply(hook)
    product.wait_for(delivered=3)
    assert len({request.id for request in receiver.received("/all")}) == 3
    product.disable()


_POSITION = """
UPDATE mission_control.capture_position SET position = {changed} WHERE database_id = (
    SELECT d.id FROM eventing_database d JOIN eventing_project p ON p.id = d.project_id
    WHERE p.name = %s)
"""


def test_a_position_of_another_version_blocks_and_that_version_goes_on_from_it(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    product = Product.of_orders(stack, "forward", source_database, receiver)
    product.run_sql("INSERT INTO orders VALUES (1)")
    product.wait_for(delivered=1)
    stack.stop("capture")
    stack.execute(_POSITION.format(changed="'later:' || position"), [product.name])
    stack.start("capture")
    wait_until(lambda: product.capture()["state"] == "blocked", 30, "capture is not blocked")
    assert "the stored position is not one of Postgres" in product.capture()["error"]
    product.run_sql("INSERT INTO orders VALUES (2)")
    stack.stop("capture")
    # Going forward again: what is stored is what the version that runs now has written.
    stack.execute(_POSITION.format(changed="substr(position, 7)"), [product.name])
    product.run_sql("INSERT INTO orders VALUES (3)")
    stack.start("capture")
    product.wait_for(delivered=3)
    assert sorted(event["doc_id"] for event in product.events()) == ["1", "2", "3"]
    assert len(receiver.received("/all")) == 3
    product.disable()


def _of_another_task(message: dict[str, Any]) -> None:
    message["headers"]["task"] = "eventing.tasks.deliver_in_a_new_way"


def _with_another_argument(message: dict[str, Any]) -> None:
    arguments, named, more = json.loads(base64.b64decode(message["body"]))
    body = json.dumps([arguments, {**named, "in_a_new_way": True}, more])
    message["body"] = base64.b64encode(body.encode()).decode()


_WAITED = """
SELECT extract(epoch FROM i.started_at - e.stored_at)
FROM mission_control.event_log e JOIN mission_control.invocation_log i ON i.event_id = e.id
WHERE e.project = %s
"""


def test_messages_that_a_worker_does_not_know_are_dropped_and_their_events_found_in_the_log(
    stack: Stack, stack_redis: RedisServer, source_database: str, receiver: Receiver
) -> None:
    product = Product.of_orders(stack, "messages", source_database, receiver)
    # Of a trigger that was changed lately the workers look for events themselves.
    stack.execute("UPDATE eventing_trigger SET changed_at = now() - interval '1 minute'")
    with closing(Redis.from_url(stack_redis.url())) as broker:
        stack.stop("worker")
        product.run_sql("INSERT INTO orders VALUES (1)")
        wait_until(lambda: broker.llen("deliver") == 1, 30, "capture sends no message")
        product.run_sql("INSERT INTO orders VALUES (2)")
        wait_until(lambda: broker.llen("deliver") == 2, 30, "capture sends no message")
        for number, change in enumerate((_of_another_task, _with_another_argument)):
            message = json.loads(broker.lindex("deliver", number))
            change(message)
            broker.lset("deliver", number, json.dumps(message))
    stack.start("worker")
    product.wait_for(delivered=2)
    assert len(receiver.received("/all")) == 2
    written = stack.everything_written()
    assert "deliver_in_a_new_way" in written
    assert "unexpected keyword argument 'in_a_new_way'" in written
    waited = [float(seconds) for (seconds,) in stack.execute(_WAITED, [product.name])]
    assert len(waited) == 2
    assert min(waited) >= SWEEP_GRACE_SECONDS
    product.disable()
