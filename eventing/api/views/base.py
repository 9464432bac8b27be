"""What every view of the API is: JSON in and out, a token, and a project that the token may see."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, cast

from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.response import Response
from rest_framework.views import APIView

from eventing.access import ADMIN, VIEWER, Actor
from eventing.api import serializers
from eventing.api.bodies import BoundedJSONParser, ExactJSONRenderer, JSONOnly
from eventing.api.filters import refuse_parameters
from eventing.api.idempotency import HEADER, KEY, Post, once_per_key
from eventing.api.problem_details import MEDIA_TYPE, LengthRequired
from eventing.models import Membership, Project

ANYTHING_ELSE: Final = ("default", MEDIA_TYPE)


_KEY_OF_POST: Final = OpenApiParameter(
    HEADER,
    {"type": "string", "pattern": f"^{KEY.pattern}$"},
    OpenApiParameter.HEADER,
    description="Sent again with the same key within 24 hours, the request is done once, and the"
    " first answer given again.",
)
_IF_MATCH: Final = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The ETag of what the change was made for; 412 if it has been changed since.",
)
_ETAG: Final = OpenApiParameter(
    "ETag",
    str,
    OpenApiParameter.HEADER,
    response=[200, 201],
    description="Names the definition that is shown.",
)


def operation(
    operation_id: str,
    answers: Mapping[Any, Any],
    *,
    tag: str,
    tagged: bool = False,
    parameters: Sequence[Any] = (),
    **more: Any,
) -> Callable[[Callable[..., HttpResponseBase]], Any]:
    """A method of the API, and how OpenAPI describes it: `answers` by status (and media type).

    Whatever `answers` does not name is problem details; `tagged`: it shows, or changes, what has
    an ETag. A POST is done once for each `Idempotency-Key`.
    """

    def described(method: Callable[..., HttpResponseBase]) -> Any:
        name = method.__name__
        headers = [_KEY_OF_POST] if name == "post" else []
        if tagged and name != "delete":
            headers.append(_ETAG)
        if tagged and name in ("put", "patch", "delete"):
            headers.append(_IF_MATCH)
        describe = extend_schema(
            operation_id=operation_id,
            responses={**answers, ANYTHING_ELSE: serializers.ProblemDetails},
            tags=[tag],
            parameters=[*parameters, *headers],
            **more,
        )
        return describe(once_per_key(cast(Post, method)) if name == "post" else method)

    return described


class ApiView(APIView):
    """A view of the API."""

    parser_classes: Sequence[type[BaseParser]] = (BoundedJSONParser,)
    renderer_classes = (ExactJSONRenderer,)
    content_negotiation_class = JSONOnly
    http_method_names = ("get", "head", "post", "put", "patch", "delete")
    read_role: Membership.Role = VIEWER
    # What everything but reading requires.
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

    def finalize_response(
        self, request: Any, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        final: Response = super().finalize_response(request, response, *args, **kwargs)
        final.headers.setdefault("Cache-Control", "no-store")
        return final


class ProjectView(ApiView):
    """A view about one project, named by the address."""

    @cached_property
    def project(self) -> Project:
        return get_object_or_404(self.actor.projects(), name=self.kwargs["project"])
