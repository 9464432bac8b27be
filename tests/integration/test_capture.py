"""The capture loop where what it captures is changed, given up or put back at the same moment."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta

import psycopg2
import pytest
from django.utils import timezone

from demo.servers import execute
from eventing.access import command_line
from eventing.capture import (
    CaptureLoop,
    Reconfigured,
    capture_database,
    databases_to_capture,
    has_retired_sources_due,
    remove_retired_sources,
)
from eventing.definitions import SettingsDefinition
from eventing.lease import Lease
from eventing.logs import control_database_dsn
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Database, Project, RetiredSource
from eventing.projects import configuration_change, delete_database, start_anew, update_settings
from eventing.sources.base import SourceUnavailable
from tests.factories import make_database, make_origin, make_project, make_trigger
from tests.waiting import wait_until


def left_at(url: str) -> list[str]:
    """The slots and publications of this database."""
    slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    publications = "SELECT pubname FROM pg_publication"
    return [name for (name,) in execute(url, f"{slots} UNION ALL {publications}")]


def remove_all(url: str) -> None:
    """Take away what is to be taken away, as capture's supervisor would, until nothing is."""

    def nothing_is_left() -> bool:
        RetiredSource.objects.update(next_try_at="2020-01-01T00:00Z")
        if has_retired_sources_due():
            remove_retired_sources()
        return not RetiredSource.objects.exists()

    wait_until(nothing_is_left, 20, "something cannot be taken away")
    assert left_at(url) == []


def is_(state: str, database: Database) -> Callable[[], bool]:
    """Whether capture of a database has come to a state."""
    rows = CaptureLease.objects.filter(database_id=database.pk, state=state)
    return lambda: rows.exists()


@pytest.fixture
def project(log: PostgresEventLog) -> Project:
    return make_project()


@contextmanager
def begun(database: Database) -> Iterator[CaptureLoop]:
    """A capture loop that has read what it is to capture, and has not begun with it."""
    lease = Lease.acquire(database.pk)
    assert lease is not None
    try:
        loop = CaptureLoop.load(database.pk, lease, lambda: True)
        assert loop is not None
        yield loop
        loop.close()
    finally:
        lease.release()


def test_a_database_deleted_while_its_capture_begins_leaves_nothing_at_the_server(
    project: Project, source_database: str
) -> None:
    with begun(make_database(project, source_database)) as loop:
        delete_database(Database.objects.get(), by=command_line())
        # Before there is anything to be taken away.
        remove_all(source_database)
        with pytest.raises(Reconfigured):
            loop.run()
    remove_all(source_database)


def test_eventing_switched_off_while_capture_begins_leaves_nothing_at_the_server(
    project: Project, source_database: str
) -> None:
    database = make_database(project, source_database)
    with begun(database) as loop:
        update_settings(project, SettingsDefinition(eventing_enabled=False), by=command_line())
        remove_all(source_database)
        with pytest.raises(Reconfigured):
            loop.run()
    remove_all(source_database)


def test_what_is_being_taken_away_is_looked_for_again_once_capture_has_begun(
    project: Project, source_database: str
) -> None:
    database = make_database(project, source_database)
    with begun(database) as loop:
        for is_enabled in (False, True):
            settings = SettingsDefinition(eventing_enabled=is_enabled)
            update_settings(project, settings, by=command_line())
        with pytest.raises(SourceUnavailable, match="still there"):
            loop.run()
    assert databases_to_capture() == []
    remove_all(source_database)
    assert databases_to_capture() == [database.pk]


def test_tries_that_changes_of_configuration_bring_on_make_the_pause_no_longer(
    project: Project, log: PostgresEventLog
) -> None:
    database = make_database(project, "postgresql://reader:word@127.0.0.1:1/nowhere")
    told: set[datetime] = set()

    def has_failed_often() -> bool:
        for lease in CaptureLease.objects.filter(state="retrying").exclude(next_try_at__in=told):
            assert lease.next_try_at is not None
            told.add(lease.next_try_at)
            with configuration_change():
                pass  # whatever it is
        return len(told) == 8

    capture_database(database.pk, has_failed_often)
    # By itself the eighth try would come after a minute.
    assert max(told) - timezone.now() < timedelta(seconds=10)


def test_a_source_that_lost_what_was_read_stays_blocked_until_it_is_started_anew(
    project: Project, log: PostgresEventLog, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE users (id int PRIMARY KEY)")
    database = make_database(project, source_database)
    make_trigger(project, "http://127.0.0.1:1/hook")
    capture_database(database.pk, is_("streaming", database))
    position = log.position(database.pk)
    assert position is not None
    ahead = f"FFFFFFFF{position[8:]}"
    move(database, position, ahead)
    CaptureLease.objects.all().delete()
    capture_database(database.pk, is_("blocked", database))
    assert "earlier state" in CaptureLease.objects.get().error
    # Even when its log has come to that place again.
    assert log.position(database.pk) == f"lost:{ahead}"
    move(database, f"lost:{ahead}", f"lost:{position}")
    CaptureLease.objects.all().delete()
    capture_database(database.pk, is_("blocked", database))
    assert "earlier state" in CaptureLease.objects.get().error
    start_anew(database, by=command_line())
    capture_database(database.pk, is_("streaming", database))
    delete_database(database, by=command_line())
    remove_all(source_database)


def test_what_was_read_is_acknowledged_only_once_it_is_stored(
    project: Project, log: PostgresEventLog, source_database: str
) -> None:
    execute(source_database, "CREATE TABLE users (id int PRIMARY KEY)")
    database = make_database(project, source_database)
    make_trigger(project, "http://127.0.0.1:1/hook")

    def has_acknowledged(lsn: str) -> bool:
        confirmed = (
            f"SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots"
            " WHERE database = current_database()"
        )
        return bool(execute(source_database, confirmed)[0][0])

    stop = threading.Event()
    capture = threading.Thread(target=capture_database, args=[database.pk, stop.is_set])
    capture.start()
    try:
        wait_until(is_("streaming", database), 20, "nothing streams")
        with closing(psycopg2.connect(control_database_dsn())) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE mission_control.capture_position")
            execute(source_database, "INSERT INTO users SELECT generate_series(1, 20000)")
            ((committed,),) = execute(source_database, "SELECT pg_current_wal_lsn()")
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_until(lambda: execute(control_database_dsn(), waiting)[0][0], 20, "nobody stores")
            assert not has_acknowledged(committed)
        stored = "SELECT count(DISTINCT doc_id), count(*) FROM mission_control.event_log"
        wait_until(
            lambda: execute(control_database_dsn(), stored) == [(20_000, 20_000)],
            30,
            "not everything is stored once",
        )
        wait_until(lambda: has_acknowledged(committed), 20, "what is stored is not acknowledged")
    finally:
        stop.set()
        capture.join(20)
    delete_database(database, by=command_line())
    remove_all(source_database)


def move(database: Database, previous: str, position: str) -> None:
    """Put the stored position of a database elsewhere."""
    log = PostgresEventLog(control_database_dsn())
    log.append(make_origin(database.project, database.pk), [], previous, position)
    log.close()
