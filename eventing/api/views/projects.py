"""Projects and their settings."""

from django.http import Http404
from django.urls import reverse
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.definitions import changed_settings, new_project
from eventing.api.representations import project_shown, settings_shown
from eventing.api.views.base import ApiView, ProjectView, operation
from eventing.definitions import parse_settings
from eventing.eventing_dbs import prepare_for
from eventing.history import remove_project
from eventing.projects import configuration_change, create_project, settings_of, update_settings


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
        name, settings = new_project(mapping_of(request.data))
        project = create_project(name, settings, self.actor.user, by=self.actor)
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

    @operation("delete_project", {204: None}, tag="projects")
    def delete(self, request: Request, project: str) -> Response:
        """Delete a project with all it owns; its unfinished events are cancelled."""
        remove_project(self.project, by=self.actor)
        return Response(status=204)


class ProjectSettings(ProjectView):
    @operation("get_settings", {200: serializers.Settings}, tag="settings")
    def get(self, request: Request, project: str) -> Response:
        """The settings in force."""
        return Response(settings_shown(settings_of(self.project)))

    @operation(
        "replace_settings",
        {200: serializers.Settings},
        request=serializers.Settings,
        tag="settings",
    )
    def put(self, request: Request, project: str) -> Response:
        """Replace all settings; what is left out gets its default."""
        settings = parse_settings(mapping_of(request.data))
        prepare_for(self.project, settings)
        update_settings(self.project, settings, by=self.actor)
        return Response(settings_shown(settings_of(self.project)))

    @operation(
        "change_settings",
        {200: serializers.Settings},
        request=serializers.Settings,
        tag="settings",
    )
    def patch(self, request: Request, project: str) -> Response:
        """Change some settings (JSON Merge Patch, RFC 7396)."""
        patch = mapping_of(request.data)
        prepare_for(self.project, changed_settings(settings_of(self.project), patch))
        with configuration_change():
            try:
                self.project.refresh_from_db()
            except self.project.DoesNotExist:
                raise Http404 from None
            settings = changed_settings(settings_of(self.project), patch)
            update_settings(self.project, settings, by=self.actor)
        return Response(settings_shown(settings_of(self.project)))
