"""Ragged cursors: reading the same field of thousands of messages at once.

Wire formats are rows of length-prefixed fields, so field k of a row stands where field k-1 ends.
A decoder joins the messages into one buffer, keeps one cursor (a position) per message, gathers
the field's head at all cursors with one numpy operation, and advances all cursors. What it hands
on per column is a `Slices`: where each row's bytes are. Values stay where they arrived until they
become an Arrow array.

Buffers carry PAD zero bytes behind the last message, so that a fixed-width gather at any cursor
stays inside. Slices stand in the order of their positions and do not overlap; `text` and `binary`
depend on it: they read the buffer as an Arrow array of alternating values and gaps, and take the
values, which is one memcpy per value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc.errors import BadData

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PAD = bytes(64)
"""What stands behind the last message of a buffer."""

_WORD = 8
_BLOCK_BYTES = 1 << 16
"""What is gathered at once where much is: it stays in the processor's cache."""
_SHORT_BYTES = 4096
_FEW = 12
"""Up to here slicing in Python is cheaper than Arrow's fixed costs."""


@dataclass(frozen=True, eq=False, slots=True)
class Slices:
    """One column's bytes: row i has buffer[start[i] : start[i] + length[i]].

    Null rows (`valid` False; None: all valid) have length 0 and a start inside the buffer. A
    slice that is not null lies inside the buffer: the walker checks it.
    """

    buffer: Bytes
    start: Int64s
    length: Int64s
    valid: Bools | None = None

    def __len__(self) -> int:
        return len(self.start)

    def take(self, index: Int64s) -> Slices:
        """The rows at `index`, which is increasing."""
        valid = None if self.valid is None else self.valid[index]
        return Slices(self.buffer, self.start[index], self.length[index], valid)

    def skip(self, count: int) -> Slices:
        """The slices without their first `count` bytes; each must have as many or be null."""
        if self.valid is None:
            return Slices(self.buffer, self.start + count, self.length - count)
        skipped = self.valid * np.int64(count)
        return Slices(self.buffer, self.start + skipped, self.length - skipped, self.valid)

    def first(self, row: int) -> bytes:
        """The bytes of one row, for messages."""
        start = int(self.start[row])
        return self.buffer[start : start + int(self.length[row])].tobytes()


def join(messages: Sequence[bytes]) -> tuple[Bytes, Int64s, Int64s]:
    """One padded buffer of all messages; where each starts, and where it ends."""
    buffer = np.frombuffer(b"".join([*messages, PAD]), np.uint8)
    lengths = np.fromiter(map(len, messages), np.int64, len(messages))
    ends = lengths.cumsum()
    return buffer, ends - lengths, ends


def gather(buffer: Bytes, at: Int64s, dtype: str) -> npt.NDArray[np.generic]:
    """The unaligned values of `dtype` (`>i4`, `V16`, …) at the positions, in native byte order."""
    return windows(buffer, dtype)[at].astype(_dtypes(dtype)[1], copy=False)


def windows(buffer: Bytes, dtype: str) -> npt.NDArray[np.generic]:
    """The buffer as overlapping items of `dtype`, one byte apart, without copying.

    Indexing them is a single operation, four times as fast as gathering bytes by a matrix of
    indices.
    """
    kind, _ = _dtypes(dtype)
    return np.ndarray((len(buffer) - kind.itemsize + 1,), kind, buffer, 0, (1,))


@cache
def _dtypes(dtype: str) -> tuple[np.dtype[np.generic], np.dtype[np.generic]]:
    kind = np.dtype(dtype)
    return kind, kind.newbyteorder("=")


def some(mask: Bools) -> bool:
    """Whether any is true. (Counting costs a fifth of `any` on the shortest arrays.)"""
    return np.count_nonzero(mask) != 0


def every(mask: Bools) -> bool:
    """Whether all are true."""
    return np.count_nonzero(mask) == len(mask)


def same(values: npt.NDArray[np.generic]) -> bool:
    """Whether there are items, and all are equal."""
    return len(values) > 0 and bool(values[0] == values[-1]) and every(values == values[0])


def gather_int64(buffer: Bytes, at: Int64s, dtype: str) -> Int64s:
    """`gather` of an integer type, widened."""
    return gather(buffer, at, dtype).astype(np.int64, copy=False)


def has_text(buffer: Bytes, at: Int64s, text: bytes) -> Bools:
    """Which positions have this text, which must lie inside the buffer from each of them on.

    Compared as words, the last two of which may overlap: numpy compares strings byte by byte."""
    words = len(text) // _WORD
    if not words:
        return np.asarray(gather(buffer, at, f"V{len(text)}") == np.void(text))
    wanted = np.frombuffer(text, np.uint64, words)
    found = np.ones(len(at), np.bool_)
    rows = max(1, _BLOCK_BYTES // len(text))
    for first in range(0, len(at), rows):
        some = slice(first, first + rows)
        block = gather(buffer, at[some], f"V{words * _WORD}").view(np.uint64)
        same = block.reshape(-1, words) == wanted
        if not every(same.ravel()):
            found[some] = same.all(axis=1)
    if len(text) % _WORD:
        found &= gather(buffer, at + (len(text) - _WORD), "u8") == np.frombuffer(
            text[-_WORD:], "u8"
        )
    return found


def bitmap(valid: Bools | None) -> pa.Buffer | None:
    """Arrow's validity bitmap."""
    if valid is None:
        return None
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def fixed(kind: pa.DataType, values: npt.NDArray[np.generic], valid: Bools | None) -> pa.Array:
    """An Arrow array over the memory of `values`, whose items are as wide as the type's."""
    return pa.Array.from_buffers(kind, len(values), [bitmap(valid), pa.py_buffer(values)])


def booleans(values: Bools, valid: Bools | None) -> pa.Array:
    """An Arrow array of booleans."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [bitmap(valid), bitmap(values)])


def binary(slices: Slices) -> pa.Array:
    """The slices as an Arrow binary array."""
    return _variable(slices, pa.binary())


def text(slices: Slices) -> pa.Array:
    """The slices as an Arrow string array. BadData when one is not UTF-8."""
    found = _variable(slices, pa.string())
    if not is_ascii(found):
        try:
            found.validate(full=True)
        except pa.ArrowInvalid as error:
            raise BadData(
                f"text that is not UTF-8 ({error})",
                hint="set the connection's client_encoding to UTF8, or correct the row",
            ) from error
    return found


def is_ascii(array: pa.Array) -> bool:
    """Whether a string or binary array (offset 0) holds ASCII only."""
    data = array.buffers()[2]
    if data is None or len(data) < _SHORT_BYTES:
        return data is None or data.to_pybytes().isascii()
    return int(np.frombuffer(data, np.int8).min()) >= 0


def strings_of(characters: Bytes, lengths: Int64s, valid: Bools | None) -> pa.Array:
    """A string array of consecutive runs of `characters` (ASCII or checked before)."""
    offsets = offsets_of(lengths)
    buffers = [bitmap(valid), pa.py_buffer(offsets), pa.py_buffer(characters)]
    return pa.Array.from_buffers(pa.string(), len(lengths), buffers)


def offsets_of(lengths: Int64s) -> npt.NDArray[np.int32]:
    """Arrow's int32 offsets. BadData when one column of one batch has 2 GiB and more."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    if int(offsets[-1]) >= 2**31:
        raise BadData(
            "one column of one batch has more than 2 GiB",
            hint="lower the batch's size, or exclude the column",
        )
    return offsets.astype(np.int32)


def contents(array: pa.Array) -> tuple[Bytes, Int64s]:
    """The bytes of a string or binary array, and its n + 1 offsets into them."""
    _, offsets, data = array.buffers()
    first = array.offset
    count = len(array)
    if offsets is None or data is None:
        return np.zeros(0, np.uint8), np.zeros(count + 1, np.int64)
    places = np.frombuffer(offsets, np.int32)[first : first + count + 1].astype(np.int64)
    return np.frombuffer(data, np.uint8), places


def positions_within(lengths: Int64s) -> tuple[Int64s, Int64s]:
    """For every item of consecutive runs: its run, and its place in it."""
    run = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    first = lengths.cumsum() - lengths
    return run, np.arange(len(run), dtype=np.int64) - first[run]


def _variable(slices: Slices, kind: pa.DataType) -> pa.Array:
    count = len(slices)
    if count <= _FEW:
        return _few(slices, kind)
    wide = len(slices.buffer) >= 2**31
    offsets = np.empty(2 * count + 1, np.int64 if wide else np.int32)
    offsets[0:-1:2] = slices.start
    np.add(slices.start, slices.length, out=offsets[1::2], casting="unsafe")
    # By the ends of all Arrow guesses how much it will copy, and it would be much of the buffer.
    guess = int(slices.start[0]) + 2 * int(slices.length.sum())
    offsets[-1] = min(guess, len(slices.buffer))
    taken = every_second(offsets, pa.py_buffer(slices.buffer))
    if wide:
        taken = taken.cast(pa.binary())
    _, places, data = taken.buffers()
    return pa.Array.from_buffers(kind, count, [bitmap(slices.valid), places, data])


def every_second(offsets: npt.NDArray[np.generic], memory: pa.Buffer) -> pa.Array:
    """Items 0, 2, … of those that have these n + 1 offsets into the memory, as a binary array, a
    large one where the offsets are int64. The others are never looked at."""
    kind = pa.large_binary() if offsets.dtype == np.int64 else pa.binary()
    count = len(offsets) - 1
    items = pa.Array.from_buffers(kind, count, [None, pa.py_buffer(offsets), memory])
    return items.take(pa.array(np.arange(0, count, 2, dtype=np.int64)))


def _few(slices: Slices, kind: pa.DataType) -> pa.Array:
    view = memoryview(slices.buffer)  # type: ignore[arg-type]
    places = zip(slices.start.tolist(), slices.length.tolist(), strict=True)
    data = b"".join([view[start : start + length] for start, length in places])
    offsets = pa.py_buffer(offsets_of(slices.length))
    return pa.Array.from_buffers(
        kind, len(slices), [bitmap(slices.valid), offsets, pa.py_buffer(data)]
    )
