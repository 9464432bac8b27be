"""Sessions in the control database, a copy of which lets nobody in: a row stands under a digest of
the key in the browser's cookie, and only that key opens what is in it. Libraries put there what
they are sent, such as forms that wait for a password.
"""

import base64
from hashlib import blake2b, sha256
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.contrib.sessions.backends import db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.contrib.sessions.models import Session
from django.utils import timezone


class SessionStore(db.SessionStore):
    """Django's, but for how it is stored."""

    def load(self) -> dict[str, Any]:
        """What is in it; nothing, and no key, where there is none that has not expired."""
        lasting = Session.objects.filter(expire_date__gt=timezone.now())
        found = lasting.filter(session_key=_stored(self.session_key or "")).first()
        if found is None:
            self._session_key = None
            return {}
        return self.decode(found.session_data)

    def exists(self, session_key: str) -> bool:
        return super().exists(_stored(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = super().create_model_instance(data)
        row.session_key = _stored(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(_stored(key))

    def encode(self, session_dict: dict[str, Any]) -> str:
        sealed = self._cipher().encrypt(super().encode(session_dict).encode())
        return sealed.decode()

    def decode(self, session_data: bytes | str) -> dict[str, Any]:
        try:
            opened = self._cipher().decrypt(session_data)
        except InvalidToken:
            return {}
        found: dict[str, Any] = super().decode(opened.decode())
        return found

    def _cipher(self) -> Fernet:
        key = self.session_key or ""
        return Fernet(base64.urlsafe_b64encode(sha256(key.encode()).digest()))


def _stored(session_key: str) -> str:
    """What stands for a key in the table: a digest as long as its column. A key has 160 bits of
    chance, so nobody guesses it from that."""
    return blake2b(session_key.encode(), digest_size=20).hexdigest()
