"""The small tables of the SQL fuzz: of two sources, keys of several kinds, values that trap.

Floats are multiples of a quarter, so that Postgres's own sums of them are exact.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from cdc.changes import C, ChangeBatch, D, U
from cdc.schema import NUMERIC_TEXT, Column, TableSchema
from views.sql.types import TEXTS, base, named

Key = tuple[Any, ...]
Row = dict[str, Any]
Rows = dict[str, dict[Key, Row]]
Change = tuple[int, Row]

DECLARED: Mapping[str, tuple[str, dict[str, str]]] = {
    "shop.t1": (
        "id",
        {
            "id": "integer", "a": "integer", "b": "bigint", "n": "numeric(8,2)", "u": "numeric",
            "f": "double precision", "s": "text", "ts": "timestamp without time zone",
            "d": "date", "ok": "boolean",
        },
    ),
    "shop.t2": (
        "x y",
        {
            "x": "text", "y": "integer", "a": "smallint", "n": "numeric(10,3)", "r": "real",
            "v": "character varying(12)", "tz": "timestamp with time zone",
        },
    ),
    "crm.t3": (
        "id",
        {
            "id": "bigint", "a": "bigint", "s": "text", "n": "numeric(6,1)",
            "ch": "character(4)", "g": "uuid", "f": "double precision", "ok": "boolean",
        },
    ),
}  # fmt: skip


def _schema(name: str, key: str, columns: Mapping[str, str]) -> TableSchema:
    keys = tuple(key.split())
    made = []
    for at, (column, sql_type) in enumerate(columns.items(), 1):
        kind = named(sql_type)
        made.append(
            Column(
                column,
                pa.string() if kind is None else kind.arrow,
                sql_type,
                column not in keys,
                at,
            )
        )
    return TableSchema(f"public.{name}", tuple(made), keys)


TABLES: Mapping[str, TableSchema] = {
    f"{source}.public.{name}": _schema(name, *declared)
    for table, declared in DECLARED.items()
    for source, name in [table.split(".")]
}


def sql_name(topic: str) -> str:
    """`shop.t1`: the table's name in the views, and in the oracle."""
    source, _, name = topic.split(".")
    return f"{source}.{name}"


def create_tables() -> str:
    """The same tables in Postgres, where a source is a schema."""
    statements = ["CREATE SCHEMA shop", "CREATE SCHEMA crm"]
    for topic, schema in TABLES.items():
        columns = ", ".join(
            f"{c.name} {c.sql_type}" + (' COLLATE "C"' if base(c.sql_type) in TEXTS else "")
            for c in schema.columns
        )
        key = ", ".join(schema.key)
        statements.append(f"CREATE TABLE {sql_name(topic)} ({columns}, PRIMARY KEY ({key}))")
    return "; ".join(statements)


def _float(rng: random.Random) -> float:
    special = [0.0, -0.0, 0.25, 1.5, -2.25, 1e3, float("nan"), float("inf"), float("-inf")]
    return rng.choice(special)


_DAY = dt.date(2024, 2, 28)
_TIME = dt.datetime.fromisoformat("2023-12-30T22:30:00")
_TEXTS = ["", "a", "A", "b ", " a", "Zoë", "ä", "日本", "x_%", "a" * 20, "1", "2.50", "\U0001f600"]

_VALUES: Mapping[str, Callable[[random.Random], Any]] = {
    "smallint": lambda rng: rng.choice([0, 1, 2, 3, -1, 7]),
    "integer": lambda rng: rng.choice([0, 1, 2, 3, 4, -1, -3, 100]),
    "bigint": lambda rng: rng.choice([0, 1, 2, 3, 5, -1, 2**40, -(2**40)]),
    "numeric(8,2)": lambda rng: Decimal(rng.choice([0, 100, 150, 250, -250, 99_999, 7])) / 100,
    "numeric(10,3)": lambda rng: Decimal(rng.choice([0, 1000, 1500, -2500, 1, 333])) / 1000,
    "numeric(6,1)": lambda rng: Decimal(rng.choice([0, 10, 15, 25, -25, 3])) / 10,
    "numeric": lambda rng: rng.choice(
        ["0", "0.00", "1", "1.0", "1.50", "1.5", "-2.5", "NaN", "1e30", "0.000001", "Infinity"]
    ),
    "double precision": _float,
    "real": _float,
    "text": lambda rng: rng.choice(_TEXTS),
    "character(4)": lambda rng: rng.choice(["a   ", "    ", "A   ", " a  ", "Zoë ", "x_% "]),
    "uuid": lambda rng: f"{rng.choice('0af')}0000000-0000-4000-8000-00000000000a",
    "character varying(12)": lambda rng: rng.choice([t for t in _TEXTS if len(t) < 12]),
    "timestamp without time zone": lambda rng: (
        _TIME + dt.timedelta(hours=rng.choice([0, 1, 2, 24, 800]), microseconds=rng.choice([0, 7]))
    ),
    "timestamp with time zone": lambda rng: (
        _TIME + dt.timedelta(hours=rng.choice([0, 1, 2, 24]))
    ).replace(tzinfo=dt.UTC),
    "date": lambda rng: _DAY + dt.timedelta(days=rng.choice([0, 1, 2, 365, -60])),
    "boolean": lambda rng: rng.random() < 0.5,
}


def random_row(rng: random.Random, schema: TableSchema) -> Row:
    """A row with few different keys and values, and many NULLs."""
    return {
        c.name: None
        if c.nullable and rng.random() < 0.25
        else _text(c, _VALUES[c.sql_type](rng))
        if c.name not in schema.key
        else _key_value(rng, c)
        for c in schema.columns
    }


def _key_value(rng: random.Random, column: Column) -> Any:
    return rng.choice(["", "a", "A", "Zoë"]) if column.name == "x" else rng.randrange(6)


def _text(column: Column, value: Any) -> Any:
    """An unconstrained numeric travels as Postgres prints it."""
    if column.type != NUMERIC_TEXT or value in ("NaN", "Infinity"):
        return value
    return format(Decimal(value), "f")


def key_of(schema: TableSchema, row: Row) -> Key:
    return tuple(row[k] for k in schema.key)


def random_step(rng: random.Random, rows: Rows, source: str = "") -> dict[str, list[Change]]:
    """Some statements' changes by topic (of one source, or of any), applied to `rows`."""
    changes: dict[str, list[Change]] = {}
    topics = [topic for topic in TABLES if topic.startswith(source)]
    for _ in range(rng.choice([1, 1, 2, 3, 8, 25])):
        topic = rng.choice(topics)
        changes.setdefault(topic, []).extend(_statement(rng, TABLES[topic], rows[topic]))
    return {topic: found for topic, found in changes.items() if found}


def _statement(rng: random.Random, schema: TableSchema, live: dict[Key, Row]) -> list[Change]:
    found: list[Change] = []
    what = rng.choices(["put", "delete", "rekey", "touch", "truncate"], [10, 4, 2, 2, 0.3])[0]
    if what == "put":
        row = random_row(rng, schema)
        found.append((U if key_of(schema, row) in live else C, row))
    elif what == "truncate":
        found += [(D, _key_only(schema, row)) for row in live.values()]
    elif live:
        old = rng.choice(list(live.values()))
        if what == "touch":
            return [(U, dict(old))]
        found.append((D, _key_only(schema, old)))
        if what == "rekey":
            moved = random_row(rng, schema)
            found.append((C, old | {k: moved[k] for k in schema.key}))
            if key_of(schema, found[-1][1]) in live:
                return []
    for op, row in found:
        if op == D:
            live.pop(key_of(schema, row))
        else:
            live[key_of(schema, row)] = row
    return found


def _key_only(schema: TableSchema, row: Row) -> Row:
    return {k: row[k] for k in schema.key}


def batch(schema: TableSchema, changes: list[Change]) -> ChangeBatch:
    """A change batch of (op, row); absent columns are NULL."""
    numbers = np.arange(len(changes))
    columns = [_array([row.get(c.name) for _, row in changes], c.type) for c in schema.columns]
    return ChangeBatch(
        schema,
        np.array([op for op, _ in changes], np.uint8),
        numbers,
        numbers,
        numbers,
        pa.RecordBatch.from_arrays(columns, schema=schema.arrow),
    )


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == NUMERIC_TEXT:
        return NUMERIC_TEXT.wrap_array(pa.array(values, pa.string()))
    return pa.array(values, kind)
