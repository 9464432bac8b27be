"""What holds for every page: nothing but our own files may run, load or frame it, and it is asked
for by GET or POST alone.
"""

from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

_METHODS: Final = ("GET", "HEAD", "POST")
POLICY: Final = (
    "default-src 'self'; base-uri 'self'; object-src 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)


class ConsoleMethodsMiddleware:
    """Refuses what no page of the console takes, before any view could mistake it for a GET."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., HttpResponse], *_: Any
    ) -> HttpResponse | None:
        """405 for a page of the console that is asked for in another way."""
        if view.__module__.startswith("eventing.api") or request.method in _METHODS:
            return None
        return HttpResponseNotAllowed(_METHODS)


class ContentSecurityPolicyMiddleware:
    """Sets Content-Security-Policy, unless the view has set one of its own."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response
