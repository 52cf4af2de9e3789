"""Reading the Kafka log: committed records, by assignment, up to a position (SEMANTICS 3).

Commit markers occupy offsets and the last record below an end offset may have been aborted or
compacted away: a partition is read up to E when the consumer's position has passed it, or at the
partition's end, never by seeing a certain offset.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
from confluent_kafka import Consumer, Message

from cdc.changes import ChangeBatch, concat_rows
from cdc.errors import LogError
from cdc.frontiers import Frontier
from cdc.log.api import DeadLetter, Horizon, LogBatch
from cdc.log.kafka_client import LETTERS, Broker, Schemas, fetch
from cdc.log.kafka_json import Record, decode_records
from cdc.schema import TableSchema

POLL_INTERVAL_S = 0.005
_TAIL = 64


class KafkaReader:
    """See cdc.log.api.Reader."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._schemas = Schemas(broker)
        self._consumer: Consumer | None = None
        self._newest: dict[str, tuple[str, int, Frontier | None]] = {}
        self._waited: dict[str, tuple[str, int]] = {}

    def topics(self) -> list[str]:
        self._schemas.refresh()
        there = set(self._broker.admin.list_topics(timeout=30).topics)
        names = {topic for topic, _ in self._schemas.owners.values()}
        return sorted(name for name in names if self._broker.name(name) in there)

    def schema(self, topic: str) -> TableSchema:
        topic_id, _ = self._describe(topic)
        versions = self._schemas.of(topic_id)
        if not versions:
            raise LogError("the topic has no schema in cdc.schemas", where=topic)
        return versions[max(versions)]

    def end_offsets(self, topic: str) -> tuple[int, ...]:
        return self._broker.end_offsets(topic, self._describe(topic)[1])

    def generation(self, topic: str) -> str:
        return self._describe(topic)[0]

    def horizon(self, topic: str) -> Horizon:
        """The broker keeps everything for min.compaction.lag.ms, and tombstones for their
        retention after that; what it really took is not known."""
        now_us = time.time_ns() // 1000
        lag_us = int(self._broker.config.min_compaction_lag_s * 1e6)
        kept_us = lag_us + int(self._broker.config.tombstone_retention_s * 1e6)
        return Horizon(max(0, now_us - lag_us), max(0, now_us - kept_us))

    def newest_frontier(self, name: str) -> Frontier | None:
        topic = f"{name}.frontier"
        described = self._broker.describe(topic)
        if described is None:
            return None
        (end,) = self._broker.end_offsets(topic, 1)
        generation, seen, newest = self._newest.get(name, (described[0], 0, None))
        if generation != described[0]:
            seen, newest = 0, None
        if end > seen:
            newest = self._newest_between(topic, seen, end) or newest
            self._newest[name] = (described[0], end, newest)
        return newest

    def _newest_between(self, topic: str, low: int, end: int) -> Frontier | None:
        """The last record in [low, end), looked for from the end backwards: the topic may be
        long, and its last offsets may be markers."""
        span = _TAIL
        while True:
            start = max(low, end - span)
            last = None
            for messages in self._fetch(topic, 0, start, end):
                last = messages[-1]
            if last is not None:
                return Frontier.from_json(last.value() or b"")
            if start == low:
                return None
            span *= 8

    def frontiers(self, name: str, start: int = 0) -> Iterator[tuple[int, Frontier]]:
        topic = f"{name}.frontier"
        if self._broker.describe(topic) is None:
            return
        (end,) = self._broker.end_offsets(topic, 1)
        start = max(0, end + start) if start < 0 else start
        for messages in list(self._fetch(topic, 0, start, end)):
            for message in messages:
                yield message.offset() or 0, Frontier.from_json(message.value() or b"")

    def dead_letters(self, start: int = 0) -> Iterator[tuple[int, DeadLetter]]:
        if self._broker.describe(LETTERS) is None:
            return
        (end,) = self._broker.end_offsets(LETTERS, 1)
        for messages in list(self._fetch(LETTERS, 0, start, end)):
            for message in messages:
                yield message.offset() or 0, _letter(message.value() or b"")

    def read(
        self, topic: str, partition: int, start: int, end: int, max_rows: int = 65536
    ) -> Iterator[LogBatch]:
        topic_id, _ = self._describe(topic)
        versions = self._schemas.of(topic_id)
        newest = max(versions)
        end = min(end, self.end_offsets(topic)[partition])
        held: LogBatch | None = None
        for records in _chunks(self._fetch(topic, partition, start, end), max_rows):
            for part in decode_records(records, lambda version: versions[version], newest):
                if held is not None:
                    yield held
                offsets = np.array(part.offsets, np.int64)
                after = int(offsets[-1]) + 1
                held = LogBatch(topic, partition, offsets, after, part.changes)
        if held is None:
            yield self._empty(topic, partition, max(start, end), versions[newest])
        else:
            yield LogBatch(topic, partition, held.offsets, max(start, end), held.changes)

    def _empty(self, topic: str, partition: int, next_offset: int, schema: TableSchema) -> LogBatch:
        none = np.zeros(0, np.int64)
        rows = concat_rows([], schema.arrow)
        changes = ChangeBatch(schema, np.zeros(0, np.uint8), none, none, none, rows)
        return LogBatch(topic, partition, none, next_offset, changes)

    def wait(self, names: Sequence[str], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            moved = [name for name in names if self._moved(name)]
            if moved:
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(POLL_INTERVAL_S, left_s))

    def _moved(self, name: str) -> bool:
        topic = f"{name}.frontier"
        described = self._broker.describe(topic)
        if described is None:
            return False
        (end,) = self._broker.end_offsets(topic, 1)
        now = (described[0], end)
        moved = end > 0 and self._waited.get(name) != now
        self._waited[name] = now
        return moved

    def _describe(self, topic: str) -> tuple[str, int]:
        described = self._broker.describe(topic)
        if described is None:
            raise LogError(
                "there is no such topic",
                where=topic,
                hint="its connector has not run yet, or the name is misspelt: see `cdc status`",
            )
        return described

    def _fetch(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Message]]:
        if self._consumer is None:
            self._consumer = self._broker.consumer()
        return fetch(self._consumer, self._broker.name(topic), partition, start, end)

    def close(self) -> None:
        self._schemas.close()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _chunks(fetched: Iterator[list[Message]], max_rows: int) -> Iterator[list[Record]]:
    """Records in lists of about `max_rows`. A delete is never parted from its tombstone."""
    held: list[Record] = []
    for messages in fetched:
        held += [
            Record(m.offset() or 0, m.timestamp()[1] * 1000, m.key() or b"", m.value())
            for m in messages
        ]
        while len(held) > max_rows:
            cut = max_rows + (held[max_rows].value is None)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _letter(value: bytes) -> DeadLetter:
    body = json.loads(value)
    key, original = (
        None if body[name] is None else base64.b64decode(body[name]) for name in ("key", "value")
    )
    return DeadLetter(body["connector"], body["where"], body["error"], key, original)
