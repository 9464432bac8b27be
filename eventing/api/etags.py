"""Lost updates are refused: an answer's ETag names the definition it shows, and If-Match makes a
change depend on it (RFC 9110 sections 8.8.3 and 13.1.1).

The tag covers what can be written, secrets included, and not what the product adds by itself, such
as `live` or `capture`: it says whether a definition was changed, not whether an answer is.
"""

from typing import Any

from django.utils.http import parse_etags
from rest_framework.request import Request

from eventing.api.problem_details import PreconditionFailed
from eventing.tags import tag_of


def etag_of(definition: Any) -> str:
    """The strong tag of a definition."""
    return f'"{tag_of(definition)}"'


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
