"""One broker connection's settings, names and common requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from cdc.config import LogConfig
from cdc.errors import Fenced, LogError, mask_url
from cdc.schema import TableSchema

REQUEST_TIMEOUT_S = 30.0
SCHEMAS = "cdc.schemas"
LETTERS = "dead-letters"
_FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


class Broker:
    """What a log, its producers and its readers share. Topic names inside are without prefix."""

    def __init__(self, config: LogConfig) -> None:
        self.config = config
        self._common: dict[str, Any] = {
            "bootstrap.servers": config.bootstrap_servers,
            "log_level": 0,
            **config.config,
        }
        self.admin = AdminClient(self._common)

    def name(self, topic: str) -> str:
        return self.config.topic_prefix + topic

    def producer(self, settings: dict[str, Any] | None = None) -> Producer:
        """An idempotent producer; the Java client's partitioner, so that others co-partition."""
        durable = {
            "enable.idempotence": True,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "linger.ms": 1,
        }
        return Producer({**self._common, **durable, **(settings or {})})

    def consumer(self, group: str = "") -> Consumer:
        """A consumer of committed records that is assigned, never subscribed."""
        settings = {
            "group.id": self.name(group or "reader"),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
            "fetch.min.bytes": 1,
        }
        return Consumer({**self._common, **settings})

    def end_offsets(self, topic: str, partitions: int) -> tuple[int, ...]:
        """Per partition, the end of what is committed (the last stable offset)."""
        wanted = {
            TopicPartition(self.name(topic), number): OffsetSpec.latest()
            for number in range(partitions)
        }
        ends = self.stable_offsets(wanted)
        return tuple(ends[self.name(topic), number] for number in range(partitions))

    def stable_offsets(
        self, wanted: dict[TopicPartition, OffsetSpec]
    ) -> dict[tuple[str, int], int]:
        """Per (topic with prefix, partition), the last stable offset."""
        with kafka_errors("offsets"):
            found = self.admin.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            return {(at.topic, at.partition): f.result().offset for at, f in found.items()}

    def describe(self, topic: str) -> tuple[str, int] | None:
        """(topic id, partitions); None: there is no such topic."""
        futures = self.admin.describe_topics(
            TopicCollection([self.name(topic)]), request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            found = futures[self.name(topic)].result()
        except KafkaException as error:
            if error.args[0].code() in _NO_TOPIC:
                return None
            raise translated(error, topic) from error
        return str(found.topic_id), len(found.partitions)

    def create(self, topic: str, partitions: int, settings: dict[str, str]) -> None:
        """Make a topic unless it exists, and wait until the broker knows it."""
        wanted = NewTopic(self.name(topic), partitions, config=settings)
        future = self.admin.create_topics([wanted], request_timeout=REQUEST_TIMEOUT_S)
        try:
            future[self.name(topic)].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error, topic) from error
        self._until(lambda: self.describe(topic) is not None, topic)

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics, and wait until the broker has forgotten them."""
        if not topics:
            return
        names = [self.name(topic) for topic in topics]
        for future in self.admin.delete_topics(names, request_timeout=REQUEST_TIMEOUT_S).values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() not in _NO_TOPIC:
                    raise translated(error, ", ".join(topics)) from error
        for topic in topics:
            self._until(lambda topic=topic: self.describe(topic) is None, topic)

    def _until(self, holds: Any, topic: str) -> None:
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while not holds():
            if time.monotonic() > deadline:
                raise LogError("the broker does not finish its work on the topic", where=topic)
            time.sleep(0.02)

    def compacted(self) -> dict[str, str]:
        """Settings of table, view and frontier topics (SEMANTICS 4, 15)."""
        return {
            "cleanup.policy": "compact",
            "min.compaction.lag.ms": str(int(self.config.min_compaction_lag_s * 1000)),
            "delete.retention.ms": str(int(self.config.tombstone_retention_s * 1000)),
            "message.timestamp.type": "LogAppendTime",
        }


def fetch(
    consumer: Consumer, topic: str, partition: int, start: int, end: int
) -> Iterator[list[Message]]:
    """Committed records start <= offset < end of a partition, in lists. Ends when the consumer's
    position has passed `end` or stands at the partition's end (SEMANTICS 3)."""
    if start >= end:
        return
    with kafka_errors(topic):
        consumer.assign([TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        done = False
        while not done:
            found: list[Message] = []
            for message in consumer.consume(10_000, 0.05):
                error = message.error()
                if error is None and (message.offset() or 0) < end:
                    found.append(message)
                elif error is None or error.code() == KafkaError._PARTITION_EOF:
                    done = True
                elif not error.retriable():
                    raise KafkaException(error)
            if found:
                deadline = time.monotonic() + REQUEST_TIMEOUT_S
                yield found
            elif time.monotonic() > deadline:
                raise LogError("the broker does not answer", where=f"{topic}/{partition}")
        consumer.unassign()


@contextmanager
def kafka_errors(place: str) -> Iterator[None]:
    """Kafka's errors as ours."""
    try:
        yield
    except KafkaException as error:
        raise translated(error, place) from error


def translated(error: KafkaException, place: str) -> LogError:
    cause = error.args[0]
    if isinstance(cause, KafkaError) and cause.code() in _FENCED:
        return Fenced(
            "replaced by another producer of this name",
            where=place,
            hint="only one process may capture a source or maintain a group: stop this one",
        )
    return LogError(
        f"Kafka: {mask_url(str(cause))}",
        where=place,
        hint="see log.bootstrap_servers and the broker",
    )


class Schemas:
    """The topic `cdc.schemas`: which version of which topic has which columns (SEMANTICS 17).

    Keyed by topic id and version, so that a topic made anew begins anew.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._consumer: Consumer | None = None
        self._next = 0
        self._found: dict[tuple[str, int], TableSchema] = {}
        self.owners: dict[str, tuple[str, str]] = {}
        """Per topic id: its name, and its producer's."""

    def publish(self, producer: str, topic: str, topic_id: str, schema: TableSchema) -> None:
        self._broker.create(SCHEMAS, 1, {"cleanup.policy": "compact"})
        body = {"topic": topic, "producer": producer, "schema": schema.to_json()}
        sender = self._broker.producer()
        key = json.dumps([topic_id, schema.version])
        with kafka_errors(SCHEMAS):
            sender.produce(self._broker.name(SCHEMAS), json.dumps(body), key)
            if sender.flush(REQUEST_TIMEOUT_S):
                raise LogError("the broker does not take the schema", where=topic)

    def of(self, topic_id: str) -> dict[int, TableSchema]:
        """Every version of a topic, after a look at what was added."""
        self.refresh()
        return {version: s for (at, version), s in self._found.items() if at == topic_id}

    def refresh(self) -> None:
        if self._broker.describe(SCHEMAS) is None:
            return
        (end,) = self._broker.end_offsets(SCHEMAS, 1)
        if self._consumer is None:
            self._consumer = self._broker.consumer()
        for messages in fetch(self._consumer, self._broker.name(SCHEMAS), 0, self._next, end):
            for message in messages:
                topic_id, version = json.loads(message.key() or b"")
                body = json.loads(message.value() or b"")
                schema = TableSchema.from_json(body["schema"])
                self._found.setdefault((topic_id, version), schema)
                self.owners[topic_id] = (body["topic"], body["producer"])
        self._next = max(self._next, end)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def no_offset(offset: int) -> bool:
    return offset == OFFSET_INVALID or offset < 0
