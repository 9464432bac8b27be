"""Between a browser's form and `eventing.definitions`: fields into plain mappings, problems back to
their fields. What is allowed is decided over there; secrets that are stored never get into a form.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import orjson
from django.http import QueryDict
from django.utils import timezone

from eventing.access import Actor
from eventing.changes import DATABASE_TYPES, MISSION_CONTROL, DatabaseType
from eventing.connection_strings import DEFAULT_PORTS, TLS_MODES, ConnectionString
from eventing.definitions import (
    BUILTIN_NAME,
    NO_ADDRESS,
    DatabaseDefinition,
    NotificationDefinition,
    SettingsDefinition,
    TriggerDefinition,
    parse_database,
    parse_settings,
    parse_trigger,
    proposed_alias,
    references_in,
)
from eventing.models import Database, Trigger
from eventing.models.fields import readable
from eventing.problems import InvalidInput, Problem, named

_ADVANCED: Final = frozenset(
    {"retries", "timeout_ms", "state", "headers"}
    | {"format", "concurrency", "rate_per_second", "ordered"}
    | {"backoff_initial_ms", "backoff_factor", "backoff_max_ms"}
)
# Labels that differ from the name of their field.
_WORDS: Final = {
    "databases": "Source (Database)",
    "tables": "Collection / Table name(s)",
    "operations": "Trigger operation",
    "timeout_ms": "Timeout in milliseconds",
    "concurrency": "Requests at once",
    "rate_per_second": "Requests a second",
    "format": "Payload format",
    "backoff_initial_ms": "First wait in milliseconds",
    "backoff_factor": "Factor",
    "backoff_max_ms": "Longest wait in milliseconds",
    "url": "Connection string",
    "variable": "From environment variable",
    "tls": "TLS",
    "db": "Eventing DB",
    "retention_events": "Keep events for",
    "retention_payloads": "Keep payloads for",
}


@dataclass(frozen=True, slots=True)
class Form:
    """What a form shows: the value of each field, and what is wrong with some of them."""

    values: Mapping[str, Any]
    problems: Sequence[Problem] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, str]:
        """One sentence a field, by the field's name in the form."""
        errors: dict[str, str] = {}
        for problem in self.problems:
            errors.setdefault(_field_of(problem), in_words(problem))
        return errors

    @property
    def summary(self) -> list[tuple[str, str, str]]:
        """Each field with a problem: its name, its label, and the sentence."""
        labels = {**_WORDS, **self.labels}
        return [
            (name, labels.get(name, name.capitalize()), sentence)
            for name, sentence in self.errors.items()
        ]

    @property
    def advanced_is_wrong(self) -> bool:
        """Whether a field in the closed part of the trigger form has a problem."""
        return bool(_ADVANCED & self.errors.keys())


def _field_of(problem: Problem) -> str:
    if problem.field.startswith("headers"):
        return "headers"
    return problem.field.replace(".", "_")


def in_words(problem: Problem) -> str:
    """A problem as its field shows it."""
    header = problem.field.removeprefix("headers.") if "headers." in problem.field else ""
    nothing = problem.given in ("nothing", "an empty list", "''")
    given = "Nothing was given" if nothing else f"Got {problem.given}"
    return f"{header + ': ' if header else ''}{given}. Allowed: {problem.allowed}."


def _number(text: str) -> int | float | str:
    """A number if the text is one; the text itself otherwise, for the refusal to quote."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _words(text: str) -> list[str]:
    """Names separated by commas or line ends."""
    return [word.strip() for word in text.replace("\n", ",").split(",") if word.strip()]


# Triggers

_NUMBERS: Final = ("retries", "timeout_ms", "concurrency", "rate_per_second")
_BACKOFF: Final = ("initial_ms", "factor", "max_ms")


@dataclass(frozen=True, slots=True)
class KeptHeader:
    """A header that is stored. `written` is what refers to the environment, never a value; `typed`
    is what is to take its place."""

    name: str
    written: str = ""
    choice: str = "keep"
    typed: str = ""


def new_trigger_form() -> Form:
    """An empty form, with the defaults."""
    return Form(_trigger_values(TriggerDefinition(name="", operations=(), url="")))


def stored_trigger_form(definition: TriggerDefinition) -> Form:
    """The form of a stored trigger."""
    return Form(_trigger_values(definition))


def copied_trigger_form(definition: TriggerDefinition) -> Form:
    """The form of a new trigger that is to be like a stored one; its headers' values stay there."""
    values = _trigger_values(replace(definition, name=f"{definition.name[:58]}-copy"))
    names = [(header.name, header.written) for header in values["kept_headers"]]
    return Form({**values, "kept_headers": [], "new_headers": names})


def _trigger_values(definition: TriggerDefinition) -> dict[str, Any]:
    backoff = definition.backoff
    return {
        "name": definition.name,
        "databases": list(definition.databases),
        "tables": ", ".join(definition.tables),
        "operations": list(definition.operations),
        "url": definition.url,
        "retries": definition.retries,
        "timeout_ms": definition.timeout_ms,
        "concurrency": definition.concurrency,
        "rate_per_second": definition.rate_per_second,
        "ordered": definition.ordered,
        "format": definition.format,
        "state": definition.state,
        "backoff_initial_ms": backoff.initial_ms,
        "backoff_factor": f"{backoff.factor:g}",
        "backoff_max_ms": backoff.max_ms,
        "kept_headers": [
            KeptHeader(name, definition.header_references.get(name, ""))
            for name in definition.headers
        ],
        "new_headers": [],
    }


def given_trigger_form(
    post: QueryDict, problems: Sequence[Problem], stored: TriggerDefinition | None
) -> Form:
    """The form as it was sent, with what is wrong with it."""
    values: dict[str, Any] = {
        name: post.get(name, "")
        for name in (
            "name",
            "tables",
            "url",
            "state",
            "format",
            *_NUMBERS,
            *(f"backoff_{n}" for n in _BACKOFF),
        )
    }
    kept = _trigger_values(stored)["kept_headers"] if stored else []
    values |= {
        "databases": post.getlist("databases"),
        "operations": post.getlist("operations"),
        "ordered": "ordered" in post,
        "kept_headers": [
            replace(
                header,
                choice=post.get(f"header:{header.name}", "keep"),
                typed=post.get(f"header_value:{header.name}", ""),
            )
            for header in kept
        ],
        "new_headers": [*_lost_headers(post, kept), *_new_headers(post)],
    }
    return Form(values, problems, {"name": "Trigger Name", "url": "Webhook URL"})


def _lost_headers(post: QueryDict, kept: Sequence[KeptHeader]) -> list[tuple[str, str]]:
    """Headers that the form says to keep or to replace, and that are not stored any more."""
    said = {name.removeprefix("header:"): post[name] for name in post if name.startswith("header:")}
    stored = {header.name for header in kept}
    return [
        (name, post.get(f"header_value:{name}", "").strip())
        for name, choice in said.items()
        if choice != "remove" and name not in stored
    ]


def trigger_definition(
    post: QueryDict, stored: TriggerDefinition | None, actor: Actor
) -> TriggerDefinition:
    """The trigger that a form describes; kept headers stay as stored. Raises InvalidInput."""
    headers = _written_headers(post, stored)
    actor.refuse_references({f"headers.{name}": value for name, value in headers.items()})
    source: dict[str, Any] = {
        "name": post.get("name", "").strip(),
        "databases": post.getlist("databases"),
        "tables": _words(post.get("tables", "")),
        "operations": post.getlist("operations"),
        "url": post.get("url", "").strip(),
        "headers": headers,
        "backoff": {
            name: _number(post.get(f"backoff_{name}", ""))
            for name in _BACKOFF
            if post.get(f"backoff_{name}", "").strip()
        },
    }
    source |= {name: _number(post.get(name, "")) for name in _NUMBERS if post.get(name, "").strip()}
    source |= {name: post[name] for name in ("state", "format") if post.get(name)}
    source["ordered"] = "ordered" in post
    definition = parse_trigger(source, os.environ)
    if stored is None:
        return definition
    kept = [
        name
        for name in stored.headers
        if post.get(f"header:{name}", "keep") not in ("replace", "remove")
    ]
    return definition.with_headers_of(stored, kept)


def _new_headers(post: QueryDict) -> list[tuple[str, str]]:
    pairs = zip(post.getlist("header_name"), post.getlist("header_value"), strict=False)
    return [(name.strip(), value.strip()) for name, value in pairs if name.strip() or value.strip()]


def _written_headers(post: QueryDict, stored: TriggerDefinition | None) -> dict[str, str]:
    """Headers whose value has been typed: new ones, and those to be replaced."""
    names = list(stored.headers) if stored else []
    headers = {
        name: post.get(f"header_value:{name}", "").strip()
        for name in names
        if post.get(f"header:{name}") == "replace"
    }
    taken = {name.lower() for name in names if post.get(f"header:{name}") != "remove"}
    for name, value in _new_headers(post):
        if name.lower() in taken:
            raise InvalidInput(
                [Problem(f"headers.{named(name)}", "this name twice", "one value a header")]
            )
        taken.add(name.lower())
        headers[name] = value
    return headers


def header_names(trigger: Trigger) -> list[str]:
    """The names of a trigger's extra headers; their values are nobody's business."""
    return list(orjson.loads(readable(trigger, "headers") or "{}"))


# Databases

_FIELDS: Final = ("host", "port", "database", "user", "tls")


def place_of(database: Database) -> str:
    """Where a database is, without who signs in there: `host:port/database`; empty for what has no
    address."""
    url = readable(database, "url")
    return ConnectionString.parse(database.type, url).place  # type: ignore[arg-type]


def new_database_form() -> Form:
    """An empty form."""
    return Form({"alias": "", "type": "postgres", "port": DEFAULT_PORTS["postgres"], "schemas": ""})


def stored_database_form(stored: DatabaseDefinition) -> Form:
    """The form of a stored database: everything of its address but the password."""
    address = ConnectionString.parse(stored.type, stored.url)
    return Form(
        {
            "alias": stored.alias,
            "type": stored.type,
            "schemas": ", ".join(stored.schemas or ()),
            **{name: getattr(address, name) for name in _FIELDS},
        }
    )


def given_database_form(post: QueryDict, problems: Sequence[Problem]) -> Form:
    """The form as it was sent, what was typed as a secret included, so that it can be corrected."""
    names = ("alias", "type", "url", "variable", "password", "schemas", *_FIELDS)
    return Form({name: post.get(name, "") for name in names}, problems)


def database_definition(
    post: QueryDict, stored: DatabaseDefinition | None, actor: Actor
) -> DatabaseDefinition:
    """The database that a form describes. Raises InvalidInput."""
    variable = post.get("variable", "").strip()
    if not variable:
        return _database_at(post.get("url", "").strip(), post, stored, actor)
    url = variable if variable.startswith("${") else f"${{{variable}}}"
    if references_in(url) != [url[2:-1]]:
        # It may well be a connection string.
        problem = Problem("variable", "something else", "the name of a variable: SHOP_DB_URL")
        raise InvalidInput([problem])
    try:
        return _database_at(url, post, stored, actor)
    except InvalidInput as error:
        told = [
            replace(problem, field="variable") if problem.field == "url" else problem
            for problem in error.problems
        ]
        raise InvalidInput(told) from None


def _database_at(
    url: str, post: QueryDict, stored: DatabaseDefinition | None, actor: Actor
) -> DatabaseDefinition:
    """The same, at a connection string; blank: where the fields say."""
    # What is no type is refused below; until then any will do.
    type = post.get("type", "")
    type = type if type in DATABASE_TYPES else "postgres"
    source: dict[str, Any] = {
        "alias": post.get("alias", "").strip(),
        "type": post.get("type", "postgres"),
        "url": url,
    }
    if schemas := _words(post.get("schemas", "")):
        source["schemas"] = schemas
    problems: list[Problem] = []
    keep = False
    if type == MISSION_CONTROL:
        problems = _needless_fields(post)
    elif not source["url"]:
        source["url"], keep, problems = _address_from_fields(post, type, stored)
    if stored is None and not source["alias"]:
        source["alias"] = _alias_proposed(type, source["url"])
    actor.refuse_references({"url": source["url"]})
    try:
        definition = parse_database(source, os.environ)
    except InvalidInput as error:
        # What is wrong with the fields says it better than what is wrong with their sum.
        # So does what an alias would be made of.
        follows = {"url", "alias"} if not source["alias"] and stored is None else {"url"}
        others = [each for each in error.problems if each.field not in follows or not problems]
        raise InvalidInput([*problems, *others]) from None
    if problems:
        raise InvalidInput(problems)
    actor.refuse_local_parts(definition, stored.url if stored else "")
    if keep and stored is not None:
        return definition.at_address_of(stored)
    return definition


def _alias_proposed(type: DatabaseType, url: str) -> str:
    """An alias after the name of the database; none from an address that is read elsewhere."""
    if type == MISSION_CONTROL:
        return MISSION_CONTROL
    if references_in(url):
        return ""
    try:
        return proposed_alias(ConnectionString.parse(type, url).database)
    except ValueError:
        return ""


def _needless_fields(post: QueryDict) -> list[Problem]:
    """What was typed of an address where there is none; what a form begins with does not count."""
    return [
        Problem(name, "something", NO_ADDRESS)
        for name in ("host", "database", "user", "password")
        if post.get(name, "").strip()
    ]


def _address_from_fields(
    post: QueryDict, type: DatabaseType, stored: DatabaseDefinition | None
) -> tuple[str, bool, list[Problem]]:
    """The address that the fields make, whether it is the stored one, and what is wrong."""
    given = {name: post.get(name, "").strip() for name in _FIELDS}
    password = post.get("password", "")
    if stored is not None and stored.type != type:
        stored = None
    old = ConnectionString.parse(type, stored.url) if stored else ConnectionString(type)
    if stored and not password and all(given[name] == getattr(old, name) for name in _FIELDS):
        return old.url, True, []
    problems = _problems_of_fields(type, given)
    moved = (given["host"], given["port"]) != (old.host, old.port)
    if not password and old.password:
        if moved:
            # Else whoever may edit could have the stored password sent to a host of their choice.
            problems.append(
                Problem("password", "nothing", "the password; host or port is another one")
            )
        password = old.password
    address = ConnectionString(type, old.scheme, **given, password=password, options=old.options)
    return address.url, False, problems


def _problems_of_fields(type: DatabaseType, given: Mapping[str, str]) -> list[Problem]:
    problems = []
    host = given["host"]
    if not host or any(character in host for character in "/@?# \t"):
        allowed = "a host name or an IP address, or a connection string below"
        problems.append(Problem("host", repr(host[:80]) if host else "nothing", allowed))
    elif "," in host and type != "mongodb":
        problems.append(Problem("host", repr(host[:80]), "one host: only MongoDB takes several"))
    elif "," in host and given["port"]:
        allowed = "nothing: with several hosts, each has its port behind it"
        problems.append(Problem("port", repr(given["port"][:80]), allowed))
    if given["port"] and not _is_port(given["port"]):
        allowed = "a whole number from 1 to 65535"
        problems.append(Problem("port", repr(given["port"][:80]), allowed))
    if not given["database"]:
        problems.append(Problem("database", "nothing", "the name of the database"))
    if given["tls"] and given["tls"] not in TLS_MODES[type]:
        allowed = f"for this type one of {', '.join(TLS_MODES[type])}"
        problems.append(Problem("tls", repr(given["tls"][:80]), allowed))
    return problems


def _is_port(text: str) -> bool:
    # No number is made of text without end.
    return len(text) < 6 and text.isascii() and text.isdigit() and 0 < int(text) < 65536


# Settings, their members and tokens

# What a viewer without payloads is among the roles of a form.
ROWLESS_VIEWER: Final = "viewer-without-payloads"
MEMBER_ROLES: Final = (
    ("viewer", "viewer"),
    (ROWLESS_VIEWER, "viewer, no payloads"),
    ("editor", "editor"),
    ("admin", "admin"),
)


def given_member(post: QueryDict) -> dict[str, Any]:
    """The form of a member as it was sent."""
    return {
        "user": post.get("user", "").strip(),
        "role": post.get("role", ""),
        "new_user": "new_user" in post,
    }


def member_source(given: Mapping[str, Any]) -> dict[str, Any]:
    """A member as the form describes them, where to be kept from payloads is a role."""
    if given["role"] == ROWLESS_VIEWER:
        return {**given, "role": "viewer", "payloads": False}
    return dict(given)


def given_token(post: QueryDict) -> dict[str, str]:
    """The form of a new token as it was sent."""
    return {name: post.get(name, "").strip() for name in ("name", "role", "expires_at")}


def token_source(post: QueryDict) -> dict[str, str]:
    """A token as the form describes it, whose life is a number of days."""
    given = given_token(post)
    days = given["expires_at"]
    if days.isascii() and days.isdigit() and len(days) < 5:
        given["expires_at"] = (timezone.now() + timedelta(days=int(days))).isoformat()
    return {name: value for name, value in given.items() if value or name != "expires_at"}


def new_notification_form() -> Form:
    """An empty form, with the defaults."""
    return notification_form(NotificationDefinition(name="", url=""))


def notification_form(stored: NotificationDefinition) -> Form:
    """The form of a notification: all of it but its address."""
    return Form(
        {
            "name": stored.name,
            "kinds": list(stored.kinds),
            "repeat_hours": stored.repeat_hours,
            "lag_seconds": stored.lag_seconds,
        }
    )


def given_notification(post: QueryDict) -> dict[str, Any]:
    """A notification as the form describes it; what is blank gets its default."""
    given: dict[str, Any] = {name: post.get(name, "").strip() for name in ("name", "url")}
    numbers = {name: post.get(name, "").strip() for name in ("repeat_hours", "lag_seconds")}
    given |= {name: _number(text) for name, text in numbers.items() if text}
    return {**given, "kinds": post.getlist("kinds")}


def stored_settings_form(settings: SettingsDefinition) -> Form:
    """The form of the settings in force."""
    return Form(
        {
            "enabled": settings.eventing_enabled,
            "db": settings.eventing_db,
            "retention_events": settings.retention_events_days,
            "retention_payloads": settings.retention_payloads_days,
        }
    )


def settings_definition(post: QueryDict) -> SettingsDefinition:
    """The settings that a form describes. Raises InvalidInput."""
    retention = {
        name: _number(post.get(f"retention_{name}", ""))
        for name in ("events", "payloads")
        if post.get(f"retention_{name}", "").strip()
    }
    eventing = {"enabled": "enabled" in post, "db": post.get("db", BUILTIN_NAME)}
    return parse_settings({"eventing": eventing, "retention": retention})


def given_settings_form(post: QueryDict, problems: Sequence[Problem]) -> Form:
    """The form as it was sent, with what is wrong with it."""
    return Form(
        {
            "enabled": "enabled" in post,
            "db": post.get("db", ""),
            "retention_events": post.get("retention_events", ""),
            "retention_payloads": post.get("retention_payloads", ""),
        },
        [replace(problem, field=problem.field.removeprefix("eventing.")) for problem in problems],
    )
