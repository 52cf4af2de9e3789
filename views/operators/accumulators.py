"""Accumulators: what a group's state row holds for its aggregates (SEMANTICS 25).

An accumulator owns some columns of the state. `add` takes those columns of the touched groups (as
they were; neutral values for a new group) and one step's weighted values, and gives the columns as
they are afterwards; `read` turns columns into the aggregate's value. Aggregates of one argument
share what they can: sum(x), avg(x) and count(x) use one Count and one sum of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.changes import Bools, Int64s
from cdc.schema import NUMERIC_TEXT
from views.operators import slow_sums, wide_sums
from views.operators.grouping import Groups
from views.values.numeric import finish_avg


@dataclass(frozen=True, eq=False)
class Portion:
    """One step's rows of one argument, with their place among the `count` touched groups.

    `groups` groups these rows; `numbers[i]` is the touched group that its i-th group is.
    """

    values: pa.Array | None
    weights: Int64s
    groups: Groups
    numbers: Int64s | None
    count: int

    def sum(self, amounts: npt.NDArray[np.int64]) -> Int64s:
        """Per touched group the sum of amounts[row]."""
        sums = self.groups.sum(amounts)
        if self.numbers is None:
            return sums
        spread = np.zeros(self.count, np.int64)
        spread[self.numbers] = sums
        return spread

    def group_of_rows(self) -> Int64s:
        number = self.groups.number()
        return number if self.numbers is None else self.numbers[number]


class Accumulator(Protocol):
    types: tuple[pa.DataType, ...]

    def add(self, columns: Sequence[pa.Array], portion: Portion) -> list[pa.Array]: ...


class Count:
    """Rows (no argument), or rows whose argument is not NULL."""

    types = (pa.int64(),)

    def add(self, columns: Sequence[pa.Array], portion: Portion) -> list[pa.Array]:
        weights = portion.weights
        if portion.values is not None and portion.values.null_count:
            weights = weights * np.asarray(portion.values.is_valid())
        return [pa.array(columns[0].to_numpy() + portion.sum(weights))]


class WideSum:
    """The exact sum of integers or decimals."""

    def __init__(self, kind: pa.DataType) -> None:
        self.types = (pa.int64(),) * wide_sums.limb_count(kind)

    def add(self, columns: Sequence[pa.Array], portion: Portion) -> list[pa.Array]:
        assert portion.values is not None
        limbs = wide_sums.limbs_of(portion.values)
        weights = portion.weights
        sums = [
            old.to_numpy() + portion.sum(limb * weights)
            for old, limb in zip(columns, limbs, strict=True)
        ]
        return [pa.array(limb) for limb in wide_sums.carried(sums)]


class FloatSum:
    """The exact sum of floats, and how many NaN, +Infinity and -Infinity there are."""

    types = (pa.binary(), pa.int64(), pa.int64(), pa.int64())

    def add(self, columns: Sequence[pa.Array], portion: Portion) -> list[pa.Array]:
        assert portion.values is not None
        values, weights = portion.values, portion.weights
        floats = values.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        finite = np.isfinite(floats)
        row = portion.group_of_rows()
        states = slow_sums.add_floats(
            columns[0].to_pylist(), row[finite], floats[finite], weights[finite]
        )
        specials = [np.isnan(floats), floats == np.inf, floats == -np.inf]
        counts = [
            pa.array(old.to_numpy() + portion.sum(weights * special))
            for old, special in zip(columns[1:], specials, strict=True)
        ]
        return [pa.array(states, pa.binary()), *counts]


class NumericSum:
    """The exact sum of numerics without a common scale."""

    types = (pa.binary(),)

    def add(self, columns: Sequence[pa.Array], portion: Portion) -> list[pa.Array]:
        assert portion.values is not None
        valid = np.flatnonzero(np.asarray(portion.values.is_valid()))
        states = slow_sums.add_numerics(
            columns[0].to_pylist(),
            portion.group_of_rows()[valid],
            portion.values.take(pa.array(valid)),
            portion.weights[valid],
        )
        return [pa.array(states, pa.binary())]


Sum = WideSum | FloatSum | NumericSum


def sum_of(kind: pa.DataType) -> Sum:
    """The accumulator for sums of this type."""
    if isinstance(kind, pa.ExtensionType):
        return NumericSum()
    return FloatSum() if pa.types.is_floating(kind) else WideSum(kind)


def neutral(types: Sequence[pa.DataType], count: int) -> list[pa.Array]:
    """State columns of groups that did not exist."""
    return [
        pa.array(np.zeros(count, np.int64)) if pa.types.is_int64(t) else pa.repeat(_EMPTY, count)
        for t in types
    ]


_EMPTY = pa.scalar(b"", pa.binary())


def read_sum(
    kind: pa.DataType, columns: Sequence[pa.Array], counts: Int64s, result: pa.DataType
) -> pa.Array:
    """sum(x) for x of type `kind`; NULL where no value is there. Raises OverflowError."""
    none = counts == 0
    if isinstance(kind, pa.ExtensionType):
        texts = slow_sums.numeric_sums(columns[0].to_pylist())
        return _with_nulls(_numerics(pa.array(texts, pa.string()), result), none)
    if pa.types.is_floating(kind):
        return _with_nulls(_floats(columns, np.ones(len(none), np.int64), result), none)
    limbs = [column.to_numpy() for column in columns]
    scale = 0 if pa.types.is_integer(kind) else kind.scale
    return _with_nulls(wide_sums.to_array(limbs, scale, result), none)


def read_avg(
    kind: pa.DataType, columns: Sequence[pa.Array], counts: Int64s, result: pa.DataType
) -> pa.Array:
    """avg(x) for x of type `kind`; NULL where no value is there. Raises OverflowError."""
    if pa.types.is_floating(kind):
        return _with_nulls(_floats(columns, np.maximum(counts, 1), result), counts == 0)
    if isinstance(kind, pa.ExtensionType):
        sums = read_sum(kind, columns, counts, NUMERIC_TEXT)
    else:
        scale = 0 if pa.types.is_integer(kind) else kind.scale
        sums = wide_sums.exact([column.to_numpy() for column in columns], scale)
    return _numerics(finish_avg(sums, counts).storage, result)


def _numerics(texts: pa.Array, result: pa.DataType) -> pa.Array:
    return NUMERIC_TEXT.wrap_array(texts) if result == NUMERIC_TEXT else texts.cast(result)


def _floats(columns: Sequence[pa.Array], divisors: Int64s, result: pa.DataType) -> pa.Array:
    quotients = slow_sums.float_quotients(columns[0].to_pylist(), divisors.tolist())
    values = np.array(quotients, np.float64)
    nan, plus, minus = (column.to_numpy() > 0 for column in columns[1:])
    values[plus] = np.inf
    values[minus] = -np.inf
    values[nan | (plus & minus)] = np.nan
    found = pa.array(values).cast(result)
    if result == pa.float32() and (np.isinf(found.to_numpy()) & np.isfinite(values)).any():
        raise OverflowError("a sum is out of range for real")
    return found


def _with_nulls(values: pa.Array, none: Bools) -> pa.Array:
    if not none.any():
        return values
    index = pa.array(np.arange(len(none)), mask=none)
    return values.take(index)
