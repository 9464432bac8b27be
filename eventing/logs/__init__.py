"""Where events, deliveries and invocations are stored: the built-in Eventing DB."""

from functools import lru_cache

from django.db import connections
from psycopg2.extensions import make_dsn

from eventing.logs.base import EventLog
from eventing.logs.postgres import PostgresEventLog


def event_log() -> EventLog:
    """The built-in store: the database of the control plane, in a schema of its own."""
    return _postgres(control_database_dsn())


def control_database_dsn() -> str:
    """The control database's address as libpq takes it."""
    parameters = connections["default"].get_connection_params()
    ignored = {"cursor_factory", "assume_role", "isolation_level", "server_side_binding"}
    return str(make_dsn(**{key: value for key, value in parameters.items() if key not in ignored}))


@lru_cache(maxsize=4)
def _postgres(dsn: str) -> PostgresEventLog:
    return PostgresEventLog(dsn)
