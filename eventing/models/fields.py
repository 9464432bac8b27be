"""Columns whose contents are encrypted at rest with the installation's keys.

The first of `ENCRYPTION_KEYS` encrypts, all of them decrypt. A value is decrypted as its row is
loaded; it is never part of `repr`, of an error message or of a query.
"""

import base64
import re
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models

# A Fernet token as it stands in JSON text: version 0x80, a time that begins with zeros.
_TOKEN: Final = re.compile(r"gAAAA[A-Za-z0-9_-]{95,}={0,2}")


class UndecryptableValue(Exception):
    """A stored secret was encrypted with a key that is not among `ENCRYPTION_KEYS`."""


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


def decrypted(token: str, place: str) -> str:
    """The text of a token that is stored at `place`. Raises UndecryptableValue."""
    try:
        return _cipher(tuple(settings.ENCRYPTION_KEYS)).decrypt(token.encode()).decode()
    except InvalidToken:
        raise UndecryptableValue(
            f"{place} was encrypted with a key that is not in"
            " ENCRYPTION_KEYS; add the key it was encrypted with"
        ) from None


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """Text that is stored encrypted."""

    def get_prep_value(self, value: Any) -> Any:
        if value is None or value == "":
            return value
        return encrypted(str(value))

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if value is None or value == "":
            return value
        return decrypted(value, f"{self.model._meta.db_table}.{self.column}")
