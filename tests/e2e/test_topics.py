"""Topics that a real Debezium wrote: views over them are what the same SELECT is on Postgres.

Debezium captures a random workload in each of its formats; `cdc run` reads its topics, keeps views
over them and delivers them to DuckDB. What counts is the comparison with Postgres, which shares no
code with us. Lines are replicated in full, and so must orders be: Debezium does not know the large
values that an UPDATE leaves alone.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from confluent_kafka import Producer

from cdc.cli.main import main
from tests.e2e.house import VIEW_SELECTS
from tests.e2e.workload import TABLES, Workload
from tests.services import forked
from tests.services.connect import ConnectWorker

DEADLINE_S = 180.0
CAPTURED = ("public.customers", "public.orders", "public.lines")
SELECTS = {
    **VIEW_SELECTS,
    "orders": "SELECT id, customer_id, status, amount, pieces, note FROM orders",
    "lines": "SELECT order_id, line, sku, qty FROM lines",
}
DECLARED = """\
    columns:
      {prefix}.public.customers: {{id: int, name: text, country: text}}
      {prefix}.public.orders:
        {{id: bigint, customer_id: int, status: text, amount: "numeric(12,2)", pieces: bigint,
          note: text}}
      {prefix}.public.lines: {{order_id: bigint, line: int, sku: text, qty: int}}
"""
CONFIG = """\
log: {log}
sources:
  inv:
    type: topics
    bootstrap_servers: {bootstrap}
    format: {form}
    tables: [{prefix}.public.customers, {prefix}.public.orders, {prefix}.public.lines]
{more}
views:
{views}
sinks:
  duck:
    type: sql
    url: duckdb:///duck.duckdb
    from: [order_search, per_country, per_order, inv.orders, inv.lines]
"""


@dataclass
class Plant:
    """A database, and what is downstream of Debezium in a folder of its own."""

    url: str
    bootstrap: str
    folder: Path
    prefix: str
    seed: int
    workload: Workload

    @property
    def file(self) -> Path:
        return self.folder / "connectors.yaml"

    def configure(self, form: str, more: str, log: str = "{type: embedded, path: log}") -> None:
        views = "\n".join(
            f'  {name}: {{sql: "{_over_topics(select)}"}}' for name, select in VIEW_SELECTS.items()
        )
        self.file.write_text(
            CONFIG.format(
                log=log, bootstrap=self.bootstrap, form=form, prefix=self.prefix, more=more,
                views=views,
            )
        )  # fmt: skip

    def work(self, transactions: int) -> None:
        for _ in range(transactions):
            self.workload.step()

    def run_until_caught_up(self) -> None:
        command = ["-m", "cdc", "run", "--until-caught-up"]
        done = forked.run(command, cwd=self.folder, timeout_s=DEADLINE_S)
        assert done.returncode == 0, done.stderr

    def cdc(self, *words: str) -> int:
        return main(["-f", str(self.file), *words])

    def assert_equal(self) -> None:
        """Every input of the sink is what Postgres answers."""
        with (
            psycopg.connect(self.url) as source,
            closing(duckdb.connect(str(self.folder / "duck.duckdb"), read_only=True)) as duck,
        ):
            for name, select in SELECTS.items():
                asked = source.execute(select.encode())
                assert asked.description is not None
                columns = ", ".join(f'"{column.name}"' for column in asked.description)
                shown = duck.execute(f"SELECT {columns} FROM {name}").fetchall()
                assert sorted(shown, key=repr) == sorted(asked.fetchall(), key=repr), name


def _over_topics(select: str) -> str:
    return select.replace("FROM ", "FROM inv.").replace("JOIN ", "JOIN inv.")


@pytest.fixture
def plant(pg_database: str, kafka_bootstrap: str, tmp_path: Path) -> Iterator[Plant]:
    with psycopg.connect(pg_database) as connection:
        connection.execute(TABLES)
        connection.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    seed = random.randrange(2**32)
    workload = Workload(pg_database, seed)
    prefix = f"dbz{uuid.uuid4().hex[:8]}"
    yield Plant(pg_database, kafka_bootstrap, tmp_path, prefix, seed, workload)
    workload.close()


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("converter", ["json", "avro"])
def test_a_view_over_debeziums_topics_is_the_select(
    plant: Plant,
    connect: ConnectWorker,
    schema_registry: str,
    converter: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = DECLARED.format(prefix=plant.prefix) if converter == "json" else ""
    log = "{type: embedded, path: log}"
    if converter == "avro":
        more = f"    schema_registry: {schema_registry}"
        at = f"bootstrap_servers: '{plant.bootstrap}', topic_prefix: l{plant.prefix}-"
        log = f"{{type: kafka, {at}, path: log}}"
    plant.configure("avro" if converter == "avro" else "json", more, log)
    plant.work(100)
    captured = connect.debezium(
        plant.url, CAPTURED, plant.prefix, converter, schema_registry, skipped__operations="none"
    )
    with captured as debezium:
        plant.work(100)
        debezium.caught_up()
        assert plant.cdc("check") == 0
        plant.run_until_caught_up()
        plant.assert_equal()
        plant.work(200)
        plant.workload.truncate()
        plant.work(50)
        debezium.caught_up()
        plant.run_until_caught_up()
    plant.assert_equal()
    capsys.readouterr()
    assert plant.cdc("verify", "duck", "--json") == 0
    verdicts = told(capsys)
    assert {v["input"] for v in verdicts if v["what"] == "sink"} == set(SELECTS) - {
        "orders", "lines",
    } | {"inv.orders", "inv.lines"}  # fmt: skip
    assert not any(verdict["fenced"] for verdict in verdicts)
    assert plant.cdc("status", "--json") == 0
    (status,) = told(capsys)
    source = status["sources"]["inv"]
    assert (source["fenced"], source["lag_changes"], source["lag_bytes"]) == (False, 0, None)
    assert not status["views"]["per_country"]["fenced"]
    assert plant.cdc("wait", "duck", "--timeout", "5") == 0
    assert "unfenced" in capsys.readouterr().out


def test_what_the_commands_say_of_topics(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    """A topic without Debezium: rows are wrong in the store, then lag, then a position."""
    plant.configure("json", DECLARED.format(prefix=plant.prefix))
    rows: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "customers": ({"id": 1}, {"id": 1, "name": "c", "country": "AT"}),
        "orders": ({"id": 1}, {"id": 1, "customer_id": 1, "status": "new", "amount": "AfQ="}),
        "lines": ({"order_id": 1, "line": 1}, {"order_id": 1, "line": 1, "sku": "s", "qty": 2}),
    }
    producer = Producer({"bootstrap.servers": plant.bootstrap})

    def send(table: str, **changed: Any) -> None:
        key, row = rows[table]
        body = {"before": None, "after": {**row, **changed}, "source": {"ts_ms": 1}, "op": "c"}
        producer.produce(
            f"{plant.prefix}.public.{table}", json.dumps(body), json.dumps({**key, **{
                name: value for name, value in changed.items() if name in key
            }})
        )  # fmt: skip
        assert producer.flush(30) == 0

    for table in rows:
        send(table)
    plant.run_until_caught_up()
    assert plant.cdc("verify", "duck") == 0
    assert "1 rows equal (unfenced" in capsys.readouterr().out

    with closing(duckdb.connect(str(plant.folder / "duck.duckdb"))) as duck:
        duck.execute("UPDATE per_order SET pieces = 99")
    assert plant.cdc("verify", "duck") == 1
    assert "1 different" in capsys.readouterr().out

    send("orders", id=2)
    assert plant.cdc("status", "--json") == 0
    (status,) = told(capsys)
    assert status["sources"]["inv"]["lag_changes"] == 1
    assert plant.cdc("status") == 0
    assert ", unfenced" in capsys.readouterr().out
    assert plant.cdc("wait", "duck", "--timeout", "0.1") == 1
    capsys.readouterr()
    reached = status["sources"]["inv"]["position"]
    assert plant.cdc("wait", "duck", "--position", reached, "--timeout", "5") == 0
    assert plant.cdc("preview", "SELECT id, status FROM inv.orders") == 0
    assert "cannot run a SELECT of Postgres's SQL" in capsys.readouterr().out
    assert plant.cdc("remove", "--yes", "inv") == 0
