"""Rows compared by key: what counts as equal, and what is told about the rest."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest

from cdc.compare import Difference, compare
from cdc.schema import NUMERIC_TEXT, TIMESTAMP_INFINITY, Column, TableSchema

ROWS = TableSchema(
    "t",
    (Column("id", pa.int64(), "bigint"), Column("v", pa.string(), "text")),
    ("id",),
)


def batches(schema: TableSchema, *rows: tuple[Any, ...]) -> list[pa.RecordBatch]:
    columns = [_array([row[i] for row in rows], c.type) for i, c in enumerate(schema.columns)]
    return [pa.RecordBatch.from_arrays(columns, schema=schema.arrow)] if rows else []


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == NUMERIC_TEXT:
        return kind.wrap_array(pa.array(values, pa.string()))
    return pa.array(values, kind)


def one_column(
    kind: pa.DataType, sql_type: str, want: Any, have: Any, *, approximate: bool = False
) -> Difference:
    schema = TableSchema(
        "t", (Column("id", pa.int64(), "bigint"), Column("v", kind, sql_type)), ("id",)
    )
    return compare(
        batches(schema, (1, want)),
        batches(schema, (1, have)),
        schema,
        ["v"] if approximate else [],
    )


def test_missing_extra_and_different_keys() -> None:
    found = compare(
        batches(ROWS, (1, "a"), (2, "b"), (3, None), (4, "d")),
        batches(ROWS, (5, "e"), (1, "a"), (3, None), (4, "D")),
        ROWS,
    )
    assert (found.compared, found.missing, found.extra, found.different) == (4, 1, 1, 1)
    assert not found.equal
    assert [str(sample) for sample in found.samples] == [
        "missing [2]",
        "extra [5]",
        "different [4] (v: d expected, D found)",
    ]


def test_nothing_equals_nothing() -> None:
    assert compare([], [], ROWS).equal


def test_a_row_that_comes_twice_is_extra() -> None:
    rows = batches(ROWS, (1, "a"))
    found = compare(rows, rows + rows, ROWS)
    assert (found.missing, found.extra, found.different) == (0, 1, 0)


def test_null_keys_and_no_key() -> None:
    assert compare(batches(ROWS, (None, "a")), batches(ROWS, (None, "a")), ROWS).equal
    whole = TableSchema("t", ROWS.columns, ())
    found = compare(batches(whole, (1, "a")), batches(whole, (1, "b")), whole)
    assert found.different == 1 and found.samples[0].key == "[]"


@pytest.mark.parametrize(
    ("kind", "sql_type", "want", "have", "equal"),
    [
        (pa.string(), "jsonb", '{"a": 1, "b": [1]}', '{"b":[1.0],"a":1}', True),
        (pa.string(), "json", '{"a": 1, "a": 2}', '{"a": 2}', True),
        (pa.string(), "jsonb", "[1, 2]", "[2, 1]", False),
        (pa.string(), "jsonb", "1", "true", False),
        (pa.string(), "jsonb", "12345678901234567890.1", "12345678901234567890.2", False),
        (pa.string(), "text", "1.0", "1.00", False),
        (NUMERIC_TEXT, "numeric", "1.0", "1.00", True),
        (NUMERIC_TEXT, "numeric", "NaN", "NaN", True),
        (NUMERIC_TEXT, "numeric", "NaN", "0", False),
        (pa.float64(), "double precision", 0.0, -0.0, True),
        (pa.float64(), "double precision", float("nan"), float("nan"), True),
        (pa.float64(), "double precision", float("nan"), 1.0, False),
        (pa.float64(), "double precision", 0.1 + 0.2, 0.3, False),
        (pa.list_(pa.string()), "text[]", ["a", None], ["a", None], True),
        (pa.list_(pa.string()), "text[]", ["a", None], ["a", ""], False),
        (pa.string(), "text", None, "", False),
    ],
)
def test_values(kind: pa.DataType, sql_type: str, want: Any, have: Any, equal: bool) -> None:
    assert one_column(kind, sql_type, want, have).equal is equal


def test_float_aggregates_within_four_units_where_asked() -> None:
    assert one_column(pa.float64(), "double precision", 0.1 + 0.2, 0.3, approximate=True).equal
    far = one_column(pa.float64(), "double precision", 0.3, 0.3000000000000003, approximate=True)
    assert not far.equal
    assert one_column(pa.float32(), "real", 1.0, 1.0000001192092896, approximate=True).equal


def test_infinite_timestamps_are_told() -> None:
    kind = pa.timestamp("us", "UTC")
    values = pa.array([TIMESTAMP_INFINITY, 0], pa.int64()).view(kind)
    schema = TableSchema("t", (Column("v", kind, "timestamp with time zone"),), ())
    one, other = (
        [pa.RecordBatch.from_arrays([values.slice(i, 1)], schema=schema.arrow)] for i in (0, 1)
    )
    assert compare(one, one, schema).equal
    (sample,) = compare(one, other, schema).samples
    assert sample.values == (("v", "infinity", "1970-01-01 00:00:00+00"),)


def test_many_batches() -> None:
    order = list(range(5000))
    random.Random(1).shuffle(order)
    want = [
        b
        for i in range(0, 5000, 500)
        for b in batches(ROWS, *((k, f"v{k}") for k in order[i : i + 500]))
    ]
    have = batches(ROWS, *((k, f"v{k}" if k % 1000 else "?") for k in range(4999)))
    found = compare(want, have, ROWS)
    assert (found.compared, found.missing, found.extra, found.different) == (5000, 1, 0, 5)
