"""Rows that were made to do harm: they end in the log and on its pages as the text they are."""

import csv
import io
import struct
from collections.abc import Iterator
from typing import Any, Final

import bson
import psycopg2
import pymongo
import pytest
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from playwright.sync_api import Page, expect
from psycopg2 import sql

from eventing.cloudevents import MAX_ID_CHARACTERS, MAX_PAYLOAD_CHARACTERS
from tests import databases
from tests.browser.conftest import Complaints
from tests.product import Product
from tests.receiver import Receiver
from tests.stack import Stack
from tests.waiting import wait_until

SCRIPT: Final = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>"
NAME: Final = "<img src=x onerror=alert(3)>\"'\\%s{{x}}\u202e"
# Every control character that text may hold, what turns its direction, and what is no character.
ODD: Final = (
    "".join(map(chr, [*range(1, 32), *range(127, 160)]))
    + "\u202e\u2066\u2028\ufeff\ufffe\uffff\U0010ffff"
)
DEEP: Final = 5000
LARGE: Final = 5_000_000
SOURCES: Final = ("main", "maria", "mongo")


def fill_postgres(url: str) -> int:
    """Tables of one row each; returns how many."""
    values: list[tuple[str, Any]] = [
        ("text", SCRIPT),
        ("text", ODD),
        ("text", "ä" * LARGE),
        ("text[]", [SCRIPT, ODD, None, '"', "\\", "NULL", ""]),
        ("json", '{"a":"\\ud800"}'),
        ("json", '{"a":"\\u0000"}'),
        ("json", '{"a":1,"a":2}'),
        ("json", "[" * DEEP + "]" * DEEP),
        ("json", '{"a":' * DEEP + "1" + "}" * DEEP),
        ("json", "9" * 20_000),
        ("json", "1e999999"),
        ("numeric", "9" * 131_072),
        ("numeric", "NaN"),
        ("numeric", "-Infinity"),
        ("float8", "NaN"),
        ("float8", "Infinity"),
        ("bytea", b"\0\xff<script>"),
        ("date", "4713-01-01 BC"),
        ("date", "infinity"),
        ("timestamp", "294276-12-31 23:59:59.999999"),
        ("timestamptz", "4713-01-01 00:00:00+00 BC"),
        ("timestamptz", "-infinity"),
        ("interval", "-178000000 years"),
    ]
    with psycopg2.connect(url) as opened, opened.cursor() as at:
        at.execute("SET max_stack_depth = '7MB'")
        for number, (kind, value) in enumerate(values):
            name = sql.Identifier(f"{number} {kind} {NAME}")
            column = sql.SQL("{} " + kind).format(sql.Identifier(NAME))
            row = sql.SQL(", ").join(map(sql.Literal, (SCRIPT, value)))
            at.execute(sql.SQL("CREATE TABLE {} (id text PRIMARY KEY, {})").format(name, column))
            at.execute(sql.SQL("INSERT INTO {} VALUES ({})").format(name, row))
        at.execute("CREATE TABLE too_large (id text, content text)")
        at.execute("INSERT INTO too_large VALUES (repeat('<b>k</b>', 500000))")
        at.execute(f"INSERT INTO too_large VALUES ('k', repeat('x', {MAX_PAYLOAD_CHARACTERS}))")
    opened.close()
    return len(values) + 2


def fill_mariadb(url: str) -> int:
    """The same; NULs are text there, and JSON is what has been checked to be JSON, or not."""
    values: list[tuple[str, Any]] = [
        ("longtext", SCRIPT),
        ("longtext", ODD + "\0"),
        ("longtext", "ä" * LARGE),
        ("longblob", b"\0\xff<script>"),
        ("json", '{"a":"\\u0000","b":"<b>"}'),
        ("json", '"\\ud800"'),
        ("json", "9" * 20_000),
        ("json", "no json"),
        ("json", "[" * 100_000 + "]" * 100_000),
        ("decimal(65,30)", "9" * 35 + "." + "9" * 30),
        ("bigint unsigned", 2**64 - 1),
        ("date", "0000-00-00"),
        ("datetime(6)", "9999-12-31 23:59:59.999999"),
        ("time(6)", "-838:59:59.999999"),
        ("bit(64)", 2**64 - 1),
    ]
    with databases.connect(url) as opened, opened.cursor() as at:
        at.execute("SET SESSION sql_mode = '', check_constraint_checks = 0")
        for number, (kind, value) in enumerate(values):
            name, column = f"`{number} {NAME}x`", f"`{NAME}x` {kind}"
            row = ", ".join(map(opened.escape, (SCRIPT + "\0", value)))
            at.execute(f"CREATE TABLE {name} (id varchar(255) PRIMARY KEY, {column})")
            at.execute(f"INSERT INTO {name} VALUES ({row})")
    return len(values)


def fill_mongodb(url: str) -> int:
    """Documents of every kind of value, and some that no driver would write."""
    deep: Any = 1
    for _ in range(170):
        deep = [deep]
    documents: list[dict[str, Any]] = [
        {"_id": SCRIPT, NAME: SCRIPT},
        {"_id": SCRIPT + "\0", "a": ODD + "\0", "": 1},
        {"_id": bson.MinKey(), "a": bson.MaxKey()},
        {"_id": {"a": SCRIPT}, "b": bson.Regex(SCRIPT, "i"), "c": bson.Code(SCRIPT, {"x": SCRIPT})},
        {"_id": float("nan"), "a": float("-inf")},
        {"_id": 0, "a": [bson.Decimal128(text) for text in ("NaN", "sNaN", "-NaN")]},
        {"_id": bson.Decimal128("9E+6111"), "a": bson.Decimal128("-Infinity")},
        {"_id": DatetimeMS(-(2**63)), "a": DatetimeMS(2**63 - 1)},
        {"_id": 1, "a": deep},
        {"_id": 2, "a": "ä" * LARGE},
        {"_id": "k" * 1_000_000},
        {"_id": 4, "a": {"$ref": 5, "$id": None}},
        {"_id": 5, "a": {"$ref": SCRIPT, "$id": {"x": float("nan")}, "$db": 7}},
        {"_id": 6, "a": {"$oid": "x", "$date": "y", "$code": 1}},
        *({"_id": 10 + n, "a": bson.Binary(b"\0<b>", n)} for n in (0, 2, 3, 4, 5, 6, 8, 9, 128)),
    ]
    oddities = [
        odd_document(0x02, bson_text(b"\xff\xfe\xed\xa0\x80")),
        odd_document(0x06, b""),
        odd_document(0x0C, bson_text(b"col") + bytes(12)),
        odd_document(0x0E, bson_text(b"sym\xff")),
        odd_document(0x0B, b"(\0zzz\0"),
        odd_document(0x0D, bson_text(b"\xff")),
        odd_document(0x05, struct.pack("<iB", 3, 4) + b"abc"),
        odd_document(0x05, struct.pack("<iB", 3, 9) + b"abc"),
        odd_document(0x09, struct.pack("<q", 2**62)),
    ]
    with pymongo.MongoClient[Any](url) as client:
        database = client.get_default_database()
        for document in documents:
            database[NAME].insert_one(document)
        for raw in oddities:
            database["raw"].insert_one(RawBSONDocument(raw))
    return len(documents) + len(oddities)


def odd_document(kind: int, value: bytes) -> bytes:
    body = bytes([kind]) + b"a\0" + value
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def bson_text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


@pytest.fixture
def product(
    stack: Stack,
    source_database: str,
    mariadb_database: str,
    mongodb_database: str,
    receiver: Receiver,
) -> Iterator[Product]:
    """A project whose three sources hold what was made to do harm, all of it captured and sent."""
    others = [
        {"alias": "maria", "type": "mysql", "url": mariadb_database},
        {"alias": "mongo", "type": "mongodb", "url": mongodb_database},
    ]
    product = Product(stack, "hostile", source_database, more_databases=others)
    product.apply({"name": "all", "url": receiver.url("/all"), "timeout_ms": 60_000})
    for alias in SOURCES:
        wait_until(
            lambda alias=alias: (
                product.get(f"databases/{alias}/")["capture"]["state"] == "streaming"
            ),
            30,
            f"{alias} is not captured",
        )
    count = fill_postgres(source_database)
    count += fill_mariadb(mariadb_database)
    count += fill_mongodb(mongodb_database)
    # Too large: a document and an id in Postgres, an id in MongoDB.
    product.wait_for(120, delivered=count - 3, failed=3, pending=0, delivering=0)
    yield product
    product.disable()


def sign_in(page: Page, stack: Stack) -> None:
    page.goto(stack.url)
    page.get_by_label("Username").fill("root")
    page.get_by_label("Password").fill("correct horse battery")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Projects")


def assert_nothing_of_a_row_is_markup(page: Page) -> None:
    """Pages have scripts of their own alone, and no picture but of their own."""
    assert page.locator("img[onerror], script:not([src]), .json b, .facts b").count() == 0


def test_rows_made_to_do_harm_are_text_in_the_log_and_on_its_pages(
    product: Product, stack: Stack, page: Page, complaints: Complaints
) -> None:
    page.on("dialog", lambda dialog: complaints.found.append(f"a dialog: {dialog.message}"))
    page.set_default_timeout(120_000)
    sign_in(page, stack)
    events = product.events()
    for event in events:
        assert len(event["doc_id"]) <= MAX_ID_CHARACTERS
        page.goto(f"{stack.url}/projects/hostile/events/{event['id']}/")
        expect(page.locator(".event-detail")).to_contain_text(event["type"])
        assert_nothing_of_a_row_is_markup(page)
    problems = sorted(event["problem"] for event in events if event["problem"])
    assert [problem.split(" is ")[0] for problem in problems] == [
        "the document",
        "the document's id",
        "the document's id",
    ]

    for alias in SOURCES:
        page.goto(f"{stack.url}/projects/hostile/events/?database={alias}")
        rows = page.locator("tbody.event")
        for number in range(rows.count()):
            rows.nth(number).locator(".row-link").click()
            expect(rows.nth(number).locator(".facts")).to_be_visible(timeout=120_000)
        assert_nothing_of_a_row_is_markup(page)

    for kind in ("csv", "jsonl"):
        address = f"{stack.url}/projects/hostile/events/export/?format={kind}"
        answer = page.request.get(address)
        assert answer.status == 200
        if kind == "csv":
            csv.field_size_limit(2**30)
            assert len(list(csv.reader(io.StringIO(answer.text())))) == len(events) + 1

    tables = sorted({(event["database"], event["table"]) for event in events})
    page.goto(f"{stack.url}/projects/hostile/triggers/add/")
    # Some of each source; one that is too large for a page.
    for alias, table in [*tables[::6], ("main", "too_large")]:
        for other in SOURCES:
            page.get_by_label(other, exact=True).set_checked(other == alias)
        page.get_by_label("Insert").check()
        page.get_by_label("Collection / Table name(s)").fill(table)
        with page.expect_response("**/triggers/sample/"):
            page.locator("#sample button").click()
        expect(page.locator("#sample")).not_to_contain_text("Reads one row")
        assert_nothing_of_a_row_is_markup(page)
