"""The log on Kafka: the broker stores, compacts and fences; we decide what goes into it.

`log.topic_prefix` precedes every topic, group and transactional id. Consumers' positions are group
offsets. Floors do not exist here: the broker keeps what compaction could take for
min.compaction.lag.ms (SEMANTICS 15), and nobody can make it wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

from cdc.config import LogConfig
from cdc.log.api import DeadLetter
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, Broker, kafka_errors
from cdc.log.kafka_letters import send_letters
from cdc.log.kafka_positions import GroupOffsets
from cdc.log.kafka_producer import KafkaProducer, fencing_producer
from cdc.log.kafka_reader import KafkaReader
from cdc.log.kafka_tables import Tables
from cdc.log.kafka_transactions import topic_name
from cdc.log.schema_topic import SchemaTopic


class KafkaLog:
    """See cdc.log.api.Log."""

    def __init__(self, config: LogConfig) -> None:
        self._broker = Broker(config)
        self._offsets = GroupOffsets(self._broker)

    def producer(self, name: str) -> KafkaProducer:
        return KafkaProducer(self._broker, name)

    def reader(self) -> KafkaReader:
        return KafkaReader(self._broker)

    def is_away(self) -> bool:
        return self._broker.is_away()

    def consumers(self) -> list[str]:
        self._broker.reach()
        self._offsets.settle()
        prefix = self._broker.config.topic_prefix
        with kafka_errors("consumer groups"):
            listed = self._broker.admin.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S)
            groups = [group.group_id for group in listed.result().valid]
        return sorted(g.removeprefix(prefix) for g in groups if g.startswith(prefix))

    def positions(self, consumer: str) -> dict[tuple[str, int], int]:
        return self._offsets.read(consumer)

    def record_positions(self, consumer: str, positions: Mapping[tuple[str, int], int]) -> None:
        self._offsets.record(consumer, positions)

    def set_floor(self, consumer: str, floor_us: int | None) -> None:
        """Nothing to register: see the module's docstring and Reader.horizon."""

    def floors(self) -> dict[str, int]:
        return {}

    def dead_letter(self, letters: Sequence[DeadLetter]) -> None:
        send_letters(self._broker, letters)

    def remove(self, name: str) -> None:
        self._offsets.remove(name)
        with closing(SchemaTopic(self._broker)) as schemas:
            entries = Tables(schemas).entries()
        topics = {entry.name for entry in entries if entry.producer == name}
        if not topics:
            return
        fencing_producer(self._broker, name).close()
        frontiers = {f"{t}.frontier" for t in topics if t.startswith("view.")} or {
            f"{name}.frontier",
            topic_name(name),
        }
        self._broker.delete(sorted(topics | frontiers))

    def close(self) -> None:
        """Producers and readers close their own connections."""
        self._offsets.close()
