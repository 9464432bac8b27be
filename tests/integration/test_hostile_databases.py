"""A Postgres, a MongoDB and a MySQL that answer what no server does: garbage, nothing, something of
another shape, an answer that breaks off or has no end. Each is told in one clear message, within a
time and a size, and nothing that was answered is quoted.
"""

import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, repeat
from typing import Any

import bson
import pytest

from eventing.sources.base import MOST_ANSWER_BYTES, Source, SourceUnavailable
from eventing.sources.mongodb import MongoSource
from eventing.sources.mysql import MySqlSource
from eventing.sources.postgres import PostgresSource
from tests.integration import test_hostile_mysql as mysql
from tests.integration.source_contract import wanting

SECRET = b"4111-1111"
SILENCE = b"\0silence\0"
# Whoever waits for a page waits no longer.
MOST_SECONDS = 30

Answer = Callable[[], Iterator[bytes]]


def of_postgres(kind: bytes, body: bytes) -> bytes:
    """A message of the server's."""
    return kind + struct.pack(">I", len(body) + 4) + body


def row_of_postgres(*values: bytes) -> bytes:
    parts = b"".join(struct.pack(">I", len(value)) + value for value in values)
    return of_postgres(b"D", struct.pack(">H", len(values)) + parts)


COLUMN = of_postgres(
    b"T", struct.pack(">H", 1) + b"a\0" + struct.pack(">IHIhiH", 0, 0, 25, -1, -1, 0)
)
DONE = of_postgres(b"C", b"SELECT 1\0")
READY = of_postgres(b"Z", b"I")
WELCOME = of_postgres(b"R", struct.pack(">I", 0))
USUAL_PARAMETERS = {
    b"client_encoding": b"UTF8",
    b"DateStyle": b"ISO, MDY",
    b"server_version": b"16.0",
    b"standard_conforming_strings": b"on",
}
BEGIN = of_postgres(b"K", struct.pack(">II", 1, 2)) + READY


def parameter_of_postgres(name: bytes, value: bytes) -> bytes:
    return of_postgres(b"S", name + b"\0" + value + b"\0")


def signed_in(**others: bytes) -> Iterator[bytes]:
    """What a server says to whom it lets in, with some parameters that are not the usual ones."""
    parameters = USUAL_PARAMETERS | {name.encode(): value for name, value in others.items()}
    yield WELCOME
    yield b"".join(parameter_of_postgres(*each) for each in parameters.items())
    yield BEGIN


class Talk(socketserver.StreamRequestHandler):
    """One connection; `answer` is what follows upon a question that is no formality."""

    answer: Answer
    sent: list[int]

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.sent[0] += len(data)

    def say(self) -> None:
        """Answer as no server does; the connection ends with that."""
        for part in self.answer():
            self.send(part)


class PostgresTalk(Talk):
    welcome: Answer = staticmethod(signed_in)

    def handle(self) -> None:
        while True:
            size, code = struct.unpack(">II", self.rfile.read(8))
            self.rfile.read(size - 8)
            if code == 196_608:
                break
            # No TLS, no GSSAPI.
            self.send(b"N")
        for part in self.welcome():
            self.send(part)
        while kind := self.rfile.read(1):
            question = self.rfile.read(struct.unpack(">I", self.rfile.read(4))[0] - 4)
            if kind == b"Q" and b"set_config(name" in question:
                self.send(COLUMN + row_of_postgres(b"") + DONE + READY)
                continue
            if kind == b"Q":
                self.say()
            return


class MongoTalk(Talk):
    goes_on = False

    def handle(self) -> None:
        while header := self.rfile.read(16):
            size, number, _, code = struct.unpack("<iiii", header)
            body = self.rfile.read(size - 16)
            if code == 2004:
                reply = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(self._hello())
                self.send(struct.pack("<iiii", 16 + len(reply), 1, number, 1) + reply)
                continue
            asked = bson.decode(body[5 : 5 + struct.unpack("<i", body[5:9])[0]])
            if next(iter(asked)).lower() in ("hello", "ismaster"):
                self.send(answer_to(number, of_mongodb(bson.encode(self._hello()))))
            elif "endSessions" not in asked:
                for part in self.answer():
                    self.send(answer_to(number, part))
                if not self.goes_on:
                    return

    def _hello(self) -> dict[str, Any]:
        return {
            "ok": 1,
            "helloOk": True,
            "ismaster": True,
            "isWritablePrimary": True,
            "setName": "rs0",
            "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 21,
        }


def of_mongodb(document: bytes) -> bytes:
    """A message with one document; `NUMB` stands for what it answers to."""
    size = 16 + 5 + len(document)
    return struct.pack("<ii", size, 1) + b"NUMB" + struct.pack("<iIB", 2013, 0, 0) + document


def answer_to(number: int, message: bytes) -> bytes:
    return message.replace(b"NUMB", struct.pack("<i", number), 1)


class EndlessMongoTalk(MongoTalk):
    """There is always another batch."""

    goes_on = True


class MySqlTalk(Talk):
    def handle(self) -> None:
        self.send(of_mysql(0, mysql.GREETING))
        self._take()
        self.send(of_mysql(2, mysql.FINE))
        while question := self._take():
            if question[1:4] != b"SET":
                self.say()
                return
            self.send(of_mysql(1, mysql.FINE))

    def _take(self) -> bytes:
        head = self.rfile.read(4)
        return self.rfile.read(int.from_bytes(head[:3], "little")) if len(head) == 4 else b""


def of_mysql(number: int, packet: bytes) -> bytes:
    return struct.pack("<I", len(packet))[:3] + bytes([number & 0xFF]) + packet


@contextmanager
def answering(talk: type[Talk], answer: Answer) -> Iterator[tuple[int, list[int]]]:
    """Such a server: its port, and how many bytes it has sent."""
    over = threading.Event()

    def patiently() -> Iterator[bytes]:
        for part in answer():
            if part == SILENCE:
                over.wait()
                return
            yield part

    sent = [0]
    this = type("ThisTalk", (talk,), {"answer": staticmethod(patiently), "sent": sent})

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Whoever was told nonsense has gone away."""

    with Server(("127.0.0.1", 0), this) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield server.server_address[1], sent
        finally:
            over.set()
            server.shutdown()


def source_at(kind: str, port: int) -> Source:
    if kind == "postgres":
        url = f"postgresql://u:p@127.0.0.1:{port}/shop?sslmode=disable"
        return PostgresSource(url, "mission_control_hostile", None)
    if kind == "mysql":
        return MySqlSource(f"mysql://u:p@127.0.0.1:{port}/shop?ssl-mode=DISABLED", "hostile")
    return MongoSource(f"mongodb://127.0.0.1:{port}/shop?directConnection=true", "hostile")


TALKS: dict[str, type[Talk]] = {
    "postgres": PostgresTalk,
    "mongodb": MongoTalk,
    "mysql": MySqlTalk,
}
ANSWERS: dict[str, dict[str, list[bytes]]] = {
    "postgres": {
        "garbage": [b"\xff\x00" + SECRET * 10_000],
        "an answer that breaks off": [COLUMN + row_of_postgres(SECRET)[:-3]],
        "another shape": [COLUMN + row_of_postgres(SECRET) + DONE + READY],
        "a text that is none": [COLUMN + row_of_postgres(b"\xff\xfe" + SECRET) + DONE + READY],
        "a message of two gigabytes": [b"D" + struct.pack(">I", 2**31 - 1) + SECRET],
        "nothing": [SILENCE],
    },
    "mongodb": {
        "garbage": [b"\xff\x00" + SECRET * 10_000],
        "an answer that breaks off": [of_mongodb(bson.encode({"ok": 1, "a": SECRET}))[:-3]],
        "another shape": [of_mongodb(bson.encode({"ok": 1, "cursor": SECRET}))],
        "a document that is none": [of_mongodb(struct.pack("<i", 20) + b"\x7f" + SECRET * 2)],
        "a message of two gigabytes": [struct.pack("<i", 2**31 - 1) + SECRET],
        "nothing": [SILENCE],
    },
}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [(kind, answer) for kind, answers in ANSWERS.items() for answer in answers],
)
def test_a_server_that_is_none_is_told_in_one_message_and_holds_nobody_up(
    kind: str, answer: str
) -> None:
    looks: list[Callable[[Source], object]] = [lambda source: source.catalogue()]
    if answer != "nothing":
        looks.append(lambda source: source.sample("orders"))
    with answering(TALKS[kind], lambda: iter(ANSWERS[kind][answer])) as (port, _):
        for look in looks:
            started = time.monotonic()
            with pytest.raises(SourceUnavailable) as caught:
                look(source_at(kind, port))
            assert time.monotonic() - started < MOST_SECONDS
            assert_says_where_and_quotes_nothing(str(caught.value), port)
        (finding,) = source_at(kind, port).check()
        assert (finding.name, finding.status) == ("connection", "error")
        assert_says_where_and_quotes_nothing(finding.what, port)
        if (kind, answer) != ("mongodb", "nothing"):
            with pytest.raises(SourceUnavailable) as caught:
                source_at(kind, port).open(wanting(), None)
            assert_says_where_and_quotes_nothing(str(caught.value), port)


def assert_says_where_and_quotes_nothing(said: str, port: int) -> None:
    assert f"127.0.0.1:{port}" in said
    assert SECRET.decode() not in said
    assert len(said) < 300


def endless_parameters() -> Iterator[bytes]:
    yield WELCOME
    for number in count():
        yield parameter_of_postgres(b"p%d" % number, SECRET * 100)


def endless_notices() -> Iterator[bytes]:
    yield WELCOME
    yield from repeat(of_postgres(b"N", b"SNOTICE\0C00000\0M\n\0\0") * 1000)


WELCOMES: dict[str, Answer] = {
    "dates of its own": lambda: signed_in(DateStyle=b"SQL, DMY"),
    "no dates": lambda: signed_in(DateStyle=b""),
    "an encoding of its own": lambda: signed_in(client_encoding=b"\xff\n" + SECRET * 1000),
    "another encoding": lambda: signed_in(client_encoding=b"EUC_JP"),
    "no version": lambda: signed_in(server_version=b"%s\xff"),
    "texts of its own": lambda: signed_in(standard_conforming_strings=b"\xff"),
    "parameters without end": endless_parameters,
    "notices without end": endless_notices,
    "an error of megabytes": lambda: iter([of_postgres(b"E", b"SERROR\0M" + b"x" * 10_000_000)]),
}


@pytest.mark.parametrize("welcome", WELCOMES)
def test_a_postgres_that_lets_one_in_in_a_way_of_its_own_holds_nobody_up(welcome: str) -> None:
    """psycopg2 has whoever signs in wait for more than a connection, and knows no bound there."""
    talk = type("WelcomingTalk", (PostgresTalk,), {"welcome": staticmethod(WELCOMES[welcome])})
    with answering(talk, lambda: iter([SILENCE])) as (port, sent):
        started = time.monotonic()
        with pytest.raises(SourceUnavailable) as caught:
            source_at("postgres", port).open(wanting(), None)
        assert time.monotonic() - started < MOST_SECONDS
        assert "127.0.0.1" in str(caught.value)
        assert len(str(caught.value)) < 600
        assert sent[0] < MOST_ANSWER_BYTES


ROWS = b"".join(row_of_postgres(b"x" * 100) for _ in range(1000))
MYSQL_ROW = b"\x64" + b"x" * 100


def endless_rows_of_postgres() -> Iterator[bytes]:
    yield COLUMN
    yield from repeat(ROWS)


def endless_rows_of_mysql() -> Iterator[bytes]:
    yield of_mysql(1, b"\x01") + of_mysql(2, mysql.TEXT_COLUMN) + of_mysql(3, mysql.END)
    number = 4
    while True:
        yield b"".join(of_mysql(number + each, MYSQL_ROW) for each in range(1024))
        number += 1024


@pytest.mark.parametrize(
    ("kind", "answer", "bound"),
    [
        ("postgres", endless_rows_of_postgres, f"{MOST_ANSWER_BYTES} bytes|within 15 s"),
        ("mysql", endless_rows_of_mysql, f"{MOST_ANSWER_BYTES} bytes|within 60 s"),
    ],
)
def test_an_answer_without_end_is_cut_off(kind: str, answer: Answer, bound: str) -> None:
    with answering(TALKS[kind], answer) as (port, sent):
        with pytest.raises(SourceUnavailable, match=bound) as caught:
            source_at(kind, port).catalogue()
        assert_says_where_and_quotes_nothing(str(caught.value), port)
        assert sent[0] < 2 * MOST_ANSWER_BYTES


def test_a_list_without_end_is_left_after_a_time() -> None:
    batch = [{"name": f"c{number}", "type": "timeseries"} for number in range(100)]
    cursor = {"id": 7, "ns": "shop.$cmd.listCollections", "nextBatch": batch, "firstBatch": batch}
    # What `facts_of` asks for, too.
    reply = {"ok": 1, "cursor": cursor, "version": "6.0.1", "authInfo": {"authenticatedUsers": []}}
    with answering(EndlessMongoTalk, lambda: iter([of_mongodb(bson.encode(reply))])) as (port, _):
        started = time.monotonic()
        with pytest.raises(SourceUnavailable, match="no whole answer came in time"):
            source_at("mongodb", port).catalogue()
        assert time.monotonic() - started < MOST_SECONDS
