"""Reading the embedded log: read-only connections, one short read transaction per batch.

Rows of `batches` are fetched until they hold enough records, the transaction ends, and only then
are they verified and decoded, many small ones in one go. So a reader neither waits for the writer
nor keeps it from starting a new WAL.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from cdc.changes import ChangeBatch, Int64s, concat_rows
from cdc.errors import LogError
from cdc.frontiers import Frontier
from cdc.log.api import DeadLetter, Horizon, LogBatch
from cdc.log.embedded_codec import StoredBatch, damaged, decode, verify
from cdc.log.embedded_files import (
    OFFSET_BITS,
    OFFSET_MASK,
    Layout,
    open_readonly,
    sqlite_errors,
)
from cdc.log.embedded_producer import end_offset, newest_frontier_row
from cdc.log.wake import Listener
from cdc.schema import TableSchema

FETCH_BYTES = 16 * 2**20
LARGE_BATCH_ROWS = 4096
_COLUMNS = "id, next, count, version, with_before, appended_us, crc, offsets, data"


@dataclass
class _File:
    """One producer's file, open for reading."""

    path: Path
    connection: sqlite3.Connection
    schemas: dict[tuple[int, int], TableSchema] = field(default_factory=dict)


class EmbeddedReader:
    """See cdc.log.api.Reader."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: dict[Path, _File] = {}
        self._topics: dict[str, tuple[_File, int]] = {}
        self._names: dict[str, tuple[_File, int]] = {}
        self._waited: dict[str, int] = {}
        self._letters: sqlite3.Connection | None = None
        self._listener = Listener(layout.root)

    def topics(self) -> list[str]:
        found: list[str] = []
        for file in self._open_files():
            with sqlite_errors(file.path):
                rows = file.connection.execute("SELECT name FROM topics").fetchall()
            found += [name for (name,) in rows]
        return sorted(found)

    def schema(self, topic: str, version: int | None = None) -> TableSchema:
        file, number = self._topic(topic)
        if version is not None:
            return self._schema(file, number, version, topic)
        with sqlite_errors(file.path, topic):
            row = file.connection.execute(
                "SELECT max(version) FROM schemas WHERE topic = ?", (number,)
            ).fetchone()
        if row[0] is None:
            raise damaged("a topic has no schema", topic, 0)
        return self._schema(file, number, row[0], topic)

    def end_offsets(self, topic: str) -> tuple[int, ...]:
        file, number = self._topic(topic)
        with sqlite_errors(file.path, topic):
            return tuple(end_offset(file.connection, p) for p in _partitions(file, number))

    def generation(self, topic: str) -> str:
        file, number = self._topic(topic)
        with sqlite_errors(file.path, topic):
            row = file.connection.execute(
                "SELECT generation FROM topics WHERE id = ?", (number,)
            ).fetchone()
        return str(row[0])

    def horizon(self, topic: str) -> Horizon:
        file, number = self._topic(topic)
        with sqlite_errors(file.path, topic):
            row = file.connection.execute(
                "SELECT superseded_us, tombstones_us FROM topics WHERE id = ?", (number,)
            ).fetchone()
        return Horizon(row[0], row[1])

    def replay_mark(self, topic: str) -> int:
        return self.horizon(topic).tombstones_us

    def replay_holds(self, topic: str, mark: int) -> bool:
        # The horizon is recorded before a delete goes, and after every older one went.
        return self.horizon(topic).tombstones_us == mark

    def newest_frontier(self, name: str) -> Frontier | None:
        for _ in range(2):
            found = self._name(name)
            if found is None:
                return None
            file, number = found
            with sqlite_errors(file.path, f"{name}.frontier"):
                row = newest_frontier_row(file.connection, number)
            if row is not None:
                return Frontier.from_json(row[2])
            del self._names[name]  # removed, and perhaps made anew under another number
        return None

    def newest_frontiers(self, names: Sequence[str]) -> dict[str, Frontier | None]:
        return {name: self.newest_frontier(name) for name in names}

    def frontiers(self, name: str, start: int = 0) -> Iterator[tuple[int, Frontier]]:
        if start < 0:
            start = max(0, (self._newest_id(name) & OFFSET_MASK) + 1 + start)
        while (found := self._name(name)) is not None:
            file, number = found
            low, high = number << OFFSET_BITS | start, number << OFFSET_BITS | OFFSET_MASK
            with sqlite_errors(file.path, f"{name}.frontier"):
                rows = file.connection.execute(
                    "SELECT id, body FROM frontiers WHERE id BETWEEN ? AND ? "
                    "ORDER BY id LIMIT 1000",
                    (low, high),
                ).fetchall()
            if not rows:
                return
            for record, body in rows:
                start = (record & OFFSET_MASK) + 1
                yield start - 1, Frontier.from_json(body)

    def dead_letters(self, start: int = 0) -> Iterator[tuple[int, DeadLetter]]:
        if self._letters is None:
            self._letters = open_readonly(self._layout.letters)
        if self._letters is None:
            return
        with sqlite_errors(self._layout.letters, "dead-letters"):
            rows = self._letters.execute(
                "SELECT id - 1, connector, place, error, key, value FROM letters "
                "WHERE id > ? ORDER BY id",
                (start,),
            ).fetchall()
        for row in rows:
            yield row[0], DeadLetter(*row[1:])

    def expect(self, ranges: Sequence[tuple[str, int, int, int]]) -> None:
        """Nothing is gained by it: a read is a look into a file."""

    def read(
        self, topic: str, partition: int, start: int, end: int, max_rows: int = 65536
    ) -> Iterator[LogBatch]:
        file, number = self._topic(topic)
        with sqlite_errors(file.path, topic):
            partitions = _partitions(file, number)
            if partition >= len(partitions):
                raise LogError(f"there is no partition {partition}", where=topic)
            stored = partitions[partition]
            end = min(end, end_offset(file.connection, stored))
        place, at, last_empty = f"{topic}/{partition}", start, True
        while at < end:
            with sqlite_errors(file.path, place):
                rows = _fetch(file.connection, stored, at, end, max_rows)
            _check_coverage(rows, at, place)
            for run in _runs(rows):
                batch = self._batch(file, number, topic, partition, run, at, end)
                at = batch.next_offset
                last_empty = len(batch.offsets) == 0
                if not last_empty:
                    yield batch
        if last_empty:
            yield self._empty(topic, partition, max(start, end))

    def _batch(
        self,
        file: _File,
        number: int,
        topic: str,
        partition: int,
        rows: list[StoredBatch],
        start: int,
        end: int,
    ) -> LogBatch:
        place = f"{topic}/{partition}"
        for row in rows:
            verify(row, place)
        schema = self._schema(file, number, rows[0].version, topic)
        changes = decode(schema, rows, place)
        parts = [row.offset_array() for row in rows]
        offsets: Int64s = parts[0] if len(parts) == 1 else np.concatenate(parts)
        low, high = np.searchsorted(offsets, (start, end)).tolist()
        if high - low < len(offsets):
            offsets, changes = offsets[low:high], changes.slice(low, high - low)
        return LogBatch(topic, partition, offsets, min(rows[-1].next, end), changes)

    def _empty(self, topic: str, partition: int, next_offset: int) -> LogBatch:
        none = np.zeros(0, np.int64)
        schema = self.schema(topic)
        rows = concat_rows([], schema.arrow)
        changes = ChangeBatch(schema, np.zeros(0, np.uint8), none, none, none, rows)
        return LogBatch(topic, partition, none, next_offset, changes)

    def wait(self, names: Sequence[str], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        self._listener.open()
        while True:
            self._listener.drain()
            if self._moved(names):
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._listener.sleep(left_s)

    def _moved(self, names: Sequence[str]) -> bool:
        moved = False
        for name in names:
            newest = self._newest_id(name)
            if newest != self._waited.get(name, -1):
                self._waited[name] = newest
                moved = True
        return moved

    def _newest_id(self, name: str) -> int:
        found = self._name(name)
        if found is None:
            return -1
        file, number = found
        with sqlite_errors(file.path, f"{name}.frontier"):
            row = file.connection.execute(
                "SELECT id FROM frontiers WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
                (number << OFFSET_BITS, number << OFFSET_BITS | OFFSET_MASK),
            ).fetchone()
        if row is None:
            del self._names[name]
            return -1
        return int(row[0])

    def close(self) -> None:
        self._listener.close()
        for file in self._files.values():
            file.connection.close()
        if self._letters is not None:
            self._letters.close()
        self._files, self._letters = {}, None

    def _open_files(self) -> list[_File]:
        for path in self._layout.producers():
            if path not in self._files:
                connection = open_readonly(path)
                if connection is not None:
                    self._files[path] = _File(path, connection)
        return list(self._files.values())

    def _topic(self, name: str) -> tuple[_File, int]:
        found = self._topics.get(name)
        if found is not None:
            file, number = found
            with sqlite_errors(file.path, name):
                alive = file.connection.execute("SELECT 1 FROM topics WHERE id = ?", (number,))
                if alive.fetchone():
                    return found
        found = self._lookup("topics", name)
        if found is None:
            raise LogError(
                "there is no such topic",
                where=name,
                hint="its connector has not run yet, or the name is misspelt: see `cdc status`",
            )
        self._topics[name] = found
        return found

    def _name(self, name: str) -> tuple[_File, int] | None:
        found = self._names.get(name) or self._lookup("frontier_names", name)
        if found is not None:
            self._names[name] = found
        return found

    def _lookup(self, table: str, name: str) -> tuple[_File, int] | None:
        for file in self._open_files():
            with sqlite_errors(file.path, name):
                row = file.connection.execute(
                    f"SELECT id FROM {table} WHERE name = ?", (name,)
                ).fetchone()
            if row is not None:
                return file, row[0]
        return None

    def _schema(self, file: _File, number: int, version: int, topic: str) -> TableSchema:
        known = file.schemas.get((number, version))
        if known is not None:
            return known
        with sqlite_errors(file.path, topic):
            row = file.connection.execute(
                "SELECT body FROM schemas WHERE topic = ? AND version = ?", (number, version)
            ).fetchone()
        if row is None:
            raise damaged(f"schema version {version} is missing", topic, 0)
        schema = TableSchema.from_json(json.loads(row[0]))
        file.schemas[number, version] = schema
        return schema


def _partitions(file: _File, topic: int) -> list[int]:
    rows = file.connection.execute(
        "SELECT id FROM partitions WHERE topic = ? ORDER BY number", (topic,)
    )
    return [number for (number,) in rows]


def _fetch(
    connection: sqlite3.Connection, partition: int, start: int, end: int, max_rows: int
) -> list[StoredBatch]:
    """Rows that cover `start` onward, until they hold `max_rows` records or FETCH_BYTES."""
    low = partition << OFFSET_BITS
    cursor = connection.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE id < ? AND id >= coalesce("
        "(SELECT id FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1), ?) "
        "ORDER BY id",
        (low | end, low, low | start, low),
    )
    rows, records, size = [], 0, 0
    for found in cursor:
        row = StoredBatch(found[0], found[0] & OFFSET_MASK, *found[1:])
        rows.append(row)
        records += row.count
        size += len(row.data)
        if records >= max_rows or size >= FETCH_BYTES:
            break
    cursor.close()
    return rows


def _runs(rows: Sequence[StoredBatch]) -> Iterator[list[StoredBatch]]:
    """Neighbours to decode in one go: of one schema version and form, and small. Joining large
    batches would only copy them."""
    run: list[StoredBatch] = []
    for row in rows:
        alike = run and (row.version, row.with_before) == (run[0].version, run[0].with_before)
        if run and not (alike and max(row.count, run[-1].count) < LARGE_BATCH_ROWS):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _check_coverage(rows: Sequence[StoredBatch], start: int, place: str) -> None:
    """Raise LogDamaged unless the rows cover offsets from `start` without gap or overlap."""
    if not rows or not rows[0].base <= start < rows[0].next:
        raise damaged("records are missing", place, start)
    for before, after in pairwise(rows):
        if before.next != after.base:
            what = "overlap" if before.next > after.base else "are missing"
            raise damaged(f"records {what}", place, min(before.next, after.base))
