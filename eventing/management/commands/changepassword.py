"""`manage.py changepassword`: Django's own; whose password it changes is noted."""

from typing import Any

from django.contrib.auth.management.commands.changepassword import Command as DjangosCommand

from eventing.access import command_line
from eventing.members import noting_users


class Command(DjangosCommand):
    def handle(self, *args: Any, **options: Any) -> Any:
        with noting_users(by=command_line()):
            return super().handle(*args, **options)
