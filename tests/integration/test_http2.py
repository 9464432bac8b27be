"""HTTP/2 with a real nginx: exchanges share a connection, and one that ends badly ends alone."""

import queue
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventing.changes import Exchange
from eventing.destinations.webhook import MOST_BODY_BYTES, WebhookDestination
from tests.integration.test_webhook import OPEN, certificate, request_to, send
from tests.ports import free_port
from tests.receiver import Behaviour, Receiver
from tests.waiting import wait_until

_CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2; keepalive_requests 150;
        ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;
        location = /hook {{ return 200 "$server_protocol $connection"; }}
        location / {{ proxy_pass {behind}; proxy_buffering off; }}
    }}
}}
"""


@dataclass(frozen=True)
class Endpoint:
    """nginx speaking HTTP/2, the receiver behind it, and a destination that trusts it."""

    url: str
    behind: Receiver
    destination: WebhookDestination


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    _, file = certificate(tmp_path, address="127.0.0.1")
    port = free_port()
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert nginx is not None
    # nginx drops root for a user who must reach its files.
    tmp_path.chmod(0o755)
    with Receiver() as behind:
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(folder=tmp_path, port=port, behind=behind.url().rstrip("/"))
        )
        command = [nginx, "-c", str(configuration), "-e", str(tmp_path / "nginx.log")]
        process = subprocess.Popen(command)
        destination = WebhookDestination(OPEN, ca_file=str(file))
        try:
            url = f"https://127.0.0.1:{port}"
            hook = request_to(f"{url}/hook")
            wait_until(lambda: send(destination, hook).succeeded, 10, "nginx does not answer")
            yield Endpoint(url, behind, destination)
        finally:
            destination.stop(0)
            process.terminate()
            process.wait(10)


def test_requests_to_an_endpoint_that_speaks_http_2_share_a_connection(endpoint: Endpoint) -> None:
    answers: queue.Queue[Exchange] = queue.Queue()
    for _ in range(300):
        endpoint.destination.submit(request_to(f"{endpoint.url}/hook"), answers.put)
    exchanges = [answers.get(timeout=20) for _ in range(300)]
    assert all(exchange.succeeded for exchange in exchanges)
    protocols = {exchange.response_body.split()[0] for exchange in exchanges}
    connections = {exchange.response_body.split()[1] for exchange in exchanges}
    assert protocols == {b"HTTP/2.0"}
    # A hundred streams each, which libcurl takes for the most of a connection, and 150 in all.
    assert len(connections) <= 6


def test_what_a_connection_at_its_end_refuses_unseen_is_sent_on_another_one(
    endpoint: Endpoint,
) -> None:
    answers: queue.Queue[Exchange] = queue.Queue()
    for _ in range(3000):
        endpoint.destination.submit(request_to(f"{endpoint.url}/hook"), answers.put)
    exchanges = [answers.get(timeout=20) for _ in range(3000)]
    assert [each.error_message for each in exchanges if not each.succeeded] == []
    connections = {exchange.response_body.split()[1] for exchange in exchanges}
    assert len(connections) >= 20


def test_a_request_that_times_out_breaks_off_nobody_elses_on_its_connection(
    endpoint: Endpoint,
) -> None:
    endpoint.behind.behave("/hangs", Behaviour(hang=True))
    endpoint.behind.behave("/slow", Behaviour(delay_seconds=0.6, body=b"late"))
    hung: queue.Queue[Exchange] = queue.Queue()
    slow: queue.Queue[Exchange] = queue.Queue()
    endpoint.destination.submit(request_to(f"{endpoint.url}/slow"), slow.put)
    endpoint.destination.submit(request_to(f"{endpoint.url}/hangs", timeout_ms=300), hung.put)
    assert hung.get(timeout=20).error_kind == "timeout"
    answer = slow.get(timeout=20)
    assert (answer.status_code, answer.response_body) == (200, b"late")


def test_of_a_body_without_end_the_beginning_is_kept_and_others_go_on(endpoint: Endpoint) -> None:
    endpoint.behind.behave("/endless", Behaviour(body=b"x" * (4 * MOST_BODY_BYTES)))
    exchange = send(endpoint.destination, request_to(f"{endpoint.url}/endless"))
    assert exchange.succeeded
    assert exchange.response_body == b"x" * 10_000
    assert send(endpoint.destination, request_to(f"{endpoint.url}/hook")).succeeded


def test_a_server_that_goes_away_is_a_failure_and_is_reached_again(endpoint: Endpoint) -> None:
    endpoint.behind.behave("/breaks", Behaviour(reset=True))
    assert send(endpoint.destination, request_to(f"{endpoint.url}/breaks")).status_code == 502
    assert send(endpoint.destination, request_to(f"{endpoint.url}/hook")).succeeded
