"""Which state of a definition somebody has seen, as a short text that tells nothing of it.

REST sends it as an ETag, forms carry it along: a change that was made for an earlier state is
refused, so that nobody undoes what they have not seen.
"""

from dataclasses import asdict
from typing import Any, Final

import orjson
from django.utils.crypto import salted_hmac

_SALT: Final = "eventing.tags"


def tag_of(definition: Any) -> str:
    """32 hex digits that are others as soon as anything of a definition is, secrets included.

    Keyed, since a password must not be guessed from it.
    """
    content = orjson.dumps(asdict(definition), option=orjson.OPT_SORT_KEYS)
    return salted_hmac(_SALT, content, algorithm="sha256").hexdigest()[:32]
