"""orders ⋈ customers with SUM and COUNT per customer, from the embedded log to the view's topic.

One process maintains the view, its primary-key arrangements included: first the load of a million
orders and 100,000 customers from offset zero, then transactions of 10,000 changed orders, then of
1, 10, 100 and 1,000. Time runs from when the transaction stands in the log to when the
view's records do; processor time is that of the whole step, reading and appending included.

    .venv/bin/python -m bench.views
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.measure import Figure, fdatasync_p50_ms, peak_rss_mib, percentile, report
from cdc.changes import C, ChangeBatch, U
from cdc.config import Config, LogConfig, Place, SourceConfig, StateConfig, ViewConfig
from cdc.frontiers import Frontier
from cdc.log.api import Log, Producer, TopicSpec
from cdc.log.open import open_log
from cdc.positions import Lsn, Vector
from cdc.schema import Column, TableSchema
from views.maintainer import maintain

RUNS = 3
ORDERS_COUNT = 1_000_000
CUSTOMERS_COUNT = 100_000
BATCH_ROWS = 65_536
SIZES = {1: 300, 10: 200, 100: 100, 1_000: 50, 10_000: 60}

ORDERS = TableSchema(
    "public.orders",
    (
        Column("id", pa.int64(), "bigint", nullable=False),
        Column("customer_id", pa.int64(), "bigint"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("status", pa.string(), "text"),
    ),
    ("id",),
)
CUSTOMERS = TableSchema(
    "public.customers",
    (Column("id", pa.int64(), "bigint", nullable=False), Column("name", pa.string(), "text")),
    ("id",),
)
SQL = """
SELECT c.id, c.name, sum(o.amount) AS total, count(*) AS orders
FROM shop.orders o JOIN shop.customers c ON c.id = o.customer_id GROUP BY c.id, c.name
"""


def config_of(home: Path) -> Config:
    place = Place("connectors.yaml", 1, 1)
    source = SourceConfig("shop", "postgres", "", ("public.*",), "initial", "s", "p", place)
    view = ViewConfig("per_customer", SQL, place, place)
    log, state = LogConfig("embedded", home / "log"), StateConfig(home / "state")
    return Config(home / "connectors.yaml", log, state, {"shop": source}, {view.name: view}, {})


def batch(schema: TableSchema, op: int, txn_seq: int, columns: list[pa.Array]) -> ChangeBatch:
    count = len(columns[0])
    rows = pa.RecordBatch.from_arrays(columns, schema=schema.arrow)
    numbers = np.arange(count)
    return ChangeBatch(
        schema,
        np.full(count, op, np.uint8),
        np.full(count, txn_seq),
        numbers,
        np.full(count, time.time_ns() // 1000),
        rows,
    )


@dataclass
class Shop:
    producer: Producer
    seed: int
    txn_seq: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        specs = [TopicSpec("shop." + s.name, s) for s in (ORDERS, CUSTOMERS)]
        self.producer.create_topics(specs)

    def orders(self, op: int, ids: np.ndarray) -> ChangeBatch:
        cents = pa.array(self.rng.integers(100, 100_000, len(ids))).cast(pa.decimal128(19, 0))
        amounts = pc.multiply(cents, pa.scalar("0.01").cast(pa.decimal128(3, 2)))
        columns = [
            pa.array(ids),
            pa.array(self.rng.integers(0, CUSTOMERS_COUNT, len(ids))),
            amounts.cast(pa.decimal128(12, 2)),
            pa.array(["shipped"] * len(ids)),
        ]
        return batch(ORDERS, op, self.txn_seq, columns)

    def fill(self) -> None:
        ids = np.arange(CUSTOMERS_COUNT)
        names = pa.array([f"customer {i}" for i in ids])
        self.append([("shop.public.customers", batch(CUSTOMERS, C, 0, [pa.array(ids), names]))])
        for start in range(0, ORDERS_COUNT, BATCH_ROWS):
            ids = np.arange(start, min(start + BATCH_ROWS, ORDERS_COUNT))
            self.append([("shop.public.orders", self.orders(C, ids))])

    def change(self, count: int) -> None:
        ids = self.rng.integers(0, ORDERS_COUNT, count)
        self.append([("shop.public.orders", self.orders(U, ids))])

    def append(self, batches: list[tuple[str, ChangeBatch]]) -> None:
        self.txn_seq += 1
        position = Vector.of({"shop": Lsn(self.txn_seq)})
        frontier = Frontier("shop", position, self.txn_seq, time.time_ns() // 1000)
        self.producer.append(batches, [frontier])


class Driver:
    """Asked by the maintainer whether to stop; each time a step is done it makes the next one."""

    def __init__(self, log: Log, shop: Shop) -> None:
        self._shop, self._reader = shop, log.reader()
        self._plan = [size for size, times in SIZES.items() for _ in range(times)]
        self._at = -1
        self._began_s = self._began_cpu_s = 0.0
        self.load_s = 0.0
        self.wall_s: dict[int, list[float]] = {size: [] for size in SIZES}
        self.cpu_s: dict[int, list[float]] = {size: [] for size in SIZES}

    def start(self) -> None:
        self._began_s = time.perf_counter()

    def __call__(self) -> bool:
        now_s, now_cpu_s = time.perf_counter(), time.process_time()
        if self._at == len(self._plan):
            return True
        frontier = self._reader.newest_frontier("view.per_customer")
        if frontier is None or frontier.positions["shop"] != Lsn(self._shop.txn_seq):
            return False
        if self._at < 0:
            self.load_s = now_s - self._began_s
        else:
            size = self._plan[self._at]
            self.wall_s[size].append(now_s - self._began_s)
            self.cpu_s[size].append(now_cpu_s - self._began_cpu_s)
        self._at += 1
        if self._at == len(self._plan):
            return True
        self._shop.change(self._plan[self._at])
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()
        return False


def fill(home: Path, seed: int) -> None:
    """In a process of its own, so that its memory does not count."""
    log = open_log(config_of(home).log)
    producer = log.producer("shop")
    Shop(producer, seed).fill()
    producer.close()
    log.close()


@dataclass(frozen=True)
class Run:
    """What one run measured: `wall_s` and `cpu_s` of every step, by its size in rows."""

    load_rate: float
    wall_s: dict[int, list[float]]
    cpu_s: dict[int, list[float]]
    rss_mib: float


def one_run(home: Path, seed: int) -> Run:
    """In the maintainer's own process."""
    config = config_of(home)
    log = open_log(config.log)
    shop = Shop(log.producer("shop"), seed + 1)
    frontier = log.reader().newest_frontier("shop")
    assert frontier is not None
    shop.txn_seq = frontier.txn_seq
    driver = Driver(log, shop)
    driver.start()
    maintain(config, "main", log, driver)
    rate = (CUSTOMERS_COUNT + ORDERS_COUNT) / driver.load_s
    return Run(rate, driver.wall_s, driver.cpu_s, peak_rss_mib(os.getpid()))


def main() -> None:
    runs, disk_ms = [], []
    for seed in range(RUNS):
        with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder:
            home = Path(folder)
            with fresh_process() as process:
                process.submit(fill, home, seed).result()
            with fresh_process() as process:
                runs.append(process.submit(one_run, home, seed).result())
            disk_ms.append(fdatasync_p50_ms(home))
    report(figures(runs))
    report([Figure("fdatasync p50 in the same folder", "ms", tuple(disk_ms))])


def fresh_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def figures(runs: list[Run]) -> list[Figure]:
    bulk = max(SIZES)
    bulk_rates = tuple(bulk * len(r.wall_s[bulk]) / sum(r.wall_s[bulk]) for r in runs)
    found = [
        Figure(
            "load from offset zero", "changes/s", tuple(r.load_rate for r in runs), ">= 300,000"
        ),
        Figure(f"steps of {bulk:,} rows", "changes/s", bulk_rates, ">= 300,000"),
        Figure("peak memory of the process", "MiB", tuple(r.rss_mib for r in runs), "< 600"),
    ]
    for size in sorted(SIZES):
        wall = tuple(percentile(r.wall_s[size], 0.5) * 1e3 for r in runs)
        cpu = tuple(sum(r.cpu_s[size]) / len(r.cpu_s[size]) * 1e3 for r in runs)
        target = "<= 3" if size == 1 else ""
        found.append(Figure(f"step of {size:,} rows, p50", "ms", wall))
        found.append(Figure(f"step of {size:,} rows, processor time", "ms", cpu, target))
    return found


if __name__ == "__main__":
    main()
