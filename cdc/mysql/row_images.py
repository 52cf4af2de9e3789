"""Row images that are not complete: what binlog_row_image leaves out of an update.

    FULL      nothing
    NOBLOB    texts, blobs, JSON and geometry that the update left alone
    MINIMAL   every column that it left alone; the old row is its key alone. Opt-in
              (`minimal_row_image`), since every row passes through the store of cdc/completion.py

An image says which columns it has, so nothing has to be known of the session that wrote it.
"""

from __future__ import annotations

import numpy as np

from cdc.changes import ChangeBatch, D, Int64s
from cdc.completion import LeftOut
from cdc.mysql.tables import MyTable
from cdc.mysql.types import BLOBS, FieldType

_LARGE = frozenset(BLOBS) | {FieldType.JSON, FieldType.GEOMETRY}


def left_out(table: MyTable, *, minimal: bool) -> LeftOut:
    """What updates of the table can leave out."""
    columns = tuple(
        c.name
        for c in table.columns
        if c.name not in table.key and (minimal or c.kind.code in _LARGE)
    )
    return LeftOut(table.name, columns, _live, "SET GLOBAL binlog_row_image = FULL")


def _live(changes: ChangeBatch) -> Int64s:
    return np.flatnonzero(changes.op != D)
