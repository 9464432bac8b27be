"""Where events, deliveries and invocations are stored: the built-in Eventing DB, or another."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from django.db import connections
from psycopg2.extensions import make_dsn

from eventing.changes import DatabaseType
from eventing.logs.base import EventLog
from eventing.logs.mysql import MySqlEventLog
from eventing.logs.postgres import PostgresEventLog


def builtin_log() -> EventLog:
    """The built-in store: the database of the control plane, in a schema of its own."""
    return _builtin_log(control_database_dsn())


@lru_cache(maxsize=4)
def _builtin_log(dsn: str) -> EventLog:
    return PostgresEventLog(dsn)


def control_database_dsn() -> str:
    """The control database's address as libpq takes it."""
    parameters = connections["default"].get_connection_params()
    ignored = {"cursor_factory", "assume_role", "isolation_level", "server_side_binding"}
    return str(make_dsn(**{key: value for key, value in parameters.items() if key not in ignored}))


# A process that meets more addresses than this opens connections anew, no more.
@lru_cache(maxsize=64)
def log_at(kind: DatabaseType, url: str) -> EventLog:
    """The event log in the database of this type at an address. Connects only when it is used."""
    return _KINDS[kind](url)


_KINDS: Final[dict[DatabaseType, Callable[[str], EventLog]]] = {
    "postgres": partial(PostgresEventLog, of_a_project=True),
    "mysql": MySqlEventLog,
}
# The types of database that can hold a log; docs/decisions/0005 says why MongoDB is not one.
LOG_TYPES: Final[tuple[DatabaseType, ...]] = tuple(_KINDS)
