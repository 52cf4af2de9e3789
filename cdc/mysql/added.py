"""Tables added later, read beside the running stream in chunks (SEMANTICS 12).

The method is DBLog's (Andreakis, Papapanagiotou: "DBLog: A Watermark Based Change-Data-Capture
Framework", 2020), with GTIDs in place of a watermark table, so nothing is written to the server:

1.  The stream publishes the table's changes from the moment that it is known.
2.  A chunk, one range of the key, is read in a read view of its own. The view must have everything
    that the stream has published; `high` bounds what it can have beyond that.
3.  Once the stream has passed `high`, the chunk's rows are published as read (R), but for those
    whose key the stream has changed since: of those it has published the newer row, or its delete.
4.  When the last range is published, the table is complete.

A chunk is held in memory up to HELD_BYTES. A larger one (a key that cannot be cut into ranges) goes
through a temporary file, and its rows are published part by part between the stream's pieces.

So a row is at every moment what it was in the source at some moment not earlier, and from the last
chunk on exactly what the stream says. A restart begins a table that is not complete anew: what is
read a second time is what it was, or newer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import ChangeBatch, R, concat_rows
from cdc.errors import SnapshotNeeded
from cdc.keys import row_keys
from cdc.mysql.catalog import Server, read_named
from cdc.mysql.connection import Connection, close, execute
from cdc.mysql.evolution import as_table
from cdc.mysql.ranges import Range, cut
from cdc.mysql.read_views import begin_view, exact_position, executed_gtids, owned_gtids
from cdc.mysql.table_reader import ReadTable, read_rows
from cdc.mysql.tables import MyTable, described
from cdc.mysql.types import ZeroDates
from cdc.positions import NativePosition
from cdc.schema import TableSchema
from cdc.source import ADDED_NOTE

HELD_BYTES = 64 * 2**20


@dataclass
class _Chunk:
    """Rows of one range that wait to be published, `first` and then `more`; and the keys that the
    stream has changed since they were read."""

    part: Range
    schema: TableSchema
    first: pa.RecordBatch | None
    more: Iterator[pa.RecordBatch]
    high: NativePosition
    touched: list[pa.Array] = field(default_factory=list)

    @property
    def is_published(self) -> bool:
        return self.first is None

    def touch(self, keys: pa.Array) -> None:
        self.touched.append(keys)
        if len(self.touched) > _ARRAYS_MAX:
            self.touched = [pa.concat_arrays(self.touched).unique()]

    def empty(self) -> None:
        self.first, self.more = None, iter(())

    def next(self) -> pa.RecordBatch:
        """The next rows, without those whose key was touched."""
        rows, self.first = self.first, next(self.more, None)
        if rows is None:
            return self.schema.arrow.empty_table().to_batches()[0]
        if not self.touched:
            return rows
        keys, touched = row_keys(self.schema, rows), pa.concat_arrays(self.touched)
        return rows.filter(pc.invert(pc.is_in(keys, value_set=touched)))


_ARRAYS_MAX = 256


@dataclass
class CatchUp:
    """The tables that are not complete. `connect` opens a session for reading, `schemas` are the
    stream's own, which change as it goes by; `folder` is for rows that are too many."""

    connect: Callable[[], Connection]
    server: Server
    schemas: Mapping[str, TableSchema]
    zero_dates: ZeroDates
    folder: Path
    tables: list[str] = field(default_factory=list)
    _connection: Connection | None = None
    _ranges: Iterator[Range] = field(default_factory=lambda: iter(()))
    _chunk: _Chunk | None = None

    @property
    def incomplete(self) -> tuple[str, ...]:
        return tuple(self.tables)

    def notes(self) -> dict[str, object]:
        """For the frontier's `resume`: what a restart must begin anew."""
        return {ADDED_NOTE: list(self.tables)}

    def saw(self, changes: Sequence[tuple[str, ChangeBatch]]) -> None:
        """The stream publishes these changes: rows of the same keys that wait are older."""
        chunk = self._chunk
        for name, batch in changes:
            if chunk is not None and name == chunk.part.table:
                chunk.touch(row_keys(batch.schema, batch.rows))

    def emptied(self, names: Sequence[str]) -> None:
        """TRUNCATE or DROP comes past: all rows that wait are older."""
        if self._chunk is not None and self._chunk.part.table in names:
            self._chunk.empty()

    def require_possible(self) -> None:
        """Raises SnapshotNeeded where chunks would not do: without GTIDs a read view has no place
        in the binlog; and an update may leave out a value that no chunk has brought yet."""
        why = ""
        if not self.server.mariadb and not self.server.gtid:
            why = "the server has no GTIDs"
        elif self.server.row_image != "FULL":
            why = f"binlog_row_image is {self.server.row_image}"
        if self.tables and why:
            raise SnapshotNeeded(
                f"added after the first snapshot: {', '.join(self.tables)}",
                where=self.server.product,
                hint=f"all tables are read again, because {why}",
            )

    def next(self, reached: NativePosition) -> tuple[str, ChangeBatch] | None:
        """Rows to publish behind `reached`, all of whose changes went through `saw`; None: not yet.
        Empty ones have told that their table is complete. Raises SnapshotNeeded when a table was
        altered meanwhile."""
        if self._chunk is None:
            self._chunk = self._read(reached)
        chunk = self._chunk
        if chunk is None or not reached.covers(chunk.high):
            return None
        table = chunk.part.table
        if self.schemas[table].columns != chunk.schema.columns:
            raise _altered(table)
        rows = chunk.next()
        if chunk.is_published:
            self._chunk = None
            if chunk.part.last:
                self.tables.remove(table)
        return table, _as_read(chunk.schema, rows)

    def close(self) -> None:
        if self._connection is not None:
            close(self._connection)
            self._connection = None

    def _read(self, reached: NativePosition) -> _Chunk | None:
        """The next range's rows; None while the server has not committed all that is `reached`."""
        connection = self._session()
        if not self.server.mariadb and not executed_gtids(connection).covers(reached):
            return None
        part = next(self._ranges, None)
        if part is None:
            self._ranges = cut(connection, self._unaltered(connection, self.tables[0]))
            part = next(self._ranges)
        high = self._begun(connection)
        if self.server.mariadb and not high.covers(reached):
            self._ranges = chain([part], self._ranges)
            return None
        table = self._unaltered(connection, part.table)
        schema = self.schemas[part.table]
        read = ReadTable(table, schema, self.zero_dates)
        rows = self._held(read_rows(connection, read, part.condition), schema.arrow)
        execute(connection, "ROLLBACK")  # or DDL would wait for us
        return _Chunk(part, schema, next(rows), rows, high)

    def _held(
        self, batches: Iterator[pa.RecordBatch], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        """All rows, at least one batch, read to the end now: in memory, or in a file without a name
        that goes with the last reference to it."""
        first: list[pa.RecordBatch] = []
        size = 0
        for batch in batches:
            first.append(batch)
            size += batch.nbytes
            if size > HELD_BYTES:
                break
        else:
            return iter([concat_rows(first, schema)])
        self.folder.mkdir(parents=True, exist_ok=True)
        file = TemporaryFile(dir=self.folder)  # noqa: SIM115
        with pa.ipc.new_stream(file, schema) as writer:
            for batch in chain(first, batches):
                writer.write_batch(batch)
        file.seek(0)
        return iter(pa.ipc.open_stream(file))

    def _begun(self, connection: Connection) -> NativePosition:
        """Begin a read view; nothing beyond the result is in it (MariaDB: and all up to it is)."""
        point = begin_view(connection, self.server.mariadb)
        if point is not None:
            return exact_position(connection, self.server, point)
        return owned_gtids(connection).union(executed_gtids(connection))

    def _session(self) -> Connection:
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def _unaltered(self, connection: Connection, name: str) -> MyTable:
        """The table, still as the stream knows it."""
        known, now = as_table(self.schemas[name]), read_named(connection, [name]).get(name)
        if now is None or described(known) != described(now):
            raise _altered(name)
        return now


def _altered(table: str) -> SnapshotNeeded:
    return SnapshotNeeded(
        "the table was altered while it was read for the first time",
        where=table,
        hint="its rows are read again",
    )


def _as_read(schema: TableSchema, rows: pa.RecordBatch) -> ChangeBatch:
    count = rows.num_rows
    return ChangeBatch(
        schema,
        np.full(count, R, np.uint8),
        np.zeros(count, np.int64),
        np.arange(count, dtype=np.int64),
        np.full(count, time.time_ns() // 1000, np.int64),
        rows,
    )
