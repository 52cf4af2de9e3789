"""From cuts of the log to cuts for a store: one change per key, in pieces that fit in memory.

A cut is gathered whole. Only when it exceeds the limits is it handed on in chunks, each with the
offsets that it reaches; the last chunk carries the vector (SEMANTICS 34). A cut that compaction
overtook while it was read is not handed on as whole: the next cut is gathered on top of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D, Int64s
from cdc.cuts import Cut
from cdc.latest import latest_with_index
from cdc.log.api import LogBatch
from cdc.schema import TableSchema
from sinks.api import InputChanges, SinkInput


@dataclass(frozen=True)
class Limits:
    """Above these a cut goes in chunks."""

    rows: int = 1_000_000
    bytes_: int = 256 * 2**20


@dataclass(eq=False)
class Chunk:
    """Changes gathered so far, per topic in offset order, and the offsets that they reach."""

    offsets: dict[str, list[int]]
    batches: dict[str, list[ChangeBatch]] = field(default_factory=dict)
    places: dict[str, list[Int64s]] = field(default_factory=dict)
    """The offsets of the changes, batch by batch."""
    rows: int = 0
    bytes_: int = 0

    def add(self, batch: LogBatch) -> None:
        changes = replace(batch.changes, before=None, has_before=None)
        self.batches.setdefault(batch.topic, []).append(changes)
        self.places.setdefault(batch.topic, []).append(batch.offsets)
        self.offsets[batch.topic][batch.partition] = batch.next_offset
        self.rows += changes.num_rows
        self.bytes_ += changes.nbytes

    def exceeds(self, limits: Limits) -> bool:
        return self.rows >= limits.rows or self.bytes_ >= limits.bytes_

    def begin_anew(self) -> None:
        """Forget the changes, which were applied; stay at the offsets."""
        self.batches, self.places, self.rows, self.bytes_ = {}, {}, 0, 0


def filled(chunk: Chunk, cut: Cut, limits: Limits) -> Iterator[Chunk]:
    """Gather the cut into `chunk`, yielding it whenever it is full and more may follow; the caller
    applies it and calls `begin_anew`. What is left afterwards is the cut's last chunk."""
    for topic, starts in cut.start.items():
        chunk.offsets.setdefault(topic, list(starts))
        for batch in cut.batches(topic):
            chunk.add(batch)
            if chunk.exceeds(limits):
                yield chunk
    for topic, ends in cut.end.items():
        chunk.offsets[topic] = list(ends)


def changes_of(chunk: Chunk, inputs: Sequence[SinkInput]) -> tuple[InputChanges, ...]:
    """Rows to have and keys to lose, at most one per key, of every input that changed."""
    found = []
    for item in inputs:
        batches = chunk.batches.get(item.topic)
        if batches:
            latest, kept = latest_with_index(batches)
            offsets = np.concatenate(chunk.places[item.topic])[kept]
            found.append(_split(item, latest.conformed(item.schema), offsets))
    return tuple(found)


def _split(item: SinkInput, latest: ChangeBatch, offsets: Int64s) -> InputChanges:
    deleted = latest.op == D
    if not deleted.any():
        none = keys_of(latest.rows.slice(0, 0), item.schema)
        return InputChanges(item, latest.rows, none, offsets, offsets[:0])
    upserts = latest.rows.take(pa.array(np.flatnonzero(~deleted)))
    gone = latest.rows.take(pa.array(np.flatnonzero(deleted)))
    keys = keys_of(gone, item.schema)
    return InputChanges(item, upserts, keys, offsets[~deleted], offsets[deleted])


def keys_of(rows: pa.RecordBatch, schema: TableSchema) -> pa.RecordBatch:
    """The key columns of `rows`, in key order."""
    return rows.select(list(schema.key))


def frozen(offsets: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {topic: tuple(ends) for topic, ends in offsets.items()}
