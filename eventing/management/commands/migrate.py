"""`manage.py migrate`: Django's own, but polite to whoever uses the tables meanwhile.

A statement that alters a table waits for everyone who reads it, a backup included, and everybody
else then waits behind that statement. So each waits for a moment only, and is tried again later.
"""

import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any, Final

from django.core.management.base import CommandError
from django.core.management.commands.migrate import Command as DjangosCommand
from django.db import OperationalError, connections

from eventing.logs.base import LogBusy

_LOCK_MS: Final = 2_000
_PAUSE_SECONDS: Final = 3.0
_ALTERS: Final = ("ALTER", "CREATE", "DROP", "COMMENT", "TRUNCATE", "LOCK")
_LOCK_NOT_AVAILABLE: Final = "55P03"


class Command(DjangosCommand):
    def add_arguments(self, parser: Any) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--lock-wait-seconds",
            type=_seconds,
            default=600,
            help="how long to go on trying while somebody, a backup say, reads what is to be"
            " altered (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        deadline = time.monotonic() + options["lock_wait_seconds"]
        has_told = False
        while True:
            try:
                with connections[options["database"]].execute_wrapper(_impatiently):
                    super().handle(*args, **options)
                return
            except (OperationalError, LogBusy) as error:
                if not _was_kept_waiting(error):
                    raise
            if time.monotonic() >= deadline:
                raise CommandError(
                    "a table that is to be altered was being read all the time (by a backup?);"
                    " what was altered before stays so: run this again"
                )
            if not has_told:
                self.stderr.write("a table that is to be altered is being read; trying again")
                has_told = True
            time.sleep(_PAUSE_SECONDS)


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"got {text!r}; allowed: a whole number of seconds, 0 or more")
    return int(text)


def _impatiently(
    execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: dict[str, Any]
) -> Any:
    """Have a statement that alters something wait for a moment only."""
    is_altering = sql.lstrip()[:8].upper().startswith(_ALTERS)
    if is_altering and context["connection"].in_atomic_block and not many:
        # For the transaction, not the session, which may be a pooler's.
        sql = f"SET LOCAL lock_timeout = {_LOCK_MS}; {sql}"
    return execute(sql, parameters, many, context)


def _was_kept_waiting(error: Exception) -> bool:
    return (
        isinstance(error, LogBusy)
        or getattr(error.__cause__, "pgcode", None) == _LOCK_NOT_AVAILABLE
    )
