"""Which tables a statement of a binary log may have changed rows of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventing.sources.mystatements import tables_touched


@pytest.mark.parametrize(
    ("statement", "touched"),
    [
        ("INSERT INTO users VALUES (1)", [("", "users", "insert")]),
        ("insert ignore shop.`a``b` (id) values (1)", [("shop", "a`b", "insert")]),
        ("INSERT DELAYED INTO `shop` . users SET a = 1", [("shop", "users", "insert")]),
        ("/* by the app */ -- so\nREPLACE users VALUES (1)", [("", "users", "insert")]),
        ("LOAD DATA INFILE 'INTO TABLE x' INTO TABLE `t` FIELDS", [("", "t", "insert")]),
        ("UPDATE LOW_PRIORITY users SET v = 'UPDATE x SET'", [("", "users", "update")]),
        (
            "UPDATE a AS x LEFT JOIN b.c ON x.d = c.d, e SET x.v = 1",
            [("", "a", "update"), ("b", "c", "update"), ("", "e", "update")],
        ),
        ("UPDATE (a JOIN b USING (id)) SET a.v = 1", [("", "a", "update"), ("", "b", "update")]),
        ("DELETE QUICK FROM users", [("", "users", "delete")]),
        ("DELETE FROM users WHERE v = 'FROM x'", [("", "users", "delete")]),
        ("DELETE a, b FROM a JOIN b ON a.i = b.i", [("", "a", "delete"), ("", "b", "delete")]),
        ("DELETE FROM a USING a, b WHERE a.i = b.i", [("", "a", "delete"), ("", "b", "delete")]),
        ("WITH c AS (SELECT 1) DELETE FROM users WHERE id IN (c)", [("", "users", "delete")]),
        ("CREATE TABLE IF NOT EXISTS t AS SELECT 1", [("", "t", "insert")]),
        ("CREATE OR REPLACE TABLE a.t SELECT 1", [("a", "t", "insert")]),
        ("CREATE TABLE t (id int COMMENT 'to SELECT')", []),
        ("CREATE VIEW v AS SELECT 1", []),
        ("CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW UPDATE b SET c = 1", []),
        ("DELETE HISTORY FROM t", []),
        ("ALTER TABLE users ADD v int", []),
        ("TRUNCATE users", []),
        ("DROP TABLE users", []),
        ("", []),
    ],
)
def test_tables_are_found_by_their_place(
    statement: str, touched: list[tuple[str, str, str]]
) -> None:
    found = tables_touched(statement.encode())
    assert [(each.schema, each.table, each.operations[0]) for each in found] == touched


def test_what_a_statement_may_have_done_is_told_in_full() -> None:
    (replaced,) = tables_touched(b"REPLACE INTO t VALUES (1)")
    assert replaced.operations == ("insert", "delete", "update")
    (inserted,) = tables_touched(b"INSERT INTO t VALUES (1) ON  DUPLICATE\nKEY UPDATE a = 1")
    assert inserted.operations == ("insert", "update")


@given(st.sampled_from([b"UPDATE ", b"DELETE FROM ", b"WITH ", b"INSERT "]), st.binary())
def test_whatever_a_statement_is_looking_at_it_ends(verb: bytes, rest: bytes) -> None:
    for each in tables_touched(verb + rest):
        assert each.table


def test_a_statement_of_megabytes_takes_no_time() -> None:
    for beginning in (b"UPDATE a", b"DELETE a", b"UPDATE ", b"CREATE TABLE t (", b"WITH c AS "):
        for repeated in (b" ", b"(", b",a", b"/*", b"'", b"\\", b"JOIN "):
            tables_touched(beginning + repeated * 1_000_000)
