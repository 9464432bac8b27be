"""Every address of the installation, and who answers where a view cannot: REST in its own way,
pages in theirs.
"""

from django.http import HttpResponse
from django.urls import include, path

from eventing.api import problem_details
from eventing.api.urls import REST
from webui.requests import Request
from webui.views import errors

urlpatterns = [
    path("", include("eventing.api.urls")),
    path("", include("webui.urls")),
]


def handler400(request: Request, exception: Exception) -> HttpResponse:
    """The 400 of a request that no view has seen, such as one for a host that is not ours."""
    if _is_rest(request):
        return problem_details.bad_request(request)
    return errors.bad_request(request)


def handler500(request: Request) -> HttpResponse:
    """The 500 of an error outside any view of REST."""
    if _is_rest(request):
        return problem_details.server_error(request)
    return errors.server_error(request)


def _is_rest(request: Request) -> bool:
    return request.path.startswith(f"/{REST}")
