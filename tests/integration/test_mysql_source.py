"""The MySQL source against real servers; values against what the servers themselves say of them."""

import json
import secrets
import shutil
import subprocess
import time
import tracemalloc
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventing.changes import OPERATIONS, Change
from eventing.matching import Matcher, Rule
from eventing.sources.base import MOST_ROW_BYTES, START_ANEW, SourceBlocked
from eventing.sources.myposition import (
    Mark,
    Place,
    Position,
    file_and_offset,
    moment_of,
    parse_position,
)
from eventing.sources.mysql import MySqlSource
from tests import reading
from tests.databases import MySqlServer, connect, execute, is_mariadb, new_mariadb, new_mysql
from tests.reading import EVERYTHING
from tests.waiting import wait_until


class Capture(reading.Capture):
    """A capture of MySQL or MariaDB."""

    def __init__(
        self,
        url: str,
        watch: Matcher = EVERYTHING,
        after: str | None = None,
        name: str = "mission_control_test",
    ) -> None:
        super().__init__(MySqlSource(url, name), watch, after)

    def one_by_one(self, count: int) -> tuple[list[Change], list[str]]:
        """Exactly `count` changes, and the position after each; then the source is closed."""
        changes: list[Change] = []
        positions: list[str] = []

        def all_are_read() -> bool:
            batch = self.source.read(1, 0.2)
            changes.extend(batch.changes)
            positions.extend([batch.position] * len(batch.changes))
            return len(changes) >= count

        wait_until(all_are_read, 30, "changes")
        assert self.read() == []
        assert len(changes) == count
        self.source.close()
        return changes, positions


def the_rest_follows(url: str, changes: Sequence[Change], positions: Sequence[str]) -> None:
    """Whoever goes on after any of these positions is given what came behind it, and that once."""
    for number, position in enumerate(positions):
        again = Capture(url, after=position)
        rest = again.until(len(changes) - 1 - number)
        again.source.close()
        assert rest == changes[number + 1 :]


@pytest.fixture(params=["mariadb", "mysql"])
def database(request: pytest.FixtureRequest) -> str:
    """A database on each kind of server, by its URL."""
    return str(request.getfixturevalue(f"{request.param}_database"))


@pytest.fixture
def capture(database: str) -> Iterator[Capture]:
    opened = Capture(database)
    yield opened
    opened.source.close()


def set_global(request: pytest.FixtureRequest, database: str, name: str, value: str | int) -> None:
    """Set a variable of the server until the end of the test."""
    ((before,),) = execute(database, f"SELECT @@GLOBAL.{name}")
    execute(database, f"SET GLOBAL {name} = %s", [value])
    request.addfinalizer(lambda: execute(database, f"SET GLOBAL {name} = %s", [before]))


def documents(changes: Sequence[Change]) -> list[Any]:
    assert [change.problem for change in changes] == [None] * len(changes)
    return [json.loads(change.document, parse_float=Decimal) for change in changes]


def test_inserts_updates_and_deletes_are_read_in_order(capture: Capture, database: str) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, email varchar(50))")
    execute(database, "INSERT INTO users VALUES (7, 'a@example.com')")
    execute(database, "UPDATE users SET email = 'b@example.com'")
    execute(database, "DELETE FROM users")
    changes = capture.until(3)
    assert [change.operation for change in changes] == ["insert", "update", "delete"]
    assert {change.table for change in changes} == {"users"}
    assert {change.document_id for change in changes} == {"7"}
    first, second = {"id": 7, "email": "a@example.com"}, {"id": 7, "email": "b@example.com"}
    assert documents(changes) == [first, second, second]
    assert [json.loads(change.old or "null") for change in changes] == [None, first, second]
    assert [change.index for change in changes] == [0, 0, 0]


def test_a_key_of_several_columns_is_an_object_and_none_at_all_is_empty(
    capture: Capture, database: str
) -> None:
    execute(database, "CREATE TABLE pairs (v text, b int, a varchar(9), PRIMARY KEY (a, b))")
    execute(database, "CREATE TABLE loose (v text)")
    execute(database, "INSERT INTO pairs VALUES ('v', 1, 'x')")
    execute(database, "INSERT INTO loose VALUES ('v')")
    pair, loose = capture.until(2)
    assert pair.document_id == '{"a":"x","b":1}'
    assert loose.document_id == ""


# Column, value in SQL, and what the contract says becomes of it.
VALUES: list[tuple[str, str, str]] = [
    ("tinyint", "-128", "-128"),
    ("tinyint unsigned", "255", "255"),
    ("smallint unsigned", "65535", "65535"),
    ("mediumint", "-8388608", "-8388608"),
    ("mediumint unsigned", "16777215", "16777215"),
    ("int unsigned", "4294967295", "4294967295"),
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    ("boolean", "true", "1"),
    ("bit(1)", "b'1'", "1"),
    ("bit(64)", "18446744073709551615", "18446744073709551615"),
    ("decimal(65,30)", "-1.000000000000000000000000000001", "-1.000000000000000000000000000001"),
    ("decimal(10,0)", "42", "42"),
    ("decimal(4,4)", "0.0100", "0.0100"),
    ("float", "1.1", "1.1"),
    ("double", "0.1", "0.1"),
    ("double", "1e300", "1e+300"),
    ("year", "2019", "2019"),
    ("date", "'2019-10-19'", '"2019-10-19"'),
    ("date", "'0000-00-00'", '"0000-00-00"'),
    ("time", "'-838:59:59'", '"-838:59:59"'),
    ("time(6)", "'-00:00:00.000001'", '"-00:00:00.000001"'),
    ("time(3)", "'12:00:00.053'", '"12:00:00.053"'),
    ("datetime", "'2019-10-19 12:40:50'", '"2019-10-19T12:40:50"'),
    ("datetime(3)", "'2019-10-19 12:40:50.053'", '"2019-10-19T12:40:50.053"'),
    ("datetime(6)", "'9999-12-31 23:59:59.999999'", '"9999-12-31T23:59:59.999999"'),
    ("datetime", "'0000-00-00 00:00:00'", '"0000-00-00T00:00:00"'),
    # The sessions of the tests are an hour ahead of UTC.
    ("timestamp(3)", "'2019-10-19 12:40:50.053'", '"2019-10-19T11:40:50.053Z"'),
    ("timestamp", "'2038-01-19 04:14:07'", '"2038-01-19T03:14:07Z"'),
    ("char(3)", "'é '", '"é"'),
    ("char(200)", "repeat('ü', 200)", '"' + 200 * "ü" + '"'),
    ("varchar(300)", "'\U0001f600 \"\\\\ \\0 \\n'", json.dumps('\U0001f600 "\\ \0 \n')),
    ("varchar(9) CHARACTER SET latin1", "'é€'", '"é€"'),
    ("varchar(9) CHARACTER SET latin1", "_latin1 x'81E9'", '"\\u0081é"'),
    ("varchar(9) CHARACTER SET utf8mb3", "'é'", '"é"'),
    ("varchar(9) CHARACTER SET utf16", "'é\U0001f600'", '"é\U0001f600"'),
    ("varchar(9) CHARACTER SET sjis", "'日本'", '"日本"'),
    ("text", "''", '""'),
    ("longtext", "'x'", '"x"'),
    ("tinytext", "'x'", '"x"'),
    ("binary(4)", "x'00FF'", '"AP8AAA=="'),
    ("varbinary(9)", "x'00FF00'", '"AP8A"'),
    ("blob", "x'00FF'", '"AP8="'),
    ("enum('a','it''s','ü')", "'it''s'", '"it\'s"'),
    ("enum('a','ü') CHARACTER SET latin1", "'ü'", '"ü"'),
    ("set('a','b','c')", "'c,a'", '"a,c"'),
    ("set('a','b')", "''", '""'),
    ("json", "'{\"a\": [1, 2.50, null, true], \"b\": {}}'", '{"a":[1,2.50,null,true],"b":{}}'),
    ("json", "'{\"é\": \"日\"}'", '{"é":"日"}'),
    ("json", "'12345678901234567890'", "12345678901234567890"),
    ("json", "'\"x\"'", '"x"'),
    ("json", "'null'", "null"),
    ("json", "JSON_ARRAY(-1, 40000, 3000000000, 1e100)", "[-1,40000,3000000000,1e+100]"),
    ("geometry", "ST_GeomFromText('POINT(1 2)')", '"AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA=="'),
    ("int", "NULL", "null"),
    ("varchar(9)", "NULL", "null"),
]  # fmt: skip


@pytest.mark.parametrize("metadata", ["MINIMAL", "FULL"])
def test_every_type_becomes_what_the_contract_says(
    request: pytest.FixtureRequest, metadata: str, capture: Capture, database: str
) -> None:
    columns = ", ".join(f"c{n} {kind} NULL" for n, (kind, _, _) in enumerate(VALUES))
    values = ", ".join(value for _, value, _ in VALUES)
    set_global(request, database, "binlog_row_metadata", metadata)
    writer = connect(database, sql_mode="", init_command="SET time_zone = '+01:00'")
    with writer.cursor() as at:
        at.execute(f"CREATE TABLE things (id int PRIMARY KEY AUTO_INCREMENT, {columns})")
        at.execute(f"INSERT INTO things VALUES (1, {values})")
    writer.close()
    (change,) = capture.until(1)
    (document,) = documents([change])
    for n, (kind, value, text) in enumerate(VALUES):
        expected = json.loads(text, parse_float=Decimal)
        assert document[f"c{n}"] == expected, f"{kind} {value}"
    sample = MySqlSource(database, "mission_control_sample").sample("things")
    assert sample is not None
    assert sample.document_id == change.document_id
    sampled = json.loads(sample.document, parse_float=Decimal)
    for n, (kind, value, _) in enumerate(VALUES):
        assert sampled[f"c{n}"] == document[f"c{n}"], f"{kind} {value}"


def test_after_any_change_of_a_transaction_the_rest_follows_and_nothing_twice(
    capture: Capture, database: str
) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, v int)")
    execute(database, "CREATE TABLE others (id int PRIMARY KEY, v int)")
    writer = connect(database, autocommit=False)
    with writer.cursor() as at:
        at.execute("INSERT INTO users VALUES (1, 0), (2, 0), (3, 0)")
        at.execute("SAVEPOINT here")
        at.execute("INSERT INTO users VALUES (4, 0)")
        at.execute("ROLLBACK TO here")
        at.execute("INSERT INTO others VALUES (5, 0)")
        at.execute("UPDATE users SET v = 1")
        writer.commit()
        at.execute("INSERT INTO users VALUES (9, 0)")
        writer.rollback()
        at.execute("DELETE FROM users")
        writer.commit()
    writer.close()
    changes, positions = capture.one_by_one(10)
    assert [change.document_id for change in changes] == list("1235123123")
    assert [change.index for change in changes] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    assert len({change.position for change in changes}) == 10
    the_rest_follows(database, changes, positions)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.integers(-(2**23), 2**23 - 1),
        st.decimals(-(10**15), 10**15, places=5),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.binary(max_size=40),
        st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001
        st.sampled_from(["small", "it's", "größer"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9
            ),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.text(st.characters(codec="ascii"), max_size=5), inner, max_size=3
                )
            ),
            max_leaves=9,
        ),
    ),
    min_size=1,
    max_size=30,
)
# The server's own words for a row; JSON is held against what was written.
ORACLE = """
SELECT JSON_OBJECT('id', id, 'u', u, 'm', m, 'd', d, 'f', f, 't', t, 'b', TO_BASE64(b),
  'at', DATE_FORMAT(at, '%Y-%m-%dT%H:%i:%s.%f'), 'e', e) FROM things ORDER BY id
"""


def test_rows_at_random_are_what_the_server_says_they_are(capture: Capture, database: str) -> None:
    execute(
        database,
        "CREATE TABLE things (id int PRIMARY KEY, u bigint unsigned, m mediumint,"
        " d decimal(25,5), f double, t varchar(40), b varbinary(40), at datetime(6),"
        " e enum('small', 'it''s', 'größer'), j json)",
    )
    capture.read()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ROWS)
    def compare(rows: Any) -> None:
        connection = connect(database, autocommit=False)
        with connection.cursor() as at:
            at.executemany(
                "INSERT INTO things VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (n, *row[:5], row[5], *row[6:8], json.dumps(row[8]))
                    for n, row in enumerate(rows)
                ],
            )
            at.execute(ORACLE)
            told = [json.loads(text, parse_float=Decimal) for (text,) in at.fetchall()]
            connection.commit()
            at.execute("DELETE FROM things")
        connection.commit()
        connection.close()
        changes = capture.until(2 * len(rows))
        found = documents(changes)
        assert found[len(rows) :] == found[: len(rows)]
        for row, document, oracle in zip(rows, found, told, strict=False):
            assert document.pop("j") == row[8]
            assert float(document.pop("f")) == float(oracle.pop("f")) == row[3]
            assert document == oracle

    compare()


def test_a_change_shows_where_its_transaction_begins_and_its_number_there(
    capture: Capture, database: str
) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY)")
    execute(database, "INSERT INTO users VALUES (1), (2)")
    shown = [str(change.shown_position).split("#") for change in capture.until(2)]
    assert [number for _, number in shown] == ["0", "1"]
    (place,) = {place for place, _ in shown}
    if is_mariadb(database):
        assert execute(database, "SELECT @@gtid_binlog_pos") == [(place,)]
    else:
        file, _, offset = place.partition(":")
        ((_, begin, kind, *_),) = execute(
            database, f"SHOW BINLOG EVENTS IN '{file}' FROM {int(offset)} LIMIT 1"
        )
        assert (begin, kind) in ((int(offset), "Gtid"), (int(offset), "Anonymous_Gtid"))


def test_compressed_logs_are_read(capture: Capture, database: str) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, v text)")
    with compressing(database) as writer:
        execute_at(
            writer, "INSERT INTO users VALUES (1, repeat('x', 5000)), (2, repeat('y', 5000))"
        )
        execute_at(writer, "UPDATE users SET v = repeat('z', 5000) WHERE id = 2")
        execute_at(writer, "DELETE FROM users WHERE id = 1")
        writer.commit()
    changes = capture.until(4)
    assert [document["v"][0] for document in documents(changes)] == ["x", "y", "z", "x"]
    assert len({change.position for change in changes}) == 4
    capture.source.close()
    again = Capture(database, after=capture.position)
    execute(database, "INSERT INTO users VALUES (3, 'plain')")
    assert again.until(1)[0].document_id == "3"
    again.source.close()


@pytest.fixture
def large_packets(request: pytest.FixtureRequest, database: str) -> None:
    """Connections made meanwhile may send what is as large as can be."""
    set_global(request, database, "max_allowed_packet", 1 << 30)


@contextmanager
def compressing(database: str) -> Iterator["pymysql.Connection[Any]"]:
    """A connection whose transactions are compressed in the binary log."""
    is_of_the_server = is_mariadb(database)
    if is_of_the_server:
        execute(database, "SET GLOBAL log_bin_compress = ON")
    with closing(connect(database, autocommit=False)) as connection:
        if not is_of_the_server:
            execute_at(connection, "SET SESSION binlog_transaction_compression = ON")
        yield connection
    if is_of_the_server:
        execute(database, "SET GLOBAL log_bin_compress = OFF")


def execute_at(connection: "pymysql.Connection[Any]", sql: str, *parameters: Any) -> None:
    with connection.cursor() as at:
        at.execute(sql, parameters or None)


@contextmanager
def memory_of_python() -> Iterator[Callable[[], int]]:
    """How many bytes Python's objects have taken at once, at most, since the beginning."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("large_packets")
@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "compressed"])
def test_a_row_that_is_far_too_large_is_not_even_taken_into_memory(
    database: str, is_compressed: bool
) -> None:
    execute(database, "CREATE TABLE files (id int PRIMARY KEY, content longtext)")
    execute(database, "CREATE TABLE unwanted (id int PRIMARY KEY, content longtext)")
    capture = Capture(database, Matcher([Rule(1, "files", ("files",), frozenset(OPERATIONS))]))
    capture.read()
    with compressing(database) if is_compressed else closing(connect(database)) as writer:
        execute_at(writer, "INSERT INTO unwanted VALUES (1, repeat('x', 20000000))")
        execute_at(writer, "INSERT INTO files VALUES (1, 'before')")
        execute_at(writer, f"INSERT INTO files VALUES (2, repeat('x', {MOST_ROW_BYTES}))")
        execute_at(writer, "INSERT INTO files VALUES (3, 'behind')")
        writer.commit()
    batches = []
    with memory_of_python() as most_taken:
        while sum(len(batch.changes) for batch in batches) < 3:
            batches.append(capture.source.read(1, 5.0))
        # MariaDB compresses a row to what fits into one packet, which unpacks in memory.
        if not (is_compressed and is_mariadb(database)):
            assert most_taken() < 64 * 1024 * 1024
    capture.source.close()
    (before, _), (large, stored_up_to), (behind, _) = [
        (batch.changes[0], batch.position) for batch in batches if batch.changes
    ]
    assert documents([before, behind]) == [
        {"id": 1, "content": "before"},
        {"id": 3, "content": "behind"},
    ]
    assert (large.operation, large.document, large.document_id) == ("insert", "{}", "")
    assert f"more than {MOST_ROW_BYTES} bytes" in (large.problem or "")
    again = Capture(database, after=stored_up_to)
    assert again.until(1) == [behind]
    again.source.close()


@pytest.mark.usefixtures("large_packets")
def test_a_row_of_many_packets_is_read_as_it_is(capture: Capture, database: str) -> None:
    execute(database, "CREATE TABLE files (id int PRIMARY KEY, content longtext)")
    # The packets of an event hold 2^24 - 1 bytes each, and the last one may be empty.
    sizes = [40_000_000, *range((1 << 24) - 120, (1 << 24) + 40, 10)]
    for number, size in enumerate(sizes):
        execute(database, f"INSERT INTO files VALUES ({number}, repeat('x', {size}))")
    read: list[tuple[str, int]] = []
    while len(read) < len(sizes):
        read += [(change.document_id, len(change.document)) for change in capture.read(5.0)]
    frame = len('{"id":0,"content":""}')
    assert read == [
        (str(number), size + frame + len(str(number)) - 1) for number, size in enumerate(sizes)
    ]


@pytest.mark.usefixtures("large_packets")
def test_a_compressed_transaction_is_unpacked_while_it_arrives(mysql_database: str) -> None:
    """However large it is: here forty times a megabyte that cannot be compressed."""
    execute(mysql_database, "CREATE TABLE files (id int PRIMARY KEY, content longblob)")
    capture = Capture(mysql_database)
    contents = [secrets.token_bytes(1_000_000) for _ in range(40)]
    with compressing(mysql_database) as writer:
        for number, content in enumerate(contents):
            execute_at(writer, "INSERT INTO files VALUES (%s, %s)", number, content)
        writer.commit()
    positions = []
    with memory_of_python() as most_taken:
        for content in contents:
            batch = capture.source.read(1, 5.0)
            assert b64decode(documents(batch.changes)[0]["content"]) == content
            positions.append(batch.position)
        assert most_taken() < 20_000_000
    capture.source.close()
    again = Capture(mysql_database, after=positions[29])
    execute(mysql_database, "INSERT INTO files VALUES (40, '')")
    assert [change.document_id for change in again.until(11)] == [str(n) for n in range(30, 41)]
    again.source.close()


def test_every_way_to_write_rows_is_read(capture: Capture, database: str) -> None:
    for statement in (
        "CREATE TABLE first (id int PRIMARY KEY, v varchar(9))",
        "INSERT INTO first VALUES (1, 'a')",
        "CREATE TABLE second (PRIMARY KEY (id)) ENGINE = InnoDB AS SELECT * FROM first",
        "REPLACE INTO second VALUES (1, 'b')",
        "INSERT INTO second VALUES (1, 'c') ON DUPLICATE KEY UPDATE v = 'd'",
        "CREATE TEMPORARY TABLE third AS SELECT * FROM first",
        "CREATE TABLE fourth (id int PRIMARY KEY) ENGINE = MyISAM",
        "INSERT INTO fourth VALUES (8)",
        "INSERT INTO second SELECT 2, v FROM first",
        "DELETE f, s FROM first AS f JOIN second AS s",
    ):
        execute(database, statement)
    # REPLACE of a row that is there is an update, or a delete and an insert.
    wait_until(lambda: not capture.read(0.5) and len(capture.seen) >= 9, 20, "changes")
    seen = [(change.table, change.operation, change.document_id) for change in capture.seen]
    values = [json.loads(change.document).get("v") for change in capture.seen]
    assert seen[:2] == [("first", "insert", "1"), ("second", "insert", "1")]
    assert seen[-5:-3] == [("fourth", "insert", "8"), ("second", "insert", "2")]
    assert "b" in values
    assert values[-6] == "d"
    assert {change.problem for change in capture.seen} == {None}
    assert sorted(seen[-3:]) == [
        ("first", "delete", "1"),
        ("second", "delete", "1"),
        ("second", "delete", "2"),
    ]


def test_rows_written_before_an_alter_table_are_read_or_reported_and_never_guessed(
    request: pytest.FixtureRequest, database: str
) -> None:
    set_global(request, database, "binlog_row_metadata", "MINIMAL")
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, size enum('small', 'large'))")
    capture = Capture(database)
    capture.read()
    execute(database, "INSERT INTO users VALUES (1, 'large')")
    execute(database, "ALTER TABLE users ADD COLUMN email varchar(9), RENAME COLUMN size TO fit")
    execute(database, "INSERT INTO users VALUES (2, 'small', 'a@b')")
    before, after = capture.until(2)
    assert (before.document, before.document_id) == ("{}", "")
    assert "binlog_row_metadata = FULL" in (before.problem or "")
    assert documents([after]) == [{"id": 2, "fit": "small", "email": "a@b"}]
    execute(database, "ALTER TABLE users MODIFY COLUMN fit enum('tiny', 'small', 'large')")
    execute(database, "INSERT INTO users VALUES (3, 'small', '')")
    assert documents(capture.until(1)) == [{"id": 3, "fit": "small", "email": ""}]
    set_global(request, database, "binlog_row_metadata", "FULL")
    execute(database, "INSERT INTO users VALUES (4, 'tiny', '')")
    execute(database, "ALTER TABLE users RENAME COLUMN fit TO width, DROP COLUMN email")
    execute(database, "INSERT INTO users VALUES (5, 'large')")
    four, five = documents(capture.until(2))
    assert (four["fit"], five) == ("tiny", {"id": 5, "width": "large"})
    capture.source.close()


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER TABLE users RENAME COLUMN first TO given",
        "ALTER TABLE users CHANGE first last varchar(9), CHANGE last first varchar(9)",
        "ALTER TABLE users MODIFY last varchar(9) AFTER size",
        "ALTER TABLE users DROP first, ADD nick varchar(9)",
        "ALTER TABLE `users` MODIFY size enum('large', 'small')",
        "ALTER TABLE users DROP PRIMARY KEY, ADD CONSTRAINT k PRIMARY KEY (first)",
        "DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY,"
        " size enum('large', 'small'), last varchar(9), first varchar(9))",
        "RENAME TABLE users TO old; CREATE TABLE users (id int PRIMARY KEY,"
        " size enum('large', 'small'), last varchar(9), first varchar(9))",
    ],
)
def test_columns_of_the_same_shape_are_not_taken_for_those_of_before_an_alter_table(
    request: pytest.FixtureRequest, database: str, alter: str
) -> None:
    set_global(request, database, "binlog_row_metadata", "MINIMAL")
    people = "(id int PRIMARY KEY, size enum('small', 'large'), first varchar(9), last varchar(9))"
    execute(database, f"CREATE TABLE users {people}")
    capture = Capture(database)
    execute(database, "INSERT INTO users VALUES (1, 'large', 'Ada', 'Lovelace')")
    for statement in alter.split("; "):
        execute(database, statement)
    execute(database, "INSERT INTO users VALUES (2, 'small', 'Alan', 'Turing')")
    execute(database, "CREATE TABLE others (id int PRIMARY KEY)")
    execute(database, "INSERT INTO others VALUES (3)")
    row = execute(database, "SELECT * FROM users WHERE id = 2")[0]
    before, after, other = capture.until(3)
    capture.source.close()
    assert (before.document, before.document_id) == ("{}", "")
    assert "has been altered since" in (before.problem or "")
    assert list(documents([after])[0].values()) == list(row)
    assert documents([other]) == [{"id": 3}]


def test_what_leaves_the_columns_as_they_are_leaves_earlier_rows_readable(
    request: pytest.FixtureRequest, database: str
) -> None:
    set_global(request, database, "binlog_row_metadata", "MINIMAL")
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, v varchar(9))")
    execute(database, "CREATE TABLE users2 (id int PRIMARY KEY, v varchar(9))")
    capture = Capture(database)
    execute(database, "INSERT INTO users VALUES (1, 'a')")
    for statement in (
        "CREATE INDEX first ON users (v)",
        "ALTER TABLE users ADD INDEX second (v), DROP INDEX first, ALTER v SET DEFAULT 'x'",
        "/* by the application */ CREATE TABLE IF NOT EXISTS users (id int PRIMARY KEY)",
        "CREATE OR REPLACE VIEW seen AS SELECT v AS changed FROM users",
        "CREATE PROCEDURE clear() DROP TABLE users",
        "ANALYZE TABLE users",
        "CREATE TRIGGER stamp BEFORE INSERT ON users FOR EACH ROW SET NEW.v = 'stamped'",
        "DROP TRIGGER stamp",
        "ALTER TABLE users2 RENAME COLUMN v TO w",
        "ALTER TABLE users2 COMMENT 'users, renamed: users'",
        "TRUNCATE TABLE users",
    ):
        execute(database, statement)
    assert documents(capture.until(1)) == [{"id": 1, "v": "a"}]
    capture.source.close()


def test_an_alter_table_far_behind_the_rows_at_hand_is_found(
    request: pytest.FixtureRequest, database: str
) -> None:
    set_global(request, database, "binlog_row_metadata", "MINIMAL")
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, a varchar(9), b varchar(9))")
    execute(database, "CREATE TABLE others (id int PRIMARY KEY, v longtext)")
    capture = Capture(database)
    execute(database, "INSERT INTO others VALUES (0, 'x')")
    execute(database, "INSERT INTO users VALUES (1, 'a', 'b')")
    for number in range(1, 30):
        execute(database, f"INSERT INTO others VALUES ({number}, repeat('x', 1000000))")
        if number % 10 == 0:
            execute(database, "FLUSH BINARY LOGS")
    execute(database, "ALTER TABLE users RENAME COLUMN a TO c, RENAME COLUMN b TO a")
    changes: list[Change] = []
    # Reading ahead takes more time than a look is given, and goes on with the next one.
    wait_until(lambda: (changes.extend(capture.read(0.001)), len(changes) == 31)[1], 30, "changes")
    users = [change for change in changes if change.table == "users"]
    assert ["has been altered since" in (change.problem or "") for change in users] == [True]
    assert {change.problem for change in changes if change.table == "others"} == {None}
    capture.source.close()


def test_a_stream_that_is_not_read_for_long_as_during_a_look_ahead_goes_on(
    request: pytest.FixtureRequest, database: str
) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, v longtext)")
    set_global(request, database, "net_write_timeout", 1)
    capture = Capture(database)
    # More than fits into what lies between the server and us.
    for number in range(40):
        execute(database, f"INSERT INTO users VALUES ({number}, repeat('x', 1000000))")
    for _ in range(2):
        wait_until_an_unread_answer_is_given_up(database)
    assert len(capture.until(40)) == 40
    capture.source.close()


def wait_until_an_unread_answer_is_given_up(database: str) -> None:
    """The server then has given up whatever else it has waited for so long."""
    other: Any = connect(database)
    other.query("SELECT v FROM users", unbuffered=True)
    is_there = f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {other.thread_id()}"
    wait_until(lambda: not execute(database, is_there), 60, "the server waits on")
    # Else the driver would read to the end before it lets go.
    other._result.unbuffered_active = False
    other._force_close()


@pytest.mark.parametrize("metadata", ["NO_LOG", "MINIMAL", "FULL"])
@pytest.mark.parametrize(
    "columns",
    [
        "",
        ", began timestamp(6) GENERATED ALWAYS AS ROW START,"
        " ended timestamp(6) GENERATED ALWAYS AS ROW END INVISIBLE,"
        " PERIOD FOR SYSTEM_TIME (began, ended)",
    ],
)
def test_a_table_with_its_history_tells_what_was_done_and_not_the_history(
    request: pytest.FixtureRequest, mariadb_database: str, metadata: str, columns: str
) -> None:
    database = mariadb_database
    set_global(request, database, "binlog_row_metadata", metadata)
    execute(
        database,
        f"CREATE TABLE users (id int PRIMARY KEY, v varchar(9){columns}) WITH SYSTEM VERSIONING",
    )
    capture = Capture(database)
    only_deletes = Matcher([Rule(1, "all", (), frozenset({"delete"}))])  # type: ignore[arg-type]
    deletes = Capture(database, only_deletes, name="mission_control_other")
    start = capture.read() or capture.position
    for statement in (
        "INSERT INTO users (id, v) VALUES (1, 'a'), (2, 'b')",
        "UPDATE users SET v = 'c'",
        "REPLACE INTO users (id, v) VALUES (2, 'd')",
        "DELETE FROM users WHERE id = 2",
        "DELETE HISTORY FROM users",
        "INSERT INTO users (id, v) VALUES (1, 'x') ON DUPLICATE KEY UPDATE v = 'e'",
    ):
        execute(database, statement)
    changes = capture.until(8)
    found = [(change.operation, change.document_id) for change in changes]
    assert found == [
        ("insert", "1"),
        ("insert", "2"),
        ("update", "1"),
        ("update", "2"),
        ("delete", "2"),
        ("insert", "2"),
        ("delete", "2"),
        ("update", "1"),
    ]
    assert [document["v"] for document in documents(changes)] == list("abcccdde")
    assert [json.loads(change.old or "null") for change in changes][2:5] == [
        json.loads(changes[place].document) for place in (0, 1, 4)
    ]
    assert len({change.position for change in changes}) == 8
    assert [(change.operation, change.document) for change in deletes.until(2)] == [
        ("delete", changes[place].document) for place in (4, 6)
    ]
    for opened in (capture, deletes):
        opened.source.close()
    for number in range(8):
        again = Capture(database, after=start)
        start = again.source.read(1, 5.0).position
        again.source.close()
        rest = Capture(database, after=start)
        assert rest.until(7 - number) == changes[number + 1 :]
        rest.source.close()


def test_a_table_whose_history_is_kept_by_transactions_is_named(mariadb_database: str) -> None:
    """The server logs its changes as statements, whatever the format."""
    execute(
        mariadb_database,
        "CREATE TABLE ledger (id int PRIMARY KEY, began bigint unsigned GENERATED ALWAYS AS ROW"
        " START, ended bigint unsigned GENERATED ALWAYS AS ROW END,"
        " PERIOD FOR SYSTEM_TIME (began, ended)) WITH SYSTEM VERSIONING",
    )
    capture = Capture(mariadb_database)
    execute(mariadb_database, "INSERT INTO ledger (id) VALUES (1)")
    (change,) = capture.until(1)
    assert (change.table, change.operation, change.document) == ("ledger", "insert", "{}")
    assert NOT_LOGGED in str(change.problem)
    capture.source.close()
    (table,) = capture.source.catalogue()
    assert "logs its changes as statements" in table.limits
    findings = [finding for finding in capture.source.check() if finding.name == "history"]
    assert [(finding.status, finding.what) for finding in findings] == [
        ("warning", f"ledger: {table.limits}")
    ]


@pytest.mark.parametrize("first", ["temporary", "nothing"])
def test_rows_that_a_transaction_took_back_make_no_events(
    mariadb_database: str, first: str
) -> None:
    """A MariaDB logs them, if the transaction has also done what cannot be taken back."""
    url = mariadb_database
    execute(url, "CREATE TABLE users (id int PRIMARY KEY) ENGINE=InnoDB")
    execute(url, "CREATE TABLE notes (id int PRIMARY KEY) ENGINE=MyISAM")
    capture = Capture(url)
    writer = connect(url, autocommit=False)
    with writer.cursor() as at:
        if first == "temporary":
            at.execute("CREATE TEMPORARY TABLE passing (id int)")
        at.execute("INSERT INTO users VALUES (1)")
        at.execute("INSERT INTO notes VALUES (2)")
        writer.rollback()
        if first == "temporary":
            at.execute("CREATE TEMPORARY TABLE passing2 (id int)")
        at.execute("INSERT INTO users VALUES (3)")
        at.execute("SAVEPOINT `a b`")
        at.execute("INSERT INTO users VALUES (4)")
        at.execute("INSERT INTO notes VALUES (5)")
        at.execute("SAVEPOINT c")
        at.execute("INSERT INTO users VALUES (6)")
        at.execute("ROLLBACK TO c")
        at.execute("INSERT INTO users VALUES (7)")
        at.execute("ROLLBACK TO `a b`")
        at.execute("INSERT INTO users VALUES (8), (9)")
        writer.commit()
    writer.close()
    changes, positions = capture.one_by_one(5)
    assert [each.document_id for each in changes] == ["2", "5", "3", "8", "9"]
    the_rest_follows(url, changes, positions)


NOT_LOGGED = "the binary log does not say which"


def test_what_a_session_does_not_log_as_rows_is_said_to_be_missing(
    capture: Capture, database: str
) -> None:
    """Such are all sessions that were open when the server was set to log rows."""
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, v int)")
    execute(database, "CREATE TABLE others (id int PRIMARY KEY, v int)")
    writer = connect(database, autocommit=False)
    with writer.cursor() as at:
        at.execute("SET SESSION binlog_format = MIXED")
        at.execute("INSERT INTO users VALUES (1, 1)")
        at.execute("INSERT INTO users VALUES (length(uuid()), 2)")
        at.execute("/* both */ UPDATE others JOIN `users` ON users.id = others.id SET others.v = 3")
        at.execute("INSERT INTO users VALUES (length(uuid()) + 1, 4)")
        writer.commit()
        at.execute("SET SESSION binlog_format = STATEMENT")
        at.execute("REPLACE INTO users VALUES (5, 5)")
        at.execute("DELETE FROM users WHERE id = 5")
        writer.commit()
        at.execute("CREATE TABLE made AS SELECT 1 AS id")
        at.execute("UPDATE mysql.help_topic SET name = name WHERE name = 'none'")
        writer.commit()
    writer.close()
    execute(database, "INSERT INTO users VALUES (6, 6)")
    changes, positions = capture.one_by_one(9)
    assert [(each.table, each.operation, each.document_id) for each in changes] == [
        ("users", "insert", ""),
        ("users", "insert", "36"),
        ("others", "update", ""),
        ("users", "update", ""),
        ("users", "insert", "37"),
        ("users", "insert", ""),
        ("users", "delete", ""),
        ("made", "insert", ""),
        ("users", "insert", "6"),
    ]
    assert len({each.position for each in changes}) == 9
    for change in changes:
        assert (NOT_LOGGED in (change.problem or "")) is (change.document_id == "")
    the_rest_follows(database, changes, positions)


def test_of_a_statement_only_what_is_wanted_is_said(database: str) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY, v int)")
    capture = Capture(database, Matcher([Rule(1, "u", ("users",), frozenset({"update"}))]))  # type: ignore[arg-type]
    writer = connect(database)
    with writer.cursor() as at:
        at.execute("SET SESSION binlog_format = STATEMENT")
        at.execute("CREATE TABLE others (id int PRIMARY KEY, v int)")
        at.execute("INSERT INTO others VALUES (1, 1)")
        at.execute("INSERT INTO users VALUES (1, 1)")
        at.execute("INSERT INTO users VALUES (1, 1) ON DUPLICATE KEY UPDATE v = 2")
    writer.close()
    (change,) = capture.until(1)
    assert (change.operation, change.table) == ("update", "users")
    capture.source.close()


def test_a_sequence_is_no_table(mariadb_database: str) -> None:
    execute(mariadb_database, "CREATE TABLE users (id int PRIMARY KEY)")
    capture = Capture(mariadb_database)
    execute(mariadb_database, "CREATE SEQUENCE numbers")
    execute(mariadb_database, "INSERT INTO users VALUES (NEXT VALUE FOR numbers)")
    assert [change.table for change in capture.until(1)] == ["users"]
    capture.source.watch(EVERYTHING)
    execute(mariadb_database, "SELECT SETVAL(numbers, 5000)")
    execute(mariadb_database, "INSERT INTO users VALUES (NEXT VALUE FOR numbers)")
    assert [change.document_id for change in capture.until(1)] == ["5001"]
    assert [table.name for table in capture.source.catalogue()] == ["users"]
    capture.source.close()


def test_updates_that_are_logged_in_parts_are_reported(mysql_database: str) -> None:
    execute(mysql_database, "CREATE TABLE users (id int PRIMARY KEY, j json, v int)")
    capture = Capture(mysql_database)
    connection = connect(mysql_database)
    with connection.cursor() as at:
        at.execute("SET SESSION binlog_row_value_options = 'PARTIAL_JSON'")
        at.execute("""INSERT INTO users VALUES (1, '{"a": 1, "b": "long enough for a part"}', 0)""")
        at.execute("UPDATE users SET v = 1")
        at.execute("UPDATE users SET j = JSON_SET(j, '$.a', 2)")
        at.execute("DELETE FROM users")
    connection.close()
    inserted, untouched, in_part, deleted = capture.until(4)
    document = {"a": 1, "b": "long enough for a part"}
    assert documents([inserted]) == [{"id": 1, "j": document, "v": 0}]
    # The server writes the JSON column as unchanged.
    assert "binlog_row_value_options" in (untouched.problem or "")
    assert "binlog_row_value_options" in (in_part.problem or "")
    assert documents([deleted]) == [{"id": 1, "j": {**document, "a": 2}, "v": 1}]
    capture.source.close()


@pytest.mark.parametrize("metadata", ["MINIMAL", "FULL"])
def test_invisible_and_generated_columns_are_part_of_the_row(
    request: pytest.FixtureRequest, database: str, metadata: str
) -> None:
    set_global(request, database, "binlog_row_metadata", metadata)
    execute(
        database,
        "CREATE TABLE users (id int PRIMARY KEY, a int, kept int AS (a + 1) STORED,"
        " reckoned int AS (a + 2) VIRTUAL, hidden int DEFAULT 9 INVISIBLE)",
    )
    capture = Capture(database)
    execute(database, "INSERT INTO users (id, a) VALUES (1, 1)")
    execute(database, "UPDATE users SET a = 5")
    execute(database, "DELETE FROM users")
    first = {"id": 1, "a": 1, "kept": 2, "reckoned": 3, "hidden": 9}
    second = {"id": 1, "a": 5, "kept": 6, "reckoned": 7, "hidden": 9}
    assert documents(capture.until(3)) == [first, second, second]
    capture.source.close()


def test_a_value_that_its_type_does_not_allow_fails_alone(mariadb_database: str) -> None:
    """MariaDB's JSON is text: switched off checks let anything in, and it stays text."""
    execute(mariadb_database, "CREATE TABLE users (id int PRIMARY KEY, j json)")
    capture = Capture(mariadb_database)
    connection = connect(mariadb_database)
    with connection.cursor() as at:
        at.execute("SET SESSION check_constraint_checks = OFF")
        at.execute("INSERT INTO users VALUES (1, '{oops'), (2, '{\"a\": 1}')")
    connection.close()
    assert documents(capture.until(2)) == [{"id": 1, "j": "{oops"}, {"id": 2, "j": {"a": 1}}]
    capture.source.close()


def test_changes_of_a_session_that_sets_its_clock_back_are_no_older_than_their_log(
    capture: Capture, database: str
) -> None:
    execute(database, "CREATE TABLE users (id int PRIMARY KEY)")
    with closing(connect(database)) as opened, opened.cursor() as at:
        at.execute("SET timestamp = 86400")
        at.execute("INSERT INTO users VALUES (1)")
    (change,) = capture.until(1)
    assert time.time() - change.committed_at_ms / 1000 < 6 * 3600


@pytest.mark.parametrize("gtid_mode", ["ON", "OFF"])
def test_a_binary_log_that_was_begun_anew_blocks(gtid_mode: str) -> None:
    server = new_mysql(gtid_mode=gtid_mode, enforce_gtid_consistency=gtid_mode)
    server.start()
    url = server.create_database()
    execute(url, "CREATE TABLE users (id int PRIMARY KEY)")
    capture = having_read_one(url)
    execute(url, "RESET BINARY LOGS AND GTIDS")
    if gtid_mode == "OFF":
        # The place that was reached is there again.
        _, reached = file_and_offset(parse_position(str(capture.position)).done)
        wait_until(
            lambda: (
                execute(url, "INSERT INTO users SELECT count(*) + 1 FROM users"),
                execute(url, "SHOW BINARY LOG STATUS")[0][1] > reached,
            )[1],
            20,
            "the log stays small",
        )
    refused_anew(url, capture.position)
    server.kill()


def test_a_place_within_an_event_is_no_event_that_is_too_large() -> None:
    server = new_mysql(gtid_mode="OFF", enforce_gtid_consistency="OFF")
    server.start()
    url = server.create_database()
    execute(url, "CREATE TABLE users (id int PRIMARY KEY, name longtext)")
    capture = Capture(url)
    execute(url, "INSERT INTO users VALUES (1, 'a')")
    capture.until(1)
    capture.source.close()
    # As the place is after a log that was begun anew in the second in which the old one was.
    stored = parse_position(str(capture.position))
    place, _, moment = stored.done.partition("@")
    file, _, offset = place.rpartition(":")
    execute(url, "INSERT INTO users VALUES (2, repeat('z', 2000000))")
    refused_anew(url, f"file;{file}:{int(offset) + 1_000_000}@{moment}", "begun anew")
    # An event larger than a packet may be now is sent all the same.
    execute(url, "SET GLOBAL max_allowed_packet = 1048576")
    _resume(url, capture.position)
    server.kill()


def test_a_file_of_the_same_name_at_another_server_blocks_though_nothing_was_committed() -> None:
    first = new_mysql(gtid_mode="OFF", enforce_gtid_consistency="OFF")
    first.start()
    name = urlsplit(first.create_database("shop")).path
    capture = Capture(first.url("shop"))
    capture.read()
    capture.source.close()
    first.kill()
    second = new_mysql(gtid_mode="OFF", enforce_gtid_consistency="OFF")
    second.start()
    url = second.create_database("shop")
    assert urlsplit(url).path == name
    _, reached = file_and_offset(parse_position(str(capture.position)).done)
    execute(url, "CREATE TABLE users (id int PRIMARY KEY)")
    while execute(url, "SHOW BINARY LOG STATUS")[0][1] <= reached:
        execute(url, "INSERT INTO users SELECT count(*) + 1 FROM users")
    refused_anew(url, capture.position, "begun anew")
    second.kill()


@pytest.mark.parametrize("kind", ["mysql", "mariadb"])
def test_a_log_begun_anew_blocks_though_it_has_passed_the_old_transactions(kind: str) -> None:
    if kind == "mysql":
        server = new_mysql(gtid_mode="ON", enforce_gtid_consistency="ON")
    else:
        server = new_mariadb()
    server.start()
    url = server.create_database()
    execute(url, "CREATE TABLE users (id int PRIMARY KEY)")
    capture = having_read_one(url)
    # An old file that is purged is no reason to block.
    execute(url, "FLUSH BINARY LOGS")
    last = execute(url, "SHOW BINARY LOGS")[-1][0]
    execute(url, f"PURGE BINARY LOGS TO '{last}'")
    _resume(url, capture.position)
    execute(url, "INSERT INTO users VALUES (2)")
    _resume(url, capture.position)
    moment = moment_of(parse_position(str(capture.position)).done)
    wait_until(lambda: time.time() >= moment + 2)
    _begin_log_anew(url, kind)
    # Without a mark, as a position of an earlier version, or of another server of the group.
    stored = parse_position(str(capture.position))
    for position in (stored, replace(stored, mark=None)):
        refused_anew(url, str(position), "begun anew")
    server.kill()


def _begin_log_anew(url: str, kind: str) -> None:
    """Have the server forget its binary log, and write more than it had."""
    execute(url, "RESET MASTER" if kind == "mariadb" else "RESET BINARY LOGS AND GTIDS")
    for number in range(10, 40):
        execute(url, f"INSERT INTO users VALUES ({number})")


@pytest.mark.parametrize("kind", ["mysql", "mysql without ids", "mariadb"])
def test_a_log_begun_anew_blocks_whatever_its_clock_says(kind: str) -> None:
    server = _server_of(kind)
    server.start()
    url = server.create_database()
    execute(url, "CREATE TABLE users (id int PRIMARY KEY)")
    capture = having_read_one(url)
    read = parse_position(str(capture.position))
    _begin_log_anew(url, kind)
    # As if the log was begun in the second in which the latest transaction was committed, or the
    # clock was set back meanwhile; and, without ids, as if an event ended at the place stored.
    if kind == "mysql without ids":
        file, end = execute(url, "SHOW BINARY LOG STATUS")[0][:2]
        with (server.folder / "data" / file).open("rb") as log:
            begun_at = int.from_bytes(log.read(8)[4:], "little")
        done = f"{file}:{end}@{begun_at}"
    else:
        done = f"{read.done.partition('@')[0]}@{int(time.time()) + 3600}"
    refused_anew(url, str(replace(read, done=done)), "begun anew")
    # It would be read on otherwise, past what was written in place of what had been read.
    _resume(url, str(replace(read, done=done, mark=None)))
    server.kill()


@pytest.mark.parametrize("kind", ["mysql", "mysql without ids", "mariadb"])
def test_a_log_that_was_put_back_blocks_though_it_has_grown_past_what_was_read(kind: str) -> None:
    server = _server_of(kind)
    server.start()
    url = server.create_database()
    execute(url, "CREATE TABLE users (id int PRIMARY KEY, name text)")
    capture = Capture(url)
    execute(url, "INSERT INTO users VALUES (1, 'a')")
    capture.until(1)
    server.stop()
    files, kept = server.folder / "data", server.folder / "kept"
    subprocess.run(["cp", "--archive", files, kept], check=True)
    server.start()
    again = Capture(url, after=capture.position)
    execute(url, "INSERT INTO users VALUES (2, 'b')")
    again.until(1)
    server.stop()
    # As by a snapshot of its disk. A MariaDB's log tells whole seconds apart.
    shutil.rmtree(files)
    kept.rename(files)
    read_at = moment_of(parse_position(str(again.position)).done)
    wait_until(lambda: time.time() >= read_at + 1, 5, "the second does not end")
    server.start()
    for number in range(10, 40):
        execute(url, "INSERT INTO users VALUES (%s, 'c')", [number])
    refused_anew(url, again.position, "put back to an earlier state")
    # That file may be purged some day, which would hide it.
    execute(url, "FLUSH BINARY LOGS")
    stored = parse_position(str(again.position))
    assert stored.mark is not None
    last = execute(url, "SHOW BINARY LOGS")[-1][0]
    beginning = replace(stored, mark=stored.mark._replace(file=last, offset=4))
    assert refused_anew(url, str(beginning)).for_good == (kind != "mariadb")
    # What was read before that is still there.
    before = Capture(url, after=capture.position)
    before.until(30)
    before.source.close()
    server.kill()


@pytest.mark.parametrize("kind", ["mysql", "mysql without ids", "mariadb"])
def test_a_log_is_known_again_after_restarts_and_in_whatever_file(kind: str) -> None:
    server = _server_of(kind)
    server.start()
    url = server.create_database()
    execute(url, "CREATE TABLE users (id int PRIMARY KEY)")
    capture = Capture(url)
    disturbances: list[Callable[[], object]] = [
        lambda: None,
        lambda: execute(url, "FLUSH BINARY LOGS"),
        server.restart,
        lambda: (server.kill(), server.start()),  # type: ignore[func-returns-value]
    ]
    if kind != "mysql without ids":
        # Without ids that would be where to go on from.
        disturbances.append(lambda: purge_all_but_the_last(url))
    for number, disturb in enumerate(disturbances):
        for each in (0, 1):
            execute(url, "INSERT INTO users VALUES (%s)", [2 * number + each])
            (change,) = capture.until(1)
            assert change.document_id == str(2 * number + each)
            assert parse_position(str(capture.position)).mark is not None
        capture.source.close()
        disturb()
        capture = Capture(url, after=capture.position)
        # Without a change, too, the position keeps a mark.
        capture.read()
        assert parse_position(str(capture.position)).mark is not None
    capture.source.close()
    server.kill()


def test_another_server_that_knows_nothing_of_what_was_read_blocks() -> None:
    servers = [new_mysql(), new_mysql()]
    urls = []
    for server in servers:
        server.start()
        urls.append(server.create_database("shop"))
        execute(urls[-1], "CREATE TABLE users (id int PRIMARY KEY)")
    capture = Capture(urls[0])
    execute(urls[0], "INSERT INTO users VALUES (1)")
    capture.until(1)
    capture.source.close()
    refused_anew(urls[1], capture.position, "knows none of the transactions")
    for server in servers:
        server.kill()


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("mysql;ab-1:1-5@17", Position("mysql", "ab-1:1-5@17")),
        ("file;log.1:4", Position("file", "log.1:4")),
        ("mariadb;0-1-7@17;0-1-8;1/2/3", Position("mariadb", "0-1-7@17", "0-1-8", Place(1, 2), 3)),
        (
            "mariadb;0-1-7@17;0-1-8;1/2/3;my/log.1:99/1/00ff",
            Position(
                "mariadb", "0-1-7@17", "0-1-8", Place(1, 2), 3, Mark("1", "my/log.1", 99, 255)
            ),
        ),
    ],
)
def test_positions_of_binary_logs_are_read_with_and_without_a_mark(
    text: str, position: Position
) -> None:
    assert parse_position(text) == position
    assert parse_position(str(position)) == position


def having_read_one(url: str) -> Capture:
    """What has read a row of `users`, and is closed."""
    capture = Capture(url)
    execute(url, "INSERT INTO users VALUES (1)")
    capture.until(1)
    capture.source.close()
    return capture


def _server_of(kind: str) -> MySqlServer:
    if kind == "mariadb":
        return new_mariadb()
    mode = "OFF" if kind == "mysql without ids" else "ON"
    return new_mysql(gtid_mode=mode, enforce_gtid_consistency=mode)


def purge_all_but_the_last(url: str) -> None:
    execute(url, "FLUSH BINARY LOGS")
    last = execute(url, "SHOW BINARY LOGS")[-1][0]
    execute(url, f"PURGE BINARY LOGS TO '{last}'")


def refused_anew(url: str, position: str | None, words: str | None = None) -> SourceBlocked:
    """Going on behind a position is refused, in such `words`, and can only be begun anew."""
    with pytest.raises(SourceBlocked, match=words) as blocked:
        _resume(url, position)
    assert blocked.value.mend == START_ANEW
    return blocked.value


def _resume(url: str, position: str | None) -> None:
    """Go on behind a position, and read: what the server refuses comes with the first packet."""
    capture = Capture(url, after=position)
    try:
        capture.read(1.0)
    finally:
        capture.source.close()
