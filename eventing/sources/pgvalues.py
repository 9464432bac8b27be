"""Postgres values, as text, made into JSON text that equals `to_jsonb` of them.

One converter is compiled per column when a relation becomes known; numbers are copied digit by
digit and never become floats. Follows json_categorize_type and datum_to_jsonb (jsonb.c, json.c).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as quoted
from typing import Final, Literal

Converter = Callable[[str], str]

_BOOL: Final = 16
_NUMBERS: Final = frozenset({20, 21, 23, 700, 701, 1700})
_INTEGERS: Final = frozenset({20, 21, 23})
_JSON: Final = frozenset({114, 3802})
_TIMESTAMP: Final = 1114
_TIMESTAMPTZ: Final = 1184
_VECTORS: Final = frozenset({22, 30})


class StaleType(Exception):
    """A value does not fit what the catalogue said of its type: the type was altered since."""


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """What pg_type says of a type. `attributes` are those of a composite: (name, type)."""

    id: int
    name: str
    kind: Literal["scalar", "array", "composite", "domain"]
    element: int = 0
    delimiter: str = ","
    base: int = 0
    attributes: tuple[tuple[str, int], ...] = ()


def converter(type_id: int, facts_of: Callable[[int], TypeFacts | None]) -> Converter:
    """The function that turns values of a type into JSON; `facts_of` reads the catalogue.

    A type the catalogue does not know any more is shown as its text.
    """
    if type_id == _BOOL:
        return _boolean
    if type_id in _NUMBERS:
        return str if type_id in _INTEGERS else _number
    if type_id in _JSON:
        return str
    if type_id == _TIMESTAMP:
        return _timestamp
    if type_id == _TIMESTAMPTZ:
        return _timestamptz
    if type_id in _VECTORS:
        return _vector if type_id == 22 else _vector_of_text
    facts = facts_of(type_id)
    if facts is None:
        return quoted
    if facts.kind == "domain":
        return converter(facts.base, facts_of)
    if facts.kind == "array":
        return _array_converter(converter(facts.element, facts_of), facts.delimiter)
    if facts.kind == "composite":
        return _composite_converter(
            [(name, converter(attribute, facts_of)) for name, attribute in facts.attributes]
        )
    return _hstore if facts.name == "hstore" else quoted


def _boolean(text: str) -> str:
    return "true" if text == "t" else "false"


def _number(text: str) -> str:
    """JSON has no NaN and no infinity: to_jsonb shows them as strings."""
    return text if text[-1].isdigit() else f'"{text}"'


def _timestamp(text: str) -> str:
    return f'"{text.replace(" ", "T", 1)}"' if text[0].isdigit() else f'"{text}"'


def _timestamptz(text: str) -> str:
    """From `2019-10-19 12:40:50+00` (TimeZone is UTC) to `2019-10-19T12:40:50+00:00`."""
    if not text[0].isdigit():
        return f'"{text}"'
    return f'"{text.replace(" ", "T", 1).replace("+00", "+00:00", 1)}"'


def _vector(text: str) -> str:
    return f"[{', '.join(text.split())}]"


def _vector_of_text(text: str) -> str:
    return f"[{', '.join(quoted(item) for item in text.split())}]"


def _array_converter(element: Converter, delimiter: str) -> Converter:
    """Array literals (manual, "Array Input and Output Syntax"), bounds and nesting included."""

    def convert(text: str) -> str:
        place = text.index("=") + 1 if text[0] == "[" else 0
        array, _ = _array(text, place, element, delimiter)
        return array

    return convert


def _array(text: str, place: int, element: Converter, delimiter: str) -> tuple[str, int]:
    """The array that begins with the brace at `place`, as JSON, and the place after it."""
    items: list[str] = []
    place += 1
    while text[place] != "}":
        if text[place] == "{":
            item, place = _array(text, place, element, delimiter)
            items.append(item)
        elif text[place] == '"':
            value, place = _quoted_item(text, place)
            items.append(element(value))
        else:
            value, place = _bare_item(text, place, delimiter + "}")
            items.append("null" if value.upper() == "NULL" else element(value))
        if text[place] == delimiter:
            place += 1
    return f"[{','.join(items)}]", place + 1


def _quoted_item(text: str, place: int) -> tuple[str, int]:
    """What stands between the double quote at `place` and its end; `""` and `\\x` stand for one."""
    parts = []
    start = place = place + 1
    while True:
        character = text[place]
        if character == "\\":
            parts.append(text[start:place])
            start = place + 1
            place += 2
        elif character == '"':
            parts.append(text[start:place])
            if text[place + 1 : place + 2] != '"':
                return "".join(parts), place + 1
            start = place + 1
            place += 2
        else:
            place += 1


def _bare_item(text: str, place: int, ends: str) -> tuple[str, int]:
    start = place
    while text[place] not in ends:
        place += 1
    return text[start:place], place


def _composite_converter(attributes: Sequence[tuple[str, Converter]]) -> Converter:
    """Row literals (manual, "Composite Type Input and Output Syntax") as objects."""
    heads = [f"{quoted(name)}:" for name, _ in attributes]
    converters = [convert for _, convert in attributes]

    def convert(text: str) -> str:
        values = _fields(text)
        if len(values) != len(heads):
            raise StaleType
        pairs = zip(heads, converters, values, strict=True)
        return "{%s}" % ",".join(
            head + ("null" if value is None else each(value)) for head, each, value in pairs
        )

    return convert


def _fields(text: str) -> list[str | None]:
    """The fields of a row literal; an empty one is NULL."""
    if text == "()":
        return []
    values: list[str | None] = []
    place = 1
    while True:
        if text[place] in ",)":
            values.append(None)
        elif text[place] == '"':
            value, place = _quoted_item(text, place)
            values.append(value)
        else:
            value, place = _bare_item(text, place, ",)")
            values.append(value)
        if text[place] == ")":
            return values
        place += 1


def _hstore(text: str) -> str:
    """hstore has a cast to json, which to_jsonb uses: its values become strings."""
    pairs = []
    place = 0
    while place < len(text):
        key, place = _quoted_item(text, place)
        place += 2
        if text[place] == '"':
            value, place = _quoted_item(text, place)
            pairs.append(f"{quoted(key)}:{quoted(value)}")
        else:
            place += 4
            pairs.append(f"{quoted(key)}:null")
        place += 2
    return "{%s}" % ",".join(pairs)
