"""Lists as Postgres array literals, `{1,NULL,"a"}` (documentation, "Array Input Syntax")."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY


def array_literals(lists: pa.Array) -> pa.Array:
    """One literal per list, null where the list is."""
    offsets = np.asarray(lists.offsets).astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    texts = pc.fill_null(_elements(lists.values.slice(first, last - first)), "NULL")
    relative = pa.array((offsets - first).astype(np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(relative, texts), ",")
    literals = pc.binary_join_element_wise("{", joined, "}", "")
    if lists.null_count:
        return pc.if_else(lists.is_valid(), literals, pa.scalar(None, pa.string()))
    return literals


def _elements(values: pa.Array) -> pa.Array:
    kind = values.type
    if isinstance(kind, pa.ExtensionType):
        return values.storage
    if pa.types.is_string(kind):
        escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
        return pc.binary_join_element_wise('"', escaped, '"', "")
    if pa.types.is_binary(kind):
        hexed = [None if v is None else '"\\\\x' + v.hex() + '"' for v in values.to_pylist()]
        return pa.array(hexed, pa.string())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _times(values)
    return values.cast(pa.string())


def _times(values: pa.Array) -> pa.Array:
    """Dates and timestamps through days and microseconds, so that infinities and BC survive."""
    is_date = pa.types.is_date(values.type)
    infinity = DATE_INFINITY if is_date else TIMESTAMP_INFINITY
    zone = "+00" if not is_date and values.type.tz else ""
    counts = values.view(pa.int32() if is_date else pa.int64()).to_pylist()
    texts = [None if c is None else _time_text(c, infinity, is_date, zone) for c in counts]
    return pa.array(texts, pa.string())


def _time_text(count: int, infinity: int, is_date: bool, zone: str) -> str:
    if abs(count) == infinity:
        return "infinity" if count > 0 else "-infinity"
    days, in_day_us = (count, 0) if is_date else divmod(count, 86_400_000_000)
    year, month, day = civil(days)
    text = f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}"
    if not is_date:
        seconds, micros = divmod(in_day_us, 1_000_000)
        text += f" {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}"
        text += zone
    return f'"{text}{" BC" if year <= 0 else ""}"'


def civil(days: int) -> tuple[int, int, int]:
    """Year, month, day of days since 1970, proleptic Gregorian; year 0 is 1 BC.

    H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    """
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return year_of_era + era * 400 + (month <= 2), month, day
