"""Updates that change the key: each is a delete of the old key, then an insert of the new row.

The database says that a row was updated; whether its key changed is decided here, by value. The
two changes have ordinals of their own, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import Bools, Bytes, C, ChangeBatch, D, Int64s
from cdc.schema import TableSchema


def distinct(left: pa.Array, right: pa.Array) -> Bools:
    """left IS DISTINCT FROM right, row by row."""
    if isinstance(left, pa.ExtensionArray):
        left, right = left.storage, right.storage
    if pa.types.is_list(left.type):
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return np.fromiter((a != b for a, b in pairs), np.bool_, len(left))
    unequal = pc.fill_null(pc.not_equal(left, right), False)
    one_null = pc.xor(left.is_null(), right.is_null())
    return pc.or_(unequal, one_null).to_numpy(zero_copy_only=False)


@dataclass(frozen=True, eq=False)
class RowChanges:
    """n changes as the database tells them, an update of a key being one.

    op[n]         C, U, D
    txn[n]        transaction
    ordinal[n]    place within it; where `moved`, of the delete (the insert's is the next)
    commit_us[n]  commit time, microseconds since 1970 UTC
    moved[n]      U that changed the key
    new, new_at   rows after the change, and each change's place among them (-1: none)
    old, old_at   rows before the change, the key's columns at least; likewise
    full[n]       the old row is there with all of its columns
    """

    schema: TableSchema
    op: Bytes
    txn: Int64s
    ordinal: Int64s
    commit_us: Int64s
    moved: Bools
    new: pa.RecordBatch
    new_at: Int64s
    old: pa.RecordBatch
    old_at: Int64s
    full: Bools


def to_changes(rows: RowChanges) -> ChangeBatch:
    """The changes, where `moved` two; txn_seq is `txn`. `before` holds full old rows only."""
    change = np.repeat(np.arange(len(rows.op)), 1 + rows.moved)
    second = np.zeros(len(change), np.bool_)
    second[1:] = change[1:] == change[:-1]
    first_of_two = rows.moved[change] & ~second
    op = np.where(first_of_two, np.uint8(D), np.where(second, np.uint8(C), rows.op[change]))
    old_at = rows.old_at[change]
    has_before = rows.full[change] & ~second
    before = None
    if ragged.some(has_before):
        before = rows.old.take(pa.array(np.maximum(old_at, 0), mask=~has_before))
    return ChangeBatch(
        rows.schema,
        op,
        rows.txn[change],
        rows.ordinal[change] + second,
        rows.commit_us[change],
        _rows_after(rows, op == D, rows.new_at[change], old_at),
        before,
        has_before if before is not None else None,
    )


def _rows_after(rows: RowChanges, deleted: Bools, new_at: Int64s, old_at: Int64s) -> pa.RecordBatch:
    """New rows, and for deletes the key's columns of the old rows."""
    of_key = pa.array(np.where(deleted, rows.new.num_rows + old_at, new_at))
    of_rest = pa.array(np.maximum(new_at, 0), mask=deleted)
    columns = []
    for number, column in enumerate(rows.schema.columns):
        new = rows.new.column(number)
        if column.name in rows.schema.key:
            columns.append(pa.concat_arrays([new, rows.old.column(number)]).take(of_key))
        else:
            columns.append(new.take(of_rest))
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema.arrow)
