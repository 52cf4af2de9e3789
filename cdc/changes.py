"""The change batch: many changes of one table as Arrow columns.

It is the only form in which changes travel between functions; there is never a Python object per
row. Row i is one change:

    op[i]            C, U, D or R (insert, update, delete, snapshot read)
    txn_seq[i]       the source transaction's number in the log (SEMANTICS 1)
    ordinal[i]       its place within that transaction
    commit_us[i]     commit time, microseconds since 1970 UTC
    rows[i]          the row after the change; for D the key columns, all others null
    before[i]        the old row where the source sent one (valid where has_before[i]); kept for
                     people and for Debezium's envelope, never read by views (SEMANTICS 18)

A change of key is two changes: a delete of the old key, then an insert of the new one. TRUNCATE
is expanded to deletes. No value is ever "missing" (SEMANTICS 11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.schema import NUMERIC_TEXT, Column, TableSchema

C, U, D, R = (ord(letter) for letter in "cudr")

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ChangeBatch:
    """n changes of one table, in (txn_seq, ordinal) order. See the module's docstring."""

    schema: TableSchema
    op: Bytes
    txn_seq: Int64s
    ordinal: Int64s
    commit_us: Int64s
    rows: pa.RecordBatch
    before: pa.RecordBatch | None = None
    has_before: Bools | None = None

    @property
    def num_rows(self) -> int:
        return len(self.op)

    @property
    def nbytes(self) -> int:
        """Memory of the columns, in bytes."""
        return int(
            self.rows.nbytes + (self.before.nbytes if self.before else 0) + 25 * self.num_rows
        )

    def slice(self, start: int, length: int | None = None) -> ChangeBatch:
        """Changes start .. start+length, sharing memory."""
        stop = self.num_rows if length is None else min(start + length, self.num_rows)
        return ChangeBatch(
            self.schema,
            self.op[start:stop],
            self.txn_seq[start:stop],
            self.ordinal[start:stop],
            self.commit_us[start:stop],
            self.rows.slice(start, stop - start),
            None if self.before is None else self.before.slice(start, stop - start),
            None if self.has_before is None else self.has_before[start:stop],
        )

    def take(self, index: Int64s) -> ChangeBatch:
        """The changes at `index`, in that order."""
        picked = pa.array(index)
        return ChangeBatch(
            self.schema,
            self.op[index],
            self.txn_seq[index],
            self.ordinal[index],
            self.commit_us[index],
            self.rows.take(picked),
            None if self.before is None else self.before.take(picked),
            None if self.has_before is None else self.has_before[index],
        )

    def numbered(self, first: int) -> ChangeBatch:
        """The same changes as a part of transaction 0, with ordinals from `first`."""
        ordinal = np.arange(first, first + self.num_rows, dtype=np.int64)
        return replace(self, txn_seq=np.zeros(self.num_rows, np.int64), ordinal=ordinal)

    def shifted(self, txn_base: int) -> ChangeBatch:
        """The same changes with `txn_base` added to every txn_seq."""
        return replace(self, txn_seq=self.txn_seq + txn_base)

    def conformed(self, schema: TableSchema) -> ChangeBatch:
        """The same changes in a newer version of the table's schema.

        Columns are matched by attnum where both have one, else by name. A column that this batch
        lacks is filled with its `missing` value, except in deletes, which have only their key.
        """
        if schema == self.schema:
            return self
        deleted = self.op == D
        return replace(
            self,
            schema=schema,
            rows=_conform(self.rows, self.schema, schema, deleted),
            before=None
            if self.before is None
            else _conform(self.before, self.schema, schema, np.zeros(self.num_rows, np.bool_)),
        )

    def to_arrow(self) -> pa.RecordBatch:
        """One record batch for storage; `from_arrow` reads it back equal."""
        columns: list[pa.Array] = [
            pa.array(self.op),
            pa.array(self.txn_seq),
            pa.array(self.ordinal),
            pa.array(self.commit_us),
        ]
        names = list(_META)
        columns += self.rows.columns
        names += [f"r{i}" for i in range(len(self.schema.columns))]
        if self.before is not None and self.has_before is not None:
            columns += [pa.array(self.has_before), *self.before.columns]
            names += ["has_before", *(f"b{i}" for i in range(len(self.schema.columns)))]
        return pa.RecordBatch.from_arrays(columns, names=names)

    @classmethod
    def from_arrow(cls, schema: TableSchema, stored: pa.RecordBatch) -> ChangeBatch:
        """The batch that `to_arrow` wrote, whose rows have `schema`."""
        width = len(schema.columns)
        meta = [stored.column(i).to_numpy(zero_copy_only=False) for i in range(len(_META))]
        first = len(_META)
        rows = pa.RecordBatch.from_arrays(
            stored.columns[first : first + width], schema=schema.arrow
        )
        if stored.num_columns == first + width:
            return cls(schema, meta[0], meta[1], meta[2], meta[3], rows)
        has_before = stored.column(first + width).to_numpy(zero_copy_only=False)
        old = stored.columns[first + width + 1 :]
        before = pa.RecordBatch.from_arrays(old, schema=schema.arrow)
        return cls(schema, meta[0], meta[1], meta[2], meta[3], rows, before, has_before)


_META = ("op", "txn_seq", "ordinal", "commit_us")


def concat(batches: Sequence[ChangeBatch]) -> ChangeBatch:
    """The changes of `batches` (one schema, at least one batch), in their order."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    with_before = any(b.before is not None for b in batches)
    return ChangeBatch(
        first.schema,
        np.concatenate([b.op for b in batches]),
        np.concatenate([b.txn_seq for b in batches]),
        np.concatenate([b.ordinal for b in batches]),
        np.concatenate([b.commit_us for b in batches]),
        concat_rows([b.rows for b in batches], first.schema.arrow),
        concat_rows([_before_or_nulls(b) for b in batches], first.schema.arrow)
        if with_before
        else None,
        np.concatenate(
            [
                np.zeros(b.num_rows, np.bool_) if b.has_before is None else b.has_before
                for b in batches
            ]
        )
        if with_before
        else None,
    )


def concat_rows(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """Record batches of one schema joined into one (empty when there are none)."""
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
    columns = [pa.concat_arrays([b.column(i) for b in batches]) for i in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _before_or_nulls(batch: ChangeBatch) -> pa.RecordBatch:
    if batch.before is not None:
        return batch.before
    columns = [pa.nulls(batch.num_rows, c.type) for c in batch.schema.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema.arrow)


def _conform(
    rows: pa.RecordBatch, old: TableSchema, new: TableSchema, deleted: Bools
) -> pa.RecordBatch:
    columns = []
    for column in new.columns:
        at = _place(old, column)
        if at is None:
            columns.append(_filled(column, deleted))
        elif rows.column(at).type == column.type:
            columns.append(rows.column(at))
        else:
            columns.append(rows.column(at).cast(column.type))
    return pa.RecordBatch.from_arrays(columns, schema=new.arrow)


def _place(schema: TableSchema, column: Column) -> int | None:
    for i, candidate in enumerate(schema.columns):
        if candidate.attnum == column.attnum and (column.attnum or candidate.name == column.name):
            return i
    return None


def _filled(column: Column, deleted: Bools) -> pa.Array:
    if column.missing is None:
        return pa.nulls(len(deleted), column.type)
    value = column_value(column, column.missing)
    filled = pa.repeat(value, len(deleted))
    if isinstance(column.type, pa.ExtensionType):
        storage = pa.compute.if_else(pa.array(deleted), None, filled.storage)
        return column.type.wrap_array(storage)
    return pa.compute.if_else(pa.array(deleted), pa.scalar(None, column.type), filled)


def conforms(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether every value of a column's older type can be brought forward to the newer one."""
    if old == new:
        return True
    if new in (pa.string(), NUMERIC_TEXT):
        plain = not pa.types.is_nested(old) and not pa.types.is_binary(old)
        return plain and (new == pa.string() or pa.types.is_integer(old) or _is_decimal(old))
    if _is_decimal(old) and _is_decimal(new):
        whole = new.precision - new.scale >= old.precision - old.scale
        return bool(whole and new.scale >= old.scale)
    if pa.types.is_integer(old) and pa.types.is_integer(new):
        return bool(new.bit_width >= old.bit_width)
    if pa.types.is_timestamp(old) and pa.types.is_timestamp(new):
        return True
    return bool(old == pa.float32() and new == pa.float64())


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal128(kind))


def column_value(column: Column, text: str) -> pa.Scalar:
    """One value of the column from its text, as Postgres prints it."""
    if isinstance(column.type, pa.ExtensionType):
        return pa.ExtensionScalar.from_storage(column.type, pa.scalar(text))
    if pa.types.is_boolean(column.type):
        return pa.scalar(text in ("t", "true"))
    if pa.types.is_binary(column.type):
        return pa.scalar(bytes.fromhex(text.removeprefix("\\x")), pa.binary())
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return pa.scalar(text).cast(pa.string()).cast(column.type)
    return pa.scalar(text).cast(column.type)
