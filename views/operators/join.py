"""Inner and left joins over arrangements of both sides (SEMANTICS 20, 21).

inner   Δ(L⋈R) = ΔL⋈R_old + L_new⋈ΔR

left    Δ(L⟕R) = ΔL⟕R_new + L_old[keys of ΔR] ⟕ R_new − L_old[keys of ΔR] ⟕ R_old
        since ⟕ is linear in L but not in R: whether a left row is matched depends on all of its
        right rows, after the residual condition. So R is read consolidated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from cdc.changes import Int64s
from compaction.spine import Spine
from views.delta import Delta, concat_deltas
from views.operators.arrangements import Arrangement, Keyed, distinct_keys
from views.operators.failures import Checked
from views.operators.linear import Slots


class Arranged(Protocol):
    """A delta by key, with the arrangement that it is staged in, during one step.

    `unkeyed`: the rows with a NULL key, which join nothing and are in no arrangement.
    """

    arrangement: Arrangement
    keyed: Keyed | None
    unkeyed: Delta | None


class Arrange:
    """Keys an operator's delta and stages it in an arrangement of its own (see Arranged)."""

    def __init__(
        self,
        source: int,
        arrangement: Arrangement,
        key_places: Sequence[int],
        computed: Checked | None,
    ) -> None:
        self.arrangement = arrangement
        self.keyed: Keyed | None = None
        self.unkeyed: Delta | None = None
        self._source, self._places, self._computed = source, tuple(key_places), computed

    def run(self, slots: Slots) -> None:
        self.keyed = self.unkeyed = None
        delta = slots[self._source]
        if delta is None:
            return
        if self._computed is not None:
            arrays, delta = self._computed.evaluate(delta)
            schema = self.arrangement.layout.schema
            rows = pa.RecordBatch.from_arrays([*delta.rows.columns, *arrays], schema=schema)
            delta = Delta(rows, delta.weights)
        delta = self._without_nulls(delta)
        if not delta.num_rows:
            return
        keys = [delta.rows.column(i) for i in self._places]
        hashes = self.arrangement.layout.hashes(keys, delta.num_rows)
        self.keyed = Keyed(hashes, tuple(keys), delta.rows, delta.weights)
        self.arrangement.stage(hashes, delta.weights, delta.rows)

    def _without_nulls(self, delta: Delta) -> Delta:
        keys = [delta.rows.column(i) for i in self._places]
        if not any(key.null_count for key in keys):
            return delta
        null = np.zeros(delta.num_rows, np.bool_)
        for key in keys:
            null |= np.asarray(key.is_null())
        self.unkeyed = delta.take(np.flatnonzero(null))
        return delta.take(np.flatnonzero(~null))


class Side:
    """One side of a join: what its arrangement's columns are called in the join, and the delta.

    For a side that is a table by its primary key, `arranged` is the table input itself.
    """

    def __init__(self, arranged: Arranged, places: Sequence[int]) -> None:
        self.arranged, self._places = arranged, tuple(places)

    @property
    def arrangement(self) -> Arrangement:
        return self.arranged.arrangement

    def columns(self, rows: pa.RecordBatch) -> list[pa.Array]:
        """The side's own columns of stored rows."""
        return [rows.column(i) for i in self._places]

    def nulls(self, count: int) -> list[pa.Array]:
        schema = self.arrangement.layout.schema
        return [pa.nulls(count, schema.field(i).type) for i in self._places]


@dataclass(frozen=True, eq=False)
class Shape:
    """Joined rows: first `wide`, the left columns then the right ones, which the residual sees;
    then those at `places`, with the names of `schema`."""

    wide: pa.Schema
    residual: Checked | None
    places: tuple[int, ...]
    schema: pa.Schema

    def matches(self, columns: list[pa.Array], weights: Int64s) -> tuple[Delta, Int64s | None]:
        """The joined rows that pass the residual, and which these are (None: all)."""
        joined = Delta(pa.RecordBatch.from_arrays(columns, schema=self.wide), weights)
        if self.residual is None:
            return joined, None
        kept = self.residual.true_rows(joined)
        return (joined, None) if len(kept) == joined.num_rows else (joined.take(kept), kept)

    def put(self, parts: Sequence[Delta]) -> Delta | None:
        """The join's output delta."""
        joined = concat_deltas(parts, self.wide)
        if not joined.num_rows:
            return None
        columns = [joined.rows.column(i) for i in self.places]
        return Delta(pa.RecordBatch.from_arrays(columns, schema=self.schema), joined.weights)


class InnerJoin:
    def __init__(self, left: Side, right: Side, target: int, shape: Shape) -> None:
        self._left, self._right, self._target, self._shape = left, right, target, shape

    def run(self, slots: Slots) -> None:
        parts = []
        left, right = self._left, self._right
        if (keyed := left.arranged.keyed) is not None:
            found = right.arrangement.old.lookup(keyed.hashes, keyed.keys)
            if len(found):
                near = [c.take(pa.array(found.query)) for c in left.columns(keyed.rows)]
                weights = keyed.weights[found.query] * found.weights
                parts.append(self._shape.matches(near + right.columns(found.rows), weights)[0])
        if (keyed := right.arranged.keyed) is not None:
            found = left.arrangement.new.lookup(keyed.hashes, keyed.keys)
            if len(found):
                near = [c.take(pa.array(found.query)) for c in right.columns(keyed.rows)]
                weights = keyed.weights[found.query] * found.weights
                parts.append(self._shape.matches(left.columns(found.rows) + near, weights)[0])
        if parts:
            slots[self._target] = self._shape.put(parts)


class LeftJoin:
    def __init__(self, left: Side, right: Side, target: int, shape: Shape) -> None:
        self._left, self._right, self._target, self._shape = left, right, target, shape

    def run(self, slots: Slots) -> None:
        parts: list[Delta] = []
        arranged, right = self._left.arranged, self._right.arrangement
        if arranged.unkeyed is not None:
            parts.append(self._extended(arranged.unkeyed.rows, arranged.unkeyed.weights))
        if arranged.keyed is not None:
            parts += self._joined(arranged.keyed, right.new, 1)
        if (changed := self._right.arranged.keyed) is not None:
            touched = self._left_rows(distinct_keys(changed))
            if touched is not None:
                parts += self._joined(touched, right.old, -1)
                parts += self._joined(touched, right.new, 1)
        if parts:
            slots[self._target] = self._shape.put(parts)

    def _left_rows(self, changed: Keyed) -> Keyed | None:
        """The left rows, before this step, that have the keys of `changed`."""
        found = self._left.arrangement.old.lookup(changed.hashes, changed.keys)
        if not len(found):
            return None
        keys = tuple(key.take(pa.array(found.query)) for key in changed.keys)
        return Keyed(changed.hashes[found.query], keys, found.rows, found.weights)

    def _joined(self, rows: Keyed, right: Spine, sign: int) -> list[Delta]:
        """`rows` ⟕ `right`, with weights multiplied by `sign`."""
        weights = rows.weights * sign
        found = self._right.arrangement.find(right, rows)
        matched = np.zeros(len(rows), np.bool_)
        parts = []
        if len(found):
            near = [c.take(pa.array(found.query)) for c in self._left.columns(rows.rows)]
            columns = near + self._right.columns(found.rows)
            joined, kept = self._shape.matches(columns, weights[found.query] * found.weights)
            matched[found.query if kept is None else found.query[kept]] = True
            parts.append(joined)
        if not matched.all():
            alone = np.flatnonzero(~matched)
            parts.append(self._extended(rows.rows.take(pa.array(alone)), weights[alone]))
        return parts

    def _extended(self, rows: pa.RecordBatch, weights: Int64s) -> Delta:
        columns = self._left.columns(rows) + self._right.nulls(len(weights))
        return Delta(pa.RecordBatch.from_arrays(columns, schema=self._shape.wide), weights)
