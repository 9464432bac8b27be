"""The databases of a project, and the doctor."""

from collections.abc import Callable
from dataclasses import asdict

from django.shortcuts import get_object_or_404
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import EDITOR
from eventing.api import serializers
from eventing.api.bodies import mapping_of
from eventing.api.definitions import changed_database, database_definition
from eventing.api.etags import refuse_lost_update, tagged
from eventing.api.problem_details import Unavailable
from eventing.api.representations import database_shown, findings_shown
from eventing.api.views.base import ProjectView, operation
from eventing.capture_status import capture_statuses
from eventing.definitions import DatabaseDefinition
from eventing.doctor import catalogue, check, check_database
from eventing.models import Database
from eventing.projects import (
    configuration_change,
    database_definition_of,
    delete_database,
    save_database,
    start_anew,
)
from eventing.sources.base import SourceUnavailable
from eventing.table_counts import NO_ANSWER, count_tables


def _answer(database: Database, status: int = 200, **headers: str) -> Response:
    headers |= tagged(database_definition_of(database))
    shown = database_shown(database, capture_statuses([database])[database.pk])
    return Response(shown, status=status, headers=headers)


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
        tagged=True,
    )
    def post(self, request: Request, project: str) -> Response:
        """Add a database; capture connects to it as soon as eventing is enabled."""
        definition = database_definition(mapping_of(request.data), self.actor)
        database = save_database(self.project, definition, by=self.actor)
        address = reverse("api-database", args=[self.project.name, database.alias])
        return _answer(database, 201, Location=address)


class OneDatabase(ProjectView):
    def _database(self) -> Database:
        return get_object_or_404(self.project.databases, alias=self.kwargs["alias"])

    def _save(self, change: Callable[[DatabaseDefinition], DatabaseDefinition]) -> Response:
        """Read, change and write while nobody else changes anything."""
        with configuration_change():
            database = self._database()
            stored = database_definition_of(database)
            refuse_lost_update(self.request, stored)
            saved = save_database(self.project, change(stored), database, by=self.actor)
        return _answer(saved)

    @operation("get_database", {200: serializers.Database}, tag="databases", tagged=True)
    def get(self, request: Request, project: str, alias: str) -> Response:
        """A database and how its capture fares."""
        return _answer(self._database())

    @operation(
        "replace_database",
        {200: serializers.Database},
        request=serializers.Database,
        tag="databases",
        tagged=True,
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
        tagged=True,
    )
    def patch(self, request: Request, project: str, alias: str) -> Response:
        """Change some fields of a database (JSON Merge Patch, RFC 7396)."""
        patch = mapping_of(request.data)
        return self._save(lambda stored: changed_database(stored, patch, self.actor))

    @operation("delete_database", {204: None}, tag="databases", tagged=True)
    def delete(self, request: Request, project: str, alias: str) -> Response:
        """Remove a database; what was made at its server is taken away soon after."""
        with configuration_change():
            database = self._database()
            refuse_lost_update(self.request, database_definition_of(database))
            delete_database(database, by=self.actor)
        return Response(status=204)


class DatabaseStartingAnew(ProjectView):
    @operation("start_database_anew", {204: None}, request=None, tag="databases")
    def post(self, request: Request, project: str, alias: str) -> Response:
        """Accept that changes may have been lost, and capture from now on."""
        start_anew(get_object_or_404(self.project.databases, alias=alias), by=self.actor)
        return Response(status=204)


class DatabaseTables(ProjectView):
    read_role = EDITOR

    @operation("list_tables", {200: serializers.Table(many=True)}, tag="databases")
    def get(self, request: Request, project: str, alias: str) -> Response:
        """What can be captured of a database, by connecting to it; 503 if it does not answer."""
        database = get_object_or_404(self.project.databases, alias=alias)
        try:
            return Response([asdict(table) for table in catalogue(database)])
        except SourceUnavailable as error:
            raise Unavailable(str(error)) from None


class DatabaseTableCount(ProjectView):
    @operation("count_tables", {200: serializers.TableCount}, tag="databases")
    def get(self, request: Request, project: str, alias: str) -> Response:
        """How many tables of a database can be captured; what was found is kept for ten minutes.
        503 if it does not answer."""
        count = count_tables(get_object_or_404(self.project.databases, alias=alias))
        if count == NO_ANSWER:
            raise Unavailable("the database does not answer, or did not a minute ago")
        return Response({"tables": count})


class CandidateCheck(ProjectView):
    @operation(
        "check_candidate",
        {200: serializers.Findings},
        request=serializers.Database,
        tag="databases",
    )
    def post(self, request: Request, project: str) -> Response:
        """Check every prerequisite of a database that is not saved, and save nothing."""
        definition = database_definition(mapping_of(request.data), self.actor)
        return Response(findings_shown(check(definition)))


class DatabaseCheck(ProjectView):
    @operation("check_database", {200: serializers.Findings}, request=None, tag="databases")
    def post(self, request: Request, project: str, alias: str) -> Response:
        """Check every prerequisite of a database now, by connecting to it."""
        database = get_object_or_404(self.project.databases, alias=alias)
        return Response(findings_shown(check_database(database)))
