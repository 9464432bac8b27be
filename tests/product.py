"""The running product as its users meet it: configured and asked through REST."""

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from functools import cache
from typing import Any

import psycopg2
import yaml

from tests.receiver import Receiver
from tests.stack import Stack
from tests.waiting import wait_until

_REQUEST_SECONDS = 20.0
# A log in another database may have to be made first.
_APPLY_SECONDS = 60.0


class Product:
    """One project of a running stack, with a source database called `main`, and maybe others."""

    def __init__(
        self,
        stack: Stack,
        name: str,
        source_url: str,
        source_type: str = "postgres",
        more_databases: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.stack = stack
        self.name = name
        self.source_url = source_url
        self.source_type = source_type
        self.more_databases = more_databases
        self.token = _token(stack)

    @classmethod
    def of_orders(
        cls, stack: Stack, name: str, source_url: str, receiver: Receiver, **trigger: Any
    ) -> "Product":
        """One with a table `orders`, and one trigger `all`, which sends to `/all` what happens."""
        product = cls(stack, name, source_url)
        product.run_sql("CREATE TABLE orders (id bigint PRIMARY KEY)")
        product.apply({"name": "all", "url": receiver.url("/all"), **trigger})
        return product

    def apply(
        self,
        *triggers: dict[str, Any],
        enabled: bool = True,
        live: bool = True,
        eventing_db: str = "builtin",
    ) -> None:
        """Make the project have just these triggers; by default wait until they are live."""
        project = {
            "name": self.name,
            "eventing": {"enabled": enabled, "db": eventing_db},
            "databases": [
                {"alias": "main", "type": self.source_type, "url": self.source_url},
                *self.more_databases,
            ],
            "triggers": [
                {"operations": ["insert", "update", "delete"]} | each for each in triggers
            ],
        }
        if not self._is_there():
            self._call("POST", "projects/", json.dumps({"name": self.name}).encode())
        text = yaml.safe_dump({"projects": [project]}).encode()
        path = f"projects/{self.name}/configuration/"
        self._call("PUT", path, text, "application/yaml", _APPLY_SECONDS)
        if live:
            names = [trigger["name"] for trigger in triggers]
            wait_until(lambda: all(map(self.is_live, names)), 30, "the triggers are not live")

    def disable(self) -> None:
        """Turn eventing off: its places in the logs of the sources are given up."""
        eventing = {"enabled": False, "db": "builtin"}
        self._request("PATCH", "settings/", {}, json.dumps({"eventing": eventing}).encode())

    def is_live(self, trigger: str) -> bool:
        return bool(self.get(f"triggers/{trigger}/")["live"])

    def capture(self) -> dict[str, Any]:
        """The capture status of the source."""
        found: dict[str, Any] = self.get("databases/main/")["capture"]
        return found

    def events(self, **filters: Any) -> list[dict[str, Any]]:
        """Every event that matches, newest first, page by page."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.get(
                "events/", limit=500, **filters, **({"cursor": cursor} if cursor else {})
            )
            found += page["results"]
            cursor = page["next"]
            if cursor is None:
                return found

    def event(self, event_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"events/{event_id}/")
        return found

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self.get("stats/")
        return found

    def wait_for(self, timeout_seconds: float = 60, **counts: int) -> None:
        """Wait until this many events have these statuses."""
        wait_until(
            lambda: counts.items() <= self.stats().items(), timeout_seconds, f"{counts} expected"
        )

    def metric(self, name: str) -> float | None:
        """A metric of the whole installation, with its labels if it has any; None if it is not
        told."""
        request = urllib.request.Request(f"{self.stack.url}/metrics")
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=10) as response:
            lines = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith(f"mission_control_{name} ")]
        return float(found[0].split()[1]) if found else None

    def get(self, path: str, **query: Any) -> Any:
        return self._request("GET", path, query)

    def post(self, path: str, **query: Any) -> Any:
        return self._request("POST", path, query)

    def delete(self, path: str) -> Any:
        return self._request("DELETE", path, {})

    def _is_there(self) -> bool:
        return any(project["name"] == self.name for project in self._call("GET", "projects/"))

    def _request(
        self, method: str, path: str, query: dict[str, Any], body: bytes | None = None
    ) -> Any:
        """What the API answers below the project's address."""
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        return self._call(method, f"projects/{self.name}/{path}{asked}", body)

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_seconds: float = _REQUEST_SECONDS,
    ) -> Any:
        request = urllib.request.Request(f"{self.stack.url}/api/v1/{path}", body, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.add_header("Content-Type", content_type)
        try:
            with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            said = _said(error.read())
            raise AssertionError(f"{method} {path}: {error.code} {said}") from None

    def run_sql(self, *statements: str, arguments: Sequence[object] | None = None) -> None:
        """Run statements in the source, each in a transaction of its own."""
        connection = psycopg2.connect(self.source_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement, arguments)
        connection.close()


def _said(body: bytes) -> str:
    """What a refusal says, as its reader sees it."""
    with contextlib.suppress(ValueError):
        problem = json.loads(body)
        if isinstance(problem, dict) and problem.get("detail"):
            return str(problem["detail"])
    return body.decode(errors="replace")


# One command, which starts once: that is most of what either of them takes.
_MAKE_TOKEN = """
from django.contrib.auth.models import User
from eventing.access import command_line
from eventing.definitions import TokenDefinition
from eventing.tokens import create_token
root = User.objects.create_superuser("root", password="correct horse battery")
print(create_token(root, None, TokenDefinition("admin"), by=command_line()).secret)
"""


@cache
def _token(stack: Stack) -> str:
    """A token of an administrator, who is made; the same one for all projects of a stack."""
    return stack.manage("shell", "-c", _MAKE_TOKEN).stdout.strip().splitlines()[-1]
