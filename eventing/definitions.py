"""What a person may write about a project and what belongs to it, and what of that is allowed.

Console forms, REST and YAML all hand plain mappings to the `parse_*` functions below, so a rule
exists once. A parser returns a frozen definition or raises InvalidInput with every problem found.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, cast
from urllib.parse import urlsplit

from eventing.changes import (
    DATABASE_TYPES,
    MISSION_CONTROL,
    OPERATIONS,
    TYPES_WITH_SCHEMAS,
    DatabaseType,
    Operation,
)
from eventing.connection_strings import SCHEMES, TLS_MODES, TLS_OPTIONS, ConnectionString
from eventing.parameters import utc_of
from eventing.problems import InvalidInput, Parsed, Problem, named, parsed, shown

TriggerState = Literal["active", "paused", "disabled"]
TRIGGER_STATES: Final[tuple[TriggerState, ...]] = ("active", "paused", "disabled")

PayloadFormat = Literal["spacecloud", "cloudevents", "cloudevents-binary", "cloudevents-batch"]
FORMATS: Final[tuple[PayloadFormat, ...]] = (
    "spacecloud",
    "cloudevents",
    "cloudevents-binary",
    "cloudevents-batch",
)

# From the least to the most that a member may do.
Role = Literal["viewer", "editor", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "editor", "admin")

TroubleKind = Literal["source_blocked", "source_lag", "breaker_open", "trigger_failing"]
TROUBLE_KINDS: Final[tuple[TroubleKind, ...]] = (
    "source_blocked",
    "source_lag",
    "breaker_open",
    "trigger_failing",
)

# Names the Eventing DB in the control database, where others go by an alias.
BUILTIN_NAME: Final = "builtin"


class Range(NamedTuple):
    """The whole numbers that are allowed, or for a factor all numbers; both ends included."""

    least: int
    most: int


# What the OpenAPI description states, too.
PROJECT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
LONGEST_LABEL: Final = 63
LABEL: Final = re.compile(rf"[^\x00-\x1f\x7f]{{0,{LONGEST_LABEL}}}")
ADDRESS: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,2000}")
DAYS: Final = re.compile(r"([1-9][0-9]{0,4})d?")
MOST_DAYS: Final = 36_500
LONGEST_USER_NAME: Final = 150
# The longest table, schema or alias in a list, in characters.
LONGEST_ENTRY: Final = 255
LONGEST_URL: Final = 2000
MOST_HEADERS: Final = 50
LONGEST_HEADER_VALUE: Final = 8000
RETRIES: Final = Range(0, 100)
TIMEOUT_MS: Final = Range(1, 600_000)
CONCURRENCY: Final = Range(1, 10_000)
RATE_PER_SECOND: Final = Range(0, 1_000_000)
INITIAL_MS: Final = Range(1, 86_400_000)
FACTOR: Final = Range(1, 100)
MAX_MS: Final = Range(1, 604_800_000)
REPEAT_HOURS: Final = Range(1, 720)
LAG_SECONDS: Final = Range(10, 604_800)

_OPTION: Final = re.compile(r"[a-z_]{1,40}")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PROJECT_NAME_ALLOWED: Final = "1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit"
_NAME_ALLOWED: Final = (
    "1 to 63 of a-z, A-Z, 0-9, '-', '_' and '.', beginning with a letter or digit"
)
_LABEL_ALLOWED: Final = f"at most {LONGEST_LABEL} characters on one line"
_ADDRESS_ALLOWED: Final = "the address of a webhook, or one that begins with mailtos:// or the like"
_USER_NAME: Final = re.compile(rf"[\w.@+-]{{1,{LONGEST_USER_NAME}}}")
_USER_NAME_ALLOWED: Final = "1 to 150 letters, digits and `@`, `.`, `+`, `-`, `_`"
_MOMENT_ALLOWED: Final = "an ISO 8601 time such as 2026-01-31T12:00:00Z"
_RESERVED_HEADERS: Final = frozenset(
    {"content-length", "content-type", "host", "transfer-encoding", "connection"}
    | {"webhook-id", "webhook-timestamp", "webhook-signature", "expect", "te", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure: initial × factor^(n−1), at most `max_ms`."""

    initial_ms: int = 2000
    factor: float = 4
    max_ms: int = 3_600_000


# What is allowed as the address of a database of type `mission-control`.
NO_ADDRESS: Final = "nothing: Mission Control itself is the source, and has no address"


@dataclass(frozen=True, slots=True)
class DatabaseDefinition:
    """A source as a person describes it. `url` is resolved, `url_reference` as it was written.

    Of type `mission-control` it has no `url`.
    """

    alias: str
    type: DatabaseType
    url: str = field(repr=False)
    url_reference: str = ""
    schemas: tuple[str, ...] | None = None

    def at_address_of(self, stored: "DatabaseDefinition") -> "DatabaseDefinition":
        """The same database at the address of another definition, which stays as it was written."""
        return replace(self, url=stored.url, url_reference=stored.url_reference)


@dataclass(frozen=True, slots=True)
class TriggerDefinition:
    """A trigger as a person describes it. Empty `databases` or `tables` mean all of them."""

    name: str
    operations: tuple[Operation, ...]
    url: str
    databases: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    retries: int = 3
    timeout_ms: int = 5000
    state: TriggerState = "active"
    backoff: Backoff = Backoff()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    header_references: Mapping[str, str] = field(default_factory=dict)
    format: PayloadFormat = "spacecloud"
    concurrency: int = 64
    rate_per_second: int = 0
    ordered: bool = False

    def with_headers_of(
        self, stored: "TriggerDefinition", names: Collection[str]
    ) -> "TriggerDefinition":
        """The same trigger with headers of another definition in front of its own; what was written
        as a reference to the environment stays one."""
        kept = {name: stored.headers[name] for name in names}
        written = stored.header_references
        references = {name: written[name] for name in names if name in written}
        return replace(
            self,
            headers={**kept, **self.headers},
            header_references={**references, **self.header_references},
        )


@dataclass(frozen=True, slots=True)
class SettingsDefinition:
    """A project's settings. `eventing_db` is `builtin` or an alias of the project."""

    eventing_enabled: bool = False
    eventing_db: str = BUILTIN_NAME
    retention_events_days: int = 30
    retention_payloads_days: int = 30


DEFAULT_SETTINGS: Final = SettingsDefinition()


@dataclass(frozen=True, slots=True)
class MemberDefinition:
    """A member as a person describes them; `new_user`: one who is yet to be made.

    `payloads`: whether they see what rows contain, which only a viewer may be kept from.
    """

    user: str
    role: Role
    payloads: bool = True
    new_user: bool = False


@dataclass(frozen=True, slots=True)
class TokenDefinition:
    """An API token as a person describes it. `expires_at` is None for one that never does."""

    role: Role
    name: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NotificationDefinition:
    """Where to tell of trouble, and of which; `url` is a secret.

    `repeat_hours`: how long until it is told again while it lasts. `lag_seconds`: how old the last
    change read has to be for `source_lag`.
    """

    name: str
    url: str = field(repr=False)
    kinds: tuple[TroubleKind, ...] = TROUBLE_KINDS
    repeat_hours: int = 24
    lag_seconds: int = 300


@dataclass(frozen=True, slots=True)
class ProjectDefinition:
    """A whole project as a configuration file describes it."""

    name: str
    settings: SettingsDefinition
    databases: tuple[DatabaseDefinition, ...]
    triggers: tuple[TriggerDefinition, ...]


class _Reader:
    """Takes fields out of a mapping one by one and notes what is wrong with them."""

    def __init__(self, source: object, path: str, environment: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._environment = environment
        self._left: dict[str, Any] = {}
        self._known: list[str] = []
        if isinstance(source, Mapping):
            self._left = dict(source)
        else:
            self.problems.append(
                Problem(path or "input", shown(source), "a mapping of names to values")
            )

    def path_of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def refuse(self, name: str, given: object, allowed: str) -> None:
        self.problems.append(Problem(self.path_of(name), shown(given), allowed))

    def reject(self, name: str, what: str, allowed: str) -> None:
        """Refuse without showing what was given: it may be a secret, or say nothing."""
        self.problems.append(Problem(self.path_of(name), what, allowed))

    def has(self, name: str) -> bool:
        """Whether a field that may be left out is there."""
        self._known.append(name)
        return name in self._left

    def raw(self, name: str, default: object = None) -> Any:
        self._known.append(name)
        value = self._left.pop(name, None)
        return default if value is None else value

    def text(
        self, name: str, pattern: re.Pattern[str], allowed: str, default: str | None = None
    ) -> str:
        value = self.raw(name, default)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.refuse(name, value, allowed)
        return ""

    def number(self, name: str, default: int, among: Range) -> int:
        value = self.raw(name, default)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if is_whole and among.least <= value <= among.most:
            return cast(int, value)
        self.refuse(name, value, f"a whole number from {among.least} to {among.most}")
        return default

    def factor(self, name: str, default: float, among: Range) -> float:
        value = self.raw(name, default)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if numeric and among.least <= value <= among.most:
            return float(value)
        self.refuse(name, value, f"a number from {among.least} to {among.most}")
        return default

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw(name, default)
        if isinstance(value, bool):
            return value
        self.refuse(name, value, "true or false")
        return default

    def choice(self, name: str, allowed: Sequence[str], default: str | None) -> str:
        value = self.raw(name, default)
        if isinstance(value, str) and value in allowed:
            return value
        self.refuse(name, value, "one of " + ", ".join(allowed))
        return allowed[0]

    def texts(self, name: str, allowed: str, choices: Sequence[str] = ()) -> tuple[str, ...]:
        """A list; blank means an empty one. With `choices`, one or more of those."""
        value = self.raw(name, [])
        if value == "":
            value = []
        plain = isinstance(value, list | tuple) and all(
            isinstance(item, str) and item.strip() and _can_be_stored(item) for item in value
        )
        if plain and all(len(item) <= LONGEST_ENTRY for item in value):
            texts = tuple(dict.fromkeys(item.strip() for item in value))
            if not choices or (texts and set(texts) <= set(choices)):
                return texts
        self.refuse(name, value, allowed)
        return ()

    def days(self, name: str, default: int) -> int:
        value = self.raw(name, default)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        written = str(value) if is_number else value
        match = DAYS.fullmatch(written) if isinstance(written, str) else None
        if match and int(match[1]) <= MOST_DAYS:
            return int(match[1])
        self.refuse(name, value, f"a whole number of days from 1 to {MOST_DAYS}, such as 30 or 30d")
        return default

    def moment(self, name: str) -> datetime | None:
        """An ISO 8601 time; one without a zone is UTC."""
        value = self.raw(name)
        if value is None:
            return None
        try:
            return utc_of(value)
        except (TypeError, ValueError, OverflowError):
            self.refuse(name, value, _MOMENT_ALLOWED)
            return None

    def resolved(self, name: str, written: str) -> str:
        """`written` with each ${NAME} replaced from the environment."""

        def value_of(match: re.Match[str]) -> str:
            value = self._environment.get(match[1])
            if value is None:
                self.reject(
                    name,
                    "${" + match[1] + "}",
                    f"a variable of the environment; {match[1]} is unset",
                )
            return value or ""

        return _REFERENCE.sub(value_of, written)

    def finish(self) -> None:
        """Refuse whatever field has not been asked for."""
        for name in self._left:
            known = ", ".join(dict.fromkeys(self._known))
            self.reject(named(name), "an unknown field", f"only {known}")


def _can_be_stored(text: str) -> bool:
    """Whether a database takes `text`: no NUL, and no half of a surrogate pair."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def references_in(written: str) -> list[str]:
    """The names of the environment variables that `written` refers to."""
    return _REFERENCE.findall(written)


def _all_problems(reader: _Reader, *more: Sequence[Problem]) -> list[Problem]:
    return [*reader.problems, *(problem for problems in more for problem in problems)]


def parse_project_name(value: object, path: str = "name") -> str:
    """A project's name, checked."""
    if isinstance(value, str) and PROJECT_NAME.fullmatch(value):
        return value
    raise InvalidInput([Problem(path, shown(value), _PROJECT_NAME_ALLOWED)])


def parse_project_title(value: object) -> str:
    """What a project is called on pages, checked; empty for one that is called by its name."""
    if isinstance(value, str) and LABEL.fullmatch(value) and _can_be_stored(value):
        return value.strip()
    raise InvalidInput([Problem("title", shown(value), _LABEL_ALLOWED)])


def proposed_project_name(title: str) -> str:
    """The name that a project with such a title would get; empty if nothing of it can be used."""
    plain = unicodedata.normalize("NFKD", title.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63]


def proposed_alias(database: str) -> str:
    """The alias that a database of this name would get; empty if nothing of it can be used."""
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9_.-]", "-", database))[:63]


def parse_database(
    source: object, environment: Mapping[str, str], path: str = ""
) -> DatabaseDefinition:
    """A database from `{alias, type, url, schemas}`."""
    reader = _Reader(source, path, environment)
    alias = reader.text("alias", NAME, _NAME_ALLOWED)
    if alias == BUILTIN_NAME:
        allowed = f"any name but `{BUILTIN_NAME}`, which is the built-in Eventing DB"
        reader.refuse("alias", alias, allowed)
    kind = cast(DatabaseType, reader.choice("type", DATABASE_TYPES, None))
    written = reader.raw("url", "")
    if not isinstance(written, str) or not _can_be_stored(written):
        reader.reject("url", "what was given", "text")
        written = ""
    url = reader.resolved("url", written)
    if kind == MISSION_CONTROL:
        if written:
            reader.reject("url", "what was given", NO_ADDRESS)
    elif not reader.problems:
        _check_database_url(reader, kind, url)
    schemas: tuple[str, ...] | None = None
    if reader.has("schemas"):
        schemas = reader.texts("schemas", "a list of schema names") or None
        if schemas and kind not in TYPES_WITH_SCHEMAS:
            reader.refuse("schemas", list(schemas), "nothing: only Postgres has schemas")
    reader.finish()
    if reader.problems:
        raise InvalidInput(reader.problems)
    reference = written if references_in(written) else ""
    return DatabaseDefinition(alias, kind, url, reference, schemas)


def _check_database_url(reader: _Reader, kind: DatabaseType, url: str) -> None:
    """Refuse an address that no driver could use; it is a secret, so it is never shown."""
    schemes = SCHEMES[kind]
    allowed = f"{schemes[0]}://USER:PASSWORD@HOST:PORT/DATABASE"
    try:
        address = ConnectionString.parse(kind, url)
    except ValueError:
        reader.reject("url", "what was given", allowed)
        return
    if any(character < " " or character == "\x7f" for character in url + address.spoken):
        # Such an address could speak to whatever else listens at its port.
        reader.reject("url", "an address with control characters", allowed)
    elif "#" in url or "\x00" in address.password:
        reader.reject("url", "an address with `#` or NUL in it", "`%23` for a `#`")
    elif address.scheme not in schemes:
        given = f"the scheme {address.scheme!r}" if address.scheme else "an address without scheme"
        reader.reject("url", given, allowed)
    elif not address.database:
        reader.reject("url", "an address without database name", allowed)
    elif kind == "mongodb" and not address.host:
        reader.reject("url", "an address without host", allowed)
    elif address.unknown_options:
        name = address.unknown_options[0]
        # A part of a password that is not encoded may be taken for an option.
        given = f"the option {name!r}" if _OPTION.fullmatch(name) else "an option"
        reader.reject("url", given, f"the options of docs/guides/{kind}.md")
    elif address.has_unknown_tls:
        words = ", ".join(TLS_MODES[kind])
        reader.reject("url", f"another word for {TLS_OPTIONS[kind]}", f"one of {words}")


def parse_trigger(
    source: object, environment: Mapping[str, str], path: str = ""
) -> TriggerDefinition:
    """A trigger from the mapping of contract section 6."""
    reader = _Reader(source, path, environment)
    name = reader.text("name", NAME, _NAME_ALLOWED)
    databases = reader.texts("databases", "a list of database aliases")
    tables = reader.texts("tables", "a list of table names, `*` matching any part of one")
    some = "a list of one or more of " + ", ".join(OPERATIONS)
    operations = reader.texts("operations", some, OPERATIONS)
    url = reader.raw("url", "")
    _check_webhook_url(reader, url)
    definition = {
        "retries": reader.number("retries", 3, RETRIES),
        "timeout_ms": reader.number("timeout_ms", 5000, TIMEOUT_MS),
        "state": reader.choice("state", TRIGGER_STATES, "active"),
        "format": reader.choice("format", FORMATS, "spacecloud"),
        "concurrency": reader.number("concurrency", 64, CONCURRENCY),
        "rate_per_second": reader.number("rate_per_second", 0, RATE_PER_SECOND),
        "ordered": reader.flag("ordered", False),
    }
    headers, references = _parse_headers(reader)
    backoff, backoff_problems = _parse_backoff(reader)
    reader.finish()
    problems = _all_problems(reader, backoff_problems)
    if problems:
        raise InvalidInput(problems)
    return TriggerDefinition(
        name=name,
        databases=databases,
        tables=tables,
        operations=tuple(item for item in OPERATIONS if item in operations),
        url=url,
        headers=headers,
        header_references=references,
        backoff=backoff,
        **cast(Any, definition),
    )


def _check_webhook_url(reader: _Reader, url: object) -> None:
    allowed = "an address that begins with http:// or https:// and names a host"
    if not isinstance(url, str) or not url:
        reader.refuse("url", url, allowed)
    elif not _is_http_address(url):
        # What stands before an `@` may be a password.
        given = "an address that cannot be used" if "@" in url else shown(url)
        reader.reject("url", given, allowed)
    elif urlsplit(url).username or urlsplit(url).password:
        reader.reject(
            "url",
            "an address with a user name or password",
            "credentials in a header such as Authorization",
        )


def _is_http_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return (
        len(url) <= LONGEST_URL
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not any(character <= " " or character == "\x7f" for character in url)
        and _can_be_stored(url)
    )


def _parse_headers(reader: _Reader) -> tuple[dict[str, str], dict[str, str]]:
    """Resolved header values, and what was written for those that refer to the environment."""
    written = reader.raw("headers", {})
    allowed = f"a mapping of at most {MOST_HEADERS} header names to values"
    if not isinstance(written, Mapping) or len(written) > MOST_HEADERS:
        reader.reject("headers", "what was given", allowed)
        return {}, {}
    values: dict[str, str] = {}
    references: dict[str, str] = {}
    for name, value in written.items():
        place = f"headers.{name}"
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name) or len(name) > 100:
            reader.refuse("headers", name, "a header name of letters, digits and hyphens")
        elif name.lower() in _RESERVED_HEADERS:
            reader.reject(place, "this header", "it is set by Mission Control")
        elif not isinstance(value, str) or any(c in value for c in "\r\n"):
            reader.reject(place, "what was given", "text on one line")
        elif not _can_be_stored(value):
            reader.reject(place, "what was given", "text without NUL and unpaired surrogates")
        elif len(value) > LONGEST_HEADER_VALUE:
            reader.reject(place, "what was given", f"at most {LONGEST_HEADER_VALUE} characters")
        else:
            values[name] = reader.resolved(place, value)
            if references_in(value):
                references[name] = value
            if not _is_header_value(values[name]):
                # What the environment holds is not shown.
                reader.reject(place, "a reference to another text", "one line of text without NUL")
    return values, references


def _is_header_value(text: str) -> bool:
    return "\r" not in text and "\n" not in text and _can_be_stored(text)


def _parse_backoff(reader: _Reader) -> tuple[Backoff, list[Problem]]:
    inner = _Reader(reader.raw("backoff", {}), reader.path_of("backoff"), {})
    backoff = Backoff(
        initial_ms=inner.number("initial_ms", 2000, INITIAL_MS),
        factor=inner.factor("factor", 4, FACTOR),
        max_ms=inner.number("max_ms", 3_600_000, MAX_MS),
    )
    inner.finish()
    return backoff, inner.problems


def parse_settings(
    source: object, path: str = "", unsaid: SettingsDefinition = DEFAULT_SETTINGS
) -> SettingsDefinition:
    """A project's settings from `{eventing: {enabled, db}, retention: {events, payloads}}`; what is
    left out is as in `unsaid`."""
    reader = _Reader(source, path, {})
    eventing = _Reader(reader.raw("eventing", {}), reader.path_of("eventing"), {})
    retention = _Reader(reader.raw("retention", {}), reader.path_of("retention"), {})
    settings = SettingsDefinition(
        eventing_enabled=eventing.flag("enabled", unsaid.eventing_enabled),
        eventing_db=eventing.text(
            "db", NAME, f"`{BUILTIN_NAME}` or a database's alias", unsaid.eventing_db
        ),
        retention_events_days=retention.days("events", unsaid.retention_events_days),
        retention_payloads_days=retention.days("payloads", unsaid.retention_payloads_days),
    )
    if settings.retention_payloads_days > settings.retention_events_days:
        retention.refuse(
            "payloads",
            f"{settings.retention_payloads_days}d",
            f"at most as long as events ({settings.retention_events_days}d)",
        )
    for part in (reader, eventing, retention):
        part.finish()
    problems = _all_problems(reader, eventing.problems, retention.problems)
    if problems:
        raise InvalidInput(problems)
    return settings


def parse_member(source: object) -> MemberDefinition:
    """A member from `{user, role, payloads, new_user}`."""
    reader = _Reader(source, "", {})
    definition = MemberDefinition(
        user=reader.text("user", _USER_NAME, _USER_NAME_ALLOWED),
        role=cast(Role, reader.choice("role", ROLES, None)),
        payloads=reader.flag("payloads", True),
        new_user=reader.flag("new_user", False),
    )
    if definition.role != "viewer" and not definition.payloads and not reader.problems:
        allowed = f"true with the role {definition.role}; only a viewer can be kept from them"
        reader.refuse("payloads", False, allowed)
    reader.finish()
    if reader.problems:
        raise InvalidInput(reader.problems)
    return definition


def parse_token(source: object) -> TokenDefinition:
    """An API token from `{role, name, expires_at}`."""
    reader = _Reader(source, "", {})
    definition = TokenDefinition(
        role=cast(Role, reader.choice("role", ROLES, None)),
        name=reader.text("name", LABEL, _LABEL_ALLOWED, "").strip(),
        expires_at=reader.moment("expires_at"),
    )
    reader.finish()
    if reader.problems:
        raise InvalidInput(reader.problems)
    return definition


def parse_notification(
    source: object, stored: NotificationDefinition | None = None
) -> NotificationDefinition:
    """A notification from `{name, url, kinds, repeat_hours, lag_seconds}`.

    The address is never part of a message. A blank one stands for that of `stored`.
    """
    reader = _Reader(source, "", {})
    url = reader.raw("url", "") or (stored.url if stored else "")
    if not (isinstance(url, str) and ADDRESS.fullmatch(url)):
        reader.reject("url", "another address" if url else "nothing", _ADDRESS_ALLOWED)
    kinds = reader.raw("kinds", list(TROUBLE_KINDS))
    if not (isinstance(kinds, list | tuple) and kinds and set(map(str, kinds)) <= {*TROUBLE_KINDS}):
        reader.refuse("kinds", kinds, "one or more of " + ", ".join(TROUBLE_KINDS))
        kinds = []
    definition = NotificationDefinition(
        name=reader.text("name", NAME, _NAME_ALLOWED),
        url=url,
        kinds=tuple(kind for kind in TROUBLE_KINDS if kind in kinds),
        repeat_hours=reader.number("repeat_hours", 24, REPEAT_HOURS),
        lag_seconds=reader.number("lag_seconds", 300, LAG_SECONDS),
    )
    reader.finish()
    if reader.problems:
        raise InvalidInput(reader.problems)
    return definition


def parse_project(
    source: object,
    environment: Mapping[str, str],
    path: str = "",
    unsaid: SettingsDefinition = DEFAULT_SETTINGS,
) -> ProjectDefinition:
    """A whole project from the mapping of contract section 6, cross-references checked; its
    settings are as in `unsaid` where it says nothing of them."""
    reader = _Reader(source, path, environment)
    problems: list[Problem] = []
    name = parsed(problems, parse_project_name, reader.raw("name"), reader.path_of("name"))
    wanted = {key: reader.raw(key, {}) for key in ("eventing", "retention")}
    settings = parsed(problems, parse_settings, wanted, path, unsaid)
    databases = _parse_each(reader, "databases", parse_database, environment, problems)
    triggers = _parse_each(reader, "triggers", parse_trigger, environment, problems)
    reader.finish()
    problems += reader.problems
    problems += _duplicates(databases, "alias") + _duplicates(triggers, "name")
    if not any(problem.field.startswith(reader.path_of("databases")) for problem in problems):
        problems += _unknown_databases(triggers, databases)
    if problems or name is None or settings is None:
        raise InvalidInput(problems)
    return ProjectDefinition(
        name, settings, tuple(each for _, each in databases), tuple(each for _, each in triggers)
    )


def _parse_each(
    reader: _Reader,
    kind: str,
    parse: Callable[[object, Mapping[str, str], str], Parsed],
    environment: Mapping[str, str],
    problems: list[Problem],
) -> list[tuple[str, Parsed]]:
    """The definitions of a list named `kind`, each with its path; `problems` gets what is wrong."""
    entries = reader.raw(kind, [])
    if not isinstance(entries, list):
        reader.refuse(kind, entries, "a list")
        return []
    found = []
    for index, entry in enumerate(entries):
        path = f"{reader.path_of(kind)}[{index}]"
        definition = parsed(problems, parse, entry, environment, path)
        if definition is not None:
            found.append((path, definition))
    return found


def _duplicates(entries: Sequence[tuple[str, Any]], name_field: str) -> list[Problem]:
    """Names that occur twice; upper and lower case do not tell them apart."""
    seen: set[str] = set()
    problems = []
    for place, definition in entries:
        name = getattr(definition, name_field)
        if name.lower() in seen:
            problems.append(
                Problem(f"{place}.{name_field}", repr(name), "each name may occur once")
            )
        seen.add(name.lower())
    return problems


def _unknown_databases(
    triggers: Sequence[tuple[str, TriggerDefinition]],
    databases: Sequence[tuple[str, DatabaseDefinition]],
) -> list[Problem]:
    aliases = {definition.alias for _, definition in databases}
    return [
        Problem(
            f"{place}.databases",
            repr(alias),
            "a database of this project: " + (", ".join(sorted(aliases)) or "it has none"),
        )
        for place, trigger in triggers
        for alias in trigger.databases
        if alias not in aliases
    ]
