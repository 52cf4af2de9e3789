"""Exact sums that do not fit fixed columns: floats, and numerics without a scale (SEMANTICS 25).

A group's state is one byte string, rewritten only when the group is touched.

Floats. Every finite float64 is an integer times 2^-1074, so a sum of floats is an integer too. One
step's values are split into 32-bit limbs of that integer and summed per (group, limb) with numpy;
only these few partial sums meet Python's integers. Stored: the number of low zero bytes (2 bytes,
little endian), then the integer without them, signed. The result is the correctly rounded quotient
of two integers, so it depends on the live rows alone, whatever was added and removed before.

Numerics. Per scale the count and the sum of the unscaled values (JSON; a very long sum as its
hexadecimal text): Postgres prints a sum with the largest scale among its inputs, so scales must be
able to leave again. One step's rows are summed per (group, scale) in the limbs of
views.operators.wide_sums.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.changes import Int64s
from views.operators import wide_sums
from views.values import fixed
from views.values.fixed import DIGITS_MAX, Fixed
from views.values.numeric import FEW

_SCALES = DIGITS_MAX + 1
_UNIT_BITS = 1074
_LIMB = 32
_EXACT = Context(prec=200_000)
# Python refuses to convert some longer integers from and to decimal text.
_LONG = 10**1000


def float_limbs(values: npt.NDArray[np.float64], weights: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Finite values times weights as (row, limb number, amount), up to three entries a value."""
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    # Subnormals have fewer bits: bring the shift to 0 or above, exactly.
    shift = exponent.astype(np.int64) - 53 + _UNIT_BITS
    below = np.minimum(shift, 0)
    whole >>= -below
    shift -= below
    sign = np.sign(whole)
    magnitude = np.abs(whole).astype(np.uint64)
    limb, bit = shift // _LIMB, (shift % _LIMB).astype(np.uint64)
    mask = np.uint64(2**_LIMB - 1)
    low = (magnitude & mask) << bit
    high = (magnitude >> np.uint64(_LIMB)) << bit
    middle = (low >> np.uint64(_LIMB)) + (high & mask)
    parts = (low & mask, middle & mask, (high >> np.uint64(_LIMB)) + (middle >> np.uint64(_LIMB)))
    rows, limbs, amounts = [], [], []
    for i, part in enumerate(parts):
        used = np.flatnonzero(part)
        rows.append(used)
        limbs.append(limb[used] + i)
        amounts.append(part[used].astype(np.int64) * sign[used] * weights[used])
    return np.concatenate(rows), np.concatenate(limbs), np.concatenate(amounts)


def add_floats(
    states: Sequence[bytes],
    groups: Int64s,
    values: npt.NDArray[np.float64],
    weights: Int64s,
) -> list[bytes]:
    """The groups' states after adding finite values[i] weights[i] times to group groups[i]."""
    row, limb, amount = float_limbs(values, weights)
    slot = groups[row] * 128 + limb
    order = np.argsort(slot, kind="stable")
    slot, amount = slot[order], amount[order]
    starts = np.flatnonzero(np.concatenate([[True], slot[1:] != slot[:-1]])) if len(slot) else slot
    sums = np.add.reduceat(amount, starts) if len(slot) else amount
    changed: dict[int, int] = {}
    for place, total in zip(slot[starts].tolist(), sums.tolist(), strict=True):
        group, at = divmod(place, 128)
        changed[group] = changed.get(group, 0) + (total << (_LIMB * at))
    out = list(states)
    for group, total in changed.items():
        out[group] = _packed(_unpacked(states[group]) + total)
    return out


def _packed(value: int) -> bytes:
    if not value:
        return b""
    zeros = ((value & -value).bit_length() - 1) // 8
    value >>= 8 * zeros
    body = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return zeros.to_bytes(2, "little") + body


def _unpacked(state: bytes) -> int:
    if not state:
        return 0
    zeros = int.from_bytes(state[:2], "little")
    return int.from_bytes(state[2:], "little", signed=True) << (8 * zeros)


def float_quotients(states: Sequence[bytes], divisors: Sequence[int]) -> list[float]:
    """sum / divisor per group, correctly rounded. Raises OverflowError beyond float64."""
    unit = 1 << _UNIT_BITS
    return [_unpacked(s) / (unit * d) for s, d in zip(states, divisors, strict=True)]


_SPECIAL = ("NaN", "Infinity", "-Infinity")

Parts = dict[str, list[int]]
"""Per scale (or special value) the count and the sum of the unscaled values."""


def add_numerics(
    states: Sequence[bytes], groups: Int64s, values: pa.Array, weights: Int64s
) -> list[bytes]:
    """The groups' states after adding the numeric values[i] weights[i] times to groups[i].

    `values`: NUMERIC_TEXT without NULL.
    """
    changed: dict[int, Parts] = {}
    one_by_one = np.arange(len(groups))
    if len(groups) > FEW:
        operand = fixed.read(values)
        one_by_one = np.flatnonzero(False if operand.rest is None else operand.rest)
        _add_batch(changed, groups, operand, weights)
    late = values.storage.take(pa.array(one_by_one)).to_pylist()
    for row, text in zip(one_by_one, late, strict=True):
        scale, unscaled = _split(text)
        _add_part(changed, int(groups[row]), scale, int(weights[row]), unscaled * int(weights[row]))
    out = list(states)
    for group, added in changed.items():
        parts = _read(states[group])
        for scale, (count, total) in added.items():
            old = parts.get(scale, [0, 0])
            parts[scale] = [old[0] + count, old[1] + total]
        out[group] = _written(parts)
    return out


def _read(state: bytes) -> Parts:
    stored: dict[str, list[Any]] = json.loads(state) if state else {}
    return {
        scale: [count, int(total, 16) if isinstance(total, str) else total]
        for scale, (count, total) in stored.items()
    }


def _written(parts: Parts) -> bytes:
    kept = {
        scale: [count, total if abs(total) < _LONG else hex(total)]
        for scale, (count, total) in sorted(parts.items())
        if count
    }
    return json.dumps(kept).encode()


def _split(text: str) -> tuple[str, int]:
    """(scale or special value, unscaled value)."""
    if text in _SPECIAL:
        return text, 0
    whole, _, fraction = text.partition(".")
    return str(len(fraction)), int(Decimal(whole + fraction))


def _add_part(changed: dict[int, Parts], group: int, scale: str, count: int, total: int) -> None:
    part = changed.setdefault(group, {}).setdefault(scale, [0, 0])
    part[0] += count
    part[1] += total


def _add_batch(changed: dict[int, Parts], groups: Int64s, given: Fixed, weights: Int64s) -> None:
    """Add the numbers to the changes, summed per group and scale."""
    if given.rest is not None:
        weights = np.where(given.rest, 0, weights)
    slot = groups * _SCALES + given.shown
    order = np.argsort(slot, kind="stable")
    slot = slot[order]
    starts = np.flatnonzero(np.concatenate([[True], slot[1:] != slot[:-1]]))
    counts = np.add.reduceat(weights[order], starts)
    limbs = wide_sums.limbs_of(given.numbers)
    sums = [np.add.reduceat((limb * weights)[order], starts) for limb in limbs]
    # Of numbers with less than the common scale the sum ends in as many zeros more.
    units = [10 ** (given.scale - shown) for shown in range(given.scale + 1)]
    places = zip(slot[starts].tolist(), counts.tolist(), wide_sums.integers(sums), strict=True)
    for place, count, total in places:
        group, shown = divmod(place, _SCALES)
        if count or total:
            _add_part(changed, group, str(shown), count, total // units[shown])


def numeric_sums(states: Sequence[bytes]) -> list[str]:
    """The groups' sums, with Postgres's scale; "0" for no rows."""
    return [_numeric_sum(_read(state)) for state in states]


def _numeric_sum(parts: Parts) -> str:
    special = [name for name in _SPECIAL if name in parts]
    if special:
        return special[0] if len(special) == 1 else "NaN"
    if not parts:
        return "0"
    scale = max(map(int, parts))
    total = sum(amount * 10 ** (scale - int(s)) for s, (_, amount) in parts.items())
    if abs(total) >= _LONG:
        return f"{Decimal(total).scaleb(-scale, _EXACT):f}"
    digits = str(abs(total)).rjust(scale + 1, "0")
    sign = "-" if total < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else sign + digits
