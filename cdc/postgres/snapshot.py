"""A snapshot: every row of the tables at the slot's consistent point, by parallel COPY.

1.  CREATE_REPLICATION_SLOT exports a snapshot: the state of the database exactly at the slot's
    consistent point. Everything committed later comes through the slot: no gap, no overlap.
2.  A coordinating transaction imports it, locks the tables against DDL and reads the catalog;
    worker processes import it too (snapshot_worker.py).
3.  Large tables are cut into ranges of pages; workers take one range after the other. Until they
    have started, the coordinating connection does.
4.  Their rows become pieces (cdc/snapshot_pieces.py): progress, never a cut. The last one, without
    rows, is whole.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cdc.errors import SourceError
from cdc.positions import Lsn
from cdc.postgres.catalog import PgTable
from cdc.postgres.connection import Connection, source_errors
from cdc.postgres.snapshot_worker import (
    DONE,
    LOCKED_OUT,
    READY,
    ROWS,
    Assignment,
    CopyTable,
    Range,
    copy_rows,
)
from cdc.schema import TableSchema
from cdc.snapshot_pieces import SnapshotPieces
from cdc.source import Piece, Progress
from cdc.worker_processes import Worker, end_workers, launch

RANGE_PAGES = 1024
WORKER_MODULE = "cdc.postgres.snapshot_worker"


@dataclass(frozen=True)
class SnapshotPlan:
    """What to read: tables at `position` through the exported `snapshot`."""

    url: str
    snapshot: str
    position: Lsn
    tables: Mapping[str, PgTable]
    schemas: Mapping[str, TableSchema]


@dataclass
class SnapshotReader:
    """Runs the workers; `pieces` yields what they read. Close it in any case."""

    plan: SnapshotPlan
    progress: Progress
    workers: Sequence[Worker]
    holder: Connection
    _ready: threading.Event = field(default_factory=threading.Event)
    _tables: dict[str, CopyTable] = field(default_factory=dict)
    _left: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pieces: SnapshotPieces | None = None

    def pieces(self, max_piece_bytes: int) -> Iterator[Piece]:
        """All rows, in pieces that are not whole, numbered from ordinal 0. `holder` reads until
        the first worker has imported the snapshot and locked the tables; to the end, if none of
        them gets the locks."""
        plan = self.plan
        self._tables = {
            name: CopyTable(
                plan.schemas[name], table.quoted, {c.name: c.kind for c in table.columns}
            )
            for name, table in plan.tables.items()
        }
        parts = list(cut_into_ranges(plan.tables.values()))
        self._left = Counter(part.table for part in parts)
        ranges: queue.SimpleQueue[Range] = queue.SimpleQueue()
        for part in parts:
            ranges.put(part)
        estimates = {name: table.rows for name, table in plan.tables.items()}
        pieces = SnapshotPieces(plan.position, plan.schemas, estimates, self.progress)
        self._pieces = pieces
        assignment = Assignment(plan.url, plan.snapshot, self._tables)
        for worker in self.workers:
            pieces.start(self._move, worker, assignment, ranges, pieces)
        pieces.start(self._read_here, ranges, pieces)
        yield from pieces.pieces(max_piece_bytes)

    def _move(
        self,
        worker: Worker,
        assignment: Assignment,
        ranges: queue.SimpleQueue[Range],
        pieces: SnapshotPieces,
    ) -> None:
        """One worker's thread: hand it ranges, and its rows on."""
        worker.send(assignment)
        kind, _ = worker.receive()
        if kind == LOCKED_OUT:
            return
        if kind != READY:
            raise SourceError(f"a snapshot worker answered {kind!r}")
        self._ready.set()
        while (part := _next(ranges, pieces)) is not None:
            worker.send(part)
            schema = self.plan.schemas[part.table].arrow
            while (answer := worker.receive())[0] == ROWS:
                pieces.put_rows(part.table, pa.ipc.read_record_batch(answer[1], schema))
            if answer[0] != DONE:
                raise SourceError(f"a snapshot worker answered {answer[0]!r}")
            self._done(part, pieces)

    def _read_here(self, ranges: queue.SimpleQueue[Range], pieces: SnapshotPieces) -> None:
        """Read on the connection that has the locks, as long as no worker does."""
        while not self._ready.is_set() and (part := _next(ranges, pieces)) is not None:
            with source_errors(self.plan.url):
                for rows in copy_rows(self.holder, self._tables[part.table], part):
                    pieces.put_rows(part.table, rows)
            self._done(part, pieces)

    def _done(self, part: Range, pieces: SnapshotPieces) -> None:
        with self._lock:
            self._left[part.table] -= 1
            pieces.put_done(part.table, not self._left[part.table])

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        if self._pieces is not None:
            self._pieces.stop()
        end_workers(self.workers)
        if self._pieces is not None:
            self._pieces.close()


def _next(ranges: queue.SimpleQueue[Range], pieces: SnapshotPieces) -> Range | None:
    with suppress(queue.Empty):
        return None if pieces.stopping else ranges.get_nowait()
    return None


def cut_into_ranges(tables: Sequence[PgTable] | Any) -> Iterator[Range]:
    """Ranges of all tables, the largest tables first. The last range of a table has no end: the
    table may have grown since its pages were counted."""
    for table in sorted(tables, key=lambda t: -t.pages):
        starts = range(0, max(table.pages, 1), RANGE_PAGES)
        for start in starts:
            last = start + RANGE_PAGES >= table.pages
            yield Range(table.name, start, None if last else start + RANGE_PAGES)


def launch_workers(count: int) -> list[Worker]:
    """Worker processes without an assignment. Their start takes longer than making the slot, so
    launch them before."""
    return launch(WORKER_MODULE, count)
