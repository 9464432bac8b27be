"""Projects and their settings."""

from collections.abc import Callable

from django.http import Http404
from django.urls import reverse
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.definitions import changed_settings, changed_title, new_project
from eventing.api.etags import refuse_lost_update, tagged
from eventing.api.representations import project_shown
from eventing.api.views.base import ApiView, ProjectView, operation
from eventing.configuration import settings_mapping
from eventing.definitions import SettingsDefinition, parse_settings
from eventing.eventing_dbs import prepare_for
from eventing.history import remove_project
from eventing.projects import (
    configuration_change,
    create_project,
    rename_project,
    settings_of,
    update_settings,
)


class Projects(ApiView):
    @operation("list_projects", {200: serializers.Project(many=True)}, tag="projects")
    def get(self, request: Request) -> Response:
        """The projects that are open to this token."""
        return Response([project_shown(project, self.actor) for project in self.actor.projects()])

    @operation(
        "create_project",
        {201: serializers.Project},
        request=serializers.Project,
        tag="projects",
    )
    def post(self, request: Request) -> Response:
        """Make a project; only administrators of the installation may."""
        if not self.actor.may_create_projects():
            raise PermissionDenied(
                "this takes an administrator of the installation, and a token with the role admin"
                " that is not bound to a project"
            )
        name, title, settings = new_project(mapping_of(request.data))
        project = create_project(name, settings, self.actor.user, by=self.actor, title=title)
        return Response(
            project_shown(project, self.actor),
            status=201,
            headers={"Location": reverse("api-project", args=[project.name])},
        )


class OneProject(ProjectView):
    @operation("get_project", {200: serializers.Project}, tag="projects")
    def get(self, request: Request, project: str) -> Response:
        """A project with its settings."""
        return Response(project_shown(self.project, self.actor))

    @operation(
        "rename_project",
        {200: serializers.Project},
        request=serializers.ProjectTitle,
        tag="projects",
    )
    def patch(self, request: Request, project: str) -> Response:
        """Change its title; its name stays as it is, and so does all that goes by it."""
        title = changed_title(self.project.title, mapping_of(request.data))
        rename_project(self.project, title, by=self.actor)
        return Response(project_shown(self.project, self.actor))

    @operation("delete_project", {204: None}, tag="projects")
    def delete(self, request: Request, project: str) -> Response:
        """Delete a project with all it owns; its unfinished events are cancelled."""
        remove_project(self.project, by=self.actor)
        return Response(status=204)


class ProjectSettings(ProjectView):
    def _answer(self) -> Response:
        settings = settings_of(self.project)
        return Response(settings_mapping(settings), headers=tagged(settings))

    def _save(self, change: Callable[[SettingsDefinition], SettingsDefinition]) -> Response:
        """Read, change and write while nobody else changes anything."""
        stored = settings_of(self.project)
        refuse_lost_update(self.request, stored)
        prepare_for(self.project, change(stored))
        with configuration_change():
            try:
                self.project.refresh_from_db()
            except self.project.DoesNotExist:
                raise Http404 from None
            stored = settings_of(self.project)
            refuse_lost_update(self.request, stored)
            update_settings(self.project, change(stored), by=self.actor)
        return self._answer()

    @operation("get_settings", {200: serializers.Settings}, tag="settings", tagged=True)
    def get(self, request: Request, project: str) -> Response:
        """The settings in force."""
        return self._answer()

    @operation(
        "replace_settings",
        {200: serializers.Settings},
        request=serializers.Settings,
        tag="settings",
        tagged=True,
    )
    def put(self, request: Request, project: str) -> Response:
        """Replace all settings; what is left out gets its default."""
        settings = parse_settings(mapping_of(request.data))
        return self._save(lambda stored: settings)

    @operation(
        "change_settings",
        {200: serializers.Settings},
        request=serializers.Settings,
        tag="settings",
        tagged=True,
    )
    def patch(self, request: Request, project: str) -> Response:
        """Change some settings (JSON Merge Patch, RFC 7396)."""
        patch = mapping_of(request.data)
        return self._save(lambda stored: changed_settings(stored, patch))
