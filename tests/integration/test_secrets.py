"""Planted secrets, a product in every kind of trouble, and then a search for them wherever somebody
could look: the processes' logs, every page and REST answer of every role, exports, metrics.
"""

import json
import re
import secrets
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import yaml

from tests.ports import free_port
from tests.product import Product
from tests.receiver import Behaviour, Receiver
from tests.stack import Stack

ROLES = ("viewer", "editor", "admin")
USERS = "CREATE TABLE users (id bigint PRIMARY KEY, email text)"
# Where a walk through the pages begins, each address once whatever its filters.
BEGIN = (
    *("/projects/", "/account/", "/health/"),
    *(f"/projects/secrets/events/export/?format={each}&payloads=1" for each in ("csv", "jsonl")),
)
MOST_PAGES = 200
# What may be seen on a page is what it is for; the secret is shown on being asked for, by POST.
NEVER_FOLLOWED = re.compile(r"sign-out|/static/|/api/")

_MAKE_MEMBERS = """
from django.contrib.auth.models import User
from eventing.models import Membership, Project
for role in {roles!r}:
    user, _ = User.objects.get_or_create(username=f'{{role}}-of-secrets')
    user.set_password({password!r})
    user.save()
    Membership.objects.get_or_create(
        user=user, project=Project.objects.get(name={project!r}), defaults={{'role': role}})
root = User.objects.get(username='root')
root.set_password({password!r})
root.save()
"""
_SIGNING = """
from eventing.models import Trigger
print('SECRETS', ' '.join(t.signing_secrets.strip('[]"') for t in Trigger.objects.all()))
"""


def planted(name: str) -> str:
    return f"planted-{name}-{secrets.token_hex(8)}"


class Seen:
    """Where planted words were found."""

    def __init__(self, hidden: dict[str, str]) -> None:
        self._hidden = hidden
        self.found: list[str] = []
        self.looked_at = 0

    def look(self, place: str, text: str, *, rows_allowed: bool = False) -> None:
        self.looked_at += 1
        for name, value in self._hidden.items():
            if value in text and not (rows_allowed and name == "row"):
                self.found.append(f"{name} in {place}")


def signed_in(stack: Stack, username: str, password: str) -> requests.Session:
    session = requests.Session()
    address = f"{stack.url}/sign-in/"
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', session.get(address).text)
    assert token is not None
    given = {"username": username, "password": password, "csrfmiddlewaretoken": token[1]}
    answer = session.post(address, given, allow_redirects=False)
    assert answer.status_code in (302, 303)
    return session


def walk(stack: Stack, session: requests.Session, role: str, seen: Seen) -> set[str]:
    """Look at every page that can be come to by links."""
    waiting = list(BEGIN)
    known = set(waiting)
    while waiting:
        path = waiting.pop(0)
        answer = session.get(stack.url + path)
        seen.look(f"page {path} of {role}", answer.text, rows_allowed="/events/" in path)
        for link in re.findall(r'(?:href|hx-get)="([^"#]+)"', answer.text):
            parts = urlsplit(urljoin(path, link.replace("&amp;", "&")))
            target = parts.path
            if not parts.netloc and target not in known and not NEVER_FOLLOWED.search(target):
                assert len(known) < MOST_PAGES
                known.add(target)
                waiting.append(target)
    return known


def ask(stack: Stack, token: str, project: str, role: str, seen: Seen) -> None:
    """Look at every REST answer of a project."""
    headers = {"Authorization": f"Bearer {token}"}
    base = f"{stack.url}/api/v1/projects/{project}/"
    lists = ["settings", "databases", "triggers", "events", "members", "tokens", "audit"]
    lists += ["redeliveries", "stats"]
    paths = [f"{each}/" for each in lists]
    paths += ["", "databases/main/", "databases/wrong/", "triggers/failing/", "events/?x=1"]
    for path in paths:
        answer = requests.get(base + path, headers=headers, timeout=20)
        allowed = path.startswith("events")
        seen.look(f"REST {path} of {role}", answer.text, rows_allowed=allowed)
        if path == "events/" and answer.ok:
            for event in answer.json()["results"]:
                one = requests.get(f"{base}events/{event['id']}/", headers=headers, timeout=20)
                seen.look(f"REST event of {role}", one.text, rows_allowed=True)
    for path in ("databases/wrong/check/", "databases/far/check/", "triggers/failing/test/"):
        answer = requests.post(base + path, headers=headers, timeout=60)
        seen.look(f"REST POST {path} of {role}", answer.text)
    metrics = requests.get(f"{stack.url}/metrics", headers=headers, timeout=20)
    seen.look(f"metrics of {role}", metrics.text)


def test_no_planted_secret_is_found_where_it_must_not_be(
    stack: Stack, source_database: str, receiver: Receiver
) -> None:
    hidden = {
        "password": planted("password"),
        "other password": planted("far"),
        "header": planted("header"),
        "row": planted("row"),
        "SECRET_KEY": stack.environment["SECRET_KEY"],
        "ENCRYPTION_KEYS": stack.environment["ENCRYPTION_KEYS"],
        "password of the source": urlsplit(source_database).password or "",
    }
    place = urlsplit(source_database).netloc.rpartition("@")[2]
    wrong = f"postgresql://nobody:{hidden['password']}@{place}/nothing"
    far = f"mysql://u:{hidden['other password']}@127.0.0.1:{free_port()}/shop"
    databases: list[dict[str, Any]] = [
        {"alias": "wrong", "type": "postgres", "url": wrong},
        {"alias": "far", "type": "mysql", "url": far},
    ]
    product = Product(stack, "secrets", source_database, more_databases=databases)
    hidden["token"] = product.token
    product.run_sql(USERS)
    behaviours = {
        "failing": Behaviour(statuses=(500,)),
        "elsewhere": Behaviour(statuses=(307,), headers={"Location": "http://127.0.0.1:1/"}),
        "nonsense": Behaviour(raw=b"220 mail.example.com ESMTP\r\n"),
        "broken": Behaviour(reset=True),
    }
    common = {"databases": ["main"], "headers": {"X-Key": hidden["header"]}, "retries": 0}
    triggers = [{"name": name, "url": receiver.url(f"/{name}")} | common for name in behaviours]
    for name, behaviour in behaviours.items():
        receiver.behave(f"/{name}", behaviour)
    product.apply(*triggers)
    stack.manage(
        "shell", "-c",
        _MAKE_MEMBERS.format(roles=ROLES, password=hidden["password"], project="secrets"),
    )  # fmt: skip
    said = stack.manage("shell", "-c", _SIGNING).stdout
    for number, value in enumerate(said.partition("SECRETS ")[2].split()):
        assert value.startswith("whsec_")
        hidden[f"signing secret {number}"] = value
    product.run_sql(f"INSERT INTO users VALUES (1, '{hidden['row']}')")
    product.wait_for(failed=len(behaviours))
    assert receiver.received("/failing")[0].headers["x-key"] == hidden["header"]

    seen = Seen(hidden)
    tokens = {"root": product.token}
    for role in ROLES:
        made = stack.manage(
            "token", "create", "--user", f"{role}-of-secrets", "--role", role,
            "--project", "secrets",
        )  # fmt: skip
        tokens[role] = made.stdout.split()[-1]
    hidden |= {f"token of {role}": token for role, token in tokens.items()}
    for role, token in tokens.items():
        ask(stack, token, "secrets", role, seen)
        name = "root" if role == "root" else f"{role}-of-secrets"
        pages = walk(stack, signed_in(stack, name, hidden["password"]), role, seen)
        assert any("/events/" in page for page in pages)
    for command in (["export"], ["doctor"], ["doctor", "--json"], ["rotate_keys", "--dry-run"]):
        done = stack.manage(*command, must_succeed=False)
        seen.look(" ".join(command), done.stdout + done.stderr)
    database = {"alias": "a", "type": "postgres", "url": f"http://u:{hidden['password']}@h/d"}
    bad = {"projects": [{"name": "shop", "databases": [database]}]}
    done = stack.manage("apply", "-", input=yaml.safe_dump(bad), must_succeed=False)
    assert done.returncode == 1
    seen.look("apply of a bad file", done.stdout + done.stderr)
    for url in (wrong + "?passfile=/x", wrong + "\n", far.replace("mysql", "http")):
        body = json.dumps({"alias": "b", "type": "postgres", "url": url})
        headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
        address = f"{stack.url}/api/v1/projects/secrets/databases/"
        answer = requests.post(address, body, headers=headers, timeout=20)
        assert answer.status_code == 422
        seen.look("REST of a bad address", answer.text)
    seen.look("the processes' logs", stack.everything_written())
    product.disable()
    assert seen.looked_at > 100
    assert seen.found == []
