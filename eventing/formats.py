"""How an event goes over the wire: the stored payload, put into the format of its trigger.

The stored payload is the text `eventing.cloudevents` made, so the formats of CloudEvents 1.0 are
cut out of it without parsing the document, whose numbers keep all their digits.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote
from uuid import NAMESPACE_OID, uuid5

import orjson

from eventing.definitions import PayloadFormat

# A request of the batch format holds at most this many events, and this many characters of them.
BATCH_EVENTS: Final = 100
BATCH_CHARACTERS: Final = 1_000_000

_STORED_HEAD: Final = '{"specversion":"1.0-rc1",'
_STRUCTURED_HEAD: Final = '{"specversion":"1.0","datacontenttype":"application/json",'
_DATA: Final = ',"data":'
_ATTRIBUTES: Final = ("id", "source", "type", "time")
# The HTTP binding of CloudEvents 1.0.2, section 3.1.3.2: what goes through as it is.
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class Message(NamedTuple):
    """What one request carries: its `webhook-id`, its own headers, and its body."""

    id: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def message(format_: PayloadFormat, payloads: Sequence[str], ids: Sequence[str]) -> Message:
    """The message that carries these stored payloads, whose events have these ids.

    Every format but the batch carries exactly one.
    """
    if format_ == "cloudevents-batch":
        return Message(
            _batch_id(ids),
            (("Content-Type", "application/cloudevents-batch+json"),),
            f"[{','.join(map(_structured, payloads))}]".encode(),
        )
    (payload,), (event_id,) = payloads, ids
    if format_ == "cloudevents":
        content_type = ("Content-Type", "application/cloudevents+json")
        return Message(event_id, (content_type,), _structured(payload).encode())
    if format_ == "cloudevents-binary":
        return _binary(payload, event_id)
    return Message(event_id, (("Content-Type", "application/json"),), payload.encode())


def event_id_of(payload: str) -> str:
    """The id of the event that a stored payload is of, whatever its document holds: a document
    may be deeper, or its numbers and characters others, than a parser takes."""
    found: str = _attributes(payload)["id"]
    return found


def format_sent(headers: Sequence[tuple[str, str]]) -> PayloadFormat:
    """The format of a request that had these headers."""
    given = {name.lower(): value for name, value in headers}
    content_type = given.get("content-type")
    if content_type == "application/cloudevents-batch+json":
        return "cloudevents-batch"
    if content_type == "application/cloudevents+json":
        return "cloudevents"
    return "cloudevents-binary" if "ce-specversion" in given else "spacecloud"


def _structured(payload: str) -> str:
    return _STRUCTURED_HEAD + payload.removeprefix(_STORED_HEAD)


def _binary(payload: str, event_id: str) -> Message:
    attributes = _attributes(payload)
    _, _, rest = payload.partition(_DATA)
    headers = [("Content-Type", "application/json"), ("ce-specversion", "1.0")]
    headers += [(f"ce-{name}", quote(attributes[name], safe=_PLAIN)) for name in _ATTRIBUTES]
    return Message(event_id, tuple(headers), rest[:-1].encode())


def _attributes(payload: str) -> dict[str, str]:
    """What a stored payload says before its data."""
    # A quotation mark inside a value is escaped, so the first match is the member itself.
    head, _, _ = payload.partition(_DATA)
    found: dict[str, str] = orjson.loads(head + "}")
    return found


def _batch_id(ids: Sequence[str]) -> str:
    """An id of this very set of events: who drops known ids must not drop another batch."""
    if len(ids) == 1:
        return ids[0]
    return str(uuid5(NAMESPACE_OID, "".join(ids)))
