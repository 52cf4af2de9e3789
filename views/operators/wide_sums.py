"""Exact sums of integers and decimals in 32-bit limbs (SEMANTICS 25).

A value is limb[0] + limb[1]·2^32 + … with all limbs but the last in 0 .. 2^32-1 and the last one
signed. Limbs are summed as int64 columns, which cannot overflow below 2^31 rows a step, and carried
afterwards; so sums are linear, exact and vectorised, and a state row is a few int64 columns.
Integers and decimals of at most 18 digits take two limbs, wider decimals four.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, Int64s
from cdc.schema import NUMERIC_TEXT
from views.values.fixed import of_words, plain_text

_MASK = np.int64(0xFFFFFFFF)
_SHIFT = np.int64(32)
# Sums whose highest limb is smaller have at most 38 digits.
_NEAR_38_DIGITS = 10**38 >> 96
_WIDE = Context(prec=100)


def limb_count(kind: pa.DataType) -> int:
    """How many limbs sums of this type have."""
    if pa.types.is_integer(kind):
        return 2
    return 2 if kind.precision <= 18 else 4


def limbs_of(values: pa.Array) -> list[Int64s]:
    """A column's values as limbs; 0 for NULL."""
    kind = values.type
    if pa.types.is_integer(kind):
        filled = values.fill_null(0) if values.null_count else values
        words = filled.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return [words & _MASK, words >> _SHIFT]
    low, high = _words(values)
    if kind.precision <= 18:
        return [low & _MASK, low >> _SHIFT]
    return [low & _MASK, (low >> _SHIFT) & _MASK, high & _MASK, high >> _SHIFT]


def _words(values: pa.Array) -> tuple[Int64s, Int64s]:
    pairs = np.frombuffer(values.buffers()[1], np.int64, 2 * len(values), values.offset * 16)
    low, high = pairs[0::2], pairs[1::2]
    if values.null_count:
        valid = np.asarray(values.is_valid())
        return np.where(valid, low, 0), np.where(valid, high, 0)
    return low, high


def carried(limbs: Sequence[Int64s]) -> list[Int64s]:
    """The same sums with every limb but the last in range."""
    out = []
    carry: Int64s | None = None
    for limb in limbs[:-1]:
        total = limb if carry is None else limb + carry
        out.append(total & _MASK)
        carry = total >> _SHIFT
    last = limbs[-1]
    return [*out, last if carry is None else last + carry]


def to_array(limbs: Sequence[Int64s], scale: int, kind: pa.DataType) -> pa.Array:
    """Carried sums as int64, decimal128(38, scale) or canonical numeric text.

    Raises OverflowError when a sum does not fit `kind`.
    """
    if pa.types.is_integer(kind):
        if not _fits_int64(limbs).all():
            raise OverflowError(f"a sum is out of range for {kind}")
        return pa.array(_int64(limbs)).cast(kind)
    if isinstance(kind, pa.ExtensionType):
        return NUMERIC_TEXT.wrap_array(_texts(limbs, scale))
    if not _fit_decimal128(limbs):
        raise OverflowError("a sum has more than 38 digits")
    return of_words(_words_of(limbs), None, scale).cast(kind)


def exact(limbs: Sequence[Int64s], scale: int) -> pa.Array:
    """Carried sums as decimal128(38, scale); as canonical text when one has more digits."""
    kind = pa.decimal128(38, scale) if _fit_decimal128(limbs) else NUMERIC_TEXT
    return to_array(limbs, scale, kind)


def _int64(limbs: Sequence[Int64s]) -> Int64s:
    return (limbs[1] << _SHIFT) | limbs[0]


def _fits_int64(limbs: Sequence[Int64s]) -> Bools:
    if len(limbs) == 2:
        return _is_int32(limbs[1])
    sign = np.where(limbs[1] >= 2**31, np.int64(-1), np.int64(0))
    fits: Bools = (limbs[2] == (sign & _MASK)) & (limbs[3] == sign)
    return fits


def _is_int32(limb: Int64s) -> Bools:
    fits: Bools = (limb >= -(2**31)) & (limb < 2**31)
    return fits


def _words_of(limbs: Sequence[Int64s]) -> npt.NDArray[np.int64]:
    """The sums as (low, high) words of 64 bits; wrapped around where they need more."""
    words = np.empty((len(limbs[0]), 2), np.int64)
    words[:, 0] = _int64(limbs)
    words[:, 1] = limbs[1] >> _SHIFT if len(limbs) == 2 else (limbs[3] << _SHIFT) | limbs[2]
    return words


def _fit_decimal128(limbs: Sequence[Int64s]) -> bool:
    """Whether every sum has at most 38 digits."""
    if len(limbs) == 2:
        return True
    near = ~_is_int32(limbs[3]) | (np.abs(limbs[3]) >= _NEAR_38_DIGITS)
    return all(abs(value) < 10**38 for value in integers([limb[near] for limb in limbs]))


def _texts(limbs: Sequence[Int64s], scale: int) -> pa.Array:
    if scale == 0 and _fits_int64(limbs).all():
        return pa.array(_int64(limbs)).cast(pa.string())
    texts = plain_text(of_words(_words_of(limbs), None, scale))
    if len(limbs) == 2 or _is_int32(limbs[3]).all():
        return texts
    wide = ~_is_int32(limbs[3])
    late = [
        f"{Decimal(v).scaleb(-scale, _WIDE):f}" for v in integers([limb[wide] for limb in limbs])
    ]
    return pc.replace_with_mask(texts, pa.array(wide), pa.array(late, pa.string()))


def integers(limbs: Sequence[Int64s]) -> list[int]:
    """The sums as Python integers: for the few that leave 128 bits."""
    rows = zip(*(limb.tolist() for limb in limbs), strict=True)
    return [sum(limb << (32 * i) for i, limb in enumerate(row)) for row in rows]
