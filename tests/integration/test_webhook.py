"""Exchanges with real endpoints: every way they can end, and what an endpoint cannot make us do."""

import datetime
import ipaddress
import queue
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from eventing.changes import Exchange
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import Request
from eventing.destinations.webhook import WebhookDestination
from tests.receiver import Behaviour, Receiver
from tests.waiting import wait_until

Send = Callable[[Request], Exchange]
OPEN = AddressGuard(["127.0.0.0/8", "::1/128"])


@pytest.fixture
def destination() -> Iterator[WebhookDestination]:
    made = WebhookDestination(OPEN)
    yield made
    made.stop(0)


def request_to(url: str, **changes: object) -> Request:
    base = Request(url, (("Content-Type", "application/json"),), b'{"a": 1}', 5000)
    return base._replace(**changes)  # type: ignore[arg-type]


def send(destination: WebhookDestination, request: Request) -> Exchange:
    answers: queue.Queue[Exchange] = queue.Queue()
    destination.submit(request, answers.put)
    return answers.get(timeout=20)


def test_the_request_arrives_as_it_was_made_and_the_answer_comes_back_whole(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/hook", Behaviour(statuses=(202,), headers={"X-Name": "value"}, body=b"taken"))
    headers = (
        ("Content-Type", "application/json"),
        ("User-Agent", "MissionControl/x"),
        ("X-Empty", ""),
        ("X-Umlaut", "ä"),
        ("Authorization", "Bearer secret"),
    )
    shown = (("Authorization", "••••"),)
    body = "{'ü': '\x00'}".encode()
    request = request_to(receiver.url("/hook"), headers=headers, shown_headers=shown, body=body)
    exchange = send(destination, request)
    assert exchange.succeeded
    assert (exchange.status_code, exchange.response_body) == (202, b"taken")
    assert ("X-Name", "value") in exchange.response_headers
    assert exchange.request_headers == shown
    assert "secret" not in repr(exchange)
    (received,) = receiver.received()
    assert (received.method, received.path, received.body) == ("POST", "/hook", body)
    expected = {name.lower(): value for name, value in headers}
    assert expected.items() <= received.headers.items()
    assert not {"expect", "accept-encoding", "transfer-encoding"} & received.headers.keys()


def test_what_an_answer_repeats_of_a_secret_is_masked(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    received = b'{"headers": {"Authorization": "Bearer s3cret-w\xc3\xb6rd"}}'
    echo = {"X-Authorization": "Bearer s3cret-wörd", "X-Other": "kept"}
    receiver.behave("/hook", Behaviour(statuses=(401,), headers=echo, body=received))
    secrets = ("s3cret-wörd".encode(), b"not-repeated")
    exchange = send(destination, request_to(receiver.url("/hook"), secrets=secrets))
    assert exchange.response_body == '{"headers": {"Authorization": "Bearer ••••"}}'.encode()
    shown = dict(exchange.response_headers)
    assert (shown["X-Authorization"], shown["X-Other"]) == ("Bearer ••••", "kept")


def test_connections_are_kept_and_used_again(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    for _ in range(20):
        assert send(destination, request_to(receiver.url())).succeeded
    assert receiver.connections == 1


def test_a_kept_connection_that_the_endpoint_closed_is_not_an_error(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    url = receiver.url()
    assert send(destination, request_to(url)).succeeded
    receiver.behave("/", Behaviour(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    for _ in range(5):
        assert send(destination, request_to(url)).succeeded
        # What is sent before the end of the connection has arrived is lost with it.
        wait_until(lambda: not is_open_at(receiver.port), 5, "the connection stays")


def is_open_at(port: int) -> bool:
    """Whether a connection of this process to a port may still be used at both ends."""
    return any(
        each.status == psutil.CONN_ESTABLISHED and each.raddr and each.raddr.port == port
        for each in psutil.Process().net_connections("tcp")
    )


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_a_success(
    status: int, receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/", Behaviour(statuses=(status,), body=b""))
    assert send(destination, request_to(receiver.url())).succeeded


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(
    status: int, receiver: Receiver, destination: WebhookDestination
) -> None:
    location = {"Location": receiver.url("/elsewhere")}
    receiver.behave("/", Behaviour(statuses=(status,), headers=location))
    exchange = send(destination, request_to(receiver.url()))
    assert not exchange.succeeded
    assert (exchange.status_code, exchange.error_kind) == (status, None)
    assert receiver.received("/elsewhere") == []


@pytest.mark.parametrize(("value", "milliseconds"), [("7", 7000), ("never", None)])
def test_retry_after_is_read(
    value: str, milliseconds: int | None, receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/", Behaviour(statuses=(503,), headers={"Retry-After": value}))
    exchange = send(destination, request_to(receiver.url()))
    assert (exchange.status_code, exchange.retry_after_ms) == (503, milliseconds)


def test_a_refused_connection_says_where(destination: WebhookDestination) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    exchange = send(destination, request_to(f"http://127.0.0.1:{port}/?token=secret"))
    assert exchange.error_kind == "refused"
    assert exchange.error_message == f"connection to 127.0.0.1:{port} refused"


def test_a_name_that_does_not_resolve_says_which(destination: WebhookDestination) -> None:
    exchange = send(destination, request_to("http://user:secret@nowhere.invalid/"))
    assert exchange.error_kind == "dns"
    assert exchange.error_message == "the name nowhere.invalid does not resolve"
    assert "secret" not in repr(exchange)


def test_a_request_goes_back_while_there_is_no_memory_to_look_its_name_up(
    receiver: Receiver,
) -> None:
    sends_twice = f"""
import queue, resource, psutil
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import Request
from eventing.destinations.webhook import WebhookDestination

destination = WebhookDestination(AddressGuard(["127.0.0.0/8", "::1/128"]))
request = Request("http://localhost:{receiver.port}/hook", (), b"1", 5000)
answers = queue.Queue()
_, most = resource.getrlimit(resource.RLIMIT_DATA)
# Room for what a request takes, but for no other thread.
has = psutil.Process().memory_info().data
resource.setrlimit(resource.RLIMIT_DATA, (has + 4 * 1024**2, most))
destination.submit(request, answers.put)
print(answers.get(timeout=20).error_kind)
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
destination.submit(request, answers.put)
print(answers.get(timeout=20).status_code)
destination.stop(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", sends_twice], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["stopped", "200"]
    assert len(receiver.received("/hook")) == 1


def test_an_endpoint_that_hangs_is_given_up_after_its_timeout(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/", Behaviour(hang=True))
    exchange = send(destination, request_to(receiver.url(), timeout_ms=200))
    assert exchange.error_kind == "timeout"
    place = f"127.0.0.1:{receiver.port}"
    assert exchange.error_message == f"no complete answer from {place} within 200 ms"
    assert 200 <= exchange.duration_ms < 1000


def test_an_answer_that_drips_past_the_timeout_has_failed_whatever_its_status(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/", Behaviour(body=b"x" * 1000, drip_seconds=0.05))
    exchange = send(destination, request_to(receiver.url(), timeout_ms=400))
    assert (exchange.status_code, exchange.error_kind) == (200, "timeout")
    assert not exchange.succeeded


def test_a_connection_that_breaks_off_says_so(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/", Behaviour(reset=True))
    exchange = send(destination, request_to(receiver.url()))
    assert exchange.error_kind == "connection"
    receiver.behave("/", Behaviour(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
    exchange = send(destination, request_to(receiver.url()))
    assert (exchange.error_kind, exchange.response_body) == ("connection", b"half")


def test_a_request_that_a_kept_connection_swallows_is_sent_once(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    # Several kept connections: libcurl would try each of them.
    receiver.behave("/slow", Behaviour(delay_seconds=0.2))
    answers: queue.Queue[Exchange] = queue.Queue()
    for _ in range(8):
        destination.submit(request_to(receiver.url("/slow")), answers.put)
    assert all(answers.get(timeout=20).succeeded for _ in range(8))
    receiver.behave("/breaks", Behaviour(reset=True))
    exchange = send(destination, request_to(receiver.url("/breaks")))
    assert exchange.error_kind == "connection"
    assert len(receiver.received("/breaks")) == 1


@pytest.mark.parametrize(
    "raw", [b"220 mail.example.com ESMTP\r\n", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n"]
)
def test_an_endpoint_that_speaks_no_http_has_failed(
    raw: bytes, receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/", Behaviour(raw=raw))
    exchange = send(destination, request_to(receiver.url()))
    assert exchange.error_kind == "protocol"
    assert not exchange.succeeded


def test_of_a_long_answer_the_beginning_is_kept_and_of_a_huge_one_the_rest_is_left_unread(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/long", Behaviour(body=b"x" * 500_000))
    receiver.behave("/huge", Behaviour(body=b"x" * 50_000_000))
    receiver.behave("/huge-500", Behaviour(statuses=(500,), body=b"x" * 50_000_000))
    for path, succeeds in (("/long", True), ("/huge", True), ("/huge-500", False)):
        exchange = send(destination, request_to(receiver.url(path)))
        assert exchange.succeeded is succeeds
        assert exchange.error_kind is None
        assert len(exchange.response_body) == 10_000


def test_headers_without_end_are_bounded(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    many = {f"X-{number}": "v" * 5000 for number in range(40)}
    receiver.behave("/many", Behaviour(headers=many))
    exchange = send(destination, request_to(receiver.url("/many")))
    assert exchange.succeeded
    assert max(len(value) for _, value in exchange.response_headers) <= 2000
    endless = b"HTTP/1.1 200 OK\r\n" + b"X-Line: y\r\n" * 200_000
    receiver.behave("/endless", Behaviour(raw=endless))
    exchange = send(destination, request_to(receiver.url("/endless")))
    assert exchange.error_kind == "protocol"
    assert len(exchange.response_headers) <= 100


def test_an_interim_answer_is_not_taken_for_the_answer(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    raw = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    )
    receiver.behave("/", Behaviour(raw=raw))
    exchange = send(destination, request_to(receiver.url()))
    assert exchange.status_code == 201
    assert exchange.response_headers == (("Content-Length", "0"),)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "0"])
def test_an_address_inside_is_refused_at_the_connection(host: str, receiver: Receiver) -> None:
    destination = WebhookDestination(AddressGuard())
    exchange = send(destination, request_to(receiver.url(host=host)))
    destination.stop(0)
    assert exchange.error_kind == "forbidden_address"
    assert "WEBHOOK_ALLOWED_NETWORKS" in (exchange.error_message or "")
    assert receiver.connections == 0


def test_a_proxy_of_the_environment_is_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.com")
    destination = WebhookDestination(OPEN)
    assert send(destination, request_to(receiver.url())).succeeded
    destination.stop(0)


def test_a_netrc_file_of_the_machine_gives_nothing_away(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    receiver.behave("/", Behaviour(statuses=(401,), headers={"WWW-Authenticate": "Basic"}))
    destination = WebhookDestination(OPEN)
    assert send(destination, request_to(receiver.url())).status_code == 401
    destination.stop(0)
    assert "authorization" not in receiver.received()[0].headers


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://", "http://[", "x"]
)
def test_an_address_that_is_no_web_address_fails_alone(
    url: str, receiver: Receiver, destination: WebhookDestination
) -> None:
    assert send(destination, request_to(url)).error_kind in {"protocol", "dns"}
    assert send(destination, request_to(receiver.url())).succeeded


def test_an_ipv6_endpoint_is_reached(destination: WebhookDestination) -> None:
    with Receiver("::1") as receiver:
        assert send(destination, request_to(receiver.url())).succeeded


def test_a_hanging_endpoint_holds_no_other_up_beyond_select_s_1024_files(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    receiver.behave("/hang", Behaviour(hang=True))
    hung: queue.Queue[Exchange] = queue.Queue()
    # The receiver is in this process: each connection is two of its files.
    for _ in range(700):
        destination.submit(request_to(receiver.url("/hang"), timeout_ms=60_000), hung.put)
    receiver.wait_for(700, "/hang", timeout=30)
    for _ in range(50):
        assert send(destination, request_to(receiver.url("/well"))).succeeded
    assert hung.empty()
    destination.stop(0)
    assert {hung.get(timeout=5).error_kind for _ in range(700)} == {"stopped"}


def test_beyond_the_connections_allowed_requests_wait_without_their_timeout_running(
    receiver: Receiver,
) -> None:
    destination = WebhookDestination(OPEN, max_connections=2)
    receiver.behave("/", Behaviour(delay_seconds=0.2))
    answers: queue.Queue[Exchange] = queue.Queue()
    for _ in range(8):
        destination.submit(request_to(receiver.url(), timeout_ms=600), answers.put)
    assert all(answers.get(timeout=10).succeeded for _ in range(8))
    assert receiver.most_under_way("/") == 2
    destination.stop(0)


def test_stopping_finishes_what_is_under_way_and_answers_every_request_once(
    receiver: Receiver,
) -> None:
    destination = WebhookDestination(OPEN, max_connections=2)
    receiver.behave("/slow", Behaviour(delay_seconds=0.3))
    receiver.behave("/hang", Behaviour(hang=True))
    kinds: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def note(path: str) -> Callable[[Exchange], None]:
        return lambda exchange: kinds.put((path, exchange.error_kind))

    for path in ("/slow", "/hang", "/queued"):
        destination.submit(request_to(receiver.url(path)), note(path))
    receiver.wait_for(2)
    destination.stop(1.0)
    destination.submit(request_to(receiver.url("/late")), note("/late"))
    found = dict(kinds.get(timeout=1) for _ in range(4))
    assert found == {"/slow": None, "/hang": "stopped", "/queued": "stopped", "/late": "stopped"}
    assert kinds.empty()
    assert receiver.received("/queued") == []


def test_an_outcome_nobody_can_take_does_not_end_the_loop(
    receiver: Receiver, destination: WebhookDestination, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Exchange) -> None:
        raise RuntimeError("on purpose")

    destination.submit(request_to(receiver.url()), fail)
    assert send(destination, request_to(receiver.url())).succeeded


def test_requests_from_many_threads_are_each_answered(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    answers: queue.Queue[Exchange] = queue.Queue()

    def submit_some() -> None:
        for _ in range(50):
            destination.submit(request_to(receiver.url()), answers.put)

    threads = [threading.Thread(target=submit_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert all(answers.get(timeout=20).succeeded for _ in range(400))
    for thread in threads:
        thread.join()
    assert answers.empty()


def certificate(folder: Path, **names: str) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context with a certificate of its own for these names, and its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(names["address"]))
        if "address" in names
        else x509.DNSName(names["host"])
    ]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, key_file = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return context, file


def test_a_trusted_certificate_is_taken_and_an_unknown_one_refused(tmp_path: Path) -> None:
    context, file = certificate(tmp_path, address="127.0.0.1")
    with Receiver(tls=context) as receiver:
        trusting, doubting = WebhookDestination(OPEN, ca_file=str(file)), WebhookDestination(OPEN)
        assert send(trusting, request_to(receiver.url())).succeeded
        exchange = send(doubting, request_to(receiver.url()))
        assert exchange.error_kind == "tls"
        assert f"TLS with 127.0.0.1:{receiver.port}" in (exchange.error_message or "")
        trusting.stop(0)
        doubting.stop(0)
        assert len(receiver.received()) == 1


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    context, file = certificate(tmp_path, host="elsewhere.example")
    with Receiver(tls=context) as receiver:
        destination = WebhookDestination(OPEN, ca_file=str(file))
        assert send(destination, request_to(receiver.url())).error_kind == "tls"
        destination.stop(0)


def test_an_endpoint_without_tls_at_an_https_address_is_a_tls_failure(
    receiver: Receiver, destination: WebhookDestination
) -> None:
    url = receiver.url().replace("http:", "https:")
    assert send(destination, request_to(url)).error_kind in {"tls", "connection"}
    wait_until(lambda: receiver.connections == 1)
