"""Streams that begin well and then bring what no server sends: messages of no kind, of tables that
nobody has described, of a gigabyte that never comes, and rows with a bit turned over on the way.
Each is left with one message; what was stored stays as it is, and the rest is read again.
"""

import json
import struct
from collections.abc import Callable, Iterator

import psutil
import pytest

from eventing.sources import mywire, pgstream
from eventing.sources.base import SourceBlocked
from tests.integration.source_contract import Reader
from tests.proxy import Proxy
from tests.subjects import MySqlSubject, PostgresSubject, Subject
from tests.waiting import wait_until

MARK = b"4111-1111"
# How far before the mark, in an Insert of (2, MARK), the message and its relation's oid are.
KIND_AT, OID_AT = 19, 18
# Which would see what is done to it on the way.
WITHOUT_TLS = "?ssl-mode=DISABLED"


@pytest.fixture(params=["postgres_server", "postgres18_server"])
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresSubject]:
    subject = PostgresSubject(request.getfixturevalue(request.param))
    yield subject
    subject.close()


@pytest.fixture(params=["mysql_server", "mariadb_server"])
def mysql(request: pytest.FixtureRequest) -> Iterator[MySqlSubject]:
    subject = MySqlSubject(request.getfixturevalue(request.param))
    yield subject
    subject.close()


def begun(subject: Subject, proxy: Proxy, options: str = "") -> Reader:
    """A reader by way of the proxy that has read a row."""
    subject.create("users")
    reader = Reader(subject, subject.through(proxy.port) + options).open()
    subject.insert("users", (1, "a"))
    reader.until(1)
    return reader


def assert_goes_on(subject: Subject, reader: Reader, proxy: Proxy) -> None:
    """Once the way is as it should be, all that was written comes, once and as it is."""
    proxy.heal()
    wait_until(reader.opened_again, 60, "the source cannot be opened")
    subject.insert("users", (3, "c"))
    assert reader.ids(3) == [1, 2, 3]
    values = [json.loads(change.document)["v"] for change in reader.stored]
    assert values == ["a", MARK.decode(), "c"]
    reader.close()


def before_the_mark(at: int, byte: int) -> Callable[[bytes], bytes]:
    """Put a byte there, so far before the mark."""

    def spoil(said: bytes) -> bytes:
        place = said.find(MARK) - at
        return said if place < 0 else said[:place] + bytes([byte]) + said[place + 1 :]

    return spoil


@pytest.mark.parametrize(
    ("at", "byte", "what"),
    [
        (KIND_AT, ord("X"), "a message is of no kind that is known"),
        (OID_AT, 0x7F, "a change is of a table that was not described"),
    ],
)
def test_a_message_that_no_postgres_sends_ends_the_stream_and_no_more(
    postgres: PostgresSubject, at: int, byte: int, what: str
) -> None:
    with Proxy("127.0.0.1", postgres.port) as proxy:
        reader = begun(postgres, proxy)
        position = reader.position
        proxy.spoil(before_the_mark(at, byte))
        postgres.insert("users", (2, MARK.decode()))
        said = reader.broken()
        assert said.endswith(f"what comes is no stream of changes: {what}")
        assert len(reader.stored) == 1
        assert str(reader.position)[:16] >= str(position)[:16]
        assert_goes_on(postgres, reader, proxy)


def test_a_message_of_a_gigabyte_that_never_comes_is_not_waited_for_without_end(
    postgres: PostgresSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgstream, "_SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(pgstream, "_LATEST_FEEDBACK_SECONDS", 0.2)
    begins = [b"d" + struct.pack(">I", 1 << 30) + b"w" + bytes(24)]

    def swallow(said: bytes) -> bytes:
        """Of the stream alone."""
        return (begins.pop() if begins else b"") if said.startswith(b"d") else said

    process = psutil.Process()
    with Proxy("127.0.0.1", postgres.port) as proxy:
        reader = begun(postgres, proxy)
        # An idle server that answers is not silent.
        for _ in range(20):
            reader.step(0.1)
        before = process.memory_info().rss
        proxy.spoil(swallow)
        postgres.insert("users", (2, MARK.decode()))
        assert reader.broken().endswith("the server has fallen silent")
        assert process.memory_info().rss - before < 50 * 1024 * 1024
        assert_goes_on(postgres, reader, proxy)


def test_a_bit_that_was_turned_over_on_the_way_is_seen_in_a_binary_log(
    mysql: MySqlSubject,
) -> None:
    with Proxy("127.0.0.1", mysql.port) as proxy:
        reader = begun(mysql, proxy, WITHOUT_TLS)
        proxy.spoil(lambda said: said.replace(MARK, b"5" + MARK[1:]))
        mysql.insert("users", (2, MARK.decode()))
        with pytest.raises(SourceBlocked, match="has a checksum that is not that of its bytes"):
            wait_until(lambda: (reader.step(), False)[1], 60, "reading goes on")
        assert len(reader.stored) == 1
        assert_goes_on(mysql, reader, proxy)


def test_an_event_that_does_not_end_though_the_server_is_not_silent_is_not_waited_for(
    mysql: MySqlSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mywire, "_WHOLE_SECONDS", 1.0)
    with Proxy("127.0.0.1", mysql.port) as proxy:
        reader = begun(mysql, proxy, WITHOUT_TLS)
        # A packet of 16 MB, of which heartbeats and events come.
        proxy.spoil(lambda said: b"\xfe\xff\xff" + said[3:])
        mysql.insert("users", (2, MARK.decode()))
        assert reader.broken().endswith("an event has begun to come, and does not end")
        assert_goes_on(mysql, reader, proxy)
