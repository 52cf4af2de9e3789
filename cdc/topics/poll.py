"""Committed records of many partitions, from given offsets on, in polls.

One poll is what has arrived: it waits for the first record, then takes all that librdkafka has
fetched, up to a size. A partition's position moves behind its last record, and at its end behind
what no reader is shown (markers of transactions, aborted records), so that it comes to meet the
end offset that the broker names.

Nothing is skipped: an offset that the broker no longer has is an error, never a reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError

from cdc.errors import SlotError, SourceError, SourceUnavailable, mask_url
from cdc.log.kafka_records import Fetched, together
from cdc.log.librdkafka_consumer import Arrived, Consumer
from cdc.positions import TopicOffsets

Partition = tuple[str, int]
RECORDS_AT_ONCE = 500
"""They may be large, and a poll is to have about the size that was asked for."""
OVERHEAD_BYTES = 100
"""Of a record, beside its value: what it costs in memory until it is decoded."""


@dataclass(frozen=True, eq=False)
class Polled:
    """Records by topic and partition; `moved`: some position moved."""

    records: Mapping[Partition, Fetched]
    moved: bool


class Poller:
    """Reads with a consumer of its own, which has `auto.offset.reset=error` and tells partitions'
    ends. For one thread."""

    def __init__(self, consumer: Consumer, source: str) -> None:
        self._consumer, self._source = consumer, source
        self._next: dict[Partition, int] = {}

    def assign(self, start: TopicOffsets) -> None:
        """Begin to read these partitions, each at its offset. May be called again for more."""
        given = {(topic, n): at for topic, ends in start.offsets for n, at in enumerate(ends)}
        added = given.keys() - self._next.keys()
        self._next = given | self._next
        if added:
            self._consumer.assign([(*at, offset) for at, offset in self._next.items()])

    @property
    def position(self) -> TopicOffsets:
        """Up to where everything was given out."""
        found: dict[str, list[int]] = {}
        for (topic, _), at in sorted(self._next.items()):
            found.setdefault(topic, []).append(at)
        return TopicOffsets.of(found)

    def poll(self, max_wait_s: float, max_bytes: int) -> Polled:
        """What has arrived; empty after `max_wait_s`. Raises SourceError."""
        found: dict[Partition, list[Fetched]] = {}
        arrived = self._taken(max_wait_s)
        moved, size = bool(arrived), 0
        while arrived:
            for each in arrived:
                at = (each.topic, each.partition)
                if each.error is not None:
                    self._event(at, each.next_offset, each.error)
                else:
                    found.setdefault(at, []).append(each.records)
                    self._next[at] = each.next_offset
                size += OVERHEAD_BYTES * len(each.records) + each.records.nbytes
            arrived = self._taken(0.0) if size < max_bytes else []
        return Polled({at: together(parts) for at, parts in found.items()}, moved)

    def _taken(self, max_wait_s: float) -> list[Arrived]:
        return self._consumer.take(max_wait_s, stamped=True, at_most=RECORDS_AT_ONCE)

    def _event(self, at: Partition, offset: int, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._next[at] = max(self._next[at], offset)
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

    def close(self) -> None:
        self._consumer.close()


_GONE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE)


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
