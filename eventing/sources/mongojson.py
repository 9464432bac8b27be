"""BSON values as the plain JSON of the contract's section 2, numbers exact.

What JSON has no plain form for (timestamps, regular expressions, code, …) is written as MongoDB's
relaxed Extended JSON (https://github.com/mongodb/specifications, extended-json.md).
"""

import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.json_util import RELAXED_JSON_OPTIONS, dumps

# Dates come without a zone, in UTC; those beyond Python's range stay numbers. Text that is no UTF-8
# does not end the stream.
CODEC_OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
# orjson would write dates its own way, and code, which is a kind of text to Python, as text.
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_MILLISECOND: Final = timedelta(milliseconds=1)


def json_text(document: Mapping[str, Any]) -> str:
    """A document as JSON text."""
    text = _text(document)
    # What orjson also writes for numbers that JSON has not; looking through it all takes longer.
    if "null" not in text or _is_finite(document):
        return text
    return _text(_in_words(document))


def id_text(value: object) -> str:
    """An `_id` as the contract's `docId`: text as it is, everything else as its JSON."""
    convert = _CONVERTERS.get(type(value))
    plain = value if convert is None else convert(value)
    return plain if isinstance(plain, str) else _text(_in_words(plain))


def milliseconds(date: datetime | DatetimeMS) -> int:
    """A date as it is stored: milliseconds since the Unix epoch."""
    return (date - _EPOCH) // _MILLISECOND if isinstance(date, datetime) else int(date)


def _text(value: object) -> str:
    return orjson.dumps(value, _converted, _OPTIONS).decode()


def _converted(value: Any) -> Any:
    """What is written in place of a value that is none of JSON's."""
    return _CONVERTERS[type(value)](value)


def _is_finite(value: Any) -> bool:
    """Whether no number in a value is NaN or infinite."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return all(map(_is_finite, value.values()))
    return kind is not list or all(map(_is_finite, value))


def _in_words(value: Any) -> Any:
    """A value whose numbers that JSON has not are the words Postgres has for them, too."""
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict):
        return {key: _in_words(item) for key, item in value.items()}
    return [_in_words(item) for item in value] if isinstance(value, list) else value


def _float(value: float) -> Any:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(value: Decimal128) -> Any:
    text = str(value)
    if text.lstrip("-")[0].isdigit():
        return orjson.Fragment(text)
    return "NaN" if "NaN" in text else text


def _date(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds") + "Z"


def _far_date(value: DatetimeMS) -> Any:
    return {"$date": {"$numberLong": str(int(value))}}


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _extended(value: object) -> orjson.Fragment:
    return orjson.Fragment(dumps(value, json_options=RELAXED_JSON_OPTIONS))


_CONVERTERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    Int64: int,
    float: _float,
    ObjectId: str,
    datetime: _date,
    DatetimeMS: _far_date,
    Decimal128: _decimal,
    bytes: _base64,
    Binary: _base64,
    Timestamp: _extended,
    Regex: _extended,
    Code: _extended,
    DBRef: _extended,
    MinKey: _extended,
    MaxKey: _extended,
}
