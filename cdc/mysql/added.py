"""Tables added later, read beside the running stream in chunks (SEMANTICS 12).

The method is DBLog's (Andreakis, Papapanagiotou: "DBLog: A Watermark Based Change-Data-Capture
Framework", 2020), with GTIDs in place of a watermark table, so nothing is written to the server:

1.  The stream publishes the table's changes from the moment that it is known.
2.  A chunk, one range of the key, is read in a read view of its own. The view must have everything
    that the stream has published; `high` bounds what it can have beyond that.
3.  Once the stream has passed `high`, the chunk's rows are published as read (R), but for those
    whose key the stream has changed since: of those it has published the newer row, or its delete.
4.  When the last range is published, the table is complete.

So a row is at every moment what it was in the source at some moment not earlier, and from the last
chunk on exactly what the stream says. A restart begins a table that is not complete anew: what is
read a second time is what it was, or newer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, ChangeBatch, R, concat_rows
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


@dataclass
class _Chunk:
    """Rows of one range, and which of them the stream has not changed since."""

    part: Range
    schema: TableSchema
    rows: pa.RecordBatch
    keys: pa.Array
    kept: Bools
    high: NativePosition


@dataclass
class CatchUp:
    """The tables that are not complete. `connect` opens a session for reading, `schemas` are the
    stream's own, which change as it goes by."""

    connect: Callable[[], Connection]
    server: Server
    schemas: Mapping[str, TableSchema]
    zero_dates: ZeroDates
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
        if chunk is None or not len(chunk.keys):
            return
        for name, batch in changes:
            if name == chunk.part.table:
                touched = row_keys(batch.schema, batch.rows)
                found = pc.is_in(chunk.keys, value_set=touched)
                chunk.kept &= ~found.to_numpy(zero_copy_only=False)

    def emptied(self, names: Sequence[str]) -> None:
        """TRUNCATE or DROP comes past: all rows that wait are older."""
        if self._chunk is not None and self._chunk.part.table in names:
            self._chunk.kept[:] = False

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
        """A chunk to publish behind `reached`, all of whose changes went through `saw`; None: not
        yet. An empty one has told that its table is complete. Raises SnapshotNeeded when a table
        was altered meanwhile."""
        if self._chunk is None:
            self._chunk = self._read(reached)
        chunk = self._chunk
        if chunk is None or not reached.covers(chunk.high):
            return None
        self._chunk = None
        table = chunk.part.table
        if self.schemas[table].columns != chunk.schema.columns:
            raise _altered(table)
        if chunk.part.last:
            self.tables.remove(table)
        return table, _as_read(chunk.schema, chunk.rows.filter(pa.array(chunk.kept)))

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
        batches = list(
            read_rows(connection, ReadTable(table, schema, self.zero_dates), part.condition)
        )
        execute(connection, "ROLLBACK")  # or DDL would wait for us
        rows = concat_rows(batches, schema.arrow)
        keys = row_keys(schema, rows)
        return _Chunk(part, schema, rows, keys, np.ones(rows.num_rows, np.bool_), high)

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
