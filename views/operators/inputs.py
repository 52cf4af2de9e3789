"""A table as an input: its topic's upserts become a delta (SEMANTICS 18).

Per cut and key the last record wins. The -1 row comes from the primary-key arrangement, never from
the envelope; a delete of an unknown key is nothing, and a change to columns that no view uses is
none either. The arrangement has weight 1 or none per key by construction, and serves joins too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cdc.changes import ChangeBatch, D, Int64s, concat_rows
from cdc.schema import TableSchema
from compaction.equality import equal_exactly
from compaction.runs import Codes, Kind, Layout
from compaction.spine import Found
from views.delta import Delta
from views.operators.arrangements import Arrangement, Keyed
from views.operators.grouping import group_rows


class TableInput:
    """One table's topic. `columns` are those that any view of the group needs, its key included.

    `keyed` is the current step's delta by primary key (see operators_join.Arranged).
    """

    def __init__(
        self, topic: str, schema: TableSchema, columns: Sequence[str], hash_bits: int = 64
    ) -> None:
        self.topic, self.schema, self.columns = topic, schema, tuple(columns)
        self._arrow = pa.schema([pa.field(n, schema.column(n).type) for n in self.columns])
        self._wanted = schema.only(self.columns)
        names = [column.name for column in schema.columns]
        self._places = [names.index(name) for name in self.columns]
        self._key = tuple(self.columns.index(name) for name in schema.key)
        layout = Layout(Kind.MAP, self._arrow, self._key, hash_bits)
        self.arrangement = Arrangement(f"{topic} by {','.join(schema.key)}", layout)
        self.keyed: Keyed | None = None
        self.unkeyed: Delta | None = None

    def stage(self, batches: Sequence[ChangeBatch]) -> Delta | None:
        """Take in one cut's changes, in log order, and stage them; what they change."""
        self.keyed = None
        batches = [batch for batch in batches if batch.num_rows]
        if not batches:
            return None
        rows = concat_rows([self._used(batch) for batch in batches], self._arrow)
        live = np.concatenate([batch.op for batch in batches]) != D
        keys = [rows.column(i) for i in self._key]
        hashes = self.arrangement.layout.hashes(keys, len(live))
        if len(live) > 1:
            last = group_rows(hashes, keys).last
            rows, live, hashes = rows.take(pa.array(last)), live[last], hashes[last]
        self.keyed = self._difference(rows, live, hashes)
        return None if self.keyed is None else Delta(self.keyed.rows, self.keyed.weights)

    def _used(self, batch: ChangeBatch) -> pa.RecordBatch:
        if batch.schema == self.schema:
            arrays = [batch.rows.column(i) for i in self._places]
        else:
            # Of another version, only what is used needs to be as it was.
            arrays = (
                replace(batch, before=None, has_before=None).conformed(self._wanted).rows.columns
            )
        return pa.RecordBatch.from_arrays(arrays, schema=self._arrow)

    def _difference(self, rows: pa.RecordBatch, live: np.ndarray, hashes: Codes) -> Keyed | None:
        """One change per key against the arrangement: -1 for what was there, +1 for what is."""
        keys = [rows.column(i) for i in self._key]
        found = self.arrangement.old.lookup(hashes, keys)
        known = np.zeros(len(live), np.bool_)
        known[found.query] = True
        changed = live | known
        found = self._without_unchanged(found, rows, live, changed)
        if not changed.all():
            places = np.flatnonzero(changed)
            self.arrangement.stage(
                hashes[places], live[places].astype(np.int64), rows.take(pa.array(places))
            )
        else:
            self.arrangement.stage(hashes, live.astype(np.int64), rows)
        return self._keyed(found, rows, hashes, np.flatnonzero(live & changed))

    @staticmethod
    def _without_unchanged(
        found: Found, rows: pa.RecordBatch, live: np.ndarray, changed: np.ndarray
    ) -> Found:
        """Clear `changed` where the new row equals the old one, and drop these old rows."""
        if not len(found):
            return found
        after = rows.take(pa.array(found.query))
        same = equal_exactly(found.rows.columns, after.columns)
        unchanged = live[found.query] if same is None else same & live[found.query]
        if not unchanged.any():
            return found
        changed[found.query[unchanged]] = False
        left = np.flatnonzero(~unchanged)
        return Found(found.query[left], found.rows.take(pa.array(left)), found.weights[left])

    def _keyed(
        self, found: Found, rows: pa.RecordBatch, hashes: Codes, added: Int64s
    ) -> Keyed | None:
        if not len(found) and not len(added):
            return None
        if len(added) != rows.num_rows:
            rows = rows.take(pa.array(added))
        both = concat_rows([part for part in (found.rows, rows) if part.num_rows], self._arrow)
        return Keyed(
            np.concatenate([hashes[found.query], hashes[added]]),
            tuple(both.column(i) for i in self._key),
            both,
            np.concatenate([np.full(len(found), -1), np.ones(len(added), np.int64)]),
        )
