"""Immutable sorted runs: what the views' state is made of.

A run holds rows in ascending order of a 64-bit *code*, with a weight each. Two kinds exist:

    MAP   one row per key. The code is the key's hash; weight 1 says "this is the row", 0 says "the
          key has none" (a tombstone). Of two runs the newer one wins.
    BAG   rows with multiplicities (a Z-set). The code's upper 36 bits are the key's hash, its lower
          28 bits the whole row's, so that one sort brings equal keys together and, within them,
          equal rows. Of two runs the weights add; rows of weight 0 vanish.

A code is never proof of equality: lookups compare key values, merges compare rows (SEMANTICS 22).

File of a run: 64 bytes of header (magic, crc32 and length of the body, zero padded), then an Arrow
IPC file with the columns `code`, `weight` and the rows. Written and fsynced once, then mapped.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.changes import Int64s, concat_rows
from cdc.errors import LogDamaged
from cdc.hashing import hash_columns
from compaction.equality import equal_exactly, equal_values, representatives, row_keys

Codes = npt.NDArray[np.uint64]

KEY_BITS = 36
_ROW_BITS = np.uint64(64 - KEY_BITS)
_KEY_MASK = np.uint64(((1 << KEY_BITS) - 1) << (64 - KEY_BITS))
ROW_MASK = np.uint64((1 << (64 - KEY_BITS)) - 1)
_SLICE_ROWS = 16_384


class Kind(Enum):
    MAP = "map"
    BAG = "bag"


@dataclass(frozen=True)
class Layout:
    """How a spine's rows are arranged: its kind, its columns, and which of them are the key."""

    kind: Kind
    schema: pa.Schema
    key: tuple[int, ...]
    hash_bits: int = 64

    def hashes(self, keys: Sequence[pa.Array], count: int) -> Codes:
        """The hash of each key: equal for keys that are equal by value."""
        if not keys:
            return np.zeros(count, np.uint64)
        hashes = hash_columns(keys, self.hash_bits)
        return hashes if self.hash_bits == 64 else hashes << np.uint64(64 - self.hash_bits)

    def key_codes(self, hashes: Codes) -> Codes:
        """The code of each key: complete for a MAP, the lowest code of the key for a BAG."""
        return hashes if self.kind is Kind.MAP else hashes & _KEY_MASK

    def codes(self, hashes: Codes, rows: pa.RecordBatch) -> Codes:
        """The codes of rows whose keys have `hashes`."""
        if self.kind is Kind.MAP:
            return hashes
        within = hash_columns([_plain(column) for column in rows.columns], self.hash_bits)
        shift = KEY_BITS if self.hash_bits == 64 else 0
        if not shift:
            within = within << np.uint64(64 - KEY_BITS - self.hash_bits)
        return self.key_codes(hashes) | (within >> np.uint64(shift))

    def keys(self, rows: pa.RecordBatch) -> list[pa.Array]:
        return [rows.column(i) for i in self.key]


def _plain(column: pa.Array) -> pa.Array:
    """What a row's hash sees: rows are compared exactly, so a numeric's text will do."""
    return column.storage if isinstance(column.type, pa.ExtensionType) else column


@dataclass(frozen=True, eq=False)
class Run:
    """Rows sorted by code. `path`: its file, once it has one (then the columns are mapped)."""

    codes: Codes
    weights: Int64s
    rows: pa.RecordBatch
    path: Path | None = None

    @property
    def num_rows(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes + 16 * len(self.codes))

    def slice(self, start: int, stop: int) -> Run:
        return Run(
            self.codes[start:stop], self.weights[start:stop], self.rows.slice(start, stop - start)
        )

    def take(self, index: Int64s) -> Run:
        return Run(self.codes[index], self.weights[index], self.rows.take(pa.array(index)))


def make_run(layout: Layout, codes: Codes, weights: Int64s, rows: pa.RecordBatch) -> Run:
    """A run of rows in any order; of a MAP's rows with one key the first wins."""
    run = Run(codes, weights, rows)
    if len(codes) > 1:
        if not (codes[1:] >= codes[:-1]).all():
            run = run.take(np.argsort(codes, kind="stable"))
        run = _consolidated(layout, run)
    return run if layout.kind is Kind.MAP else _without_zeros(run)


def merge_runs(layout: Layout, runs: Sequence[Run], oldest: bool) -> Run:
    """One run with the meaning of `runs` (from oldest to newest, at least one). `oldest`: nothing
    lies below them, so tombstones may go."""
    *_, last = merge_in_slices(layout, runs, oldest)
    assert last is not None
    return last


def merge_small(layout: Layout, runs: Sequence[Run], oldest: bool) -> Run:
    """One run with the meaning of several small ones, from oldest to newest."""
    newest_first = runs[::-1]
    codes = np.concatenate([run.codes for run in newest_first])
    both = Run(
        codes,
        np.concatenate([run.weights for run in newest_first]),
        concat_rows([run.rows for run in newest_first], layout.schema),
    )
    merged = _consolidated(layout, both.take(np.argsort(codes, kind="stable")))
    return _without_zeros(merged) if layout.kind is Kind.BAG or oldest else merged


def merge_in_slices(
    layout: Layout, runs: Sequence[Run], oldest: bool, slice_rows: int = _SLICE_ROWS
) -> Iterator[Run | None]:
    """The same merge, yielding None after every few milliseconds of work and the run at last.

    1.  Cut the largest run every so many rows, never inside one code, and the others alike, into
        slices of about `slice_rows`.
    2.  Merge slice by slice: the sort finds ascending stretches, which timsort merges.
    3.  Join the pieces column by column.
    """
    pieces = []
    for ranges in _cuts(runs, slice_rows):
        parts = [run.slice(*range_) for run, range_ in zip(runs, ranges, strict=True)]
        piece = _merge_slice(layout, [part for part in parts if part.num_rows], oldest)
        if piece.num_rows:
            pieces.append(piece)
        yield None
    if len(pieces) <= 1:
        yield pieces[0] if pieces else runs[0].slice(0, 0)
        return
    codes = np.concatenate([p.codes for p in pieces])
    weights = np.concatenate([p.weights for p in pieces])
    columns = []
    for i in range(len(layout.schema)):
        yield None
        columns.append(pa.concat_arrays([p.rows.column(i) for p in pieces]))
    yield Run(codes, weights, pa.RecordBatch.from_arrays(columns, schema=layout.schema))


def _cuts(runs: Sequence[Run], slice_rows: int) -> Iterator[list[tuple[int, int]]]:
    """Per slice, each run's range of rows; slices without rows are left out."""
    largest = max(runs, key=lambda run: run.num_rows)
    share = largest.num_rows / max(1, sum(run.num_rows for run in runs))
    every = max(1, int(slice_rows * share))
    codes = largest.codes[every::every]
    ends = [[*run.codes.searchsorted(codes, "left").tolist(), run.num_rows] for run in runs]
    starts = [0] * len(runs)
    for stops in zip(*ends, strict=True):
        if any(stop > start for start, stop in zip(starts, stops, strict=True)):
            yield list(zip(starts, stops, strict=True))
        starts = list(stops)


def _merge_slice(layout: Layout, parts: Sequence[Run], oldest: bool) -> Run:
    if len(parts) > 1:
        return merge_small(layout, parts, oldest)
    return _without_zeros(parts[0]) if layout.kind is Kind.BAG or oldest else parts[0]


def _consolidated(layout: Layout, run: Run) -> Run:
    """A sorted run with equal rows (a MAP: equal keys, the first winning) joined."""
    rows = run.rows
    compared = list(range(len(layout.schema))) if layout.kind is Kind.BAG else list(layout.key)
    exact = layout.kind is Kind.BAG

    def neighbours(index: Int64s) -> npt.NDArray[np.bool_] | None:
        here, after = pa.array(index), pa.array(index + 1)
        left = [rows.column(i).take(here) for i in compared]
        right = [rows.column(i).take(after) for i in compared]
        return equal_exactly(left, right) if exact else equal_values(left, right)

    firsts = representatives(
        run.codes,
        neighbours,
        lambda index: _keys_at(rows, compared, index, exact),
    )
    if firsts is None:
        return run
    kept = np.flatnonzero(firsts == np.arange(len(firsts)))
    if layout.kind is Kind.MAP:
        return run.take(kept)
    weights = np.zeros(len(firsts), np.int64)
    np.add.at(weights, firsts, run.weights)
    kept = kept[weights[kept] != 0]
    return Run(run.codes[kept], weights[kept], rows.take(pa.array(kept)))


def _keys_at(
    rows: pa.RecordBatch, columns: list[int], index: Int64s, exact: bool
) -> list[tuple[object, ...]]:
    picked = pa.array(index)
    if not columns:
        return [()] * len(index)
    return list(row_keys([rows.column(i).take(picked) for i in columns], exact))


def _without_zeros(run: Run) -> Run:
    if run.weights.all():
        return run
    return run.take(np.flatnonzero(run.weights))


def empty_rows(schema: pa.Schema) -> pa.RecordBatch:
    return concat_rows([], schema)


_MAGIC = b"CDCRUN1\n"
_HEADER = struct.Struct("<8sIQ44x")


def write_run(run: Run, path: Path, schema: pa.Schema) -> Run:
    """Write the run's file durably, and return the run as mapped from it."""
    stored = pa.schema([("code", pa.uint64()), ("weight", pa.int64()), *_positional(schema)])
    columns = [pa.array(run.codes), pa.array(run.weights), *run.rows.columns]
    with open(path, "wb") as file:
        file.write(bytes(_HEADER.size))
        body = _Summed(file)
        with pa.ipc.new_file(pa.PythonFile(body, mode="w"), stored) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=stored))
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, body.crc, body.size))
        file.flush()
        os.fsync(file.fileno())
    return _mapped(path, schema)


class _Summed:
    """What Arrow writes a run's body to: a file, with the body's checksum and length."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc = self.size = 0

    def write(self, data: bytes) -> int:
        self.crc = zlib.crc32(data, self.crc)
        self.size += len(memoryview(data).cast("B"))
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """The run's writer closes the file."""


def open_run(path: Path, schema: pa.Schema) -> Run:
    """Map a run's file, after checking it. Raises LogDamaged."""
    try:
        with open(path, "rb") as file:
            magic, crc, size = _HEADER.unpack(file.read(_HEADER.size))
            found, left = 0, size
            while chunk := file.read(1 << 22):
                found, left = zlib.crc32(chunk, found), left - len(chunk)
    except (OSError, struct.error) as error:
        raise LogDamaged(
            f"a run of the views' state cannot be read: {error}", where=str(path)
        ) from error
    if magic != _MAGIC or found != crc or left:
        raise LogDamaged("a run of the views' state is damaged (checksum)", where=str(path))
    return _mapped(path, schema)


def _mapped(path: Path, schema: pa.Schema) -> Run:
    whole = pa.memory_map(str(path)).read_buffer()
    stored = pa.ipc.open_file(whole.slice(_HEADER.size)).get_batch(0)
    rows = pa.RecordBatch.from_arrays(stored.columns[2:], schema=schema)
    return Run(stored.column(0).to_numpy(), stored.column(1).to_numpy(), rows, path)


def _positional(schema: pa.Schema) -> list[pa.Field]:
    return [pa.field(f"c{i}", field.type) for i, field in enumerate(schema)]
