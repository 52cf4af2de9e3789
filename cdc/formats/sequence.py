"""`source.sequence`: where a change stands in our log, as JSON text.

    ["<txn_seq>","<ordinal>","<schema version>"]      ours
    ["<last commit's LSN>","<LSN>"], [null,"<LSN>"]   Debezium's Postgres connector's

Reading finds every run of digits in the bytes of all texts at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.formats.connect_values import Composed, Constant, Values
from cdc.json_integers import integers
from cdc.ragged import Bools, Bytes, Int64s

_PARTS = 3
_FEW = 4
_NUMBER = re.compile(r"-?\d+")
_ZERO, _MINUS = ord("0"), ord("-")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Per record: the position and the schema version, or -1, 0 and 0 where `ours` is False."""

    txn_seq: Int64s
    ordinal: Int64s
    version: Int64s
    ours: Bools


def written(txn_seq: Int64s, ordinal: Int64s, version: int) -> Composed:
    """The texts of these positions."""
    ordinals = pa.array(ordinal).cast(pa.string())
    end = f'","{version}"]'
    if ragged.same(txn_seq):
        return Composed((f'["{txn_seq[0]}","', ordinals, end))
    return Composed(('["', pa.array(txn_seq).cast(pa.string()), '","', ordinals, end))


def read(values: Values | None, num_rows: int) -> Sequences:
    """The positions in texts; anything else (null, no such field) is not ours."""
    if values is None or isinstance(values, Constant) or not isinstance(values, pa.Array):
        return _sequences(np.zeros((0, _PARTS), np.int64), np.zeros(num_rows, np.bool_))
    if num_rows <= _FEW:
        return _read_few(values.to_pylist())
    data, places = ragged.contents(values)
    first, behind = _digit_runs(data[: places[-1]])
    counts = _per_text(first, places)
    ours = counts == _PARTS
    if not ragged.some(ours):
        return _sequences(np.zeros((0, _PARTS), np.int64), ours)
    if not ragged.every(ours):
        kept = np.repeat(ours, counts)
        first, behind = first[kept], behind[kept]
    signed = first - (data[np.maximum(first, 1) - 1] == _MINUS)
    numbers = integers(data, signed, behind)
    if numbers is None:
        return _read_few(values.to_pylist())
    return _sequences(numbers.reshape(-1, _PARTS), ours)


def _digit_runs(data: Bytes) -> tuple[Int64s, Int64s]:
    """Where runs of digits begin, and behind which byte they end."""
    edges = np.zeros(len(data) + 1, np.bool_)
    if len(data):
        digit = (data - np.uint8(_ZERO)) < 10
        np.not_equal(digit[1:], digit[:-1], out=edges[1:-1])
        edges[0], edges[-1] = digit[0], digit[-1]
    runs = np.flatnonzero(edges).reshape(-1, 2)
    return runs[:, 0], runs[:, 1]


def _per_text(at: Int64s, places: Int64s) -> Int64s:
    """How many of the positions are in each text."""
    rows = len(places) - 1
    if len(at) == rows * _PARTS:
        each = at.reshape(rows, _PARTS)
        inside = (each[:, 0] >= places[:-1]) & (each[:, -1] < places[1:])
        if ragged.every(inside):
            return np.full(rows, _PARTS, np.int64)
    return np.searchsorted(at, places[1:]) - np.searchsorted(at, places[:-1])


def _read_few(texts: list[str | None]) -> Sequences:
    numbers = [_NUMBER.findall(text or "") for text in texts]
    ours = np.array([len(found) == _PARTS for found in numbers], np.bool_)
    kept = [list(map(int, found)) for found in numbers if len(found) == _PARTS]
    return _sequences(np.array(kept, np.int64).reshape(-1, _PARTS), ours)


def _sequences(numbers: Int64s, ours: Bools) -> Sequences:
    if len(numbers) == len(ours):
        return Sequences(numbers[:, 0], numbers[:, 1], numbers[:, 2], ours)
    found = np.zeros((len(ours), _PARTS), np.int64)
    found[:, 0] = -1
    found[ours] = numbers
    return Sequences(found[:, 0], found[:, 1], found[:, 2], ours)
