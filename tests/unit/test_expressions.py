"""Evaluation of expressions: failures, laziness, and what an error says. No server.

That values equal Postgres's is tests/integration/test_expressions_oracle.py's business.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from views.plan import Project
from views.sql.planner import plan_view
from views.sql.resolve import Catalog
from views.values.expressions import Evaluated, compile_exprs
from views.values.numeric import divide, finish_avg

TABLE = TableSchema(
    "public.t",
    (
        Column("id", pa.int64(), "bigint", False),
        Column("a", pa.int32(), "integer"),
        Column("b", pa.int32(), "integer"),
        Column("n", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("s", pa.string(), "text"),
    ),
    ("id",),
)
ROWS: dict[str, list[Any]] = {
    "id": [1, 2, 3],
    "a": [7, None, -7],
    "b": [0, 2, 2],
    "n": [Decimal("1.50"), None, Decimal("-0.05")],
    "s": ["12", "x", None],
}


def evaluate(expression: str, rows: int = 3) -> Evaluated:
    plan = plan_view("v", f"SELECT id, {expression} AS x FROM t", Catalog({"s.public.t": TABLE}))
    root = plan.root
    assert isinstance(root, Project)
    columns = root.child.columns
    named = [c.name.partition(".")[2] for c in columns]
    arrays = [pa.array(ROWS[n][:rows], c.type) for n, c in zip(named, columns, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, names=[c.name for c in columns])
    return compile_exprs(root.exprs[1:], columns).evaluate(batch)


def values(expression: str) -> list[Any]:
    got = evaluate(expression)
    assert got.failed is None
    assert got.error is None
    return list(got.arrays[0].to_pylist())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a / b", [None, None, -3]),
        ("CASE WHEN b <> 0 THEN a / b END", [None, None, -3]),
        ("b <> 0 AND a / b < 0", [False, None, True]),
        ("b = 0 OR a / b < 0", [True, None, True]),
        ("coalesce(a, a / b)", [7, None, -7]),
        ("a + n", [Decimal("8.50"), None, Decimal("-7.05")]),
        ("s LIKE '1%'", [True, False, None]),
        ("a IN (7, NULL)", [True, None, None]),
    ],
)
def test_values(expression: str, expected: list[Any]) -> None:
    assert evaluate(expression).arrays[0].to_pylist() == expected


def test_a_row_that_raises_is_flagged_and_explained() -> None:
    got = evaluate("1 + a / b")
    assert got.failed is not None
    assert got.failed.tolist() == [True, False, False]
    assert got.arrays[0].to_pylist() == [None, None, -2]
    assert got.error is not None
    assert got.error.row == 0
    assert got.error.expression == "(t.a / t.b)"
    assert got.error.value == "7, 0"
    assert got.error.message == "division by zero"


def test_null_handling_functions_do_not_hide_a_failed_row() -> None:
    got = evaluate("coalesce(a / b, 5)")
    assert got.failed is not None
    assert got.failed.tolist() == [True, False, False]


def test_a_bad_cast_says_which_value() -> None:
    got = evaluate("s::integer")
    assert got.failed is not None
    assert got.failed.tolist() == [False, True, False]
    assert got.error is not None
    assert got.error.value == "x"
    assert "x is no integer" in got.error.message


@pytest.mark.parametrize(
    "expression", ["a / b", "coalesce(a, 1)", "s::integer", "s || 'x'", "n * n"]
)
def test_no_rows(expression: str) -> None:
    got = evaluate(expression, rows=0)
    assert len(got.arrays[0]) == 0
    assert got.failed is None


def test_sliced_batches() -> None:
    """Kernels that read buffers must respect a slice's offset."""
    plan = plan_view(
        "v", "SELECT id, a + b AS x, n * 2 AS y FROM t", Catalog({"s.public.t": TABLE})
    )
    root = plan.root
    assert isinstance(root, Project)
    columns = root.child.columns
    count = 100
    whole = pa.RecordBatch.from_arrays(
        [
            pa.array(
                [Decimal(i) if pa.types.is_decimal(c.type) else i for i in range(count)], c.type
            )
            for c in columns
        ],
        names=[c.name for c in columns],
    )
    got = compile_exprs(root.exprs, columns).evaluate(whole.slice(10, 5))
    assert got.arrays[1].to_pylist() == [2 * i for i in range(10, 15)]
    assert got.arrays[2].to_pylist() == [Decimal(2 * i) for i in range(10, 15)]


def test_averages_have_the_scale_of_postgres() -> None:
    sums = pa.array([10, None, 1], pa.decimal128(38, 2))
    got = finish_avg(sums, np.array([3, 0, 4], np.int64))
    assert got.type == NUMERIC_TEXT
    assert got.storage.to_pylist() == ["3.3333333333333333", None, "0.25000000000000000000"]
    assert (
        finish_avg(pa.array([7], pa.int64()), np.array([2])).storage[0].as_py()
        == "3.5000000000000000"
    )


def test_division_rounds_half_away_from_zero() -> None:
    assert str(divide(Decimal(2), Decimal(3))) == "0.66666666666666666667"
    assert str(divide(Decimal(-2), Decimal(3))) == "-0.66666666666666666667"
