"""`manage.py apply FILE.yaml`: make the configuration what the file says."""

import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from eventing.access import command_line
from eventing.configuration import apply
from eventing.history import cancel
from eventing.management.control import ControlCommand
from eventing.problems import InvalidInput


class Command(ControlCommand):
    help = "Make the configuration what FILE.yaml says, in one transaction, and print the plan."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="a YAML file, or - for standard input")
        parser.add_argument("--dry-run", action="store_true", help="print the plan only")
        parser.add_argument(
            "--prune", action="store_true", help="delete what the file does not mention"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        name = options["file"]
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise CommandError(f"{name} cannot be read: it is not UTF-8") from None
        try:
            plan = apply(
                text,
                os.environ,
                by=command_line(),
                dry_run=options["dry_run"],
                prune=options["prune"],
            )
        except InvalidInput as error:
            problems = "\n".join(f"{name}: {problem}" for problem in error.problems)
            raise CommandError(problems) from None
        cancel(plan.cancelled_triggers)
        for line in plan.lines:
            self.stdout.write(line)
        if not plan.lines:
            self.stdout.write("nothing to change")
