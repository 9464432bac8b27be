"""Redeliveries of everything that matches a filter, in the background."""

from typing import Final

from django.http import QueryDict
from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing import redeliveries
from eventing.access import EDITOR
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.filters import filters_of
from eventing.api.problem_details import Conflict
from eventing.api.representations import redelivery_shown
from eventing.api.views.base import ProjectView, operation

_MOST: Final = 100


class Redeliveries(ProjectView):
    write_role = EDITOR

    @operation("list_redeliveries", {200: serializers.Redeliveries}, tag="events")
    def get(self, request: Request, project: str) -> Response:
        """The latest hundred, newest first."""
        found = self.project.redeliveries.all()[:_MOST]
        return Response({"results": [redelivery_shown(each) for each in found]})

    @operation(
        "start_redelivery",
        {201: serializers.Redelivery},
        request=serializers.RedeliveryRequest,
        tag="events",
    )
    def post(self, request: Request, project: str) -> Response:
        """Begin to send every finished event again that matches, newest first."""
        given = dict(mapping_of(request.data))
        rate = given.pop("rate_per_second", 0)
        filters = filters_of(QueryDict(), given)
        started = redeliveries.start(self.project, filters, rate, by=self.actor)
        address = reverse("api-redelivery", args=[self.project.name, started.pk])
        return Response(redelivery_shown(started), status=201, headers={"Location": address})


class OneRedelivery(ProjectView):
    @operation("get_redelivery", {200: serializers.Redelivery}, tag="events")
    def get(self, request: Request, project: str, number: int) -> Response:
        """How far it is."""
        found = get_object_or_404(self.project.redeliveries, pk=number)
        return Response(redelivery_shown(found))


class RedeliveryCancelling(ProjectView):
    write_role = EDITOR

    @operation("cancel_redelivery", {200: serializers.Redelivery}, request=None, tag="events")
    def post(self, request: Request, project: str, number: int) -> Response:
        """Stop it; 409 if it has ended. Events that were put back stay so."""
        found = get_object_or_404(self.project.redeliveries, pk=number)
        if not redeliveries.cancel(found, by=self.actor):
            raise Conflict(f"this redelivery is {found.state}; only a running one can be cancelled")
        found.refresh_from_db()
        return Response(redelivery_shown(found))
