"""Postgres types: how their values travel, and how they can be read.

A `PgType` is what the catalog says about one column's type, completely resolved: a domain holds
its base, an array its element. From it follow the Arrow type (the table in cdc/schema.py), the
spelling that views and stores see, and whether the binary form of the type is understood.

A stream has one format for all tables: binary only while `binary_decodable` holds for every
captured column, otherwise text for all. COPY is binary always and selects the other columns as
text (`copy_expression`). Text can be read for every type, and both forms of a value give the
identical Arrow value.

The connection must have these settings, or text means something else: `SESSION_SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from cdc.schema import NUMERIC_TEXT, Column

SESSION_SETTINGS: Mapping[str, str] = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "timezone": "UTC",
    "client_encoding": "UTF8",
}
"""Settings of every connection that reads values. extra_float_digits: from Postgres 12 on any
positive number prints the shortest text that reads back as the same float."""

MAX_PRECISION = 38
"""Digits that fit a decimal128."""


@dataclass(frozen=True)
class TypeRow:
    """One row of TYPES_QUERY."""

    oid: int
    name: str
    kind: str
    element: int
    base: int
    base_typmod: int
    base_spelling: str
    dims: int
    delimiter: str


TYPES_QUERY = """
SELECT t.oid::int8, t.typname::text, t.typtype::text,
       CASE WHEN t.typlen = -1 AND t.typelem <> 0 AND t.typcategory = 'A'
                 AND t.typname NOT IN ('int2vector', 'oidvector') THEN t.typelem
            ELSE 0 END::int8,
       t.typbasetype::int8, t.typtypmod::int4,
       CASE WHEN t.typbasetype <> 0 THEN pg_catalog.format_type(t.typbasetype, t.typtypmod)
            ELSE '' END::text,
       t.typndims::int4, t.typdelim::text
FROM pg_catalog.pg_type t
"""
"""All types, in TypeRow's order; filter by oid only together with elements and bases."""


@dataclass(frozen=True)
class PgType:
    """The type of one column.

    oid        pg_type.oid; in an array's binary form and in Relation messages
    name       pg_type.typname: `int4`, `_int4`, `mood`
    spelling   format_type(oid, typmod): `numeric(12,2)`, `integer[]`, `mood`
    typmod     atttypmod; -1: none
    kind       pg_type.typtype: b base, c composite, d domain, e enum, r range, m multirange
    base       a domain's base type
    element    an array's element type, with the array's typmod
    dims       declared number of dimensions, 0 for a scalar
    delimiter  between an array's elements in text
    """

    oid: int
    name: str
    spelling: str
    typmod: int = -1
    kind: str = "b"
    base: PgType | None = None
    element: PgType | None = None
    dims: int = 0
    delimiter: str = ","


def resolve(
    types: Mapping[int, TypeRow], oid: int, typmod: int, dims: int, spelling: str
) -> PgType:
    """The type of a column: attribute's atttypid, atttypmod, attndims and
    format_type(atttypid, atttypmod). KeyError when `types` lacks one that it refers to."""
    row = types[oid]
    base = element = None
    if row.kind == "d":
        base = resolve(types, row.base, row.base_typmod, row.dims or dims, row.base_spelling)
    if row.element:
        spelled = (
            spelling.removesuffix("[]") if spelling.endswith("[]") else types[row.element].name
        )
        element = resolve(types, row.element, typmod, 0, spelled)
    delimiter = types[row.element].delimiter if row.element else ","
    dims = max(dims, 1) if row.element else 0
    return PgType(oid, row.name, spelling, typmod, row.kind, base, element, dims, delimiter)


BUILT_IN: Mapping[str, int] = {
    "bool": 16, "bytea": 17, "char": 18, "name": 19, "int8": 20, "int2": 21, "int4": 23,
    "text": 25, "oid": 26, "json": 114, "float4": 700, "float8": 701, "bpchar": 1042,
    "varchar": 1043, "date": 1082, "time": 1083, "timestamp": 1114, "timestamptz": 1184,
    "interval": 1186, "numeric": 1700, "uuid": 2950, "jsonb": 3802,
}  # fmt: skip
"""The types with a binary decoder, by pg_type.typname: their fixed oids."""

_ARROW: Mapping[int, pa.DataType] = {
    BUILT_IN["int2"]: pa.int16(),
    BUILT_IN["int4"]: pa.int32(),
    BUILT_IN["int8"]: pa.int64(),
    BUILT_IN["oid"]: pa.int64(),
    BUILT_IN["float4"]: pa.float32(),
    BUILT_IN["float8"]: pa.float64(),
    BUILT_IN["bool"]: pa.bool_(),
    BUILT_IN["bytea"]: pa.binary(),
    BUILT_IN["date"]: pa.date32(),
    BUILT_IN["time"]: pa.time64("us"),
    BUILT_IN["timestamp"]: pa.timestamp("us"),
    BUILT_IN["timestamptz"]: pa.timestamp("us", "UTC"),
}
_DECODED_OIDS = frozenset(BUILT_IN.values())


def arrow_type(kind: PgType) -> pa.DataType:
    """How the values travel: the table in cdc/schema.py."""
    kind = undomained(kind)
    if kind.element is not None:
        return pa.list_(arrow_type(kind.element)) if _is_list(kind) else pa.string()
    if kind.oid == BUILT_IN["numeric"]:
        return _numeric_type(kind.typmod)
    return _ARROW.get(kind.oid, pa.string())


def binary_decodable(kind: PgType) -> bool:
    """Whether the binary form of the type is understood here."""
    kind = undomained(kind)
    if kind.element is not None:
        return _is_list(kind) and binary_decodable(kind.element)
    return kind.oid in _DECODED_OIDS or is_text(kind)


def is_text(kind: PgType) -> bool:
    """Whether the binary form of the (not domain, not array) type is its text."""
    return kind.kind == "e" or kind.name == "citext"


def sql_type(kind: PgType) -> str:
    """Column.sql_type: Postgres's spelling; a domain's is its base type's."""
    return undomained(kind).spelling


def undomained(kind: PgType) -> PgType:
    """The type itself, or what a domain (over a domain …) stands on."""
    while kind.base is not None:
        kind = kind.base
    return kind


def column(
    name: str,
    kind: PgType,
    *,
    nullable: bool = True,
    attnum: int = 0,
    missing: str | None = None,
) -> Column:
    """The captured column of that type."""
    return Column(name, arrow_type(kind), sql_type(kind), nullable, attnum, missing)


def copy_expression(quoted_name: str, kind: PgType) -> str:
    """What COPY selects for a column, so that every column can be read in binary."""
    if binary_decodable(kind):
        return quoted_name
    # Casts to text may print otherwise than the stream does (inet's adds /128): concat calls the
    # type's output function. IS NOT NULL would be false for a composite value holding a NULL.
    return f"CASE WHEN {quoted_name} IS DISTINCT FROM NULL THEN concat({quoted_name}) END"


def precision_and_scale(typmod: int) -> tuple[int, int] | None:
    """numeric's declared precision and scale; None when it was declared without."""
    if typmod < 0:
        return None
    packed = typmod - 4
    # The scale is an 11-bit two's complement number (numeric.c, numeric_typmod_scale).
    return (packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 0x400) - 0x400


def _numeric_type(typmod: int) -> pa.DataType:
    declared = precision_and_scale(typmod)
    if declared is None:
        return NUMERIC_TEXT
    precision, scale = declared
    # numeric(2,5), allowed since Postgres 15, holds 0.000ab: five digits behind the point.
    precision = max(precision, scale)
    if scale < 0 or precision > MAX_PRECISION:
        return NUMERIC_TEXT
    return pa.decimal128(precision, scale)


def _is_list(kind: PgType) -> bool:
    """Declared with one dimension, of elements that are not lists themselves."""
    element = kind.element
    return kind.dims == 1 and element is not None and undomained(element).element is None
