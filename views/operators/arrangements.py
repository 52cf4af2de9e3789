"""Shared arrangements: a spine with a step's delta pending beside it (SEMANTICS 18, 20, 31).

A step goes through an arrangement in this order:

1.  `stage(...)`: the step's delta becomes a pending run. Readers now choose: `old` is the state
    before the step, `new` the state with it.
2.  All operators run, the outputs are appended to the log.
3.  `commit()`: pending becomes the state. `merge(budget_s)` then does some of the merging owed.

Nothing here is durable: a step that is not committed is forgotten with its process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cdc.changes import Int64s
from compaction.runs import Codes, Kind, Layout, Run, make_run
from compaction.spine import Found, Merge, Spine, consolidate_found
from views.operators.grouping import group_rows


class Arrangement:
    """Rows by key, for every operator that needs them by that key. `name` is stable across
    restarts: checkpoints refer to it."""

    def __init__(self, name: str, layout: Layout) -> None:
        self.name = name
        self.layout = layout
        self.old = Spine(layout)
        self.new = self.old
        self._merges: list[Merge] = []

    @property
    def is_empty(self) -> bool:
        return not self.old.runs

    @property
    def owes_merge(self) -> bool:
        return bool(self._merges) or self.old.next_merge() is not None

    def stage(self, hashes: Codes, weights: Int64s, rows: pa.RecordBatch) -> None:
        """Add rows whose keys have `hashes` to the pending delta (may be called more than once).
        A MAP's weight 0 removes the key; within one call its keys must differ."""
        if len(hashes):
            codes = self.layout.codes(hashes, rows)
            self.new = self.new.inserted(make_run(self.layout, codes, weights, rows))

    def stage_replacing(self) -> None:
        """Pending: nothing is left, whatever was there."""
        self.new = Spine(self.layout)

    def commit(self) -> None:
        if self.new is not self.old:
            self.new = self.old = self.new.compacted()

    def merge(self, budget_s: float) -> bool:
        """Work on the merges that are owed, about `budget_s`; whether any is left to do."""
        place = self.old.next_merge(self._under_way)
        if place is not None:
            self._merges.append(Merge(self.old, *place))
        if not self._merges:
            return False
        # The newest merge is the smallest: it must not wait for one of a million rows.
        if self._merges[-1].work(budget_s):
            self.old = self.new = self._merges.pop().apply(self.old)
        return True

    @property
    def _under_way(self) -> int:
        """How many of the oldest runs are being merged, or lie before such ones."""
        if not self._merges:
            return 0
        newest = self._merges[-1].newest
        return next((i + 1 for i, run in enumerate(self.old.runs) if run is newest), 0)

    def restore(self, runs: Sequence[Run]) -> None:
        """The state as a checkpoint had it."""
        self.old = self.new = Spine(self.layout, tuple(runs))
        self._merges = []

    def replace_runs(self, written: dict[int, Run]) -> None:
        """Swap runs, by id(), for the same runs mapped from files, where they are still in use."""
        for merge in self._merges:
            merge.swap(written)
        if any(id(run) in written for run in self.old.runs):
            runs = tuple(written.get(id(run), run) for run in self.old.runs)
            self.old = self.new = Spine(self.layout, runs)

    def find(self, spine: Spine, keyed: Keyed) -> Found:
        """`spine`'s rows (old or new) for each row of `keyed`, equal rows joined."""
        found = spine.lookup(keyed.hashes, keyed.keys)
        return found if self.layout.kind is Kind.MAP else consolidate_found(self.layout, found)


@dataclass(frozen=True, eq=False)
class Keyed:
    """Weighted rows with the key of each; NULL keys are left out where the reader joins."""

    hashes: Codes
    keys: tuple[pa.Array, ...]
    rows: pa.RecordBatch
    weights: Int64s

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, index: Int64s) -> Keyed:
        picked = pa.array(index)
        return Keyed(
            self.hashes[index],
            tuple(key.take(picked) for key in self.keys),
            self.rows.take(picked),
            self.weights[index],
        )


def distinct_keys(keyed: Keyed) -> Keyed:
    """One row of `keyed` per key: enough to look every touched key up once."""
    if len(keyed) < 2:
        return keyed
    groups = group_rows(keyed.hashes, keyed.keys)
    return keyed if len(groups) == len(keyed) else keyed.take(groups.first)
