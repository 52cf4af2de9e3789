"""Dates, times, timestamps and intervals, from Postgres's binary form and from its text.

Postgres counts days and microseconds from 2000-01-01 in the proleptic Gregorian calendar; its
largest and smallest integers are the infinities. Arrow counts from 1970; our infinities are
DuckDB's (cdc/schema.py). The last 30 years of Postgres's timestamps (after 294247-01-10) do not
fit and are refused.

Text is ISO, in UTC: `1994-03-01`, `0044-03-15 12:00:00.5+00 BC`, `infinity`. Years have four digits
or more. Calendar arithmetic: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
days_from_civil.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import clocks, ragged
from cdc.errors import BadData
from cdc.postgres.messages import PG_EPOCH_US
from cdc.ragged import Bools, Bytes, Int64s, Slices
from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY

PG_EPOCH_DAYS = 10_957
_DAY_US = 86_400_000_000
_LARGEST, _SMALLEST = 2**63 - 1, -(2**63)
_LARGEST_DAY, _SMALLEST_DAY = 2**31 - 1, -(2**31)


def date(slices: Slices) -> pa.Array:
    """date32 of binary dates."""
    stored = ragged.gather_int64(slices.buffer, slices.start, ">i4")
    days = stored + PG_EPOCH_DAYS
    days[stored == _LARGEST_DAY] = DATE_INFINITY
    days[stored == _SMALLEST_DAY] = -DATE_INFINITY
    return ragged.fixed(pa.date32(), days.astype(np.int32), slices.valid)


def time(slices: Slices) -> pa.Array:
    """time64[us] of binary times. 24:00:00, which Postgres has, is 86,400,000,000."""
    stored = ragged.gather(slices.buffer, slices.start, ">i8")
    return ragged.fixed(pa.time64("us"), stored, slices.valid)


def timestamp(slices: Slices, kind: pa.DataType) -> pa.Array:
    """timestamp[us] or timestamp[us, UTC] of binary timestamps."""
    stored = ragged.gather_int64(slices.buffer, slices.start, ">i8")
    plus, minus = stored == _LARGEST, stored == _SMALLEST
    _require_range(stored, plus, slices.valid)
    with np.errstate(over="ignore"):
        moved = stored + PG_EPOCH_US
    moved[plus] = TIMESTAMP_INFINITY
    moved[minus] = -TIMESTAMP_INFINITY
    return ragged.fixed(kind, moved, slices.valid)


def _require_range(stored: Int64s, infinite: Bools, valid: Bools | None) -> None:
    beyond = (stored >= TIMESTAMP_INFINITY - PG_EPOCH_US) & ~infinite
    if valid is not None:
        beyond &= valid
    if ragged.some(beyond):
        raise BadData(
            "a timestamp after 294247-01-10, beyond what 64 bits of microseconds since 1970 hold",
            hint="use 'infinity' for \"never ends\", or exclude the column",
        )


def interval(slices: Slices) -> pa.Array:
    """The text that interval_out prints with intervalstyle postgres."""
    time_us = _masked(ragged.gather_int64(slices.buffer, slices.start, ">i8"), slices.valid)
    days = _masked(ragged.gather_int64(slices.buffer, slices.start + 8, ">i4"), slices.valid)
    months = _masked(ragged.gather_int64(slices.buffer, slices.start + 12, ">i4"), slices.valid)
    years = np.sign(months) * (np.abs(months) // 12)
    rest = months - 12 * years
    negative_before = np.zeros(len(slices), np.bool_)
    parts = []
    for amount, unit in ((years, "year"), (rest, "mon"), (days, "day")):
        parts.append(_counted(amount, unit, negative_before))
        negative_before = np.where(amount == 0, negative_before, amount < 0)
    anything = (months != 0) | (days != 0)
    parts.append(_clock(time_us, negative_before & anything, (time_us != 0) | ~anything))
    printed = pc.binary_join_element_wise(*parts, " ", null_handling="skip")
    # Since Postgres 17: infinite intervals have the extreme value in all three fields.
    for sign, day, end, name in (
        (1, _LARGEST_DAY, _LARGEST, "infinity"),
        (-1, _SMALLEST_DAY, _SMALLEST, "-infinity"),
    ):
        infinite = (time_us == end) & (days == day) & (np.sign(months) == sign) & (months == day)
        if ragged.some(infinite):
            printed = pc.if_else(pa.array(infinite), name, printed)
    if slices.valid is not None:
        printed = pc.if_else(pa.array(slices.valid), printed, pa.scalar(None, pa.string()))
    return printed


def _masked(values: Int64s, valid: Bools | None) -> Int64s:
    return values if valid is None else np.where(valid, values, 0)


def _counted(amount: Int64s, unit: str, negative_before: Bools) -> pa.Array:
    """`-3 days`, or null where the amount is 0."""
    plus = pc.if_else(pa.array(negative_before & (amount > 0)), "+", "")
    name = pc.if_else(pa.array(amount == 1), f" {unit}", f" {unit}s")
    counted = pc.binary_join_element_wise(plus, pa.array(amount).cast(pa.string()), name, "")
    return pc.if_else(pa.array(amount != 0), counted, pa.scalar(None, pa.string()))


def _clock(time_us: Int64s, negative_before: Bools, shown: Bools) -> pa.Array:
    """`-04:05:06.789`, or null where it is not shown."""
    printed = clocks.clock(time_us, plus=negative_before)
    return pc.if_else(pa.array(shown), printed, pa.scalar(None, pa.string()))


def date_from_text(slices: Slices) -> pa.Array:
    """date32 of dates in text."""
    infinite, live = _infinities(slices)
    days, _ = _dates(slices, live, _before_christ(slices, live))
    days = np.where(infinite == 0, days, infinite * DATE_INFINITY)
    return ragged.fixed(pa.date32(), days.astype(np.int32), slices.valid)


def time_from_text(slices: Slices) -> pa.Array:
    """time64[us] of times in text."""
    live = np.ones(len(slices), np.bool_) if slices.valid is None else slices.valid
    micros = _clocks(slices.buffer, slices.start, slices.start + slices.length, live)
    return ragged.fixed(pa.time64("us"), micros, slices.valid)


def timestamp_from_text(slices: Slices, kind: pa.DataType) -> pa.Array:
    """timestamp[us] or timestamp[us, UTC] of timestamps in text (`+00` only)."""
    infinite, live = _infinities(slices)
    ancient = _before_christ(slices, live)
    days, after = _dates(slices, live, ancient)
    end = slices.start + slices.length - 3 * ancient
    if kind.tz is not None:
        end = end - 3
        zone = ragged.gather(slices.buffer, np.where(live, end, 0), "V3")
        if ragged.some(live & (zone != np.frombuffer(b"+00", "V3")[0])):
            raise BadData(
                "a timestamptz that is not in UTC", hint="the session's time zone changed"
            )
    micros = _clocks(slices.buffer, after + 1, end, live)
    last_day, last_us = divmod(TIMESTAMP_INFINITY, _DAY_US)
    too_late = live & ((days > last_day) | ((days == last_day) & (micros >= last_us)))
    _require_range(np.where(too_late, _LARGEST - 1, 0), np.zeros(len(live), np.bool_), slices.valid)
    moved = days * _DAY_US + micros
    total = np.where(infinite == 0, moved, infinite * TIMESTAMP_INFINITY)
    return ragged.fixed(kind, total, slices.valid)


def _infinities(slices: Slices) -> tuple[Int64s, Bools]:
    """+1, −1 for the infinities, else 0; and which rows hold an ordinary value."""
    first = slices.buffer[slices.start]
    live = (first != ord("i")) & (first != ord("-"))
    infinite = np.where(live, 0, np.where(first == ord("i"), 1, -1)).astype(np.int64)
    return infinite, live if slices.valid is None else live & slices.valid


def _before_christ(slices: Slices, live: Bools) -> Bools:
    return live & (slices.buffer[slices.start + slices.length - 1] == ord("C"))


def _dates(slices: Slices, live: Bools, ancient: Bools) -> tuple[Int64s, Int64s]:
    """Days since 1970 of the dates that the texts begin with, and the position behind each."""
    dash = slices.start + 4
    year = _number(slices.buffer, slices.start, 4)
    for _ in range(3):
        longer = live & (slices.buffer[dash] != ord("-"))
        if not ragged.some(longer):
            break
        year = np.where(longer, 10 * year + _number(slices.buffer, dash, 1), year)
        dash = dash + longer
    month = _number(slices.buffer, dash + 1, 2)
    day = _number(slices.buffer, dash + 4, 2)
    wrong = live & (
        (slices.buffer[dash] != ord("-")) | (month < 1) | (month > 12) | (day < 1) | (day > 31)
    )
    if ragged.some(wrong):
        text = slices.first(int(wrong.argmax())).decode(errors="replace")
        raise BadData(f"not a date in ISO format: '{text}'", hint="the session's DateStyle changed")
    year = np.where(ancient, 1 - year, year)
    days = _days_from_civil(year, month, day)
    return np.where(live, days, 0), np.where(live, dash + 6, slices.start)


def _days_from_civil(year: Int64s, month: Int64s, day: Int64s) -> Int64s:
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def _clocks(buffer: Bytes, at: Int64s, end: Int64s, live: Bools) -> Int64s:
    """Microseconds of `HH:MM:SS[.ffffff]` standing between `at` and `end`; 0 where not live."""
    # A row that is not live may be short: it reads whatever follows, inside the padding.
    hour, minute = _number(buffer, at, 2), _number(buffer, at + 3, 2)
    second = _number(buffer, at + 6, 2)
    behind = np.clip(end - at - 9, 0, 6)
    micros = np.zeros(len(at), np.int64)
    for place in range(int(np.where(live, behind, 0).max(initial=0))):
        digit = _number(buffer, at + 9 + place, 1) * 10 ** (5 - place)
        micros += np.where(place < behind, digit, 0)
    total = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros
    return np.where(live, total, 0)


def _number(buffer: Bytes, at: Int64s, digits: int) -> Int64s:
    total = np.zeros(len(at), np.int64)
    for place in range(digits):
        total = 10 * total + (buffer[at + place].astype(np.int64) - ord("0"))
    return total
