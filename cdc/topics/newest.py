"""The rows that topics hold, read anew from their beginning: what `cdc verify` compares with.

Per topic the newest record of every key before a position, in memory. Nothing of the agent's work
is used but the decoder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from confluent_kafka.admin import OffsetSpec

from cdc.changes import ChangeBatch, D
from cdc.errors import SourceError, SourceUnavailable, Unsupported
from cdc.latest import latest_per_key
from cdc.log.kafka_client import REQUEST_TIMEOUT_S
from cdc.log.kafka_records import Fetched
from cdc.positions import TopicOffsets
from cdc.schema import TableSchema
from cdc.topics.brokers import TopicsBroker
from cdc.topics.decode import TopicDecoder
from cdc.topics.fenced import FencedTopics
from cdc.topics.poll import Partition, Poller
from cdc.topics.polled import PolledTopics
from cdc.topics.source import TopicsSource

POLL_BYTES = 16 * 2**20
HELD_ROWS = 1_000_000


class TopicsAt:
    """A source's topics up to `position`, which is where they stand now."""

    def __init__(self, source: TopicsSource) -> None:
        self._topics = source.topics()
        self.position = source.current_position()

    def table(self, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        """The rows of a table, as its newest version `schema` has them. Raises SourceError,
        BadData."""
        newest = _Newest()
        if isinstance(self._topics, FencedTopics):
            for changes in self._topics.changes(schema, self.position):
                newest.add(changes)
        else:
            _read(self._topics, schema, self.position, newest)
        yield from newest.rows()

    def select(self, query: str, schema: TableSchema) -> Iterator[pa.RecordBatch]:
        raise Unsupported("topics cannot run a SELECT", where=query)


class _Newest:
    """The newest change per key of all that was added."""

    def __init__(self) -> None:
        self._parts: list[ChangeBatch] = []
        self._rows, self._most = 0, HELD_ROWS

    def add(self, changes: ChangeBatch) -> None:
        if not changes.num_rows:
            return
        self._parts.append(changes)
        self._rows += changes.num_rows
        if self._rows > self._most:
            self._parts = [latest_per_key(self._parts)]
            self._rows = self._parts[0].num_rows
            self._most = max(HELD_ROWS, 2 * self._rows)

    def clear(self) -> None:
        """TRUNCATE."""
        self._parts, self._rows = [], 0

    def rows(self) -> Iterator[pa.RecordBatch]:
        if self._parts:
            newest = latest_per_key(self._parts)
            yield newest.rows.filter(pa.array(newest.op != D))


def _read(
    topics: PolledTopics, schema: TableSchema, position: TopicOffsets, newest: _Newest
) -> None:
    topic = next((t for t, table in topics.names().items() if table == schema.name), None)
    if topic is None:
        raise SourceError("no topic holds this table any more", where=schema.name)
    found = replace(topics.described_as(topic), table=schema)
    decoder = TopicDecoder(topics.settings(topic), found, topics.schema_of_id)
    ends = dict(position.offsets)[topic]
    for (_, partition), records in _records(topics.broker, topics.name, topic, ends):
        part = records
        truncates = decoder.truncates(part)
        if len(truncates):
            newest.clear()
            part = part.slice(int(truncates[-1]) + 1, len(part))
        for decoded in decoder.decode(partition, part):
            newest.add(decoded.changes)


def _records(
    broker: TopicsBroker, source: str, topic: str, ends: tuple[int, ...]
) -> Iterator[tuple[Partition, Fetched]]:
    """The topic's records before `ends`, partition by partition as they come."""
    (now,) = broker.described([topic])
    poller = Poller(broker.consumer(), source)
    target = TopicOffsets.of({topic: ends})
    try:
        first = dict(broker.offsets([now], OffsetSpec.earliest()).offsets)[topic]
        poller.assign(TopicOffsets.of({topic: first[: len(ends)]}))
        moved_s = time.monotonic()
        while not poller.position.covers(target):
            polled = poller.poll(1.0, POLL_BYTES)
            if polled.moved:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > REQUEST_TIMEOUT_S:
                raise SourceUnavailable("the broker does not answer", where=topic)
            for at, part in polled.records.items():
                yield at, part.slice(0, int(np.searchsorted(part.offsets, ends[at[1]])))
    finally:
        poller.close()
