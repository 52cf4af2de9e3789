"""Scalars of MySQL's JSON as the server prints them: doubles, and values of SQL types.

A JSON document that SQL functions made can contain values which JSON has not: decimals, dates,
times and binary strings. They stand in it as `opaque` values, with their field type, and are
printed as numbers, in quotation marks, or in base64 (json_dom.cc, Json_wrapper::to_string).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.errors import BadData
from cdc.ragged import Bytes, Int64s

_FIXED_DIGITS = 15
"""my_gcvt writes no exponent while the point is at most so far from the first digit (DBL_DIG), nor
where digits stand behind a point that is farther."""
_TIMESTAMP, _DATE, _TIME, _DATETIME, _NEWDECIMAL = 7, 10, 11, 12, 246
_LINE = 76
"""Letters of base64 before a line break, which is an escape in the string (base64_encode)."""
_GROUP_DIGITS = 9
_GROUP_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""Bytes of 0 .. 9 decimal digits (strings/decimal.cc, dig2bytes)."""


def doubles(values: npt.NDArray[np.generic]) -> pa.Array:
    """Doubles as my_gcvt prints them: the shortest digits that read back as the same number, always
    with a point or an exponent. One Python call for each distinct value."""
    distinct, places = np.unique(values.view(np.int64), return_inverse=True)
    texts = [_double(value) for value in distinct.view(np.float64).tolist()]
    return pa.array(texts, pa.string()).take(pa.array(places))


def _double(value: float) -> str:
    sign, (mantissa, _, exponent) = (
        "-" if _is_negative(value) else "",
        f"{abs(value)!r}".partition("e"),
    )
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if not digits:
        return f"{sign}0.0"
    if -_FIXED_DIGITS < point <= max(_FIXED_DIGITS, len(digits) - 1):
        if point <= 0:
            return f"{sign}0.{'0' * -point}{digits}"
        padded = digits.ljust(point, "0")
        return f"{sign}{padded[:point]}.{padded[point:] or '0'}"
    behind = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{behind}e{point - 1}"


def _is_negative(value: float) -> bool:
    return bool(np.signbit(value))


def opaque(buffer: Bytes, kinds: Bytes, start: Int64s, length: Int64s) -> pa.Array:
    """Values of SQL types, by their field type. They are rare and small: one by one."""
    view = memoryview(buffer)  # type: ignore[arg-type]
    places = zip(kinds.tolist(), start.tolist(), length.tolist(), strict=True)
    return pa.array([_spelled(k, view[at : at + n].tobytes()) for k, at, n in places], pa.string())


def _spelled(kind: int, data: bytes) -> str:
    spell = _SPELL.get(kind)
    if spell is None:
        letters = base64.b64encode(data).decode()
        lines = (letters[at : at + _LINE] for at in range(0, len(letters), _LINE))
        broken = r"\n".join(lines)
        return f'"base64:type{kind}:{broken}"'
    if len(data) < 2 or (kind != _NEWDECIMAL and len(data) != 8):
        raise BadData(f"a malformed value of field type {kind} in JSON: {data.hex()}")
    return spell(data)


def _date(data: bytes) -> str:
    year, month, day = _civil(int.from_bytes(data, "little", signed=True))
    return f'"{year:04}-{month:02}-{day:02}"'


def _datetime(data: bytes) -> str:
    packed = int.from_bytes(data, "little", signed=True)
    year, month, day = _civil(packed)
    clock = (packed >> 24) & 0x1FFFF
    shown = f"{clock >> 12:02}:{(clock >> 6) & 63:02}:{clock & 63:02}.{packed & 0xFFFFFF:06}"
    return f'"{year:04}-{month:02}-{day:02} {shown}"'


def _civil(packed: int) -> tuple[int, int, int]:
    """my_time.cc, TIME_from_longlong_datetime_packed: 17 bits of clock, 5 of day, the months."""
    days = packed >> 41
    months = days >> 5
    return months // 13, months % 13, days & 31


def _time(data: bytes) -> str:
    packed = int.from_bytes(data, "little", signed=True)
    sign, packed = ("-", -packed) if packed < 0 else ("", packed)
    clock = packed >> 24
    hour, minute, second = (clock >> 12) & 0x3FF, (clock >> 6) & 63, clock & 63
    return f'"{sign}{hour:02}:{minute:02}:{second:02}.{packed & 0xFFFFFF:06}"'


def _decimal(data: bytes) -> str:
    """Precision, scale, then decimal2bin's form: groups of nine digits, big endian; the first bit
    is turned, and in negative numbers all bits are."""
    precision, scale = data[0], data[1]
    body = bytearray(data[2:])
    whole = precision - scale
    widths = [whole % _GROUP_DIGITS, *[_GROUP_DIGITS] * (whole // _GROUP_DIGITS)]
    behind = [*[_GROUP_DIGITS] * (scale // _GROUP_DIGITS), scale % _GROUP_DIGITS]
    if scale > precision or len(body) != sum(_GROUP_BYTES[n] for n in (*widths, *behind)):
        raise BadData(f"a malformed decimal in JSON: {data.hex()}")
    negative = not body[0] & 0x80
    body[0] ^= 0x80
    if negative:
        body = bytearray(byte ^ 0xFF for byte in body)
    at, digits = 0, ""
    for count in (*widths, *behind):
        stop = at + _GROUP_BYTES[count]
        digits += f"{int.from_bytes(body[at:stop], 'big'):0{count}}" if count else ""
        at = stop
    shown = digits[:whole].lstrip("0") or "0"
    return f"{'-' * negative}{shown}{'.' + digits[whole:] if scale else ''}"


_SPELL: Final[dict[int, Callable[[bytes], str]]] = {
    _DATE: _date,
    _TIMESTAMP: _datetime,
    _DATETIME: _datetime,
    _TIME: _time,
    _NEWDECIMAL: _decimal,
}
