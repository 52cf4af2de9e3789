"""Rows grouped by the value of their keys: GROUP BY's meaning (NULL equals NULL, SEMANTICS 22).

Sort by the keys' codes, compare neighbours of one code by value, and tell collided keys apart one
by one. The result is numpy index arrays, so that aggregates reduce with one `reduceat` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.changes import Bools, Int64s
from compaction.equality import RowKey, equal_values, representatives, row_keys


@dataclass(frozen=True, eq=False)
class Groups:
    """n rows in g groups.

    order   n: row numbers, so that each group's rows stand together, in ascending order
    starts  g: where in `order` each group begins
    first   g: one row of each group
    """

    order: Int64s
    starts: Int64s
    first: Int64s

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def last(self) -> Int64s:
        """Each group's last row."""
        return self.order[np.append(self.starts[1:], len(self.order)) - 1]

    def sum(self, values: npt.NDArray[np.int64]) -> Int64s:
        """Per group the sum of values[row] (n values)."""
        if len(self.order) == len(self.starts):
            return values[self.order]
        if not len(self.order):
            return np.zeros(len(self.starts), np.int64)
        summed: Int64s = np.add.reduceat(values[self.order], self.starts)
        return summed

    def number(self) -> Int64s:
        """For each row its group's number."""
        numbers = np.zeros(len(self.order), np.int64)
        marks = np.zeros(len(self.order), np.int64)
        marks[self.starts[1:]] = 1
        numbers[self.order] = np.cumsum(marks)
        return numbers


def group_rows(codes: npt.NDArray[np.uint64], keys: Sequence[pa.Array]) -> Groups:
    """Group rows by `keys`, whose codes (equal for equal keys) are `codes`.

    Without keys there is one group, also of no rows (then `first` is empty)."""
    if len(codes) == 1 or not keys:
        zero = np.zeros(1, np.int64)
        return Groups(np.arange(len(codes)), zero, zero[: len(codes)])
    order = np.argsort(codes, kind="stable")
    sorted_codes = codes[order]
    firsts = representatives(
        sorted_codes,
        lambda index: _equal_neighbours(order, keys, index),
        lambda index: _keys(order, keys, index),
    )
    if firsts is None:
        return Groups(order, np.arange(len(order)), order)
    if (firsts[1:] < firsts[:-1]).any():
        # Collided keys lie interleaved: bring each group's rows together.
        together = np.argsort(firsts, kind="stable")
        order, firsts = order[together], firsts[together]
    starts = np.flatnonzero(np.concatenate([[True], firsts[1:] != firsts[:-1]]))
    return Groups(order, starts, order[starts])


def _equal_neighbours(order: Int64s, keys: Sequence[pa.Array], index: Int64s) -> Bools | None:
    here, after = pa.array(order[index]), pa.array(order[index + 1])
    return equal_values([k.take(here) for k in keys], [k.take(after) for k in keys])


def _keys(order: Int64s, keys: Sequence[pa.Array], index: Int64s) -> list[RowKey]:
    if not keys:
        return [()] * len(index)
    picked = pa.array(order[index])
    return row_keys([k.take(picked) for k in keys], exact=False)
