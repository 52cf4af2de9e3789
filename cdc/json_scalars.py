"""Values that are neither text nor lists, as text and back: exact both ways, a column at once.

    integers, booleans         as JSON has them                     17, true
    decimals, numeric          all digits of the scale              12.50
    floats                     the shortest digits that read back   0.1, 1e+300, NaN, -Infinity
    bytea                      base64 (RFC 4648, section 4)         AP8=
    date                       ISO 8601                             2024-01-31
    time                       microseconds always shown            12:34:56.789012
    timestamp, timestamptz     the same; the latter in UTC          2024-01-31T12:00:00.000000Z

Years count as in ISO 8601, which has a year 0 (1 BC). Outside 0000–9999 they have their sign,
ISO's expanded form: +12345-01-31, -0043-03-15. `infinity` and `-infinity` are what they are in
Postgres. Calendar arithmetic: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

Arrow's casts do the work. Rows that they do not print or read right (dates beyond, infinities,
24:00:00, decimals that they print as 1E-8) are found by one comparison and put in afterwards,
one by one per distinct value.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.errors import BadData
from cdc.json_strings import characters
from cdc.ragged import Bools, Int64s, Slices
from cdc.schema import DATE_INFINITY, TIMESTAMP_INFINITY

_DAY_US = 86_400_000_000
_FIRST_DAY, _LAST_DAY = -719_528, 2_932_896
"""0000-01-01 and 9999-12-31."""
_NAMED_FLOATS = (("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity"))
_SCALE_OF_EXPONENTS = 6
"""Decimals of a larger scale may be printed by Arrow with an exponent."""
_BASE64_PADS = pa.array([b"", b"\0\0", b"\0"], pa.binary())

_EXPANDED = re.compile(r"([+-]\d{4,})-(\d\d)-(\d\d)")
_CLOCK = re.compile(r"(\d\d):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?")
_NUMERIC = r"^(-?[0-9]+(\.[0-9]+)?|NaN|-?Infinity)$"
_DIGITS_MAX = 131_072 + 16_383
"""NUMERIC's own limits (Postgres, section 8.1.2): before and behind the point."""


def printed(column: pa.Array) -> pa.Array:
    """The values as strings; null where null. `column` has offset 0."""
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        return column.storage
    if pa.types.is_floating(kind):
        return _floats(column)
    if pa.types.is_decimal(kind):
        return _decimals(column)
    if pa.types.is_binary(kind):
        return _base64(column)
    if pa.types.is_date(kind):
        ends = (_FIRST_DAY, _LAST_DAY)
        return _moments(column, _counts(column, np.int32), ends, _date_text)
    if pa.types.is_time(kind):
        return _moments(column, _counts(column, np.int64), (0, _DAY_US - 1), _clock_text)
    if pa.types.is_timestamp(kind):
        return _timestamps(column)
    return column.cast(pa.string())


def parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """The inverse of `printed` for the strings `texts` (offset 0). BadData for text that is not
    the type's."""
    try:
        if pa.types.is_binary(kind):
            return _from_base64(texts)
        if pa.types.is_date(kind):
            return _from_moments(texts, kind, pa.int32(), _days_of_text)
        if pa.types.is_time(kind):
            return _from_moments(texts, kind, pa.int64(), _clock_of_text)
        if pa.types.is_timestamp(kind):
            read = _zoned_of_text if kind.tz else _timestamp_of_text
            return _from_moments(texts, kind, pa.int64(), read)
        if isinstance(kind, pa.ExtensionType):
            return kind.wrap_array(_canonical(texts))
        return texts.cast(kind)
    except (ValueError, OverflowError) as error:
        raise BadData(f"not of type {kind}: {error}") from error


def _floats(column: pa.Array) -> pa.Array:
    texts = column.cast(pa.string())
    if not ragged.some(characters(texts) == ord("n")):
        return texts
    for name, ours in _NAMED_FLOATS:
        texts = pc.if_else(pc.equal(texts, name), ours, texts)
    return texts


def _decimals(column: pa.Array) -> pa.Array:
    texts = column.cast(pa.string())
    scale = column.type.scale
    if scale <= _SCALE_OF_EXPONENTS or not ragged.some(characters(texts) == ord("E")):
        return texts
    # With 1 added the number has no exponent, and its first digit is the 1.
    mask = pc.fill_null(pc.match_substring(texts, "E"), False)
    values = column.filter(mask).cast(pa.decimal256(40, scale))
    one = pa.scalar(Decimal(1), pa.decimal256(40, scale))
    minus_one = pa.scalar(Decimal(-1), pa.decimal256(40, scale))
    zero = pa.scalar(Decimal(0), pa.decimal256(40, scale))
    moved = pc.add(values, pc.if_else(pc.less(values, zero), minus_one, one)).cast(pa.string())
    plain = pc.replace_substring_regex(moved, r"^(-?)1\.", r"\10.")
    return pc.replace_with_mask(texts, mask, plain)


def _base64(column: pa.Array) -> pa.Array:
    """Every value is filled up to whole groups of three bytes, so that all are one text."""
    values = column.fill_null(b"") if column.null_count else column
    _, places = ragged.contents(values)
    lengths = np.diff(places)
    rest = lengths % 3
    padded = pc.binary_join_element_wise(values, _BASE64_PADS.take(pa.array(rest)), b"")
    encoded = binascii.b2a_base64(characters(padded).tobytes(), newline=False)
    text = np.frombuffer(bytearray(encoded), np.uint8)
    widths = (lengths + 2) // 3 * 4
    ends = widths.cumsum()
    text[ends[rest == 1] - 2] = ord("=")
    text[ends[rest != 0] - 1] = ord("=")
    return _strings(column, text, ragged.offsets_of(widths))


def _from_base64(texts: pa.Array) -> pa.Array:
    filled = texts.fill_null("") if texts.null_count else texts
    data = characters(filled).copy()
    _, places = ragged.contents(filled)
    lengths = np.diff(places)
    if ragged.some(lengths % 4 != 0):
        raise ValueError("base64 has four characters a group")
    here = np.flatnonzero(lengths)
    pads = np.zeros(len(lengths), np.int64)
    for behind in (1, 2):
        here = here[data[places[1:][here] - behind] == ord("=")]
        data[places[1:][here] - behind] = ord("A")
        pads[here] += 1
    decoded = binascii.a2b_base64(data.tobytes(), strict_mode=True) if len(data) else b""
    valid = np.asarray(texts.is_valid()) if texts.null_count else None
    buffer = np.frombuffer(decoded, np.uint8)
    return ragged.binary(Slices(buffer, places[:-1] // 4 * 3, lengths // 4 * 3 - pads, valid))


def _counts(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[np.signedinteger]:
    return np.frombuffer(column.buffers()[1], dtype, len(column))


def _moments(
    column: pa.Array,
    counts: npt.NDArray[np.signedinteger],
    ends: tuple[int, int],
    spell: Callable[[int], str],
    *,
    zone: bool | None = None,
) -> pa.Array:
    """Dates or times, whose texts all have one width when they lie between the ends; the others
    are spelled one by one. `zone`, for timestamps: whether they end in Z."""
    odd = (counts < ends[0]) | (counts > ends[1])
    has_odd = ragged.some(odd)
    ordinary = np.where(odd, counts.dtype.type(0), counts) if has_odd else counts
    kind = column.type if zone is None else pa.timestamp("us")
    data = characters(ragged.fixed(kind, ordinary, None).cast(pa.string()))
    if zone is not None:
        data = _with_letters(data.reshape(len(column), -1), zone)
    width = len(data) // len(column)
    offsets = np.arange(0, width * (len(column) + 1), width, dtype=np.int32)
    texts = _strings(column, data, offsets)
    if column.null_count:
        odd &= np.asarray(column.is_valid())
    if not has_odd or not ragged.some(odd):
        return texts
    distinct, place = np.unique(counts[odd], return_inverse=True)
    spelled = pa.array([spell(count) for count in distinct.tolist()], pa.string())
    return pc.replace_with_mask(texts, pa.array(odd), spelled.take(pa.array(place)))


def _timestamps(column: pa.Array) -> pa.Array:
    zone = column.type.tz is not None
    ends = (_FIRST_DAY * _DAY_US, (_LAST_DAY + 1) * _DAY_US - 1)
    spell = _zoned_text if zone else _timestamp_text
    return _moments(column, _counts(column, np.int64), ends, spell, zone=zone)


def _with_letters(data: npt.NDArray[np.uint8], zone: bool) -> npt.NDArray[np.uint8]:
    rows, width = data.shape
    lettered = np.empty((rows, width + zone), np.uint8)
    lettered[:, :width] = data
    lettered[:, 10] = ord("T")
    lettered[:, width:] = ord("Z")
    return lettered.ravel()


def _strings(
    column: pa.Array, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]
) -> pa.Array:
    """A string array of these bytes, null where `column` (offset 0) is."""
    validity = column.buffers()[0] if column.null_count else None
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(column), buffers)


def _date_text(days: int) -> str:
    if abs(days) == DATE_INFINITY:
        return "infinity" if days > 0 else "-infinity"
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}-{month:02}-{day_of_year - (153 * shifted + 2) // 5 + 1:02}"


def _clock_text(time_us: int) -> str:
    seconds, micros = divmod(time_us, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{micros:06}"


def _timestamp_text(moment_us: int) -> str:
    if abs(moment_us) == TIMESTAMP_INFINITY:
        return "infinity" if moment_us > 0 else "-infinity"
    days, time_us = divmod(moment_us, _DAY_US)
    return f"{_date_text(days)}T{_clock_text(time_us)}"


def _zoned_text(moment_us: int) -> str:
    text = _timestamp_text(moment_us)
    return text if abs(moment_us) == TIMESTAMP_INFINITY else f"{text}Z"


def _from_moments(
    texts: pa.Array, kind: pa.DataType, counts: pa.DataType, read: Callable[[str], int]
) -> pa.Array:
    """The texts cast, except those that begin with a sign or an `i`, or with 24 as the hour."""
    odd = _odd(texts, pa.types.is_time(kind))
    if not ragged.some(odd):
        return _cast(texts, kind)
    mask = pa.array(odd)
    rest = _cast(pc.replace_with_mask(texts, mask, pa.nulls(int(odd.sum()), pa.string())), kind)
    coded = texts.filter(mask).dictionary_encode()
    values = pa.array([read(text) for text in coded.dictionary.to_pylist()], counts)
    found = pc.replace_with_mask(rest.view(counts), mask, values.take(coded.indices))
    return found.view(kind)


def _cast(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_time(kind):
        return texts.cast(kind)
    moments = pc.binary_join_element_wise("1970-01-01T", texts, "").cast(pa.timestamp("us"))
    return moments.view(pa.int64()).view(kind)


def _odd(texts: pa.Array, is_time: bool) -> Bools:
    data, places = ragged.contents(texts)
    starts: Int64s = places[:-1]
    here = starts < places[1:]
    if texts.null_count:
        here &= np.asarray(texts.is_valid())
    first = np.zeros(len(texts), np.uint8)
    first[here] = data[starts[here]]
    if not is_time:
        return here & ((first < ord("0")) | (first > ord("9")))
    late = np.zeros(len(texts), np.bool_)
    twenty = first == ord("2")
    late[twenty] = data[np.minimum(starts[twenty] + 1, len(data) - 1)] == ord("4")
    return late


def _days_of_text(text: str) -> int:
    if text in ("infinity", "-infinity"):
        return DATE_INFINITY if text == "infinity" else -DATE_INFINITY
    match = _EXPANDED.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a date")
    days = _days_from_civil(*(int(part) for part in match.groups()))
    if not _date_text(days).endswith(text[-6:]):
        raise ValueError(f"'{text}' is not in the calendar")
    return days


def _days_from_civil(year: int, month: int, day: int) -> int:
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def _clock_of_text(text: str) -> int:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a time")
    hour, minute, second = (int(part) for part in match.group(1, 2, 3))
    micros = int((match[4] or "").ljust(6, "0"))
    total = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros
    if total > _DAY_US:
        raise ValueError(f"'{text}' is after 24:00:00")
    return total


def _timestamp_of_text(text: str) -> int:
    if text in ("infinity", "-infinity"):
        return TIMESTAMP_INFINITY if text == "infinity" else -TIMESTAMP_INFINITY
    date, _, clock = text.partition("T")
    return _days_of_text(date) * _DAY_US + _clock_of_text(clock)


def _zoned_of_text(text: str) -> int:
    if not text.endswith(("Z", "infinity")):
        raise ValueError(f"'{text}' is not in UTC")
    return _timestamp_of_text(text.removesuffix("Z"))


def _canonical(texts: pa.Array) -> pa.Array:
    """NUMERIC's texts as they are; numbers with an exponent, as others write them, without it."""
    good = pc.fill_null(pc.match_substring_regex(texts, _NUMERIC), True)
    if good.false_count == 0:
        return texts
    wrong = pc.invert(good)
    spelled = [_without_exponent(text) for text in texts.filter(wrong).to_pylist()]
    return pc.replace_with_mask(texts, wrong, pa.array(spelled, pa.string()))


def _without_exponent(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"'{text}' is not a number") from error
    if not number.is_finite() or abs(number.adjusted()) > _DIGITS_MAX:
        raise ValueError(f"'{text}' is not a number that NUMERIC holds")
    return format(number, "f")
