"""NUMERIC arithmetic over whole batches, by Arrow's decimal kernels.

The results are those of views.values.numeric.

Each function takes operands as `Fixed` and gives a `Batch`. Rows that it cannot do are in `rest`;
they are then computed one by one.

A quotient is computed per display scale, of which a batch has few:
1. select_div_scale (src/backend/utils/adt/numeric.c) needs each operand's weight and first digit in
   base 10000.
2. Arrow's quotient of decimals truncates and has scale s1 + p2 - s2 + 1: the dividend gets as many
   zeros as take that past the display scale.
3. Half a unit of the display scale is added away from zero, and the rest cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import Bools, Int64s
from views.values.arrays import Values
from views.values.fixed import (
    POWERS,
    Fixed,
    Scales,
    UInt64s,
    constant,
    negative,
    retyped,
    text,
    unscaled_text,
    widened,
    words_of,
)

_ARROW_DIGITS_MAX = 76
_DIVISION_DIGITS_MIN = 16
_BASE_DIGITS = 4


@dataclass(frozen=True, eq=False)
class Batch:
    """Results as numbers, or as canonical texts; null in `bad` rows (Postgres raises there) and
    in `rest` rows (not computed)."""

    values: Fixed | pa.Array
    bad: Bools | None = None
    rest: Bools | None = None


Batched = Callable[..., Batch]


def _both(a: Fixed, b: Fixed, digits: int, scale: int) -> tuple[pa.Array, pa.Array]:
    """The operands at one scale, in arrays as wide as each other."""
    x, y = widened(a.numbers, digits, scale), widened(b.numbers, digits, scale)
    return x, y


def common(a: Fixed, b: Fixed) -> tuple[pa.Array, pa.Array]:
    """The operands as arrays of one type."""
    scale = max(a.scale, b.scale)
    return _both(a, b, max(a.whole_digits, b.whole_digits) + scale, scale)


def add(a: Fixed, b: Fixed) -> Batch:
    return Batch(Fixed(pc.add(*common(a, b)), _larger(a.shown, b.shown)))


def subtract(a: Fixed, b: Fixed) -> Batch:
    return Batch(Fixed(pc.subtract(*common(a, b)), _larger(a.shown, b.shown)))


def _larger(a: Scales, b: Scales) -> Scales:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def multiply(a: Fixed, b: Fixed) -> Batch:
    x, y = a.numbers, b.numbers
    if x.type.precision + y.type.precision >= 38:
        x, y = (z.cast(_wide_type(z.type)) for z in (x, y))
    return Batch(Fixed(pc.multiply(x, y), a.shown + b.shown))


def negate(a: Fixed) -> Batch:
    return Batch(Fixed(pc.negate(a.numbers), a.shown))


def absolute(a: Fixed) -> Batch:
    return Batch(Fixed(pc.abs(a.numbers), a.shown))


def divide(a: Fixed, b: Fixed) -> Batch:
    """Quotients as texts."""
    zero, b = _without_zeros(b)
    scales = _division_scales(a, b)
    rows = len(a.numbers)
    parts, places = [], []
    rest = np.zeros(rows, np.bool_)
    missing = np.asarray(pc.or_(a.numbers.is_null(), b.numbers.is_null()))
    scales[missing] = -1
    for scale in np.unique(scales).tolist():
        index = np.flatnonzero(scales == scale)
        quotients = None
        if scale >= 0:
            quotients = _quotients(a.numbers, b.numbers, index, scale)
            rest[index] = quotients is None
        if quotients is None:
            parts.append(pa.nulls(len(index), pa.string()))
        else:
            parts.append(text(Fixed(quotients, scale)))
        places.append(index)
    bad = zero & np.asarray(a.numbers.is_valid())
    return Batch(gathered(parts, places), bad if bad.any() else None, rest if rest.any() else None)


def remainder(a: Fixed, b: Fixed) -> Batch:
    """a - trunc(a / b) · b: the sign of a, the larger scale."""
    zero, b = _without_zeros(b)
    x, y = (_tight(z) for z in common(a, b))
    bad = zero & np.asarray(a.numbers.is_valid())
    # Of the product of quotient and divisor, and their difference from the dividend.
    digits = x.type.precision + y.type.precision + 2
    if digits > _ARROW_DIGITS_MAX:
        nothing = Fixed(pa.nulls(len(x), x.type), 0)
        return Batch(nothing, rest=np.asarray(pc.and_(x.is_valid(), y.is_valid())) | bad)
    if digits > 38:
        x, y = (z.cast(_wide_type(z.type)) for z in (x, y))
    ratio = pc.divide(x, y)
    whole = ratio.cast(_decimal_type(ratio.type, x.type.precision, 0), safe=False)
    left = pc.subtract(x, pc.multiply(whole, y))
    return Batch(Fixed(left, _larger(a.shown, b.shown)), bad if bad.any() else None)


def _wide_type(kind: pa.DataType) -> pa.DataType:
    return pa.decimal256(kind.precision, kind.scale)


def _without_zeros(b: Fixed) -> tuple[Bools, Fixed]:
    """Which divisors are 0, and the divisors with NULL in their places."""
    zero: Bools = np.logical_not(words_of(b.numbers).any(axis=1))
    if b.numbers.null_count:
        zero &= np.asarray(b.numbers.is_valid())
    if not zero.any():
        return zero, b
    none = pa.scalar(None, b.numbers.type)
    return zero, Fixed(pc.if_else(pa.array(zero), none, b.numbers), b.shown, b.rest)


def gathered(parts: list[pa.Array], places: list[Int64s]) -> pa.Array:
    """The parts' rows, each in its place."""
    if len(parts) == 1:
        return parts[0]
    order = np.empty(sum(map(len, places)), np.int64)
    order[np.concatenate(places)] = np.arange(len(order))
    return pa.concat_arrays(parts).take(pa.array(order))


def _quotients(a: pa.Array, b: pa.Array, index: Int64s, scale: int) -> pa.Array | None:
    """a / b in the rows `index`, rounded to `scale`; None where Arrow has too few digits."""
    if len(index) < len(a):
        picked = pa.array(index)
        a, b = a.take(picked), b.take(picked)
    a, b = _tight(a), _tight(b)
    (p1, s1), (p2, s2) = ((x.type.precision, x.type.scale) for x in (a, b))
    zeros = max(0, scale + 1 - max(4, s1 + p2 - s2 + 1))
    if zeros:
        zeros = scale + 1 - (s1 + p2 - s2 + 1)
    p1, s1 = p1 + zeros, s1 + zeros
    made = max(4, s1 + p2 - s2 + 1)
    # One for the carry.
    digits = max(p1 - s1 + s2, 0) + made + 1
    if digits > _ARROW_DIGITS_MAX:
        return None
    narrow = digits <= 38
    kind = pa.decimal128 if narrow else pa.decimal256
    if zeros or not narrow:
        a = a.cast(kind(p1, s1))
    if not narrow:
        b = b.cast(kind(p2, s2))
    return rounded_away(pc.divide(a, b), scale, negative(a) != negative(b))


def _tight(array: pa.Array) -> pa.Array:
    """With no more declared digits than the largest value has."""
    magnitude = _narrow_magnitude(array)
    if magnitude is None:
        return array
    return retyped(array, max(len(str(int(magnitude.max(initial=0)))), 1))


def _narrow_magnitude(array: pa.Array) -> UInt64s | None:
    """The unscaled magnitudes of decimal128 values when all of them fit in 64 bits."""
    words = words_of(array)
    low, high = words[:, 0], words[:, 1]
    if not (high == low >> 63).all():
        return None
    return np.abs(low).view(np.uint64)


def rounded_away(array: pa.Array, scale: int, below_zero: Bools) -> pa.Array:
    """Half away from zero at `scale`, which is less than the array's; `below_zero`: each row's
    sign, also where the array has lost it. The carry takes one digit more than the array has."""
    kind = array.type
    unit = 10 ** (kind.scale - scale)
    narrow = _decimal_type(kind, kind.scale, kind.scale)
    below, above = (constant(half, narrow) for half in (-unit // 2, unit // 2))
    added = pc.add(array, pc.if_else(pa.array(below_zero), below, above))
    return added.cast(_decimal_type(kind, added.type.precision, scale), safe=False)


def _decimal_type(like: pa.DataType, precision: int, scale: int) -> pa.DataType:
    return (pa.decimal128 if like.bit_width == 128 else pa.decimal256)(precision, scale)


def _division_scales(a: Fixed, b: Fixed) -> Int64s:
    (a_weight, a_first), (b_weight, b_first) = _leading(a.numbers), _leading(b.numbers)
    weight = a_weight - b_weight - (a_first <= b_first)
    scales = _DIVISION_DIGITS_MIN - weight * _BASE_DIGITS
    for shown in (a.shown, b.shown, 0):
        scales = np.maximum(scales, shown)
    return scales


def _leading(array: pa.Array) -> tuple[Int64s, Int64s]:
    """Weight and value of each number's first base-10000 digit; 0, 0 for zero."""
    scale = array.type.scale
    magnitude = _narrow_magnitude(array)
    if magnitude is None:
        return _leading_of_texts(unscaled_text(pc.abs(array)), scale)
    digits = np.searchsorted(POWERS, magnitude, side="right")
    weight = (digits - 1 - scale) // _BASE_DIGITS
    # Of its digits, so many are below the first base-10000 digit.
    below = _BASE_DIGITS * weight + scale
    first = (magnitude // POWERS[np.maximum(below, 0)]) * POWERS[np.maximum(-below, 0)]
    zero = magnitude == 0
    return np.where(zero, 0, weight), first.astype(np.int64)


def _leading_of_texts(digits: pa.Array, scale: int) -> tuple[Int64s, Int64s]:
    data, places = ragged.contents(digits)
    length = places[1:] - places[:-1]
    padded = np.concatenate([data, np.full(_BASE_DIGITS, ord("0"), np.uint8)])
    weight = (length - 1 - scale) // _BASE_DIGITS
    used = length - (_BASE_DIGITS * weight + scale)
    first = np.zeros(len(length), np.int64)
    for i in range(_BASE_DIGITS):
        digit = np.where(i < length, padded[places[:-1] + i].astype(np.int64) - ord("0"), 0)
        first = np.where(i < used, first * 10 + digit, first)
    return np.where(first == 0, 0, weight), first


_ROUNDING_MODES = {
    "round": "half_towards_infinity",
    "trunc": "towards_zero",
    "ceil": "up",
    "floor": "down",
}


def rounding(name: str, places: int) -> Batched:
    """round, trunc, ceil or floor to that many places (negative: before the point)."""
    mode = _ROUNDING_MODES[name]

    def run(a: Fixed) -> Batch:
        shown = max(places, 0)
        if places >= a.scale:
            digits = a.whole_digits + places
            if digits > _ARROW_DIGITS_MAX:
                return Batch(a, rest=np.ones(len(a.numbers), np.bool_))
            return Batch(Fixed(widened(a.numbers, digits, places), shown))
        digits = max(a.numbers.type.precision, a.scale - min(places, 0)) + 1
        if digits > _ARROW_DIGITS_MAX:
            return Batch(a, rest=np.ones(len(a.numbers), np.bool_))
        numbers = widened(a.numbers, digits, a.scale)
        return Batch(Fixed(pc.round(numbers, ndigits=places, round_mode=mode), shown))

    return run


def fitting(precision: int, scale: int) -> Batched:
    """As numeric(precision, scale): half away from zero; too many digits raise."""

    def run(a: Fixed) -> Batch:
        numbers = a.numbers
        digits = max(numbers.type.precision + 1, a.whole_digits + scale + 1)
        if scale < 0 or digits >= _ARROW_DIGITS_MAX:
            return Batch(a, rest=np.ones(len(numbers), np.bool_))
        numbers = widened(numbers, digits, max(a.scale, scale))
        if a.scale > scale:
            numbers = rounded_away(numbers, scale, negative(numbers))
        bad = None
        if numbers.type.precision > precision:
            limit = constant(10**precision, numbers.type)
            over = pc.greater_equal(pc.abs(numbers), limit)
            flagged = np.asarray(pc.fill_null(over, False))
            if flagged.any():
                bad = flagged
                numbers = pc.if_else(over, pa.scalar(None, numbers.type), numbers)
        return Batch(Fixed(numbers, scale), bad)

    return run


def integers(a: Fixed) -> tuple[Values, Bools]:
    """Rounded half away from zero to int64, and where that is out of range."""
    numbers = a.numbers
    if a.scale:
        wide = widened(numbers, numbers.type.precision + 1, a.scale)
        numbers = rounded_away(wide, 0, negative(wide))
    words = words_of(numbers)
    bad = (words[:, 1:] != (words[:, :1] >> 63)).any(axis=1)
    return words[:, 0].copy(), bad
