"""Columns whose contents are encrypted at rest with the installation's keys.

The first of `ENCRYPTION_KEYS` encrypts, all of them decrypt. A value is decrypted as its row is
loaded; it is never part of `repr`, of an error message or of a query. One that no key opens fails
whoever asks for it and nobody else: its row loads, and keeps it as it is when it is saved.
"""

import base64
import re
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models
from django.db.models.query_utils import DeferredAttribute

# A Fernet token as it stands in JSON text: version 0x80, a time that begins with zeros.
_TOKEN: Final = re.compile(r"gAAAA[A-Za-z0-9_-]{95,}={0,2}")


class UndecryptableValue(Exception):
    """A stored secret was encrypted with a key that is not among `ENCRYPTION_KEYS`."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A stored value that no key opens, as it is stored; `place` is its table and column."""

    token: str = field(repr=False)
    place: str

    @property
    def reason(self) -> str:
        """What is the matter, and what to do."""
        return (
            f"no key of ENCRYPTION_KEYS opens {self.place}; add the key it was encrypted with, or"
            " enter it anew"
        )


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet(
        Fernet(base64.urlsafe_b64encode(sha256(key.encode()).digest())) for key in keys
    )


def rewritten(token: str) -> str | None:
    """A stored value encrypted anew with the first key; None if it is already.

    Raises UndecryptableValue.
    """
    first, *_ = settings.ENCRYPTION_KEYS
    try:
        _cipher((first,)).decrypt(token.encode())
    except InvalidToken:
        pass
    else:
        return None
    try:
        return _cipher(tuple(settings.ENCRYPTION_KEYS)).rotate(token.encode()).decode()
    except InvalidToken:
        raise UndecryptableValue("encrypted with a key that is not in ENCRYPTION_KEYS") from None


def rewritten_within(text: str) -> str | None:
    """The same for every stored value within a JSON text."""
    fresh = _TOKEN.sub(lambda found: rewritten(found[0]) or found[0], text)
    return None if fresh == text else fresh


def encrypted(text: str) -> str:
    """A Fernet token (AES-128-CBC with HMAC-SHA256), made with the first key."""
    return _cipher(tuple(settings.ENCRYPTION_KEYS)).encrypt(text.encode()).decode()


def _decrypted(token: str, place: str) -> str | Sealed:
    try:
        return _cipher(tuple(settings.ENCRYPTION_KEYS)).decrypt(token.encode()).decode()
    except InvalidToken:
        return Sealed(token, place)


def decrypted(token: str, place: str) -> str:
    """The text of a token that is stored at `place`. Raises UndecryptableValue."""
    opened: str = _opened(_decrypted(token, place))
    return opened


def _opened(value: Any) -> Any:
    if isinstance(value, Sealed):
        raise UndecryptableValue(value.reason)
    return value


class _Attribute(DeferredAttribute):
    """The value of one row. Raises UndecryptableValue when it is asked for, not before."""

    def __get__(self, instance: Any, cls: Any = None) -> Any:
        return _opened(super().__get__(instance, cls))

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.field.attname] = value


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """Text that is stored encrypted."""

    descriptor_class = _Attribute

    def get_prep_value(self, value: Any) -> Any:
        if isinstance(value, Sealed):
            return value.token
        if value is None or value == "":
            return value
        return encrypted(str(value))

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if value is None or value == "":
            return value
        return _decrypted(value, f"{self.model._meta.db_table}.{self.column}")

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        return stored_value(model_instance, self.attname)


def stored_value(row: models.Model, name: str) -> Any:
    """An encrypted column of a row as it can be stored again: its text, or a Sealed."""
    return row.__dict__[name]


def readable(row: models.Model, name: str) -> str:
    """An encrypted column of a row; empty if no key opens it, as if it had been emptied."""
    value = stored_value(row, name)
    return "" if isinstance(value, Sealed) else value


def problem_of(row: models.Model) -> str | None:
    """Why a row cannot be used, if no key opens something of it, and what to do."""
    columns = [each for each in row._meta.concrete_fields if isinstance(each, EncryptedTextField)]
    values = [row.__dict__.get(each.attname) for each in columns]
    return next((value.reason for value in values if isinstance(value, Sealed)), None)
