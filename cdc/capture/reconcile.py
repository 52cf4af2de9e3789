"""Reconcile: the live keys of a topic that must leave it (SEMANTICS 8), out of core.

A restarted snapshot, a new one, and TRUNCATE all ask the same: which keys are live in the topic,
and were not written at or after a given offset? They get a delete.

1.  The topic is read in passes; pass p takes only keys whose hash is p modulo the number of
    passes. So memory is bounded by ROWS_PER_PASS keys, whatever the topic's size, without a spill
    file: reading the embedded log again is cheaper than writing and sorting keys.
2.  Within a pass the last record of every key decides: live, if it is not a delete; stale, if it
    stands before the given offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D
from cdc.hashing import hash_columns
from cdc.latest import last_of_each
from cdc.log.api import Reader
from cdc.schema import TableSchema

ROWS_PER_PASS = 1_000_000
DELETES_PER_BATCH = 65_536


def stale_keys(
    reader: Reader, topic: str, schema: TableSchema, before: Mapping[int, int] | None = None
) -> Iterator[ChangeBatch]:
    """Deletes of every live key of `topic` whose newest record lies before `before[partition]`
    (None: of every live key). At most DELETES_PER_BATCH a batch; txn_seq, ordinal, commit_us 0.

    The topic is read up to its end at the call, so deletes may be appended while this runs.
    """
    for partition, end in enumerate(reader.end_offsets(topic)):
        limit = end if before is None else min(before.get(partition, 0), end)
        if limit == 0:
            continue
        passes = max(1, -(-end // ROWS_PER_PASS))
        for number in range(passes):
            keys = _stale(reader, topic, schema, partition, end, limit, number, passes)
            for start in range(0, keys.num_rows, DELETES_PER_BATCH):
                yield _deletes(schema, keys.slice(start, DELETES_PER_BATCH))


def _stale(
    reader: Reader,
    topic: str,
    schema: TableSchema,
    partition: int,
    end: int,
    limit: int,
    number: int,
    passes: int,
) -> pa.RecordBatch:
    """The key columns of one pass's stale keys."""
    parts: list[list[pa.Array]] = [[] for _ in schema.key]
    ops, offsets = [], []
    for batch in reader.read(topic, partition, 0, end):
        changes = batch.changes.conformed(schema)
        keys = [changes.rows.column(name) for name in schema.key]
        mine = np.arange(changes.num_rows)
        if passes > 1:
            mine = np.flatnonzero(hash_columns(keys) % np.uint64(passes) == np.uint64(number))
        taken = pa.array(mine)
        for part, column in zip(parts, keys, strict=True):
            part.append(column.take(taken))
        ops.append(changes.op[mine])
        offsets.append(batch.offsets[mine])
    names = pa.schema([schema.arrow.field(name) for name in schema.key])
    if not ops or not sum(map(len, ops)):
        return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in names], schema=names)
    columns = [pa.concat_arrays(part) for part in parts]
    last = last_of_each(columns)
    stale = (np.concatenate(ops)[last] != D) & (np.concatenate(offsets)[last] < limit)
    chosen = pa.array(last[stale])
    return pa.RecordBatch.from_arrays([column.take(chosen) for column in columns], schema=names)


def _deletes(schema: TableSchema, keys: pa.RecordBatch) -> ChangeBatch:
    count = keys.num_rows
    columns = [
        keys.column(c.name) if c.name in schema.key else pa.nulls(count, c.type)
        for c in schema.columns
    ]
    zeros = np.zeros(count, np.int64)
    return ChangeBatch(
        schema,
        np.full(count, D, np.uint8),
        zeros,
        zeros,
        zeros,
        pa.RecordBatch.from_arrays(columns, schema=schema.arrow),
    )
