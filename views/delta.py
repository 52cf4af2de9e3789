"""Deltas (Z-sets): rows with weights, as columns.

Row i is present weights[i] times more than before (negative: less). An update is the old row at
-1 and the new one at +1 (SEMANTICS 18). A delta is *consolidated* when no two rows are equal and
no weight is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import Int64s, concat_rows


@dataclass(frozen=True, eq=False)
class Delta:
    """n weighted rows."""

    rows: pa.RecordBatch
    weights: Int64s

    @property
    def num_rows(self) -> int:
        return len(self.weights)

    @classmethod
    def empty(cls, schema: pa.Schema) -> Delta:
        return cls(concat_rows([], schema), np.zeros(0, np.int64))

    def take(self, index: Int64s) -> Delta:
        return Delta(self.rows.take(pa.array(index)), self.weights[index])


def concat_deltas(deltas: Sequence[Delta], schema: pa.Schema) -> Delta:
    """All rows of `deltas`, unconsolidated."""
    live = [d for d in deltas if d.num_rows]
    if not live:
        return Delta.empty(schema)
    if len(live) == 1:
        return live[0]
    return Delta(
        concat_rows([d.rows for d in live], schema), np.concatenate([d.weights for d in live])
    )
