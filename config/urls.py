"""Every address of the installation, and who answers where a view cannot: REST in its own way,
pages in theirs.
"""

from typing import Final

from django.http import HttpResponse
from django.urls import include, path

from eventing.api import problem_details
from webui.requests import Request
from webui.views import errors

_REST: Final = "/api/v1/"

urlpatterns = [
    path("", include("eventing.api.urls")),
    path("", include("webui.urls")),
]


def handler400(request: Request, exception: Exception) -> HttpResponse:
    """The 400 of a request that no view has seen, such as one for a host that is not ours."""
    is_rest = request.path.startswith(_REST)
    return problem_details.bad_request(request) if is_rest else errors.bad_request(request)


def handler500(request: Request) -> HttpResponse:
    """The 500 of an error outside any view of REST."""
    is_rest = request.path.startswith(_REST)
    return problem_details.server_error(request) if is_rest else errors.server_error(request)
