"""JSON objects of few shapes, read along these: the shapes of some of them.

Records of one producer have the same members in the same order, so that they differ in their values
only. cdc/json_tokens.py, which reads any objects, looks for structure in every byte; here what is
known is passed over:

1. The tails of the records, where they are alike but for digits, are found from behind
   (json_tail.py).
2. What is before the tails, or else the whole record, is walked through along the shape of one of
   them (json_walk.py).
3. Records that have another shape are walked along that of one of these: a delete has another
   shape than an insert.

Objects of too many shapes, with arrays in arrays or with a name twice are Irregular: json_tokens
reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from cdc import ragged
from cdc.errors import BadData
from cdc.formats.json_shape import Irregular, Path, Shape, shape_of
from cdc.formats.json_tail import tails
from cdc.formats.json_walk import Leaf, walked
from cdc.json_strings import characters
from cdc.json_tokens import Values as Places
from cdc.ragged import Bools, Bytes, Int64s

_GROUPS_MAX = 12
_ROWS_MIN = 8
"""Fewer records a shape are not worth its fixed costs."""

_Members: TypeAlias = "Mapping[str, Leaf | _Members]"


@dataclass(frozen=True, eq=False)
class Aligned:
    """Objects in `rows` rows or fewer: groups of rows with members that these have in common; like
    json_tokens.Members."""

    rows: int
    data: Bytes
    groups: tuple[tuple[Int64s, _Members], ...]

    def named(self, name: str) -> Places:
        """The members of that name that are no objects."""
        found = []
        for rows, inner in self.groups:
            value = inner.get(name)
            if isinstance(value, Leaf):
                found.append((rows, value))
        rows, leaf = found[0] if len(found) == 1 else _merged(found, self.rows)
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


def _merged(found: list[tuple[Int64s, Leaf]], count: int) -> tuple[Int64s, Leaf]:
    """The values of several groups, in the order of their rows."""
    start, stop = np.zeros(count, np.int64), np.zeros(count, np.int64)
    is_string, here = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for rows, leaf in found:
        start[rows], stop[rows] = leaf.start, leaf.stop
        is_string[rows], here[rows] = leaf.is_string, True
    every = Leaf(start, stop, is_string)
    index = np.flatnonzero(here)
    return index, every if len(index) == count else every.only(here)


def aligned(
    texts: pa.Array,
    wanted: Callable[[Path], bool],
    in_tail: Callable[[str], bool] = lambda _: False,
) -> Aligned:
    """The objects in a binary or string array (offset 0) without nulls, with the members whose
    path is `wanted`. `in_tail`: members that hardly differ. Raises Irregular."""
    data = characters(texts)
    _, places = ragged.contents(texts)

    @cache
    def shape(row: int) -> Shape:
        return shape_of(data[places[row] : places[row + 1]].tobytes())

    found = tails(data, places, lambda row: shape(row).cut(in_tail)[1], wanted)
    groups = [(rows, _tree(leaves)) for rows, leaves in found.groups]
    start, stop = places[:-1], places[1:] - found.lengths
    left = np.arange(len(texts))
    walks = 0
    while len(left):
        if walks == _GROUPS_MAX or len(texts) < _ROWS_MIN * walks:
            raise Irregular
        walks += 1
        row = int(left[len(left) // 2])
        head = shape(row)
        if found.lengths[row]:
            head, _ = head.cut(in_tail)
            if head.names() & found.names:
                raise Irregular
        rows, leaves = walked(data, left, start, stop, head, wanted)
        if not len(rows):
            raise Irregular
        groups.append((rows, _tree(leaves)))
        if len(rows) == len(left):
            break
        rest = np.ones(len(texts), np.bool_)
        rest[rows] = False
        left = left[rest[left]]
    return Aligned(len(texts), data, tuple(groups))


def _tree(leaves: Mapping[Path, Leaf]) -> _Members:
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        inner = found
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = leaf
    return found
