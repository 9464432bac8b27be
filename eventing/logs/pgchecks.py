"""Whether a Postgres can hold a log, whose log it is, and what to run where it cannot."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, cast

from eventing.changes import Finding, prerequisite
from eventing.logs.base import LogUnavailable
from eventing.logs.pgconnections import Connections, Transaction
from eventing.logs.pgstatements import SCHEMA
from eventing.postgresserver import primary_finding, quoted, version_finding

# A schema that is there already must be ours; one that is not must be ours to make.
_FACTS: Final = """
    SELECT current_setting('server_version_num')::int, current_setting('server_version'),
           current_user, current_database(), pg_is_in_recovery(),
           has_database_privilege(current_database(), 'CREATE')
               OR EXISTS (SELECT FROM pg_namespace WHERE nspname = %s),
           NOT EXISTS (SELECT FROM pg_namespace
                       WHERE nspname = %s AND NOT pg_has_role(nspowner, 'USAGE')),
           obj_description(to_regnamespace('mission_control'), 'pg_namespace'),
           to_regclass('public.eventing_installation') IS NOT NULL"""
_MARK: Final = "SELECT obj_description(to_regnamespace('mission_control'), 'pg_namespace')"


class _Facts(NamedTuple):
    """What `_FACTS` asks, in its order. `version` as 140005, `mark` the schema's comment."""

    version: int
    version_text: str
    role: str
    database: str
    in_recovery: bool
    may_create: bool
    may_use: bool
    mark: str | None
    is_control_database: bool


def check(connections: Connections, owner: str) -> list[Finding]:
    """Whether this database can hold the log of an installation."""
    try:
        with connections.transaction() as at:
            at.run(_FACTS, SCHEMA, SCHEMA)
            facts = _Facts(*cast(tuple[Any, ...], at.fetchone()))
    except LogUnavailable as error:
        why = "without a connection nothing can be stored"
        return [Finding("connection", "error", str(error), why)]
    return [
        Finding("connection", "ok", f"connected as {facts.role}"),
        *_of_server(facts),
        _of_rights(facts),
        *_of_owner(facts, owner),
    ]


def _of_server(facts: _Facts) -> Iterator[Finding]:
    yield version_finding(facts.version, facts.version_text, "hold the log")
    yield primary_finding(facts.in_recovery, "a standby cannot be written to")


def _of_rights(facts: _Facts) -> Finding:
    met = facts.may_create and facts.may_use
    grant = f"GRANT CREATE ON DATABASE {quoted(facts.database)} TO {quoted(facts.role)};"
    if facts.may_create:
        grant = f"ALTER SCHEMA {SCHEMA} OWNER TO {quoted(facts.role)};"
    return prerequisite(
        "rights",
        met,
        f"the role {facts.role} {'may' if met else 'may not'} make the log's tables",
        f"they live in a schema of their own, {SCHEMA}",
        grant,
    )


def _of_owner(facts: _Facts, owner: str) -> Iterator[Finding]:
    yield prerequisite(
        "owner",
        facts.mark in (None, _mark_of(owner)),
        "another installation keeps its log here" if facts.mark else "nobody keeps a log here",
        "two installations in one log would take each other's events for their own",
        "choose another database; if that installation is gone for good:"
        f" COMMENT ON SCHEMA {SCHEMA} IS NULL;",
    )
    yield prerequisite(
        "control database",
        not facts.is_control_database,
        "this is the control database of an installation"
        if facts.is_control_database
        else "this is not a control database",
        "the log in it is the built-in one",
        "choose `builtin`",
    )


def mark(at: Transaction, owner: str) -> None:
    """Mark the log as an installation's. Raises LogUnavailable if it is another's."""
    at.run(_MARK)
    (found,) = cast(tuple[Any, ...], at.fetchone())
    if found is None:
        at.run(f"COMMENT ON SCHEMA {SCHEMA} IS %s", _mark_of(owner))
    elif found != _mark_of(owner):
        raise LogUnavailable("another installation keeps its log in this database")


def _mark_of(owner: str) -> str:
    """The schema's comment that says whose log it is."""
    return f"event log of the installation {owner}"
