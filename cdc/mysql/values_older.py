"""Dates and times in the forms of older servers, which tables keep that were never rebuilt since.

Without a fraction (before MySQL 5.6; little endian): datetime and time are the decimal digits
YYYYMMDDhhmmss in 8 bytes and hhmmss in 3, timestamp is seconds in 4 bytes.

With one, MariaDB's own form before mysql56_temporal_format (10.0; sql/field.cc, Field_*_hires; big
endian), in units of the last digit that the column has:

    timestamp   4 bytes of seconds, then the fraction
    datetime    ((((13 · year + month) · 32 + day) · 24 + hour) · 60 + minute) · 60 + second,
                with the fraction as one number
    time        the duration as one number, plus 839 hours
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.mysql.types import FieldType, ZeroDates
from cdc.mysql.values_time import (
    DAY_US,
    YEARS,
    days_of,
    duration,
    moments,
    printed_time,
    require,
    seconds_of,
    stored_at,
    utc,
)
from cdc.ragged import Int64s, Slices

_BYTES = {
    FieldType.TIMESTAMP: (4, 5, 5, 6, 6, 7, 7),
    FieldType.DATETIME: (8, 6, 6, 7, 7, 7, 8),
    FieldType.TIME: (3, 4, 4, 5, 5, 5, 6),
}
_LONGEST_S = 839 * 3600


def size_bytes(code: int, digits: int) -> int:
    """Bytes of a TIMESTAMP, DATETIME or TIME with so many digits of fraction."""
    return _BYTES[FieldType(code)][digits]


def timestamp(slices: Slices, digits: int, zero_dates: ZeroDates) -> pa.Array:
    """timestamp[us, UTC] of TIMESTAMP."""
    if not digits:
        return utc(slices, stored_at(slices, "<u4") * 1_000_000, zero_dates)
    fraction_bytes = size_bytes(FieldType.TIMESTAMP, digits) - 4
    fraction = ragged.gather_int64(slices.buffer, slices.start + 4, ">u4")
    micros = (fraction >> (32 - 8 * fraction_bytes)) * 10 ** (6 - digits)
    require(slices, micros < 1_000_000)
    return utc(slices, stored_at(slices, ">u4") * 1_000_000 + micros, zero_dates)


def datetime(slices: Slices, digits: int, zero_dates: ZeroDates) -> pa.Array:
    """timestamp[us] of DATETIME."""
    if digits:
        return _datetime_hires(slices, digits, zero_dates)
    stored = stored_at(slices, "<i8")
    require(slices, (stored >= 0) & (stored < YEARS * 10**10))
    day, clock = stored // 10**6, stored % 10**6
    month = day // 100 % 100
    require(slices, month <= 12)
    days, invalid = days_of(day // 10_000 * 13 + month, day % 100, slices)
    seconds = seconds_of(clock // 10_000, clock // 100 % 100, clock % 100, slices)
    moved = days * DAY_US + seconds * 1_000_000
    return moments(slices, moved, invalid, zero_dates, pa.timestamp("us"))


def _datetime_hires(slices: Slices, digits: int, zero_dates: ZeroDates) -> pa.Array:
    day, time_us = _divided(_packed(slices, FieldType.DATETIME, digits), digits)
    days, invalid = days_of(day // 32, day % 32, slices)
    return moments(slices, days * DAY_US + time_us, invalid, zero_dates, pa.timestamp("us"))


def _divided(packed: Int64s, digits: int) -> tuple[Int64s, Int64s]:
    """Whole days, and the microseconds of the rest."""
    day_units = 86_400 * 10**digits
    return packed // day_units, packed % day_units * 10 ** (6 - digits)


def time(slices: Slices, digits: int) -> pa.Array:
    """TIME, a duration, as text."""
    if digits:
        packed = _packed(slices, FieldType.TIME, digits) - _LONGEST_S * 10**digits
        return printed_time(slices, packed * 10 ** (6 - digits))
    stored = stored_at(slices, "<u4") & 0xFFFFFF
    signed = stored - ((stored & 0x800000) << 1)
    magnitude = np.abs(signed)
    hour, minute = magnitude // 10_000, magnitude // 100 % 100
    seconds = duration(hour, minute, magnitude % 100, slices) * 1_000_000
    seconds[signed < 0] *= -1
    return printed_time(slices, seconds)


def _packed(slices: Slices, code: int, digits: int) -> Int64s:
    """Big-endian numbers of up to 8 bytes, which are not negative."""
    size = size_bytes(code, digits)
    found = stored_at(slices, ">i8") >> (64 - 8 * size)
    return found if size == 8 else found & ((1 << 8 * size) - 1)
