"""A snapshot: every row of the tables at one position of the binlog, by several sessions.

1.  Worker processes connect (snapshot_worker.py) and begin read views of the same state, whose
    place in the binlog is known (read_views.py).
2.  Each touches every table, which locks it against DDL to the end. If the catalog then says what
    it said before, no table was altered in between; else all begins anew. The session that looks
    for ranges touches them as well: without the lock it would stand behind an ALTER TABLE that
    waits for the workers, which wait for its ranges.
3.  Large tables are cut into ranges of their key (ranges.py); workers take one after the other.
4.  Their rows become pieces (cdc/snapshot_pieces.py).

Where the read views lie between two positions (`Pinned.high`), the rows alone are no state of the
database: the caller streams from `low` until `high` is covered before a piece is whole.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pymysql

from cdc.errors import SourceError, SourceUnavailable
from cdc.mysql.catalog import BinlogPoint, Server, read_named, require_keys
from cdc.mysql.connection import Connection, execute, source_errors
from cdc.mysql.ranges import Range, cut
from cdc.mysql.read_views import Pinned, pin
from cdc.mysql.snapshot_worker import DONE, ROWS, TABLES, VIEW
from cdc.mysql.table_reader import BEGIN, Assignment, ReadTable, TableAltered, Tables, touch
from cdc.mysql.tables import MyTable
from cdc.mysql.types import ZeroDates
from cdc.schema import TableSchema
from cdc.snapshot_pieces import SnapshotPieces
from cdc.source import Piece, Progress
from cdc.worker_processes import Worker, end_workers, launch

logger = logging.getLogger(__name__)

ATTEMPTS = 5
WORKER_MODULE = "cdc.mysql.snapshot_worker"


def launch_workers(count: int) -> list[Worker]:
    """Worker processes without an assignment, already starting."""
    return launch(WORKER_MODULE, count)


@dataclass(frozen=True)
class SnapshotPlan:
    """What to read. `schema_of` gives the schema under which a table's rows are published."""

    url: str
    server: Server
    names: Sequence[str]
    schema_of: Callable[[MyTable], TableSchema]
    zero_dates: ZeroDates


@dataclass
class SnapshotReader:
    """Runs the workers: first `pin`, then `pieces`. Close it in any case.

    `connection` asks the catalog and finds the ranges; it is not part of the snapshot, and nobody
    else uses it meanwhile: from `pin` to `close` it is in a transaction.
    """

    plan: SnapshotPlan
    progress: Progress
    workers: Sequence[Worker]
    connection: Connection
    tables: dict[str, MyTable] = field(default_factory=dict)
    schemas: dict[str, TableSchema] = field(default_factory=dict)
    _pinned: Pinned | None = None
    _pieces: SnapshotPieces | None = None

    def pin(self) -> Pinned:
        """Begin the snapshot: afterwards `tables` and `schemas` are those of its position."""
        for worker in self.workers:
            worker.send(Assignment(self.plan.url, self.plan.server.mariadb))
        changed = ""
        for _ in range(ATTEMPTS):
            with source_errors(self.plan.url):
                before = read_named(self.connection, self.plan.names)
                require_keys(before)
                pinned = pin(self.connection, self.plan.server, self._begin, len(self.workers))
                try:
                    self._touch(before, pinned.sessions)
                except TableAltered as error:
                    changed = error.where
                    continue
                after = read_named(self.connection, self.plan.names)
            changed = next((n for n in self.plan.names if not _same(before, after, n)), "")
            if not changed:
                self._pinned, self.tables = pinned, after
                with source_errors(self.plan.url):
                    execute(self.connection, "START TRANSACTION READ ONLY")
                    touch(self.connection, after.values())
                return pinned
            logger.info("%s was altered as the snapshot began: it begins anew", changed)
        raise SourceUnavailable(
            "the table is altered or truncated all the time: no snapshot of it can be begun",
            where=changed,
            hint="it is begun again later: nothing was published",
        )

    def _begin(self, sessions: int) -> list[BinlogPoint | None]:
        for worker in self.workers[:sessions]:
            worker.send(BEGIN)
        return [pickle.loads(worker.expect(VIEW)) for worker in self.workers[:sessions]]

    def _touch(self, tables: Mapping[str, MyTable], sessions: int) -> None:
        self.schemas = {name: self.plan.schema_of(table) for name, table in tables.items()}
        reads = {
            name: ReadTable(table, self.schemas[name], self.plan.zero_dates)
            for name, table in tables.items()
        }
        for worker in self.workers[:sessions]:
            worker.send(Tables(reads))
        altered: TableAltered | None = None
        for worker in self.workers[:sessions]:
            # All answers are taken, so that the next attempt finds none of this one.
            try:
                worker.expect(TABLES)
            except TableAltered as error:
                altered = error
        if altered is not None:
            raise altered

    def pieces(self, max_piece_bytes: int) -> Iterator[Piece]:
        """All rows, in pieces that are not whole, at the pinned `low`."""
        assert self._pinned is not None
        estimates = {name: table.rows for name, table in self.tables.items()}
        pieces = SnapshotPieces(self._pinned.low, self.schemas, estimates, self.progress)
        self._pieces = pieces
        ranges = _Ranges(self.connection, self.tables.values())
        for worker in self.workers[: self._pinned.sessions]:
            pieces.start(self._move, worker, ranges, pieces)
        with source_errors(self.plan.url):
            yield from pieces.pieces(max_piece_bytes)

    def _move(self, worker: Worker, ranges: _Ranges, pieces: SnapshotPieces) -> None:
        """One worker's thread: hand it ranges, and its rows on."""
        while not pieces.stopping and (part := ranges.take()) is not None:
            worker.send(part)
            schema = self.schemas[part.table].arrow
            while (answer := worker.receive())[0] == ROWS:
                pieces.put_rows(part.table, pa.ipc.read_record_batch(answer[1], schema))
            if answer[0] != DONE:
                raise SourceError(f"a snapshot worker answered {answer[0]!r}")
            pieces.put_done(part.table, ranges.finished(part))

    def close(self) -> None:
        """End the workers, whatever they are doing, and let go of the tables."""
        if self._pieces is not None:
            self._pieces.stop()
        end_workers(self.workers)
        if self._pieces is not None:
            self._pieces.close()
        with suppress(pymysql.Error):  # broken: then the server lets go of them
            execute(self.connection, "ROLLBACK")


class _Ranges:
    """The ranges of all tables, the largest table first, for several threads."""

    def __init__(self, connection: Connection, tables: Iterable[MyTable]) -> None:
        self._lock = threading.Lock()
        self._connection = connection
        self._tables = sorted(tables, key=lambda table: table.data_bytes)
        self._current: Iterator[Range] = iter(())
        self._open: dict[str, int] = {}
        self._cut: set[str] = set()

    def take(self) -> Range | None:
        """The next range; None when there is none."""
        with self._lock:
            while (part := next(self._current, None)) is None:
                if not self._tables:
                    return None
                table = self._tables.pop()
                self._open[table.name] = 0
                self._current = cut(self._connection, table)
            self._open[part.table] += 1
            if part.last:
                self._cut.add(part.table)
            return part

    def finished(self, part: Range) -> bool:
        """A range is read; whether it was the last of its table."""
        with self._lock:
            self._open[part.table] -= 1
            return part.table in self._cut and not self._open[part.table]


def _same(before: Mapping[str, MyTable], after: Mapping[str, MyTable], name: str) -> bool:
    """Whether a table is described as before, but for the server's estimates."""
    if name not in before or name not in after:
        return False
    return replace(before[name], rows=0, data_bytes=0) == replace(after[name], rows=0, data_bytes=0)
