"""The Redis sink: keys loaded from the embedded log, and how soon a commit is visible.

load      1M rows of 8 mixed columns as JSON texts of about 200 bytes, from a topic of the embedded
          log through the delivery loop, position included, into an empty server
latency   200 commits of one row a second, first into the log (the sink alone), then into Postgres
          with `cdc run` (capture, a view with a join, and the sink); until GET gives the row

.venv/bin/python -m bench.redis [load] [log] [postgres]
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psycopg
import redis

from bench.filled import Filled, paced
from bench.latency import (
    COMMITS_PER_S,
    CONNECTORS,
    FIRST_ID,
    RUNS,
    SECONDS,
    TABLES,
    commit_steadily,
)
from bench.measure import Figure, fdatasync_p50_ms, percentile, report
from bench.sinks import SCHEMA, rows
from cdc.config import LogConfig
from cdc.log.api import Log
from cdc.log.open import open_log
from demo.embedded_postgres import start_postgres
from demo.embedded_redis import start_redis
from sinks.api import SinkPosition
from sinks.delivery import Feed, deliver
from sinks.progress import Progress
from sinks.redis.layout import Settings
from sinks.redis.sink import RedisSink

ROWS = 1_000_000
BATCH_ROWS = 10_000
TOPIC = "shop.public.orders"
FEED = Feed("bench", (("shop.orders", TOPIC, "shop"),))
SETTINGS = Settings("json", "order:{id}")

CACHE = """
sinks:
  cache: {{type: redis, url: "{redis}", from: order_search, key: "order:{{id}}"}}
"""


class Stopping(Progress):
    """Knows whether the sink has come to an offset."""

    reached = 0

    def applied(self, position: SinkPosition, rows: int, took_s: float, span: int) -> None:
        super().applied(position, rows, took_s, span)
        self.reached = position.offsets[TOPIC][0] if position.chunk == 0 else 0


def load(url: str, log: Log, folder: Path) -> float:
    """Keys a second, from opening the sink until the last key and the position are stored."""
    progress = Stopping("bench", log, folder / "status.json")
    began_s = time.perf_counter()
    with closing(RedisSink("bench", url, SETTINGS)) as sink:
        deliver(sink, FEED, log, lambda: progress.reached >= ROWS, progress)
    return ROWS / (time.perf_counter() - began_s)


def serve(url: str, folder: Path) -> None:
    """The sink, in a process of its own."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    with closing(open_log(LogConfig("embedded", folder / "log"))) as log:
        progress = Progress("bench", log, folder / "status.json")
        with closing(RedisSink("bench", url, SETTINGS)) as sink:
            deliver(sink, FEED, log, lambda: bool(stopping), progress)


class Watcher(threading.Thread):
    """Asks Redis for one key after the other, and notes when each was there."""

    def __init__(self, url: str, first: int, count: int) -> None:
        super().__init__(name="watcher", daemon=True)
        self.seen_s: dict[int, float] = {}
        self._client, self._range = redis.Redis.from_url(url), range(first, first + count)

    def run(self) -> None:
        deadline_s = time.perf_counter() + SECONDS + 30
        for order in self._range:
            while not self._client.exists(f"order:{order}"):
                if time.perf_counter() > deadline_s:
                    return
                time.sleep(0.0005)
            self.seen_s[order] = time.perf_counter()


def append_steadily(filled: Filled, first: int) -> dict[int, float]:
    """COMMITS_PER_S appends of one row a second; when each was durable."""
    told_s: dict[int, float] = {}
    for i in paced(COMMITS_PER_S * SECONDS, COMMITS_PER_S):
        filled.append(rows(np.array([first + i], np.int64), i))
        told_s[first + i] = time.perf_counter()
    return told_s


def latencies(told_s: dict[int, float], watcher: Watcher) -> list[float]:
    """In ms."""
    watcher.join(60)
    missing = told_s.keys() - watcher.seen_s.keys()
    if missing:
        raise SystemExit(f"{len(missing)} orders never arrived")
    return [(watcher.seen_s[order] - at_s) * 1e3 for order, at_s in told_s.items()]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    running = start_redis(folder / "redis")
    try:
        yield running.url
    finally:
        running.stop("kill")


def measure_load(folder: Path) -> list[Figure]:
    with closing(Filled(folder / "log", "shop", TOPIC, SCHEMA)) as filled:
        ids = np.random.default_rng(1).permutation(ROWS).astype(np.int64)
        for start in range(0, ROWS, BATCH_ROWS):
            filled.append(rows(ids[start : start + BATCH_ROWS], start // BATCH_ROWS))
        found, size = [], 0
        for _ in range(RUNS):
            with server(folder) as url:
                found.append(load(url, filled.log, folder))
                with redis.Redis.from_url(url) as client:
                    size = client.strlen("order:17")
    print(f"one value has {size} bytes")
    return [Figure("Redis: keys loaded", "keys/s", tuple(found), ">= 150,000")]


def measure_log(folder: Path) -> list[Figure]:
    """The sink alone."""
    runs = []
    with server(folder) as url, closing(Filled(folder / "log", "shop", TOPIC, SCHEMA)) as filled:
        filled.append(rows(np.arange(10, dtype=np.int64), 0))
        process = get_context("spawn").Process(target=serve, args=(url, folder))
        process.start()
        try:
            for run in range(1 + RUNS):
                first = FIRST_ID * (1 + run)
                watcher = Watcher(url, first, COMMITS_PER_S * SECONDS)
                watcher.start()
                runs.append(latencies(append_steadily(filled, first), watcher))
        finally:
            process.terminate()
            process.join()
        disk_ms = fdatasync_p50_ms(folder)
    return _figures("append -> Redis", runs[1:], disk_ms)


def measure_postgres(folder: Path) -> list[Figure]:
    """The whole house."""
    runs = []
    postgres = start_postgres(folder / "postgres", major=18)
    url = postgres.url("postgres")
    with psycopg.connect(url) as connection:
        connection.execute(TABLES)
    with server(folder) as store:
        file = folder / "connectors.yaml"
        file.write_text(CONNECTORS.format(home=folder, url=url) + CACHE.format(redis=store))
        cdc = str(Path(sys.executable).with_name("cdc"))
        running = subprocess.Popen([cdc, "-f", str(file), "run"])
        try:
            with redis.Redis.from_url(store) as client:
                while client.dbsize() < 100_000:
                    if running.poll() is not None:
                        raise SystemExit("cdc run ended early")
                    time.sleep(0.2)
            for run in range(1 + RUNS):
                first = FIRST_ID * (1 + run)
                watcher = Watcher(store, first, COMMITS_PER_S * SECONDS)
                watcher.start()
                runs.append(latencies(commit_steadily(url, first), watcher))
            disk_ms = fdatasync_p50_ms(folder)
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(30)
            postgres.stop()
    return _figures("commit in Postgres -> view -> Redis", runs[1:], disk_ms)


def _figures(name: str, runs: list[list[float]], disk_ms: float) -> list[Figure]:
    return [
        Figure(f"{name}, p50", "ms", tuple(percentile(r, 0.5) for r in runs), "<= 20"),
        Figure(f"{name}, p99", "ms", tuple(percentile(r, 0.99) for r in runs), "<= 80"),
        Figure("fdatasync p50 in the same folder", "ms", (disk_ms,)),
    ]


MEASURES = {"load": measure_load, "log": measure_log, "postgres": measure_postgres}


def main() -> None:
    for name in sys.argv[1:] or MEASURES:
        with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder:
            report(MEASURES[name](Path(folder)))


if __name__ == "__main__":
    main()
