"""A view's output: per cut and key at most one record, and none while it is blocked (S27, S28).

`per_key` consolidates a delta: equal rows cancel, then a key that gained a row is an upsert and one
that only lost its row is a tombstone. A view is blocked while a row fails in it or in a view below,
while two rows claim one key, or when a table has lost a column that it reads; what it would have
published is kept, consolidated, and published as one difference when it resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D, Int64s, U
from cdc.errors import ViewError
from cdc.schema import TableSchema
from compaction.equality import RowKey, equal_exactly, row_keys
from compaction.runs import Kind, Layout, make_run
from views.delta import Delta, concat_deltas
from views.operators.arrangements import Arrangement, Keyed, distinct_keys
from views.operators.failures import FailingRows
from views.operators.grouping import Groups, group_rows
from views.operators.linear import Slots
from views.plan import ViewPlan


@dataclass(frozen=True, eq=False)
class KeyChanges:
    """Rows to have and keys to lose; no key twice."""

    upserts: pa.RecordBatch
    deletes: pa.RecordBatch

    @property
    def num_rows(self) -> int:
        return self.upserts.num_rows + self.deletes.num_rows


class ViewOutput:
    """Where one view's root delta becomes records of its topic."""

    def __init__(
        self,
        plan: ViewPlan,
        slot: int,
        failing: Sequence[FailingRows],
        below: Sequence[ViewOutput],
        hash_bits: int = 64,
    ) -> None:
        self.plan, self.slot = plan, slot
        self.topic = f"view.{plan.name}"
        self._failing, self._below = tuple(failing), tuple(below)
        schema = plan.output
        names = [column.name for column in schema.columns]
        self._key = tuple(names.index(name) for name in schema.key)
        self._layout = Layout(Kind.BAG, schema.arrow, self._key, hash_bits)
        self.unpublished = Arrangement(f"{self.topic} unpublished", self._layout)
        self.rows = Arrangement(f"{self.topic} rows", self._layout) if plan.key_declared else None
        self._duplicates: dict[RowKey, str] = {}
        self.refused = ""
        """Why the view cannot go on with its tables as they are now."""

    @property
    def arrangements(self) -> list[Arrangement]:
        return [self.unpublished] if self.rows is None else [self.unpublished, self.rows]

    @property
    def blocked(self) -> str:
        """Why the view stands at its last good cut; "" when it does not."""
        if self.refused:
            return self.refused
        for failing in self._failing:
            if failing.live:
                return str(failing.example())
        if self._duplicates:
            return next(iter(self._duplicates.values()))
        for below in self._below:
            if below.blocked:
                return f"view {below.plan.name}, which it reads, is blocked"
        return ""

    @property
    def is_blocked(self) -> bool:
        return (
            bool(self.refused or self._duplicates)
            or any(failing.live for failing in self._failing)
            or any(below.is_blocked for below in self._below)
        )

    def step(self, slots: Slots, hold: bool = False) -> KeyChanges | None:
        """What to publish for this step; None: nothing. `hold`: keep it for a later step."""
        delta = slots[self.slot]
        if delta is not None:
            delta = self._renamed(delta)
            if self.rows is not None:
                self._check_keys(self.rows, delta)
        if hold or self.is_blocked:
            if delta is not None:
                self._keep(delta)
            return None
        kept = self.unpublished.new
        if kept.runs:
            run = kept.consolidated()
            parts = [Delta(run.rows, run.weights)] + ([] if delta is None else [delta])
            delta = concat_deltas(parts, self._layout.schema)
            self.unpublished.stage_replacing()
        if delta is None:
            return None
        changes = per_key(delta, self._layout, self.plan)
        return changes if changes.num_rows else None

    def forget_unpublished(self) -> None:
        """The topic already reflects this cut (recovery)."""
        self.unpublished.stage_replacing()

    def published_before(self, rows: pa.RecordBatch) -> None:
        """The topic has these rows from an earlier life: publish only the difference to them."""
        self._keep(Delta(rows, np.full(rows.num_rows, -1)))

    def _renamed(self, delta: Delta) -> Delta:
        rows = pa.RecordBatch.from_arrays(delta.rows.columns, schema=self._layout.schema)
        return Delta(rows, delta.weights)

    def _keep(self, delta: Delta) -> None:
        hashes = self._layout.hashes(self._layout.keys(delta.rows), delta.num_rows)
        self.unpublished.stage(hashes, delta.weights, delta.rows)

    def _check_keys(self, rows: Arrangement, delta: Delta) -> None:
        """Note the declared keys that have more than one row after this step."""
        keys = self._layout.keys(delta.rows)
        hashes = self._layout.hashes(keys, delta.num_rows)
        rows.stage(hashes, delta.weights, delta.rows)
        touched = distinct_keys(Keyed(hashes, tuple(keys), delta.rows, delta.weights))
        if self._duplicates:
            for key in _tuples(touched.keys, len(touched)):
                self._duplicates.pop(key, None)
        found = rows.find(rows.new, touched)
        counts = np.bincount(found.query, found.weights, minlength=len(touched))
        if (counts > 1).any():
            self._note(touched, np.flatnonzero(counts > 1), found.query, found.rows)

    def _note(self, touched: Keyed, twice: Int64s, query: Int64s, rows: pa.RecordBatch) -> None:
        keys = _tuples(touched.keys, len(touched))
        for i in twice.tolist():
            # The first and the last; one row that is there twice is both.
            places = np.flatnonzero(query == i)[[0, -1]]
            pair = rows.take(pa.array(places)).to_pylist()
            self._duplicates[keys[i]] = _two_rows(self.plan, pair)

    def restored(self) -> None:
        """Find the duplicate keys again, after the arrangements came from a checkpoint."""
        self._duplicates.clear()
        if self.rows is None:
            return
        run = self.rows.old.consolidated()
        keys = self._layout.keys(run.rows)
        hashes = self._layout.hashes(keys, run.num_rows)
        groups = group_rows(hashes, keys)
        counts = groups.sum(run.weights)
        number = groups.number()
        firsts = pa.array(groups.first)
        touched = Keyed(
            hashes[groups.first],
            tuple(key.take(firsts) for key in keys),
            run.rows.take(firsts),
            np.ones(len(groups), np.int64),
        )
        self._note(touched, np.flatnonzero(counts > 1), number, run.rows)


def per_key(delta: Delta, layout: Layout, plan: ViewPlan) -> KeyChanges:
    """The delta as one record per key. Raises ViewError when a key would have two rows."""
    keys = layout.keys(delta.rows)
    hashes = layout.hashes(keys, delta.num_rows)
    groups = group_rows(hashes, keys)
    if len(groups) < delta.num_rows:
        updated = _updates(delta, groups)
        if updated is not None:
            return updated
        run = make_run(layout, layout.codes(hashes, delta.rows), delta.weights, delta.rows)
        delta = Delta(run.rows, run.weights)
        keys = layout.keys(delta.rows)
        groups = group_rows(layout.hashes(keys, delta.num_rows), keys)
    weights = delta.weights
    if (weights > 1).any():
        twice = delta.rows.slice(int(np.argmax(weights > 1)), 1).to_pylist()
        raise _duplicate(plan, twice * 2)
    gone = np.flatnonzero(weights < 0)
    if delta.num_rows > 1:
        gone = _one_row_per_key(delta, groups, plan)
    return KeyChanges(_rows(delta, np.flatnonzero(weights > 0)), _rows(delta, gone))


def _updates(delta: Delta, groups: Groups) -> KeyChanges | None:
    """The common case without hashing whole rows: each key has one row, or one that goes and one
    that comes. None: it is not that case."""
    sizes = np.diff(groups.starts, append=delta.num_rows)
    if sizes.max() > 2 or (np.abs(delta.weights) != 1).any():
        return None
    pairs = groups.starts[sizes == 2]
    first, second = groups.order[pairs], groups.order[pairs + 1]
    if (delta.weights[first] + delta.weights[second]).any():
        return None
    here, there = delta.rows.take(pa.array(first)), delta.rows.take(pa.array(second))
    same = equal_exactly(here.columns, there.columns)
    came = np.where(delta.weights[first] > 0, first, second)
    came = came[:0] if same is None else came[~same]
    alone = groups.order[groups.starts[sizes == 1]]
    gained = delta.weights[alone] > 0
    return KeyChanges(
        _rows(delta, np.concatenate([alone[gained], came])), _rows(delta, alone[~gained])
    )


def _one_row_per_key(delta: Delta, groups: Groups, plan: ViewPlan) -> Int64s:
    """A row for each key that has none afterwards; checks that no key has two."""
    gained = groups.sum(np.maximum(delta.weights, 0))
    if (gained > 1).any():
        mine = (groups.number() == int(np.argmax(gained > 1))) & (delta.weights > 0)
        raise _duplicate(plan, delta.rows.take(pa.array(np.flatnonzero(mine)[:2])).to_pylist())
    return groups.first[gained == 0]


def _rows(delta: Delta, index: Int64s) -> pa.RecordBatch:
    return delta.rows if len(index) == delta.num_rows else delta.rows.take(pa.array(index))


def _duplicate(plan: ViewPlan, rows: list[dict[str, object]]) -> ViewError:
    return ViewError(_two_rows(plan, rows), where=f"view {plan.name}")


def _two_rows(plan: ViewPlan, rows: list[dict[str, object]]) -> str:
    key = ", ".join(plan.output.key) or "[]"
    first, *_, last = sorted(map(str, rows))
    return f"two rows have one key ({key}): {first} and {last}"


def _tuples(keys: Sequence[pa.Array], count: int) -> list[RowKey]:
    return row_keys(keys, exact=False) if keys else [()] * count


def change_batch(
    schema: TableSchema, changes: KeyChanges, step: int, commit_us: int
) -> ChangeBatch:
    """The records of one step, deletes first; a delete has only its key columns."""
    gone, count = changes.deletes.num_rows, changes.num_rows
    rows = changes.upserts
    if gone:
        deletes = [
            changes.deletes.column(i) if column.name in schema.key else pa.nulls(gone, column.type)
            for i, column in enumerate(schema.columns)
        ]
        columns = [pa.concat_arrays(pair) for pair in zip(deletes, rows.columns, strict=True)]
        rows = pa.RecordBatch.from_arrays(columns, schema=schema.arrow)
    op = np.full(count, U, np.uint8)
    op[:gone] = D
    return ChangeBatch(
        schema,
        op,
        np.full(count, step, np.int64),
        np.arange(count),
        np.full(count, commit_us, np.int64),
        rows,
    )
