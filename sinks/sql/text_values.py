"""Values as text and back, for stores without an exact type of their own. Exact both ways.

DuckDB converts: it prints and reads every date, time and timestamp, with infinities and BC, and
every decimal. Lists are JSON arrays of such texts.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa


def texts(array: pa.Array) -> list[str | None]:
    """One text per value."""
    if isinstance(array.type, pa.ExtensionType):
        return list(array.storage.to_pylist())
    if pa.types.is_list(array.type):
        offsets = array.offsets.to_pylist()
        values = texts(array.values)
        return [
            json.dumps(values[start:stop]) if valid else None
            for start, stop, valid in zip(
                offsets[:-1], offsets[1:], array.is_valid().to_pylist(), strict=True
            )
        ]
    if pa.types.is_string(array.type):
        return list(array.to_pylist())
    if pa.types.is_binary(array.type):
        return [None if value is None else value.hex() for value in array.to_pylist()]
    return list(_cast(array, "VARCHAR").to_pylist())


def from_texts(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The inverse of `texts`."""
    if isinstance(kind, pa.ExtensionType):
        return kind.wrap_array(pa.array(values, pa.string()))
    if pa.types.is_list(kind):
        lists = [None if value is None else json.loads(value) for value in values]
        flat = from_texts([v for one in lists for v in one or ()], kind.value_type)
        offsets = list(accumulate((len(one or ()) for one in lists), initial=0))
        mask = pa.array([one is None for one in lists])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, kind, mask=mask)
    if pa.types.is_string(kind):
        return pa.array(values, kind)
    if pa.types.is_binary(kind):
        return pa.array([None if v is None else bytes.fromhex(v) for v in values], kind)
    return _cast(pa.array(values, pa.string()), _DUCK_TYPES.get(kind) or _decimal(kind)).cast(kind)


def _cast(array: pa.Array, to: str) -> pa.Array:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("_values", pa.Table.from_arrays([array], names=["v"]))
        found = connection.sql(f"SELECT CAST(v AS {to}) AS v FROM _values").to_arrow_table()
    column = found.column(0)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _decimal(kind: pa.DataType) -> str:
    return f"DECIMAL({kind.precision},{kind.scale})"


_DUCK_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
}
