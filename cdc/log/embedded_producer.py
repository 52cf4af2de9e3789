"""The one live writer of a producer's file.

An append is one SQLite transaction: look at the epoch, insert the batches, insert the frontier
records, commit (one fdatasync). All encoding happens before it begins. The epoch was raised by
whoever became producer last, so an older one finds another number and stops (SEMANTICS 6).
After a failed append the outcome on disk may be unknown; the producer then refuses further work,
and the next one reads back what is really there.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cdc import faults
from cdc.changes import ChangeBatch
from cdc.errors import Fenced, LogError
from cdc.frontiers import EndOffsets, Frontier, covers_topic, frontier_key
from cdc.hashing import hash_columns
from cdc.log.api import TopicSpec
from cdc.log.embedded_codec import checksum, encode
from cdc.log.embedded_files import (
    OFFSET_BITS,
    OFFSET_MASK,
    PAGE_BYTES,
    Layout,
    open_producer_file,
    open_readonly,
    sqlite_errors,
    translated,
)
from cdc.log.embedded_history import HISTORY_CHECK_EVERY, thin_history
from cdc.log.embedded_wal import WalKeeper
from cdc.log.wake import Bell
from cdc.schema import TableSchema

BATCH_ROWS_MAX = 65_536
BATCH_BYTES_MAX = 16 * 2**20
_APPEND_OVERHEAD_BYTES = 4 * PAGE_BYTES

logger = logging.getLogger(__name__)


@dataclass
class _Topic:
    id: int
    partition_ids: tuple[int, ...]
    schemas: dict[int, TableSchema]


@dataclass(frozen=True)
class _Row:
    """A row of `batches` about to be inserted."""

    topic: str
    partition: int
    end: int
    values: tuple[object, ...]
    size: int


class EmbeddedProducer:
    """See cdc.log.api.Producer."""

    def __init__(self, layout: Layout, name: str, history_s: float) -> None:
        self._layout, self._name, self._history_s = layout, name, history_s
        self._path = layout.producer(name)
        self._connection = open_producer_file(self._path)
        self._bell = Bell(layout.root)
        self._topics: dict[str, _Topic] = {}
        self._ends: dict[str, tuple[int, ...]] = {}
        self._frontier_ids: dict[str, int] = {}
        self._whole: dict[str, Frontier] = {}
        self._last_us = 0
        self._wal = WalKeeper(self._path, self._connection)
        self._appends = 0
        self._broken = False
        with sqlite_errors(self._path):
            self.epoch = self._take_over()
            self._load()

    def _take_over(self) -> int:
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        with self._transaction():
            row = self._connection.execute("SELECT epoch FROM producer").fetchone()
            epoch = row[0] + 1 if row else 1
            self._connection.execute(
                "INSERT OR REPLACE INTO producer VALUES (1, ?, ?, ?)", (self._name, epoch, owner)
            )
        return epoch

    def _load(self) -> None:
        execute = self._connection.execute
        for topic, name in execute("SELECT id, name FROM topics").fetchall():
            partitions = execute(
                "SELECT id FROM partitions WHERE topic = ? ORDER BY number", (topic,)
            ).fetchall()
            bodies = execute("SELECT body FROM schemas WHERE topic = ?", (topic,)).fetchall()
            schemas = [TableSchema.from_json(json.loads(body)) for (body,) in bodies]
            ids = tuple(row[0] for row in partitions)
            self._topics[name] = _Topic(topic, ids, {s.version: s for s in schemas})
            self._ends[name] = tuple(end_offset(self._connection, i) for i in ids)
        for number, key in execute("SELECT id, name FROM frontier_names").fetchall():
            self._load_frontier(number, key)

    def _load_frontier(self, number: int, key: str) -> None:
        newest = newest_frontier_row(self._connection, number)
        self._frontier_ids[key] = newest[0] + 1 if newest else number << OFFSET_BITS
        if newest is None:
            return
        # A partial record repeats the whole one's cut, so it stands in for it (cdc.frontiers).
        self._whole[key] = Frontier.from_json(newest[2])
        self._last_us = max(self._last_us, newest[1])

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        new = [spec for spec in specs if spec.name not in self._topics]
        if not new:
            return
        for spec in new:
            self._refuse_foreign(spec.name)
        with self._guarded(), self._transaction():
            self._check_epoch()
            made = {spec.name: self._create(spec) for spec in new}
        self._topics.update(made)
        self._ends.update({name: (0,) * len(t.partition_ids) for name, t in made.items()})

    def _refuse_foreign(self, topic: str) -> None:
        for path in self._layout.producers():
            if path == self._path:
                continue
            other = open_readonly(path)
            if other is None:
                continue
            with sqlite_errors(path):
                found = other.execute("SELECT 1 FROM topics WHERE name = ?", (topic,)).fetchone()
                (owner,) = other.execute("SELECT name FROM producer").fetchone() or ("",)
                other.close()
            if found:
                raise LogError(
                    f"the topic belongs to '{owner}'",
                    where=topic,
                    hint=f"cdc remove {owner.removeprefix('view.')}, or give it another name",
                )

    def _create(self, spec: TopicSpec) -> _Topic:
        execute = self._connection.execute
        topic = execute(
            "INSERT INTO topics (name, generation) VALUES (?, ?)", (spec.name, uuid.uuid4().hex)
        ).lastrowid
        assert topic is not None
        ids = []
        for number in range(spec.partitions):
            cursor = execute(
                "INSERT INTO partitions (topic, number) VALUES (?, ?)", (topic, number)
            )
            ids.append(cursor.lastrowid or 0)
        self._insert_schema(topic, spec.schema)
        return _Topic(topic, tuple(ids), {spec.schema.version: spec.schema})

    def _insert_schema(self, topic: int, schema: TableSchema) -> None:
        body = json.dumps(schema.to_json(), sort_keys=True)
        self._connection.execute(
            "INSERT INTO schemas VALUES (?, ?, ?)", (topic, schema.version, body)
        )

    def set_schema(self, topic: str, schema: TableSchema) -> None:
        known = self._topic(topic)
        if known.schemas.get(schema.version) == schema:
            return
        newest = max(known.schemas)
        if schema.version <= newest:
            raise LogError(
                f"schema version {schema.version} is not newer than {newest}", where=topic
            )
        with self._guarded(), self._transaction():
            self._check_epoch()
            self._insert_schema(known.id, schema)
        known.schemas[schema.version] = schema

    def append(
        self, batches: Sequence[tuple[str, ChangeBatch]], frontiers: Sequence[Frontier] = ()
    ) -> EndOffsets:
        appended_us = max(time.time_ns() // 1000, self._last_us + 1)
        ends = dict(self._ends)
        rows = [
            self._row(topic, partition, changes, ends, appended_us)
            for topic, whole in batches
            for partition, changes in self._by_partition(topic, whole)
        ]
        filled = [self._filled(frontier, ends, appended_us) for frontier in frontiers]
        with self._guarded(), self._transaction():
            self._check_epoch()
            self._insert(rows, filled, appended_us)
            faults.point("log.append.before_commit")
        faults.point("log.append.after_commit")
        self._ends, self._last_us = ends, appended_us
        for key, frontier in filled:
            self._frontier_ids[key] += 1
            self._whole[key] = frontier
        if filled:
            self._bell.ring()
        self._keep_house(sum(row.size for row in rows))
        return ends

    def _row(
        self,
        topic: str,
        partition: int,
        changes: ChangeBatch,
        ends: dict[str, tuple[int, ...]],
        appended_us: int,
    ) -> _Row:
        known = self._topic(topic)
        schema = known.schemas.get(changes.schema.version)
        if schema is not changes.schema and schema != changes.schema:
            raise LogError(
                f"schema version {changes.schema.version} was not registered in this form",
                where=topic,
                hint="call set_schema before appending",
            )
        base = ends[topic][partition]
        end = base + changes.num_rows
        old = ends[topic]
        ends[topic] = (*old[:partition], end, *old[partition + 1 :])
        data = encode(changes)
        size = data.size if isinstance(data, pa.Buffer) else len(data)
        count, version = changes.num_rows, changes.schema.version
        with_before = changes.before is not None
        crc = checksum(base, end, count, version, appended_us, with_before, None, data)
        row_id = known.partition_ids[partition] << OFFSET_BITS | base
        values = (row_id, end, count, version, with_before, appended_us, crc, None, data)
        return _Row(topic, partition, end, values, size)

    def _by_partition(self, topic: str, changes: ChangeBatch) -> Iterator[tuple[int, ChangeBatch]]:
        if changes.num_rows == 0:
            return
        count = len(self._topic(topic).partition_ids)
        if count == 1 or not changes.schema.key:
            for part in _in_pieces(changes):
                yield 0, part
            return
        keys = [changes.rows.column(name) for name in changes.schema.key]
        target = hash_columns(keys) % np.uint64(count)
        for partition in np.unique(target):
            for part in _in_pieces(changes.take(np.flatnonzero(target == partition))):
                yield int(partition), part

    def _filled(
        self, frontier: Frontier, ends: EndOffsets, appended_us: int
    ) -> tuple[str, Frontier]:
        key = frontier_key(self._name, frontier.name)
        if frontier.whole:
            mine = {topic: at for topic, at in ends.items() if covers_topic(key, topic)}
            cut_us = appended_us
        else:
            whole = self._whole.get(key)
            mine = dict(whole.end_offsets) if whole else {}
            cut_us = whole.appended_us if whole else 0
        return key, replace(frontier, end_offsets=mine, epoch=self.epoch, appended_us=cut_us)

    def _insert(
        self, rows: Sequence[_Row], filled: Sequence[tuple[str, Frontier]], appended_us: int
    ) -> None:
        execute = self._connection.execute
        for row in rows:
            execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row.values)
        for key, frontier in filled:
            if key not in self._frontier_ids:
                cursor = execute("INSERT INTO frontier_names (name) VALUES (?)", (key,))
                self._frontier_ids[key] = (cursor.lastrowid or 0) << OFFSET_BITS
            at = self._frontier_ids[key]
            execute("INSERT INTO frontiers VALUES (?, ?, ?)", (at, appended_us, frontier.to_json()))

    def close(self) -> None:
        self._wal.close()
        self._bell.close()
        self._connection.close()

    def _topic(self, name: str) -> _Topic:
        try:
            return self._topics[name]
        except KeyError:
            raise LogError(f"'{self._name}' has no such topic", where=name) from None

    def _check_epoch(self) -> None:
        row = self._connection.execute("SELECT epoch, owner FROM producer").fetchone()
        if row is None or row[0] != self.epoch:
            raise Fenced(
                f"replaced by {row[1] if row else 'a removal'}",
                where=self._name,
                hint="only one process may capture a source or maintain a group: stop this one",
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        if self._broken:
            raise LogError(
                "an earlier append failed; this producer has stopped",
                where=self._name,
                hint="start the connector again",
            )
        try:
            yield
        except BaseException as error:
            self._broken = True
            if isinstance(error, sqlite3.Error):
                raise translated(error, self._path, self._name) from error
            raise

    def _keep_house(self, size: int) -> None:
        """Look after the WAL, and thin old frontiers when it is time. The append has succeeded:
        a failure here is reported and tried again later."""
        self._wal.appended(size + _APPEND_OVERHEAD_BYTES)
        self._appends += 1
        if self._appends % HISTORY_CHECK_EVERY == 0:
            try:
                self._thin()
            except sqlite3.Error as error:
                logger.warning("%s", translated(error, self._path, self._name))

    def _thin(self) -> None:
        cutoff_us = self._last_us - int(self._history_s * 1e6)
        with self._transaction():
            for number, key in self._connection.execute("SELECT id, name FROM frontier_names"):
                newest = self._frontier_ids[key] & OFFSET_MASK
                thin_history(self._connection, number, newest, cutoff_us)


def _in_pieces(changes: ChangeBatch) -> Iterator[ChangeBatch]:
    """The changes in batches that a reader can hold in memory beside its own work."""
    share = max(1, changes.num_rows * BATCH_BYTES_MAX // max(1, changes.nbytes))
    length = min(BATCH_ROWS_MAX, share)
    if changes.num_rows <= length:
        yield changes
        return
    for start in range(0, changes.num_rows, length):
        yield changes.slice(start, length)


def end_offset(connection: sqlite3.Connection, partition: int) -> int:
    """The offset that the partition's next record will have."""
    low, high = partition << OFFSET_BITS, partition << OFFSET_BITS | OFFSET_MASK
    row = connection.execute(
        "SELECT next FROM batches WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", (low, high)
    ).fetchone()
    return int(row[0]) if row else 0


def newest_frontier_row(
    connection: sqlite3.Connection, number: int
) -> tuple[int, int, bytes] | None:
    """(id, append time, body) of the newest frontier record under a name's number."""
    low, high = number << OFFSET_BITS, number << OFFSET_BITS | OFFSET_MASK
    row: tuple[int, int, bytes] | None = connection.execute(
        "SELECT id, appended_us, body FROM frontiers WHERE id BETWEEN ? AND ? "
        "ORDER BY id DESC LIMIT 1",
        (low, high),
    ).fetchone()
    return row
