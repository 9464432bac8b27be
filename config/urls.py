"""Every address of the installation."""

from django.urls import include, path

urlpatterns = [
    path("", include("eventing.api.urls")),
    path("", include("webui.urls")),
]
