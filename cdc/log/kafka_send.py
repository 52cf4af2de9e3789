"""Records into an open Kafka transaction, as fast as the client takes them.

The client takes one record a call, so what is left to us is to make that call cheap: keys and
values leave Arrow as whole lists, partitions are computed for all keys at once, and only the last
record of each partition is asked where it was stored. Delivery is in order within a partition, so
that answer tells the end offset; when another record fails, the commit fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cdc.errors import LogError
from cdc.formats import murmur2
from cdc.formats.records import Records
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, Broker, kafka_errors
from cdc.ragged import Int64s

_POLL_S = 0.05


class Sender:
    """What one producer sends within a transaction, and where it was stored."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.delivered: dict[tuple[str, int], int] = {}
        """Per topic (with prefix) and partition, the offset of the last record."""
        self.sent: dict[tuple[str, int], int] = {}
        """Per topic (with prefix) and partition, how many records."""
        self.refused: list[KafkaError] = []

    def begin(self) -> None:
        self.delivered.clear()
        self.sent.clear()
        self.refused.clear()

    def send(self, topic: str, records: Records, partitions: int) -> None:
        """All records, to the partitions of their keys. `topic` is with prefix."""
        numbers, noted = _destinations(records, partitions)
        for number, count in enumerate(np.bincount(numbers).tolist()):
            if count:
                self.sent[topic, number] = self.sent.get((topic, number), 0) + count
        callbacks: list[Callable[[KafkaError | None, Message], None] | None] = [None] * len(numbers)
        for at in noted.tolist():
            callbacks[at] = self._on_delivery
        produce = self._producer.produce
        for key, value, number, callback in zip(
            records.keys.to_pylist(),
            records.values.to_pylist(),
            numbers.tolist(),
            callbacks,
            strict=True,
        ):
            try:
                produce(topic, value, key, number, callback)
            except BufferError:
                self._send_when_there_is_room(topic, value, key, number, callback)
        self._producer.poll(0)

    def send_one(self, topic: str, key: str | None, value: bytes) -> None:
        self._send_when_there_is_room(topic, value, key, 0, self._on_delivery)

    def _send_when_there_is_room(self, topic: str, *record: object) -> None:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                self._producer.produce(topic, *record)
            except BufferError:
                if time.monotonic() > deadline:
                    raise LogError("the broker does not take the records", where=topic) from None
                self._producer.poll(_POLL_S)
            else:
                return

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refused.append(error)
            return
        at = (message.topic() or "", message.partition() or 0)
        self.delivered[at] = max(self.delivered.get(at, -1), message.offset() or 0)


def send_now(
    broker: Broker, topic: str, records: Sequence[tuple[bytes | None, bytes]]
) -> list[int]:
    """Append (key, value) records to the topic's first partition, durably and in no transaction;
    their offsets. `topic` is without prefix. Raises LogError."""
    offsets: list[int] = []
    refused: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            offsets.append(int(message.offset() or 0))
        else:
            refused.append(error)

    sender = broker.sender()
    with kafka_errors(topic):
        for key, value in records:
            sender.produce(broker.name(topic), value, key, 0, delivered)
        sender.flush(REQUEST_TIMEOUT_S)
        sender.close()
        if refused:
            raise KafkaException(refused[0])
    if len(offsets) < len(records):
        raise LogError(
            f"the broker did not take the records within {REQUEST_TIMEOUT_S:g} s",
            where=broker.name(topic),
            hint="see log.bootstrap_servers and the broker",
        )
    return offsets


def _destinations(records: Records, partitions: int) -> tuple[Int64s, Int64s]:
    """(partition of each record, indices of each partition's last record)."""
    count = len(records)
    if partitions == 1:
        return np.zeros(count, np.int64), np.arange(max(0, count - 1), count)
    numbers = murmur2.partitions(records.keys, partitions)
    _, from_end = np.unique(numbers[::-1], return_index=True)
    return numbers, count - 1 - from_end
