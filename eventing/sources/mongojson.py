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
from bson import Binary, Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.json_util import RELAXED_JSON_OPTIONS, dumps

# Dates beyond Python's range stay numbers, and text that is no UTF-8 does not end the stream.
CODEC_OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, unicode_decode_error_handler="replace"
)
# In UTC; without a zone, which isoformat() would write as `+00:00`.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_FIRST_MS: Final = -62_135_596_800_000
_LAST_MS: Final = 253_402_300_799_999


def json_text(document: Mapping[str, Any]) -> str:
    """A document as JSON text."""
    return orjson.dumps(_plain(document), option=orjson.OPT_NON_STR_KEYS).decode()


def id_text(value: object) -> str:
    """An `_id` as the contract's `docId`: text as it is, everything else as its JSON."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else orjson.dumps(plain).decode()


def _plain(value: Any) -> Any:
    convert = _CONVERTERS.get(type(value))
    if convert is not None:
        return convert(value)
    # A subclass of str, int, dict or list; or None, bool, int, str themselves.
    return value


def _object(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(item) for key, item in value.items()}


def _array(value: list[Any]) -> list[Any]:
    return [_plain(item) for item in value]


def _float(value: float) -> Any:
    """Numbers as they are; JSON has no others, so those are the words Postgres uses too."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(value: Decimal128) -> Any:
    text = str(value)
    if text.lstrip("-")[0].isdigit():
        return orjson.Fragment(text)
    return "NaN" if "NaN" in text else text


def _date(value: DatetimeMS) -> Any:
    milliseconds = int(value)
    if not _FIRST_MS <= milliseconds <= _LAST_MS:
        return {"$date": {"$numberLong": str(milliseconds)}}
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _extended(value: object) -> orjson.Fragment:
    return orjson.Fragment(dumps(value, json_options=RELAXED_JSON_OPTIONS))


_CONVERTERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    dict: _object,
    list: _array,
    float: _float,
    ObjectId: str,
    DatetimeMS: _date,
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
