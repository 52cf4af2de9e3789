"""Many JSON texts of one shape, walked through together: a cursor per text, slot by slot.

1. At every slot the value's end is looked for, in as many bytes of all texts at a time as the
   shape's own value has and a few more: a quotation mark or backslash, or the character that
   follows the value in the shape.
2. The text up to the next slot that is wanted is compared with the shape's, in one comparison:
   values that nobody asked for are mostly the same in all texts. Where they are not, the slots in
   between are walked singly.
3. Texts that differ from the shape's leave; so do those that do not end where it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cdc import ragged
from cdc.formats.json_shape import Irregular, Path, Shape, Slot
from cdc.json_tokens import BLANK
from cdc.ragged import Bools, Bytes, Int64s

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OBJECT, _ARRAY = ord("{"), ord("[")
_BRACKETS = b'"[]'
_WIDTH_MAX = 64
_SLACK = 4
_BLOCK_BYTES = 1 << 16
"""What is looked at together: it stays in the processor's cache."""
_ROUNDS_MAX = 200
"""A value is looked through in so many steps at most."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """Values of some rows: data[start:stop], without quotation marks."""

    start: Int64s
    stop: Int64s
    is_string: Bools

    def only(self, kept: Bools) -> Leaf:
        return Leaf(self.start[kept], self.stop[kept], self.is_string[kept])


def walked(
    data: Bytes,
    rows: Int64s,
    start: Int64s,
    stop: Int64s,
    shape: Shape,
    wanted: Callable[[Path], bool],
) -> tuple[Int64s, dict[Path, Leaf]]:
    """Those of the `rows` that have the shape, and their wanted values. Row i's text is
    data[start[i] : stop[i]]."""
    walk = _Walk(data, rows, start[rows], len(data))
    done = 0
    skipped: list[Slot] = []
    for slot in shape.slots:
        if not wanted(slot.path):
            skipped.append(slot)
            continue
        _pass_over(walk, shape.text, done, slot.start, skipped)
        walk.leaves[slot.path] = _value(walk, shape.text + shape.behind, slot)
        done, skipped = slot.stop, []
    _pass_over(walk, shape.text + shape.behind, done, len(shape.text), skipped)
    walk.keep(walk.at == stop[walk.rows])
    return walk.rows, walk.leaves


@dataclass(eq=False)
class _Walk:
    """The rows that have followed the shape so far, and their cursors. The texts end at `end`,
    behind which the data may go on with a pad."""

    data: Bytes
    rows: Int64s
    at: Int64s
    end: int
    leaves: dict[Path, Leaf] = field(default_factory=dict)

    def keep(self, kept: Bools) -> None:
        if not ragged.every(kept):
            self.rows, self.at = self.rows[kept], self.at[kept]
            self.leaves = {path: leaf.only(kept) for path, leaf in self.leaves.items()}

    def reach(self, at: Int64s, width: int) -> None:
        """Make so many bytes at these places readable."""
        if len(at) and int(at.max()) + width > len(self.data):
            self.data = np.concatenate([self.data[: self.end], np.zeros(width, np.uint8)])


def _pass_over(walk: _Walk, text: bytes, start: int, stop: int, skipped: list[Slot]) -> None:
    """The shape's text from `start` to `stop`, in which the skipped slots stand."""
    same = _same(walk, text[start:stop])
    if ragged.every(same) or not skipped:
        walk.keep(same)
        walk.at = walk.at + (stop - start)
        return
    for slot in skipped:
        _pass_over(walk, text, start, slot.start, [])
        _value(walk, text, slot)
        start = slot.stop
    _pass_over(walk, text, start, stop, [])


def _same(walk: _Walk, fixed: bytes) -> Bools:
    """Which rows have this text at their cursors."""
    if not fixed:
        return np.ones(len(walk.at), np.bool_)
    inside = walk.at + len(fixed) <= walk.end
    if ragged.every(inside):
        return ragged.has_text(walk.data, walk.at, fixed)
    found = np.zeros(len(walk.at), np.bool_)
    index = np.flatnonzero(inside)
    found[index] = ragged.has_text(walk.data, walk.at[index], fixed)
    return found


def _value(walk: _Walk, text: bytes, slot: Slot) -> Leaf:
    """The values at the cursors, which pass behind them. Rows with an object leave, and those with
    blanks around the value where the shape has none."""
    walk.reach(walk.at, 1)
    first = walk.data[walk.at]
    other = (first == _OBJECT) | BLANK[first]
    if ragged.some(other):
        walk.keep(~other)
        first = first[~other]
    is_string = first == _QUOTE
    start = walk.at + is_string
    width = _width(slot.stop - slot.start)
    if ragged.every(is_string):
        stop = _string_ends(walk, start, width)
    elif not ragged.some(is_string):
        stop = _plain_ends(walk, start, first, text[slot.stop], width)
    else:
        stop = np.empty(len(start), np.int64)
        stop[is_string] = _string_ends(walk, start[is_string], width)
        plain = ~is_string
        stop[plain] = _plain_ends(walk, start[plain], first[plain], text[slot.stop], width)
    walk.at = stop + is_string
    found = Leaf(start, stop, is_string)
    blank = BLANK[walk.data[stop - 1]] & ~is_string
    if ragged.some(blank):
        walk.keep(~blank)
        found = found.only(~blank)
    return found


def _width(length: int) -> int:
    """In how many bytes at a time a value that is about as long is looked through."""
    return min(_WIDTH_MAX, (length + _SLACK + 7) // 8 * 8)


def _plain_ends(walk: _Walk, start: Int64s, first: Bytes, behind: int, width: int) -> Int64s:
    """The ends of what is no string: arrays, and what ends before the character `behind`."""
    is_array = first == _ARRAY
    if not ragged.some(is_array):
        return _searched(walk, start, bytes([behind]), width)
    stop = np.empty(len(start), np.int64)
    stop[is_array] = _array_ends(walk, start[is_array])
    stop[~is_array] = _searched(walk, start[~is_array], bytes([behind]), width)
    return stop


def _array_ends(walk: _Walk, start: Int64s) -> Int64s:
    """Behind the bracket that ends an array of no arrays."""
    stop = _searched(walk, start + 1, _BRACKETS, _SLACK * 2)
    inside = np.flatnonzero(walk.data[stop] != _BRACKETS[2])
    rounds = 0
    while len(inside):
        rounds += 1
        if rounds > _ROUNDS_MAX or not ragged.every(walk.data[stop[inside]] == _QUOTE):
            raise Irregular
        behind = _string_ends(walk, stop[inside] + 1, _SLACK * 4) + 1
        stop[inside] = _searched(walk, behind, _BRACKETS, _SLACK * 2)
        inside = inside[walk.data[stop[inside]] != _BRACKETS[2]]
    return stop + 1


def _string_ends(walk: _Walk, start: Int64s, width: int) -> Int64s:
    stop = _searched(walk, start, b'"\\', width)
    escaped = np.flatnonzero(walk.data[stop] == _BACKSLASH)
    rounds = 0
    while len(escaped):
        rounds += 1
        if rounds > _ROUNDS_MAX:
            raise Irregular
        stop[escaped] = _searched(walk, stop[escaped] + 2, b'"\\', width)
        escaped = escaped[walk.data[stop[escaped]] == _BACKSLASH]
    return stop


def _searched(walk: _Walk, start: Int64s, wanted: bytes, width: int) -> Int64s:
    """The first position from each start on where one of the bytes is wanted."""
    found = np.empty(len(start), np.int64)
    active = None
    at = start
    for _ in range(_ROUNDS_MAX):
        if len(at) and int(at.max()) >= walk.end:
            raise Irregular
        walk.reach(at, width)
        places, hit = _hits(walk.data, at, wanted, width)
        if active is None:
            if ragged.every(hit):
                return places
            active = np.arange(len(start))
        found[active[hit]] = places[hit]
        active, at = active[~hit], at[~hit] + width
        if not len(at):
            return found
        width = _WIDTH_MAX
    raise Irregular


def _hits(data: Bytes, at: Int64s, wanted: bytes, width: int) -> tuple[Int64s, Bools]:
    """The first of the wanted bytes in so many bytes from each place on, and where there is one."""
    places = np.empty(len(at), np.int64)
    hit = np.empty(len(at), np.bool_)
    rows = _BLOCK_BYTES // width
    for first in range(0, len(at), rows):
        some = slice(first, first + rows)
        window = ragged.gather(data, at[some], f"V{width}").view(np.uint8).reshape(-1, width)
        marks = window == wanted[0]
        for other in wanted[1:]:
            marks |= window == other
        place = marks.argmax(axis=1)
        hit[some] = marks[np.arange(len(place)), place]
        np.add(at[some], place, out=places[some])
    return places, hit
