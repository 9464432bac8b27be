"""A network of its own for tests of the network guard: every address is this machine's, and names
are answered by a DNS server that may say something else each time it is asked.

Run as `unshare --mount --net python -m tests.island`, with a list of steps as JSON on standard
input: `{"name", "answers"}` tells the DNS server, `{"announced"}` are the members that a MongoDB
tells of, at those of `{"dead"}` nobody answers, `{"send"}` makes exchanges with those URLs, all
at once, `{"announce"}` sends a message to each of those addresses, each from a process of its own,
`{"letters"}` all from one, `{"check": [type, url]}` tests the connection to a database. Prints what
came of each of these, and at which addresses somebody knocked.
"""

import contextlib
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
import django
from dnslib import AAAA, CNAME, QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from eventing.changes import Exchange
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.announcement import Announcer
from eventing.destinations.base import Request
from eventing.destinations.webhook import WebhookDestination
from eventing.sources import source_of

ROOT = Path(__file__).resolve().parent.parent
PORT = 8080
SILENCE = "silence"
_OP_QUERY = struct.pack("<I", 2004)
_OP_MSG = struct.pack("<I", 2013)


def on_the_island(*steps: dict[str, Any]) -> list[dict[str, Any]]:
    """What came of each step, asked of a process that has a network of its own."""
    command = ["unshare", "--mount", "--net"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.island"],
        cwd=ROOT,
        input=json.dumps(steps),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise AssertionError(f"no network of our own can be had:\n{done.stderr}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


class Names(BaseResolver):  # type: ignore[misc]
    """The DNS server: each name has answers, one after the other, the last one for good.

    An answer is a list of addresses, and of names for CNAMEs; or `silence`.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.asked: dict[str, int] = defaultdict(int)

    def resolve(self, request: DNSRecord, handler: Any) -> DNSRecord:
        name = str(request.q.qname).rstrip(".").lower()
        kind = QTYPE[request.q.qtype]
        reply = request.reply()
        answers = self.answers.get(name)
        if answers is None:
            reply.header.rcode = 3
            return reply
        number = self.asked[f"{name} {kind}"]
        self.asked[f"{name} {kind}"] += 1
        answer = answers[min(number, len(answers) - 1)]
        if answer == SILENCE:
            raise TimeoutError
        self._fill(reply, name, kind, answer)
        return reply

    def _fill(self, reply: DNSRecord, name: str, kind: str, answer: list[str]) -> None:
        for item in answer:
            if item[0].isalpha() and ":" not in item:
                reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(item), ttl=0))
                for next_answer in self.answers.get(item, [[]])[:1]:
                    self._fill(reply, item, kind, next_answer)
            elif ":" in item and kind == "AAAA":
                reply.add_answer(RR(name, QTYPE.AAAA, rdata=AAAA(item), ttl=0))
            elif ":" not in item and kind == "A":
                reply.add_answer(RR(name, QTYPE.A, rdata=A(item), ttl=0))


@dataclass(frozen=True)
class Candidate:
    """A database to be checked."""

    type: str
    url: str
    schemas: None = None
    source_name: str = "mission_control_check"


class Everywhere:
    """An endpoint at every address: answers 200, or a redirect if the path says where to; whoever
    speaks as MongoDB's driver does hears of a replica set with the members `announced`."""

    def __init__(self) -> None:
        self.knocked_at: list[str] = []
        self.announced: list[str] = []
        listener = socket.create_server(
            ("::", PORT),
            family=socket.AF_INET6,
            dualstack_ipv6=True,
            backlog=256,
            reuse_port=True,
        )
        self._of_the_dead: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def bury(self, addresses: list[str]) -> None:
        """From now on nobody answers there: somebody listens who has no room for one more."""
        for address in addresses:
            listener = socket.create_server((address, PORT), backlog=0, reuse_port=True)
            waiting = socket.create_connection((address, PORT))
            self._of_the_dead += [listener, waiting]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            self.knocked_at.append(connection.getsockname()[0].removeprefix("::ffff:"))
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError), connection:
            # Whoever waits for us to speak first is not kept waiting.
            connection.settimeout(0.5)
            while request := connection.recv(65536):
                if request[12:16] in (_OP_QUERY, _OP_MSG):
                    connection.sendall(self._hello(request[4:8]))
                    continue
                target = request.split(b" ")[1].decode()
                lines = ["HTTP/1.1 200 OK"]
                if "?to=" in target:
                    lines = ["HTTP/1.1 307 There", f"Location: {target.partition('?to=')[2]}"]
                connection.sendall(("\r\n".join([*lines, "Content-Length: 0", "", ""])).encode())

    def _hello(self, request_id: bytes) -> bytes:
        """An OP_MSG, in answer to the request: a secondary of a set without a primary."""
        told = {"ok": 1, "secondary": True, "setName": "rs0", "hosts": self.announced}
        body = bytes(5) + bson.encode({**told, "minWireVersion": 0, "maxWireVersion": 21})
        return struct.pack("<II4s4s", len(body) + 16, 1, request_id, _OP_MSG) + body


def _make_the_network() -> None:
    for command in (
        "ip link set lo up",
        "ip route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo",
    ):
        subprocess.run(command.split(), check=True)
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
    os.unlink(file.name)


def _exchanges(urls: list[str], guard: AddressGuard, timeout_ms: int) -> list[Exchange]:
    destination = WebhookDestination(guard)
    answers: queue.Queue[tuple[int, Exchange]] = queue.Queue()
    for number, url in enumerate(urls):
        request = Request(url, (), b"{}", timeout_ms)
        destination.submit(request, lambda exchange, number=number: answers.put((number, exchange)))
    found = dict(answers.get(timeout=60) for _ in urls)
    destination.stop(0)
    return [found[number] for number in range(len(urls))]


def _whys_of_letters(urls: list[str]) -> list[str | None]:
    command = [sys.executable, "-m", "tests.letters"]
    done = subprocess.run(
        command, input=json.dumps(urls), stdout=subprocess.PIPE, text=True, check=True
    )
    whys: list[str | None] = json.loads(done.stdout)
    return whys


def main() -> None:
    _make_the_network()
    names = Names()
    everywhere = Everywhere()
    quiet = DNSLogger(logf=lambda _: None)
    server = DNSServer(names, address="127.0.0.1", port=53, logger=quiet)
    # Silence is an exception, of which nothing is to be said.
    server.server.handle_error = lambda *_: None
    server.start_thread()
    django.setup()
    results: list[dict[str, Any]] = []
    for step in json.load(sys.stdin):
        if "name" in step:
            names.answers[step["name"]] = step["answers"]
            continue
        if "announced" in step:
            everywhere.announced = step["announced"]
            continue
        if "dead" in step:
            everywhere.bury(step["dead"])
            continue
        everywhere.knocked_at.clear()
        started = time.monotonic()
        if "check" in step:
            found = [finding.what for finding in source_of(Candidate(*step["check"])).check()]
            results.append(
                {
                    "found": found,
                    "knocked_at": everywhere.knocked_at.copy(),
                    "seconds": time.monotonic() - started,
                }
            )
            continue
        allowed = step.get("allowed", ())
        if "letters" in step:
            whys = _whys_of_letters(step["letters"])
            results.append({"whys": whys, "knocked_at": everywhere.knocked_at.copy()})
            continue
        if "announce" in step:
            whys = [Announcer(allowed).send(url, "title", "text") for url in step["announce"]]
            results.append({"whys": whys, "knocked_at": everywhere.knocked_at.copy()})
            continue
        found = _exchanges(step["send"], AddressGuard(allowed), step.get("timeout_ms", 5000))
        results.append(
            {
                "kinds": [exchange.error_kind for exchange in found],
                "messages": [exchange.error_message for exchange in found],
                "statuses": [exchange.status_code for exchange in found],
                "durations_ms": [exchange.duration_ms for exchange in found],
                "seconds": time.monotonic() - started,
                "knocked_at": everywhere.knocked_at.copy(),
            }
        )
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
