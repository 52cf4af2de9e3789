"""JSON objects of one shape, tokenized once for all depths.

cdc/json_tokens.py finds the members of any objects, one depth at a time. Records of one producer
are more regular: the same members in the same order, so the same structural characters row by row,
whatever the values. A grid uses that:

1. The positions of all brackets, braces, colons and commas outside strings, of all rows, by one
   pass over the bytes (as in json_tokens, steps 1 and 2).
2. Rows with the same sequence of these characters form a group: a change and a delete differ,
   since null has no structure. The positions of a group are a matrix: row by token.
3. The first row of a group says which member stands between which tokens, at every depth. A member
   that is asked for is two columns of the matrix; that its name is the same in all rows is checked.

Rows that fall into too many groups (lists of many lengths), or names that differ, are Irregular:
json_tokens reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.json_strings import characters, lead_backslashes
from cdc.json_tokens import Values as Places
from cdc.ragged import Bools, Bytes, Int64s

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE = (ord(c) for c in '",:{}')
_LIST, _LIST_END = ord("["), ord("]")
_BLANKS = b" \t\r\n"
_BLANK = np.zeros(256, np.bool_)
_BLANK[np.frombuffer(_BLANKS, np.uint8)] = True
_GROUPS_MAX = 12
_ROWS_MIN = 8
"""Fewer rows a group are not worth its fixed costs."""


class Irregular(Exception):
    """The objects have not one shape, or few: read them one depth at a time."""


@dataclass(frozen=True)
class _Member:
    """Between which tokens a member stands: `before` its name, `colon`, and `end` of its value;
    `inner`: the members of an object that it holds."""

    before: int
    colon: int
    end: int
    inner: Mapping[str, _Member] | None


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows of one shape: at[i, k] is the position of token k of row rows[i]."""

    rows: Int64s
    at: Int64s
    members: Mapping[str, _Member]


@dataclass(frozen=True, eq=False)
class Grid:
    """Objects, one in each of `rows` rows or fewer, like json_tokens.Members."""

    rows: int
    data: Bytes
    groups: tuple[_Group, ...]

    def named(self, name: str) -> Places:
        """The members of that name. Irregular when not all rows of a group have it there."""
        found = [
            _places(self.data, group, group.members[name])
            for group in self.groups
            if name in group.members
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            none = np.zeros(0, np.int64)
            no = np.zeros(0, np.bool_)
            return Places(self.data, none, none, none, none, no, no)
        order = np.argsort(np.concatenate([f.row for f in found]))
        return Places(
            self.data,
            np.concatenate([f.row for f in found])[order],
            np.concatenate([f.colon for f in found])[order],
            np.concatenate([f.start for f in found])[order],
            np.concatenate([f.stop for f in found])[order],
            np.concatenate([f.is_string for f in found])[order],
            np.concatenate([f.is_null for f in found])[order],
        )

    def nested(self, name: str) -> tuple[Grid, Bools] | None:
        """The objects that stand under a name, and in which rows; None: in no row."""
        groups = []
        valid = np.zeros(self.rows, np.bool_)
        for group in self.groups:
            member = group.members.get(name)
            if member is None:
                continue
            found = _places(self.data, group, member)
            if member.inner is None:
                if not ragged.every(found.is_null):
                    raise BadData(f"'{name}' is not an object")
                continue
            groups.append(_Group(group.rows, group.at, member.inner))
            valid[group.rows] = True
        return (Grid(self.rows, self.data, tuple(groups)), valid) if groups else None


def grid(texts: pa.Array) -> Grid:
    """The objects in a binary or string array (offset 0) without nulls. Raises Irregular."""
    count = len(texts)
    data = characters(texts)
    at, mark = _structure(data)
    _, places = ragged.contents(texts)
    bounds = np.searchsorted(at, places)
    counts = np.diff(bounds)
    groups: list[_Group] = []
    left = np.arange(count)
    while len(left):
        if len(groups) == _GROUPS_MAX or count < _ROWS_MIN * len(groups):
            raise Irregular
        first = int(left[0])
        width = int(counts[first])
        shape = mark[bounds[first] : bounds[first] + width]
        same = counts[left] == width
        rows = left if ragged.every(same) else left[same]
        whole = len(rows) == count
        index = slice(None) if whole else bounds[rows][:, None] + np.arange(width)
        marks, positions = mark[index].reshape(-1, width), at[index].reshape(-1, width)
        alike = (marks == shape).all(axis=1)
        if not ragged.every(alike):
            rows, positions = rows[alike], positions[alike]
            rest = np.ones(count, np.bool_)
            rest[rows] = False
            left = left[rest[left]]
        else:
            left = left[~same]
        _check_ends(data, rows, positions, places, shape)
        groups.append(_Group(rows, positions, _shape(data, positions[0], shape)))
    return Grid(count, data, tuple(groups))


def _structure(data: Bytes) -> tuple[Int64s, Bytes]:
    """The positions of structural characters outside strings, and the characters."""
    found = data == _QUOTE
    found |= data == _COMMA
    found |= data == _COLON
    braces = data | 0x20
    found |= braces == _OPEN
    found |= braces == _CLOSE
    escapes = lead_backslashes(data)
    found[escapes[escapes < len(data) - 1] + 1] = False
    at = np.flatnonzero(found)
    mark = data.take(at)
    quotes = mark == _QUOTE
    inside = quotes.cumsum(dtype=np.uint8) & 1
    index = np.flatnonzero((inside == 0) & ~quotes)
    return at.take(index), mark.take(index)


def _check_ends(data: Bytes, rows: Int64s, at: Int64s, places: Int64s, shape: Bytes) -> None:
    """That each text is an object from its first byte to its last."""
    if not len(shape) or shape[0] != _OPEN or shape[-1] != _CLOSE:
        raise Irregular
    whole = (at[:, 0] == places[rows]) & (at[:, -1] + 1 == places[rows + 1])
    if not ragged.every(whole):
        raise Irregular


def _shape(data: Bytes, at: Int64s, shape: Bytes) -> Mapping[str, _Member]:
    """Step 3, from one row's tokens."""
    positions, marks = at.tolist(), shape.tolist()
    try:
        found, end = _object(bytes(data[positions[0] : positions[-1] + 1]), positions, marks, 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise Irregular from error
    if end != len(marks) - 1:
        raise Irregular
    return found


def _object(
    text: bytes, at: list[int], marks: list[int], opening: int
) -> tuple[Mapping[str, _Member], int]:
    """The members of the object whose brace is token `opening`, and its closing token."""
    found: dict[str, _Member] = {}
    before = opening
    if marks[opening + 1] == _CLOSE:
        return found, opening + 1
    while True:
        colon = before + 1
        if marks[colon] != _COLON:
            raise Irregular
        raw = text[at[before] - at[0] + 1 : at[colon] - at[0]].strip(_BLANKS)
        if len(raw) < 2 or raw[0] != _QUOTE or raw[-1] != _QUOTE or b"\\" in raw:
            raise Irregular
        inner, end = None, colon + 1
        if marks[end] == _OPEN:
            inner, closing = _object(text, at, marks, end)
            end = closing + 1
        elif marks[end] == _LIST:
            end = _list_end(marks, end) + 1
        found[raw[1:-1].decode()] = _Member(before, colon, end, inner)
        if marks[end] == _CLOSE:
            return found, end
        if marks[end] != _COMMA:
            raise Irregular
        before = end


def _list_end(marks: list[int], opening: int) -> int:
    depth = 0
    for place in range(opening, len(marks)):
        depth += (marks[place] in (_OPEN, _LIST)) - (marks[place] in (_CLOSE, _LIST_END))
        if depth == 0:
            return place
    raise Irregular


def _places(data: Bytes, group: _Group, member: _Member) -> Places:
    colon = group.at[:, member.colon]
    _check_names(data, group.at[:, member.before] + 1, colon)
    start, stop = _trimmed(data, colon + 1, group.at[:, member.end])
    if not ragged.every(start < stop):
        raise Irregular
    is_string = data[start] == _QUOTE
    if ragged.some(is_string) and not ragged.every(
        ~is_string | ((data[stop - 1] == _QUOTE) & (stop - start > 1))
    ):
        raise Irregular
    null = (stop - start == 4) & ~is_string
    if ragged.some(null):
        null[null] = ragged.gather(data, start[null], "S4") == b"null"
    return Places(data, group.rows, colon, start + is_string, stop - is_string, is_string, null)


def _check_names(data: Bytes, start: Int64s, stop: Int64s) -> None:
    lengths = stop - start
    if not ragged.every(lengths == lengths[0]):
        raise Irregular
    found = ragged.gather(data, start, f"V{lengths[0]}")
    if not ragged.every(found == found[0]):
        raise Irregular


def _trimmed(data: Bytes, start: Int64s, stop: Int64s) -> tuple[Int64s, Int64s]:
    """Without the blanks at both ends."""
    while ragged.some(more := _BLANK[data[start]] & (start < stop)):
        start = start + more
    while ragged.some(more := _BLANK[data[stop - 1]] & (start < stop)):
        stop = stop - more
    return start, stop
