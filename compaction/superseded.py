"""Which records of a partition no one needs any more.

Memory: about 12 bytes a record of the partition, and one slice of keys; never the rows.

1.  Scan the keys and operations of all batches that lie wholly at or below the floor; keep each
    record's 64-bit key hash.
2.  A hash that occurs once is a key that occurs once. Only records whose hash occurs again are
    candidates.
3.  A hash match is no proof. So for slices of the hash space, sized such that the candidates'
    keys fit into memory, read those keys again and find each key's last record by comparing them.
4.  A candidate that is not its key's last is superseded. A last record that is a delete older than
    the retention goes too; everything before it is superseded, so nothing comes back to life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import Bools, Bytes, D, Int64s
from cdc.hashing import Hashes, hash_columns
from cdc.latest import last_of_each

SLICE_BYTES = 96 * 2**20
_WORK_BYTES = 72
"""What comparing costs per candidate, beside its key."""
_SORT_SLICES = 16


@dataclass(frozen=True, eq=False)
class KeyedBatch:
    """The keys and operations of one stored batch, and when it was appended."""

    keys: Sequence[pa.Array]
    op: Bytes
    appended_us: int


@dataclass(frozen=True, eq=False)
class Verdict:
    """removed[i]: record i of the scan may go. The newest append time of a record that supersedes
    a removed one, and of a delete that is removed itself (0: none)."""

    removed: Bools
    superseded_us: int
    tombstones_us: int


Scan = Callable[[], Iterator[KeyedBatch]]


def judge(
    scan: Scan,
    records: int,
    tombstones_before_us: int,
    *,
    hash_bits: int = 64,
    slice_bytes: int = SLICE_BYTES,
) -> Verdict:
    """Judge all `records` that `scan` gives; it is called several times and must repeat itself.

    Deletes appended before `tombstones_before_us` are past their retention.
    """
    survey = _survey(scan, records, hash_bits)
    candidates = _repeated(survey.hashes)
    removed = np.zeros(records, np.bool_)
    count = int(candidates.sum())
    key_bytes = survey.key_bytes * count // max(1, records)
    slices = np.uint64(1 + (key_bytes + count * _WORK_BYTES) // slice_bytes)
    superseded_us = 0
    for number in range(int(slices)):
        chosen = candidates & (survey.hashes % slices == number)
        superseded_us = max(superseded_us, _supersede(scan, chosen, survey, removed, hash_bits))
    expired = np.flatnonzero(survey.deletes & ~candidates)
    expired = expired[survey.appended_us(expired) < tombstones_before_us]
    removed[expired] = True
    return Verdict(removed, superseded_us, int(survey.appended_us(expired).max(initial=0)))


@dataclass(frozen=True, eq=False)
class _Survey:
    """Per record its key hash and whether it is a delete; per batch its first record and append
    time; and the bytes of all keys."""

    hashes: Hashes
    deletes: Bools
    starts: Int64s
    times_us: Int64s
    key_bytes: int

    def appended_us(self, records: Int64s) -> Int64s:
        return self.times_us[np.searchsorted(self.starts, records, side="right") - 1]


def _survey(scan: Scan, records: int, hash_bits: int) -> _Survey:
    hashes, deletes = np.zeros(records, np.uint64), np.zeros(records, np.bool_)
    starts, times, key_bytes, at = [], [], 0, 0
    for batch in scan():
        end = at + len(batch.op)
        if batch.keys:
            hashes[at:end] = hash_columns(batch.keys, hash_bits)
        deletes[at:end] = batch.op == D
        starts.append(at)
        times.append(batch.appended_us)
        key_bytes += sum(column.nbytes for column in batch.keys)
        at = end
    both = np.array(starts, np.int64), np.array(times, np.int64)
    return _Survey(hashes, deletes, *both, key_bytes)


def _repeated(hashes: Hashes) -> Bools:
    """Which records share their hash with another, sorted a slice of the hash space at a time."""
    repeated = np.zeros(len(hashes), np.bool_)
    for number in range(_SORT_SLICES):
        here = np.flatnonzero(hashes % np.uint64(_SORT_SLICES) == number)
        order = here[np.argsort(hashes[here], kind="stable")]
        ordered = hashes[order]
        same = ordered[1:] == ordered[:-1]
        repeated[order[1:][same]] = True
        repeated[order[:-1][same]] = True
    return repeated


def _supersede(scan: Scan, chosen: Bools, survey: _Survey, removed: Bools, hash_bits: int) -> int:
    """Mark the chosen records that are not their key's last; the append time of the newest record
    that superseded one."""
    records = np.flatnonzero(chosen)
    if not len(records):
        return 0
    keys = _keys_of(scan, chosen)
    last = last_of_each(keys, hash_bits) if keys else np.array([len(records) - 1])
    gone = np.ones(len(records), np.bool_)
    gone[last] = False
    removed[records[gone]] = True
    if not gone.any():
        return 0
    return int(survey.appended_us(records[last]).max())


def _keys_of(scan: Scan, chosen: Bools) -> list[pa.Array]:
    """The key columns of the chosen records, in order."""
    parts: list[list[pa.Array]] = []
    at = 0
    for batch in scan():
        here = np.flatnonzero(chosen[at : at + len(batch.op)])
        at += len(batch.op)
        if len(here):
            parts.append([column.take(pa.array(here)) for column in batch.keys])
    return [pa.concat_arrays(list(columns)) for columns in zip(*parts, strict=True)]
