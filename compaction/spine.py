"""A spine: an immutable tuple of runs, newest last, merged geometrically like an LSM tree.

Inserting makes a new tuple; who holds an old one keeps seeing the old state (SEMANTICS 20). Policy:
the small runs of small steps are joined at once, `_SMALL_RUNS` at a time. When there are more than
`_LARGE_RUNS` larger ones, the newest are joined, as far back as sizes are alike (`next_merge`).
Such a `Merge` is worked off in slices of a few milliseconds while its runs stay in place, and does
not keep the runs after it from being merged meanwhile (SEMANTICS 31).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cdc.changes import Bools, Int64s, concat_rows
from compaction.equality import equal_values
from compaction.runs import (
    ROW_MASK,
    Codes,
    Kind,
    Layout,
    Run,
    empty_rows,
    make_run,
    merge_in_slices,
    merge_runs,
    merge_small,
)

_SMALL_ROWS = 8_192
_SMALL_RUNS = 7
_LARGE_RUNS = 6
_SORT_QUERIES = 512


@dataclass(frozen=True, eq=False)
class Found:
    """Rows found for queries: query[i] has rows[i] with weights[i] (a MAP's are all 1)."""

    query: Int64s
    rows: pa.RecordBatch
    weights: Int64s

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True, eq=False)
class Spine:
    """`runs` from oldest to newest."""

    layout: Layout
    runs: tuple[Run, ...] = ()

    @property
    def num_rows(self) -> int:
        """Stored rows: at least the live ones."""
        return sum(run.num_rows for run in self.runs)

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self.runs)

    def inserted(self, run: Run) -> Spine:
        return replace(self, runs=(*self.runs, run)) if run.num_rows else self

    def compacted(self) -> Spine:
        """The spine with its newest, small runs made one, once there are enough of them; larger
        merges are left to `next_merge`."""
        first = self._first_small()
        if len(self.runs) - first < _SMALL_RUNS:
            return self
        merged = merge_small(self.layout, self.runs[first:], oldest=not first)
        return replace(self, runs=(*self.runs[:first], *((merged,) if merged.num_rows else ())))

    def _first_small(self) -> int:
        """Where the newest, small runs begin, which `compacted` takes care of."""
        rows, first = 0, len(self.runs)
        while first and rows + self.runs[first - 1].num_rows <= _SMALL_ROWS:
            first -= 1
            rows += self.runs[first].num_rows
        return first

    def next_merge(self, after: int = 0) -> tuple[int, int] | None:
        """The range of runs, from `after` on, that should become one; None when all is in order.

        Once there are too many: the newest ones, back to the oldest run that is not larger than
        all after it together. So a row is rewritten a logarithmic number of times.
        """
        stop = self._first_small()
        if stop - after <= _LARGE_RUNS:
            return None
        rows, first = self.runs[stop - 1].num_rows, stop - 1
        for i in range(stop - 2, after - 1, -1):
            if self.runs[i].num_rows <= rows:
                first = i
            rows += self.runs[i].num_rows
        return min(first, stop - 2), stop

    def lookup(self, hashes: Codes, keys: Sequence[pa.Array]) -> Found:
        """The rows of many keys at once. `hashes` are Layout.hashes of `keys`. NULL finds NULL.

        A MAP gives at most one row per query; a BAG's are unconsolidated.
        """
        if not self.runs or not len(hashes):
            return self._nothing()
        codes = self.layout.key_codes(hashes)
        if len(codes) > _SORT_QUERIES and not (codes[1:] >= codes[:-1]).all():
            # Ascending queries walk the runs in memory order: five times faster at a million rows.
            order = np.argsort(codes)
            picked = pa.array(order)
            found = self._find(codes[order], [k.take(picked) for k in keys])
            return Found(order[found.query], found.rows, found.weights)
        return self._find(codes, keys)

    def _find(self, codes: Codes, keys: Sequence[pa.Array]) -> Found:
        if self.layout.kind is Kind.MAP:
            return self._find_newest(codes, keys)
        parts = [part for run in self.runs if (part := _matches(self.layout, run, codes, keys))]
        return self._joined(parts)

    def _find_newest(self, codes: Codes, keys: Sequence[pa.Array]) -> Found:
        parts: list[Found] = []
        left: Int64s | None = None
        for run in reversed(self.runs):
            some = keys if left is None else [k.take(pa.array(left)) for k in keys]
            part = _matches(self.layout, run, codes if left is None else codes[left], some)
            if part is None:
                continue
            if left is None:
                left = np.arange(len(codes))
            parts.append(replace(part, query=left[part.query]))
            open_still = np.ones(len(left), np.bool_)
            open_still[part.query] = False
            left = left[open_still]
            if not len(left):
                break
        found = self._joined(parts)
        return found if found.weights.all() else _taken(found, np.flatnonzero(found.weights))

    def _joined(self, parts: list[Found]) -> Found:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._nothing()
        return Found(
            np.concatenate([p.query for p in parts]),
            concat_rows([p.rows for p in parts], self.layout.schema),
            np.concatenate([p.weights for p in parts]),
        )

    def _nothing(self) -> Found:
        return Found(np.zeros(0, np.int64), empty_rows(self.layout.schema), np.zeros(0, np.int64))

    def consolidated(self) -> Run:
        """All live rows as one run (a MAP's without tombstones)."""
        if not self.runs:
            return Run(
                np.zeros(0, np.uint64), np.zeros(0, np.int64), empty_rows(self.layout.schema)
            )
        merged = merge_runs(self.layout, self.runs, oldest=True)
        if merged.weights.all():
            return merged
        return merged.take(np.flatnonzero(merged.weights))


class Merge:
    """One large merge under way: `work` it until it is done, then `apply` it."""

    def __init__(self, spine: Spine, first: int, stop: int) -> None:
        self._runs = spine.runs[first:stop]
        self._slices = merge_in_slices(spine.layout, self._runs, oldest=first == 0)
        self._merged: Run | None = None

    def work(self, budget_s: float) -> bool:
        """Go on for about `budget_s`, one slice at least; whether the merge is done."""
        until = time.perf_counter() + budget_s
        while self._merged is None:
            self._merged = next(self._slices)
            if time.perf_counter() >= until:
                break
        return self._merged is not None

    @property
    def newest(self) -> Run:
        return self._runs[-1]

    def swap(self, same: Mapping[int, Run]) -> None:
        """Its runs were replaced in the spine, by id(), by others of the same content."""
        self._runs = tuple(same.get(id(run), run) for run in self._runs)

    def apply(self, spine: Spine) -> Spine:
        """`spine` with the merged runs replaced; as it is, if they do not stand in it any more."""
        assert self._merged is not None
        size = len(self._runs)
        for i in range(len(spine.runs) - size + 1):
            here = spine.runs[i : i + size]
            if all(a is b for a, b in zip(here, self._runs, strict=True)):
                merged = (self._merged,) if self._merged.num_rows else ()
                return replace(spine, runs=(*spine.runs[:i], *merged, *spine.runs[i + size :]))
        return spine


def consolidate_found(layout: Layout, found: Found) -> Found:
    """Equal rows of one query joined, cancelled ones gone: what anything non-linear reads."""
    if (found.weights > 0).all():
        return found
    rows = found.rows
    numbered = pa.RecordBatch.from_arrays(
        [pa.array(found.query), *rows.columns],
        schema=pa.schema([("query", pa.int64()), *_plain(rows.schema)]),
    )
    whole = Layout(Kind.BAG, numbered.schema, (0,), layout.hash_bits)
    codes = whole.codes(whole.hashes([numbered.column(0)], len(found)), numbered)
    run = make_run(whole, codes, found.weights, numbered)
    kept = pa.RecordBatch.from_arrays(run.rows.columns[1:], schema=rows.schema)
    return Found(run.rows.column(0).to_numpy(), kept, run.weights)


def _plain(schema: pa.Schema) -> list[pa.Field]:
    return [pa.field(f"c{i}", field.type) for i, field in enumerate(schema)]


def _taken(found: Found, index: Int64s) -> Found:
    return Found(found.query[index], found.rows.take(pa.array(index)), found.weights[index])


def _matches(layout: Layout, run: Run, codes: Codes, keys: Sequence[pa.Array]) -> Found | None:
    """The run's rows whose key equals a query's, tombstones included; None: no row."""
    if len(codes) == 1:
        start, stop = _range(layout, run.codes, codes)
        if start == stop:
            return None
        query = np.zeros(stop - start, np.int64)
        rows, weights = run.rows.slice(start, stop - start), run.weights[start:stop]
    else:
        query, place = _places(layout, run.codes, codes)
        if not len(query):
            return None
        rows, weights = run.rows.take(pa.array(place)), run.weights[place]
    equal = _verified(layout, rows, query, keys)
    found = Found(query, rows, weights)
    if equal is None:
        return found
    kept = np.flatnonzero(equal)
    return _taken(found, kept) if len(kept) else None


def _range(layout: Layout, stored: Codes, codes: Codes) -> tuple[int, int]:
    """Where the one code's rows begin and end."""
    start = int(stored.searchsorted(codes, "left")[0])
    top = codes if layout.kind is Kind.MAP else codes | ROW_MASK
    if start == len(stored) or stored[start] > top[0]:
        return start, start
    return start, int(stored.searchsorted(top, "right")[0])


def _places(layout: Layout, stored: Codes, codes: Codes) -> tuple[Int64s, Int64s]:
    """(query, place) of every stored row whose code fits."""
    low = stored.searchsorted(codes, "left")
    top = codes if layout.kind is Kind.MAP else codes | ROW_MASK
    hit = np.flatnonzero((low < len(stored)) & (stored[np.minimum(low, len(stored) - 1)] <= top))
    low = low[hit]
    after = low + 1
    if not ((after < len(stored)) & (stored[np.minimum(after, len(stored) - 1)] <= top[hit])).any():
        return hit, low
    counts = stored.searchsorted(top[hit], "right") - low
    query, place = expand(low, counts, int(counts.sum()))
    return hit[query], place


def expand(low: Int64s, counts: Int64s, total: int) -> tuple[Int64s, Int64s]:
    """For ranges low[i] .. low[i]+counts[i]: which range, and which place, each element has."""
    query = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    return query, np.arange(total) + (low - ends + counts)[query]


def _verified(
    layout: Layout, rows: pa.RecordBatch, query: Int64s, keys: Sequence[pa.Array]
) -> Bools | None:
    index = pa.array(query)
    wanted = [key.take(index) for key in keys]
    return equal_values([rows.column(i) for i in layout.key], wanted)
