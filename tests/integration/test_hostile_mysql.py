"""A MySQL server that answers with what is none of its protocol: one clear message, no crash.

It signs everybody in and answers settings as a server does; only then comes the wrong answer.
"""

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from eventing.logs.base import LogUnavailable
from eventing.logs.myconnections import Connections
from eventing.sources.base import SourceUnavailable
from eventing.sources.mysql import MySqlSource
from tests.integration.source_contract import wanting

GREETING = (
    b"\x0a8.0.36\x00"
    + struct.pack("<I", 7)
    + b"12345678\x00"
    # Protocol 4.1, transactions, long and secure passwords, sign-in by plug-in.
    + struct.pack("<HBHH", 0xA201, 45, 2, 0x0008)
    + b"\x15"
    + bytes(10)
    + b"123456789012\x00mysql_native_password\x00"
)
FINE = b"\x00\x00\x00\x02\x00\x00\x00"
SECRET = b"\xff\xfe4111-1111"
TEXT_COLUMN = b"\x03def\x00\x00\x00\x01a\x01a\x0c\x2d\x00\xff\x00\x00\x00\xfd\x00\x00\x00\x00\x00"
END = b"\xfe\x00\x00\x02\x00"
WRONG_ANSWERS = {
    "a request for a file of ours": [b"\xfb/etc/passwd"],
    "an error without a code": [b"\xff"],
    "nothing": [b""],
    "a text that is none": [
        b"\x01",
        TEXT_COLUMN,
        END,
        bytes([len(SECRET)]) + SECRET,
        END,
    ],
}


class Talk(socketserver.StreamRequestHandler):
    """One connection; `answers` are the packets that follow upon a question."""

    answers: list[bytes]

    def handle(self) -> None:
        self._send(0, [GREETING])
        self._take()
        self._send(2, [FINE])
        while question := self._take():
            is_setting = question[1:4] == b"SET"
            self._send(1, [FINE] if is_setting else self.answers)

    def _take(self) -> bytes:
        head = self.rfile.read(4)
        return self.rfile.read(int.from_bytes(head[:3], "little")) if len(head) == 4 else b""

    def _send(self, number: int, packets: list[bytes]) -> None:
        for at, packet in enumerate(packets, number):
            self.wfile.write(struct.pack("<I", len(packet))[:3] + bytes([at]) + packet)


@contextmanager
def answering(answers: list[bytes]) -> Iterator[str]:
    """Such a server; yields the connection string that leads to it."""
    talk = type("ThisTalk", (Talk,), {"answers": answers})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), talk) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield f"mysql://u:p@127.0.0.1:{server.server_address[1]}/shop?ssl-mode=DISABLED"
        finally:
            server.shutdown()


@pytest.mark.parametrize("answers", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_source_says_that_it_is_no_mysql(answers: list[bytes]) -> None:
    with answering(answers) as url:
        source = MySqlSource(url, "shop")
        (finding,) = source.check()
        assert (finding.name, finding.status) == ("connection", "error")
        assert finding.what.endswith("what answers does not speak MySQL's protocol")
        with pytest.raises(SourceUnavailable, match=r"does not speak MySQL's protocol$") as caught:
            source.open(wanting("*"), None)
        assert "4111" not in str(caught.value)
        with pytest.raises(SourceUnavailable, match=r"does not speak MySQL's protocol$"):
            source.catalogue()
        with pytest.raises(SourceUnavailable, match=r"does not speak MySQL's protocol$"):
            source.sample("orders")


@pytest.mark.parametrize("answers", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_log_says_that_it_is_no_mysql(answers: list[bytes]) -> None:
    with answering(answers) as url:
        log = Connections(url)
        with pytest.raises(LogUnavailable, match=r"MySQL's protocol$"), log.transaction() as at:
            at.rows("SELECT 1")
        log.close()
