"""The running product as its users meet it: configured by `apply`, asked through REST."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from functools import cache
from typing import Any

import psycopg2
import yaml

from tests.stack import Stack
from tests.waiting import wait_until


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
        self.stack.manage("apply", "-", input=yaml.safe_dump({"projects": [project]}))
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
            lambda: {status: self.stats()[status] for status in counts} == counts,
            timeout_seconds,
            f"{counts} expected",
        )

    def metric(self, name: str) -> float | None:
        """A metric of the whole installation, None if it is not told."""
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

    def _request(
        self, method: str, path: str, query: dict[str, Any], body: bytes | None = None
    ) -> Any:
        url = f"{self.stack.url}/api/v1/projects/{self.name}/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        request = urllib.request.Request(url, body, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from None

    def run_sql(self, *statements: str, arguments: Sequence[object] | None = None) -> None:
        """Run statements in the source, each in a transaction of its own."""
        connection = psycopg2.connect(self.source_url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement, arguments)
        connection.close()


@cache
def _token(stack: Stack) -> str:
    """A token of an administrator, who is made; the same one for all projects of a stack."""
    stack.manage(
        "shell",
        "-c",
        "from django.contrib.auth.models import User;"
        " User.objects.create_superuser('root', password='correct horse battery')",
    )
    created = stack.manage("token", "create", "--user", "root", "--role", "admin")
    return created.stdout.strip().splitlines()[-1]
