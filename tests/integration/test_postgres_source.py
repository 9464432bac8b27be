"""The Postgres source against real servers: what is read, what is never lost, what is never broken.

The oracle for documents is the server's own `to_jsonb`, compared with every digit of its numbers.
"""

import json
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from demo.servers import give_away
from eventing.changes import OPERATIONS, Change, Finding, Operation
from eventing.sources import pgrows
from eventing.sources.base import (
    MOST_ROW_BYTES,
    START_ANEW,
    SourceBlocked,
    SourceUnavailable,
)
from eventing.sources.pgserver import lsn_number
from eventing.sources.postgres import PostgresSource
from tests.servers import PostgresServer, drop_database, execute, name_in, new_postgres
from tests.waiting import wait_until


@dataclass(frozen=True)
class Wanted:
    """What triggers want: these operations on these tables, or on all when there are none."""

    operations: frozenset[Operation] = frozenset(OPERATIONS)
    named_tables: frozenset[str] = frozenset()

    @property
    def wants_future_tables(self) -> bool:
        return not self.named_tables

    def wants(self, table: str, operation: Operation) -> bool:
        return operation in self.operations and (
            not self.named_tables or table in self.named_tables
        )


ALL = Wanted()


@dataclass
class Capture:
    """A source as a capture loop uses it: what was stored, and up to where."""

    url: str
    name: str = field(default_factory=lambda: f"mission_control_{secrets.token_hex(6)}")
    schemas: Sequence[str] | None = None
    excluded_tables: frozenset[str] = frozenset()
    stored: list[Change] = field(default_factory=list)
    position: str | None = None

    def __post_init__(self) -> None:
        self.source = self.new_source()

    def new_source(self) -> PostgresSource:
        return PostgresSource(self.url, self.name, self.schemas, self.excluded_tables)

    def open(self, watch: Wanted = ALL) -> "Capture":
        self.source.open(watch, self.position)
        return self

    def reopen(self, watch: Wanted = ALL) -> "Capture":
        """As after a crash: another process, knowing no more than what is stored."""
        self.source.close()
        self.source = self.new_source()

        def opens() -> bool:
            try:
                self.open(watch)
            except SourceUnavailable as error:
                if "still reads the slot" not in str(error):
                    raise
                return False
            return True

        wait_until(opens, 20, "the slot stays in use")
        return self

    def step(self, max_changes: int = 1000, acknowledge: bool = True) -> list[Change]:
        batch = self.source.read(max_changes, 0.1)
        assert not self.stored or batch.position >= self.stored[-1].position
        assert all(change.position <= batch.position for change in batch.changes)
        self.stored += batch.changes
        self.position = batch.position
        if acknowledge:
            self.source.acknowledge(batch.position)
        return batch.changes

    def until(self, count: int) -> list[Change]:
        """All that was stored, once there are `count`; and a little later there are no more."""

        def enough() -> bool:
            self.step()
            return len(self.stored) >= count

        wait_until(enough, 20, f"fewer than {count} changes")
        while self.step():
            pass
        assert len(self.stored) == count
        return self.stored

    def documents(self, count: int) -> list[Any]:
        return [exact(change.document) for change in self.until(count)]


def exact(text: str) -> Any:
    """JSON with every digit of its numbers: 1.0 and 1.00 differ."""
    return json.loads(text, parse_float=lambda digits: Decimal(digits).as_tuple())


@pytest.fixture(params=[15, 18])
def url(request: pytest.FixtureRequest) -> str:
    """A new database, once on each version there is."""
    name = "source_database" if request.param == 15 else "source_database18"
    found: str = request.getfixturevalue(name)
    return found


@pytest.fixture
def capture(url: str) -> Iterator[Capture]:
    made = Capture(url)
    yield made
    made.source.close()


def run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for statement in statements:
        rows = execute(url, statement)
    return rows


def slots(url: str, name: str) -> list[tuple[Any, ...]]:
    return execute(
        url,
        "SELECT active, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s",
        [name],
    )


def published(url: str, publication: str) -> set[str]:
    query = "SELECT tablename FROM pg_publication_tables WHERE pubname = %s"
    return {table for (table,) in execute(url, query, [publication])}


# What is read


def test_inserts_updates_and_deletes_arrive_in_order_with_their_rows(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE users (id int PRIMARY KEY, name text, score numeric)")
    capture.open()
    run(
        capture.url,
        "INSERT INTO users VALUES (1, 'Ada', 1.00)",
        "UPDATE users SET name = 'Ada L.' WHERE id = 1",
        "UPDATE users SET id = 2",
        "DELETE FROM users",
    )
    inserted, updated, moved, deleted = capture.until(4)
    assert (inserted.operation, inserted.table, inserted.document_id) == ("insert", "users", "1")
    assert inserted.document == '{"id":1,"name":"Ada","score":1.00}'
    assert (updated.operation, updated.old) == ("update", None)
    assert updated.document == '{"id":1,"name":"Ada L.","score":1.00}'
    assert (moved.document_id, moved.old) == ("2", '{"id":1}')
    assert (deleted.operation, deleted.document_id) == ("delete", "2")
    assert deleted.document == '{"id":2}'
    assert abs(inserted.committed_at_ms / 1000 - now(capture.url)) < 60
    assert [change.problem for change in capture.stored] == [None] * 4


def now(url: str) -> float:
    return float(run(url, "SELECT extract(epoch FROM now())")[0][0])


def test_a_full_replica_identity_gives_old_rows(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE notes (title text, body text)",
        "ALTER TABLE notes REPLICA IDENTITY FULL",
    )
    capture.open()
    run(
        capture.url,
        "INSERT INTO notes VALUES ('a', NULL)",
        "UPDATE notes SET body = 'b'",
        "DELETE FROM notes",
    )
    _, updated, deleted = capture.until(3)
    assert updated.old == '{"title":"a","body":null}'
    assert deleted.document == '{"title":"a","body":"b"}'
    assert deleted.document_id == ""


def test_document_ids_are_the_id_column_or_else_the_primary_key(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE a (code text PRIMARY KEY, id uuid)",
        "CREATE TABLE b (code text PRIMARY KEY)",
        "CREATE TABLE c (y int, x text, z int, PRIMARY KEY (x, y))",
        "ALTER TABLE c REPLICA IDENTITY FULL",
    )
    capture.open()
    run(
        capture.url,
        "INSERT INTO a VALUES ('k', '00000000-0000-0000-0000-000000000001')",
        "INSERT INTO b VALUES ('k')",
        "INSERT INTO c VALUES (1, 'é', 2)",
        "DELETE FROM c",
        "DELETE FROM a",
    )
    ids = [change.document_id for change in capture.until(5)]
    composite = '{"x":"é","y":1}'
    # The key of a deleted row is all that is known of it; `id` is not part of it here.
    assert ids == ["00000000-0000-0000-0000-000000000001", "k", composite, composite, "k"]


def test_truncate_makes_no_deletes(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    capture.open()
    run(capture.url, "TRUNCATE t", "INSERT INTO t VALUES (2)")
    assert [change.document_id for change in capture.until(1)] == ["2"]


def test_only_what_was_committed_is_read(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open()
    run(
        capture.url,
        "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2);"
        " ROLLBACK TO a; SAVEPOINT b; INSERT INTO t VALUES (3); COMMIT;",
        "BEGIN; INSERT INTO t VALUES (4); ROLLBACK;",
        "INSERT INTO t VALUES (5)",
    )
    assert [change.document_id for change in capture.until(3)] == ["1", "3", "5"]


def test_a_table_made_a_moment_ago_is_seen(capture: Capture) -> None:
    capture.open()
    run(capture.url, "CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1);")
    assert capture.until(1)[0].table == "fresh"
    wait_until(lambda: (capture.step(), published(capture.url, f"{capture.name}_change"))[1])
    run(capture.url, "UPDATE fresh SET id = 2")
    assert [change.operation for change in capture.until(2)] == ["insert", "update"]


def test_a_table_altered_between_changes_is_decoded_as_it_was(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY, a int, b text)")
    capture.open()
    run(
        capture.url,
        "INSERT INTO t VALUES (1, 1, 'x')",
        "ALTER TABLE t ADD c bool, DROP a",
        "INSERT INTO t VALUES (2, 'y', true)",
        "ALTER TABLE t RENAME b TO d",
        "BEGIN; INSERT INTO t VALUES (3, 'z', false); ALTER TABLE t ALTER d TYPE jsonb"
        " USING to_jsonb(d); INSERT INTO t VALUES (4, '[1]', NULL); COMMIT;",
        "DROP TABLE t",
        "CREATE TABLE t (id int, n int)",
        "INSERT INTO t VALUES (5, 6)",
    )
    assert [change.document for change in capture.until(5)] == [
        '{"id":1,"a":1,"b":"x"}',
        '{"id":2,"b":"y","c":true}',
        '{"id":3,"d":"z","c":false}',
        '{"id":4,"d":[1],"c":null}',
        '{"id":5,"n":6}',
    ]


def test_names_are_those_of_the_catalogue(capture: Capture) -> None:
    run(
        capture.url,
        'CREATE SCHEMA "Größe 1"',
        'CREATE TABLE "Größe 1"."a ""b"".%s" ("id" int PRIMARY KEY, "c ""d"" %s" text)',
    )
    capture.open()
    run(
        capture.url,
        """INSERT INTO "Größe 1"."a ""b"".%s" VALUES (1, 'x')""",
        """UPDATE "Größe 1"."a ""b"".%s" SET id = 2""",
    )
    for change in capture.until(2):
        assert change.table == 'Größe 1.a "b".%s'
        assert json.loads(change.document)['c "d" %s'] == "x"


def test_partitions_are_read_as_their_table(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    )
    capture.open()
    run(
        capture.url,
        "INSERT INTO parts VALUES (1, 'a')",
        "CREATE TABLE parts_2 (v text, id int NOT NULL)",
        "ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parts VALUES (11, 'b')",
        "UPDATE parts SET v = 'c' WHERE id = 11",
        "UPDATE parts SET id = 12 WHERE id = 1",
        "DELETE FROM parts_2 WHERE id = 11",
    )
    seen = [(change.table, change.operation) for change in capture.until(6)]
    kinds: list[Operation] = ["insert", "insert", "update", "delete", "insert", "delete"]
    assert seen == [("parts", kind) for kind in kinds]
    assert capture.stored[2].document == '{"id":11,"v":"c"}'


def test_only_the_schemas_asked_for_are_read(url: str) -> None:
    run(url, "CREATE SCHEMA billing", "CREATE TABLE billing.bills (id int PRIMARY KEY)")
    run(url, "CREATE TABLE other (id int PRIMARY KEY)")
    capture = Capture(url, schemas=["billing"]).open()
    run(url, "INSERT INTO other VALUES (1)", "INSERT INTO billing.bills VALUES (2)")
    assert [change.table for change in capture.until(1)] == ["billing.bills"]
    assert [table.name for table in capture.source.catalogue()] == ["billing.bills"]
    capture.source.remove()


def test_the_products_own_schema_and_tables_are_never_read(url: str) -> None:
    run(
        url,
        "CREATE SCHEMA mission_control",
        "CREATE TABLE mission_control.event_log (id int PRIMARY KEY)",
        "CREATE TABLE eventing_installation (id int PRIMARY KEY)",
        "CREATE TABLE django_session (id int PRIMARY KEY)",
        "CREATE TABLE users (id int PRIMARY KEY)",
    )
    capture = Capture(url, excluded_tables=frozenset({"public.django_session"})).open()
    run(
        url,
        "INSERT INTO mission_control.event_log VALUES (1)",
        "INSERT INTO django_session VALUES (1)",
        "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1); ",
        "INSERT INTO users VALUES (1)",
    )
    assert [change.table for change in capture.until(2)] == ["later", "users"]
    for kind in ("insert", "change"):
        assert "event_log" not in published(url, f"{capture.name}_{kind}")
    query = "SELECT pubinsert FROM pg_publication WHERE pubname = %s"
    assert execute(url, query, [f"{capture.name}_all"]) == [(False,)]
    capture.source.remove()


def test_a_table_named_like_one_of_the_products_is_read_where_the_product_is_not(url: str) -> None:
    # A log may live here, the control plane does not.
    run(url, "CREATE SCHEMA mission_control", "CREATE TABLE auth_user (id int PRIMARY KEY)")
    capture = Capture(url, excluded_tables=frozenset({"public.auth_user"})).open()
    run(url, "INSERT INTO auth_user VALUES (1)")
    assert capture.until(1)[0].table == "auth_user"
    capture.source.remove()


# Documents


@pytest.mark.parametrize("full", [False, True])
def test_unchanged_toasted_columns_are_filled_in(capture: Capture, full: bool) -> None:
    run(
        capture.url,
        "CREATE TABLE big (id int, part text, body text, tags text[], n int,"
        " PRIMARY KEY (id, part))",
        "ALTER TABLE big ALTER body SET STORAGE EXTERNAL, ALTER tags SET STORAGE EXTERNAL",
        f"ALTER TABLE big REPLICA IDENTITY {'FULL' if full else 'DEFAULT'}",
    )
    capture.open()
    run(
        capture.url,
        "INSERT INTO big SELECT g, 'p', repeat('ä', 5000), ARRAY[repeat('t', 9000)], 0"
        " FROM generate_series(1, 250) AS g",
        "UPDATE big SET n = id",
    )
    for change in capture.until(500)[250:]:
        document = json.loads(change.document)
        assert document["body"] == "ä" * 5000
        assert document["tags"] == ["t" * 9000]
        assert str(document["n"]) == change.document_id


def test_a_toasted_column_of_a_row_that_is_gone_is_left_out(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE big (id int PRIMARY KEY, body text, n int)",
        "ALTER TABLE big ALTER body SET STORAGE EXTERNAL",
    )
    capture.open()
    run(
        capture.url,
        "INSERT INTO big VALUES (1, repeat('x', 9000), 0), (2, repeat('x', 9000), 0)",
        "UPDATE big SET n = 1; DELETE FROM big WHERE id = 1; UPDATE big SET body = NULL",
    )
    gone, there = capture.until(6)[2:4]
    assert gone.document == '{"id":1,"n":1}'
    assert gone.problem is None
    assert there.document == '{"id":2,"body":null,"n":1}'


def test_generated_columns_are_part_of_the_document(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE g (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
    )
    capture.open()
    run(capture.url, "INSERT INTO g (id, a) VALUES (1, 4)", "DELETE FROM g")
    run(capture.url, "INSERT INTO g (id, a) VALUES (2, 5)")
    documents = [json.loads(change.document) for change in capture.until(3)]
    assert documents[1] == {"id": 1}
    assert documents[2] == {"id": 2, "a": 5, "b": 10}


def test_what_the_stream_left_out_is_not_read_before_the_row_can_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A commit that waits for a standby is in the stream, and nobody else sees its rows yet."""
    monkeypatch.setattr(pgrows, "_UNSEEN_SECONDS", 0.2)
    server = new_postgres(synchronous_commit="local", synchronous_standby_names="nobody")
    server.start()
    url = server.create_database()
    kind = "int GENERATED ALWAYS AS (a * 2) STORED"
    run(url, f"CREATE TABLE g (id int PRIMARY KEY, a int, b {kind})", "INSERT INTO g VALUES (1, 1)")
    capture = Capture(url).open()
    with psycopg2.connect(url) as writer, writer.cursor() as at:
        at.execute("SET synchronous_commit = on")
        at.execute("INSERT INTO g (id, a) VALUES (2, 5); UPDATE g SET a = 7 WHERE id = 1")
        committing = threading.Thread(target=writer.commit)
        committing.start()
        with pytest.raises(SourceUnavailable, match="cannot be seen yet"):
            wait_until(lambda: capture.step() and False, 20)
        # It then waits no longer, and is committed.
        waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        server.execute(f"SELECT pg_cancel_backend(pid) {waiting}")
        committing.join(20)
    writer.close()
    rows = capture.reopen().documents(2)
    assert rows == [{"id": 2, "a": 5, "b": 10}, {"id": 1, "a": 7, "b": 14}]
    capture.source.close()
    server.stop()


@pytest.mark.parametrize(
    ("transaction", "snapshot", "expected"),
    [
        (700, "701:701:", False),
        (700, "700:700:", True),
        (700, "699:702:699,700", True),
        (700, "699:702:699", False),
        (702, "699:702:699", True),
        # The second epoch, and ids around its end.
        (700, "4294968000:4294968010:4294968001", False),
        (705, "4294968000:4294968010:4294968001", True),
        (2**32 - 1, "4294967296:4294967300:", False),
        (4, "4294967295:4294967296:", True),
        (2**32 - 1, "4294967295:4294967300:4294967295", True),
    ],
)
def test_a_snapshot_shows_what_was_done_before_it_and_is_not_running(
    transaction: int, snapshot: str, expected: bool
) -> None:
    assert pgrows.is_hidden(transaction, snapshot) is expected


def test_a_composite_type_altered_later_is_decoded_anew(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TYPE place AS (street text, number int)",
        "CREATE TABLE t (id int PRIMARY KEY, at place)",
    )
    capture.open()
    run(capture.url, "INSERT INTO t VALUES (1, '(a,1)')")
    capture.until(1)
    run(
        capture.url,
        "ALTER TYPE place ADD ATTRIBUTE city text",
        "INSERT INTO t VALUES (2, '(a,1,b)')",
    )
    assert capture.documents(2)[1]["at"] == {"street": "a", "number": 1, "city": "b"}


TYPES = """
CREATE TYPE mood AS ENUM ('so so', 'glad');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN names AS text[];
CREATE TYPE inner_place AS (street text, "No." numeric(6,2), since timestamptz);
CREATE TYPE place AS (label text, place inner_place, tags text[], doc json, ok positive);
CREATE TABLE every_type (
  id serial PRIMARY KEY, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, nn numeric(20, 4),
  b bool, t text, v varchar(40), c char(6), q "char", nm name, by bytea, d date, ts timestamp,
  tz timestamptz, ts0 timestamp(0), ti time, tiz timetz, iv interval, u uuid, ip inet, ci cidr,
  mac macaddr, j json, jb jsonb, m money, bi bit(5), vb varbit, o oid, rc regclass,
  po point, bx box, pl polygon, tv tsvector, tq tsquery, r4 int4range, rt tstzrange,
  mr int4multirange, e mood, dom positive, doms names, co place, ai int[], at text[],
  an numeric[], atz timestamptz[], ab bool[], aj jsonb[], aby bytea[], abx box[], ae mood[],
  ac place[], adom positive[], af float8[], iv2 int2vector, ov oidvector, lsn pg_lsn)
"""

ROWS = [
    "DEFAULT VALUES",
    """(i2, i8, f4, f8, n, nn, b) VALUES
       (-32768, 9223372036854775807, 1e-7, 1e300, 1.000000000000000000000001, 1.5, false),
       (0, -1, 'NaN', '-Infinity', 'NaN', 'NaN', true),
       (1, 2, '-0', 0.1, -0.00, 100, true),
       (1, 2, 3.4e38, 5e-324, 'Infinity', 12345678901234.5678, true),
       (1, 2, 123456.789, 123456789012345680, 1e40, 0, true)""",
    r"""(t, v, c, q, nm, by) VALUES
       ('', '', '', '', '', ''),
       (E'a"b\\c\n\r\t\x01\x7f é 漢 😀', E'/\u2028', 'ab', 'x', 'Na me', '\x00ff27'),
       ('%s {0} $1', 'null', 'null', '"', 'NULL', '\x')""",
    """(d, ts, tz, ts0, ti, tiz, iv) VALUES
       ('2024-02-29', '2019-10-19 12:40:50.053', '2019-10-19 12:40:50.053+05:30',
        '2001-01-01 00:00:00', '24:00', '12:00:00.5+02:30', '1 year -2 mons 3 days 04:05:06.7'),
       ('infinity', '-infinity', 'infinity', NULL, '00:00', '00:00-12', '-1 days +00:00:01'),
       ('0044-03-15 BC', '0044-03-15 01:02:03 BC', '0044-03-15 01:02:03.5+00 BC', NULL, NULL,
        NULL, '0'),
       ('99999-12-31', '99999-12-31 23:59:59.999999', '99999-12-31 00:00:00+00', NULL, NULL, NULL,
        '100000000 hours')""",
    """(u, ip, ci, mac, j, jb, m, bi, vb, o, rc, po, bx, pl, tv, tq, lsn) VALUES
       (gen_random_uuid(), '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
        E'{"a":\\n 1.10, "b": [1,\\t2, {"c": "\\\\u00e9\\\\n"}]}', '{"z": 1.10, "a": [null, 1e3]}',
        1234.5, B'10101', B'1', 4294967295, 'pg_class', '(1,2)',
        '(1,1),(0,0)', '((0,0),(1,1))', 'a:1 b', 'a & !b', '16/B374D848'),
       (NULL, '::1', '::/0', NULL, 'null', 'null', -1, NULL, B'', 0, 1259, '(1e20,-0)',
        NULL, NULL, '', '', NULL),
       (NULL, NULL, NULL, NULL, '"text"', '"te\\u0022xt"', NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL)""",
    """(r4, rt, mr, e, dom, doms) VALUES
       ('[1,5)', '[2019-01-01,)', '{[1,2),[5,9)}', 'so so', 7, '{a,NULL}'),
       ('empty', 'empty', '{}', 'glad', 1, '{}')""",
    r"""(co) VALUES
       (ROW('a "b" \ , (c)', ROW('x y', 1.5, '2020-01-01 00:00+00'), ARRAY['p,q', NULL, '"', ''],
            '{"k": [1]}', 3)),
       (ROW(NULL, NULL, NULL, NULL, NULL)), (ROW('', ROW(NULL, NULL, NULL), '{}', '1', 2))""",
    r"""(ai, at, an, atz, ab, aj, aby, abx, ae, ac, adom, af, iv2, ov) VALUES
       ('{1,2}', ARRAY['a b', 'NULL', NULL, '', '{', '\', '"', 'é,'], '{1.00,NaN,NULL}',
        '{2019-10-19 12:40:50.053+00,infinity}', '{t,f,NULL}',
        ARRAY['{"a": "}\"{"}'::jsonb, 'null'], ARRAY['\xdead'::bytea, '\x'],
        '{(1,1),(0,0);(3,3),(2,2)}', '{"so so",glad}',
        ARRAY[ROW('q"\', ROW('s', 1, NULL), ARRAY[['a','b c'],['d',NULL]], '[1, "x"]', 9)::place,
              NULL], '{1,2}', '{1e20,NaN,-0,0.5}', '1 2 3', '4 5'),
       ('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '', ''),
       ('[0:1][-1:0]={{1,2},{3,NULL}}', '{{{a}},{{b}}}', NULL, NULL, '[5:5]={t}', NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL)""",
]


def test_documents_equal_to_jsonb_for_every_type(capture: Capture) -> None:
    run(capture.url, *filter(str.strip, TYPES.split(";")))
    capture.open()
    run(capture.url, *(f"INSERT INTO every_type {row}" for row in ROWS))
    expected = [
        exact(document)
        for (document,) in run(
            capture.url,
            "SELECT to_jsonb(whole)::text FROM every_type AS whole ORDER BY id",
        )
    ]
    for found, wanted in zip(capture.documents(len(expected)), expected, strict=True):
        for column, value in wanted.items():
            assert (column, found[column]) == (column, value)
        assert found.keys() == wanted.keys()


def test_a_sample_has_the_identity_that_capture_gives(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE SCHEMA billing",
        "CREATE TABLE billing.bills (v text, b int, a text, PRIMARY KEY (a, b))",
        "CREATE TABLE codes (code text PRIMARY KEY)",
        "CREATE TABLE loose (v numeric)",
    )
    capture.open()
    run(
        capture.url,
        "INSERT INTO billing.bills VALUES ('v', 1, 'x')",
        "INSERT INTO codes VALUES ('c-1')",
        "INSERT INTO loose VALUES (1.10)",
    )
    for change in capture.until(3):
        sample = PostgresSource(capture.url, "mission_control_sample", None).sample(change.table)
        assert sample is not None
        assert sample.document_id == change.document_id
        assert exact(sample.document) == exact(change.document)
    with pytest.raises(SourceUnavailable):
        PostgresSource(capture.url, "mission_control_sample", None).sample("nowhere")


def test_documents_equal_to_jsonb_for_values_at_random(capture: Capture) -> None:
    """The server makes the values: random scalars, nested in arrays and composites."""
    run(
        capture.url,
        "CREATE TYPE pair AS (a text, b numeric, c timestamptz, d text[])",
        "CREATE TABLE random_values (id int PRIMARY KEY, f float8, n numeric, t text,"
        " z timestamptz, i interval, b bytea, p pair, ps pair[], m text[], j json)",
    )
    capture.open()
    run(
        capture.url,
        """
        CREATE FUNCTION word() RETURNS text LANGUAGE sql VOLATILE AS $$
          SELECT CASE WHEN random() < 0.1 THEN NULL ELSE (
            SELECT coalesce(string_agg(substr(E'ab "\\\\,{}()\\n\\tNULLé漢😀=>''%',
                              1 + (random() * 24)::int, 1), ''), '')
            FROM generate_series(1, (random() * 8)::int)) END $$
        """,
        """
        CREATE FUNCTION one_pair() RETURNS pair LANGUAGE sql VOLATILE AS $$
          SELECT ROW(word(), (random() * 1e6)::numeric(20, 6), to_timestamp(random() * 4e9),
                     ARRAY[word(), word()])::pair $$
        """,
        """
        INSERT INTO random_values
        SELECT g, (random() - 0.5) * 10 ^ ((random() * 600)::int - 300),
               round((random() * 10 ^ (random() * 20))::numeric, (random() * 12)::int), word(),
               to_timestamp(random() * 4e9), make_interval(secs => (random() - 0.5) * 1e7),
               sha256(g::text::bytea), one_pair(), ARRAY[one_pair(), NULL, one_pair()],
               ARRAY[[word(), word()], [word(), word()]], to_json(ARRAY[word()])
        FROM generate_series(1, 1500) AS g
        """,
    )
    rows = run(capture.url, "SELECT to_jsonb(r)::text FROM random_values AS r ORDER BY id")
    assert capture.documents(1500) == [exact(document) for (document,) in rows]


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_VALUES = st.tuples(
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.decimals(allow_nan=True, allow_infinity=False),
    st.none() | st.floats(),
    st.none() | _TEXT,
    st.none() | st.binary(max_size=40),
    st.none() | st.booleans(),
    st.none() | st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    st.none() | st.lists(st.none() | _TEXT, max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | _TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=9,
    ),
)


def test_rows_of_any_values_are_what_to_jsonb_makes_of_them(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE things (id bigserial PRIMARY KEY, i int8, n numeric, f float8, t text,"
        " b bytea, o bool, z timestamptz, m text[], j jsonb)",
    )
    capture.open()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(_VALUES, min_size=1, max_size=30))
    def compare(rows: list[tuple[Any, ...]]) -> None:
        capture.stored.clear()
        connection = psycopg2.connect(capture.url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            for *values, document in rows:
                cursor.execute(
                    "INSERT INTO things (i, n, f, t, b, o, z, m, j)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s::text[], %s)",
                    (*values, json.dumps(document)),
                )
            cursor.execute("SELECT to_jsonb(things)::text FROM things ORDER BY id")
            told = [exact(text) for (text,) in cursor.fetchall()]
        execute(capture.url, "TRUNCATE things")
        connection.close()
        assert capture.documents(len(rows)) == told

    compare()


def test_of_a_row_that_is_far_too_large_no_document_is_made(source_database: str) -> None:
    """Making one would take several times as much memory; the stream goes on behind it."""
    capture = Capture(source_database)
    run(source_database, "CREATE TABLE files (id bigint PRIMARY KEY, content text)")
    capture.open()
    run(
        source_database,
        f"INSERT INTO files VALUES (1, repeat('x', {MOST_ROW_BYTES + 1}))",
        "INSERT INTO files VALUES (2, 'small')",
    )
    wait_until(lambda: capture.step() and len(capture.stored) == 2, 120, "they are not read")
    capture.source.close()
    large, small = capture.stored
    assert large.problem is not None
    assert large.problem.endswith(f"at most {MOST_ROW_BYTES} are read")
    assert large.document == "{}"
    assert exact(small.document) == {"id": 2, "content": "small"}


def test_settings_of_role_and_database_do_not_change_documents(capture: Capture) -> None:
    database = name_in(capture.url)
    run(
        capture.url,
        f"ALTER DATABASE \"{database}\" SET datestyle = 'SQL, DMY'",
        f"ALTER DATABASE \"{database}\" SET timezone = 'Asia/Kolkata'",
        f"ALTER DATABASE \"{database}\" SET intervalstyle = 'iso_8601'",
        f"ALTER DATABASE \"{database}\" SET bytea_output = 'escape'",
        f"ALTER DATABASE \"{database}\" SET extra_float_digits = '-5'",
        "CREATE TABLE t (d date, z timestamptz, i interval, b bytea, f float8)",
    )
    capture.open()
    run(
        capture.url, "INSERT INTO t VALUES ('2020-02-01', '2020-02-01 00:00+00', '1 day', 'a', 0.1)"
    )
    assert capture.until(1)[0].document == (
        '{"d":"2020-02-01","z":"2020-02-01T00:00:00+00:00","i":"1 day","b":"\\\\x61","f":0.1}'
    )


def test_an_hstore_is_an_object_as_its_cast_to_json_gives_it(source_database: str) -> None:
    # Comes with Debian's Postgres, not with the wheels': on those this fails.
    run(source_database, "CREATE EXTENSION hstore", "CREATE TABLE t (id int PRIMARY KEY, h hstore)")
    capture = Capture(source_database).open()
    run(source_database, """INSERT INTO t VALUES (1, 'a=>1, "b \\"c"=>NULL')""")
    wanted = run(source_database, "SELECT to_jsonb(t)::text FROM t")[0][0]
    assert capture.documents(1)[0] == exact(wanted)
    capture.source.remove()


# The users of the database come first


def test_tables_without_identity_keep_working_for_their_users(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE bare (a int)",
        "CREATE TABLE nothing (id int PRIMARY KEY)",
        "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "ALTER TABLE parts_1 REPLICA IDENTITY FULL",
        "CREATE TABLE mixed (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM (0) TO (10)",
        "ALTER TABLE mixed_1 REPLICA IDENTITY NOTHING",
        "CREATE UNLOGGED TABLE unlogged (id int)",
        "CREATE TABLE fine (id int PRIMARY KEY)",
        "CREATE TABLE child () INHERITS (fine)",
    )
    capture.open()
    tables = ["bare", "nothing", "deferred", "parts", "mixed", "unlogged", "child"]
    for table in tables:
        run(
            capture.url,
            f"INSERT INTO {table} VALUES (1)",
            f"UPDATE {table} SET {'a' if table == 'bare' else 'id'} = 2",
            f"DELETE FROM {table}",
        )
    # A partition made later has the default identity, and no key to go by.
    run(
        capture.url,
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parts VALUES (11)",
        "UPDATE parts SET id = 12 WHERE id = 11",
    )
    assert published(capture.url, f"{capture.name}_change") == {"fine"}
    seen = {(change.table, change.operation) for change in capture.until(7)}
    assert seen == {(table, "insert") for table in (*tables, "parts") if table != "unlogged"}
    limited = {table.name for table in capture.source.catalogue() if table.limits}
    assert limited == {"bare", "nothing", "deferred", "parts", "mixed", "child"}


def test_whole_rows_with_generated_columns_keep_working_for_their_users(capture: Capture) -> None:
    is_18 = int(run(capture.url, "SHOW server_version_num")[0][0]) >= 180_000
    kind = "VIRTUAL" if is_18 else "STORED"
    run(
        capture.url,
        f"CREATE TABLE a (n int, m int GENERATED ALWAYS AS (n * 2) {kind})",
        "CREATE TABLE b (n int, m int GENERATED ALWAYS AS (n * 2) STORED)",
        "ALTER TABLE a REPLICA IDENTITY FULL",
        "ALTER TABLE b REPLICA IDENTITY FULL",
    )
    capture.open()
    for table in ("a", "b"):
        run(
            capture.url,
            f"INSERT INTO {table} (n) VALUES (1)",
            f"UPDATE {table} SET n = 2",
            f"DELETE FROM {table}",
        )
    assert published(capture.url, f"{capture.name}_change") == ({"b"} if is_18 else {"a", "b"})
    capture.until(4 if is_18 else 6)


def test_a_table_that_somebody_alters_for_long_does_not_end_the_stream(capture: Capture) -> None:
    run(
        capture.url,
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE t (id int PRIMARY KEY)",
    )
    capture.open()
    user = psycopg2.connect(capture.url)
    user.cursor().execute("LOCK TABLE parts, parts_1 IN ACCESS EXCLUSIVE MODE")
    capture.source.watch(ALL)
    run(capture.url, "INSERT INTO t VALUES (1)")
    capture.until(1)
    user.rollback()
    user.close()


def test_a_table_that_loses_its_identity_is_taken_out(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    capture.open()
    assert published(capture.url, f"{capture.name}_change") == {"t"}
    run(capture.url, "ALTER TABLE t DROP CONSTRAINT t_pkey")

    def works_again() -> bool:
        capture.step()
        return not published(capture.url, f"{capture.name}_change")

    wait_until(works_again, 5)
    run(capture.url, "UPDATE t SET id = 2")
    run(capture.url, "ALTER TABLE t REPLICA IDENTITY FULL")
    wait_until(lambda: (capture.step(), published(capture.url, f"{capture.name}_change"))[1], 5)
    run(capture.url, "UPDATE t SET id = 3")
    assert capture.until(1)[0].old == '{"id":2}'


def test_what_nobody_wants_is_neither_published_nor_read(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    inserts: frozenset[Operation] = frozenset({"insert"})
    capture.open(Wanted(inserts, frozenset({"a"})))
    assert published(capture.url, f"{capture.name}_all") in (set(), {"a", "b"})
    assert published(capture.url, f"{capture.name}_insert") == {"a"}
    assert published(capture.url, f"{capture.name}_change") == set()
    run(capture.url, "INSERT INTO b VALUES (1)", "INSERT INTO a VALUES (1)", "DELETE FROM a")
    assert [change.table for change in capture.until(1)] == ["a"]


def test_a_new_configuration_counts_from_the_next_commit_on(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    capture.open(Wanted(named_tables=frozenset({"a"})))
    for number, watch in enumerate(
        [Wanted(named_tables=frozenset({"b"})), ALL, Wanted(named_tables=frozenset({"a", "b"}))]
    ):
        capture.source.watch(watch)
        run(capture.url, f"INSERT INTO b VALUES ({number})", f"DELETE FROM b WHERE id = {number}")
        assert len(capture.until(2 * number + 2)) == 2 * number + 2


def test_a_locked_table_keeps_nobody_waiting_and_is_published_later(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    capture.open(Wanted(named_tables=frozenset({"a"})))
    user = psycopg2.connect(capture.url)
    user.cursor().execute("LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE")
    capture.source.watch(Wanted(named_tables=frozenset({"a", "b"})))
    run(capture.url, "INSERT INTO a VALUES (1)")
    assert capture.until(1)[0].table == "a"
    user.rollback()
    user.close()
    wait_until(lambda: (capture.step(), "b" in published(capture.url, f"{capture.name}_insert"))[1])
    run(capture.url, "INSERT INTO b VALUES (1)")
    assert capture.until(2)[1].table == "b"


# Nothing twice, nothing missing


def test_a_change_shows_the_lsn_of_its_commit_and_its_number_in_the_transaction(url: str) -> None:
    run(url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture = Capture(url).open()
    now = "SELECT pg_current_wal_insert_lsn()"
    ((before,),) = execute(url, now)
    run(url, "INSERT INTO t VALUES (1), (2)")
    ((after,),) = execute(url, now)
    shown = [str(change.shown_position).split("#") for change in capture.until(2)]
    assert [number for _, number in shown] == ["0", "1"]
    (commit,) = {lsn_number(lsn) for lsn, _ in shown}
    assert lsn_number(before) < commit < lsn_number(after)
    capture.source.remove()


def test_reading_resumes_after_every_single_position(url: str) -> None:
    run(url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    first = Capture(url).open()
    run(
        url,
        "BEGIN; INSERT INTO t VALUES (1), (2); UPDATE t SET v = 'x'; COMMIT;",
        "DELETE FROM t WHERE id = 1",
    )
    # COPY writes many rows into one record of the log.
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.copy_expert("COPY t FROM STDIN", StringIO("10\ta\n11\tb\n12\tc\n13\td\n"))
    connection.close()
    while len(first.stored) < 9:
        first.step(acknowledge=False)
    changes = list(first.stored)
    positions = [change.position for change in changes]
    assert positions == sorted(set(positions))
    for number, position in enumerate(positions):
        first.position, first.stored = position, []
        first.reopen()
        while len(first.stored) < len(changes) - number - 1:
            first.step(acknowledge=False)
        assert first.step(acknowledge=False) == []
        assert first.stored == changes[number + 1 :]
    first.source.remove()


def test_a_crash_within_a_transaction_loses_and_repeats_nothing(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open()
    run(capture.url, "INSERT INTO t SELECT generate_series(1, 5000)")
    for _ in range(4):
        capture.step(max_changes=700)
        capture.reopen()
    assert [int(change.document_id) for change in capture.until(5000)] == [*range(1, 5001)]
    assert [change.index for change in capture.stored] == [*range(5000)]


def test_a_transaction_of_any_size_needs_little_memory(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    capture.open()
    run(capture.url, "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 300000) g")
    capture.step()
    process = psutil.Process()
    before = process.memory_info().rss
    seen, most = len(capture.stored), 0
    while seen < 300_000:
        capture.stored = []
        seen += len(capture.step())
        most = max(most, process.memory_info().rss)
    assert seen == 300_000
    assert most - before < 60 * 1024 * 1024


def test_a_batch_of_big_rows_is_limited_in_bytes(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    capture.open()
    run(
        capture.url,
        "INSERT INTO t SELECT g, repeat('x', 3000000) FROM generate_series(1, 9) g",
        "INSERT INTO t VALUES (10, repeat('y', 50000000))",
    )
    sizes = []
    while len(capture.stored) < 10:
        sizes.append(sum(len(change.document) for change in capture.step()))
    assert max(sizes) < 60_000_000
    assert sorted(size for size in sizes if size)[-2] < 12_000_000


def test_a_restart_of_the_server_is_a_reason_to_try_again_and_no_more() -> None:
    server = new_postgres()
    server.start()
    capture = Capture(server.create_database())
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open()
    capture.step()
    run(capture.url, "CREATE TEMPORARY TABLE x AS SELECT 1; DROP TABLE x")
    server.restart("immediate")
    broken = error_of(capture)
    assert str(server.port) in broken
    assert server.password not in broken
    capture.reopen()
    run(capture.url, "INSERT INTO t VALUES (1)")
    capture.until(1)
    capture.source.remove()
    server.stop()


def error_of(capture: Capture) -> str:
    """What reading, and not storing, ends with."""
    with pytest.raises(SourceUnavailable) as broken:
        wait_until(lambda: (capture.source.read(10, 0.1), False)[1])
    return str(broken.value)


def test_a_server_that_shuts_down_does_not_wait_for_us_to_store() -> None:
    server = new_postgres()
    server.start()
    capture = Capture(server.create_database())
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open().step()
    # The log moves on, and nothing but the last position is stored.
    run(capture.url, "CHECKPOINT")
    stopping = threading.Thread(target=server.stop)
    started = time.monotonic()
    stopping.start()
    error_of(capture)
    capture.source.close()  # as the loop does before it tries again
    stopping.join()
    # Else the server is made to quit after 10 seconds.
    assert time.monotonic() - started < 8
    server.start()
    capture.reopen()
    run(capture.url, "INSERT INTO t VALUES (1)")
    capture.until(1)
    capture.source.remove()
    server.stop()


def test_a_caller_that_stalls_loses_the_connection_and_nothing_else() -> None:
    server = new_postgres(wal_sender_timeout="500ms", max_prepared_transactions="5")
    server.start()
    capture = Capture(server.create_database())
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open().step()
    run(capture.url, "INSERT INTO t VALUES (1)")
    capture.until(1)
    wait_until(lambda: not slots(capture.url, capture.name)[0][0], message="the server keeps it")
    run(capture.url, "BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'two'")
    run(capture.url, "INSERT INTO t VALUES (3)", "COMMIT PREPARED 'two'")
    error_of(capture)
    capture.reopen()
    assert [change.document_id for change in capture.until(3)] == ["1", "3", "2"]
    capture.source.remove()
    server.stop()


def test_an_idle_stream_lets_the_server_drop_its_log(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open(Wanted(named_tables=frozenset({"t"})))
    elsewhere = urlsplit(capture.url)._replace(path="/postgres").geturl()
    (_, before), *_ = slots(capture.url, capture.name)
    run(elsewhere, "CREATE TABLE IF NOT EXISTS noise (v text)")
    run(elsewhere, "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    (end,) = run(elsewhere, "SELECT pg_current_wal_lsn()")[0]

    def confirmed() -> bool:
        capture.step()
        query = (
            "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots"
            " WHERE slot_name = %s"
        )
        return bool(execute(elsewhere, query, [end, capture.name])[0][0])

    wait_until(confirmed, 20)
    assert slots(capture.url, capture.name)[0][1] != before
    run(elsewhere, "DROP TABLE noise")


def test_log_that_an_open_transaction_keeps_is_told_though_all_is_read(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    capture.open(Wanted(named_tables=frozenset({"t"})))
    fill = "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(%s, %s) AS n"
    with closing(psycopg2.connect(capture.url)) as opened, opened.cursor() as at:
        # What it has written before others commit is read again after a restart.
        at.execute(fill, [1, 1])
        execute(capture.url, fill, [2, 3000])

        def kept_though_read() -> bool:
            batch = capture.source.read(1000, 0.1)
            capture.source.acknowledge(batch.position)
            kept = batch.kept_log_bytes or 0
            return batch.drained and kept > 2_000_000 > (batch.source_lag_bytes or 0)

        wait_until(kept_though_read, 30, "what is kept is not told")


def test_the_server_is_told_of_nothing_that_is_not_stored(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open()
    capture.step()
    lsn = slots(capture.url, capture.name)[0][1]
    run(capture.url, "INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()", "CHECKPOINT")
    stored = capture.position
    while not (batch := capture.source.read(10, 0.1)).changes:
        pass
    for _ in range(5):
        batch = capture.source.read(10, 0.1)
    assert batch.position > str(stored)
    capture.source.close()
    wait_until(lambda: not slots(capture.url, capture.name)[0][0])
    after = slots(capture.url, capture.name)[0][1]
    assert int(after.split("/")[1], 16) <= max(
        int(lsn.split("/")[1], 16), int(str(stored).split("/")[0], 16)
    )
    capture.reopen()
    assert capture.until(1)[0].document_id == "1"


# What only a person can mend


def test_a_slot_that_is_gone_blocks_and_is_not_made_again(capture: Capture) -> None:
    capture.open()
    capture.step()
    capture.source.close()
    wait_until(lambda: not slots(capture.url, capture.name)[0][0])
    run(capture.url, f"SELECT pg_drop_replication_slot('{capture.name}')")
    with pytest.raises(
        SourceBlocked, match=r"is gone; changes committed after .* may be lost"
    ) as it:
        capture.reopen()
    assert it.value.mend
    assert slots(capture.url, capture.name) == []


def test_a_slot_that_someone_else_moved_on_or_made_anew_blocks(capture: Capture) -> None:
    capture.open()
    capture.step()
    capture.source.close()
    wait_until(lambda: not slots(capture.url, capture.name)[0][0])
    run(
        capture.url,
        f"SELECT pg_drop_replication_slot('{capture.name}')",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        f"SELECT pg_create_logical_replication_slot('{capture.name}', 'pgoutput')",
    )
    with pytest.raises(SourceBlocked, match="made anew"):
        capture.reopen()


def test_a_slot_whose_log_was_thrown_away_blocks() -> None:
    server = new_postgres(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")
    server.start()
    capture = Capture(server.create_database()).open()
    capture.step()
    capture.source.close()
    run(capture.url, "CREATE TABLE noise (v text)")

    def lost() -> bool:
        run(
            capture.url,
            "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 20000)",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        )
        return bool(run(capture.url, "SELECT wal_status FROM pg_replication_slots")[0][0] == "lost")

    wait_until(lost, 30)
    with pytest.raises(SourceBlocked, match=r"thrown away .* may be lost"):
        capture.reopen()
    capture.source.remove()
    assert slots(capture.url, capture.name) == []
    server.stop()


def copy_of(server: PostgresServer, *signals: str) -> PostgresServer:
    """Another server that begins with the files of a stopped one, as a standby or a snapshot has
    them; `signals` are the names of the files that say what it is to do with them."""
    copy = new_postgres()
    shutil.copytree(server.folder / "cluster", copy.folder / "cluster", symlinks=True)
    for name in signals:
        (copy.folder / "cluster" / name).touch()
    give_away(copy.folder, *copy.folder.rglob("*"))
    copy.password = server.password
    return copy


@pytest.fixture
def left_behind() -> Iterator[tuple[Capture, PostgresServer]]:
    """A capture that has read further than a copy of its server's files goes, and that copy."""
    server = new_postgres()
    server.start()
    capture = Capture(server.create_database())
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (0)")
    capture.open()
    run(capture.url, "INSERT INTO t VALUES (1)")
    capture.until(1)
    capture.source.close()
    server.stop()
    copy = copy_of(server, "standby.signal")
    server.start()
    capture.reopen()
    # What the other one never has: more of the log than it is to write itself.
    run(capture.url, "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(2, 999) n")
    capture.until(999)
    capture.source.close()
    server.kill()
    capture.stored.clear()
    name = name_in(capture.url)
    capture.url = copy.url(name)
    yield capture, copy
    capture.source.close()
    copy.stop("immediate")


def test_a_standby_that_took_over_without_the_latest_changes_is_read_from_there(
    left_behind: tuple[Capture, PostgresServer],
) -> None:
    capture, standby = left_behind
    standby.start()
    standby.execute("SELECT pg_promote()")
    run(capture.url, "INSERT INTO t VALUES (2), (3)", "DELETE FROM t WHERE id = 0")
    capture.reopen()
    assert [(each.operation, each.document_id) for each in capture.until(3)] == [
        ("insert", "2"),
        ("insert", "3"),
        ("delete", "0"),
    ]
    # From then on it is like any other.
    run(capture.url, "INSERT INTO t VALUES (4)")
    capture.reopen()
    assert capture.until(4)[-1].document_id == "4"


def test_a_server_that_was_put_back_to_an_earlier_state_blocks(
    left_behind: tuple[Capture, PostgresServer],
) -> None:
    capture, restored = left_behind
    (restored.folder / "cluster" / "standby.signal").unlink()
    restored.start()
    run(capture.url, "INSERT INTO t VALUES (2)")
    with pytest.raises(SourceBlocked, match=r"earlier state; .* may be lost") as blocked:
        capture.reopen()
    assert (blocked.value.mend, blocked.value.for_good) == (START_ANEW, True)


@pytest.mark.parametrize("which", ["all", "insert", "change"])
def test_a_publication_that_somebody_drops_blocks(capture: Capture, which: str) -> None:
    run(capture.url, "CREATE TABLE t (id int PRIMARY KEY)")
    capture.open().step()
    run(capture.url, "INSERT INTO t VALUES (1)")
    capture.until(1)
    run(
        capture.url,
        f"DROP PUBLICATION {capture.name}_{which}",
        "INSERT INTO t VALUES (2)",
        "UPDATE t SET id = 3 WHERE id = 2",
    )
    with pytest.raises(SourceBlocked, match=r"dropped .* may be lost") as blocked:
        wait_until(lambda: (capture.step(), False)[1])
    assert blocked.value.mend == START_ANEW
    with pytest.raises(SourceBlocked, match=r"dropped .* may be lost"):
        capture.reopen()


def test_a_server_without_logical_wal_blocks_with_its_mend() -> None:
    server = new_postgres(wal_level="replica")
    server.start()
    capture = Capture(server.create_database())
    with pytest.raises(SourceBlocked, match="wal_level is replica") as blocked:
        capture.open()
    assert blocked.value.mend == (
        "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the server"
    )
    finding = next(item for item in capture.source.check() if item.name == "wal_level")
    assert (finding.status, finding.restart) == ("error", True)
    # Who is shown `restart` is told of it once.
    assert finding.mend == "ALTER SYSTEM SET wal_level = 'logical';"
    server.stop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dbname": "nowhere"}, "does not exist"),
        ({"password": "wr0ng-secret"}, "authentication failed"),
        ({"user": "nobody_here"}, "authentication failed"),
        ({"sslmode": "strict"}, "invalid sslmode value"),
    ],
)
def test_a_wrong_connection_string_blocks_and_tells_no_secret(
    postgres_server: PostgresServer, change: dict[str, str], words: str
) -> None:
    capture = Capture(make_dsn(postgres_server.url(), **change))
    with pytest.raises(SourceBlocked, match=words) as blocked:
        capture.open()
    (finding,) = capture.source.check()
    for text in (str(blocked.value), finding.what, finding.mend):
        assert "wr0ng-secret" not in text
        assert str(urlsplit(postgres_server.url()).password) not in text


def test_an_unreadable_connection_string_is_not_repeated() -> None:
    capture = Capture("postgresql://user:hush@[host/db")
    with pytest.raises(SourceBlocked) as blocked:
        capture.open()
    assert "hush" not in str(blocked.value)
    assert blocked.value.mend


def test_a_server_that_does_not_answer_is_tried_again() -> None:
    capture = Capture("postgresql://user:hush@127.0.0.1:1/db")
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1/db"):
        capture.open()
    assert [finding.status for finding in capture.source.check()] == ["error"]


# Roles


@pytest.fixture
def role_url(url: str) -> Iterator[str]:
    """The same database for a role that is no superuser and may do nothing yet."""
    role = f"role_{secrets.token_hex(4)}"
    run(url, f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    parts = urlsplit(url)
    yield parts._replace(netloc=f"{role}:p@{parts.hostname}:{parts.port}").geturl()
    run(url, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def test_a_role_is_told_which_right_it_lacks_one_after_the_other(url: str, role_url: str) -> None:
    capture = Capture(role_url)
    mends = []
    while True:
        try:
            capture.open()
            break
        except SourceBlocked as blocked:
            mends.append(blocked.mend)
            run(url, blocked.mend)
    assert [mend.split()[0] for mend in mends] == ["ALTER", "GRANT"]
    capture.source.remove()


def test_a_role_that_is_not_let_in_is_told_what_lets_it_in(url: str, role_url: str) -> None:
    role, database = urlsplit(role_url).username, urlsplit(url).path.lstrip("/")
    run(
        url,
        f"ALTER ROLE {role} NOLOGIN REPLICATION",
        f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC',
    )
    capture = Capture(role_url)
    for mend in (
        f'ALTER ROLE "{role}" LOGIN;',
        f'GRANT CONNECT, CREATE ON DATABASE "{database}" TO "{role}";',
    ):
        with pytest.raises(SourceBlocked) as blocked:
            capture.open()
        assert blocked.value.mend == mend
        run(url, mend)
    capture.open()
    capture.source.remove()


def test_a_role_with_the_least_rights_captures_its_own_tables(url: str, role_url: str) -> None:
    role, database = urlsplit(role_url).username, name_in(url)
    run(
        url,
        f"ALTER ROLE {role} REPLICATION",
        f'GRANT CREATE ON DATABASE "{database}" TO {role}',
        "CREATE TABLE mine (id int PRIMARY KEY)",
        f"ALTER TABLE mine OWNER TO {role}",
        "CREATE TABLE theirs (id int PRIMARY KEY)",
    )
    capture = Capture(role_url).open()
    run(url, "INSERT INTO theirs VALUES (1)", "INSERT INTO mine VALUES (1)", "DELETE FROM mine")
    assert [change.table for change in capture.until(2)] == ["mine", "mine"]
    run(url, "CREATE TABLE later (id int PRIMARY KEY)", f"ALTER TABLE later OWNER TO {role}")
    wait_until(lambda: (capture.step(), "later" in published(url, f"{capture.name}_insert"))[1])
    run(url, "INSERT INTO later VALUES (1)")
    assert capture.until(3)[2].table == "later"
    findings = {finding.name: finding for finding in capture.source.check()}
    assert findings["future tables"].status == "warning"
    assert findings["ownership"].mend == f'ALTER TABLE "public"."theirs" OWNER TO "{role}";'
    assert not [finding for finding in findings.values() if finding.status == "error"]
    capture.source.remove()


def test_what_makes_another_s_table_ours_takes_it_from_nobody(url: str, role_url: str) -> None:
    role, database = urlsplit(role_url).username, name_in(url)
    owner = f"owner_of_{role}"
    run(
        url,
        f"ALTER ROLE {role} REPLICATION",
        f'GRANT CREATE ON DATABASE "{database}" TO {role}',
        f"CREATE ROLE {owner}",
        "CREATE TABLE theirs (id int PRIMARY KEY)",
        f"ALTER TABLE theirs OWNER TO {owner}",
    )
    capture = Capture(role_url)
    found = next(each for each in capture.source.check() if each.name == "ownership")
    assert found.mend == f'GRANT "{owner}" TO "{role}";'
    run(url, found.mend)
    assert "ownership" not in {each.name for each in capture.source.check()}
    capture.open()
    run(url, f"SET ROLE {owner}; INSERT INTO theirs VALUES (1)")
    assert [change.table for change in capture.until(1)] == ["theirs"]
    capture.source.remove()
    run(url, f"REVOKE {owner} FROM {role}", "DROP TABLE theirs", f"DROP ROLE {owner}")


# Leaving


def test_removing_a_source_leaves_nothing_even_while_it_is_read(capture: Capture) -> None:
    capture.open()
    capture.step()
    PostgresSource(capture.url, capture.name, None).remove()
    assert slots(capture.url, capture.name) == []
    assert run(capture.url, "SELECT pubname FROM pg_publication") == []
    PostgresSource(capture.url, capture.name, None).remove()


def test_a_source_of_a_dropped_database_is_removed(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    drop_database(postgres_server, url)
    Capture(url).source.remove()


def test_the_doctor_finds_what_limits_a_healthy_server(capture: Capture) -> None:
    run(capture.url, "CREATE TABLE bare (a int)", "CREATE TABLE fine (id int PRIMARY KEY)")
    findings = capture.source.check()
    assert {finding.status for finding in findings} == {"ok", "warning"}
    identity = next(finding for finding in findings if finding.name == "replica identity")
    assert identity.mend == 'ALTER TABLE "public"."bare" REPLICA IDENTITY FULL;'
    run(capture.url, identity.mend)
    assert "replica identity" not in {finding.name for finding in capture.source.check()}
    tables = {table.name: table.columns for table in capture.source.catalogue()}
    assert tables == {"bare": ("a",), "fine": ("id",)}


def finding(capture: Capture, name: str) -> Finding:
    return next(each for each in capture.source.check() if each.name == name)


@pytest.mark.parametrize("name", ["max_replication_slots", "max_wal_senders"])
def test_a_server_whose_slots_or_senders_are_all_taken_is_found_and_mended(name: str) -> None:
    server = new_postgres(**{name: "1"})
    server.start()
    url = server.create_database()
    other = Capture(url).open()
    capture = Capture(url)
    found = finding(capture, name)
    assert (found.status, found.restart) == ("error", True)
    assert found.what.startswith("0 of 1")
    other.source.close()
    run(url, found.mend)
    # What was given on the command line wins over ALTER SYSTEM.
    del server.settings[name]
    server.restart()
    other.reopen()
    assert finding(capture, name).status == "ok"
    assert {each.status for each in capture.source.check()} <= {"ok", "warning"}
    other.source.close()
    server.stop()


def test_a_server_that_is_a_standby_is_found() -> None:
    server = new_postgres()
    server.start()
    capture = Capture(server.create_database())
    assert finding(capture, "primary").status == "ok"
    server.stop()
    # A standby of nobody: enough to be in recovery, and to take read-only connections.
    signal = server.folder / "cluster" / "standby.signal"
    signal.touch()
    give_away(signal)
    server.start()
    found = finding(capture, "primary")
    assert (found.status, found.mend) == ("error", "use the address of the primary server")
    with pytest.raises(SourceBlocked, match="standby"):
        capture.open()
    server.stop("immediate")


def test_wal_that_is_kept_without_limit_is_found_and_mended(url: str) -> None:
    capture = Capture(url)
    assert finding(capture, "max_slot_wal_keep_size").status == "warning"
    for statement in finding(capture, "max_slot_wal_keep_size").mend.split("; "):
        run(url, statement)
    wait_until(
        lambda: finding(capture, "max_slot_wal_keep_size").status == "ok", 10, "it has no effect"
    )
    run(url, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def test_an_address_that_pg_hba_refuses_is_found() -> None:
    server = new_postgres()
    server.start()
    url = server.create_database()
    capture = Capture(url)
    assert finding(capture, "replication connection").status == "ok"
    database = name_in(url)
    rules = server.folder / "cluster" / "pg_hba.conf"
    rules.write_text(f"host {database} all all reject\n" + rules.read_text())
    server.restart()
    (only,) = capture.source.check()
    assert (only.name, only.status) == ("connection", "error")
    assert "pg_hba.conf" in only.what
    server.stop()
