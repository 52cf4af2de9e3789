"""min and max: the extreme value stands in the group's state, the values in an arrangement.

An insert only compares with the extreme. A retraction of a value that is not beyond the extreme
leaves it; only when the extreme itself goes are the group's values read again, from the arrangement
on (group, value).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cdc.changes import Int64s
from compaction.runs import Codes
from views.operators.accumulators import Portion
from views.operators.arrangements import Arrangement, Keyed
from views.values.ordering import ranks

_FAR = np.int64(2**62)


class Values:
    """The non-NULL values of one argument, by group, for its min and its max."""

    def __init__(self, arrangement: Arrangement, width: int) -> None:
        self.arrangement = arrangement
        self._width = width

    def stage(self, hashes: Codes, keys: Sequence[pa.Array], portion: Portion) -> None:
        """Add one step's values; `hashes` and `keys` are of the rows' groups."""
        assert portion.values is not None
        columns = [*keys, portion.values]
        schema = self.arrangement.layout.schema
        rows = pa.RecordBatch.from_arrays(columns, schema=schema)
        weights = portion.weights
        if portion.values.null_count:
            valid = np.flatnonzero(np.asarray(portion.values.is_valid()))
            rows, hashes, weights = rows.take(pa.array(valid)), hashes[valid], weights[valid]
        self.arrangement.stage(hashes, weights, rows)

    def of_groups(self, groups: Keyed) -> tuple[Int64s, pa.Array]:
        """(group number, value) for all values of these groups after the step."""
        found = self.arrangement.find(self.arrangement.new, groups)
        return found.query, found.rows.column(self._width)


def next_extremes(
    old: pa.Array, portion: Portion, values: Values, groups: Keyed, largest: bool
) -> pa.Array:
    """Each touched group's min (or max) after the step, from `old`, the one before; NULL for none.

    `groups` are the touched groups' keys. `values` has been staged.
    """
    assert portion.values is not None
    changes, weights, row = portion.values, portion.weights, portion.group_of_rows()
    if changes.null_count:
        valid = np.flatnonzero(np.asarray(changes.is_valid()))
        changes, weights, row = changes.take(pa.array(valid)), weights[valid], row[valid]
    known = np.flatnonzero(np.asarray(old.is_valid()))
    candidates = pa.concat_arrays([old.take(pa.array(known)), changes])
    order = ranks(candidates)
    order = -order if largest else order
    best = np.full(len(old), _FAR)
    best[known] = order[: len(known)]
    removed = _least(order[len(known) :], row, weights < 0, len(old))
    lost = np.flatnonzero((removed <= best) & (removed < _FAR))
    chosen = np.full(len(old), -1)
    chosen[known] = np.arange(len(known))
    places = np.arange(len(known), len(candidates))
    _choose(best, chosen, order, places[weights > 0], row[weights > 0])
    if not len(lost):
        return candidates.take(pa.array(chosen, mask=chosen < 0))
    return _recomputed(candidates, chosen, lost, values, groups, largest)


def _recomputed(
    candidates: pa.Array,
    chosen: Int64s,
    lost: Int64s,
    values: Values,
    groups: Keyed,
    largest: bool,
) -> pa.Array:
    """The chosen candidates, except in the `lost` groups, whose values are read again."""
    query, live = values.of_groups(groups.take(lost))
    chosen[lost] = -1
    if len(live):
        order = ranks(live)
        order = -order if largest else order
        best = np.full(len(chosen), _FAR)
        places = np.arange(len(candidates), len(candidates) + len(live))
        ranked = np.concatenate([np.zeros(len(candidates), np.int64), order])
        _choose(best, chosen, ranked, places, lost[query])
        candidates = pa.concat_arrays([candidates, live])
    return candidates.take(pa.array(chosen, mask=chosen < 0))


def _least(order: Int64s, row: Int64s, which: np.ndarray, count: int) -> Int64s:
    least = np.full(count, _FAR)
    np.minimum.at(least, row[which], order[which])
    return least


def _choose(best: Int64s, chosen: Int64s, order: Int64s, places: Int64s, groups: Int64s) -> None:
    """For each group, let the best of candidates[places] replace what is worse, in place."""
    if not len(places):
        return
    by = np.lexsort((order[places], groups))
    places, groups = places[by], groups[by]
    first = np.concatenate([[True], groups[1:] != groups[:-1]])
    places, groups = places[first], groups[first]
    better = order[places] < best[groups]
    best[groups[better]] = order[places[better]]
    chosen[groups[better]] = places[better]
