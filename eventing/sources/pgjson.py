"""Postgres values from their text form to the JSON that `to_jsonb` makes of them.

A converter is compiled once per type and once per row shape; per value there is only a call. The
text must come from a session with DateStyle ISO, IntervalStyle postgres, TimeZone UTC and
bytea_output hex. The rules are those of `json_categorize_type` and `JsonEncodeDateTime`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Final

from eventing.sources.pgoutput import UNCHANGED, Text

Converter = Callable[[str], str]

# Any object made by a user has an OID from here on; below are the types every server has.
FIRST_USER_OID: Final = 16384


class RowShapeChanged(ValueError):
    """A composite value has another number of fields than its type is known to have."""


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """What the catalogue says about a type. At most one of the four kinds applies.

    `element` is the element type of a true array, `delimiter` what stands between its elements;
    `base` is a domain's base type; `attributes` are a composite's names and types.
    """

    oid: int
    element: int = 0
    delimiter: str = ","
    base: int = 0
    attributes: tuple[tuple[str, int], ...] | None = None
    is_hstore: bool = False


def text_json(text: str) -> str:
    """A JSON string."""
    return encode_basestring(text)


def same(text: str) -> str:
    """Text that is JSON already: integers, json, jsonb."""
    return text


def numeric_json(text: str) -> str:
    """A number with all its digits; NaN and the infinities are strings."""
    return text if text[-1] <= "9" else f'"{text}"'


def float_json(text: str) -> str:
    """A number written out as `numeric` would, so without an exponent."""
    if text[-1] > "9":
        return f'"{text}"'
    if "e" in text:
        return format(Decimal(text), "f")
    return text if text != "-0" else "0"


def timestamp_json(text: str) -> str:
    """ISO 8601 with a `T`; a year before Christ keeps its ` BC`."""
    return f'"{text.replace(" ", "T", 1)}"'


def timestamptz_json(text: str) -> str:
    """ISO 8601 in UTC, written `+00:00`."""
    if text.endswith("+00"):
        return f'"{text.replace(" ", "T", 1)}:00"'
    return f'"{text.replace(" ", "T", 1).replace("+00 BC", "+00:00 BC")}"'


def plain_json(text: str) -> str:
    """A string of a type whose text never needs an escape: dates, uuids."""
    return f'"{text}"'


def hstore_json(text: str) -> str:
    """An hstore as an object of strings: what its cast to json gives."""
    pairs = (
        f"{text_json(_unescaped(match[1]))}:"
        f"{'null' if match[2] is None else text_json(_unescaped(match[2]))}"
        for match in _HSTORE_PAIR.finditer(text)
    )
    return "{" + ",".join(pairs) + "}"


def _vector_json(element: Converter) -> Converter:
    """int2vector and oidvector: arrays that are written as words."""
    return lambda text: "[" + ",".join(map(element, text.split())) + "]"


_SCALARS: Final[Mapping[int, Converter]] = {
    16: {"t": "true", "f": "false"}.__getitem__,  # bool
    20: same,  # int8
    21: same,  # int2
    22: _vector_json(same),  # int2vector
    23: same,  # int4
    30: _vector_json(text_json),  # oidvector
    114: same,  # json
    700: float_json,  # float4
    701: float_json,  # float8
    1082: plain_json,  # date
    1114: timestamp_json,
    1184: timestamptz_json,
    1700: numeric_json,
    2950: plain_json,  # uuid
    3802: same,  # jsonb
}

_QUOTED: Final = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_HSTORE_PAIR: Final = re.compile(rf"{_QUOTED}=>(?:NULL|{_QUOTED})", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_FIELD: Final = re.compile(r'"([^"\\]*(?:(?:""|\\.)[^"\\]*)*)"|([^,()"\\]*)', re.DOTALL)
_FIELD_ESCAPE: Final = re.compile(r'""|\\(.)', re.DOTALL)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


class Row:
    """The converter of one row shape."""

    def __init__(self, names: Sequence[str], converters: Sequence[Converter]) -> None:
        self._names = [text_json(name) for name in names]
        self._converters = list(converters)
        keys = (name.replace("%", "%%") + ":%s" for name in self._names)
        self._template = "{" + ",".join(keys) + "}"

    def json(self, texts: Sequence[str | None]) -> str:
        """The JSON object of a whole row. Raises ValueError if the row has another shape."""
        return self._template % tuple(
            [
                "null" if text is None else convert(text)
                for convert, text in zip(self._converters, texts, strict=True)
            ]
        )

    def json_of(
        self, texts: Sequence[Text], indexes: Iterable[int], extra: Mapping[int, str] | None = None
    ) -> str:
        """The JSON object of some columns; `extra` has JSON text for columns that are elsewhere.

        Columns that are in neither are left out.
        """
        if len(texts) != len(self._converters):
            raise ValueError("the row has another number of columns than its relation")
        members = []
        for index in indexes:
            text = texts[index]
            if text is UNCHANGED:
                value = None if extra is None else extra.get(index)
                if value is None:
                    continue
            else:
                value = "null" if text is None else self._converters[index](text)
            members.append(f"{self._names[index]}:{value}")
        return "{" + ",".join(members) + "}"


class Types:
    """The types of one database: what is known of them, and their converters."""

    def __init__(self) -> None:
        self._facts: dict[int, TypeFacts] = {}
        self._converters: dict[int, Converter] = dict(_SCALARS)

    def learn(self, facts: Iterable[TypeFacts]) -> None:
        """Take in facts, also newer ones about known types."""
        self._facts.update((fact.oid, fact) for fact in facts)
        self._converters = dict(_SCALARS)

    def forget(self) -> None:
        """Forget every fact: types have changed."""
        self._facts.clear()
        self._converters = dict(_SCALARS)

    def unknown(self, oids: Iterable[int]) -> set[int]:
        """Those of `oids`, and of the types they are made of, that the catalogue must explain."""
        missing: set[int] = set()
        seen: set[int] = set()
        waiting = list(oids)
        while waiting:
            oid = waiting.pop()
            if oid in seen or oid in _SCALARS:
                continue
            seen.add(oid)
            fact = self._facts.get(oid)
            if fact is None:
                missing.add(oid)
                continue
            waiting += [part for part in (fact.element, fact.base) if part]
            waiting += [part for _, part in fact.attributes or ()]
        return missing

    def row(self, columns: Sequence[tuple[str, int]]) -> Row:
        """The converter of rows with these columns (names and types)."""
        names = [name for name, _ in columns]
        return Row(names, [self.converter(oid) for _, oid in columns])

    def converter(self, oid: int) -> Converter:
        """The converter of a type; an unknown one is shown as its text."""
        found = self._converters.get(oid)
        if found is None:
            found = self._converters[oid] = self._compiled(oid)
        return found

    def _compiled(self, oid: int) -> Converter:
        fact = self._facts.get(oid)
        if fact is None:
            return text_json
        if fact.base:
            return self.converter(fact.base)
        if fact.element:
            delimiter = self._facts[fact.element].delimiter if fact.element in self._facts else ","
            return _array_converter(self.converter(fact.element), delimiter)
        if fact.attributes is not None:
            return self._composite_converter(fact.attributes)
        return hstore_json if fact.is_hstore else text_json

    def _composite_converter(self, attributes: tuple[tuple[str, int], ...]) -> Converter:
        inner = self.row(attributes)

        def convert(text: str) -> str:
            fields = _fields(text) if attributes or text != "()" else []
            if len(fields) != len(attributes):
                raise RowShapeChanged("a composite value does not fit its type")
            return inner.json(fields)

        return convert


def _array_converter(element: Converter, delimiter: str) -> Converter:
    """Arrays of any dimensions; bounds other than 1 are dropped, as `to_jsonb` does."""
    token = re.compile(rf"[{{}}]|{_QUOTED}|[^{{}}\"\\{re.escape(delimiter)}]+", re.DOTALL)

    def convert(text: str) -> str:
        start = text.index("=") + 1 if text[0] == "[" else 0
        parts: list[str] = []
        follows = False
        for match in token.finditer(text, start):
            word = match[0]
            if word == "}":
                parts.append("]")
                follows = True
                continue
            if follows:
                parts.append(",")
            follows = word != "{"
            if word == "{":
                parts.append("[")
            elif match[1] is not None:
                parts.append(element(_unescaped(match[1])))
            else:
                parts.append("null" if word == "NULL" else element(word))
        return "".join(parts)

    return convert


def _fields(text: str) -> list[str | None]:
    """The fields of a composite value's text; an empty unquoted one is null."""
    fields: list[str | None] = []
    at = 1
    while True:
        match = _FIELD.match(text, at)
        if match is None:
            raise ValueError("a composite value cannot be read")
        quoted = match[1]
        if quoted is not None:
            fields.append(_FIELD_ESCAPE.sub(lambda found: found[1] or '"', quoted))
        else:
            fields.append(match[2] or None)
        at = match.end() + 1
        if at >= len(text):
            return fields
