"""A column's type in a Postgres store: the source's own, where every server knows it, else text."""

from __future__ import annotations

import re

import pyarrow as pa

from cdc.schema import NUMERIC_TEXT, Column

_KNOWN_TEXT = re.compile(
    r"text|json|jsonb|uuid|interval|inet|cidr|macaddr|macaddr8|"
    r"character varying(\(\d+\))?|character(\(\d+\))?|time(\(\d\))? with time zone|"
    r"bit(\(\d+\))?|bit varying(\(\d+\))?|xml|int4range|int8range|numrange|daterange|tsrange|"
    r"tstzrange|point"
)
_TIMES = re.compile(r"(time|timestamp)(\(\d\))? (with|without) time zone")
_NUMERIC = re.compile(r"numeric(\(\d+,-?\d+\))?")

_BY_ARROW = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.uint64(): "numeric(20,0)",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.binary(): "bytea",
    pa.date32(): "date",
    pa.time64("us"): "time without time zone",
    pa.timestamp("us"): "timestamp without time zone",
    pa.timestamp("us", "UTC"): "timestamp with time zone",
}


def pg_type(column: Column) -> str:
    """The type as format_type() prints it."""
    return _pg_type(column.type, column.sql_type)


def _pg_type(kind: pa.DataType, sql_type: str) -> str:
    if pa.types.is_list(kind):
        return _pg_type(kind.value_type, sql_type.removesuffix("[]")) + "[]"
    if pa.types.is_decimal128(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if kind == NUMERIC_TEXT:
        return sql_type if _NUMERIC.fullmatch(sql_type) else "numeric"
    if pa.types.is_string(kind):
        return sql_type if _KNOWN_TEXT.fullmatch(sql_type) else "text"
    if pa.types.is_temporal(kind) and _TIMES.fullmatch(sql_type):
        return sql_type
    return _BY_ARROW[kind]
