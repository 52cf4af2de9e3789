"""Arrow arrays from the values that tests invent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Temporal values from the integers that Arrow stores."""
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(pa.array(values, kind.storage_type))
    if pa.types.is_date(kind):
        return pa.array(values, pa.int32()).view(kind)
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.int64()).view(kind)
    if pa.types.is_list(kind):
        flat = array([item for value in values if value for item in value], kind.value_type)
        ends = np.cumsum([0, *(len(value) if value else 0 for value in values)])
        mask = pa.array([value is None for value in values], pa.bool_())
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, kind, mask=mask)
    return pa.array(values, kind)
