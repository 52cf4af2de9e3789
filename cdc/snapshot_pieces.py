"""Rows of a snapshot, as they come from its workers, put together into pieces for the agent.

One thread per worker moves what comes from its pipe into one bounded queue; the agent takes pieces
from there. A slow agent fills the queue, then the pipes, then the database waits. Pieces are
progress, never a cut: they are not whole, and all tables stay incomplete.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, R
from cdc.positions import NativePosition
from cdc.schema import TableSchema
from cdc.source import Piece, Progress

QUEUE_PIECES = 4


@dataclass(frozen=True)
class RangeDone:
    """A range of a table is read; `table_done`: it was the table's last."""

    table: str
    table_done: bool


@dataclass
class SnapshotPieces:
    """What a snapshot's threads put in and its agent takes out. `estimates`: rows per table.

    Threads are started by `start`, end with `stopping`, and put their error in like anything else.
    """

    position: NativePosition
    schemas: Mapping[str, TableSchema]
    estimates: Mapping[str, int]
    progress: Progress
    ordinal: int = 0
    _queue: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(QUEUE_PIECES))
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` in a thread; what it raises ends the snapshot."""

        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self._put(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)

    def put_rows(self, table: str, rows: pa.RecordBatch) -> None:
        self._put((table, rows))

    def put_done(self, table: str, table_done: bool) -> None:
        self._put(RangeDone(table, table_done))

    def _put(self, item: object) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return

    def pieces(self, max_piece_bytes: int) -> Iterator[Piece]:
        """All rows until every table is done, numbered from `ordinal` on; an empty piece at least
        every second."""
        left = set(self.schemas)
        rows_of = dict.fromkeys(self.schemas, 0)
        commit_us = time.time_ns() // 1000
        held: list[tuple[str, ChangeBatch]] = []
        size = 0
        while left:
            try:
                item = self._queue.get(timeout=1.0)
            except queue.Empty:  # so that the agent can stop
                yield self._piece(())
                continue
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, RangeDone):
                if item.table_done:
                    left.discard(item.table)
                self._report(item.table, rows_of[item.table], item.table_done)
                continue
            name, rows = item
            held.append((name, self._batch(name, rows, commit_us)))
            size += rows.nbytes
            rows_of[name] += rows.num_rows
            if size >= max_piece_bytes:
                self._report(name, rows_of[name], False)
                yield self._piece(held)
                held, size = [], 0
        if held:
            yield self._piece(held)

    def close(self) -> None:
        """End the threads; their workers must have ended before, or they wait for them."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Take nothing more in."""
        self._stopping.set()

    def _report(self, table: str, rows: int, done: bool) -> None:
        estimated = max(self.estimates[table], rows)
        self.progress(
            table=table,
            table_rows=rows,
            table_rows_total=rows if done else estimated,
            table_done=done,
        )

    def _batch(self, name: str, rows: pa.RecordBatch, commit_us: int) -> ChangeBatch:
        count = rows.num_rows
        first = self.ordinal
        self.ordinal += count
        return ChangeBatch(
            self.schemas[name],
            np.full(count, R, np.uint8),
            np.zeros(count, np.int64),
            np.arange(first, first + count, dtype=np.int64),
            np.full(count, commit_us, np.int64),
            rows,
        )

    def _piece(self, held: Any) -> Piece:
        return Piece(tuple(held), 0, self.position, 0, whole=False, incomplete=tuple(self.schemas))
