"""`manage.py export [PROJECT]`: the configuration as YAML, secrets as references."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from eventing.configuration import export
from eventing.management.control import ControlCommand
from eventing.problems import InvalidInput


class Command(ControlCommand):
    help = "Write the configuration of PROJECT, or of all projects, as YAML."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", nargs="?")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            self.stdout.write(export(options["project"]), ending="")
        except InvalidInput as error:
            raise CommandError(str(error)) from None
