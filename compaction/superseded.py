"""Which records of a partition no one needs any more.

Memory is bounded whatever the partition's size: 17 bytes a record, and the keys of one slice.

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

from cdc.changes import Bools, Bytes, D
from cdc.hashing import Hashes, hash_columns
from cdc.latest import last_of_each

KEYS_IN_MEMORY_BYTES = 96 * 2**20


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
    tombstones_before_us: int,
    *,
    hash_bits: int = 64,
    keys_in_memory_bytes: int = KEYS_IN_MEMORY_BYTES,
) -> Verdict:
    """Judge all records that `scan` gives; it is called several times and must repeat itself.

    Deletes appended before `tombstones_before_us` are past their retention.
    """
    hashes, deletes, appended_us, key_bytes = _survey(scan, hash_bits)
    candidates = _repeated(hashes)
    removed = np.zeros(len(hashes), np.bool_)
    share = candidates.sum() / max(1, len(hashes))
    slices = 1 + int(share * key_bytes / keys_in_memory_bytes)
    superseded_us = 0
    for number in range(slices):
        chosen = candidates & (hashes % np.uint64(slices) == number)
        superseded_us = max(
            superseded_us, _supersede(scan, chosen, appended_us, removed, hash_bits)
        )
    expired = ~removed & deletes & (appended_us < tombstones_before_us)
    tombstones_us = int(appended_us[expired].max(initial=0))
    return Verdict(removed | expired, superseded_us, tombstones_us)


def _survey(scan: Scan, hash_bits: int) -> tuple[Hashes, Bools, np.ndarray, int]:
    """Per record: key hash, whether it is a delete, append time; and the bytes of all keys."""
    hashes, deletes, times, key_bytes = [], [], [], 0
    for batch in scan():
        count = len(batch.op)
        keyed = bool(batch.keys)
        hashes.append(hash_columns(batch.keys, hash_bits) if keyed else np.zeros(count, np.uint64))
        deletes.append(batch.op == D)
        times.append(np.full(count, batch.appended_us, np.int64))
        key_bytes += sum(column.nbytes for column in batch.keys)
    if not hashes:
        none = np.zeros(0, np.int64)
        return none.astype(np.uint64), none.astype(np.bool_), none, 0
    return np.concatenate(hashes), np.concatenate(deletes), np.concatenate(times), key_bytes


def _repeated(hashes: Hashes) -> Bools:
    """Which records share their hash with another."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(hashes), np.bool_)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def _supersede(
    scan: Scan, chosen: Bools, appended_us: np.ndarray, removed: Bools, hash_bits: int
) -> int:
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
    return int(appended_us[records[last]].max())


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
