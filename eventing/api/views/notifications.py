"""Where a project's troubles are told, for its administrators."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import ADMIN
from eventing.api import serializers
from eventing.api.bodies import mapping_of, merged
from eventing.api.etags import refuse_lost_update, tagged
from eventing.api.representations import notification_shown
from eventing.api.views.base import ProjectView, operation
from eventing.definitions import NotificationDefinition, parse_notification
from eventing.destinations.base import MASK
from eventing.models import Notice, Notification
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


def _written(definition: NotificationDefinition) -> dict[str, Any]:
    """A notification as `parse_notification` reads it, but for its masked address."""
    return {**asdict(definition), "kinds": list(definition.kinds), "url": MASK}


def _answer(
    notification: Notification, latest: Notice | None, status: int = 200, **headers: str
) -> Response:
    headers |= tagged(notification_definition_of(notification))
    return Response(notification_shown(notification, latest), status=status, headers=headers)


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
        tagged=True,
    )
    def post(self, request: Request, project: str) -> Response:
        """Tell the project's troubles at one more address."""
        definition = _definition(mapping_of(request.data))
        saved = save_notification(self.project, definition, by=self.actor)
        address = reverse("api-notification", args=[self.project.name, saved.name])
        return _answer(saved, None, 201, Location=address)


class OneNotification(ProjectView):
    read_role = ADMIN

    def _notification(self) -> Notification:
        return get_object_or_404(notifications_of(self.project), name=self.kwargs["name"])

    def _answer(self, notification: Notification) -> Response:
        latest = latest_notices(self.project).get(notification.pk)
        return _answer(notification, latest)

    @operation(
        "get_notification", {200: serializers.Notification}, tag="notifications", tagged=True
    )
    def get(self, request: Request, project: str, name: str) -> Response:
        """A notification, without its address."""
        return self._answer(self._notification())

    @operation(
        "change_notification",
        {200: serializers.Notification},
        request=serializers.Notification,
        tag="notifications",
        tagged=True,
    )
    def patch(self, request: Request, project: str, name: str) -> Response:
        """Change some fields of a notification (JSON Merge Patch, RFC 7396)."""
        patch = mapping_of(request.data)
        with self.project.held():
            found = self._notification()
            stored = notification_definition_of(found)
            refuse_lost_update(request, stored)
            definition = _definition(merged(_written(stored), patch), stored)
            saved = save_notification(self.project, definition, found, by=self.actor)
        return self._answer(saved)

    @operation("delete_notification", {204: None}, tag="notifications", tagged=True)
    def delete(self, request: Request, project: str, name: str) -> Response:
        """Tell nothing there any more."""
        with self.project.held():
            found = self._notification()
            refuse_lost_update(request, notification_definition_of(found))
            delete_notification(found, by=self.actor)
        return Response(status=204)


class NotificationTest(ProjectView):
    @operation(
        "test_notification", {200: serializers.NotificationTrial}, request=None, tag="notifications"
    )
    def post(self, request: Request, project: str, name: str) -> Response:
        """Send a message that says it is a test, and say whether it was taken."""
        error = send_test(get_object_or_404(notifications_of(self.project), name=name))
        return Response({"taken": error is None, "error": error})
