"""Decimals as Connect carries them: the unscaled integer in two's complement, big endian.

Java's BigInteger.toByteArray: as few bytes as hold the number with its sign, at least one. The
scale stands elsewhere: in the schema (Decimal) or beside the bytes (VariableScaleDecimal).

Up to 128 bits, which is every decimal(38, s), whole columns go through two 64-bit words a row: the
words are laid out big endian, 16 bytes a row, and the leading bytes that only repeat the sign are
compressed away. Wider numbers, which only NUMERIC_TEXT has, go through Python's integers.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import json_scalars, ragged
from cdc.errors import BadData
from cdc.ragged import Int64s
from cdc.schema import NUMERIC_TEXT

_WIDE = 16
DIGITS = 38
_HALVES = 2
_FEW = 4
"""Up to here Python's integers cost less than arrays."""
_EXACT = Context(prec=DIGITS + 1, Emax=MAX_EMAX, Emin=MIN_EMIN)
NAN_HINT = (
    "Debezium's precise decimals have no NaN and no infinity (Debezium itself writes null): set "
    "decimal.handling.mode to string, or correct the row"
)


def to_bytes(column: pa.Array) -> pa.Array:
    """The unscaled bytes of a decimal128 column, as binary."""
    if len(column) <= _FEW:
        numbers = [None if v is None else _unscaled_integer(v) for v in column.to_pylist()]
        return pa.array([None if n is None else _big_endian(n) for n in numbers], pa.binary())
    words = np.frombuffer(column.buffers()[1], np.int64)
    low, high = words[2 * column.offset :: 2], words[2 * column.offset + 1 :: 2]
    low, high = low[: len(column)], high[: len(column)]
    valid = np.asarray(column.is_valid()) if column.null_count else None
    if valid is not None:
        low, high = low * valid, high * valid
    narrow = ragged.every(high == low >> 63)
    lengths = _byte_length(low) if narrow else _wide_length(low, high)
    if valid is not None:
        lengths = lengths * valid
    parts = (low,) if narrow else (high, low)
    laid = np.empty((len(column), len(parts)), ">i8")
    for place, part in enumerate(parts):
        laid[:, place] = part
    rows = laid.view(np.uint8).reshape(len(column), 8 * len(parts))
    width = rows.shape[1]
    data = rows[np.arange(width) >= (width - lengths)[:, None]]
    offsets = pa.py_buffer(ragged.offsets_of(lengths))
    return pa.Array.from_buffers(
        pa.binary(), len(column), [ragged.bitmap(valid), offsets, pa.py_buffer(data)]
    )


def _byte_length(words: Int64s) -> Int64s:
    """Bytes that hold each word with its sign. The exponent of the word as a double tells its
    highest bit; clearing the bits below a set one keeps the double from being rounded up."""
    magnitude = words ^ (words >> 63)
    magnitude &= ~(magnitude >> 1)
    exponent = (magnitude.astype(np.float64).view(np.int64) >> 52) - 1022
    return (np.maximum(exponent, 0) >> 3) + 1


def _wide_length(low: Int64s, high: Int64s) -> Int64s:
    # A low word whose first bit is not the sign needs the next byte.
    fits = high == low >> 63
    return np.where(
        fits, _byte_length(low), np.where(high == high >> 63, 9, 8 + _byte_length(high))
    )


def from_bytes(column: pa.Array, scale: int) -> pa.Array:
    """decimal128(38, scale) of unscaled bytes. BadData for more than 38 digits."""
    if len(column) <= _FEW:
        return _few_from_bytes(column.to_pylist(), scale)
    data, places = ragged.contents(column)
    data = np.concatenate([data, np.frombuffer(ragged.PAD, np.uint8)])
    start, length = places[:-1], np.diff(places)
    valid = np.asarray(column.is_valid()) if column.null_count else None
    if ragged.some(length > _WIDE):
        start, length = _stripped(data, start, length)
    both = np.zeros((len(column), _HALVES), np.int64)
    narrow = length <= 8
    shift = 8 * (8 - np.clip(length, 1, 8))
    both[:, 0] = ragged.gather_int64(data, start, ">i8") >> shift
    both[length == 0, 0] = 0
    if not ragged.every(narrow):
        wide = np.flatnonzero(~narrow)
        begin, size = start[wide], length[wide]
        both[wide, 1] = ragged.gather_int64(data, begin, ">i8") >> (8 * (_WIDE - size))
        both[wide, 0] = ragged.gather_int64(data, begin + size - 8, ">i8")
    both[narrow, 1] = both[narrow, 0] >> 63
    found = ragged.fixed(pa.decimal128(DIGITS, scale), both, valid)
    if ragged.some(length == _WIDE):
        _check_digits(both, length)
    return found


def _few_from_bytes(values: list[bytes | None], scale: int) -> pa.Array:
    found = []
    for value in values:
        number = 0 if value is None else int.from_bytes(value, "big", signed=True)
        if abs(number) >= 10**DIGITS:
            raise BadData("a decimal of more than 38 digits")
        found.append(None if value is None else Decimal(number).scaleb(-scale, _EXACT))
    return pa.array(found, pa.decimal128(DIGITS, scale))


def _unscaled_integer(value: Decimal) -> int:
    sign, digits, _ = value.as_tuple()
    number = int("".join(map(str, digits)))
    return -number if sign else number


def _stripped(data: npt.NDArray[np.uint8], start: Int64s, length: Int64s) -> tuple[Int64s, Int64s]:
    """Without leading bytes that only repeat the sign."""
    for row in np.flatnonzero(length > _WIDE).tolist():
        at, size = int(start[row]), int(length[row])
        number = int.from_bytes(data[at : at + size].tobytes(), "big", signed=True)
        needed = _size(number)
        if needed > _WIDE:
            raise BadData("a decimal of more than 38 digits")
        start[row], length[row] = at + size - needed, needed
    return start, length


def _check_digits(both: Int64s, length: Int64s) -> None:
    for low, high in both[length == _WIDE].tolist():
        if abs((high << 64) + (low & 0xFFFFFFFFFFFFFFFF)) >= 10**DIGITS:
            raise BadData("a decimal of more than 38 digits")


def texts_to_bytes(texts: pa.Array, scale: int) -> pa.Array:
    """The unscaled bytes, at a fixed scale, of NUMERIC_TEXT's texts."""
    _check_finite(texts)
    found = []
    for text in texts.to_pylist():
        found.append(None if text is None else _big_endian(_unscaled(text, scale)))
    return pa.array(found, pa.binary())


def _unscaled(text: str, scale: int) -> int:
    whole, _, behind = text.partition(".")
    if len(behind) > scale:
        raise BadData(
            f"{text} has more than {scale} digits behind the point",
            hint="the column's declared scale and its values differ: take its snapshot again",
        )
    return _integer(whole + behind.ljust(scale, "0"))


def scaled_parts(texts: pa.Array) -> tuple[Int64s, pa.Array]:
    """The scale, and the unscaled bytes, of each of NUMERIC_TEXT's texts (offset 0)."""
    _check_finite(texts)
    point = np.asarray(pc.fill_null(pc.find_substring(texts, "."), -1)).astype(np.int64)
    lengths = np.asarray(pc.fill_null(pc.binary_length(texts), 0)).astype(np.int64)
    scales = np.where(point < 0, 0, lengths - point - 1)
    digits = pc.replace_substring(texts, ".", "", max_replacements=1)
    if int(lengths.max(initial=0)) <= DIGITS:
        return scales, to_bytes(digits.cast(pa.decimal128(DIGITS, 0)))
    numbers = [None if text is None else _big_endian(_integer(text)) for text in digits.to_pylist()]
    return scales, pa.array(numbers, pa.binary())


def texts_from_bytes(column: pa.Array, scales: Int64s) -> pa.Array:
    """NUMERIC_TEXT of unscaled bytes and their scales. A negative scale means trailing zeros."""
    _, places = ragged.contents(column)
    widest = int(np.diff(places).max(initial=0))
    distinct = np.unique(scales).tolist()
    if 0 < widest < _WIDE and len(distinct) == 1 and 0 <= distinct[0] <= DIGITS:
        return NUMERIC_TEXT.wrap_array(json_scalars.printed(from_bytes(column, distinct[0])))
    rows = zip(column.to_pylist(), scales.tolist(), strict=True)
    texts = [None if value is None else _text(value, scale) for value, scale in rows]
    return NUMERIC_TEXT.wrap_array(pa.array(texts, pa.string()))


def _text(value: bytes, scale: int) -> str:
    number = int.from_bytes(value, "big", signed=True)
    if scale <= 0:
        return str(Decimal(number * 10**-scale))
    digits = str(Decimal(abs(number))).rjust(scale + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


def _check_finite(texts: pa.Array) -> None:
    # NaN and the infinities are the only texts with an n.
    named = pc.match_substring(texts, "n", ignore_case=True)
    if pc.any(named).as_py():
        raise BadData(f"numeric {texts.filter(named)[0]}", hint=NAN_HINT)


def _integer(digits: str) -> int:
    # Python's own int() and str() refuse more than 4300 digits.
    return int(Decimal(digits))


def _big_endian(number: int) -> bytes:
    return number.to_bytes(_size(number), "big", signed=True)


def _size(number: int) -> int:
    magnitude: int = ~number if number < 0 else number
    return magnitude.bit_length() // 8 + 1
