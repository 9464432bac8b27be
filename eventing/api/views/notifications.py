"""Where a project's troubles are told, for its administrators."""

from collections.abc import Mapping
from typing import Any, Final

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import ADMIN
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.representations import notification_shown
from eventing.api.views.base import ProjectView, operation
from eventing.definitions import NotificationDefinition, parse_notification
from eventing.lanes import MASK
from eventing.models import Notification
from eventing.notifications import (
    delete_notification,
    latest_notices,
    notification_definition_of,
    notifications_of,
    save_notification,
    send_test,
)

# Shown with a notification, and left alone when they are sent back.
_READ_ONLY: Final = frozenset({"service", "last"})


def _definition(
    body: Mapping[str, Any], stored: NotificationDefinition | None = None
) -> NotificationDefinition:
    """What a body describes; a mask stands for the address that is stored."""
    given = {name: value for name, value in body.items() if name not in _READ_ONLY}
    if given.get("url") == MASK:
        del given["url"]
    return parse_notification(given, stored)


class Notifications(ProjectView):
    read_role = ADMIN

    @operation(
        "list_notifications", {200: serializers.Notification(many=True)}, tag="notifications"
    )
    def get(self, request: Request, project: str) -> Response:
        """Where the project's troubles are told, by name."""
        latest = latest_notices(self.project)
        found = notifications_of(self.project)
        return Response([notification_shown(each, latest.get(each.pk)) for each in found])

    @operation(
        "create_notification",
        {201: serializers.Notification},
        request=serializers.Notification,
        tag="notifications",
    )
    def post(self, request: Request, project: str) -> Response:
        """Tell the project's troubles at one more address."""
        definition = _definition(mapping_of(request.data))
        saved = save_notification(self.project, definition, by=self.actor)
        address = reverse("api-notification", args=[self.project.name, saved.name])
        return Response(notification_shown(saved, None), status=201, headers={"Location": address})


class OneNotification(ProjectView):
    read_role = ADMIN

    def _notification(self) -> Notification:
        return get_object_or_404(notifications_of(self.project), name=self.kwargs["name"])

    @operation("get_notification", {200: serializers.Notification}, tag="notifications")
    def get(self, request: Request, project: str, name: str) -> Response:
        """A notification, without its address."""
        found = self._notification()
        return Response(notification_shown(found, latest_notices(self.project).get(found.pk)))

    @operation(
        "change_notification",
        {200: serializers.Notification},
        request=serializers.Notification,
        tag="notifications",
    )
    def patch(self, request: Request, project: str, name: str) -> Response:
        """Change some fields of a notification."""
        found = self._notification()
        stored = notification_definition_of(found)
        present = {
            "name": stored.name,
            "kinds": list(stored.kinds),
            "repeat_hours": stored.repeat_hours,
            "lag_seconds": stored.lag_seconds,
        }
        definition = _definition({**present, **mapping_of(request.data)}, stored)
        saved = save_notification(self.project, definition, found, by=self.actor)
        return Response(notification_shown(saved, latest_notices(self.project).get(saved.pk)))

    @operation("delete_notification", {204: None}, tag="notifications")
    def delete(self, request: Request, project: str, name: str) -> Response:
        """Tell nothing there any more."""
        delete_notification(self._notification(), by=self.actor)
        return Response(status=204)


class NotificationTest(ProjectView):
    @operation(
        "test_notification", {200: serializers.NotificationTrial}, request=None, tag="notifications"
    )
    def post(self, request: Request, project: str, name: str) -> Response:
        """Send a message that says it is a test, and say whether it was taken."""
        error = send_test(get_object_or_404(notifications_of(self.project), name=name))
        return Response({"taken": error is None, "error": error})
