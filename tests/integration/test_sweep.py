"""The sweep, beside people who change triggers while it runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta

import psycopg2
import pytest
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.utils import timezone

from demo.servers import execute
from eventing import sweep
from eventing.eventing_dbs import BUILTIN
from eventing.logs import control_database_dsn
from eventing.logs.postgres import PostgresEventLog
from tests.factories import make_change, make_events, make_origin, make_project, make_trigger
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_events_of_a_trigger_that_is_made_while_a_sweep_runs_are_not_cancelled(
    log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Leases are looked at now, and not again: the sweep would wait there.
    monkeypatch.setattr(sweep, "_EXPIRE_EVERY_SECONDS", 60.0)
    sweep.sweep(BUILTIN)
    project = make_project()
    with ThreadPoolExecutor(1) as pool, ExitStack() as making:
        # The trigger is seen by nobody until it is committed, while the sweep is under way.
        making.enter_context(transaction.atomic())
        trigger = make_trigger(project, "http://127.0.0.1:1/")
        (event,) = make_events([make_change()], make_origin(project), trigger.pk)
        log.append(make_origin(project), [event], None, "A")
        with nobody_reads_what_waits():
            sweeping = pool.submit(sweep_and_close)
            wait_until(sweep_waits, 30, "the sweep does not look at the log")
            making.close()
        sweeping.result()
    detail = log.event(project.pk, event.id)
    assert detail is not None
    assert detail.row.status == "pending"


def test_a_sweep_that_takes_long_is_not_joined_by_others(log: PostgresEventLog) -> None:
    with ThreadPoolExecutor(1) as pool:
        with nobody_reads_what_waits():
            sweeping = pool.submit(sweep_and_close, sweep.sweep_patiently)
            wait_until(sweep_waits, 30, "the sweep does not look at the log")
            sweep.sweep_patiently(BUILTIN)
        sweeping.result()


def test_upkeep_builds_an_index_that_a_log_of_an_older_version_lacks(
    log: PostgresEventLog,
) -> None:
    execute(control_database_dsn(), "DROP INDEX mission_control.event_log_kind")
    assert log.is_behind()
    sweep.upkeep()
    wait_until(lambda: not log.is_behind(), 60, "the index is not built")


def test_upkeep_forgets_sessions_that_have_expired(log: PostgresEventLog) -> None:
    now = timezone.now()
    for name, days in {"over": -1, "lasting": 1}.items():
        Session.objects.create(session_key=name, expire_date=now + timedelta(days=days))
    sweep.upkeep()
    assert [each.session_key for each in Session.objects.all()] == ["lasting"]


@contextmanager
def nobody_reads_what_waits() -> Iterator[None]:
    """Until the end of the block, whoever looks at what waits in the log has to wait itself."""
    with closing(psycopg2.connect(control_database_dsn())) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE mission_control.delivery")
        yield


def sweep_waits() -> bool:
    waiting = (
        "SELECT 1 FROM pg_locks"
        " WHERE NOT granted AND relation = 'mission_control.delivery'::regclass"
    )
    return bool(execute(control_database_dsn(), waiting))


def sweep_and_close(how: Callable[[int], object] = sweep.sweep) -> None:
    try:
        how(BUILTIN)
    finally:
        connection.close()
