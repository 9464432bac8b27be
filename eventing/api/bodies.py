"""JSON in and out. Stored JSON text is placed into an answer as it is, so that its numbers keep all
their digits; what comes in is bounded in size and depth before anything looks at it.
"""

from collections.abc import Mapping
from typing import IO, Any, Final

import orjson
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from eventing.problems import InvalidInput, Problem

MEDIA_TYPE: Final = "application/json"
# RFC 9512.
YAML_MEDIA_TYPE: Final = "application/yaml"


def as_json(content: object) -> bytes:
    """`content` as JSON; an `orjson.Fragment` in it is placed as it is."""
    return orjson.dumps(content)


class ExactJSONRenderer(BaseRenderer):
    """Writes an answer through `as_json`."""

    media_type = MEDIA_TYPE
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return b"" if data is None else as_json(data)


class BoundedJSONParser(BaseParser):
    """Reads a body of at most `DATA_UPLOAD_MAX_MEMORY_SIZE` bytes, nested at most 1 024 deep."""

    media_type = MEDIA_TYPE

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Raises ParseError for what is not JSON (RFC 8259), RequestDataTooBig."""
        try:
            return orjson.loads(_bounded(stream))
        except orjson.JSONDecodeError as error:
            # The message quotes nothing of the body.
            raise ParseError(f"the body is not JSON: {error}") from error


class BoundedYAMLParser(BaseParser):
    """Reads a body of at most `DATA_UPLOAD_MAX_MEMORY_SIZE` bytes as text; what it says is for
    `eventing.configuration` to find out."""

    media_type = YAML_MEDIA_TYPE

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """A text. Raises ParseError for what is not UTF-8, RequestDataTooBig."""
        try:
            return _bounded(stream).decode()
        except UnicodeDecodeError:
            raise ParseError("the body is not text in UTF-8") from None


def _bounded(stream: IO[Any]) -> bytes:
    """All that is in it. Raises RequestDataTooBig."""
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0
    content: bytes = stream.read(most + 1)
    if len(content) > most:
        raise RequestDataTooBig
    return content


class JSONOnly(BaseContentNegotiation):
    """Answers in JSON whatever `Accept` says (RFC 9110 section 12.5.1 allows it)."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """The parser of the body's type, None if there is none (415)."""
        given = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == given), None)

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        return renderers[0], renderers[0].media_type


def mapping_of(body: object) -> dict[str, Any]:
    """A request's body, which must be a JSON object. Raises InvalidInput."""
    if isinstance(body, Mapping):
        return dict(body)
    kind = {list: "a list", str: "text", type(None): "null"}.get(type(body), "a bare value")
    raise InvalidInput([Problem("body", kind, "a JSON object")])


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7396: null removes, objects merge, anything else replaces.

    It goes as deep as `target` does: what lies deeper in `patch` is taken as it is.
    """
    result = dict(target)
    for name, value in patch.items():
        below = result.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            result[name] = merged(below, value)
        else:
            result[name] = value
    return result
