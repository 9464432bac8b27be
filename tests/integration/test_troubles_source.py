"""A project's troubles as changes that its triggers watch: the source itself, the capture loop over
it, and the running product whose capture is killed meanwhile.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from eventing import history, notifications, troubles
from eventing.access import command_line
from eventing.breakers import Breakers
from eventing.capture import capture_database, remove_retired_sources
from eventing.changes import Change
from eventing.definitions import SettingsDefinition
from eventing.doctor import catalogue, check_database, sample
from eventing.logs.base import EventFilter
from eventing.logs.postgres import PostgresEventLog
from eventing.matching import Matcher
from eventing.models import (
    Breaker,
    CaptureLease,
    Database,
    Project,
    RetiredSource,
    Trigger,
    Trouble,
    TroubleNumber,
    TroubleReader,
)
from eventing.projects import (
    configuration_held,
    delete_database,
    delete_project,
    save_trigger,
    start_anew,
    trigger_definition_of,
    update_settings,
)
from eventing.sources.base import START_ANEW, SourceBlocked
from eventing.sources.troubles import TroublesSource
from tests.factories import make_database, make_outcome, make_project, make_trigger
from tests.product import Product
from tests.receiver import Receiver
from tests.stack import Stack
from tests.waiting import wait_until

EVERYTHING = Matcher([])
HOOK = "http://127.0.0.1:1/hook"


@pytest.fixture
def project(log: PostgresEventLog) -> Project:
    return make_project()


def make_own(project: Project, alias: str = "own") -> Database:
    """Mission Control as a database of a project."""
    return make_database(project, "", alias, type="mission-control")


def make_watched(project: Project, alias: str = "main") -> Database:
    return make_database(project, "postgresql://h/d", alias)


def is_(database: Database, state: str, **fields: Any) -> None:
    CaptureLease.objects.update_or_create(
        database=database,
        defaults={
            "state": state,
            "error": "",
            "mend": "",
            "expires_at": Now() + timedelta(minutes=5),
            **fields,
        },
    )


def begin(database: Database, error: str = "the slot is gone") -> None:
    """Something goes wrong with a database, and is noticed."""
    is_(database, "blocked", error=error, mend="SELECT 1")
    notifications.watch()


def end(database: Database) -> None:
    """It is mended, and away for longer than a minute."""
    is_(database, "streaming")
    watch_until_gone()


def watch_until_gone() -> None:
    notifications.watch()
    Trouble.objects.update(gone_since=F("gone_since") - timedelta(minutes=2))
    notifications.watch()


def opened(database: Database, after: str | None = None) -> TroublesSource:
    source = TroublesSource(database.project_id, database.source_name)
    source.open(EVERYTHING, after)
    return source


def read(source: TroublesSource, count: int, most: int = 1000) -> list[Change]:
    """All the changes that are there to be read: exactly so many, and no more come."""
    changes: list[Change] = []
    wait_until(lambda: (changes.extend(source.read(most, 0.2).changes), len(changes) >= count)[1])
    # Long enough for it to look once more.
    changes.extend(source.read(most, 5).changes)
    assert len(changes) == count
    return changes


def kinds_of(changes: list[Change]) -> list[tuple[str, str, str]]:
    found = [(each.operation, json.loads(each.document)) for each in changes]
    return [(operation, row["kind"], row["object"]) for operation, row in found]


# The source


def test_a_beginning_is_an_insert_and_an_end_an_update(project: Project) -> None:
    main, source = make_watched(project), opened(make_own(project))
    begin(main)
    end(main)
    begun, ended = read(source, 2)
    assert (begun.operation, ended.operation) == ("insert", "update")
    assert {begun.table, ended.table} == {"troubles"}
    assert begun.document_id == ended.document_id
    first, last = json.loads(begun.document), json.loads(ended.document)
    assert last["ended_at"] > first["began_at"]
    assert first == {
        "id": int(begun.document_id),
        "kind": "source_blocked",
        "object": "main",
        "reason": "the slot is gone\nTo mend it: SELECT 1",
        "began_at": first["began_at"],
        "ended_at": None,
    }
    assert last == first | {"ended_at": last["ended_at"]}
    stored = Trouble.objects.get()
    assert stored.ended_at is not None
    assert begun.committed_at_ms == int(stored.began_at.timestamp() * 1000)
    assert ended.committed_at_ms == int(stored.ended_at.timestamp() * 1000)


def test_it_begins_with_now(project: Project) -> None:
    main, other = make_watched(project), make_watched(project, "other")
    begin(main)
    source = opened(make_own(project))
    begin(other)
    assert kinds_of(read(source, 1)) == [("insert", "source_blocked", "other")]
    # What began before is over: that is a change, too.
    end(main)
    assert kinds_of(read(source, 1)) == [("update", "source_blocked", "main")]


def test_a_trouble_that_lasts_is_told_once_whatever_its_reason_becomes(project: Project) -> None:
    main, source = make_watched(project), opened(make_own(project))
    begin(main)
    begin(main, "the publication is gone")
    is_(main, "streaming")
    notifications.watch()
    begin(main)
    assert kinds_of(read(source, 1)) == [("insert", "source_blocked", "main")]


def test_after_every_change_the_rest_comes_and_nothing_twice(project: Project) -> None:
    own = make_own(project)
    databases = [make_watched(project, alias) for alias in ("a", "b", "c")]
    start = opened(own).read(1, 0.1).position
    for each in databases:
        is_(each, "blocked")
    notifications.watch()
    end(databases[1])
    changes = read(opened(own, start), 4)
    positions = [change.position for change in changes]
    assert positions == sorted(set(positions), key=int)
    assert [change.shown_position for change in changes] == positions
    for number, position in enumerate([start, *positions]):
        assert read(opened(own, position), 4 - number, most=1) == changes[number:]


def test_numbers_are_committed_in_their_order_by_whoever_watches(project: Project) -> None:
    main, source = make_watched(project), opened(make_own(project))
    other = make_watched(project, "other")
    is_(main, "blocked")
    first = troubles.look()
    is_(main, "streaming")
    is_(other, "blocked")
    second = threading.Thread(target=_watch_and_close)
    with configuration_held():
        troubles.note(first)
        second.start()
        wait_until(_somebody_waits, 10, "nobody waits for the other one")
    second.join()
    changes = read(source, 2)
    assert [each[2] for each in kinds_of(changes)] == ["main", "other"]


def _watch_and_close() -> None:
    try:
        notifications.watch()
    finally:
        connection.close()


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def test_no_project_sees_the_troubles_of_another(project: Project) -> None:
    books = make_project("books")
    mine, theirs = opened(make_own(project)), opened(make_own(books))
    begin(make_watched(project, "mine"))
    begin(make_watched(books, "theirs"))
    assert [each[2] for each in kinds_of(read(mine, 1))] == ["mine"]
    assert [each[2] for each in kinds_of(read(theirs, 1))] == ["theirs"]
    shown = sample(books.databases.get(alias="own"), trigger_definition_of(_listener(books)))
    assert shown is not None
    assert json.loads(shown.document)["object"] == "theirs"


def test_a_place_that_is_kept_and_not_in_the_log_blocks(project: Project) -> None:
    own = make_own(project)
    source = TroublesSource(project.pk, own.source_name)
    source.refuse_if_read_before()
    source.open(EVERYTHING, None)
    with pytest.raises(SourceBlocked, match="restored from an older backup") as blocked:
        source.refuse_if_read_before()
    assert blocked.value.mend == START_ANEW


def test_a_control_database_that_was_put_back_blocks(project: Project) -> None:
    own = make_own(project)
    opened(own)
    with pytest.raises(SourceBlocked, match="put back to an earlier state") as blocked:
        opened(own, "7")
    assert blocked.value.mend == START_ANEW
    assert blocked.value.for_good


def test_a_place_that_is_not_kept_any_more_or_of_another_kind_blocks(project: Project) -> None:
    own = make_own(project)
    for position in ("0", "16B3748/16B3700/2"):
        with pytest.raises(SourceBlocked) as blocked:
            opened(own, position)
        assert blocked.value.mend == START_ANEW


def test_what_ended_long_ago_is_kept_until_it_is_read_and_its_absence_is_noticed(
    project: Project,
) -> None:
    main, own = make_watched(project), make_own(project)
    start = opened(own).read(1, 0.1).position
    begin(main)
    end(main)
    Trouble.objects.update(ended_at=F("ended_at") - timedelta(days=91))
    troubles.forget_old()
    source = opened(own, start)
    position = read(source, 2)[-1].position
    source.acknowledge(position)
    troubles.forget_old()
    assert not Trouble.objects.exists()
    assert opened(own, position).read(10, 0.1).changes == []
    # As by a log that was restored alone.
    with pytest.raises(SourceBlocked, match="forgotten") as blocked:
        opened(own, start)
    assert blocked.value.mend == START_ANEW


def test_what_nobody_reads_is_forgotten(project: Project) -> None:
    main = make_watched(project)
    begin(main)
    end(main)
    Trouble.objects.update(ended_at=F("ended_at") - timedelta(days=91))
    troubles.forget_old()
    assert not Trouble.objects.exists()
    # No number is given out again.
    assert TroubleNumber.objects.get().latest == 2


def test_its_place_goes_with_the_database_with_eventing_and_with_the_project(
    project: Project,
) -> None:
    def is_left() -> bool:
        remove_retired_sources()
        assert not RetiredSource.objects.exists()
        return TroubleReader.objects.exists()

    own = make_own(project)
    opened(own)
    delete_database(own, by=command_line())
    assert not is_left()
    opened(make_own(project))
    update_settings(project, SettingsDefinition(eventing_enabled=False), by=command_line())
    assert not is_left()
    opened(project.databases.get())
    delete_project(project, by=command_line())
    assert not is_left()


def test_the_doctor_finds_nothing_missing_and_one_table(project: Project) -> None:
    own = make_own(project)
    assert [finding.status for finding in check_database(own)] == ["ok"]
    assert [table.name for table in catalogue(own)] == ["troubles"]
    definition = trigger_definition_of(_listener(project))
    assert sample(own, definition) is None
    begin(make_watched(project))
    found = sample(own, definition)
    assert found is not None
    assert (found.table, found.document_id) == ("troubles", str(Trouble.objects.get().pk))


# Its triggers


def _listener(project: Project, name: str = "listener", **fields: Any) -> Trigger:
    given = {"databases": ["own"], "operations": ["insert", "update"]} | fields
    return make_trigger(project, HOOK, name, **given)


def captured(own: Database, log: PostgresEventLog, count: int) -> list[tuple[str, str, str, str]]:
    """What is in the log, once so many events are, the oldest first: trigger, operation, kind and
    object of each."""

    def rows() -> list[Any]:
        return log.browse(own.project_id, EventFilter(), None, 100).rows[::-1]

    CaptureLease.objects.filter(database=own).update(holder=None, state="off")
    is_live = CaptureLease.objects.filter(database=own, state="streaming")
    capture_database(own.pk, lambda: len(rows()) >= count and is_live.exists())
    found = []
    for row in rows():
        detail = history.event(own.project, row.id, by=command_line())
        assert detail is not None
        assert detail.payload is not None
        payload = json.loads(detail.payload)
        assert payload["data"]["db"] == "mission-control"
        assert payload["data"]["col"] == "troubles"
        document = payload["data"]["doc"]
        found.append((row.trigger, row.operation, document["kind"], document["object"]))
    return found


def test_each_change_is_one_event_of_each_trigger_whoever_captures_meanwhile(
    project: Project, log: PostgresEventLog
) -> None:
    main, own = make_watched(project), make_own(project)
    _listener(project, "both")
    _listener(project, "beginnings", operations=["insert"], tables=["trouble*"])
    _listener(project, "others", tables=["users"])
    assert captured(own, log, 0) == []
    # Nobody captures.
    begin(main)
    end(main)
    blocked = ("source_blocked", "main")
    expected = [("both", "insert", *blocked), ("beginnings", "insert", *blocked)]
    assert sorted(captured(own, log, 3)) == sorted([*expected, ("both", "update", *blocked)])
    # As when the process died before it could say what it had stored.
    TroubleReader.objects.update(position=0)
    assert len(captured(own, log, 3)) == 3
    begin(main)
    assert len(captured(own, log, 5)) == 5
    assert log.position(own.pk) == "3"


def test_one_that_is_started_anew_begins_with_now(project: Project, log: PostgresEventLog) -> None:
    main, own = make_watched(project), make_own(project)
    _listener(project)
    captured(own, log, 0)
    begin(main)
    start_anew(own, by=command_line())
    assert captured(own, log, 0) == []
    end(main)
    assert captured(own, log, 1) == [("listener", "update", "source_blocked", "main")]


@contextmanager
def held(trigger: Trigger) -> Iterator[None]:
    """The endpoint of a trigger fails all the time."""
    Breakers().open(trigger.pk, "it answered 500")
    notifications.watch()
    yield
    Breaker.objects.all().delete()
    watch_until_gone()


def test_what_befalls_a_trigger_on_troubles_makes_no_events(
    project: Project, log: PostgresEventLog
) -> None:
    own = make_own(project)
    listener, everything = _listener(project), _listener(project, "everything", databases=[])
    orders = make_trigger(project, HOOK, "orders", databases=[], tables=["orders"])
    captured(own, log, 0)
    with held(listener), held(everything):
        assert Trouble.objects.filter(ended_at=None).count() == 2
    with held(orders):
        pass
    found = captured(own, log, 4)
    assert {each[2:] for each in found} == {("breaker_open", "orders")}
    assert len(found) == 4


def test_a_trigger_that_comes_to_watch_troubles_is_told_of_no_more(
    project: Project, log: PostgresEventLog
) -> None:
    own = make_own(project)
    make_watched(project)
    _listener(project)
    changing = make_trigger(project, HOOK, "changing", databases=["main"])
    captured(own, log, 0)
    with held(changing):
        wider = replace(trigger_definition_of(changing), databases=())
        save_trigger(project, wider, changing, by=command_line())
    # As it was to be told when it began, and is watched since.
    told = ("breaker_open", "changing")
    expected = [("changing", "insert"), ("listener", "insert"), ("listener", "update")]
    assert sorted(captured(own, log, 3)) == [(*each, *told) for each in expected]
    with held(changing):
        assert Trouble.objects.filter(ended_at=None).count() == 1
    begin(project.databases.get(alias="main"))
    assert len(captured(own, log, 5)) == 5


def test_events_that_fail_for_good_are_told_of_and_make_no_events(
    project: Project, log: PostgresEventLog
) -> None:
    own = make_own(project)
    listener = _listener(project)
    captured(own, log, 0)
    begin(make_watched(project))
    captured(own, log, 1)
    (row,) = log.browse(project.pk, EventFilter(), None, 10).rows
    (claim,) = log.claim([row.id], 30)
    log.record([make_outcome(claim, 500)], "worker")
    notifications.watch()
    assert [each.object_id for each in Trouble.objects.filter(kind="trigger_failing")] == [
        listener.pk
    ]
    begin(make_watched(project, "other"))
    assert [each[3] for each in captured(own, log, 2)] == ["main", "other"]


# The product


def test_a_trouble_that_came_and_went_while_capture_was_dead_is_delivered(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    more = [{"alias": "own", "type": "mission-control"}]
    product = Product(stack, "shop", source_database, more_databases=more)
    product.apply({"name": "on-call", "databases": ["own"], "url": receiver.url("/hook")})
    stack.kill("capture")

    def count(condition: str) -> int:
        (found,) = stack.execute(f"SELECT count(*) FROM eventing_trouble WHERE {condition}")
        return int(found[0])

    of_main = (
        "UPDATE eventing_capturelease SET state = %s, error = 'it is gone' WHERE database_id ="
        " (SELECT id FROM eventing_database WHERE alias = 'main')"
    )
    stack.execute(of_main, ["blocked"])
    wait_until(lambda: count("begun_as IS NOT NULL"), 60, "nobody looks")
    stack.execute(of_main, ["off"])
    wait_until(lambda: count("gone_since IS NOT NULL"), 60, "nobody looks")
    stack.execute("UPDATE eventing_trouble SET gone_since = gone_since - interval '2 minutes'")
    wait_until(lambda: count("ended_as IS NOT NULL"), 60, "nobody looks")
    assert receiver.received("/hook") == []
    stack.start("capture")
    product.wait_for(delivered=2)
    bodies = sorted((each.json() for each in receiver.received("/hook")), key=lambda b: b["type"])
    assert [body["type"] for body in bodies] == ["DB_INSERT", "DB_UPDATE"]
    assert {body["data"]["doc"]["object"] for body in bodies} == {"main"}
    assert [bool(body["data"]["doc"]["ended_at"]) for body in bodies] == [False, True]
    (event, _) = product.events(database="own")
    assert event["db"] == "mission-control"
    product.disable()
