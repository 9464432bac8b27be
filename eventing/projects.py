"""Every change of the control plane: projects, their settings, databases and triggers.

Console, REST and `apply` all come through here, and say who they act for. Each change is one
transaction that raises the configuration version, which the running processes watch, and notes in
the audit log what was changed; nothing here talks to a source.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Manager, Model
from django.db.models.functions import Now

from eventing import audit
from eventing.access import Actor
from eventing.audit import database_facts, settings_facts, trigger_facts
from eventing.changes import MISSION_CONTROL
from eventing.connection_strings import ConnectionString
from eventing.definitions import (
    BUILTIN_NAME,
    Backoff,
    DatabaseDefinition,
    SettingsDefinition,
    TriggerDefinition,
    TriggerState,
)
from eventing.logs import LOG_TYPES
from eventing.models import (
    Breaker,
    CaptureLease,
    Database,
    EventingDb,
    Installation,
    Membership,
    Project,
    RetiredSource,
    Trigger,
)
from eventing.models.fields import Sealed, readable, stored_value
from eventing.problems import InvalidInput, Problem
from eventing.signing import new_secret


@contextmanager
def configuration_held() -> Iterator[Installation]:
    """A transaction in which nobody else changes the configuration."""
    with transaction.atomic():
        yield Installation.objects.select_for_update().get()


@contextmanager
def configuration_change() -> Iterator[int]:
    """One change of configuration: a transaction, and the version that it makes.

    Changes wait for each other, so a version names one state of the whole configuration.
    """
    with configuration_held() as installation:
        version = installation.configuration_version + 1
        Installation.objects.update(configuration_version=F("configuration_version") + 1)
        yield version


def configuration_version() -> int:
    """The present version; processes compare it with the one they last read."""
    return Installation.objects.values_list("configuration_version", flat=True).get()


def create_project(
    name: str,
    settings: SettingsDefinition,
    owner: User | None = None,
    *,
    by: Actor,
    title: str = "",
) -> Project:
    """Make a project; `owner` (a user) becomes its administrator."""
    with configuration_change():
        if Project.objects.filter(name=name).exists():
            raise InvalidInput([Problem("name", repr(name), "a name no other project has")])
        project = Project.objects.create(name=name, title="" if title == name else title)
        if owner is not None:
            Membership.objects.create(user=owner, project=project, role=Membership.Role.ADMIN)
        _write_settings(project, settings)
        facts = {**settings_facts(settings), "administrator": owner.username if owner else None}
        audit.write(by, project, "project.create", name, project.pk, new=facts)
    return project


def rename_project(project: Project, title: str, *, by: Actor) -> None:
    """Call a project something else; its name, and all that goes by it, stays as it is."""
    with configuration_change():
        old = {"title": str(project)}
        project.title = "" if title == project.name else title
        project.save(update_fields=["title"])
        new = {"title": str(project)}
        audit.write(by, project, "project.update", project.name, project.pk, old=old, new=new)


def update_settings(project: Project, settings: SettingsDefinition, *, by: Actor) -> None:
    """Put settings into force. Turning eventing off gives up every slot: see `RetiredSource`."""
    with configuration_change():
        old, new = settings_facts(settings_of(project)), settings_facts(settings)
        _write_settings(project, settings)
        audit.write(by, project, "settings.update", project.name, project.pk, old=old, new=new)


def _write_settings(project: Project, settings: SettingsDefinition) -> None:
    was_enabled = project.eventing_enabled
    project.eventing_enabled = settings.eventing_enabled
    _choose_eventing_db(project, settings.eventing_db)
    project.retention_events_days = settings.retention_events_days
    project.retention_payloads_days = settings.retention_payloads_days
    project.save()
    if was_enabled and not settings.eventing_enabled:
        for database in project.databases.all():
            _retire(database)


def _choose_eventing_db(project: Project, name: str) -> None:
    """Write events to another log from now on; its tables are there already (`eventing_dbs`).

    The one before keeps what it has: what waits there is delivered from there.
    """
    if name == _eventing_db_name(project):
        return
    if project.eventing_db is not None:
        EventingDb.objects.filter(pk=project.eventing_db.pk).update(replaced_at=Now())
    if name == BUILTIN_NAME:
        project.eventing_db = None
        return
    database = project.databases.filter(alias=name).first()
    if database is None or database.type not in LOG_TYPES:
        fitting = project.databases.filter(type__in=LOG_TYPES).values_list("alias", flat=True)
        raise _not_a_log(name, fitting)
    project.eventing_db, _ = EventingDb.objects.update_or_create(
        project=project,
        database=database,
        defaults={
            "alias": database.alias,
            "type": database.type,
            "url": stored_value(database, "url"),
            "chosen_at": Now(),
            "replaced_at": None,
        },
    )


def _eventing_db_name(project: Project) -> str:
    """The alias of the database that holds the project's log, or `builtin`."""
    stored = project.eventing_db
    if stored is None:
        return BUILTIN_NAME
    return stored.database.alias if stored.database is not None else stored.alias


def _not_a_log(name: str, fitting: Iterable[str]) -> InvalidInput:
    allowed = (
        f"one of {', '.join([BUILTIN_NAME, *fitting])}, its Postgres, MySQL and MariaDB databases"
    )
    return InvalidInput([Problem("eventing.db", repr(name), allowed)])


def eventing_db_to_prepare(
    project: Project | None, name: str, databases: Sequence[DatabaseDefinition] = ()
) -> DatabaseDefinition | None:
    """The database whose log has to be made before settings that name it can be saved.

    None for the built-in one and for the one in use already. `databases` are about to be saved
    too. Raises InvalidInput if there is no such database, or it cannot hold a log.
    """
    if name == BUILTIN_NAME:
        return None
    stored = {} if project is None else {each.alias: each for each in project.databases.all()}
    known = {alias: database_definition_of(each) for alias, each in stored.items()}
    known |= {each.alias: each for each in databases}
    if name not in known or known[name].type not in LOG_TYPES:
        raise _not_a_log(name, [each.alias for each in known.values() if each.type in LOG_TYPES])
    in_use = project is not None and _eventing_db_name(project) == name
    return None if in_use and readable(stored[name], "url") == known[name].url else known[name]


def settings_of(project: Project) -> SettingsDefinition:
    """The settings in force."""
    return SettingsDefinition(
        eventing_enabled=project.eventing_enabled,
        eventing_db=_eventing_db_name(project),
        retention_events_days=project.retention_events_days,
        retention_payloads_days=project.retention_payloads_days,
    )


def delete_project(project: Project, *, by: Actor) -> list[int]:
    """Delete a project with all it owns; returns the ids of its triggers, to be cancelled.

    Its logs stay until retention drops them.
    """
    with configuration_change():
        trigger_ids = list(project.triggers.values_list("pk", flat=True))
        for database in project.databases.all():
            _retire(database)
        facts = {
            **settings_facts(settings_of(project)),
            "databases": list(project.databases.values_list("alias", flat=True)),
            "triggers": list(project.triggers.values_list("name", flat=True)),
        }
        audit.write(by, project, "project.delete", project.name, project.pk, old=facts)
        project.delete()
    return trigger_ids


def save_database(
    project: Project,
    definition: DatabaseDefinition,
    existing: Database | None = None,
    *,
    by: Actor,
) -> Database:
    """Create a database, or make `existing` what `definition` says.

    Another host, port or database name for an existing database means another source: the old one
    is given up, and capture of the new one starts from now. Other credentials or options do not.
    """
    with configuration_change() as version:
        allowed = "an alias no other database has"
        refuse_taken(project.databases, existing, "alias", definition.alias, allowed)
        old = database_facts(database_definition_of(existing)) if existing else None
        database = existing or Database(project=project)
        if existing and _names_another_database(existing, definition):
            _refuse_if_it_holds_the_log(existing, "url", "another address")
            existing.eventing_dbs.update(database=None)
            _retire(existing)
            existing.source_name = ""
        database.alias = definition.alias
        database.type = definition.type
        if definition.url or definition.type == MISSION_CONTROL:
            database.url = definition.url
        database.url_reference = definition.url_reference
        database.schemas = list(definition.schemas) if definition.schemas else None
        database.source_name = database.source_name or f"mission_control_{secrets.token_hex(8)}"
        database.configuration_version = version
        database.save()
        # A log in it is reached like the database itself.
        database.eventing_dbs.update(alias=database.alias, url=stored_value(database, "url"))
        # Every trigger on all databases now also watches this one.
        project.triggers.filter(databases=None).update(configuration_version=version)
        action = "database.update" if existing else "database.create"
        new = database_facts(definition)
        audit.write(by, project, action, database.alias, database.pk, old=old, new=new)
        return database


def refuse_taken(
    among: Manager[Any], existing: Model | None, field: str, name: str, allowed: str
) -> None:
    """Raises InvalidInput if another one than `existing` has the name; upper and lower case do not
    tell them apart."""
    others = among.filter(**{f"{field}__iexact": name})
    if others.exclude(pk=existing.pk if existing else 0).exists():
        raise InvalidInput([Problem(field, repr(name), allowed)])


def _names_another_database(database: Database, definition: DatabaseDefinition) -> bool:
    if database.type != definition.type:
        return True
    if isinstance(stored_value(database, "url"), Sealed):
        # Nobody can tell; taken for another one, it would be captured anew, from now.
        return False
    stored = ConnectionString.parse(definition.type, database.url)
    given = ConnectionString.parse(definition.type, definition.url)
    return not stored.names_the_same_database(given)


def delete_database(database: Database, *, by: Actor) -> None:
    """Delete a database; its slot and publications are taken away by capture, soon after.

    Refused while a trigger names it alone: that trigger would silently come to mean all databases.
    """
    with configuration_change():
        named = [
            trigger.name
            for trigger in database.triggers.all()
            if list(trigger.databases.values_list("pk", flat=True)) == [database.pk]
        ]
        if named:
            raise InvalidInput(
                [
                    Problem(
                        "alias",
                        repr(database.alias),
                        "a database that no trigger names alone; change or delete first: "
                        + ", ".join(named),
                    )
                ]
            )
        _refuse_if_it_holds_the_log(database, "alias", repr(database.alias))
        _retire(database)
        old = database_facts(database_definition_of(database))
        alias, database_id = database.alias, database.pk
        audit.write(by, database.project, "database.delete", alias, database_id, old=old)
        database.delete()


def _refuse_if_it_holds_the_log(database: Database, field: str, given: str) -> None:
    if database.eventing_dbs.filter(replaced_at=None).exists():
        allowed = (
            "a database that is not the Eventing DB of its project; choose another one in Settings"
            " first"
        )
        raise InvalidInput([Problem(field, given, allowed)])


def _retire(database: Database) -> None:
    """Note what is to be removed at the server, and stop capturing.

    Should the database be captured again, that begins from a moment of its own.
    """
    leave_for_removal(database)
    CaptureLease.objects.filter(database=database).delete()
    CaptureLease.objects.create(database=database, restart_from_now=True)


def leave_for_removal(database: Database) -> None:
    """Note what was made at the server for a database: capture takes it away, soon after."""
    RetiredSource.objects.create(
        database_id=database.pk,
        type=database.type,
        url=stored_value(database, "url"),
        source_name=database.source_name,
    )


def start_anew(database: Database, *, by: Actor) -> None:
    """Accept that changes may have been lost, and let capture start from now."""
    with configuration_change():
        CaptureLease.objects.filter(database=database).update(restart_from_now=True)
        audit.write(by, database.project, "database.start_anew", database.alias, database.pk)


def save_trigger(
    project: Project,
    definition: TriggerDefinition,
    existing: Trigger | None = None,
    *,
    by: Actor,
) -> Trigger:
    """Create a trigger, or make `existing` what `definition` says."""
    with configuration_change() as version:
        databases = _databases_named(project, definition)
        allowed = "a name no other trigger has"
        refuse_taken(project.triggers, existing, "name", definition.name, allowed)
        old = trigger_facts(trigger_definition_of(existing)) if existing else None
        trigger = existing or Trigger(project=project, signing_secrets=_new_signing_secrets())
        _write(definition, trigger)
        trigger.configuration_version = version
        trigger.save()
        trigger.databases.set(databases)
        action = "trigger.update" if existing else "trigger.create"
        new = trigger_facts(definition)
        audit.write(by, project, action, trigger.name, trigger.pk, old=old, new=new)
        _close_breaker(trigger, by=by)
        return trigger


def draft_of(
    project: Project, definition: TriggerDefinition, existing: Trigger | None
) -> tuple[Trigger, list[Database]]:
    """A trigger as `save_trigger` would make it, with its databases, and not saved. One that does
    not exist yet has no signing secret. Raises InvalidInput."""
    databases = _databases_named(project, definition)
    secrets = stored_value(existing, "signing_secrets") if existing else ""
    trigger = Trigger(project=project, signing_secrets=secrets)
    _write(definition, trigger)
    return trigger, databases


def _write(definition: TriggerDefinition, trigger: Trigger) -> None:
    trigger.name = definition.name
    trigger.tables = list(definition.tables)
    trigger.operations = list(definition.operations)
    trigger.url = definition.url
    trigger.retries = definition.retries
    trigger.timeout_ms = definition.timeout_ms
    trigger.state = definition.state
    trigger.backoff_initial_ms = definition.backoff.initial_ms
    trigger.backoff_factor = definition.backoff.factor
    trigger.backoff_max_ms = definition.backoff.max_ms
    if definition.headers or not isinstance(stored_value(trigger, "headers"), Sealed):
        trigger.headers = orjson.dumps(dict(definition.headers)).decode()
    trigger.header_references = dict(definition.header_references)
    trigger.format = definition.format
    trigger.concurrency = definition.concurrency
    trigger.rate_per_second = definition.rate_per_second
    trigger.ordered = definition.ordered


def _databases_named(project: Project, definition: TriggerDefinition) -> list[Database]:
    known = {database.alias: database for database in project.databases.all()}
    missing = [alias for alias in definition.databases if alias not in known]
    if missing:
        allowed = ", ".join(known) or "none exists yet"
        raise InvalidInput(
            [Problem("databases", repr(alias), f"the aliases {allowed}") for alias in missing]
        )
    return [known[alias] for alias in definition.databases]


def _new_signing_secrets() -> str:
    return orjson.dumps([new_secret()]).decode()


def set_trigger_state(trigger: Trigger, state: TriggerState, *, by: Actor) -> None:
    """Pause, resume, disable or enable a trigger."""
    with configuration_change() as version:
        old, new = {"state": trigger.state}, {"state": state}
        trigger.state = state
        trigger.configuration_version = version
        trigger.save(update_fields=["state", "configuration_version", "changed_at"])
        project, name = trigger.project, trigger.name
        audit.write(by, project, "trigger.update", name, trigger.pk, old=old, new=new)
        _close_breaker(trigger, by=by)


def _close_breaker(trigger: Trigger, *, by: Actor) -> None:
    """Deliver again at once: a person has looked at the trigger and changed what it needed."""
    deleted, _ = Breaker.objects.filter(trigger=trigger).delete()
    if deleted:
        audit.write(by, trigger.project, "trigger.close_breaker", trigger.name, trigger.pk)


def signing_secrets_of(trigger: Trigger, *, by: Actor) -> list[str]:
    """The signing secrets of a trigger in clear; who asked for them is noted."""
    audit.write(by, trigger.project, "trigger.reveal_secret", trigger.name, trigger.pk)
    found: list[str] = orjson.loads(trigger.signing_secrets or "[]")
    return found


def active_secrets(trigger: Trigger) -> int:
    """How many signing secrets a trigger has: two while one is being replaced."""
    return len(orjson.loads(readable(trigger, "signing_secrets") or "[]"))


def rotate_signing_secret(trigger: Trigger, *, by: Actor) -> str:
    """Give a trigger a new signing secret beside the one it has; returns it.

    Requests carry a signature for each until the old one is retired; one that no key opens is
    replaced at once. Raises InvalidInput while another replacement is under way.
    """
    with configuration_change():
        locked = Trigger.objects.select_for_update().get(pk=trigger.pk)
        secrets: list[str] = orjson.loads(readable(locked, "signing_secrets") or "[]")
        if len(secrets) > 1:
            allowed = "one: retire the old one first, endpoints may still use it"
            raise InvalidInput([Problem("signing_secrets", f"{len(secrets)} active", allowed)])
        new = new_secret()
        _keep_secrets(locked, [new, *secrets])
        audit.write(by, trigger.project, "trigger.rotate_secret", trigger.name, trigger.pk)
        return new


def retire_signing_secrets(trigger: Trigger, *, by: Actor) -> bool:
    """Sign with the newest secret alone from now on; False if there is no older one."""
    with configuration_change():
        locked = Trigger.objects.select_for_update().get(pk=trigger.pk)
        secrets: list[str] = orjson.loads(locked.signing_secrets or "[]")
        if len(secrets) < 2:
            return False
        _keep_secrets(locked, secrets[:1])
        audit.write(by, trigger.project, "trigger.retire_secret", trigger.name, trigger.pk)
        return True


def _keep_secrets(trigger: Trigger, secrets: list[str]) -> None:
    trigger.signing_secrets = orjson.dumps(secrets).decode()
    trigger.save(update_fields=["signing_secrets", "changed_at"])


def delete_trigger(trigger: Trigger, *, by: Actor) -> int:
    """Delete a trigger; returns its id, whose unfinished events are then to be cancelled."""
    with configuration_change():
        trigger_id = trigger.pk
        old = trigger_facts(trigger_definition_of(trigger))
        audit.write(by, trigger.project, "trigger.delete", trigger.name, trigger_id, old=old)
        trigger.delete()
    return trigger_id


def database_definition_of(database: Database) -> DatabaseDefinition:
    """A stored database as a definition, its address empty if no key opens it."""
    return DatabaseDefinition(
        alias=database.alias,
        type=database.type,  # type: ignore[arg-type]
        url=readable(database, "url"),
        url_reference=database.url_reference,
        schemas=tuple(database.schemas) if database.schemas else None,
    )


def trigger_definition_of(trigger: Trigger) -> TriggerDefinition:
    """A stored trigger as a definition, secrets included as far as a key opens them."""
    return TriggerDefinition(
        name=trigger.name,
        operations=tuple(trigger.operations),  # type: ignore[arg-type]
        url=trigger.url,
        databases=tuple(sorted(database.alias for database in trigger.databases.all())),
        tables=tuple(trigger.tables),
        retries=trigger.retries,
        timeout_ms=trigger.timeout_ms,
        state=trigger.state,  # type: ignore[arg-type]
        backoff=Backoff(trigger.backoff_initial_ms, trigger.backoff_factor, trigger.backoff_max_ms),
        headers=orjson.loads(readable(trigger, "headers") or "{}"),
        header_references=trigger.header_references,
        format=trigger.format,  # type: ignore[arg-type]
        concurrency=trigger.concurrency,
        rate_per_second=trigger.rate_per_second,
        ordered=trigger.ordered,
    )
