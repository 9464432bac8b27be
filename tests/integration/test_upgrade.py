"""Upgrades of the tables, while the product runs and somebody reads what is to be altered."""

import os
import subprocess
import sys

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from demo.processes import ROOT
from eventing.logs.postgres import PostgresEventLog
from tests.factories import make_change, make_events, make_origin
from tests.servers import backup_of, execute

BEFORE = "0007_kept_answers_and_rate_limits"


@pytest.fixture
def older_database(source_database: str) -> str:
    """A control database, and a log in it, as an earlier version would have left them."""
    migrated(source_database)
    migrated(source_database, "eventing", BEFORE)
    execute(source_database, "COMMENT ON TABLE mission_control.event_log IS 'older'")
    return source_database


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
    source_database: str, command: list[str]
) -> None:
    migrated(source_database)
    sql = "INSERT INTO django_migrations (app, name, applied) VALUES ('eventing', %s, now())"
    execute(source_database, sql, ["9999_from_the_future"])
    started = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": source_database},
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
