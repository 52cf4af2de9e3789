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
from views.graph import Graph
from views.output import change_batch
from views.planner import plan_view
from views.resolve import Catalog

Row = dict[str, Any]

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

    views: Mapping[str, str | tuple[str, tuple[str, ...]]]
    hash_bits: int = 64
    tables: dict[str, dict[int, Row]] = field(default_factory=lambda: {t: {} for t in TABLES})
    topics: dict[str, dict[tuple[Any, ...], Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plans = {}
        outputs: dict[str, TableSchema] = {}
        for name, given in self.views.items():
            sql, key = (given, None) if isinstance(given, str) else given
            catalog = Catalog(TABLES, dict(outputs), "shop")
            plans[name] = plan_view(name, sql, catalog, key=key)
            outputs[name] = plans[name].output
        self.plans = plans
        self.graph = Graph(plans, TABLES, self.hash_bits)
        self.topics = {name: {} for name in plans}

    def step(self, changes: Mapping[str, Sequence[tuple[int, Row]]], hold: bool = False) -> None:
        for table, rows in changes.items():
            for op, row in rows:
                if op == D:
                    self.tables[table].pop(row["id"], None)
                else:
                    self.tables[table][row["id"]] = row
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
        schema, topic = records.schema, self.topics[name]
        seen = set()
        for op, row in zip(records.op.tolist(), records.rows.to_pylist(), strict=True):
            key = comparable([row[k] for k in schema.key])
            assert key not in seen, f"{name}: two records for {key} in one cut"
            seen.add(key)
            if op == D:
                assert key in topic, f"{name}: tombstone of an unknown key {key}"
                del topic[key]
            else:
                assert key not in topic or exact(topic[key]) != exact(row), f"{name}: {row} again"
                topic[key] = row

    def check(self) -> None:
        """Every view's topic has exactly the rows that DuckDB computes."""
        with duckdb.connect() as oracle:
            oracle.execute("CREATE SCHEMA shop")
            for topic, schema in TABLES.items():
                self._fill(oracle, topic, schema)
            for name, given in self.views.items():
                sql = given if isinstance(given, str) else given[0]
                oracle.execute(f"CREATE TABLE {name} AS {sql}")
                columns = [c.name for c in self.plans[name].output.columns]
                wanted = oracle.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall()
                mine = [tuple(row[c] for c in columns) for row in self.topics[name].values()]
                expected = sorted((comparable(r) for r in wanted), key=repr)
                assert sorted((comparable(r) for r in mine), key=repr) == expected, name

    def _fill(self, oracle: duckdb.DuckDBPyConnection, topic: str, schema: TableSchema) -> None:
        name = "shop." + topic.rpartition(".")[2]
        columns = ", ".join(f"{c.name} {DUCK_TYPES[c.type]}" for c in schema.columns)
        oracle.execute(f"CREATE TABLE {name} ({columns})")
        rows = batch(schema, [(C, row) for row in self.tables[topic].values()]).rows
        if rows.num_rows:
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


def exact(row: Row) -> str:
    return repr(row)
