"""The Django application of everything but the pages."""

import logging
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class EventingConfig(AppConfig):
    name = "eventing"

    def ready(self) -> None:
        # Drivers warn of what an address says, and would do so in lines of their own.
        logging.captureWarnings(True)
        post_migrate.connect(prepare_installation, sender=self)


def prepare_installation(**_: Any) -> None:
    """After each migrate: the installation's one row, and the tables of the built-in log."""
    from eventing.logs import builtin_log
    from eventing.models import Installation

    defaults = {"node_id": settings.NODE_ID} if settings.NODE_ID else {}
    Installation.objects.get_or_create(pk=1, defaults=defaults)
    builtin_log().make_tables()
