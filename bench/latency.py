"""Commit in Postgres → visible in the view's topic, at 200 commits a second.

A real Postgres, `cdc run` with one source and one view (orders joined to customers), and a reader
of the view's topic in this process. Time runs from the moment the client is told "committed" to the
moment the reader holds the record.

    .venv/bin/python -m bench.latency
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from bench.filled import paced
from bench.measure import Figure, fdatasync_p50_ms, percentile, report
from cdc.config import LogConfig
from cdc.log.open import open_log
from demo.embedded_postgres import start_postgres

COMMITS_PER_S = 200
SECONDS = 15
RUNS = 3
FIRST_ID = 10_000_000

TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, country text NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, amount numeric(12,2));
INSERT INTO customers SELECT g, 'customer ' || g, 'DE' FROM generate_series(1, 10000) g;
INSERT INTO orders SELECT g, 1 + g % 10000, g FROM generate_series(1, 100000) g;
"""

CONNECTORS = """
log: {{type: embedded, path: {home}/.cdc}}
sources:
  shop: {{type: postgres, url: "{url}", tables: [public.*]}}
views:
  order_search:
    sql: |
      SELECT o.id, o.amount, c.name AS customer, c.country
      FROM shop.orders o JOIN shop.customers c ON c.id = o.customer_id
"""


class Watcher(threading.Thread):
    """Notes when each order first stood in the view's topic, behind its frontier."""

    def __init__(self, log_path: Path) -> None:
        super().__init__(name="watcher", daemon=True)
        self.seen_s: dict[int, float] = {}
        self.ended = threading.Event()
        self._log = open_log(LogConfig("embedded", log_path))

    def run(self) -> None:
        reader, at = self._log.reader(), 0
        while not self.ended.is_set():
            frontier = reader.newest_frontier("view.order_search")
            end = frontier.end_offsets["view.order_search"][0] if frontier else 0
            if end == at:
                reader.wait(["view.order_search"], 0.5)
                continue
            batches = list(reader.read("view.order_search", 0, at, end))
            now_s, at = time.perf_counter(), end
            for batch in batches:
                for order in batch.changes.rows.column("id").to_pylist():
                    self.seen_s.setdefault(order, now_s)
        reader.close()


def commit_steadily(url: str, first: int) -> dict[int, float]:
    """COMMITS_PER_S single-row transactions a second; when each was acknowledged."""
    told_s: dict[int, float] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for i in paced(COMMITS_PER_S * SECONDS, COMMITS_PER_S):
            connection.execute(
                "INSERT INTO orders VALUES (%s, %s, 1)", (first + i, 1 + i % 10_000), prepare=True
            )
            told_s[first + i] = time.perf_counter()
    return told_s


def one_run(url: str, watcher: Watcher, first: int) -> list[float]:
    """Latencies of one run, in ms."""
    told_s = commit_steadily(url, first)
    deadline_s = time.perf_counter() + 30
    while not told_s.keys() <= watcher.seen_s.keys():
        if time.perf_counter() > deadline_s:
            raise SystemExit(f"{len(told_s.keys() - watcher.seen_s.keys())} orders never arrived")
        time.sleep(0.05)
    return [(watcher.seen_s[order] - at) * 1e3 for order, at in told_s.items()]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder:
        home = Path(folder)
        postgres = start_postgres(home / "postgres", major=18)
        url = postgres.url("postgres")
        with psycopg.connect(url) as connection:
            connection.execute(TABLES)
        (home / "connectors.yaml").write_text(CONNECTORS.format(home=home, url=url))
        cdc = [str(Path(sys.executable).with_name("cdc")), "-f", str(home / "connectors.yaml")]
        running = subprocess.Popen([*cdc, "run"], env={**os.environ})
        watcher = Watcher(home / ".cdc")
        try:
            watcher.start()
            while len(watcher.seen_s) < 100_000:
                if running.poll() is not None:
                    raise SystemExit("cdc run ended early")
                time.sleep(0.2)
            one_run(url, watcher, FIRST_ID)  # warm
            runs = [one_run(url, watcher, FIRST_ID * (2 + i)) for i in range(RUNS)]
            disk_ms = fdatasync_p50_ms(home)
        finally:
            watcher.ended.set()
            running.send_signal(signal.SIGTERM)
            running.wait(30)
            postgres.stop()
    report(
        [
            Figure(
                "commit -> view topic p50", "ms", tuple(percentile(r, 0.5) for r in runs), "<= 12"
            ),
            Figure(
                "commit -> view topic p99", "ms", tuple(percentile(r, 0.99) for r in runs), "<= 60"
            ),
            Figure("fdatasync p50 in the same folder", "ms", (disk_ms,)),
        ]
    )


if __name__ == "__main__":
    main()
