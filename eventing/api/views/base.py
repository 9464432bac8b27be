"""What every view of the API is: JSON in and out, a token, and a project that the token may see."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, cast

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.views import APIView

from eventing.access import ADMIN, VIEWER, Actor
from eventing.api import serializers
from eventing.api.bodies import BoundedJSONParser, ExactJSONRenderer, JSONOnly
from eventing.api.filters import refuse_parameters
from eventing.api.problem_details import MEDIA_TYPE, LengthRequired
from eventing.models import Membership, Project

ANYTHING_ELSE: Final = ("default", MEDIA_TYPE)


def operation(operation_id: str, answers: Mapping[int, Any], *, tag: str, **more: Any) -> Any:
    """How OpenAPI describes a method; whatever `answers` does not name is problem details."""
    return extend_schema(
        operation_id=operation_id,
        responses={**answers, ANYTHING_ELSE: serializers.ProblemDetails},
        tags=[tag],
        **more,
    )


class ApiView(APIView):
    """A view of the API."""

    parser_classes = (BoundedJSONParser,)
    renderer_classes = (ExactJSONRenderer,)
    content_negotiation_class = JSONOnly
    http_method_names = ("get", "head", "post", "put", "patch", "delete")
    read_role: Membership.Role = VIEWER
    # What anything but reading takes.
    write_role: Membership.Role = ADMIN
    takes_parameters = False

    @property
    def actor(self) -> Actor:
        """Who calls."""
        return cast(Actor, self.request.auth)

    @property
    def project(self) -> Project | None:
        """The project the view is about, if it is about one. Raises Http404."""
        return None

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if "Transfer-Encoding" in request.headers and "Content-Length" not in request.headers:
            raise LengthRequired
        if not self.takes_parameters:
            refuse_parameters(request.query_params)


class ProjectView(ApiView):
    """A view about one project, named by the address."""

    @cached_property
    def project(self) -> Project:
        return get_object_or_404(self.actor.projects(), name=self.kwargs["project"])
