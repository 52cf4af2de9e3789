"""Updates that change the key, and rows → change batch.

Postgres sends an old tuple with an UPDATE under REPLICA IDENTITY FULL always ('O'), otherwise when
the key changed or may have ('K'). Whether it did is decided here by value: then the UPDATE is a
delete of the old key and an insert of the new row, with ordinals of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.changes import C, ChangeBatch, D, U
from cdc.errors import BadData
from cdc.postgres.rows import OLD_FULL, TableRows
from cdc.ragged import Bools, Bytes, Int64s
from cdc.schema import TableSchema


def moved(
    schema: TableSchema,
    op: Bytes,
    old_kind: Bytes,
    new: pa.RecordBatch,
    unchanged: Mapping[int, Bools],
    old: pa.RecordBatch | None,
) -> Bools:
    """Which messages are updates whose key differs from the old tuple's. Arguments as in
    rows.TableRows."""
    compared = (op == U) & (old_kind != 0)
    found = np.zeros(len(op), np.bool_)
    if old is None or not ragged.some(compared):
        return found
    in_old = ((old_kind != 0).cumsum() - 1)[compared]
    in_new = ((op != D).cumsum() - 1)[compared]
    differs = np.zeros(len(in_old), np.bool_)
    for number, column in enumerate(schema.columns):
        if column.name not in schema.key:
            continue
        before = old.column(number).take(pa.array(in_old))
        after = new.column(number).take(pa.array(in_new))
        # An unchanged TOAST value is null in the new tuple.
        same = unchanged[number][in_new] if number in unchanged else False
        differs |= _distinct(before, after) & ~np.asarray(same)
    found[compared] = differs
    return found


def _distinct(left: pa.Array, right: pa.Array) -> Bools:
    """left IS DISTINCT FROM right, row by row."""
    if isinstance(left, pa.ExtensionArray):
        left, right = left.storage, right.storage
    if pa.types.is_list(left.type):
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return np.fromiter((a != b for a, b in pairs), np.bool_, len(left))
    unequal = pc.fill_null(pc.not_equal(left, right), False)
    one_null = pc.xor(left.is_null(), right.is_null())
    return pc.or_(unequal, one_null).to_numpy(zero_copy_only=False)


def filled_from_old(rows: TableRows) -> TableRows:
    """The rows with unchanged TOAST values taken from the old tuples that have them: all columns
    of a full old tuple, the key's of a key. What cannot be filled stays in `unchanged`."""
    if not rows.unchanged or rows.old is None:
        return rows
    schema = rows.schema
    has_new = rows.op != D
    kind, old_at = rows.old_kind[has_new], rows.old_at[has_new]
    columns = list(rows.new.columns)
    left: dict[int, Bools] = {}
    for number, mask in rows.unchanged.items():
        is_identity = rows.table.relation.columns[rows.table.places[number]].is_identity
        fillable = mask & ((kind != 0) if is_identity else (kind == OLD_FULL))
        if ragged.some(fillable):
            columns[number] = _patched(columns[number], rows.old.column(number), fillable, old_at)
        if ragged.some(mask & ~fillable):
            left[number] = mask & ~fillable
    new = pa.RecordBatch.from_arrays(columns, schema=schema.arrow)
    return replace(rows, new=new, unchanged=left)


def _patched(new: pa.Array, old: pa.Array, mask: Bools, old_at: Int64s) -> pa.Array:
    both = pa.concat_arrays([new, old])
    place = np.where(mask, len(new) + old_at, np.arange(len(new)))
    return both.take(pa.array(place))


def to_changes(rows: TableRows) -> ChangeBatch:
    """The rows as changes; txn_seq is `txn`. `before` holds full old tuples only. BadData while
    an unchanged TOAST value has not been completed (SEMANTICS 11)."""
    if rows.unchanged:
        names = ", ".join(rows.schema.columns[number].name for number in rows.unchanged)
        raise BadData(
            f"unchanged TOAST values of {names} were not sent",
            where=rows.schema.name,
            hint=f"ALTER TABLE {rows.schema.name} REPLICA IDENTITY FULL, or let the agent keep "
            "its store of such values",
        )
    if rows.old is None:
        return ChangeBatch(rows.schema, rows.op, rows.txn, rows.ordinal, rows.commit_us, rows.new)
    return _with_old(rows, rows.old)


def _with_old(rows: TableRows, old: pa.RecordBatch) -> ChangeBatch:
    message = np.repeat(np.arange(len(rows.op)), 1 + rows.moved)
    second = np.zeros(len(message), np.bool_)
    second[1:] = message[1:] == message[:-1]
    first_of_two = rows.moved[message] & ~second
    op = np.where(first_of_two, np.uint8(D), np.where(second, np.uint8(C), rows.op[message]))
    deleted = op == D
    old_at = rows.old_at[message]
    has_before = (rows.old_kind[message] == OLD_FULL) & ~second
    before = None
    if ragged.some(has_before):
        before = old.take(pa.array(np.maximum(old_at, 0), mask=~has_before))
    return ChangeBatch(
        rows.schema,
        op,
        rows.txn[message],
        rows.ordinal[message] + second,
        rows.commit_us[message],
        _rows_after(rows, old, deleted, rows.new_at[message], old_at),
        before,
        has_before if before is not None else None,
    )


def _rows_after(
    rows: TableRows, old: pa.RecordBatch, deleted: Bools, new_at: Int64s, old_at: Int64s
) -> pa.RecordBatch:
    """New rows, and for deletes the key's columns of the old rows."""
    count = rows.new.num_rows
    of_key = pa.array(np.where(deleted, count + old_at, new_at))
    of_rest = pa.array(np.maximum(new_at, 0), mask=deleted)
    columns = []
    for number, column in enumerate(rows.schema.columns):
        new = rows.new.column(number)
        if column.name in rows.schema.key:
            columns.append(pa.concat_arrays([new, old.column(number)]).take(of_key))
        else:
            columns.append(new.take(of_rest))
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema.arrow)
