"""Commands of Django's own that make or change users, so that whom they do is noted."""

from typing import Any

from django.core.management.base import BaseCommand

from eventing.access import command_line
from eventing.members import noting_users


class NotingUsers(BaseCommand):
    """Stands before Django's command among the bases of ours."""

    def handle(self, *args: Any, **options: Any) -> Any:
        with noting_users(by=command_line()):
            return super().handle(*args, **options)
