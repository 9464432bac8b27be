"""Lost updates are refused: an answer's ETag names the definition it shows, and If-Match makes a
change depend on it (RFC 9110 sections 8.8.3 and 13.1.1).

The tag covers what can be written, secrets included, and not what the product adds by itself, such
as `live` or `capture`: it says whether a definition was changed, not whether an answer is.
"""

from dataclasses import asdict
from typing import Any, Final

import orjson
from django.utils.crypto import salted_hmac
from django.utils.http import parse_etags
from rest_framework.request import Request

from eventing.api.problem_details import PreconditionFailed

_SALT: Final = "eventing.api.etags"


def etag_of(definition: Any) -> str:
    """The strong tag of a definition. Keyed, since a password must not be guessed from it."""
    content = orjson.dumps(asdict(definition), option=orjson.OPT_SORT_KEYS)
    return f'"{salted_hmac(_SALT, content, algorithm="sha256").hexdigest()[:32]}"'


def tagged(definition: Any) -> dict[str, str]:
    """The headers of an answer that shows `definition`."""
    return {"ETag": etag_of(definition)}


def refuse_lost_update(request: Request, stored: Any) -> None:
    """Raises PreconditionFailed if the request was made for another definition than `stored`."""
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return
    if etag_of(stored) not in parse_etags(given):
        raise PreconditionFailed
