"""Endpoints that answer without end, or with more than they say: what one of them can cost.

Each is a socket that goes on sending for as long as somebody reads. What counts is that the
exchange ends within its time and that what was read of it is bounded.
"""

import contextlib
import gzip
import itertools
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from eventing.changes import Exchange
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import Request
from eventing.destinations.webhook import (
    KEPT_BODY_BYTES,
    KEPT_HEADER_BYTES,
    KEPT_HEADERS,
    WebhookDestination,
)
from tests.receiver import Receiver
from tests.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BLOCK = 16_384
# More than the million bytes that are read, six times over for chunks of one byte, and than what
# two sockets hold.
MOST_SENT = 20_000_000
TIMEOUT_MS = 2_000
BOMB = gzip.compress(b"\x00" * 50_000_000)


class Endless:
    """An endpoint that answers with these blocks; `sent` counts the bytes somebody took."""

    def __init__(
        self, blocks: Callable[[], Iterator[bytes]], *, speaks_first: bool = False
    ) -> None:
        self._blocks = blocks
        self._speaks_first = speaks_first
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                if not self._speaks_first:
                    connection.recv(65536)
                for block in self._blocks():
                    connection.sendall(block)
                    self.sent += len(block)
                connection.recv(1)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def answering(blocks: Callable[[], Iterator[bytes]]) -> Iterator[tuple[Endless, Exchange]]:
    endpoint = Endless(blocks)
    destination = WebhookDestination(AddressGuard(["127.0.0.0/8"]))
    answers: queue.Queue[Exchange] = queue.Queue()
    with Receiver() as neighbour:
        destination.submit(Request(endpoint.url, (), b"{}", TIMEOUT_MS), answers.put)
        exchange = answers.get(timeout=30)
        # Whatever came of it, the next exchange is none the worse.
        destination.submit(Request(neighbour.url(), (), b"{}", 10_000), answers.put)
        assert answers.get(timeout=30).succeeded
    destination.stop(0)
    endpoint.close()
    yield endpoint, exchange


def forever(*blocks: bytes) -> Callable[[], Iterator[bytes]]:
    """The blocks, the last one without end."""
    return lambda: itertools.chain(blocks[:-1], itertools.repeat(blocks[-1]))


def once(*blocks: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(blocks)


HEADER_FLOODS = {
    "a header line without end": forever(OK, b"x" * BLOCK),
    "a header value without end": forever(OK + b"X-Long: ", b"x" * BLOCK),
    "header lines without end": forever(OK, b"X-Line: y\r\n" * 1000),
    "folded lines without end": forever(OK + b"X-Folded: a\r\n", b" more\r\n" * 1000),
    "a status line without end": forever(b"HTTP/1.1 200 ", b"x" * BLOCK),
    "interim answers without end": forever(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 500),
    "interim answers with headers without end": forever(
        (b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </a>\r\n" * 50 + b"\r\n") * 20
    ),
    "100 Continue without end": forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "no HTTP at all without end": forever(b"\x00" * BLOCK),
    "a trailer line without end": forever(CHUNKED + b"2\r\nok\r\n0\r\nX-Long: ", b"x" * BLOCK),
    "trailers without end": forever(CHUNKED + b"2\r\nok\r\n0\r\n", b"X-Trailer: y\r\n" * 1000),
    "a chunk's length without end": forever(CHUNKED, b"0" * BLOCK),
    "a chunk's extension without end": forever(CHUNKED + b"2;", b"x" * BLOCK),
}


@pytest.mark.parametrize("blocks", HEADER_FLOODS.values(), ids=HEADER_FLOODS)
def test_what_surrounds_a_body_is_bounded(blocks: Callable[[], Iterator[bytes]]) -> None:
    with answering(blocks) as (_, exchange):
        assert not exchange.succeeded
        assert exchange.error_kind in ("protocol", "timeout", "connection")
        assert exchange.duration_ms < TIMEOUT_MS + 5_000
        assert len(exchange.response_headers) <= KEPT_HEADERS
        assert sum(len(name) + len(value) for name, value in exchange.response_headers) <= (
            KEPT_HEADERS * KEPT_HEADER_BYTES
        )


def test_headers_that_are_too_large_are_said_to_be() -> None:
    line = b"X-Long: " + b"v" * 8_000 + b"\r\n"
    with answering(once(OK, line * 50, b"Content-Length: 0\r\n\r\n")) as (_, exchange):
        assert exchange.error_kind == "protocol"
        assert "Too large response headers" in (exchange.error_message or "")


@pytest.mark.parametrize(
    "blocks",
    [
        forever(OK + b"Content-Length: 9999999999999\r\n\r\n", b"x" * BLOCK),
        forever(OK + b"\r\n", b"x" * BLOCK),
        forever(CHUNKED, b"4000\r\n" + b"x" * BLOCK + b"\r\n"),
        forever(CHUNKED, b"1\r\nx\r\n" * 1000),
        forever(OK + b"Content-Encoding: gzip\r\n\r\n", b"\x1f\x8b" * BLOCK),
    ],
    ids=["by length", "by closing", "in chunks", "in tiny chunks", "compressed"],
)
def test_of_a_body_without_end_the_beginning_is_kept_and_the_rest_left_unread(
    blocks: Callable[[], Iterator[bytes]],
) -> None:
    with answering(blocks) as (endpoint, exchange):
        assert exchange.succeeded
        assert len(exchange.response_body) == KEPT_BODY_BYTES
        assert endpoint.sent < MOST_SENT


@pytest.mark.parametrize("header", [b"Content-Encoding: gzip", b"Content-Encoding: gzip, gzip"])
def test_a_compressed_body_is_kept_as_it_came(header: bytes) -> None:
    length = b"\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
    with answering(once(OK + header + length, BOMB)) as (_, exchange):
        assert exchange.succeeded
        assert exchange.response_body == BOMB[:KEPT_BODY_BYTES]


def test_a_compressed_transfer_that_nobody_asked_for_is_not_unpacked() -> None:
    length = b"%x\r\n" % len(BOMB)
    head = OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + length
    with answering(once(head, BOMB, b"\r\n0\r\n\r\n")) as (_, exchange):
        assert exchange.response_body in (b"", BOMB[:KEPT_BODY_BYTES])


@pytest.mark.parametrize(
    "blocks",
    [
        once(OK + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello"),
        once(OK + b"Content-Length: -1\r\n\r\nhello"),
        once(OK + b"Content-Length: 99999999999999999999999999\r\n\r\nhello"),
        once(CHUNKED + b"ffffffffffffffffff\r\nhello"),
        once(CHUNKED + b"zz\r\nhello"),
        once(b"HTTP/1.1 999999 OK\r\n\r\n"),
        once(b"HTTP/2 200\r\n\r\n\x00\x00\x00"),
        once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"),
    ],
)
def test_an_answer_that_contradicts_itself_has_an_outcome(
    blocks: Callable[[], Iterator[bytes]],
) -> None:
    with answering(blocks) as (_, exchange):
        assert exchange.error_kind in ("protocol", "timeout", "connection") or exchange.status_code
        assert exchange.duration_ms < TIMEOUT_MS + 5_000


def test_a_connection_that_was_closed_between_two_requests_is_not_used_again() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    is_closed = threading.Event()
    ok = OK + b"Content-Length: 0\r\n\r\n"

    def serve() -> None:
        for answer in (ok, ok.replace(b"200", b"202")):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
            is_closed.set()

    threading.Thread(target=serve, daemon=True).start()
    answers: queue.Queue[Exchange] = queue.Queue()
    destination = WebhookDestination(AddressGuard(["127.0.0.0/8"]))
    request = Request(f"http://127.0.0.1:{listener.getsockname()[1]}/", (), b"{}", 10_000)
    try:
        for status_code in (200, 202):
            destination.submit(request, answers.put)
            assert answers.get(timeout=10).status_code == status_code
            assert is_closed.wait(10)
    finally:
        destination.stop(0)
        listener.close()


ANSWER = OK + b"Content-Length: 0\r\n\r\n"
UNASKED = OK + b"Content-Length: 4\r\n\r\nfake"


class Talkative:
    """An endpoint that answers the first request with 200, the next one with 202, and says more
    than it was asked: together with its first answer, or when it is told to."""

    def __init__(self, unasked: bytes, *, at_once: bool) -> None:
        self._unasked = unasked
        self._at_once = at_once
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.may_speak = threading.Event()
        self.has_spoken = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while request := connection.recv(65536):
                if b"first" not in request:
                    connection.sendall(ANSWER.replace(b"200", b"202"))
                    continue
                connection.sendall(ANSWER + (self._unasked if self._at_once else b""))
                self.may_speak.wait(10)
                if not self._at_once:
                    connection.sendall(self._unasked)
                self.has_spoken.set()

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("at_once", [True, False], ids=["with its answer", "afterwards"])
@pytest.mark.parametrize(
    "unasked", [UNASKED, b"HTTP/1.1 200", b"\n"], ids=["an answer", "its beginning", "a line"]
)
def test_what_an_endpoint_says_unasked_is_no_answer_to_the_next_request(
    unasked: bytes, at_once: bool
) -> None:
    endpoint = Talkative(unasked, at_once=at_once)
    destination = WebhookDestination(AddressGuard(["127.0.0.0/8"]))
    answers: queue.Queue[Exchange] = queue.Queue()
    try:
        destination.submit(Request(endpoint.url, (), b'"first"', 10_000), answers.put)
        assert answers.get(timeout=10).status_code == 200
        # Whatever comes from now on comes to a connection that is idle.
        wait_until(lambda: destination._asleep, 10)
        endpoint.may_speak.set()
        assert endpoint.has_spoken.wait(10)
        destination.submit(Request(endpoint.url, (), b'"second"', 10_000), answers.put)
        second = answers.get(timeout=10)
        assert (second.status_code, second.response_body) == (202, b"")
    finally:
        destination.stop(0)
        endpoint.close()
