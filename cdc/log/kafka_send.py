"""Records into Kafka, whole arrays at once, and where they were stored.

Keys and values stay where they were encoded: librdkafka is handed an array of pointers to them for
each partition (cdc.log.librdkafka), and makes its own copies. Delivery is in order within a
partition, so the last report of a partition tells its end offset.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException

from cdc.errors import LogError
from cdc.formats import murmur2
from cdc.formats.records import Records
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, Broker, kafka_errors
from cdc.log.librdkafka import Batch, Producer, Report


class Sender:
    """What one producer sends within a transaction, and where it was stored."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.delivered: dict[tuple[str, int], int] = {}
        """Per topic (with prefix) and partition, the offset of the last record."""
        self.sent: dict[tuple[str, int], int] = {}
        """Per topic (with prefix) and partition, how many records."""
        self.refused: list[KafkaError] = []
        """Why records were not taken, or not written. Nothing more is sent then."""

    def begin(self) -> None:
        self.delivered.clear()
        self.sent.clear()
        self.refused.clear()

    def send(self, topic: str, records: Records, partitions: int) -> None:
        """All records, to the partitions of their keys. `topic` is with prefix."""
        if len(records):
            for number, batch in _by_partition(records, partitions):
                self.send_batch(topic, number, batch)
        self._take_reports(0)

    def send_one(self, topic: str, key: bytes | None, value: bytes | None, number: int = 0) -> None:
        """One record, to a partition."""
        self.send_batch(topic, number, _batch([(key, value)]))

    def send_batch(self, topic: str, number: int, batch: Batch) -> None:
        """A batch, to one partition. Raises LogError when there is no room for it for long."""
        self.sent[topic, number] = self.sent.get((topic, number), 0) + len(batch)
        done, deadline = 0, time.monotonic() + REQUEST_TIMEOUT_S
        while not self.refused:
            taken = self._handed_over(topic, number, batch.slice(done, len(batch)))
            done += taken
            if self.refused or done == len(batch):
                return
            if taken:
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LogError("the broker does not take the records", where=topic)
            self._take_reports(left_s)

    def flush(self, timeout_s: float) -> int:
        """Wait until every record is written or refused; how many are neither after that time."""
        deadline = time.monotonic() + timeout_s
        while len(self._producer):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            self._take_reports(left_s)
        return len(self._producer)

    def give_up(self, timeout_s: float) -> None:
        """Drop what has not been acknowledged."""
        self._producer.purge()
        self.flush(timeout_s)

    def _handed_over(self, topic: str, number: int, batch: Batch) -> int:
        """How many of the first records found room."""
        try:
            return self._producer.produce(topic, number, batch)
        except KafkaException as error:
            self.refused.append(error.args[0])
            return 0

    def _take_reports(self, timeout_s: float) -> None:
        """All that are there, waiting for the first."""
        report = self._producer.poll(timeout_s)
        while report is not None:
            self._note(report)
            report = self._producer.poll(0)

    def _note(self, report: Report) -> None:
        if report.error is not None:
            self.refused.append(report.error)
            return
        at = (report.topic, report.partition)
        self.delivered[at] = max(self.delivered.get(at, -1), report.last_offset)


def send_now(broker: Broker, topic: str, records: Sequence[tuple[bytes | None, bytes]]) -> int:
    """Append (key, value) records to the topic's first partition, durably and in no transaction;
    the last one's offset. `topic` is without prefix. Raises LogError."""
    name = broker.name(topic)
    with kafka_errors(topic):
        producer = broker.sender()
        try:
            sender = Sender(producer)
            sender.send_batch(name, 0, _batch(records))
            left = sender.flush(REQUEST_TIMEOUT_S)
        finally:
            producer.close()
        if sender.refused:
            raise KafkaException(sender.refused[0])
    if left:
        raise LogError(
            f"the broker did not take the records within {REQUEST_TIMEOUT_S:g} s",
            where=name,
            hint="see log.bootstrap_servers and the broker",
        )
    return sender.delivered[name, 0]


def _batch(records: Sequence[tuple[bytes | None, bytes | None]]) -> Batch:
    keys, values = zip(*records, strict=True)
    return Batch.of(pa.array(keys, pa.binary()), pa.array(values, pa.binary()))


def _by_partition(records: Records, partitions: int) -> Iterator[tuple[int, Batch]]:
    """The records of every partition that has some, in order."""
    batch = Batch.of(records.keys, records.values)
    if partitions == 1:
        yield 0, batch
        return
    numbers = murmur2.partitions(records.keys, partitions)
    batch = batch.take(np.argsort(numbers, kind="stable"))
    start = 0
    for number, count in enumerate(np.bincount(numbers).tolist()):
        if count:
            yield number, batch.slice(start, start + count)
            start += count
