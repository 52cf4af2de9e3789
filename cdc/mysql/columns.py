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

TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24 = 1, 2, 3, 4, 5, 8, 9
DATE, YEAR, VARCHAR, BIT, JSON, DECIMAL = 10, 13, 15, 16, 245, 246
TIMESTAMP, DATETIME, TIME = 17, 18, 19
OLD_TIMESTAMP, OLD_TIME, OLD_DATETIME = 7, 11, 12
ENUM, SET, BLOB, STRING, GEOMETRY = 247, 248, 252, 254, 255
BLOB_COMPRESSED, VARCHAR_COMPRESSED = 140, 141

_INTEGERS = {
    "tinyint": TINY,
    "smallint": SHORT,
    "mediumint": INT24,
    "int": LONG,
    "bigint": LONGLONG,
}
_TIMES = {
    "timestamp": (TIMESTAMP, OLD_TIMESTAMP),
    "datetime": (DATETIME, OLD_DATETIME),
    "time": (TIME, OLD_TIME),
}
_STRINGS = {"char": STRING, "binary": STRING, "varchar": VARCHAR, "varbinary": VARCHAR}
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
_PLAIN = {"date": (DATE, 0), "year": (YEAR, 0), "json": (JSON, 4)}
_FLOATS = {"float": (FLOAT, 4), "double": (DOUBLE, 8)}
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
        return MyType(DECIMAL, (row.precision or 0) << 8 | (row.scale or 0), unsigned)
    if name in _FLOATS:
        return MyType(*_FLOATS[name], unsigned)
    if name in _TIMES:
        new, old = _TIMES[name]
        return MyType(old if _OLD_FORMAT in row.column_type else new, row.digits or 0)
    if name == "bit":
        bits = row.precision or 1
        return MyType(BIT, (bits // 8) << 8 | bits % 8)
    if name in _STRINGS:
        code = VARCHAR_COMPRESSED if compressed else _STRINGS[name]
        return MyType(code, row.octets or 0, collation=text)
    if name in _BLOBS:
        code = BLOB_COMPRESSED if compressed else BLOB
        return MyType(code, _BLOBS[name], collation=text, json=json)
    if name in ("enum", "set"):
        return _labelled(name, labels(row.column_type), text)
    if name in _GEOMETRIES:
        return MyType(GEOMETRY, 4)
    if name in _PLAIN:
        return MyType(*_PLAIN[name])
    if name in _NATIVE:
        return MyType(STRING, _NATIVE[name], collation=BINARY_COLLATION, native=name)
    return MyType(UNKNOWN, labels=(row.column_type,))


def labels(column_type: str) -> tuple[str, ...]:
    """The labels of `enum('a','it''s')`; the server escapes quote, backslash, \\n, \\r, \\0."""
    return tuple(_unescaped(label) for label in _QUOTED.findall(column_type))


def _labelled(name: str, names: tuple[str, ...], collation: int) -> MyType:
    if name == "enum":
        return MyType(ENUM, 1 if len(names) < 256 else 2, collation=collation, labels=names)
    size = (len(names) + 7) // 8
    return MyType(SET, 8 if size > 4 else size, collation=collation, labels=names)


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
