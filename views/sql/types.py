"""Postgres types as expressions see them: names, families, carriers, promotion.

A type is its Postgres spelling (`numeric(12,2)`) together with the Arrow type that carries it.
Types that are not built in are taken for enums: equal by their text, but without order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cdc.schema import NUMERIC_TEXT

DECIMAL_DIGITS_MAX = 38


@dataclass(frozen=True)
class Type:
    """`sql` as Postgres spells it, `arrow` as its values travel."""

    sql: str
    arrow: pa.DataType


BOOL = Type("boolean", pa.bool_())
SMALLINT = Type("smallint", pa.int16())
INTEGER = Type("integer", pa.int32())
BIGINT = Type("bigint", pa.int64())
OID = Type("oid", pa.int64())
REAL = Type("real", pa.float32())
DOUBLE = Type("double precision", pa.float64())
NUMERIC = Type("numeric", NUMERIC_TEXT)
TEXT = Type("text", pa.string())
VARCHAR = Type("character varying", pa.string())
UUID = Type("uuid", pa.string())
BYTEA = Type("bytea", pa.binary())
DATE = Type("date", pa.date32())
TIME = Type("time without time zone", pa.time64("us"))
TIMESTAMP = Type("timestamp without time zone", pa.timestamp("us"))
TIMESTAMPTZ = Type("timestamp with time zone", pa.timestamp("us", "UTC"))
INTERVAL = Type("interval", pa.string())
UNKNOWN = Type("unknown", pa.string())

INTEGERS = ("smallint", "integer", "bigint")
NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
TEXTS = ("text", "character varying", "character", "name")
TIMES = ("date", "timestamp without time zone", "timestamp with time zone")

_BY_NAME = {
    t.sql: t
    for t in (
        BOOL, SMALLINT, INTEGER, BIGINT, OID, REAL, DOUBLE, NUMERIC, TEXT, VARCHAR, UUID, BYTEA,
        DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL,
    )
}  # fmt: skip

_INTEGER_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}
_TYPMOD = re.compile(r"\s*\((\d+)(?:\s*,\s*(-?\d+))?\)")

_ORDERED = {
    *NUMBERS, *TEXTS, *TIMES, "oid", "boolean", "uuid", "bytea", "time without time zone",
}  # fmt: skip

# Their text does not decide equality (jsonb: 1 = 1.0; interval: 1 day = 24:00), or there is none.
_NOT_COMPARABLE = {
    "json", "jsonb", "xml", "interval", "time with time zone", "money", "inet", "cidr", "bit",
    "bit varying", "point", "line", "lseg", "box", "path", "polygon", "circle", "tsvector",
    "tsquery", "citext", "hstore", "ltree", "geometry", "geography", "jsonpath", "pg_lsn",
    "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "int4multirange",
    "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange", "datemultirange",
    "vector", "record", "cube", "\"char\"",
}  # fmt: skip


def base(sql_type: str) -> str:
    """The type's name without its modifier: `numeric(12,2)` is `numeric`."""
    return _TYPMOD.sub("", sql_type).strip()


def typmod(sql_type: str) -> tuple[int, int] | None:
    """The modifier's numbers, (12, 2) of `numeric(12,2)`; the second is 0 when absent."""
    found = _TYPMOD.search(sql_type)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def named(sql_type: str) -> Type | None:
    """The type of that name with its carrier; None for one that cannot be cast to."""
    name = base(sql_type)
    if name == "numeric" and (mod := typmod(sql_type)):
        return numeric(*mod, keep=True)
    if name == "character varying" and (mod := typmod(sql_type)):
        return Type(f"character varying({mod[0]})", pa.string())
    return _BY_NAME.get(name)


def numeric(precision: int, scale: int, *, keep: bool = False) -> Type:
    """A NUMERIC of at most that many digits, all with `scale` of them after the point.

    `keep`: the modifier is part of the SQL type; otherwise it only chooses the carrier.
    """
    sql = f"numeric({precision},{scale})" if keep else "numeric"
    precision = max(precision, scale, 1)
    if scale >= 0 and precision <= DECIMAL_DIGITS_MAX:
        return Type(sql, pa.decimal128(precision, scale))
    return Type(sql, NUMERIC_TEXT)


def digits(type: Type) -> tuple[int, int] | None:
    """(precision, scale) that hold every value of an integer or decimal; None: not bounded."""
    if pa.types.is_decimal128(type.arrow):
        return type.arrow.precision, type.arrow.scale
    known = _INTEGER_DIGITS.get(base(type.sql))
    return None if known is None else (known, 0)


def is_array(sql_type: str) -> bool:
    return sql_type.endswith("[]")


def comparable(sql_type: str) -> bool:
    """Equality of the carried values is Postgres's `=`."""
    return not is_array(sql_type) and base(sql_type) not in _NOT_COMPARABLE


def ordered(sql_type: str) -> bool:
    """The carried values sort as Postgres sorts them (text in collation C)."""
    return base(sql_type) in _ORDERED


def is_enum(sql_type: str) -> bool:
    """Not a type that is known by name: a user's own, compared by its text."""
    known = base(sql_type) in _ORDERED or base(sql_type) == "unknown"
    return comparable(sql_type) and not known


def common(types: Sequence[Type], *, operator: bool = False) -> Type | None:
    """The type in which Postgres compares (`operator`) or unites values; None: there is none."""
    first = types[0]
    for other in types[1:]:
        united = _pair(first, other, operator)
        if united is None:
            return None
        first = united
    return first


def _pair(a: Type, b: Type, operator: bool) -> Type | None:
    if a == b:
        return a
    x, y = base(a.sql), base(b.sql)
    if x == "unknown":
        return b
    if y == "unknown":
        return a
    if x in NUMBERS and y in NUMBERS:
        return _number(a, b, operator)
    if x in TEXTS and y in TEXTS:
        return _text(a, b)
    if x in TIMES and y in TIMES:
        return (DATE, TIMESTAMP, TIMESTAMPTZ)[max(TIMES.index(x), TIMES.index(y))]
    return Type(x, a.arrow) if x == y and a.arrow == b.arrow else None


def _text(a: Type, b: Type) -> Type:
    x, y = base(a.sql), base(b.sql)
    return Type(x, pa.string()) if x == y else TEXT


def _number(a: Type, b: Type, operator: bool) -> Type:
    x, y = NUMBERS.index(base(a.sql)), NUMBERS.index(base(b.sql))
    top = NUMBERS[max(x, y)]
    if top == "real" and operator and x != y:
        return DOUBLE
    if top != "numeric":
        return _BY_NAME[top]
    return _wide(a, b)


def _wide(a: Type, b: Type) -> Type:
    """A NUMERIC that holds both by value; as decimal128 all of its values have the larger scale."""
    left, right = digits(a), digits(b)
    if left is None or right is None:
        return NUMERIC
    scale = max(left[1], right[1])
    return numeric(max(left[0] - left[1], right[0] - right[1]) + scale, scale)
