"""What only a rebuild of SQL stores promises: definitions, what is bound to a table, what stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from cdc.config import Config
from cdc.errors import SinkError
from cdc.schema import Column, TableSchema
from sinks.part import PART
from sinks.sql.stores import sink_of
from tests.contract.test_rebuild import rebuilt
from tests.sink_feed import ITEMS, Shop, config_of, item, run_until, stored, table

pytestmark = pytest.mark.slow

STORES = ["duckdb", "sqlite", pytest.param("postgres", marks=pytest.mark.service)]

NARROWER = table("public.items", *ITEMS.columns[:2], version=2)
RETYPED = table(
    "public.items", *ITEMS.columns[:2], Column("amount", pa.int64(), "bigint"), version=2
)


@pytest.fixture(params=STORES)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    if request.param == "postgres":
        return config_of(tmp_path, request.getfixturevalue("pg_database"), ["shop.items"])
    return config_of(tmp_path, f"{request.param}:///store.{request.param}", ["shop.items"])


@pytest.fixture
def pg_config(pg_database: str, tmp_path: Path) -> Config:
    return config_of(tmp_path, pg_database, ["shop.items"])


@pytest.fixture
def shop(tmp_path: Path, config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS)) as shop:
        yield shop


def change(shop: Shop, schema: TableSchema) -> None:
    shop.producer.set_schema("shop.public.items", schema)
    shop.schemas["public.items"] = schema


def execute(config: Config, *statements: str) -> None:
    with closing(sink_of(config, "warehouse")) as sink, sink._store.session() as session:
        for statement in statements:
            session.execute(statement)


def ask(config: Config, text: str) -> Sequence[Sequence[Any]]:
    return PART.query(config, "warehouse", text).rows


@pytest.mark.parametrize("schema", [NARROWER, RETYPED], ids=["dropped", "retyped"])
def test_another_definition_needs_a_rebuild_and_gets_it(
    config: Config, shop: Shop, schema: TableSchema
) -> None:
    run_until(config, shop, shop.put("public.items", [item(1), item(2)]))
    change(shop, schema)
    rows = [{k: v for k, v in item(3).items() if k in schema.arrow.names}]
    position = shop.put("public.items", rows)
    with pytest.raises(SinkError, match="does not fit") as caught:
        run_until(config, shop, position)
    assert "`cdc rebuild warehouse`" in caught.value.hint
    (finding,) = PART.check(config, "warehouse", {"shop.items": schema})
    assert finding.severity == "error" and "`cdc rebuild warehouse`" in finding.remedy
    assert rebuilt(config, shop).rows == {"shop.items": 3}
    assert [row[0] for row in ask(config, "SELECT amount FROM items__cdc_old")] == [0, 0]
    run_until(config, shop, shop.put("public.items", [{**rows[0], "id": 4}]))
    assert [row["id"] for row in stored(config, schema)] == [1, 2, 3, 4]


def test_views_and_indexes_outlive_a_rebuild(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(i, f"n{i}") for i in range(10)]))
    execute(
        config,
        "CREATE VIEW names AS SELECT name FROM items",
        "CREATE INDEX by_name ON items (name)",
    )
    shop.put("public.items", [item(3, "new")])
    for _ in range(2):
        rebuilt(config, shop)
        assert ("new",) in [tuple(row) for row in ask(config, "SELECT name FROM names")]
        assert "by_name" in _indexes(config)
    run_until(config, shop, shop.put("public.items", [item(3, "newer")]))
    assert ("newer",) in [tuple(row) for row in ask(config, "SELECT name FROM names")]


def _indexes(config: Config) -> set[str]:
    """The indexes of the table `items`."""
    url = config.sinks["warehouse"].url
    if url.startswith("postgres"):
        text = "SELECT indexname FROM pg_indexes WHERE tablename = 'items'"
    elif url.startswith("sqlite"):
        text = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'items'"
    else:
        text = "SELECT index_name FROM duckdb_indexes() WHERE table_name = 'items'"
    return {str(name) for (name,) in ask(config, text)}


def test_the_previous_rows_are_kept_until_the_next(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1, "a"), item(2, "b")]))
    execute(config, "INSERT INTO items VALUES (-1, 'stray', 0)", "DELETE FROM items WHERE id = 2")
    rebuilt(config, shop)
    old = "SELECT id FROM items__cdc_old ORDER BY id"
    assert [tuple(row) for row in ask(config, old)] == [(-1,), (1,)]
    rebuilt(config, shop)
    assert [tuple(row) for row in ask(config, old)] == [(1,), (2,)]
    PART.remove(config, "warehouse")
    with pytest.raises(SinkError):
        ask(config, old)


def test_a_table_of_somebody_under_the_kept_name_stays(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    execute(
        config,
        "CREATE TABLE items__cdc_old (id INTEGER PRIMARY KEY)",
        "INSERT INTO items__cdc_old VALUES (7)",
    )
    with pytest.raises(SinkError, match="did not write"):
        rebuilt(config, shop)
    assert [tuple(row) for row in ask(config, "SELECT id FROM items__cdc_old")] == [(7,)]


def test_another_primary_key_is_told(config: Config, shop: Shop) -> None:
    run_until(config, shop, shop.put("public.items", [item(1)]))
    other = table("public.items", *ITEMS.columns, key=("id", "amount"), version=2)
    (finding,) = PART.check(config, "warehouse", {"shop.items": other})
    assert finding.severity == "error" and "cdc rebuild" in finding.remedy


@pytest.mark.service
def test_a_view_in_postgres_forbids_another_definition(pg_config: Config) -> None:
    """It is bound to the table, not to its name. Nothing was loaded when that is told."""
    with closing(Shop(pg_config, ITEMS)) as shop:
        run_until(pg_config, shop, shop.put("public.items", [item(1)]))
        execute(pg_config, "CREATE VIEW names AS SELECT name FROM items")
        change(shop, NARROWER)
        shop.put("public.items", [{"id": 2, "name": "b"}])
        with pytest.raises(SinkError, match="view names") as caught:
            rebuilt(pg_config, shop)
        assert "drop them" in caught.value.hint
        assert [row[0] for row in ask(pg_config, "SELECT name FROM names")] == ["x"]
        execute(pg_config, "DROP VIEW names")
        rebuilt(pg_config, shop)
        assert [row["id"] for row in stored(pg_config, NARROWER)] == [1, 2]


@pytest.mark.service
def test_grants_and_indexes_in_postgres_are_carried_to_another_definition(
    pg_config: Config, pg_database: str
) -> None:
    with closing(Shop(pg_config, ITEMS)) as shop:
        run_until(pg_config, shop, shop.put("public.items", [item(1)]))
        execute(
            pg_config,
            "GRANT SELECT ON items TO PUBLIC",
            "CREATE INDEX by_name ON items (name)",
            "CREATE INDEX by_amount ON items (amount)",
        )
        change(shop, NARROWER)
        shop.put("public.items", [{"id": 2, "name": "b"}])
        rebuilt(pg_config, shop)
        rebuilt(pg_config, shop)
    assert _indexes(pg_config) >= {"by_name"} and "by_amount" not in _indexes(pg_config)
    with psycopg.connect(pg_database) as connection:
        granted = connection.execute(
            "SELECT grantee, privilege_type FROM information_schema.role_table_grants "
            "WHERE table_name = 'items' AND grantee = 'PUBLIC'"
        ).fetchall()
    assert granted == [("PUBLIC", "SELECT")]


@pytest.mark.service
def test_the_table_in_postgres_stays_the_same_object(pg_config: Config) -> None:
    """Where the definitions agree; and rows that were right are not written again."""
    with closing(Shop(pg_config, ITEMS)) as shop:
        run_until(pg_config, shop, shop.put("public.items", [item(i) for i in range(50)]))
        execute(pg_config, "UPDATE items SET name = 'wrong' WHERE id = 7")
        identity = "SELECT 'items'::regclass::oid, min(ctid), count(DISTINCT xmin::text) FROM items"
        before = ask(pg_config, identity)[0]
        rebuilt(pg_config, shop)
        after = ask(pg_config, identity)[0]
    assert before == after
