"""Rows that a Postgres has and cannot tell: values whose text is longer than a gigabyte, texts in
no encoding, values that JSON has no room for. Each is a failed event with the reason, and the
stream goes on behind it; where no event would tell of it, capture is blocked.
"""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg2
import pytest

from eventing.changes import Change
from eventing.matching import Matcher
from eventing.sources.base import MOST_ROW_BYTES, START_ANEW, SourceBlocked, SourceUnavailable
from tests.integration.source_contract import EVERYTHING, wanting
from tests.integration.test_postgres_source import Capture, run
from tests.servers import execute
from tests.waiting import wait_until

# Two hex digits a byte: its text is longer than the gigabyte that Postgres has room for.
UNSENDABLE = "convert_to(repeat('x', 540000000), 'UTF8')"
INSERTS = wanting(operations=frozenset({"insert"}))


class PatientCapture(Capture):
    """One that opens its source again where that may help, as a capture loop does."""

    watch: Matcher = INSERTS

    def read_until(self, count: int) -> None:
        def enough() -> bool:
            try:
                self.step()
            except SourceUnavailable:
                self.source.close()
                self.reopen(self.watch)  # type: ignore[arg-type]
            return len(self.stored) >= count

        wait_until(enough, 60, f"fewer than {count} changes")
        while self.step():
            pass
        assert len(self.stored) == count


@pytest.fixture(params=[15, 18])
def capture(request: pytest.FixtureRequest) -> Iterator[PatientCapture]:
    """Of a new database, once on each version there is."""
    name = "source_database" if request.param == 15 else "source_database18"
    found = PatientCapture(request.getfixturevalue(name))
    yield found
    found.source.remove()


def test_what_a_server_cannot_send_is_a_failed_event_and_the_stream_goes_on(
    capture: PatientCapture,
) -> None:
    run(
        capture.url,
        "CREATE TABLE files (id int PRIMARY KEY, content bytea)",
        "CREATE TABLE notes (id int PRIMARY KEY)",
        "CREATE TABLE others (id int PRIMARY KEY)",
    )
    capture.open(INSERTS)  # type: ignore[arg-type]
    run(
        capture.url,
        "INSERT INTO others VALUES (1)",
        "INSERT INTO notes VALUES (1)",
        "BEGIN; INSERT INTO files VALUES (1, 'a'); INSERT INTO notes VALUES (2);"
        f" INSERT INTO files VALUES (2, {UNSENDABLE}); INSERT INTO notes VALUES (3); COMMIT",
        "INSERT INTO files VALUES (3, 'b'); INSERT INTO others VALUES (2)",
    )
    # What is read and not stored, as before a crash, comes again.
    lost: list[Change] = []

    def fails() -> bool:
        try:
            batch = capture.source.read(1000, 0.1)
        except SourceUnavailable:
            capture.reopen(INSERTS)  # type: ignore[arg-type]
            return False
        lost.extend(each for each in batch.changes if each.problem)
        if not lost:
            capture.stored += batch.changes
            capture.position = batch.position
        return bool(lost)

    wait_until(fails, 60, "nothing fails")
    capture.reopen(INSERTS)  # type: ignore[arg-type]
    capture.read_until(8)
    assert capture.stored[4:6] == lost
    told = [(change.table, change.document_id) for change in capture.stored]
    assert told[:4] == [("others", "1"), ("notes", "1"), ("files", "1"), ("notes", "2")]
    assert told[6:] == [("files", "3"), ("others", "2")]
    failed = capture.stored[4:6]
    assert {change.table for change in failed} == {"files", "notes"}
    for change in failed:
        assert change.document == "{}"
        assert change.problem is not None
        assert change.problem.startswith("the server cannot send a change at ")
        assert ", maybe of this table: invalid memory alloc request size" in change.problem
        assert change.problem.endswith("after it, to other tables too, is missing")
    assert {change.problem for change in capture.stored[:4] + capture.stored[6:]} == {None}
    positions = [change.position for change in capture.stored]
    assert positions == sorted(set(positions))
    indexes = [change.index for change in capture.stored]
    assert indexes == [0, 0, 0, 1, 2, 3, 0, 1]


def test_where_nobody_would_be_told_of_what_is_missing_capture_is_blocked(
    source_database: str,
) -> None:
    run(
        source_database,
        "CREATE TABLE files (id int PRIMARY KEY, content bytea)",
        "CREATE TABLE orders (id int PRIMARY KEY)",
    )
    # Inserts of all tables are published for that.
    watch = wanting("orders*", operations=frozenset({"insert"}))
    capture = Capture(source_database).open(watch)  # type: ignore[arg-type]
    run(
        source_database,
        f"BEGIN; INSERT INTO files VALUES (1, {UNSENDABLE}); INSERT INTO orders VALUES (1); COMMIT",
    )

    def is_blocked() -> bool:
        try:
            capture.step()
        except SourceUnavailable:
            capture.reopen(watch)  # type: ignore[arg-type]
        except SourceBlocked as blocked:
            said.append(blocked)
        return bool(said)

    said: list[SourceBlocked] = []
    wait_until(is_blocked, 30)
    assert said[0].mend == START_ANEW
    assert "the server cannot read or send what its log has after " in str(said[0])
    assert "invalid memory alloc request size" in str(said[0])
    assert capture.stored == []
    # It is so again, until a person accepts the loss.
    said.clear()
    capture.reopen(watch)  # type: ignore[arg-type]
    wait_until(is_blocked, 30)
    capture.source.remove()
    capture.position = None
    capture.open(watch)  # type: ignore[arg-type]
    run(source_database, "INSERT INTO orders VALUES (2)")
    assert [change.document_id for change in capture.until(1)] == ["2"]
    capture.source.remove()


def test_a_text_that_is_in_no_encoding_fails_alone(capture: PatientCapture) -> None:
    server = urlsplit(capture.url)
    name = f"ascii_{server.path.lstrip('/')}"
    execute(capture.url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'")
    ascii_capture = Capture(server._replace(path=f"/{name}").geturl())
    with psycopg2.connect(ascii_capture.url) as opened, opened.cursor() as at:
        at.execute("CREATE TABLE users (id int PRIMARY KEY, name text)")
    ascii_capture.open()
    with opened, opened.cursor() as at:
        at.execute("SET client_encoding = 'SQL_ASCII'")
        at.execute(r"INSERT INTO users VALUES (1, 'Zo' || chr(195) || chr(171))")
        at.execute(r"INSERT INTO users VALUES (2, 'Zo' || chr(235))")
        at.execute(r"INSERT INTO users VALUES (3, 'Zoe')")
    opened.close()
    first, second, third = ascii_capture.until(3)
    assert json.loads(first.document) == {"id": 1, "name": "Zoë"}
    assert second.problem == "the row could not be decoded (MalformedMessage)"
    assert third.document == '{"id":3,"name":"Zoe"}'
    ascii_capture.source.remove()
    execute(capture.url, f"DROP DATABASE {name} WITH (FORCE)")


# A table whose large values stand apart, so that an update may leave them out.
_FILES = (
    "CREATE TABLE files (id int PRIMARY KEY, content text, n int)",
    "ALTER TABLE files ALTER content SET STORAGE EXTERNAL",
)


def test_an_unchanged_value_that_the_server_cannot_tell_fails_alone(
    capture: PatientCapture,
) -> None:
    run(
        capture.url,
        *_FILES,
    )
    capture.open(EVERYTHING)  # type: ignore[arg-type]
    run(
        capture.url,
        f"INSERT INTO files VALUES (1, repeat('x', {MOST_ROW_BYTES + 1}), 0),"
        " (2, repeat('y', 9000), 0)",
        "UPDATE files SET n = 1",
        "UPDATE files SET n = 2",
    )
    changes = capture.until(6)
    large = [change for change in changes if change.problem]
    assert [change.document_id for change in large] == ["", "1", "1"]
    assert all(
        "the update left alone of the row cannot be read: " in str(change.problem)
        and "(54000)" in str(change.problem)
        for change in large[1:]
    )
    small = [json.loads(change.document) for change in changes if not change.problem]
    assert small == [{"id": 2, "content": "y" * 9000, "n": n} for n in (0, 1, 2)]


def test_large_values_that_updates_left_alone_are_read_few_at_a_time(
    capture: PatientCapture,
) -> None:
    run(
        capture.url,
        *_FILES,
        "INSERT INTO files SELECT g, repeat('x', 3000000), 0 FROM generate_series(1, 20) AS g",
    )
    capture.open(EVERYTHING)  # type: ignore[arg-type]
    run(capture.url, "UPDATE files SET n = 1")
    sizes = []
    while len(capture.stored) < 20:
        sizes.append(sum(len(change.document) for change in capture.step()))
    assert max(sizes) < 12_000_000
    assert {len(change.document) > 3_000_000 for change in capture.stored} == {True}
