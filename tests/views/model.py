"""A group of views beside its oracle: tables as dictionaries, the graph, and DuckDB.

`step` takes changes as plain rows and keeps, per view, what a reader of its topic would have;
`check` compares that with the same SQL run by DuckDB over the tables' final rows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from cdc.changes import C, ChangeBatch, D, U
from cdc.schema import Column, TableSchema
from views.operators.graph import Graph
from views.operators.output import change_batch
from views.plan import ViewPlan
from views.sql.planner import plan_view
from views.sql.resolve import Catalog

Row = dict[str, Any]
Tables = dict[str, dict[int, Row]]
Topic = dict[tuple[Any, ...], Row]
Changes = Mapping[str, Sequence[tuple[int, Row]]]
Views = Mapping[str, str | tuple[str, tuple[str, ...]]]

A = TableSchema(
    "public.a",
    (
        Column("id", pa.int64(), "bigint", nullable=False),
        Column("b_id", pa.int64(), "bigint"),
        Column("v", pa.int32(), "integer"),
        Column("w", pa.int64(), "bigint"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("f", pa.float64(), "double precision"),
        Column("name", pa.string(), "text"),
    ),
    ("id",),
)
B = TableSchema(
    "public.b",
    (
        Column("id", pa.int64(), "bigint", nullable=False),
        Column("v", pa.int32(), "integer"),
        Column("w", pa.int64(), "bigint"),
        Column("name", pa.string(), "text"),
    ),
    ("id",),
)
TABLES = {"shop.public.a": A, "shop.public.b": B}
DUCK_TYPES = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.decimal128(12, 2): "DECIMAL(12,2)",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
}


def batch(schema: TableSchema, changes: Sequence[tuple[int, Row]]) -> ChangeBatch:
    """A change batch of (op, row); absent columns are NULL."""
    count = len(changes)
    columns = [pa.array([row.get(c.name) for _, row in changes], c.type) for c in schema.columns]
    numbers = np.arange(count)
    return ChangeBatch(
        schema,
        np.array([op for op, _ in changes], np.uint8),
        numbers,
        numbers,
        numbers,
        pa.RecordBatch.from_arrays(columns, schema=schema.arrow),
    )


def random_row(rng: random.Random, table: str, key: int) -> Row:
    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.15 else value

    row = {
        "id": key,
        "v": maybe(rng.randrange(5)),
        "w": maybe(rng.choice([0, 1, 2, 3, -(2**62), 2**62, 2**63 - 1])),
        "name": maybe(rng.choice(["", "x", "y", "zebra", "ä" * 20])),
    }
    if table == "shop.public.a":
        row["b_id"] = maybe(rng.randrange(12))
        row["amount"] = maybe(Decimal(rng.randrange(-10_000, 10_000)) / 100)
        row["f"] = maybe(rng.choice([0.0, -0.0, 1.5, 0.1, -2.25, float("nan"), float("inf")]))
    return row


def random_changes(rng: random.Random, keys: int, count: int) -> dict[str, list[tuple[int, Row]]]:
    """Inserts, updates and deletes, of keys that exist or not, several of one key at a time."""
    found: dict[str, list[tuple[int, Row]]] = {}
    for _ in range(count):
        table = rng.choice(list(TABLES))
        key = rng.randrange(keys)
        op = rng.choice([C, U, U, D])
        row = {"id": key} if op == D else random_row(rng, table, key)
        found.setdefault(table, []).append((op, row))
    return found


@dataclass
class Model:
    """`views` are name → SQL, or (SQL, declared key)."""

    views: Views
    hash_bits: int = 64
    tables: Tables = field(default_factory=lambda: {t: {} for t in TABLES})

    def __post_init__(self) -> None:
        self.plans = plans_of(self.views)
        self.graph = Graph(self.plans, TABLES, self.hash_bits)
        self.topics: dict[str, Topic] = {name: {} for name in self.plans}

    def step(self, changes: Changes, hold: bool = False) -> None:
        apply_changes(self.tables, changes)
        inputs = self.graph.inputs
        deltas = {
            topic: table.stage([batch(table.schema, changes[topic])] if changes.get(topic) else [])
            for topic, table in inputs.items()
        }
        slots = self.graph.run(deltas)
        for name, output in self.graph.outputs.items():
            found = output.step(slots, hold)
            if found is not None:
                self._publish(name, change_batch(output.plan.output, found, 0, 0))
        self.graph.commit()

    def _publish(self, name: str, records: ChangeBatch) -> None:
        apply_records(name, self.topics[name], records)

    def check(self) -> None:
        """Every view's topic has exactly the rows that DuckDB computes."""
        check_topics(self.views, self.plans, self.tables, self.topics)


def plans_of(views: Views) -> dict[str, ViewPlan]:
    plans: dict[str, ViewPlan] = {}
    for name, given in views.items():
        sql, key = (given, None) if isinstance(given, str) else given
        outputs = {name: plan.output for name, plan in plans.items()}
        catalog = Catalog(TABLES, outputs, source="shop")
        plans[name] = plan_view(name, sql, catalog, key=key)
    return plans


def apply_changes(tables: Tables, changes: Changes) -> None:
    """The tables after the changes."""
    for table, rows in changes.items():
        for op, row in rows:
            if op == D:
                tables[table].pop(row["id"], None)
            else:
                tables[table][row["id"]] = row


def apply_records(name: str, topic: Topic, records: ChangeBatch) -> None:
    """What a reader of a view's topic has after one cut; nothing in it may be superfluous."""
    schema, seen = records.schema, set()
    for op, row in zip(records.op.tolist(), records.rows.to_pylist(), strict=True):
        key = comparable([row[k] for k in schema.key])
        assert key not in seen, f"{name}: two records for {key} in one cut"
        seen.add(key)
        if op == D:
            assert key in topic, f"{name}: tombstone of an unknown key {key}"
            del topic[key]
        else:
            assert key not in topic or repr(topic[key]) != repr(row), f"{name}: {row} again"
            topic[key] = row


def check_topics(
    views: Views, plans: Mapping[str, ViewPlan], tables: Tables, topics: Mapping[str, Topic]
) -> None:
    """Every view's topic has exactly the rows that DuckDB computes from the tables."""
    with duckdb.connect() as oracle:
        oracle.execute("CREATE SCHEMA shop")
        for topic, schema in TABLES.items():
            _fill(oracle, topic, schema, tables[topic])
        for name, given in views.items():
            oracle.execute(
                f"CREATE TABLE {name} AS {given if isinstance(given, str) else given[0]}"
            )
            columns = [c.name for c in plans[name].output.columns]
            wanted = oracle.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall()
            mine = [tuple(row[c] for c in columns) for row in topics[name].values()]
            expected = sorted((comparable(r) for r in wanted), key=repr)
            assert sorted((comparable(r) for r in mine), key=repr) == expected, name


def _fill(
    oracle: duckdb.DuckDBPyConnection, topic: str, schema: TableSchema, live: dict[int, Row]
) -> None:
    name = "shop." + topic.rpartition(".")[2]
    columns = ", ".join(f"{c.name} {DUCK_TYPES[c.type]}" for c in schema.columns)
    oracle.execute(f"CREATE TABLE {name} ({columns})")
    if live:
        rows = batch(schema, [(C, row) for row in live.values()]).rows
        oracle.register("rows_now", pa.Table.from_batches([rows]))
        oracle.execute(f"INSERT INTO {name} SELECT * FROM rows_now")
        oracle.unregister("rows_now")


def comparable(row: Sequence[Any]) -> tuple[Any, ...]:
    """Values as both sides print them: numbers by value, NaN as a word."""
    return tuple(_value(v) for v in row)


def _value(value: Any) -> Any:
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    if isinstance(value, str) and value.lstrip("-").replace(".", "").isdigit():
        return Decimal(value).normalize()
    if isinstance(value, int | Decimal | float) and not isinstance(value, bool):
        if value in (float("inf"), float("-inf")):
            return value
        return Decimal(value).normalize() + 0
    return value
