"""Which partition a key belongs to: the Java client's partitioner, many keys at once.

    partition = toPositive(murmur2(key bytes)) % partitions

(Apache Kafka, org.apache.kafka.common.utils.Utils.murmur2 and toPositive.) Equal partitioning is
what joins of topics from different producers rest on, and what lets compaction join a key's old
and new records. MurmurHash2 (public domain, A. Appleby), 32 bits, seed 0x9747b28c:

1. h = seed ^ length.
2. For each whole word of 4 bytes, little endian, k: k *= m; k ^= k >> 24; k *= m; h *= m; h ^= k.
3. The 1 to 3 bytes that are left, as a little-endian number: h ^= them; h *= m.
4. h ^= h >> 13; h *= m; h ^= h >> 15.

The keys advance together, word by word; keys that have ended keep their hash.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc import ragged
from cdc.ragged import Bytes, Int64s

_SEED, _M, _MASK = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF
_R = np.uint32(24)
_FEW = 4

UInt32s = npt.NDArray[np.uint32]


def partitions(keys: pa.Array, count: int) -> Int64s:
    """The partition, 0 to count - 1, of every key of a binary or string array without nulls."""
    return (hashes(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % count


def hashes(keys: pa.Array) -> UInt32s:
    """murmur2 of every key, as an unsigned number."""
    if len(keys) <= _FEW:
        found = [_hash(bytes(key)) for key in keys.cast(pa.binary()).to_pylist()]
        return np.array(found, np.uint32)
    data, places = ragged.contents(keys)
    data = np.append(data, np.zeros(4, np.uint8))
    start, length = places[:-1], np.diff(places)
    m = np.uint32(_M)
    h: UInt32s = np.uint32(_SEED) ^ length.astype(np.uint32)
    whole = length >> 2
    shortest = int(whole.min())
    for word in range(int(whole.max())):
        here = slice(None) if word < shortest else np.flatnonzero(whole > word)
        k = _words(data, start[here] + 4 * word) * m
        k ^= k >> _R
        k *= m
        h[here] = h[here] * m ^ k
    rest = (length & 3).astype(np.uint32)
    here = np.flatnonzero(rest)
    tail = _words(data, start[here] + 4 * whole[here])
    tail &= (np.uint32(1) << (rest[here] << np.uint32(3))) - np.uint32(1)
    h[here] = (h[here] ^ tail) * m
    h ^= h >> np.uint32(13)
    h *= m
    return h ^ h >> np.uint32(15)


def _words(data: Bytes, at: Int64s) -> UInt32s:
    return ragged.gather(data, at, "<u4").astype(np.uint32, copy=False)


def _hash(key: bytes) -> int:
    """The same for one key: numpy's calls would cost more."""
    h = _SEED ^ len(key)
    end = len(key) & ~3
    for at in range(0, end, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if end < len(key):
        h = (h ^ int.from_bytes(key[end:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15
