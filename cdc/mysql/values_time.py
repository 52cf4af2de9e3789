"""Dates, times and timestamps of row images.

The forms with fractions (MySQL's my_time.cc, my_*_packed_to_binary; MariaDB's are the same) are
big endian, an integer part and then (fsp + 1) / 2 bytes that hold the fraction in hundredths,
ten-thousandths or millionths of a second:

    datetime    5 bytes: a set bit, 17 bits 13 · year + month, 5 day, 5 hour, 6 minute, 6 second
    timestamp   4 bytes: seconds since 1970 UTC; 0 is the zero date
    time        3 bytes: the duration's hour · 4096 + minute · 64 + second, a negative one's with
                its fraction negated as one number, plus 2^23

A date is day + 32 · month + 512 · year in 3 bytes, little endian. The forms of older servers are in
values_older.py, and share the second half of this module.

MySQL counts in the proleptic Gregorian calendar, as Arrow does. A date may be none: day or month
0, or (with ALLOW_INVALID_DATES) a day that its month does not have. `zero_dates` decides then.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.clocks import clock
from cdc.errors import BadData
from cdc.mysql.types import ZeroDates
from cdc.ragged import Bools, Int64s, Slices

DAY_US = 86_400_000_000
_MICROS = (1, 10_000, 100, 1)
"""Microseconds of a fraction's unit, by its bytes."""
YEARS = 10_000


def fraction_bytes(digits: int) -> int:
    """Bytes of a fraction with so many digits (0 to 6)."""
    return (digits + 1) // 2


def date(slices: Slices, zero_dates: ZeroDates) -> pa.Array:
    """date32 of DATE."""
    stored = stored_at(slices, "<u4") & 0xFFFFFF
    month = (stored >> 5) & 15
    require(slices, month <= 12)
    days, invalid = days_of((stored >> 9) * 13 + month, stored & 31, slices)
    days, valid = replaced(slices, days, invalid, zero_dates)
    return ragged.fixed(pa.date32(), days.astype(np.int32), valid)


def datetime(slices: Slices, digits: int, zero_dates: ZeroDates) -> pa.Array:
    """timestamp[us] of DATETIME."""
    stored = stored_at(slices, ">i8") >> 24
    require(slices, stored < 0)
    days, invalid = days_of((stored >> 22) & 0x1FFFF, (stored >> 17) & 31, slices)
    time_us = seconds_of((stored >> 12) & 31, (stored >> 6) & 63, stored & 63, slices) * 1_000_000
    time_us += _fraction(slices, 5, fraction_bytes(digits))
    return moments(slices, days * DAY_US + time_us, invalid, zero_dates, pa.timestamp("us"))


def timestamp(slices: Slices, digits: int, zero_dates: ZeroDates) -> pa.Array:
    """timestamp[us, UTC] of TIMESTAMP."""
    seconds = stored_at(slices, ">u4")
    micros = _fraction(slices, 4, fraction_bytes(digits))
    return utc(slices, seconds * 1_000_000 + micros, zero_dates)


def time(slices: Slices, digits: int) -> pa.Array:
    """TIME, a duration, as text."""
    size = 3 + fraction_bytes(digits)
    # One signed number of the whole width: integer part and fraction.
    stored = (stored_at(slices, ">i8") >> (64 - 8 * size)) & ((1 << 8 * size) - 1)
    signed = stored - (1 << (8 * size - 1))
    magnitude = np.abs(signed)
    whole = magnitude >> (8 * (size - 3))
    micros = (magnitude & ((1 << (8 * (size - 3))) - 1)) * _MICROS[size - 3]
    require(slices, micros < 1_000_000)
    seconds = duration((whole >> 12) & 1023, (whole >> 6) & 63, whole & 63, slices)
    return printed_time(slices, (seconds * 1_000_000 + micros) * np.sign(signed))


@cache
def _months() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """By 13 · year + month: days since 1970 of the month's first day, and how many it has; month 0
    has none."""
    firsts = np.arange("0000-01", "10000-02", dtype="M8[M]").astype("M8[D]").astype(np.int32)
    days, lengths = np.zeros((YEARS, 13), np.int32), np.zeros((YEARS, 13), np.int8)
    days[:, 1:] = firsts[:-1].reshape(YEARS, 12)
    lengths[:, 1:] = np.diff(firsts).reshape(YEARS, 12)
    return days.ravel(), lengths.ravel()


def stored_at(slices: Slices, dtype: str) -> Int64s:
    """The integers at the starts; 0 where null."""
    found = ragged.gather_int64(slices.buffer, slices.start, dtype)
    return found if slices.valid is None else np.where(slices.valid, found, 0)


def days_of(month: Int64s, day: Int64s, slices: Slices) -> tuple[Int64s, Bools]:
    """Days since 1970, by 13 · year + month; and where that is no date."""
    require(slices, month < YEARS * 13)
    firsts, lengths = _months()
    invalid = (day < 1) | (day > lengths[month])
    return firsts[month] + day - 1, invalid


def seconds_of(hour: Int64s, minute: Int64s, second: Int64s, slices: Slices) -> Int64s:
    """Seconds of a time of day."""
    require(slices, hour < 24)
    return duration(hour, minute, second, slices)


def duration(hour: Int64s, minute: Int64s, second: Int64s, slices: Slices) -> Int64s:
    require(slices, (minute < 60) & (second < 60))
    return (hour * 60 + minute) * 60 + second


def _fraction(slices: Slices, at: int, size: int) -> Int64s:
    """The microseconds that stand in `size` bytes, `at` bytes behind the start."""
    if size == 0:
        return np.zeros(len(slices), np.int64)
    stored = ragged.gather_int64(slices.buffer, slices.start + at, ">u4") >> (32 - 8 * size)
    micros = stored * _MICROS[size]
    require(slices, micros < 1_000_000)
    return micros


def utc(slices: Slices, moment_us: Int64s, zero_dates: ZeroDates) -> pa.Array:
    return moments(slices, moment_us, moment_us == 0, zero_dates, pa.timestamp("us", "UTC"))


def moments(
    slices: Slices, moment_us: Int64s, invalid: Bools, zero_dates: ZeroDates, kind: pa.DataType
) -> pa.Array:
    moment_us, valid = replaced(slices, moment_us, invalid, zero_dates)
    return ragged.fixed(kind, moment_us, valid)


def replaced(
    slices: Slices, values: Int64s, invalid: Bools, zero_dates: ZeroDates
) -> tuple[Int64s, Bools | None]:
    """The values and what is not null, with the invalid ones as `zero_dates` says."""
    if slices.valid is not None:
        invalid = invalid & slices.valid
    if not ragged.some(invalid):
        return values, slices.valid
    if zero_dates == "stop":
        raise BadData(
            "a zero or invalid date (0000-00-00, a month 0, a day that its month does not have); "
            f"its bytes are {slices.first(int(invalid.argmax())).hex(' ')}",
            hint="correct the row, or set zero_dates: null or epoch on the source (in a key "
            "column no date may be invalid)",
        )
    if zero_dates == "epoch":
        return np.where(invalid, 0, values), slices.valid
    return values, ~invalid if slices.valid is None else slices.valid & ~invalid


def printed_time(slices: Slices, time_us: Int64s) -> pa.Array:
    printed = clock(time_us)
    if slices.valid is None:
        return printed
    return pc.if_else(pa.array(slices.valid), printed, pa.scalar(None, pa.string()))


def require(slices: Slices, fits: Bools) -> None:
    """BadData unless all values that are not null fit."""
    if slices.valid is not None:
        fits = fits | ~slices.valid
    if not ragged.every(fits):
        row = int(fits.argmin())
        raise BadData(f"bytes that are no date or time: {slices.first(row).hex(' ')}")
