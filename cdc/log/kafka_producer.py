"""The Kafka log's transactional producer.

An append is one Kafka transaction: the data records, a flush so that the delivery reports tell
every record's offset, then the frontier records with the end offsets, then the commit. Becoming a
producer first fences (init_transactions) and only then reads the newest frontier (SEMANTICS 6).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec

from cdc.changes import ChangeBatch
from cdc.errors import LogError
from cdc.frontiers import EndOffsets, Frontier, covers_topic, frontier_key
from cdc.log.api import TopicSpec
from cdc.log.kafka_client import (
    REQUEST_TIMEOUT_S,
    Broker,
    Schemas,
    kafka_errors,
    translated,
)
from cdc.log.kafka_json import encode_records
from cdc.log.kafka_reader import KafkaReader
from cdc.schema import TableSchema


class KafkaProducer:
    """See cdc.log.api.Producer."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker, self._name = broker, name
        self._schemas = Schemas(broker)
        self._producer = fencing_producer(broker, name)
        self._topics: dict[str, dict[int, TableSchema]] = {}
        self._ends: dict[str, tuple[int, ...]] = {}
        self._whole: dict[str, Frontier] = {}
        self._frontier_topics: set[str] = set()
        self._last_us = 0
        self._broken = False
        self._delivered: dict[tuple[str, int], int] = {}
        self._refused: list[KafkaError] = []
        self.epoch = 1
        self._load()

    def _load(self) -> None:
        reader = KafkaReader(self._broker)
        self._schemas.refresh()
        for topic_id, (topic, producer) in list(self._schemas.owners.items()):
            described = self._broker.describe(topic)
            if producer == self._name and described and described[0] == topic_id:
                self._adopt(topic, topic_id, described[1])
        keys = {frontier_key(self._name, self._name)} | {
            t for t in self._topics if t.startswith("view.")
        }
        for key in keys:
            newest = reader.newest_frontier(key)
            if newest is not None:
                self._whole[key] = newest
                self.epoch = max(self.epoch, newest.epoch + 1)
                self._last_us = max(self._last_us, newest.appended_us)
        reader.close()

    def _adopt(self, topic: str, topic_id: str, partitions: int) -> None:
        self._topics[topic] = self._schemas.of(topic_id)
        self._ends[topic] = self._broker.end_offsets(topic, partitions)

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            if spec.name in self._topics:
                continue
            self._broker.create(spec.name, spec.partitions, self._broker.compacted())
            topic_id, partitions = self._broker.describe(spec.name) or ("", 0)
            if not self._schemas.of(topic_id):
                self._schemas.publish(self._name, spec.name, topic_id, spec.schema)
            self._adopt(spec.name, topic_id, partitions)

    def set_schema(self, topic: str, schema: TableSchema) -> None:
        known = self._known(topic)
        if known.get(schema.version) == schema:
            return
        if schema.version <= max(known):
            raise LogError(
                f"schema version {schema.version} is not newer than {max(known)}", where=topic
            )
        topic_id, _ = self._broker.describe(topic) or ("", 0)
        self._schemas.publish(self._name, topic, topic_id, schema)
        known[schema.version] = schema

    def append(
        self, batches: Sequence[tuple[str, ChangeBatch]], frontiers: Sequence[Frontier] = ()
    ) -> EndOffsets:
        for topic, changes in batches:
            if self._known(topic).get(changes.schema.version) != changes.schema:
                raise LogError(
                    f"schema version {changes.schema.version} was not registered in this form",
                    where=topic,
                    hint="call set_schema before appending",
                )
        appended_us = max(time.time_ns() // 1000, self._last_us + 1)
        keys = [frontier_key(self._name, frontier.name) for frontier in frontiers]
        for key in keys:
            self._make_frontier_topic(key)
        with self._transaction():
            for topic, changes in batches:
                for record in encode_records(changes):
                    self._produce(topic, *record)
            self._flush()
            ends = self._ends_after()
            filled = [
                (key, self._filled(key, frontier, ends, appended_us))
                for key, frontier in zip(keys, frontiers, strict=True)
            ]
            for key, frontier in filled:
                self._produce(f"{key}.frontier", frontier.name, frontier.to_json())
        self._ends, self._last_us = ends, appended_us
        self._whole.update(filled)
        self._await_markers()
        return ends

    def _await_markers(self) -> None:
        """Return once readers see the transaction. A commit is acknowledged before its markers
        are written; the next transaction would have to wait for them anyway."""
        wanted = {
            TopicPartition(topic, number): OffsetSpec.latest() for topic, number in self._delivered
        }
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while wanted and time.monotonic() < deadline:
            stable = self._broker.stable_offsets(wanted)
            wanted = {
                at: spec
                for at, spec in wanted.items()
                if stable[at.topic, at.partition] <= self._delivered[at.topic, at.partition]
            }

    def _filled(self, key: str, frontier: Frontier, ends: EndOffsets, appended_us: int) -> Frontier:
        if frontier.whole:
            mine = {topic: at for topic, at in ends.items() if covers_topic(key, topic)}
            return replace(frontier, end_offsets=mine, epoch=self.epoch, appended_us=appended_us)
        whole = self._whole.get(key)
        return replace(
            frontier,
            end_offsets=dict(whole.end_offsets) if whole else {},
            epoch=self.epoch,
            appended_us=whole.appended_us if whole else 0,
        )

    def _ends_after(self) -> dict[str, tuple[int, ...]]:
        """Last record + 1 per partition, from this transaction's delivery reports."""
        return {
            topic: tuple(
                self._delivered.get((self._broker.name(topic), number), end - 1) + 1
                for number, end in enumerate(ends)
            )
            for topic, ends in self._ends.items()
        }

    def _make_frontier_topic(self, key: str) -> None:
        if key not in self._frontier_topics:
            self._broker.create(f"{key}.frontier", 1, self._broker.compacted())
            self._frontier_topics.add(key)

    def _produce(self, topic: str, key: str | None, value: bytes | None) -> None:
        while True:
            try:
                self._producer.produce(
                    self._broker.name(topic), value, key, on_delivery=self._on_delivery
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(error)
            return
        at = (message.topic() or "", message.partition() or 0)
        self._delivered[at] = max(self._delivered.get(at, -1), message.offset() or 0)

    def _flush(self) -> None:
        """Wait until every record is written, looking out for topics that are gone: the client
        would wait for them to come back."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while self._producer.flush(1.0):
            gone = [topic for topic in self._topics if self._broker.describe(topic) is None]
            if gone or time.monotonic() > deadline:
                what = "the topic was removed" if gone else "the broker does not take the records"
                raise LogError(what, where=", ".join(gone) or self._name)
        if self._refused:
            raise KafkaException(self._refused[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._broken:
            raise LogError(
                "an earlier append failed; this producer has stopped",
                where=self._name,
                hint="start the connector again",
            )
        self._delivered.clear()
        self._refused.clear()
        self._broken = True
        try:
            self._producer.begin_transaction()
            yield
            self._producer.commit_transaction(REQUEST_TIMEOUT_S)
        except (KafkaException, LogError, SystemError) as error:
            # SystemError: the client sets a fatal error while another callback is running.
            cause = self._abort() or error.__cause__ or error
            if isinstance(cause, KafkaException):
                raise translated(cause, self._name) from error
            raise
        except BaseException:
            self._abort()
            raise
        self._broken = False

    def _abort(self) -> KafkaException | None:
        """Abort the transaction; why that is impossible, which is also why it failed: a fenced
        producer purges its records, and their delivery reports name only the purge."""
        self._producer.purge()
        try:
            self._producer.abort_transaction(REQUEST_TIMEOUT_S)
        except KafkaException as cause:
            return cause
        return None

    def _known(self, topic: str) -> dict[int, TableSchema]:
        try:
            return self._topics[topic]
        except KeyError:
            raise LogError(f"'{self._name}' has no such topic", where=topic) from None

    def close(self) -> None:
        self._schemas.close()
        if not self._broken:  # else there is a transaction that only the next producer can end
            self._producer.close()


def fencing_producer(broker: Broker, name: str) -> Producer:
    """A transactional producer; when this returns, every older one of the name is fenced."""
    producer = broker.producer({"transactional.id": broker.name(name)})
    with kafka_errors(name):
        producer.init_transactions(REQUEST_TIMEOUT_S)
    return producer
