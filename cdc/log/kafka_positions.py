"""Consumers' positions as Kafka's group offsets, so that ordinary tools show their lag.

A position is where the next change may stand; a group offset is compared with the partition's end,
behind which stand commit markers and what was aborted. So where nothing committed stands between a
position and the end, the end is recorded: the lag of a consumer that has caught up is 0.

Recording takes milliseconds and nobody waits for it: a thread records each consumer's newest
position. Brokers that are away are asked again; anything else that goes wrong is told at the next
call. Nobody's truth stands here, so whoever ends while the brokers are away does not wait for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import OffsetSpec

from cdc.errors import LogError
from cdc.log.kafka_client import (
    ATTEMPT_TIMEOUT_S,
    NO_TOPIC,
    REQUEST_TIMEOUT_S,
    Broker,
    cause_of,
    no_offset,
    passes,
)
from cdc.log.kafka_fetch import SHORT_OFFSETS, Fetcher

Positions = Mapping[tuple[str, int], int]
LOOK_OFFSETS_MAX = SHORT_OFFSETS
"""Who is further behind has not caught up, whatever stands there."""
NO_GROUP = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_MEMBER_ID)
CLOSE_TIMEOUT_S = 5.0
"""What brokers that answer take for it many times over."""


class GroupOffsets:
    """Of all consumers of one log; for one thread."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._recorder = _Recorder(broker)

    def record(self, consumer: str, positions: Positions) -> None:
        """Begin to record; raises LogError for what failed before."""
        if positions:
            self._recorder.record(consumer, dict(positions))

    def read(self, consumer: str) -> dict[tuple[str, int], int]:
        """What is recorded, once all that was begun is."""
        self.settle()
        # The admin client's request for this ends the process when a coordinator that is loading
        # answers it.
        committer = self._broker.committer(_group(self._broker, consumer))
        with closing(committer):
            places = self._broker.answer(self._places, consumer)
            ask = partial(committer.committed, places, timeout=ATTEMPT_TIMEOUT_S)
            found = self._broker.answer(ask, consumer)
        prefix = self._broker.config.topic_prefix
        return {
            (at.topic.removeprefix(prefix), at.partition): at.offset
            for at in found
            if not no_offset(at.offset)
        }

    def _places(self) -> list[TopicPartition]:
        """All partitions of the log's topics."""
        topics = self._broker.admin.list_topics(timeout=ATTEMPT_TIMEOUT_S).topics
        prefix = self._broker.config.topic_prefix
        ours = [each for name, each in topics.items() if name.startswith(prefix)]
        return [TopicPartition(each.topic, number) for each in ours for number in each.partitions]

    def remove(self, consumer: str) -> None:
        self.settle()
        group = _group(self._broker, consumer)

        def ask() -> None:
            futures = self._broker.admin.delete_consumer_groups(
                [group], request_timeout=ATTEMPT_TIMEOUT_S
            )
            futures[group].result()

        try:
            self._broker.answer(ask, consumer)
        except LogError as error:
            if cause_of(error) not in NO_GROUP:
                raise

    def close(self) -> None:
        """Finish what was begun, unless the brokers are away. Raises LogError for what failed."""
        self._recorder.close()

    def settle(self) -> None:
        """Wait until all that was begun is recorded. Raises LogError when that fails."""
        if not self._recorder.settle(REQUEST_TIMEOUT_S):
            raise LogError("the brokers do not take the consumers' positions in time")


class _Recorder:
    """The thread, begun with the first position; it alone uses its connections."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._changed = threading.Condition()
        self._wanted: dict[str, Positions] = {}
        """Per consumer, the newest position that is not recorded yet."""
        self._failed: Exception | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._fetcher = Fetcher(broker)
        # The admin client's request for this ends the process when the connection is lost
        # (librdkafka issues 3663 and 4605).
        self._committers: dict[str, Consumer] = {}

    def record(self, consumer: str, positions: Positions) -> None:
        with self._changed:
            self._tell()
            self._wanted[consumer] = positions
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: the process does not wait for brokers that are away.
            self._thread = threading.Thread(target=self._run, name="group-offsets", daemon=True)
            self._thread.start()

    def settle(self, timeout_s: float) -> bool:
        """Whether all is recorded in time. Raises LogError for what failed."""
        with self._changed:
            over = self._changed.wait_for(lambda: self._failed or not self._wanted, timeout_s)
            self._tell()
            return bool(over)

    def close(self) -> None:
        """Raises LogError for what failed."""
        if self._thread is None:
            return
        deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
        try:
            self.settle(CLOSE_TIMEOUT_S)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def _tell(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _run(self) -> None:
        try:
            while (taken := self._next()) is not None:
                self._try(*taken)
        finally:
            self._fetcher.close()
            for committer in self._committers.values():
                committer.close()

    def _next(self) -> tuple[str, Positions] | None:
        """What to record now; None: there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._wanted)
            return None if self._closing else next(iter(self._wanted.items()))

    def _try(self, consumer: str, positions: Positions) -> None:
        failed: Exception | None = None
        try:
            self._record(consumer, positions)
        except Exception as error:  # the thread's boundary: told at the next call
            if passes(error):
                return
            failed = error
        with self._changed:
            self._failed = failed or self._failed
            if self._wanted[consumer] is positions:
                del self._wanted[consumer]
            self._changed.notify_all()

    def _record(self, consumer: str, positions: Positions) -> None:
        try:
            offsets = self._offsets(positions)
        except LogError as error:
            if cause_of(error) in NO_TOPIC:
                return  # whoever reads a topic that was removed learns it by reading
            raise
        if consumer not in self._committers:
            self._committers[consumer] = self._broker.committer(_group(self._broker, consumer))
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
        if end - at == 1:
            return end
        try:
            return end if next(self._fetcher.fetch(topic, partition, at, end), None) is None else at
        except LogError:
            return at


def _group(broker: Broker, consumer: str) -> str:
    """Unlike a topic's, a group's name may have any characters."""
    return broker.config.topic_prefix + consumer
