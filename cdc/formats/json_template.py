"""JSON objects of one shape, read along a template: the first of them.

Records of one producer have the same members in the same order, so that they differ in their values
only. cdc/json_tokens.py, which reads any objects, looks for structure in every byte; here a cursor
per record passes over what is known:

1. The first record is taken apart: *slots*, which are the values that are no objects, and the
   fixed text between them.
2. At every slot the value's end is looked for, 8 bytes of all records at a time (the zero-byte
   test of Mycroft; Warren, "Hacker's Delight", 6-1): a quotation mark or backslash, or the
   character that follows the value in the template.
3. The text up to the next slot that is wanted is compared with the template's, in one comparison:
   values that nobody asked for are mostly the same in all records. Where they are not, the slots in
   between are walked singly.
4. Records that differ from the template's text are read along another one, made from the first of
   them: a delete has another shape than an insert.

Objects of too many shapes, with arrays in arrays or with very long strings are Irregular:
json_tokens reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.json_strings import characters
from cdc.json_tokens import Values as Places
from cdc.ragged import Bools, Bytes, Int64s

Path: TypeAlias = tuple[str, ...]
Words: TypeAlias = npt.NDArray[np.uint64]
_Ends: TypeAlias = Callable[[Int64s], Int64s]
_Token: TypeAlias = tuple[bytes, int, int]

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OBJECT, _ARRAY, _ARRAY_END = ord("{"), ord("["), ord("]")
_TOKEN = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*"|[^ \t\r\n,:{}\[\]"]+|[{}\[\],:])')
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_ONE = np.uint64(1)
_GROUPS_MAX = 12
_ROWS_MIN = 8
"""Fewer records a template are not worth its fixed costs."""
_ROUNDS_MAX = 200
"""Strings are looked through in so many steps of 8 bytes at most."""


class Irregular(Exception):
    """The objects cannot be read along few templates: read them one depth at a time."""


@dataclass(frozen=True)
class _Slot:
    """A value of the template: where it is in the objects, and in the template's text."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class _Leaf:
    """Values of some rows: data[start:stop], without quotation marks."""

    start: Int64s
    stop: Int64s
    is_string: Bools

    def only(self, kept: Bools) -> _Leaf:
        return _Leaf(self.start[kept], self.stop[kept], self.is_string[kept])


_Members: TypeAlias = "Mapping[str, _Leaf | _Members]"


@dataclass(frozen=True, eq=False)
class Aligned:
    """Objects in `rows` rows or fewer: groups of rows with their members; like
    json_tokens.Members."""

    rows: int
    data: Bytes
    groups: tuple[tuple[Int64s, _Members], ...]

    def named(self, name: str) -> Places:
        """The members of that name that are no objects."""
        found = []
        for rows, inner in self.groups:
            value = inner.get(name)
            if isinstance(value, _Leaf):
                found.append((rows, value))
        rows, leaf = found[0] if len(found) == 1 else _merged(found)
        start, stop, is_string = leaf.start, leaf.stop, leaf.is_string
        null = (stop - start == 4) & ~is_string
        if ragged.some(null):
            null[null] = ragged.gather(self.data, start[null], "S4") == b"null"
        return Places(self.data, rows, start - 1, start, stop, is_string, null)

    def nested(self, name: str) -> tuple[Aligned, Bools] | None:
        """The objects that stand under a name, and in which rows; None: in no row."""
        groups = []
        valid = np.zeros(self.rows, np.bool_)
        for rows, inner in self.groups:
            value = inner.get(name)
            if isinstance(value, Mapping):
                groups.append((rows, value))
                valid[rows] = True
        places = self.named(name)
        if not ragged.every(places.is_null):
            raise BadData(f"'{name}' is not an object")
        return (Aligned(self.rows, self.data, tuple(groups)), valid) if groups else None


def _merged(found: list[tuple[Int64s, _Leaf]]) -> tuple[Int64s, _Leaf]:
    """The values of several groups, in the order of their rows."""
    if not found:
        none = np.zeros(0, np.int64)
        return none, _Leaf(none, none, np.zeros(0, np.bool_))
    rows = np.concatenate([group for group, _ in found])
    order = np.argsort(rows)
    leaf = _Leaf(
        np.concatenate([one.start for _, one in found])[order],
        np.concatenate([one.stop for _, one in found])[order],
        np.concatenate([one.is_string for _, one in found])[order],
    )
    return rows[order], leaf


def aligned(texts: pa.Array, wanted: Callable[[Path], bool]) -> Aligned:
    """The objects in a binary or string array (offset 0) without nulls, with the members whose
    path is `wanted`. Raises Irregular."""
    data = np.concatenate([characters(texts), np.frombuffer(ragged.PAD, np.uint8)])
    _, places = ragged.contents(texts)
    groups: list[tuple[Int64s, _Members]] = []
    left = np.arange(len(texts))
    while len(left):
        if len(groups) == _GROUPS_MAX or len(texts) < _ROWS_MIN * len(groups):
            raise Irregular
        first = int(left[0])
        text = data[places[first] : places[first + 1]].tobytes()
        walk = _Walk(data, left, places[left], len(data) - len(ragged.PAD))
        leaves = _along(walk, text, _slots(text), wanted)
        ends = walk.at == places[walk.rows + 1]
        if not ragged.every(ends):
            walk.keep(ends)
            leaves = {path: leaf.only(ends) for path, leaf in leaves.items()}
        if not len(walk.rows):
            raise Irregular
        groups.append((walk.rows, _tree(leaves)))
        rest = np.ones(len(texts), np.bool_)
        rest[walk.rows] = False
        left = left[rest[left]]
    return Aligned(len(texts), data, tuple(groups))


@dataclass(eq=False)
class _Walk:
    """The rows that have followed the template so far, and their cursors."""

    data: Bytes
    rows: Int64s
    at: Int64s
    end: int
    leaves: dict[Path, _Leaf] = field(default_factory=dict)

    def keep(self, kept: Bools) -> None:
        self.rows, self.at = self.rows[kept], self.at[kept]
        self.leaves = {path: leaf.only(kept) for path, leaf in self.leaves.items()}


def _along(
    walk: _Walk, text: bytes, slots: list[_Slot], wanted: Callable[[Path], bool]
) -> dict[Path, _Leaf]:
    """Steps 2 and 3: the wanted values of the rows that follow the template."""
    done = 0
    skipped: list[_Slot] = []
    for slot in slots:
        if not wanted(slot.path):
            skipped.append(slot)
            continue
        _pass_over(walk, text, done, slot.start, skipped)
        walk.leaves[slot.path] = _value(walk, text[slot.stop])
        done, skipped = slot.stop, []
    _pass_over(walk, text, done, len(text), skipped)
    return walk.leaves


def _pass_over(walk: _Walk, text: bytes, start: int, stop: int, skipped: list[_Slot]) -> None:
    """The template's text from `start` to `stop`, in which the skipped slots stand."""
    same = _same(walk, text[start:stop])
    if ragged.every(same) or not skipped:
        if not ragged.every(same):
            walk.keep(same)
        walk.at = walk.at + (stop - start)
        return
    for slot in skipped:
        _pass_over(walk, text, start, slot.start, [])
        _value(walk, text[slot.stop])
        start = slot.stop
    _pass_over(walk, text, start, stop, [])


def _same(walk: _Walk, fixed: bytes) -> Bools:
    """Which rows have this text at their cursors."""
    if not fixed:
        return np.ones(len(walk.at), np.bool_)
    inside = walk.at + len(fixed) <= walk.end
    if not ragged.every(inside):
        found: Bools = np.zeros(len(walk.at), np.bool_)
        index = np.flatnonzero(inside)
        found[index] = ragged.gather(walk.data, walk.at[index], f"V{len(fixed)}") == np.void(fixed)
        return found
    return np.asarray(ragged.gather(walk.data, walk.at, f"V{len(fixed)}") == np.void(fixed))


def _value(walk: _Walk, behind: int) -> _Leaf:
    """The values at the cursors, which pass behind them. Rows with an object leave."""
    first = walk.data[walk.at]
    opening = first == _OBJECT
    if ragged.some(opening):
        walk.keep(~opening)
        first = first[~opening]
    is_string = first == _QUOTE
    start = walk.at + is_string
    stop = _each(is_string, start, partial(_string_end, walk), partial(_plain_end, walk, behind))
    walk.at = stop + is_string
    return _Leaf(start, stop, is_string)


def _each(mask: Bools, at: Int64s, if_true: _Ends, if_false: _Ends) -> Int64s:
    """The ends of both kinds of values."""
    if ragged.every(mask):
        return if_true(at)
    if not ragged.some(mask):
        return if_false(at)
    found = np.empty(len(at), np.int64)
    found[mask] = if_true(at[mask])
    found[~mask] = if_false(at[~mask])
    return found


def _plain_end(walk: _Walk, behind: int, start: Int64s) -> Int64s:
    """The ends of what is no string: arrays, and what ends before the character `behind`."""
    is_array = walk.data[start] == _ARRAY
    return _each(is_array, start, partial(_array_end, walk), partial(_scalar_end, walk, behind))


def _array_end(walk: _Walk, start: Int64s) -> Int64s:
    """Behind the bracket that ends an array of no arrays."""
    hits = _any_of(b'"[]')
    stop = _searched(walk, start + 1, hits)
    inside = np.flatnonzero(walk.data[stop] != _ARRAY_END)
    rounds = 0
    while len(inside):
        rounds += 1
        if rounds > _ROUNDS_MAX or not ragged.every(walk.data[stop[inside]] == _QUOTE):
            raise Irregular
        behind = _string_end(walk, stop[inside] + 1) + 1
        stop[inside] = _searched(walk, behind, hits)
        inside = inside[walk.data[stop[inside]] != _ARRAY_END]
    return stop + 1


def _scalar_end(walk: _Walk, behind: int, start: Int64s) -> Int64s:
    return _searched(walk, start, _any_of(bytes([behind])))


def _string_end(walk: _Walk, start: Int64s) -> Int64s:
    hits = _any_of(b'"\\')
    stop = _searched(walk, start, hits)
    escaped = np.flatnonzero(walk.data[stop] == _BACKSLASH)
    rounds = 0
    while len(escaped):
        rounds += 1
        if rounds > _ROUNDS_MAX:
            raise Irregular
        stop[escaped] = _searched(walk, stop[escaped] + 2, hits)
        escaped = escaped[walk.data[stop[escaped]] == _BACKSLASH]
    return stop


def _any_of(wanted: bytes) -> Callable[[Words], Words]:
    """Marks the first byte of every word that is one of `wanted`, and perhaps bytes above it."""
    patterns = [np.uint64(byte) * _ONES for byte in wanted]

    def hits(words: Words) -> Words:
        found = _zeros(words ^ patterns[0])
        for pattern in patterns[1:]:
            found |= _zeros(words ^ pattern)
        return found

    return hits


def _zeros(words: Words) -> Words:
    """The top bit of the first zero byte, and perhaps of bytes above it."""
    return (words - _ONES) & ~words & _TOPS


def _searched(walk: _Walk, start: Int64s, hits: Callable[[Words], Words]) -> Int64s:
    """The first position from each start on where there is a hit."""
    found = start.copy()
    active: Any = slice(None)
    at = start
    for _ in range(_ROUNDS_MAX):
        if len(at) and int(at.max()) >= walk.end:
            raise Irregular
        z = hits(ragged.gather(walk.data, at, "<u8").astype(np.uint64, copy=False))
        hit = z != 0
        place = at + (np.bitwise_count((z & -z) - _ONE) >> 3)
        if ragged.every(hit):
            found[active] = place
            return found
        here = np.arange(len(start))[active]
        found[here[hit]] = place[hit]
        active = here[~hit]
        at = at[~hit] + 8
    raise Irregular


def _slots(text: bytes) -> list[_Slot]:
    """Step 1. Irregular for text that is no object."""
    try:
        if not isinstance(json.loads(text), dict) or text[:1] != b"{" or text[-1:] != b"}":
            raise Irregular
    except ValueError as error:
        raise Irregular from error
    tokens = [(match[1], match.start(1), match.end(1)) for match in _TOKEN.finditer(text)]
    slots: list[_Slot] = []
    _object(tokens, 0, (), slots)
    return slots


def _object(tokens: list[_Token], opening: int, path: Path, slots: list[_Slot]) -> int:
    """Add the slots of the (valid) object whose brace is token `opening`; the token behind it."""
    place = opening + 1
    while tokens[place][0] != b"}":
        if tokens[place][0] == b",":
            place += 1
        here = (*path, json.loads(tokens[place][0]))
        value = place + 2
        if tokens[value][0] == b"{":
            place = _object(tokens, value, here, slots)
            continue
        place = _array(tokens, value) if tokens[value][0] == b"[" else value + 1
        slots.append(_Slot(here, tokens[value][1], tokens[place - 1][2]))
    return place + 1


def _array(tokens: list[_Token], opening: int) -> int:
    """The token behind the array whose bracket is token `opening`."""
    depth = 0
    for place in range(opening, len(tokens)):
        depth += (tokens[place][0] == b"[") - (tokens[place][0] == b"]")
        if depth == 0:
            return place + 1
    raise Irregular


def _tree(leaves: Mapping[Path, _Leaf]) -> _Members:
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        inner = found
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = leaf
    return found
