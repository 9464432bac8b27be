"""Converters from Postgres's text to JSON. That they agree with `to_jsonb` on every type is held by
`tests/integration/test_postgres_source.py` against real servers; here are the forms themselves."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventing.sources.pgjson import RowShapeChanged, TypeFacts, Types
from eventing.sources.pgoutput import UNCHANGED

BOOL, INT4, TEXT, FLOAT8, NUMERIC, JSON = 16, 23, 25, 701, 1700, 114
DATE, TIMESTAMP, TIMESTAMPTZ = 1082, 1114, 1184
INT4_ARRAY, TEXT_ARRAY, BOX, BOX_ARRAY = 1007, 1009, 603, 1020
POINT, POINT_ARRAY, POSITIVE, STORE = 20001, 20002, 20003, 20004


@pytest.fixture
def types() -> Types:
    known = Types()
    known.learn(
        [
            TypeFacts(TEXT),
            TypeFacts(INT4_ARRAY, element=INT4),
            TypeFacts(TEXT_ARRAY, element=TEXT),
            TypeFacts(BOX, delimiter=";"),
            TypeFacts(BOX_ARRAY, element=BOX),
            TypeFacts(POINT, attributes=(("x", NUMERIC), ("label", TEXT), ("tags", TEXT_ARRAY))),
            TypeFacts(POINT_ARRAY, element=POINT),
            TypeFacts(POSITIVE, base=INT4),
            TypeFacts(STORE, is_hstore=True),
        ]
    )
    return known


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (BOOL, "t", "true"),
        (INT4, "-7", "-7"),
        (NUMERIC, "1.00", "1.00"),
        (NUMERIC, "123456789012345678901234567890.123", "123456789012345678901234567890.123"),
        (NUMERIC, "NaN", '"NaN"'),
        (NUMERIC, "-Infinity", '"-Infinity"'),
        (FLOAT8, "1e+20", "100000000000000000000"),
        (FLOAT8, "1.5e-07", "0.00000015"),
        (FLOAT8, "-0", "0"),
        (FLOAT8, "NaN", '"NaN"'),
        (DATE, "infinity", '"infinity"'),
        (TIMESTAMP, "2019-10-19 12:40:50.053", '"2019-10-19T12:40:50.053"'),
        (TIMESTAMP, "0044-03-15 00:00:00 BC", '"0044-03-15T00:00:00 BC"'),
        (TIMESTAMPTZ, "2019-10-19 12:40:50.053+00", '"2019-10-19T12:40:50.053+00:00"'),
        (TIMESTAMPTZ, "0044-03-15 00:00:00+00 BC", '"0044-03-15T00:00:00+00:00 BC"'),
        (TIMESTAMPTZ, "-infinity", '"-infinity"'),
        (JSON, '{"a": 1.10}', '{"a": 1.10}'),
        (TEXT, 'a"\\\n\x01é', '"a\\"\\\\\\n\\u0001é"'),
        (22, "1 2 3", "[1,2,3]"),
        (POSITIVE, "5", "5"),
        (99999, "whatever", '"whatever"'),
    ],
)
def test_a_value_becomes_what_to_jsonb_makes_of_it(
    types: Types, oid: int, text: str, expected: str
) -> None:
    assert types.converter(oid)(text) == expected


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (INT4_ARRAY, "{}", []),
        (INT4_ARRAY, "{1,NULL,3}", [1, None, 3]),
        (INT4_ARRAY, "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (INT4_ARRAY, "[0:1]={7,8}", [7, 8]),
        (
            TEXT_ARRAY,
            r'{"NULL",NULL,"","a,b","q\"\\","{}"}',
            ["NULL", None, "", "a,b", 'q"\\', "{}"],
        ),
        (BOX_ARRAY, "{(1,1),(0,0);(2,2),(1,1)}", ["(1,1),(0,0)", "(2,2),(1,1)"]),
        (POINT, "(1,,)", {"x": 1, "label": None, "tags": None}),
        (POINT, r'(1,"a ""q"" \\ ,",{})', {"x": 1, "label": 'a "q" \\ ,', "tags": []}),
        (POINT, '(,"",)', {"x": None, "label": "", "tags": None}),
        (
            POINT_ARRAY,
            r'{"(1,\"a b\",\"{\"\"x y\"\",z}\")",NULL}',
            [{"x": 1, "label": "a b", "tags": ["x y", "z"]}, None],
        ),
        (STORE, r'"a"=>"1", "b\"=>"=>NULL', {"a": "1", 'b"=>': None}),
        (STORE, "", {}),
    ],
)
def test_nested_values_are_read_whole(types: Types, oid: int, text: str, expected: object) -> None:
    assert json.loads(types.converter(oid)(text)) == expected


def test_a_composite_value_of_another_length_is_told_from_a_malformed_one(types: Types) -> None:
    with pytest.raises(RowShapeChanged):
        types.converter(POINT)("(1,2)")


def test_a_row_is_an_object_and_leaves_out_what_was_not_sent(types: Types) -> None:
    row = types.row([("id", INT4), ('100 % "sure"', TEXT), ("n", NUMERIC)])
    whole = row.json(["7", None, "1.10"])
    assert whole == '{"id":7,"100 % \\"sure\\"":null,"n":1.10}'
    assert row.json_of(["7", UNCHANGED, "1.10"], range(3)) == '{"id":7,"n":1.10}'
    assert row.json_of(["7", UNCHANGED, "1"], range(2), {1: '"x"'}) == (
        '{"id":7,"100 % \\"sure\\"":"x"}'
    )


def test_a_row_of_another_width_is_refused(types: Types) -> None:
    with pytest.raises(ValueError, match="zip"):
        types.row([("id", INT4)]).json(["1", "2"])


def test_a_type_is_unknown_until_everything_it_is_made_of_is_known() -> None:
    types = Types()
    assert types.unknown([INT4, POINT_ARRAY]) == {POINT_ARRAY}
    types.learn([TypeFacts(POINT_ARRAY, element=POINT)])
    assert types.unknown([POINT_ARRAY]) == {POINT}
    types.learn([TypeFacts(POINT, attributes=(("x", NUMERIC),))])
    assert types.unknown([POINT_ARRAY]) == set()


@given(st.text())
def test_any_text_survives(value: str) -> None:
    assert json.loads(Types().converter(TEXT)(value)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12))
def test_any_number_keeps_its_digits(value: Decimal) -> None:
    text = format(value, "f")
    assert json.loads(Types().converter(NUMERIC)(text), parse_float=Decimal) == value
    assert Types().converter(NUMERIC)(text) == text
