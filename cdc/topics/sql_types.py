"""Our column of a type as Postgres spells it: what `columns:` of a topic says.

Every spelling that Postgres knows for the types in cdc/schema.py's table (`int`, `varchar(20)`,
`timestamptz`, `decimal(12, 2)`, `text[]`) becomes the one that format_type() prints. Another name
is a type without a columnar form (an enum, inet, …), whose values travel as text.
"""

from __future__ import annotations

import re

from cdc.errors import ConfigError
from cdc.postgres import types as pg
from cdc.schema import Column

_TYPE = re.compile(
    r"(?P<name>[a-z_][a-z0-9_. ]*?)\s*(\((?P<mod>[0-9, ]+)\))?\s*(?P<zone>with(out)? time zone)?"
    r"\s*(?P<array>\[\])?"
)
_ALIASES = {
    "bool": "boolean", "boolean": "boolean", "bytea": "bytea",
    "smallint": "smallint", "int2": "smallint", "smallserial": "smallint",
    "integer": "integer", "int": "integer", "int4": "integer", "serial": "integer",
    "bigint": "bigint", "int8": "bigint", "bigserial": "bigint", "oid": "oid",
    "real": "real", "float4": "real", "double precision": "double precision",
    "float8": "double precision", "float": "double precision",
    "numeric": "numeric", "decimal": "numeric", "dec": "numeric",
    "date": "date", "time": "time without time zone", "timetz": "time with time zone",
    "timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone",
    "varchar": "character varying", "character varying": "character varying",
    "char": "character", "character": "character", "bpchar": "character", "text": "text",
}  # fmt: skip
_NAMES = {
    "boolean": "bool", "bytea": "bytea", "smallint": "int2", "integer": "int4", "bigint": "int8",
    "oid": "oid", "real": "float4", "double precision": "float8", "numeric": "numeric",
    "date": "date", "time without time zone": "time", "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}  # fmt: skip
_MODIFIED = {"numeric", "character varying", "character", "bit", "bit varying"}
NUMERIC_LIMITS = (1000, -1000)


def column_declared(name: str, text: str, *, nullable: bool = True) -> Column:
    """The column `name` of the type `text`. Raises ConfigError for what is no type."""
    match = _TYPE.fullmatch(" ".join(text.lower().split()))
    if match is None:
        raise _unknown(text)
    base, zone = match["name"], match["zone"]
    spelled = _ALIASES.get(base, base)
    if zone:
        if base not in ("time", "timestamp"):
            raise _unknown(text)
        spelled = f"{base} {zone}"
    numbers = tuple(int(n) for n in (match["mod"] or "").replace(" ", "").split(",") if n)
    scalar = _scalar(spelled, numbers, text)
    if not match["array"]:
        return pg.column(name, scalar, nullable=nullable)
    array = pg.PgType(0, f"_{scalar.name}", f"{scalar.spelling}[]", element=scalar, dims=1)
    return pg.column(name, array, nullable=nullable)


def _scalar(spelled: str, numbers: tuple[int, ...], text: str) -> pg.PgType:
    name = _NAMES.get(spelled, spelled)
    oid = pg.BUILT_IN.get(name, 0)
    if not numbers:
        return pg.PgType(oid, name, spelled)
    if spelled == "numeric":
        precision, scale = (*numbers, 0)[:2]
        if not 1 <= precision <= NUMERIC_LIMITS[0] or len(numbers) > 2:
            raise _unknown(text)
        typmod = (precision << 16 | (scale & 0x7FF)) + 4
        return pg.PgType(oid, name, f"numeric({precision},{scale})", typmod)
    if len(numbers) > 1:
        raise _unknown(text)
    if spelled.startswith("time"):
        first, _, rest = spelled.partition(" ")
        return pg.PgType(oid, name, f"{first}({numbers[0]}) {rest}")
    if spelled not in _MODIFIED:
        raise _unknown(text)
    return pg.PgType(oid, name, f"{spelled}({numbers[0]})")


def _unknown(text: str) -> ConfigError:
    return ConfigError(
        f"'{text}' is not a type",
        hint="write it as Postgres does: bigint, numeric(12,2), text, timestamp with time zone, "
        "integer[]",
    )


def guessed(value: object) -> str:
    """A type that a value in a JSON record may have: for the example in an error."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "bigint"
    if isinstance(value, float):
        return "double precision"
    if isinstance(value, list):
        inner = next((v for v in value if v is not None), "")
        return f"{guessed(inner)}[]"
    return "text"
