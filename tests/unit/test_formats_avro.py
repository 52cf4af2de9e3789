"""Avro in Confluent's wire format. fastavro is the oracle: it reads what we write, byte for byte as
it would write it, and we read what it writes, also by schemas in another order."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.changes import C, ChangeBatch, D, R
from cdc.errors import BadData
from cdc.formats import avro_read, avro_write, varint
from cdc.formats.connect_schema import Schema, avro_json, optional
from cdc.formats.connect_values import Lists, Structs
from cdc.formats.debezium_schema import Options
from cdc.formats.envelope import Origin
from cdc.formats.records import (
    Avro,
    AvroWriter,
    Records,
    avro_runs,
    avro_schemas,
    envelope_records,
    read_avro_envelopes,
    read_avro_rows,
    row_records,
)
from cdc.schema import Column, TableSchema
from tests.formats_cases import Case, assert_equal_columns, assert_read_back, cases, same

TOPIC = "shop.public.t"
FORM = Avro(key_id=7, value_id=2**31 + 8)
ORIGIN = Origin("shop", "postgres", "0.1.0")
NOW_US = 1_795_258_035_800_356


def written(case: Case) -> tuple[Records, AvroWriter]:
    records = envelope_records(case.changes, TOPIC, FORM, case.options, ORIGIN, NOW_US)
    return records, writer(case.changes, case.options)


def writer(changes: ChangeBatch, options: Options) -> AvroWriter:
    return avro_schemas(TOPIC, changes.schema, options)


def raw(schema: str) -> Any:
    """fastavro's schema without logical types, which it would turn into Python's."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: stripped(v) for k, v in value.items() if k != "logicalType"}
        return [stripped(v) for v in value] if isinstance(value, list) else value

    return fastavro.parse_schema(stripped(json.loads(schema)))


def loads(data: bytes, schema: Any, schema_id: int) -> Any:
    assert data[:5] == b"\0" + schema_id.to_bytes(4, "big")
    stream = io.BytesIO(data[5:])
    found = fastavro.schemaless_reader(stream, schema, None)
    assert stream.read() == b""
    return found


def dumps(value: Any, schema: Any, schema_id: int) -> bytes:
    stream = io.BytesIO(b"\0" + schema_id.to_bytes(4, "big"))
    stream.seek(5)
    fastavro.schemaless_writer(stream, schema, value)
    return stream.getvalue()


@given(cases(names="avro"))
@settings(max_examples=30, deadline=None)
def test_fastavro_reads_what_we_write_and_would_write_the_same(case: Case) -> None:
    records, schemas = written(case)
    key_schema, value_schema = raw(schemas.key), raw(schemas.value)
    key = case.changes.schema.key
    place = 0
    for i, op in enumerate(case.changes.op.tolist()):
        row, old = case.rows[i], case.before[i]
        envelope = loads(records.values[place].as_py(), value_schema, FORM.value_id)
        deleted_row = row if op == D else None
        assert same(envelope["after"], case.carried(None if op == D else row))
        assert same(envelope["before"], case.carried(old if old is not None else deleted_row))
        assert envelope["op"] == chr(op)
        assert envelope["source"]["snapshot"] == ("true" if op == R else "false")
        assert envelope["source"]["ts_us"] == case.changes.commit_us[i]
        assert envelope["source"]["table"] == "t"
        assert envelope["ts_ns"] == NOW_US * 1000
        assert dumps(envelope, value_schema, FORM.value_id) == records.values[place].as_py()
        found = loads(records.keys[place].as_py(), key_schema, FORM.key_id)
        assert same(found, case.carried({name: row[name] for name in key}))
        place += 1
        if op == D:
            assert records.values[place].as_py() is None
            assert records.keys[place] == records.keys[place - 1]
            place += 1
    assert place == len(records)
    # Few rows are written one by one, many as columns: the same bytes.
    many = envelope_records(repeated(case.changes), TOPIC, FORM, case.options, ORIGIN, NOW_US)
    assert many.keys.equals(pa.concat_arrays([records.keys] * REPEATED))
    assert many.values.equals(pa.concat_arrays([records.values] * REPEATED))


REPEATED = 6


def repeated(changes: ChangeBatch) -> ChangeBatch:
    return changes.take(np.tile(np.arange(changes.num_rows), REPEATED))


@given(cases(names="avro"))
@settings(max_examples=20, deadline=None)
def test_what_was_written_is_read_back(case: Case) -> None:
    records, schemas = written(case)
    found = read_avro_envelopes(records.keys, records.values, schemas, case.changes.schema)
    assert_read_back(found.changes, case)
    assert records.change[found.record].tolist() == list(range(case.changes.num_rows))
    many = envelope_records(repeated(case.changes), TOPIC, FORM, case.options, ORIGIN, NOW_US)
    read = read_avro_envelopes(many.keys, many.values, schemas, case.changes.schema)
    for copy in range(REPEATED):
        start = copy * case.changes.num_rows
        assert_read_back(read.changes.slice(start, case.changes.num_rows), case)


@given(cases(names="avro"), st.randoms())
@settings(max_examples=20, deadline=None)
def test_any_order_of_fields_and_unions_is_read(case: Case, order: Any) -> None:
    """fastavro writes by a schema that is shuffled, has fields that we do not know, and arrays in
    several blocks."""
    records, schemas = written(case)
    shuffled = AvroWriter(schemas.key, json.dumps(_shuffled(json.loads(schemas.value), order)))
    ours, theirs = raw(schemas.value), raw(shuffled.value)
    values = [
        None if value is None else dumps(loads(value, ours, FORM.value_id) | EXTRA, theirs, 9)
        for value in records.values.to_pylist()
    ]
    for times in (1, REPEATED):
        keys = pa.concat_arrays([records.keys] * times)
        messages = pa.array(values * times, pa.binary())
        found = read_avro_envelopes(keys, messages, shuffled, case.changes.schema)
        for copy in range(times):
            start = copy * case.changes.num_rows
            assert_read_back(found.changes.slice(start, case.changes.num_rows), case)


EXTRA = {
    "x1": {"k": [1, 2, 3], "": []},
    "x2": "B",
    "x3": b"abcd",
    "x4": [1.5, None, "s"],
    "x5": 2.5,
}
EXTRA_FIELDS: list[dict[str, Any]] = [
    {"name": "x1", "type": {"type": "map", "values": {"type": "array", "items": "long"}}},
    {"name": "x2", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
    {"name": "x3", "type": {"type": "fixed", "name": "F", "size": 4}},
    {"name": "x4", "type": {"type": "array", "items": ["null", "double", "string"]}},
    {"name": "x5", "type": ["float", "null"]},
]


def _shuffled(schema: dict[str, Any], order: Any) -> dict[str, Any]:
    """The envelope's fields in any order, and the other way round in unions."""
    after = next(f for f in schema["fields"] if f["name"] == "after")
    before = next(f for f in schema["fields"] if f["name"] == "before")
    row = before["type"][1]
    row["fields"] = order.sample(row["fields"], len(row["fields"]))
    for column in row["fields"]:
        if isinstance(column["type"], list):
            column["type"] = column["type"][::-1]
    rest = [f for f in schema["fields"] if f["name"] not in ("before", "after")] + EXTRA_FIELDS
    rest = order.sample(rest, len(rest))
    if order.random() < 0.5:
        before["type"], after["type"] = ["Value", "null"], [row, "null"]
        pair = [after, before]
    else:
        pair = [before, after]
    fields = [*rest[:3], pair[0], *rest[3:5], pair[1], *rest[5:]]
    # A default must fit the union's first branch, which has changed.
    fields = [{k: v for k, v in f.items() if k != "default"} for f in fields]
    row["fields"] = [{k: v for k, v in f.items() if k != "default"} for f in row["fields"]]
    return schema | {"fields": fields}


@given(cases(names="avro"))
@settings(max_examples=12, deadline=None)
def test_plain_rows(case: Case) -> None:
    changes = case.changes
    records = row_records(changes, "view.v", FORM, case.options)
    form = avro_schemas("view.v", changes.schema, case.options, plain_rows=True)
    row_schema = raw(form.value)
    for i, value in enumerate(records.values.to_pylist()):
        if changes.op[i] == D:
            assert value is None
        else:
            assert same(loads(value, row_schema, FORM.value_id), case.carried(case.rows[i]))
    found = read_avro_rows(records.keys, records.values, form, changes.schema)
    assert ((found.changes.op == D) == (changes.op == D)).all()
    assert_equal_columns(found.changes.rows, changes.rows)


def test_a_tombstone_that_stands_alone_is_a_delete() -> None:
    """Its delete was compacted away."""
    table = TableSchema(
        "public.t",
        (Column("part", pa.string(), "text", False), Column("id", pa.int64(), "bigint", False),
         Column("note", pa.string(), "text")),
        ("id", "part"),
    )  # fmt: skip
    rows = pa.record_batch(
        [pa.array(["p", "q", "r"]), pa.array([1, 2, 3]), pa.array([None, "x", None], pa.string())],
        schema=table.arrow,
    )
    numbers = np.arange(3)
    changes = ChangeBatch(table, np.array([D, C, D], np.uint8), numbers, numbers, numbers, rows)
    records = envelope_records(changes, TOPIC, FORM, Options(), ORIGIN, NOW_US)
    schemas = writer(changes, Options())
    alone = [1, 2, 4]
    found = read_avro_envelopes(
        records.keys.take(alone),
        records.values.take(alone),
        schemas,
        table,
        np.array([17, 18, 19]),
    )
    assert found.record.tolist() == [0, 1, 2]
    assert found.changes.op.tolist() == [D, C, D]
    assert found.changes.txn_seq.tolist() == [-1, 1, -1]
    assert found.changes.commit_us.tolist() == [17, 1, 19]
    assert found.changes.rows.equals(rows)


@pytest.mark.parametrize("bits", [6, 7, 8, 13, 14, 15, 31, 54, 55, 56, 57, 62, 63, 64])
def test_integers_of_every_length(bits: int) -> None:
    generator = np.random.default_rng(bits)
    most = 2 ** (bits - 1)
    values = generator.integers(-most, most - 1, 500, endpoint=True) >> generator.integers(
        0, bits, 500
    )
    values = np.array([0, 1, -1, most - 1, -most, *values.tolist()], np.int64)
    schema = fastavro.parse_schema("long")
    wanted = []
    for value in values.tolist():
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, value)
        wanted.append(stream.getvalue())
    found, lengths = varint.encoded(values)
    assert [found[i, :n].tobytes() for i, n in enumerate(lengths.tolist())] == wanted
    ends = lengths.cumsum()
    back, behind = varint.decoded(
        np.frombuffer(b"".join(wanted) + bytes(64), np.uint8), ends - lengths
    )
    assert back.tolist() == values.tolist()
    assert behind.tolist() == ends.tolist()


def test_names_that_avro_does_not_have() -> None:
    """Columns and topics are renamed as Debezium does, and read back as what they are."""
    columns = (
        Column("we-ird näme", pa.int32(), "integer", False),
        Column("1", pa.int32(), "integer"),
    )
    table = TableSchema("public.t", columns, ("we-ird näme",))
    rows = pa.record_batch([pa.array([1, 2], pa.int32())] * 2, schema=table.arrow)
    numbers = np.arange(2)
    changes = ChangeBatch(table, np.array([C, R], np.uint8), numbers, numbers, numbers, rows)
    schemas = avro_schemas("shop-1.public.t", table, Options())
    assert json.loads(schemas.key)["namespace"] == "shop_1.public.t"
    records = envelope_records(changes, "shop-1.public.t", FORM, Options(), ORIGIN, NOW_US)
    envelope = loads(records.values[1].as_py(), raw(schemas.value), FORM.value_id)
    assert envelope["after"] == {"we_ird_n_me": 2, "_1": 2}
    found = read_avro_envelopes(records.keys, records.values, schemas, table)
    assert found.changes.rows.equals(rows)


def test_schema_ids_and_what_has_none() -> None:
    messages = pa.array([b"\0\0\0\0\7x", None, b"\0\xff\0\0\1"], pa.binary())
    assert avro_read.schema_ids(messages).tolist() == [7, -1, 0xFF000001]
    for bad in (b"", b"\0\0\0\0", b'{"op":"c"}'):
        with pytest.raises(BadData, match="without Confluent's header"):
            avro_read.schema_ids(pa.array([messages[0].as_py(), bad], pa.binary()))


def test_records_are_cut_where_a_schema_id_changes() -> None:
    def ids(*numbers: int | None) -> pa.Array:
        found = [None if n is None else b"\0" + n.to_bytes(4, "big") for n in numbers]
        return pa.array(found, pa.binary())

    def runs(keys: pa.Array, values: pa.Array) -> list[tuple[int, int, int, int]]:
        found = avro_runs(keys, values)
        return [(run.start, run.stop, run.key_id, run.value_id) for run in found]

    keys = ids(1, 1, 1, 1, 1, 2)
    assert runs(keys, ids(None, 7, None, 8, 8, 8)) == [(0, 3, 1, 7), (3, 5, 1, 8), (5, 6, 2, 8)]
    assert runs(ids(1, 1), ids(None, None)) == [(0, 2, 1, -1)]
    assert runs(ids(None), ids(7)) == [(0, 1, -1, 7)]
    assert runs(ids(), ids()) == []


SIMPLE = Schema(
    "struct",
    name="a.R",
    fields=(
        ("i", Schema("int64")),
        ("s", optional(Schema("string"))),
        ("l", Schema("array", items=optional(Schema("double")))),
    ),
)


def simple_messages(count: int = 6) -> list[bytes]:
    lengths = np.array([0, 2, 1] * count)
    values = Structs(
        {
            "i": pa.array([1, 2**40, -5] * count),
            "s": pa.array(["x", None, "long" * 40] * count),
            "l": Lists(pa.array([1.5, None, 2.5] * count), lengths, None),
        }
    )
    header = avro_write.confluent_header(1)
    return list(avro_write.encode(SIMPLE, values, 3 * count, header).to_pylist())


def test_damaged_bytes_are_refused_never_read_beyond() -> None:
    schema = json.dumps(avro_json(SIMPLE))
    messages = simple_messages()
    avro_read.read(pa.array(messages, pa.binary()), schema)
    generator = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(messages[2])
        for _ in range(generator.integers(1, 4)):
            damaged[generator.integers(5, len(damaged))] = generator.integers(0, 256)
        cut = bytes(damaged[: generator.integers(5, len(damaged) + 1)])
        # Both ways of reading agree on what is wrong, and on what is read.
        outcomes = [outcome([*messages[:others], cut], schema) for others in (1, 8)]
        assert outcomes[0] == outcomes[1]


def outcome(messages: list[bytes], schema: str) -> object:
    try:
        fields = avro_read.read(pa.array(messages, pa.binary()), schema).values.fields
    except BadData:
        return "refused"
    lists = fields["l"]
    assert isinstance(lists, Lists)
    last = [str(column[-1]) for column in map(fields.get, "is") if isinstance(column, pa.Array)]
    return [*last, int(lists.lengths[-1])]


def test_null_in_a_required_field_is_refused() -> None:
    values = Structs({"i": pa.array([1, None])})
    schema = Schema("struct", name="a.R", fields=(("i", Schema("int64")),))
    with pytest.raises(BadData, match="i: NULL in a field that is not optional"):
        avro_write.encode(schema, values, 2)
