"""Capture's rates beside the server's own tools, and its memory: `python -m bench.capture`.

stream      a backlog of 1M rows in transactions of 1,000, into the embedded log, against
            `pg_recvlogical` to /dev/null on the same backlog (each on a slot of its own)
snapshot    1M rows, from opening the source to the whole frontier, against COPY BINARY to
            /dev/null over the same connection method (psql)
memory      peak memory (PSS) of the agent and its workers together; also with one transaction of
            2M rows

A private Postgres with the settings of the tests; every side has one warm-up that does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.measure import Figure, fdatasync_p50_ms, report
from cdc.capture.agent import run_capture
from cdc.config import LogConfig
from cdc.log.open import open_log
from cdc.positions import Lsn
from cdc.postgres.source import PostgresSource
from tests.fix_capture import Capture
from tests.fix_services import PostgresServer, start_postgres

LOOK_EVERY_S = 0.2
"""Between two looks at memory: the kernel walks all pages for one, and stops the process for it."""

DDL = """CREATE TABLE bench_orders (
  id bigint PRIMARY KEY, customer_id int NOT NULL, amount numeric(12,2) NOT NULL,
  sku text NOT NULL, email text NOT NULL, note text, created_at timestamptz NOT NULL,
  paid boolean NOT NULL)"""
INSERT = """INSERT INTO bench_orders
SELECT g, (g*7919)%100000, ((g*37)%10000000)/100.0,
  'SKU-'||lpad(((g*31)%50000)::text,8,'0'), 'customer'||((g*7919)%100000)||'@mail.example.com',
  CASE WHEN g%10=0 THEN NULL ELSE 'note '||md5(g::text)||' '||left(md5((g+1)::text),20) END,
  timestamptz '2024-01-01 00:00:00+00' + (g||' seconds')::interval, g%3=0
FROM generate_series({first}::bigint, {last}::bigint) g"""
LOAD = f"""DO $$ DECLARE a bigint; BEGIN
FOR a IN SELECT generate_series(1, {{rows}}, 1000) LOOP
  {INSERT.format(first="a", last="a+999")}; COMMIT;
END LOOP; END $$"""


def run(server: PostgresServer, runs: int, rows: int, large: int) -> list[Figure]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        disk = fdatasync_p50_ms(Path(folder))
    figures = [Figure("fdatasync p50", "ms", (disk,))]
    figures += snapshot_figures(server, runs, rows)
    figures += stream_figures(server, runs, rows)
    figures.append(large_figure(server, large))
    return figures


def snapshot_figures(server: PostgresServer, runs: int, rows: int) -> list[Figure]:
    capture = _database(server)
    capture.sql(DDL, INSERT.format(first=1, last=rows), "VACUUM ANALYZE bench_orders", "CHECKPOINT")
    ours, peer, memory = [], [], []
    for number in range(runs + 1):
        copied_s = _timed(lambda: _copy(server, capture))
        agent_s, peak = _agent(capture, "snapshot", capture.folder / f"log{number}")
        capture.sql("SELECT pg_drop_replication_slot('snapshot')")
        if number:
            peer.append(rows / copied_s)
            ours.append(rows / agent_s)
            memory.append(peak)
    return [
        Figure("snapshot: COPY BINARY to /dev/null", "rows/s", tuple(peer)),
        Figure("snapshot into the embedded log", "rows/s", tuple(ours)),
        Figure("snapshot, share of COPY BINARY", "%", _shares(ours, peer), ">= 40"),
        Figure("snapshot, peak memory with workers", "MiB", tuple(memory), "< 400"),
    ]


def stream_figures(server: PostgresServer, runs: int, rows: int) -> list[Figure]:
    capture = _database(server)
    capture.sql(DDL)
    first = capture.folder / "log"
    _agent(capture, "agent", first)
    copied = [f"{who}{number}" for number in range(runs + 1) for who in ("peer", "agent")]
    for slot in copied:
        capture.sql(f"SELECT pg_copy_logical_replication_slot('agent', '{slot}')")
    capture.sql(LOAD.format(rows=rows), "VACUUM ANALYZE bench_orders", "CHECKPOINT")
    end = capture.barrier()
    capture.barrier()
    ours, peer, memory = [], [], []
    for number in range(runs + 1):
        received_s = _timed(lambda n=number: _receive(server, capture, f"peer{n}", end))  # type: ignore[misc]
        folder = capture.folder / f"log{number}"
        subprocess.run(["cp", "-r", str(first), str(folder)], check=True)
        agent_s, peak = _agent(capture, f"agent{number}", folder, end)
        if number:
            peer.append(rows / received_s)
            ours.append(rows / agent_s)
            memory.append(peak)
    capture.sql(*(f"SELECT pg_drop_replication_slot('{slot}')" for slot in ["agent", *copied]))
    return [
        Figure("stream: pg_recvlogical to /dev/null", "rows/s", tuple(peer)),
        Figure("stream into the embedded log", "rows/s", tuple(ours)),
        Figure("stream, share of pg_recvlogical", "%", _shares(ours, peer), ">= 85"),
        Figure("stream, peak memory", "MiB", tuple(memory), "< 400"),
    ]


def large_figure(server: PostgresServer, rows: int) -> Figure:
    capture = _database(server)
    capture.sql(DDL)
    _agent(capture, "large", capture.folder / "log")
    capture.sql(INSERT.format(first=1, last=rows))
    _, peak = _agent(capture, "large", capture.folder / "log", capture.barrier())
    return Figure(f"one transaction of {rows:,} rows, peak memory", "MiB", (peak,), "< 400")


def _shares(ours: list[float], peer: list[float]) -> tuple[float, ...]:
    return tuple(100 * a / b for a, b in zip(ours, peer, strict=True))


def _database(server: PostgresServer) -> Capture:
    folder = Path(tempfile.mkdtemp(prefix="cdc-bench-"))
    return Capture(server.url(server.new_database()), folder)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _copy(server: PostgresServer, capture: Capture) -> None:
    command = "COPY bench_orders TO STDOUT (FORMAT binary)"
    psql = [str(server.bin_dir / "psql"), "-q", capture.url, "-c", command]
    subprocess.run(psql, check=True, stdout=subprocess.DEVNULL)


def _receive(server: PostgresServer, capture: Capture, slot: str, end: Lsn) -> None:
    publication = capture.config.publication
    options = ["-o", "proto_version=1", "-o", f"publication_names={publication}"]
    program = str(server.bin_dir / "pg_recvlogical")
    subprocess.run(
        [program, "-d", capture.url, "--slot", slot, "--start", *options, "-f", "/dev/null",
         f"--endpos={end}", "--no-loop", "-F", "0"],
        check=True,
    )  # fmt: skip


def _agent(capture: Capture, slot: str, log: Path, until: Lsn | None = None) -> tuple[float, float]:
    """An agent in a process, until it has a whole frontier (at or after `until`): its seconds
    from the call of run_capture, and its peak memory in MiB, children included."""
    settings = [capture.url, str(capture.folder), slot, str(log), str(until or Lsn(0))]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.capture", "--agent", json.dumps(settings)],
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, _resident_mib(tree))
        time.sleep(LOOK_EVERY_S)
    assert process.stdout is not None and process.returncode == 0
    return float(process.stdout.read()), peak


def _resident_mib(tree: psutil.Process) -> float:
    total = 0
    try:
        for process in (tree, *tree.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return 0.0
    return total / 2**20


def agent(settings: list[str]) -> None:
    """The process of `_agent`: prints the seconds that it took."""
    url, folder, slot, log_folder, until = settings
    capture = Capture(url, Path(folder))
    config = replace(capture.config, slot=slot)
    log = open_log(LogConfig("embedded", Path(log_folder)))
    reached = threading.Event()

    def note(**facts: object) -> None:
        text = str(facts.get("position", ""))
        if "@" in text and Lsn.parse(text.split("@")[1]).covers(Lsn.parse(until)):
            reached.set()

    source = PostgresSource(config, Path(log_folder) / "state", note)
    began = time.perf_counter()
    ended: list[float] = []

    def stop() -> bool:
        if reached.is_set() and not ended:
            ended.append(time.perf_counter() - began)
        return reached.is_set()

    run_capture(source, log, config, stop, note)
    print(ended[0] if ended else time.perf_counter() - began)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--large", type=int, default=2_000_000)
    arguments.add_argument("--agent", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.agent:
        agent(json.loads(chosen.agent))
        return
    with tempfile.TemporaryDirectory(prefix="cdc-bench-pg-") as folder:
        server = start_postgres(Path(folder) / "data")
        try:
            report(run(server, chosen.runs, chosen.rows, chosen.large))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
