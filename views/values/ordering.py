"""The order of values as Postgres has it (collation C), as dense ranks for numpy."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Int64s


def ranks(values: pa.Array) -> Int64s:
    """For each value its place in the order, equal values sharing one; NaN is the greatest number.

    Values must not be NULL.
    """
    if isinstance(values.type, pa.ExtensionType):
        return _numeric_ranks(values.storage.to_pylist())
    if pa.types.is_boolean(values.type):
        return values.cast(pa.uint8()).to_numpy(zero_copy_only=False).astype(np.int64)
    found = pc.rank(values, tiebreaker="dense").to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_floating(values.type):
        nan = np.asarray(pc.is_nan(values))
        if nan.any():
            found[nan] = len(values) + 1
    return found


def _numeric_ranks(texts: list[str]) -> Int64s:
    keys = [(t == "NaN", Decimal(0) if t == "NaN" else Decimal(t)) for t in texts]
    places = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.array([places[key] for key in keys], np.int64)
