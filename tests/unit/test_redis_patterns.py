"""Names that templates make of rows: different rows have different names, read back exactly."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import SinkError
from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from sinks.redis.patterns import Pattern, pattern_of

COLUMNS = (
    Column("a", pa.string(), "text"),
    Column("b", pa.string(), "text"),
    Column("n", pa.int64(), "bigint"),
    Column("at", pa.timestamp("us"), "timestamp without time zone"),
)
SCHEMA = TableSchema("public.things", COLUMNS, ("a", "b", "n", "at"))
TEMPLATES = ["{a}:{b}:{n}:{at}", "{n}-{a}/{b}", "é{b}·{a}", "{{{a}}}:{b}", "{at} {a}"]
TEXT = st.one_of(st.none(), st.sampled_from(["", "%", "%null", ":", "a:b", "%3A"]), st.text())
ROW = st.fixed_dictionaries(
    {
        "a": TEXT,
        "b": TEXT,
        "n": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "at": st.one_of(st.none(), st.integers(-(10**15), 10**17)),
    }
)


def pattern(text: str, schema: TableSchema = SCHEMA) -> Pattern:
    return pattern_of(text, schema, "key", "sink cache")


def batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA.arrow)


@pytest.mark.parametrize("text", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=20))
def test_names_are_read_back_and_never_shared(text: str, rows: list[dict[str, Any]]) -> None:
    made, given_rows = pattern(text), batch(rows)
    names = made.render(given_rows)
    kept, found = made.parse(names)
    used = list(dict.fromkeys(made.template.columns))
    wanted = given_rows.select(used)
    assert kept.all() and found.equals(wanted.select(found.schema.names))
    distinct = {tuple(row[c] for c in used) for row in wanted.to_pylist()}
    assert len(set(names.to_pylist())) == len(distinct)


@pytest.mark.parametrize("text", ["{a}{b}", "{a}x{b}", "{a}%{b}", "{a}1{b}"])
def test_columns_that_run_into_each_other_are_refused(text: str) -> None:
    with pytest.raises(SinkError, match="where one column ends"):
        pattern(text)


def test_what_the_template_does_not_make_is_not_ours() -> None:
    made = pattern("order:{n}")
    names = pa.array(["order:7", "order:07", "order:x", "order:", "Order:7", "order:%null", "a:7"])
    kept, rows = made.parse(names)
    assert kept.tolist() == [True, False, False, False, False, True, False]
    assert rows.to_pylist() == [{"n": 7}, {"n": None}]


def test_readable_values_stay_readable() -> None:
    rows = batch([{"a": "Zürich 8000", "b": "50% off", "n": 1, "at": None}])
    assert pattern("shop:{a}").render(rows).to_pylist() == ["shop:Zürich 8000"]
    assert pattern("{a}:{b}").render(rows).to_pylist() == ["Zürich 8000:50%25 off"]
    assert pattern("all").render(rows).to_pylist() == ["all"]


def test_equal_numbers_have_one_name() -> None:
    schema = TableSchema("t", (Column("v", NUMERIC_TEXT, "numeric"),), ("v",))
    values = NUMERIC_TEXT.wrap_array(pa.array(["1.50", "1.5", None]))
    rows = pa.RecordBatch.from_arrays([values], names=["v"])
    assert pattern("v:{v}", schema).render(rows).to_pylist() == ["v:1.5", "v:1.5", "v:%null"]


@pytest.mark.parametrize(
    ("left", "right", "overlap"),
    [
        ("order:{n}", "order:{n}", True),
        ("order:{n}", "order:{n}:items", False),
        ("order:{a}", "order:{n}:items", True),
        ("order:{n}", "orders:{n}", False),
        ("{a}", "order:{n}", True),
        ("order:{n}", "order:latest", False),
        ("order:{a}", "order:latest", True),
        ("{n}:{a}", "x:{a}", False),
    ],
)
def test_templates_that_may_name_the_same_key(left: str, right: str, overlap: bool) -> None:
    assert pattern(left).overlaps(pattern(right)) is overlap
    assert pattern(right).overlaps(pattern(left)) is overlap
