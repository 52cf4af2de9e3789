"""Whether a rebuilt store holds exactly what its inputs' topics say, at its position.

1. Of every record of the topic below the position, two 64-bit hashes, of the key and of the
   columns that the store can give back, both by value (cdc.hashing). The newest record per key
   counts; deletes count for nothing.
2. The same of the store's rows. Where the numbers of rows and the sums of the mixed hashes agree,
   the rows do, and nothing more is read: memory is some 25 bytes per key.
3. Where they do not, the keys whose hashes differ are found, and only their rows are read again and
   compared value by value (cdc.compare): a hash cannot know that two spellings of a json document
   are one value.
4. Keys that the store refused to take are in `dead-letters`; they are left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, D, Int64s
from cdc.compare import Difference, compare
from cdc.hashing import Hashes, hash_columns
from cdc.keys import row_keys
from cdc.log.api import LogBatch, Reader
from cdc.schema import TableSchema
from sinks.api import Sink, SinkInput

PENDING_ROWS_MAX = 4_000_000
_PARTITION_BITS = 16

Step = Callable[[], None]
"""Called now and then; may raise to end the work."""


@dataclass(frozen=True)
class Comparison:
    """Of one input: rows compared, rows that the store refused, what differs (None: nothing)."""

    input: str
    rows: int
    refused: int = 0
    difference: Difference | None = None


@dataclass(frozen=True, eq=False)
class _Fingerprints:
    """One entry per key, ascending by `keys`."""

    keys: Hashes
    rows: Hashes
    places: Int64s
    """Of a topic: offset and partition of the record."""

    @property
    def checksum(self) -> tuple[int, int]:
        return len(self.keys), _mixed_sum(self.keys, self.rows)


def compare_input(
    sink: Sink,
    item: SinkInput,
    offsets: tuple[int, ...],
    reader: Reader,
    letters: Callable[[], frozenset[str]],
    step: Step,
) -> Comparison:
    """Compare the sink's rows of one input with its topic below `offsets`. `letters`: the keys,
    in canonical form, that the store has refused."""
    schema = item.schema.only(sink.readable_columns(item.name))
    expected = _latest(item, schema, offsets, reader, step)
    if expected.checksum == _checksum(sink, item, schema, step):
        return Comparison(item.name, len(expected.keys))
    keys, places = _doubtful(expected, _all_rows(sink, item, schema, step))
    refused = pa.array(sorted(letters()), pa.string())
    left_out = [0]

    def from_topic() -> Iterator[pa.RecordBatch]:
        for batch in _batches(item, offsets, reader, step):
            wanted = np.isin(_places(batch), places)
            rows = batch.changes.conformed(item.schema).rows.select(schema.arrow.names)
            kept = _without(rows.filter(pa.array(wanted)), schema, refused)
            left_out[0] += int(np.count_nonzero(wanted)) - kept.num_rows
            yield kept

    def from_store() -> Iterator[pa.RecordBatch]:
        for rows in _rows(sink, item, schema, step):
            wanted = np.isin(_key_hashes(rows, schema), keys)
            yield _without(rows.filter(pa.array(wanted)), schema, refused)

    found = compare(from_topic(), from_store(), schema)
    rows_compared = len(expected.keys) - left_out[0]
    return Comparison(item.name, rows_compared, left_out[0], None if found.equal else found)


def _latest(
    item: SinkInput, schema: TableSchema, offsets: tuple[int, ...], reader: Reader, step: Step
) -> _Fingerprints:
    """Of the live rows of the topic."""
    parts: list[tuple[_Fingerprints, Bools]] = []
    pending = 0
    for batch in _batches(item, offsets, reader, step):
        rows = batch.changes.conformed(item.schema).rows
        hashed = _Fingerprints(_key_hashes(rows, schema), _row_hashes(rows, schema), _places(batch))
        parts.append((hashed, batch.changes.op == D))
        pending += rows.num_rows
        if pending >= max(PENDING_ROWS_MAX, len(parts[0][0].keys)):
            parts, pending = [_newest(parts)], 0
    newest, deleted = _newest(parts)
    alive = ~deleted
    return _Fingerprints(newest.keys[alive], newest.rows[alive], newest.places[alive])


def _newest(parts: list[tuple[_Fingerprints, Bools]]) -> tuple[_Fingerprints, Bools]:
    """The last entry per key of parts in log order, ascending by key; whether it is a delete."""
    if not parts:
        none = np.zeros(0, np.uint64)
        return _Fingerprints(none, none, np.zeros(0, np.int64)), np.zeros(0, np.bool_)
    keys = np.concatenate([part.keys for part, _ in parts])
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = order[np.append(ordered[1:] != ordered[:-1], True)] if len(keys) else order
    rows = np.concatenate([part.rows for part, _ in parts])[last]
    places = np.concatenate([part.places for part, _ in parts])[last]
    deleted = np.concatenate([deleted for _, deleted in parts])[last]
    return _Fingerprints(keys[last], rows, places), deleted


def _checksum(sink: Sink, item: SinkInput, schema: TableSchema, step: Step) -> tuple[int, int]:
    """Of the store's rows, as `_Fingerprints.checksum`."""
    count = total = 0
    for rows in _rows(sink, item, schema, step):
        count += rows.num_rows
        total += _mixed_sum(_key_hashes(rows, schema), _row_hashes(rows, schema))
    return count, total % 2**64


def _all_rows(sink: Sink, item: SinkInput, schema: TableSchema, step: Step) -> _Fingerprints:
    """Of the store's rows, of which several may have one key, ascending by key."""
    keys, rows = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for batch in _rows(sink, item, schema, step):
        keys.append(_key_hashes(batch, schema))
        rows.append(_row_hashes(batch, schema))
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys, kind="stable")
    none = np.zeros(0, np.int64)
    return _Fingerprints(all_keys[order], np.concatenate(rows)[order], none)


def _doubtful(expected: _Fingerprints, found: _Fingerprints) -> tuple[Hashes, Int64s]:
    """The hashes of keys that have other rows here than there, and their places in the topic."""
    if len(expected.keys) == 0:
        return np.unique(found.keys), expected.places
    at = np.minimum(np.searchsorted(expected.keys, found.keys), len(expected.keys) - 1)
    same = (expected.keys[at] == found.keys) & (expected.rows[at] == found.rows)
    if len(same):
        same[1:] &= found.keys[1:] != found.keys[:-1]
    agreed = np.zeros(len(expected.keys), np.bool_)
    agreed[at[same]] = True
    keys = np.union1d(expected.keys[~agreed], found.keys[~same])
    return keys, expected.places[np.isin(expected.keys, keys)]


def _batches(
    item: SinkInput, offsets: tuple[int, ...], reader: Reader, step: Step
) -> Iterator[LogBatch]:
    for partition, end in enumerate(offsets):
        for batch in reader.read(item.topic, partition, 0, end):
            step()
            if batch.changes.num_rows:
                yield batch


def _rows(sink: Sink, item: SinkInput, schema: TableSchema, step: Step) -> Iterator[pa.RecordBatch]:
    for rows in sink.rows(item.name):
        step()
        if rows.num_rows:
            yield rows.select(schema.arrow.names)


def _places(batch: LogBatch) -> Int64s:
    return batch.offsets << _PARTITION_BITS | batch.partition


def _key_hashes(rows: pa.RecordBatch, schema: TableSchema) -> Hashes:
    if not schema.key:
        return np.zeros(rows.num_rows, np.uint64)
    return hash_columns([rows.column(name) for name in schema.key])


def _row_hashes(rows: pa.RecordBatch, schema: TableSchema) -> Hashes:
    return hash_columns([rows.column(name) for name in schema.arrow.names])


def _mixed_sum(keys: Hashes, rows: Hashes) -> int:
    """A sum, modulo 2^64, to which every row adds something of its own."""
    if not len(keys):
        return 0
    return int(hash_columns([pa.array(keys), pa.array(rows)]).sum(dtype=np.uint64))


def _without(rows: pa.RecordBatch, schema: TableSchema, keys: pa.Array) -> pa.RecordBatch:
    if not len(keys) or not rows.num_rows:
        return rows
    return rows.filter(pc.invert(pc.is_in(row_keys(schema, rows), value_set=keys)))
