"""The ends of JSON texts, where they are alike but for digits.

Behind the rows of a change stands the envelope's rest, most of a record's bytes: names, constants,
and numbers that mostly have as many digits as those of the record before. So it is not walked
through, but compared as a whole with another record's:

1. One of the texts gives the tail, and a mask: digits of its values are flexible, all else is
   fixed. A flexible byte must have a digit's upper half, so it may also be one of `:;<=>?`, none
   of which ends a value where a digit might stand: whoever wants the value finds it there.
2. The ends of all texts, as long as this tail, are compared with it under the mask, 8 bytes at a
   time, in blocks that stay in the processor's cache. Where they are the same, they have the same
   structure, and their values stand where the tail's do.
3. Texts that have it not are compared with another tail, as long as enough of them have one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cdc import ragged
from cdc.formats.json_shape import Path, Shape
from cdc.formats.json_walk import Leaf
from cdc.ragged import Bools, Bytes, Int64s

_Words: TypeAlias = npt.NDArray[np.uint64]

_WORD = 8
_BLOCK_BYTES = 1 << 16
_DIGITS = np.zeros(256, np.bool_)
_DIGITS[np.frombuffer(b"0123456789", np.uint8)] = True
_TAILS_MAX = 16
_SHARE_MIN = 1 / 32
"""A tail that fewer of the texts have is not worth another comparison of all of them."""


@dataclass(frozen=True, eq=False)
class Tails:
    """How long each text's tail is, 0 where none was found; per tail the rows that have it, and
    its wanted values; the names of all members in tails."""

    lengths: Int64s
    groups: list[tuple[Int64s, dict[Path, Leaf]]]
    names: set[str]


def tails(
    data: Bytes,
    places: Int64s,
    tail_of: Callable[[int], Shape],
    wanted: Callable[[Path], bool],
) -> Tails:
    """Those of the texts data[places[i] : places[i+1]]; `tail_of` gives a row's own."""
    lengths, stop = np.diff(places), places[1:]
    found = Tails(np.zeros(len(stop), np.int64), [], set())
    left = np.arange(len(stop))
    while len(left) and len(found.groups) < _TAILS_MAX:
        tail = tail_of(int(left[len(left) // 2]))
        if not tail.text:
            break
        rows = _only(left, lengths[left] >= len(tail.text))
        rows = _only(rows, _same(data, stop[rows], tail))
        found.lengths[rows] = len(tail.text)
        found.groups.append((rows, _leaves(stop[rows] - len(tail.text), tail, wanted)))
        found.names.update(tail.names())
        if len(rows) < _SHARE_MIN * len(stop):
            break
        left = left[found.lengths[left] == 0]
    return found


def _only(rows: Int64s, kept: Bools) -> Int64s:
    return rows if ragged.every(kept) else rows[kept]


def _leaves(start: Int64s, tail: Shape, wanted: Callable[[Path], bool]) -> dict[Path, Leaf]:
    found = {}
    for slot in tail.slots:
        if wanted(slot.path):
            marks = int(tail.text[slot.start] == ord('"'))
            is_string = np.full(len(start), marks, np.bool_)
            first, last = slot.start + marks, slot.stop - marks
            found[slot.path] = Leaf(start + first, start + last, is_string)
    return found


def _same(data: Bytes, stop: Int64s, tail: Shape) -> Bools:
    """Step 2. Texts whose last words begin before the data are none."""
    words = -(-len(tail.text) // _WORD)
    width = words * _WORD
    start = stop - width
    found = np.ones(len(stop), np.bool_)
    if len(start) and int(start[0]) < 0:
        found = start >= 0
        start = np.maximum(start, 0)
    if len(data) < width:
        return np.zeros(len(stop), np.bool_)
    text, mask = _compared(tail, width)
    rows = max(1, _BLOCK_BYTES // width)
    for first in range(0, len(start), rows):
        block = ragged.gather(data, start[first : first + rows], f"V{width}")
        fixed = block.view(np.uint64).reshape(-1, words)
        fixed &= mask
        same = fixed == text
        if not same.all():
            found[first : first + rows] &= same.all(axis=1)
    return found


def _compared(tail: Shape, width: int) -> tuple[_Words, _Words]:
    """What is fixed at the end of so many bytes, and the mask of that."""
    text, mask = np.zeros(width, np.uint8), np.zeros(width, np.uint8)
    ahead = width - len(tail.text)
    text[ahead:] = np.frombuffer(tail.text, np.uint8)
    mask[ahead:] = 0xFF
    for slot in tail.slots:
        value = slice(ahead + slot.start, ahead + slot.stop)
        mask[value][_DIGITS[text[value]]] = 0xF0
    return (text & mask).view(np.uint64), mask.view(np.uint64)
