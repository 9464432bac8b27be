"""What console and REST do with events beyond reading them: redelivering and cancelling."""

from collections.abc import Sequence
from uuid import UUID

from eventing.enqueueing import enqueuer
from eventing.logs import event_log
from eventing.logs.base import EventFilter
from eventing.models import Project, Trigger
from eventing.projects import delete_project, delete_trigger

_PAGE = 500


def redeliver(project: Project, event_ids: Sequence[UUID]) -> int:
    """Put finished events back to `pending`; returns how many were.

    Unfinished ones are left alone, and those of deleted triggers: nobody knows where to send them.
    """
    trigger_ids = list(project.triggers.values_list("pk", flat=True))
    chunks = event_log().redeliver(project.pk, event_ids, trigger_ids)
    enqueuer.enqueue(chunks)
    return sum(len(chunk.event_ids) for chunk in chunks)


def redeliver_matching(project: Project, filters: EventFilter) -> int:
    """Put every finished event that matches back to `pending`; returns how many were."""
    count = 0
    cursor: str | None = None
    while True:
        page = event_log().browse(project.pk, filters, cursor, _PAGE)
        count += redeliver(project, [row.id for row in page.rows])
        cursor = page.next_cursor
        if cursor is None:
            return count


def remove_trigger(trigger: Trigger) -> int:
    """Delete a trigger and cancel its unfinished events; returns how many those were."""
    return event_log().cancel(delete_trigger(trigger))


def remove_project(project: Project) -> None:
    """Delete a project with all it owns and cancel its unfinished events; its logs stay."""
    for trigger_id in delete_project(project):
        event_log().cancel(trigger_id)
