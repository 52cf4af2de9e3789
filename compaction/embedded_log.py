"""Compaction of the embedded log (SEMANTICS 15): newest record per key, older ones while needed.

Per partition:
1.  Fix the floor: nothing is removed that is superseded only by a record appended after it.
2.  Judge the records of the batches up to the floor (compaction.superseded).
3.  Record the horizon, in a transaction of its own, before anything goes: a reader that took an
    older cut then learns that the cut is not exact any more.
4.  Rewrite from the lowest offset upwards, one rewritten batch per transaction: batches
    that lose records, and small neighbours, which are joined. A rewritten batch has explicit
    offsets and covers the offsets of all batches that it replaces.

A crash between two transactions leaves a log in which some superseded records are still there:
right, only larger. Removing a delete comes after removing what it deleted, because it stands
behind it. The compactor's commits are not synced one by one: losing the newest of them with the
machine's power loses only work.
"""

from __future__ import annotations

import fcntl
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdc import faults
from cdc.changes import ChangeBatch, Int64s
from cdc.errors import LogError
from cdc.frontiers import Frontier, covers_topic
from cdc.log.embedded import registered_floors
from cdc.log.embedded_codec import (
    StoredBatch,
    checksum,
    decode,
    decode_keys_only,
    encode,
    verify,
)
from cdc.log.embedded_files import (
    OFFSET_BITS,
    OFFSET_MASK,
    Layout,
    open_producer_file,
    sqlite_errors,
)
from cdc.log.embedded_producer import end_offset, newest_frontier_row
from cdc.schema import TableSchema
from compaction.policy import (
    READ_BYTES,
    SMALL_BATCH_BYTES,
    Held,
    PartitionSize,
    Policy,
    floor_us,
)
from compaction.superseded import KeyedBatch, judge

logger = logging.getLogger(__name__)
Stop = Callable[[], bool]
_COLUMNS = "id, next, count, version, with_before, appended_us, crc, offsets, data"
_WAL_PAGES = 8192
_ROWS_PER_READ = 256


@dataclass(frozen=True)
class Partition:
    """A partition in an open producer's file. `place` is topic/number."""

    topic: str
    topic_id: int
    id: int
    place: str


class CompactorBusy(LogError):
    """Another process compacts this log now."""


@contextmanager
def sole_compactor(layout: Layout) -> Iterator[None]:
    """Hold the log's compaction lock. Raises CompactorBusy."""
    layout.make()
    with layout.compaction_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CompactorBusy(
                "another process is compacting this log",
                where=str(layout.root),
                hint="`cdc run` compacts in the background: wait, or stop it first",
            ) from None
        yield


class ProducerFile:
    """One producer's file, open for compaction."""

    def __init__(self, layout: Layout, path: Path) -> None:
        self._layout, self._path = layout, path
        self._connection = open_producer_file(path)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")

    def close(self) -> None:
        self._connection.close()

    def partitions(self) -> list[Partition]:
        rows = self._connection.execute(
            "SELECT t.name, t.id, p.id, p.number FROM partitions p JOIN topics t ON t.id = p.topic "
            "ORDER BY t.name, p.number"
        )
        return [Partition(name, topic, p, f"{name}/{n}") for name, topic, p, n in rows]

    def size(self, partition: Partition) -> PartitionSize:
        low, high = _ids(partition)
        records, batches, small = self._connection.execute(
            "SELECT coalesce(sum(count), 0), count(*), coalesce(sum(length(data) < ?), 0) "
            "FROM batches WHERE id BETWEEN ? AND ?",
            (SMALL_BATCH_BYTES, low, high),
        ).fetchone()
        return PartitionSize(records, batches, small, end_offset(self._connection, partition.id))

    def compact(
        self, partition: Partition, policy: Policy, tombstone_retention_s: float, stop: Stop
    ) -> tuple[int, int]:
        """Compact one partition; its records before and after. Raises LogDamaged, LogError."""
        with sqlite_errors(self._path, partition.place):
            before = self.size(partition).records
            floor = self._floor(partition, policy)
            schemas = self._schemas(partition)
            newest = max(schemas.values(), key=lambda schema: schema.version)
            last_id = self._last_id(partition, floor)
            if last_id is None:
                return before, before
            # The batches end at the floor: whoever may resume there has seen their deletes.
            retention_us = int((time.time() - tombstone_retention_s) * 1e6)

            def scan() -> Iterator[KeyedBatch]:
                for row in self._rows(partition, last_id):
                    yield _keyed(row, schemas, newest, partition.place)

            verdict = judge(scan, self._records(partition, last_id), retention_us)
            self._record_horizon(partition, verdict.superseded_us, verdict.tombstones_us)
            self._rewrite(partition, last_id, schemas, verdict.removed, stop)
            return before, self.size(partition).records

    def _floor(self, partition: Partition, policy: Policy) -> int:
        floors = registered_floors(self._layout).values()
        now_us = time.time_ns() // 1000
        return floor_us(floors, self._newest_cut_us(partition.topic), now_us, policy)

    def _newest_cut_us(self, topic: str) -> int:
        """Append time of the newest whole frontier over the topic; 0: there is none."""
        names = self._connection.execute("SELECT id, name FROM frontier_names").fetchall()
        times = [
            Frontier.from_json(row[2]).appended_us
            for number, name in names
            if covers_topic(name, topic)
            and (row := newest_frontier_row(self._connection, number)) is not None
        ]
        return min(times, default=0)

    def _schemas(self, partition: Partition) -> dict[int, TableSchema]:
        rows = self._connection.execute(
            "SELECT body FROM schemas WHERE topic = ?", (partition.topic_id,)
        )
        schemas = [TableSchema.from_json(json.loads(body)) for (body,) in rows]
        return {schema.version: schema for schema in schemas}

    def _last_id(self, partition: Partition, floor: int) -> int | None:
        """The last batch of the prefix that was appended at or before the floor."""
        low, high = _ids(partition)
        row = self._connection.execute(
            "SELECT max(id) FROM batches WHERE id BETWEEN ? AND ? AND appended_us <= ?",
            (low, high, floor),
        ).fetchone()
        return row[0] if row else None

    def _records(self, partition: Partition, last_id: int) -> int:
        low, _ = _ids(partition)
        row = self._connection.execute(
            "SELECT sum(count) FROM batches WHERE id BETWEEN ? AND ?", (low, last_id)
        ).fetchone()
        return int(row[0])

    def _rows(self, partition: Partition, last_id: int) -> Iterator[StoredBatch]:
        """The partition's batches up to `last_id`, each in a read of its own."""
        at, _ = _ids(partition)
        while found := self._fetch(at, last_id):
            yield from found
            at = found[-1].id + 1

    def _fetch(self, first_id: int, last_id: int) -> list[StoredBatch]:
        """The next few batches: few enough to be held, many enough that small ones are cheap."""
        cursor = self._connection.execute(
            f"SELECT {_COLUMNS} FROM batches WHERE id BETWEEN ? AND ? ORDER BY id",
            (first_id, last_id),
        )
        found: list[StoredBatch] = []
        size = 0
        for row in cursor:
            found.append(StoredBatch(row[0], row[0] & OFFSET_MASK, *row[1:]))
            size += len(found[-1].data)
            if size >= READ_BYTES or len(found) >= _ROWS_PER_READ:
                break
        cursor.close()
        return found

    def _record_horizon(self, partition: Partition, superseded: int, tombstones: int) -> None:
        with _transaction(self._connection):
            self._connection.execute(
                "UPDATE topics SET superseded_us = max(superseded_us, ?), "
                "tombstones_us = max(tombstones_us, ?) WHERE id = ?",
                (superseded, tombstones, partition.topic_id),
            )

    def _rewrite(
        self,
        partition: Partition,
        last_id: int,
        schemas: dict[int, TableSchema],
        removed: np.ndarray,
        stop: Stop,
    ) -> None:
        at = 0
        for group in _groups(self._rows(partition, last_id), removed):
            count = sum(row.count for row in group)
            here = removed[at : at + count]
            at += count
            if stop():
                return
            if len(group) > 1 or here.any():
                faults.point("compaction.before_rewrite")
                self._replace(partition, group, schemas[group[0].version], ~here)
                faults.point("compaction.after_rewrite")

    def _replace(
        self,
        partition: Partition,
        group: Sequence[StoredBatch],
        schema: TableSchema,
        keep: np.ndarray,
    ) -> None:
        """One transaction: the group's batches become one, with the kept records."""
        for row in group:
            verify(row, partition.place)
        changes = decode(schema, group, partition.place)
        offsets: Int64s = np.concatenate([row.offset_array() for row in group])
        if not keep.all():
            index = np.flatnonzero(keep)
            changes, offsets = changes.take(index), offsets[index]
        values = _stored(group, changes, offsets)
        with _transaction(self._connection):
            for row in group:
                gone = self._connection.execute(
                    "DELETE FROM batches WHERE id = ? AND crc = ?", (row.id, row.crc)
                ).rowcount
                if gone != 1:
                    raise LogError("the topic was removed meanwhile", where=partition.place)
            self._connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values
            )
            faults.point("compaction.in_rewrite")


def _stored(
    group: Sequence[StoredBatch], changes: ChangeBatch, offsets: Int64s
) -> tuple[object, ...]:
    """The row that replaces the group's. It counts as appended when its youngest part was: a
    later time only makes later compactions more careful."""
    first, end, count = group[0], group[-1].next, changes.num_rows
    appended_us = max(row.appended_us for row in group)
    data = encode(changes)
    contiguous = count == end - first.base
    explicit = None if contiguous else offsets.astype(np.int64).tobytes()
    with_before = first.with_before
    crc = checksum(first.base, end, count, first.version, appended_us, with_before, explicit, data)
    return first.id, end, count, first.version, with_before, appended_us, crc, explicit, data


def _groups(rows: Iterator[StoredBatch], removed: np.ndarray) -> Iterator[list[StoredBatch]]:
    """Neighbours of one schema version to be joined: together about a target's worth of kept
    records, read from not much more. A large batch that loses nothing stands alone, and is left
    as it is."""
    group: list[StoredBatch] = []
    held = Held()
    at = 0
    for row in rows:
        left = row.count - int(removed[at : at + row.count].sum())
        at += row.count
        held = held.with_batch(row.count, left, len(row.data))
        same = group and (row.version, row.with_before) == (group[0].version, group[0].with_before)
        if group and not (same and held.fits):
            yield group
            group, held = [], Held().with_batch(row.count, left, len(row.data))
        group.append(row)
    if group:
        yield group


def _keyed(
    row: StoredBatch, schemas: dict[int, TableSchema], newest: TableSchema, place: str
) -> KeyedBatch:
    verify(row, place)
    schema = schemas[row.version]
    if row.version != newest.version:
        changes = decode(schema, [row], place).conformed(newest)
        return KeyedBatch(_keys(changes, newest), changes.op, row.appended_us)
    op, keys = decode_keys_only(schema, row, place)
    return KeyedBatch(keys, op, row.appended_us)


def _keys(changes: ChangeBatch, schema: TableSchema) -> list[pa.Array]:
    return [changes.rows.column(name) for name in schema.key]


def _ids(partition: Partition) -> tuple[int, int]:
    low = partition.id << OFFSET_BITS
    return low, low | OFFSET_MASK


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def producer_files(layout: Layout) -> Iterator[list[ProducerFile]]:
    """All producers' files, open."""
    files: list[ProducerFile] = []
    try:
        files += [ProducerFile(layout, path) for path in layout.producers()]
        yield files
    finally:
        for file in files:
            file.close()
