"""Stored secrets encrypted anew with the first of `ENCRYPTION_KEYS`, so that an old key can go.

It goes table by table in small steps, each of which may be the last: what is done already is
recognised. Nothing is decrypted into a message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import orjson
from django.apps import apps
from django.db import connection

from eventing import audit
from eventing.access import Actor
from eventing.models.fields import (
    EncryptedTextField,
    UndecryptableValue,
    rewritten,
    rewritten_within,
)

_ROWS_A_STEP: Final = 500


@dataclass(slots=True)
class Rotation:
    """What was found in one column. `unreadable` are the ids of rows that no key opens."""

    table: str
    column: str
    current: int = 0
    rewritten: int = 0
    unreadable: list[int] = field(default_factory=list)


def rotate(
    *, by: Actor, dry_run: bool = False, empty_unreadable: bool = False
) -> Iterator[Rotation]:
    """Rewrite every encrypted column; what comes of each is told once it is done.

    `empty_unreadable` gives up what no key opens, so that its owners can enter it anew.
    """
    for table, key, column in _encrypted_columns():
        rotation = Rotation(table, column)
        last = 0
        with _noted(rotation, by, dry_run, empty_unreadable):
            while (
                reached := _rewrite_some(rotation, key, last, dry_run, empty_unreadable)
            ) is not None:
                last = reached
        yield rotation
    rotation = Rotation("mfa_authenticator", "data")
    with _noted(rotation, by, dry_run, empty_unreadable):
        _rewrite_factors(rotation, dry_run, empty_unreadable)
    yield rotation


@contextmanager
def _noted(rotation: Rotation, by: Actor, dry_run: bool, empty_unreadable: bool) -> Iterator[None]:
    """Note what was changed in a column, even if that was not all of it."""
    try:
        yield
    finally:
        emptied = len(rotation.unreadable) if empty_unreadable else 0
        if not dry_run and (rotation.rewritten or emptied):
            name = f"{rotation.table}.{rotation.column}"
            facts = {"rewritten": rotation.rewritten, "emptied": emptied}
            audit.write(by, None, "installation.rotate_keys", name, new=facts)


def _rewrite_factors(rotation: Rotation, dry_run: bool, empty_unreadable: bool) -> None:
    """The keys of second factors, which django-allauth keeps within JSON: a few rows a user.

    What no key opens is taken away: a factor without its key signs nobody in.
    """
    factors = apps.get_model("mfa", "Authenticator").objects
    for number, data in factors.order_by("pk").values_list("pk", "data").iterator():
        try:
            fresh = rewritten_within(orjson.dumps(data).decode())
        except UndecryptableValue:
            rotation.unreadable.append(number)
            if empty_unreadable and not dry_run:
                factors.filter(pk=number).delete()
            continue
        rotation.current += fresh is None
        rotation.rewritten += fresh is not None
        if fresh is not None and not dry_run:
            # Whoever saved it meanwhile has encrypted it by then.
            factors.filter(pk=number, data=data).update(data=orjson.loads(fresh))


def _encrypted_columns() -> Iterator[tuple[str, str, str]]:
    """Table, primary key and column of everything encrypted, whichever application it is of."""
    for model in apps.get_models(include_auto_created=True):
        for each in model._meta.local_fields:
            if isinstance(each, EncryptedTextField) and each.column is not None:
                yield model._meta.db_table, str(model._meta.pk.column), each.column


def _rewrite_some(
    rotation: Rotation, key: str, after: int, dry_run: bool, empty_unreadable: bool
) -> int | None:
    """Go on behind the row `after`; returns the last row looked at, None if there is none."""
    quote = connection.ops.quote_name
    table, key, column = quote(rotation.table), quote(key), quote(rotation.column)
    with connection.cursor() as cursor:
        # By the table's primary key.
        cursor.execute(
            f"SELECT {key}, {column} FROM {table} WHERE {key} > %s ORDER BY {key} LIMIT %s",
            [after, _ROWS_A_STEP],
        )
        rows = cursor.fetchall()
        for number, stored in rows:
            if not stored:
                continue
            fresh: str | None = ""
            try:
                fresh = rewritten(stored)
            except UndecryptableValue:
                rotation.unreadable.append(number)
                if not empty_unreadable:
                    continue
            else:
                rotation.current += fresh is None
                rotation.rewritten += fresh is not None
            if fresh is None:
                continue
            if not dry_run:
                # Whoever saved it meanwhile has encrypted it by then.
                cursor.execute(
                    f"UPDATE {table} SET {column} = %s WHERE {key} = %s AND {column} = %s",
                    [fresh, number, stored],
                )
    return rows[-1][0] if rows else None
