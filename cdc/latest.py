"""The last change of every key in a sequence of changes (SEMANTICS 18, 28).

1. Hash the key columns by value and sort the rows by hash, stably: rows of one key now stand
   together, in their order.
2. Compare each row with its neighbour of equal hash. Where all are equal, which is practically
   always, a group is a key and its last row is the answer.
3. Where a hash is shared by different keys, tell the rows of that group apart by their canonical
   keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import Bools, ChangeBatch, Int64s, concat
from cdc.hashing import Hashes, hash_columns
from cdc.keys import encode_keys


def latest_per_key(batches: Sequence[ChangeBatch], hash_bits: int = 64) -> ChangeBatch:
    """The last change per key of `batches` (of one table, in order, at least one), in their order.

    Batches of several schema versions come forward to the newest.
    """
    return latest_with_index(batches, hash_bits)[0]


def latest_with_index(
    batches: Sequence[ChangeBatch], hash_bits: int = 64
) -> tuple[ChangeBatch, Int64s]:
    """`latest_per_key`, and the place of each of its changes among all rows of `batches`."""
    newest = max((b.schema for b in batches), key=lambda schema: schema.version)
    filled = [b.conformed(newest) for b in batches if b.num_rows] or [batches[0].conformed(newest)]
    changes = concat(filled)
    count = changes.num_rows
    if count <= 1:
        return changes, np.arange(count, dtype=np.int64)
    if not newest.key:
        return changes.slice(count - 1), np.array([count - 1], np.int64)
    last = last_of_each([changes.rows.column(name) for name in newest.key], hash_bits)
    return (changes if len(last) == count else changes.take(last)), last


def last_of_each(keys: Sequence[pa.Array], hash_bits: int = 64) -> Int64s:
    """The index of every key's last row, ascending."""
    hashes = hash_columns(keys, hash_bits)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return np.arange(len(hashes), dtype=np.int64)
    rows = np.flatnonzero(same)
    differs = _keys_differ(keys, order[rows], order[rows + 1])
    is_last = np.append(~same, True)
    if differs.any():
        _separate(keys, order, ordered, ordered[rows[differs]], is_last)
    return np.sort(order[is_last])


def _keys_differ(keys: Sequence[pa.Array], left: Int64s, right: Int64s) -> Bools:
    found = np.zeros(len(left), np.bool_)
    a_rows, b_rows = pa.array(left), pa.array(right)
    for column in keys:
        found |= ~_equal(column.take(a_rows), column.take(b_rows))
    return found


def _equal(a: pa.Array, b: pa.Array) -> Bools:
    """Per row, whether two key values are one: by value, NULL being equal to NULL."""
    plain = (
        pa.types.is_integer(a.type) or pa.types.is_string(a.type) or pa.types.is_temporal(a.type)
    )
    if not plain:
        a, b = encode_keys([a], len(a)), encode_keys([b], len(b))
    equal = np.asarray(pc.fill_null(pc.equal(a, b), False))
    if a.null_count or b.null_count:
        equal = equal | np.asarray(pc.and_(pc.is_null(a), pc.is_null(b)))
    return equal


def _separate(
    keys: Sequence[pa.Array], order: Int64s, ordered: Hashes, shared: Hashes, is_last: Bools
) -> None:
    """Correct `is_last` within the groups whose hash is in `shared`."""
    places = np.flatnonzero(np.isin(ordered, shared))
    rows = pa.array(order[places])
    texts = encode_keys([column.take(rows) for column in keys], len(places)).to_pylist()
    newest = dict(zip(texts, places.tolist(), strict=True))
    is_last[places] = False
    is_last[list(newest.values())] = True
