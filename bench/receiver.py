"""A webhook endpoint that answers 200 and notes when which document arrived.

`python -m bench.receiver PORT FILE`: on SIGTERM it writes `document id, seconds since the epoch`
lines to FILE; `GET /arrived` says how many there are so far. It answers at once, but `/wait/MS/…`
after so many milliseconds and `/hang` never, which is not noted. It speaks just as much HTTP/1.1 as
the requests need.
"""

import asyncio
import re
import signal
import sys
import time
from pathlib import Path
from typing import Final

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_WAIT: Final = re.compile(rb"POST /(?:wait/(\d+)|hang)")
# The product's payload, or Debezium's.
_DOCUMENT: Final = re.compile(rb'"(?:docId":"|after":\{"id":)([^",]*)')


class Endpoint(asyncio.Protocol):
    """One connection; requests may arrive in pieces or several at once."""

    def __init__(self, arrivals: list[tuple[bytes, float]]) -> None:
        self._arrivals = arrivals
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, received: bytes) -> None:
        self._buffer += received
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            if self._buffer.startswith(b"GET /arrived"):
                count = str(len(self._arrivals)).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(count)}\r\n\r\n".encode()
                self._transport.write(head + count)
                self._buffer = self._buffer[whole:]
                continue
            document = _DOCUMENT.search(self._buffer, end, whole)
            wait = _WAIT.match(self._buffer)
            if wait is None or wait[1]:
                self._arrivals.append((document[1] if document else b"", time.time()))
            self._buffer = self._buffer[whole:]
            if wait is None:
                self._transport.write(_ANSWER)
            elif wait[1]:
                loop = asyncio.get_running_loop()
                loop.call_later(int(wait[1]) / 1000, self._transport.write, _ANSWER)


async def serve(port: int, output: Path) -> None:
    arrivals: list[tuple[bytes, float]] = []
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(lambda: Endpoint(arrivals), "127.0.0.1", port, backlog=1024)
    await stopped.wait()
    server.close()
    output.write_text("".join(f"{name.decode()} {moment!r}\n" for name, moment in arrivals))


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
