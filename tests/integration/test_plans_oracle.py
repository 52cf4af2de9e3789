"""Plans mean what Postgres means: each is computed by the reference and by Postgres.

Tables are random and full of NULLs and partners that do not exist. Postgres gets the text that
`source_query` makes, so that is tested, too.
"""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc.config import Config, LogConfig, Place, StateConfig, ViewConfig
from tests.planner.golden import table
from tests.planner.reference import rows_of
from views.oracle import source_query
from views.planner import plan_views

pytestmark = pytest.mark.service

TABLES = {
    "shop.public.orders": table(
        "public.orders", "id", id="bigint", customer="integer", amount="numeric(12,2)",
        status="text", qty="integer",
    ),
    "shop.public.customers": table(
        "public.customers", "id", id="integer", name="text", country="text"
    ),
    "shop.public.items": table(
        "public.items", "order_id no", order_id="bigint", no="integer", price="numeric(10,2)"
    ),
}  # fmt: skip

QUERIES = (
    "SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer",
    "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer AND o.qty > 2",
    "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer AND c.country = 'NL'",
    "SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.customer WHERE c.name IS NULL",
    "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer WHERE o.qty > 1 AND c.country <> 'NL'",
    "SELECT o.id, c.id AS cid FROM customers c RIGHT JOIN orders o ON c.id = o.customer AND c.country = 'NL' WHERE o.qty < 4",
    "SELECT c.id, c.name, count(o.id) AS n, sum(o.amount) AS s FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY c.id",
    "SELECT a.id, b.id AS other FROM orders a JOIN orders b ON a.customer = b.customer AND a.qty < b.qty",
    "SELECT i.order_id, i.no, c.country FROM customers c, items i, orders o WHERE o.id = i.order_id AND c.id = o.customer AND i.price > 3",
    "SELECT status, count(*) AS n, count(qty) AS q, count(DISTINCT customer) AS d, avg(qty) AS a, min(amount) AS lo, max(status) AS hi FROM orders GROUP BY status",
    "SELECT qty % 2 AS odd, sum(amount) AS s FROM orders GROUP BY 1 HAVING count(*) > 2",
    "SELECT count(*) AS n, sum(qty) AS s, avg(amount) AS a FROM orders WHERE status = 'none'",
    "SELECT status, sum(amount) FILTER (WHERE qty > 2) AS s, count(*) FILTER (WHERE qty IS NULL) AS n FROM orders GROUP BY status",
    "SELECT DISTINCT status, qty FROM orders",
    "SELECT DISTINCT id FROM (SELECT id FROM orders UNION ALL SELECT id FROM customers) x",
    "WITH big AS (SELECT * FROM orders WHERE amount > 5) SELECT a.id, c.name FROM big a JOIN customers c ON c.id = a.customer",
    "SELECT o.id, x.n FROM orders o JOIN (SELECT customer, count(*) AS n FROM orders GROUP BY customer) x USING (customer)",
    "SELECT o.id, o.customer, c.name, p.no FROM orders o LEFT JOIN (customers c JOIN items p ON p.no = c.id) ON c.id = o.customer AND p.order_id = o.id",
    "SELECT o.id, coalesce(c.name, '?') AS name, CASE WHEN o.qty > 0 THEN o.amount / o.qty END AS each FROM orders o LEFT JOIN customers c ON c.id = o.customer",
    "SELECT o.id, i.no, c.id AS cid FROM orders o LEFT JOIN items i ON i.order_id = o.id LEFT JOIN customers c ON c.id = i.no AND i.price > 2",
    "SELECT country, sum(total) AS t FROM totals GROUP BY country",
    "SELECT o.id, i.order_id, i.no FROM orders o JOIN items i ON i.price = o.amount",
    "SELECT max(n) AS most FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer) x",
)
TOTALS = (
    "SELECT c.id, c.country, sum(o.amount) AS total FROM orders o "
    "JOIN customers c ON c.id = o.customer GROUP BY c.id, c.country"
)


def config(sql: str, key: tuple[str, ...] | None = None) -> Config:
    place = Place("connectors.yaml", 1, 1)
    views = {
        "v": ViewConfig("v", sql, place, place, key),
        "totals": ViewConfig("totals", TOTALS, place, place),
    }
    return Config(
        Path("connectors.yaml"),
        LogConfig("embedded", Path(".cdc")),
        StateConfig(Path(".cdc/state")),
        {},
        views,
        {},
    )


def random_tables(seed: int) -> dict[str, list[dict[str, Any]]]:
    rng = random.Random(seed)

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.15 else value

    def money() -> Decimal:
        return Decimal(rng.randrange(0, 1000)) / 100

    return {
        "shop.public.orders": [
            {
                "id": i,
                "customer": maybe(rng.randrange(12)),
                "amount": maybe(money()),
                "status": maybe(rng.choice(["new", "paid", "Sent"])),
                "qty": maybe(rng.randrange(5)),
            }
            for i in range(40)
        ],
        "shop.public.customers": [
            {"id": i, "name": maybe(f"c{i % 4}"), "country": maybe(rng.choice(["NL", "DE"]))}
            for i in range(8)
        ],
        "shop.public.items": [
            {"order_id": rng.randrange(50), "no": n, "price": maybe(money())} for n in range(60)
        ],
    }


@pytest.fixture
def loaded(pg_database: str) -> Any:
    with psycopg.connect(pg_database, autocommit=True) as connection:
        for schema in TABLES.values():
            columns = ", ".join(
                f"{c.name} {c.sql_type}" + (' COLLATE "C"' if c.sql_type == "text" else "")
                for c in schema.columns
            )
            key = ", ".join(schema.key)
            connection.execute(f"CREATE TABLE {schema.name} ({columns}, PRIMARY KEY ({key}))")
        yield connection


def test_plans_equal_postgres(loaded: psycopg.Connection[Any]) -> None:
    for seed in range(4):
        data = random_tables(seed)
        for name, rows in data.items():
            target = name.removeprefix("shop.")
            loaded.execute(f"TRUNCATE {target}")
            marks = ", ".join(["%s"] * len(rows[0]))
            with loaded.cursor() as cursor:
                cursor.executemany(
                    f"INSERT INTO {target} VALUES ({marks})", [tuple(r.values()) for r in rows]
                )
        for sql in QUERIES:
            _check(loaded, data, sql, seed)


def _check(
    connection: psycopg.Connection[Any],
    data: dict[str, list[dict[str, Any]]],
    sql: str,
    seed: int,
) -> None:
    plans = plan_views(config(sql), TABLES)
    columns = [c.name for c in plans["totals"].output.columns]
    totals = rows_of(plans["totals"].root, data)
    inputs = data | {"view.totals": [dict(zip(columns, r, strict=True)) for r in totals]}
    ours = rows_of(plans["v"].root, inputs)
    source, query = source_query(config(sql), TABLES, "v")
    assert source == "shop"
    theirs = connection.execute(query).fetchall()
    assert sorted(map(_comparable, ours)) == sorted(map(_comparable, theirs)), (seed, sql)
    key = [[c.name for c in plans["v"].output.columns].index(k) for k in plans["v"].output.key]
    keys = [tuple(row[i] for i in key) for row in ours]
    assert len(set(keys)) == len(keys), ("the derived key is not unique", seed, sql)


def _comparable(row: tuple[Any, ...]) -> tuple[str, ...]:
    """NUMERIC by value: averages travel as text."""
    return tuple(_plain(value) for value in row)


def _plain(value: Any) -> str:
    try:
        return "NULL" if value is None else str(Decimal(str(value)).normalize())
    except ArithmeticError:
        return str(value)
