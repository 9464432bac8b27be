"""Services that answer a message for people without end, slowly, or with a bomb: what one can cost.

Each message is sent as the product does it, by a process of its own. What counts is that it ends
within its time, that the process's memory is bounded, and that the messages of others go out.
"""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from django.db.models.functions import Now

from eventing import notifications
from eventing.access import command_line
from eventing.definitions import parse_notification
from eventing.destinations.announcement import TIME_LIMIT_SECONDS
from eventing.logs.postgres import PostgresEventLog
from eventing.models import CaptureLease, Notice, Notification, Project
from tests.factories import make_database, make_project
from tests.integration.test_hostile_endpoints import (
    BLOCK,
    CHUNKED,
    OK,
    Endless,
    forever,
    once,
)
from tests.receiver import Receiver
from tests.waiting import wait_until

Blocks = Callable[[], Iterator[bytes]]

ROOT = Path(__file__).resolve().parents[2]
# Unpacked, 5 GB: more than any process here could hold.
BOMB = gzip.compress(b"\x00" * 100_000_000) * 50
# Apprise itself takes 60 MB; to this comes what is limited.
MOST_MIB = 200
# A process that is killed has to be started first, on a machine that may be busy.
SLACK_SECONDS = 10.0


def dripping(head: bytes, drop: bytes, until: threading.Event | None = None) -> Blocks:
    """The head, and then a drop again and again, sooner than any time limit of a read is over."""
    ended = until or threading.Event()

    def blocks() -> Iterator[bytes]:
        yield head
        while not ended.wait(0.5):
            yield drop

    return blocks


HTTP = {
    "headers that drip": dripping(OK, b"X: y\r\n"),
    "a header line that drips": dripping(OK + b"X-Long: ", b"x"),
    "a body that drips": dripping(CHUNKED, b"1\r\nx\r\n"),
    "headers without end": forever(OK, b"X-Line: y\r\n" * 1000),
    "interim answers without end": forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "a body without end": forever(CHUNKED, b"4000\r\n" + b"x" * BLOCK + b"\r\n"),
    "a bomb": once(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB), BOMB),
}
MAIL = {
    "a greeting that drips": dripping(b"220 mail", b"x"),
    "greetings that drip": dripping(b"220-mail\r\n", b"220-mail\r\n"),
    "a greeting without end": forever(b"220 mail", b"x" * BLOCK),
    "greetings without end": forever(b"220-" + b"x" * 500 + b"\r\n"),
}
SERVICES = {
    "http": ("http://{}/hook", HTTP),
    "gotify": ("gotify://{}/abcdefghijklmno", HTTP),
    "ntfy": ("ntfy://{}/topic", HTTP),
    "mailto": ("mailto://{}?from=a@example.com&to=b@example.com", MAIL),
}

# Sends one message to each address, all at once; prints why each was not taken and after how many
# seconds, and how much memory, in KiB, this process and the largest of its children had at most.
SEND = """
import json, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from eventing.destinations.announcement import Announcer

def send(url):
    started = time.monotonic()
    return Announcer(["127.0.0.0/8"]).send(url, "title", "text"), time.monotonic() - started

urls = json.load(sys.stdin)
with ThreadPoolExecutor(len(urls)) as threads:
    sent = list(threads.map(send, urls))
# What getrusage tells of this process includes the one that started it.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
own_kib = int(status["VmHWM"].split()[0])
json.dump([sent, own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss], sys.stdout)
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_answers_without_end_costs_bounded_time_and_memory(service: str) -> None:
    form, floods = SERVICES[service]
    endpoints = {
        name: Endless(blocks, speaks_first=form.startswith("mail"))
        for name, blocks in floods.items()
    }
    urls = [form.format(f"127.0.0.1:{endpoint.port}") for endpoint in endpoints.values()]
    done = subprocess.run(
        [sys.executable, "-c", SEND],
        input=json.dumps(urls),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=True,
    )
    sent, own_kib, childs_kib = json.loads(done.stdout)
    for (name, endpoint), (why, seconds) in zip(endpoints.items(), sent, strict=True):
        endpoint.close()
        assert endpoint.sent, name
        assert seconds < TIME_LIMIT_SECONDS + SLACK_SECONDS, (name, why)
    whys = {name: why for name, (why, _) in zip(endpoints, sent, strict=True)}
    # Whatever its body is, a plain webhook that says 200 has taken the message.
    bodies = {"a body that drips", "a body without end", "a bomb"} if service == "http" else set()
    assert {name for name, why in whys.items() if why is None} <= bodies
    assert all(why == "no answer in time" for name, why in whys.items() if "drip" in name and why)
    if service in ("gotify", "ntfy"):
        assert whys["a bomb"] == "its answer is too large"
    assert own_kib < MOST_MIB * 1024
    assert childs_kib < MOST_MIB * 1024


@pytest.fixture
def hostile() -> Iterator[Endless]:
    """A service whose headers drip until the test is over."""
    is_over = threading.Event()
    endpoint = Endless(dripping(OK, b"X: y\r\n", is_over))
    yield endpoint
    is_over.set()
    endpoint.close()


def make_notification(project: Project, url: str, name: str = "on-call") -> Notification:
    definition = parse_notification({"name": name, "url": url})
    return notifications.save_notification(project, definition, by=command_line())


def block(project: Project) -> None:
    database = make_database(project, "postgresql://h/d")
    CaptureLease.objects.create(database=database, state="blocked", error="x", expires_at=Now())


def test_messages_of_others_go_out_while_a_service_does_not_answer(
    log: PostgresEventLog, hostile: Endless
) -> None:
    theirs, ours = make_project("theirs"), make_project("ours")
    for number in range(6):
        make_notification(theirs, hostile.url, f"n{number}")
    block(theirs)
    notifications.watch()
    with Receiver() as receiver, ThreadPoolExecutor(1) as threads:
        for number in range(3):
            make_notification(ours, receiver.url("/hook"), f"n{number}")
        block(ours)
        notifications.watch()
        sending = threads.submit(_send_and_close)
        wait_until(lambda: len(receiver.received("/hook")) == 3, 60, "nothing is sent")
        assert hostile.sent
        assert not sending.done()
        assert sending.result() == 3
    errors = Notice.objects.filter(trouble__project=theirs).exclude(error="")
    assert [each.error for each in errors] == ["no answer in time"]


def _send_and_close() -> int:
    try:
        return notifications.send_due()
    finally:
        connection.close()


def test_tests_of_a_service_that_does_not_answer_hold_up_no_more_than_one_thread(
    log: PostgresEventLog, hostile: Endless
) -> None:
    """The next one is refused at once, and the test of another project is none the worse."""
    theirs = make_notification(make_project("theirs"), hostile.url)
    with Receiver() as receiver, ThreadPoolExecutor(1) as threads:
        ours = make_notification(make_project("ours"), receiver.url("/hook"))
        sending = threads.submit(notifications.send_test, theirs)
        wait_until(lambda: hostile.sent, 60, "nothing is sent")
        refused = notifications.send_test(theirs)
        assert refused == "another test is under way; try again in a few seconds"
        assert notifications.send_test(ours) is None
        assert not sending.done()
        assert sending.result() == "no answer in time"
    assert len(receiver.received("/hook")) == 1
