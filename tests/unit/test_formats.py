"""The payload formats, read by the CloudEvents project's own package."""

from decimal import Decimal

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st

from eventing.changes import Event
from eventing.cloudevents import EventBuilder
from eventing.definitions import FORMATS, PayloadFormat
from eventing.formats import BATCH_EVENTS, message
from eventing.matching import Matcher, Rule
from tests.factories import make_change, make_origin

DIGITS = '{"n": 12345678901234567890.123456789, "ü": "\\u0000", ",\\"data\\":": 1}'


def event_of(node_id: str = "node", document_id: str = "7", document: str = DIGITS) -> Event:
    rule = Rule(1, "t", (), frozenset(("insert",)))
    change = make_change('odd,"data":{} täble', document_id=document_id)
    change = change._replace(document=document)
    return EventBuilder(make_origin(), node_id, Matcher([rule])).events([change])[0]


@pytest.mark.parametrize("format_", ["cloudevents", "cloudevents-binary"])
@pytest.mark.parametrize("node_id", ["6f1ff0a4-6f2e-4d0c-9b8e-6f0a6a3f2a11", 'nöde "1" %,"data":'])
def test_an_independent_reader_finds_the_event(format_: PayloadFormat, node_id: str) -> None:
    event = event_of(node_id)
    made = message(format_, [event.payload], [event.id_text])
    assert made.id == event.id_text
    assert_read(HTTPMessage(dict(made.headers), made.body), event, node_id)


@pytest.mark.parametrize("count", [1, 3, BATCH_EVENTS])
@pytest.mark.parametrize("node_id", ["6f1ff0a4-6f2e-4d0c-9b8e-6f0a6a3f2a11", 'nöde "1" %,"data":'])
def test_an_independent_reader_finds_each_event_of_a_batch(node_id: str, count: int) -> None:
    events = [event_of(node_id, document_id=str(number)) for number in range(count)]
    payloads, ids = [each.payload for each in events], [each.id_text for each in events]
    made = message("cloudevents-batch", payloads, ids)
    # That package reads single events: an element of a batch is a structured one (JSON format 4.1).
    headers = {"Content-Type": "application/cloudevents+json"}
    for event, element in zip(events, orjson.loads(made.body), strict=True):
        assert_read(HTTPMessage(headers, orjson.dumps(element)), event, node_id)


def assert_read(sent: HTTPMessage, event: Event, node_id: str) -> None:
    read = from_http_event(sent)
    stored = orjson.loads(event.payload)
    assert read.get_specversion() == "1.0"
    assert read.get_id() == event.id_text
    assert read.get_type() == stored["type"]
    assert read.get_source() == node_id
    assert read.get_time().isoformat(timespec="milliseconds") == stored["time"].replace(
        "Z", "+00:00"
    )
    assert read.get_data() == stored["data"]


def test_content_types_are_those_of_the_contract() -> None:
    event = event_of()
    types = {
        format_: dict(message(format_, [event.payload], [event.id_text]).headers)["Content-Type"]
        for format_ in FORMATS
    }
    assert types == {
        "spacecloud": "application/json",
        "cloudevents": "application/cloudevents+json",
        "cloudevents-binary": "application/json",
        "cloudevents-batch": "application/cloudevents-batch+json",
    }


def test_a_batch_holds_structured_events_in_order_under_an_id_of_its_own() -> None:
    events = [event_of(document_id=str(number)) for number in range(3)]
    payloads, ids = [each.payload for each in events], [each.id_text for each in events]
    made = message("cloudevents-batch", payloads, ids)
    alone = [message("cloudevents", [each.payload], [each.id_text]).body for each in events]
    assert made.body == b"[" + b",".join(alone) + b"]"
    assert [each["data"]["docId"] for each in orjson.loads(made.body)] == ["0", "1", "2"]
    assert made.id == message("cloudevents-batch", payloads, ids).id
    assert made.id not in {*ids, message("cloudevents-batch", payloads[1:], ids[1:]).id}
    assert message("cloudevents-batch", payloads[:1], ids[:1]).id == ids[0]


@pytest.mark.parametrize("format_", FORMATS)
@given(
    number=st.decimals(allow_nan=False, allow_infinity=False), text=st.text(), document_id=st.text()
)
def test_no_format_changes_a_digit_or_a_letter(
    format_: PayloadFormat, number: Decimal, text: str, document_id: str
) -> None:
    try:
        document = f'{{"n":{number},"t":{orjson.dumps(text).decode()}}}'
        event = event_of(document_id=document_id, document=document)
    except orjson.JSONEncodeError:
        return  # half a surrogate pair is no text that a source could hand over
    made = message(format_, [event.payload], [event.id_text])
    assert f'"doc":{document}}}'.encode() in made.body
    parsed = orjson.loads(made.body)
    body = parsed[0] if isinstance(parsed, list) else parsed
    assert body.get("data", body)["docId"] == document_id
