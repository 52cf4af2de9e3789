"""A snapshot: every row of the tables at the slot's consistent point, by parallel COPY.

1.  CREATE_REPLICATION_SLOT exports a snapshot: the state of the database exactly at the slot's
    consistent point. Everything committed later comes through the slot: no gap, no overlap.
2.  A coordinating transaction imports it, locks the tables against DDL and reads the catalog;
    worker processes import it too (snapshot_worker.py).
3.  Large tables are cut into ranges of pages; workers take one range after the other. Until they
    have started, the coordinating connection does.
4.  One thread per worker moves finished Arrow rows from its pipe into one bounded queue; the
    agent takes pieces from there. A slow agent fills the queue, then the pipes, then COPY waits.
5.  Pieces are progress, never a cut; the last one, without rows, is whole.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, R
from cdc.errors import CdcError, SourceError, SourceUnavailable
from cdc.positions import Lsn
from cdc.postgres.catalog import PgTable
from cdc.postgres.connection import Connection, source_errors
from cdc.postgres.snapshot_worker import (
    DONE,
    ERROR,
    HEAD,
    LOCKED_OUT,
    READY,
    ROWS,
    Assignment,
    CopyTable,
    Range,
    copy_rows,
)
from cdc.schema import TableSchema
from cdc.source import Piece

RANGE_PAGES = 1024
QUEUE_PIECES = 4
PIPE_BYTES = 2**20
_ESTIMATED_ROW_BYTES = 100


@dataclass(frozen=True)
class SnapshotPlan:
    """What to read: tables at `position` through the exported `snapshot`."""

    url: str
    snapshot: str
    position: Lsn
    tables: Mapping[str, PgTable]
    schemas: Mapping[str, TableSchema]


@dataclass
class Worker:
    """One worker and its pipes. `process` was started first and leads the group of all."""

    process: subprocess.Popen[bytes]
    stdin: BinaryIO
    stdout: BinaryIO


Progress = Callable[..., None]


@dataclass(frozen=True)
class _Done:
    part: Range


@dataclass
class SnapshotReader:
    """Runs the workers; `pieces` yields what they read. Close it in any case."""

    plan: SnapshotPlan
    progress: Progress
    workers: Sequence[Worker]
    holder: Connection
    _ready: threading.Event = field(default_factory=threading.Event)
    _tables: dict[str, CopyTable] = field(default_factory=dict)
    _queue: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(QUEUE_PIECES))
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def pieces(self, max_piece_bytes: int) -> Iterator[Piece]:
        """All rows, in pieces that are not whole, numbered from ordinal 0. `holder` reads until
        the first worker has imported the snapshot and locked the tables; to the end, if none of
        them gets the locks."""
        self._tables = {
            name: CopyTable(
                self.plan.schemas[name], table.quoted, {c.name: c.kind for c in table.columns}
            )
            for name, table in self.plan.tables.items()
        }
        parts = list(cut_into_ranges(self.plan.tables.values()))
        ranges: queue.SimpleQueue[Range] = queue.SimpleQueue()
        for part in parts:
            ranges.put(part)
        assignment = pickle.dumps(Assignment(self.plan.url, self.plan.snapshot, self._tables))
        for worker in self.workers:
            self._start(self._move, worker, assignment, ranges)
        self._start(self._read_here, ranges)
        yield from self._collect(parts, max_piece_bytes)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _collect(self, parts: Sequence[Range], max_piece_bytes: int) -> Iterator[Piece]:
        done_rows = dict.fromkeys(self.plan.tables, 0)
        left = Counter(part.table for part in parts)
        ordinal, size = 0, 0
        commit_us = time.time_ns() // 1000
        held: list[tuple[str, ChangeBatch]] = []
        while left.total():
            try:
                item = self._queue.get(timeout=1.0)
            except queue.Empty:  # so that the agent can stop
                yield self._piece(())
                continue
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, _Done):
                name = item.part.table
                left[name] -= 1
                self._report(name, done_rows[name], left[name] == 0)
                continue
            name, rows = item
            held.append((name, self._batch(name, rows, ordinal, commit_us)))
            ordinal += rows.num_rows
            size += rows.nbytes
            done_rows[name] += rows.num_rows
            if size >= max_piece_bytes:
                self._report(name, done_rows[name], False)
                yield self._piece(held)
                held, size = [], 0
        if held:
            yield self._piece(held)

    def _report(self, table: str, rows: int, done: bool) -> None:
        estimated = max(self.plan.tables[table].rows, rows)
        self.progress(
            table=table,
            table_rows=rows,
            table_rows_total=rows if done else estimated,
            table_done=done,
        )

    def _batch(self, name: str, rows: pa.RecordBatch, ordinal: int, commit_us: int) -> ChangeBatch:
        count = rows.num_rows
        return ChangeBatch(
            self.plan.schemas[name],
            np.full(count, R, np.uint8),
            np.zeros(count, np.int64),
            np.arange(ordinal, ordinal + count, dtype=np.int64),
            np.full(count, commit_us, np.int64),
            rows,
        )

    def _piece(self, held: Sequence[tuple[str, ChangeBatch]]) -> Piece:
        return Piece(
            tuple(held), 0, self.plan.position, 0, whole=False, incomplete=tuple(self.plan.tables)
        )

    def _move(self, worker: Worker, assignment: bytes, ranges: queue.SimpleQueue[Range]) -> None:
        """One worker's thread: hand it ranges, and its rows to the queue."""
        try:
            worker.stdin.write(assignment)
            worker.stdin.flush()
            kind, body = _receive(worker)
            if kind == LOCKED_OUT:
                return
            if kind != READY:
                raise _error_of(kind, body)
            self._ready.set()
            while (part := self._next(ranges)) is not None:
                pickle.dump(part, worker.stdin)
                worker.stdin.flush()
                self._one_range(worker, part)
        except BaseException as error:
            self._put(error)

    def _read_here(self, ranges: queue.SimpleQueue[Range]) -> None:
        """Read on the connection that has the locks, as long as no worker does."""
        try:
            while not self._ready.is_set() and (part := self._next(ranges)) is not None:
                with source_errors(self.plan.url):
                    for rows in copy_rows(self.holder, self._tables[part.table], part):
                        self._put((part.table, rows))
                self._put(_Done(part))
        except BaseException as error:
            self._put(error)

    def _next(self, ranges: queue.SimpleQueue[Range]) -> Range | None:
        with suppress(queue.Empty):
            return None if self._stopping.is_set() else ranges.get_nowait()
        return None

    def _one_range(self, worker: Worker, part: Range) -> None:
        schema = self.plan.schemas[part.table].arrow
        while True:
            kind, body = _receive(worker)
            if kind == DONE:
                self._put(_Done(part))
                return
            if kind != ROWS:
                raise _error_of(kind, body)
            self._put((part.table, pa.ipc.read_record_batch(body, schema)))

    def _put(self, item: object) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self._stopping.set()
        end_workers(self.workers)
        for thread in self._threads:
            thread.join()


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
    if not count:
        return []
    commands, answers = [os.pipe() for _ in range(count)], [_wide_pipe() for _ in range(count)]
    theirs = [(c[0], a[1]) for c, a in zip(commands, answers, strict=True)]
    pairs = [f"{inward},{outward}" for inward, outward in theirs]
    process = subprocess.Popen(
        [sys.executable, "-m", "cdc.postgres.snapshot_worker", *pairs],
        pass_fds=[descriptor for pair in theirs for descriptor in pair],
        process_group=0,
    )
    for descriptor in (d for pair in theirs for d in pair):
        os.close(descriptor)
    return [
        Worker(process, open(c[1], "wb"), open(a[0], "rb"))
        for c, a in zip(commands, answers, strict=True)
    ]


def _wide_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # Best effort: rows come in megabytes, and 64 KiB a turn costs a turn of every thread.
        with suppress(OSError):
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def _receive(worker: Worker) -> tuple[bytes, pa.Buffer]:
    head = worker.stdout.read(HEAD.size)
    if len(head) < HEAD.size:
        raise SourceUnavailable(
            "a snapshot worker ended before its work",
            hint="was it killed for memory? lower snapshot_workers",
        )
    kind, length = HEAD.unpack(head)
    body = bytearray(length)
    view, at = memoryview(body), 0
    while at < length:
        count = worker.stdout.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            raise SourceUnavailable("a snapshot worker ended in the middle of a message")
        at += count
    return kind, pa.py_buffer(body)


def _error_of(kind: bytes, body: pa.Buffer) -> CdcError:
    if kind != ERROR:
        return SourceError(f"a snapshot worker answered {kind!r}")
    error, what, where, hint = pickle.loads(body)
    found: CdcError = error(what, where=where, hint=hint)
    return found


def end_workers(workers: Sequence[Worker]) -> None:
    """End the processes, whatever they are doing. More than once does no harm."""
    for process in {worker.process for worker in workers}:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for worker in workers:
        worker.stdout.close()
        with suppress(BrokenPipeError):
            worker.stdin.close()
