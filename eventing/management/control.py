"""Commands that read or change the control database, and say in one line when that cannot be."""

from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, ProgrammingError

# A table, or a column, that is not there.
_NOT_MIGRATED: Final = frozenset({"42P01", "42703"})


class ControlCommand(BaseCommand):
    """A command of ours that takes the control database, migrated."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Raises CommandError if the database is away, or has yet to be migrated."""
        try:
            return super().execute(*args, **options)
        except (OperationalError, InterfaceError):
            # Never the driver's words: they have the address in them.
            raise CommandError("the control database (DATABASE_URL) does not answer") from None
        except ProgrammingError as error:
            if getattr(error.__cause__, "pgcode", None) not in _NOT_MIGRATED:
                raise
            told = "migrations are missing: run `python manage.py migrate`"
            raise CommandError(told) from None
