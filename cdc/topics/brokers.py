"""What a source of topics asks of its broker, in our errors."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer as Committer
from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, OffsetSpec

from cdc.config import LogConfig, SourceConfig, TopicsConfig
from cdc.config_kafka import table_of
from cdc.errors import LogError, SourceError, SourceUnavailable, mask_url
from cdc.log.kafka_client import REQUEST_TIMEOUT_S, SCHEMAS, Broker, kafka_errors
from cdc.log.kafka_ranges import fetch
from cdc.log.librdkafka_consumer import Consumer
from cdc.positions import TopicOffsets
from cdc.topics.poll import Partition, gone

_GLOB = re.compile(r"[*?\[]")
_NO_TABLES = ("__*", "*cdc.schemas", "*.frontier", "*.transaction", "*dead-letters")
"""What a glob never means: internal topics, a log's own, Debezium's heartbeats and transactions."""
_TAIL = 64
ANSWER_TIMEOUT_S = 10.0
SHOW_EVERY_S = 1.0
_TUNING = {
    "fetch.wait.max.ms": 10,
    "fetch.min.bytes": 1,
    # A reader that has caught up with its queue would sleep for a second by default.
    "fetch.queue.backoff.ms": 1,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 32_768,
}


@dataclass(frozen=True)
class Topic:
    """A topic as it is now; another `topic_id` is another topic."""

    name: str
    topic_id: str
    partitions: int


class TopicsBroker:
    """The broker of one source. `group` is under what name its progress is shown to others."""

    def __init__(self, config: SourceConfig, group: str) -> None:
        assert config.topics is not None
        self.name, self.patterns, self.config = config.name, config.tables, config.topics
        self.group = group
        self.broker = Broker(log_config(config.topics))
        self._committer: Committer | None = None
        self._shown_s = 0.0

    def names_there(self) -> list[str]:
        """All topics of the broker. Raises SourceUnavailable."""
        with asking(self.name):
            return sorted(self.broker.admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics)

    def topics(self) -> dict[str, str]:
        """The topics that are read, and the table of each. Raises SourceError."""
        found = chosen(self.names_there(), self.patterns, self.name)
        tables: dict[str, str] = {}
        for topic, table in found.items():
            if table in tables:
                raise SourceError(
                    f"'{topic}' and '{tables[table]}' would both be the table {table}",
                    where=self.name,
                    hint="give each a source of its own",
                )
            tables[table] = topic
        return found

    def cluster(self) -> str:
        with asking(self.name):
            metadata = self.broker.admin.list_topics(timeout=ANSWER_TIMEOUT_S)
        return str(metadata.cluster_id)

    def described(self, topics: Sequence[str]) -> list[Topic]:
        """The topics as they are. Raises SlotError when one is gone."""
        with asking(self.name):
            futures = self.broker.admin.describe_topics(
                TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT_S
            )
            found = []
            for name in topics:
                try:
                    one = futures[name].result()
                except KafkaException as error:
                    if self.broker.describe(name) is None:
                        raise gone(name, self.name) from error
                    raise
                found.append(Topic(name, str(one.topic_id), len(one.partitions)))
        return found

    def offsets(self, topics: Sequence[Topic], spec: OffsetSpec) -> TopicOffsets:
        """An offset of every partition: the beginning, or the end of what is committed."""
        found = self._listed(topics, spec)
        return TopicOffsets.of(
            {t.name: [found[t.name, number][0] for number in range(t.partitions)] for t in topics}
        )

    def _listed(
        self, topics: Sequence[Topic], spec: OffsetSpec
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """Per topic and partition, an offset, and the timestamp there if it was asked for."""
        wanted = {TopicPartition(t.name, n): spec for t in topics for n in range(t.partitions)}
        with asking(self.name):
            futures = self.broker.admin.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            found = {(at.topic, at.partition): future.result() for at, future in futures.items()}
        return {at: (one.offset, one.timestamp) for at, one in found.items()}

    def newest(self, topic: Topic) -> tuple[bytes | None, bytes] | None:
        """Key and value of the newest record that has a value, by its timestamp; None: there is
        none."""
        newest = self._listed([topic], OffsetSpec.max_timestamp())
        first = self._listed([topic], OffsetSpec.earliest())
        ends = self._listed([topic], OffsetSpec.latest())
        order = sorted(newest, key=lambda at: newest[at][1], reverse=True)
        reader = self.consumer()
        try:
            for at in order:
                found = self._last(reader, at, first[at][0], ends[at][0])
                if found is not None:
                    return found
        finally:
            reader.close()
        return None

    def _last(
        self, reader: Consumer, at: Partition, first: int, end: int
    ) -> tuple[bytes | None, bytes] | None:
        """The last record with a value, looked for from the end backwards."""
        stop, span = end, _TAIL
        while stop > first:
            start = max(first, stop - span)
            with asking(self.name):
                for records in reversed(list(fetch(reader, *at, start, stop))):
                    valid = np.flatnonzero(records.values.is_valid())
                    if len(valid):
                        last = int(valid[-1])
                        return records.keys[last].as_py(), records.values[last].as_py()
            stop, span = start, span * 8
        return None

    def consumer(self) -> Consumer:
        """A reader of committed records that never goes anywhere by itself."""
        settings = {
            "bootstrap.servers": self.config.bootstrap_servers,
            **_TUNING,
            **self.config.config,
            "group.id": self.group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
        return Consumer(settings)

    def show(self, position: TopicOffsets) -> None:
        """Show how far we are as the consumer group's offsets, once a second: nothing here depends
        on them."""
        if time.monotonic() - self._shown_s < SHOW_EVERY_S:
            return
        self._committer = self._committer or self.broker.committer(self.group)
        offsets = [
            TopicPartition(topic, number, at)
            for topic, ends in position.offsets
            for number, at in enumerate(ends)
        ]
        self._committer.commit(offsets=offsets, asynchronous=True)
        self._committer.poll(0)
        self._shown_s = time.monotonic()

    def close(self) -> None:
        if self._committer is not None:
            self._committer.close()
            self._committer = None

    def settings(self, topics: Sequence[str]) -> dict[str, Mapping[str, str]]:
        """Each topic's settings, defaults too."""
        asked = {topic: ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics}
        with asking(self.name):
            futures = self.broker.admin.describe_configs(
                list(asked.values()), request_timeout=REQUEST_TIMEOUT_S
            )
            found = {topic: futures[resource].result() for topic, resource in asked.items()}
        return {
            topic: {name: str(entry.value) for name, entry in one.items()}
            for topic, one in found.items()
        }

    def schemas_of(self, topics: Sequence[str]) -> Broker:
        """Where `cdc.schemas` of the log that wrote these topics is. Raises SourceError."""
        with asking(self.name):
            there = self.broker.admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics
        prefixes = [
            name.removesuffix(SCHEMAS)
            for name in there
            if name.endswith(SCHEMAS)
            and all(topic.startswith(name.removesuffix(SCHEMAS)) for topic in topics)
        ]
        if not prefixes:
            raise SourceError(
                "the topics' Avro schemas are unknown: the broker has no topic cdc.schemas",
                where=self.name,
                hint="set `schema_registry`, or `format: json` if the records are JSON",
            )
        return Broker(log_config(self.config, max(prefixes, key=len)))

    def remove_group(self) -> list[str]:
        """Forget the progress that is shown to others; what was removed."""
        future = self.broker.admin.delete_consumer_groups(
            [self.group], request_timeout=REQUEST_TIMEOUT_S
        )[self.group]
        try:
            future.result()
        except KafkaException:  # there was none, or somebody reads in its name
            return []
        return [f"consumer group {self.group}"]


def chosen(there: Sequence[str], patterns: Sequence[str], source: str) -> dict[str, str]:
    """The topics among `there` that are named or meant by a glob, with their tables. SourceError
    for a pattern that means none."""
    found: dict[str, str] = {}
    for pattern in patterns:
        if _GLOB.search(pattern):
            names = [name for name in there if fnmatchcase(name, pattern) and _may_be_table(name)]
        else:
            names = [pattern] if pattern in there else []
        if not names:
            raise SourceError(
                f"there is no topic '{pattern}'",
                where=source,
                hint="whoever writes it has not begun, or the name is misspelt",
            )
        found |= {name: table_of(name) for name in names}
    return dict(sorted(found.items()))


def _may_be_table(topic: str) -> bool:
    return not any(fnmatchcase(topic, pattern) for pattern in _NO_TABLES)


def log_config(config: TopicsConfig, prefix: str = "") -> LogConfig:
    """The connection as a log's."""
    return LogConfig(
        "kafka",
        Path(),
        bootstrap_servers=config.bootstrap_servers,
        topic_prefix=prefix,
        config=config.config,
    )


@contextmanager
def asking(source: str) -> Iterator[None]:
    """A broker that does not answer may do so later."""
    try:
        with kafka_errors(source):
            yield
    except LogError as error:
        raise SourceUnavailable(
            mask_url(error.what),
            where=error.where or source,
            hint="see `bootstrap_servers` of the source, and the broker",
        ) from error
