"""MySQL's types: how their values travel, how Postgres spells them, what a table's schema is.

    tinyint, smallint (tinyint unsigned)      smallint                 int16
    mediumint, int, smallint unsigned, year   integer                  int32
    bigint, int unsigned                      bigint                   int64
    bigint unsigned                           numeric(20,0)            decimal128(20, 0)
    decimal(p, s), p <= 38                    numeric(p,s)             decimal128(p, s)
    decimal(p, s), p > 38                     numeric(p,s)             NUMERIC_TEXT
    float, double                             real, double precision   float32, float64
    bit(1)                                    boolean                  bool
    bit(n), binary, varbinary, blobs          bytea                    binary
    date                                      date                     date32
    datetime                                  timestamp without …      timestamp[us]
    timestamp                                 timestamp with …         timestamp[us, UTC]
    time, a duration                          interval                 string, as Postgres prints it
    char(n), varchar(n)                       character varying(n)     string
    texts, enum, set                          text                     string
    json                                      jsonb; MariaDB's: json   string
    geometry                                  bytea: WKB or EWKB       binary
    MariaDB's uuid; inet4, inet6              uuid; text               string

Anything else is refused by its name (`refusal`). A date that is no date (0000-00-00, 2024-02-30)
becomes what `zero_dates` says; where that is `null`, date columns outside of the key are nullable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import IntEnum
from typing import Literal

import pyarrow as pa

from cdc.errors import SourceError
from cdc.mysql.charsets import text_charset
from cdc.mysql.tables import BINARY_COLLATION, MyColumn, MyTable, MyType
from cdc.schema import NUMERIC_TEXT, Column, TableSchema

ZeroDates = Literal["null", "epoch", "stop"]
"""What a zero or invalid date becomes: NULL, 1970-01-01 (00:00:00), or an error."""


class FieldType(IntEnum):
    """enum_field_types (MySQL: field_types.h; MariaDB: mysql_com.h). The *2 forms have fractions,
    and are what servers write since MySQL 5.6 and MariaDB 10.1; the older ones are those of
    tables that were never rebuilt since."""

    DECIMAL = 0
    TINY = 1
    SHORT = 2
    LONG = 3
    FLOAT = 4
    DOUBLE = 5
    NULL = 6
    TIMESTAMP = 7
    LONGLONG = 8
    INT24 = 9
    DATE = 10
    TIME = 11
    DATETIME = 12
    YEAR = 13
    NEWDATE = 14
    VARCHAR = 15
    BIT = 16
    TIMESTAMP2 = 17
    DATETIME2 = 18
    TIME2 = 19
    BLOB_COMPRESSED = 140
    VARCHAR_COMPRESSED = 141
    VECTOR = 242
    JSON = 245
    NEWDECIMAL = 246
    ENUM = 247
    SET = 248
    TINY_BLOB = 249
    MEDIUM_BLOB = 250
    LONG_BLOB = 251
    BLOB = 252
    VAR_STRING = 253
    STRING = 254
    GEOMETRY = 255


MAX_PRECISION = 38
"""Digits that fit a decimal128."""

INTEGER_BYTES: Mapping[int, int] = {
    FieldType.TINY: 1,
    FieldType.SHORT: 2,
    FieldType.INT24: 3,
    FieldType.LONG: 4,
    FieldType.LONGLONG: 8,
}
DATES = frozenset({FieldType.DATE, FieldType.NEWDATE})
DATETIMES = frozenset({FieldType.DATETIME, FieldType.DATETIME2})
TIMESTAMPS = frozenset({FieldType.TIMESTAMP, FieldType.TIMESTAMP2})
TIMES = frozenset({FieldType.TIME, FieldType.TIME2})
STRINGS = frozenset({FieldType.STRING, FieldType.VARCHAR, FieldType.VARCHAR_COMPRESSED})
BLOBS = frozenset({FieldType.BLOB, FieldType.BLOB_COMPRESSED})
"""Of TEXT and BLOB in all sizes: the width of their length is `meta`."""
MAY_BE_ZERO = DATES | DATETIMES | TIMESTAMPS
"""The types that have a value which is no date."""

OLDER_FORMS: Mapping[int, int] = {
    FieldType.TIMESTAMP: FieldType.TIMESTAMP2,
    FieldType.DATETIME: FieldType.DATETIME2,
    FieldType.TIME: FieldType.TIME2,
    FieldType.NEWDATE: FieldType.DATE,
}
"""The forms of tables that older servers made, and the types that they are."""

_Travels = tuple[str, pa.DataType]
_TEXT: _Travels = ("text", pa.string())
_BYTEA: _Travels = ("bytea", pa.binary())
_SIGNED: Mapping[int, _Travels] = {
    1: ("smallint", pa.int16()),
    2: ("smallint", pa.int16()),
    3: ("integer", pa.int32()),
    4: ("integer", pa.int32()),
    8: ("bigint", pa.int64()),
}
_UNSIGNED: Mapping[int, _Travels] = {
    1: ("smallint", pa.int16()),
    2: ("integer", pa.int32()),
    3: ("integer", pa.int32()),
    4: ("bigint", pa.int64()),
    8: ("numeric(20,0)", pa.decimal128(20, 0)),
}
_NATIVE: Mapping[str, _Travels] = {"uuid": ("uuid", pa.string()), "inet4": _TEXT, "inet6": _TEXT}


def table_schema(table: MyTable, zero_dates: ZeroDates, version: int = 1) -> TableSchema:
    """The schema of the table's rows. `attnum` counts the columns from 1. SourceError names every
    column whose type is not understood."""
    refused = [f"{c.name} ({why})" for c in table.columns if (why := refusal(c.kind)) is not None]
    if refused:
        raise SourceError(
            f"columns of types that are not understood: {', '.join(refused)}",
            where=table.name,
            hint="alter their types, or leave the table out",
        )
    columns = tuple(
        column(c, number, zero_dates, in_key=c.name in table.key)
        for number, c in enumerate(table.columns, 1)
    )
    return TableSchema(table.name, columns, table.key, version)


def column(described: MyColumn, attnum: int, zero_dates: ZeroDates, *, in_key: bool) -> Column:
    """The captured column. SourceError when its type is refused."""
    spelling, travels = _travels(described.kind)
    nulled = zero_dates == "null" and described.kind.code in MAY_BE_ZERO and not in_key
    nullable = described.nullable or nulled
    native = declared(described.kind).to_text()
    return Column(described.name, travels, spelling, nullable, attnum, native=native)


def arrow_type(kind: MyType) -> pa.DataType:
    """How the values travel. SourceError when the type is refused."""
    return _travels(kind)[1]


def sql_type(kind: MyType) -> str:
    """The type as Postgres spells it. SourceError when it is refused."""
    return _travels(kind)[0]


def is_binary(kind: MyType) -> bool:
    """Whether a string or blob holds bytes rather than text."""
    return kind.collation == BINARY_COLLATION


def refusal(kind: MyType) -> str | None:
    """What a type is called that is not understood; None for all others."""
    try:
        _travels(kind)
    except SourceError as error:
        return error.what
    return None


def declared(kind: MyType) -> MyType:
    """The type itself, whatever the form in which a table has it."""
    code = OLDER_FORMS.get(kind.code)
    return kind if code is None else replace(kind, code=code)


def bits(kind: MyType) -> int:
    """The n of BIT(n)."""
    return 8 * (kind.meta >> 8) + (kind.meta & 0xFF)


def _travels(kind: MyType) -> _Travels:
    if kind.native:
        return _native(kind)
    size = INTEGER_BYTES.get(kind.code)
    if size is not None:
        return (_UNSIGNED if kind.unsigned else _SIGNED)[size]
    spell = _SPELLED.get(kind.code)
    if spell is None:
        raise SourceError(_name(kind.code))
    return spell(kind)


def _name(code: int) -> str:
    known = code in FieldType.__members__.values()
    return FieldType(code).name.lower() if known else f"type {code}"


def _native(kind: MyType) -> _Travels:
    if kind.native not in _NATIVE:
        raise SourceError(kind.native)
    return _NATIVE[kind.native]


def _decimal(kind: MyType) -> _Travels:
    precision, scale = kind.meta >> 8, kind.meta & 0xFF
    wide = precision > MAX_PRECISION
    return (
        f"numeric({precision},{scale})",
        NUMERIC_TEXT if wide else pa.decimal128(precision, scale),
    )


def _bit(kind: MyType) -> _Travels:
    return ("boolean", pa.bool_()) if bits(kind) == 1 else _BYTEA


def _characters(kind: MyType) -> _Travels:
    if is_binary(kind):
        return _BYTEA
    return f"character varying({kind.meta // text_charset(kind.collation).width})", pa.string()


def _blob(kind: MyType) -> _Travels:
    if is_binary(kind):
        return _BYTEA
    text_charset(kind.collation)
    return ("json", pa.string()) if kind.json else _TEXT


def _always(travels: _Travels) -> Callable[[MyType], _Travels]:
    return lambda kind: travels


_DATE = _always(("date", pa.date32()))
_DATETIME = _always(("timestamp without time zone", pa.timestamp("us")))
_TIMESTAMP = _always(("timestamp with time zone", pa.timestamp("us", "UTC")))
_TIME = _always(("interval", pa.string()))

_SPELLED: Mapping[int, Callable[[MyType], _Travels]] = {
    FieldType.NEWDECIMAL: _decimal,
    FieldType.FLOAT: _always(("real", pa.float32())),
    FieldType.DOUBLE: _always(("double precision", pa.float64())),
    FieldType.YEAR: _always(("integer", pa.int32())),
    FieldType.BIT: _bit,
    **dict.fromkeys(DATES, _DATE),
    **dict.fromkeys(DATETIMES, _DATETIME),
    **dict.fromkeys(TIMESTAMPS, _TIMESTAMP),
    **dict.fromkeys(TIMES, _TIME),
    **dict.fromkeys(STRINGS, _characters),
    **dict.fromkeys(BLOBS, _blob),
    FieldType.ENUM: _always(_TEXT),
    FieldType.SET: _always(_TEXT),
    FieldType.JSON: _always(("jsonb", pa.string())),
    FieldType.GEOMETRY: _always(_BYTEA),
}
