"""Secrets planted wherever the product keeps one, a product in every kind of trouble, and then a
search for them wherever somebody could look: every address of the installation, by every method and
for every role; whatever the processes write when they say most; what the broker is told; messages,
exports, and what a copy of the databases would give away.
"""

import base64
import contextlib
import re
import secrets
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import redis
import requests
import yaml
from allauth.mfa.totp.internal.auth import (
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
)

from demo.processes import ROOT
from tests.databases import MariaDbServer, MongoDbServer
from tests.mailbox import Mailbox
from tests.ports import free_port
from tests.product import Product
from tests.proxy import Proxy
from tests.receiver import Behaviour, Receiver
from tests.servers import (
    ExternalPostgres,
    PostgresServer,
    RedisServer,
    drop_database,
    execute,
)
from tests.stack import Stack
from tests.subjects import MongoSubject, MySqlSubject, Subject
from tests.waiting import wait_until
from tests.web.oidc import CLIENT_ID, CLIENT_SECRET, running_provider
from tests.web.routes import API, CONSOLE, TABLE, address, routes

PROJECT: Final = "secrets"
MEMBERS: Final = ("viewer", "editor", "admin")
# Somebody with a second factor; what stands for <username> and <user_id> in an address.
GUARDED: Final = "guarded"
USERS: Final = "CREATE TABLE users (id bigint PRIMARY KEY, email text)"
# How the endpoints answer, by the names of their triggers.
BEHAVIOURS: Final = {
    "failing": Behaviour(statuses=(500,)),
    "elsewhere": Behaviour(statuses=(307,), headers={"Location": "http://127.0.0.1:1/"}),
    "nonsense": Behaviour(raw=b"220 mail.example.com ESMTP\r\n"),
    "broken": Behaviour(reset=True),
}
SAFE: Final = ("GET", "HEAD", "OPTIONS")
# What takes something away that the walk needs, or may: done last.
LAST: Final = re.compile(
    r"(delete|remove|revoke|rename|cancel|start-anew|two-factor|sign-out|enable|settings)/$"
)
# Where what a row contains is meant to be seen.
OF_ROWS: Final = re.compile(r"/events/|/sample/|/preview/|/begin/")
SIGNING: Final = re.compile(r"/secret/(rotate/|retire/)?$")
MOST_SECONDS: Final = 60
# What sessions, caches and messages of the broker are written in; how a database shows bytes.
BASE_64: Final = re.compile(r"[A-Za-z0-9+/_-]{24,}")
BASE_16: Final = re.compile(r"\\x((?:[0-9a-f]{2}){12,})")

_MAKE_PEOPLE: Final = """
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP
from allauth.mfa.utils import decrypt
from django.contrib.auth.models import User
from eventing.models import Membership, Project
project = Project.objects.get(name={project!r})
for name, role in {people!r}.items():
    user, _ = User.objects.get_or_create(username=name)
    user.set_password({password!r})
    user.save()
    if role != 'root':
        Membership.objects.get_or_create(user=user, project=project, defaults={{'role': role}})
guarded = User.objects.get(username={guarded!r})
TOTP.activate(guarded, {key!r})
codes = RecoveryCodes.activate(guarded)
print('FACTORS', decrypt(codes.instance.data['seed']), *codes.generate_codes())
"""
_SIGNING: Final = """
import json
from eventing.models import Trigger
print('SECRETS', *[each for t in Trigger.objects.all() for each in json.loads(t.signing_secrets)])
"""


def planted(name: str) -> str:
    return f"planted-{name}-{secrets.token_hex(8)}"


def readings(text: str) -> Iterator[str]:
    """A text, and all within it that is encoded or compressed, though nobody has encrypted it."""
    yield text
    for found in BASE_16.finditer(text):
        yield bytes.fromhex(found[1]).decode(errors="replace")
    for found in BASE_64.finditer(text):
        letters = found[0].translate({ord("+"): "-", ord("/"): "_"})
        content = base64.urlsafe_b64decode(letters[: len(letters) // 4 * 4])
        yield content.decode(errors="replace")
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(content).decode(errors="replace")


def told(broker: RedisServer, overheard: Any) -> Iterator[str]:
    """Whatever the broker has been told since `overheard`, its monitor, was begun."""
    end = secrets.token_hex(8)
    with redis.Redis.from_url(broker.url()) as client:
        client.echo(end)
    while end not in (command := overheard.next_command()["command"]):
        yield command


@dataclass
class Seen:
    """All that could be read, by where that was, and what of `hidden` was among it."""

    hidden: dict[str, str] = field(default_factory=dict)
    recovery_codes: Sequence[str] = ()
    _texts: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def look(self, place: str, text: str, *may_have: str) -> None:
        """`may_have` begins the names of what is meant to be seen there."""
        self._texts.append((place, text, may_have))

    def answer(self, place: str, answer: requests.Response, *may_have: str) -> None:
        """A response, with its headers."""
        self.look(place, f"{answer.headers}\n{answer.text}", *may_have)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def found(self) -> list[str]:
        """What was found where it must not be."""
        return [
            f"{name} in {place}"
            for place, text, may_have in self._texts
            for name in self._in(text)
            if not name.startswith(may_have or ("nothing",))
        ]

    def _in(self, text: str) -> Iterator[str]:
        everything = "\n".join(readings(text))
        for name, value in self.hidden.items():
            if value in everything:
                yield name
        # Of one such number alone somebody else's may be meant.
        if len(set(re.findall(r"\b\d{8}\b", text)) & set(self.recovery_codes)) > 1:
            yield "recovery codes"


class Caller:
    """A person with a browser and a token."""

    def __init__(self, url: str, role: str, token: str = "") -> None:
        self.role = role
        self._url = url
        self._browser = requests.Session()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def sign_in(self, username: str, password: str, key: str = "") -> None:
        """With the password, and the code of the authenticator app that has this key."""
        answer = self.send("/sign-in/", {"username": username, "password": password})
        assert answer.status_code == 303, answer.text
        if key:
            code = format_hotp_value(hotp_value(key, int(time.time()) // 30))
            answer = self.send("/sign-in/code/", {"code": code})
            assert answer.headers["Location"] == "/projects/", answer.text

    def get(self, path: str) -> requests.Response:
        """As a browser does, following nothing."""
        return self._browser.get(self._url + path, allow_redirects=False, timeout=MOST_SECONDS)

    def send(self, path: str, form: dict[str, str]) -> requests.Response:
        """A form, sent from a page of ours."""
        if "csrftoken" not in self._browser.cookies:
            self.get("/sign-in/")
            self.get("/account/")
        given = {**form, "csrfmiddlewaretoken": self._browser.cookies.get("csrftoken", "")}
        return self._browser.post(
            self._url + path, given, allow_redirects=False, timeout=MOST_SECONDS
        )

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        """With the token alone."""
        return requests.request(
            method, self._url + path, json=body, headers=self._headers, timeout=MOST_SECONDS
        )


@dataclass
class Places:
    """The running product, each part of which signs in with a password of its own."""

    stack: Stack
    product: Product
    receiver: Receiver
    mailbox: Mailbox
    broker: RedisServer
    # All that the broker is told, from the beginning.
    overheard: Any
    to_control: Proxy
    to_broker: Proxy
    others: dict[str, Subject]
    chosen_url: str
    seen: Seen
    run_as_superuser: Any


@pytest.fixture
def places(
    postgres_server: PostgresServer | ExternalPostgres,
    stack_redis: RedisServer,
    mariadb_server: MariaDbServer,
    mongodb_server: MongoDbServer,
    receiver: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Places]:
    seen = Seen()
    roles: list[str] = []
    urls: dict[str, str] = {}

    def new_database(name: str) -> str:
        """Of a role of its own, with a planted password."""
        role = f"{name}_{secrets.token_hex(4)}"
        password = seen.hidden[f"password of {name}"] = planted(name)
        postgres_server.execute(
            f"CREATE ROLE {role} LOGIN SUPERUSER REPLICATION PASSWORD '{password}'"
        )
        roles.append(role)
        parts = urlsplit(postgres_server.create_database())
        netloc = f"{role}:{password}@{parts.hostname}:{parts.port}"
        return parts._replace(netloc=netloc).geturl()

    for name in ("control", "main", "chosen"):
        urls[name] = new_database(name)
    others: dict[str, Subject] = {
        "maria": MySqlSubject(mariadb_server),
        "mongo": MongoSubject(mongodb_server),
    }
    for name, subject in others.items():
        subject.create("users")
        urls[name] = subject.change_password(subject.new_user())
        seen.hidden[f"password of {name}"] = str(urlsplit(urls[name]).password)
    port = urlsplit(urls["control"]).port
    assert port is not None
    with (
        running_provider() as provider,
        Proxy("127.0.0.1", port) as to_control,
        Proxy("127.0.0.1", stack_redis.port) as to_broker,
        Mailbox() as mailbox,
        redis.Redis.from_url(stack_redis.url()).monitor() as overheard,
    ):
        settings = {
            "LOG_LEVEL": "DEBUG",
            "OIDC_ISSUER": provider.url,
            "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET": CLIENT_SECRET,
        }
        stack = Stack(
            through(urls["control"], to_control.port),
            through(stack_redis.url(), to_broker.port),
            tmp_path_factory.mktemp("secrets"),
            environments=dict.fromkeys(("web", "capture", "worker", "beat"), settings),
        )
        seen.hidden |= {
            "password of the broker": stack_redis.password,
            "client secret": CLIENT_SECRET,
            "SECRET_KEY": stack.environment["SECRET_KEY"],
            "ENCRYPTION_KEYS": stack.environment["ENCRYPTION_KEYS"],
        }
        try:
            stack.start_all()
            nobody = planted("wrong"), planted("far")
            seen.hidden |= {"wrong password": nobody[0], "password of what is not there": nobody[1]}
            host = urlsplit(urls["main"]).netloc.rpartition("@")[2]
            more: list[dict[str, Any]] = [
                {"alias": "maria", "type": "mysql", "url": urls["maria"]},
                {"alias": "mongo", "type": "mongodb", "url": urls["mongo"]},
                {"alias": "chosen", "type": "postgres", "url": urls["chosen"]},
                {
                    "alias": "wrong",
                    "type": "postgres",
                    "url": f"postgresql://nobody:{nobody[0]}@{host}/nothing",
                },
                {
                    "alias": "far",
                    "type": "mysql",
                    "url": f"mysql://u:{nobody[1]}@127.0.0.1:{free_port()}/shop",
                },
            ]
            product = Product(stack, PROJECT, urls["main"], more_databases=more)
            yield Places(
                stack, product, receiver, mailbox, stack_redis, overheard, to_control, to_broker,
                others, urls["chosen"], seen, postgres_server.execute,
            )  # fmt: skip
        finally:
            stack.stop_all()
    for subject in others.values():
        subject.close()
    for name in ("control", "main", "chosen"):
        drop_database(postgres_server, urls[name])
    for role in roles:
        postgres_server.execute(f"DROP ROLE {role}")


def through(url: str, port: int) -> str:
    """The URL by another port of this machine."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()


def test_no_planted_secret_is_found_where_it_must_not_be(places: Places) -> None:
    stack, seen = places.stack, places.seen
    fill(places)
    callers = make_callers(places)
    root = callers["root"]
    examples = examples_of(places, root)
    for caller in callers.values():
        walk(caller, examples, seen)
    send_what_is_refused(root, examples, seen)
    ask_the_provider(root, seen)
    run_commands(places)
    break_connections(places, root)
    for route in ("", "events/", "databases/", "settings/", "triggers/"):
        path = f"/projects/{PROJECT}/{route}"
        seen.answer(f"{path} in trouble", root.get(path), "row")
        seen.answer(f"REST {path} in trouble", root.ask("GET", f"/api/v1{path}"), "row")
    break_the_control_database(places, callers)
    seen.hidden |= signing_secrets(stack)
    for url in (stack.database_url, places.chosen_url):
        dump(url, seen)
    take_away(root, examples, seen)
    dump(stack.database_url, seen)
    seen.look("the processes' output", stack.everything_written())
    read_messages(places)
    for command in told(places.broker, places.overheard):
        seen.look("what the broker was told", command)
    assert len(seen) > 500
    found = seen.found
    assert not found, "\n".join(dict.fromkeys(found))


def fill(places: Places) -> None:
    """Have one of everything, and an event that failed of each trigger."""
    product, receiver, hidden = places.product, places.receiver, places.seen.hidden
    hidden |= {"token of root": product.token}
    hidden |= {name: planted(name) for name in ("header", "row")}
    product.run_sql(USERS)
    key = f"Bearer {hidden['header']}"
    common = {"databases": ["main"], "headers": {"X-Key": key}, "retries": 0}
    repeats = Behaviour(statuses=(400,), headers={"X-Got": key}, body=f"got {key!r}".encode())
    behaviours = {**BEHAVIOURS, "repeats": repeats}
    triggers = [{"name": name, "url": receiver.url(f"/{name}")} | common for name in behaviours]
    for name, behaviour in behaviours.items():
        receiver.behave(f"/{name}", behaviour)
    product.apply(*triggers, eventing_db="chosen")
    product.run_sql(f"INSERT INTO users VALUES (1, '{hidden['row']}')")
    product.wait_for(failed=len(behaviours))
    assert receiver.received("/failing")[0].headers["x-key"] == key
    for alias in places.others:
        wait_until(
            lambda alias=alias: state(product, alias) == "streaming", 30, f"{alias} is not captured"
        )


def state(product: Product, alias: str) -> str:
    return str(product.get(f"databases/{alias}/")["capture"]["state"])


def make_callers(places: Places) -> dict[str, Caller]:
    """Nobody, members of each role, one of them with a second factor, and an administrator."""
    stack, hidden = places.stack, places.seen.hidden
    password = hidden["password of people"] = planted("people")
    key = hidden["key of the second factor"] = generate_totp_secret()
    people = {role: role for role in MEMBERS} | {GUARDED: "viewer", "root": "root"}
    script = _MAKE_PEOPLE.format(
        people=people, password=password, project=PROJECT, guarded=GUARDED, key=key
    )
    said = stack.manage("shell", "-c", script).stdout.partition("FACTORS ")[2].split()
    hidden["seed of recovery codes"], *places.seen.recovery_codes = said
    hidden |= signing_secrets(stack)
    callers = {"anonymous": Caller(stack.url, "anonymous")}
    for name, role in people.items():
        token = places.product.token
        if role != "root":
            made = stack.manage(
                *("token", "create", "--user", name, "--role", role, "--project", PROJECT)
            )
            token = hidden[f"token of {name}"] = made.stdout.split()[-1]
        callers[name] = Caller(stack.url, name, token)
        callers[name].sign_in(name, password, key if name == GUARDED else "")
    return callers


def signing_secrets(stack: Stack) -> dict[str, str]:
    """Those that triggers have now."""
    said = stack.manage("shell", "-c", _SIGNING).stdout.partition("SECRETS ")[2].split()
    assert said
    assert all(each.startswith("whsec_") for each in said)
    return {f"signing secret {each[-6:]}": each for each in said}


def examples_of(places: Places, root: Caller) -> dict[str, str]:
    """What stands for each part of an address; its notifications have secrets in their own."""
    base, hidden = f"/api/v1/projects/{PROJECT}/", places.seen.hidden
    hidden |= {name: planted(name) for name in ("hook", "mail")}
    login, letter = f"ada:{hidden['mail']}@127.0.0.1", "from=a@a.example&to=b@b.example"
    # Some addresses have room for the name of a trigger, some for that of a notification.
    for name, url in {
        "failing": places.receiver.url(f"/{hidden['hook']}"),
        "mail": f"mailto://{login}:{places.mailbox.port}?{letter}",
        "nowhere": f"mailto://{login}:{free_port()}?{letter}",
    }.items():
        answer = root.ask("POST", f"{base}notifications/", {"name": name, "url": url})
        assert answer.status_code == 201, answer.text
        answer = root.ask("POST", f"{base}notifications/{name}/test/")
        assert answer.json()["taken"] == (name != "nowhere"), answer.text
        places.seen.answer(f"a test of the notification {name}", answer)
    begun = root.ask("POST", f"{base}redeliveries/", {"status": "cancelled"})
    assert begun.status_code == 201, begun.text
    token = root.ask("POST", f"{base}tokens/", {"role": "viewer"})
    assert token.status_code == 201, token.text
    ((user_id,),) = places.stack.execute("SELECT id FROM auth_user WHERE username = %s", [GUARDED])
    return {
        "project": PROJECT,
        "alias": "main",
        "name": "failing",
        "event_id": places.product.events()[0]["id"],
        "number": begun.headers["Location"].rstrip("/").rpartition("/")[2],
        "username": GUARDED,
        "user_id": str(user_id),
        "token_id": token.headers["Location"].rstrip("/").rpartition("/")[2],
    }


def walk(caller: Caller, examples: dict[str, str], seen: Seen) -> None:
    """Look at every address there is, as it is and, of lists of events, as files."""
    base = f"projects/{PROJECT}/events/export/"
    files = [f"{base}?format={each}&payloads=1" for each in ("csv", "jsonl")]
    pages = [address(route, examples) for route in routes() if route not in API]
    for path in (*pages, *(f"/{each}" for each in files)):
        own = ("recovery codes",) if path == "/account/recovery-codes/" else ()
        seen.answer(f"{path} for {caller.role}", caller.get(path), *may_have(path), *own)
    answers = [address(route, examples) for route in routes() if route not in CONSOLE]
    for path in (*answers, *(f"/api/v1/{each}" for each in files)):
        for method in SAFE if caller.role == "root" else ("GET",):
            answer = caller.ask(method, path)
            seen.answer(f"{method} {path} for {caller.role}", answer, *may_have(path))


def may_have(path: str) -> tuple[str, ...]:
    """What may be seen at an address."""
    rows = ("row",) if OF_ROWS.search(path) else ()
    return (*rows, *(("signing secret",) if SIGNING.search(path) else ()))


def unsafe(examples: dict[str, str], *, last: bool) -> Iterator[tuple[str, str, bool]]:
    """Method and path of everything that changes something, and whether it is of the API."""
    found = [
        (method, address(route, examples), route in API)
        for route in routes()
        for method in TABLE[route]
        if method not in SAFE and not route.startswith("^")
    ]
    # The longer an address, the smaller what is there.
    for method, path, is_api in sorted(found, key=lambda each: -len(each[1])):
        is_last = bool(LAST.search(path)) or method == "DELETE"
        if is_last == last:
            yield method, path, is_api


def send_what_is_refused(root: Caller, examples: dict[str, str], seen: Seen) -> None:
    """Send to every address what has a secret in it, most often in the wrong place."""
    typed = seen.hidden["what was typed"] = planted("typed")
    urls = [f"https://u:{typed}@127.0.0.1/", f"mysql://u:{typed}@h:x/d"]
    for (method, path, is_api), url in zip(unsafe(examples, last=False), cycle(urls), strict=False):
        place = f"{method} {path} of something bad"
        given = {"name": "Bad Name", "type": "postgres", "url": url, "password": typed}
        answer = root.ask(method, path, given) if is_api else root.send(path, given)
        assert answer.status_code != 500, f"{place}: {answer.text}"
        # A form that is refused comes back to whoever typed it, as it was typed.
        own = () if is_api else ("what was typed",)
        seen.answer(place, answer, *may_have(path), *own)


def ask_the_provider(root: Caller, seen: Seen) -> None:
    """Come back from the provider with a code that it does not know."""
    away = root.get("/sign-in/sso/")
    seen.answer("the way to the provider", away)
    stamp = parse_qs(urlsplit(away.headers["Location"]).query)["state"][0]
    back = root.get(f"/sign-in/sso/callback/?code=nonsense&state={stamp}")
    seen.answer("the way back from the provider", back)


def read_messages(places: Places) -> None:
    """Look at what endpoints and people were sent, tests of notifications and troubles included."""
    received = places.receiver.received()
    announced = [each for each in received if each.path == f"/{places.seen.hidden['hook']}"]
    letters = [each.get_body(("plain", "html")).get_content() for each in places.mailbox.messages]
    for messages in ([each.body.decode() for each in announced], letters):
        assert any("This is a test" in each for each in messages), messages
        assert any("failed for good" in each for each in messages), messages
    for request in received:
        # An endpoint is sent what it is sent; the address is its own.
        places.seen.look("a request", request.body.decode(), "row")
    for letter in letters:
        places.seen.look("a letter", letter)


def take_away(root: Caller, examples: dict[str, str], seen: Seen) -> None:
    """Do what takes things away."""
    for method, path, is_api in unsafe(examples, last=True):
        answer = root.ask(method, path) if is_api else root.send(path, {})
        assert answer.status_code != 500, f"{method} {path}: {answer.text}"
        seen.answer(f"{method} {path}", answer)


def run_commands(places: Places) -> None:
    """Commands, and processes that do not even start."""
    stack, seen = places.stack, places.seen
    for command in (["export"], ["doctor"], ["doctor", "--json"], ["rotate_keys", "--dry-run"]):
        done = stack.manage(*command, must_succeed=False)
        seen.look(" ".join(command), done.stdout + done.stderr)
    typed = seen.hidden["what a file has"] = planted("file")
    database = {"alias": "a", "type": "postgres", "url": f"http://u:{typed}@h/d"}
    bad = {"projects": [{"name": "shop", "databases": [database]}]}
    done = stack.manage("apply", "-", input=yaml.safe_dump(bad), must_succeed=False)
    assert done.returncode == 1
    seen.look("apply of a bad file", done.stdout + done.stderr)
    given = seen.hidden["what a variable has"] = planted("var")
    nowhere = f"u:{given}@127.0.0.1:{free_port()}"
    for variable, value in (
        ("DATABASE_URL", f"postgresql://{nowhere}/d"),
        ("DATABASE_URL", f"nonsense://{nowhere}/d"),
        ("REDIS_URL", f"nonsense://{nowhere}/0"),
        ("SECRET_KEY", ""),
        ("ENCRYPTION_KEYS", given),
        ("OIDC_ISSUER", f"http://u:{given}@h"),
    ):
        ended = subprocess.run(
            [sys.executable, "manage.py", "migrate"],
            cwd=ROOT,
            env={**stack.process_environment, variable: value},
            capture_output=True,
            text=True,
        )
        assert ended.returncode != 0, variable
        seen.look(f"migrate with another {variable}", ended.stdout + ended.stderr)


def break_connections(places: Places, root: Caller) -> None:
    """Sources and Eventing DB no longer know the passwords, and the broker is away."""
    product, seen = places.product, places.seen
    for alias, subject in places.others.items():
        url = next(each["url"] for each in product.more_databases if each["alias"] == alias)
        subject.change_password(url)
        product.post(f"databases/{alias}/start-anew/")
        wait_until(
            lambda alias=alias: state(product, alias) in ("retrying", "blocked"), 60,
            f"{alias} is captured on",
        )  # fmt: skip
        for path in (f"databases/{alias}/", "troubles/", f"databases/{alias}/check/"):
            method = "POST" if path.endswith("check/") else "GET"
            answer = root.ask(method, f"/api/v1/projects/{PROJECT}/{path}")
            seen.answer(f"{path} in trouble", answer)
    role = urlsplit(places.chosen_url).username
    places.run_as_superuser(f"ALTER ROLE {role} PASSWORD 'another'")
    places.run_as_superuser(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
    )
    wait_until(
        lambda: root.ask("GET", f"/api/v1/projects/{PROJECT}/events/").status_code == 503,
        30,
        "the Eventing DB still answers",
    )
    password = urlsplit(places.chosen_url).password
    places.run_as_superuser(f"ALTER ROLE {role} PASSWORD '{password}'")
    places.to_broker.refuse()
    wait_until(lambda: not places.stack.is_ready(), 30, "the broker still answers")
    for path in ("/readyz", "/metrics", "/api/v1/health/"):
        seen.answer(f"{path} without a broker", root.ask("GET", path))
    seen.answer("/health/ without a broker", root.get("/health/"))
    places.to_broker.heal()
    places.stack.wait_until_ready()


def break_the_control_database(places: Places, callers: dict[str, Caller]) -> None:
    """It is changed under the product, so that requests and tasks fail as nobody foresaw, and then
    goes away in the middle of requests."""
    stack, seen, root = places.stack, places.seen, callers["root"]
    written = len(stack.everything_written())
    control = stack.database_url
    execute(control, "ALTER TABLE eventing_redelivery RENAME TO somewhere_else")
    for path in (f"/api/v1/projects/{PROJECT}/redeliveries/", f"/projects/{PROJECT}/events/"):
        answer = root.ask("GET", path) if "/api/" in path else root.get(path)
        seen.answer(f"{path} of a broken database", answer)
        if "/api/" in path:
            assert answer.status_code == 500

    def task_died() -> bool:
        said = stack.everything_written()[written:]
        return "Traceback" in said and "eventing.tasks.sweep" in said

    wait_until(task_died, 30, "no task fails")
    execute(control, "ALTER TABLE somewhere_else RENAME TO eventing_redelivery")
    places.to_control.truncate()
    for path in (f"/api/v1/projects/{PROJECT}/databases/", "/api/v1/health/", "/readyz"):
        seen.answer(f"{path} as the database goes away", root.ask("GET", path))
    seen.answer("/projects/ as the database goes away", root.get("/projects/"))
    places.to_control.refuse()
    for path in (f"/api/v1/projects/{PROJECT}/databases/", "/metrics", "/readyz"):
        seen.answer(f"{path} without a database", root.ask("GET", path))
    seen.answer("/projects/ without a database", root.get("/projects/"))
    places.to_control.heal()
    stack.wait_until_ready()


def dump(url: str, seen: Seen) -> None:
    """What somebody sees who has come by a copy of a database."""
    tables = execute(
        url,
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname IN ('public', 'mission_control')",
    )
    assert tables
    for (table,) in tables:
        for (row,) in execute(url, f"SELECT t::text FROM {table} AS t"):
            seen.look(f"a row of {table}", row, "row")
