"""Every address of the installation."""

from django.urls import include, path

handler400 = "eventing.api.problem_details.bad_request"
handler500 = "eventing.api.problem_details.server_error"
urlpatterns = [
    path("", include("eventing.api.urls")),
    path("", include("webui.urls")),
]
