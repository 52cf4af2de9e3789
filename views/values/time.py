"""Dates and timestamps: fields, truncation, constant steps. The infinities stay what they are.

The calendar is the proleptic Gregorian one, by the algorithm of Howard Hinnant, "chrono-Compatible
Low-Level Date Algorithms": days since 1970 to (year, month, day) and back, over int64 arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, Int64s
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY
from views.plan import Call, Constant
from views.values.arrays import Kernel, Result, both_valid, build, failing, valid, values, wrap
from views.values.text import constant_text

DAY_US = 86_400_000_000
_MIN_TIMESTAMP_US = -210_866_803_200_000_000
_END_TIMESTAMP_US = 2**63 - 1  # Arrow counts from 1970: 30 years less than Postgres


@dataclass(frozen=True)
class Interval:
    """A constant interval, in Postgres's three independent units."""

    months: int
    days: int
    us: int

    def __neg__(self) -> Interval:
        return Interval(-self.months, -self.days, -self.us)


def civil(days: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """(year, month, day) of days since 1970-01-01; year 0 is 1 BC."""
    z = days + 719_468
    era = np.floor_divide(z, 146_097)
    doe = z - era * 146_097
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    month = np.where(mp < 10, mp + 3, mp - 9)
    return yoe + era * 400 + (month <= 2), month, doy - (153 * mp + 2) // 5 + 1


def days_of(year: Int64s, month: Int64s, day: Int64s) -> Int64s:
    """The inverse of `civil`."""
    y = year - (month <= 2)
    era = np.floor_divide(y, 400)
    yoe = y - era * 400
    doy = (153 * np.where(month > 2, month - 3, month + 9) + 2) // 5 + day - 1
    return era * 146_097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719_468


def infinite(array: pa.Array) -> Bools:
    """Where a date or timestamp is ±infinity."""
    limit = DATE_INFINITY if pa.types.is_date(array.type) else TIMESTAMP_INFINITY
    data = values(array).astype(np.int64)
    return (data == limit) | (data == -limit)


def microseconds(array: pa.Array) -> Int64s:
    """Since 1970; 0 where infinite."""
    data = values(array).astype(np.int64)
    data = np.where(infinite(array), 0, data)
    return data * DAY_US if pa.types.is_date(array.type) else data


def extract(call: Call) -> Kernel:
    """extract(field from x) in the zone UTC, as numeric."""
    field = constant_text(call, 0)
    compute = FIELDS[field]
    if field == "epoch" and pa.types.is_date(call.args[1].type):
        compute = _epoch_seconds

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        array = args[1]
        ok, endless = valid(array), infinite(array)
        days, rest = _split_days(array, endless)
        data = compute(days, rest)
        if call.type == NUMERIC_TEXT:
            return _unbounded(array, data, ok, endless, field), None
        present = ~endless if ok is None else ok & ~endless
        return _scaled(data, present, call.type), None

    return run


def _split_days(array: pa.Array, endless: Bools) -> tuple[Int64s, Int64s]:
    """Days since 1970 and microseconds of the day; 0 where infinite."""
    data = np.where(endless, 0, values(array).astype(np.int64))
    if pa.types.is_date(array.type):
        return data, np.zeros_like(data)
    days = np.floor_divide(data, DAY_US)
    return days, data - days * DAY_US


def _unbounded(
    array: pa.Array, data: Int64s, ok: Bools | None, endless: Bools, field: str
) -> pa.Array:
    """Numbers as NUMERIC_TEXT; those of infinite dates are infinite."""
    if field == "epoch" and not pa.types.is_date(array.type):
        plain = _plain_decimals(_scaled(data, ok, pa.decimal128(25, 6)).cast(pa.string()), data)
    else:
        plain = build(data, ok, pa.int64()).cast(pa.string())
    if endless.any():
        sign = pc.if_else(pa.array(values(array) > 0), "Infinity", "-Infinity")
        plain = pc.if_else(pa.array(endless), sign, plain)
    return wrap(plain, NUMERIC_TEXT)


def _plain_decimals(texts: pa.Array, us: Int64s) -> pa.Array:
    """Tiny fractions, which Arrow prints with an exponent, in full."""
    odd = pc.fill_null(pc.match_substring(texts, "E"), False)
    if not pc.any(odd).as_py():
        return texts
    full = [f"{'-' if v < 0 else ''}{abs(v) // 10**6}.{abs(v) % 10**6:06d}" for v in us.tolist()]
    return pc.if_else(odd, pa.array(full), texts)


def _scaled(data: Int64s, ok: Bools | None, kind: pa.DataType) -> pa.Array:
    """Integers in units of the decimal's last place."""
    words = np.empty((len(data), 2), np.int64)
    words[:, 0], words[:, 1] = data, data >> 63
    mask = None if ok is None else pa.array(ok).buffers()[1]
    return pa.Array.from_buffers(kind, len(data), [mask, pa.py_buffer(words)])


Field = Callable[[Int64s, Int64s], Int64s]


def _year(days: Int64s, us: Int64s) -> Int64s:
    year = civil(days)[0]
    return np.where(year <= 0, year - 1, year)


def _iso(days: Int64s) -> tuple[Int64s, Int64s]:
    """(ISO year, ISO week): those of the week's Thursday."""
    thursday = days - np.mod(days + 3, 7) + 3
    year = civil(thursday)[0]
    first = days_of(year, np.ones_like(year), np.ones_like(year))
    return year, (thursday - first) // 7 + 1


def _day_of_year(days: Int64s, us: Int64s) -> Int64s:
    year = civil(days)[0]
    return days - days_of(year, np.ones_like(year), np.ones_like(year)) + 1


def _iso_year(days: Int64s, us: Int64s) -> Int64s:
    year = _iso(days)[0]
    return np.where(year <= 0, year - 1, year)


def _epoch_seconds(days: Int64s, us: Int64s) -> Int64s:
    return days * 86_400


UNBOUNDED = ("year", "isoyear", "epoch")
"""Fields that are infinite for an infinite date; all others are NULL then."""

FIELDS: dict[str, Field] = {
    "year": _year,
    "isoyear": _iso_year,
    "epoch": lambda days, us: days * DAY_US + us,
    "month": lambda days, us: civil(days)[1],
    "day": lambda days, us: civil(days)[2],
    "quarter": lambda days, us: (civil(days)[1] + 2) // 3,
    "week": lambda days, us: _iso(days)[1],
    "dow": lambda days, us: np.mod(days + 4, 7),
    "isodow": lambda days, us: np.mod(days + 3, 7) + 1,
    "doy": _day_of_year,
    "hour": lambda days, us: us // 3_600_000_000,
    "minute": lambda days, us: us // 60_000_000 % 60,
    "second": lambda days, us: us % 60_000_000,
    "milliseconds": lambda days, us: us % 60_000_000,
    "microseconds": lambda days, us: us % 60_000_000,
}
SCALES = {"second": 6, "milliseconds": 3}
TIME_FIELDS = ("hour", "minute", "second", "milliseconds", "microseconds")


_UNITS_US = {
    "microseconds": 1,
    "milliseconds": 1000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": DAY_US,
}


def truncate(call: Call) -> Kernel:
    """date_trunc(unit, timestamp) in the zone UTC."""
    unit = constant_text(call, 0)

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        us = microseconds(args[1])
        data = np.where(infinite(args[1]), values(args[1]), _floor(us, unit))
        return failing(data, valid(args[1]), data < _lowest(args[1]), call.type)

    return run


def _lowest(array: pa.Array) -> Int64s:
    return np.where(infinite(array), -TIMESTAMP_INFINITY, _MIN_TIMESTAMP_US)


def _floor(us: Int64s, unit: str) -> Int64s:
    if unit in _UNITS_US:
        return us - np.mod(us, _UNITS_US[unit])
    days = np.floor_divide(us, DAY_US)
    if unit == "week":
        return (days - np.mod(days + 3, 7)) * DAY_US
    year, month, _ = civil(days)
    one = np.ones_like(month)
    first = {"month": month, "quarter": (month - 1) // 3 * 3 + 1, "year": one}[unit]
    return days_of(year, first, one) * DAY_US


UNITS = (*_UNITS_US, "week", "month", "quarter", "year")


def shift(sign: int) -> Callable[[Call], Kernel]:
    """timestamp + interval (sign 1) and - interval (-1), the interval constant, in UTC."""

    def factory(call: Call) -> Kernel:
        given = call.args[1]
        assert isinstance(given, Constant) and isinstance(given.value, Interval)
        step = given.value if sign > 0 else -given.value

        def run(args: Sequence[pa.Array], rows: int) -> Result:
            us, endless = microseconds(args[0]), infinite(args[0])
            moved = _moved(us, step)
            bad = ~endless & ((moved < _MIN_TIMESTAMP_US) | (moved >= _END_TIMESTAMP_US))
            data = np.where(endless, values(args[0]), moved)
            return failing(data, valid(args[0]), bad, call.type)

        return run

    return factory


def _moved(us: Int64s, step: Interval) -> Int64s:
    days = np.floor_divide(us, DAY_US)
    rest = us - days * DAY_US
    if step.months:
        year, month, day = civil(days)
        count = year * 12 + month - 1 + step.months
        year, month = np.floor_divide(count, 12), np.mod(count, 12) + 1
        one = np.ones_like(year)
        following = np.where(month == 12, year + 1, year)
        last = days_of(following, np.mod(month, 12) + 1, one) - days_of(year, month, one)
        days = days_of(year, month, np.minimum(day, last))
    return (days + step.days) * DAY_US + rest + step.us


def add_days(sign: int) -> Callable[[Call], Kernel]:
    """date + integer (sign 1) and date - integer (-1)."""

    def factory(call: Call) -> Kernel:
        def run(args: Sequence[pa.Array], rows: int) -> Result:
            days, endless = values(args[0]).astype(np.int64), infinite(args[0])
            moved = days + sign * values(args[1]).astype(np.int64)
            bad = ~endless & ((moved < DATE_MIN) | (moved > DATE_MAX))
            data = np.where(endless, days, np.clip(moved, DATE_MIN, DATE_MAX)).astype(np.int32)
            return failing(data, both_valid(*args), bad, call.type)

        return run

    return factory


def days_between(call: Call) -> Kernel:
    """date - date; infinite dates cannot be subtracted."""

    def run(args: Sequence[pa.Array], rows: int) -> Result:
        a, b = (values(x).astype(np.int64) for x in args)
        bad = infinite(args[0]) | infinite(args[1])
        return failing((a - b).astype(np.int32), both_valid(*args), bad, call.type)

    return run


DATE_MIN = -2_440_588  # 4714-11-24 BC, Julian day 0
DATE_MAX = 2_145_042_905  # 5874897-12-31


def date_to_timestamp(call: Call) -> Kernel:
    def run(args: Sequence[pa.Array], rows: int) -> Result:
        days, endless = values(args[0]).astype(np.int64), infinite(args[0])
        bad = ~endless & (days >= _END_TIMESTAMP_US // DAY_US)
        data = np.where(
            endless, np.sign(days) * TIMESTAMP_INFINITY, np.where(bad, 0, days) * DAY_US
        )
        return failing(data, valid(args[0]), bad, call.type)

    return run


def timestamp_to_date(call: Call) -> Kernel:
    def run(args: Sequence[pa.Array], rows: int) -> Result:
        us, endless = values(args[0]), infinite(args[0])
        data = np.where(endless, np.sign(us) * DATE_INFINITY, np.floor_divide(us, DAY_US))
        return build(data.astype(np.int32), valid(args[0]), call.type), None

    return run


def same_instant(call: Call) -> Kernel:
    """timestamp and timestamptz into each other, in the zone UTC."""
    return lambda args, rows: (args[0].view(pa.int64()).view(call.type), None)
