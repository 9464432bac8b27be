"""What the health panel of the console tells."""

from rest_framework.request import Request
from rest_framework.response import Response

from eventing.api import serializers
from eventing.api.representations import health_shown
from eventing.api.views.base import ApiView, operation
from eventing.health import health_of


class InstallationHealth(ApiView):
    @operation("get_health", {200: serializers.Health}, tag="health")
    def get(self, request: Request) -> Response:
        """Which process was last seen when, what is not ready, and what stands still in the
        projects that are open to this token."""
        return Response(health_shown(health_of(self.actor.projects())))
