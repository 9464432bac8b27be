"""Every field of a configuration file can be set, seen and changed in the console.

The fields are read from the definitions that files are parsed into, so that a new one without a
place in the forms fails here. Forms are filled in as a browser would: whatever the page has in its
controls is sent, with one of them changed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from html.parser import HTMLParser
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest
from django.test import Client
from django.utils.html import strip_tags

from eventing.definitions import ProjectDefinition
from eventing.models import Project
from eventing.projects import database_definition_of, settings_of, trigger_definition_of
from tests.factories import make_database
from tests.web.conftest import HOOK, SOURCE, Shop


def leaves(definition: Any, path: str = "") -> Iterator[str]:
    """The fields of a definition and of those within it, as dotted paths.

    How a secret was written (`url_reference`, `header_references`) is part of its field.
    """
    hints = get_type_hints(definition)
    for field in fields(definition):
        if field.name.endswith(("_reference", "_references")):
            continue
        inner = [hints[field.name], *get_args(hints[field.name])]
        nested = [each for each in inner if is_dataclass(each)]
        if nested:
            yield from leaves(nested[0], f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}"


class Value(NamedTuple):
    """What is given in a form, and what is stored for it."""

    given: str | list[str]
    stored: Any


@dataclass(frozen=True)
class Place:
    """Where a field stands: the control's name, two values for it, and how the first is seen."""

    control: str
    first: Value
    second: Value
    seen: str = ""


def _number(control: str, first: float, second: float) -> Place:
    return Place(control, Value(str(first), first), Value(str(second), second))


def _word(control: str, first: str, second: str) -> Place:
    return Place(control, Value(first, first), Value(second, second))


PLACES: Mapping[str, Place] = {
    "name": _word("name", "other-shop", "third-shop"),
    "settings.eventing_enabled": Place("enabled", Value("on", True), Value([], False)),
    "settings.eventing_db": _word("db", "logs", "builtin"),
    "settings.retention_events_days": _number("retention_events", 40, 50),
    "settings.retention_payloads_days": _number("retention_payloads", 7, 8),
    "databases.alias": _word("alias", "second", "another"),
    "databases.type": Place("type", Value("mysql", "mysql"), Value("mongodb", "mongodb")),
    "databases.url": Place(
        "url",
        Value("postgresql://u:p@one.example.com:5433/a", "postgresql://u:p@one.example.com:5433/a"),
        Value("postgresql://v:q@two.example.com:5434/b", "postgresql://v:q@two.example.com:5434/b"),
        seen="one.example.com",
    ),
    "databases.schemas": Place(
        "schemas",
        Value("public, billing", ("public", "billing")),
        Value("public", ("public",)),
        seen="public, billing",
    ),
    "triggers.name": _word("name", "first-name", "second-name"),
    "triggers.operations": Place(
        "operations", Value(["update"], ("update",)), Value(["delete"], ("delete",))
    ),
    "triggers.url": _word("url", "https://one.example.com/x", "https://two.example.com/y"),
    "triggers.databases": Place(
        "databases", Value(["main"], ("main",)), Value(["more"], ("more",))
    ),
    "triggers.tables": Place(
        "tables", Value("a, b.*", ("a", "b.*")), Value("c", ("c",)), seen="a, b.*"
    ),
    "triggers.retries": _number("retries", 8, 9),
    "triggers.timeout_ms": _number("timeout_ms", 1234, 4321),
    "triggers.state": _word("state", "paused", "disabled"),
    "triggers.backoff.initial_ms": _number("backoff_initial_ms", 300, 400),
    "triggers.backoff.factor": _number("backoff_factor", 2.5, 3),
    "triggers.backoff.max_ms": _number("backoff_max_ms", 70_000, 80_000),
    "triggers.headers": Place(
        "header_value", Value(["one"], {"X-Field": "one"}), Value(["two"], {"X-Field": "two"})
    ),
    "triggers.format": _word("format", "cloudevents", "cloudevents-batch"),
    "triggers.concurrency": _number("concurrency", 5, 6),
    "triggers.rate_per_second": _number("rate_per_second", 11, 12),
    "triggers.ordered": Place("ordered", Value("on", True), Value([], False)),
}


class _Controls(HTMLParser):
    """The controls of the first form of a page's own, with what a browser would send of them."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, list[str]]] = []
        self._in_main = False
        self._select = ""

    @property
    def found(self) -> dict[str, list[str]]:
        return self.forms[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name") or "", given.get("value") or ""
        self._in_main = self._in_main or tag == "main"
        if not self._in_main:
            return
        if tag == "form":
            self.forms.append({})
        elif tag == "select":
            self._select = name
            self.forms[-1][name] = []
        elif tag == "option" and self._select:
            sent = self.forms[-1][self._select]
            if "selected" in given or not sent:
                sent[:] = [value]
        elif tag == "input" and name:
            sent = self.forms[-1].setdefault(name, [])
            if given.get("type") not in ("checkbox", "radio"):
                sent.append(value)
            elif "checked" in given:
                sent.append(given.get("value") or "on")

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""


def controls(client: Client, address: str) -> dict[str, list[str]]:
    parser = _Controls()
    parser.feed(client.get(address).content.decode())
    return parser.found


def send(client: Client, address: str, change: Mapping[str, Any]) -> None:
    """Change some controls of the form at `address`, each of which must be there, and send it."""
    form = controls(client, address)
    assert set(change) <= set(form), f"{address} has no control for {set(change) - set(form)}"
    answer = client.post(address, form | dict(change))
    assert answer.status_code == 303, answer.content.decode()


def is_seen(client: Client, address: str, place: Place) -> bool:
    """Whether the form at `address` shows the first value of a field."""
    form = controls(client, address)
    if place.seen:
        return any(place.seen in value for values in form.values() for value in values)
    given = place.first.given
    return form[place.control] == (given if isinstance(given, list) else [given])


def test_every_field_has_its_place() -> None:
    assert set(PLACES) == set(leaves(ProjectDefinition))


_OF_SETTINGS = [path for path in PLACES if path.startswith("settings.")]
_OF_DATABASES = [path for path in PLACES if path.startswith("databases.")]
_OF_TRIGGERS = [path for path in PLACES if path.startswith("triggers.")]


@pytest.mark.parametrize("path", _OF_SETTINGS)
def test_a_field_of_the_settings(
    path: str, shop: Shop, admin: Client, source_database: str
) -> None:
    # Events can be stored there: with `builtin` alone there would be nothing to choose.
    make_database(shop.project, source_database, alias="logs")
    place, address = PLACES[path], shop.path("settings/")
    field = path.partition(".")[2]

    def stored() -> Any:
        return getattr(settings_of(Project.objects.get(pk=shop.project.pk)), field)

    send(admin, address, {place.control: place.first.given})
    assert stored() == place.first.stored
    assert is_seen(admin, address, place)
    send(admin, address, {place.control: place.second.given})
    assert stored() == place.second.stored


@pytest.mark.parametrize("path", _OF_DATABASES)
def test_a_field_of_a_database(path: str, shop: Shop, admin: Client) -> None:
    place, field = PLACES[path], path.partition(".")[2]
    needed = {"alias": "given", "host": "db.example.com", "database": "shop", "user": "u"}

    def stored() -> Any:
        newest = shop.project.databases.latest("pk")
        return getattr(database_definition_of(newest), field)

    send(admin, shop.path("databases/add/"), needed | {place.control: place.first.given})
    assert stored() == place.first.stored
    address = shop.path(f"databases/{shop.project.databases.latest('pk').alias}/")
    assert is_seen(admin, address, place)
    send(admin, address, {place.control: place.second.given})
    assert stored() == place.second.stored


@pytest.mark.parametrize("path", _OF_TRIGGERS)
def test_a_field_of_a_trigger(path: str, shop: Shop, admin: Client) -> None:
    make_database(shop.project, SOURCE, alias="more")
    place, field = PLACES[path], path.partition(".")[2]
    needed = {"name": "given", "operations": ["insert"], "url": HOOK}

    def stored() -> Any:
        found: Any = trigger_definition_of(shop.project.triggers.latest("pk"))
        for name in field.split("."):
            found = getattr(found, name)
        return found

    first, second, see = _given_of(place)
    send(admin, shop.path("triggers/add/"), needed | first)
    assert stored() == place.first.stored
    address = shop.path(f"triggers/{shop.project.triggers.latest('pk').name}/edit/")
    assert see(admin, address)
    send(admin, address, second)
    assert stored() == place.second.stored


def _given_of(
    place: Place,
) -> tuple[dict[str, Any], dict[str, Any], Callable[[Client, str], bool]]:
    """What sets a field, what changes it, and whether it is seen."""
    if place.control != "header_value":
        return (
            {place.control: place.first.given},
            {place.control: place.second.given},
            lambda client, address: is_seen(client, address, place),
        )
    # A header's value is never shown again: what is seen is that there is one.
    return (
        {"header_name": ["X-Field"], "header_value": place.first.given},
        {"header:X-Field": "replace", "header_value:X-Field": place.second.given},
        lambda client, address: controls(client, address)["header:X-Field"] == ["keep"],
    )


def test_the_name_of_a_project(shop: Shop, client: Client, django_user_model: Any) -> None:
    client.force_login(django_user_model.objects.create_superuser("root"))
    place = PLACES["name"]
    for given, stored in (place.first, place.second):
        # What it is called is another field, after which a name is made only if none is given.
        send(client, "/projects/add/", {"title": "Another one", place.control: given})
        made = Project.objects.latest("pk")
        assert (made.name, made.title) == (stored, "Another one")
        # As text beside its label: it is part of the page's addresses, too.
        page = client.get(f"/projects/{stored}/settings/").content.decode()
        assert f"Id: {stored}\n" in strip_tags(page)
        # It stays what it was for good, whatever a form sends.
        client.post(f"/projects/{stored}/settings/rename/", {"title": "New", "name": "x"})
        made.refresh_from_db()
        assert (made.name, made.title) == (stored, "New")
