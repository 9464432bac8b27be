"""The MongoDB source against a real replica set; values against MongoDB's own Extended JSON."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pymongo
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.json_util import CANONICAL_JSON_OPTIONS, RELAXED_JSON_OPTIONS, dumps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.servers import give_away
from eventing.changes import Finding
from eventing.matching import Matcher, Rule
from eventing.sources.base import START_ANEW, SourceBlocked, SourceUnavailable
from eventing.sources.mongodb import MongoSource
from tests import reading
from tests.databases import ExternalMongoDb, MongoDbServer, new_mongodb
from tests.reading import EVERYTHING
from tests.waiting import wait_until


class Capture(reading.Capture):
    """A capture of MongoDB."""

    def __init__(self, url: str, watch: Matcher = EVERYTHING, after: str | None = None) -> None:
        super().__init__(MongoSource(url, "mission_control_test"), watch, after)


@pytest.fixture
def database(
    mongodb_server: MongoDbServer | ExternalMongoDb, mongodb_database: str
) -> Iterator["pymongo.database.Database[dict[str, Any]]"]:
    name = mongodb_database.split("?")[0].rpartition("/")[2]
    with mongodb_server.client() as client:
        client[name].create_collection("users")
        yield client[name]


@pytest.fixture
def capture(mongodb_database: str, database: Any) -> Iterator[Capture]:
    opened = Capture(mongodb_database)
    yield opened
    opened.source.close()


def test_inserts_updates_replacements_and_deletes_are_read_in_order(
    capture: Capture, database: Any
) -> None:
    users = database["users"]
    users.insert_one({"_id": 7, "email": "a@example.com"})
    users.update_one({"_id": 7}, {"$set": {"email": "b@example.com"}})
    users.replace_one({"_id": 7}, {"email": "c@example.com"})
    users.delete_one({"_id": 7})
    changes = capture.until(4)
    assert [change.operation for change in changes] == ["insert", "update", "update", "delete"]
    assert {change.table for change in changes} == {"users"}
    assert {change.document_id for change in changes} == {"7"}
    assert json.loads(changes[0].document) == {"_id": 7, "email": "a@example.com"}
    assert json.loads(changes[3].document) == {"_id": 7}
    assert len({change.position for change in changes}) == 4
    oplog = database.client["local"]["oplog.rs"]
    (logged,) = oplog.find({"op": "i", "ns": f"{database.name}.users"})
    assert changes[0].shown_position == f"{logged['ts'].time}.{logged['ts'].inc}"
    age = datetime.now(UTC).timestamp() * 1000 - changes[0].committed_at_ms
    assert -1000 < age < 60_000


def test_a_delete_tells_the_whole_document_where_pre_images_are_kept(
    capture: Capture, database: Any
) -> None:
    enabled = {"changeStreamPreAndPostImages": {"enabled": True}}
    database.command({"collMod": "users", **enabled})
    database["users"].insert_one({"_id": 7, "email": "a@example.com"})
    database["users"].delete_one({"_id": 7})
    deleted = capture.until(2)[1]
    assert json.loads(deleted.document) == {"_id": 7, "email": "a@example.com"}
    assert deleted.old == deleted.document


def test_an_update_of_a_document_that_is_gone_tells_what_is_known(
    mongodb_database: str, database: Any
) -> None:
    capture = Capture(mongodb_database)
    database["users"].insert_one({"_id": 7, "email": "a@example.com", "name": "A"})
    position = capture.until(1) and capture.position
    capture.source.close()
    database["users"].update_one({"_id": 7}, {"$set": {"email": "b@example.com"}})
    database["users"].delete_one({"_id": 7})
    capture = Capture(mongodb_database, after=position)
    updated = capture.until(2)[0]
    assert json.loads(updated.document) == {"_id": 7, "email": "b@example.com"}
    capture.source.close()


def test_after_any_change_of_a_transaction_the_rest_follows_and_nothing_twice(
    mongodb_database: str, capture: Capture, database: Any
) -> None:
    with database.client.start_session() as session, session.start_transaction():
        for number in range(5):
            database["users"].insert_one({"_id": number}, session=session)
    with database.client.start_session() as session:
        session.start_transaction()
        database["users"].insert_one({"_id": "rolled back"}, session=session)
        session.abort_transaction()
    changes = capture.until(5)
    assert [change.document_id for change in changes] == ["0", "1", "2", "3", "4"]
    for number, change in enumerate(changes):
        again = Capture(mongodb_database, after=change.position)
        rest = again.until(4 - number)
        assert [each.position for each in rest] == [each.position for each in changes[number + 1 :]]
        again.source.close()


def test_what_is_written_before_the_first_read_is_not_missed(
    mongodb_database: str, database: Any
) -> None:
    capture = Capture(mongodb_database)
    database["users"].insert_one({"_id": 1})
    assert capture.until(1)[0].document_id == "1"
    capture.source.close()


def test_the_position_of_an_idle_database_moves_on(
    mongodb_server: MongoDbServer, capture: Capture
) -> None:
    capture.read()
    before = capture.position
    with mongodb_server.client() as client:
        client["elsewhere"]["others"].insert_one({"_id": str(uuid4())})
    wait_until(lambda: not capture.read() and capture.position != before, 20, "it stands still")


def test_collections_nobody_watches_are_left_out_and_new_triggers_take_effect(
    mongodb_database: str, database: Any
) -> None:
    orders = Matcher([Rule(1, "orders", ("orders",), frozenset({"insert"}))])  # type: ignore[arg-type]
    capture = Capture(mongodb_database, orders)
    database["users"].insert_one({"_id": 1})
    database["orders"].insert_one({"_id": 2})
    database["orders"].delete_one({"_id": 2})
    assert [change.document_id for change in capture.until(1)] == ["2"]
    capture.source.watch(EVERYTHING)
    database["users"].insert_one({"_id": 3})
    seen: list[str] = []
    wait_until(
        lambda: seen.extend(change.document_id for change in capture.read()) or "3" in seen,  # type: ignore[func-returns-value]
        20,
        "the new trigger sees nothing",
    )
    assert "1" not in seen
    capture.source.close()


def test_the_stream_goes_on_when_collections_are_renamed_and_the_database_dropped(
    capture: Capture, database: Any
) -> None:
    database["users"].insert_one({"_id": 1})
    database["users"].rename("people")
    database["people"].insert_one({"_id": 2})
    database["people"].drop()
    assert [change.table for change in capture.until(2)] == ["users", "people"]
    database.client.drop_database(database.name)
    database["üsers 'x' \"y\""].insert_one({"_id": 3})
    assert [change.table for change in capture.until(1)] == ["üsers 'x' \"y\""]


def test_an_event_that_is_too_large_is_reported_and_the_stream_goes_on(
    capture: Capture, database: Any
) -> None:
    database.command({"collMod": "users", "changeStreamPreAndPostImages": {"enabled": True}})
    users = database["users"]
    users.insert_one({"_id": 1, "text": "x" * 9_000_000})
    users.update_one({"_id": 1}, {"$set": {"text": "y" * 9_000_000}})
    users.insert_one({"_id": 2})
    inserted, updated, last = capture.until(3)
    assert inserted.problem is None
    assert "larger than 16 MB" in (updated.problem or "")
    assert (updated.document_id, updated.document) == ("1", "{}")
    assert (last.document_id, last.problem) == ("2", None)


def test_those_before_an_event_whose_rest_is_to_come_are_not_read_again() -> None:
    """As MongoDB 7.0 and newer answer, of which no server is at hand: its own words for it."""

    def event(number: int, **fields: Any) -> dict[str, Any]:
        return {
            "_id": {"_data": f"82{number:08X}"},
            "operationType": "insert",
            "clusterTime": Timestamp(1, number),
            "ns": {"db": "test", "coll": "users"},
            "documentKey": {"_id": number},
            "fullDocument": {"_id": number},
            **fields,
        }

    def reply(events: list[dict[str, Any]], token: str) -> dict[str, Any]:
        cursor = {"id": 7, "nextBatch": events, "postBatchResumeToken": {"_data": token}}
        return {"cursor": cursor}

    source = MongoSource("mongodb://127.0.0.1/test", "mission_control_test")
    begun = event(2, splitEvent={"fragment": 1, "of": 2})
    del begun["fullDocument"]
    first = source._batch(reply([event(1), begun], "8200000002"), 1000)
    assert [change.document_id for change in first.changes] == ["1"]
    assert first.position == "8200000001"
    rest = {
        "_id": {"_data": "8200000003"},
        "splitEvent": {"fragment": 2, "of": 2},
        "fullDocument": {"_id": 2},
    }
    second = source._batch(reply([rest], "8200000004"), 1000)
    assert [change.document for change in second.changes] == ['{"_id":2}']
    assert second.position == "8200000004"


VALUES: dict[str, tuple[Any, str]] = {
    "null": (None, "null"),
    "true": (True, "true"),
    "int": (7, "7"),
    "long": (Int64(9_223_372_036_854_775_807), "9223372036854775807"),
    "double": (0.1, "0.1"),
    "whole double": (1.0, "1.0"),
    "nan": (math.nan, '"NaN"'),
    "infinity": (-math.inf, '"-Infinity"'),
    "nan beside null": ({"a": [None, 1.5, math.nan]}, '{"a":[null,1.5,"NaN"]}'),
    "the word null": ("null", '"null"'),
    "decimal": (Decimal128("12345678901234567890.1200"), "12345678901234567890.1200"),
    "decimal nan": (Decimal128("NaN"), '"NaN"'),
    "text": ('é "\\ \u0000 \U0001f600', json.dumps('é "\\ \u0000 \U0001f600', ensure_ascii=False)),
    "object id": (ObjectId("5f1f9f9f9f9f9f9f9f9f9f9f"), '"5f1f9f9f9f9f9f9f9f9f9f9f"'),
    "date": (datetime(2019, 10, 19, 12, 40, 50, 53000, UTC), '"2019-10-19T12:40:50.053Z"'),
    "early date": (datetime(12, 1, 2, tzinfo=UTC), '"0012-01-02T00:00:00.000Z"'),
    "last date": (DatetimeMS(253_402_300_799_999), '"9999-12-31T23:59:59.999Z"'),
    "far date": (DatetimeMS(253_402_300_800_000), '{"$date":{"$numberLong":"253402300800000"}}'),
    "binary": (b"\x00\xff", '"AP8="'),
    "uuid": (Binary(bytes(16), 4), '"AAAAAAAAAAAAAAAAAAAAAA=="'),
    "array": ([1, [2.5], {"a": None}], '[1,[2.5],{"a":null}]'),
    "timestamp": (Timestamp(5, 6), dumps(Timestamp(5, 6), json_options=RELAXED_JSON_OPTIONS)),
    "regex": (Regex("a.b", "i"), dumps(Regex("a.b", "i"), json_options=RELAXED_JSON_OPTIONS)),
    "code": (Code("f()"), dumps(Code("f()"), json_options=RELAXED_JSON_OPTIONS)),
    "min": (MinKey(), dumps(MinKey())),
    "max": (MaxKey(), dumps(MaxKey())),
    "odd.key": ({"a.b": 1, "$c": 2, "": 3}, '{"a.b":1,"$c":2,"":3}'),
}


def test_every_type_becomes_plain_json(capture: Capture, database: Any) -> None:
    for number, (value, _) in enumerate(VALUES.values()):
        database["users"].insert_one({"_id": number, "value": value})
    for change, (name, (_, text)) in zip(capture.until(len(VALUES)), VALUES.items(), strict=True):
        squeezed = change.document.split('"value":', 1)[1][:-1]
        assert squeezed == text or json.loads(squeezed) == json.loads(text), name


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        ("a text", "a text"),
        (Int64(2**60), "1152921504606846976"),
        (ObjectId("5f1f9f9f9f9f9f9f9f9f9f9f"), "5f1f9f9f9f9f9f9f9f9f9f9f"),
        ({"a": 1, "b": "x"}, '{"a":1,"b":"x"}'),
        (Decimal128("1.10"), "1.10"),
        (None, "null"),
        (math.nan, "NaN"),
        (datetime(2019, 10, 19, 12, 40, 50, 53000, UTC), "2019-10-19T12:40:50.053Z"),
        ({"a": [math.inf, None]}, '{"a":["Infinity",null]}'),
    ],
)
def test_an_id_of_any_type_becomes_text(
    capture: Capture, database: Any, identifier: Any, text: str
) -> None:
    database["users"].insert_one({"_id": identifier})
    assert capture.until(1)[0].document_id == text


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
_KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_DOCUMENTS = st.dictionaries(
    _KEYS.filter(lambda key: key != "_id" and not key.startswith("$")),
    st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner)
    ),
    max_size=5,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_DOCUMENTS)
def test_any_document_arrives_as_mongodbs_own_extended_json_has_it(
    capture: Capture, database: Any, document: dict[str, Any]
) -> None:
    inserted = database["users"].insert_one({**document, "_id": str(uuid4())}).inserted_id
    (change,) = capture.until(1)
    stored = database["users"].find_one({"_id": inserted})
    canonical = json.loads(dumps(stored, json_options=CANONICAL_JSON_OPTIONS))
    assert json.loads(change.document) == _relaxed(canonical)


def _relaxed(value: Any) -> Any:
    """Canonical Extended JSON with its numbers as numbers."""
    if isinstance(value, list):
        return [_relaxed(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1:
            ((name, inner),) = value.items()
            if name in ("$numberInt", "$numberLong") and isinstance(inner, str):
                return int(inner)
            if name == "$numberDouble" and isinstance(inner, str):
                return float(inner)
        return {name: _relaxed(item) for name, item in value.items()}
    return value


def test_a_server_that_restarts_is_unavailable_and_then_goes_on_where_it_was() -> None:
    server = new_mongodb()
    server.start()
    try:
        capture = Capture(server.url("shop"))
        with server.client() as client:
            client["shop"]["users"].insert_one({"_id": 1})
        assert len(capture.until(1)) == 1
        server.kill()
        with pytest.raises(SourceUnavailable):
            wait_until(lambda: bool(capture.read()), 20, "the server still answers")
        capture.source.close()
        server.start()
        with server.client() as client:
            client["shop"]["users"].insert_one({"_id": 2})
        again = Capture(server.url("shop"), after=capture.position)
        assert [change.document_id for change in again.until(1)] == ["2"]
        again.source.close()
    finally:
        server.kill()


def test_a_place_that_the_oplog_no_longer_holds_blocks() -> None:
    server = new_mongodb()
    server.start()
    try:
        capture = Capture(server.url("shop"))
        with server.client() as client:
            for number in range(20):
                client["shop"]["users"].insert_one({"_id": number})
        changes = capture.until(20)
        capture.source.close()
        # What a full oplog loses first is taken away while the server stands alone.
        server.stop()
        server.replica_set = None
        server.start()
        with server.client() as client:
            oplog = client["local"]["oplog.rs"]
            (last,) = oplog.find({"op": "i", "ns": "shop.users"}).sort("ts", -1).limit(1)
            assert oplog.delete_many({"ts": {"$lt": last["ts"]}}).deleted_count > 0
        server.stop()
        server.replica_set = "rs0"
        server.start()
        source = MongoSource(server.url("shop"), "mission_control_test")
        with pytest.raises(SourceBlocked) as blocked:
            _open_and_read(source, changes[0].position)
        assert blocked.value.mend == START_ANEW
        source.close()
    finally:
        server.kill()


def _open_and_read(source: MongoSource, after: str) -> None:
    source.open(EVERYTHING, after)
    source.read(10, 0.2)


def test_the_doctor_and_the_catalogue_tell_what_can_be_captured(
    mongodb_database: str, database: Any
) -> None:
    database["users"].insert_one({"_id": 1, "email": "a"})
    source = MongoSource(mongodb_database, "mission_control_test")
    findings = {finding.name: finding for finding in source.check()}
    assert {finding.status for finding in findings.values()} == {"ok", "warning"}
    assert "collMod" in findings["pre-images"].mend
    (users,) = source.catalogue()
    assert (users.name, users.columns) == ("users", ("_id", "email"))
    database.command({"collMod": "users", "changeStreamPreAndPostImages": {"enabled": True}})
    assert all(finding.status == "ok" for finding in source.check())


def test_a_server_that_stands_alone_is_blocked_with_what_to_do() -> None:
    server = new_mongodb()
    server.start()
    server.stop()
    server.replica_set = None
    server.start()
    try:
        url = f"mongodb://127.0.0.1:{server.port}/shop"
        (finding,) = [each for each in MongoSource(url, "x").check() if each.status == "error"]
        assert "--replSet" in finding.mend
        with pytest.raises(SourceBlocked, match="stands alone"):
            MongoSource(url, "x").open(EVERYTHING, None)
    finally:
        server.kill()


def test_an_oplog_that_is_full_after_less_than_a_day_is_found_and_mended() -> None:
    server = new_mongodb()
    server.options = ("--oplogSize", "1")
    server.start()
    url = server.url("shop")
    with server.client() as client:
        documents = [{"text": "x" * 10_000} for _ in range(300)]
        client["shop"]["bulky"].insert_many(documents)

        def finding() -> Finding:
            return next(each for each in MongoSource(url, "x").check() if each.name == "oplog")

        wait_until(lambda: finding().status == "warning", 30, "a full oplog is not found")
        mend = finding().mend
        assert mend == "db.adminCommand({replSetResizeOplog: 1, size: 990})"
        # The same as a command, since the shell is not at hand.
        client.admin.command({"replSetResizeOplog": 1, "size": 990.0})
        assert finding().status == "ok"
    server.kill()


def test_a_server_that_does_not_answer_is_a_finding_and_no_exception() -> None:
    source = MongoSource("mongodb://user:s3cret@127.0.0.1:1/shop", "x")
    (finding,) = source.check()
    assert (finding.name, finding.status) == ("connection", "error")
    assert "s3cret" not in repr(finding)
    with pytest.raises(SourceUnavailable):
        source.open(EVERYTHING, None)


def test_a_user_without_the_right_to_watch_is_found_and_mended() -> None:
    server = new_mongodb()
    server.start()
    with server.client() as client:
        client.admin.command("createUser", "root", pwd="root", roles=["root"])
        client["shop"].command("createUser", "reader", pwd="hidden-word", roles=[])
    server.stop()
    key = server.folder / "key"
    key.write_text("k" * 32)
    key.chmod(0o600)
    give_away(key)
    server.options = ("--keyFile", str(key))
    server.start()
    url = server.url("shop").replace("//", "//reader:hidden-word@") + "&authSource=shop"
    findings = {finding.name: finding for finding in MongoSource(url, "x").check()}
    mend = findings["watch right"].mend
    assert findings["watch right"].status == "error"
    assert mend == (
        'db.getSiblingDB("shop").grantRolesToUser("reader", [{role: "read", db: "shop"}])'
    )
    with pytest.raises(SourceBlocked) as blocked:
        MongoSource(url, "x").open(EVERYTHING, None)
    assert blocked.value.mend == mend
    # The same as a command, since the shell is not at hand.
    login = f"mongodb://root:root@127.0.0.1:{server.port}/admin?directConnection=true"
    with pymongo.MongoClient[dict[str, Any]](login) as client:
        roles = [{"role": "read", "db": "shop"}]
        client["shop"].command("grantRolesToUser", "reader", roles=roles)
    assert {finding.status for finding in MongoSource(url, "x").check()} == {"ok"}
    server.kill()
