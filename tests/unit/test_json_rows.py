"""Rows as JSON and back: every text is what Python's json reads, every row comes back equal."""

from __future__ import annotations

import base64
import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import BadData
from cdc.json_rows import (
    json_objects,
    json_values,
    plain_texts,
    rows_from_json,
    values_from_plain,
)
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column, TableSchema
from tests.arrow_values import array

UTC = pa.timestamp("us", "UTC")
EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001
YEARS_0_TO_9999_US = (-62_167_219_200_000_000, 253_402_300_799_999_999)

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
tricky = st.lists(
    st.sampled_from(['"', "\\", "\n", "\x1f", "ü", "😀", "a", "\u2028", "{", ",", ":"])
)
texts = text | tricky.map("".join)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
digits = st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: format(d, "f"))


def of(kind: pa.DataType, sql_type: str = "") -> Column:
    return Column("c", kind, sql_type)


def scaled(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    most = 10**precision - 1
    zero = Decimal((0, (0,), -scale))
    return st.integers(-most, most).map(
        lambda n: Decimal((n < 0, tuple(map(int, str(abs(n)))), -scale)) if n else zero
    )


# type, sql_type, the values as Arrow stores them, what json.loads gives (None: see the test)
KINDS: dict[str, tuple[Column, st.SearchStrategy[Any]]] = {
    "smallint": (of(pa.int16()), st.integers(-(2**15), 2**15 - 1)),
    "integer": (of(pa.int32()), st.integers(-(2**31), 2**31 - 1)),
    "bigint": (of(pa.int64()), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (of(pa.uint64()), st.integers(0, 2**64 - 1)),
    "real": (of(pa.float32()), st.floats(width=32)),
    "double": (of(pa.float64()), st.floats()),
    "boolean": (of(pa.bool_()), st.booleans()),
    "decimal": (of(pa.decimal128(12, 2)), scaled(12, 2)),
    "decimal wide": (of(pa.decimal128(38, 38)), scaled(38, 38)),
    "decimal long": (of(pa.decimal128(38, 0)), scaled(38, 0)),
    "numeric": (
        of(NUMERIC_TEXT, "numeric"), digits | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    ),
    "text": (of(pa.string(), "text"), texts),
    "jsonb": (of(pa.string(), "jsonb"), documents.map(json.dumps)),
    "json": (
        of(pa.string(), "json"), documents.map(lambda d: json.dumps(d, ensure_ascii=False)),
    ),
    "bytea": (of(pa.binary()), st.binary()),
    "date": (of(pa.date32()), st.integers(-(2**31) + 1, 2**31 - 1) | st.integers(-10**6, 10**7)),
    "time": (of(pa.time64("us")), st.integers(0, 86_400_000_000) | st.just(86_400_000_000)),
    "timestamp": (
        of(pa.timestamp("us")),
        st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(*YEARS_0_TO_9999_US)
        | st.sampled_from([TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]),
    ),
    "timestamptz": (
        of(UTC),
        st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(*YEARS_0_TO_9999_US)
        | st.sampled_from([TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]),
    ),
}  # fmt: skip
for _name in ("integer", "text", "decimal", "numeric", "jsonb", "timestamp", "bytea", "double"):
    _column, _values = KINDS[_name]
    KINDS[f"{_name}[]"] = (
        of(pa.list_(_column.type), f"{_column.sql_type}[]" if _column.sql_type else ""),
        st.lists(st.none() | _values, max_size=4),
    )
_column, _values = KINDS["text[]"]
KINDS["text[][]"] = (
    of(pa.list_(_column.type), "text[][]"),
    st.lists(st.none() | _values, max_size=3),
)


def expected(value: Any, column: Column) -> Any:
    """What json.loads (numbers as their text) gives for the value."""
    kind = column.type
    if value is None:
        return None
    if pa.types.is_list(kind):
        inner = of(kind.value_type, column.sql_type.removesuffix("[]"))
        return [expected(item, inner) for item in value]
    if column.sql_type in ("json", "jsonb"):
        return loads(value)
    if pa.types.is_binary(kind):
        return base64.b64encode(value).decode()
    if pa.types.is_timestamp(kind):
        return moment(value) + ("Z" if kind.tz and abs(value) != TIMESTAMP_INFINITY else "")
    if pa.types.is_date(kind):
        return moment(value * 86_400_000_000).partition("T")[0]
    if pa.types.is_floating(kind):
        return np.float32(value) if kind == pa.float32() else value
    if isinstance(kind, pa.ExtensionType):
        return value if value[-1] in "Ny" else Number(value)
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return Number(format(value, "f") if isinstance(value, Decimal) else str(value))
    return value


class Number(str):
    """A JSON number's own digits."""

    __slots__ = ()


def loads(document: str | bytes) -> Any:
    return json.loads(document, parse_int=Number, parse_float=Number)


def moment(micros: int) -> str:
    """ISO 8601 by the calendar's period of 400 years, which Python's datetime has."""
    if abs(micros) in (TIMESTAMP_INFINITY, DATE_INFINITY * 86_400_000_000):
        return "infinity" if micros > 0 else "-infinity"
    days, rest = divmod(micros, 86_400_000_000)
    cycles, days = divmod(days + 719_162, 146_097)
    day = EPOCH + dt.timedelta(days=days - 719_162, microseconds=rest)
    year = day.year + 400 * cycles
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}{day.strftime('-%m-%dT%H:%M:%S.%f')}"


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, float | np.float32):
        if isinstance(found, Number):
            return repr(type(wanted)(found)) == repr(wanted)
        return str(found) == {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(wanted)]
    return bool(found == wanted) and isinstance(found, Number) == isinstance(wanted, Number)


@pytest.mark.parametrize("name", KINDS)
def test_values_are_what_json_reads_and_come_back(name: str) -> None:
    column, values = KINDS[name]
    schema = TableSchema("public.t", (Column("id", pa.int64(), "bigint"), column), ())

    @settings(max_examples=12)
    @given(st.lists(st.none() | values, min_size=1, max_size=8))
    def check(stored: list[Any]) -> None:
        here = array(stored, column.type)
        rows = pa.RecordBatch.from_arrays(
            [pa.array(range(len(stored)), pa.int64()), here], schema=schema.arrow
        )
        documents = json_objects(rows, schema)
        alone = json_values(here, column)
        for number, value in enumerate(stored):
            document = documents[number].as_py()
            assert b"\n" not in document and b"\r" not in document
            wanted = expected(value, column)
            if not pa.types.is_time(column.type):
                assert same(loads(document)["c"], wanted), (document, wanted)
            one = alone[number].as_py()
            assert document == f'{{"id":{number},"c":{"null" if one is None else one}}}'.encode()
        assert identical(rows_from_json(documents, schema), rows)
        assert identical(
            rows_from_json(documents.cast(pa.string()), schema, ["c"]), rows.select(["c"])
        )
        back = values_from_plain(plain_texts(here, column), column)
        assert identical_arrays(back, here)

    check()


def identical(found: pa.RecordBatch, wanted: pa.RecordBatch) -> bool:
    return found.schema == wanted.schema and all(
        map(identical_arrays, found.columns, wanted.columns)
    )


def identical_arrays(found: pa.Array, wanted: pa.Array) -> bool:
    """Equal, with NaN equal to itself and -0 different from 0."""
    # In full, a validation would refuse 24:00:00.
    found.validate()
    return found.type == wanted.type and repr(bare(found)) == repr(bare(wanted))


def bare(values: pa.Array) -> Any:
    kind = values.type
    if pa.types.is_list(kind):
        return [values.offsets.to_pylist(), values.is_valid().to_pylist(), bare(values.flatten())]
    if isinstance(kind, pa.ExtensionType):
        return values.storage.to_pylist()
    if pa.types.is_date(kind):
        return values.view(pa.int32()).to_pylist()
    return (values.view(pa.int64()) if pa.types.is_temporal(kind) else values).to_pylist()


def read(kind: pa.DataType, sql_type: str, *documents: str) -> list[Any]:
    schema = TableSchema("t", (of(kind, sql_type),), ())
    return bare(rows_from_json(pa.array(documents, pa.string()), schema).column(0))


def test_members_in_any_order_missing_and_unknown() -> None:
    schema = TableSchema("t", (of(pa.int32()), Column("ü", pa.string(), "text")), ())
    documents = [
        '{"ü":"x","c":1}',
        ' {"other" : {"c": [1, {"ü": "}"}]}, "c"\n:\r\n 2\t, "\\u00fc": "y" } ',
        "{}",
        "{ }",
        '{"c":null,"ü":null}',
        '{"c":1,"c":5,"":0}',
        None,
    ]
    rows = rows_from_json(pa.array(documents, pa.binary()), schema)
    assert rows.column(0).to_pylist() == [1, 2, None, None, None, 5, None]
    assert rows.column(1).to_pylist() == ["x", "y", None, None, None, None, None]


def test_what_others_write_in_strings() -> None:
    documents = [json.dumps({"c": 'ü😀"\\/\n\x01'}), '{"c":"\\/\\u0041\\b"}', '{"c":"plain"}']
    assert read(pa.string(), "text", *documents) == ['ü😀"\\/\n\x01', "/A\b", "plain"]


def test_numbers_keep_their_digits_whether_bare_or_strings() -> None:
    long = "12345678901234567.890"
    assert read(NUMERIC_TEXT, "numeric", f'{{"c":{long}}}', f'{{"c":"{long}"}}') == [long, long]
    assert read(pa.decimal128(38, 3), "", f'{{"c":{long}}}') == [Decimal(long)]
    assert read(pa.int64(), "bigint", '{"c":9223372036854775807}') == [2**63 - 1]


def test_json_stands_as_it_is() -> None:
    document = '{"big": 1e400, "twice": 12345678901234567890.10, "twice": "\\n", "u": [ ]}'
    column = pa.array([document, "null", None, "[1,\n2\r\n]", "\nnull "])
    schema = TableSchema("t", (of(pa.string(), "json"),), ())
    texts = json_objects(pa.RecordBatch.from_arrays([column], schema=schema.arrow), schema)
    assert texts.to_pylist() == [
        f'{{"c":{document}}}'.encode(), b'{"c":\tnull}', b'{"c":null}', b'{"c":[1, 2  ]}',
        b'{"c":\tnull}',
    ]  # fmt: skip
    assert rows_from_json(texts, schema).column(0).to_pylist() == [
        document, "null", None, "[1, 2  ]", "null",
    ]  # fmt: skip
    assert plain_texts(column, schema.columns[0]).equals(column)


@pytest.mark.parametrize(
    ("kind", "value", "spelling"),
    [
        (pa.float64(), 1e300, "1e+300"),
        (pa.float64(), 5.0, "5"),
        (pa.float32(), float("-inf"), "-Infinity"),
        (pa.decimal128(12, 2), Decimal("12.50"), "12.50"),
        (pa.decimal128(12, 10), Decimal("-0.0000000001"), "-0.0000000001"),
        (pa.decimal128(12, 10), Decimal(0), "0.0000000000"),
        (pa.bool_(), True, "true"),
        (pa.binary(), b"\0\xff", "AP8="),
        (pa.date32(), -719_529, "-0001-12-31"),
        (pa.date32(), 2_932_897, "+10000-01-01"),
        (pa.date32(), -DATE_INFINITY, "-infinity"),
        (pa.time64("us"), 86_400_000_000, "24:00:00.000000"),
        (pa.timestamp("us"), 0, "1970-01-01T00:00:00.000000"),
        (UTC, -1, "1969-12-31T23:59:59.999999Z"),
        (UTC, 253_402_300_800_000_000, "+10000-01-01T00:00:00.000000Z"),
        (UTC, TIMESTAMP_INFINITY, "infinity"),
        (pa.list_(pa.string()), ['a"', None], '["a\\"",null]'),
    ],
)
def test_plain_spellings(kind: pa.DataType, value: Any, spelling: str) -> None:
    column = array([None, value, value], kind)
    assert plain_texts(column, of(kind)).to_pylist() == [None, spelling, spelling]
    assert plain_texts(column[1:], of(kind)).to_pylist() == [spelling, spelling]


def test_slices_of_batches_and_odd_names() -> None:
    columns = (
        Column('a"\\\n', pa.string(), "text"),
        Column("l", pa.list_(pa.int32()), "integer[]"),
        Column("d", UTC, "timestamp with time zone"),
        Column("n", NUMERIC_TEXT, "numeric"),
        Column("b", pa.bool_(), "boolean"),
    )
    schema = TableSchema("t", columns, ())
    many = 3_000
    values: list[list[Any]] = [
        [None if i % 5 == 0 else f"{i}\n" for i in range(many)],
        [None if i % 7 == 0 else [i] * (i % 3) for i in range(many)],
        [None if i % 3 == 0 else i for i in range(many)],
        [None if i % 2 == 0 else f"{i}.0" for i in range(many)],
        [None if i % 11 == 0 else i % 2 == 0 for i in range(many)],
    ]
    arrays = [array(v, c.type) for v, c in zip(values, columns, strict=True)]
    rows = pa.RecordBatch.from_arrays(arrays, schema=schema.arrow)
    whole = json_objects(rows, schema).to_pylist()
    for start, count in ((0, many), (0, 9), (1, 9), (1_003, 17), (2_999, 1), (5, 0)):
        texts = json_objects(rows.slice(start, count), schema)
        assert texts.to_pylist() == whole[start : start + count]
        assert identical(rows_from_json(texts, schema), again(rows, start, count))
    texts = pa.array(whole, pa.binary())[1_003:1_020]
    assert identical(rows_from_json(texts, schema), again(rows, 1_003, 17))


def again(rows: pa.RecordBatch, start: int, count: int) -> pa.RecordBatch:
    """The slice in memory of its own."""
    (batch,) = pa.Table.from_batches([rows]).take(
        pa.array(range(start, start + count), pa.int64())
    ).to_batches() or [rows.slice(0, 0)]
    return batch


def test_texts_of_more_than_one_piece() -> None:
    """The reader cuts its input into pieces; one text may be larger than a piece."""
    schema = TableSchema("t", (Column("id", pa.int64(), "bigint"), of(pa.string(), "text")), ())
    contents = ["x" * 100_000] * 30 + ["y\n" * 1_500_000] + [None, ""] * 20
    rows = pa.RecordBatch.from_arrays(
        [pa.array(range(len(contents)), pa.int64()), pa.array(contents)], schema=schema.arrow
    )
    assert identical(rows_from_json(json_objects(rows, schema), schema), rows)


def test_no_columns() -> None:
    schema = TableSchema("t", (of(pa.int32()),), ())
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int32())], schema=schema.arrow)
    assert json_objects(rows, schema, []).to_pylist() == [b"{}", b"{}"]


@pytest.mark.parametrize(
    "document",
    ["", " ", "1", "[1]", "null", '{"c":1', '{"c":1}}', '{"c":1}{"c":1}', 'x{"c":1}', '{"c":1}x',
     '{"c" 1}', '{"c"x:1}', '{"c":}', '{"c":1,}', '{"c":1 "d":2}', '{"c":"1" 2}', "{c:1}",
     '{"c":nope}', '{"c":1.5}', '{"c":{}}', '{"c":99999999999}', '{"c":"'],
)  # fmt: skip
def test_what_is_no_row(document: str) -> None:
    good = '{"c":7}'
    for documents in ([document], [good, document, good]):
        with pytest.raises(BadData):
            read(pa.int32(), "integer", *documents)


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (pa.string(), '{"c":1}'),
        (pa.string(), '{"c":"\\x"}'),
        (pa.string(), '{"c":"\\u00g0"}'),
        (pa.string(), '{"c":"\\u00"}'),
        (pa.string(), '{"c":"\\ud800"}'),
        (pa.bool_(), '{"c":"maybe"}'),
        (pa.binary(), '{"c":"AP8"}'),
        (pa.binary(), '{"c":"A!8="}'),
        (pa.date32(), '{"c":"2024-13-01"}'),
        (pa.date32(), '{"c":"+12024-13-01"}'),
        (pa.date32(), '{"c":"-in"}'),
        (pa.time64("us"), '{"c":"25:00:00"}'),
        (UTC, '{"c":"2024-01-01T00:00:00"}'),
        (UTC, '{"c":"+12024-01-01T00:00:00"}'),
        (pa.timestamp("us"), '{"c":"2024-01-01T00:00:00Z"}'),
        (pa.timestamp("us"), '{"c":"+294248-01-01T00:00:00"}'),
        (NUMERIC_TEXT, '{"c":"one"}'),
        (NUMERIC_TEXT, '{"c":true}'),
        (pa.decimal128(5, 2), '{"c":1.234}'),
        (pa.decimal128(5, 2), '{"c":12345}'),
        (pa.list_(pa.int32()), '{"c":1}'),
        (pa.list_(pa.int32()), '{"c":["x"]}'),
        (pa.list_(pa.int32()), '{"c":[1,]}'),
        (pa.list_(pa.int32()), '{"c":[1 2]}'),
    ],
)
def test_what_is_not_the_type(kind: pa.DataType, document: str) -> None:
    with pytest.raises(BadData, match="column c"):
        read(kind, "", document)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={"n": st.none() | st.integers(-9, 99), "t": st.none() | texts, "x": documents},
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=2), st.integers(0, 2)), max_size=2),
)
@settings(max_examples=80)
def test_damaged_texts_are_refused_or_read_as_python_does(
    objects: list[dict[str, Any]],
    ascii_only: bool,
    indent: int | None,
    damages: list[tuple[float, bytes, int]],
) -> None:
    whole = [json.dumps(o, ensure_ascii=ascii_only, indent=indent).encode() for o in objects]
    broken = bytearray(whole[-1])
    for place, put, removed in damages:
        at = int(place * len(broken))
        broken[at : at + removed] = put
    documents = [*whole[:-1], bytes(broken)]
    columns = (Column("n", pa.int32(), "integer"), Column("t", pa.string(), "text"))
    schema = TableSchema("t", columns, ())
    try:
        rows = rows_from_json(pa.array(documents, pa.binary()), schema)
    except BadData:
        assert damages
        return
    rows.validate(full=True)
    try:
        read = [json.loads(document) for document in documents]
    except ValueError:
        # What stands inside other members is not checked.
        assert damages
        return
    # Numbers may come as strings.
    numbers = [None if one.get("n") is None else int(one["n"]) for one in read]
    assert rows.column(0).to_pylist() == numbers
    assert rows.column(1).to_pylist() == [one.get("t") for one in read]
