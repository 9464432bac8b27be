"""The decoders and parsers that are given bad input.

Each target takes bytes and swallows the errors that are meant; anything else it raises is a bug.
What is refused is told in a message that a terminal, a log and JSON take, without what is secret.
"""

import contextlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, cast

import bson
from bson.errors import BSONError
from django.contrib.auth.models import User
from django.http import QueryDict

from eventing.access import Actor
from eventing.api.definitions import (
    changed_database,
    changed_member,
    changed_settings,
    changed_title,
    changed_trigger,
    new_project,
)
from eventing.api.filters import (
    apply_options_of,
    audit_selection_of,
    event_ids_of,
    export_selection_of,
    filters_of,
    selection_of,
)
from eventing.api.representations import masked_address
from eventing.backoff import retry_after_ms
from eventing.changes import DATABASE_TYPES, SOURCE_NAMES, Change, Origin
from eventing.cloudevents import EventBuilder
from eventing.configuration import parse
from eventing.connection_strings import ConnectionString
from eventing.definitions import (
    DEFAULT_SETTINGS,
    FORMATS,
    DatabaseDefinition,
    TriggerDefinition,
    parse_database,
    parse_member,
    parse_notification,
    parse_project,
    parse_settings,
    parse_token,
    parse_trigger,
)
from eventing.destinations.names import named_in
from eventing.destinations.webhook import _ascii_url, _host_and_place, _parsed_headers, _shown_url
from eventing.eventing_dbs import Store
from eventing.formats import event_id_of, message
from eventing.history import _place_of
from eventing.logs.base import EventLog, InvalidCursor
from eventing.logs.paging import id_of_cursor
from eventing.matching import Matcher, Rule
from eventing.models import Membership
from eventing.problems import InvalidInput, Problem
from eventing.sources import myposition, pgoutput, pgstream
from eventing.sources.mongojson import CODEC_OPTIONS, id_text, json_text
from eventing.sources.mycolumns import RowFormat, RowsUnreadable, ValueUnreadable, table_map
from eventing.sources.myjson import json_of_binary
from eventing.sources.mystatements import tables_touched
from eventing.sources.pgjson import Types
from webui.filters import audit_query, log_query
from webui.forms import (
    database_definition,
    given_database_form,
    given_member,
    given_notification,
    given_settings_form,
    given_trigger_form,
    member_source,
    settings_definition,
    token_source,
    trigger_definition,
)
from webui.templatetags.console import folding_json

# What a row that cannot be decoded may raise: the stream stores the event as failed, and goes on.
_UNDECODABLE = (ValueError, LookupError, struct.error, zlib.error, RowsUnreadable, ValueUnreadable)


# Stands where a password or a token may: no message has it.
_SECRET = "planted-word"


@contextlib.contextmanager
def _refusable(*also: type[Exception]) -> Iterator[None]:
    """What goes on inside may be refused."""
    try:
        yield
    except also:
        return
    except InvalidInput as refused:
        _look_at(refused.problems)
        return


def _look_at(problems: Sequence[Problem]) -> None:
    """Each names its field, what was given and what is allowed: on one line, and briefly."""
    for problem in problems:
        assert problem.field
        assert problem.given
        assert problem.allowed
        assert str(problem).isprintable()
        assert len(str(problem)) < 1000
        assert _SECRET not in str(problem)


def _text(data: bytes) -> str:
    """Bytes as text in which anything may occur, half of a surrogate pair included."""
    return data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace")


def _any_text(data: bytes) -> str:
    try:
        return _text(data)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def pgoutput_messages(data: bytes) -> None:
    for decode in (
        pgoutput.begin,
        pgoutput.commit,
        pgoutput.relation,
        pgoutput.relation_oid,
        pgoutput.row,
        pgoutput.inserted,
    ):
        with contextlib.suppress(pgoutput.MalformedMessage):
            decode(data)


def pg_values(data: bytes) -> None:
    """Texts as the server would send them, and texts it would not: whatever comes out is JSON."""
    text = _any_text(data[1:])
    types = Types()
    oids = (16, 17, 20, 25, 114, 700, 701, 1000, 1007, 1009, 1082, 1114, 1184, 1186, 1700, 3904)
    for oid in oids:
        # ArithmeticError: what the server never writes as a number.
        with contextlib.suppress(ValueError, LookupError, ArithmeticError):
            types.converter(oid)(text)


def mysql_json(data: bytes) -> None:
    with contextlib.suppress(*_UNDECODABLE):
        json_of_binary(data)


def mysql_rows(data: bytes) -> None:
    """A table map, and a row of it."""
    half = data[0] if data else 0
    with contextlib.suppress(*_UNDECODABLE):
        shape = RowFormat(table_map(data[1 : 1 + half]), [])
        texts, _ = shape.row(data[1 + half :], 0, (1 << shape.count) - 1)
        shape.document(texts)
        shape.document_id(texts)


def mongo_documents(data: bytes) -> None:
    """What decodes as BSON becomes JSON, whatever is in it."""
    try:
        document = bson.decode(data, CODEC_OPTIONS)
    except (BSONError, ValueError, OverflowError, RecursionError, TypeError, LookupError):
        return
    json.loads(json_text(document))
    for value in document.values():
        id_text(value)


def payloads(data: bytes) -> None:
    """A payload is JSON, whatever the document's id and table are called, in every format."""
    cut = len(data) // 2
    table, identifier = (part.decode("utf-8", "replace") for part in (data[:cut], data[cut:]))
    origin = Origin(1, "shop", 1, SOURCE_NAMES["postgres"], "postgres")
    builder = EventBuilder(origin, "node", Matcher([Rule(1, "all", (), frozenset({"insert"}))]))
    change = Change("1", 0, "insert", table, identifier, json.dumps({"a": identifier}), 0)
    for event in builder.events([change]):
        assert json.loads(event.payload)["data"]["docId"] == identifier
        assert event_id_of(event.payload) == event.id_text
        for format_ in FORMATS:
            sent = message(format_, [event.payload], [event.id_text])
            assert json.loads(sent.body)
            assert "\n" not in "".join(value for _, value in sent.headers)


def json_on_a_page(data: bytes) -> None:
    """Whatever a document holds, its markup is well formed and has nothing of the document's."""
    _WellFormed().feed(folding_json(_any_text(data)))


class _WellFormed(HTMLParser):
    """Raises AssertionError for an element that is not one of ours, is too deep, or is
    not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("details", "summary", "div", "span")
        assert {name for name, _ in attrs} <= {"class", "open"}
        self._open.append(tag)
        assert len(self._open) < 500

    def handle_endtag(self, tag: str) -> None:
        # What is no JSON may close more than it opens; what is stored is JSON.
        if self._open:
            assert self._open.pop() == tag


def rows(data: bytes) -> None:
    """A table, and a row of it, as pgoutput sends them: a document, or an error that is meant."""
    cut = data[0] if data else 0
    try:
        relation = pgoutput.relation(data[1 : 1 + cut])
        sent = pgoutput.row(data[1 + cut :])
    except pgoutput.MalformedMessage:
        return
    shape = Types().row([(column.name, column.type_oid) for column in relation.columns])
    # ArithmeticError: what the server never writes as a number.
    with contextlib.suppress(ValueError, LookupError, ArithmeticError):
        shape.json_of(sent.new, range(len(sent.new)))


def forms(data: bytes) -> None:
    """What a browser, or somebody in its place, may post to the forms of the console."""
    names = ("name", "url", "type", "host", "port", "database", "tables", "retries", "header_name")
    names += ("backoff_factor", "retention_events", "expires_at", "role", "kinds", "repeat_hours")
    field = names[(data[0] if data else 0) % len(names)]
    one = QueryDict(mutable=True)
    one.update({"name": "a", "alias": "a", "type": "mysql", "host": "h", "database": "d"})
    one.update({"url": "https://example.com", "header_value": "x", "role": "viewer"})
    one.setlist(field, [_any_text(data[1:])])
    if field in _ADDRESS_FIELDS:
        one["url"] = ""
    for post in (one, QueryDict(data.decode("latin-1"))):
        for read in (
            lambda post=post: trigger_definition(post, None, _NOBODY),
            lambda post=post: database_definition(post, None, _NOBODY),
            lambda post=post: settings_definition(post),
            lambda post=post: parse_member(member_source(given_member(post))),
            lambda post=post: parse_token(token_source(post)),
            lambda post=post: parse_notification(given_notification(post)),
        ):
            with _refusable():
                read()
        given_trigger_form(post, (), None)
        given_database_form(post, ())
        given_settings_form(post, ())


_ADDRESS_FIELDS = ("host", "port", "database", "type")
_NOBODY = Actor(User(username="nobody"))


def cursors(data: bytes) -> None:
    """What stands for a page's beginning."""
    text = _any_text(data)
    with contextlib.suppress(InvalidCursor):
        id_of_cursor(text)
    with contextlib.suppress(InvalidCursor):
        _place_of(text, [Store(number, "a log", "", _NO_LOG) for number in (0, 7)])


_NO_LOG = cast(EventLog, None)


def yaml_files(data: bytes) -> None:
    with _refusable():
        parse(_any_text(data), {"NAME": "value"})


def definitions(data: bytes) -> None:
    """Whatever JSON can say, as each of the things that can be described."""
    try:
        given: Any = json.loads(data)
    except (ValueError, RecursionError):
        given = {"name": _any_text(data), "url": _any_text(data), "alias": _any_text(data)}
    for describe in (
        lambda: parse_trigger(given, {}),
        lambda: parse_database(given, {}),
        lambda: parse_project(given, {}),
        lambda: parse_settings(given),
        lambda: parse_member(given),
        lambda: parse_token(given),
        lambda: parse_notification(given),
        lambda: parse_notification({**_NOTIFICATION, "kinds": given}),
    ):
        with _refusable():
            describe()


_NOTIFICATION = {"name": "a", "url": f"https://example.com/{_SECRET}"}


def rest_bodies(data: bytes) -> None:
    """Whatever JSON can say, as the body of each request that describes or changes something."""
    try:
        given: Any = json.loads(data)
    except (ValueError, RecursionError):
        given = {_any_text(data): _any_text(data), "name": _any_text(data), "ids": [data.hex()]}
    body = given if isinstance(given, dict) else {"headers": given, "url": given, "ids": given}
    trigger = TriggerDefinition("a", ("insert",), "https://h", headers={"a": _SECRET})
    database = DatabaseDefinition("a", "postgres", f"postgresql://u:{_SECRET}@h/d")
    member = Membership(role="viewer", user=_NOBODY.user)
    for take in (
        lambda: new_project(body),
        lambda: changed_title("a", body),
        lambda: changed_settings(DEFAULT_SETTINGS, body),
        lambda: changed_trigger(trigger, body, _NOBODY),
        lambda: changed_database(database, body, _NOBODY),
        lambda: changed_member(member, body),
        lambda: event_ids_of(body),
        lambda: filters_of(QueryDict(), body),
    ):
        with _refusable():
            take()


def trigger_fields(data: bytes) -> None:
    """A good trigger but for one field."""
    fields = ("url", "name", "tables", "databases", "headers", "retries", "backoff", "format")
    field = fields[(data[0] if data else 0) % len(fields)]
    try:
        value: Any = json.loads(data[1:])
    except (ValueError, RecursionError):
        value = _any_text(data[1:])
    good = {"name": "a", "operations": ["insert"], "url": "https://example.com"}
    with _refusable():
        parse_trigger({**good, field: value}, {})
    text = _any_text(data[1:])
    for name, secret in (
        ("headers", {"Authorization": _SECRET + text}),
        ("headers", {"Authorization": text + _SECRET}),
        ("url", f"https://u:{_SECRET}@{text}"),
        ("url", f"{text}:{_SECRET}@example.com"),
    ):
        with _refusable():
            parse_trigger({**good, name: secret}, {})


def connection_strings(data: bytes) -> None:
    text = _any_text(data)
    for kind in DATABASE_TYPES:
        for url in (
            text,
            f"{kind}://{text}",
            f"{kind}://u:{_SECRET}@{text}",
            f"{kind}://u:{text}{_SECRET}@h/d",
            f"{kind}://u:{_SECRET}@h/d?{text}",
            f"{kind}://h/d?{text}={_SECRET}",
        ):
            with _refusable():
                found = parse_database({"alias": "a", "type": kind, "url": url}, {})
                address = ConnectionString.parse(found.type, found.url)
                _ = (address.url, address.place, address.local_parts, address.hosts)
                address.names_the_same_database(address)
                masked_address(found.url)


def urls(data: bytes) -> None:
    text = _any_text(data)
    for url in (text, f"http://{text}", f"https://h/{text}"):
        with contextlib.suppress(ValueError):
            _ascii_url(url)
        named_in(url)
        _shown_url(url)
        _host_and_place(url)


def answers(data: bytes) -> None:
    """The header lines of an endpoint's answer."""
    for name, value in _parsed_headers(data):
        assert "\n" not in name + value


def waits(data: bytes) -> None:
    """What an endpoint may say in `Retry-After`."""
    wait = retry_after_ms(_any_text(data), 1_700_000_000_000)
    assert wait is None or 0 <= wait <= 366 * 86_400_000


def statements(data: bytes) -> None:
    """What somebody told their server, which a binary log has word for word."""
    for touched in tables_touched(data):
        assert touched.table


def positions(data: bytes) -> None:
    """A stored position that is none."""
    for parse_position in (pgstream.parse_position, myposition.parse_position):
        with contextlib.suppress(ValueError):
            text = str(parse_position(_any_text(data)))
            assert str(parse_position(text)) == text


def filters(data: bytes) -> None:
    """Query strings of REST and of the console."""
    query = QueryDict(data.decode("latin-1"))
    names = ("cursor", "limit", "status", "type", "after", "doc_id", "trigger")
    one = QueryDict(mutable=True)
    one[names[(data[0] if data else 0) % len(names)]] = _any_text(data[1:])
    for given in (query, one):
        for look in (
            lambda given=given: selection_of(given),
            lambda given=given: audit_selection_of(given),
            lambda given=given: audit_selection_of(given, of_installation=True),
            lambda given=given: export_selection_of(given),
            lambda given=given: apply_options_of(given),
            lambda given=given: filters_of(given, {}),
            lambda given=given: filters_of(QueryDict(), dict(given.items())),
        ):
            with _refusable():
                look()
        _look_at(log_query(given, datetime(2026, 1, 1, tzinfo=UTC)).problems)
        _look_at(audit_query(given).problems)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        pgoutput_messages,
        pg_values,
        mysql_json,
        mysql_rows,
        mongo_documents,
        payloads,
        json_on_a_page,
        rows,
        yaml_files,
        definitions,
        rest_bodies,
        trigger_fields,
        forms,
        cursors,
        connection_strings,
        urls,
        answers,
        waits,
        statements,
        positions,
        filters,
    )
}
# Where each begins: input that is almost right.
SEEDS: dict[str, list[bytes]] = {
    "pgoutput_messages": [
        b"I\0\0\x40\x10N\0\2t\0\0\0\1an",
        b"R\0\0\x40\x10public\0t\0d\0\1\1id\0\0\0\0\x17\xff\xff\xff\xff",
        b"U\0\0\x40\x10K\0\1t\0\0\0\0011N\0\1u",
        b"I\0\0\x40\x10N\0\1t\0\0\0\1\xff",
        b"R\0\0\x40\x10\xff\0t\0d\0\0",
    ],
    "pg_values": [
        b"\0{1,2,NULL}",
        b'\0{"a\\"b",{c}}',
        b"\x00[0:1]={1,2}",
        b"\x002026-01-01",
        b"\0NaN",
    ],
    "mysql_json": [
        b"\x00\x01\x00\x0c\x00\x0b\x00\x01\x00\x05\x01\x00a",
        b"\x02\x01\x00\x07\x00\x05\x01\x00",
        b"\x02\x02\x00\x0a\x00\x02\x00\x00\x02\x00\x00",
    ],
    "mysql_rows": [
        b"\x20" + b"\1\0\0\0\0\0\0\0\1a\0\1b\0\2\3\3\0\0" + b"\0" * 40,
        # An ENUM of latin1, whose member 0x81 is one of MySQL's alone; one without members.
        b"\x1e" + bytes(8) + b"\0\0\0\0\1\xfe\2\xf7\1\0\4\2\1a\6\3\1\1\x81\x0a\1\x08" + b"\1" * 4,
        b"\x16" + bytes(8) + b"\0\0\0\0\1\xfe\2\xf7\1\0\4\2\1a" + b"\1" * 4,
        # One of two columns has a name.
        b" \1" + bytes(12) + b"\1\0\0\0\4g\0\1a\0\1b\0\2\3\3\0\4\0",
    ],
    "mongo_documents": [bson.encode({"_id": 1, "a": [1.5, None, {"b": "c"}]})],
    "payloads": [b"users1"],
    "json_on_a_page": [b'{"a":[1,{"b":null}],"<b>":"<script>"}', b"[" * 150 + b"]" * 150],
    "rows": [
        bytes([29])
        + b"R\0\0\x40\x10public\0t\0d\0\1\1id\0\0\0\0\x17\xff\xff\xff\xff"
        + b"I\0\0\x40\x10N\0\1t\0\0\0\0011",
    ],
    "yaml_files": [
        b"projects:\n- name: shop\n  eventing: {enabled: true}\n",
        b"projects: 2026-99-99\n",
        b"projects:\n- &a [*a]\n",
        b"? {projects: 1}\n: 2\n",
    ],
    "definitions": [b'{"name":"a","operations":["insert"],"url":"https://e.com"}', b"[]", b"1e400"],
    "rest_bodies": [
        b'{"name":"shop","title":"Shop","eventing":{"enabled":true},"retention":{"events":"9d"}}',
        b'{"headers":{"A":null},"backoff":{"factor":1e400},"url":"https://h","retries":-1}',
        b'{"url":"postgresql://h/d?a=b","type":"mysql","schemas":[""]}',
        b'{"ids":["018bcfe5-6800-8000-8000-0000abcd0000"],"role":"admin","payloads":false}',
    ],
    "trigger_fields": [b"\0http://[::1", b'\5{"initial_ms":1}', b"\4{}"],
    "forms": [
        b"\4" + b"9" * 5000,
        b"name=a&operations=insert&url=https://e.com&retries=3&header_name=A&header_value=b",
        b"alias=a&type=postgres&host=h&port=1&database=d&schemas=a,b",
    ],
    "cursors": [
        b"0.018bcfe568000000000000000000abcd",
        b"7.",
        b"018bcfe5-6800-8000-8000-0000abcd0000",
    ],
    "connection_strings": [b"u:p@h:1/d?a=b", b"[::1]:5432/d", b"h:99999999/d", b"[fe80::1%25x]/d"],
    "urls": [b"u:p@h:1/?a", "ü.example/ä".encode(), b"[::1", b"h:99999/"],
    "answers": [b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"],
    "waits": [b"120", b"Fri, 31 Dec 1999 23:59:59 GMT", b"Fri, 31 Dec 99999 23:59:59 -9999"],
    "statements": [
        b"INSERT INTO `a`.`b``c` VALUES ('x''y', \"z\") ON DUPLICATE KEY UPDATE a = 1",
        b"WITH x AS (SELECT 1) DELETE a FROM a JOIN (b, c) ON /* d */ (1)",
        b"CREATE OR REPLACE TABLE IF NOT EXISTS t SELECT 1 -- x",
        b"LOAD DATA INFILE 'a' INTO TABLE t",
    ],
    "positions": [
        b"0000000001/00000000/0000/1",
        b"mariadb;0-1-5,1-1-7@17;0-1-6;3/4/5",
        b"mysql;3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5;3e11fa47:6;1/2/3",
        b"file;binlog.000001:4@17",
    ],
    "filters": [
        b"limit=1&cursor=0.abc&status=failed&after=2026-01-01T00:00:00Z",
        b"\1" + b"9" * 5000,
    ],
}
