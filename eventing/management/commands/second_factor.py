"""`manage.py second_factor reset`: for somebody who has lost app and recovery codes."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError

from eventing.access import command_line
from eventing.management.control import ControlCommand
from eventing.second_factors import reset_second_factors


class Command(ControlCommand):
    help = "Manage second factors."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="{reset}")
        reset = actions.add_parser("reset", help="take them away; the password then signs in alone")
        reset.add_argument("--user", required=True, help="who has lost app and codes")

    def handle(self, *_: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"--user: got {options['user']!r}; allowed: a user's name")
        if not reset_second_factors(user, by=command_line()):
            raise CommandError(f"--user: {user.username} has no second factor")
        self.stdout.write(f"the password of {user.username} signs in alone now")
