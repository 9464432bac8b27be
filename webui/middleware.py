"""What holds for every page: nothing but our own files may run, load or frame it, it is asked for
by GET or POST alone, and nobody can make up where it is asked from.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.middleware.common import CommonMiddleware

_METHODS: Final = ("GET", "HEAD", "POST")
_PROBES: Final = ("/healthz", "/readyz")
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'self'; object-src 'none';"
    " form-action 'self'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(),"
    " payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class HostMiddleware(CommonMiddleware):
    """Refuses a host that is not ours, but of probes: what restarts processes and routes requests
    to them asks by addresses that nobody can list, and gets no word that depends on its own.
    """

    def process_request(self, request: HttpRequest) -> Any:
        """Nothing for a probe, else what Django's does. Raises DisallowedHost."""
        return None if request.path in _PROBES else super().process_request(request)


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


class HeadersMiddleware:
    """Sets what browsers are to keep to, unless the view has set its own; over https cookies go by
    https alone.

    It stands outside of whatever sets cookies.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if request.is_secure():
            for cookie in response.cookies.values():
                cookie["secure"] = True
        return response


class ClientAddressMiddleware:
    """Behind proxies that are trusted, REMOTE_ADDR is what the last one before them was told.

    From anybody else X-Forwarded-For says nothing: whoever sends a request can write it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._trusted = [ip_network(each) for each in settings.TRUSTED_PROXIES]

    def __call__(self, request: HttpRequest) -> HttpResponse:
        hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
        while hops and self._is_proxy(request.META.get("REMOTE_ADDR", "")):
            before = _address_of(hops.pop())
            if before is None:
                break
            request.META["REMOTE_ADDR"] = str(before)
        return self._get_response(request)

    def _is_proxy(self, written: str) -> bool:
        address = _address_of(written)
        return address is not None and any(address in network for network in self._trusted)


def _address_of(written: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(written.strip())
    except ValueError:
        return None
