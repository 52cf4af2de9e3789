"""The SQL sinks alone: cuts from memory into DuckDB and Postgres, position included.

1M rows of 8 mixed columns (bigint, int, numeric, 3 texts, timestamptz, bool) are loaded, then cuts
of 10,000 updates on shuffled keys, and cuts of one row, are applied to them.

Then the same million is put into a log and the sink rebuilt from offset zero: once where nothing
was, once beside the live one, comparison and swap included.

    .venv/bin/python -m bench.sinks
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import sqlalchemy as sa

from bench.filled import Filled
from bench.measure import Figure, fdatasync_p50_ms, percentile, report
from cdc.changes import Int64s
from cdc.config import Config, LogConfig, Place, SinkConfig, SourceConfig, StateConfig
from cdc.positions import Lsn, Vector
from cdc.schema import Column, TableSchema
from demo.embedded_postgres import start_postgres
from sinks.api import InputChanges, SinkCut, SinkInput, SinkPosition
from sinks.part import PART
from sinks.sql.duckdb_store import DuckDbStore
from sinks.sql.postgres_store import PostgresStore
from sinks.sql.session import Store
from sinks.sql.sink import SqlSink
from tests.sink_feed import no_letters

ROWS = 1_000_000
CUT_ROWS = 10_000
CUTS = 10
RUNS = 3
LOG_BATCH_ROWS = 50_000

SCHEMA = TableSchema(
    "public.orders",
    (
        Column("id", pa.int64(), "bigint", nullable=False),
        Column("quantity", pa.int32(), "integer"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("customer", pa.string(), "text"),
        Column("status", pa.string(), "text"),
        Column("note", pa.string(), "text"),
        Column("at", pa.timestamp("us", "UTC"), "timestamp with time zone"),
        Column("paid", pa.bool_(), "boolean"),
    ),
    ("id",),
)
INPUT = SinkInput("shop.orders", "shop.public.orders", SCHEMA)
NAMES = pa.array([f"customer number {i} of the shop" for i in range(5000)])
NOTES = pa.array([f"please leave the parcel at door {i}, thank you" for i in range(5000)])
STATES = pa.array(["new", "paid", "sent", "returned"])


def rows(ids: Int64s, salt: int) -> pa.RecordBatch:
    mixed = ids * 2654435761 + salt
    cents = np.zeros((len(ids), 2), np.int64)
    cents[:, 0] = mixed % 10_000_000
    amounts = pa.Array.from_buffers(pa.decimal128(12, 2), len(ids), [None, pa.py_buffer(cents)])
    columns = [
        pa.array(ids),
        pa.array((mixed % 9).astype(np.int32)),
        amounts,
        NAMES.take(pa.array(mixed % 5000)),
        STATES.take(pa.array(mixed % 4)),
        NOTES.take(pa.array((mixed + 7) % 5000)),
        pa.array(1_700_000_000_000_000 + mixed % 10**12).cast(pa.timestamp("us", "UTC")),
        pa.array(mixed % 2 == 0),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA.arrow)


def cut(upserts: pa.RecordBatch, number: int) -> SinkCut:
    keys = upserts.slice(0, 0).select(["id"])
    position = SinkPosition(
        Vector.of({"shop": Lsn(number)}), {INPUT.topic: (number,)}, {INPUT.topic: "g"}
    )
    offsets = np.zeros(upserts.num_rows, np.int64)
    return SinkCut((InputChanges(INPUT, upserts, keys, offsets, offsets[:0]),), position)


def measure(store: Store) -> tuple[float, float, float]:
    """Rows/s of the first load, rows/s of update cuts, and the median of one-row cuts in ms."""
    random = np.random.default_rng(1)
    with closing(SqlSink("bench", store)) as sink:
        sink.open([INPUT])
        loaded = rows(random.permutation(ROWS).astype(np.int64), 0)
        load_s = _timed(sink, replace(cut(loaded, 1), first_load=True))
        updates_s = sum(
            _timed(sink, cut(rows(_some(random, CUT_ROWS), n), n)) for n in range(2, 2 + CUTS)
        )
        single_s = [_timed(sink, cut(rows(_some(random, 1), n), n)) for n in range(100, 120)]
    return ROWS / load_s, CUTS * CUT_ROWS / updates_s, percentile(single_s, 0.5) * 1e3


def _some(random: np.random.Generator, count: int) -> Int64s:
    return random.choice(ROWS, count, replace=False).astype(np.int64)


def _timed(sink: SqlSink, what: SinkCut) -> float:
    began = time.perf_counter()
    sink.apply(what, no_letters)
    return time.perf_counter() - began


def measure_rebuilds(folder: Path, url: str) -> tuple[float, float]:
    """Rows/s of a rebuild where nothing was, and of one beside the live sink."""
    config = _config(folder, url)
    with closing(Filled(config.log.path, "shop", INPUT.topic, SCHEMA)) as filled:
        ids = np.random.default_rng(1).permutation(ROWS).astype(np.int64)
        for start in range(0, ROWS, LOG_BATCH_ROWS):
            filled.append(rows(ids[start : start + LOG_BATCH_ROWS], 0))
        first, second = (
            PART.rebuild(config, "bench", filled.log, lambda: False, lambda facts: None).seconds
            for _ in range(2)
        )
    return ROWS / first, ROWS / second


def _config(folder: Path, url: str) -> Config:
    place = Place("bench", 1, 1)
    source = SourceConfig("shop", "postgres", "", ("public.*",), "initial", "s", "p", place)
    sink = SinkConfig("bench", "sql", url, (INPUT.name,), place)
    log = LogConfig("embedded", folder / "log")
    state = StateConfig(folder / "state")
    file = folder / "connectors.yaml"
    return Config(file, log, state, {"shop": source}, {}, {"bench": sink})


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as name:
        folder = Path(name)
        print(f"fdatasync p50 {fdatasync_p50_ms(folder):.2f} ms")
        found = [measure(DuckDbStore(folder / f"{run}.duckdb")) for run in range(RUNS)]
        _print("DuckDB", found)
        _print_rebuilds("DuckDB", [measure_rebuilds(folder / "duck", "duckdb:///r.duckdb")])
        server = start_postgres(folder / "postgres")
        try:
            found = [measure(PostgresStore(_fresh(server.url("postgres"), r))) for r in range(RUNS)]
            url = _fresh(server.url("postgres"), RUNS).render_as_string(hide_password=False)
            rebuilds = [measure_rebuilds(folder / "pg", url)]
        finally:
            server.stop()
        _print("Postgres", found)
        _print_rebuilds("Postgres", rebuilds)


def _fresh(url: str, run: int) -> sa.URL:
    """A new database of the server."""
    name = f"bench{run}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return sa.make_url(url).set(database=name)


def _print(kind: str, found: list[tuple[float, float, float]]) -> None:
    loads, updates, singles = zip(*found, strict=True)
    report(
        [
            Figure(f"{kind}: first load", "rows/s", tuple(loads)),
            Figure(f"{kind}: cuts of {CUT_ROWS:,} updates into 1M", "rows/s", tuple(updates)),
            Figure(f"{kind}: cut of one row, p50", "ms", tuple(singles)),
        ]
    )


def _print_rebuilds(kind: str, found: list[tuple[float, float]]) -> None:
    firsts, seconds = zip(*found, strict=True)
    report(
        [
            Figure(f"{kind}: rebuild of {ROWS:,} where nothing was", "rows/s", tuple(firsts)),
            Figure(f"{kind}: rebuild of {ROWS:,} beside the live", "rows/s", tuple(seconds)),
        ]
    )


if __name__ == "__main__":
    main()
