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

from tests.planner.fix_config import config
from tests.planner.golden import table
from tests.planner.reference import rows_of
from views.sql.oracle import source_query
from views.sql.planner import plan_views

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

QUERIES = tuple(
    q.strip()
    for q in (Path(__file__).parent / "plans.sql").read_text().partition("\n\n")[2].split(";")
    if q.strip()
)
TOTALS = (
    "SELECT c.id, c.country, sum(o.amount) AS total FROM orders o "
    "JOIN customers c ON c.id = o.customer GROUP BY c.id, c.country"
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
    plans = plan_views(config(v=sql, totals=TOTALS), TABLES)
    columns = [c.name for c in plans["totals"].output.columns]
    totals = rows_of(plans["totals"].root, data)
    inputs = data | {"view.totals": [dict(zip(columns, r, strict=True)) for r in totals]}
    ours = rows_of(plans["v"].root, inputs)
    source, query = source_query(config(v=sql, totals=TOTALS), TABLES, "v")
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
