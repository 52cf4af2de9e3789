"""Which table a foreign topic's schemas make: Debezium's own, recorded, and those of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given

from cdc.changes import column_value
from cdc.config import TopicsConfig
from cdc.errors import CdcError, ConfigError, SchemaChanged, SourceError
from cdc.formats.avro_schema import compiled
from cdc.formats.connect_schema import DECIMAL, Schema, avro_json, connect_json
from cdc.formats.debezium_schema import Options, column_schema, topic_schemas
from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from cdc.topics.columns import column_of
from cdc.topics.described import Described, Settings, avro_row, described, json_row, table_of
from cdc.topics.evolution import extended
from cdc.topics.sql_types import column_declared
from tests.formats_cases import UTC, Case, cases

GOLDEN = Path(__file__).parent / "golden_debezium"
TEXT, TIME, LOCAL = pa.string(), pa.time64("us"), pa.timestamp("us")

# What becomes of the columns of `everything` with Debezium's defaults, where it is not what
# Postgres has: what Connect's types do not carry.
CARRIED: dict[str, tuple[pa.DataType, str]] = {
    "id": (pa.int64(), "bigint"),
    "i2": (pa.int16(), "smallint"),
    "i4": (pa.int32(), "integer"),
    "o": (pa.int64(), "bigint"),
    "f4": (pa.float32(), "real"),
    "n122": (pa.decimal128(12, 2), "numeric(12,2)"),
    "n38": (pa.decimal128(38, 10), "numeric(38,10)"),
    "n50": (NUMERIC_TEXT, "numeric(50,5)"),
    "n": (NUMERIC_TEXT, "numeric"),
    "b": (pa.bool_(), "boolean"),
    "vc": (TEXT, "text"),
    "m": (TEXT, "text"),
    "js": (TEXT, "json"),
    "jb": (TEXT, "json"),
    "u": (TEXT, "uuid"),
    "iv": (TEXT, "interval"),
    "by": (pa.binary(), "bytea"),
    "d": (pa.date32(), "date"),
    "tm": (TIME, "time without time zone"),
    "tm3": (TIME, "time(3) without time zone"),
    "ts": (LOCAL, "timestamp without time zone"),
    "ts3": (LOCAL, "timestamp(3) without time zone"),
    "tz": (UTC, "timestamp with time zone"),
    "tzt": (TEXT, "text"),
    "ai": (pa.list_(pa.int32()), "integer[]"),
    "an": (pa.list_(pa.decimal128(10, 2)), "numeric(10,2)[]"),
    "atz": (pa.list_(UTC), "timestamp with time zone[]"),
    "dflt": (pa.int32(), "integer"),
}


def golden(settings: str, table: str) -> dict[str, Any]:
    found = json.loads((GOLDEN / f"{settings}.json").read_text())
    topic: dict[str, Any] = found["topics"][f"shop.public.{table}"]
    return topic


def settings(
    form: Any = "json", *, columns: dict[str, str] | None = None, keys: tuple[str, ...] = ()
) -> Settings:
    topic = "shop.public.t"
    config = TopicsConfig(
        "",
        {},
        form,
        "",
        {},
        columns={topic: columns} if columns else {},
        keys={topic: keys} if keys else {},
    )
    return Settings(topic, "public.t", "inv", config)


@pytest.mark.parametrize("form", ["avro", "json"])
def test_debeziums_own_schemas_give_the_columns(form: str) -> None:
    topic = golden("defaults", "everything")
    row, enveloped = (
        avro_row(json.dumps(topic["value_avro_schema"]))
        if form == "avro"
        else json_row(json.dumps(topic["value_schema"]))
    )
    with pytest.raises(SourceError, match=r"'hs' is io.debezium.data.geometry.Point"):
        table_of(settings(), row, ("id",))
    fields = tuple(
        (name, kind)
        for name, kind in row.schema.fields
        if kind.type != "struct" or kind.name == "io.debezium.data.VariableScaleDecimal"
    )
    row = replace(row, schema=replace(row.schema, fields=fields))
    table = table_of(settings(), row, ("id",))
    found = {column.name: (column.type, column.sql_type) for column in table.columns}
    assert enveloped
    assert {name: found[name] for name in CARRIED} == CARRIED
    assert table.key == ("id",) and not table.column("id").nullable
    assert all(column.nullable for column in table.columns if column.name != "id")


@pytest.mark.parametrize("form", ["avro", "json"])
def test_a_columns_default_is_what_older_records_have(form: str) -> None:
    topic = golden("defaults", "plain")
    row, _ = (
        avro_row(json.dumps(topic["value_avro_schema"]))
        if form == "avro"
        else json_row(json.dumps(topic["value_schema"]))
    )
    table = table_of(settings(), row, ("part", "id"))
    assert {c.name: c.missing for c in table.columns} == {
        "id": None, "part": None, "note": "x", "amount": "1.50", "at": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "default", "text"),
    [
        ({"type": "int32"}, 7, "7"),
        ({"type": "boolean"}, True, "true"),
        ({"type": "double"}, 0.5, "0.5"),
        ({"type": "string"}, "é'", "é'"),
        ({"type": "bytes"}, "AP8=", "\\x00ff"),
        ({"type": "int32", "name": "io.debezium.time.Date"}, 19_753, "2024-01-31"),
        ({"type": "int64", "name": "io.debezium.time.MicroTimestamp"}, 1, None),
    ],
)
def test_defaults_of_each_kind(schema: dict[str, Any], default: Any, text: str | None) -> None:
    """`missing` reads back as the default; text None: any that does."""
    fields = [{"type": "int32", "field": "id"}, {**schema, "field": "c", "default": default}]
    row, _ = json_row(json.dumps({"type": "struct", "fields": fields}))
    column = table_of(settings(), row, ("id",)).column("c")
    assert column.missing is not None
    assert text is None or column.missing == text
    assert column_value(column, column.missing).is_valid


@given(cases())
def test_what_we_write_is_read_as_the_same_columns(case: Case) -> None:
    """column_of is the inverse of column_schema, but for what Connect does not carry."""
    schemas = topic_schemas("t", case.changes.schema, replace(Options(), decimal="precise"))
    for column in case.changes.schema.columns:
        found = column_of(column.name, schemas.row.field(column.name))
        if "unsigned" in column.sql_type:
            assert found.sql_type.startswith("numeric(20,0)")
            continue
        if isinstance(column.type, pa.ExtensionType):
            assert found.type == NUMERIC_TEXT
        else:
            assert found.type == column.type
        again = column_schema(found, Options())
        assert again == column_schema(column, Options())
        through_avro = compiled(json.dumps(avro_json(schemas.row))).schema
        assert column_of(column.name, through_avro.field(column.name)) == found


@pytest.mark.parametrize(
    ("schema", "sql_type"),
    [
        (Schema("int8"), "smallint"),
        (Schema("int32", name="io.debezium.time.Year"), "integer"),
        (Schema("string", name="io.debezium.data.EnumSet"), "text"),
        (Schema("string", name="io.debezium.data.Enum"), "text"),
        (Schema("bytes", name="io.debezium.data.Bits"), "bytea"),
        (Schema("bytes", name=DECIMAL, parameters=(("scale", "2"),)), "numeric"),
        (Schema("int64", name="io.debezium.time.NanoTimestamp"), "timestamp without time zone"),
        (Schema("int64", name="timestamp-micros"), "timestamp with time zone"),
        (Schema("int64", name="local-timestamp-millis"), "timestamp(3) without time zone"),
        (Schema("string", name="io.debezium.time.IsoDate"), "text"),
        (Schema("int64", name="com.example.Money"), "bigint"),
    ],
)
def test_other_connectors_types(schema: Schema, sql_type: str) -> None:
    assert column_of("c", schema).sql_type == sql_type


@pytest.mark.parametrize(
    "schema",
    [
        Schema("struct", name="io.debezium.data.geometry.Geometry"),
        Schema("map"),
        Schema("union"),
        Schema("int64", name="io.debezium.time.NanoDuration"),
        Schema("array", items=Schema("array", items=Schema("int32"))),
    ],
)
def test_what_no_column_can_hold_is_refused_by_name(schema: Schema) -> None:
    with pytest.raises(SourceError, match="'c' is"):
        column_of("c", schema)


@pytest.mark.parametrize(
    ("text", "kind", "spelled"),
    [
        ("int", pa.int32(), "integer"),
        ("INT8", pa.int64(), "bigint"),
        ("numeric(12, 2)", pa.decimal128(12, 2), "numeric(12,2)"),
        ("decimal", NUMERIC_TEXT, "numeric"),
        ("numeric(50,5)", NUMERIC_TEXT, "numeric(50,5)"),
        ("varchar(20)", TEXT, "character varying(20)"),
        ("timestamptz", UTC, "timestamp with time zone"),
        ("timestamp(3)", LOCAL, "timestamp(3) without time zone"),
        ("timestamp (0) with time zone", UTC, "timestamp(0) with time zone"),
        ("time", TIME, "time without time zone"),
        ("double precision", pa.float64(), "double precision"),
        ("jsonb", TEXT, "jsonb"),
        ("mood", TEXT, "mood"),
        ("text[]", pa.list_(TEXT), "text[]"),
        ("numeric(10,2)[]", pa.list_(pa.decimal128(10, 2)), "numeric(10,2)[]"),
        ("bytea", pa.binary(), "bytea"),
    ],
)
def test_types_as_postgres_spells_them(text: str, kind: pa.DataType, spelled: str) -> None:
    found = column_declared("c", text)
    assert (found.type, found.sql_type) == (kind, spelled)


@pytest.mark.parametrize("text", ["", "numeric(", "integer(3)", "numeric(0)", "text[][]", "1"])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a type"):
        column_declared("c", text)


def no_ids(schema_id: int) -> str:
    raise AssertionError(schema_id)


KEY, VALUE = b'{"id":1}', b'{"before":null,"after":{"id":1,"x":"a","n":1.5,"l":[true]},"op":"c"}'


def known(made: Settings, key: bytes, value: bytes) -> Described:
    found = described(made, key, value, no_ids)
    assert found is not None
    return found


def test_json_without_schemas_needs_columns_and_shows_what_to_write() -> None:
    with pytest.raises(ConfigError) as error:
        described(settings(), KEY, VALUE, no_ids)
    wanted = "columns: {shop.public.t: {id: bigint, x: text, n: double precision, l: boolean[]}}"
    assert wanted in error.value.hint


def test_json_without_schemas_has_the_columns_that_are_declared() -> None:
    found = known(settings(columns={"id": "int", "x": "text"}), KEY, VALUE)
    assert found.enveloped
    assert found.table == TableSchema(
        "public.t", (Column("id", pa.int32(), "integer", False), Column("x", TEXT, "text")), ("id",)
    )


def test_a_topic_without_records_says_nothing() -> None:
    assert described(settings(), None, None, no_ids) is None
    declared = described(settings(columns={"id": "int"}, keys=("id",)), None, None, no_ids)
    assert declared is not None and declared.table.key == ("id",)


def test_plain_rows_are_told_from_envelopes() -> None:
    found = known(settings(columns={"id": "int"}), KEY, b'{"id":1,"op":"x"}')
    assert not found.enveloped


def test_json_with_schemas_describes_itself() -> None:
    topic = golden("defaults", "plain")
    value = {"schema": topic["value_schema"], "payload": {}}
    key = {"schema": topic["key_schema"], "payload": {"part": "p", "id": 1}}
    texts = [json.dumps(body).encode() for body in (key, value)]
    found = known(settings(), texts[0], texts[1])
    assert found.table.key == ("part", "id")
    assert found.table.column("amount").sql_type == "numeric(12,2)"
    retyped = known(settings(columns={"note": "varchar(9)"}), texts[0], texts[1])
    assert retyped.table.column("note").sql_type == "character varying(9)"


@pytest.mark.parametrize(
    ("made", "key", "value", "kind", "said"),
    [
        (settings(columns={"id": "int"}), None, VALUE, SourceError, "keys: {shop.public.t: [id]}"),
        (settings(columns={"x": "text"}), KEY, VALUE, ConfigError, "has no 'id'"),
        (settings(columns={"id": "int"}), KEY, b"\0\0\0\0\1", SourceError, "format: avro"),
        (settings("avro"), KEY, VALUE, SourceError, "Confluent"),
    ],
)
def test_what_does_not_say_enough_is_refused(
    made: Settings, key: bytes | None, value: bytes | None, kind: type[CdcError], said: str
) -> None:
    with pytest.raises(kind) as error:
        described(made, key, value, no_ids)
    assert said in str(error.value)


def table(*columns: tuple[str, str], version: int = 1) -> TableSchema:
    made = (replace(column_declared(n, t), nullable=n != "id") for n, t in columns)
    return TableSchema("public.t", tuple(made), ("id",), version)


def test_a_new_column_makes_a_new_version() -> None:
    known = table(("id", "int"), ("x", "text"))
    now = table(("id", "int"), ("y", "date"))
    assert extended(known, now, "inv") == table(
        ("id", "int"), ("x", "text"), ("y", "date"), version=2
    )
    assert extended(known, table(("id", "int")), "inv") is known


def test_a_numeric_may_have_more_digits() -> None:
    known, now = table(("id", "int"), ("n", "numeric(5,2)")), table(("n", "numeric(9,2)"))
    wider = table(("id", "int"), ("n", "numeric(9,2)"), version=2)
    assert extended(known, replace(now, key=known.key), "inv") == wider


@pytest.mark.parametrize(
    ("before", "after", "follows"),
    [
        ("bigint", "int", True),
        ("int", "bigint", False),
        ("double precision", "real", True),
        ("real", "double precision", False),
        ("numeric", "numeric(10,2)", True),
        ("numeric(12,2)", "numeric(10,2)", True),
        ("numeric(12,2)", "numeric(12,3)", False),
        ("time", "time(3)", True),
        ("text", "varchar(3)", True),
        ("text", "int", False),
        ("timestamp", "timestamptz", False),
    ],
)
def test_another_type_is_followed_where_no_value_would_change(
    before: str, after: str, follows: bool
) -> None:
    known, now = table(("id", "int"), ("x", before)), table(("id", "int"), ("x", after))
    if follows:
        assert extended(known, now, "inv") is known
    else:
        with pytest.raises(SchemaChanged, match=r"x is .*, it was "):
            extended(known, now, "inv")


def test_another_key_is_refused() -> None:
    now = replace(table(("id", "int"), ("x", "text")), key=("id", "x"))
    with pytest.raises(SchemaChanged, match="its key is id, x, it was id"):
        extended(table(("id", "int"), ("x", "text")), now, "inv")


def test_json_schemas_survive_the_way() -> None:
    """json_row reads what connect_json writes."""
    made = topic_schemas("t", table(("id", "int"), ("n", "numeric")), Options())
    row, enveloped = json_row(json.dumps(connect_json(made.envelope)))
    assert enveloped and [name for name, _ in row.schema.fields] == ["id", "n"]


def test_a_key_that_is_no_column_is_refused() -> None:
    made = topic_schemas("t", table(("id", "int")), Options())
    row, _ = json_row(json.dumps(connect_json(made.envelope)))
    with pytest.raises(SourceError, match="no column 'other'"):
        table_of(settings(), row, ("other",))
