"""The decoder of pgoutput, given bytes laid out as the manual's "Message Formats" has them."""

import struct

import pytest

from eventing.sources import pgoutput
from eventing.sources.pgoutput import UNCHANGED, Column, MalformedMessage


def text(value: bytes) -> bytes:
    return b"t" + struct.pack(">i", len(value)) + value


def values(*parts: bytes) -> bytes:
    return struct.pack(">H", len(parts)) + b"".join(parts)


def change(kind: bytes, *tuples: bytes) -> bytes:
    return kind + struct.pack(">I", 16400) + b"".join(tuples)


def test_a_begin_tells_where_and_when_which_transaction_was_committed() -> None:
    # 2000-01-01 plus 1.5 s, in microseconds since 2000.
    payload = b"B" + struct.pack(">QqI", 0x1_0000_0010, 1_500_000, 77)
    assert pgoutput.begin(payload) == (0x1_0000_0010, 946_684_801_500, 77)


def test_a_commit_tells_where_its_record_ends() -> None:
    payload = b"C" + struct.pack(">BQQq", 0, 16, 48, 0)
    assert pgoutput.commit(payload).end_lsn == 48


def test_a_relation_names_its_columns_and_which_of_them_are_its_identity() -> None:
    payload = b"R" + struct.pack(">I", 16400) + "billing\0Bücher\0d".encode() + struct.pack(">H", 2)
    payload += b"\1id\0" + struct.pack(">Ii", 23, -1) + b"\0na me\0" + struct.pack(">Ii", 25, -1)
    found = pgoutput.relation(payload)
    assert (found.oid, found.schema, found.name, found.identity) == (
        16400,
        "billing",
        "Bücher",
        "d",
    )
    assert found.columns == (Column("id", 23, True), Column("na me", 25, False))


def test_a_row_holds_texts_nulls_and_unchanged_values() -> None:
    payload = change(b"I", b"N", values(text(b"7"), b"n", b"u", text("ö\n".encode()), text(b"")))
    assert pgoutput.inserted(payload) == ["7", None, UNCHANGED, "ö\n", ""]
    assert pgoutput.relation_oid(payload) == 16400


@pytest.mark.parametrize("kind", ["K", "O"])
def test_an_update_may_carry_the_old_key_or_the_old_row(kind: str) -> None:
    payload = change(b"U", kind.encode(), values(text(b"1"), b"n"), b"N", values(text(b"2"), b"n"))
    assert pgoutput.row(payload) == (["2", None], ["1", None], kind)


def test_an_update_without_an_old_row_has_none() -> None:
    payload = change(b"U", b"N", values(text(b"2")))
    assert pgoutput.row(payload) == (["2"], [], "")


def test_a_delete_carries_the_old_row_alone() -> None:
    payload = change(b"D", b"O", values(text(b"1")))
    assert pgoutput.row(payload) == ([], ["1"], "O")


def test_a_message_cut_short_anywhere_is_refused() -> None:
    whole = change(b"U", b"O", values(text(b"secret"), b"n"), b"N", values(text(b"secret"), b"n"))
    for length in range(5, len(whole)):
        with pytest.raises(MalformedMessage) as refused:
            pgoutput.row(whole[:length])
        assert "secret" not in str(refused.value)


def test_a_value_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        pgoutput.inserted(change(b"I", b"N", values(b"b\0\0\0\1x")))
