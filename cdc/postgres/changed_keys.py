"""Updates that change the key, and rows → change batch.

Postgres sends an old tuple with an UPDATE under REPLICA IDENTITY FULL always ('O'), otherwise when
the key changed or may have ('K'). Whether it did is decided here by value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cdc import changed_keys, ragged
from cdc.changed_keys import RowChanges
from cdc.changes import ChangeBatch, D, U
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
        differs |= changed_keys.distinct(before, after) & ~np.asarray(same)
    found[compared] = differs
    return found


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
    return changed_keys.to_changes(
        RowChanges(
            rows.schema,
            rows.op,
            rows.txn,
            rows.ordinal,
            rows.commit_us,
            rows.moved,
            rows.new,
            rows.new_at,
            rows.old,
            rows.old_at,
            rows.old_kind == OLD_FULL,
        )
    )
