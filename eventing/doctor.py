"""The doctor: every prerequisite of a source, with the exact statement that mends it.

"Test connection", REST and `manage.py doctor` all come through here. A bad server is a finding,
never an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eventing.changes import TYPES_WITH_SCHEMAS, CatalogueTable, Finding
from eventing.definitions import DatabaseDefinition, TriggerDefinition
from eventing.matching import Matcher, Rule
from eventing.models import Database
from eventing.models.fields import UndecryptableValue, problem_of
from eventing.sources import source_of
from eventing.sources.base import Sample, Source, SourceUnavailable

# A page waits for it.
_TABLES_SAMPLED: Final = 3


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A database that is not stored yet, as `source_of` wants it."""

    type: str
    url: str
    schemas: Sequence[str] | None
    source_name: str = "mission_control_check"


def check(definition: DatabaseDefinition) -> list[Finding]:
    """The findings for a database before it is saved."""
    return _findings(_Candidate(definition.type, definition.url, definition.schemas))


def check_database(database: Database) -> list[Finding]:
    """The findings for a stored database."""
    problem = problem_of(database)
    if problem is None:
        return _findings(database)
    return [Finding("address", "error", "its address cannot be read", problem)]


def passes(findings: Sequence[Finding]) -> bool:
    """Whether capture can run."""
    return all(finding.status != "error" for finding in findings)


def catalogue(database: Database) -> list[CatalogueTable]:
    """The tables that could be captured. Raises SourceUnavailable."""
    source = _source(database)
    try:
        return list(source.catalogue())
    finally:
        source.close()


def sample(database: Database, definition: TriggerDefinition) -> Sample | None:
    """A row of the first table that a trigger would watch in this database, and that has one.

    Raises SourceUnavailable.
    """
    rule = Rule(0, "", definition.tables, frozenset(definition.operations))
    has_schemas = database.type in TYPES_WITH_SCHEMAS
    matcher = Matcher([rule], has_schemas=has_schemas)
    source = _source(database)
    try:
        named = sorted(matcher.named_tables)
        tables = named or [
            table.name
            for table in source.catalogue()
            if matcher.wants(table.name, definition.operations[0])
        ]
        for table in tables[:_TABLES_SAMPLED]:
            found = source.sample(table.removeprefix("public.") if has_schemas else table)
            if found is not None:
                return found
        return None
    finally:
        source.close()


def _source(database: Database) -> Source:
    """Raises SourceUnavailable if the database's address cannot be read."""
    try:
        return source_of(database)
    except UndecryptableValue as error:
        raise SourceUnavailable(str(error)) from None


def _findings(database: Database | _Candidate) -> list[Finding]:
    source = source_of(database)
    try:
        return list(source.check())
    finally:
        source.close()
