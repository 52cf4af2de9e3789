"""NUMERICs of a whole batch as integers of one common scale, so that Arrow computes on them.

Reading gives a decimal128 array of at most DIGITS_MAX digits whose scale holds every row's, and
each row's display scale beside it. What does not fit (NaN, infinities, more digits) is null there
and marked in `rest`: the caller does these few rows with views.values.numeric. DIGITS_MAX leaves
room in Arrow's 76 digits for the product of any two.

Arrow declares precision per array and raises where an operation's declared digits pass 38 or 76,
so types are kept tight: as many digits as the batch's largest value has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import Bools, Int64s
from cdc.schema import NUMERIC_TEXT
from views.values.arrays import valid, values

UInt64s = npt.NDArray[np.uint64]
Scales = int | Int64s
"""The display scale of all rows, or of each."""

DIGITS_MAX = 36
POWERS: UInt64s = np.array([10**e for e in range(20)], np.uint64)
_SCALE_OF_MIXED = 18
_WIDE_MAX = (10**DIGITS_MAX >> 64) - 1
_SCIENTIFIC = ord("E")
_DIGITS_END = ord("9")
_ZERO, _POINT, _MINUS = ord("0"), ord("."), ord("-")


@dataclass(frozen=True, eq=False)
class Fixed:
    """`numbers`: decimal128 or decimal256; `shown`: display scales, at most the type's scale.

    `rest`: rows that have a value which did not fit, null in `numbers`; None: there is none.
    """

    numbers: pa.Array
    shown: Scales
    rest: Bools | None = None

    @property
    def scale(self) -> int:
        return int(self.numbers.type.scale)

    @property
    def whole_digits(self) -> int:
        return int(self.numbers.type.precision) - self.scale


def read(array: pa.Array) -> Fixed:
    """Integers, decimal128 or NUMERIC_TEXT."""
    if array.type == NUMERIC_TEXT:
        return _read_text(array.storage)
    if pa.types.is_integer(array.type):
        words = np.empty((len(array), 2), np.int64)
        words[:, 0] = values(array)
        words[:, 1] = words[:, 0] >> 63
        array = of_words(words, valid(array), 0)
    return _read_decimal(array)


def of_words(words: npt.NDArray[np.int64], ok: Bools | None, scale: int) -> pa.Array:
    """A decimal128 array of (low, high) 64-bit words."""
    buffers = [ragged.bitmap(ok), pa.py_buffer(np.ascontiguousarray(words))]
    return pa.Array.from_buffers(pa.decimal128(38, scale), len(words), buffers)


def words_of(array: pa.Array) -> npt.NDArray[np.int64]:
    """The 64-bit words of decimals, lowest first: n rows of 2 (decimal128) or 4."""
    width = array.type.bit_width // 64
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros((0, width), np.int64)
    words = np.frombuffer(buffer, np.int64, width * len(array), array.offset * 8 * width)
    return words.reshape(-1, width)


def retyped(array: pa.Array, precision: int) -> pa.Array:
    """The same decimals under another declared precision, without looking at them."""
    if array.type.precision == precision:
        return array
    kind = pa.decimal128 if array.type.bit_width == 128 else pa.decimal256
    made = kind(precision, array.type.scale)
    return pa.Array.from_buffers(made, len(array), array.buffers(), offset=array.offset)


def widened(array: pa.Array, precision: int, scale: int) -> pa.Array:
    """The same numbers with at least that scale; `precision` must hold them.

    decimal128 as long as `precision` and one digit more fit, for a carry.
    """
    narrow = precision < 38 and array.type.bit_width == 128
    if narrow and array.type.scale == scale:
        return retyped(array, precision)
    return array.cast((pa.decimal128 if narrow else pa.decimal256)(precision, scale))


def _read_decimal(array: pa.Array) -> Fixed:
    kind = array.type
    words = words_of(array)
    if (words[:, 1] == words[:, 0] >> 63).all():
        largest = int(np.abs(words[:, 0]).view(np.uint64).max(initial=0))
        return Fixed(retyped(array, max(len(str(largest)), 1)), kind.scale)
    fits = np.abs(words[:, 1] + (words[:, 1] < 0)) <= _WIDE_MAX
    rest = None
    if not fits.all():
        rest = _marked(~fits, valid(array))
        array = pc.if_else(pa.array(fits), array, pa.scalar(None, kind))
    return Fixed(retyped(array, DIGITS_MAX), kind.scale, rest)


def _marked(rows: Bools, ok: Bools | None) -> Bools | None:
    """Those of the rows that have a value; None: none has."""
    marked = rows if ok is None else rows & ok
    return marked if marked.any() else None


def _read_text(texts: pa.Array) -> Fixed:
    """Canonical text: an optional sign, digits, optionally a point and digits."""
    data, places = ragged.contents(texts)
    start, length = places[:-1], places[1:] - places[:-1]
    used = data[places[0] : places[-1]]
    scale, has_point = _points(used, places - places[0])
    negative = _first_bytes(data, start) == _MINUS
    whole = length - scale - has_point - negative
    fits = np.ones(len(texts), np.bool_)
    if len(used) and int(used.max()) > _DIGITS_END:
        fits = _first_bytes(data, start + (negative & (length > 1))) <= _DIGITS_END
    common = int(scale.max(initial=0, where=fits))
    if common + int(whole.max(initial=1, where=fits)) > DIGITS_MAX:
        common = min(common, _SCALE_OF_MIXED)
        fits &= (scale <= common) & (whole <= DIGITS_MAX - common)
    rest = None
    if not fits.all():
        rest = _marked(~fits, valid(texts))
        texts = pc.if_else(pa.array(fits), texts, pa.scalar(None, pa.string()))
    precision = common + max(int(whole.max(initial=1, where=fits)), 1)
    numbers = texts.cast(pa.decimal128(precision, common))
    shown: Scales = np.where(fits, scale, 0)
    if texts.null_count == 0 and (scale == common).all():
        shown = common
    return Fixed(numbers, shown, rest)


def _first_bytes(data: ragged.Bytes, at: Int64s) -> ragged.Bytes:
    """The byte at each place; something where there is none (an empty or null text)."""
    return data[np.minimum(at, len(data) - 1)] if len(data) else np.zeros(len(at), np.uint8)


def _points(used: ragged.Bytes, places: Int64s) -> tuple[Int64s, Int64s]:
    """Per text how many characters stand behind its point, and whether (0 or 1) it has one."""
    at = np.flatnonzero(used == _POINT)
    ends = places[1:]
    if len(at) == len(ends) and (at >= places[:-1]).all() and (at < ends).all():
        return ends - at - 1, np.ones(len(ends), np.int64)
    row = np.searchsorted(ends, at, side="right")
    scale, has = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
    scale[row], has[row] = ends[row] - at - 1, 1
    return scale, has


def text(given: Fixed) -> pa.Array:
    """As Postgres prints them: each row with its display scale, never an exponent."""
    numbers = narrowed(given.numbers)
    printed = plain_text(numbers)
    cut = given.scale - given.shown
    if not np.any(cut):
        return printed
    data, places = ragged.contents(printed)
    shown = np.broadcast_to(np.asarray(given.shown, np.int64), (len(printed),))
    ok = valid(printed)
    length = places[1:] - places[:-1] - cut - (shown == 0)
    if ok is not None:
        length = np.where(ok, length, 0)
    return ragged.text(ragged.Slices(data, places[:-1], length, ok))


def narrowed(array: pa.Array) -> pa.Array:
    """decimal256 as decimal128 where all rows allow it: half the cost of printing."""
    if array.type.bit_width == 128:
        return array
    words = words_of(array)
    sign = words[:, 1] >> 63
    if not ((words[:, 2] == sign) & (words[:, 3] == sign)).all() or array.type.scale > 38:
        return array
    return of_words(words[:, :2], valid(array), array.type.scale)


def plain_text(array: pa.Array) -> pa.Array:
    """Decimals in digits: Arrow turns to exponents for what is smaller than 10^-6."""
    printed = array.cast(pa.string())
    scale = array.type.scale
    if scale <= 6:
        return printed
    data, places = ragged.contents(printed)
    if not (data[places[0] : places[-1]] == _SCIENTIFIC).any():
        return printed
    odd = pc.fill_null(pc.match_substring(printed, "E"), False)
    few = array.filter(odd)
    digits = pc.ascii_lpad(unscaled_text(pc.abs(few)), scale, "0")
    sign = pc.if_else(pa.array(negative(few)), "-0.", "0.")
    return pc.replace_with_mask(printed, odd, pc.binary_join_element_wise(sign, digits, ""))


def negative(array: pa.Array) -> Bools:
    """Which decimals are below zero (null rows: anything)."""
    below: Bools = words_of(array)[:, -1] < 0
    return below


def constant(unscaled: int, kind: pa.DataType) -> pa.Scalar:
    """A decimal scalar by its integer. (pa.scalar refuses what has more zeros than digits.)"""
    word = unscaled.to_bytes(kind.bit_width // 8, "little", signed=True)
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(word)])[0]


def unscaled_text(array: pa.Array) -> pa.Array:
    """The digits of decimals as if their scale were 0."""
    kind = (pa.decimal128 if array.type.bit_width == 128 else pa.decimal256)(
        array.type.precision, 0
    )
    units = pa.Array.from_buffers(kind, len(array), array.buffers(), offset=array.offset)
    return units.cast(pa.string())


def decimal(given: Fixed, kind: pa.DataType) -> pa.Array:
    """As decimal128 `kind`, whose scale and digits must hold them."""
    return given.numbers if given.numbers.type == kind else given.numbers.cast(kind)
