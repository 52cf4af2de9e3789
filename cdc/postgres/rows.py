"""The rows of one table as pgoutput sends them: new tuples, old tuples, and what is missing.

It is the form between decoding (pgoutput.py) and change batches (changed_keys.to_changes): here
unchanged TOAST values are still to be completed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import D
from cdc.errors import SchemaChanged
from cdc.postgres.messages import Relation
from cdc.postgres.types import PgType
from cdc.postgres.values import ColumnDecoder, compile_column
from cdc.ragged import Bools, Bytes, Int64s
from cdc.schema import TableSchema

NO_OLD, OLD_KEY, OLD_FULL = 0, ord("K"), ord("O")
"""TableRows.old_kind: whether an old tuple was sent, and which."""


@dataclass(frozen=True, eq=False)
class TableDecoder:
    """How one relation's tuples become rows of one schema version: see `compile_table`."""

    relation: Relation
    schema: TableSchema
    columns: tuple[ColumnDecoder, ...]
    places: tuple[int, ...]
    """For each column of the schema, its number in the relation's tuples."""


def compile_table(
    relation: Relation, schema: TableSchema, types: Mapping[str, PgType]
) -> TableDecoder:
    """The decoder of a relation. Columns are matched by name; columns of the relation that the
    schema lacks are skipped. `types` has the type of every column of the schema, by name.
    SchemaChanged when the relation lacks a column of the schema."""
    names = [column.name for column in relation.columns]
    missing = [column.name for column in schema.columns if column.name not in names]
    if missing:
        raise SchemaChanged(
            f"the stream of {schema.name} has no column {', '.join(missing)}",
            where=relation.table,
            hint="it was dropped or renamed, is generated, or is not in the publication",
        )
    columns = tuple(
        compile_column(f"{schema.name}.{column.name}", types[column.name])
        for column in schema.columns
    )
    return TableDecoder(
        relation, schema, columns, tuple(names.index(column.name) for column in schema.columns)
    )


@dataclass(frozen=True, eq=False)
class TableRows:
    """n row messages of one table, in order.

    index[n]      number of the message among the payloads
    op[n]         C, U, D
    txn[n]        transaction, from 0: the one open at the start, or the first that begins
    ordinal[n]    place within it; where `moved`, of the delete (the insert's is the next)
    commit_us[n]  commit time, microseconds since 1970 UTC
    new           rows sent as new tuples, one per C and U, in order
    unchanged     by column number: rows of `new` that have an unchanged TOAST value (null there)
    old           rows sent as old tuples (of 'K': null except the key), or None
    old_kind[n]   NO_OLD, OLD_KEY or OLD_FULL
    moved[n]      U that changed the key: two changes
    """

    table: TableDecoder
    index: Int64s
    op: Bytes
    txn: Int64s
    ordinal: Int64s
    commit_us: Int64s
    new: pa.RecordBatch
    unchanged: Mapping[int, Bools]
    old: pa.RecordBatch | None
    old_kind: Bytes
    moved: Bools

    @property
    def schema(self) -> TableSchema:
        return self.table.schema

    @property
    def new_at(self) -> Int64s:
        """For each message, its row in `new`; −1: none."""
        return _places(self.op != D)

    @property
    def old_at(self) -> Int64s:
        """For each message, its row in `old`; −1: none."""
        return _places(self.old_kind != NO_OLD)


def _places(present: Bools) -> Int64s:
    return np.where(present, present.cumsum() - 1, -1)
