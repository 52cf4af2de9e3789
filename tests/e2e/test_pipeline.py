"""The whole path with a real Postgres, as a user types it: `cdc` in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.services import forked
from tests.services.forked import Forked

SECRET = "pa55-w0rd-of-the-test"
DEADLINE_S = 120.0
CONFIG = """\
sources:
  shop:
    type: postgres
    url: ${SHOP_URL}
    tables: [public.*]
    slot: SLOT
    publication: SLOT
views:
  order_search:
    sql: |
      SELECT o.id, o.amount, c.name AS customer
      FROM shop.orders o JOIN shop.customers c ON c.id = o.customer_id
  per_customer:
    sql: |
      SELECT customer_id, count(*) AS orders, sum(amount) AS amount
      FROM shop.orders GROUP BY customer_id
sinks:
  warehouse:
    type: sql
    url: duckdb:///warehouse.duckdb
    from: [order_search, per_customer, shop.customers]
"""
TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int NOT NULL, amount numeric(12,2));
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 50) i;
INSERT INTO orders SELECT i, 1 + i % 50, i * 1.25 FROM generate_series(1, 2000) i;
"""


@dataclass(frozen=True)
class Shop:
    """One database, one configuration, and the command."""

    url: str
    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "SHOP_URL": self.url, "PYTHONUNBUFFERED": "1"}

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def cdc(self, *words: str, expect: int = 0) -> str:
        """Run one command to its end; what it printed on stdout."""
        command = ["-m", "cdc", *words]
        ran = forked.run(command, cwd=self.directory, env=self.environ, timeout_s=240)
        assert ran.returncode == expect, f"cdc {words}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        assert SECRET not in ran.stdout + ran.stderr
        return ran.stdout

    def lines(self, *words: str, expect: int = 0) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.cdc(*words, expect=expect).splitlines()]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        log = (self.directory / "run.log").open("ab")
        command = ["-m", "cdc", "run", *words]
        return Forked(command, cwd=self.directory, env=self.environ, stdout=log, stderr=log)

    def said(self) -> str:
        return (self.directory / "run.log").read_text()

    def status_file(self, kind: str, name: str) -> dict[str, object]:
        path = self.directory / ".cdc" / "run" / f"{kind}.{name}.json"
        found: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
        return found


@pytest.fixture
def shop(pg_database: str, tmp_path: Path) -> Iterator[Shop]:
    """A database whose user has a password that must never be seen again."""
    name = pg_database.rsplit("/", 1)[1]
    with psycopg.connect(pg_database, autocommit=True) as admin:
        admin.execute(TABLES)
        admin.execute(f"CREATE ROLE {name}_cdc SUPERUSER LOGIN PASSWORD '{SECRET}'".encode())
        host = pg_database.split("@", 1)[1]
        (tmp_path / "connectors.yaml").write_text(CONFIG.replace("SLOT", f"cdc_{name}"))
        yield Shop(f"postgresql://{name}_cdc:{SECRET}@{host}", tmp_path)
        admin.execute(f"DROP OWNED BY {name}_cdc".encode())
        admin.execute(f"ALTER ROLE {name}_cdc NOLOGIN".encode())


@pytest.fixture
def running(shop: Shop) -> Iterator[subprocess.Popen[bytes]]:
    process = shop.start()
    yield process
    process.terminate()
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: object) -> bool:
    """Whether the process works; one that has ended may wait for an init to take notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def assert_no_secret(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def test_until_caught_up_then_every_command_as_a_user_sees_it(shop: Shop) -> None:
    assert "0 errors" in shop.cdc("check")
    shop.cdc("run", "--until-caught-up")

    assert shop.lines("query", "warehouse", "SELECT count(*) AS n FROM order_search") == [
        {"n": 2000}
    ]
    verified = shop.lines("verify", "warehouse", "--json")
    assert {
        (v["input"], v["compared"], v["missing"], v["extra"], v["different"]) for v in verified
    } == {
        ("order_search", 2000, 0, 0, 0),
        ("per_customer", 50, 0, 0, 0),
        ("shop.customers", 50, 0, 0, 0),
    }
    (status,) = shop.lines("status", "--json")
    sinks, sources = status["sinks"], status["sources"]
    assert isinstance(sinks, dict) and isinstance(sources, dict)
    assert sinks["warehouse"]["lag_changes"] == 0
    assert sources["shop"]["reachable"] and sources["shop"]["state"] == "stopped"
    assert "warehouse" in shop.cdc("status")

    events = shop.lines("log", "shop.public.customers", "--from", "10", "--limit", "3")
    assert [event["offset"] for event in events] == [10, 11, 12]
    assert all(event["topic"] == "shop.public.customers" and event["value"] for event in events)
    assert len({event["position"] for event in events}) == 1
    assert re.fullmatch(r"shop@[0-9A-F]+/[0-9A-F]+", str(events[0]["position"]))
    assert shop.lines("log", "shop.frontier")[-1]["key"] == "shop"

    assert "order_search" in shop.cdc("explain", "order_search")
    preview = shop.cdc(
        "preview", "SELECT id, name FROM shop.customers WHERE id < 3", "--limit", "1"
    )
    assert "key: id" in preview and "customer" in preview
    assert "shop.public.orders" in shop.cdc("compact")
    assert_no_secret(shop.directory)


def test_a_difference_is_found_and_ends_with_1(shop: Shop) -> None:
    shop.cdc("run", "--until-caught-up")
    damage = (
        "import duckdb; c = duckdb.connect('warehouse.duckdb');"
        "c.execute('DELETE FROM customers WHERE id = 7');"
        "c.execute(\"UPDATE customers SET name = 'x' WHERE id = 8\")"
    )
    subprocess.run([sys.executable, "-c", damage], cwd=shop.directory, check=True)
    verified = {v["input"]: v for v in shop.lines("verify", "warehouse", "--json", expect=1)}
    customers = verified["shop.customers"]
    assert (customers["missing"], customers["extra"], customers["different"]) == (1, 0, 1)
    assert verified["order_search"]["different"] == 0


def test_read_your_own_writes_and_sigterm_ends_with_0(
    shop: Shop, running: subprocess.Popen[bytes]
) -> None:
    shop.cdc("wait", "warehouse", "--timeout", "120")
    shop.execute("UPDATE orders SET amount = 0 WHERE id <= 10", "DELETE FROM orders WHERE id = 11")
    shop.cdc("wait", "warehouse", "--timeout", "120")
    found = shop.lines(
        "query", "warehouse", "SELECT count(*) AS n, min(amount)::text AS m FROM order_search"
    )
    assert found == [{"n": 1999, "m": "0.00"}]
    shop.cdc("verify", "warehouse")
    shop.cdc("wait", "warehouse", "--position", "shop@FFFFFF/0", "--timeout", "0.1", expect=1)

    running.send_signal(signal.SIGTERM)
    assert running.wait(DEADLINE_S) == 0, shop.said()
    assert_no_secret(shop.directory)


@pytest.mark.crash
def test_any_child_may_be_killed(shop: Shop, running: subprocess.Popen[bytes]) -> None:
    shop.cdc("wait", "warehouse", "--timeout", "120")
    for kind, name in (("source", "shop"), ("views", "main"), ("sink", "warehouse")):
        pid = shop.status_file(kind, name)["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
        shop.execute(f"INSERT INTO orders VALUES ({pid + 10_000_000}, 1, 1)")
        eventually(lambda k=kind, n=name, p=pid: shop.status_file(k, n)["pid"] != p)  # type: ignore[misc]
        shop.cdc("wait", "warehouse", "--timeout", "120")
    shop.cdc("verify", "warehouse")
    assert running.poll() is None, shop.said()


@pytest.mark.crash
def test_children_end_with_their_supervisor(shop: Shop, running: subprocess.Popen[bytes]) -> None:
    shop.cdc("wait", "warehouse", "--timeout", "120")
    pids = [shop.status_file("source", "shop")["pid"], shop.status_file("sink", "warehouse")["pid"]]
    running.kill()
    eventually(lambda: not any(is_alive(pid) for pid in pids))


def test_remove_takes_back_what_was_created(shop: Shop) -> None:
    shop.cdc("run", "--until-caught-up")
    shop.cdc("remove", "shop", expect=2)
    assert "slot" in shop.cdc("remove", "shop", "--yes")
    with psycopg.connect(shop.url) as connection:
        slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(slots).fetchone() == (0,)
    assert shop.cdc("log", "shop.public.orders", expect=2) == ""
    shop.cdc("remove", "warehouse", "--yes")
    shop.cdc("remove", "order_search", "--yes")
