"""What every source must do, whatever its kind: run against real servers by `test_sources.py`."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psutil
import pytest

from eventing.changes import OPERATIONS, Change, Operation
from eventing.matching import Matcher, Rule
from eventing.sources.base import START_ANEW, Source, SourceBlocked, SourceUnavailable
from tests.proxy import Proxy
from tests.subjects import Subject
from tests.waiting import wait_until


def wanting(*tables: str, operations: frozenset[Operation] = frozenset(OPERATIONS)) -> Matcher:
    """One trigger on these tables, or on all of them."""
    return Matcher([Rule(1, "trigger", tables, operations)])  # type: ignore[arg-type]


EVERYTHING = wanting()


class Reader:
    """A source as a capture loop uses it: what was stored, and up to where."""

    def __init__(self, subject: Subject, url: str = "") -> None:
        self._subject = subject
        self._url = url
        self.source: Source | None = None
        self.position: str | None = None
        self.stored: list[Change] = []
        self.acknowledges = True

    def open(self, watch: Matcher = EVERYTHING, url: str = "") -> "Reader":
        self.close()
        source = self._subject.source(url or self._url)
        source.open(watch, self.position)
        self.source = source
        self.step(0.05)
        return self

    def opened_again(self) -> bool:
        """Whether the source could be opened; False where trying again may help."""
        try:
            self.open()
        except SourceUnavailable:
            return False
        return True

    def step(self, timeout_seconds: float = 0.2, max_changes: int = 1000) -> list[Change]:
        assert self.source is not None
        batch = self.source.read(max_changes, timeout_seconds)
        assert len(batch.changes) <= max_changes
        self.stored += batch.changes
        self.position = batch.position
        if self.acknowledges:
            self.source.acknowledge(batch.position)
        return batch.changes

    def until(self, count: int, timeout_seconds: float = 30) -> list[Change]:
        """All that is stored: exactly `count` changes, and no more come."""
        wait_until(lambda: (self.step(), len(self.stored) >= count)[1], timeout_seconds, "changes")
        self.step()
        assert len(self.stored) == count
        assert len({change.position for change in self.stored}) == count
        return self.stored

    def ids(self, count: int) -> list[int]:
        return [int(change.document_id) for change in self.until(count)]

    def carry_on(self) -> None:
        """Read on; where that fails for now, open the source again."""
        try:
            if self.source is not None:
                self.step()
                return
        except SourceUnavailable:
            self.close()
        self.opened_again()

    def broken(self) -> str:
        """What reading ends with."""
        with pytest.raises(SourceUnavailable) as broken:
            wait_until(lambda: (self.step(), False)[1], 60, "reading goes on")
        return str(broken.value)

    def close(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            source.close()


@pytest.fixture
def reader(subject: Subject) -> Iterator[Reader]:
    found = Reader(subject)
    yield found
    found.close()


@contextmanager
def writing(subject: Subject, table: str) -> Iterator[list[int]]:
    """Rows pour into a table, one transaction each, until the end; the keys that were written."""
    written: list[int] = []
    stopping = Event()

    def write() -> None:
        while not stopping.is_set():
            subject.insert(table, (len(written), "x"))
            written.append(len(written))

    thread = Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stopping.set()
        thread.join()


class SourceContract:
    """Every test of it holds for every source. The fixture `subject` is a database of one kind."""

    def test_inserts_updates_and_deletes_come_in_order(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users")
        reader.open()
        subject.insert("users", (1, "a"), (2, "b"))
        subject.update("users", 2, "c")
        subject.delete("users", 1)
        changes = reader.until(4)
        assert [change.operation for change in changes] == ["insert", "insert", "update", "delete"]
        assert [change.document_id for change in changes] == ["1", "2", "2", "1"]
        assert {change.table for change in changes} == {"users"}
        assert {change.problem for change in changes} == {None}
        values = [json.loads(change.document).get("v") for change in changes]
        if subject.tells_past_rows:
            assert values[:3] == ["a", "b", "c"]
        assert values[2] == "c"
        assert all(abs(change.committed_at_ms / 1000 - time.time()) < 60 for change in changes)

    def test_only_what_is_committed_comes_and_in_the_order_of_commits(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users")
        reader.open()
        with subject.transaction() as late:
            late.insert("users", (1, "late"))
            with subject.transaction(commit=False) as never:
                never.insert("users", (2, "never"))
            subject.insert("users", (3, "early"))
            late.update("users", 1, "later")
        assert reader.ids(3) == [3, 1, 1]

    def test_a_source_that_is_new_begins_with_now(self, subject: Subject, reader: Reader) -> None:
        subject.create("users")
        subject.insert("users", (1, "before"))
        reader.open()
        subject.insert("users", (2, "after"))
        assert reader.ids(1) == [2]

    def test_after_every_change_of_a_transaction_the_rest_comes_and_nothing_twice(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users", "others")
        reader.open()
        start = reader.position
        reader.acknowledges = False
        with subject.transaction() as writer:
            writer.insert("users", (1, "a"), (2, "a"), (3, "a"))
            writer.insert("others", (4, "a"))
            writer.update("users", 2, "b")
            writer.delete("users", 3)
        subject.insert("others", (5, "a"))
        changes = list(reader.until(7))
        places = [change.index for change in changes[:6]]
        assert places == sorted(set(places))
        reader.position, reader.stored = start, []
        for count in range(1, 8):
            # A server that is busy takes a moment to notice that the one before has gone.
            wait_until(reader.opened_again)
            wait_until(
                lambda count=count: (reader.step(max_changes=1), len(reader.stored) >= count)[1],  # type: ignore[misc]
                20,
                "changes",
            )
            assert [change.position for change in reader.stored] == [
                change.position for change in changes[: len(reader.stored)]
            ]
        wait_until(reader.opened_again)
        assert len(reader.until(7)) == 7

    def test_where_a_change_stands_is_shown_in_few_bytes_and_alike_when_it_is_read_again(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users")
        reader.open()
        start = reader.position
        reader.acknowledges = False
        with subject.transaction() as writer:
            writer.insert("users", (1, "a"), (2, "a"))
        subject.insert("users", (3, "a"))
        shown = [change.shown_position or "" for change in reader.until(3)]
        assert all(1 <= len(each) <= 30 for each in shown)
        assert shown[2] not in shown[:2]
        reader.position, reader.stored = start, []
        reader.open()
        assert [change.shown_position for change in reader.until(3)] == shown

    def test_a_huge_transaction_needs_little_memory(self, subject: Subject, reader: Reader) -> None:
        subject.create("users")
        reader.open()
        with subject.transaction() as writer:
            for first in range(0, subject.huge_rows, 10_000):
                writer.insert("users", *((first + n, "x" * 900) for n in range(10_000)))
        process = psutil.Process()
        before = process.memory_info().rss
        seen = 0

        def all_came() -> bool:
            nonlocal seen
            seen += len(reader.step())
            reader.stored.clear()
            return seen >= subject.huge_rows

        wait_until(all_came, 120, "changes")
        assert seen == subject.huge_rows
        assert process.memory_info().rss - before < subject.huge_rows * 450

    def test_a_table_altered_between_changes_is_read_as_it_was(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users")
        reader.open()
        subject.insert("users", (1, "a"))
        reader.until(1)
        subject.add_field("users", "later")
        subject.insert("users", (2, "b"))
        last = json.loads(reader.until(2)[1].document)
        assert (last["v"], last["later"]) == ("b", "new")

    def test_tables_come_and_go(self, subject: Subject, reader: Reader) -> None:
        reader.open()
        subject.create("users")
        # Postgres publishes a table that was made a moment ago when it is next looked for.
        reader.step()
        subject.insert("users", (1, "a"))
        reader.until(1)
        subject.rename("users", "people")
        subject.insert("people", (2, "b"))
        reader.until(2)
        subject.truncate("people")
        subject.insert("people", (3, "c"))
        reader.until(3)
        subject.drop("people")
        subject.create("people")
        subject.insert("people", (4, "d"))
        tables = [change.table for change in reader.until(4)]
        assert tables == ["users", "people", "people", "people"]
        assert {change.operation for change in reader.stored} == {"insert"}

    def test_names_are_taken_as_they_are(self, subject: Subject, reader: Reader) -> None:
        names = ["with space", 'it\'s "quoted"', "Größe 日本", "UPPER", "a%b", "a.b"]
        subject.create(*names)
        reader.open()
        for number, name in enumerate(names):
            subject.insert(name, (number, name))
        changes = reader.until(len(names))
        assert [change.table for change in changes] == names
        assert [json.loads(change.document)["v"] for change in changes] == names

    def test_values_may_be_empty_and_ten_megabytes(self, subject: Subject, reader: Reader) -> None:
        subject.create("users")
        reader.open()
        texts = ["", "ü" * 5_000_000, "x"]
        for number, text in enumerate(texts):
            subject.insert("users", (number, text))
        changes = reader.until(3)
        assert [json.loads(change.document)["v"] for change in changes] == texts

    def test_a_sample_is_a_row_as_capture_shows_it(self, subject: Subject, reader: Reader) -> None:
        subject.create("users", "empty")
        reader.open()
        subject.insert("users", (7, "ü"))
        (change,) = reader.until(1)
        sample = subject.source().sample("users")
        assert sample is not None
        assert (sample.table, sample.document_id) == ("users", change.document_id)
        assert json.loads(sample.document) == json.loads(change.document)
        assert "ü" not in repr(sample)
        assert subject.source().sample("empty") is None

    def test_a_sample_of_a_server_that_is_away_says_so(self, subject: Subject) -> None:
        with pytest.raises(SourceUnavailable):
            subject.source(subject.through(1)).sample("users")

    def test_a_server_that_restarts_is_gone_on_with(self, subject: Subject, reader: Reader) -> None:
        subject.create("users")
        reader.open()
        subject.insert("users", (1, "a"))
        reader.until(1)
        subject.insert("users", (2, "b"))
        subject.restart()
        assert "127.0.0.1" in reader.broken()
        wait_until(reader.opened_again, 60, "the source cannot be opened")
        subject.insert("users", (3, "c"))
        assert reader.ids(3) == [1, 2, 3]

    def test_cut_connections_lose_and_double_nothing(self, subject: Subject) -> None:
        subject.create("users")
        with Proxy("127.0.0.1", subject.port) as proxy:
            reader = Reader(subject, subject.through(proxy.port)).open()
            with writing(subject, "users") as written:
                for _ in range(5):
                    count = len(reader.stored)
                    wait_until(
                        lambda count=count: (reader.carry_on(), len(reader.stored) > count + 5)[1],  # type: ignore[misc]
                        30,
                        "changes",
                    )
                    proxy.cut()
            wait_until(lambda: (reader.carry_on(), len(reader.stored) >= len(written))[1], 60)
            assert reader.ids(len(written)) == written
            reader.close()

    def test_a_connection_that_stalls_loses_and_doubles_nothing(self, subject: Subject) -> None:
        subject.create("users")
        with Proxy("127.0.0.1", subject.port) as proxy:
            reader = Reader(subject, subject.through(proxy.port)).open()
            with writing(subject, "users") as written:
                wait_until(lambda: (reader.step(), len(reader.stored) > 5)[1], 30, "changes")
                proxy.stall()
                stalled = len(written)
                wait_until(lambda: len(written) > stalled + 50, 30, "nobody writes")
                Thread(target=proxy.resume).start()
                wait_until(lambda: (reader.step(), len(reader.stored) > stalled)[1], 60, "changes")
            assert reader.ids(len(written)) == written
            reader.close()

    def test_a_stream_that_goes_on_with_garbage_is_left_and_begun_anew(
        self, subject: Subject
    ) -> None:
        """It is no message of any of the protocols, but its beginning is a length to some."""
        subject.create("users")
        process = psutil.Process()
        with Proxy("127.0.0.1", subject.port) as proxy:
            reader = Reader(subject, subject.through(proxy.port)).open()
            subject.insert("users", (1, "a"))
            reader.until(1)
            before = process.memory_info().rss
            proxy.spoil(lambda said: (b"\x05\0\0\x7f" + b"4111-" + said) * 3)
            subject.insert("users", (2, "b"))
            said = reader.broken()
            assert "127.0.0.1" in said
            assert "4111" not in said
            assert process.memory_info().rss - before < 50 * 1024 * 1024
            assert not reader.opened_again()
            proxy.heal()
            wait_until(reader.opened_again, 60, "the source cannot be opened")
            subject.insert("users", (3, "c"))
            assert reader.ids(3) == [1, 2, 3]
            reader.close()

    def test_a_position_the_server_has_forgotten_blocks(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users")
        reader.open()
        subject.insert("users", (1, "a"))
        reader.until(1)
        reader.close()
        subject.insert("users", (2, "b"))
        assert reader.position is not None
        reader.position = subject.lost(reader.position)

        def is_blocked() -> bool:
            try:
                reader.open()
                reader.step()
            except SourceBlocked as error:
                return error.mend == START_ANEW
            except SourceUnavailable:
                return False
            return False

        wait_until(is_blocked, 30, "it goes on as if nothing were lost")
        assert len(reader.stored) == 1

    def test_the_position_moves_on_while_nobody_writes_what_is_wanted(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users", "others")
        reader.open(wanting("users"))
        before = reader.position
        subject.insert("others", (1, "a"))
        wait_until(
            lambda: (reader.step(), reader.position != before)[1], 30, "the position stands still"
        )
        assert reader.stored == []

    def test_two_databases_of_one_server_are_apart(self, subject: Subject, reader: Reader) -> None:
        other = subject.beside()
        try:
            subject.create("users")
            other.create("users")
            beside = Reader(other).open()
            reader.open()
            subject.insert("users", (1, "here"))
            other.insert("users", (2, "there"))
            assert reader.ids(1) == [1]
            assert beside.ids(1) == [2]
            beside.close()
        finally:
            other.close()

    def test_two_hundred_tables_are_read_at_once(self, subject: Subject, reader: Reader) -> None:
        names = [f"t{number}" for number in range(200)]
        subject.create(*names)
        reader.open()
        with subject.transaction() as writer:
            for number, name in enumerate(names):
                writer.insert(name, (number, name))
        assert [change.table for change in reader.until(200)] == names

    def test_a_trigger_may_be_added_and_removed_while_rows_pour_in(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users", "others")
        reader.open(wanting("others"))
        assert reader.source is not None
        with writing(subject, "users") as written:
            wait_until(lambda: (reader.step(), len(written) > 20)[1], 30, "nobody writes")
            assert reader.stored == []
            reader.source.watch(wanting("users", "others"))
            # The one that is being written just now may have been committed before.
            first = len(written) + 1
            wait_until(lambda: (reader.step(), len(reader.stored) > 20)[1], 30, "changes")
            added = [int(change.document_id) for change in reader.stored]
            assert added == list(range(added[0], added[-1] + 1))
            assert added[0] <= first
            reader.source.watch(wanting("others"))
            behind = len(written) + 1
            wait_until(lambda: (reader.step(), len(written) > behind + 20)[1], 30, "writes")
        subject.insert("others", (7, "last"))
        wait_until(lambda: (reader.step(), reader.stored[-1].table == "others")[1], 30, "last")
        users = [int(change.document_id) for change in reader.stored[:-1]]
        assert users == list(range(users[0], users[-1] + 1))
        assert users[-1] <= behind

    def test_a_password_that_was_changed_blocks_until_it_is_told(
        self, subject: Subject, reader: Reader
    ) -> None:
        subject.create("users")
        url = subject.new_user()
        reader.open(url=url)
        reader.close()
        changed = subject.change_password(url)
        subject.insert("users", (1, "a"))
        with pytest.raises(SourceBlocked) as blocked:
            reader.open(url=url)
        assert "first" not in str(blocked.value)
        assert blocked.value.mend
        reader.open(url=changed)
        assert reader.ids(1) == [1]
        reader.close()
