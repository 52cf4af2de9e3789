"""NUMERICs of whole batches equal the same numbers one by one (Python's decimal).

That both equal Postgres's is tests/integration/test_numeric_oracle.py's business.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.changes import Int64s
from cdc.schema import NUMERIC_TEXT
from views.operators import slow_sums, wide_sums
from views.plan import Call, ColumnRef
from views.values import fixed, numeric, numeric_batches
from views.values.print import bytes_to_text


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """Canonical texts, many of them long, with zeros, or special."""
    special = draw(st.integers(0, 15))
    if special == 0:
        return draw(st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "0.000"]))
    digits = draw(st.sampled_from([1, 4, 9, 18, 19, 36, 37, 45]))
    whole = str(draw(st.integers(0, 10 ** draw(st.integers(0, digits)))))
    fraction = draw(st.text("0000123456789", max_size=draw(st.sampled_from([0, 2, 10, 25]))))
    text = whole + ("." + fraction if fraction else "")
    return "-" + text if draw(st.booleans()) and Decimal(text) else text


COLUMN = st.lists(st.none() | numbers(), min_size=1, max_size=30)
ROUND = decimal.ROUND_HALF_UP

Row = Callable[..., Decimal]
CASES: dict[str, tuple[Row, numeric_batches.Batched]] = {
    "add": (numeric.EXACT.add, numeric_batches.add),
    "subtract": (numeric.EXACT.subtract, numeric_batches.subtract),
    "multiply": (numeric.EXACT.multiply, numeric_batches.multiply),
    "divide": (numeric.divide, numeric_batches.divide),
    "remainder": (numeric.remainder, numeric_batches.remainder),
    "negate": (numeric.EXACT.minus, numeric_batches.negate),
    "absolute": (Decimal.copy_abs, numeric_batches.absolute),
    "round 2": (lambda x: numeric.rounded(x, 2, ROUND), numeric_batches.rounding("round", 2)),
    "round -3": (lambda x: numeric.rounded(x, -3, ROUND), numeric_batches.rounding("round", -3)),
    "round 30": (lambda x: numeric.rounded(x, 30, ROUND), numeric_batches.rounding("round", 30)),
    "ceil": (
        lambda x: numeric.rounded(x, 0, decimal.ROUND_CEILING),
        numeric_batches.rounding("ceil", 0),
    ),
    "as (12,2)": (lambda x: numeric.fitted(x, 12, 2), numeric_batches.fitting(12, 2)),
    "as (3,5)": (lambda x: numeric.fitted(x, 3, 5), numeric_batches.fitting(3, 5)),
    "as (5,-2)": (lambda x: numeric.fitted(x, 5, -2), numeric_batches.fitting(5, -2)),
    "as (60,30)": (lambda x: numeric.fitted(x, 60, 30), numeric_batches.fitting(60, 30)),
}
BINARY = ("add", "subtract", "multiply", "divide", "remainder")


def texts(items: Sequence[str | None]) -> pa.Array:
    return NUMERIC_TEXT.wrap_array(pa.array(items, pa.string()))


def one_by_one(compute: Row, *columns: Sequence[Any]) -> tuple[list[str | None], list[bool]]:
    out: list[str | None] = []
    bad = []
    for row in zip(*columns, strict=True):
        failed, result = False, None
        if None not in row:
            try:
                result = numeric.text(compute(*map(Decimal, row)))
            except numeric.Raises:
                failed = True
        out.append(result)
        bad.append(failed)
    return out, bad


def check(name: str, *columns: pa.Array) -> None:
    compute, batched = CASES[name]
    rows = len(columns[0])
    plain = [numeric.decimals(column) for column in columns]
    got, failed = numeric.elementwise(NUMERIC_TEXT, compute, batched)(columns, rows)
    expected, bad = one_by_one(compute, *plain)
    assert got.storage.to_pylist() == expected
    assert ([False] * rows if failed is None else failed.tolist()) == bad


@pytest.fixture(autouse=True)
def _no_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numeric, "FEW", 0)
    monkeypatch.setattr(slow_sums, "FEW", 0)


@pytest.mark.parametrize("name", CASES)
def test_texts(name: str) -> None:
    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.tuples(st.none() | numbers(), st.none() | numbers()), min_size=1))
    def run(pairs: list[tuple[str | None, str | None]]) -> None:
        columns = [texts(column) for column in zip(*pairs, strict=True)]
        check(name, *columns[: 2 if name in BINARY else 1])

    run()


@pytest.mark.parametrize("name", BINARY)
def test_slices_of_decimals_and_integers(name: str) -> None:
    amounts = pa.array([Decimal("1.50"), None, Decimal("-99.99"), Decimal(0)], pa.decimal128(12, 2))
    counts = pa.array([7, 3, -(2**63), 0, 2**63 - 1])
    check(name, amounts.slice(1), counts.slice(2))
    check(name, counts.slice(1), texts(["1", "2.50", "0.000", None]))


@given(COLUMN)
@settings(max_examples=40, deadline=None)
def test_what_is_read_is_printed(column: list[str | None]) -> None:
    got = fixed.read(texts(column))
    left = np.zeros(len(column), np.bool_) if got.rest is None else got.rest
    expected = [None if out else text for text, out in zip(column, left, strict=True)]
    assert fixed.text(got).to_pylist() == expected


def limbs_of(sums: Sequence[int], count: int) -> list[Int64s]:
    """Carried: all but the last between 0 and 2^32 - 1."""
    low = [
        np.array([(s >> (32 * i)) & 0xFFFFFFFF for s in sums], np.int64) for i in range(count - 1)
    ]
    return [*low, np.array([s >> (32 * (count - 1)) for s in sums], np.int64)]


@given(st.lists(st.integers(-(2**95), 2**95 - 1), min_size=1), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_wide_sums_print_exactly(sums: list[int], scale: int) -> None:
    for count in (2, 4):
        limbs = limbs_of(sums, count)
        expected = [numeric.text(Decimal(s).scaleb(-scale, numeric.EXACT)) for s in sums]
        assert wide_sums.to_array(limbs, scale, NUMERIC_TEXT).storage.to_pylist() == expected
        assert [numeric.text(x) for x in wide_sums.exact(limbs, scale).to_pylist()] == expected


def test_sums_beyond_38_digits() -> None:
    sums = [10**38 - 1, 10**38, -(10**38), 2**130, -5]
    limbs = limbs_of(sums, 4)
    expected = [numeric.text(Decimal(s).scaleb(-2, numeric.EXACT)) for s in sums]
    assert wide_sums.exact(limbs, 2).storage.to_pylist() == expected
    with pytest.raises(OverflowError):
        wide_sums.to_array(limbs, 2, pa.decimal128(38, 2))
    few = [limb[[0, 4]] for limb in limbs]
    assert wide_sums.exact(few, 2).type == pa.decimal128(38, 2)


@given(st.lists(st.tuples(numbers(), st.integers(0, 3)), min_size=1), st.data())
@settings(max_examples=40, deadline=None)
def test_sums_of_texts_forget_what_leaves(rows: list[tuple[str, int]], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    values = texts([text for text, _ in rows])
    groups = np.array([group for _, group in rows])
    states = slow_sums.add_numerics([b""] * 4, groups, values, np.ones(len(rows), np.int64))
    states = slow_sums.add_numerics(states, groups, values, np.array(kept, np.int64) - 1)
    for group, found in enumerate(slow_sums.numeric_sums(states)):
        live = [Decimal(t) for (t, g), keep in zip(rows, kept, strict=True) if keep and g == group]
        total = Decimal(0)
        for value in live:
            total = numeric.EXACT.add(total, value)
        assert found == numeric.text(total)


def test_sums_of_the_longest_numerics() -> None:
    """Longer than Python converts between int and text."""
    text = "-" + "9" * 5000 + ".5"
    group, weight = np.zeros(2, np.int64), np.ones(2, np.int64)
    states = slow_sums.add_numerics([b""], group, texts([text, "0.5"]), weight)
    assert slow_sums.numeric_sums(states) == ["-" + "9" * 5000 + ".0"]
    states = slow_sums.add_numerics(states, group[:1], texts([text]), -weight[:1])
    assert slow_sums.numeric_sums(states) == ["0.5"]


@given(st.lists(st.none() | st.binary(max_size=40)), st.integers(0, 3))
def test_bytes_print_as_hexadecimal(column: list[bytes | None], offset: int) -> None:
    array = pa.array(column, pa.binary()).slice(offset)
    call = Call("cast", (ColumnRef("a", "bytea", pa.binary(), True),), "text", pa.string())
    got, _ = bytes_to_text(call)([array], len(array))
    assert got.to_pylist() == [None if b is None else "\\x" + b.hex() for b in array.to_pylist()]
