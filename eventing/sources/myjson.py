"""MySQL's binary JSON as JSON text, with every digit of its numbers; MariaDB's JSON is text.

Format: MySQL's sql-common/json_binary.h.
"""

import base64
import struct
from collections.abc import Callable
from typing import Final

import orjson

# Reads a value: the bytes and where it begins; gives JSON text and where the next one begins.
Reader = Callable[[bytes, int], tuple[str, int]]

_LITERALS: Final = {0: "null", 1: "true", 2: "false"}
_INTEGERS: Final = {5: (2, True), 6: (2, False), 7: (4, True), 8: (4, False)}
_LONG_INTEGERS: Final = {9: True, 10: False}
_DECIMAL: Final = 246
_DEEPEST: Final = 101
_DATE, _TIME, _DATETIME, _TIMESTAMP = 10, 11, 12, 7


def json_of_binary(value: bytes) -> str:
    """The JSON text of a column's binary value. Raises ValueError, LookupError."""
    if not value:
        return "null"
    return _value(value[0], value, 1, _Room(len(value)))


class _Room:
    """How much of a value can still come: each part of it takes a byte at least, and MySQL nests
    100 deep at most. Offsets that lead in a circle run out of it."""

    def __init__(self, size: int) -> None:
        self.parts = size
        self.depth = _DEEPEST


def _value(kind: int, body: bytes, at: int, room: _Room) -> str:
    if kind <= 3:
        return _container(body, at, room, large=bool(kind & 1), is_object=kind < 2)
    if kind == 4:
        return _LITERALS[body[at]]
    if kind in _INTEGERS:
        size, signed = _INTEGERS[kind]
        return str(int.from_bytes(body[at : at + size], "little", signed=signed))
    if kind in _LONG_INTEGERS:
        signed = _LONG_INTEGERS[kind]
        return str(int.from_bytes(body[at : at + 8], "little", signed=signed))
    if kind == 11:
        return repr(struct.unpack_from("<d", body, at)[0])
    if kind == 12:
        size, at = _length(body, at)
        return orjson.dumps(body[at : at + size].decode()).decode()
    if kind == 15:
        size, start = _length(body, at + 1)
        return _opaque(body[at], body[start : start + size])
    raise ValueError("a kind of JSON value that this version does not know")


def _container(body: bytes, start: int, room: _Room, *, large: bool, is_object: bool) -> str:
    width = 4 if large else 2

    def number(at: int, size: int = width) -> int:
        return int.from_bytes(body[at : at + size], "little")

    count = number(start)
    room.parts -= count
    if not room.depth or room.parts < 0:
        raise ValueError("a JSON value that contains itself")
    room.depth -= 1
    keys_at = start + 2 * width
    values_at = keys_at + (count * (width + 2) if is_object else 0)
    parts = []
    for n in range(count):
        entry = values_at + n * (1 + width)
        kind = body[entry]
        inline = kind in (4, 5, 6) or (large and kind in (7, 8))
        text = _value(kind, body, entry + 1 if inline else start + number(entry + 1), room)
        if is_object:
            key = keys_at + n * (width + 2)
            begin = start + number(key)
            name = body[begin : begin + number(key + width, 2)].decode()
            text = f"{orjson.dumps(name).decode()}:{text}"
        parts.append(text)
    room.depth += 1
    return "{" + ",".join(parts) + "}" if is_object else "[" + ",".join(parts) + "]"


def _length(body: bytes, at: int) -> tuple[int, int]:
    """A length of seven bits a byte, and where what follows begins."""
    size = shift = 0
    while True:
        byte = body[at]
        size |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return size, at


def _opaque(kind: int, value: bytes) -> str:
    """A value of SQL's in JSON, as JSON_EXTRACT shows it."""
    if kind == _DECIMAL:
        return decimal_reader(value[0], value[1])(value, 2)[0]
    if kind in (_DATE, _DATETIME, _TIMESTAMP, _TIME):
        packed = int.from_bytes(value[:8], "little", signed=True)
        return _temporal(kind, packed)
    return f'"{base64.b64encode(value).decode()}"'


def _temporal(kind: int, packed: int) -> str:
    sign, packed = ("-" if packed < 0 else ""), abs(packed)
    whole, fraction = packed >> 24, packed & 0xFFFFFF
    clock = f"{whole >> 6 & 63:02d}:{whole & 63:02d}.{fraction:06d}"
    if kind == _TIME:
        return f'"{sign}{whole >> 12 & 1023:02d}:{clock}"'
    year, month = divmod(whole >> 22, 13)
    date = f"{year:04d}-{month:02d}-{whole >> 17 & 31:02d}"
    if kind == _DATE:
        return f'"{date}"'
    return f'"{date}T{whole >> 12 & 31:02d}:{clock}"'


def decimal_reader(precision: int, scale: int) -> Reader:
    """DECIMAL as strings/decimal.cc packs it: groups of nine digits, the sign in the first bit."""
    spare = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
    whole, part = precision - scale, scale
    groups: list[tuple[int, int]] = []
    if whole % 9:
        groups.append((spare[whole % 9], whole % 9))
    groups += [(4, 9)] * (whole // 9) + [(4, 9)] * (part // 9)
    if part % 9:
        groups.append((spare[part % 9], part % 9))
    size = sum(size for size, _ in groups)
    flipped = (1 << 8 * size) - 1
    top = 1 << (8 * size - 1)

    def read(body: bytes, at: int) -> tuple[str, int]:
        packed = int.from_bytes(body[at : at + size], "big") ^ top
        negative = bool(packed & top)
        if negative:
            packed ^= flipped
        raw = packed.to_bytes(size, "big")
        digits, place = "", 0
        for width, count in groups:
            digits += f"{int.from_bytes(raw[place : place + width], 'big'):0{count}d}"
            place += width
        text = digits[:whole].lstrip("0") or "0"
        if scale:
            text = f"{text}.{digits[whole:]}"
        return ("-" + text if negative else text), at + size

    return read
