"""Columns whose contents are encrypted at rest with the installation's keys.

The first of `ENCRYPTION_KEYS` encrypts, all of them decrypt. A value is decrypted only when it is
read from an instance; it is never part of `repr`, of an error message or of a query.
"""

import base64
from functools import lru_cache
from hashlib import sha256
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models


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


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """Text that is stored as a Fernet token (AES-128-CBC with HMAC-SHA256)."""

    def get_prep_value(self, value: Any) -> Any:
        if value is None or value == "":
            return value
        return _cipher(tuple(settings.ENCRYPTION_KEYS)).encrypt(str(value).encode()).decode()

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if value is None or value == "":
            return value
        try:
            return _cipher(tuple(settings.ENCRYPTION_KEYS)).decrypt(value.encode()).decode()
        except InvalidToken:
            raise UndecryptableValue(
                f"{self.model._meta.db_table}.{self.column} was encrypted with a key that is not in"
                " ENCRYPTION_KEYS; add the key it was encrypted with"
            ) from None
