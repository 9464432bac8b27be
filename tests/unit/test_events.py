"""Which changes become events, the ids those get, and the payload that an endpoint receives."""

import uuid
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventing.cloudevents import (
    MAX_ID_CHARACTERS,
    MAX_PAYLOAD_CHARACTERS,
    EventBuilder,
    time_text,
)
from eventing.ids import committed_at_ms_in, committed_at_ms_of, event_id_text, first_id_at
from eventing.matching import Matcher, Rule
from tests.factories import NODE_ID, make_change, make_events, make_origin

ALL = frozenset(("insert", "update", "delete"))


@pytest.mark.parametrize(
    ("tables", "matching", "others"),
    [
        ((), ("users", "billing.invoices"), ()),
        (("users",), ("users",), ("Users", "users2", "billing.users")),
        (("public.users",), ("users",), ("billing.users", "public.users")),
        (("public.*",), ("users", "user_log"), ("billing.users",)),
        (("public.*_log",), ("user_log",), ("users", "billing.user_log")),
        (("billing.*",), ("billing.invoices",), ("billing", "users")),
        (("*_log", "users"), ("audit_log", "a.b_log", "users"), ("log_audit",)),
        (("a+b",), ("a+b",), ("aab",)),
    ],
)
def test_tables_match_by_name_and_by_star(
    tables: tuple[str, ...], matching: tuple[str, ...], others: tuple[str, ...]
) -> None:
    matcher = Matcher([Rule(1, "t", tables, ALL)])
    assert all(matcher.wants(table, "insert") for table in matching)
    assert not any(matcher.wants(table, "insert") for table in others)


def test_without_schemas_a_name_that_begins_with_public_is_a_name() -> None:
    matcher = Matcher([Rule(1, "t", ("public.users",), ALL)], has_schemas=False)
    assert matcher.wants("public.users", "insert")
    assert not matcher.wants("users", "insert")


def test_a_change_becomes_one_event_for_each_trigger_that_matches() -> None:
    rules = [
        Rule(1, "all", (), ALL),
        Rule(2, "inserts", ("users",), frozenset(("insert",))),
        Rule(3, "orders", ("orders",), ALL),
    ]
    builder = EventBuilder(make_origin(), NODE_ID, Matcher(rules))
    events = builder.events([make_change("users"), make_change("users", "delete")])
    assert [event.trigger for event in events] == ["all", "inserts", "all"]
    assert len({event.id for event in events}) == 3


def test_the_payload_is_that_of_the_contract() -> None:
    change = make_change(document_id='a"b', committed_at_ms=1_571_488_850_053)
    change = change._replace(document='{"n": 12345678901234567890.123456789, "ü": "\\u0000"}')
    (event,) = make_events([change])
    payload = orjson.loads(event.payload)
    assert payload == {
        "specversion": "1.0-rc1",
        "id": str(event.id),
        "type": "DB_INSERT",
        "source": NODE_ID,
        "time": "2019-10-19T12:40:50.053Z",
        "data": {
            "db": "sql-postgres",
            "col": "users",
            "docId": 'a"b',
            "doc": {"n": float(Decimal("12345678901234567890.123456789")), "ü": "\x00"},
        },
    }
    assert "12345678901234567890.123456789" in event.payload


def test_a_document_beyond_the_limit_becomes_an_event_that_says_so() -> None:
    change = make_change()._replace(document="x" * (MAX_PAYLOAD_CHARACTERS + 1))
    (event,) = make_events([change])
    assert event.problem is not None
    assert len(event.payload) < 1000


def test_an_id_that_is_longer_than_a_list_can_show_becomes_an_event_that_says_so() -> None:
    (event,) = make_events([make_change(document_id="k" * (MAX_ID_CHARACTERS + 1))])
    assert event.problem == (
        f"the document's id is {MAX_ID_CHARACTERS + 1} characters long; at most"
        f" {MAX_ID_CHARACTERS} are delivered"
    )
    assert event.document_id == "k" * MAX_ID_CHARACTERS
    assert orjson.loads(event.payload)["data"]["doc"] == {}


@given(
    milliseconds=st.integers(0, (1 << 48) - 1),
    index=st.integers(0, 10**7),
    trigger_id=st.integers(1, 2**63 - 1),
    position=st.text(max_size=40),
)
def test_an_id_is_deterministic_ordered_by_time_and_a_version_8_uuid(
    milliseconds: int, index: int, trigger_id: int, position: str
) -> None:
    text = event_id_text(milliseconds, index, trigger_id, 1, position)
    assert text == event_id_text(milliseconds, index, trigger_id, 1, position)
    assert text != event_id_text(milliseconds, index, trigger_id, 2, position)
    identifier = uuid.UUID(text)
    assert str(identifier) == text
    assert (identifier.version, identifier.variant) == (8, uuid.RFC_4122)
    assert committed_at_ms_of(identifier) == committed_at_ms_in(text) == milliseconds
    assert first_id_at(milliseconds) < identifier
    if milliseconds < (1 << 48) - 1:
        assert identifier < first_id_at(milliseconds + 1)


def test_times_are_utc_with_milliseconds() -> None:
    assert time_text(0) == "1970-01-01T00:00:00.000Z"
    assert time_text(1_571_488_850_053) == "2019-10-19T12:40:50.053Z"
