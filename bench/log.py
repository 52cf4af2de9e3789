"""The embedded log: appends, reads, durable one-row appends, wake-up in another process.

    .venv/bin/python -m bench.log [FOLDER]

FOLDER (default: the temporary directory) is where the log is put: its disk is part of the answer.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.measure import Figure, fdatasync_p50_ms, percentile
from cdc.changes import C, ChangeBatch
from cdc.config import LogConfig
from cdc.frontiers import Frontier
from cdc.log.api import TopicSpec
from cdc.log.embedded import EmbeddedLog
from cdc.positions import Lsn, Vector
from cdc.schema import Column, TableSchema

RUNS = 3
ROWS = 10_000
BATCHES = 100
SINGLE_APPENDS = 500
TOPIC = "shop.public.orders"
SCHEMA = TableSchema(
    "public.orders",
    (
        Column("id", pa.int64(), "bigint", False, 1),
        Column("customer", pa.int64(), "bigint", True, 2),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)", True, 3),
        Column("status", pa.string(), "text", True, 4),
        Column("note", pa.string(), "text", True, 5),
        Column("at", pa.timestamp("us", "UTC"), "timestamp with time zone", True, 6),
    ),
    ("id",),
)


def batch(start: int, count: int) -> ChangeBatch:
    """Orders as an application would write them, about 100 bytes each."""
    ids = np.arange(start, start + count)
    random = np.random.default_rng(start)
    columns = [
        pa.array(ids),
        pa.array(random.integers(0, 100_000, count)),
        pa.array(random.integers(0, 100_000, count))
        .cast(pa.decimal128(21, 2))
        .cast(pa.decimal128(12, 2)),
        pa.array([("new", "paid", "sent")[i % 3] for i in range(count)]),
        pa.array([f"order number {i} left at the door" for i in ids]),
        pa.array(ids, pa.timestamp("us", "UTC")),
    ]
    zeros = np.zeros(count, np.int64)
    rows = pa.RecordBatch.from_arrays(columns, schema=SCHEMA.arrow)
    return ChangeBatch(SCHEMA, np.full(count, C, np.uint8), zeros, np.arange(count), zeros, rows)


def frontier(number: int) -> Frontier:
    return Frontier("shop", Vector.of({"shop": Lsn(number)}), txn_seq=number)


def bulk(folder: Path) -> tuple[float, float]:
    """(rows appended per second, rows read per second)."""
    log = EmbeddedLog(LogConfig("embedded", folder))
    producer = log.producer("shop")
    producer.create_topics([TopicSpec(TOPIC, SCHEMA)])
    batches = [batch(i * ROWS, ROWS) for i in range(BATCHES)]
    began = time.perf_counter()
    for number, changes in enumerate(batches):
        producer.append([(TOPIC, changes)], [frontier(number)])
    append_s = time.perf_counter() - began
    reader = log.reader()
    began = time.perf_counter()
    rows = sum(b.changes.num_rows for b in reader.read(TOPIC, 0, 0, ROWS * BATCHES))
    read_s = time.perf_counter() - began
    assert rows == ROWS * BATCHES
    producer.close()
    return rows / append_s, rows / read_s


def singles(folder: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of one-row appends, and from their beginning until another process has read
    the frontier."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    listener = context.Process(target=_listen, args=(folder, theirs))
    log = EmbeddedLog(LogConfig("embedded", folder))
    producer = log.producer("shop")
    producer.create_topics([TopicSpec(TOPIC, SCHEMA)])
    listener.start()
    assert ours.recv() == "ready"
    one = batch(0, 1)
    appends, wakes = [], []
    for number in range(SINGLE_APPENDS):
        began = time.perf_counter()
        producer.append([(TOPIC, one)], [frontier(number)])
        appends.append((time.perf_counter() - began) * 1e3)
        wakes.append((ours.recv() - began) * 1e3)
    ours.send("stop")
    listener.join()
    producer.close()
    return appends, wakes


def _listen(folder: Path, out: Connection) -> None:
    """Report when each frontier is seen (perf_counter is one clock for all processes here)."""
    reader = EmbeddedLog(LogConfig("embedded", folder)).reader()
    seen = -1
    out.send("ready")
    while not out.poll():
        reader.wait(["shop"], 1.0)
        newest = reader.newest_frontier("shop")
        if newest is not None and newest.txn_seq > seen:
            seen = newest.txn_seq
            out.send(time.perf_counter())
    reader.close()


def main(root: Path | None) -> None:
    def in_folder(measure: Callable[[Path], tuple[float, float]]) -> tuple[float, float]:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            return measure(Path(folder))

    def latencies(folder: Path) -> tuple[float, float]:
        appends, wakes = singles(folder)
        single.extend(appends)
        woken.extend(wakes)
        return 0.0, 0.0

    single: list[float] = []
    woken: list[float] = []
    rates = [in_folder(bulk) for _ in range(RUNS)]
    for _ in range(RUNS):
        in_folder(latencies)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        sync = fdatasync_p50_ms(Path(folder))
    print(Figure("append, 10k-row batches", "rows/s", tuple(a for a, _ in rates), "≥ 2M"))
    print(Figure("read", "rows/s", tuple(r for _, r in rates), "≥ 10M"))
    for name, values in (
        ("one-row durable append", single),
        ("append to seen by another process", woken),
    ):
        print(
            f"{name}: p50 {percentile(values, 0.5):.2f} ms, p99 {percentile(values, 0.99):.2f} ms"
        )
    print(f"fdatasync of 4 KiB on this disk: p50 {sync:.2f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
