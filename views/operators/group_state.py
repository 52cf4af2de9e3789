"""The state of groups: a MAP arrangement of group columns, row count and accumulators.

A step groups its weighted rows by the group columns' values, finds the touched groups' state rows,
adds the rows to them and stages the result. A DISTINCT argument first passes through a grouping of
its own, by (group, argument), whose groups that come and go are the argument's distinct values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import Bools, Int64s
from cdc.errors import ViewError
from compaction.runs import Codes, Kind, Layout
from views.delta import Delta
from views.operators.accumulators import Accumulator, Portion, neutral
from views.operators.arrangements import Arrangement, Keyed
from views.operators.extremes import Values, next_extremes
from views.operators.grouping import Groups, group_rows


@dataclass(frozen=True, eq=False)
class Argument:
    """One argument of one or more aggregates: where its values come from, and what is kept.

    place     its column among the evaluated arguments; None: count(*)
    distinct  set for DISTINCT
    cells     accumulators, and the first state column of each
    values    for min and max
    extremes  (state column, largest) for each of min and max that is asked for
    """

    place: int | None
    kind: pa.DataType | None
    distinct: Grouping | None
    cells: tuple[tuple[Accumulator, int], ...]
    values: Values | None
    extremes: tuple[tuple[int, bool], ...]


class Grouping:
    """The state of groups, without evaluating or putting out anything."""

    def __init__(
        self,
        name: str,
        group: Sequence[pa.Field],
        arguments: Sequence[Argument],
        state_types: Sequence[pa.DataType],
        hash_bits: int = 64,
    ) -> None:
        self.width = len(group)
        self.arguments = tuple(arguments)
        self.types = tuple(state_types)
        states = [pa.field(f"s{i}", t) for i, t in enumerate(self.types)]
        groups = [pa.field(f"g{i}", f.type) for i, f in enumerate(group)]
        self.schema = pa.schema([*groups, pa.field("n", pa.int64()), *states])
        layout = Layout(Kind.MAP, self.schema, tuple(range(self.width)), hash_bits)
        self.arrangement = Arrangement(name, layout)

    def step(self, keys: list[pa.Array], values: list[pa.Array], weights: Int64s) -> Touched:
        """Add weighted rows (group columns, arguments); the touched groups before and after."""
        count = len(weights)
        hashes = self.arrangement.layout.hashes(keys, count)
        groups = group_rows(hashes, keys)
        first = pa.array(groups.first)
        touched = Keyed(
            hashes[groups.first] if keys else np.zeros(1, np.uint64),
            tuple(key.take(first) for key in keys),
            pa.RecordBatch.from_arrays([], []),
            np.ones(len(groups), np.int64),
        )
        before = self._before(touched)
        portion = Portion(None, weights, groups, None, len(groups))
        rows = before.columns[self.width].to_numpy() + portion.sum(weights)
        if (rows < 0).any():
            raise ViewError("a group would have less than no rows: the input is inconsistent")
        states = list(before.columns[self.width + 1 :])
        for argument in self.arguments:
            self._add(argument, states, touched, hashes, keys, values, portion)
        columns = [*before.columns[: self.width], pa.array(rows), *states]
        alive = rows > 0 if keys else np.ones(len(groups), np.bool_)
        after = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        known = before.known
        changed = alive | known
        if changed.all():
            self.arrangement.stage(touched.hashes, alive.astype(np.int64), after)
        else:
            places = np.flatnonzero(changed)
            self.arrangement.stage(
                touched.hashes[places], alive[places].astype(np.int64), after.take(pa.array(places))
            )
        old = pa.RecordBatch.from_arrays(before.columns, schema=self.schema)
        return Touched(old, known, after, alive)

    def _before(self, touched: Keyed) -> Before:
        """The touched groups' state columns; where a group is new, neutral ones."""
        count = len(touched)
        found = self.arrangement.old.lookup(touched.hashes, touched.keys)
        known = np.zeros(count, np.bool_)
        known[found.query] = True
        if len(found) == count:
            rows = found.rows
            if count > 1 and (found.query[1:] < found.query[:-1]).any():
                place = np.empty(count, np.int64)
                place[found.query] = np.arange(count)
                rows = rows.take(pa.array(place))
            return Before(rows.columns, known)
        fresh = [*touched.keys, *self._neutral(count)]
        if not len(found):
            return Before(fresh, known)
        place = np.arange(count)
        place[found.query] = count + np.arange(len(found))
        index = pa.array(place)
        both = zip(fresh, found.rows.columns, strict=True)
        return Before([pa.concat_arrays([a, b]).take(index) for a, b in both], known)

    def _neutral(self, count: int) -> list[pa.Array]:
        extremes = {place for a in self.arguments for place, _ in a.extremes}
        plain = neutral([t for i, t in enumerate(self.types) if i not in extremes], count)
        states = iter(plain)
        return [
            pa.array(np.zeros(count, np.int64)),
            *(
                pa.nulls(count, t) if i in extremes else next(states)
                for i, t in enumerate(self.types)
            ),
        ]

    def _add(
        self,
        argument: Argument,
        states: list[pa.Array],
        touched: Keyed,
        hashes: Codes,
        keys: list[pa.Array],
        values: list[pa.Array],
        portion: Portion,
    ) -> None:
        """Bring one argument's state columns forward, in place."""
        mine = self._portion(argument, touched, keys, values, portion)
        if mine is None:
            return
        for cell, first in argument.cells:
            stop = first + len(cell.types)
            states[first:stop] = cell.add(states[first:stop], mine)
        if argument.values is not None:
            argument.values.stage(hashes, keys, mine)
            for place, largest in argument.extremes:
                states[place] = next_extremes(
                    states[place], mine, argument.values, touched, largest
                )

    def _portion(
        self,
        argument: Argument,
        touched: Keyed,
        keys: list[pa.Array],
        values: list[pa.Array],
        portion: Portion,
    ) -> Portion | None:
        if argument.place is None:
            return portion
        column = values[argument.place]
        if argument.distinct is None:
            return Portion(column, portion.weights, portion.groups, None, portion.count)
        return self._distinct(argument.distinct, touched, keys, column, portion)

    def _distinct(
        self,
        distinct: Grouping,
        touched: Keyed,
        keys: list[pa.Array],
        column: pa.Array,
        portion: Portion,
    ) -> Portion | None:
        """The values that came and went, from the distinct argument's own grouping."""
        weights = portion.weights
        if column.null_count:
            valid = np.flatnonzero(np.asarray(column.is_valid()))
            index = pa.array(valid)
            keys, column, weights = (
                [k.take(index) for k in keys],
                column.take(index),
                weights[valid],
            )
        if not len(weights):
            return None
        delta = distinct.step([*keys, column], [], weights).delta_of_groups()
        if delta is None:
            return None
        count = len(touched)
        if not self.width:
            groups = group_rows(np.zeros(delta.num_rows, np.uint64), [])
            return Portion(delta.rows.column(0), delta.weights, groups, None, count)
        changed = delta.rows.columns[: self.width]
        hashes = self.arrangement.layout.hashes(changed, delta.num_rows)
        groups = group_rows(hashes, changed)
        numbers = _numbers(touched, hashes[groups.first], changed, groups)
        return Portion(delta.rows.column(self.width), delta.weights, groups, numbers, count)


@dataclass(frozen=True, eq=False)
class Before:
    columns: list[pa.Array]
    known: Bools


@dataclass(frozen=True, eq=False)
class Touched:
    """State rows of the touched groups: before (where `known`) and after (where `alive`)."""

    before: pa.RecordBatch
    known: Bools
    after: pa.RecordBatch
    alive: Bools

    def delta_of_groups(self) -> Delta | None:
        """The group columns of groups that came (+1) and went (-1)."""
        came, went = (
            np.flatnonzero(self.alive & ~self.known),
            np.flatnonzero(~self.alive & self.known),
        )
        if not len(came) and not len(went):
            return None
        rows = self.after.take(pa.array(np.concatenate([went, came])))
        weights = np.concatenate([np.full(len(went), -1), np.ones(len(came), np.int64)])
        return Delta(rows, weights)


def _numbers(touched: Keyed, hashes: Codes, keys: list[pa.Array], groups: Groups) -> Int64s:
    """Which touched group each of `groups` is."""
    first = pa.array(groups.first)
    both = [pa.concat_arrays([t, k.take(first)]) for t, k in zip(touched.keys, keys, strict=True)]
    merged = group_rows(np.concatenate([touched.hashes, hashes]), both)
    number = merged.number()
    place = np.empty(len(merged), np.int64)
    place[number[: len(touched)]] = np.arange(len(touched))
    return place[number[len(touched) :]]
