"""Consumers' positions as Kafka's group offsets, so that ordinary tools show their lag.

A position is where the next change may stand; a group offset is compared with the partition's end,
behind which stand commit markers and what was aborted. So where nothing committed stands between a
position and the end, the end is recorded: the lag of a consumer that has caught up is 0.

Recording takes milliseconds and nobody waits for it: a thread does it, in order, and what it could
not do is told at the next call.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from cdc.errors import LogError
from cdc.log.kafka_client import (
    NO_TOPIC,
    REQUEST_TIMEOUT_S,
    Broker,
    no_offset,
    translated,
)
from cdc.log.kafka_fetch import SHORT_OFFSETS, Fetcher

Positions = Mapping[tuple[str, int], int]
LOOK_OFFSETS_MAX = SHORT_OFFSETS
"""Who is further behind has not caught up, whatever stands there."""
NO_GROUP = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_MEMBER_ID)


class GroupOffsets:
    """Of all consumers of one log; for one thread."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._fetcher = Fetcher(broker)
        self._thread = ThreadPoolExecutor(1, "group-offsets")
        self._pending: Future[None] | None = None
        # The admin client's request for this ends the process when the connection is lost
        # (librdkafka issues 3663 and 4605).
        self._committers: dict[str, Consumer] = {}

    def record(self, consumer: str, positions: Positions) -> None:
        """Begin to record; raises LogError for what failed before."""
        before, self._pending = self._pending, None
        if before is not None and before.done():
            before.result()
        self._pending = self._thread.submit(self._record, consumer, dict(positions), before)

    def read(self, consumer: str) -> dict[tuple[str, int], int]:
        """What is recorded, once all that was begun is."""
        self.settle()
        group = self._group(consumer)
        futures = self._broker.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            found = futures[group].result().topic_partitions or []
        except KafkaException as error:
            if error.args[0].code() in NO_GROUP:
                return {}
            raise translated(error, consumer) from error
        prefix = self._broker.config.topic_prefix
        return {
            (at.topic.removeprefix(prefix), at.partition): at.offset
            for at in found
            if not no_offset(at.offset)
        }

    def remove(self, consumer: str) -> None:
        self.settle()
        group = self._group(consumer)
        futures = self._broker.admin.delete_consumer_groups(
            [group], request_timeout=REQUEST_TIMEOUT_S
        )
        try:
            futures[group].result()
        except KafkaException as error:
            if error.args[0].code() not in NO_GROUP:
                raise translated(error, consumer) from error

    def close(self) -> None:
        """Finish what was begun. Raises LogError when that fails."""
        try:
            self.settle()
        finally:
            self._thread.shutdown()
            self._fetcher.close()
            for committer in self._committers.values():
                committer.close()

    def settle(self) -> None:
        """Wait until all that was begun is recorded."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _group(self, consumer: str) -> str:
        """Unlike a topic's, a group's name may have any characters."""
        return self._broker.config.topic_prefix + consumer

    def _record(self, consumer: str, positions: Positions, before: Future[None] | None) -> None:
        if before is not None:
            before.result()
        if not positions:
            return
        try:
            offsets = self._offsets(positions)
        except LogError as error:
            cause = error.__cause__
            if isinstance(cause, KafkaException) and cause.args[0].code() in NO_TOPIC:
                return  # whoever reads a topic that was removed learns it by reading
            raise
        if consumer not in self._committers:
            self._committers[consumer] = self._broker.committer(self._group(consumer))
        commit = partial(self._committers[consumer].commit, offsets=offsets, asynchronous=False)
        self._broker.answer(commit, consumer)

    def _offsets(self, positions: Positions) -> list[TopicPartition]:
        places = [TopicPartition(self._broker.name(t), number) for t, number in positions]
        ends = self._broker.stable_offsets(dict.fromkeys(places, OffsetSpec.latest()))
        offsets = []
        for place, ((topic, number), at) in zip(places, positions.items(), strict=True):
            end = ends[place.topic, number]
            at_end = self._behind(topic, number, at, end)
            offsets.append(TopicPartition(place.topic, number, at_end))
        return offsets

    def _behind(self, topic: str, partition: int, at: int, end: int) -> int:
        """Where a reader at `at` stands: at the end, when nothing is left to read."""
        if not 0 < end - at <= LOOK_OFFSETS_MAX:
            return at
        # A single offset is a marker: a record would have one of its own behind it.
        alone = end - at == 1
        nothing = alone or next(self._fetcher.fetch(topic, partition, at, end), None) is None
        return end if nothing else at
