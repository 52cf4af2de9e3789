"""One broker connection's settings, names and common requests."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    TopicDescription,
)

from cdc.config import LogConfig
from cdc.errors import Fenced, LogError, LogRefused, mask_url
from cdc.log import librdkafka_consumer
from cdc.log.kafka_reach import reach, unreachable
from cdc.log.kafka_secrets import refused_settings
from cdc.log.librdkafka import Producer

_SILENT = logging.Logger("librdkafka", logging.CRITICAL + 1)
"""What the client logs comes to us as errors, too, and is told once, in our words."""
_NO_TOPIC_NAME = re.compile("[^a-zA-Z0-9._-]")
REQUEST_TIMEOUT_S = 30.0
ATTEMPT_TIMEOUT_S = 10.0
"""One request may be lost with its connection, and is then waited for in vain."""
AWAY_AFTER_S = 5.0
_MEET_S = 2.0
RETRY_EVERY_S = 0.05
MESSAGE_BYTES_MAX = 1_000_000
"""librdkafka's default for message.max.bytes."""
SCHEMAS = "cdc.schemas"
LETTERS = "dead-letters"
_FENCED = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
_FORBIDDEN = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
)
_NOT_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError._NOENT,  # "No leaders found"
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._WAIT_COORD,
)
"""What a broker that starts again, or a topic that was just made, answers for a while."""
_NEVER_MS = 2**53
NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)


_PRODUCER_TUNING: dict[str, Any] = {
    "compression.type": "lz4",
    "linger.ms": 0,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 65_536,
}
_CONSUMER_TUNING: dict[str, Any] = {
    "fetch.min.bytes": 1,
    # A reader that has caught up with its queue would sleep for a second by default.
    "fetch.queue.backoff.ms": 1,
    "max.partition.fetch.bytes": 2 * 2**20,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 32_768,
}
_FETCH_BYTES = 8 * 2**20
_COMMITTER_GIVES_UP_MS = 6_000
_HEARD = 100
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Kept:
    """How long a topic keeps records that newer ones superseded, and then their tombstones."""

    lag_us: int
    tombstones_us: int


class Broker:
    """What a log, its producers and its readers share. Topic names inside are without prefix.
    Raises ConfigError for settings that librdkafka does not take."""

    def __init__(self, config: LogConfig) -> None:
        self.config = config
        self._given: dict[str, Any] = {
            "bootstrap.servers": config.bootstrap_servers,
            **config.config,
        }
        self._common = {**self._given, "logger": _SILENT}
        self._heard: deque[KafkaError] = deque(maxlen=_HEARD)
        self._reached = False
        with self._taking_settings():
            self.admin = AdminClient({**self._common, "error_cb": self._heard.append})

    @contextmanager
    def _taking_settings(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise refused_settings(error, self.config) from error

    def name(self, topic: str) -> str:
        """The name on the broker, which takes few characters: others become underscores, as with
        Debezium."""
        return _NO_TOPIC_NAME.sub("_", self.config.topic_prefix + topic)

    def reach(self) -> None:
        """Return when the brokers have answered once. Raises LogError that says why they do not,
        LogRefused where they never will."""
        if self._reached:
            return
        try:
            reach(self.admin, self._heard)
        except KafkaException as error:
            raise unreachable(error.args[0], self.config) from error
        self._reached = True

    def is_away(self) -> bool:
        """Whether no broker answers now."""
        try:
            self.admin.list_topics(timeout=AWAY_AFTER_S)
        except KafkaException as error:
            return bool(error.args[0].code() in _NOT_YET)
        return False

    def producer(self, settings: dict[str, Any] | None = None) -> Producer:
        """An idempotent producer (acks=all); what the configuration says goes before our tuning,
        but not before what correctness needs."""
        return self._produces({"enable.idempotence": True, **(settings or {})})

    def sender(self) -> Producer:
        """A producer (acks=all) of single records that may be written twice: it can begin at once,
        where an idempotent one first has to be given an id."""
        return self._produces({"acks": "all", "linger.ms": 0})

    def _produces(self, needed: dict[str, Any]) -> Producer:
        with self._taking_settings():
            return Producer({**_PRODUCER_TUNING, **self._given, **needed})

    def consumer(
        self, fetch_wait_ms: int = 10, isolation: str = "read_committed"
    ) -> librdkafka_consumer.Consumer:
        """A consumer, of committed records. The broker waits for `fetch_wait_ms` before it answers
        that there are none."""
        settings = {
            "group.id": self.name("reader"),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": fetch_wait_ms,
        }
        # librdkafka takes no less than the largest message that a producer may send.
        fetch_bytes = max(_FETCH_BYTES, self._message_bytes_max)
        tuning = {**_CONSUMER_TUNING, "fetch.max.bytes": fetch_bytes}
        with self._taking_settings():
            return librdkafka_consumer.Consumer({**tuning, **self._given, **settings})

    def committer(self, group: str) -> Consumer:
        """What commits offsets for a group (with prefix); it reads nothing."""
        settings: dict[str, Any] = {
            "group.id": group,
            "enable.auto.commit": False,
            # So long a commit waits for brokers that are away, and closing for the commit.
            "session.timeout.ms": _COMMITTER_GIVES_UP_MS,
        }
        # Else its connections' troubles would be messages: whoever reads waits for the brokers.
        told = {"error_cb": self._heard.append}
        with self._taking_settings():
            return Consumer({**self._common, **settings, **told})

    def end_offsets(self, topic: str, partitions: int) -> tuple[int, ...]:
        """Per partition, the end of what is committed (the last stable offset)."""
        wanted = {
            TopicPartition(self.name(topic), number): OffsetSpec.latest()
            for number in range(partitions)
        }
        ends = self.stable_offsets(wanted)
        return tuple(ends[self.name(topic), number] for number in range(partitions))

    def written_end(self, topic: str, partition: int) -> int:
        """The end of a partition, be it committed or not."""
        wanted = {TopicPartition(self.name(topic), partition): OffsetSpec.latest()}
        (end,) = self.stable_offsets(wanted, IsolationLevel.READ_UNCOMMITTED).values()
        return end

    def newest_ends(self, topics: Sequence[str]) -> dict[str, int]:
        """Per topic of one partition, the end of what is committed."""
        if not topics:
            return {}
        places = [TopicPartition(self.name(topic), 0) for topic in topics]
        ends = self.stable_offsets(dict.fromkeys(places, OffsetSpec.latest()))
        return {topic: ends[self.name(topic), 0] for topic in topics}

    def stable_offsets(
        self,
        wanted: dict[TopicPartition, OffsetSpec],
        level: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[tuple[str, int], int]:
        """Per (topic with prefix, partition), the last stable offset, or what `level` makes it."""

        def ask() -> dict[tuple[str, int], int]:
            found = self.admin.list_offsets(
                wanted,
                isolation_level=level,
                request_timeout=ATTEMPT_TIMEOUT_S,
            )
            return {(at.topic, at.partition): f.result().offset for at, f in found.items()}

        return self.answer(ask, "offsets", {at.topic for at in wanted})

    def answer(
        self, ask: Callable[[], _Answer], place: str, topics: Collection[str] = ()
    ) -> _Answer:
        """What a request answers, asked again while a broker starts. `topics` (with prefix) are
        those whose leaders it needs: the client remembers an older epoch until it asks."""
        self.reach()
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        with kafka_errors(place):
            while True:
                try:
                    return ask()
                except KafkaException as error:
                    if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                        raise
                time.sleep(RETRY_EVERY_S)
                self._meet(topics)

    def _meet(self, topics: Collection[str]) -> None:
        """Have the client ask who leads these topics now; not while the broker is away."""
        try:
            for topic in topics:
                self.admin.list_topics(topic, timeout=_MEET_S)
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise

    def describe(self, topic: str) -> tuple[str, int] | None:
        """(topic id, partitions); None: there is no such topic."""
        return self.described([topic])[topic]

    def described(self, topics: Sequence[str]) -> dict[str, tuple[str, int] | None]:
        """As `describe`, of several topics with one request."""
        names = [self.name(topic) for topic in topics]

        def ask() -> dict[str, tuple[str, int] | None]:
            futures = self.admin.describe_topics(
                TopicCollection(names), request_timeout=ATTEMPT_TIMEOUT_S
            )
            return {t: _described(futures[name]) for t, name in zip(topics, names, strict=True)}

        return self.answer(ask, ", ".join(topics))

    def create(self, topic: str, partitions: int, settings: dict[str, str]) -> tuple[str, int]:
        """Make a topic unless it exists, and wait until the broker knows it; (topic id,
        partitions)."""
        copies = self.config.replication_factor or -1
        wanted = NewTopic(self.name(topic), partitions, copies, config=settings)

        def ask() -> None:
            future = self.admin.create_topics([wanted], request_timeout=ATTEMPT_TIMEOUT_S)
            try:
                future[wanted.topic].result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_EXCEPTION:
                    raise LogRefused(
                        f"the broker takes no topic of this name: {error.args[0].str()}",
                        where=wanted.topic,
                        hint="leave the table out of `tables`, or rename it",
                    ) from error
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        self.answer(ask, topic)
        return self._until(lambda: self.describe(topic), topic)

    def record_bytes_max(self, topic: str) -> int:
        """The largest record, with all that is sent around it, that client and topic let pass."""
        found = self._settings(topic)["max.message.bytes"]
        return min(int(found), self._message_bytes_max)

    @property
    def _message_bytes_max(self) -> int:
        """The largest that the client sends."""
        return int(self._given.get("message.max.bytes", MESSAGE_BYTES_MAX))

    def kept(self, topic: str) -> Kept:
        """What the topic's settings promise, whatever the configuration says."""
        found = self._settings(topic)
        if "compact" not in found["cleanup.policy"]:
            return Kept(_NEVER_MS * 1000, _NEVER_MS * 1000)
        lag_ms, tombstones_ms = found["min.compaction.lag.ms"], found["delete.retention.ms"]
        return Kept(int(lag_ms) * 1000, int(tombstones_ms) * 1000)

    def _settings(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name(topic))

        def ask() -> dict[str, str]:
            futures = self.admin.describe_configs([resource], request_timeout=ATTEMPT_TIMEOUT_S)
            return {name: entry.value for name, entry in futures[resource].result().items()}

        return self.answer(ask, topic)

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics, and wait until the broker has forgotten them."""
        if not topics:
            return
        names = [self.name(topic) for topic in topics]
        for future in self.admin.delete_topics(names, request_timeout=REQUEST_TIMEOUT_S).values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() not in NO_TOPIC:
                    raise translated(error, ", ".join(topics)) from error
        for topic in topics:
            self._until(partial(self._is_gone, topic), topic)

    def _is_gone(self, topic: str) -> bool:
        return self.describe(topic) is None

    def _until(self, ask: Callable[[], _Answer | None], topic: str) -> _Answer:
        """What `ask` answers when it is no longer nothing."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while not (answer := ask()):
            if time.monotonic() > deadline:
                raise LogError("the broker does not finish its work on the topic", where=topic)
            time.sleep(0.02)
        return answer

    def compacted(self) -> dict[str, str]:
        """Settings of table, view and frontier topics (SEMANTICS 4, 15)."""
        return {
            "cleanup.policy": "compact",
            "min.compaction.lag.ms": str(int(self.config.min_compaction_lag_s * 1000)),
            "delete.retention.ms": str(int(self.config.tombstone_retention_s * 1000)),
            "message.timestamp.type": "LogAppendTime",
        }


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
    if isinstance(cause, KafkaError) and cause.code() in _FORBIDDEN:
        return LogRefused(
            f"Kafka: {cause.str()}",
            where=place,
            hint="give the user the rights that docs/kafka.md lists: on topics, on groups and on "
            "transactional ids",
        )
    return LogError(
        f"Kafka: {mask_url(str(cause))}",
        where=place,
        hint="see log.bootstrap_servers and the broker",
    )


def cause_of(error: Exception) -> int | None:
    """The code of the Kafka error that it was made of."""
    cause = error.__cause__
    return int(cause.args[0].code()) if isinstance(cause, KafkaException) else None


def passes(error: Exception) -> bool:
    """Whether this is a LogError because the brokers were away, and they may come back."""
    return cause_of(error) in _NOT_YET and not isinstance(error, LogRefused)


def _described(future: Future[TopicDescription]) -> tuple[str, int] | None:
    try:
        found = future.result()
    except KafkaException as error:
        if error.args[0].code() not in NO_TOPIC:
            raise
        return None
    return str(found.topic_id), len(found.partitions)


def no_offset(offset: int) -> bool:
    return offset == OFFSET_INVALID or offset < 0
