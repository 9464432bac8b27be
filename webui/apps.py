"""The Django application of the pages."""

from django.apps import AppConfig


class WebuiConfig(AppConfig):
    name = "webui"

    def ready(self) -> None:
        from webui import sign_in

        sign_in.connect()
