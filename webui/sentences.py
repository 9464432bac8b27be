"""What a trigger does and what a filter asks for, in words."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from eventing.backoff import JITTER
from eventing.changes import MISSION_CONTROL
from eventing.definitions import Backoff, TriggerDefinition
from eventing.logs.base import EventFilter
from webui.templatetags.console import duration

_MOST_TRIES: Final = 12
_DONE: Final = {"insert": "inserted", "update": "updated", "delete": "deleted"}


def sentence_of(trigger: TriggerDefinition) -> str:
    """One sentence: which changes, and where they go."""
    done = _listed([_DONE[operation] for operation in trigger.operations], "or")
    tables = _listed(trigger.tables, "or") if trigger.tables else "any table"
    if trigger.databases:
        where = f"of {_listed(trigger.databases, 'or')}"
    else:
        where = "of any database of this project"
    return f"When a row is {done} in {tables} {where}, it is sent to {trigger.url}."


def first_change_of(trigger: TriggerDefinition, types: Mapping[str, str]) -> str:
    """What somebody may do to see an event; `types` are those of the project's databases."""
    if {types.get(alias) for alias in trigger.databases or types} == {MISSION_CONTROL}:
        return "An event comes when something goes wrong with a database or trigger, or is over."
    doing = _listed([operation.capitalize() for operation in trigger.operations], "or")
    tables = _listed(trigger.tables, "or") if trigger.tables else "any table"
    where = _listed(trigger.databases, "or") if trigger.databases else "any database"
    return f"{doing} a row in {tables} of {where}."


def retries_of(retries: int, timeout_ms: int, backoff: Backoff) -> str:
    """One sentence: what happens when an endpoint does not take an event."""
    limit = f"An attempt may take {duration(timeout_ms)}."
    if not retries:
        return f"{limit} One that fails is not tried again."
    waits = [
        duration(int(min(backoff.max_ms, backoff.initial_ms * backoff.factor**number)))
        for number in range(min(retries, 6))
    ]
    more = " and so on" if retries > len(waits) else ""
    times = "once" if retries == 1 else f"up to {retries} times"
    return f"{limit} One that fails is tried again {times}, after about {', '.join(waits)}{more}."


class Try(NamedTuple):
    """One attempt of the timetable: how long after the one before it begins, and how long after the
    first one that is at the latest, if each takes as long as it may."""

    attempt: int
    wait_ms: int
    latest_ms: int


def timetable_of(retries: int, timeout_ms: int, backoff: Backoff) -> list[Try]:
    """When each attempt is made while an endpoint goes on failing; the first dozen of them."""
    tries = [Try(1, 0, 0)]
    latest_ms = 0
    for number in range(min(retries, _MOST_TRIES - 1)):
        wait_ms = int(min(backoff.max_ms, backoff.initial_ms * backoff.factor**number))
        latest_ms += timeout_ms + min(backoff.max_ms, int(wait_ms * (1 + JITTER)))
        tries.append(Try(number + 2, wait_ms, latest_ms))
    return tries


def limits_of(definition: TriggerDefinition) -> str:
    """How events are held back from the endpoint, in a sentence each; empty if nothing is set."""
    sentences = []
    if definition.rate_per_second:
        times = "request begins" if definition.rate_per_second == 1 else "requests begin"
        sentences.append(f"At most {definition.rate_per_second:,} {times} each second.")
    if definition.ordered:
        sentences.append("Events of one row or document are sent one after another.")
    return " ".join(sentences)


def _listed(words: Sequence[str], last: str) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def selection_of(filters: EventFilter) -> list[tuple[str, str | datetime]]:
    """What a filter asks for, as names and values; empty if it asks for everything."""
    tried = None if filters.min_attempts is None else f"{filters.min_attempts} or more"
    named = (
        ("Trigger", filters.trigger),
        ("Status", filters.status),
        ("Database", filters.database),
        ("Table", filters.table),
        ("Operation", filters.operation),
        ("Document id", filters.document_id),
        ("Text of an error", filters.error),
        ("Attempts", tried),
        ("From", filters.after),
        ("Until", filters.before),
    )
    return [(name, value) for name, value in named if value is not None]
