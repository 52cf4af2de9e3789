"""The types that SQL names in casts, and literal intervals."""

from __future__ import annotations

import pyarrow as pa
from sqlglot import exp

from views.plan import Constant
from views.sql import literals
from views.sql.parse import SqlText
from views.sql.types import (
    BIGINT,
    BOOL,
    BYTEA,
    DATE,
    DOUBLE,
    INTEGER,
    INTERVAL,
    NUMERIC,
    REAL,
    SMALLINT,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    VARCHAR,
    Type,
    numeric,
)
from views.values.time import Interval

_TYPES: dict[exp.DType, Type] = {
    exp.DType.SMALLINT: SMALLINT,
    exp.DType.INT: INTEGER,
    exp.DType.BIGINT: BIGINT,
    exp.DType.FLOAT: REAL,
    exp.DType.DOUBLE: DOUBLE,
    exp.DType.DECIMAL: NUMERIC,
    exp.DType.BOOLEAN: BOOL,
    exp.DType.TEXT: TEXT,
    exp.DType.VARCHAR: VARCHAR,
    exp.DType.DATE: DATE,
    exp.DType.TIMESTAMP: TIMESTAMP,
    exp.DType.TIMESTAMPTZ: TIMESTAMPTZ,
    exp.DType.UUID: UUID,
    exp.DType.VARBINARY: BYTEA,
    exp.DType.INTERVAL: INTERVAL,
}


def target_type(text: SqlText, node: exp.Cast) -> Type:
    """The type that `node` casts to. Raises Unsupported."""
    to: exp.DataType = node.args["to"]
    known = _TYPES.get(to.this)
    params = [int(p.name) for p in to.expressions] if known is not None else []
    if known is None:
        raise text.refused(node, f"a cast to {to.sql('postgres').lower()} is not supported yet")
    if not params:
        return known
    if known == NUMERIC:
        return numeric(params[0], params[1] if len(params) > 1 else 0, keep=True)
    if known == VARCHAR:
        return Type(f"character varying({params[0]})", pa.string())
    raise text.refused(node, f"a cast to {to.sql('postgres').lower()} is not supported yet")


def interval_constant(
    text: SqlText, node: exp.Expr, given: exp.Expr | None, unit: str = ""
) -> Constant:
    """A literal interval, in whole units. Raises Unsupported."""
    if not isinstance(given, exp.Literal):
        raise text.refused(node, "only literal intervals are supported", "interval '1 day'")
    try:
        step: Interval = literals.interval(f"{given.this} {unit}")
    except literals.BadLiteral as error:
        raise text.refused(node, str(error)) from None
    return Constant(step, INTERVAL.sql, INTERVAL.arrow)
