"""The Elasticsearch sink against the same server's own rate, and its latency.

load      1M documents of about 300 bytes, one shard, from a view's topic in the embedded log
          through the delivery loop, position included. Ceiling: the same documents as NDJSON
          that is ready in memory, from two threads, to the same server, before and after
rebuild   the same by `cdc rebuild` beside a live index: loaded, every document read back and
          compared with the topic, swapped
latency   appends of one row at 200 a second; from the moment the log has one to the moment
          the sink has stored a position behind it

.venv/bin/python -m bench.elasticsearch [documents]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.filled import Filled, paced
from bench.measure import Figure, fdatasync_p50_ms, percentile, report
from bench.sinks import rows as sql_rows
from cdc.changes import Int64s
from cdc.config import Config, LogConfig, Place, SinkConfig, StateConfig
from cdc.json_rows import json_objects
from cdc.keys import row_keys
from cdc.log.api import Log
from cdc.schema import Column, TableSchema
from sinks.api import SinkPosition
from sinks.delivery import Feed, deliver
from sinks.elasticsearch.mapping import mapping_of
from sinks.elasticsearch.server import Server
from sinks.elasticsearch.sink import ElasticsearchSink
from sinks.progress import Progress
from sinks.rebuild import rebuild
from tests.services.elasticsearch import start_elasticsearch

DOCUMENTS = 1_000_000
BATCH_ROWS = 10_000
RUNS = 3
WARM = 200_000
COMMITS_PER_S = 200
SECONDS = 15
BODY_BYTES = 5 * 2**20
TOPIC = "view.orders"

SCHEMA = TableSchema(
    "orders",
    (
        Column("id", pa.int64(), "bigint", nullable=False),
        Column("quantity", pa.int32(), "integer"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("customer", pa.string(), "text"),
        Column("status", pa.string(), "character varying(20)"),
        Column("note", pa.string(), "text"),
        Column("address", pa.string(), "text"),
        Column("at", pa.timestamp("us", "UTC"), "timestamp with time zone"),
        Column("paid", pa.bool_(), "boolean"),
    ),
    ("id",),
)
PLACES = pa.array(
    [f"{i} Long Street, {i % 97:05d} Little Town, second floor, ring twice" for i in range(9000)]
)
FEED = Feed("bench", (("orders", TOPIC, TOPIC),))


def rows(ids: Int64s) -> pa.RecordBatch:
    columns = sql_rows(ids, 0).columns
    columns.insert(6, PLACES.take(pa.array((ids * 2654435761 + 11) % 9000)))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA.arrow)


def batches(count: int) -> Iterator[pa.RecordBatch]:
    ids = np.random.default_rng(1).permutation(count).astype(np.int64)
    for start in range(0, count, BATCH_ROWS):
        yield rows(ids[start : start + BATCH_ROWS])


def ready_made(count: int) -> list[bytes]:
    """Request bodies of the same documents."""
    bodies, body = [], bytearray()
    for batch in batches(count):
        keys, documents = row_keys(SCHEMA, batch), json_objects(batch, SCHEMA)
        for key, document in zip(keys.to_pylist(), documents.to_pylist(), strict=True):
            body += b'{"index":{"_id":"%b"}}\n%b\n' % (key.encode(), document)
            if len(body) >= BODY_BYTES:
                bodies.append(bytes(body))
                body.clear()
    return [*bodies, bytes(body)]


def ceiling(server: Server, bodies: list[bytes], count: int) -> float:
    """Documents a second of ready-made requests from two threads."""
    body = {
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"},
        "mappings": mapping_of(SCHEMA, {}),
    }
    server.require("PUT", "/ready", body)

    def send(one: bytes) -> None:
        assert not server.require("POST", "/ready/_bulk?filter_path=errors", one)["errors"]

    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send, bodies))
    taken_s = time.perf_counter() - began
    server.require("DELETE", "/ready")
    return count / taken_s


class Watched(Progress):
    """Notes when each offset was stored."""

    def __init__(self, log: Log, file: Path) -> None:
        super().__init__("bench", log, file)
        self.stored: list[tuple[int, float]] = []

    def applied(self, position: SinkPosition, rows: int, took_s: float, span: int) -> None:
        (end,) = position.offsets[TOPIC]
        if position.chunk == 0:
            self.stored.append((end, time.perf_counter()))
        super().applied(position, rows, took_s, span)

    @property
    def end(self) -> int:
        return self.stored[-1][0] if self.stored else 0


@contextmanager
def delivering(url: str, log: Log, folder: Path) -> Iterator[Watched]:
    """A sink that runs in a thread; afterwards its index and entry are gone."""
    server = Server(url)
    watched, stop = Watched(log, folder / "status.json"), threading.Event()
    sink = ElasticsearchSink("bench", server, "orders")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            deliver(sink, FEED, log, stop.is_set, watched)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        stop.set()
        thread.join()
        for name in ("orders-000001", "cdc-sinks"):
            server.require("DELETE", f"/{name}")
        sink.close()
    if failed:
        raise failed[0]


def wait_for(watched: Watched, end: int) -> None:
    while watched.end < end:
        time.sleep(0.005)


def load(url: str, log: Log, folder: Path, count: int) -> float:
    """Documents a second of a first load through the delivery loop."""
    began = time.perf_counter()
    with delivering(url, log, folder) as watched:
        wait_for(watched, count)
        taken_s = watched.stored[-1][1] - began
    return count / taken_s


def rebuilt(url: str, log: Log, folder: Path, count: int) -> float:
    """Documents a second of a whole rebuild beside the live index, comparison and swap included."""
    place = Place("bench", 1, 1)
    sink = SinkConfig("bench", "elasticsearch", url, ("orders",), place, {"index": "orders"})
    file, state = folder / "connectors.yaml", StateConfig(folder / "state")
    config = Config(file, LogConfig("embedded", folder / "log"), state, {}, {}, {"bench": sink})
    rebuild(config, FEED, log, lambda: False, lambda facts: None)
    found = rebuild(config, FEED, log, lambda: False, lambda facts: None)
    assert found.rows == {"orders": count}
    with closing(Server(url)) as server:
        for name in ("orders-000001", "orders-000002", "cdc-sinks"):
            server.require("DELETE", f"/{name}")
    return count / found.seconds


def latencies(url: str, folder: Path) -> list[float]:
    """From append to stored position, in ms, COMMITS_PER_S a second."""
    folder.mkdir()
    with closing(Filled(folder / "steady", TOPIC, TOPIC, SCHEMA)) as filled:
        filled.append(rows(np.arange(1000)))
        with delivering(url, filled.log, folder) as watched:
            wait_for(watched, 1000)
            appended = [_steadily(filled, i) for i in paced(COMMITS_PER_S * SECONDS, COMMITS_PER_S)]
            wait_for(watched, 1000 + len(appended))
            ends, times = zip(*watched.stored, strict=True)
    at = np.searchsorted(np.array(ends), 1001 + np.arange(len(appended)))
    found: Any = (np.array(times)[at] - np.array(appended)) * 1e3
    return list(found[COMMITS_PER_S:])


def _steadily(filled: Filled, number: int) -> float:
    filled.append(rows(np.array([number % 1000], np.int64)))
    return time.perf_counter()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENTS
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        running = start_elasticsearch(folder / "server")
        try:
            measure(running.url, folder, count, running.version)
        finally:
            running.stop()


def measure(url: str, folder: Path, count: int, version: str) -> None:
    server = Server(url)
    bodies = ready_made(count)
    mean = sum(map(len, bodies)) / count
    print(f"Elasticsearch {version}, {count:,} documents, {mean:.0f} bytes each with `_id`")
    ceiling(server, bodies[: max(1, len(bodies) * WARM // count)], WARM)
    own, ready = [], []
    with closing(Filled(folder / "log", TOPIC, TOPIC, SCHEMA)) as filled:
        for batch in batches(count):
            filled.append(batch)
        for run in range(RUNS):
            ready.append(ceiling(server, bodies, count))
            own.append(load(url, filled.log, folder, count))
            print(f"run {run + 1}: {own[-1]:,.0f} of {ready[-1]:,.0f} docs/s", flush=True)
        whole = rebuilt(url, filled.log, folder, count)
    latencies(url, folder / "warm")
    waits = [latencies(url, folder / str(run)) for run in range(RUNS)]
    shares = tuple(100 * mine / best for mine, best in zip(own, ready, strict=True))
    report(
        [
            Figure("ready-made NDJSON, two threads", "docs/s", tuple(ready)),
            Figure("from the log through the sink", "docs/s", tuple(own)),
            Figure("share of the ceiling", "%", shares, ">= 60"),
            Figure("rebuild beside a live index", "docs/s", (whole,)),
            Figure("append -> stored p50", "ms", tuple(percentile(w, 0.5) for w in waits), "<= 40"),
            Figure("append -> stored p99", "ms", tuple(percentile(w, 0.99) for w in waits)),
            Figure("fdatasync p50", "ms", (fdatasync_p50_ms(folder),)),
        ]
    )


if __name__ == "__main__":
    main()
