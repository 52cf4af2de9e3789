"""JSON records along known shapes: as Python's json reads them, and as any JSON is read."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import ragged
from cdc.changes import ChangeBatch, concat
from cdc.errors import BadData
from cdc.formats import json_read
from cdc.formats.debezium_schema import Options
from cdc.formats.envelope import Origin
from cdc.formats.json_envelope import read_envelopes
from cdc.formats.json_shape import Irregular, shape_of
from cdc.formats.json_template import Aligned, aligned
from cdc.formats.records import Json, envelope_records
from cdc.json_integers import integers
from cdc.json_tokens import Members, members
from cdc.schema import Column, TableSchema

ROWS = ("before", "after")
TABLE = TableSchema(
    "public.t",
    (
        Column("id", pa.int64(), "bigint"),
        Column("n", pa.int32(), "integer"),
        Column("yes", pa.bool_(), "boolean"),
        Column("note", pa.string(), "text"),
        Column("at", pa.timestamp("us", "UTC"), "timestamptz"),
        Column("price", pa.decimal128(12, 2), "numeric(12,2)"),
    ),
    ("id",),
)
ORIGIN = Origin("shop", "postgres", "0.1.0")

numbers = st.integers(-3, 3) | st.integers(-(10**18), 10**18) | st.integers(-(10**25), 10**25)
texts = st.text(st.sampled_from('ab1\\"\n[]{},:ü😀'), max_size=30) | st.sampled_from(["x" * 70])
leaves = st.none() | st.booleans() | numbers | texts
shapes = st.fixed_dictionaries(
    {
        "before": st.none() | st.fixed_dictionaries({"a": leaves, "1": leaves}),
        "after": st.none() | st.fixed_dictionaries({"a": leaves, "b": leaves}),
        "source": st.fixed_dictionaries({"n7": leaves, "8": leaves, "seq": st.just('["1","2"]')}),
        "op": st.sampled_from("cud"),
        "ts_ms": numbers,
        "l": st.lists(leaves, max_size=3),
    }
)


def varied(value: Any, draw: Any) -> Any:
    """The value with other digits, mostly as many, and sometimes another value altogether."""
    if isinstance(value, dict):
        return {name: varied(inner, draw) for name, inner in value.items()}
    if isinstance(value, list):
        return [varied(inner, draw) for inner in value]
    if isinstance(value, bool) or value is None or draw.random() < 0.5:
        return value
    if isinstance(value, str):
        return "".join(draw.choice(string.digits) if c.isdigit() else c for c in value)
    found = int("".join(draw.choice("123456789") for _ in str(abs(value))))
    return found if draw.random() < 0.9 else found * 10


@given(
    st.lists(shapes, min_size=1, max_size=3),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\n")]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(max_examples=15, deadline=None)
def test_heads_and_tails_are_what_python_reads(
    distinct: list[Any], separators: tuple[str, str], ascii_only: bool, draw: Any
) -> None:
    rows = []
    for shape in distinct:
        order = list(shape)
        draw.shuffle(order)
        rows += [varied({name: shape[name] for name in order}, draw) for _ in range(40)]
    draw.shuffle(rows)
    spelled = [json.dumps(row, separators=separators, ensure_ascii=ascii_only) for row in rows]
    column = pa.array([text.encode() for text in spelled], pa.binary())
    try:
        found: Aligned | Members = aligned(column, lambda _: True, lambda name: name not in ROWS)
    except Irregular:
        found = members(column)
    for name in ("op", "ts_ms", "l"):
        assert values_of(found, name) == [row[name] for row in rows]
    for name in ("before", "after", "source"):
        inner = json_read.nested(found, name)
        if inner is None:
            assert all(row[name] is None for row in rows)
            continue
        assert inner[1].tolist() == [row[name] is not None for row in rows]
        for part in {part for row in rows if row[name] for part in row[name]}:
            wanted = [row[name] and row[name][part] for row in rows]
            assert values_of(inner[0], part) == wanted


def values_of(found: Any, name: str) -> list[Any]:
    """The values of a member by row, as Python's json reads their text."""
    places = found.named(name)
    read = ragged.text(places.slices(marks=True)).to_pylist()
    rows: list[Any] = [None] * found.rows
    for row, text in zip(places.row.tolist(), read, strict=True):
        rows[row] = None if text is None else json.loads(text, strict=False)
    return rows


def changes(count: int, draw: Any) -> ChangeBatch:
    notes = ["plain", 'with "marks" and \\', "ünïcode 😀", None, "x" * 100, "7"]
    rows = [
        {
            "id": draw.randrange(10 ** draw.randint(1, 18)),
            "n": draw.choice([None, draw.randrange(-(2**31), 2**31)]),
            "yes": draw.choice([None, True, False]),
            "note": draw.choice(notes),
            "at": draw.choice([None, draw.randrange(10**15)]),
            "price": None,
        }
        for _ in range(count)
    ]
    place = np.arange(count)
    op = np.array([draw.choice(b"curd") for _ in rows], np.uint8)
    return ChangeBatch(
        TABLE,
        op,
        place // 7 + 95,
        place % 120,
        place,
        pa.RecordBatch.from_pylist(rows, TABLE.arrow),
    )


@contextmanager
def without_shapes() -> Iterator[None]:
    """Every object is read by the tokenizer of any JSON."""

    def never(*_: Any) -> Aligned:
        raise Irregular

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_read, "aligned", never)
        yield


def read(keys: pa.Array, values: pa.Array) -> ChangeBatch | str:
    try:
        found = read_envelopes(keys, values, lambda _: TABLE, Options())
    except BadData as error:
        return error.what
    return concat([part.changes for part in found])


def assert_same(one: ChangeBatch, other: ChangeBatch) -> None:
    assert one.rows.equals(other.rows)
    for name in ("op", "txn_seq", "ordinal", "commit_us"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()


@given(st.integers(17, 90), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=10, deadline=None)
def test_records_are_read_alike_with_and_without_shapes(
    count: int, draw: Any, schemas: bool
) -> None:
    records = envelope_records(changes(count, draw), "t", Json(schemas), Options(), ORIGIN, 10**15)
    along = read(records.keys, records.values)
    with without_shapes():
        singly = read(records.keys, records.values)
    assert isinstance(along, ChangeBatch) and isinstance(singly, ChangeBatch)
    assert_same(along, singly)


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_byte_that_is_another_is_never_misread(draw: Any) -> None:
    """What is still JSON is read as without shapes; else it may only be refused."""
    records = envelope_records(changes(40, draw), "t", Json(), Options(), ORIGIN, 10**15)
    lines = records.values.to_pylist()
    at = draw.choice([i for i, line in enumerate(lines) if line is not None])
    place = draw.randrange(len(lines[at]))
    byte = draw.choice(b'{}[],:"\\0123456789-.eE abcdnrtu\n')
    lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    values = pa.array(lines, pa.binary())
    along = read(records.keys, values)
    try:
        json.loads(lines[at])
    except ValueError:
        return
    with without_shapes():
        singly = read(records.keys, values)
    assert isinstance(along, ChangeBatch) == isinstance(singly, ChangeBatch)
    if isinstance(along, ChangeBatch) and isinstance(singly, ChangeBatch):
        assert_same(along, singly)


@pytest.mark.parametrize("other", ['{"id": 7}', '{"id":7 }', '{"id":\n7\t}', '{"id" :7}'])
def test_blanks_where_other_records_have_none(other: str) -> None:
    lines = ['{"op":"c","after":{"id":7},"ts_ms":1}'] * 40
    lines[5] = lines[5].replace('{"id":7}', other)
    found = read(pa.nulls(40, pa.binary()), pa.array([line.encode() for line in lines]))
    assert isinstance(found, ChangeBatch), found
    assert found.rows.column("id").to_pylist() == [7] * 40


def test_the_last_of_names_that_are_twice_counts() -> None:
    """Whether in one object, or one in the head and one in the tail of a record."""
    plain = '{"op":"c","after":{"id":%d,"id":7},"op":"u","ts_ms":1}'
    values = pa.array([(plain % number).encode() for number in range(40)], pa.binary())
    with pytest.raises(Irregular):
        aligned(values, lambda _: True, lambda name: name not in ROWS)
    found = read(pa.nulls(40, pa.binary()), values)
    assert isinstance(found, ChangeBatch)
    assert bytes(found.op) == b"u" * 40
    assert found.rows.column("id").to_pylist() == [7] * 40


def test_a_tail_that_few_have_is_given_up() -> None:
    """Values of any length behind the rows: these are walked through, too."""
    lines = [
        json.dumps({"after": {"id": n}, "source": {"query": "q" * (n * 37 % 301)}, "op": "c"})
        for n in range(200)
    ]
    values = pa.array([line.encode() for line in lines], pa.binary())
    found = aligned(values, lambda _: True, lambda name: name not in ROWS)
    source = found.nested("source")
    assert source is not None
    assert values_of(source[0], "query") == ["q" * (n * 37 % 301) for n in range(200)]


def test_the_cut_between_head_and_tail() -> None:
    shape = shape_of(b'{"op":"c", "after": {"a":"}"} , "ts_ms":1,"source":{"x":2}}')
    head, tail = shape.cut(lambda name: name not in ROWS)
    assert head.text == b'{"op":"c", "after": {"a":"}"}'
    assert tail.text == b' , "ts_ms":1,"source":{"x":2}}'
    assert [slot.path for slot in tail.slots] == [("ts_ms",), ("source", "x")]
    assert shape.cut(lambda _: False)[1].text == b""


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1) | st.integers(-99, 99), min_size=1))
@settings(max_examples=50, deadline=None)
def test_integers_of_all_lengths(wanted: list[int]) -> None:
    texts = [str(number).encode() for number in wanted]
    data, start, stop = ragged.join([b"[", *texts, b"]" * 8])
    found = integers(data, start[1:-1], stop[1:-1])
    assert found is not None
    assert found.tolist() == wanted


@pytest.mark.parametrize("text", ["", "-", "1.5", "1e3", "+1", " 1", "1a", "١", "/", ":", "9" * 19])
def test_what_is_no_plain_integer_is_left_to_others(text: str) -> None:
    data, start, stop = ragged.join([b"12345678", b"42", text.encode(), b"12345678"])
    assert integers(data, start[1:3], stop[1:3]) is None
