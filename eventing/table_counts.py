"""How many tables of each database can be captured: asked of its server, and kept for some minutes.

A server that does not answer holds up nobody for as long: that is kept, too.
"""

from collections.abc import Iterable
from typing import Final

from django.core.cache import cache

from eventing.doctor import catalogue
from eventing.models import Database
from eventing.sources.base import SourceUnavailable

# In place of a number, for a server that did not give one.
NO_ANSWER: Final = -1
_KEPT_SECONDS: Final = 600
_NO_ANSWER_KEPT_SECONDS: Final = 60


def count_tables(database: Database) -> int:
    """The number for one database, by connecting to it if none is kept; `NO_ANSWER` if it does not
    answer."""
    key = _key_of(database)
    count: int | None = cache.get(key)
    if count is None:
        try:
            count, kept_seconds = len(catalogue(database)), _KEPT_SECONDS
        except SourceUnavailable:
            count, kept_seconds = NO_ANSWER, _NO_ANSWER_KEPT_SECONDS
        cache.set(key, count, kept_seconds)
    return count


def kept_counts(databases: Iterable[Database]) -> dict[int, int]:
    """The numbers that are kept of these databases, by their ids, without asking any server."""
    keys = {_key_of(database): database.pk for database in databases}
    return {keys[key]: count for key, count in cache.get_many(keys).items()}


def _key_of(database: Database) -> str:
    """Where the number is kept, as long as nothing of the database is changed."""
    return f"tables:{database.pk}:{database.configuration_version}"
