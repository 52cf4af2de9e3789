"""Which of a table's values Postgres may leave out: unchanged ones that are stored out of line.

Under REPLICA IDENTITY FULL they stand in the old tuple (stream.py takes them from there). Otherwise
they come from the store of cdc/completion.py.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import ChangeBatch, D, Int64s
from cdc.completion import LeftOut
from cdc.postgres.catalog import PgTable
from cdc.postgres.types import undomained

ROW_BYTES_MIN = 1000
"""Half of TOAST_TUPLE_THRESHOLD (2032): rows below have everything inline."""
_DENSE = ("text", "varchar", "bpchar", "bytea", "json", "numeric", "xml")
_OTHER_WEIGHT = 8


def left_out(table: PgTable) -> LeftOut:
    """What updates of the table can leave out."""
    remedy = f"ALTER TABLE {table.quoted} REPLICA IDENTITY FULL"
    return LeftOut(table.name, table.toastable, partial(large_rows, table), remedy)


def large_rows(table: PgTable, changes: ChangeBatch) -> Int64s:
    """The rows that may have values out of line: judged generously from their size."""
    if not table.toastable:
        return np.empty(0, np.int64)
    total = np.full(changes.num_rows, 8 * len(table.columns) + 24, np.int64)
    for column in table.columns:
        if column.toastable:
            weight = 1 if undomained(column.kind).name in _DENSE else _OTHER_WEIGHT
            total += weight * _lengths(changes.rows.column(column.name))
    return np.flatnonzero((total >= ROW_BYTES_MIN) & (changes.op != D))


def _lengths(column: pa.Array) -> Int64s:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        found = pc.binary_length(column)
    elif pa.types.is_list(kind):
        offsets = np.diff(np.asarray(column.offsets)).astype(np.int64)
        inner = column.values
        width = 16
        if pa.types.is_string(inner.type) or pa.types.is_binary(inner.type):
            sums = np.append(0, np.cumsum(_lengths(inner)))
            places = np.asarray(column.offsets)
            return offsets * width + np.asarray(sums[places[1:]] - sums[places[:-1]], np.int64)
        return offsets * width
    else:
        return np.full(len(column), 16, np.int64)
    return np.asarray(pc.fill_null(found, 0), dtype=np.int64)
