"""`manage.py rotate_keys`: every stored secret encrypted anew with the first of ENCRYPTION_KEYS."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from eventing.access import command_line
from eventing.key_rotation import rotate
from eventing.management.control import ControlCommand


class Command(ControlCommand):
    help = "Encrypt every stored secret with the first of ENCRYPTION_KEYS; exit 1 if one cannot be."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="count, and change nothing")
        what.add_argument(
            "--empty-unreadable",
            action="store_true",
            help="the keys are lost for good: empty what none opens, to be entered anew",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        unreadable = 0
        done = "to rewrite" if options["dry_run"] else "rewritten"
        empty = options["empty_unreadable"]
        rotation = rotate(by=command_line(), dry_run=options["dry_run"], empty_unreadable=empty)
        for found in rotation:
            unreadable += len(found.unreadable)
            self.stdout.write(
                f"{found.table}.{found.column}: {found.rewritten} {done},"
                f" {found.current} with the first key already"
            )
            for number in found.unreadable:
                self.stderr.write(f"{found.table}.{found.column}: no key opens row {number}")
        if unreadable and not empty:
            raise CommandError(
                f"{unreadable} secrets were encrypted with a key that is not in ENCRYPTION_KEYS:"
                " add that key and run this again"
            )
