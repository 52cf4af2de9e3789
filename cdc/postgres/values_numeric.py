"""NUMERIC from its binary form, exactly.

numeric_send gives: ndigits int16, weight int16, sign uint16, dscale int16, then ndigits digits of
base 10000 (int16 each). The value is sum(digit[i] * 10000^(weight - i)); neither the first nor
the last digit is zero; dscale decimal digits are printed behind the point.

To a decimal with scale s, four digits at a time (one 8-byte gather): a chunk of k digits is an
integer m < 10^16 and counts m * 10^e with e = 4 (weight - first - k + 1) + s. Up to 18 digits the
sum is an int64, above that 128 bits in two uint64. A negative e divides, exactly, because the
type's scale allows no digit there.

To text, as numeric_out prints it: every digit's four characters are laid out with room for sign
and point, and what is not printed (leading zeros, digits behind dscale) is compressed away.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import integers, ragged
from cdc.errors import BadData
from cdc.integers import UInt64s
from cdc.ragged import Bools, Int64s, Slices
from cdc.schema import NUMERIC_TEXT

_NEGATIVE, _NAN, _PLUS_INFINITY, _MINUS_INFINITY = 0x4000, 0xC000, 0xD000, 0xF000
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_WIDE_POWERS = np.array([divmod(10**e, 1 << 64) for e in range(39)], dtype=np.uint64)
_LEADING_ZEROS = np.array([4 - len(str(i)) for i in range(10_000)], np.int64)

NAN_HINT = (
    "numeric(p,s) travels as an exact decimal, which has no NaN: correct the row, or declare the "
    "column numeric without precision"
)


def decimal(slices: Slices, kind: pa.DataType) -> pa.Array:
    """decimal128(p, s) of numerics declared with p ≤ 38 digits and scale s."""
    ndigits, weight, sign, _ = _headers(slices)
    if ragged.some(sign == _NAN):
        raise BadData("NaN in a numeric with precision", hint=NAN_HINT)
    negative = sign == _NEGATIVE
    wide = _wide if kind.precision > 18 else _narrow
    return ragged.fixed(kind, wide(slices, ndigits, weight, negative, kind.scale), slices.valid)


def from_text(slices: Slices, kind: pa.DataType) -> pa.Array:
    """decimal128(p, s) of numerics in text."""
    printed = ragged.text(slices)
    try:
        return printed.cast(kind)
    except pa.ArrowInvalid as error:
        if pc.any(pc.equal(printed, "NaN")).as_py():
            raise BadData("NaN in a numeric with precision", hint=NAN_HINT) from error
        raise BadData(f"not a {kind}: {error}") from error


def _headers(slices: Slices) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    packed = ragged.gather_int64(slices.buffer, slices.start, ">i8")
    ndigits = (packed >> 48) & 0xFFFF
    weight = (packed << 16) >> 48
    sign = (packed >> 16) & 0xFFFF
    if slices.valid is not None:
        ndigits, weight, sign, packed = (
            np.where(slices.valid, part, 0) for part in (ndigits, weight, sign, packed)
        )
    expected = 8 + 2 * ndigits
    if slices.valid is not None:
        expected = np.where(slices.valid, expected, 0)
    if not np.array_equal(expected, slices.length):
        raise BadData("a binary numeric whose length is not that of its digits")
    return ndigits, weight, sign, packed & 0xFFFF


def _narrow(slices: Slices, ndigits: Int64s, weight: Int64s, negative: Bools, scale: int) -> Int64s:
    total = np.zeros(len(slices), np.int64)
    for first in range(0, int(ndigits.max(initial=0)), 4):
        value, exponent = _chunk(slices, ndigits, weight, first, scale)
        if int(exponent.min()) >= 0:
            total += value * _POWERS[exponent]
        else:
            up = value * _POWERS[np.maximum(exponent, 0)]
            total += up // _POWERS[np.maximum(-exponent, 0)]
    np.negative(total, out=total, where=negative)
    both = np.empty((len(total), 2), np.int64)
    both[:, 0] = total
    both[:, 1] = total >> 63
    return both


def _wide(slices: Slices, ndigits: Int64s, weight: Int64s, negative: Bools, scale: int) -> UInt64s:
    both = np.zeros((len(slices), 2), np.uint64)
    low, high = both[:, 0], both[:, 1]
    for first in range(0, int(ndigits.max(initial=0)), 4):
        value, exponent = _chunk(slices, ndigits, weight, first, scale)
        value //= _POWERS[np.maximum(-exponent, 0)]
        power = _WIDE_POWERS[np.maximum(exponent, 0)]
        part = value.astype(np.uint64)
        carry, product = integers.multiply(part, power[:, 1])
        before = low.copy()
        low += product
        high += carry + part * power[:, 0] + (low < before)
    integers.negate(both, negative)
    return both


def _chunk(
    slices: Slices, ndigits: Int64s, weight: Int64s, first: int, scale: int
) -> tuple[Int64s, Int64s]:
    """Digits first .. first+4 of every value as an integer, and its power of ten."""
    count = np.minimum(np.maximum(ndigits - first, 0), 4)
    # Rows without these digits read some bytes of the buffer, which the next line clears.
    at = np.minimum(slices.start + 8 + 2 * first, len(slices.buffer) - 8)
    packed = ragged.gather_int64(slices.buffer, at, ">i8")
    packed = np.where(count > 0, packed >> (16 * (4 - np.maximum(count, 1))), 0)
    value = packed & 0xFFFF
    if int(count.max()) > 1:
        value += ((packed >> 16) & 0xFFFF) * 10_000 * (count > 1)
        value += ((packed >> 32) & 0xFFFF) * 10_000**2 * (count > 2)
        value += ((packed >> 48) & 0xFFFF) * 10_000**3 * (count > 3)
    exponent = np.where(count > 0, 4 * (weight - first - count + 1) + scale, 0)
    return value, exponent


def canonical(slices: Slices) -> pa.Array:
    """NUMERIC_TEXT of any numerics: the text that numeric_out prints."""
    ndigits, weight, sign, dscale = _headers(slices)
    whole = np.maximum(weight + 1, 1)
    behind = (dscale + 3) // 4
    groups = whole + behind
    row, place = ragged.positions_within(groups)
    # Group 0 is the units' group or the highest; digit i stands `whole - 1 - weight` later.
    digit = place - (whole - 1 - weight)[row]
    stored = (digit >= 0) & (digit < ndigits[row])
    at = slices.start[row] + 8 + 2 * np.where(stored, digit, 0)
    at = np.where(stored, at, 0)
    value = np.where(stored, ragged.gather_int64(slices.buffer, at, ">i2"), 0)

    width = 2 + 4 * groups
    base = width.cumsum() - width
    laid = np.zeros(int(width.sum()), np.uint8)
    keep = np.zeros(len(laid), np.bool_)
    laid[base], keep[base] = ord("-"), sign == _NEGATIVE
    point = base + 1 + 4 * whole
    laid[point], keep[point] = ord("."), dscale > 0
    in_whole = place < whole[row]
    target = (base[row] + 1 + 4 * place + ~in_whole)[:, None] + np.arange(4)
    laid[target] = integers.FOUR_DIGITS[value]
    zeros = np.minimum(_LEADING_ZEROS[value], 3) * (place == 0)
    last = np.where(in_whole, 4, dscale[row] - 4 * (place - whole[row]))
    column = np.arange(4)
    keep[target] = (column >= zeros[:, None]) & (column < last[:, None])
    kept = np.add.reduceat(keep, base, dtype=np.int64) if len(base) else np.zeros(0, np.int64)
    printed = ragged.strings_of(laid[keep], kept, None)
    return NUMERIC_TEXT.wrap_array(_specials(printed, sign, slices.valid))


def _specials(printed: pa.Array, sign: Int64s, valid: Bools | None) -> pa.Array:
    for mark, name in ((_NAN, "NaN"), (_PLUS_INFINITY, "Infinity"), (_MINUS_INFINITY, "-Infinity")):
        marked = sign == mark
        if ragged.some(marked):
            printed = pc.if_else(pa.array(marked), name, printed)
    if valid is not None:
        printed = pc.if_else(pa.array(valid), printed, pa.scalar(None, pa.string()))
    return printed


def canonical_from_text(slices: Slices) -> pa.Array:
    """NUMERIC_TEXT of numerics in text, which is canonical already."""
    return NUMERIC_TEXT.wrap_array(ragged.text(slices))
