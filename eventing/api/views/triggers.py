"""The triggers of a project, and test events."""

from collections.abc import Callable

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import EDITOR
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.definitions import changed_trigger, drafted_trigger, trigger_definition
from eventing.api.etags import refuse_lost_update, tagged
from eventing.api.problem_details import Conflict, Unavailable
from eventing.api.representations import deed_shown, sample_shown, trial_shown, trigger_shown
from eventing.api.views.base import ProjectView, operation
from eventing.audit import history_of
from eventing.capture_status import is_live, live_triggers
from eventing.definitions import TriggerDefinition
from eventing.history import remove_trigger
from eventing.models import Trigger
from eventing.problems import InvalidInput
from eventing.projects import (
    configuration_change,
    retire_signing_secrets,
    rotate_signing_secret,
    save_trigger,
    signing_secrets_of,
    trigger_definition_of,
)
from eventing.sources.base import SourceUnavailable
from eventing.trial import NOWHERE, sample_payload, send_test_event, try_out


def _answer(trigger: Trigger, status: int = 200, **headers: str) -> Response:
    headers |= tagged(trigger_definition_of(trigger))
    return Response(trigger_shown(trigger, is_live(trigger)), status=status, headers=headers)


class Triggers(ProjectView):
    write_role = EDITOR

    @operation("list_triggers", {200: serializers.Trigger(many=True)}, tag="triggers")
    def get(self, request: Request, project: str) -> Response:
        """The project's triggers."""
        triggers = list(self.project.triggers.select_related("project", "breaker"))
        live = live_triggers(triggers)
        return Response([trigger_shown(trigger, trigger.pk in live) for trigger in triggers])

    @operation(
        "create_trigger",
        {201: serializers.Trigger},
        request=serializers.Trigger,
        tag="triggers",
        tagged=True,
    )
    def post(self, request: Request, project: str) -> Response:
        """Add a trigger; it takes effect once `live` is true."""
        definition = trigger_definition(mapping_of(request.data), self.actor)
        trigger = save_trigger(self.project, definition, by=self.actor)
        address = reverse("api-trigger", args=[self.project.name, trigger.name])
        return _answer(trigger, 201, Location=address)


class OneTrigger(ProjectView):
    write_role = EDITOR

    def _trigger(self) -> Trigger:
        return get_object_or_404(self.project.triggers, name=self.kwargs["name"])

    def _save(self, change: Callable[[TriggerDefinition], TriggerDefinition]) -> Response:
        """Read, change and write while nobody else changes anything."""
        with configuration_change():
            trigger = self._trigger()
            stored = trigger_definition_of(trigger)
            refuse_lost_update(self.request, stored)
            saved = save_trigger(self.project, change(stored), trigger, by=self.actor)
        return _answer(saved)

    @operation("get_trigger", {200: serializers.Trigger}, tag="triggers", tagged=True)
    def get(self, request: Request, project: str, name: str) -> Response:
        """A trigger."""
        return _answer(self._trigger())

    @operation(
        "replace_trigger",
        {200: serializers.Trigger},
        request=serializers.Trigger,
        tag="triggers",
        tagged=True,
    )
    def put(self, request: Request, project: str, name: str) -> Response:
        """Replace a trigger; what is left out gets its default."""
        body = {"name": name, **mapping_of(request.data)}
        return self._save(lambda stored: trigger_definition(body, self.actor, stored))

    @operation(
        "change_trigger",
        {200: serializers.Trigger},
        request=serializers.Trigger,
        tag="triggers",
        tagged=True,
    )
    def patch(self, request: Request, project: str, name: str) -> Response:
        """Change some fields of a trigger (JSON Merge Patch, RFC 7396)."""
        patch = mapping_of(request.data)
        return self._save(lambda stored: changed_trigger(stored, patch, self.actor))

    @operation("delete_trigger", {204: None}, tag="triggers", tagged=True)
    def delete(self, request: Request, project: str, name: str) -> Response:
        """Delete a trigger; its unfinished events are cancelled."""

        def check(stored: Trigger) -> None:
            refuse_lost_update(request, trigger_definition_of(stored))

        remove_trigger(self._trigger(), by=self.actor, check=check)
        return Response(status=204)


class TriggerHistory(ProjectView):
    @operation("list_trigger_history", {200: serializers.Deed(many=True)}, tag="triggers")
    def get(self, request: Request, project: str, name: str) -> Response:
        """The latest ten entries of the audit log about a trigger, under whatever name, newest
        first."""
        trigger = get_object_or_404(self.project.triggers, name=name)
        return Response([deed_shown(entry) for entry in history_of(trigger)])


class TriggerTest(ProjectView):
    write_role = EDITOR

    @operation("test_trigger", {200: serializers.Trial}, request=None, tag="triggers")
    def post(self, request: Request, project: str, name: str) -> Response:
        """Send one made-up event to the trigger's webhook and show the whole exchange."""
        trigger = get_object_or_404(self.project.triggers, name=name)
        return Response(trial_shown(send_test_event(trigger)))


class TriggerSecret(ProjectView):
    write_role = EDITOR

    @operation("reveal_secret", {200: serializers.SigningSecrets}, request=None, tag="triggers")
    def post(self, request: Request, project: str, name: str) -> Response:
        """The signing secrets, which the endpoint needs; that they were asked for is noted."""
        trigger = get_object_or_404(self.project.triggers, name=name)
        return Response({"secrets": signing_secrets_of(trigger, by=self.actor)})


class TriggerSecretRotation(ProjectView):
    write_role = EDITOR

    @operation("rotate_secret", {200: serializers.SigningSecrets}, request=None, tag="triggers")
    def post(self, request: Request, project: str, name: str) -> Response:
        """Add a signing secret beside the one there is; 409 while there are two already."""
        trigger = get_object_or_404(self.project.triggers, name=name)
        try:
            return Response({"secrets": [rotate_signing_secret(trigger, by=self.actor)]})
        except InvalidInput as error:
            raise Conflict(str(error)) from None


class TriggerSecretRetirement(ProjectView):
    write_role = EDITOR

    @operation("retire_secret", {204: None}, request=None, tag="triggers")
    def post(self, request: Request, project: str, name: str) -> Response:
        """Sign with the newest secret alone; 409 if there is no older one."""
        trigger = get_object_or_404(self.project.triggers, name=name)
        if not retire_signing_secrets(trigger, by=self.actor):
            raise Conflict("there is no older secret to retire")
        return Response(status=204)


class DraftSample(ProjectView):
    write_role = EDITOR

    @operation(
        "sample_draft",
        {200: serializers.SamplePayload},
        request=serializers.Draft,
        tag="triggers",
    )
    def post(self, request: Request, project: str) -> Response:
        """What a trigger would send for a row that is there now, read on request; nothing is saved
        or sent. 503 if its database does not answer."""
        given = {**mapping_of(request.data), "url": NOWHERE}
        _, definition = drafted_trigger(self.project, given, self.actor)
        try:
            return Response(sample_shown(sample_payload(self.project, definition)))
        except SourceUnavailable as error:
            raise Unavailable(str(error)) from None


class DraftTest(ProjectView):
    write_role = EDITOR

    @operation(
        "test_draft", {200: serializers.Trial}, request=serializers.DraftToSend, tag="triggers"
    )
    def post(self, request: Request, project: str) -> Response:
        """Send one made-up event to the webhook of a trigger that is not saved, and show the
        exchange."""
        stored, definition = drafted_trigger(self.project, mapping_of(request.data), self.actor)
        return Response(trial_shown(try_out(self.project, definition, stored)))
