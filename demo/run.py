"""`make demo`: a real Postgres captured, joined, served and verified, in under two minutes.

1. start Postgres 18 from a wheel, with the shop of shop.sql
2. `cdc run`: snapshot, then stream, three views, one DuckDB warehouse
3. change the shop all the while; read the warehouse all the while
4. `cdc query`, `cdc verify`, `cdc status`; stop everything

Exit status 0 only if every command succeeded and no read ever saw half a transaction.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import duckdb
import psycopg

from demo.embedded_postgres import start_postgres
from demo.workload import Workload

HERE = Path(__file__).parent
CDC = [str(Path(sys.executable).with_name("cdc")), "-f", str(HERE / "connectors.yaml")]
CHANGING_S = float(os.environ.get("DEMO_SECONDS", "25"))
TRANSACTIONS_PER_S = 150.0


class Reader(threading.Thread):
    """Reads the warehouse as any other program would: its own process may open the file whenever
    no write is under way. Each read compares two views over different tables, whose totals agree
    after every transaction and in the middle of none."""

    QUERY = """
        SELECT (SELECT sum(revenue) FROM sales_by_country),
               (SELECT sum(revenue) FROM sales_by_product),
               (SELECT epoch(max(placed_at)) FROM order_search)
    """

    def __init__(self, warehouse: Path) -> None:
        super().__init__(name="reader", daemon=True)
        self.reads = self.busy = self.torn = 0
        self.age_s: list[float] = []
        self._warehouse = warehouse
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            try:
                with duckdb.connect(str(self._warehouse), read_only=True) as store:
                    seen_at_s = time.time()
                    row = store.execute(self.QUERY).fetchone()
            except duckdb.IOException:
                self.busy += 1  # a write is under way; DuckDB lets one or the other in
                continue
            assert row is not None
            self.reads += 1
            self.torn += row[0] != row[1]
            self.age_s.append(seen_at_s - row[2])


def say(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def cdc(*words: str) -> None:
    """Show a command, run it, stop the demo where it fails."""
    print(f"$ cdc {shlex.join(words)}", flush=True)
    subprocess.run([*CDC, *words], check=True)


def load_shop(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "shop.sql").read_text())
        for table in ("customers", "products", "orders", "order_items"):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert row is not None
            print(f"{table:<12} {row[0]:>9,} rows")


def change_and_read(url: str, warehouse: Path) -> None:
    """The shop changes and the warehouse is read, both for CHANGING_S seconds."""
    workload = Workload(url, transactions_per_s=TRANSACTIONS_PER_S, seed=7)
    reader = Reader(warehouse)
    workload.start()
    reader.start()
    for _ in range(3):
        reader.join(CHANGING_S / 3)
        print(f"{workload.committed:,} transactions so far")
        cdc("status")
    committed = workload.stop()
    cdc("wait", "warehouse", "--timeout", "30")
    reader.stop()
    ages = sorted(reader.age_s)
    if not ages:
        raise SystemExit("the warehouse could not be read once")
    print(
        f"{committed:,} transactions committed. {reader.reads} reads of the warehouse"
        f" ({reader.busy} more found it being written): {reader.torn} saw half a transaction."
        f"\nThe newest order that a read saw was placed {ages[len(ages) // 2] * 1e3:,.0f} ms"
        f" earlier (median; {ages[int(len(ages) * 0.95)] * 1e3:,.0f} ms at the 95th percentile)."
    )
    if reader.torn:
        raise SystemExit("a reader saw half a transaction")


def serve(url: str, home: Path) -> None:
    """Everything that happens while Postgres runs."""
    os.environ |= {"DEMO_SHOP_URL": url, "DEMO_DIR": str(home)}
    say("The shop: a real Postgres 18")
    load_shop(url)
    say("cdc check: does everything fit?")
    cdc("check")
    say("cdc run: snapshot, stream, three views, one warehouse")
    began_s = time.monotonic()
    running = subprocess.Popen([*CDC, "run"])
    try:
        cdc("wait", "warehouse", "--timeout", "60")
        print(f"the warehouse holds the whole shop after {time.monotonic() - began_s:.1f} s")
        say(f"The shop changes for {CHANGING_S:.0f} s, and the warehouse is read all the while")
        change_and_read(url, home / "warehouse.duckdb")
        say("Ask the warehouse")
        cdc("query", "warehouse", "SELECT * FROM sales_by_country ORDER BY revenue DESC LIMIT 5")
        cdc("query", "warehouse", "SELECT * FROM order_search ORDER BY id DESC LIMIT 3")
        say("Is it right? Compare every row with the same SELECT on Postgres")
        cdc("verify", "warehouse")
    finally:
        running.send_signal(signal.SIGTERM)
        status = running.wait(30)
    if status != 0:
        raise SystemExit(f"cdc run ended with {status}")


def main() -> None:
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cdc-demo-") as folder:
        home = Path(folder)
        postgres = start_postgres(home / "postgres", major=18)
        try:
            serve(postgres.url("postgres"), home)
        finally:
            postgres.stop()
    say(f"Done in {time.monotonic() - began_s:.0f} s, every row verified")


if __name__ == "__main__":
    main()
