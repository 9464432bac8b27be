"""The signature of a request, after Standard Webhooks 1.0 (standardwebhooks.com).

An endpoint that knows a trigger's secret can tell that a request came from here and when. Secrets
never appear in an error raised here.
"""

import binascii
import hmac
import secrets as random
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32


def new_secret() -> str:
    """A new random secret, as `whsec_` and 32 bytes in base64."""
    return _PREFIX + b64encode(random.token_bytes(_SECRET_BYTES)).decode()


def signature_headers(
    message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """The headers `webhook-id`, `webhook-timestamp` and, if there is a secret, `webhook-signature`.

    `timestamp` counts seconds since the epoch: the time of this attempt. Raises ValueError for a
    secret that is not one.
    """
    headers = (("webhook-id", message_id), ("webhook-timestamp", str(timestamp)))
    if not secrets:
        return headers
    return (*headers, ("webhook-signature", signature(message_id, timestamp, body, secrets)))


def signature(message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> str:
    """One `v1,<base64>` per secret, separated by spaces: HMAC-SHA256 of `id.timestamp.body`."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join("v1," + b64encode(_digest(secret, signed)).decode() for secret in secrets)


def _digest(secret: str, signed: bytes) -> bytes:
    # A copy of a prepared one, since making one from the key takes OpenSSL several times as long.
    signer = _prepared(secret).copy()
    signer.update(signed)
    return signer.digest()


@lru_cache(maxsize=1024)
def _prepared(secret: str) -> hmac.HMAC:
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("a signing secret must be `whsec_` followed by base64")
    return hmac.new(key, digestmod="sha256")
