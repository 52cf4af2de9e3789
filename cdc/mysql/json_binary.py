"""MySQL's binary JSON → the text that the server prints for it, a whole column at once.

The form is that of mysql-server's sql/json_binary.h: a type byte and a value; objects and arrays
have a count, their size, entries with offsets from their own beginning, and then the values. The
text is `SELECT`'s: `{"a": 1, "b": [true, null]}` (Json_wrapper::to_string in json_dom.cc).

1.  Unfold level by level: the members of all containers of one level, of all rows, are the nodes of
    the next. A node is a type, a place and perhaps a name.
2.  Spell what is no container, type by type; a name with its marks.
3.  Lengths bottom up, places top down: so every piece of text knows where it stands.
4.  All pieces in the order of their places, taken by Arrow, are the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdc import ragged
from cdc.errors import BadData
from cdc.json_strings import escaped
from cdc.mysql.json_scalars import doubles, opaque
from cdc.ragged import Bools, Bytes, Int64s, Slices

SMALL_OBJECT, LARGE_OBJECT, SMALL_ARRAY, LARGE_ARRAY = 0, 1, 2, 3
LITERAL, INT16, UINT16, INT32, UINT32, INT64, UINT64, DOUBLE, STRING = range(4, 13)
OPAQUE = 15
_DEPTH_MAX = 100
"""JSON_DOCUMENT_MAX_DEPTH."""
_INTEGERS = {INT16: "<i2", UINT16: "<u2", INT32: "<i4", UINT32: "<u4", INT64: "<i8", UINT64: "<u8"}
_LITERALS = pa.array(["null", "true", "false"])
_LENGTH_BYTES_MAX = 5


@dataclass(eq=False)
class _Level:
    """The nodes at one depth, in order. `at`: where the value stands; `end`: where its document
    does; `parent`: its number among the containers' level above; `name`: where its name stands
    (length −1: it has none). `size` and `place`: of its whole text, in bytes."""

    kind: Bytes
    at: Int64s
    end: Int64s
    parent: Int64s
    first: Bools
    name_at: Int64s
    name_length: Int64s
    leaves: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    names: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    size: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    place: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def container(self) -> Bools:
        return self.kind <= LARGE_ARRAY

    @property
    def before(self) -> Int64s:
        """The bytes of text in front of each value: a comma, a name."""
        return np.where(self.first, 0, 2) + _lengths(self.names)


def json_text(slices: Slices) -> pa.Array:
    """The values as text; nulls stay null. BadData for what is not MySQL's binary JSON. An empty
    value is null, as the server has it."""
    full = np.flatnonzero(slices.length > 0)
    texts = _documents(slices.take(full)) if len(full) else pa.array([], pa.string())
    if len(full) == len(slices):
        return texts
    places = np.zeros(len(slices), np.int64)
    places[full] = np.arange(1, 1 + len(full))
    absent = None if slices.valid is None else ~slices.valid
    return pa.concat_arrays([pa.array(["null"]), texts]).take(pa.array(places, mask=absent))


def _documents(slices: Slices) -> pa.Array:
    levels = list(_levels(slices))
    for level in levels:
        level.leaves, level.names = _leaves(slices.buffer, level), _names(slices.buffer, level)
    _measure(levels)
    size = levels[0].size
    return ragged.strings_of(_assembled(levels, int(size.sum())), size, None)


def _levels(slices: Slices) -> Iterator[_Level]:
    """From the documents down."""
    count = len(slices)
    level = _Level(
        slices.buffer[slices.start],
        slices.start + 1,
        slices.start + slices.length,
        np.zeros(count, np.int64),
        np.ones(count, np.bool_),
        np.zeros(count, np.int64),
        np.full(count, -1, np.int64),
    )
    for _ in range(_DEPTH_MAX + 1):
        yield level
        if not ragged.some(level.container):
            return
        level = _members(slices.buffer, level)
        if not len(level.kind):
            return
        if len(level.kind) > len(slices.buffer):
            break
    raise BadData("a JSON value whose parts contain each other")


def _require(holds: Bools) -> None:
    if not ragged.every(holds):
        raise BadData("a malformed JSON value: a part of it lies behind its end")


def _members(buffer: Bytes, level: _Level) -> _Level:
    """The members of all containers of the level."""
    inside = np.flatnonzero(level.container)
    at, end, kind = level.at[inside], level.end[inside], level.kind[inside]
    large, is_object = (kind & 1) == 1, kind <= LARGE_OBJECT
    width = np.where(large, 4, 2)
    _require(at + 2 * width <= end)
    count = _of_width(buffer, at, large)
    per_name, per_value = np.where(is_object, width + 2, 0), width + 1
    entries = at + 2 * width
    _require(entries + count * (per_name + per_value) <= end)
    run, nth = ragged.positions_within(count)
    large, base, end = large[run], at[run], end[run]
    entry = entries[run] + (count * per_name)[run] + nth * per_value[run]
    kind = buffer[entry]
    inlined = _is_inlined(kind, large)
    offset = _of_width(buffer, entry + 1, large)
    name = entries[run] + nth * per_name[run]
    named = is_object[run]
    name_at = np.where(named, base + _of_width(buffer, name, large), 0)
    length_at = np.where(named, name + width[run], 0)
    name_length = np.where(named, ragged.gather_int64(buffer, length_at, "<u2"), -1)
    found = _Level(
        kind,
        np.where(inlined, entry + 1, base + offset),
        end,
        inside[run],
        nth == 0,
        name_at,
        name_length,
    )
    _require(name_at + np.maximum(name_length, 0) <= end)
    return found


def _of_width(buffer: Bytes, at: Int64s, large: Bools) -> Int64s:
    """Numbers of four bytes where `large`, else of two."""
    wide = ragged.gather_int64(buffer, at, "<u4")
    return np.where(large, wide, wide & 0xFFFF)


def _is_inlined(kind: Bytes, large: Bools) -> Bools:
    always = (kind >= LITERAL) & (kind <= UINT16)
    return always | (large & (kind >= INT32) & (kind <= UINT32))


def _leaves(buffer: Bytes, level: _Level) -> pa.Array:
    """The text of every node; of containers none."""
    spelled: list[pa.Array] = []
    places: list[Int64s] = []
    for kind in np.unique(level.kind).tolist():
        chosen = np.flatnonzero(level.kind == kind)
        at, end = level.at[chosen], level.end[chosen]
        spelled.append(_spelled(buffer, kind, at, end))
        places.append(chosen)
    if len(spelled) == 1:
        return spelled[0]
    back = np.empty(len(level.kind), np.int64)
    back[np.concatenate(places)] = np.arange(len(level.kind))
    return pa.concat_arrays(spelled).take(pa.array(back))


def _spelled(buffer: Bytes, kind: int, at: Int64s, end: Int64s) -> pa.Array:
    if kind <= LARGE_ARRAY:
        return pa.repeat("", len(at))
    if kind == LITERAL:
        _require(at < end)
        return _literals(buffer[at].astype(np.int64))
    if kind in _INTEGERS:
        wire = _INTEGERS[kind]
        _require(at + np.dtype(wire).itemsize <= end)
        return pa.array(ragged.gather(buffer, at, wire)).cast(pa.string())
    if kind == DOUBLE:
        _require(at + 8 <= end)
        return doubles(ragged.gather(buffer, at, "<f8"))
    if kind == STRING:
        start, length = _variable(buffer, at, end)
        return _in_marks(_texts(buffer, start, length), '"')
    if kind == OPAQUE:
        _require(at < end)
        start, length = _variable(buffer, at + 1, end)
        return opaque(buffer, buffer[at], start, length)
    raise BadData(f"a JSON value of the unknown type {kind}")


def _literals(which: Int64s) -> pa.Array:
    if len(which) and int(which.max()) > 2:
        raise BadData(f"a JSON literal of the unknown kind {int(which.max())}")
    return _LITERALS.take(pa.array(which))


def _variable(buffer: Bytes, at: Int64s, end: Int64s) -> tuple[Int64s, Int64s]:
    """Where strings stand that begin with a length of seven bits a byte."""
    length = np.zeros(len(at), np.int64)
    start = at.copy()
    more = np.ones(len(at), np.bool_)
    for place in range(_LENGTH_BYTES_MAX):
        _require(start + more <= end)
        byte = buffer[np.minimum(start, len(buffer) - 1)].astype(np.int64)
        length += np.where(more, (byte & 0x7F) << (7 * place), 0)
        start += more
        more = more & (byte >= 0x80)
        if not ragged.some(more):
            break
    _require(start + length <= end)
    return start, length


def _texts(buffer: Bytes, start: Int64s, length: Int64s) -> pa.Array:
    """Escaped text; slices in any order."""
    order = np.argsort(start, kind="stable")
    sorted_texts = escaped(ragged.text(Slices(buffer, start[order], length[order])))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return sorted_texts.take(pa.array(back))


def _in_marks(texts: pa.Array, last: str) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, last, "")


def _names(buffer: Bytes, level: _Level) -> pa.Array:
    """`"name": ` of every node; without a name, nothing."""
    named = level.name_length >= 0
    if not ragged.some(named):
        return pa.repeat("", len(named))
    chosen = np.flatnonzero(named)
    texts = _in_marks(_texts(buffer, level.name_at[chosen], level.name_length[chosen]), '": ')
    if len(chosen) == len(named):
        return texts
    places = np.where(named, named.cumsum(), 0)
    return pa.concat_arrays([pa.array([""]), texts]).take(pa.array(places))


def _lengths(texts: pa.Array) -> Int64s:
    return pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)


def _measure(levels: list[_Level]) -> None:
    """Sizes from the deepest level up, places from the highest down."""
    inner = np.zeros(len(levels[-1].kind), np.int64)
    for number in range(len(levels) - 1, -1, -1):
        level = levels[number]
        own = np.where(level.container, 2, _lengths(level.leaves))
        level.size = level.before + own + inner
        if number:
            above = len(levels[number - 1].kind)
            inner = _sums(level.parent, level.size, above)
    levels[0].place = levels[0].size.cumsum() - levels[0].size
    for upper, level in pairwise(levels):
        through = level.size.cumsum() - level.size
        begin = np.zeros(len(upper.kind), np.int64)
        begin[level.parent[level.first]] = through[level.first]
        inside = upper.place + upper.before + 1
        level.place = inside[level.parent] + through - begin[level.parent]


def _sums(parent: Int64s, size: Int64s, count: int) -> Int64s:
    total = np.zeros(count, np.int64)
    if len(parent):
        starts = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]])
        total[parent[starts]] = np.add.reduceat(size, starts)
    return total


def _assembled(levels: list[_Level], total: int) -> Bytes:
    """All pieces of text in the order of their places."""
    texts: list[pa.Array] = []
    places: list[Int64s] = []

    def put(at: Int64s, piece: pa.Array) -> None:
        texts.append(piece)
        places.append(at)

    for level in levels:
        later = np.flatnonzero(~level.first)
        put(level.place[later], pa.repeat(", ", len(later)))
        # A name and a leaf that are empty are taken for nothing, wherever they stand.
        put(level.place + np.where(level.first, 0, 2), level.names)
        put(level.place + level.before, level.leaves)
        inside = np.flatnonzero(level.container)
        opening = level.kind[inside] <= LARGE_OBJECT
        put(
            (level.place + level.before)[inside],
            pc.if_else(pa.array(opening), "{", "["),
        )
        put((level.place + level.size)[inside] - 1, pc.if_else(pa.array(opening), "}", "]"))
    order = np.argsort(np.concatenate(places), kind="stable")
    joined = pa.concat_arrays([piece.cast(pa.large_string()) for piece in texts])
    data: npt.NDArray[np.uint8] = np.frombuffer(
        joined.take(pa.array(order)).buffers()[2] or b"", np.uint8
    )
    return data[:total]
