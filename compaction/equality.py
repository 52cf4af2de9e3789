"""Equality of rows: by value, as keys are compared, or exactly, as rows cancel (SEMANTICS 22).

By value: -0.0 = 0.0, NaN = NaN, numeric 1.0 = 1.00. Exactly: the same bits, so that an update from
1.0 to 1.00 is a change. NULL equals NULL in both; joins drop NULL keys before they come here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, Int64s

Columns = Sequence[pa.Array]
RowKey = tuple[Hashable, ...]


def equal_values(left: Columns, right: Columns) -> Bools | None:
    """Per row, whether all columns are equal by value; None: all rows are."""
    return _equal(left, right, _differs_by_value)


def equal_exactly(left: Columns, right: Columns) -> Bools | None:
    """Per row, whether all columns are equal bit by bit; None: all rows are."""
    return _equal(left, right, _differs_exactly)


def _equal(
    left: Columns, right: Columns, differs: Callable[[pa.Array, pa.Array], Bools]
) -> Bools | None:
    found: Bools | None = None
    for a, b in zip(left, right, strict=True):
        if a.type == b.type and a.equals(b) and not pa.types.is_floating(a.type):
            continue
        here = differs(a, b)
        if here.any():
            found = here if found is None else found | here
    return None if found is None else ~found


def _differs_by_value(a: pa.Array, b: pa.Array) -> Bools:
    kind = a.type
    if isinstance(kind, pa.ExtensionType) or isinstance(b.type, pa.ExtensionType):
        return _numeric_texts_differ(a, b)
    if pa.types.is_nested(kind):
        return _differs_by_row(a, b, exact=False)
    differs = _null_safe(a, b)
    if pa.types.is_floating(kind) or pa.types.is_floating(b.type):
        both_nan = pc.and_(pc.is_nan(a), pc.is_nan(b))
        differs &= ~np.asarray(pc.fill_null(both_nan, False))
    return differs


def _differs_exactly(a: pa.Array, b: pa.Array) -> Bools:
    kind = a.type
    if isinstance(kind, pa.ExtensionType):
        return _null_safe(a.storage, b.storage)
    if pa.types.is_nested(kind):
        return _differs_by_row(a, b, exact=True)
    if pa.types.is_floating(kind):
        bits = pa.int64() if kind.bit_width == 64 else pa.int32()
        return _null_safe(a.view(bits), b.view(bits))
    return _null_safe(a, b)


def _null_safe(a: pa.Array, b: pa.Array) -> Bools:
    """a IS DISTINCT FROM b, per row."""
    unequal = pc.not_equal(a, b)
    if unequal.null_count:
        unequal = pc.if_else(pc.is_valid(unequal), unequal, pc.not_equal(a.is_null(), b.is_null()))
    return np.asarray(unequal)


def _numeric_texts_differ(a: pa.Array, b: pa.Array) -> Bools:
    same_type = a.type == b.type
    differs = _null_safe(a.storage, b.storage) if same_type else np.ones(len(a), np.bool_)
    # Texts that differ may still be one value (1.0 and 1.00); few rows ever come here.
    index = pa.array(np.flatnonzero(differs))
    if len(index):
        left, right = a.take(index), b.take(index)
        differs[index.to_numpy()] = _differs_by_row(left, right, exact=False)
    return differs


def _differs_by_row(a: pa.Array, b: pa.Array, exact: bool) -> Bools:
    left, right = _hashables(a, exact), _hashables(b, exact)
    return np.fromiter((x != y for x, y in zip(left, right, strict=True)), np.bool_, len(left))


def row_keys(columns: Columns, exact: bool) -> list[RowKey]:
    """One hashable per row: equal if and only if the rows are. For the few rows whose hashes
    collide; never for all rows of a batch."""
    return list(zip(*(_hashables(c, exact) for c in columns), strict=True))


def _hashables(column: pa.Array, exact: bool) -> list[Hashable]:
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        texts = column.storage.to_pylist()
        return texts if exact else [None if t is None else _number(Decimal(t)) for t in texts]
    if pa.types.is_floating(kind) and exact:
        return list(column.view(pa.int64() if kind.bit_width == 64 else pa.int32()).to_pylist())
    if pa.types.is_temporal(kind):
        return list(column.view(pa.int64() if kind.bit_width == 64 else pa.int32()).to_pylist())
    return [_hashable(v) for v in column.to_pylist()]


def _hashable(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    hashable: Hashable = value
    return hashable


def _number(value: Decimal) -> Hashable:
    return "NaN" if value.is_nan() else value


def representatives(
    codes: np.ndarray[Any, np.dtype[np.uint64]],
    equal_neighbours: Callable[[Int64s], Bools | None],
    keys_of: Callable[[Int64s], list[RowKey]],
) -> Int64s | None:
    """For each row of a batch sorted by `codes`, the first row of its code that is equal to it.

    equal_neighbours(i) says for each i whether rows i and i+1 are equal (None: all are);
    keys_of(i) gives hashable keys of rows i. None: no two rows are equal to each other.
    """
    if len(codes) < 2:
        return None
    same = codes[1:] == codes[:-1]
    index = np.flatnonzero(same)
    if not len(index):
        return None
    rows = np.arange(len(codes))
    starts = np.ones(len(codes), np.bool_)
    starts[1:] = ~same
    firsts: Int64s = np.maximum.accumulate(np.where(starts, rows, 0))
    equal = equal_neighbours(index)
    if equal is None:
        return firsts
    # Some code belongs to rows that differ: tell these rows apart one by one.
    collided = np.unique(firsts[index[~equal]])
    members = np.flatnonzero(np.isin(firsts, collided))
    seen: dict[Hashable, int] = {}
    for row, code, key in zip(
        members.tolist(), codes[members].tolist(), keys_of(members), strict=True
    ):
        firsts[row] = seen.setdefault((code, key), row)
    return firsts
