"""Row images that are not complete: what binlog_row_image leaves out.

    FULL      nothing
    NOBLOB    of an update, texts, blobs, JSON and geometry that it left alone
    MINIMAL   of an update, every column that it left alone; of an insert, columns that it does not
              name, which have their default; the old row is its key alone. Opt-in
              (`minimal_row_image`), since every row passes through the store of cdc/completion.py

An image says which columns it has, so nothing has to be known of the session that wrote it, but
that it leaves out no more than the server's setting allows. Defaults: defaults.py.
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
from cdc.mysql.defaults import Defaults, can_be_left_out
from cdc.mysql.evolution import constant
from cdc.mysql.rows import TableDecoder
from cdc.mysql.tables import MyTable
from cdc.schema import Column

_REMEDY = "SET GLOBAL binlog_row_image = FULL"


@dataclass
class StoredValues:
    """See captured.Completion."""

    store: ValueStore
    defaults: Defaults

    def __call__(
        self,
        decoder: TableDecoder,
        changes: ChangeBatch,
        unchanged: Mapping[str, Bools],
        unnamed: Mapping[str, Bools],
    ) -> ChangeBatch:
        kept = left_out(decoder.table, minimal=self.defaults.minimal)
        more = sorted({*unchanged, *unnamed} - {*kept.columns})
        if more:
            raise SourceError(
                f"a change came without its values of {', '.join(more)}: a session has "
                "binlog_row_image = MINIMAL, the server NOBLOB",
                where=decoder.table.name,
                hint="let every session begin anew; then cdc remove the source, and cdc run takes "
                "a new snapshot",
            )
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
        default = self.defaults.of(decoder.table.name, column.name)
        try:
            text = constant(column, default)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise SourceError(
                f"an insert does not name {column.name}, and what it has by default is not in the "
                "binlog",
                where=decoder.table.name,
                hint=f"{_REMEDY}; then cdc remove the source, and cdc run takes a new snapshot",
            ) from error
        if text is None:
            return values
        scalar = column_value(column, text)
        if isinstance(values, pa.ExtensionArray):
            filled = pc.if_else(pa.array(fresh), scalar.value, values.storage)
            return values.type.wrap_array(filled)
        return pc.if_else(pa.array(fresh), scalar, values)


def left_out(table: MyTable, *, minimal: bool) -> LeftOut:
    """What updates of the table can leave out."""
    columns = tuple(c.name for c in table.columns if can_be_left_out(table, c, minimal=minimal))
    return LeftOut(table.name, columns, _live, _REMEDY)


def _live(changes: ChangeBatch) -> Int64s:
    return np.flatnonzero(changes.op != D)
