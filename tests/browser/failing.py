"""The addresses of the installation, and one whose page fails for a reason that nobody foresaw."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from config import urls

handler400 = urls.handler400
handler500 = urls.handler500


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("as nobody foresaw")


urlpatterns = [*urls.urlpatterns, path("fails/", fail)]
