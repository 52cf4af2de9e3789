"""DECIMAL's binary form (decimal2bin in MySQL's strings/decimal.cc), exactly.

Nine digits are four bytes, big endian, counted from the point to both sides; the digits left over
at either end take as few bytes as hold them. So decimal(12,2) has 1 + 9 digits in 1 + 4 bytes
before the point and 2 digits in 1 byte behind it. The first bit is inverted, so that values sort
as their bytes do; a negative value has all its bits inverted.

The groups are read one by one over all rows: each is an integer and counts 10^k. Up to 18 digits
their sum is an int64, up to 38 digits an integer of 128 bits, above that they are printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from cdc import integers, ragged
from cdc.errors import BadData
from cdc.integers import FOUR_DIGITS, UInt64s
from cdc.ragged import Bools, Bytes, Int64s, Slices
from cdc.schema import NUMERIC_TEXT

_GROUP_DIGITS = 9
_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""Bytes that hold so many digits."""
_NARROW_DIGITS = 18
_POWERS = 10 ** np.arange(19, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Group:
    """`digits` digits in `size` bytes from `at` on; `behind`: digits of the number after them."""

    at: int
    size: int
    digits: int
    behind: int


def size_bytes(precision: int, scale: int) -> int:
    """Bytes of a decimal(precision, scale)."""
    last = _groups(precision, scale)[-1]
    return last.at + last.size


@cache
def _groups(precision: int, scale: int) -> tuple[_Group, ...]:
    whole = precision - scale
    first, last = whole % _GROUP_DIGITS, scale % _GROUP_DIGITS
    parts = [first] * (first > 0) + [_GROUP_DIGITS] * (whole // _GROUP_DIGITS)
    parts += [_GROUP_DIGITS] * (scale // _GROUP_DIGITS) + [last] * (last > 0)
    at, behind, found = 0, precision, []
    for digits in parts:
        behind -= digits
        found.append(_Group(at, _BYTES[digits], digits, behind))
        at += _BYTES[digits]
    return tuple(found)


def decimal(slices: Slices, kind: pa.DataType) -> pa.Array:
    """decimal128(p, s). BadData when bytes are no decimal."""
    groups = _groups(kind.precision, kind.scale)
    negative = _negative(slices)
    values = (_value(slices, group, negative) for group in groups)
    narrow = kind.precision <= _NARROW_DIGITS
    found = _narrow(groups, values, negative) if narrow else _wide(groups, values, negative)
    return ragged.fixed(kind, found, slices.valid)


def _negative(slices: Slices) -> Bools:
    return slices.buffer[slices.start] < 0x80


def _value(slices: Slices, group: _Group, negative: Bools) -> Int64s:
    """One group of every value; 0 in rows that are null."""
    stored = ragged.gather_int64(slices.buffer, slices.start + group.at, ">u4")
    stored >>= 8 * (4 - group.size)
    # All bits are inverted in negative values, and the first bit of the first group in all.
    inverted = -negative.astype(np.int64) & ((1 << 8 * group.size) - 1)
    if group.at == 0:
        inverted ^= 1 << 8 * group.size - 1
    stored ^= inverted
    if slices.valid is not None:
        stored *= slices.valid
    if len(stored) and int(stored.max()) >= int(_POWERS[group.digits]):
        row = int((stored >= _POWERS[group.digits]).argmax())
        raise BadData(f"bytes that are no decimal: {slices.first(row).hex(' ')}")
    return stored


def _narrow(groups: Sequence[_Group], values: Iterable[Int64s], negative: Bools) -> Int64s:
    total = np.zeros(len(negative), np.int64)
    for group, value in zip(groups, values, strict=True):
        total += value * _POWERS[group.behind]
    np.negative(total, out=total, where=negative)
    both = np.empty((len(total), 2), np.int64)
    both[:, 0] = total
    both[:, 1] = total >> 63
    return both


def _wide(groups: Sequence[_Group], values: Iterable[Int64s], negative: Bools) -> UInt64s:
    both = np.zeros((len(negative), 2), np.uint64)
    low, high = both[:, 0], both[:, 1]
    for group, value in zip(groups, values, strict=True):
        power = np.uint64(_POWERS[group.digits])
        carry, product = integers.multiply(low, power)
        high *= power
        high += carry
        low[:] = product
        added = value.astype(np.uint64)
        low += added
        high += low < added
    integers.negate(both, negative)
    return both


def text(slices: Slices, precision: int, scale: int) -> pa.Array:
    """NUMERIC_TEXT of a decimal(precision, scale): all digits of the scale, as SELECT prints it."""
    count, whole = len(slices), precision - scale
    negative = _negative(slices)
    digits = np.empty((count, precision), np.uint8)
    for group in _groups(precision, scale):
        last = precision - group.behind
        digits[:, last - group.digits : last] = _printed(_value(slices, group, negative), group)
    significant = digits != ord("0")
    negative &= significant.any(axis=1)
    laid = np.full((count, 2 + precision), ord("."), np.uint8)
    keep = np.ones(laid.shape, np.bool_)
    laid[:, 0], keep[:, 0] = ord("-"), negative
    laid[:, 1 : 1 + whole] = digits[:, :whole]
    np.logical_or.accumulate(significant[:, :whole], axis=1, out=keep[:, 1 : 1 + whole])
    keep[:, whole] = True
    keep[:, 1 + whole] = scale > 0
    laid[:, 2 + whole :] = digits[:, whole:]
    if slices.valid is not None:
        keep &= slices.valid[:, None]
    lengths = np.count_nonzero(keep, axis=1)
    return NUMERIC_TEXT.wrap_array(ragged.strings_of(laid[keep], lengths, slices.valid))


def _printed(value: Int64s, group: _Group) -> Bytes:
    """The digits of one group, with leading zeros."""
    parts = [value // 10_000**2, value // 10_000 % 10_000, value % 10_000]
    return np.hstack([FOUR_DIGITS[part] for part in parts])[:, 12 - group.digits :]
