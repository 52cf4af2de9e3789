"""Evaluation of typed expressions over Arrow columns, with Postgres's meaning (SEMANTICS 23, 27).

`compile_exprs` turns expression trees into closures over kernels once; `Compiled.evaluate` runs
them over any batch whose columns are `columns`, in that order. A row for which an expression
raises in Postgres (overflow, division by zero, a bad cast) is flagged in `failed` and its value
is NULL there: the caller must not publish it. CASE, COALESCE, AND and OR flag a row only when
Postgres would have evaluated the branch that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools
from cdc.schema import NUMERIC_TEXT
from views.plan import Call, ColumnRef, Constant, Expr, Field
from views.sql.describe import describe
from views.values import functions
from views.values.arrays import Result, choose, null_where, storage, values, wrap
from views.values.print import odd_date

Run = Callable[[pa.RecordBatch], Result]


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


@dataclass(frozen=True, eq=False)
class Compiled:
    """Expressions ready to be evaluated. Pure: evaluating keeps no state."""

    exprs: tuple[Expr, ...]
    columns: tuple[Field, ...]
    runs: tuple[Run, ...]

    def evaluate(self, rows: pa.RecordBatch) -> Evaluated:
        """Evaluate every expression over `rows` (columns as given to `compile_exprs`)."""
        arrays, failed = [], None
        for run in self.runs:
            array, bad = run(rows)
            arrays.append(array)
            failed = _either(failed, bad)
        if failed is None:
            return Evaluated(arrays, None, None)
        return Evaluated(arrays, failed, self._explain(rows, int(np.flatnonzero(failed)[0])))

    def _explain(self, rows: pa.RecordBatch, row: int) -> RowError:
        one = rows.slice(row, 1)
        places = {c.name: i for i, c in enumerate(self.columns)}
        for expr, run in zip(self.exprs, self.runs, strict=True):
            if run(one)[1] is not None:
                culprit = _culprit(expr, one, places)
                return _row_error(row, culprit, one, places)
        raise AssertionError("the row failed in the batch, but not alone")


def compile_exprs(exprs: Sequence[Expr], columns: Sequence[Field]) -> Compiled:
    """Compile `exprs`, whose ColumnRefs name `columns`; raises KeyError for an unknown name."""
    places = {c.name: i for i, c in enumerate(columns)}
    runs = tuple(_compile(e, places) for e in exprs)
    return Compiled(tuple(exprs), tuple(columns), runs)


def _compile(expr: Expr, places: dict[str, int]) -> Run:
    if isinstance(expr, ColumnRef):
        at = places[expr.name]
        return lambda rows: (rows.column(at), None)
    if isinstance(expr, Constant):
        return _constant(expr)
    lazy = _LAZY.get(expr.name)
    if lazy is not None:
        return lazy(expr, [_compile(a, places) for a in expr.args])
    return _strict(expr, [_compile(a, places) for a in expr.args])


def _constant(expr: Constant) -> Run:
    if expr.sql_type == "interval":  # read by the kernel that adds it, never as a column
        return lambda rows: (pa.nulls(rows.num_rows), None)
    if expr.type == NUMERIC_TEXT:
        scalar = pa.scalar(None if expr.value is None else str(expr.value), pa.string())
    else:
        scalar = pa.scalar(expr.value, expr.type)
    return lambda rows: (wrap(pa.repeat(scalar, rows.num_rows), expr.type), None)


def _strict(expr: Call, args: list[Run]) -> Run:
    """Evaluates all arguments; a row that failed in one of them has failed."""
    kernel = functions.kernel(expr)(expr)

    def run(rows: pa.RecordBatch) -> Result:
        arrays, failed = [], None
        for arg in args:
            array, bad = arg(rows)
            arrays.append(array)
            failed = _either(failed, bad)
        out, bad = kernel(arrays, rows.num_rows)
        return _flagged(out, _either(failed, bad))

    return run


def _flagged(array: pa.Array, failed: Bools | None) -> Result:
    """Functions that take NULL for a value must not turn a failed row into one."""
    return (array, None) if failed is None else (null_where(array, failed), failed)


def _either(a: Bools | None, b: Bools | None) -> Bools | None:
    if a is None or b is None:
        return b if a is None else a
    return a | b


def _logic(decided: bool) -> Callable[[Call, list[Run]], Run]:
    """AND (decided by false) and OR (by true), from left to right."""
    combine = pc.or_kleene if decided else pc.and_kleene

    def compile(expr: Call, args: list[Run]) -> Run:
        def run(rows: pa.RecordBatch) -> Result:
            out, failed = args[0](rows)
            for arg in args[1:]:
                array, bad = arg(rows)
                if bad is not None:
                    bad = bad & ~_is(out, decided)
                failed = _either(failed, bad if bad is not None and bad.any() else None)
                out = combine(out, array)
            return _flagged(out, failed)

        return run

    return compile


def _is(array: pa.Array, value: bool) -> Bools:
    filled = pc.fill_null(array, not value).to_numpy(zero_copy_only=False)
    return filled if value else ~filled


def _case(expr: Call, args: list[Run]) -> Run:
    """args: condition, value, condition, value, …, else."""
    conditions, results, otherwise = args[0:-1:2], args[1:-1:2], args[-1]

    def run(rows: pa.RecordBatch) -> Result:
        pending = np.ones(rows.num_rows, np.bool_)
        failed = None
        picks = []
        for condition, result in zip(conditions, results, strict=True):
            met, bad = condition(rows)
            failed = _either(failed, None if bad is None else bad & pending)
            chosen = _is(met, True) & pending
            array, bad = result(rows)
            failed = _either(failed, None if bad is None else bad & chosen)
            pending = pending & ~chosen
            picks.append((chosen, array))
        out, bad = otherwise(rows)
        failed = _either(failed, None if bad is None else bad & pending)
        for chosen, array in reversed(picks):
            out = choose(chosen, array, out)
        return _flagged(out, failed if failed is not None and failed.any() else None)

    return run


def _coalesce(expr: Call, args: list[Run]) -> Run:
    def run(rows: pa.RecordBatch) -> Result:
        out, failed = args[0](rows)
        for arg in args[1:]:
            missing = out.is_null().to_numpy(zero_copy_only=False)
            array, bad = arg(rows)
            if bad is not None:
                bad = bad & missing
                failed = _either(failed, bad if bad.any() else None)
            out = choose(missing, array, out)
        return _flagged(out, failed)

    return run


_LAZY: dict[str, Callable[[Call, list[Run]], Run]] = {
    "and": _logic(False),
    "or": _logic(True),
    "case": _case,
    "coalesce": _coalesce,
}


def _culprit(expr: Expr, one: pa.RecordBatch, places: dict[str, int]) -> Expr:
    """The innermost call that raises for the only row of `one`."""
    if isinstance(expr, Call):
        for arg in expr.args:
            if _compile(arg, places)(one)[1] is not None:
                return _culprit(arg, one, places)
    return expr


def _row_error(row: int, expr: Expr, one: pa.RecordBatch, places: dict[str, int]) -> RowError:
    args = expr.args if isinstance(expr, Call) else ()
    shown = [_value(a, _compile(a, places)(one)[0]) for a in args]
    value = ", ".join("NULL" if v is None else v for v in shown)
    return RowError(row, describe(expr), value, _message(expr, shown))


def _value(expr: Expr, array: pa.Array) -> str | None:
    """The only value of `array` as text; dates beyond Python's as Postgres prints them."""
    if isinstance(expr, Constant):
        return describe(expr)
    if not array[0].is_valid:
        return None
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        return odd_date(int(values(array)[0]), array.type, "")
    return str(storage(array)[0].as_py())


def _message(expr: Expr, given: list[str | None]) -> str:
    if not isinstance(expr, Call):
        return "value cannot be computed"
    if expr.name == "cast":
        return f"{given[0]} is no {expr.sql_type}, or out of its range"
    if expr.name in ("/", "%") and given[1] is not None and not float(given[1]):
        return "division by zero"
    return f"{expr.sql_type} out of range"
