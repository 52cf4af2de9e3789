"""Our column of a Connect schema: the inverse of cdc.formats.debezium_schema.column_schema.

Topics of Debezium's Postgres connector give the columns that they were made of, but for what they
do not carry: a varchar is text, an enum too, jsonb and json are `json`. Other connectors' types
become what holds their values exactly:

    int8, Year                           smallint, integer
    Decimal without a precision          numeric
    NanoTime, NanoTimestamp              time, timestamp; nanoseconds that are not 0 stop the agent
    Avro's timestamp-millis, -micros     timestamp with time zone: they count from an instant
    ZonedTime, IsoDate, Enum, EnumSet    text, as the connector wrote it
    Bits, bytes                          bytea

Structs (geometries among them), maps, unions and nanosecond durations have no column that could
hold them and are refused by name.

Columns that are not of the key may be null whatever the schema says: records may be older than the
column, and a later schema may allow null. A default is what older records of the column have: in
the database it is, since ADD COLUMN gives it to all rows and writes no change.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from cdc import json_scalars
from cdc.changes import column_value
from cdc.errors import BadData, SourceError
from cdc.formats.connect_schema import DECIMAL, Schema
from cdc.formats.connect_values import from_connect
from cdc.formats.debezium_schema import INTERVAL, VARIABLE_SCALE, ZONED_TIMESTAMP
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

MAX_PRECISION = 38
_TIMESTAMP, _TIMESTAMPTZ = pa.timestamp("us"), pa.timestamp("us", "UTC")
_TIME = pa.time64("us")
Type = tuple[pa.DataType, str]

_PLAIN: dict[str, Type] = {
    "int8": (pa.int16(), "smallint"),
    "int16": (pa.int16(), "smallint"),
    "int32": (pa.int32(), "integer"),
    "int64": (pa.int64(), "bigint"),
    "float": (pa.float32(), "real"),
    "double": (pa.float64(), "double precision"),
    "boolean": (pa.bool_(), "boolean"),
    "string": (pa.string(), "text"),
    "bytes": (pa.binary(), "bytea"),
}
_DATE: Type = (pa.date32(), "date")
_LOCAL: Type = (_TIMESTAMP, "timestamp without time zone")
_LOCAL_MILLIS: Type = (_TIMESTAMP, "timestamp(3) without time zone")
_CLOCK: Type = (_TIME, "time without time zone")
_CLOCK_MILLIS: Type = (_TIME, "time(3) without time zone")
_NAMED: dict[str, Type] = {
    "io.debezium.time.Date": _DATE,
    "org.apache.kafka.connect.data.Date": _DATE,
    "date": _DATE,
    "io.debezium.time.Time": _CLOCK_MILLIS,
    "org.apache.kafka.connect.data.Time": _CLOCK_MILLIS,
    "time-millis": _CLOCK_MILLIS,
    "io.debezium.time.MicroTime": _CLOCK,
    "io.debezium.time.NanoTime": _CLOCK,
    "time-micros": _CLOCK,
    "io.debezium.time.Timestamp": _LOCAL_MILLIS,
    "org.apache.kafka.connect.data.Timestamp": _LOCAL_MILLIS,
    "local-timestamp-millis": _LOCAL_MILLIS,
    "io.debezium.time.MicroTimestamp": _LOCAL,
    "io.debezium.time.NanoTimestamp": _LOCAL,
    "local-timestamp-micros": _LOCAL,
    "timestamp-millis": (_TIMESTAMPTZ, "timestamp(3) with time zone"),
    "timestamp-micros": (_TIMESTAMPTZ, "timestamp with time zone"),
    ZONED_TIMESTAMP: (_TIMESTAMPTZ, "timestamp with time zone"),
    INTERVAL: (pa.string(), "interval"),
    "io.debezium.time.MicroDuration": (pa.string(), "interval"),
    "io.debezium.data.Uuid": (pa.string(), "uuid"),
    "uuid": (pa.string(), "uuid"),
    "io.debezium.data.Json": (pa.string(), "json"),
    "io.debezium.data.Xml": (pa.string(), "xml"),
    "io.debezium.data.Tsvector": (pa.string(), "tsvector"),
    "io.debezium.data.Ltree": (pa.string(), "ltree"),
    "io.debezium.time.Year": (pa.int32(), "integer"),
}
_EPOCHS = (0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z")
"""What Debezium makes up as the default of a NOT NULL column whose own is a function (now())."""
_AS_WRITTEN = frozenset(
    f"io.debezium.time.{name}" for name in ("ZonedTime", "IsoDate", "IsoTime", "IsoTimestamp")
)
"""Moments that travel as text which no column's type prints: they stay text."""


@dataclass(frozen=True)
class Row:
    """A row's fields as Connect knows them, and the defaults (JSON values) of those that have one;
    `encoded` is how bytes stand in these."""

    schema: Schema
    defaults: Mapping[str, Any] = field(default_factory=dict)
    encoded: str = "latin-1"


def column_of(name: str, schema: Schema) -> Column:
    """The column for values of a Connect schema. SourceError where no column's type holds them."""
    kind, sql_type = _type(name, schema)
    return Column(name, kind, sql_type)


def table_of_row(name: str, row: Row, key: Sequence[str]) -> TableSchema:
    """The table `name` (`schema.table`) with the row's columns and this key."""
    columns = []
    for field_name, schema in row.schema.fields:
        column = column_of(field_name, schema)
        if field_name in key:
            column = replace(column, nullable=False)
        elif row.defaults.get(field_name) is not None:
            column = replace(column, missing=_missing(column, schema, row))
        columns.append(column)
    unknown = [column for column in key if column not in row.schema.by_name]
    if unknown:
        raise SourceError(
            f"the rows have no column '{unknown[0]}', which is of the key",
            where=name,
            hint="name the key's columns under `keys:` of the source",
        )
    return TableSchema(name, tuple(columns), tuple(key))


def _type(name: str, schema: Schema) -> Type:
    if schema.items is not None:
        kind, sql_type = _type(name, schema.items)
        if pa.types.is_list(kind):
            raise _refused(name, "an array of arrays")
        return pa.list_(kind), f"{sql_type}[]"
    if schema.name == DECIMAL:
        return _decimal(schema)
    if schema.name == VARIABLE_SCALE:
        return NUMERIC_TEXT, "numeric"
    if schema.name in _NAMED:
        return _NAMED[schema.name]
    if schema.type not in _PLAIN:
        raise _refused(name, schema.name or f"a {schema.type}")
    if schema.name.startswith("io.debezium.time.") and schema.name not in _AS_WRITTEN:
        raise _refused(name, schema.name)
    return _PLAIN[schema.type]


def _decimal(schema: Schema) -> Type:
    scale = int(schema.parameter("scale") or 0)
    precision = int(schema.parameter("connect.decimal.precision") or 0)
    if not precision or scale < 0:
        return NUMERIC_TEXT, "numeric"
    if max(precision, scale) > MAX_PRECISION:
        return NUMERIC_TEXT, f"numeric({precision},{scale})"
    return pa.decimal128(max(precision, scale), scale), f"numeric({precision},{scale})"


def _refused(name: str, what: str) -> SourceError:
    return SourceError(
        f"the column '{name}' is {what}, which no column here can hold",
        where=f"column {name}",
        hint="leave it out where the topic is written: Debezium's column.exclude.list",
    )


def _missing(column: Column, schema: Schema, row: Row) -> str | None:
    """The default as Column.missing; None where it has none that can be read back exactly."""
    default = row.defaults[column.name]
    if pa.types.is_temporal(column.type) and default in _EPOCHS and not schema.optional:
        return None
    try:
        value = from_connect(_one(default, schema, row.encoded), schema, column, 1)
        text = str(json_scalars.printed(value)[0])
        if pa.types.is_binary(column.type):
            text = "\\x" + value[0].as_py().hex()
        same = column_value(column, text) == value[0]
    except (BadData, pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, ValueError, TypeError):
        return None
    return text if same else None


_CARRIERS = {
    "int8": pa.int32(), "int16": pa.int32(), "int32": pa.int32(), "int64": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "string": pa.string(),
}  # fmt: skip


def _one(default: Any, schema: Schema, encoded: str) -> pa.Array:
    """A default's JSON value as one Connect value."""
    if schema.type == "bytes":
        raw = base64.b64decode(default) if encoded == "base64" else default.encode(encoded)
        return pa.array([raw], pa.binary())
    return pa.array([default], _CARRIERS[schema.type])


def avro_defaults(writer: str, names: Sequence[str]) -> dict[str, Any]:
    """The defaults of the row's fields in an Avro schema's JSON: the row is the record under the
    first of `names` that is a field, or (no names) the schema itself."""
    body = json.loads(writer)
    for inner in body["fields"] if names else ():
        if inner["name"] in names:
            body = _record(inner["type"])
            break
    if not isinstance(body, Mapping):
        return {}
    found = {}
    for inner in body.get("fields", ()):
        default = inner.get("default")
        for branch in inner["type"] if isinstance(inner["type"], list) else [inner["type"]]:
            if isinstance(branch, Mapping) and "connect.default" in branch:
                default = branch["connect.default"]
        if default is not None:
            found[inner["name"]] = default
    return found


def _record(avro: Any) -> Any:
    """The record in a type, or in a union with null."""
    branches = avro if isinstance(avro, list) else [avro]
    return next((b for b in branches if isinstance(b, Mapping) and b.get("fields")), None)
