"""The demo's webhook receiver: answers like the endpoints of a real installation do, so that
deliveries, retries and failures can all be seen. It keeps nothing of what it is sent.

The first part of the path says how it behaves: `reliable`, `slow`, `flaky` or `gone`.
"""

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Final

# Longer than the two seconds that the demo's triggers allow.
_TOO_LATE_SECONDS: Final = 3.0


class Receiver(BaseHTTPRequestHandler):
    """Answers one request; connections are kept alive."""

    protocol_version = "HTTP/1.1"
    closing: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        behaviour = self.path.split("/")[1]
        if behaviour == "gone":
            self._answer(410, {"error": "this account was closed"})
        elif behaviour == "slow":
            self.closing.wait(random.uniform(0.1, 0.6))  # noqa: S311 — no secret
            self._answer(202, {"queued": True})
        elif behaviour == "flaky":
            self._answer_if_it_feels_like_it()
        else:
            self._answer(200, {"received": self.headers.get("webhook-id", "")})

    def _answer_if_it_feels_like_it(self) -> None:
        mood = random.random()  # noqa: S311 — no secret
        if mood < 0.06:
            self._answer(500, {"error": "deadlock detected, please try again"})
        elif mood < 0.11:
            self._answer(503, {"error": "down for maintenance"}, {"Retry-After": "3"})
        elif mood < 0.15:
            self.closing.wait(_TOO_LATE_SECONDS)
            self._answer(200, {"received": "too late"})
        else:
            self._answer(200, {"received": self.headers.get("webhook-id", "")})

    def _answer(
        self, status: int, content: dict[str, object], headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the product's own log is what there is to see."""


class ReceiverServer(ThreadingHTTPServer):
    """One thread a connection; none of them keeps the process from ending."""

    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    with ReceiverServer(("127.0.0.1", int(sys.argv[1])), Receiver) as server:
        server.serve_forever()
