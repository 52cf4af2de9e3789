"""Evaluation of typed expressions over Arrow columns, with Postgres's meaning (SEMANTICS 23, 27).

`compile_exprs` turns expression trees into closures over kernels once; `Compiled.evaluate` runs
them over any batch whose columns are `columns`, in that order. A row for which an expression
raises in Postgres (overflow, division by zero, a bad cast) is flagged in `failed` and its value
is NULL there: the caller must not publish it. CASE, COALESCE, AND and OR flag a row only when
Postgres would have evaluated the branch that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cdc.changes import Bools
from views.plan import Expr, Field


@dataclass(frozen=True)
class RowError:
    """Why one row failed: its place in the batch, the expression and its arguments' values."""

    row: int
    expression: str
    value: str
    message: str


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One array per expression, each as long as the batch.

    `failed` marks the rows for which any of the expressions raises; None: no row failed.
    `error` explains the first of them.
    """

    arrays: list[pa.Array]
    failed: Bools | None
    error: RowError | None


class Compiled:
    """Expressions ready to be evaluated. Pure: evaluating keeps no state."""

    def evaluate(self, rows: pa.RecordBatch) -> Evaluated:
        """Evaluate every expression over `rows` (columns as given to `compile_exprs`)."""
        raise NotImplementedError


def compile_exprs(exprs: Sequence[Expr], columns: Sequence[Field]) -> Compiled:
    """Compile `exprs`, whose ColumnRefs name `columns`; raises KeyError for an unknown name."""
    raise NotImplementedError
