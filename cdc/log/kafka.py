"""The log on Kafka: the broker stores, compacts and fences; we decide what goes into it.

`log.topic_prefix` precedes every topic, group and transactional id. Consumers' positions are group
offsets. Floors do not exist here: the broker keeps what compaction could take for
min.compaction.lag.ms (SEMANTICS 15), and nobody can make it wait.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from cdc.config import LogConfig
from cdc.errors import LogError
from cdc.log.api import DeadLetter
from cdc.log.kafka_client import (
    LETTERS,
    REQUEST_TIMEOUT_S,
    Broker,
    Schemas,
    kafka_errors,
    no_offset,
    translated,
)
from cdc.log.kafka_producer import KafkaProducer, fencing_producer
from cdc.log.kafka_reader import KafkaReader

DEAD_LETTER_RETENTION_MS = 7 * 86_400_000
_NO_GROUP = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_MEMBER_ID)


class KafkaLog:
    """See cdc.log.api.Log."""

    def __init__(self, config: LogConfig) -> None:
        self._broker = Broker(config)

    def producer(self, name: str) -> KafkaProducer:
        return KafkaProducer(self._broker, name)

    def reader(self) -> KafkaReader:
        return KafkaReader(self._broker)

    def consumers(self) -> list[str]:
        prefix = self._broker.config.topic_prefix
        with kafka_errors("consumer groups"):
            listed = self._broker.admin.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S)
            groups = [group.group_id for group in listed.result().valid]
        return sorted(g.removeprefix(prefix) for g in groups if g.startswith(prefix))

    def positions(self, consumer: str) -> dict[tuple[str, int], int]:
        group = self._broker.name(consumer)
        futures = self._broker.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            found = futures[group].result().topic_partitions or []
        except KafkaException as error:
            if error.args[0].code() in _NO_GROUP:
                return {}
            raise translated(error, consumer) from error
        prefix = self._broker.config.topic_prefix
        return {
            (at.topic.removeprefix(prefix), at.partition): at.offset
            for at in found
            if not no_offset(at.offset)
        }

    def record_positions(self, consumer: str, positions: Mapping[tuple[str, int], int]) -> None:
        committer = self._broker.consumer(consumer)
        offsets = [
            TopicPartition(self._broker.name(topic), number, at)
            for (topic, number), at in positions.items()
        ]
        with kafka_errors(consumer):
            committer.commit(offsets=offsets, asynchronous=False)
            committer.close()

    def set_floor(self, consumer: str, floor_us: int | None) -> None:
        """Nothing to register: see the module's docstring and Reader.horizon."""

    def floors(self) -> dict[str, int]:
        return {}

    def dead_letter(self, letters: Sequence[DeadLetter]) -> None:
        settings = {"cleanup.policy": "delete", "retention.ms": str(DEAD_LETTER_RETENTION_MS)}
        self._broker.create(LETTERS, 1, settings)
        sender = self._broker.producer()
        refused: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refused.append(error)

        with kafka_errors(LETTERS):
            for letter in letters:
                value = _letter_json(letter)
                sender.produce(self._broker.name(LETTERS), value, on_delivery=delivered)
            if sender.flush(REQUEST_TIMEOUT_S) or refused:
                cause = f": {refused[0]}" if refused else ""
                raise LogError(f"the broker does not take the records{cause}", where=LETTERS)

    def remove(self, name: str) -> None:
        self._remove_group(name)
        schemas = Schemas(self._broker)
        schemas.refresh()
        schemas.close()
        topics = {topic for topic, producer in schemas.owners.values() if producer == name}
        if not topics:
            return
        fencing_producer(self._broker, name).close()
        frontiers = {f"{t}.frontier" for t in topics if t.startswith("view.")} or {
            f"{name}.frontier"
        }
        self._broker.delete(sorted(topics | frontiers))

    def _remove_group(self, name: str) -> None:
        group = self._broker.name(name)
        futures = self._broker.admin.delete_consumer_groups(
            [group], request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            futures[group].result()
        except KafkaException as error:
            if error.args[0].code() not in _NO_GROUP:
                raise translated(error, name) from error

    def close(self) -> None:
        """Producers and readers close their own connections."""


def _letter_json(letter: DeadLetter) -> bytes:
    def text(raw: bytes | None) -> str | None:
        return None if raw is None else base64.b64encode(raw).decode()

    body = {
        "connector": letter.connector,
        "where": letter.where,
        "error": letter.error,
        "key": text(letter.key),
        "value": text(letter.value),
    }
    return json.dumps(body, sort_keys=True).encode()
