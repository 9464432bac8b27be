"""Configuration as YAML: `apply` makes the installation what a file says, `export` writes it back.

`apply` plans first and then carries the plan out, all in one transaction; a file with anything
wrong in it changes nothing, and each problem names its line and field.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from eventing.access import Actor
from eventing.changes import MISSION_CONTROL
from eventing.connection_strings import SCHEMES
from eventing.definitions import (
    DEFAULT_SETTINGS,
    DatabaseDefinition,
    ProjectDefinition,
    SettingsDefinition,
    TriggerDefinition,
    parse_project,
    parse_project_name,
    references_in,
)
from eventing.eventing_dbs import prepare_for
from eventing.models import Database, Project, Trigger
from eventing.models.fields import readable
from eventing.problems import InvalidInput, Problem, named, parsed
from eventing.projects import (
    configuration_held,
    create_project,
    database_definition_of,
    delete_database,
    delete_project,
    delete_trigger,
    save_database,
    save_trigger,
    settings_of,
    trigger_definition_of,
    update_settings,
)

_SECRET_FIELDS: Final = frozenset({"url_reference", "header_references"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What `apply` did or would do. `lines` begin with `+`, `~` or `-`.

    `deleted_triggers` are the ids of triggers that go, or would go if it were carried out.
    """

    lines: tuple[str, ...]
    deleted_triggers: tuple[int, ...] = ()
    is_carried_out: bool = False

    @property
    def cancelled_triggers(self) -> tuple[int, ...]:
        """The triggers whose events are now to be cancelled; none of a plan alone."""
        return self.deleted_triggers if self.is_carried_out else ()


# The names that settings have in the file, which are those of a plan.
_SETTINGS_PLACES: Final = {
    "eventing_enabled": "eventing.enabled",
    "eventing_db": "eventing.db",
    "retention_events_days": "retention.events",
    "retention_payloads_days": "retention.payloads",
}
# Far more than the longest file has; only messages go by them.
_MOST_PATHS: Final = 100_000
_DEEPEST_PATH: Final = 20


class _DryRun(Exception):
    """Ends the transaction of a dry run, undoing it."""


def apply(
    text: str, environment: Mapping[str, str], *, by: Actor, dry_run: bool, prune: bool
) -> Plan:
    """Make the configuration what `text` says. Raises InvalidInput, having changed nothing.

    `prune` deletes databases and triggers of the named projects, and projects, that the file does
    not mention.
    """
    definitions = parse(text, environment, _settings_now)
    return _carry_out(definitions, text, None, by=by, dry_run=dry_run, prune=prune)


def apply_to(
    project: Project,
    text: str,
    environment: Mapping[str, str],
    *,
    by: Actor,
    dry_run: bool,
    prune: bool,
    check: Callable[[ProjectDefinition], None] | None = None,
) -> Plan:
    """The same for one project, which is all that the file may name. Raises InvalidInput.

    `check` may raise when it sees the project as it is, while nobody else changes anything.
    A reference that `export` has written for a secret stands, at its own place and nowhere else,
    for what is stored there. Others are looked up in `environment`, for whom that is open to.
    """
    secrets = _stored_secrets(project)
    open_to_actor = dict(environment) if by.may_refer_to_environment() else {}
    # What they stand for is put in below: parsing knows none of it, so no message can tell it.
    known = {
        name: secret.stand_in
        for secret in secrets.values()
        for name in references_in(secret.reference)
        if name not in open_to_actor
    }
    definitions = parse(text, {**known, **open_to_actor}, _settings_now)
    lines = _lines_of(yaml.compose(text, Loader=yaml.SafeLoader))
    names = [definition.name for definition in definitions]
    if names != [project.name]:
        allowed = f"one project, {project.name}"
        raise InvalidInput([Problem("line 1: projects", ", ".join(names) or "none", allowed)])
    keeper = _Keeper(secrets, frozenset(known))
    kept = keeper.keep(definitions[0])
    problems = keeper.problems + _local_parts(kept, secrets, by)
    if problems:
        raise InvalidInput([_with_line(problem, lines) for problem in problems])

    def check_present() -> None:
        present = Project.objects.filter(pk=project.pk).first()
        if present is None:
            allowed = "a project that is there; it has just been deleted"
            raise InvalidInput([Problem("line 1: projects", project.name, allowed)])
        if check is not None:
            check(project_definition_of(present))

    return _carry_out([kept], text, check_present, by=by, dry_run=dry_run, prune=prune)


def project_definition_of(project: Project) -> ProjectDefinition:
    """A whole project as a definition, secrets included as far as a key opens them."""
    return ProjectDefinition(
        name=project.name,
        settings=settings_of(project),
        databases=tuple(map(database_definition_of, project.databases.all())),
        triggers=tuple(
            map(trigger_definition_of, project.triggers.prefetch_related("databases").all())
        ),
    )


@dataclass(frozen=True, slots=True)
class _Secret:
    """A stored secret, and the reference that stands for it in an export."""

    reference: str
    value: str = field(repr=False)
    # What its owner wrote, if that was a reference.
    written: str = ""
    # What a file can be read with in its place.
    stand_in: str = "x"


def _stored_secrets(project: Project) -> dict[tuple[str, ...], _Secret]:
    """By place: the alias of a database, or the names of a trigger and a header."""
    secrets: dict[tuple[str, ...], _Secret] = {}
    for trigger in project.triggers.all():
        references = _trigger_mapping(project, trigger)["headers"]
        written = trigger.header_references
        for name, value in trigger_definition_of(trigger).headers.items():
            secret = _Secret(references[name], value, written.get(name, ""))
            secrets[trigger.name, name] = secret
    for database in project.databases.exclude(type=MISSION_CONTROL):
        reference = _database_mapping(project, database)["url"]
        is_whole = references_in(reference) == [reference[2:-1]]
        url = readable(database, "url")
        scheme = urlsplit(url).scheme or SCHEMES[database.type][0]  # type: ignore[index]
        stand_in = f"{scheme}://h/d" if is_whole else "x"
        secret = _Secret(reference, url, database.url_reference, stand_in)
        secrets[database.alias,] = secret
    return secrets


def _local_parts(
    definition: ProjectDefinition, secrets: Mapping[tuple[str, ...], _Secret], by: Actor
) -> list[Problem]:
    """Addresses that use files, sockets or sign-ins of the machine, where `by` may not."""
    problems = []
    for index, database in enumerate(definition.databases):
        stored = secrets.get((database.alias,))
        try:
            by.refuse_local_parts(database, stored.value if stored else "")
        except InvalidInput as error:
            problems += error.within(f"projects[0].databases[{index}]")
    return problems


class _Keeper:
    """Puts what is stored in the place of the references that an export has for it."""

    def __init__(self, secrets: Mapping[tuple[str, ...], _Secret], known: frozenset[str]) -> None:
        self._secrets = secrets
        self._known = known
        self.problems: list[Problem] = []

    def keep(self, definition: ProjectDefinition) -> ProjectDefinition:
        return replace(
            definition,
            databases=tuple(
                self._database(f"projects[0].databases[{index}].url", each)
                for index, each in enumerate(definition.databases)
            ),
            triggers=tuple(
                self._trigger(f"projects[0].triggers[{index}].headers", each)
                for index, each in enumerate(definition.triggers)
            ),
        )

    def _secret(self, path: str, place: tuple[str, ...], reference: str) -> _Secret | None:
        """What is stored at a place, if that is meant; a reference to another place is wrong."""
        if not self._known.intersection(references_in(reference)):
            return None
        secret = self._secrets.get(place)
        if secret is not None and secret.reference == reference:
            return secret
        allowed = "the value itself; a reference to what is stored stands for it in its place alone"
        self.problems.append(Problem(path, reference, allowed))
        return None

    def _database(self, path: str, given: DatabaseDefinition) -> DatabaseDefinition:
        secret = self._secret(path, (given.alias,), given.url_reference)
        if secret is None:
            return given
        return replace(given, url=secret.value, url_reference=secret.written)

    def _trigger(self, path: str, given: TriggerDefinition) -> TriggerDefinition:
        headers, references = dict(given.headers), dict(given.header_references)
        for name, reference in given.header_references.items():
            secret = self._secret(f"{path}.{name}", (given.name, name), reference)
            if secret is not None:
                headers[name] = secret.value
                references[name] = secret.written
        references = {name: written for name, written in references.items() if written}
        return replace(given, headers=headers, header_references=references)


def _carry_out(
    definitions: list[ProjectDefinition],
    text: str,
    check_only: Callable[[], None] | None,
    *,
    by: Actor,
    dry_run: bool,
    prune: bool,
) -> Plan:
    """Make the definitions so; with `check_only`, which may raise before anything is changed, no
    other project is touched, whatever is pruned."""
    _prepare_logs(definitions, text, dry_run)
    applier = _Applier(prune, by)
    try:
        with configuration_held():
            if check_only is not None:
                check_only()
            applier.apply(definitions)
            if check_only is None:
                applier.prune_projects(definitions)
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    return Plan(tuple(applier.lines), tuple(applier.deleted_triggers), not dry_run)


def _prepare_logs(definitions: list[ProjectDefinition], text: str, dry_run: bool) -> None:
    """Make the tables of the logs that are to be used, before the transaction that chooses them."""
    lines = _lines_of(yaml.compose(text, Loader=yaml.SafeLoader))
    problems = []
    for index, definition in enumerate(definitions):
        try:
            project = Project.objects.filter(name=definition.name).first()
            prepare_for(project, definition.settings, definition.databases, dry_run=dry_run)
        except InvalidInput as error:
            problems += error.within(f"projects[{index}]")
    if problems:
        raise InvalidInput([_with_line(problem, lines) for problem in problems])


def parse(
    text: str,
    environment: Mapping[str, str],
    settings_now: Callable[[object], SettingsDefinition] = lambda _: DEFAULT_SETTINGS,
) -> list[ProjectDefinition]:
    """The projects a file describes, set to what `settings_now` says of an entry where that says
    nothing. Raises InvalidInput whose problems begin with the line."""
    try:
        lines = _lines_of(yaml.compose(text, Loader=_Loader))
        document = yaml.safe_load(text)
    except _TwiceError as error:
        raise InvalidInput([error.told]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise InvalidInput(
            [Problem(f"line {line}", named(error.problem or "something that is not YAML"), "YAML")]
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InvalidInput([Problem("line 1", "something that is not YAML", "YAML")]) from None
    if not isinstance(document, Mapping) or not document:
        raise InvalidInput([Problem("line 1", "another document", "one list named `projects`")])
    unknown = [named(str(key)) for key in document if key != "projects"]
    if unknown:
        told = [Problem(key, "an unknown field", "only projects") for key in unknown]
        raise InvalidInput([_with_line(problem, lines) for problem in told])
    entries = document["projects"]
    if not isinstance(entries, list):
        raise InvalidInput([Problem("line 1: projects", "no list", "a list of projects")])
    definitions: list[ProjectDefinition] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        path, unsaid = f"projects[{index}]", settings_now(entry)
        definition = parsed(problems, parse_project, entry, environment, path, unsaid)
        if definition is not None:
            definitions.append(definition)
    names = [definition.name for definition in definitions]
    problems += [
        Problem(f"projects[{index}].name", repr(name), "each name may occur once")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    if problems:
        raise InvalidInput([_with_line(problem, lines) for problem in problems])
    return definitions


def _settings_now(entry: object) -> SettingsDefinition:
    """What a project is set to that a file is about, and stays set to where that says nothing."""
    try:
        name = parse_project_name(entry.get("name") if isinstance(entry, Mapping) else None)
    except InvalidInput:
        return DEFAULT_SETTINGS
    project = Project.objects.filter(name=name).first()
    return settings_of(project) if project else DEFAULT_SETTINGS


class _TwiceError(Exception):
    """A mapping has one key twice."""

    def __init__(self, key: yaml.ScalarNode) -> None:
        field = f"line {key.start_mark.line + 1}: {named(key.value)}"
        self.told = Problem(field, "it a second time in one mapping", "each field once")
        super().__init__(str(self.told))


class _Loader(yaml.SafeLoader):
    """Takes no key twice, where YAML's own would silently let the last one win."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The next mapping of the file. Raises _TwiceError."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _TwiceError(key)
                seen.add(key.value)
        return node


def _lines_of(root: yaml.Node | None) -> dict[str, int]:
    """The line, from 1, on which each dotted path begins; of a long file, only the first paths.

    Aliases are followed wherever they stand, so even a short file may have countless paths.
    """
    lines: dict[str, int] = {}
    waiting = [("", root, root, 0)] if root is not None else []
    while waiting and len(lines) < _MOST_PATHS:
        path, node, at, depth = waiting.pop()
        lines[path] = at.start_mark.line + 1
        if depth == _DEEPEST_PATH:
            continue
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                waiting.append((f"{path}.{name}" if path else name, value, key, depth + 1))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                waiting.append((f"{path}[{index}]", value, value, depth + 1))
    return lines


def _with_line(problem: Problem, lines: Mapping[str, int]) -> Problem:
    """The problem with the line of its field, or of the nearest one around it that was written."""
    place = problem.field
    while place and place not in lines:
        place = re.sub(r"(\.[^.\[]*|\[\d+\])$", "", place) if re.search(r"[.\[]", place) else ""
    return Problem(f"line {lines.get(place, 1)}: {problem.field}", problem.given, problem.allowed)


class _Applier:
    """Carries definitions out one after another and notes each step as a line of the plan."""

    def __init__(self, prune: bool, by: Actor) -> None:
        self._prune = prune
        self._by = by
        self.lines: list[str] = []
        self.deleted_triggers: list[int] = []

    def apply(self, definitions: list[ProjectDefinition]) -> None:
        for definition in definitions:
            self._apply_project(definition)

    def prune_projects(self, definitions: list[ProjectDefinition]) -> None:
        if self._prune:
            kept = [definition.name for definition in definitions]
            for project in Project.objects.exclude(name__in=kept):
                self.lines.append(f"- project {project.name}")
                self.deleted_triggers += delete_project(project, by=self._by)

    def _apply_project(self, definition: ProjectDefinition) -> None:
        project = Project.objects.filter(name=definition.name).first()
        if project is None:
            self.lines.append(f"+ project {definition.name}")
            # Eventing goes on last, when all that it is to capture is there.
            project = create_project(definition.name, SettingsDefinition(), by=self._by)
        databases = {database.alias: database for database in project.databases.all()}
        triggers = {trigger.name: trigger for trigger in project.triggers.all()}
        for wanted in definition.databases:
            self._apply_database(project, wanted, databases.pop(wanted.alias, None))
        for trigger in definition.triggers:
            self._apply_trigger(project, trigger, triggers.pop(trigger.name, None))
        changes = _differences(settings_of(project), definition.settings)
        if changes:
            places = ", ".join(_SETTINGS_PLACES[change] for change in changes)
            self.lines.append(f"~ settings {project.name}: {places}")
            update_settings(project, definition.settings, by=self._by)
        if self._prune:
            self._prune_triggers(project, list(triggers.values()))
            # Last of all: one of them may have been the Eventing DB.
            self._prune_databases(project, list(databases.values()))

    def _apply_database(
        self, project: Project, wanted: DatabaseDefinition, existing: Database | None
    ) -> None:
        present = database_definition_of(existing) if existing else None
        if self._is_due(f"database {project.name}/{wanted.alias}", present, wanted):
            save_database(project, wanted, existing, by=self._by)

    def _apply_trigger(
        self, project: Project, wanted: TriggerDefinition, existing: Trigger | None
    ) -> None:
        present = trigger_definition_of(existing) if existing else None
        if self._is_due(f"trigger {project.name}/{wanted.name}", present, wanted):
            save_trigger(project, wanted, existing, by=self._by)

    def _is_due(
        self,
        name: str,
        present: DatabaseDefinition | TriggerDefinition | None,
        wanted: DatabaseDefinition | TriggerDefinition,
    ) -> bool:
        """Whether what is there is not what is wanted, which then gets its line in the plan."""
        if present is None:
            self.lines.append(f"+ {name}")
            return True
        changes = _differences(present, wanted)
        if changes:
            self.lines.append(f"~ {name}: {', '.join(changes)}")
        return bool(changes)

    def _prune_triggers(self, project: Project, triggers: list[Trigger]) -> None:
        for trigger in triggers:
            self.lines.append(f"- trigger {project.name}/{trigger.name}")
            self.deleted_triggers.append(delete_trigger(trigger, by=self._by))

    def _prune_databases(self, project: Project, databases: list[Database]) -> None:
        for database in databases:
            self.lines.append(f"- database {project.name}/{database.alias}")
            delete_database(database, by=self._by)


def _differences(present: Any, wanted: Any) -> list[str]:
    """The names of the fields in which two definitions differ; databases' order does not count."""

    def comparable(value: Any) -> Any:
        return sorted(value) if isinstance(value, tuple) and value else value

    return [
        field.name
        for field in fields(present)
        if field.name not in _SECRET_FIELDS
        and comparable(getattr(present, field.name)) != comparable(getattr(wanted, field.name))
    ]


def export(project_name: str | None) -> str:
    """The configuration of one project, or of all, as YAML; secrets as references."""
    projects = Project.objects.order_by("name")
    if project_name is not None:
        projects = projects.filter(name=project_name)
        if not projects:
            raise InvalidInput([Problem("PROJECT", repr(project_name), "an existing project")])
    document = {"projects": [_project_mapping(project) for project in projects]}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _project_mapping(project: Project) -> dict[str, Any]:
    databases = [_database_mapping(project, database) for database in project.databases.all()]
    triggers = [
        _trigger_mapping(project, trigger)
        for trigger in project.triggers.prefetch_related("databases")
    ]
    return {
        "name": project.name,
        **settings_mapping(settings_of(project)),
        "databases": databases,
        "triggers": triggers,
    }


def settings_mapping(settings: SettingsDefinition) -> dict[str, Any]:
    """Settings as a configuration file writes them."""
    return {
        "eventing": {"enabled": settings.eventing_enabled, "db": settings.eventing_db},
        "retention": {
            "events": f"{settings.retention_events_days}d",
            "payloads": f"{settings.retention_payloads_days}d",
        },
    }


def _database_mapping(project: Project, database: Database) -> dict[str, Any]:
    mapping: dict[str, Any] = {"alias": database.alias, "type": database.type}
    if database.type != MISSION_CONTROL:
        reference = database.url_reference or _reference(project.name, database.alias, "URL")
        mapping["url"] = reference
    if database.schemas:
        mapping["schemas"] = list(database.schemas)
    return mapping


def _trigger_mapping(project: Project, trigger: Trigger) -> dict[str, Any]:
    """A trigger as a configuration file writes it, its headers' values as references: those that
    were written as one stay as they are."""
    definition = trigger_definition_of(trigger)
    mapping = asdict(definition)
    references = mapping.pop("header_references")
    mapping["headers"] = {
        name: references.get(name) or _reference(project.name, trigger.name, name)
        for name in definition.headers
    }
    for name in ("databases", "tables", "operations"):
        mapping[name] = list(mapping[name])
    mapping["backoff"]["factor"] = _shortest(definition.backoff.factor)
    return mapping


def _shortest(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _reference(*parts: str) -> str:
    """A reference to an environment variable named after what it holds."""
    return "${" + re.sub(r"[^A-Z0-9]+", "_", "_".join(parts).upper()) + "}"
