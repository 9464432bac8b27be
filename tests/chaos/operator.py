"""Somebody who edits, tests and redelivers through REST while web is killed and stopped under them.

What was answered must be so afterwards; what was not may have been done, or not.
"""

import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import requests

from tests.product import Product

EDITED: Final = "all"
_PAUSE_SECONDS: Final = 0.3
_PATIENCE_SECONDS: Final = 5.0
_FIRST_TIMEOUT_MS: Final = 2001
# With what web refuses: the event is not finished, what web depends on is away, the log stood still
# for longer than a search may take, or the Eventing DB that was chosen is away.
_REFUSALS: Final = (409, 503)
_REFUSALS_OF_A_SEARCH: Final = (*_REFUSALS, 422)
_REFUSALS_OF_A_LOG: Final = (*_REFUSALS, 400, 422)


class Operator:
    """Works on one trigger, and on the events of `redelivered` ones, until told to stop; and has
    the project's log now in one of `logs`, now in another, if there are any."""

    def __init__(
        self, product: Product, redelivered: Sequence[str], seed: int, logs: Sequence[str] = ()
    ) -> None:
        self._product = product
        self._triggers = redelivered
        self._random = random.Random(seed)
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {product.token}"
        self._logs = logs
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._timeout_ms = _FIRST_TIMEOUT_MS
        # What the trigger was last said to be, and what it may have become since without a word.
        self._edited_to: set[int] = set()
        self._unanswered: set[int] = set()
        self._redelivered = Counter[str]()
        self._wrong: list[str] = []
        self.answered = Counter[str]()

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def note_applied(self, timeout_ms: int) -> None:
        """Somebody else has had the trigger made so, before or after whatever was edited."""
        self._unanswered.add(timeout_ms)

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def assert_what_was_answered_is_so(self, delivered: Mapping[str, int]) -> None:
        """`delivered` is how often each event was, by its id; everything has settled."""
        assert self._wrong == []
        too_seldom = {
            event_id: (times, delivered[event_id])
            for event_id, times in self._redelivered.items()
            if delivered[event_id] < 1 + times
        }
        assert too_seldom == {}, "to be delivered again, and were not"
        if self._edited_to:
            is_now = self._product.get(f"triggers/{EDITED}/")["timeout_ms"]
            assert is_now in self._edited_to | self._unanswered, "an edit that was answered is lost"

    def _work(self) -> None:
        while not self._stopping.wait(_PAUSE_SECONDS):
            moves = [self._move] * 2 if self._logs else []
            self._random.choice((self._edit, self._test, *[self._redeliver] * 2, *moves))()

    def _edit(self) -> None:
        self._timeout_ms += 1
        given = {"timeout_ms": self._timeout_ms}
        if self._ask("edit", "PATCH", f"triggers/{EDITED}/", given) is None:
            self._unanswered.add(self._timeout_ms)
        else:
            self._edited_to = {self._timeout_ms}

    def _test(self) -> None:
        self._ask("test", "POST", f"triggers/{self._random.choice(self._triggers)}/test/")

    def _move(self) -> None:
        eventing = {"enabled": True, "db": self._random.choice(self._logs)}
        self._ask("move", "PATCH", "settings/", {"eventing": eventing}, _REFUSALS_OF_A_LOG)

    def _redeliver(self) -> None:
        trigger = self._random.choice(self._triggers)
        path = f"events/?status=delivered&limit=20&trigger={trigger}"
        found = self._ask("look", "GET", path, refusals=_REFUSALS_OF_A_SEARCH)
        if not found or not found["results"]:
            return
        event_id = self._random.choice(found["results"])["id"]
        if self._ask("redelivery", "POST", f"events/{event_id}/redeliver/") is not None:
            self._redelivered[event_id] += 1

    def _ask(
        self,
        what: str,
        method: str,
        path: str,
        body: Any = None,
        refusals: Sequence[int] = _REFUSALS,
    ) -> Any:
        """What is answered; None if web is gone or too slow, or refuses."""
        url = f"{self._product.stack.url}/api/v1/projects/{self._product.name}/{path}"
        try:
            answer = self._session.request(method, url, json=body, timeout=_PATIENCE_SECONDS)
        except requests.RequestException:
            return None
        if answer.ok:
            self.answered[what] += 1
            return answer.json()
        if answer.status_code not in refusals:
            self._wrong.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return None
