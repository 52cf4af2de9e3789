"""One spelling per key, and back."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import BadData
from cdc.keys import decode_keys, encode_keys
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column

UTC = pa.timestamp("us", "UTC")


def numeric(*texts: str | None) -> pa.Array:
    return NUMERIC_TEXT.wrap_array(pa.array(texts, pa.string()))


@pytest.mark.parametrize(
    ("column", "spelling"),
    [
        (pa.array([17]), "[17]"),
        (pa.array([-(2**63)]), f"[{-(2**63)}]"),
        (pa.array([True]), "[true]"),
        (pa.array([None], pa.int64()), "[null]"),
        (pa.array(['Zürich "x"\\\n\x01']), '["Zürich \\"x\\"\\\\\\n\\u0001"]'),
        (pa.array([Decimal("12.50")]), '["12.5"]'),
        (pa.array([Decimal("100.00")]), '["100"]'),
        (pa.array([Decimal("0.00")]), '["0"]'),
        (pa.array([Decimal("0.00000001")], pa.decimal128(12, 10)), '["0.00000001"]'),
        (numeric("1.500"), '["1.5"]'),
        (numeric("NaN"), '["NaN"]'),
        (numeric("-Infinity"), '["-Infinity"]'),
        (numeric("1000"), '["1000"]'),
        (pa.array([0.1]), '["0.1"]'),
        (pa.array([-0.0]), '["0"]'),
        (pa.array([1e300]), '["1e+300"]'),
        (pa.array([0.1], pa.float32()), '["0.1"]'),
        (pa.array([float("nan")]), '["NaN"]'),
        (pa.array([b"\x00\xff"]), '["\\\\x00ff"]'),
        (pa.array([dt.date(2024, 2, 29)]), '["2024-02-29"]'),
        (pa.array([DATE_INFINITY], pa.int32()).view(pa.date32()), '["infinity"]'),
        (pa.array([0], pa.timestamp("us")), '["1970-01-01 00:00:00.000000"]'),
        (pa.array([1], UTC), '["1970-01-01 00:00:00.000001Z"]'),
        (pa.array([-TIMESTAMP_INFINITY], UTC), '["-infinity"]'),
        (pa.array([dt.time(1, 2, 3)]), '["01:02:03.000000"]'),
        (pa.array([[1, None]]), '["[1,null]"]'),
        (pa.array([['a"b']]), '["[\\"a\\\\\\"b\\"]"]'),
    ],
)
@pytest.mark.parametrize("repeat", [1, 40])
def test_spellings(column: pa.Array, spelling: str, repeat: int) -> None:
    many = pa.concat_arrays([column] * repeat)
    assert encode_keys([many], repeat).to_pylist() == [spelling] * repeat
    json.loads(spelling)


def test_no_columns_and_several() -> None:
    assert encode_keys([], 2).to_pylist() == ["[]", "[]"]
    columns = [pa.array([1, None]), pa.array(["a", "b"]), pa.array([1.5, None])]
    assert encode_keys(columns, 2).to_pylist() == ['[1,"a","1.5"]', '[null,"b",null]']


ANY = [
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    (pa.float64(), st.floats(allow_nan=False).map(lambda f: f + 0.0)),
    (pa.binary(), st.binary()),
    (pa.decimal128(20, 4), st.decimals(-(10**15), 10**15, places=4)),
    (pa.date32(), st.dates()),
    (pa.timestamp("us"), st.datetimes()),
    (UTC, st.datetimes().map(lambda moment: moment.replace(tzinfo=dt.UTC))),
    (pa.list_(pa.int64()), st.lists(st.none() | st.integers(-9, 9), max_size=3)),
]


@pytest.mark.parametrize(("kind", "values"), ANY, ids=[str(kind) for kind, _ in ANY])
def test_round_trip(kind: pa.DataType, values: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=30)
    @given(st.lists(st.none() | values, min_size=1, max_size=20))
    def check(rows: list[Any]) -> None:
        column = pa.array(rows, kind)
        texts = encode_keys([column], len(rows)).to_pylist()
        (back,) = decode_keys([Column("k", kind, "")], texts)
        assert back.equals(column)
        alone = [encode_keys([column.slice(i, 1)], 1)[0].as_py() for i in range(len(rows))]
        assert alone == texts

    check()


def test_what_is_no_key() -> None:
    for text in ("{", "[1,2]", '["x"]'):
        with pytest.raises(BadData):
            decode_keys([Column("id", pa.int64(), "bigint")], [text])
