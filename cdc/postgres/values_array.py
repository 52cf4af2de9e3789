"""One-dimensional arrays, from Postgres's binary form and from its text, as Arrow lists.

Binary (array_send): dimensions int32, flags int32, element oid int32; per dimension size int32 and
lower bound int32; then per element length int32 (−1: NULL) and its bytes. Arrays are lanes: element
k of all arrays is found together, and the elements' type decodes all of them at once.

Text (array_out): `{a,"b c",NULL}`. Within quotes, backslash escapes the next character. All texts
are read as one: the parity of quotes seen so far says what is inside quotes, outside of them
delimiters end elements, and what does not belong to an element's value is compressed away.

A list has neither further dimensions nor a lower bound other than 1: such values are refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.ragged import PAD, Bools, Bytes, Int64s, Slices

_HEADER_BYTES, _EMPTY_BYTES = 20, 12
_FEW_LANES = 8
"""With fewer arrays still being read than this, walking one in Python is cheaper."""


def binary_lists(
    travels: pa.DataType, element: Callable[[Slices], pa.Array]
) -> Callable[[Slices], pa.Array]:
    """The decoder of binary arrays whose elements `element` decodes."""

    def decode(slices: Slices) -> pa.Array:
        counts = _counts(slices)
        return _lists(travels, counts, element(_elements(slices, counts)), slices.valid)

    return decode


def text_lists(
    travels: pa.DataType, element: Callable[[Slices], pa.Array], delimiter: str
) -> Callable[[Slices], pa.Array]:
    """The decoder of arrays in text whose elements `element` decodes."""

    def decode(slices: Slices) -> pa.Array:
        counts, elements = _parse(slices, ord(delimiter))
        return _lists(travels, counts, element(elements), slices.valid)

    return decode


def _lists(travels: pa.DataType, counts: Int64s, values: pa.Array, valid: Bools | None) -> pa.Array:
    buffers = [ragged.bitmap(valid), pa.py_buffer(ragged.offsets_of(counts))]
    return pa.Array.from_buffers(travels, len(counts), buffers, children=[values])


def _counts(slices: Slices) -> Int64s:
    """Elements per array; 0 where it is null."""
    buffer, start = slices.buffer, slices.start
    live = np.ones(len(slices), np.bool_) if slices.valid is None else slices.valid
    if ragged.some(live & (slices.length < _EMPTY_BYTES)):
        raise BadData("a binary array shorter than its header")
    dimensions = np.where(live, ragged.gather_int64(buffer, start, ">i4"), 0)
    filled = dimensions > 0
    sizes = np.where(filled, ragged.gather_int64(buffer, start + 12, ">i4"), 0)
    bounds = np.where(filled, ragged.gather_int64(buffer, start + 16, ">i4"), 1)
    _refuse(ragged.some(dimensions > 1), ragged.some(bounds != 1))
    if ragged.some(sizes * 4 + _HEADER_BYTES * filled > slices.length) or int(sizes.min()) < 0:
        raise BadData("a binary array whose size does not fit its bytes")
    return sizes


def _refuse(several_dimensions: bool, other_bounds: bool) -> None:
    if several_dimensions:
        raise BadData(
            "an array with more than one dimension in a column declared with one",
            hint="correct the row; or declare the column with its dimensions (int[][]): then it "
            "travels as text",
        )
    if other_bounds:
        raise BadData(
            "an array whose lower bound is not 1",
            hint="a list has no lower bound; correct the row: SET a = (SELECT array_agg(x ORDER BY "
            "n) FROM unnest(a) WITH ORDINALITY AS u(x, n))",
        )


def _elements(slices: Slices, counts: Int64s) -> Slices:
    ends = slices.start + slices.length
    first = counts.cumsum() - counts
    total = int(counts.sum())
    start, length = np.zeros(total, np.int64), np.zeros(total, np.int64)
    lanes = np.flatnonzero(counts)
    cursor = slices.start[lanes] + _HEADER_BYTES
    place = 0
    while len(lanes) >= _FEW_LANES:
        size = ragged.gather_int64(slices.buffer, cursor, ">i4")
        at = first[lanes] + place
        start[at], length[at] = cursor + 4, size
        cursor = cursor + 4 + np.maximum(size, 0)
        place += 1
        if ragged.some(cursor > ends[lanes]):
            raise BadData("a binary array whose elements do not fit its bytes")
        going_on = counts[lanes] > place
        lanes, cursor = lanes[going_on], cursor[going_on]
    for lane, at in zip(lanes.tolist(), cursor.tolist(), strict=True):
        own = slice(int(first[lane]) + place, int(first[lane] + counts[lane]))
        _walk(slices.buffer, at, int(ends[lane]), start[own], length[own])
    valid = length >= 0
    if ragged.every(valid):
        return Slices(slices.buffer, start, length)
    return Slices(slices.buffer, start, np.maximum(length, 0), valid)


def _walk(buffer: Bytes, at: int, end: int, start: Int64s, length: Int64s) -> None:
    """The elements of one array from `at` on, into `start` and `length`."""
    whole = buffer[at:end].tobytes()
    place, starts, lengths = 0, [], []
    for _ in range(len(start)):
        size = int.from_bytes(whole[place : place + 4], "big", signed=True)
        place += 4
        starts.append(at + place)
        lengths.append(size)
        place += max(size, 0)
        if place > len(whole):
            raise BadData("a binary array whose elements do not fit its bytes")
    start[:], length[:] = starts, lengths


def _parse(slices: Slices, delimiter: int) -> tuple[Int64s, Slices]:
    """Elements per array, and the elements' unquoted texts."""
    flat, offsets = ragged.contents(ragged.text(slices))
    flat = flat[: int(offsets[-1])]
    live = np.ones(len(slices), np.bool_) if slices.valid is None else slices.valid
    opening = flat[offsets[:-1][live]]
    if ragged.some(opening != ord("{")):
        _refuse(False, ragged.some(opening == ord("[")))
        raise BadData("an array in text that does not begin with '{'")

    backslash = flat == ord("\\")
    escaped = np.zeros(len(flat), np.bool_)
    if ragged.some(backslash):
        escaped = _escaped(backslash)
    quote = (flat == ord('"')) & ~escaped
    quoted = np.logical_xor.accumulate(quote) if len(flat) else quote
    outside = ~quoted & ~quote
    brace = outside & ((flat == ord("{")) | (flat == ord("}")))
    _refuse(int(brace.sum()) != 2 * int(live.sum()), False)

    separator = outside & (flat == delimiter)
    closing = np.zeros(len(flat), np.bool_)
    closing[offsets[1:][live] - 1] = True
    seen = np.concatenate([[0], separator.cumsum()])
    separators = seen[offsets[1:]] - seen[offsets[:-1]]
    is_empty = (offsets[1:] - offsets[:-1]) <= 2
    counts = np.where(live & ~is_empty, separators + 1, 0)

    keep = ~(brace | separator | quote | (backslash & ~escaped))
    kept_before = np.concatenate([[0], keep.cumsum()])
    # An element ends before its separator or its array's closing brace, except in `{}`.
    closing[offsets[1:][live & is_empty] - 1] = False
    stops = np.flatnonzero(separator | closing)
    ends = kept_before[stops]
    start = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
    characters = np.concatenate([flat[keep], np.frombuffer(PAD, np.uint8)])
    length = ends - start
    was_quoted = quote[stops - 1] if len(stops) else np.zeros(0, np.bool_)
    null = (length == 4) & ~was_quoted
    if ragged.some(null):
        word = ragged.gather(characters, start, "V4")
        null &= word == np.frombuffer(b"NULL", "V4")[0]
    if not ragged.some(null):
        return counts, Slices(characters, start, length)
    return counts, Slices(characters, start, np.where(null, 0, length), ~null)


def _escaped(backslash: Bools) -> Bools:
    """Which characters stand behind an odd number of backslashes."""
    place = np.arange(len(backslash), dtype=np.int64)
    last_other = np.maximum.accumulate(np.where(backslash, -1, place))
    run: npt.NDArray[np.int64] = np.where(backslash, place - last_other, 0)
    before = np.concatenate([[0], run[:-1]])
    return before % 2 == 1
