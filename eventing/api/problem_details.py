"""Every refusal of the API as RFC 9457 problem details, one entry for each field that is wrong.

An unexpected error is logged with its traceback and answered without one.
"""

from http import HTTPStatus
from typing import Any, Final

import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from eventing.access import REQUESTS_PER_MINUTE, TooManyRequests
from eventing.api.bodies import as_json
from eventing.logs.base import LogOutdated, LogUnavailable, SearchTooDeep
from eventing.models.fields import UndecryptableValue
from eventing.problems import InvalidInput, Problem, shown

MEDIA_TYPE: Final = "application/problem+json"

_TOO_MANY: Final = (
    f"a token may make {REQUESTS_PER_MINUTE} requests a minute; try again in {{seconds}} s"
)

logger = structlog.get_logger(__name__)


class Conflict(exceptions.APIException):
    """The request is fine, the state of what it is about is not."""

    status_code = 409


class PreconditionFailed(exceptions.APIException):
    """What the request was made for has been changed meanwhile (RFC 9110 section 15.5.13)."""

    status_code = 412
    default_detail = (
        "nothing was changed; If-Match names an earlier state than the present one: read it again"
    )


class Unavailable(exceptions.APIException):
    """What the answer needs, such as a source, does not answer."""

    status_code = 503


class LengthRequired(exceptions.APIException):
    """A body in chunks, which Django would take for an empty one (RFC 9110 section 15.5.12)."""

    status_code = 411
    default_detail = "the body needs a Content-Length; it is not taken in chunks"


def answer(error: Exception, context: dict[str, Any]) -> Response:
    """The response to an error raised in a view; REST framework's `EXCEPTION_HANDLER`."""
    set_rollback()
    request = context["request"]
    status, detail, errors = _described(error)
    headers = {}
    if isinstance(error, exceptions.UnsupportedMediaType):
        # RFC 9110 section 15.5.16: the answer tells by Accept what would have been taken.
        headers["Accept"] = ", ".join(each.media_type for each in context["view"].parser_classes)
        given = request.content_type or None
        detail = str(Problem("Content-Type", shown(given), headers["Accept"]))
    elif isinstance(error, exceptions.APIException):
        if authenticate := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = authenticate
    elif isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.wait_seconds)
    elif status >= 500:
        logger.error("a request failed", method=request.method, path=request.path, exc_info=error)
    return Response(
        _problem(request.path, status, detail, errors),
        status=status,
        headers=headers,
        content_type=MEDIA_TYPE,
    )


@csrf_exempt
def nothing_here(request: HttpRequest, path: str = "") -> HttpResponse:
    """The 404 of an address below `/api/v1/` that leads nowhere."""
    detail = "there is nothing at this address; every address is listed at /api/docs/"
    if not request.path.endswith("/"):
        detail = "there is nothing at this address; the addresses of this API end with a slash"
    content = as_json(_problem(request.path, 404, detail))
    return HttpResponse(content, status=404, content_type=MEDIA_TYPE)


def bad_request(request: HttpRequest) -> HttpResponse:
    """The 400 of a request that no view has seen, such as one for a host that is not ours."""
    detail = "the request is not understood"
    content = as_json(_problem(request.path, 400, detail))
    return HttpResponse(content, status=400, content_type=MEDIA_TYPE)


def server_error(request: HttpRequest) -> HttpResponse:
    """The 500 of an error outside any view."""
    content = as_json(_problem(request.path, 500, None))
    return HttpResponse(content, status=500, content_type=MEDIA_TYPE)


def _described(error: Exception) -> tuple[int, str | None, list[dict[str, str]]]:
    """Status, detail, and what is wrong with each field."""
    if isinstance(error, InvalidInput):
        errors = [{"field": each.field, "detail": str(each)} for each in error.problems]
        return 422, f"nothing was changed; {error}", errors
    if isinstance(error, Http404):
        return 404, "there is no such thing, or it is not open to this token", []
    if isinstance(error, PermissionDenied):
        return 403, "this token may not do that", []
    if isinstance(error, TooManyRequests):
        return 429, _TOO_MANY.format(seconds=error.wait_seconds), []
    if isinstance(error, UnreadablePostError):
        return 408, "the body did not arrive in time", []
    if isinstance(error, RequestDataTooBig):
        return 413, "the request's body is too large", []
    if isinstance(error, SearchTooDeep):
        return 422, str(error), [_narrowing(name) for name in error.narrow]
    if isinstance(error, UndecryptableValue):
        return 503, str(error), []
    if isinstance(error, LogOutdated):
        return 503, str(error), []
    if isinstance(error, LogUnavailable):
        return 503, "the Eventing DB does not answer; try again later", []
    if isinstance(error, OperationalError | InterfaceError):
        return 503, "the control database does not answer; try again later", []
    if isinstance(error, MemoryError):
        return 503, "there is not enough memory for this; try again later", []
    if isinstance(error, exceptions.APIException):
        return error.status_code, str(error.detail), []
    return 500, None, []


def _narrowing(name: str) -> dict[str, str]:
    """An entry for a filter that would have made a search shorter."""
    field = {"document_id": "doc_id"}.get(name, name)
    wanted = "a later time" if field == "after" else "a value"
    return {"field": field, "detail": f"give {wanted} to have less to look through"}


def _problem(
    instance: str, status: int, detail: str | None, errors: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    """RFC 9457 section 3.1; with `about:blank` the title is the status's own phrase."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "instance": instance,
    }
    if detail is not None:
        problem["detail"] = detail
    if errors:
        problem["errors"] = errors
    return problem
