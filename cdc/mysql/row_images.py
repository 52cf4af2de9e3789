"""Row images that are not complete: what binlog_row_image leaves out.

    FULL      nothing
    NOBLOB    of an update, texts, blobs, JSON and geometry that it left alone
    MINIMAL   of an update, every column that it left alone; of an insert, columns that it does not
              name, which have their default; the old row is its key alone. Opt-in
              (`minimal_row_image`), since every row passes through the store of cdc/completion.py

An image says which columns it has, so nothing has to be known of the session that wrote it. A
default is not in the binlog: it is the catalog's, as long as the table is what it was when the
stream began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, ChangeBatch, D, Int64s, column_value
from cdc.completion import LeftOut, ValueStore
from cdc.errors import SourceError
from cdc.mysql.evolution import constant
from cdc.mysql.rows import TableDecoder
from cdc.mysql.tables import MyTable, described
from cdc.mysql.types import BLOBS, FieldType
from cdc.schema import Column

_LARGE = frozenset(BLOBS) | {FieldType.JSON, FieldType.GEOMETRY}
_REMEDY = "SET GLOBAL binlog_row_image = FULL"


@dataclass
class StoredValues:
    """See captured.Completion. `defaults`: the tables as the catalog had them when the stream
    began, or when they were made."""

    store: ValueStore
    defaults: Mapping[str, MyTable]
    minimal: bool

    def __call__(
        self,
        decoder: TableDecoder,
        changes: ChangeBatch,
        unchanged: Mapping[str, Bools],
        unnamed: Mapping[str, Bools],
    ) -> ChangeBatch:
        kept = left_out(decoder.table, minimal=self.minimal)
        if not kept.columns:
            return changes
        if unnamed:
            changes = self._inserted(decoder, changes, unnamed)
        if not unchanged:
            self.store.remember(kept, changes)
            return changes
        return self.store.complete(kept, changes, unchanged)

    def _inserted(
        self, decoder: TableDecoder, changes: ChangeBatch, unnamed: Mapping[str, Bools]
    ) -> ChangeBatch:
        columns = [
            self._filled(decoder, column, values, unnamed[column.name])
            if column.name in unnamed
            else values
            for column, values in zip(changes.schema.columns, changes.rows.columns, strict=True)
        ]
        rows = pa.RecordBatch.from_arrays(columns, schema=changes.rows.schema)
        return replace(changes, rows=rows)

    def _filled(
        self, decoder: TableDecoder, column: Column, values: pa.Array, fresh: Bools
    ) -> pa.Array:
        known = self.defaults[decoder.table.name]
        if described(known) != described(decoder.table):
            raise _unknown(decoder, column)
        default = next(c.default for c in known.columns if c.name == column.name)
        try:
            text = constant(column, default)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise _unknown(decoder, column) from error
        if text is None:
            return values
        scalar = column_value(column, text)
        if isinstance(values, pa.ExtensionArray):
            filled = pc.if_else(pa.array(fresh), scalar.value, values.storage)
            return values.type.wrap_array(filled)
        return pc.if_else(pa.array(fresh), scalar, values)


def _unknown(decoder: TableDecoder, column: Column) -> SourceError:
    return SourceError(
        f"an insert does not name {column.name}, and what it has by default is not in the binlog",
        where=decoder.table.name,
        hint=f"{_REMEDY}; then cdc remove the source, and cdc run takes a new snapshot",
    )


def left_out(table: MyTable, *, minimal: bool) -> LeftOut:
    """What updates of the table can leave out."""
    columns = tuple(
        c.name
        for c in table.columns
        if c.name not in table.key and (minimal or c.kind.code in _LARGE)
    )
    return LeftOut(table.name, columns, _live, _REMEDY)


def _live(changes: ChangeBatch) -> Int64s:
    return np.flatnonzero(changes.op != D)
