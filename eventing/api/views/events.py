"""The event log of a project: browsing it, redelivering from it, counting it."""

from itertools import chain
from uuid import UUID

from django.http import Http404, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response

from eventing import exports, history, redeliveries
from eventing.access import EDITOR, Actor
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.filters import (
    event_ids_of,
    export_selection_of,
    filters_of,
    refuse_parameters,
    refused_cursor,
    selection_of,
)
from eventing.api.problem_details import Conflict
from eventing.api.representations import event_shown, event_shown_whole
from eventing.api.views.base import ProjectView, operation
from eventing.changes import UNFINISHED
from eventing.history import redeliver, redeliver_matching
from eventing.logs.base import EventDetail, InvalidCursor
from eventing.models import Project, Trigger


def _event(project: Project, event_id: UUID, actor: Actor) -> EventDetail:
    """Raises Http404."""
    detail = history.event(project, event_id, by=actor)
    if detail is None:
        raise Http404
    return detail


class Events(ProjectView):
    takes_parameters = True

    @operation(
        "list_events",
        {200: serializers.EventPage},
        parameters=[serializers.EventSelection],
        tag="events",
    )
    def get(self, request: Request, project: str) -> Response:
        """A page of events, newest first."""
        selection = selection_of(request.query_params)
        try:
            page = history.browse(
                self.project, selection.filters, selection.cursor, selection.limit
            )
        except InvalidCursor:
            raise refused_cursor(selection.cursor) from None
        return Response(
            {"results": [event_shown(row) for row in page.rows], "next": page.next_cursor}
        )


class OneEvent(ProjectView):
    @operation("get_event", {200: serializers.EventDetail}, tag="events")
    def get(self, request: Request, project: str, event_id: UUID) -> Response:
        """An event with its payload and its invocations, oldest first."""
        return Response(event_shown_whole(_event(self.project, event_id, self.actor)))


class EventRedelivery(ProjectView):
    write_role = EDITOR

    @operation("redeliver_event", {202: serializers.Event}, request=None, tag="events")
    def post(self, request: Request, project: str, event_id: UUID) -> Response:
        """Send a finished event again, with a fresh retry budget; 409 if that cannot be."""
        before = _event(self.project, event_id, self.actor)
        if redeliver(self.project, [event_id], by=self.actor) == 0:
            raise Conflict(_why_not(before))
        after = _event(self.project, event_id, self.actor)
        return Response(event_shown(after.row), status=202)


def _why_not(event: EventDetail) -> str:
    """Why the log left this event as it is."""
    if event.row.problem is not None:
        return f"this event can never be sent: {event.row.problem}"
    if event.payload is None:
        return "the payload of this event has expired"
    if event.row.status in UNFINISHED:
        return f"this event is {event.row.status}; only a finished one can be redelivered"
    if not Trigger.objects.filter(pk=event.row.trigger_id).exists():
        return f"the trigger {event.row.trigger} of this event has been deleted"
    return "this event could not be redelivered; someone else may just have done so"


class EventsCount(ProjectView):
    read_role = EDITOR
    takes_parameters = True

    @operation(
        "count_events",
        {200: serializers.EventCount},
        parameters=[serializers.EventFilters],
        tag="events",
    )
    def get(self, request: Request, project: str) -> Response:
        """How many events match, as far as that can be counted within a few seconds."""
        filters = filters_of(request.query_params, {})
        most = redeliveries.MOST_COUNTED
        count = history.count(self.project, filters, most)
        return Response({"count": count, "or_more": count == most})


class EventsRedelivery(ProjectView):
    write_role = EDITOR
    takes_parameters = True

    @operation(
        "redeliver_events",
        {202: serializers.Redelivered},
        parameters=[serializers.EventFilters],
        request=serializers.EventsToRedeliver,
        tag="events",
    )
    def post(self, request: Request, project: str) -> Response:
        """Send every finished event again that is named (`ids`), or else that matches; filters in
        the query or in the body."""
        body = mapping_of(request.data)
        if "ids" in body:
            refuse_parameters(request.query_params)
            count = redeliver(self.project, event_ids_of(body), by=self.actor)
        else:
            filters = filters_of(request.query_params, body)
            count = redeliver_matching(self.project, filters, by=self.actor)
        return Response({"redelivered": count}, status=202)


class EventsExport(ProjectView):
    takes_parameters = True

    @operation(
        "export_events",
        {(200, kind): OpenApiTypes.STR for kind in ("text/csv", "application/jsonl")},
        parameters=[serializers.EventExport],
        tag="events",
    )
    def get(self, request: Request, project: str) -> StreamingHttpResponse:
        """The newest 50 000 events that match as a file, whose last line says if there are more."""
        selection = export_selection_of(request.query_params)
        lines = exports.lines(
            self.project,
            selection.filters,
            selection.kind,
            by=self.actor,
            with_payloads=selection.with_payloads,
        )
        # What fails before the first line is an answer of its own.
        first = next(lines)
        name = exports.file_name(self.project, selection.kind)
        return StreamingHttpResponse(
            chain([first], lines),
            content_type=exports.MEDIA_TYPES[selection.kind],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


class EventsCancelling(ProjectView):
    write_role = EDITOR

    @operation(
        "cancel_events",
        {200: serializers.Cancelled},
        request=serializers.EventChoice,
        tag="events",
    )
    def post(self, request: Request, project: str) -> Response:
        """Cancel those of the named events that are pending; the others are left as they are."""
        ids = event_ids_of(mapping_of(request.data))
        return Response({"cancelled": history.cancel_events(self.project, ids, by=self.actor)})


class Stats(ProjectView):
    @operation("get_stats", {200: serializers.Counts}, tag="events")
    def get(self, request: Request, project: str) -> Response:
        """How many events have which status."""
        return Response(history.counts(self.project))
