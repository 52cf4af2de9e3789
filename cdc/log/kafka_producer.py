"""The Kafka log's transactional producer.

An append is one Kafka transaction: the data records, the frontier records with the end offsets,
a flush, the commit. Becoming a producer first fences (init_transactions) and only then reads the
newest frontier (SEMANTICS 6).

Only delivery reports tell where a record was stored (SEMANTICS 3), and waiting for them before the
frontier is sent costs two more round trips. But a topic has one writer, so where its next record
will stand is known since the last transaction's marker became visible. The frontier is sent with
the end offsets that follow from that; if the delivery reports then say otherwise (somebody else
wrote to the topic), the transaction is aborted and done again, with the flush before the frontier.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

from confluent_kafka import KafkaError, KafkaException

from cdc import faults
from cdc.changes import ChangeBatch
from cdc.config import Format
from cdc.errors import Fenced, LogError, LogRefused
from cdc.formats.envelope import NO_DETAILS, Details, Origin
from cdc.frontiers import EndOffsets, Frontier, covers_topic, frontier_key
from cdc.log.api import DeadLetter, TopicSpec
from cdc.log.kafka_client import (
    LETTERS,
    NO_TOPIC,
    REQUEST_TIMEOUT_S,
    Broker,
    kafka_errors,
    translated,
)
from cdc.log.kafka_letters import make_topic, to_value
from cdc.log.kafka_metadata import TransactionTopic
from cdc.log.kafka_oversized import error_of, letter_of, sort_out
from cdc.log.kafka_reader import KafkaReader
from cdc.log.kafka_records import TopicEntry, TopicForm, Version, encoded, writers
from cdc.log.kafka_send import Sender
from cdc.log.kafka_tables import Tables
from cdc.log.kafka_transactions import Described, topic_name
from cdc.log.kafka_unmarked import await_markers, end_open
from cdc.log.librdkafka import Producer
from cdc.log.open_ids import open_ids
from cdc.log.schema_topic import SchemaTopic
from cdc.schema import TableSchema

ABORT_TIMEOUT_S = 5.0
"""The next producer of the name ends what was not aborted by then."""
_NO_CAUSE = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._STATE)
"""What the records hear of a transaction that has failed: purged, or not taken any more."""
ENCODE_ROWS: Mapping[Format, int] = {"avro": 16_384, "json": 8_192}
"""How many changes are encoded at once: some megabytes of records, which are sent while the next
are encoded. More are memory that the kernel has to clear for each part, fewer more calls."""


class KafkaProducer:
    """See cdc.log.api.Producer."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker, self._name = broker, name
        config = broker.config
        self._schemas = SchemaTopic(broker)
        self._tables = Tables(self._schemas)
        self._ids = open_ids(config.schema_registry, config.registry_config, self._schemas)
        self._form = TopicForm.of(config)
        self._letters = broker.name(LETTERS)
        self._producer = fencing_producer(broker, name)
        self._sender = Sender(self._producer)
        self._topics: dict[str, TopicEntry] = {}
        self._ends: dict[str, tuple[int, ...]] = {}
        self._next: dict[tuple[str, int], int] = {}
        """Per topic (with prefix) and partition, where its next record will stand."""
        self._max_bytes: dict[str, int] = {}
        self._whole: dict[str, Frontier] = {}
        self._frontier_topics: set[str] = set()
        self._metadata: TransactionTopic | None = None
        self._last_us = 0
        self._broken = False
        self.epoch = 1
        self._load()

    def _load(self) -> None:
        mine = [entry for entry in self._tables.entries() if entry.producer == self._name]
        there = self._broker.described(sorted({entry.name for entry in mine})) if mine else {}
        topics = {
            entry: described[1]
            for entry in mine
            if (described := there[entry.name]) is not None and described[0] == entry.topic_id
        }
        names = {entry.name: partitions for entry, partitions in topics.items()}
        reader = KafkaReader(self._broker)
        views = {name for name in names if name.startswith("view.")}
        keys = sorted(views | {frontier_key(self._name, self._name)})
        whole = reader.newest_frontiers(keys)
        if end_open(self._broker, self._producer, names | self._others(keys), whole):
            whole = reader.newest_frontiers(keys)
        for entry, partitions in topics.items():
            self._adopt(entry, partitions)
        for key, newest in whole.items():
            if newest is not None:
                self._whole[key] = newest
                self.epoch = max(self.epoch, newest.epoch + 1)
                self._last_us = max(self._last_us, newest.appended_us)
        if self._broker.config.transaction_metadata and not self._name.startswith("view."):
            self._metadata = TransactionTopic(
                self._broker, self._ids, self._name, self._form, reader
            )
        reader.close()

    def _others(self, keys: Sequence[str]) -> dict[str, int]:
        """What else only this producer writes and that is there, with its partitions."""
        names = [*(f"{key}.frontier" for key in keys), topic_name(self._name)]
        found = self._broker.described(names)
        return {name: each[1] for name, each in found.items() if each is not None}

    def _adopt(self, entry: TopicEntry, partitions: int) -> None:
        if entry.form != self._form:
            raise LogRefused(
                f"the topic is written with {entry.form}, the file says {self._form}",
                where=entry.name,
                hint="a key in another form would be another key: set the log back, or "
                f"`cdc remove {self._name}` and start again",
            )
        self._topics[entry.name] = entry
        self._ends[entry.name] = self._broker.end_offsets(entry.name, partitions)
        for number, end in enumerate(self._ends[entry.name]):
            self._next[self._broker.name(entry.name), number] = end
        self._max_bytes[entry.name] = self._broker.record_bytes_max(entry.name)

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        for spec in specs:
            if spec.name in self._topics:
                continue
            settings = self._broker.compacted()
            topic_id, partitions = self._broker.create(spec.name, spec.partitions, settings)
            entry = self._tables.entry(topic_id)
            if entry is None:
                entry = self._claim(spec, topic_id, partitions)
            if entry.name != spec.name:
                raise LogRefused(
                    f"the topic is that of {entry.name}, whose name is the same on the broker",
                    where=spec.name,
                    hint="rename one of the tables, or leave it out of `tables`",
                )
            self._adopt(entry, partitions)

    def _claim(self, spec: TopicSpec, topic_id: str, partitions: int) -> TopicEntry:
        """Register a new topic as ours."""
        ends = self._broker.end_offsets(spec.name, partitions)
        if any(ends):
            raise LogRefused(
                "the topic has records that are not ours",
                where=self._broker.name(spec.name),
                hint="remove it, or set log.topic_prefix",
            )
        origin = Origin(self._name, spec.database, version("cdc-views"), spec.connector)
        entry = TopicEntry(spec.name, topic_id, self._name, self._form, origin)
        return self._register(entry, spec.schema, ends)

    def _register(
        self, entry: TopicEntry, schema: TableSchema, starts: tuple[int, ...]
    ) -> TopicEntry:
        """The topic with one more version, registered first with the schema registry."""
        key_id = value_id = -1
        if entry.form.format == "avro":
            subject = self._broker.name(entry.name)
            found = writers(subject, schema, entry)
            key_id = self._ids.register(f"{subject}-key", found.key)
            value_id = self._ids.register(f"{subject}-value", found.value)
            _check_key_id(entry, key_id)
        return self._tables.publish(entry, Version(schema, starts, key_id, value_id))

    def set_schema(self, topic: str, schema: TableSchema) -> None:
        entry = self._known(topic)
        known = entry.versions.get(schema.version)
        if known is not None and known.schema == schema:
            return
        newest = entry.newest.schema.version
        if schema.version <= newest:
            raise LogError(
                f"schema version {schema.version} is not newer than {newest}", where=topic
            )
        self._topics[topic] = self._register(entry, schema, self._ends[topic])

    def append(
        self, batches: Sequence[tuple[str, ChangeBatch]], frontiers: Sequence[Frontier] = ()
    ) -> EndOffsets:
        for topic, changes in batches:
            known = self._known(topic).versions.get(changes.schema.version)
            if known is None or known.schema != changes.schema:
                raise LogError(
                    f"schema version {changes.schema.version} was not registered in this form",
                    where=topic,
                    hint="call set_schema before appending",
                )
        appended_us = max(time.time_ns() // 1000, self._last_us + 1)
        keys = [frontier_key(self._name, frontier.name) for frontier in frontiers]
        for key in keys:
            self._make_frontier_topic(key)
        try:
            return self._appended(batches, frontiers, keys, appended_us, expecting=True)
        except _StoredElsewhere:
            return self._appended(batches, frontiers, keys, appended_us, expecting=False)

    def _appended(
        self,
        batches: Sequence[tuple[str, ChangeBatch]],
        frontiers: Sequence[Frontier],
        keys: Sequence[str],
        appended_us: int,
        *,
        expecting: bool,
    ) -> EndOffsets:
        """One transaction. Raises _StoredElsewhere when it was aborted because the end offsets
        are not those that were expected."""
        with self._transaction():
            described = self._send_all(batches, frontiers, appended_us)
            if expecting:
                ends = self._expected_ends()
            else:
                self._flush()
                ends = self._ends_after()
            filled = [
                (key, self._filled(key, frontier, ends, appended_us))
                for key, frontier in zip(keys, frontiers, strict=True)
            ]
            for key, frontier in filled:
                topic = self._broker.name(f"{key}.frontier")
                self._sender.send_one(topic, frontier.name.encode(), frontier.to_json())
            self._flush()
            if self._ends_after() != ends:
                raise _StoredElsewhere
            faults.point("log.append.before_commit")
        faults.point("log.append.after_commit")
        self._await_markers()
        # Behind the last record stands the commit's marker.
        self._next |= {at: last + 2 for at, last in self._sender.delivered.items()}
        self._ends, self._last_us = ends, appended_us
        self._whole.update(filled)
        if self._metadata is not None and described is not None:
            self._metadata.committed(described)
        return ends

    def _send_all(
        self,
        batches: Sequence[tuple[str, ChangeBatch]],
        frontiers: Sequence[Frontier],
        now_us: int,
    ) -> Described | None:
        found = None if self._metadata is None else self._metadata.describe(batches, frontiers)
        details = [NO_DETAILS] * len(batches) if found is None else found.details
        letters = [
            letter
            for (topic, changes), more in zip(batches, details, strict=True)
            for letter in self._send(topic, changes, now_us, more)
        ]
        if letters:
            make_topic(self._broker)
        for letter in letters:
            self._sender.send_one(self._letters, None, to_value(letter))
        if self._metadata is not None and found is not None:
            self._metadata.send(self._sender, found)
        return found

    def _send(
        self, topic: str, changes: ChangeBatch, now_us: int, details: Details
    ) -> list[DeadLetter]:
        """Encode and send changes; the letters for those that are too large."""
        entry, name, most = self._topics[topic], self._broker.name(topic), self._max_bytes[topic]
        letters = []
        rows = ENCODE_ROWS[self._form.format]
        for start in range(0, changes.num_rows, rows):
            part, more = changes.slice(start, rows), details.slice(start, rows)
            records = encoded(entry, name, part, now_us, more)
            found = sort_out(records, most)
            for at in found.oversized.tolist():
                if self._broker.config.oversized == "stop":
                    raise error_of(records, at, topic, most)
                letters.append(letter_of(records, at, topic, self._name, most))
            self._sender.send(name, found.fitting, len(self._ends[topic]))
        return letters

    def _await_markers(self) -> None:
        """Return once readers see the transaction; the next one would have to wait for it anyway.
        Letters lie in a topic of many producers, and wait for all of them."""
        mine = {at: last for at, last in self._sender.delivered.items() if at[0] != self._letters}
        self._broken = True
        await_markers(self._broker, mine)
        self._broken = False

    def _filled(self, key: str, frontier: Frontier, ends: EndOffsets, appended_us: int) -> Frontier:
        mine = {topic: at for topic, at in ends.items() if covers_topic(key, topic)}
        if frontier.whole:
            return replace(frontier, end_offsets=mine, epoch=self.epoch, appended_us=appended_us)
        whole = self._whole.get(key)
        return replace(
            frontier,
            end_offsets=dict(whole.end_offsets) if whole else {},
            epoch=self.epoch,
            appended_us=whole.appended_us if whole else 0,
            part_ends=mine,
        )

    def _expected_ends(self) -> dict[str, tuple[int, ...]]:
        """Last record + 1 per partition, if all goes where the last transaction ended."""
        sent = self._sender.sent.items()
        return self._ends_with({at: self._next[at] + n for at, n in sent if at in self._next})

    def _ends_after(self) -> dict[str, tuple[int, ...]]:
        """Last record + 1 per partition, from this transaction's delivery reports."""
        return self._ends_with({at: last + 1 for at, last in self._sender.delivered.items()})

    def _ends_with(self, moved: Mapping[tuple[str, int], int]) -> dict[str, tuple[int, ...]]:
        """The end offsets, with those that moved."""
        found = {}
        for topic, ends in self._ends.items():
            name = self._broker.name(topic)
            found[topic] = tuple(moved.get((name, at), end) for at, end in enumerate(ends))
        return found

    def _make_frontier_topic(self, key: str) -> None:
        if key not in self._frontier_topics:
            self._broker.create(f"{key}.frontier", 1, self._broker.compacted())
            self._frontier_topics.add(key)

    def _flush(self) -> None:
        """Wait until every record is written, looking out for topics that are gone: the client
        would wait for them to come back."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while self._sender.flush(1.0):
            self._check_topics()
            if time.monotonic() > deadline:
                raise LogError("the broker does not take the records", where=self._name)
        if self._sender.refused:
            raise self._why_refused()

    def _check_topics(self) -> None:
        mine = [*self._topics, *(f"{key}.frontier" for key in self._frontier_topics)]
        if self._metadata is not None:
            mine.append(topic_name(self._name))
        gone = [topic for topic, found in self._broker.described(mine).items() if found is None]
        if gone:
            raise LogError("the topic was removed", where=", ".join(gone))

    def _why_refused(self) -> KafkaException:
        """Why records of the open transaction were not written. One that fails takes the records
        that still wait with it, and their delivery reports name only that purge; the commit of
        such a transaction fails with its cause. Raises LogError when a topic is gone."""
        causes = [error for error in self._sender.refused if error.code() not in _NO_CAUSE]
        if not causes or causes[0].code() in NO_TOPIC:
            self._check_topics()
        if causes:
            return KafkaException(causes[0])
        try:
            self._producer.commit_transaction(REQUEST_TIMEOUT_S)
        except KafkaException as error:
            return error
        return KafkaException(self._sender.refused[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._broken:
            raise LogError(
                "an earlier append failed; this producer has stopped",
                where=self._name,
                hint="start the connector again",
            )
        self._sender.begin()
        self._broken = True
        try:
            self._producer.begin_transaction()
            yield
            self._producer.commit_transaction(REQUEST_TIMEOUT_S)
        except (KafkaException, LogError) as error:
            impossible = self._abort()
            if isinstance(error, LogError) and not isinstance(impossible, Fenced):
                raise
            cause = error if isinstance(error, KafkaException) else error.__cause__
            if isinstance(cause, KafkaException) and not isinstance(impossible, Fenced):
                raise translated(cause, self._name) from error
            raise impossible or error from error
        except _StoredElsewhere as error:
            cause = self._abort()
            if cause is not None:
                raise translated(cause, self._name) from error
            self._broken = False
            raise
        except BaseException:
            self._abort()
            raise
        self._broken = False

    def _abort(self) -> LogError | None:
        """Abort the transaction; why that is impossible. A fenced producer hears of it only here:
        its records are purged, and their delivery reports name the purge."""
        try:
            self._sender.give_up(ABORT_TIMEOUT_S)
            self._producer.abort_transaction(ABORT_TIMEOUT_S)
        except KafkaException as cause:
            return translated(cause, self._name)
        return None

    def _known(self, topic: str) -> TopicEntry:
        try:
            return self._topics[topic]
        except KeyError:
            raise LogError(f"'{self._name}' has no such topic", where=topic) from None

    def close(self) -> None:
        self._ids.close()
        self._schemas.close()
        self._producer.close()


class _StoredElsewhere(Exception):
    """Records of the open transaction do not stand where they were expected."""


def fencing_producer(broker: Broker, name: str) -> Producer:
    """A transactional producer; when this returns, every older one of the name is fenced."""
    broker.reach()
    producer = broker.producer({"transactional.id": broker.name(name)})
    with kafka_errors(name):
        producer.init_transactions(REQUEST_TIMEOUT_S)
    return producer


def _check_key_id(entry: TopicEntry, key_id: int) -> None:
    """The key's schema is pinned: under another id the same key would be another (SEMANTICS 10)."""
    if entry.versions and entry.newest.key_id != key_id:
        raise LogRefused(
            f"the key's schema would change (id {entry.newest.key_id} to {key_id})",
            where=entry.name,
            hint=f"`cdc remove {entry.producer}` and start again: its topics are made anew",
        )
