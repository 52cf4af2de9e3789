"""Reading the Kafka log: committed records, by assignment, up to a position (SEMANTICS 3).

Commit markers occupy offsets and the last record below an end offset may have been aborted or
compacted away: a partition is read up to E when the consumer's position has passed it, or at the
partition's end, never by seeing a certain offset.

Every question to the broker costs a millisecond, so little is asked between a frontier's arrival
and its records: topics' descriptions are looked at again while a reader waits, and what a frontier
says of a topic, where it ends and with which version of its columns, needs no confirmation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from cdc.changes import ChangeBatch, concat_rows
from cdc.errors import LogError
from cdc.frontiers import Frontier
from cdc.log.api import DeadLetter, Horizon, LogBatch
from cdc.log.kafka_client import LETTERS, NO_TOPIC, Broker, Kept, cause_of
from cdc.log.kafka_fetch import Fetcher
from cdc.log.kafka_letters import read_letter
from cdc.log.kafka_records import Fetched, TopicEntry, decoded, together
from cdc.log.kafka_tables import Tables
from cdc.log.kafka_wait import Waiter
from cdc.log.open_ids import open_ids
from cdc.log.schema_topic import SchemaTopic
from cdc.schema import TableSchema

DECODE_ROWS = 16_384
DECODE_BYTES = 8 << 20
"""How many records are decoded at once: many enough for what a step costs whatever its size, few
enough for the processor's cache."""
ASK_FOR_SETTINGS_EVERY_S = 60.0
DESCRIBE_EVERY_S = 1.0
_NEVER_S = float("-inf")
_TAIL = 64
_SPAN_MAX = 65_536


class KafkaReader:
    """See cdc.log.api.Reader."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        config = broker.config
        self._schemas = SchemaTopic(broker)
        self._tables = Tables(self._schemas)
        self._ids = open_ids(config.schema_registry, config.registry_config, self._schemas)
        self._waiter = Waiter(broker)
        self._fetcher = Fetcher(broker)
        self._newest: dict[str, tuple[str, int, Frontier | None]] = {}
        self._kept_for: dict[str, tuple[float, Kept]] = {}
        self._known: dict[str, tuple[float, tuple[str, int]]] = {}
        """Per topic that was asked for, when it was last described while the reader waited; its id
        and partitions."""
        self._announced: dict[str, tuple[int, tuple[int, ...]]] = {}
        """Per topic, what the newest frontier said: its version, where it ends."""

    def topics(self) -> list[str]:
        entries = self._tables.entries()
        names, ids = sorted({entry.name for entry in entries}), {e.topic_id for e in entries}
        found = self._broker.described(names) if names else {}
        # One that was made anew is not there before its connector has registered it.
        return [name for name in names if (at := found[name]) is not None and at[0] in ids]

    def schema(self, topic: str, version: int | None = None) -> TableSchema:
        entry = self._entry(topic)
        if version is None:
            return entry.newest.schema
        if version not in entry.versions:
            raise LogError(f"schema version {version} is not in cdc.schemas", where=topic)
        return entry.versions[version].schema

    def end_offsets(self, topic: str) -> tuple[int, ...]:
        return self._broker.end_offsets(topic, self._describe(topic)[1])

    def generation(self, topic: str) -> str:
        return self._describe(topic)[0]

    def horizon(self, topic: str) -> Horizon:
        """The broker keeps everything for min.compaction.lag.ms, and tombstones for their
        retention after that; what it really took is not known."""
        now_us = time.time_ns() // 1000
        kept = self._kept(topic)
        lost_us = now_us - kept.lag_us
        return Horizon(max(0, lost_us), max(0, lost_us - kept.tombstones_us))

    def replay_mark(self, topic: str) -> int:
        return time.time_ns() // 1000

    def replay_holds(self, topic: str, mark: int) -> bool:
        # A tombstone's retention begins when the cleaner removes what it deletes, so not before
        # a replay that has seen it began.
        return time.time_ns() // 1000 - mark < self._kept(topic).tombstones_us

    def _kept(self, topic: str) -> Kept:
        """As the topic is set now; somebody may have changed it, so it is asked now and then."""
        known = self._kept_for.get(topic)
        if known is None or time.monotonic() - known[0] > ASK_FOR_SETTINGS_EVERY_S:
            known = (time.monotonic(), self._broker.kept(topic))
            self._kept_for[topic] = known
        return known[1]

    def newest_frontier(self, name: str) -> Frontier | None:
        return self.newest_frontiers([name])[name]

    def newest_frontiers(self, names: Sequence[str]) -> dict[str, Frontier | None]:
        ids: dict[str, str] = {}
        for name in names:
            described = self._described(f"{name}.frontier")
            if described is not None:
                ids[name] = described[0]
        try:
            ends = self._broker.newest_ends([f"{name}.frontier" for name in ids])
        except LogError as error:
            for name in ids:
                del self._known[f"{name}.frontier"]
            away = cause_of(error) not in NO_TOPIC
            if away or all(self._described(f"{name}.frontier") for name in ids):
                raise
            return self.newest_frontiers(names)  # one of the topics is gone
        found = {name: self._newest_at(name, ids[name], ends[f"{name}.frontier"]) for name in ids}
        return {name: found.get(name) for name in names}

    def _newest_at(self, name: str, topic_id: str, end: int) -> Frontier | None:
        """The newest frontier of a topic that ends there."""
        generation, seen, newest = self._newest.get(name, (topic_id, 0, None))
        if generation != topic_id or end < seen:
            seen, newest = 0, None
        if end > seen:
            newest = (
                self._arrived(name, topic_id, end)
                or self._newest_between(f"{name}.frontier", seen, end)
                or newest
            )
            self._newest[name] = (topic_id, end, newest)
            if newest is not None:
                self._note(newest)
        return newest

    def _arrived(self, name: str, topic_id: str, end: int) -> Frontier | None:
        """The record that ended a wait, when nothing but its transaction's marker follows it."""
        arrived = self._waiter.arrived.get(name)
        if arrived is None or arrived.topic_id != topic_id or arrived.offset != end - 2:
            return None
        return Frontier.from_json(arrived.value)

    def _note(self, frontier: Frontier) -> None:
        for topic, ends in frontier.end_offsets.items():
            self._announced[topic] = (frontier.schema_versions.get(topic, 0), ends)

    def _newest_between(self, topic: str, low: int, end: int) -> Frontier | None:
        """The last record in [low, end), looked for from the end backwards: the topic may be
        long, and its last offsets may be markers."""
        span = _TAIL
        while True:
            start = max(low, end - span)
            last = None
            # Behind the last record stands its transaction's marker: no need to wait for the end.
            for records in self._fetcher.fetch(topic, 0, start, max(start + 1, end - 1)):
                last = records.values[-1].as_py()
            if last is not None:
                return Frontier.from_json(last)
            if start == low:
                return None
            span *= 8

    def frontiers(self, name: str, start: int = 0) -> Iterator[tuple[int, Frontier]]:
        topic = f"{name}.frontier"
        if self._described(topic) is None:
            return
        (end,) = self._broker.end_offsets(topic, 1)
        # Counted back are records: behind each stands its transaction's marker.
        start = max(0, end + 2 * start) if start < 0 else start
        for offset, value in self._values(topic, start, end):
            yield offset, Frontier.from_json(value)

    def dead_letters(self, start: int = 0) -> Iterator[tuple[int, DeadLetter]]:
        if self._broker.describe(LETTERS) is None:
            return
        (end,) = self._broker.end_offsets(LETTERS, 1)
        for offset, value in self._values(LETTERS, start, end):
            yield offset, read_letter(value)

    def _values(self, topic: str, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Offsets and values, in pieces that are fetched whole: few when only the first are wanted,
        and the reader may do other work between two of them."""
        span = _TAIL
        while start < end:
            piece_end = min(end, start + span)
            for records in list(self._fetcher.fetch(topic, 0, start, piece_end)):
                yield from zip(records.offsets.tolist(), records.values.to_pylist(), strict=True)
            start, span = piece_end, min(2 * span, _SPAN_MAX)

    def expect(self, ranges: Sequence[tuple[str, int, int, int]]) -> None:
        self._fetcher.fetch_ahead(ranges)

    def read(
        self, topic: str, partition: int, start: int, end: int, max_rows: int = 65536
    ) -> Iterator[LogBatch]:
        entry = self._announced_entry(topic, partition, end)
        if entry is None:
            entry = self._entry(topic)
            # What is written, not what is committed: a frontier may be visible before its records.
            end = min(end, self._broker.written_end(topic, partition))
        held: LogBatch | None = None
        # An envelope has its own time; a plain row's is its record's.
        fetched = self._fetcher.fetch(topic, partition, start, end, stamped=entry.is_view)
        for records in _chunks(fetched, min(max_rows, DECODE_ROWS)):
            for part in decoded(entry, partition, records, self._ids.schema):
                if held is not None:
                    yield held
                after = int(part.offsets[-1]) + 1
                held = LogBatch(topic, partition, part.offsets, after, part.changes)
        if held is None:
            yield _empty(topic, partition, max(start, end), entry.newest.schema)
        else:
            yield replace(held, next_offset=max(start, end))

    def wait(self, names: Sequence[str], timeout_s: float) -> bool:
        self._look_again()
        return self._waiter.wait(names, timeout_s)

    def _look_again(self) -> None:
        """Describe topics whose descriptions would soon be too old: now nobody waits for it."""
        limit_s = time.monotonic() - DESCRIBE_EVERY_S / 2
        old = [topic for topic, (at_s, _) in self._known.items() if at_s < limit_s]
        if old:
            now_s = time.monotonic()
            for topic, found in self._broker.described(old).items():
                self._keep(topic, now_s, found)

    def _announced_entry(self, topic: str, partition: int, end: int) -> TopicEntry | None:
        """The topic with all versions below `end`, where a frontier says that there is so much."""
        version, ends = self._announced.get(topic, (0, ()))
        if partition >= len(ends) or end > ends[partition]:
            return None
        topic_id, _ = self._describe(topic)
        entry = self._tables.known(topic_id)
        return entry if entry is not None and version in entry.versions else None

    def _entry(self, topic: str) -> TopicEntry:
        topic_id, _ = self._describe(topic)
        entry = self._tables.entry(topic_id)
        if entry is None:
            raise LogError(
                "the topic is not in cdc.schemas: no connector of ours made it", where=topic
            )
        return entry

    def _describe(self, topic: str) -> tuple[str, int]:
        described = self._described(topic)
        if described is None:
            raise LogError(
                "there is no such topic",
                where=topic,
                hint="its connector has not run yet, or the name is misspelt: see `cdc status`",
            )
        return described

    def _described(self, topic: str) -> tuple[str, int] | None:
        """The topic's id and partitions, now or when this reader waited a moment ago; None: there
        is no such topic."""
        at_s, described = self._known.get(topic, (_NEVER_S, None))
        if described is not None and time.monotonic() - at_s < DESCRIBE_EVERY_S:
            return described
        found = self._broker.describe(topic)
        self._keep(topic, _NEVER_S, found)
        return found

    def _keep(self, topic: str, at_s: float, found: tuple[str, int] | None) -> None:
        _, before = self._known.pop(topic, (at_s, found))
        if found is not None:
            self._known[topic] = (at_s, found)
        if found != before:
            self._announced.pop(topic, None)

    def close(self) -> None:
        self._ids.close()
        self._schemas.close()
        self._waiter.close()
        self._fetcher.close()


def _chunks(fetched: Iterator[Fetched], max_rows: int) -> Iterator[Fetched]:
    """Records in pieces of at most about `max_rows` and DECODE_BYTES. A delete is never parted from
    its tombstone."""
    held: list[Fetched] = []
    count = size = 0
    for records in fetched:
        enough = count >= max_rows or size >= DECODE_BYTES
        if enough and records.values[0].is_valid:
            yield from _even(together(held), max_rows, size)
            held, count, size = [], 0, 0
        held.append(records)
        count, size = count + len(records), size + records.nbytes
    if held:
        yield from _even(together(held), max_rows, size)


def _even(records: Fetched, max_rows: int, size: int) -> Iterator[Fetched]:
    """As few pieces of one length as will do."""
    count = len(records)
    pieces = max(-(-count // max_rows), round(size / DECODE_BYTES), 1)
    start = 0
    for at in range(count // pieces, count, max(1, count // pieces)):
        cut = at + (not records.values[at].is_valid)
        if start < cut < count:
            yield records.slice(start, cut)
            start = cut
    yield records.slice(start, count)


def _empty(topic: str, partition: int, next_offset: int, schema: TableSchema) -> LogBatch:
    none = np.zeros(0, np.int64)
    rows = concat_rows([], schema.arrow)
    changes = ChangeBatch(schema, np.zeros(0, np.uint8), none, none, none, rows)
    return LogBatch(topic, partition, none, next_offset, changes)
