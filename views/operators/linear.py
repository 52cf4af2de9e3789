"""Operators without state: scan, filter, project, union. Each row's output depends on it alone.

An operator reads the deltas of its inputs from numbered slots and writes its own; None stands for
an empty delta, and operators whose inputs are all empty do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from views.delta import Delta, concat_deltas
from views.operators.failures import Checked

Slots = list[Delta | None]


class Operator(Protocol):
    """One node of the compiled graph. `run` is called once per step, in topological order."""

    def run(self, slots: Slots) -> None: ...


class Select:
    """Some columns of the input under other names: a scan of a table's or a view's delta."""

    def __init__(self, source: int, target: int, places: Sequence[int], schema: pa.Schema) -> None:
        self._source, self._target = source, target
        self._places, self._schema = tuple(places), schema

    def run(self, slots: Slots) -> None:
        delta = slots[self._source]
        if delta is not None:
            columns = [delta.rows.column(i) for i in self._places]
            rows = pa.RecordBatch.from_arrays(columns, schema=self._schema)
            slots[self._target] = Delta(rows, delta.weights)


class Filter:
    """Rows for which the predicate is true (not false, not NULL)."""

    def __init__(self, source: int, target: int, predicate: Checked) -> None:
        self._source, self._target, self._predicate = source, target, predicate

    def run(self, slots: Slots) -> None:
        delta = slots[self._source]
        if delta is None:
            return
        kept = self._predicate.true_rows(delta)
        if len(kept) == delta.num_rows:
            slots[self._target] = delta
        elif len(kept):
            slots[self._target] = delta.take(kept)


class Project:
    """Expressions over each row."""

    def __init__(self, source: int, target: int, exprs: Checked, schema: pa.Schema) -> None:
        self._source, self._target, self._exprs, self._schema = source, target, exprs, schema

    def run(self, slots: Slots) -> None:
        delta = slots[self._source]
        if delta is None:
            return
        arrays, delta = self._exprs.evaluate(delta)
        if delta.num_rows:
            rows = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
            slots[self._target] = Delta(rows, delta.weights)


class UnionAll:
    """The rows of all inputs, positionally."""

    def __init__(self, sources: Sequence[int], target: int, schema: pa.Schema) -> None:
        self._sources, self._target, self._schema = tuple(sources), target, schema

    def run(self, slots: Slots) -> None:
        found = [delta for i in self._sources if (delta := slots[i]) is not None]
        if found:
            renamed = [Delta(d.rows.rename_columns(self._schema.names), d.weights) for d in found]
            slots[self._target] = concat_deltas(renamed, self._schema)
