"""The databases of a project, and the doctor."""

from collections.abc import Callable
from typing import Any

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.definitions import changed_database, database_definition
from eventing.api.representations import database_shown, findings_shown
from eventing.api.views.base import ProjectView, operation
from eventing.definitions import DatabaseDefinition
from eventing.doctor import check_database
from eventing.models import Database
from eventing.projects import (
    capture_statuses,
    configuration_change,
    database_definition_of,
    delete_database,
    save_database,
)


def _shown(database: Database) -> dict[str, Any]:
    return database_shown(database, capture_statuses([database])[database.pk])


class Databases(ProjectView):
    @operation("list_databases", {200: serializers.Database(many=True)}, tag="databases")
    def get(self, request: Request, project: str) -> Response:
        """The project's databases and how their capture fares."""
        databases = list(self.project.databases.all())
        statuses = capture_statuses(databases)
        return Response([database_shown(each, statuses[each.pk]) for each in databases])

    @operation(
        "create_database",
        {201: serializers.Database},
        request=serializers.Database,
        tag="databases",
    )
    def post(self, request: Request, project: str) -> Response:
        """Add a database; capture connects to it as soon as eventing is enabled."""
        definition = database_definition(mapping_of(request.data), self.actor)
        database = save_database(self.project, definition, by=self.actor)
        address = reverse("api-database", args=[self.project.name, database.alias])
        return Response(_shown(database), status=201, headers={"Location": address})


class OneDatabase(ProjectView):
    def _database(self) -> Database:
        return get_object_or_404(self.project.databases, alias=self.kwargs["alias"])

    def _save(self, change: Callable[[DatabaseDefinition], DatabaseDefinition]) -> Response:
        """Read, change and write while nobody else changes anything."""
        with configuration_change():
            database = self._database()
            definition = change(database_definition_of(database))
            saved = save_database(self.project, definition, database, by=self.actor)
        return Response(_shown(saved))

    @operation("get_database", {200: serializers.Database}, tag="databases")
    def get(self, request: Request, project: str, alias: str) -> Response:
        """A database and how its capture fares."""
        return Response(_shown(self._database()))

    @operation(
        "replace_database",
        {200: serializers.Database},
        request=serializers.Database,
        tag="databases",
    )
    def put(self, request: Request, project: str, alias: str) -> Response:
        """Replace a database; another address means another source, captured from now on."""
        body = {"alias": alias, **mapping_of(request.data)}
        return self._save(lambda stored: database_definition(body, self.actor, stored))

    @operation(
        "change_database",
        {200: serializers.Database},
        request=serializers.Database,
        tag="databases",
    )
    def patch(self, request: Request, project: str, alias: str) -> Response:
        """Change some fields of a database (JSON Merge Patch, RFC 7396)."""
        patch = mapping_of(request.data)
        return self._save(lambda stored: changed_database(stored, patch, self.actor))

    @operation("delete_database", {204: None}, tag="databases")
    def delete(self, request: Request, project: str, alias: str) -> Response:
        """Remove a database; what was made at its server is taken away soon after."""
        delete_database(self._database(), by=self.actor)
        return Response(status=204)


class DatabaseCheck(ProjectView):
    @operation("check_database", {200: serializers.Findings}, request=None, tag="databases")
    def post(self, request: Request, project: str, alias: str) -> Response:
        """Check every prerequisite of a database now, by connecting to it."""
        database = get_object_or_404(self.project.databases, alias=alias)
        return Response(findings_shown(check_database(database)))
