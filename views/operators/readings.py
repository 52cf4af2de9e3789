"""A group's state read as a row: its group columns, then one value per aggregate call.

A value can be out of its type's range (a sum of doubles beyond 1.8e308). Postgres raises then; here
the group fails, as a row of an expression does (SEMANTICS 27).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import Bools, Int64s
from views.delta import Delta
from views.operators.accumulators import read_avg, read_sum
from views.operators.failures import FailingRows, Failure
from views.plan import AggregateCall


@dataclass(frozen=True)
class Reading:
    """How one aggregate call is read from the state."""

    call: AggregateCall
    kind: pa.DataType | None
    count: int
    first: int
    width: int

    @property
    def text(self) -> str:
        call = self.call
        name = "*" if call.arg is None else getattr(call.arg, "name", "…")
        return f"{call.function}({name.removesuffix('.of')})"


class Readings:
    """All readings of one operator, and the groups that fail. `width`: of the group's columns."""

    def __init__(
        self, name: str, readings: Sequence[Reading], schema: pa.Schema, width: int
    ) -> None:
        self._readings, self._schema, self._width = tuple(readings), schema, width
        group = [pa.field(f"g{i}", schema.field(i).type) for i in range(width)]
        self._reasons = pa.schema([*group, pa.field("aggregate", pa.string())])
        self.failing = FailingRows(name, self._reasons, self._failure)

    def read(self, state: pa.RecordBatch, which: Bools, weight: int) -> pa.RecordBatch:
        """The rows of the groups of `which`. Groups out of range are taken out of `which`, and are
        from now on (weight 1), or no longer (-1), among those that fail."""
        try:
            return self._rows(state)
        except OverflowError:
            return self._row_by_row(state, which, weight)

    def _row_by_row(self, state: pa.RecordBatch, which: Bools, weight: int) -> pa.RecordBatch:
        """Like `read`, where some group's value is out of range."""
        reasons = [self._out_of_range(state.slice(i, 1)) for i in range(state.num_rows)]
        failed = np.array([reason is not None for reason in reasons])
        bad = np.flatnonzero(failed & which)
        columns = [column.take(pa.array(bad)) for column in state.columns[: self._width]]
        columns.append(pa.array([reasons[i] for i in bad], pa.string()))
        rows = pa.RecordBatch.from_arrays(columns, schema=self._reasons)
        self.failing.add(Delta(rows, np.full(len(bad), weight)))
        which &= ~failed
        good = np.flatnonzero(~failed)
        place = np.zeros(len(failed), np.int64)
        place[good] = np.arange(len(good))
        return self._rows(state.take(pa.array(good))).take(pa.array(place, mask=failed))

    def _out_of_range(self, state: pa.RecordBatch) -> str | None:
        """The first aggregate of one group that is out of range."""
        for reading in self._readings:
            try:
                self._value(reading, state)
            except OverflowError:
                return reading.text
        return None

    def _failure(self, row: pa.RecordBatch) -> Failure:
        *group, aggregate = (column[0].as_py() for column in row.columns)
        key = dict(zip(self._schema.names, group, strict=False))
        return Failure(key, str(aggregate), "all rows of its group", "value out of range")

    def _rows(self, state: pa.RecordBatch) -> pa.RecordBatch:
        columns = state.columns[: self._width]
        columns += [self._value(reading, state) for reading in self._readings]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _value(self, reading: Reading, state: pa.RecordBatch) -> pa.Array:
        """One aggregate's value for each group. Raises OverflowError."""
        states, rows = state.columns[self._width + 1 :], state.column(self._width).to_numpy()
        return _value(reading, states, rows)


def _value(reading: Reading, states: list[pa.Array], rows: Int64s) -> pa.Array:
    call, kind = reading.call, reading.kind
    if kind is None:
        return pa.array(rows).cast(call.type)
    mine = states[reading.first : reading.first + reading.width]
    if call.function in ("min", "max"):
        return mine[0] if mine[0].type == call.type else mine[0].cast(call.type)
    if call.function == "count":
        return states[reading.count].cast(call.type)
    counts = states[reading.count].to_numpy()
    read = read_sum if call.function == "sum" else read_avg
    return read(kind, mine, counts, call.type)
