"""Rows for which an expression raises (SEMANTICS 27).

Errors are a Z-set too: a failing row is taken out of the delta and kept, with its weight, in an
arrangement; when its retraction fails in the same way, the two cancel. While one lives, the views
above the operator stand still. `Checked` evaluates expressions and does this taking out; an
aggregate whose result is out of range takes out its group (views.operators.aggregate).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import Int64s
from compaction.runs import Kind, Layout
from views.delta import Delta
from views.operators.arrangements import Arrangement
from views.plan import Field
from views.values.expressions import Compiled


@dataclass(frozen=True)
class Failure:
    """One live failing row, for people."""

    key: dict[str, object]
    expression: str
    value: str
    message: str

    def __str__(self) -> str:
        key = ", ".join(f"{name}={value}" for name, value in self.key.items())
        return f"{self.message}: {self.expression} with {self.value} (row {key})"


class FailingRows:
    """The live rows for which one operator fails. `explain` says why, of one row."""

    def __init__(
        self, name: str, schema: pa.Schema, explain: Callable[[pa.RecordBatch], Failure]
    ) -> None:
        every = tuple(range(len(schema)))
        self.arrangement = Arrangement(name, Layout(Kind.BAG, schema, every))
        self._explain = explain
        self._pending = 0
        self._live = 0

    @property
    def live(self) -> int:
        """Failing rows there will be once the pending step is committed."""
        return self._live + self._pending

    def add(self, failing: Delta) -> None:
        rows = failing.rows
        hashes = self.arrangement.layout.hashes(rows.columns, rows.num_rows)
        self.arrangement.stage(hashes, failing.weights, rows)
        self._pending += int(failing.weights.sum())

    def commit(self) -> None:
        self._live, self._pending = self.live, 0

    def restored(self) -> None:
        """Count again, after the arrangement came from a checkpoint."""
        self._live = sum(int(run.weights.sum()) for run in self.arrangement.old.runs)
        self._pending = 0

    def example(self) -> Failure | None:
        """One live failing row; None when there is none."""
        live = self.arrangement.new.consolidated()
        return self._explain(live.rows.slice(0, 1)) if live.num_rows else None


class Checked:
    """Expressions over one operator's rows, and the rows for which they fail."""

    def __init__(
        self, name: str, compiled: Compiled, columns: tuple[Field, ...], key: tuple[str, ...] | None
    ) -> None:
        schema = pa.schema([pa.field(c.name, c.type) for c in columns])
        self._compiled = compiled
        self._key = key or tuple(c.name for c in columns)
        self.failing = FailingRows(name, schema, self._failure)

    def evaluate(self, delta: Delta) -> tuple[list[pa.Array], Delta]:
        """The expressions' values, and the delta, both without the rows that fail."""
        result = self._compiled.evaluate(delta.rows)
        if result.failed is None or not result.failed.any():
            return result.arrays, delta
        self.failing.add(delta.take(np.flatnonzero(result.failed)))
        kept: Int64s = np.flatnonzero(~result.failed)
        picked = pa.array(kept)
        return [array.take(picked) for array in result.arrays], delta.take(kept)

    def true_rows(self, delta: Delta) -> Int64s:
        """The rows for which the only expression, a predicate, is true: not false, not NULL."""
        result = self._compiled.evaluate(delta.rows)
        if result.failed is not None and result.failed.any():
            self.failing.add(delta.take(np.flatnonzero(result.failed)))
        truth = result.arrays[0]
        return np.flatnonzero(np.asarray(truth.fill_null(False) if truth.null_count else truth))

    def _failure(self, row: pa.RecordBatch) -> Failure:
        error = self._compiled.evaluate(row).error
        values = {name: row.column(name)[0].as_py() for name in self._key}
        if error is None:
            return Failure(values, "", "", "an expression failed")
        return Failure(values, error.expression, error.value, error.message)
