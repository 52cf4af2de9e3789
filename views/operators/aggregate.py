"""GROUP BY, and DISTINCT as GROUP BY all columns without aggregates (SEMANTICS 22, 25).

A step evaluates the aggregates' arguments, lets the groups' state (group_state.py) take the
rows in, and puts out -1 the row that each touched group had and +1 the row that it has, unless
they are equal. Without GROUP BY there is one group, which exists from the first cut on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cdc.changes import Bools
from compaction.equality import equal_exactly
from views.delta import Delta
from views.operators.failures import Checked
from views.operators.group_state import Argument, Grouping, Touched
from views.operators.linear import Slots
from views.operators.readings import Readings


class Aggregate:
    """The operator: evaluates, groups, and puts out what changed."""

    def __init__(
        self,
        source: int,
        target: int,
        group_places: Sequence[int],
        arguments: Checked | None,
        grouping: Grouping,
        readings: Readings | None,
        schema: pa.Schema,
    ) -> None:
        self._source, self._target = source, target
        self._group_places, self._arguments = tuple(group_places), arguments
        self.grouping, self._readings, self._schema = grouping, readings, schema

    def run(self, slots: Slots) -> None:
        delta = slots[self._source]
        values: list[pa.Array] = []
        if delta is None:
            if self._group_places or not self.grouping.arrangement.is_empty:
                return
            keys, weights = [], np.zeros(0, np.int64)
            values = [pa.nulls(0, a.kind) for a in self._by_place()]
        else:
            if self._arguments is not None:
                values, delta = self._arguments.evaluate(delta)
            keys, weights = [delta.rows.column(i) for i in self._group_places], delta.weights
            if not len(weights) and (keys or not self.grouping.arrangement.is_empty):
                return
        touched = self.grouping.step(keys, values, weights)
        slots[self._target] = self._output(touched)

    def _by_place(self) -> list[Argument]:
        placed = {a.place: a for a in self.grouping.arguments if a.place is not None}
        return [placed[i] for i in sorted(placed)]

    def _output(self, touched: Touched) -> Delta | None:
        if self._readings is None:
            delta = touched.delta_of_groups()
            if delta is None:
                return None
            columns = delta.rows.columns[: self.grouping.width]
            return Delta(pa.RecordBatch.from_arrays(columns, schema=self._schema), delta.weights)
        had, has = touched.known.copy(), touched.alive.copy()
        known = had.any()
        after = self._readings.read(touched.after, has, 1)
        if not known:
            return _delta([(after, has, 1)], self._schema)
        before = self._readings.read(touched.before, had, -1)
        same = equal_exactly(before.columns, after.columns)
        unchanged = had & has if same is None else had & has & same
        had &= ~unchanged
        has &= ~unchanged
        return _delta([(before, had, -1), (after, has, 1)], self._schema)


def _delta(parts: list[tuple[pa.RecordBatch, Bools, int]], schema: pa.Schema) -> Delta | None:
    rows, weights = [], []
    for batch, which, weight in parts:
        places = np.flatnonzero(which)
        if len(places):
            rows.append(batch if len(places) == len(which) else batch.take(pa.array(places)))
            weights.append(np.full(len(places), weight))
    if not rows:
        return None
    if len(rows) == 1:
        return Delta(rows[0], weights[0])
    columns = [pa.concat_arrays([b.column(i) for b in rows]) for i in range(len(schema))]
    return Delta(pa.RecordBatch.from_arrays(columns, schema=schema), np.concatenate(weights))
