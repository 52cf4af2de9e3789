"""`make demo`: a real Postgres captured, joined, served and verified, in under two minutes.

1. start Postgres 18 and Valkey from wheels, with the shop of shop.sql
2. `cdc run`: snapshot, then stream, three views; a DuckDB warehouse, a cache and a leaderboard in
   Valkey, and a search index in Elasticsearch where one answers
3. change the shop all the while; read the stores all the while; rebuild one from offset zero
4. `cdc query` and `cdc verify` each of them; stop everything

Exit status 0 only if every command succeeded, no read of the warehouse ever saw half a transaction
and no read of the leaderboard a product missing.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from demo.embedded_postgres import start_postgres
from demo.embedded_redis import start_redis
from demo.readers import CacheReader, WarehouseReader, polled, quantile
from demo.search import SINK, elasticsearch_answers, remove_indices
from demo.workload import Workload

HERE = Path(__file__).parent
CHANGING_S = float(os.environ.get("DEMO_SECONDS", "20"))
TRANSACTIONS_PER_S = 150.0
REBUILT = "warehouse"


@dataclass(frozen=True)
class Shop:
    """One database, the stores that follow it, and the command."""

    url: str
    redis_url: str
    home: Path
    has_search: bool

    @property
    def sinks(self) -> tuple[str, ...]:
        return ("warehouse", "cache", "leaderboard", *(["search"] if self.has_search else []))

    def write_config(self) -> None:
        text = (HERE / "connectors.yaml").read_text()
        (self.home / "connectors.yaml").write_text(text + (SINK if self.has_search else ""))

    def command(self, *words: str) -> list[str]:
        program = Path(sys.executable).with_name("cdc")
        return [str(program), "-f", str(self.home / "connectors.yaml"), *words]

    def cdc(self, *words: str) -> None:
        """Show a command, run it, stop the demo where it fails."""
        print(f"$ cdc {shlex.join(words)}", flush=True)
        subprocess.run(self.command(*words), check=True)

    def wait(self) -> None:
        for sink in self.sinks:
            self.cdc("wait", sink, "--timeout", "60")


def say(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def load(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "shop.sql").read_text())
        for table in ("customers", "products", "orders", "order_items"):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert row is not None
            print(f"{table:<12} {row[0]:>9,} rows")


@contextmanager
def running(shop: Shop) -> Iterator[None]:
    """`cdc run` until the end of the block; it must end in order."""
    process = subprocess.Popen(shop.command("run"))
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
    if status != 0:
        raise SystemExit(f"cdc run ended with {status}")


def change_and_read(shop: Shop) -> None:
    """The shop changes, the stores are read, and one of them is made anew, all at once."""
    workload = Workload(shop.url, transactions_per_s=TRANSACTIONS_PER_S, seed=7)
    warehouse = WarehouseReader(shop.home / "warehouse.duckdb")
    cache = CacheReader(shop.redis_url, workload)
    workload.start()
    with polled(warehouse.look, every_s=0.1), polled(cache.look, every_s=0.002):
        time.sleep(CHANGING_S / 2)
        print(f"{workload.committed:,} transactions so far")
        shop.cdc("status")
        say(f"Make the {REBUILT} anew from offset zero, while all that goes on")
        shop.cdc("rebuild", REBUILT)
        time.sleep(CHANGING_S / 2)
        print(f"{workload.stop():,} transactions committed")
        shop.cdc("wait", REBUILT, "--timeout", "60")
    report(warehouse, cache)


def report(warehouse: WarehouseReader, cache: CacheReader) -> None:
    print(
        f"{warehouse.reads} reads of the warehouse ({warehouse.busy} more found it being written):"
        f" {warehouse.torn} saw half a transaction, or nothing."
        f"\n  The newest order was placed {quantile(warehouse.age_s, 0.5) * 1e3:,.0f} ms earlier"
        f" (median; {quantile(warehouse.age_s, 0.95) * 1e3:,.0f} ms at the 95th percentile)."
        f"\n{cache.reads:,} reads of Redis: {cache.torn} found the leaderboard without a product."
        f"\n  {len(cache.delay_s):,} new orders were in the cache"
        f" {quantile(cache.delay_s, 0.5) * 1e3:,.0f} ms after their commit"
        f" (median; {quantile(cache.delay_s, 0.95) * 1e3:,.0f} ms at the 95th percentile)."
    )
    if warehouse.torn or cache.torn:
        raise SystemExit("a reader saw what was never there")


def ask(shop: Shop) -> None:
    shop.cdc("query", "warehouse", "SELECT * FROM sales_by_country ORDER BY revenue DESC LIMIT 5")
    shop.cdc("query", "leaderboard", "bestsellers 0 4 rev")
    shop.cdc("query", "cache", "order:42")
    if shop.has_search:
        shop.cdc("query", "search", "country:AT AND status:new AND amount:>2000")


def serve(shop: Shop) -> None:
    """Everything that happens while the servers run."""
    os.environ |= {
        "DEMO_SHOP_URL": shop.url,
        "DEMO_REDIS_URL": shop.redis_url,
        "DEMO_DIR": str(shop.home),
    }
    shop.write_config()
    load(shop.url)
    say("cdc check: does everything fit?")
    shop.cdc("check")
    say(f"cdc run: snapshot, stream, three views, {len(shop.sinks)} sinks")
    began_s = time.monotonic()
    with running(shop):
        shop.wait()
        print(f"every store holds the whole shop after {time.monotonic() - began_s:.1f} s")
        say("The shop changes, and the stores are read all the while")
        change_and_read(shop)
        say("Ask each store in its own language")
        ask(shop)
        say("Is it right? Compare every row with the same SELECT on Postgres")
        for sink in shop.sinks:
            shop.cdc("verify", sink)


def main() -> None:
    began_s = time.monotonic()
    say("The shop: a real Postgres 18, with Valkey, an open Redis, beside it")
    has_search, told = elasticsearch_answers()
    print(f"Elasticsearch {told}" if has_search else f"without Elasticsearch: {told}")
    with tempfile.TemporaryDirectory(prefix="cdc-demo-") as folder:
        home = Path(folder)
        postgres = start_postgres(home / "postgres", major=18)
        redis = start_redis(home / "redis")
        shop = Shop(postgres.url("postgres"), redis.url, home, has_search)
        try:
            serve(shop)
        finally:
            if has_search:  # a server of somebody's is left as it was
                subprocess.run(shop.command("remove", "search", "--yes"), check=False)
                remove_indices()
            redis.stop()
            postgres.stop()
    say(f"Done in {time.monotonic() - began_s:.0f} s, every row verified")


if __name__ == "__main__":
    main()
