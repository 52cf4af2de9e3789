"""Arithmetic and digits that decimals of every source need: 128 bits, groups of four digits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cdc.ragged import Bools

UInt64s = npt.NDArray[np.uint64]

FOUR_DIGITS = np.frombuffer("".join(f"{i:04}" for i in range(10_000)).encode(), np.uint8).reshape(
    10_000, 4
)
"""Row i: the four characters of i, with leading zeros."""

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def multiply(a: UInt64s, b: UInt64s | np.uint64) -> tuple[UInt64s, UInt64s]:
    """a · b in 128 bits: (high, low)."""
    a1, a0, b1, b0 = a >> _HALF, a & _LOW, b >> _HALF, b & _LOW
    low = a0 * b0
    middle = a1 * b0 + (low >> _HALF)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF), (other << _HALF) | (low & _LOW)


def negate(both: UInt64s, negative: Bools) -> None:
    """Negates the 128-bit integers where `negative`, in place: `both` has a row for each, the low
    and the high half."""
    low, high = both[:, 0], both[:, 1]
    # Two's complement: invert and add one, carrying into the high half where low became zero.
    np.invert(both, out=both, where=negative[:, None])
    low += negative
    high += negative & (low == 0)
