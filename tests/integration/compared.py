"""Expressions computed by us and by Postgres over the same rows, and compared value by value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from views.plan import Project, Scan
from views.sql.planner import plan_view
from views.sql.resolve import Catalog
from views.sql.types import named
from views.values.arrays import storage, wrap
from views.values.expressions import Evaluated, compile_exprs
from views.values.print import odd_date


class Table:
    """Rows of some types, given as texts, in Postgres and in Arrow. Columns: id, a, b, …"""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        name: str,
        types: Sequence[str],
        rows: Sequence[Sequence[str | None]],
    ) -> None:
        self.name = name
        letters = "abcd"[: len(types)]
        columns = ", ".join(f"{c} {t}{_collation(t)}" for c, t in zip(letters, types, strict=True))
        connection.execute(f"CREATE TABLE {self.name} (id bigint PRIMARY KEY, {columns})")
        marks = ", ".join(f"%s::text::{t}" for t in types)
        with connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {self.name} VALUES (%s, {marks})",
                [(i, *row) for i, row in enumerate(rows)],
            )
        known = [named(t) for t in types]
        made = [
            Column(c, k.arrow if k else pa.string(), t)
            for c, t, k in zip(letters, types, known, strict=True)
        ]
        self.schema = TableSchema(
            f"public.{self.name}", (Column("id", pa.int64(), "bigint", False), *made), ("id",)
        )
        read = ", ".join(_readable(c.name, c.type) for c in made)
        found = connection.execute(f"SELECT id, {read} FROM {self.name} ORDER BY id").fetchall()
        self.rows = pa.RecordBatch.from_arrays(
            [_array([r[i] for r in found], c.type) for i, c in enumerate(self.schema.columns)],
            schema=self.schema.arrow,
        )

    def ours(self, expression: str) -> tuple[Evaluated, str]:
        """The rows evaluated by us, and the result's SQL type."""
        catalog = Catalog({f"s.public.{self.name}": self.schema})
        plan = plan_view("v", f"SELECT id, {expression} AS x FROM {self.name}", catalog)
        root = plan.root
        assert isinstance(root, Project)
        assert isinstance(root.child, Scan)
        columns = [self.rows.column(n) for n in root.child.source_columns]
        given = pa.RecordBatch.from_arrays(columns, names=[c.name for c in root.child.columns])
        compiled = compile_exprs(root.exprs[1:], root.child.columns)
        return compiled.evaluate(given), root.columns[1].sql_type


def _collation(sql_type: str) -> str:
    return ' COLLATE "C"' if sql_type.startswith(("text", "char")) else ""


def _readable(name: str, kind: pa.DataType) -> str:
    if pa.types.is_date(kind):
        number = f"({name} - '1970-01-01'::date)"
    elif pa.types.is_timestamp(kind):
        number = f"trunc(extract(epoch FROM {name}) * 1000000)"
    else:
        return name if pa.types.is_binary(kind) else f"{name}::text"
    return f"CASE WHEN isfinite({name}) THEN {number}::text ELSE {name}::text END"


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        limit = 2**31 - 1 if pa.types.is_date(kind) else 2**63 - 1
        ends = {"infinity": limit, "-infinity": -limit}
        plain = pa.int32() if pa.types.is_date(kind) else pa.int64()
        made = [None if v is None else ends[v] if v in ends else int(v) for v in values]
        return pa.array(made, plain).view(kind)
    if pa.types.is_boolean(kind):
        return pa.array([None if v is None else v == "true" for v in values])
    if pa.types.is_floating(kind):
        return pa.array([None if v is None else float(v) for v in values], kind)
    if pa.types.is_decimal(kind):
        return pa.array([None if v is None else Decimal(v) for v in values], kind)
    if pa.types.is_time(kind):
        return pa.array([None if v is None else _time_us(v) for v in values], pa.int64()).view(kind)
    if kind == NUMERIC_TEXT:
        return wrap(pa.array(values, pa.string()), NUMERIC_TEXT)
    if pa.types.is_integer(kind):
        return pa.array([None if v is None else int(v) for v in values], kind)
    return pa.array(values, kind)


def _time_us(text: str) -> int:
    hours, minutes, seconds = text.split(":")
    return int((int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)) * 1_000_000)


_TRY = """
CREATE FUNCTION try(expression text, from_table text, row_id bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
  EXECUTE format(
    'SELECT coalesce((%s)::text, ''<null>'') FROM %I WHERE id = %s', expression, from_table, row_id
  ) INTO result;
  RETURN result;
EXCEPTION WHEN others THEN RETURN '<error>';
END $$
"""


def _theirs(connection: psycopg.Connection[Any], table: str, expression: str) -> list[str]:
    query = f"SELECT coalesce(({expression})::text, '<null>') FROM {table} ORDER BY id"
    try:
        with connection.transaction():
            return [r[0] for r in connection.execute(query)]
    except (psycopg.DataError, psycopg.errors.FeatureNotSupported):
        rows = connection.execute(
            f"SELECT try(%s, %s, id) FROM {table} ORDER BY id", (expression, table)
        )
        return [r[0] for r in rows]


def _shown(evaluated: Evaluated) -> list[Any]:
    """Our values: '<error>', '<null>', or something `_equal` compares."""
    array = evaluated.arrays[0]
    kind = array.type
    plain = storage(array)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        zone = "+00" if pa.types.is_timestamp(kind) and kind.tz else ""
        ints = plain.view(pa.int32() if pa.types.is_date(kind) else pa.int64()).to_pylist()
        values: list[Any] = [None if v is None else odd_date(v, kind, zone) for v in ints]
    elif pa.types.is_floating(kind):
        values = [
            None if v is None else np.dtype(kind.to_pandas_dtype()).type(v)
            for v in plain.to_pylist()
        ]
    else:
        values = plain.to_pylist()
    failed = evaluated.failed if evaluated.failed is not None else [False] * len(values)
    return [
        "<error>" if bad else "<null>" if v is None else v
        for v, bad in zip(values, failed, strict=True)
    ]


def _equal(ours: Any, theirs: str, *, decimal: bool) -> bool:
    if ours == "<error>" and theirs == "NaN" and decimal:
        return True  # a numeric(p, s) cannot carry NaN: the view stops there instead
    if theirs in ("<error>", "<null>") or ours in ("<error>", "<null>"):
        return bool(ours == theirs)
    if isinstance(ours, bool):
        return ("true" if ours else "false") == theirs
    if isinstance(ours, Decimal):
        return theirs not in ("NaN", "Infinity", "-Infinity") and Decimal(theirs) == ours
    if isinstance(ours, np.floating):
        given = type(ours)(theirs)
        return bool(np.isnan(given) and np.isnan(ours)) or bool(
            given == ours and np.signbit(given) == np.signbit(ours)
        )
    return str(ours) == theirs


def difference(connection: psycopg.Connection[Any], table: Table, expression: str) -> str | None:
    """What the first row says where we and Postgres differ; None: nowhere."""
    ours, sql_type = table.ours(expression)
    decimal = pa.types.is_decimal(ours.arrays[0].type)
    theirs = _theirs(connection, table.name, expression)
    for row, (mine, given) in enumerate(zip(_shown(ours), theirs, strict=True)):
        if not _equal(mine, given, decimal=decimal):
            where = f"{expression} {sql_type} row {row} of {table.name}"
            return f"{where}: {mine!r}, Postgres {given!r}"
    return None


@contextmanager
def database(postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    """A database of its own, with what comparisons need."""
    name = postgres.new_database()
    with psycopg.connect(postgres.url(name), autocommit=True) as made:
        made.execute("SET TimeZone = 'UTC'")
        made.execute(_TRY)
        yield made
    postgres.drop_database(name)
