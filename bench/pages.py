"""What the console's list pages take with many events in the log: from a browser's request to the
last byte of the answer. `--events 10000000` is the size that the target speaks of."""

import time
from statistics import median
from typing import Final

import requests

from bench.logs import TRIGGERS, Owner, filled
from bench.product import NOWHERE, Bench, signed_in
from bench.results import Figure
from eventing.changes import EVENT_STATUSES

_TIMES: Final = 7
_PAGES: Final = (
    ("projects", "projects/"),
    ("Overview, an hour", "projects/bench/"),
    ("Overview, a week", "projects/bench/?within=7d"),
    ("Databases", "projects/bench/databases/"),
    ("Event Triggers", "projects/bench/triggers/"),
    ("a trigger", "projects/bench/triggers/trigger-7/"),
    ("Event Logs", "projects/bench/events/"),
    ("Event Logs, a trigger", "projects/bench/events/?trigger=trigger-7"),
    ("Event Logs, a database", "projects/bench/events/?database=main"),
    ("Event Logs, a table", "projects/bench/events/?table=orders"),
    ("Event Logs, an operation", "projects/bench/events/?operation=insert"),
    *(
        (f"Event Logs, {status}", f"projects/bench/events/?status={status}")
        for status in EVENT_STATUSES
    ),
    ("Event Logs, an error", "projects/bench/events/?error=503"),
    ("Event Logs, a document", "projects/bench/events/?doc_id=701"),
    ("Event Logs, tried twice", "projects/bench/events/?min_attempts=2"),
    ("redeliveries", "projects/bench/redeliveries/"),
    ("audit log", "projects/bench/settings/audit/"),
)


def measure_pages(bench: Bench, events: int) -> list[Figure]:
    """Each list page with the project's log as large as asked for."""
    triggers = [NOWHERE | {"name": f"trigger-{number}"} for number in range(1, TRIGGERS + 1)]
    bench.configure(*triggers)
    ids = (
        "SELECT min(project_id), (SELECT min(id) FROM eventing_database), min(id) - 1"
        " FROM eventing_trigger"
    )
    filled(bench.stack.database_url, events, Owner(*bench.stack.execute(ids)[0])).close()
    browser = signed_in(bench.stack.url)
    return [
        Figure(
            f"page, {name}, {events:,} events",
            _milliseconds(browser, f"{bench.stack.url}/{path}"),
            "ms",
            "≤ 300",
        )
        for name, path in _PAGES
    ]


def _milliseconds(browser: requests.Session, url: str) -> float:
    """The median of seven requests, the first left out."""
    taken = []
    for _ in range(_TIMES + 1):
        started = time.perf_counter()
        answer = browser.get(url, timeout=60, allow_redirects=False)
        taken.append(time.perf_counter() - started)
        if answer.status_code != 200:
            raise RuntimeError(f"{url} answered {answer.status_code}")
    return median(taken[1:]) * 1000
