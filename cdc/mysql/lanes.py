"""Walking the row images of many events: where rows begin, and where each column's values are.

A row event is a head and then row images back to back; how many is not said. An image is a bitmap
of NULLs, one bit per column that it has, and the values of those that are not NULL: some types
have a fixed width, the others a length of 1 to 4 bytes before them. So row k+1 of an event stands
where row k ends.

1. Row starts (`row_starts`). Every event is a lane with a cursor; row k of all lanes is passed
   together. Columns of fixed width between two variable ones advance as one run: a constant, or
   where there are NULLs one table lookup per byte of the bitmap. A lane retires when its cursor
   reaches its end; the last few lanes, whose passes would be narrow, are walked one by one.
   Images that cannot vary need no walk: their starts are a progression.
2. Columns (`fields`). With the start of every row known, all rows of all events are one list, and
   column by column its slices follow.

A length that is wrong moves a cursor behind the lane's end, or an index out of the buffer: Misfit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cdc import ragged
from cdc.ragged import Bools, Bytes, Int64s, Slices

_FEW = 8
"""Up to so many lanes, walking them one by one in Python is cheaper than a pass of arrays."""
_WORD_BITS = 64
Words = npt.NDArray[Any]
"""Unsigned integers of any width."""


@dataclass(frozen=True, slots=True)
class Width:
    """How a value that is not NULL is laid out: `fixed` bytes, or, where that is 0, a length of
    `prefix` bytes (1 to 4) and as many bytes as it says."""

    fixed: int
    prefix: int = 0


class Misfit(Exception):
    """An event's rows do not fill it exactly."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Columns first .. stop of fixed width, `width` bytes without NULLs, then, if `prefix`, the
    variable column `stop`. `tables`: per byte of the null bitmap, the widths of those of the
    run's columns that it says are not NULL."""

    first: int
    stop: int
    width: int
    prefix: int
    tables: tuple[tuple[int, Int64s], ...]

    @property
    def nulls(self) -> int:
        """The run's columns as bits of the null bitmap."""
        return (1 << self.stop) - (1 << self.first)


@dataclass(frozen=True, eq=False)
class Layout:
    """The columns that an image has: see `layout`."""

    widths: tuple[Width, ...]
    runs: tuple[_Run, ...]
    null_bytes: int
    masks: tuple[int, ...]

    @property
    def fixed_bytes(self) -> int | None:
        """An image's size when no column is NULL; None when it varies."""
        if any(run.prefix for run in self.runs):
            return None
        return self.null_bytes + sum(run.width for run in self.runs)


def layout(widths: Sequence[Width]) -> Layout:
    """The layout of images with these columns."""
    count = len(widths)
    runs, first = [], 0
    while first < count:
        stop = first
        while stop < count and widths[stop].fixed:
            stop += 1
        own = [width.fixed for width in widths[first:stop]]
        prefix = widths[stop].prefix if stop < count else 0
        runs.append(_Run(first, stop, sum(own), prefix, tuple(_tables(widths, first, stop))))
        first = stop + 1
    words = range(0, count, _WORD_BITS)
    masks = tuple((1 << min(_WORD_BITS, count - start)) - 1 for start in words)
    return Layout(tuple(widths), tuple(runs), (count + 7) // 8, masks)


def _tables(widths: Sequence[Width], first: int, stop: int) -> Iterator[tuple[int, Int64s]]:
    patterns = np.arange(256)
    for byte in range(first // 8, (stop + 7) // 8) if stop > first else ():
        table = np.zeros(256, np.int64)
        for column in range(max(first, 8 * byte), min(stop, 8 * byte + 8)):
            table += widths[column].fixed * (1 - (patterns >> (column % 8) & 1))
        yield byte, table


class Reader:
    """A padded buffer and the ways of looking at it that a walk needs."""

    def __init__(self, buffer: Bytes) -> None:
        self.buffer = buffer
        self._windows: dict[str, Words] = {}

    def numbers(self, at: Int64s, dtype: str) -> Words:
        """The integers at the positions."""
        found = self._windows.get(dtype)
        if found is None:
            found = self._windows[dtype] = ragged.windows(self.buffer, dtype)
        return found[at]

    def length(self, at: Int64s, prefix: int) -> Words:
        """The lengths that stand at the positions."""
        if prefix == 1:
            return self.buffer[at]
        if prefix == 2:
            return self.numbers(at, "<u2")
        found = self.numbers(at, "<u4")
        return found if prefix == 4 else found & np.uint32(0xFFFFFF)

    def nulls(self, shape: Layout, at: Int64s) -> _Nulls:
        """The null bitmaps of the images at the positions."""
        if shape.null_bytes == 1:
            words = [self.buffer[at] & np.uint8(shape.masks[0])]
        else:
            words = [
                self.numbers(at + 8 * place, "<u8") & np.uint64(mask)
                for place, mask in enumerate(shape.masks)
            ]
        found = 0
        for place, word in enumerate(words):
            found |= int(np.bitwise_or.reduce(word)) << _WORD_BITS * place
        return _Nulls(words, found)


@dataclass(frozen=True, slots=True)
class _Nulls:
    """Null bitmaps of n images, 64 columns a word; `found`: the columns that are NULL in any."""

    words: Sequence[Words]
    found: int

    def among(self, column: int) -> bool:
        return bool(self.found >> column & 1)

    def valid(self, column: int) -> Bools:
        word = self.words[column // _WORD_BITS]
        bit = word.dtype.type(1 << column % _WORD_BITS)
        return (word & bit) == 0

    def byte(self, place: int) -> Words:
        word = self.words[place // 8]
        if word.dtype.itemsize == 1:
            return word
        shifted: Words = (word >> np.uint64(8 * (place % 8))) & np.uint64(0xFF)
        return shifted.astype(np.uint8)


def ends(reader: Reader, shape: Layout, at: Int64s) -> Int64s:
    """Where the images that begin at the positions end. IndexError or a position behind the
    event's end when one is malformed."""
    nulls = reader.nulls(shape, at)
    cursor = at.copy()
    pending = shape.null_bytes
    for run in shape.runs:
        if nulls.found & run.nulls:
            for place, table in run.tables:
                cursor += table[nulls.byte(place)]
        else:
            pending += run.width
        if run.prefix:
            cursor += pending
            pending = 0
            length = reader.length(cursor, run.prefix)
            if nulls.among(run.stop):
                cursor += nulls.valid(run.stop) * (length.astype(np.int64) + run.prefix)
            else:
                cursor += length
                pending = run.prefix
    cursor += pending
    return cursor


def fields(reader: Reader, shape: Layout, at: Int64s) -> list[Slices]:
    """The columns of the images that begin at the positions, which ascend and are not malformed."""
    nulls = reader.nulls(shape, at)
    base, shift = at, shape.null_bytes
    found = []
    for column, width in enumerate(shape.widths):
        start = base + shift
        valid = nulls.valid(column) if nulls.among(column) else None
        if width.fixed:
            if valid is None:
                length = _repeated(width.fixed, len(at))
                shift += width.fixed
            else:
                length = valid * np.int64(width.fixed)
                base, shift = start + length, 0
        else:
            length = reader.length(start, width.prefix).astype(np.int64)
            if valid is None:
                start += width.prefix
            else:
                length *= valid
                start += valid * np.int64(width.prefix)
            base, shift = start + length, 0
        found.append(Slices(reader.buffer, start, length, valid))
    return found


def _repeated(number: int, count: int) -> Int64s:
    """`count` times the number, in the memory of one. (np.broadcast_to is ten times slower.)"""
    return np.ndarray((count,), np.int64, _cell(number), 0, (0,))


@cache
def _cell(number: int) -> Int64s:
    return np.array([number], np.int64)


Images = tuple[Layout, ...]
"""What one row of an event consists of: one image, or for an update the old and the new one."""


def row_starts(reader: Reader, images: Images, starts: Int64s, limits: Int64s) -> list[Int64s]:
    """The positions, ascending, of every row's images: one array per image. The rows of event i
    fill the buffer from starts[i] to limits[i]. Misfit when an event's do not."""
    if not all(shape.widths for shape in images):
        raise Misfit
    regular = _progressions(reader, images, starts, limits)
    if regular is not None:
        return regular
    passed: list[list[Int64s]] = [[] for _ in images]
    filled = starts < limits
    cursor, limit = (starts, limits) if ragged.every(filled) else (starts[filled], limits[filled])
    try:
        while len(cursor) > _FEW:
            for shape, places in zip(images, passed, strict=True):
                places.append(cursor)
                cursor = ends(reader, shape, cursor)
            alive = cursor < limit
            if not ragged.every(alive):
                if ragged.some(cursor > limit):
                    raise Misfit
                cursor, limit = cursor[alive], limit[alive]
    except IndexError as error:
        raise Misfit from error
    for first, last in zip(cursor.tolist(), limit.tolist(), strict=True):
        for places, own in zip(passed, _rows_of(reader, images, first, last), strict=True):
            places.append(np.array(own, np.int64))
    return [_ascending(places) for places in passed]


def _ascending(places: list[Int64s]) -> Int64s:
    if len(places) == 1:
        return places[0]
    found = np.concatenate(places) if places else np.zeros(0, np.int64)
    found.sort()
    return found


def _progressions(
    reader: Reader, images: Images, starts: Int64s, limits: Int64s
) -> list[Int64s] | None:
    """Row starts where all images have one width and no column is NULL; None otherwise."""
    sizes = [shape.fixed_bytes for shape in images]
    size = sum(each or 0 for each in sizes)
    if None in sizes or ragged.some((limits - starts) % size != 0):
        return None
    run, place = ragged.positions_within((limits - starts) // size)
    at = starts[run] + size * place
    found = []
    for shape in images:
        if reader.nulls(shape, at).found:
            return None
        found.append(at)
        at = at + (shape.fixed_bytes or 0)
    return found


def _rows_of(reader: Reader, images: Images, start: int, limit: int) -> list[list[int]]:
    """`row_starts` of one event."""
    body = reader.buffer[start:limit].tobytes()
    found: list[list[int]] = [[] for _ in images]
    at = 0
    while at < len(body):
        for shape, places in zip(images, found, strict=True):
            places.append(start + at)
            at = _end_of(shape, body, at)
    if at != len(body):
        raise Misfit
    return found


def _end_of(shape: Layout, body: bytes, at: int) -> int:
    """Where one image ends, or a position behind the body."""
    behind = at + shape.null_bytes
    nulls = int.from_bytes(body[at:behind], "little")
    at = behind
    for run in shape.runs:
        if nulls & run.nulls:
            for place, table in run.tables:
                at += int(table[nulls >> 8 * place & 0xFF])
        else:
            at += run.width
        if run.prefix and not nulls >> run.stop & 1:
            length_at, at = at, at + run.prefix
            at += int.from_bytes(body[length_at:at], "little")
    return at
