"""`source.sequence`: where a change stands in our log, as JSON text.

    ["<txn_seq>","<ordinal>","<schema version>"]      ours
    ["<last commit's LSN>","<LSN>"], [null,"<LSN>"]   Debezium's Postgres connector's

Reading finds every run of digits in the bytes of all texts at once, and sums each run's digits
times their powers of ten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.formats.connect_values import Constant, Values
from cdc.ragged import Bools, Int64s

_PARTS = 3
_FEW = 4
_NUMBER = re.compile(r"-?\d+")
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_ZERO, _MINUS = ord("0"), ord("-")


@dataclass(frozen=True, eq=False)
class Sequences:
    """Per record: the position and the schema version, or -1, 0 and 0 where `ours` is False."""

    txn_seq: Int64s
    ordinal: Int64s
    version: Int64s
    ours: Bools


def written(txn_seq: Int64s, ordinal: Int64s, version: int) -> pa.Array:
    """The texts of these positions."""
    numbers = [pa.array(part).cast(pa.string()) for part in (txn_seq, ordinal)]
    end = f'","{version}"]'
    return pc.binary_join_element_wise('["', numbers[0], '","', numbers[1], end, "")


def read(values: Values | None, num_rows: int) -> Sequences:
    """The positions in texts; anything else (null, no such field) is not ours."""
    if values is None or isinstance(values, Constant) or not isinstance(values, pa.Array):
        return _sequences(np.zeros((0, _PARTS), np.int64), np.zeros(num_rows, np.bool_))
    if num_rows <= _FEW:
        return _read_few(values.to_pylist())
    data, places = ragged.contents(values)
    data = data[: places[-1]]
    digit = (data - np.uint8(_ZERO)) < 10
    before = np.zeros(len(data), np.bool_)
    before[1:] = digit[:-1]
    first = np.flatnonzero(digit & ~before)
    counts = np.searchsorted(first, places[1:]) - np.searchsorted(first, places[:-1])
    ours = counts == _PARTS
    if not ragged.some(ours):
        return _sequences(np.zeros((0, _PARTS), np.int64), ours)
    behind = np.zeros(len(data), np.bool_)
    behind[:-1] = digit[1:]
    last = np.flatnonzero(digit & ~behind)
    if not ragged.every(ours):
        kept = np.repeat(ours, counts)
        first, last = first[kept], last[kept]
    numbers = np.zeros(len(first), np.int64)
    lengths = last - first + 1
    for place in range(int(lengths.max(initial=0))):
        here = slice(None) if place < int(lengths.min()) else np.flatnonzero(lengths > place)
        numbers[here] += (data[last[here] - place] - np.uint8(_ZERO)) * _POWERS[place]
    negative = (first > 0) & (data[first - 1] == _MINUS)
    return _sequences(np.where(negative, -numbers, numbers).reshape(-1, _PARTS), ours)


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
