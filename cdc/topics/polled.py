"""Topics without frontiers as a Source: cuts are polls. See cdc.source for the contract.

There is no database to take a snapshot of. Its part is played by what stands in the topics at the
start: it is read from the beginning, in pieces that are no cut, so that nobody sees half of it.
From then on each poll is one transaction, whole: the records of all topics that had arrived. What
was one transaction in the database may be seen in two polls; that is all a topic can tell.

The position is the offset up to which each partition has been read. History continues only in the
very topics (by their ids) that it began in, and where every record after the position still is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from confluent_kafka.admin import OffsetSpec

from cdc.changes import ChangeBatch, D
from cdc.errors import BadData, SlotError, SourceUnavailable
from cdc.frontiers import Frontier
from cdc.log.kafka_records import Fetched
from cdc.log.open_ids import open_ids
from cdc.log.schema_ids import SchemaIds
from cdc.log.schema_topic import SchemaTopic
from cdc.positions import NativePosition, TopicOffsets
from cdc.schema import TableSchema
from cdc.source import History, Piece, Progress
from cdc.topics.brokers import Topic, TopicsBroker
from cdc.topics.decode import TopicDecoder
from cdc.topics.described import Described, Settings, described
from cdc.topics.evolution import extended
from cdc.topics.poll import Partition, Polled, Poller, lost

LOOK_EVERY_S = 5.0
SNAPSHOT_WAIT_S = 0.5
IDS = "topic_ids"
"""In a frontier's notes: the id of each topic."""


class PolledTopics:
    """See cdc.source.Source."""

    def __init__(self, broker: TopicsBroker, progress: Progress) -> None:
        self.name, self.broker, self._kafka = broker.name, broker, broker.config
        self.progress = progress
        self._chosen: dict[str, str] | None = None
        self._topics: list[Topic] = []
        self._found: dict[str, Described] = {}
        self._ids: SchemaIds | None = None
        self._decoders: dict[str, TopicDecoder] = {}
        self._poller: Poller | None = None
        self._kept: dict[str, tuple[int, ...]] = {}
        self._deleted: dict[Partition, bytes | None] = {}
        self._looked_s = 0.0

    def tables(self) -> Mapping[str, TableSchema]:
        topics = {table: topic for topic, table in self.names().items()}
        return _Tables(topics, lambda topic: self.described_as(topic).table)

    def names(self) -> dict[str, str]:
        """The topics, and the table of each."""
        if self._chosen is None:
            self._chosen = self.broker.topics()
        return self._chosen

    def described_as(self, topic: str) -> Described:
        """What the topic's newest record says. Raises SourceError, ConfigError."""
        found = self._looked_at(topic)
        if found is None:
            raise SourceUnavailable(
                "the topic has no record yet, so that its columns are unknown",
                where=topic,
                hint="they are known when its first record is there",
            )
        return found

    def _looked_at(self, topic: str) -> Described | None:
        """The same; None: the topic is empty."""
        if topic not in self._found:
            (now,) = self.broker.described([topic])
            ends = self.broker.offsets([now], OffsetSpec.latest())
            newest = self.broker.newest(now)  # after `ends`: nothing before them is newer
            key, value = newest or (None, None)
            found = described(self.settings(topic), key, value, self.schema_of_id)
            if found is None:
                return None
            self._found[topic] = replace(found, ends=ends.offsets[0][1])
        return self._found[topic]

    def settings(self, topic: str) -> Settings:
        return Settings(topic, self.names()[topic], self.name, self._kafka)

    def schema_of_id(self, schema_id: int) -> str:
        """The Avro schema with this id."""
        if self._ids is None:
            registry = self._kafka.schema_registry
            home = None if registry else self.broker.schemas_of(list(self.names()))
            topic = SchemaTopic(home or self.broker.broker)
            self._ids = open_ids(registry, self._kafka.registry_config, topic)
        return self._ids.schema(schema_id)

    def decoders(self) -> Mapping[str, TopicDecoder]:
        """What reads each topic."""
        for topic in self.names():
            if topic not in self._decoders:
                found = self.described_as(topic)
                self._decoders[topic] = TopicDecoder(self.settings(topic), found, self.schema_of_id)
        return self._decoders

    def open(
        self,
        frontier: Frontier | None,
        schemas: Mapping[str, TableSchema] | None = None,
        history: History | None = None,
    ) -> None:
        self._topics = self.broker.described(list(self.names()))
        for topic, table in self.names().items():
            known = (schemas or {}).get(table)
            if known is not None:
                found = self._looked_at(topic) or Described(known, enveloped=True)
                now = extended(known, found.table, self.name)
                self._found[topic] = replace(found, table=now)
        self._decoders = {}
        self.decoders()
        if frontier is not None and frontier.positions:
            self._check_continues(frontier)

    def _check_continues(self, frontier: Frontier) -> None:
        cluster = self.broker.cluster()
        if frontier.identity != cluster:
            raise SlotError(
                f"the brokers are of cluster {cluster}, and the log continues topics of "
                f"{frontier.identity}",
                where=self.name,
                hint=f"cdc remove {self.name}, then cdc run reads the topics anew",
            )
        self._check_ids(frontier.resume.get(IDS) or {}, self._topics)
        reached = _offsets(frontier.positions[self.name])
        first = self.broker.offsets(self._topics, OffsetSpec.earliest())
        last = self.broker.offsets(self._topics, OffsetSpec.latest())
        there = dict(reached.offsets)
        for (topic, begins), (_, ends) in zip(first.offsets, last.offsets, strict=True):
            for number, at in enumerate(there.get(topic, ())):
                if at < begins[number]:
                    raise lost(f"{topic}/{number}", at, self.name)
                if at > ends[number]:
                    raise self._behind(f"{topic}/{number}", at, ends[number])
        self._check_deletes_kept(there)

    def _check_deletes_kept(self, there: Mapping[str, tuple[int, ...]]) -> None:
        """A compacted topic forgets that a row was deleted. Where a record that was not read is
        older than the tombstones' retention, there may have been a delete that is gone."""
        now_ms = time.time_ns() // 1_000_000
        settings = self.broker.settings([topic.name for topic in self._topics])
        for topic in self._topics:
            mine = settings[topic.name]
            if "compact" not in mine["cleanup.policy"].split(","):
                continue
            since = OffsetSpec.for_timestamp(max(0, now_ms - int(mine["delete.retention.ms"])))
            ((_, young),) = self.broker.offsets([topic], since).offsets
            ((_, ends),) = self.broker.offsets([topic], OffsetSpec.latest()).offsets
            for number, at in enumerate(there.get(topic.name, ())):
                if at < (young[number] if young[number] >= 0 else ends[number]):
                    raise SlotError(
                        "records that were not read are older than delete.retention.ms "
                        f"({mine['delete.retention.ms']}): compaction may have taken deletes",
                        where=f"{topic.name}/{number}",
                        hint=f"cdc remove {self.name}, then cdc run reads the topics anew",
                    )

    def _check_ids(self, known: Mapping[str, str], topics: Sequence[Topic]) -> None:
        for topic in topics:
            if known.get(topic.name, topic.topic_id) != topic.topic_id:
                raise SlotError(
                    "the topic was removed and made anew",
                    where=topic.name,
                    hint=f"cdc remove {self.name}, then cdc run reads the topics anew",
                )

    def _behind(self, place: str, reached: int, end: int) -> SlotError:
        return SlotError(
            f"the topic ends at offset {end}, and it was read up to {reached}",
            where=place,
            hint="the broker lost records that it had committed: "
            f"cdc remove {self.name}, then cdc run reads the topics anew",
        )

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        """Everything that is in the topics now, from the beginning."""
        ends = self.broker.offsets(self._topics, OffsetSpec.latest())
        poller = self._assigned(
            self.broker.offsets(self._topics, OffsetSpec.earliest()) if tables else ends
        )
        counted = _Counted()
        while not poller.position.covers(ends):
            before = poller.position
            polled = poller.poll(SNAPSHOT_WAIT_S, max_piece_bytes)
            self._look()
            for piece in self._pieces(polled, before, counted):
                yield self._part(piece, tables, counted)
            if not polled.records:  # the agent may have been told to stop
                yield self._part(Piece((), 0, before, 0), tables, counted)
            self._tell(counted, ends)
        position = self._position()
        yield Piece(
            (), 1, position, counted.commit_us, resume=self._notes(), reconcile=tuple(tables)
        )
        self._tell(counted, ends, done=True)

    def _part(self, piece: Piece, tables: Sequence[str], counted: _Counted) -> Piece:
        """A piece of the one transaction that the snapshot is."""
        return replace(
            piece, transactions=0, whole=False, incomplete=tuple(tables), ordinal=counted.rows
        )

    def _tell(self, counted: _Counted, ends: TopicOffsets, done: bool = False) -> None:
        totals = {topic: sum(at) for topic, at in ends.offsets}
        for topic, table in self.names().items():
            rows = counted.by_table.get(table, 0)
            facts = {"table": table, "table_rows": rows, "table_rows_total": totals.get(topic)}
            self.progress(**facts, **({"table_done": True} if done else {}))

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        reached = _offsets(frontier.positions[self.name])
        self._kept = dict(reached.offsets)
        poller = self._poller or self._assigned(self._from(reached))
        while True:
            before = poller.position
            polled = poller.poll(max_wait_s, max_piece_bytes)
            self._look()
            if polled.records:
                yield from self._pieces(polled, before)
            else:
                # Whoever waits for the end of a topic waits behind its last marker, too.
                moved = polled.moved and poller.position != before
                yield Piece((), 0, self._position(), 0, resume=self._notes(), barrier=moved)

    def _from(self, reached: TopicOffsets) -> TopicOffsets:
        """Where to go on in each partition; in new ones, from the beginning."""
        there = dict(reached.offsets)
        found = {}
        for topic in self._topics:
            known = there.get(topic.name, ())
            found[topic.name] = (*known, *(0,) * (topic.partitions - len(known)))
        return TopicOffsets.of(found)

    def _assigned(self, start: TopicOffsets) -> Poller:
        self._poller = Poller(self.broker.consumer(), self.name)
        self._poller.assign(start)
        self._looked_s = time.monotonic()
        return self._poller

    def _position(self) -> TopicOffsets:
        assert self._poller is not None
        return TopicOffsets.of({**self._kept, **dict(self._poller.position.offsets)})

    def _notes(self) -> dict[str, object]:
        return {IDS: {topic.name: topic.topic_id for topic in self._topics}}

    def _look(self) -> None:
        """Now and then: are the topics those that they were, and have they more partitions?"""
        if time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return
        now = self.broker.described([topic.name for topic in self._topics])
        self._check_ids({topic.name: topic.topic_id for topic in self._topics}, now)
        if now != self._topics and self._poller is not None:
            self._topics = now
            self._poller.assign(self._from(self._poller.position))
        self._looked_s = time.monotonic()

    def _pieces(
        self, polled: Polled, before: TopicOffsets, together: _Counted | None = None
    ) -> Iterator[Piece]:
        """One piece, but for a TRUNCATE: it stands between the piece before and the one after.
        `together`: all are of one transaction, which is numbered by it."""
        assert self._poller is not None
        schemas = self._learn(polled)
        rest = {at: self._less_repeated(at, part) for at, part in polled.records.items()}
        here, end = _flat(before), _flat(self._poller.position)
        while rest:  # once, unless there is a TRUNCATE
            counted = together or _Counted()
            cuts = {at: self._cut(at, part) for at, part in rest.items()}
            changes = self._changes(rest, cuts, counted)
            for at, part in rest.items():
                here[at] = int(part.offsets[cuts[at]]) if cuts[at] < len(part) else end[at]
            truncated = [at for at, part in rest.items() if cuts[at] < len(part)]
            if changes or schemas or not truncated:
                yield self._piece(changes, here, schemas, counted)
            for at in truncated:
                yield self._truncated(at, here)
                here[at] += 1
                yield self._piece((), here, {}, counted, transactions=1)
            rest = {
                at: part.slice(cuts[at] + 1, len(part))
                for at, part in rest.items()
                if cuts[at] + 1 < len(part)
            }
            schemas = {}

    def _learn(self, polled: Polled) -> dict[str, TableSchema]:
        """The tables that these records extend."""
        found = {}
        for (topic, number), part in polled.records.items():
            decoder = self._decoders[topic]
            known = decoder.table
            decoder.learn(number, part)
            if decoder.table is not known:
                found[decoder.table.name] = decoder.table
        return found

    def _less_repeated(self, at: Partition, part: Fetched) -> Fetched:
        """Without the tombstone of a delete that the last poll ended with."""
        key = self._deleted.pop(at, None)
        repeated = key is not None and part.keys[0].as_py() == key and not part.values[0].is_valid
        return part.slice(1, len(part)) if repeated else part

    def _cut(self, at: Partition, part: Fetched) -> int:
        """Before its first TRUNCATE."""
        found = self._decoders[at[0]].truncates(part)
        if not len(found):
            return len(part)
        if sum(partition == at[0] for partition, _ in _flat(self._position())) > 1:
            raise BadData(
                "a TRUNCATE in a topic of several partitions: which rows of the others came after "
                "it cannot be known",
                where=f"{at[0]}/{at[1]}/{part.offsets[found[0]]}",
                hint="give the topic one partition, or leave truncates out (Debezium's "
                "skipped.operations)",
            )
        return int(found[0])

    def _changes(
        self, parts: Mapping[Partition, Fetched], cuts: Mapping[Partition, int], counted: _Counted
    ) -> tuple[tuple[str, ChangeBatch], ...]:
        found = []
        for at in sorted(parts):
            part = parts[at].slice(0, cuts[at])
            if not len(part):
                continue
            decoder = self._decoders[at[0]]
            for one in decoder.decode(at[1], part):
                if one.changes.num_rows:
                    found.append((decoder.table.name, counted.numbered(one.changes)))
                    self._note_delete(at, part, int(one.record[-1]), int(one.changes.op[-1]))
        return tuple(found)

    def _note_delete(self, at: Partition, part: Fetched, record: int, op: int) -> None:
        last = len(part) - 1
        if op == D and record == last and part.values[last].is_valid:
            self._deleted[at] = part.keys[last].as_py()

    def _piece(
        self,
        changes: tuple[tuple[str, ChangeBatch], ...],
        here: Mapping[Partition, int],
        schemas: Mapping[str, TableSchema],
        counted: _Counted,
        transactions: int | None = None,
    ) -> Piece:
        return Piece(
            changes,
            int(bool(changes)) if transactions is None else transactions,
            TopicOffsets.of({**self._kept, **_nested(here)}),
            counted.commit_us,
            resume=self._notes(),
            schemas=schemas,
            barrier=not changes,
        )

    def _truncated(self, at: Partition, here: Mapping[Partition, int]) -> Piece:
        position = TopicOffsets.of({**self._kept, **_nested(here)})
        table = self.names()[at[0]]
        return Piece((), 0, position, 0, whole=False, resume=self._notes(), truncated=(table,))

    def acknowledge(self, position: NativePosition) -> None:
        self.broker.show(_offsets(position))

    def current_position(self) -> TopicOffsets:
        topics = self.broker.described(list(self.names()))
        return self.broker.offsets(topics, OffsetSpec.latest())

    def close(self) -> None:
        if self._poller is not None:
            self._poller.close()
            self._poller = None
        self.broker.close()
        if self._ids is not None:
            self._ids.close()
            self._ids = None


class _Tables(Mapping[str, TableSchema]):
    """The tables' schemas, looked for in the topics when they are asked for."""

    def __init__(self, topics: Mapping[str, str], schema_of: Callable[[str], TableSchema]) -> None:
        self._topics, self._schema_of = topics, schema_of

    def __getitem__(self, table: str) -> TableSchema:
        return self._schema_of(self._topics[table])

    def __iter__(self) -> Iterator[str]:
        return iter(self._topics)

    def __len__(self) -> int:
        return len(self._topics)


class _Counted:
    """Numbers the changes of one transaction, over all tables."""

    def __init__(self) -> None:
        self.rows = 0
        self.commit_us = 0
        self.by_table: dict[str, int] = {}

    def numbered(self, changes: ChangeBatch) -> ChangeBatch:
        count, table = changes.num_rows, changes.schema.name
        found = changes.numbered(self.rows)
        self.rows += count
        self.by_table[table] = self.by_table.get(table, 0) + count
        self.commit_us = max(self.commit_us, int(changes.commit_us.max()))
        return found


def _offsets(position: NativePosition) -> TopicOffsets:
    assert isinstance(position, TopicOffsets)
    return position


def _flat(position: TopicOffsets) -> dict[Partition, int]:
    return {(topic, n): at for topic, ends in position.offsets for n, at in enumerate(ends)}


def _nested(flat: Mapping[Partition, int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for (topic, _), at in sorted(flat.items()):
        found.setdefault(topic, []).append(at)
    return found
