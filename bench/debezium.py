"""Debezium's rates into Kafka, the peer of capture: `python -m bench.debezium`.

snapshot    1M rows, from the connector's creation
stream      a backlog of 1M rows in transactions of 1,000, from the moment a stopped connector is
            resumed

Everything runs here: a private Postgres, a broker, and one Kafka Connect worker with a heap of
1 GiB. The records are JSON without schemas, the smallest that Connect's own converters write. The
connector has large batches and queues, its producer waits for large requests and compresses them:
settings that were fastest when they were tried.

A connector's first second goes into starting it, so its rate counts from its first record on; its
processor seconds and memory are the whole JVM's, from the command on. One connector runs at a time;
a first round warms the JVM up and does not count; every run is ended with its connector, slot and
publication, and its records are counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.measure import Figure, cpu_s, peak_rss_mib, report, reset_peak_rss
from bench.orders import DDL, TABLE, backlog, filled, new_database
from tests.fix_capture import Capture
from tests.fix_services import PostgresServer, start_postgres
from tests.services.connect import ConnectWorker, Debezium, start_connect
from tests.services.debezium import converters, debezium_settings
from tests.services.kafka import Broker, start_kafka

HEAP = "1g"
DEADLINE_S = 600.0
LOOK_EVERY_S = 0.02

SETTINGS = {
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "snapshot.fetch.size": "20000",
    "decimal.handling.mode": "string",
    "heartbeat.interval.ms": "0",
    "producer.override.linger.ms": "50",
    "producer.override.batch.size": "1000000",
    "producer.override.buffer.memory": "134217728",
    "producer.override.compression.type": "lz4",
}


@dataclass(frozen=True)
class Run:
    """`rows_per_s` from the first record on, `cpu_s` and `peak_mib` of the whole process; beside
    it, what the broker used of the processor. `with_start` is the rate from the call on."""

    rows_per_s: float
    cpu_s: float
    peak_mib: float
    broker_cpu_s: float
    with_start: float = 0.0


@dataclass
class Peer:
    """Debezium over one database's table."""

    capture: Capture
    worker: ConnectWorker
    broker: Broker
    waiting: dict[str, Debezium] = field(default_factory=dict)

    def prepare(self, name: str) -> None:
        """A connector that has read the empty table and is stopped: `stream` lets it go on."""
        connector = self._create(name)
        connector.caught_up()
        self.worker.stop_connector(name)
        self.waiting[name] = connector

    def stream(self, name: str, rows: int) -> Run:
        """Let a prepared connector publish a backlog of `rows`."""
        run = self._measured(name, rows, lambda: self.worker.resume(name))
        self._remove(self.waiting.pop(name))
        return run

    def snapshot(self, name: str, rows: int) -> Run:
        """Let a new connector publish a table of `rows`."""
        run = self._measured(name, rows, lambda: void(self._create(name)))
        self._remove(Debezium(self.worker, name, self.capture.url))
        return run

    def _create(self, name: str) -> Debezium:
        connector = Debezium(self.worker, name, self.capture.url)
        settings = debezium_settings(self.capture.url, [TABLE], name, connector.slot)
        self.worker.create(name, settings | converters("json") | SETTINGS)
        return connector

    def _remove(self, connector: Debezium) -> None:
        self.worker.delete(connector.name)
        connector.remove()

    def _measured(self, name: str, rows: int, begin: Callable[[], None]) -> Run:
        pid, broker_pid = self.worker.pid, self.broker.process.pid
        reset_peak_rss(pid)
        used_s, broker_used_s = cpu_s(pid), cpu_s(broker_pid)
        with topic_records(self.broker, f"{name}.{TABLE}") as count:
            begin()
            first, first_s = wait_for(count, 1)
            last, last_s = wait_for(count, rows)
        assert last == rows, f"{last} records of {rows} rows"
        return Run(
            (last - first) / (last_s - first_s),
            cpu_s(pid) - used_s,
            peak_rss_mib(pid),
            cpu_s(broker_pid) - broker_used_s,
        )


def void(_: object) -> None: ...


@contextmanager
def topic_records(broker: Broker, topic: str) -> Iterator[Callable[[], int]]:
    """How many records a topic of one partition has had; 0 before it exists."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "bench"})

    def count() -> int:
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=5)[1])
        except KafkaException:
            return 0

    try:
        yield count
    finally:
        consumer.close()


def wait_for(count: Callable[[], int], least: int) -> tuple[int, float]:
    """The first count of at least `least`, and when it was seen."""
    deadline_s = time.perf_counter() + DEADLINE_S
    while (found := count()) < least:
        if time.perf_counter() > deadline_s:
            raise TimeoutError(f"{found} of {least} records after {DEADLINE_S:g} s")
        time.sleep(LOOK_EVERY_S)
    return found, time.perf_counter()


@contextmanager
def kafka_broker() -> Iterator[Broker]:
    """An empty broker."""
    with tempfile.TemporaryDirectory(prefix="cdc-bench-kafka-") as folder:
        broker = start_kafka(Path(folder))
        try:
            yield broker
        finally:
            broker.stop()


@contextmanager
def connect_worker(broker: Broker) -> Iterator[ConnectWorker]:
    """A worker as the recipe has it."""
    with tempfile.TemporaryDirectory(prefix="cdc-bench-connect-") as folder:
        worker = start_connect(Path(folder), broker.bootstrap, HEAP, offset_flush_ms=5000, jvm=())
        try:
            yield worker
        finally:
            worker.stop()


def stream_runs(peer: Peer, runs: int, rows: int) -> list[Run]:
    """Runs over one backlog; the first does not count."""
    peer.capture.sql(DDL)
    names = [f"stream{number}" for number in range(runs + 1)]
    for name in names:
        peer.prepare(name)
    backlog(peer.capture, rows)
    return [peer.stream(name, rows) for name in names][1:]


def snapshot_runs(peer: Peer, runs: int, rows: int) -> list[Run]:
    """Runs over one table; the first does not count."""
    filled(peer.capture, rows)
    return [peer.snapshot(f"snapshot{number}", rows) for number in range(runs + 1)][1:]


def figures(name: str, runs: Sequence[Run]) -> list[Figure]:
    """What was measured of one side."""
    return [
        Figure(name, "rows/s", tuple(run.rows_per_s for run in runs)),
        Figure(f"{name}, processor", "CPU-s", tuple(run.cpu_s for run in runs)),
        Figure(f"{name}, the broker's processor", "CPU-s", tuple(r.broker_cpu_s for r in runs)),
        Figure(f"{name}, peak memory", "MiB", tuple(run.peak_mib for run in runs)),
    ]


def run(server: PostgresServer, broker: Broker, runs: int, rows: int) -> list[Figure]:
    """All figures; a worker of its own for each part."""
    found = []
    for what, part in (("snapshot", snapshot_runs), ("stream", stream_runs)):
        with connect_worker(broker) as worker:
            peer = Peer(new_database(server), worker, broker)
            found += figures(f"{what}: Debezium", part(peer, runs, rows))
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdc-bench-pg-") as folder, kafka_broker() as broker:
        server = start_postgres(Path(folder) / "data")
        try:
            report(run(server, broker, chosen.runs, chosen.rows))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
