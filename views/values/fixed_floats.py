"""Floats cut to their significant digits, as decimal text: how Postgres makes a NUMERIC of them.

Postgres prints with 15 significant digits (real: 6). Arrow prints the shortest text that reads back
equal; it lies on the same side of every shorter decimal as the float itself. So rounding that text
gives the same digits, unless it stands exactly in the middle: those rows are left to the caller.

1. The shortest texts as decimals, and the power of ten of each first digit.
2. Per power of ten, of which a batch has few: rounded half away from zero.
3. Printed without the zeros at the end of the fraction.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import Bools, Int64s
from views.values.arrays import valid, values
from views.values.fixed import negative, plain_text
from views.values.numeric_batches import gathered, rounded_away

_LOWEST = -6
_SCALE = 17 - _LOWEST
_EXPONENTS_FROM = 10
# Below 10^14, and one digit left in decimal128 for a carry.
_DIGITS = 37


def significant(array: pa.Array, digits: int) -> tuple[pa.Array, Bools]:
    """Canonical texts of the floats with so many significant digits, null where NULL or left out;
    and the rows left out: NaN, infinities, the very large and small, the middle."""
    data = values(array)
    powers = np.array([10.0**e for e in range(_LOWEST, digits)], data.dtype)
    size = np.abs(data)
    exponent = np.searchsorted(powers, size, side="right") - 1 + _LOWEST
    # Up to here at least one digit stands behind the point.
    inside = (size >= powers[0]) & (size < powers[-1])
    zero = data == 0
    exponent[zero] = 0
    odd = ~(inside | zero)
    ok = valid(array)
    known = ~odd if ok is None else ok & ~odd
    texts = pc.if_else(pa.array(known), array, pa.scalar(None, array.type)).cast(pa.string())
    numbers = texts.cast(pa.decimal128(_DIGITS, _SCALE))
    middle = _ends_in_the_middle(texts, exponent, digits) & known
    exponent[~known] = digits
    parts, places = [], []
    for power in np.unique(exponent).tolist():
        index = np.flatnonzero(exponent == power)
        places.append(index)
        if power == digits:
            parts.append(pa.nulls(len(index), pa.string()))
            continue
        picked = numbers.take(pa.array(index))
        cut = plain_text(rounded_away(picked, digits - 1 - power, negative(picked)))
        parts.append(pc.ascii_rtrim(pc.ascii_rtrim(cut, characters="0"), characters="."))
    return gathered(parts, places), odd | middle


def _ends_in_the_middle(texts: pa.Array, exponent: Int64s, digits: int) -> Bools:
    """Texts of one digit more than `digits`, a 5; anything for null."""
    data, places = ragged.contents(texts)
    if not len(data):
        return np.zeros(len(texts), np.bool_)
    # Arrow writes e+10 and so on from there on.
    ends = places[1:] - np.where(exponent >= _EXPONENTS_FROM, len("e+10"), 0)
    first, last = data[np.minimum(places[:-1], len(data) - 1)], data[np.maximum(ends - 1, 0)]
    characters = ends - places[:-1] - (first == ord("-")) - 1
    # Zeros before the first digit that counts.
    found = characters + np.minimum(exponent, 0)
    middle: Bools = (last == ord("5")) & (found == digits + 1)
    return middle
