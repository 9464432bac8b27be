"""The doctor: every prerequisite of a source, with the exact statement that mends it.

"Test connection", REST and `manage.py doctor` all come through here. A bad server is a finding,
never an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eventing.changes import CatalogueTable, Finding
from eventing.definitions import DatabaseDefinition
from eventing.models import Database
from eventing.sources import source_of


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
    return _findings(database)


def passes(findings: Sequence[Finding]) -> bool:
    """Whether capture can run."""
    return all(finding.status != "error" for finding in findings)


def catalogue(database: Database) -> list[CatalogueTable]:
    """The tables that could be captured. Raises SourceUnavailable."""
    source = source_of(database)
    try:
        return list(source.catalogue())
    finally:
        source.close()


def _findings(database: Database | _Candidate) -> list[Finding]:
    source = source_of(database)
    try:
        return list(source.check())
    finally:
        source.close()
