"""Equal values hash equally, whatever carries them; and the last change per key."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.changes import D
from cdc.hashing import hash_columns
from cdc.latest import last_of_each, latest_per_key
from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from tests.fix_log import ORDERS, changes


def numeric(*texts: str | None) -> pa.Array:
    return NUMERIC_TEXT.wrap_array(pa.array(texts, pa.string()))


def one(column: pa.Array) -> int:
    return int(hash_columns([column])[0])


def test_five_is_five() -> None:
    carriers = [
        *(pa.array([5], kind) for kind in (pa.int16(), pa.int32(), pa.int64(), pa.uint64())),
        *(pa.array([5.0], kind) for kind in (pa.float32(), pa.float64())),
        pa.array([Decimal("5.00")]),
        pa.array([Decimal("5.00")], pa.decimal128(38, 10)),
        numeric("5"),
        numeric("5.000"),
    ]
    assert len({one(column) for column in carriers}) == 1


def test_floats() -> None:
    assert one(pa.array([-0.0])) == one(pa.array([0]))
    odd_nan = np.array([0x7FF8000000000123], np.uint64).view(np.float64)
    assert one(pa.array(odd_nan)) == one(pa.array([float("nan")]))
    assert one(pa.array([0.5], pa.float32())) == one(pa.array([0.5]))


@given(st.lists(st.none() | st.decimals(-(10**20), 10**20, places=4), min_size=1))
def test_decimals_hash_as_their_text(values: list[Decimal | None]) -> None:
    column = pa.array(values, pa.decimal128(38, 6))
    texts = numeric(*(None if v is None else f"{v:f}" for v in values))
    np.testing.assert_array_equal(hash_columns([column]), hash_columns([texts]))


@given(st.lists(st.none() | st.text(max_size=40), min_size=2))
def test_a_row_hashes_alike_alone_sliced_and_among_others(values: list[str | None]) -> None:
    column = pa.array(values, pa.string())
    together = hash_columns([column])
    np.testing.assert_array_equal(together[1:], hash_columns([column.slice(1)]))
    assert [one(column.slice(i, 1)) for i in range(len(values))] == together.tolist()
    assert len(set(together.tolist())) == len(set(values))


@given(st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4), min_size=2))
def test_lists(values: list[list[int | None] | None]) -> None:
    column = pa.array(values, pa.list_(pa.int64()))
    together = hash_columns([column])
    np.testing.assert_array_equal(together[1:], hash_columns([column.slice(1)]))
    distinct = {None if value is None else tuple(value) for value in values}
    assert len(set(together.tolist())) == len(distinct)


def test_order_and_null_matter() -> None:
    a, b = pa.array([1, None]), pa.array([2, None])
    assert (hash_columns([a, b]) != hash_columns([b, a])).tolist() == [True, False]
    assert one(pa.array([None], pa.int64())) != one(pa.array([0]))


def test_few_bits() -> None:
    assert hash_columns([pa.array(range(1000))], 4).max() == 15
    with pytest.raises(ValueError, match="no columns"):
        hash_columns([])


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", None])), min_size=1),
    st.sampled_from([2, 4, 64]),
)
def test_last_of_each(keys: list[tuple[int, str | None]], bits: int) -> None:
    columns = [pa.array([a for a, _ in keys]), pa.array([b for _, b in keys], pa.string())]
    wanted = sorted({key: i for i, key in enumerate(keys)}.values())
    assert last_of_each(columns, bits).tolist() == wanted


def test_numeric_keys_are_one_by_value() -> None:
    assert last_of_each([numeric("1.0", "1.00", "2")]).tolist() == [1, 2]


def test_latest_per_key() -> None:
    found = latest_per_key([changes([1, 2, 3], note="a"), changes([2], op=D), changes([1, 4])])
    assert found.rows.column("id").to_pylist() == [3, 2, 1, 4]
    assert found.op.tolist()[1] == D
    assert latest_per_key([changes([7])]).num_rows == 1
    assert latest_per_key([changes([]), changes([])]).num_rows == 0


def test_latest_over_schema_versions() -> None:
    added = Column("city", pa.string(), "text", True, 6, "Bern")
    newer = TableSchema(ORDERS.name, (*ORDERS.columns, added), ORDERS.key, 2)
    found = latest_per_key([changes([1, 2]), changes([2]).conformed(newer)])
    assert found.schema == newer
    assert found.rows.column("city").to_pylist() == ["Bern", "Bern"]


def test_without_a_key_the_last_row_is_the_row() -> None:
    single = dataclasses.replace(ORDERS, key=())
    batch = dataclasses.replace(changes([1, 2]), schema=single)
    assert latest_per_key([batch]).rows.column("id").to_pylist() == [2]
