"""Our envelopes of MySQL beside those of Debezium 3.6.1's MySQL connector, recorded in
golden_debezium/mysql.json for a table of all types: the same schemas but for the columns that
cdc/formats/debezium_schema.py lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdc.changes import C, ChangeBatch
from cdc.formats import json_envelope
from cdc.formats.connect_schema import connect_json
from cdc.formats.debezium_schema import MYSQL, Options, topic_schemas
from cdc.formats.envelope import Origin
from cdc.formats.records import Avro, Json, avro_schemas, envelope_records, read_avro_envelopes
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

GOLDEN = json.loads((Path(__file__).parent / "golden_debezium" / "mysql.json").read_text())
UTC = pa.timestamp("us", "UTC")
TYPES: dict[str, tuple[pa.DataType, str]] = {
    "id": (pa.int64(), "bigint"),
    "i1": (pa.int16(), "smallint"),
    "i1u": (pa.int16(), "smallint"),
    "i2u": (pa.int32(), "integer"),
    "i3": (pa.int32(), "integer"),
    "i4": (pa.int32(), "integer"),
    "i4u": (pa.int64(), "bigint"),
    "i8u": (pa.decimal128(20, 0), "numeric(20,0)"),
    "flag": (pa.int16(), "smallint"),
    "n": (pa.decimal128(12, 2), "numeric(12,2)"),
    "n65": (NUMERIC_TEXT, "numeric(65,30)"),
    "f": (pa.float32(), "real"),
    "f8": (pa.float64(), "double precision"),
    "b1": (pa.bool_(), "boolean"),
    "b9": (pa.binary(), "bytea"),
    "y": (pa.int32(), "integer"),
    "d": (pa.date32(), "date"),
    "t": (pa.string(), "interval"),
    "dt0": (pa.timestamp("us"), "timestamp without time zone"),
    "dt6": (pa.timestamp("us"), "timestamp without time zone"),
    "ts": (UTC, "timestamp with time zone"),
    "c": (pa.string(), "character varying(5)"),
    "vc": (pa.string(), "character varying(20)"),
    "tx": (pa.string(), "text"),
    "bi": (pa.binary(), "bytea"),
    "vb": (pa.binary(), "bytea"),
    "bl": (pa.binary(), "bytea"),
    "e": (pa.string(), "text"),
    "st": (pa.string(), "text"),
    "js": (pa.string(), "jsonb"),
    "g": (pa.binary(), "bytea"),
}
OTHERWISE = {
    "i8u": "org.apache.kafka.connect.data.Decimal",
    "b9": None,
    "y": None,
    "t": "io.debezium.time.Interval",
    "dt0": "io.debezium.time.MicroTimestamp",
    "e": None,
    "st": None,
    "g": None,
}
"""Columns that are written differently, and the name of our schema for them."""
TABLE = TableSchema(
    "shop.everything", tuple(Column(n, *t, n != "id") for n, t in TYPES.items()), ("id",)
)
TOPIC = "shop.shop.everything"
ORIGIN = Origin("shop", "", "1", MYSQL)


def without(schema: Any) -> Any:
    """The schema, less the columns that differ on purpose."""
    if isinstance(schema, list):
        return [without(s) for s in schema if s.get("field") not in OTHERWISE]
    if isinstance(schema, dict):
        return {k: without(v) if k == "fields" else v for k, v in schema.items()}
    return schema


def columns_of(schema: Any) -> dict[str, Any]:
    (after,) = [field for field in schema["fields"] if field["field"] == "after"]
    return {field["field"]: field for field in after["fields"]}


def test_the_schemas_are_debeziums_but_for_what_is_listed() -> None:
    ours = topic_schemas(TOPIC, TABLE, Options(), MYSQL)
    assert list(TYPES) == list(GOLDEN["columns"])
    assert connect_json(ours.key) == GOLDEN["key_schema"]
    envelope = connect_json(ours.envelope)
    assert without(envelope) == without(GOLDEN["value_schema"])
    mine, theirs = columns_of(envelope), columns_of(GOLDEN["value_schema"])
    for name, schema in OTHERWISE.items():
        assert mine[name].get("name") == schema
        assert mine[name] != theirs[name]


@pytest.mark.parametrize("form", ["json", "avro"])
def test_a_change_comes_back_with_its_position(form: str) -> None:
    columns = (Column("id", pa.int64(), "bigint", False), Column("v", pa.string(), "text"))
    table = TableSchema("shop.t", columns, ("id",), 3)
    rows = pa.RecordBatch.from_pydict({"id": [7, 8], "v": ["x", None]}, schema=table.arrow)
    numbers = np.array([41, 41])
    changes = ChangeBatch(
        table,
        np.array([C, C], np.uint8),
        numbers,
        np.array([0, 1]),
        numbers * 1_000_000,
        rows,
    )
    written = envelope_records(
        changes, TOPIC, Json(False) if form == "json" else Avro(1, 2), Options(), ORIGIN, 5
    )
    if form == "json":
        (read,) = json_envelope.read_envelopes(
            written.keys, written.values, lambda version: table, Options()
        )
        source = json.loads(written.values[0].as_py())["source"]
        assert source.keys() == GOLDEN["insert"]["source"].keys()
        assert (source["connector"], source["db"], source["table"]) == ("mysql", "shop", "t")
    else:
        schemas = avro_schemas(TOPIC, table, Options(), connector=MYSQL)
        read = read_avro_envelopes(written.keys, written.values, schemas, table)
    assert read.changes.rows.equals(rows)
    assert read.changes.txn_seq.tolist() == [41, 41]
    assert read.changes.ordinal.tolist() == [0, 1]
