"""Single values and whole records of Kafka's formats: what is refused and why, keys that are equal,
the source and transaction blocks, records of topics without keys."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.changes import C, ChangeBatch, D, R
from cdc.errors import BadData
from cdc.formats import intervals, sequence, unscaled
from cdc.formats.connect_schema import avro_json
from cdc.formats.connect_values import from_connect, to_connect
from cdc.formats.debezium_schema import Options, column_schema, topic_schemas
from cdc.formats.envelope import Details, Origin
from cdc.formats.json_envelope import read_envelopes
from cdc.formats.records import (
    Avro,
    AvroWriter,
    Json,
    envelope_records,
    read_avro_envelopes,
)
from cdc.schema import NUMERIC_TEXT, TIMESTAMP_INFINITY, Column, TableSchema
from tests.arrow_values import array
from tests.formats_cases import UTC

ORIGIN = Origin("shop", "postgres", "0.1.0")


def batch(table: TableSchema, op: str, *columns: list[Any]) -> ChangeBatch:
    arrays = [array(v, c.type) for v, c in zip(columns, table.columns, strict=True)]
    numbers = np.arange(len(op))
    return ChangeBatch(
        table,
        np.frombuffer(op.encode(), np.uint8),
        numbers,
        numbers,
        numbers,
        pa.RecordBatch.from_arrays(arrays, schema=table.arrow),
    )


def one_column(kind: pa.DataType, sql_type: str) -> TableSchema:
    return TableSchema("public.t", (Column("c", kind, sql_type),), ())


MICROS = pa.timestamp("us")


@pytest.mark.parametrize(
    ("kind", "sql_type", "value", "options", "message"),
    [
        (NUMERIC_TEXT, "numeric", "NaN", Options(), "numeric NaN"),
        (NUMERIC_TEXT, "numeric", "-Infinity", Options(), "numeric -Infinity"),
        (NUMERIC_TEXT, "numeric(50,2)", "NaN", Options(), "numeric NaN"),
        (NUMERIC_TEXT, "numeric(50,2)", "0.001", Options(), "more than 2 digits"),
        (MICROS, "timestamp", 1, Options(time="connect"), "a moment with microseconds"),
        (MICROS, "timestamp(3)", 1, Options(), "a moment with microseconds"),
        (pa.time64("us"), "time", 1001, Options(time="connect"), "a moment with microseconds"),
        (pa.string(), "interval", "infinity", Options(), "not an interval"),
    ],
)
@pytest.mark.parametrize("rows", [1, 9])
def test_what_debezium_cannot_carry_is_refused(
    kind: pa.DataType, sql_type: str, value: Any, options: Options, message: str, rows: int
) -> None:
    changes = batch(one_column(kind, sql_type), "c" * rows, [None] * (rows - 1) + [value])
    for form in (Avro(1, 2), Json()):
        with pytest.raises(BadData, match=message) as caught:
            envelope_records(changes, "t", form, options, ORIGIN, 0)
        assert caught.value.where == "column c"
        assert caught.value.hint


def test_a_value_that_the_column_cannot_hold_is_refused() -> None:
    wide, narrow = one_column(pa.int64(), "bigint"), one_column(pa.int16(), "smallint")
    changes = batch(wide, "c", [2**40])
    records = envelope_records(changes, "t", Json(), Options(), ORIGIN, 0)
    with pytest.raises(BadData, match="c: not of type int16"):
        read_envelopes(records.keys, records.values, lambda _: narrow, Options())
    records = envelope_records(changes, "t", Avro(1, 2), Options(), ORIGIN, 0)
    schemas = topic_schemas("t", wide, Options())
    writer = AvroWriter("", json.dumps(avro_json(schemas.envelope)))
    with pytest.raises(BadData, match="column c: a value that smallint cannot hold"):
        read_avro_envelopes(records.keys, records.values, writer, narrow)
    text = one_column(pa.string(), "text")
    column = Column("c", pa.bool_(), "boolean")
    values = to_connect(pa.array(["x"]), text.columns[0], column_schema(text.columns[0], Options()))
    with pytest.raises(BadData, match="string cannot be read as boolean"):
        from_connect(values, column_schema(text.columns[0], Options()), column, 1)


@pytest.mark.parametrize("form", [Avro(1, 2), Json()])
@pytest.mark.parametrize("repeated", [1, 10])
def test_equal_keys_have_equal_bytes(form: Avro | Json, repeated: int) -> None:
    """Or compaction would never join them."""
    columns = (Column("n", NUMERIC_TEXT, "numeric"), Column("f", pa.float64(), "double precision"))
    table = TableSchema("public.t", columns, ("n", "f"))
    ones, others = ["1.50", "100", "0.0"], ["1.5", "100.00", "0"]
    zeros = [0.0, -0.0, float("nan")]
    changes = batch(table, "c" * 6 * repeated, (ones + others) * repeated, zeros * 2 * repeated)
    keys = envelope_records(changes, "t", form, Options(names="avro"), ORIGIN, 0).keys.to_pylist()
    assert keys[:3] == keys[3:6]
    assert len(set(keys)) == 3
    # The rows keep what they were.
    if isinstance(form, Json):
        values = envelope_records(changes, "t", form, Options("string"), ORIGIN, 0).values
        assert json.loads(values[0].as_py())["after"]["n"] == "1.50"


def test_the_source_and_transaction_blocks() -> None:
    table = TableSchema("sales.orders", (Column("id", pa.int64(), "bigint", False),), ("id",), 3)
    changes = ChangeBatch(
        table,
        np.array([R, C], np.uint8),
        np.array([5, 6]),
        np.array([0, 7]),
        np.array([1_700_000_000_123_456] * 2),
        pa.record_batch([pa.array([1, 2])], schema=table.arrow),
    )
    details = Details(
        tx_id=np.array([840, 841]),
        lsn=np.array([2**40, 2**40 + 8]),
        transaction_id=pa.array(["840:1", "841:2"]),
        total_order=np.array([1, 2]),
        data_collection_order=np.array([1, 1]),
    )
    records = envelope_records(
        changes, "shop.sales.orders", Json(), Options(), ORIGIN, 1_700_000_001_000_999, details
    )
    first, second = (json.loads(value) for value in records.values.to_pylist())
    assert first["source"] == {
        "version": "0.1.0",
        "connector": "postgresql",
        "name": "shop",
        "ts_ms": 1_700_000_000_123,
        "snapshot": "true",
        "db": "postgres",
        "sequence": '["5","0","3"]',
        "ts_us": 1_700_000_000_123_456,
        "ts_ns": 1_700_000_000_123_456_000,
        "schema": "sales",
        "table": "orders",
        "txId": 840,
        "lsn": 2**40,
        "xmin": None,
        "origin": None,
        "origin_lsn": None,
    }
    assert second["source"]["snapshot"] == "false"
    assert second["transaction"] == {"id": "841:2", "total_order": 2, "data_collection_order": 1}
    assert (first["ts_ms"], first["ts_us"]) == (1_700_000_001_000, 1_700_000_001_000_999)


@pytest.mark.parametrize("rows", [2, 20])
def test_deletes_of_topics_without_keys(rows: int) -> None:
    """Their key is in `before`."""
    table = TableSchema(
        "public.t",
        (Column("id", pa.int64(), "bigint", False), Column("note", pa.string(), "text")),
        ("id",),
    )
    ids = list(range(rows))
    changes = batch(table, "cd" * (rows // 2), ids, ["x", None] * (rows // 2))
    options = Options(names="avro")
    schemas = topic_schemas("t", table, options)
    none = pa.nulls(rows + rows // 2, pa.binary())
    avro = envelope_records(changes, "t", Avro(1, 2), options, ORIGIN, 0)
    writer = AvroWriter("", json.dumps(avro_json(schemas.envelope)))
    text = envelope_records(changes, "t", Json(), options, ORIGIN, 0)
    for found in (
        read_avro_envelopes(none, avro.values, writer, table),
        *read_envelopes(none, text.values, lambda _: table, options),
    ):
        assert found.changes.rows.equals(changes.rows)
        assert found.changes.op.tolist() == [C, D] * (rows // 2)
    # A tombstone alone, without a key, says nothing.
    alone = pa.array([2])
    with pytest.raises(BadData, match="a delete without the key column 'id'"):
        read_avro_envelopes(none.take(alone), avro.values.take(alone), writer, table)


wide = st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(2**66), 2**66)


@given(st.lists(st.none() | wide, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_unscaled_bytes_are_javas(numbers: list[int | None]) -> None:
    """BigInteger.toByteArray: the fewest bytes that hold the number and its sign."""
    column = pa.array([None if n is None else Decimal(n) for n in numbers], pa.decimal128(38, 0))
    found = unscaled.to_bytes(pa.concat_arrays([column, column]).slice(len(numbers)))
    for value, number in zip(found.to_pylist(), numbers, strict=True):
        if number is None:
            assert value is None
            continue
        assert int.from_bytes(value, "big", signed=True) == number
        shorter = 8 * (len(value) - 1) - 1
        assert len(value) == 1 or not -(2**shorter) <= number < 2**shorter
    assert unscaled.from_bytes(found, 0).equals(column)
    # Leading bytes that only repeat the sign are read, too.
    padded = [None if n is None else n.to_bytes(20, "big", signed=True) for n in numbers]
    assert unscaled.from_bytes(pa.array(padded, pa.binary()), 0).equals(column)


def test_decimals_of_too_many_digits_are_refused() -> None:
    for number in (10**38, -(10**38), 2**130):
        for count in (1, 8):
            data = pa.array([number.to_bytes(18, "big", signed=True)] * count, pa.binary())
            with pytest.raises(BadData, match="more than 38 digits"):
                unscaled.from_bytes(data, 0)


def test_numerics_of_thousands_of_digits() -> None:
    texts = pa.array(["-" + "9" * 6000 + "." + "1" * 5000, "0.50", None])
    scales, values = unscaled.scaled_parts(texts)
    assert scales.tolist() == [5000, 2, 0]
    assert unscaled.texts_from_bytes(values, scales).storage.equals(texts)


@pytest.mark.parametrize("count", [1, 30])
def test_sequences(count: int) -> None:
    texts = [
        '["12","0","3"]',
        '["24023119","24023128"]',
        '[null,"24023128"]',
        None,
        '["-1","5","2"]',
    ]
    found = sequence.read(pa.array(texts * count), len(texts) * count)
    assert found.ours.tolist() == [True, False, False, False, True] * count
    assert found.txn_seq.tolist() == [12, -1, -1, -1, -1] * count
    assert found.ordinal.tolist() == [0, 0, 0, 0, 5] * count
    assert found.version.tolist() == [3, 0, 0, 0, 2] * count
    big = np.array([2**63 - 1] * count)
    found = sequence.read(sequence.written(big, big, 7).whole(), count)
    assert found.txn_seq.tolist() == big.tolist()


def test_intervals() -> None:
    printed = ["1 year 2 mons 3 days 04:05:06.789", "-1 mons +2 days -00:00:01", "00:00:00", None]
    iso = ["P1Y2M3DT4H5M6.789S", "P0Y-1M2DT0H0M-1S", "P0Y0M0DT0H0M0S", None]
    assert intervals.to_iso(pa.array(printed)).to_pylist() == iso
    assert intervals.from_iso(pa.array(iso)).to_pylist() == printed
    assert intervals.from_micros(pa.array([37_091_106_789_000, 0, -1])).to_pylist() == [
        "10303:05:06.789", "00:00:00", "-00:00:00.000001",
    ]  # fmt: skip


@pytest.mark.parametrize("unit", ["Nano", "Micro", ""])
def test_moments_in_every_unit(unit: str) -> None:
    """What other settings and connectors of Debezium write."""
    times = {"Nano": 1_000_000, "Micro": 1000, "": 1}[unit]
    schema = column_schema(Column("c", MICROS, "timestamp"), Options())
    kind = type(schema)("int64", name=f"io.debezium.time.{unit}Timestamp")
    for target in (MICROS, UTC):
        column = Column("c", target, "timestamp")
        found = from_connect(pa.array([1_700_000_000_123 * times, None]), kind, column, 2)
        assert found.view(pa.int64()).to_pylist() == [1_700_000_000_123_000, None]
    if unit == "":
        infinities = pa.array([9_223_372_036_825_200_000, -9_223_372_036_832_400_000])
        found = from_connect(infinities, kind, Column("c", MICROS, "timestamp"), 2)
        assert found.view(pa.int64()).to_pylist() == [TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]
        with pytest.raises(BadData, match="beyond what microseconds"):
            from_connect(pa.array([2**62]), kind, Column("c", MICROS, "timestamp"), 1)
