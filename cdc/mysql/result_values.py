"""Values of result rows in the binary protocol → one Arrow array per column.

Source: MySQL's client/server protocol, "Binary Protocol Value". Little endian; of every type the
same value as of a row image (values.py), from another form:

    integers    1, 2, 4, 4, 8 bytes (MEDIUMINT has 4); YEAR 2
    floats      4 or 8 bytes
    dates       a length, then year (2 bytes), month, day; hour, minute, second; microseconds (4):
                what is 0 at the end is left out, so the zero date has length 0
    TIME        a length, then negative, days (4), hour, minute, second; microseconds (4)
    all others  a length-encoded string: decimals, ENUM and SET as text; BIT big endian
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.errors import BadData
from cdc.mysql import values, values_text, values_time
from cdc.mysql.tables import MyType
from cdc.mysql.types import (
    BLOBS,
    DATES,
    DATETIMES,
    INTEGER_BYTES,
    STRINGS,
    TIMES,
    TIMESTAMPS,
    FieldType,
    ZeroDates,
    arrow_type,
    bits,
    is_binary,
)
from cdc.mysql.values_text import ValueDecoder
from cdc.ragged import Int64s, Slices
from cdc.schema import NUMERIC_TEXT

SHORT_LENGTH, PACKED_LENGTH = -1, -2
"""What stands for a value's size where it varies: a length of one byte, a length-encoded one."""

_WIRE_BYTES: Mapping[int, int] = {
    **INTEGER_BYTES,
    FieldType.INT24: 4,
    FieldType.YEAR: 2,
    FieldType.FLOAT: 4,
    FieldType.DOUBLE: 8,
}
_TIMES = DATES | DATETIMES | TIMESTAMPS | TIMES


@dataclass(frozen=True)
class ResultColumn:
    """How one column of a result is read. `place` names it in errors. `size`: its bytes, or
    SHORT_LENGTH or PACKED_LENGTH."""

    place: str
    size: int
    read: ValueDecoder

    def decode(self, slices: Slices) -> pa.Array:
        """n values, null where the slice is. BadData, naming the column, when one cannot be
        carried."""
        return values_text.decoded(self.place, self.read, slices)


def compile_column(place: str, kind: MyType, zero_dates: ZeroDates) -> ResultColumn:
    """The reader of a column of that type. SourceError when the type is refused."""
    return ResultColumn(place, _size(kind), _reader(kind, zero_dates))


def _size(kind: MyType) -> int:
    if kind.native:
        return PACKED_LENGTH
    return _WIRE_BYTES.get(kind.code, SHORT_LENGTH if kind.code in _TIMES else PACKED_LENGTH)


def _reader(kind: MyType, zero_dates: ZeroDates) -> ValueDecoder:
    travels = arrow_type(kind)
    if kind.native:
        return values_text.utf8
    if kind.code in STRINGS | BLOBS:
        return ragged.binary if is_binary(kind) else values_text.utf8
    if kind.code in DATES:
        return partial(_date, zero_dates=zero_dates)
    if kind.code in DATETIMES | TIMESTAMPS:
        return partial(_moment, travels=travels, zero_dates=zero_dates)
    if kind.code in TIMES:
        return _time
    if kind.code in (FieldType.INT24, FieldType.YEAR):
        return _INT24 if kind.code == FieldType.INT24 else _YEAR
    if kind.code in INTEGER_BYTES or kind.code in (FieldType.FLOAT, FieldType.DOUBLE):
        return values.compile_column("", kind, zero_dates).read
    return _OTHERS[FieldType(kind.code)](kind)


def _int32(wire: str) -> ValueDecoder:
    def decode(slices: Slices) -> pa.Array:
        found = ragged.gather(slices.buffer, slices.start, wire).astype(np.int32, copy=False)
        return ragged.fixed(pa.int32(), found, slices.valid)

    return decode


_INT24, _YEAR = _int32("<i4"), _int32("<u2")


def _bit(kind: MyType) -> ValueDecoder:
    if bits(kind) == 1:
        return lambda slices: ragged.booleans(slices.buffer[slices.start] != 0, slices.valid)
    return ragged.binary


def _decimal(kind: MyType) -> ValueDecoder:
    travels = arrow_type(kind)

    def decode(slices: Slices) -> pa.Array:
        printed = ragged.text(slices)
        if travels != NUMERIC_TEXT:
            return printed.cast(travels)
        if kind.unsigned:  # ZEROFILL prints zeros in front
            printed = pc.replace_substring_regex(printed, r"^0+(\d)", r"\1")
        return NUMERIC_TEXT.wrap_array(printed)

    return decode


_OTHERS: Mapping[FieldType, Callable[[MyType], ValueDecoder]] = {
    FieldType.NEWDECIMAL: _decimal,
    FieldType.BIT: _bit,
    FieldType.ENUM: lambda kind: values_text.utf8,
    FieldType.SET: lambda kind: values_text.utf8,
    FieldType.JSON: lambda kind: values_text.utf8,
    FieldType.GEOMETRY: lambda kind: values.geometry,
}


def _date(slices: Slices, zero_dates: ZeroDates) -> pa.Array:
    days, invalid = _day(slices)
    days, valid = values_time.replaced(slices, days, invalid, zero_dates)
    return ragged.fixed(pa.date32(), days.astype(np.int32), valid)


def _moment(slices: Slices, travels: pa.DataType, zero_dates: ZeroDates) -> pa.Array:
    days, invalid = _day(slices)
    seconds = values_time.seconds_of(*_clock(slices, 4), slices)
    moments_us = days * values_time.DAY_US + seconds * 1_000_000 + _micros(slices, 7)
    return values_time.moments(slices, moments_us, invalid, zero_dates, travels)


def _time(slices: Slices) -> pa.Array:
    _require_lengths(slices, (0, 8, 12))
    days = _part(slices, 1, 4)
    hour, minute, second = _clock(slices, 5)
    seconds = values_time.duration(days * 24 + hour, minute, second, slices)
    sign = 1 - 2 * _part(slices, 0, 1)
    return values_time.printed_time(slices, (seconds * 1_000_000 + _micros(slices, 8)) * sign)


def _day(slices: Slices) -> tuple[Int64s, ragged.Bools]:
    """Days since 1970, and where that is no date."""
    _require_lengths(slices, (0, 4, 7, 11))
    year, month, day = _part(slices, 0, 2), _part(slices, 2, 1), _part(slices, 3, 1)
    return values_time.days_of(year * 13 + month, day, slices)


def _clock(slices: Slices, at: int) -> tuple[Int64s, Int64s, Int64s]:
    return _part(slices, at, 1), _part(slices, at + 1, 1), _part(slices, at + 2, 1)


def _micros(slices: Slices, at: int) -> Int64s:
    return _part(slices, at, 4)


def _part(slices: Slices, at: int, size: int) -> Int64s:
    """The little-endian number that stands `at` bytes behind the start, 0 where it is left out."""
    there = slices.length > at
    if not ragged.some(there):
        return np.zeros(len(slices), np.int64)
    found = ragged.gather_int64(slices.buffer, slices.start + at, f"<u{size}")
    return found if ragged.every(there) else found * there


def _require_lengths(slices: Slices, allowed: tuple[int, ...]) -> None:
    fits = np.isin(slices.length, allowed)
    if not ragged.every(fits):
        raise BadData(f"a date or time of {int(slices.length[int(fits.argmin())])} bytes")
