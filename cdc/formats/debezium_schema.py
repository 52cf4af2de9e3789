"""What Debezium's connectors make of a table: the schemas of its key, row and envelope.

Names, types and order are those that Debezium 3.7.0 wrote when it was run against a table of all
types (tests/unit/golden_debezium). Per type, by default:

    smallint, integer, bigint    int16, int32, int64
    real, double precision       float, double
    numeric(p, s)                Decimal: unscaled bytes, the scale in the schema
    numeric                      VariableScaleDecimal: a struct of scale and unscaled bytes
    boolean, text, bytea         boolean, string, bytes
    uuid, json, jsonb            strings named io.debezium.data.Uuid, .Json
    date                         io.debezium.time.Date: days
    time(0..3), time             io.debezium.time.Time: ms; .MicroTime
    timestamp(0..3), timestamp   io.debezium.time.Timestamp: ms; .MicroTimestamp
    timestamptz                  io.debezium.time.ZonedTimestamp: ISO 8601 in UTC
    T[]                          an array of optional T

Two of Debezium's settings can be chosen: `decimal.handling.mode` and `time.precision.mode`.

Where we differ, and why:

* Columns that are not key are optional even when they are NOT NULL, unless `required="declared"`:
  with the default replica identity a delete's `before` has the key only, and Debezium invents
  values for the others (1970-01-01, the column's default). And a column that is added NOT NULL
  would make the schema incompatible with its predecessor.
* No column defaults: a row carries its values. (JsonConverter replaces NULL by the default.)
* interval is io.debezium.time.Interval (`interval.handling.mode=string`). Debezium's default is
  microseconds with months of 30.4375 days, from which the interval cannot be had back.
* numeric with a negative scale is VariableScaleDecimal. Debezium misreads it as a scale of 2046.
* money, bit, timetz, hstore, geometric and other types travel as the text that Postgres prints,
  in a plain string; enums too, since their labels are not part of our schemas.

Of MySQL and MariaDB (`connector` "mysql"), whose rows have the types of cdc/mysql/types.py,
Debezium writes differently by default:

    bigint unsigned      int64, so 2^64-1 is -1; ours is Decimal(20, 0), its "precise"
    bit(n), n > 1        Bits, little endian; ours is plain bytes as SELECT gives them: big endian
    time                 MicroTime, an int64; ours is Interval, text as Postgres prints it
    datetime(0..3)       Timestamp, ms; ours is MicroTimestamp, whatever its fraction
    year                 io.debezium.time.Year; ours is a plain int32
    enum, set            strings named io.debezium.data.Enum, .EnumSet; ours are plain strings
    geometry             a struct of wkb and srid; ours is WKB in bytes, EWKB where there is an SRID
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pyarrow as pa

from cdc.errors import BadData
from cdc.formats.connect_schema import DECIMAL, Schema, adjusted, adjusted_path, optional
from cdc.schema import Column, TableSchema

VARIABLE_SCALE = "io.debezium.data.VariableScaleDecimal"
INTERVAL = "io.debezium.time.Interval"
ZONED_TIMESTAMP = "io.debezium.time.ZonedTimestamp"


@dataclass(frozen=True)
class Options:
    """What Debezium lets people choose.

    decimal    decimal.handling.mode; "double" loses digits, as Debezium's documentation says
    time       time.precision.mode
    required   which columns may not be null: those of the "key", or as "declared" by the table;
               then a delete whose old row the source did not send has no `before`
    names      field names as they are ("none") or as Avro allows them ("avro"):
               field.name.adjustment.mode
    """

    decimal: Literal["precise", "string", "double"] = "precise"
    time: Literal["adaptive", "adaptive_time_microseconds", "connect"] = "adaptive"
    required: Literal["key", "declared"] = "key"
    names: Literal["none", "avro"] = "none"


@dataclass(frozen=True)
class TopicSchemas:
    """The Connect schemas of one topic; its plain rows (a view's) have `row` as their value."""

    key: Schema
    row: Schema
    envelope: Schema


_STRING = Schema("string")
_LONG = Schema("int64")
_OPTIONAL_LONG = optional(_LONG)
_SNAPSHOT = "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"

_OF_EVERY_SOURCE = (
    ("version", _STRING),
    ("connector", _STRING),
    ("name", _STRING),
    ("ts_ms", _LONG),
    (
        "snapshot",
        Schema(
            "string", True, "io.debezium.data.Enum", 1, (("allowed", _SNAPSHOT),), default="false"
        ),
    ),
    ("db", _STRING),
    ("sequence", optional(_STRING)),
    ("ts_us", _OPTIONAL_LONG),
    ("ts_ns", _OPTIONAL_LONG),
)
_OF_POSTGRES = (
    ("schema", _STRING),
    ("table", _STRING),
    ("txId", _OPTIONAL_LONG),
    ("lsn", _OPTIONAL_LONG),
    ("xmin", _OPTIONAL_LONG),
    ("origin", optional(_STRING)),
    ("origin_lsn", _OPTIONAL_LONG),
)
_OF_MYSQL = (
    ("table", optional(_STRING)),
    ("server_id", _LONG),
    ("gtid", optional(_STRING)),
    ("file", _STRING),
    ("pos", _LONG),
    ("row", Schema("int32")),
    ("thread", _OPTIONAL_LONG),
    ("query", optional(_STRING)),
)

POSTGRES, MYSQL = "postgresql", "mysql"
SOURCES = {
    name: Schema(
        "struct",
        name=f"io.debezium.connector.{name}.Source",
        version=1,
        fields=(*_OF_EVERY_SOURCE, *own),
    )
    for name, own in ((POSTGRES, _OF_POSTGRES), (MYSQL, _OF_MYSQL))
}
"""The source block, by connector."""
SOURCE = SOURCES[POSTGRES]

TRANSACTION = Schema(
    "struct",
    True,
    "event.block",
    1,
    fields=(("id", _STRING), ("total_order", _LONG), ("data_collection_order", _LONG)),
)


@lru_cache(maxsize=256)
def topic_schemas(
    topic: str, table: TableSchema, options: Options, connector: str = POSTGRES
) -> TopicSchemas:
    """The schemas of the topic's records. BadData when two columns would have one name."""
    spell: Callable[[str], str] = adjusted_path if options.names == "avro" else str
    name = spell(topic)
    _check_names(table, options)
    row = Schema(
        "struct",
        name=f"{name}.Value",
        fields=tuple(_field(c, table, options) for c in table.columns),
    )
    key = Schema(
        "struct",
        name=f"{name}.Key",
        fields=tuple(_field(c, table, options) for c in table.key_columns),
    )
    envelope = Schema(
        "struct",
        name=f"{name}.Envelope",
        version=2,
        fields=(
            ("before", optional(row)),
            ("after", optional(row)),
            ("source", SOURCES[connector]),
            ("transaction", TRANSACTION),
            ("op", _STRING),
            ("ts_ms", _OPTIONAL_LONG),
            ("ts_us", _OPTIONAL_LONG),
            ("ts_ns", _OPTIONAL_LONG),
        ),
    )
    return TopicSchemas(key, row, envelope)


def field_name(column: Column, options: Options) -> str:
    return adjusted(column.name) if options.names == "avro" else column.name


def column_schema(column: Column, options: Options) -> Schema:
    """The Connect type of the column's values, not optional."""
    kind = column.type
    if pa.types.is_list(kind):
        items = column_schema(element(column), options)
        return Schema("array", items=optional(items))
    if isinstance(kind, pa.ExtensionType) or pa.types.is_decimal(kind):
        return _decimal(column, options)
    if kind == pa.uint64():
        return _precise(20, 0) if options.decimal == "precise" else Schema(options.decimal)
    if pa.types.is_temporal(kind):
        return _temporal(column, options)
    if pa.types.is_string(kind):
        return _NAMED_TEXT.get(column.sql_type, _STRING)
    return _PLAIN[kind]


def element(column: Column) -> Column:
    """The column that a list's elements would be."""
    return Column(column.name, column.type.value_type, column.sql_type.removesuffix("[]"))


_PLAIN = {
    pa.bool_(): Schema("boolean"),
    pa.int16(): Schema("int16"),
    pa.int32(): Schema("int32"),
    pa.int64(): Schema("int64"),
    pa.float32(): Schema("float"),
    pa.float64(): Schema("double"),
    pa.binary(): Schema("bytes"),
}
_JSON = Schema("string", name="io.debezium.data.Json", version=1)
_NAMED_TEXT = {
    "json": _JSON,
    "jsonb": _JSON,
    "uuid": Schema("string", name="io.debezium.data.Uuid", version=1),
    "interval": Schema("string", name=INTERVAL, version=1),
    "xml": Schema("string", name="io.debezium.data.Xml", version=1),
    "tsvector": Schema("string", name="io.debezium.data.Tsvector", version=1),
    "ltree": Schema("string", name="io.debezium.data.Ltree", version=1),
}
_VARIABLE_SCALE = Schema(
    "struct",
    name=VARIABLE_SCALE,
    version=1,
    doc="Variable scaled decimal",
    fields=(("scale", Schema("int32")), ("value", Schema("bytes"))),
)
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_PRECISION = re.compile(r"\((\d)\)")


def _decimal(column: Column, options: Options) -> Schema:
    if options.decimal != "precise":
        return Schema(options.decimal)
    declared = _NUMERIC.fullmatch(column.sql_type.replace(" ", ""))
    if declared is not None and int(declared[2]) >= 0:
        return _precise(int(declared[1]), int(declared[2]))
    if pa.types.is_decimal(column.type):
        return _precise(column.type.precision, column.type.scale)
    return _VARIABLE_SCALE


def _precise(precision: int, scale: int) -> Schema:
    parameters = (("scale", str(scale)), ("connect.decimal.precision", str(precision)))
    return Schema("bytes", name=DECIMAL, version=1, parameters=parameters)


def _temporal(column: Column, options: Options) -> Schema:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return Schema("string", name=ZONED_TIMESTAMP, version=1)
    what = "Date" if pa.types.is_date(kind) else "Time" if pa.types.is_time(kind) else "Timestamp"
    if options.time == "connect":
        return Schema(_MILLIS_TYPES[what], name=f"org.apache.kafka.connect.data.{what}", version=1)
    if what == "Date":
        return Schema("int32", name="io.debezium.time.Date", version=1)
    precision = _PRECISION.search(column.sql_type)
    millis = precision is not None and int(precision[1]) <= 3
    if what == "Time" and options.time == "adaptive_time_microseconds":
        millis = False
    if millis:
        return Schema(_MILLIS_TYPES[what], name=f"io.debezium.time.{what}", version=1)
    return Schema("int64", name=f"io.debezium.time.Micro{what}", version=1)


_MILLIS_TYPES = {"Date": "int32", "Time": "int32", "Timestamp": "int64"}


def _field(column: Column, table: TableSchema, options: Options) -> tuple[str, Schema]:
    found = column_schema(column, options)
    required = not column.nullable and (options.required == "declared" or column.name in table.key)
    return field_name(column, options), found if required else optional(found)


def _check_names(table: TableSchema, options: Options) -> None:
    seen: dict[str, str] = {}
    for column in table.columns:
        spelled = field_name(column, options)
        if spelled in seen:
            raise BadData(
                f"columns '{seen[spelled]}' and '{column.name}' are both '{spelled}' in Avro",
                where=table.name,
                hint="rename one of them, exclude it, or use format: json",
            )
        seen[spelled] = column.name
