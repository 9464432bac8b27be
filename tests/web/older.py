"""A log whose tables are those of an older version, as a project may have chosen it."""

import pytest

from demo.servers import execute
from eventing.logs import log_at
from eventing.models import EventingDb, Project
from tests import databases

# Something of everything that a page or an answer reads.
_POSTGRES = (
    "ALTER TABLE mission_control.event_log RENAME COLUMN problem TO reason",
    "ALTER TABLE mission_control.delivery RENAME COLUMN state TO status",
    "ALTER TABLE mission_control.event_stats DROP COLUMN latency_0",
    "ALTER TABLE mission_control.event_stats_span DROP COLUMN latency_0",
    "DROP TABLE mission_control.event_kind",
)
_MYSQL = (
    "ALTER TABLE mission_control_event_log DROP KEY event_log_kind, DROP COLUMN problem",
    "ALTER TABLE mission_control_delivery DROP COLUMN state",
    "ALTER TABLE mission_control_event_stats DROP COLUMN latency_0",
    "DROP TABLE mission_control_event_stats_span, mission_control_event_kind",
)


def choose_older_log(request: pytest.FixtureRequest, project: Project, kind: str) -> None:
    """Have a project use a log of this type of database that nobody has upgraded yet."""
    fixture = {"postgres": "source_database", "mysql": "mariadb_database"}[kind]
    url = str(request.getfixturevalue(fixture))
    log = log_at("mysql" if kind == "mysql" else "postgres", url)
    log.make_tables()
    for statement in _POSTGRES if kind == "postgres" else ():
        execute(url, statement)
    for statement in _MYSQL if kind == "mysql" else ():
        databases.execute(url, statement)
    project.eventing_db = EventingDb.objects.create(
        project=project, alias="older", type=kind, url=url
    )
    project.save()
