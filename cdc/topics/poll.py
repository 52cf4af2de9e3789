"""Committed records of many partitions, from given offsets on, in polls.

One poll is what has arrived: it waits for the first record, then takes all that librdkafka has
fetched, up to a size. A partition's position moves behind its last record, and at its end behind
what no reader is shown (markers of transactions, aborted records), so that it comes to meet the
end offset that the broker names.

Nothing is skipped: an offset that the broker no longer has is an error, never a reset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import methodcaller

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from cdc.errors import SlotError, SourceError, SourceUnavailable, mask_url
from cdc.log.kafka_records import Fetched
from cdc.positions import TopicOffsets

Partition = tuple[str, int]
MESSAGES = 500
_TOPIC, _PARTITION, _OFFSET, _STAMP, _KEY, _VALUE = (
    methodcaller(name) for name in ("topic", "partition", "offset", "timestamp", "key", "value")
)
OVERHEAD_BYTES = 100
"""Of a record, beside its value: what it costs in memory until it is decoded."""


@dataclass(frozen=True, eq=False)
class Polled:
    """Records by topic and partition; `moved`: some position moved."""

    records: Mapping[Partition, Fetched]
    moved: bool


@dataclass(eq=False)
class _Column:
    """The records of one partition as they come."""

    offsets: list[int] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)

    def add(self, part: Sequence[Message]) -> None:
        self.offsets.extend(map(_OFFSET, part))
        self.stamps.extend(map(_STAMP, part))
        self.keys.extend(map(_KEY, part))
        self.values.extend(map(_VALUE, part))

    def fetched(self) -> Fetched:
        return Fetched(
            np.array(self.offsets, np.int64),
            np.array(self.stamps, np.int64)[:, 1] * 1000,
            pa.array(self.keys, pa.binary()),
            pa.array(self.values, pa.binary()),
        )


class Poller:
    """Reads with a consumer of its own, which has `auto.offset.reset=error` and tells partitions'
    ends. For one thread, but for `commit`."""

    def __init__(self, consumer: Consumer, source: str) -> None:
        self._consumer, self._source = consumer, source
        self._next: dict[Partition, int] = {}

    def assign(self, start: TopicOffsets) -> None:
        """Begin to read these partitions, each at its offset. May be called again for more."""
        added = []
        for topic, ends in start.offsets:
            for number, at in enumerate(ends):
                if (topic, number) not in self._next:
                    self._next[topic, number] = at
                    added.append(TopicPartition(topic, number, at))
        self._consumer.incremental_assign(added)

    @property
    def position(self) -> TopicOffsets:
        """Up to where everything was given out."""
        found: dict[str, list[int]] = {}
        for (topic, _), at in sorted(self._next.items()):
            found.setdefault(topic, []).append(at)
        return TopicOffsets.of(found)

    def poll(self, max_wait_s: float, max_bytes: int) -> Polled:
        """What has arrived; empty after `max_wait_s`. Raises SourceError."""
        columns: dict[Partition, _Column] = {}
        first = self._consumer.poll(max_wait_s)
        messages = [] if first is None else [first]
        moved, size = False, 0
        while messages:
            moved = True
            size += self._take(messages, columns)
            messages = self._consumer.consume(MESSAGES, 0) if size < max_bytes else []
        return Polled({at: column.fetched() for at, column in columns.items()}, moved)

    def _take(self, messages: Sequence[Message], columns: dict[Partition, _Column]) -> int:
        """Put records where they belong; their size in bytes, keys not counted."""
        events = [message for message in messages if message.error() is not None]
        records = messages
        if events:
            records = [message for message in messages if message.error() is None]
        for topic, of_topic in groupby(records, _TOPIC):
            for number, of_partition in groupby(of_topic, _PARTITION):
                part = list(of_partition)
                columns.setdefault((topic, number), _Column()).add(part)
                self._next[topic, number] = _OFFSET(part[-1]) + 1
        for event in events:
            self._event(event)
        return OVERHEAD_BYTES * len(records) + sum(map(len, records))

    def _event(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        at = (message.topic() or "", message.partition() or 0)
        if error.code() == KafkaError._PARTITION_EOF:
            self._next[at] = max(self._next[at], message.offset() or 0)
            return
        place = f"{at[0]}/{at[1]}" if at[0] else f"source {self._source}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise lost(f"{at[0]}/{at[1]}", self._next.get(at, 0), self._source)
        if error.code() in _GONE:
            raise gone(at[0], self._source)
        if error.retriable() or error.code() in _PASSING:
            return
        kind = SourceUnavailable if error.code() == KafkaError._MAX_POLL_EXCEEDED else SourceError
        raise kind(f"Kafka: {mask_url(str(error))}", where=place, hint="see the broker")

    def commit(self, group_offsets: TopicOffsets) -> None:
        """Tell the broker how far we are, for people's tools; nothing here depends on it."""
        self._consumer.commit(offsets=offsets_of(group_offsets), asynchronous=True)

    def close(self) -> None:
        self._consumer.close()


_GONE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)


def offsets_of(position: TopicOffsets) -> Sequence[TopicPartition]:
    return [
        TopicPartition(topic, number, at)
        for topic, ends in position.offsets
        for number, at in enumerate(ends)
    ]


def lost(where: str, offset: int, source: str) -> SlotError:
    """Records that were not read yet are not there any more."""
    return SlotError(
        f"the broker has no offset {offset} any more: retention took records that were not read",
        where=where,
        hint=f"cdc remove {source}, then cdc run reads the topics anew; a topic that is to be "
        "read as a table wants cleanup.policy=compact",
    )


def gone(topic: str, source: str) -> SlotError:
    return SlotError(
        "the topic is gone",
        where=topic,
        hint=f"make it again under another name, or leave it out; then cdc remove {source}",
    )
