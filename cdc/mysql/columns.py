"""A row of information_schema.COLUMNS → MyColumn.

Codes are those of field_types.h (enum_field_types) for the column itself. `meta` is what the table
map would say: sources are the writers of that event, `Field_*::do_save_field_metadata` in MySQL's
sql/field.cc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cdc.errors import SourceError
from cdc.mysql.tables import BINARY_COLLATION, UNKNOWN, MyColumn, MyType
from cdc.mysql.types import FieldType

_INTEGERS = {
    "tinyint": FieldType.TINY,
    "smallint": FieldType.SHORT,
    "mediumint": FieldType.INT24,
    "int": FieldType.LONG,
    "bigint": FieldType.LONGLONG,
}
_TIMES = {
    "timestamp": (FieldType.TIMESTAMP2, FieldType.TIMESTAMP),
    "datetime": (FieldType.DATETIME2, FieldType.DATETIME),
    "time": (FieldType.TIME2, FieldType.TIME),
}
_STRINGS = {
    "char": FieldType.STRING,
    "binary": FieldType.STRING,
    "varchar": FieldType.VARCHAR,
    "varbinary": FieldType.VARCHAR,
}
_BLOBS = {
    "tinytext": 1,
    "text": 2,
    "mediumtext": 3,
    "longtext": 4,
    "tinyblob": 1,
    "blob": 2,
    "mediumblob": 3,
    "longblob": 4,
}
_PLAIN = {"date": (FieldType.DATE, 0), "year": (FieldType.YEAR, 0), "json": (FieldType.JSON, 4)}
_FLOATS = {"float": (FieldType.FLOAT, 4), "double": (FieldType.DOUBLE, 8)}
_GEOMETRIES = frozenset(
    {"geometry", "point", "linestring", "polygon", "geometrycollection", "geomcollection"}
    | {"multipoint", "multilinestring", "multipolygon"}
)
_NATIVE = {"uuid": 16, "inet6": 16, "inet4": 4}

# Times of MariaDB that were made before 10.1, or without mysql56_temporal_format.
_OLD_FORMAT = "mariadb-5.3"
_COMPRESSED = "COMPRESSED"


@dataclass(frozen=True)
class InfoRow:
    """What is read of information_schema.COLUMNS, in this order."""

    name: str
    data_type: str
    column_type: str
    octets: int | None
    precision: int | None
    scale: int | None
    digits: int | None
    collation: str | None
    nullable: str
    extra: str
    default: str | None


INFO_COLUMNS = (
    "COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, "
    "NUMERIC_SCALE, DATETIME_PRECISION, COLLATION_NAME, IS_NULLABLE, EXTRA, COLUMN_DEFAULT"
)


def column(row: InfoRow, collations: Mapping[str, int], json: bool, mariadb: bool) -> MyColumn:
    """The column. `collations`: ids by name; `json`: it is MariaDB's JSON. A type that is not known
    becomes UNKNOWN; SourceError for a collation without id."""
    extra = row.extra.upper()
    generated = next((g for g in ("STORED", "VIRTUAL") if f"{g} GENERATED" in extra), "")
    kind = _kind(row, _collation(row, collations), json)
    default = None
    if not generated and "DEFAULT_GENERATED" not in extra and kind.collation != BINARY_COLLATION:
        default = _unquoted(row.default) if mariadb else row.default
    return MyColumn(
        row.name, kind, row.nullable == "YES", generated.lower(), "INVISIBLE" in extra, default
    )


def _kind(row: InfoRow, collation: int, json: bool) -> MyType:
    name = row.data_type.lower()
    unsigned = "unsigned" in row.column_type.lower().split()
    text = collation or BINARY_COLLATION
    compressed = _COMPRESSED in row.column_type
    if name in _INTEGERS:
        return MyType(_INTEGERS[name], 0, unsigned)
    if name == "decimal":
        return MyType(FieldType.NEWDECIMAL, (row.precision or 0) << 8 | (row.scale or 0))
    if name in _FLOATS:
        return MyType(*_FLOATS[name])
    if name in _TIMES:
        new, old = _TIMES[name]
        return MyType(old if _OLD_FORMAT in row.column_type else new, row.digits or 0)
    if name == "bit":
        bits = row.precision or 1
        return MyType(FieldType.BIT, (bits // 8) << 8 | bits % 8)
    if name in _STRINGS:
        code = FieldType.VARCHAR_COMPRESSED if compressed else _STRINGS[name]
        return MyType(code, row.octets or 0, collation=text)
    if name in _BLOBS:
        code = FieldType.BLOB_COMPRESSED if compressed else FieldType.BLOB
        return MyType(code, _BLOBS[name], collation=text, json=json)
    if name in ("enum", "set"):
        return _labelled(name, labels(row.column_type), text)
    if name in _GEOMETRIES:
        return MyType(FieldType.GEOMETRY, 4)
    if name in _PLAIN:
        return MyType(*_PLAIN[name])
    if name in _NATIVE:
        return MyType(FieldType.STRING, _NATIVE[name], collation=BINARY_COLLATION, native=name)
    return MyType(UNKNOWN, labels=(row.column_type,))


def labels(column_type: str) -> tuple[str, ...]:
    """The labels of `enum('a','it''s')`; the server escapes quote, backslash, \\n, \\r, \\0."""
    return tuple(_unescaped(label) for label in _QUOTED.findall(column_type))


def _labelled(name: str, names: tuple[str, ...], collation: int) -> MyType:
    if name == "enum":
        return MyType(
            FieldType.ENUM, 1 if len(names) < 256 else 2, collation=collation, labels=names
        )
    size = (len(names) + 7) // 8
    return MyType(FieldType.SET, 8 if size > 4 else size, collation=collation, labels=names)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[0][1], m[0][1]), text)


def _unquoted(default: str | None) -> str | None:
    """MariaDB prints defaults as SQL: a quoted string, a number, NULL, or an expression."""
    if default is None:
        return None
    if _QUOTED.fullmatch(default):
        return _unescaped(default[1:-1])
    return default if _NUMBER.fullmatch(default) else None


def _collation(row: InfoRow, collations: Mapping[str, int]) -> int:
    if row.collation is None:
        return 0
    if row.collation not in collations:
        raise SourceError(
            f"the collation {row.collation} of column {row.name} has no id",
            hint="does the user see information_schema.COLLATIONS?",
        )
    return collations[row.collation]


_QUOTED = re.compile(r"'((?:[^'\\]|\\.|'')*)'", re.DOTALL)
_ESCAPE = re.compile(r"\\.|''", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "0": "\0", "t": "\t"}
_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|b'[01]*'")
