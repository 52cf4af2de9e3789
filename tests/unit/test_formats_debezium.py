"""Debezium itself as the oracle: what Debezium 3.7.0 and Connect's converters wrote for a table of
all types, recorded in golden_debezium/. Our schemas are theirs but for the differences that
cdc/formats/debezium_schema.py lists, and its messages are read as the rows that Postgres had."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest

from cdc.changes import ChangeBatch
from cdc.errors import BadData
from cdc.formats.connect_schema import Schema, adjusted, avro_json, connect_json
from cdc.formats.debezium_schema import Options, topic_schemas
from cdc.formats.envelope_read import Decoded
from cdc.formats.json_envelope import read_envelopes as read_json_envelopes
from cdc.formats.records import AvroWriter, read_avro_envelopes
from cdc.schema import DATE_INFINITY, NUMERIC_TEXT, TIMESTAMP_INFINITY, Column, TableSchema
from tests.formats_cases import UTC, plain

GOLDEN = Path(__file__).parent / "golden_debezium"
DEFAULTS = Options(required="declared", names="avro")
CHOICES = Options("string", "connect", required="declared", names="avro")
OPTIONS = {"defaults": DEFAULTS, "choices": CHOICES}

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "id": (pa.int64(), "bigint"),
    "i2": (pa.int16(), "smallint"),
    "i4": (pa.int32(), "integer"),
    "o": (pa.int64(), "oid"),
    "f4": (pa.float32(), "real"),
    "f8": (pa.float64(), "double precision"),
    "n122": (pa.decimal128(12, 2), "numeric(12,2)"),
    "n38": (pa.decimal128(38, 10), "numeric(38,10)"),
    "n50": (NUMERIC_TEXT, "numeric(50,5)"),
    "n": (NUMERIC_TEXT, "numeric"),
    "n25": (pa.decimal128(5, 5), "numeric(2,5)"),
    "b": (pa.bool_(), "boolean"),
    "t": (pa.string(), "text"),
    "vc": (pa.string(), "character varying(20)"),
    "ch": (pa.string(), "character(5)"),
    "nm": (pa.string(), "name"),
    "m": (pa.string(), "mood"),
    "js": (pa.string(), "json"),
    "jb": (pa.string(), "jsonb"),
    "u": (pa.string(), "uuid"),
    "iv": (pa.string(), "interval"),
    "by": (pa.binary(), "bytea"),
    "d": (pa.date32(), "date"),
    "tm": (pa.time64("us"), "time without time zone"),
    "tm3": (pa.time64("us"), "time(3) without time zone"),
    "ts": (pa.timestamp("us"), "timestamp without time zone"),
    "ts3": (pa.timestamp("us"), "timestamp(3) without time zone"),
    "tz": (UTC, "timestamp with time zone"),
    "tzt": (pa.string(), "time with time zone"),
    "ai": (pa.list_(pa.int32()), "integer[]"),
    "atx": (pa.list_(pa.string()), "text[]"),
    "an": (pa.list_(pa.decimal128(10, 2)), "numeric(10,2)[]"),
    "ad": (pa.list_(pa.date32()), "date[]"),
    "ats": (pa.list_(pa.timestamp("us")), "timestamp without time zone[]"),
    "atz": (pa.list_(UTC), "timestamp with time zone[]"),
    "aby": (pa.list_(pa.binary()), "bytea[]"),
    "au": (pa.list_(pa.string()), "uuid[]"),
    "aj": (pa.list_(pa.string()), "jsonb[]"),
    "anv": (pa.list_(NUMERIC_TEXT), "numeric[]"),
    "am": (pa.list_(pa.string()), "mood[]"),
    "inet": (pa.string(), "inet"),
    "mac": (pa.string(), "macaddr"),
    "dm": (pa.int32(), "integer"),
    "we-ird näme": (pa.string(), "text"),
    "1st": (pa.int32(), "integer"),
    "dflt": (pa.int32(), "integer"),
    "rg": (pa.string(), "int4range"),
    "tv": (pa.string(), "tsvector"),
}
REQUIRED = {"id", "i4", "t"}
EVERYTHING = TableSchema(
    "public.everything",
    tuple(Column(name, *types, name not in REQUIRED) for name, types in COLUMNS.items()),
    ("id",),
)
PLAIN = TableSchema(
    "public.plain",
    (
        Column("id", pa.int32(), "integer", False),
        Column("part", pa.string(), "text", False),
        Column("note", pa.string(), "text"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)", False),
        Column("at", UTC, "timestamp with time zone", False),
    ),
    ("part", "id"),
)
EXTREMES = TableSchema(
    "public.extremes",
    (
        Column("id", pa.int32(), "integer", False),
        Column("f8", pa.float64(), "double precision"),
        Column("n", NUMERIC_TEXT, "numeric"),
        Column("n122", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("d", pa.date32(), "date"),
        Column("tm", pa.time64("us"), "time without time zone"),
        Column("ts", pa.timestamp("us"), "timestamp without time zone"),
        Column("tz", UTC, "timestamp with time zone"),
        Column("ts3", pa.timestamp("us"), "timestamp(3) without time zone"),
        Column("ts0", pa.timestamp("us"), "timestamp(0) without time zone"),
        Column("n50", NUMERIC_TEXT, "numeric(50,2)"),
        Column("ats", pa.list_(pa.timestamp("us")), "timestamp without time zone[]"),
        Column("ad", pa.list_(pa.date32()), "date[]"),
    ),
    ("id",),
)
TABLES = {table.name: table for table in (EVERYTHING, PLAIN, EXTREMES)}

# Columns whose type differs from Debezium's on purpose, or that have a default there.
OTHERWISE = {
    "public.everything": {"m", "am", "tzt", "dflt", "bt", "mny", "hs"},
    "public.plain": {"note", "amount", "at"},
    "public.extremes": set[str](),
}


def golden(name: str, table: str) -> dict[str, Any]:
    topics = json.loads((GOLDEN / f"{name}.json").read_text())["topics"]
    return topics[f"shop.{table}"]


def without(schema: Any, names: set[str], key: Literal["name", "field"]) -> Any:
    """A schema's JSON without the columns of these names."""
    if isinstance(schema, list):
        return [without(inner, names, key) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: without(v, names, key) for k, v in schema.items()}
    if schema.get("name", "").endswith("Value") and "fields" in schema:
        found["fields"] = [f for f in found["fields"] if f[key] not in names]
    return found


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("table", TABLES)
def test_the_schemas_are_debeziums(name: str, table: str) -> None:
    wanted, ours = golden(name, table), topic_schemas(f"shop.{table}", TABLES[table], OPTIONS[name])
    apart = OTHERWISE[table] | ({"iv"} if name == "defaults" else set())

    def pair(schema: Schema, kind: str) -> tuple[Any, Any]:
        if kind.endswith("avro_schema"):
            return without(avro_json(schema), apart, "name"), without(wanted[kind], apart, "name")
        return (
            without(connect_json(schema), apart, "field"),
            without(wanted[kind], apart, "field"),
        )

    for schema, kind in ((ours.key, "key"), (ours.envelope, "value")):
        for form in ("avro_schema", "schema"):
            found, expected = pair(schema, f"{kind}_{form}")
            assert found == expected


def read_avro(name: str, table: str, left_out: str = "nothing") -> Decoded:
    found = golden(name, table)

    def messages(field: str) -> pa.Array:
        records = [r[field] for r in found["records"] if left_out not in (r["value"] or "")]
        return pa.array([r and bytes(5) + bytes.fromhex(r) for r in records], pa.binary())

    form = AvroWriter(json.dumps(found["key_avro_schema"]), json.dumps(found["value_avro_schema"]))
    return read_avro_envelopes(messages("key_avro"), messages("value_avro"), form, TABLES[table])


def read_json(
    name: str, table: str, left_out: str = "nothing", *, schemas: bool = False
) -> Decoded:
    found = golden(name, table)

    def messages(field: str) -> pa.Array:
        records = [r[field] for r in found["records"] if left_out not in (r["value"] or "")]
        if schemas:
            schema = json.dumps(found[f"{field}_schema"])
            records = [r and f'{{"schema":{schema},"payload":{r}}}' for r in records]
        return pa.array([r and r.encode() for r in records], pa.binary())

    # Debezium's default for intervals is a number, which only a schema can say.
    columns = [c for c in TABLES[table].columns if schemas or name == "choices" or c.name != "iv"]
    one = replace(TABLES[table], columns=tuple(columns))
    (decoded,) = read_json_envelopes(
        messages("key"), messages("value"), lambda _: one, OPTIONS[name]
    )
    return decoded


READERS: dict[str, Callable[..., Decoded]] = {
    "avro": read_avro,
    "json": read_json,
    "json with schemas": partial(read_json, schemas=True),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_row_of_all_types(reader: str, name: str) -> None:
    changes = READERS[reader](name, EVERYTHING.name).changes
    assert bytes(changes.op).decode() == "rrcud"
    for row in (0, 2):
        found = values(changes, row)
        for column, wanted in ROW.items():
            if column not in found:
                continue
            chosen = CHOSEN.get(column, wanted) if name == "choices" else wanted
            # Debezium 3.7 streams columns of type `name` as null.
            assert found[column] == (None if column == "nm" and row else chosen), column
    empty = values(changes, 1)
    nulls = {n for n, v in empty.items() if v is None}
    assert nulls == empty.keys() - {"id", "i4", "t", "dflt"}
    assert values(changes, 3)["t"] == "changed"
    assert values(changes, 4) == dict.fromkeys(empty) | {"id": 3}
    # REPLICA IDENTITY FULL
    assert changes.before is not None and changes.has_before is not None
    assert changes.has_before.tolist() == [False, False, False, True, True]
    assert changes.before.column("t")[3].as_py() == ROW["t"]
    assert changes.txn_seq.tolist() == [-1] * 5


def values(changes: ChangeBatch, row: int) -> dict[str, Any]:
    return {
        name: plain(changes.rows.column(i).slice(row, 1))[0]
        for i, name in enumerate(changes.rows.schema.names)
    }


def micros(text: str) -> int:
    moment = dt.datetime.fromisoformat(text) - dt.datetime(1970, 1, 1)  # noqa: DTZ001
    return moment // dt.timedelta(microseconds=1)


ROW: dict[str, Any] = {
    "i2": -5,
    "i4": 7,
    "o": 4_000_000_000,
    "f4": pytest.approx(0.1, rel=1e-7),
    "f8": -1e300,
    "n122": Decimal("1234567890.12"),
    "n38": Decimal("-1234567890123456789012345678.0123456789"),
    "n50": "12345678901234567890.12345",
    # Debezium strips trailing zeros.
    "n": "-123.45",
    "n25": Decimal("0.00012"),
    "b": True,
    "t": 'Zürich "q" \\ \n',
    "vc": "abc",
    "ch": "ab   ",
    "nm": "nam",
    "m": "very happy",
    "js": '{"a" : [1, 2]}',
    "jb": '{"a": [1, 2]}',
    "u": "123e4567-e89b-12d3-a456-426614174000",
    # Debezium's default is microseconds, with months of 30.4375 days.
    "iv": "10303:05:06.789",
    "by": b"\x00\xff\x10",
    "d": 19782,
    "tm": 45_296_789_012,
    "tm3": 45_296_789_000,
    "ts": micros("2024-02-29T12:34:56.789012"),
    "ts3": micros("2024-02-29T12:34:56.789"),
    "tz": micros("2024-02-29T10:34:56.789012"),
    "tzt": "10:34:56.789Z",
    "ai": [1, None, 3],
    "atx": ["a", None, "b c"],
    "an": [Decimal("1.50"), None],
    "ad": [19782, None],
    "ats": [micros("2024-02-29T12:00:00.5")],
    "atz": [micros("2024-02-29T12:00:00.5"), None],
    "aby": [b"\0\1", None],
    "au": ["123e4567-e89b-12d3-a456-426614174000"],
    "aj": ['{"a": 1}'],
    "anv": ["1.5", None, "-0.001"],
    "am": ["sad", "very happy"],
    "inet": "10.0.0.1",
    "mac": "08:00:2b:01:02:03",
    "dm": 5,
    "we-ird näme": "weird",
    "1st": 1,
    "dflt": 7,
    "rg": "[1,5)",
    "tv": "'a' 'cat' 'fat'",
}
CHOSEN: dict[str, Any] = {
    "n": "-123.4500",
    "iv": "1 year 2 mons 3 days 04:05:06.789",
    "tm": 45_296_789_000,
    "ts": micros("2024-02-29T12:34:56.789"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OPTIONS)
def test_operations_keys_and_tombstones(reader: str, name: str) -> None:
    found = READERS[reader](name, "public.plain")
    changes = found.changes
    assert bytes(changes.op).decode() == "rcudcdcc"
    # The tombstones stand behind the deletes.
    assert found.record.tolist() == [0, 1, 2, 3, 5, 6, 8, 9]
    rows = [values(changes, i) for i in range(8)]
    assert rows[3] == {"id": 2, "part": "p", "note": None, "amount": None, "at": None}
    assert rows[7] == {
        "id": 9,
        "part": "q",
        "note": "x",  # it was NULL: Connect's converters put the column's default instead
        "amount": Decimal("0.00"),
        "at": micros("0044-01-31T12:00:00.12345"),
    }
    # What Debezium invents for columns of a delete that it does not have.
    assert changes.has_before is not None
    assert changes.has_before.tolist() == [op == "d" for op in "rcudcdcc"]
    assert (changes.commit_us > 1_700_000_000_000_000).all()


@pytest.mark.parametrize("reader", READERS)
def test_extremes(reader: str) -> None:
    # The last moments of the year 294276 are more microseconds than 64 bits count.
    with pytest.raises(BadData, match="column tz: "):
        READERS[reader]("defaults", "public.extremes")
    changes = READERS[reader]("defaults", "public.extremes", left_out="+294276-12-30").changes
    rows = {row["id"]: row for row in (values(changes, i) for i in range(changes.num_rows))}
    assert [str(row["f8"]) for row in (rows[0], rows[1], rows[2])] == ["nan", "inf", "-0.0"]
    assert [rows[i]["d"] for i in range(3, 7)] == [
        DATE_INFINITY, -DATE_INFINITY, -2_440_550, 2_145_042_905,
    ]  # fmt: skip
    assert rows[7]["tm"] == 86_400_000_000
    assert [rows[i]["ts"] for i in (8, 9)] == [TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]
    assert [rows[i]["tz"] for i in (12, 13)] == [TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]
    assert rows[14]["tz"] == -210_863_433_600_000_000
    assert rows[16]["tz"] == micros("2024-01-01T00:00:00") + 10_000 * 365_242_500 * 86_400
    assert rows[24]["ts3"] == TIMESTAMP_INFINITY
    assert rows[25]["ts0"] == -TIMESTAMP_INFINITY
    assert rows[27]["ats"] == [TIMESTAMP_INFINITY, -TIMESTAMP_INFINITY]
    assert rows[29]["n"] == "100000000000000000000"
    assert rows[30]["n50"] == f"1{'0' * 40}.00"


def test_names_as_avro_allows_them() -> None:
    assert [adjusted(n) for n in ("we-ird näme", "1st", "ok_1")] == ["we_ird_n_me", "_1st", "ok_1"]
    columns = (Column("a-b", pa.int32(), "integer"), Column("a_b", pa.int32(), "integer"))
    with pytest.raises(BadData, match="columns 'a-b' and 'a_b' are both 'a_b' in Avro"):
        topic_schemas("t", TableSchema("public.t", columns, ()), DEFAULTS)
