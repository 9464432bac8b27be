"""The API as programs that read its description meet it: one that tries whatever the description
allows, and more, and a client that is generated from it. Both against the real web process.
"""

import contextlib
import importlib
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from demo.processes import procfile
from eventing.changes import Origin
from eventing.definitions import ROLES
from eventing.logs.postgres import PostgresEventLog
from tests.factories import make_change, make_events
from tests.receiver import Receiver
from tests.servers import ExternalPostgres, PostgresServer, RedisServer, drop_database
from tests.stack import Stack, new_control_database
from tests.waiting import wait_until

_PROJECTS = """
projects:
  - name: shop
    eventing: {{enabled: false}}
    databases: [{{alias: main, type: postgres, url: "{source}"}}]
    triggers:
      - {{name: welcome-email, databases: [main], operations: [insert], url: "{hook}"}}
  - name: doomed
    databases: [{{alias: main, type: postgres, url: "{source}"}}]
    triggers: [{{name: welcome-email, operations: [insert], url: "{hook}"}}]
  - name: lasting
    eventing: {{enabled: false}}
    databases: [{{alias: main, type: postgres, url: "{source}"}}]
"""
_USERS = """
from django.contrib.auth.models import User
from eventing.models import Membership, Project
User.objects.create_superuser("root")
for project in Project.objects.all():
    for name in ("ada", "grace"):
        user, _ = User.objects.get_or_create(username=name)
        Membership.objects.create(project=project, user=user, role="admin")
"""
# What is deleted is the other project's, lest everything else find nothing afterwards.
_ONE_BY_ONE = """
[parameters]
"path.project" = "shop"
"path.name" = "welcome-email"
"path.alias" = "main"
"path.username" = "grace"
"path.event_id" = "{event_id}"

[[operations]]
include-method = "DELETE"
parameters = {{ "path.project" = "doomed" }}
"""
# What is made is what is asked for next, changed and deleted; all of it in a project that stays.
_IN_A_ROW = """
[dictionaries]
names = { values = [NAMES] }
hooks = { values = ["https://example.com/hook"] }
databases = { values = ["SOURCE"] }
users = { values = ["ada", "grace"] }
aliases = { values = ["main"] }
types = { values = ["postgres"] }

[parameters]
"path.project" = "lasting"
"body.name" = { dictionary = "names" }
"body.alias" = { dictionary = "names" }
"body.databases[*]" = { dictionary = "aliases" }
"body.tables[*]" = { dictionary = "names" }
"body.user" = { dictionary = "users" }
"body.url" = { dictionary = "hooks" }

[generation]
allow-extra-parameters = false

[phases.stateful]
max-steps = 15

[phases.stateful.generation]
mode = "positive"

[[operations]]
include-path-regex = "databases/"
parameters = { "body.url" = { dictionary = "databases" }, "body.type" = { dictionary = "types" } }

[[operations]]
include-name = "DELETE /api/v1/projects/{project}/"
enabled = false
""".replace("NAMES", ", ".join(f'"name-{number}"' for number in range(400)))
_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance",
    "response_headers_conformance,response_schema_conformance",
    "ignored_auth,unsupported_method,allow_header_conformance",
    # Not ensure_resource_availability, which takes no notice of what it has deleted or renamed.
    "use_after_free",
)


@dataclass(frozen=True)
class Installation:
    """A running web process with something in it."""

    stack: Stack
    url: str
    # The address of a database that is there.
    source: str
    # Of each role, for every project.
    tokens: dict[str, str]
    event_id: str

    @property
    def token(self) -> str:
        return self.tokens["admin"]

    def connect(self) -> socket.socket:
        """A connection to the web process."""
        return socket.create_connection(("127.0.0.1", urlsplit(self.url).port or 0), 60)

    def schema(self, folder: Path) -> str:
        """The description, as a program reads it from the web process."""
        request = urllib.request.Request(
            f"{self.url}/api/v1/schema/", headers={"Accept": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            file = folder / "openapi.json"
            file.write_bytes(answer.read())
        return str(file)


@pytest.fixture(scope="module")
def installation(
    postgres_server: PostgresServer | ExternalPostgres,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    url, source = new_control_database(postgres_server), postgres_server.create_database()
    stack = Stack(url, redis_server.url(), tmp_path_factory.mktemp("clients"))
    try:
        with Receiver() as receiver:
            stack.start("web")
            stack.wait_until_ready()
            projects = _PROJECTS.format(source=source, hook=receiver.url())
            stack.manage("apply", "-", input=projects)
            stack.manage("shell", "-c", _USERS)
            tokens = {role: _made_token(stack, role) for role in ROLES}
            yield Installation(stack, stack.url, source, tokens, _stored_event(stack))
    finally:
        stack.stop_all()
        for each in (url, source):
            drop_database(postgres_server, each)


def _made_token(stack: Stack, role: str) -> str:
    made = stack.manage("token", "create", "--user", "root", "--role", role)
    return made.stdout.strip().splitlines()[-1]


def _stored_event(stack: Stack) -> str:
    """An event of the trigger; returns its id."""
    found = "SELECT p.id, d.id, t.id FROM eventing_project p JOIN eventing_database d ON"
    found += " d.project_id = p.id JOIN eventing_trigger t ON t.project_id = p.id"
    ((project_id, database_id, trigger_id),) = stack.execute(f"{found} WHERE p.name = 'shop'")
    log = PostgresEventLog(stack.database_url)
    log.make_tables()
    origin = Origin(project_id, "shop", database_id, "main", "postgres")
    events = make_events([make_change()], origin, trigger_id)
    log.append(origin, events, log.position(database_id), uuid4().hex)
    log.close()
    return str(events[0].id)


@pytest.mark.parametrize(
    ("role", "phases", "examples"),
    [
        ("admin", "examples,coverage,fuzzing", 5),
        ("admin", "stateful", 40),
        ("editor", "examples,fuzzing", 2),
        ("viewer", "examples,fuzzing", 2),
    ],
)
def test_nothing_that_may_be_sent_is_answered_by_an_error_or_in_an_undocumented_way(
    installation: Installation, tmp_path: Path, role: str, phases: str, examples: int
) -> None:
    configuration = tmp_path / "schemathesis.toml"
    one_by_one = _ONE_BY_ONE.format(event_id=installation.event_id)
    in_a_row = _IN_A_ROW.replace("SOURCE", installation.source)
    configuration.write_text(in_a_row if phases == "stateful" else one_by_one)
    authorization = f"Authorization: Bearer {installation.tokens[role]}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", configuration, "run"),
            installation.schema(tmp_path),
            *("--url", installation.url, "--header", authorization),
            *(word for each in _CHECKS for word in ("--checks", each)),
            *("--phases", phases, "--max-examples", str(examples), "--seed", "1"),
            *("--continue-on-failure", "--no-color", "--warnings", "off", "--no-shrink"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis")},
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    if phases == "stateful":
        # What was made has been asked for, or changed, or deleted.
        covered = re.search(r"API Links: +(\d+) covered", done.stdout)
        assert covered is not None, done.stdout
        assert int(covered[1]) > 20


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("GET /api/v1/projects/?trigger={long} HTTP/1.1", 422),
        ("GET /api/v1/projects/?trigger={long}{long} HTTP/1.1", 414),
        ("GET /api/v1/projects/ HTTP/1.1\r\nX-Key: {long}{long}", 431),
        ("GET /api/v1/projects/ HTTP/1.1" + "\r\nX-A: b" * 101, 431),
        ("GET /api/v1/projects/ HTTP/1.1\r\nX-Key planted-word", 400),
        ("GET /api/v1/projects/ HTTP/1.1\r\nExpect: planted-word", 417),
        ("GET /api/v1/projects/?trigger=planted-word and another HTTP/1.1", 400),
        ("POST /api/v1/projects/ HTTP/1.1\r\nTransfer-Encoding: planted-word", 501),
        ("POST /api/v1/projects/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nplanted-word", 411),
    ],
)
def test_what_cannot_be_read_as_a_request_is_refused_and_not_quoted_in_the_log(
    installation: Installation, words: str, status: int
) -> None:
    head = words.format(long="a" * 4100)
    more = f"Host: 127.0.0.1\r\nAuthorization: Bearer {installation.token}\r\nConnection: close"
    first, _, rest = head.partition("\r\n")
    lines = "\r\n".join(filter(None, (first, more, rest)))
    with installation.connect() as client:
        client.sendall(f"{lines}\r\n\r\n".encode())
        answer = client.makefile("rb").read().decode()
    assert answer.split()[1] == str(status), answer
    written = installation.stack.everything_written()
    assert "planted-word" not in written
    assert installation.token not in written


@pytest.mark.parametrize(
    "beginning",
    [
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        "POST /sign-in/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nCookie: csrftoken={cookie}\r\n\r\na=",
        "POST /api/v1/projects/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
        "Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n\r\n{{",
    ],
    ids=["head", "form", "body"],
)
def test_clients_that_fall_silent_in_the_middle_of_a_request_keep_nobody_waiting_for_ever(
    installation: Installation, beginning: str
) -> None:
    sent = beginning.format(cookie="a" * 32, token=installation.token).encode()
    with contextlib.ExitStack() as silent:
        # As many as there are threads to answer them.
        threads = int(re.findall(r"--threads (\d+)", procfile()["web"])[0])
        clients = [silent.enter_context(installation.connect()) for _ in range(threads)]
        for client in clients:
            client.sendall(sent)
        wait_until(installation.stack.is_ready, 60, "nobody is answered any more")
        answers = [client.makefile("rb").read() for client in clients]
    assert not any(b" 500 " in each for each in answers), answers
    assert "Traceback" not in installation.stack.everything_written()


def test_a_generated_client_makes_a_trigger_and_reads_events(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "client.yaml"
    # Of files it knows bytes alone.
    configuration.write_text(
        "post_hooks: []\ncontent_type_overrides: {application/yaml: application/octet-stream}\n"
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"),
            *("--path", installation.schema(tmp_path), "--output-path", tmp_path / "generated"),
            *("--config", configuration, "--fail-on-warning"),
        ],
        check=True,
        capture_output=True,
    )
    monkeypatch.syspath_prepend(tmp_path)

    def part(name: str) -> Any:
        return importlib.import_module(f"generated.{name}")

    models = part("models")
    given = {"base_url": installation.url, "token": installation.token}
    with part("client").AuthenticatedClient(**given) as client:
        _use(installation, part, client, models)


def _use(installation: Installation, part: Any, client: Any, models: Any) -> None:
    wanted = models.TriggerRequest(
        name="by-client", operations=[models.OperationsEnum.INSERT], url="https://example.com/hook"
    )
    create = part("api.triggers.create_trigger").sync_detailed
    made = create("shop", client=client, body=wanted, idempotency_key="one")
    again = create("shop", client=client, body=wanted, idempotency_key="one")
    assert (made.status_code, made.parsed.name, made.parsed.retries) == (201, "by-client", 3)
    assert again.parsed == made.parsed
    refused = create("shop", client=client, body=wanted)
    assert (refused.status_code, refused.parsed.errors[0].field) == (422, "name")
    page = part("api.events.list_events").sync("shop", client=client, limit=10)
    assert [str(each.id) for each in page.results] == [installation.event_id]
    event = part("api.events.get_event").sync("shop", page.results[0].id, client=client)
    assert event.payload["type"] == "DB_INSERT"
    figures = part("api.figures.get_figures").sync("shop", client=client)
    assert (figures.within, len(figures.steps)) == ("1h", 60)
    file = part("api.configuration.get_configuration").sync_detailed("shop", client=client)
    apply = part("api.configuration.apply_configuration").sync
    body = part("types").File(payload=BytesIO(file.content.replace(b"by-client", b"renamed")))
    done = apply("shop", client=client, body=body, if_match=file.headers["ETag"])
    assert (done.plan, done.applied) == (["+ trigger shop/renamed"], True)
