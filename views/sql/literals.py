"""Literals: the value of a constant's text as one type, or as Postgres's own type for it."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from decimal import Decimal

import numpy as np

from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY
from views.plan import Constant
from views.sql.types import BIGINT, INTEGER, Type, base, is_enum, named, typmod
from views.sql.types import numeric as numeric_type
from views.values import numeric
from views.values.parse import read_boolean, read_float, read_numeric
from views.values.time import Interval


class BadLiteral(Exception):
    """The text is no value of the type, or in a spelling that is not understood here."""


def number(text: str) -> Constant:
    """A number as Postgres types it: integer, bigint, else numeric with the digits it shows."""
    if re.fullmatch(r"[0-9]+", text):
        for type, bits in ((INTEGER, 31), (BIGINT, 63)):
            if int(text) < 2**bits:
                return Constant(int(text), type.sql, type.arrow)
    return numeric_constant(read_numeric(text))


def numeric_constant(value: Decimal) -> Constant:
    scale = numeric.scale_of(value)
    whole = len(str(abs(int(value)))) if value.is_finite() else 99
    type = numeric_type(whole + scale, scale)
    if type.arrow == NUMERIC_TEXT:
        return Constant(numeric.text(value), "numeric", NUMERIC_TEXT)
    return Constant(value, "numeric", type.arrow)


def literal(text: str, type: Type) -> Constant:
    """The constant of `type` that `text` denotes. Raises BadLiteral."""
    name = base(type.sql)
    if name in ("text", "name", "character"):
        return Constant(text, type.sql, type.arrow)
    if name == "character varying":
        mod = typmod(type.sql)
        return Constant(text if mod is None else text[: mod[0]], type.sql, type.arrow)
    if name == "numeric":
        return _numeric(text, type)
    read = _READERS.get(name) or (_enum if is_enum(type.sql) else None)
    if read is None:
        raise BadLiteral(f"a literal of type {type.sql} is not supported yet")
    return Constant(read(text, type), type.sql, type.arrow)


def _numeric(text: str, type: Type) -> Constant:
    try:
        value = read_numeric(text)
        mod = typmod(type.sql)
        if mod is None:
            return numeric_constant(value)
        value = numeric.fitted(value, *mod)
    except numeric.Raises as error:
        raise BadLiteral(f"{text!r} is no {type.sql}: {error}") from None
    target = named(type.sql) or type
    carried = numeric.text(value) if target.arrow == NUMERIC_TEXT else value
    return Constant(carried, type.sql, target.arrow)


def _integer(text: str, type: Type) -> int:
    text = text.strip()
    limits = np.iinfo(f"i{type.arrow.bit_width // 8}")
    if not re.fullmatch(r"[+-]?[0-9]+", text, re.A) or not limits.min <= int(text) <= limits.max:
        raise BadLiteral(f"{text!r} is no {type.sql}")
    return int(text)


def _float(text: str, type: Type) -> float:
    value = read_float(text.strip(), np.dtype(f"f{type.arrow.bit_width // 8}"))
    if value is None:
        raise BadLiteral(f"{text!r} is no {type.sql}")
    return float(value)


def _boolean(text: str, type: Type) -> bool:
    value = read_boolean(text)
    if value is None:
        raise BadLiteral(f"{text!r} is no boolean")
    return value


def _uuid(text: str, type: Type) -> str:
    plain = text.strip().lower().replace("-", "").removeprefix("{").removesuffix("}")
    if not re.fullmatch(r"[0-9a-f]{32}", plain):
        raise BadLiteral(f"{text!r} is no uuid")
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))


def _date(text: str, type: Type) -> int:
    text = text.strip().lower()
    if text in ("infinity", "-infinity"):
        return DATE_INFINITY if text == "infinity" else -DATE_INFINITY
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.A):
        raise BadLiteral(f"{text!r}: dates are written 'YYYY-MM-DD' in a view")
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days
    except ValueError as error:
        raise BadLiteral(f"{text!r} is no date: {error}") from None


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a timestamp without time zone
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d([ t]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?(z|[+-]\d\d(:?\d\d)?)?"
)


def _timestamp(text: str, type: Type) -> int:
    text = text.strip().lower()
    if text in ("infinity", "-infinity"):
        return TIMESTAMP_INFINITY if text == "infinity" else -TIMESTAMP_INFINITY
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise BadLiteral(f"{text!r}: timestamps are written 'YYYY-MM-DD HH:MM:SS' in a view")
    zone, zoned = found[4], type.arrow.tz is not None
    try:
        moment = datetime.fromisoformat(text.removesuffix(zone or "").strip().upper())
        offset = _offset(zone) if zone and zoned else timedelta(0)
    except ValueError as error:
        raise BadLiteral(f"{text!r} is no {type.sql}: {error}") from None
    return (moment - offset - _EPOCH) // timedelta(microseconds=1)


def _offset(zone: str) -> timedelta:
    if zone == "z":
        return timedelta(0)
    numbers = zone[1:].replace(":", "")
    minutes = int(numbers[:2]) * 60 + int(numbers[2:] or 0)
    return timedelta(minutes=-minutes if zone[0] == "-" else minutes)


def _bytes(text: str, type: Type) -> bytes:
    try:
        return bytes.fromhex(text[2:] if text.startswith("\\x") else "no")
    except ValueError:
        raise BadLiteral(f"{text!r}: bytes are written '\\x…' in a view") from None


def _enum(text: str, type: Type) -> str:
    return text


_READERS = {
    **dict.fromkeys(("smallint", "integer", "bigint", "oid"), _integer),
    **dict.fromkeys(("real", "double precision"), _float),
    "boolean": _boolean,
    "uuid": _uuid,
    "date": _date,
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamp,
    "bytea": _bytes,
}

_PART = re.compile(r"([+-]?\d+)\s*([a-z]+)")
_MONTHS = {"year": 12, "month": 1, "mon": 1, "decade": 120}
_DAYS = {"day": 1, "week": 7}
_MICROSECONDS = {
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "min": 60_000_000,
    "second": 1_000_000,
    "sec": 1_000_000,
    "millisecond": 1000,
    "microsecond": 1,
}


def interval(text: str) -> Interval:
    """Whole numbers of units, as in '1 month 2 days'. Raises BadLiteral."""
    text = text.strip().lower()
    months = days = us = 0
    if not re.fullmatch(r"([+-]?\d+\s*[a-z]+\s*)+", text, re.A):
        raise BadLiteral(f"{text!r}: intervals are written '1 day 2 hours' in a view")
    for count, given in _PART.findall(text):
        unit = given.removesuffix("s")
        months += int(count) * _MONTHS.get(unit, 0)
        days += int(count) * _DAYS.get(unit, 0)
        us += int(count) * _MICROSECONDS.get(unit, 0)
        if unit not in _MONTHS and unit not in _DAYS and unit not in _MICROSECONDS:
            raise BadLiteral(f"{unit!r} is no unit of an interval")
    return Interval(months, days, us)


def null(type: Type) -> Constant:
    return Constant(None, type.sql, type.arrow)


__all__ = ["BadLiteral", "interval", "literal", "null", "number"]
