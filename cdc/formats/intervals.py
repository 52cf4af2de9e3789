"""Intervals as Debezium writes them: io.debezium.time.Interval, ISO 8601 with every component.

    1 year 2 mons 3 days 04:05:06.789        P1Y2M3DT4H5M6.789S
    -1 mons +2 days -00:00:01                P0Y-1M2DT0H0M-1S

Postgres prints an interval as years, months, days and a clock, each with its own sign (docs,
section 8.5.5); ISO's components carry theirs, the clock's on all three. Intervals repeat, so the
work is done once per distinct value. A MicroDuration (Debezium's default) is a clock only.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa

from cdc.errors import BadData

_PRINTED = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?"
    r"(?:([+-]?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?"
)
_ISO = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?[\d.]+)S)?)?"
)
_MICROS_PER_SECOND = 1_000_000


def to_iso(texts: pa.Array) -> pa.Array:
    """ISO's texts of the intervals that Postgres printed."""
    return _each(texts, _iso)


def from_iso(texts: pa.Array) -> pa.Array:
    """The inverse of `to_iso`."""
    return _each(texts, _printed)


def from_micros(column: pa.Array) -> pa.Array:
    """Intervals of so many microseconds."""
    return _each(column.cast(pa.string()), lambda count: _spelled(0, 0, 0, int(count)))


def _each(texts: pa.Array, spell: Callable[[str], str]) -> pa.Array:
    coded = texts.dictionary_encode()
    spelled = [spell(text) for text in coded.dictionary.to_pylist()]
    return pa.array(spelled, pa.string()).take(coded.indices)


def _iso(text: str) -> str:
    match = _PRINTED.fullmatch(text)
    if match is None or not text:
        raise BadData(
            f"'{text}' is not an interval as Postgres prints it",
            hint="infinite intervals have no form in Debezium",
        )
    years, months, days = (int(part or 0) for part in match.group(1, 2, 3))
    sign = "-" if match[4] == "-" else ""
    hours, minutes = (int(part or 0) for part in match.group(5, 6))
    whole, _, fraction = (match[7] or "0").partition(".")
    fraction = fraction.rstrip("0")
    seconds = f"{int(whole)}.{fraction}" if fraction else f"{int(whole)}"
    clock = "".join(
        f"{'' if part == '0' else sign}{part}{unit}"
        for part, unit in ((str(hours), "H"), (str(minutes), "M"), (seconds, "S"))
    )
    return f"P{years}Y{months}M{days}DT{clock}"


def _printed(text: str) -> str:
    match = _ISO.fullmatch(text)
    if match is None:
        raise BadData(f"'{text}' is not an ISO 8601 interval")
    years, months, days, hours, minutes = (int(part or 0) for part in match.group(1, 2, 3, 4, 5))
    seconds = match[6] or "0"
    whole, _, fraction = seconds.lstrip("-").partition(".")
    micros = int(whole or 0) * _MICROS_PER_SECOND + int(fraction[:6].ljust(6, "0"))
    micros = -micros if seconds.startswith("-") else micros
    return _spelled(years, months, days, micros + (hours * 60 + minutes) * 60 * _MICROS_PER_SECOND)


def _spelled(years: int, months: int, days: int, micros: int) -> str:
    """As Postgres prints it (EncodeInterval, style postgres): a part behind a negative one shows
    its plus sign."""
    found, before_negative = [], False
    for count, unit in ((years, "year"), (months, "mon"), (days, "day")):
        if count:
            plus = "+" if before_negative and count > 0 else ""
            found.append(f"{plus}{count} {unit}{'' if count == 1 else 's'}")
            before_negative = count < 0
    if micros or not found:
        sign = "-" if micros < 0 else "+" if before_negative else ""
        seconds, fraction = divmod(abs(micros), _MICROS_PER_SECOND)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        behind = f".{fraction:06}".rstrip("0") if fraction else ""
        found.append(f"{sign}{clock}{behind}")
    return " ".join(found)
