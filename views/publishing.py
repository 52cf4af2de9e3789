"""The write side of a group: its topics, and one atomic append per step (SEMANTICS 19, 27)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cdc import faults
from cdc.changes import ChangeBatch, D
from cdc.cuts import DeletesGone
from cdc.errors import ViewError
from cdc.frontiers import Frontier
from cdc.latest import latest_per_key
from cdc.log.api import Producer, Reader, TopicSpec
from cdc.positions import Vector
from cdc.schema import TableSchema
from views.checkpoint import Stand
from views.operators.graph import Graph
from views.operators.linear import Slots
from views.operators.output import ViewOutput, change_batch

_BATCH_ROWS = 65_536


class Publisher:
    """Publishes a graph's outputs. `published` is each view's newest frontier."""

    def __init__(
        self, graph: Graph, producer: Producer, reader: Reader, sources: Mapping[str, set[str]]
    ) -> None:
        """`sources`: per view, the sources that it reflects."""
        self._graph, self._producer, self._reader = graph, producer, reader
        self._sources = sources
        self._schemas: dict[str, TableSchema] = {}
        self.rows_published = 0
        for output in graph.outputs.values():
            self._schemas[output.topic] = self._open_topic(output)
        self.published: dict[str, Frontier | None] = {
            name: reader.newest_frontier(output.topic) for name, output in graph.outputs.items()
        }

    def _open_topic(self, output: ViewOutput) -> TableSchema:
        """Make the view's topic, or bring its schema forward; the schema to write with."""
        wanted, topic = output.plan.output, output.topic
        self._producer.create_topics([TopicSpec(topic, wanted)])
        stored = self._reader.schema(topic)
        if replace(stored, version=wanted.version) == wanted:
            return stored
        check_compatible(stored, wanted, output.plan.name)
        newer = replace(wanted, version=stored.version + 1)
        self._producer.set_schema(topic, newer)
        return newer

    def step(self, slots: Slots, stand: Stand, commit_us: int, hold: bool) -> None:
        """Append what every view has to publish at `stand`; with `hold`, keep it for later."""
        batches: list[tuple[str, ChangeBatch]] = []
        frontiers = []
        for name, output in self._graph.outputs.items():
            changes = output.step(slots, hold)
            if hold or output.is_blocked:
                continue
            frontier = self._frontier(name, output, stand, commit_us)
            frontiers.append(frontier)
            if changes is not None:
                schema = self._schemas[output.topic]
                batch = change_batch(schema, changes, frontier.txn_seq, commit_us)
                batches += [(output.topic, part) for part in _pieces(batch)]
                self.rows_published += batch.num_rows
        if frontiers:
            faults.point("view.before_append")
            self._producer.append(batches, frontiers)
            faults.point("view.after_append")
            for frontier in frontiers:
                self.published[frontier.name.removeprefix("view.")] = frontier

    def _frontier(self, name: str, output: ViewOutput, stand: Stand, commit_us: int) -> Frontier:
        before = self.published[name]
        mine = self._sources[name]
        return Frontier(
            name=output.topic,
            positions=Vector.of({s: p for s, p in stand.vector.positions if s in mine}),
            txn_seq=0 if before is None else before.txn_seq + 1,
            commit_us=commit_us,
            schema_versions={output.topic: self._schemas[output.topic].version},
            resume=stand.to_json(),
            fingerprint=output.plan.fingerprint,
        )

    def expect_live_rows(self) -> None:
        """The state is being built anew: publish only the difference to what the topics hold."""
        for output in self._graph.outputs.values():
            rows = self._live_rows(output)
            if rows is not None and rows.num_rows:
                output.published_before(rows)

    def _live_rows(self, output: ViewOutput) -> pa.RecordBatch | None:
        """What the topic holds. Raises DeletesGone."""
        topic = output.topic
        mark = self._reader.replay_mark(topic)
        batches = [
            batch.changes
            for partition, end in enumerate(self._reader.end_offsets(topic))
            for batch in self._reader.read(topic, partition, 0, end)
            if batch.changes.num_rows
        ]
        if not self._reader.replay_holds(topic, mark):
            raise DeletesGone(topic, in_replay=True)
        if not batches:
            return None
        latest = latest_per_key(batches).conformed(self._schemas[topic])
        return latest.take(np.flatnonzero(latest.op != D)).rows


def check_compatible(stored: TableSchema, wanted: TableSchema, view: str) -> None:
    """Raises ViewError when a view's topic cannot go on with another plan's rows."""
    old = {column.name: column.type for column in stored.columns}
    same_key = stored.key == wanted.key
    changed = [c.name for c in wanted.columns if c.name in old and old[c.name] != c.type]
    if not same_key or changed:
        what = "key" if not same_key else f"type of {', '.join(changed)}"
        raise ViewError(
            f"the view's {what} is not what its topic was made with",
            where=f"view {view}",
            hint=f"give the edited view another name, or `cdc remove {view}` first",
        )


def _pieces(batch: ChangeBatch) -> list[ChangeBatch]:
    if batch.num_rows <= _BATCH_ROWS:
        return [batch]
    starts = range(0, batch.num_rows, _BATCH_ROWS)
    return [batch.slice(start, _BATCH_ROWS) for start in starts]
