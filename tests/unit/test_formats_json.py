"""Debezium's JSON, with and without schemas. Python's json is the oracle."""

from __future__ import annotations

import base64
import json
import re
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import ragged
from cdc.changes import ChangeBatch, D, R, U, concat
from cdc.errors import BadData
from cdc.formats.connect_schema import Schema, connect_json
from cdc.formats.debezium_schema import Options, topic_schemas
from cdc.formats.envelope import Origin
from cdc.formats.json_envelope import read_envelopes, read_rows
from cdc.formats.json_read import schema_of
from cdc.formats.json_shape import Irregular
from cdc.formats.json_template import Aligned, aligned
from cdc.formats.records import Json, Records, envelope_records, row_records
from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from tests.formats_cases import Case, assert_equal_columns, assert_read_back, cases, same

TOPIC = "shop.public.t"
ORIGIN = Origin("shop", "postgres", "0.1.0")
NOW_US = 1_795_258_035_800_356


def written(case: Case, *, schemas: bool) -> Records:
    return envelope_records(case.changes, TOPIC, Json(schemas), case.options, ORIGIN, NOW_US)


def as_json(value: Any) -> Any:
    """What JSON makes of Connect's value: bytes as base64, names for what is no number."""
    if isinstance(value, dict):
        return {name: as_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def single(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return b""


def close(found: Any, wanted: Any) -> bool:
    """Floats are equal however they are spelled: 1.0 may be 1."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, float):
        if not wanted:
            return repr(float(found)) == repr(wanted)
        return bool(float(found) == wanted or single(float(found)) == single(wanted) != b"")
    return same(found, wanted)


@given(cases(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_python_reads_what_we_write(case: Case, schemas: bool) -> None:
    records = written(case, schemas=schemas)
    described = topic_schemas(TOPIC, case.changes.schema, case.options)

    def payload(data: Any, schema: Schema) -> Any:
        found = json.loads(data.as_py())
        if not schemas:
            return found
        assert found.keys() == {"schema", "payload"}
        assert found["schema"] == connect_json(schema)
        return found["payload"]

    place = 0
    for i, op in enumerate(case.changes.op.tolist()):
        row, old = case.rows[i], case.before[i]
        envelope = payload(records.values[place], described.envelope)
        assert list(envelope) == [name for name, _ in described.envelope.fields]
        assert close(envelope["after"], as_json(case.carried(None if op == D else row)))
        key_only = row if op == D else None
        assert close(envelope["before"], as_json(case.carried(old or key_only)))
        assert envelope["op"] == chr(op)
        assert envelope["transaction"] is None
        assert envelope["source"]["snapshot"] == ("true" if op == R else "false")
        assert envelope["source"]["ts_ns"] == case.changes.commit_us[i] * 1000
        key = payload(records.keys[place], described.key)
        assert close(key, as_json(case.carried({n: row[n] for n in case.changes.schema.key})))
        place += 1
        if op == D:
            assert records.values[place].as_py() is None
            assert records.keys[place] == records.keys[place - 1]
            place += 1
    assert place == len(records)
    # Few records are written one by one, many as columns: the same bytes.
    many = envelope_records(
        repeated(case.changes), TOPIC, Json(schemas), case.options, ORIGIN, NOW_US
    )
    assert many.keys.equals(pa.concat_arrays([records.keys] * REPEATED))
    assert many.values.equals(pa.concat_arrays([records.values] * REPEATED))


REPEATED = 20


def repeated(changes: ChangeBatch) -> ChangeBatch:
    return changes.take(np.tile(np.arange(changes.num_rows), REPEATED))


def assert_all_read_back(keys: pa.Array, values: pa.Array, case: Case) -> None:
    """One by one, one depth at a time, and as a grid."""
    count = case.changes.num_rows
    for times in (1, 3, REPEATED):
        found = read_envelopes(
            pa.concat_arrays([keys] * times),
            pa.concat_arrays([values] * times),
            lambda _: case.changes.schema,
            case.options,
        )
        together = concat([piece.changes for piece in found])
        for copy in range(times):
            assert_read_back(together.slice(copy * count, count), case)


@given(cases(), st.booleans())
@settings(max_examples=15, deadline=None)
def test_what_was_written_is_read_back(case: Case, schemas: bool) -> None:
    records = written(case, schemas=schemas)
    assert_all_read_back(records.keys, records.values, case)


@given(cases(), st.booleans(), st.randoms())
@settings(max_examples=15, deadline=None)
def test_members_in_any_order_and_unknown_ones(case: Case, schemas: bool, order: Any) -> None:
    records = written(case, schemas=schemas)

    def stirred(value: Any) -> Any:
        if isinstance(value, list):
            return [stirred(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        found = [(name, stirred(inner)) for name, inner in value.items()]
        if "payload" not in value:
            found.append(("unknown", {"op": [1, "}", None]}))
        return dict(order.sample(found, len(found)))

    def text(data: bytes | None) -> bytes | None:
        if data is None:
            return None
        body = json.loads(data)
        if not schemas:
            return json.dumps(stirred(body), indent=1).encode()
        # JsonConverter puts the schema first.
        return json.dumps(body | {"payload": stirred(body["payload"])}).encode()

    values = pa.array([text(value) for value in records.values.to_pylist()], pa.binary())
    assert_all_read_back(records.keys, values, case)


@given(cases())
@settings(max_examples=15, deadline=None)
def test_plain_rows(case: Case) -> None:
    changes = case.changes
    records = row_records(changes, "view.v", Json(), case.options)
    for i, value in enumerate(records.values.to_pylist()):
        if changes.op[i] == D:
            assert value is None
        else:
            assert close(json.loads(value), as_json(case.carried(case.rows[i])))
    found = read_rows(records.keys, records.values, changes.schema, case.options)
    assert ((found.changes.op == D) == (changes.op == D)).all()
    assert_equal_columns(found.changes.rows, changes.rows)


OLD = TableSchema("public.t", (Column("id", pa.int64(), "bigint", False),), ("id",), 1)
NEW = TableSchema(
    "public.t",
    (*OLD.columns, Column("n", pa.int32(), "integer", missing="7")),
    ("id",),
    2,
)


def changes_of(table: TableSchema, ids: list[int], op: str) -> ChangeBatch:
    numbers = np.array(ids)
    columns = [pa.array(ids), pa.array([i * 10 for i in ids], pa.int32())][: len(table.columns)]
    rows = pa.record_batch(columns, schema=table.arrow)
    return ChangeBatch(table, np.frombuffer(op.encode(), np.uint8), numbers, numbers, numbers, rows)


@pytest.mark.parametrize("schemas", [False, True])
def test_records_are_cut_where_the_tables_version_changes(schemas: bool) -> None:
    batches = [changes_of(OLD, [1, 2], "cd"), changes_of(NEW, [3], "c"), changes_of(OLD, [4], "r")]
    form = Json(schemas)
    records = [envelope_records(b, TOPIC, form, Options(), ORIGIN, NOW_US) for b in batches]
    keys = pa.concat_arrays([r.keys for r in records])
    values = pa.concat_arrays([r.values for r in records])
    tables = {1: OLD, 2: NEW}
    found = read_envelopes(keys, values, tables.__getitem__, Options())
    assert [f.changes.schema.version for f in found] == [1, 2, 1]
    # Record 2 is the tombstone.
    assert [f.record.tolist() for f in found] == [[0, 1], [3], [4]]
    assert [f.changes.rows.to_pylist() for f in found] == [
        [{"id": 1}, {"id": 2}],
        [{"id": 3, "n": 30}],
        [{"id": 4}],
    ]
    # Read as the newest version: what the writer lacked is filled, but not in a delete.
    (one,) = read_envelopes(keys[:3], values[:3], lambda _: NEW, Options())
    assert one.changes.rows.to_pylist() == [{"id": 1, "n": 7}, {"id": 2, "n": None}]


def test_records_of_others_are_cut_where_their_schema_changes() -> None:
    """Without a version of ours; two spellings of one schema, too."""
    batches = [changes_of(OLD, [1, 2], "cd"), changes_of(NEW, [3], "c"), changes_of(OLD, [4], "r")]
    records = [envelope_records(b, TOPIC, Json(True), Options(), ORIGIN, 0) for b in batches]
    keys = pa.concat_arrays([r.keys for r in records])
    values = pa.concat_arrays([r.values for r in records])
    texts = [None if v is None else re.sub(rb'"sequence":"[^"]*\]"', b'"sequence":null', v)
             for v in values.to_pylist()]  # fmt: skip
    texts[-1] = texts[-1] and texts[-1].replace(b'"optional":false', b'"optional": false')
    found = read_envelopes(keys, pa.array(texts, pa.binary()), lambda _: NEW, Options())
    assert [f.record.tolist() for f in found] == [[0, 1], [3], [4]]
    rows = [row for f in found for row in f.changes.rows.to_pylist()]
    assert rows == [{"id": 1, "n": 7}, {"id": 2, "n": None}, {"id": 3, "n": 30}, {"id": 4, "n": 7}]


def test_large_batches_are_read_in_pieces() -> None:
    ids = list(range(40_000))
    changes = changes_of(NEW, ids, "cd" * 20_000)
    records = envelope_records(changes, TOPIC, Json(), Options(), ORIGIN, NOW_US)
    found = read_envelopes(records.keys, records.values, lambda _: NEW, Options())
    assert len(found) > 1
    together = concat([f.changes for f in found])
    assert together.op.tolist() == changes.op.tolist()
    assert together.rows.column("id").to_pylist() == ids
    record = np.concatenate([f.record for f in found])
    assert records.change[record].tolist() == ids


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.sampled_from('ab\\"\n[]{},:ü😀'), max_size=30)
    | st.sampled_from(["x" * 7, "x" * 8, "\\" * 8, '"' * 9, "long" * 30])
)
documents = st.fixed_dictionaries(
    {
        "a": leaves,
        "skipped": leaves,
        "o": st.none() | st.fixed_dictionaries({"b": leaves, "skipped": leaves, "c": leaves}),
        "l": st.none() | st.lists(leaves, max_size=4),
    }
)


@given(st.lists(documents, min_size=1, max_size=3), st.integers(0, 2), st.randoms())
@settings(max_examples=60, deadline=None)
def test_objects_along_a_template_are_what_python_reads(
    distinct: list[Any], indent: int, order: Any
) -> None:
    """Also with blanks, escapes at every place, brackets in strings, and several shapes."""
    rows = distinct * 20
    order.shuffle(rows)
    spelled = [json.dumps(row, indent=indent or None, ensure_ascii=False) for row in rows]
    texts = pa.array([text.encode() for text in spelled], pa.binary())
    found = aligned(texts, lambda path: path[-1] != "skipped")
    assert found.groups
    assert members_of(found, "a") == [row["a"] for row in rows]
    assert members_of(found, "l") == [row["l"] for row in rows]
    nested = found.nested("o")
    assert (nested is None) == all(row["o"] is None for row in rows)
    if nested is not None:
        inner, valid = nested
        assert valid.tolist() == [row["o"] is not None for row in rows]
        for name in ("b", "c"):
            wanted = [row["o"] and row["o"][name] for row in rows]
            assert members_of(inner, name) == wanted


def members_of(found: Aligned, name: str) -> list[Any]:
    """The values of a member by row, as Python's json reads their text."""
    places = found.named(name)
    texts = ragged.text(places.slices(marks=True)).to_pylist()
    rows: list[Any] = [None] * found.rows
    for row, text in zip(places.row.tolist(), texts, strict=True):
        rows[row] = None if text is None else json.loads(text, strict=False)
    return rows


def test_objects_that_no_template_fits_are_read_all_the_same() -> None:
    table = TableSchema("public.t", (Column("note", pa.string(), "text"),), ())
    notes = ["short", "long" * 5000, 'quoted"' * 300] * 7
    rows = pa.record_batch([pa.array(notes)], schema=table.arrow)
    numbers = np.arange(len(notes))
    op = np.full(len(notes), U, np.uint8)
    changes = ChangeBatch(table, op, numbers, numbers, numbers, rows)
    records = envelope_records(changes, TOPIC, Json(), Options(), ORIGIN, NOW_US)
    (found,) = read_envelopes(records.keys, records.values, lambda _: table, Options())
    assert found.changes.rows.equals(rows)
    with pytest.raises(Irregular):
        aligned(records.values, lambda _: True)


def test_schemas_are_read_back() -> None:
    described = topic_schemas(TOPIC, NEW, Options())
    for schema in (described.key, described.envelope):
        assert schema_of(json.dumps(connect_json(schema))) == schema


def test_what_debezium_did_not_have_is_refused() -> None:
    """An unchanged TOAST value; of our own records it is the value."""
    table = TableSchema("public.t", (Column("note", pa.string(), "text"),), ())
    rows = pa.record_batch([pa.array(["__debezium_unavailable_value"])], schema=table.arrow)
    one = np.zeros(1, np.int64)
    changes = ChangeBatch(table, np.array([U], np.uint8), one, one, one, rows)
    ours = envelope_records(changes, TOPIC, Json(), Options(), ORIGIN, NOW_US)
    (found,) = read_envelopes(ours.keys, ours.values, lambda _: table, Options())
    assert found.changes.rows.equals(rows)
    envelope = json.loads(ours.values[0].as_py())
    envelope["source"]["sequence"] = '["24023119","24023128"]'
    theirs = pa.array([json.dumps(envelope).encode()])
    with pytest.raises(BadData, match="column note: a value that Debezium did not have"):
        read_envelopes(ours.keys, theirs, lambda _: table, Options())


@pytest.mark.parametrize("times", [1, 10])
def test_decimals_as_numbers_and_as_strings(times: int) -> None:
    """decimal.format=NUMERIC, decimal.handling.mode=string: no digit passes through a float."""
    columns = (
        Column("id", pa.int64(), "bigint", False),
        Column("d", pa.decimal128(38, 4), "numeric(38,4)"),
        Column("n", NUMERIC_TEXT, "numeric"),
    )
    table = TableSchema("public.t", columns, ("id",))
    digits = "1234567890123456789012345678901234.5678"
    keys = pa.array([b'{"id":1}'] * times)

    def read(row: str, options: Options) -> pa.RecordBatch:
        value = f'{{"op":"c","after":{row}}}'.encode()
        (found,) = read_envelopes(keys, pa.array([value] * times), lambda _: table, options)
        return found.changes.rows

    numbers = read(f'{{"id":1,"d":{digits}}}', Options())
    texts = read(f'{{"id":1,"d":"{digits}","n":"NAN"}}', Options("string"))
    assert [str(r.column("d")[times - 1]) for r in (numbers, texts)] == [digits] * 2
    assert texts.column("n").storage.to_pylist() == ["NaN"] * times


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b'{"op":"c"',
        b'{"after":{"id":1}}',
        b'{"op":"t","after":null}',
    ],
)
def test_what_is_no_envelope_is_refused(value: bytes) -> None:
    with pytest.raises(BadData):
        read_envelopes(pa.array([b"{}"]), pa.array([value], pa.binary()), lambda _: OLD, Options())
