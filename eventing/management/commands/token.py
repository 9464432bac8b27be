"""`manage.py token create`: an API token, printed once."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError

from eventing.access import command_line
from eventing.definitions import ROLES, TokenDefinition
from eventing.management.control import ControlCommand
from eventing.models import Project
from eventing.tokens import create_token


class Command(ControlCommand):
    help = "Manage API tokens."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="{create}")
        create = actions.add_parser("create", help="make a token and print it, once")
        create.add_argument("--user", required=True, help="the user it acts for")
        create.add_argument("--role", required=True, choices=ROLES)
        create.add_argument("--project", help="the only project it opens; default: all")

    def handle(self, *_: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise CommandError(f"--user: got {options['user']!r}; allowed: an active user's name")
        project = None
        if options["project"] is not None:
            project = Project.objects.filter(name=options["project"]).first()
            if project is None:
                raise CommandError(
                    f"--project: got {options['project']!r}; allowed: an existing project's name"
                )
        definition = TokenDefinition(options["role"])
        made = create_token(user, project, definition, by=command_line())
        self.stdout.write(made.secret)
