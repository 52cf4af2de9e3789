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
import subprocess
import tempfile
from pathlib import Path

from bench.agent import run_agent
from bench.measure import Figure, fdatasync_p50_ms, report
from bench.orders import DDL, INSERT, backlog, filled, new_database, receive, shares, timed
from cdc.config import LogConfig
from cdc.positions import NativePosition
from tests.fix_capture import Capture
from tests.fix_services import PostgresServer, start_postgres


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
    capture = new_database(server)
    filled(capture, rows)
    ours, peer, memory = [], [], []
    for number in range(runs + 1):
        copied_s = timed(lambda: _copy(server, capture))
        agent_s, peak = _agent(capture, "snapshot", capture.folder / f"log{number}")
        capture.sql("SELECT pg_drop_replication_slot('snapshot')")
        if number:
            peer.append(rows / copied_s)
            ours.append(rows / agent_s)
            memory.append(peak)
    return [
        Figure("snapshot: COPY BINARY to /dev/null", "rows/s", tuple(peer)),
        Figure("snapshot into the embedded log", "rows/s", tuple(ours)),
        Figure("snapshot, share of COPY BINARY", "%", shares(ours, peer), ">= 40"),
        Figure("snapshot, peak memory with workers", "MiB", tuple(memory), "< 400"),
    ]


def stream_figures(server: PostgresServer, runs: int, rows: int) -> list[Figure]:
    capture = new_database(server)
    capture.sql(DDL)
    first = capture.folder / "log"
    _agent(capture, "agent", first)
    copied = [f"{who}{number}" for number in range(runs + 1) for who in ("peer", "agent")]
    for slot in copied:
        capture.sql(f"SELECT pg_copy_logical_replication_slot('agent', '{slot}')")
    end = backlog(capture, rows)
    ours, peer, memory = [], [], []
    for number in range(runs + 1):
        received_s = timed(lambda n=number: receive(server, capture, f"peer{n}", end))  # type: ignore[misc]
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
        Figure("stream, share of pg_recvlogical", "%", shares(ours, peer), ">= 85"),
        Figure("stream, peak memory", "MiB", tuple(memory), "< 400"),
    ]


def large_figure(server: PostgresServer, rows: int) -> Figure:
    capture = new_database(server)
    capture.sql(DDL)
    _agent(capture, "large", capture.folder / "log")
    capture.sql(INSERT.format(first=1, last=rows))
    _, peak = _agent(capture, "large", capture.folder / "log", capture.barrier())
    return Figure(f"one transaction of {rows:,} rows, peak memory", "MiB", (peak,), "< 400")


def _copy(server: PostgresServer, capture: Capture) -> None:
    command = "COPY bench_orders TO STDOUT (FORMAT binary)"
    psql = [str(server.bin_dir / "psql"), "-q", capture.url, "-c", command]
    subprocess.run(psql, check=True, stdout=subprocess.DEVNULL)


def _agent(
    capture: Capture, slot: str, folder: Path, until: NativePosition | None = None
) -> tuple[float, float]:
    """Seconds and peak memory, workers included, of an agent into the log in `folder`."""
    run = run_agent(capture, slot, LogConfig("embedded", folder), until, look_at_workers=True)
    return run.seconds, run.with_workers_mib


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--large", type=int, default=2_000_000)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdc-bench-pg-") as folder:
        server = start_postgres(Path(folder) / "data")
        try:
            report(run(server, chosen.runs, chosen.rows, chosen.large))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
