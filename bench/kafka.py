"""Capture into Kafka beside Debezium and pg_recvlogical, and reading back: `python -m bench.kafka`.

stream      a backlog of 1M rows in transactions of 1,000: pg_recvlogical to /dev/null, Debezium,
            ours as Avro and as JSON, one after the other, each with a slot of its own
snapshot    1M rows: Debezium, ours as Avro and as JSON
read        the 1M records of such a backlog into change batches, by one process
latency     200 commits a second, from the moment the client is told "committed" to the moment a
            read_committed consumer holds the record

One private Postgres, one broker with a heap of 512 MiB, one Connect worker for each part (see
bench.debezium for how it is set up and counted). The first round of everything does not count.
Both rates count from the first record on; ours is also given from the call on, starting included,
and it is that one that stands beside pg_recvlogical's. Processor
seconds are the agent's with its workers, or the Connect JVM's; memory is the process's high-water
mark, and for our snapshot what is in use with its workers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, TopicPartition

from bench.agent import as_json, from_json, run_agent, running_agent
from bench.debezium import Peer, Run, connect_worker, kafka_broker
from bench.debezium import figures as measured
from bench.filled import paced
from bench.measure import Figure, cpu_s, fdatasync_p50_ms, percentile, report
from bench.orders import (
    DDL,
    INSERT,
    TABLE,
    backlog,
    filled,
    new_database,
    receive,
    shares,
    timed,
)
from cdc.config import Format, LogConfig
from cdc.log.open import open_log
from cdc.positions import NativePosition
from tests.fix_capture import SOURCE, Capture
from tests.fix_services import PostgresServer, start_postgres
from tests.services.kafka import Broker

FORMATS: tuple[Format, ...] = ("avro", "json")
TOPIC = f"{SOURCE}.{TABLE}"
COMMITS_PER_S = 200
SECONDS = 15
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Bench:
    server: PostgresServer
    broker: Broker
    folder: Path
    runs: int
    rows: int

    @property
    def rounds(self) -> range:
        """The first does not count."""
        return range(self.runs + 1)

    def log(self, name: str, form: Format) -> LogConfig:
        """A log of its own on the broker."""
        return LogConfig(
            "kafka",
            self.folder / name,
            bootstrap_servers=self.broker.bootstrap,
            topic_prefix=f"{name}.",
            format=form,
        )

    def agent(
        self,
        capture: Capture,
        name: str,
        form: Format,
        until: NativePosition | None = None,
        *,
        workers: bool,
    ) -> Run:
        """An agent over the slot `name` into the log `name`. `workers`: memory is theirs, too."""
        broker_pid = self.broker.process.pid
        broker_used_s = cpu_s(broker_pid)
        run = run_agent(capture, name, self.log(name, form), until, workers)
        return Run(
            run.rows_per_s,
            run.cpu_s,
            run.with_workers_mib if workers else run.peak_mib,
            cpu_s(broker_pid) - broker_used_s,
            self.rows / run.seconds,
        )


def stream_figures(bench: Bench) -> list[Figure]:
    """The same backlog, once for each side and round."""
    capture = new_database(bench.server)
    capture.sql(DDL)
    received: list[float] = []
    peers: list[Run] = []
    ours: dict[Format, list[Run]] = {form: [] for form in FORMATS}
    with connect_worker(bench.broker) as worker:
        peer = Peer(capture, worker, bench.broker)
        for number in bench.rounds:
            peer.prepare(f"stream{number}")
            for form in FORMATS:
                bench.agent(capture, f"{form}{number}", form, workers=False)
            slot = f"SELECT pg_create_logical_replication_slot('received{number}', 'pgoutput')"
            capture.sql(slot)
        end = backlog(capture, bench.rows)
        for number in bench.rounds:
            slot = f"received{number}"
            received_s = timed(lambda slot=slot: receive(bench.server, capture, slot, end))  # type: ignore[misc]
            received.append(bench.rows / received_s)
            peers.append(peer.stream(f"stream{number}", bench.rows))
            for form in FORMATS:
                run = bench.agent(capture, f"{form}{number}", form, end, workers=False)
                ours[form].append(run)
    _drop_slots(capture)
    figures = [Figure("stream: pg_recvlogical to /dev/null", "rows/s", tuple(received[1:]))]
    figures += measured("stream: Debezium", peers[1:])
    for form in FORMATS:
        name = f"stream: {form}"
        rates = [run.with_start for run in ours[form][1:]]
        figures += [
            *measured(name, ours[form][1:]),
            Figure(f"{name}, starting included", "rows/s", tuple(rates)),
            Figure(f"{name}, of pg_recvlogical", "%", shares(rates, received[1:]), ">= 75"),
            *against(name, ours[form][1:], peers[1:], ">= 2.2"),
        ]
    return figures


def snapshot_figures(bench: Bench) -> list[Figure]:
    """The same table, once for each side and round."""
    capture = new_database(bench.server)
    filled(capture, bench.rows)
    peers: list[Run] = []
    ours: dict[Format, list[Run]] = {form: [] for form in FORMATS}
    with connect_worker(bench.broker) as worker:
        peer = Peer(capture, worker, bench.broker)
        for number in bench.rounds:
            peers.append(peer.snapshot(f"snapshot{number}", bench.rows))
            for form in FORMATS:
                name = f"snapshot_{form}{number}"
                ours[form].append(bench.agent(capture, name, form, workers=True))
                _drop_slots(capture)
    figures = measured("snapshot: Debezium", peers[1:])
    for form in FORMATS:
        name = f"snapshot: {form}"
        figures += measured(name, ours[form][1:])
        rates = tuple(run.with_start for run in ours[form][1:])
        figures.append(Figure(f"{name}, starting included", "rows/s", rates))
        figures += against(name, ours[form][1:], peers[1:], ">= 6", bound=False)
    return figures


def against(
    name: str, ours: Sequence[Run], peers: Sequence[Run], faster: str, *, bound: bool = True
) -> list[Figure]:
    """Ours beside Debezium's, run by run; `bound`: what it uses has targets, too."""
    pairs = list(zip(ours, peers, strict=True))
    most = "<= 33" if bound else ""
    return [
        Figure(
            f"{name}, of Debezium's rate",
            "times",
            tuple(a.rows_per_s / b.rows_per_s for a, b in pairs),
            faster,
        ),
        Figure(
            f"{name}, of Debezium's processor",
            "%",
            tuple(100 * a.cpu_s / b.cpu_s for a, b in pairs),
            most,
        ),
        Figure(
            f"{name}, of Debezium's memory",
            "%",
            tuple(100 * a.peak_mib / b.peak_mib for a, b in pairs),
            most,
        ),
    ]


def read_figures(bench: Bench) -> list[Figure]:
    """A streamed backlog, read by a process that does nothing else."""
    capture = new_database(bench.server)
    capture.sql(DDL)
    for form in FORMATS:
        bench.agent(capture, f"read_{form}", form, workers=False)
    end = backlog(capture, bench.rows)
    figures = []
    for form in FORMATS:
        name = f"read_{form}"
        bench.agent(capture, name, form, end, workers=False)
        rates = _read(bench.log(name, form), bench.runs, bench.rows)
        figures.append(
            Figure(f"read: {form} into change batches", "msgs/s", tuple(rates), ">= 350000")
        )
    _drop_slots(capture)
    return figures


def _read(log: LogConfig, runs: int, rows: int) -> list[float]:
    settings = {"log": as_json(log), "runs": runs, "rows": rows}
    done = subprocess.run(
        [sys.executable, "-m", "bench.kafka", "--read", json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


def read(settings: dict[str, Any]) -> list[float]:
    """The process of `_read`: messages a second, after a first reading that does not count."""
    log = open_log(from_json(settings["log"]))
    reader = log.reader()
    rates = []
    for _ in range(settings["runs"] + 1):
        began_s = time.perf_counter()
        (end,) = reader.end_offsets(TOPIC)
        found = sum(batch.changes.num_rows for batch in reader.read(TOPIC, 0, 0, end))
        rates.append(found / (time.perf_counter() - began_s))
        assert found == settings["rows"], found
    reader.close()
    log.close()
    return rates[1:]


class Watcher(threading.Thread):
    """Notes when each record of the topic was there for a read_committed consumer."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__(name="watcher", daemon=True)
        self.seen_s: list[float] = []
        self.ended = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "bench-latency",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])

    def run(self) -> None:
        while not self.ended.is_set():
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                self.seen_s.append(time.perf_counter())
        self._consumer.close()

    def wait_for(self, count: int) -> None:
        deadline_s = time.perf_counter() + DEADLINE_S
        while len(self.seen_s) < count:
            if time.perf_counter() > deadline_s:
                raise TimeoutError(f"{len(self.seen_s)} of {count} records arrived")
            time.sleep(0.01)


def latency_figures(bench: Bench) -> list[Figure]:
    """One client's commits come in order, so the n-th record is the n-th commit's."""
    capture = new_database(bench.server)
    capture.sql(DDL, INSERT.format(first=1, last=1))
    watcher = Watcher(bench.broker.bootstrap, f"latency.{TOPIC}")
    waits = []
    with running_agent(capture, "latency", bench.log("latency", "avro")):
        watcher.start()
        watcher.wait_for(1)
        for number in bench.rounds:
            before, first = len(watcher.seen_s), 10_000_000 * (number + 1)
            told_s = commit_steadily(capture.url, first)
            watcher.wait_for(before + len(told_s))
            seen_s = watcher.seen_s[before:]
            waits.append([(b - a) * 1e3 for a, b in zip(told_s, seen_s, strict=True)])
        watcher.ended.set()
        watcher.join()
    _drop_slots(capture)
    counted = waits[1:]
    return [
        Figure("commit -> record p50", "ms", tuple(percentile(w, 0.5) for w in counted), "<= 20"),
        Figure("commit -> record p99", "ms", tuple(percentile(w, 0.99) for w in counted)),
        Figure("fdatasync p50 in the same folder", "ms", (fdatasync_p50_ms(bench.folder),)),
    ]


def commit_steadily(url: str, first: int) -> list[float]:
    """COMMITS_PER_S single-row transactions a second; when each was acknowledged."""
    told_s = []
    insert = INSERT.replace("%", "%%").format(first="%s", last="%s")
    with psycopg.connect(url, autocommit=True) as connection:
        for i in paced(COMMITS_PER_S * SECONDS, COMMITS_PER_S):
            connection.execute(insert.encode(), (first + i, first + i), prepare=True)
            told_s.append(time.perf_counter())
    return told_s


def _drop_slots(capture: Capture) -> None:
    """Those of one database."""
    capture.sql(
        """SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
           WHERE database = current_database()"""
    )


PARTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "stream": stream_figures,
    "snapshot": snapshot_figures,
    "read": read_figures,
    "latency": latency_figures,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--read", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.read:
        print(json.dumps(read(json.loads(chosen.read))))
        return
    with tempfile.TemporaryDirectory(prefix="cdc-bench-pg-") as name, kafka_broker() as broker:
        folder = Path(name)
        server = start_postgres(folder / "data")
        try:
            bench = Bench(server, broker, folder, chosen.runs, chosen.rows)
            for part in chosen.parts or PARTS:
                report(PARTS[part](bench))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
