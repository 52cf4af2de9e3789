"""Change batches: slicing, joining, storing, and following a schema version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.changes import C, ChangeBatch, D, U, column_value, concat
from cdc.schema import NUMERIC_TEXT, Column, TableSchema, type_name, type_named

ID = Column("id", pa.int64(), "bigint", nullable=False, attnum=1)
NOTE = Column("note", pa.string(), "text", attnum=2)
PRICE = Column("price", NUMERIC_TEXT, "numeric", attnum=3)
SCHEMA = TableSchema("public.t", (ID, NOTE, PRICE), ("id",))


def batch(ids: list[int], *, op: int = C, old: bool = False) -> ChangeBatch:
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array(ids, pa.int64()),
            pa.array([f"note {i}" if i % 3 else None for i in ids], pa.string()),
            NUMERIC_TEXT.wrap_array(pa.array([f"{i}.50" for i in ids], pa.string())),
        ],
        schema=SCHEMA.arrow,
    )
    n = len(ids)
    return ChangeBatch(
        SCHEMA,
        np.full(n, op, np.uint8),
        np.arange(n, dtype=np.int64),
        np.arange(n, dtype=np.int64) * 10,
        np.full(n, 1_700_000_000_000_000, np.int64),
        rows,
        rows if old else None,
        np.ones(n, np.bool_) if old else None,
    )


def same(left: ChangeBatch, right: ChangeBatch) -> bool:
    return (
        left.schema == right.schema
        and np.array_equal(left.op, right.op)
        and np.array_equal(left.txn_seq, right.txn_seq)
        and np.array_equal(left.ordinal, right.ordinal)
        and np.array_equal(left.commit_us, right.commit_us)
        and left.rows.equals(right.rows)
        and (left.before is None) == (right.before is None)
        and (left.before is None or left.before.equals(right.before))
    )


@pytest.mark.parametrize("old", [False, True])
def test_stored_form_reads_back_equal(old: bool) -> None:
    written = batch([1, 2, 3], old=old)
    assert same(ChangeBatch.from_arrow(SCHEMA, written.to_arrow()), written)


@given(st.lists(st.integers(0, 99), min_size=1), st.data())
def test_slices_joined_again_are_the_whole(ids: list[int], data: st.DataObject) -> None:
    whole = batch(ids, old=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(ids)))
    assert same(concat([whole.slice(0, cut), whole.slice(cut)]), whole)


def test_take_reorders_every_column() -> None:
    taken = batch([5, 6, 7], old=True).take(np.array([2, 0]))
    assert taken.rows.column("id").to_pylist() == [7, 5]
    assert taken.ordinal.tolist() == [20, 0]
    assert taken.before is not None and taken.before.column("id").to_pylist() == [7, 5]


def test_joining_batches_of_which_one_has_old_rows() -> None:
    joined = concat([batch([1]), batch([2], op=U, old=True)])
    assert joined.has_before is not None and joined.has_before.tolist() == [False, True]
    assert joined.before is not None and joined.before.column("id").to_pylist() == [None, 2]


def test_a_column_added_with_a_default_fills_older_rows_but_not_deletes() -> None:
    added = Column("stock", pa.int32(), "integer", attnum=4, missing="7")
    newer = replace(SCHEMA, columns=(*SCHEMA.columns, added), version=2)
    older = concat([batch([1, 2]), batch([3], op=D)])
    assert older.conformed(newer).rows.column("stock").to_pylist() == [7, 7, None]


def test_a_renamed_column_is_found_by_attnum() -> None:
    renamed = replace(SCHEMA, columns=(ID, replace(NOTE, name="remark"), PRICE), version=2)
    assert batch([1]).conformed(renamed).rows.column("remark").to_pylist() == ["note 1"]


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        (Column("b", pa.bool_(), "boolean"), "t", True),
        (Column("x", pa.binary(), "bytea"), "\\xdead", b"\xde\xad"),
        (Column("n", NUMERIC_TEXT, "numeric"), "1.50", "1.50"),
        (Column("d", pa.decimal128(5, 2), "numeric(5,2)"), "1.50", "1.50"),
        (
            Column("s", pa.timestamp("us"), "timestamp"),
            "2026-01-02 03:04:05",
            "2026-01-02 03:04:05",
        ),
        (
            Column("z", pa.timestamp("us", "UTC"), "timestamptz"),
            "2026-01-02 03:04:05+00",
            "2026-01-02 03:04:05+00:00",
        ),
    ],
)
def test_a_default_from_its_text(column: Column, text: str, value: object) -> None:
    found = column_value(column, text)
    assert found.type == column.type
    assert found.as_py() == value or str(found.as_py()) == value


def test_schema_survives_json_and_its_fingerprint_ignores_the_version() -> None:
    assert TableSchema.from_json(SCHEMA.to_json()) == SCHEMA
    assert replace(SCHEMA, version=9).fingerprint() == SCHEMA.fingerprint()
    assert replace(SCHEMA, key=("note",)).fingerprint() != SCHEMA.fingerprint()


@pytest.mark.parametrize(
    "kind",
    [pa.int16(), pa.decimal128(38, 10), NUMERIC_TEXT, pa.list_(pa.decimal128(4, 1)), pa.date32()],
)
def test_type_names_read_back(kind: pa.DataType) -> None:
    assert type_named(type_name(kind)) == kind
