"""A project as YAML: taken out, and put in with its plan."""

import os
from typing import Final

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import ADMIN
from eventing.api import serializers
from eventing.api.bodies import YAML_MEDIA_TYPE, BoundedYAMLParser
from eventing.api.etags import refuse_lost_update, tagged
from eventing.api.filters import apply_options_of, refuse_parameters
from eventing.api.views.base import ProjectView, operation
from eventing.configuration import apply_to, export, project_definition_of
from eventing.definitions import ProjectDefinition
from eventing.history import cancel
from eventing.models import Project

_WITH_CHARSET: Final = f"{YAML_MEDIA_TYPE}; charset=utf-8"


class Configuration(ProjectView):
    parser_classes = (BoundedYAMLParser,)
    read_role = ADMIN
    takes_parameters = True

    @operation(
        "get_configuration",
        {(200, YAML_MEDIA_TYPE): OpenApiTypes.ANY},
        tag="configuration",
        tagged=True,
    )
    def get(self, request: Request, project: str) -> HttpResponse:
        """The project as a configuration file, secrets as references."""
        refuse_parameters(request.query_params)
        text = export(self.project.name)
        headers = tagged(project_definition_of(self.project))
        return HttpResponse(text, content_type=_WITH_CHARSET, headers=headers)

    @operation(
        "apply_configuration",
        {200: serializers.Applied},
        parameters=[serializers.ApplyOptions],
        request={YAML_MEDIA_TYPE: OpenApiTypes.ANY},
        tag="configuration",
        tagged=True,
    )
    def put(self, request: Request, project: str) -> Response:
        """Make the project what a configuration file says, or only plan that. A reference that
        was written for a secret stands, in its place alone, for what is stored there."""
        options = apply_options_of(request.query_params)

        def check(stored: ProjectDefinition) -> None:
            refuse_lost_update(request, stored)

        check(project_definition_of(self.project))
        plan = apply_to(
            self.project,
            # Without a body there is none.
            request.data if isinstance(request.data, str) else "",
            os.environ,
            by=self.actor,
            dry_run=options.dry_run,
            prune=options.prune,
            check=check,
        )
        cancel(plan.cancelled_triggers)
        present = get_object_or_404(Project, pk=self.project.pk)
        shown = {"plan": list(plan.lines), "applied": not options.dry_run}
        return Response(shown, headers=tagged(project_definition_of(present)))
