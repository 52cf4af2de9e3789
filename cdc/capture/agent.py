"""The capture agent: from a Source's pieces to the log, exactly once.

1.  Fence, then read: become the source's only producer, then read the newest frontier (S6).
2.  No frontier: publish a partial record, so that a crash is known to be a snapshot that did not
    end, and take a snapshot. A snapshot begun again ends with reconcile (S8).
    So does one that a rewritten table needs while streaming (SnapshotNeeded).
3.  Stream from the frontier. A thread decodes pieces into a short queue while the last group is
    being appended; everything that arrived meanwhile is the next group (S7). Each group of whole
    transactions is one append with its frontier; parts of a large transaction are appended with a
    partial record, which says where to go on (S2).
4.  Acknowledge to the source only what a durable whole frontier covers (S9). Frontiers without
    changes are published when somebody waits, every 10 s, and per 16 MiB of WAL (S5).

Transactions are numbered here, gapless: base + the piece's own number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from cdc import faults
from cdc.capture.appending import joined, merged, placed
from cdc.capture.feed import Feed
from cdc.capture.reconcile import stale_keys
from cdc.changes import ChangeBatch, conforms
from cdc.config import SourceConfig
from cdc.errors import SchemaChanged, SnapshotNeeded, SourceError
from cdc.formats.debezium_schema import MYSQL, POSTGRES
from cdc.frontiers import Frontier
from cdc.log.api import Log, Producer, Reader, TopicSpec
from cdc.positions import Lsn, NativePosition, Vector
from cdc.schema import TableSchema
from cdc.source import ALTERED_NOTE, KEPT_NOTES, Piece, Source

logger = logging.getLogger(__name__)

PIECE_BYTES_MAX = 8 * 2**20
WAIT_S = 0.25
IDLE_FRONTIER_EVERY_S = 10.0
IDLE_FRONTIER_EVERY_BYTES = 16 * 2**20
SNAPSHOT_APPEND_BYTES = 16 * 2**20


class Report(Protocol):
    """Told how it goes; cheap, from any thread (cdc.cli.reporting)."""

    def __call__(self, **facts: object) -> None: ...


def run_capture(
    source: Source,
    log: Log,
    config: SourceConfig,
    stop: Callable[[], bool],
    report: Report,
    partitions: int = 1,
) -> None:
    """Capture until `stop()`. Raises SourceError, Fenced and other LogErrors, BadData."""
    producer = log.producer(config.name)  # fences
    reader = log.reader()
    try:
        _Agent(source, producer, reader, config, stop, report, partitions).run()
    except SourceError:
        producer.append([])  # a successor takes the slot from us: then Fenced is the reason
        raise
    finally:
        source.close()
        reader.close()
        producer.close()


@dataclass
class _Agent:
    source: Source
    producer: Producer
    reader: Reader
    config: SourceConfig
    stop: Callable[[], bool]
    report: Report
    partitions: int
    frontier: Frontier = field(default_factory=lambda: Frontier("", Vector()))
    versions: dict[str, int] = field(default_factory=dict)
    schemas: dict[str, TableSchema] = field(default_factory=dict)
    numbered: dict[tuple[str, int], TableSchema] = field(default_factory=dict)
    """By table and the source's version of its schema: the log's."""
    shift: int = 0
    """Added to the source's ordinals in the transaction that is half published."""
    next_ordinal: int = 0
    identity: str = ""
    rows: int = 0
    published_s: float = 0.0

    def run(self) -> None:
        newest = self.reader.newest_frontier(self.config.name)
        if newest is None:
            self._refuse_leftovers()
        else:
            self.frontier = newest
            self._resume_numbers(newest)
            if newest.positions and self.config.snapshot == "only":
                self._end_after_snapshot()
                return
        self.schemas = self._topic_schemas(newest)
        self._refuse_new_tables(newest)
        self.source.open(newest, self.schemas, self._history)
        self.identity = self.source.identity()
        if (newest is None or not newest.positions) and not self._snapshot():
            return
        if self.config.snapshot == "only":
            self._end_after_snapshot()
            return
        while True:
            try:
                self._stream()
                return
            except SnapshotNeeded as change:
                if self.config.snapshot != "initial":
                    raise
                logger.warning("%s; reading its source's tables again", change)
                if not self._snapshot_again(change):
                    return

    def _end_after_snapshot(self) -> None:
        self.source.remove()
        self.report(state="stopped", position=str(self.frontier.positions))

    def _refuse_leftovers(self) -> None:
        mine = [t for t in self.reader.topics() if t.startswith(f"{self.config.name}.")]
        full = [t for t in mine if any(self.reader.end_offsets(t))]
        if full:
            raise SourceError(
                f"topics have data, but there is no frontier of '{self.config.name}'",
                where=", ".join(full),
                hint=f"cdc remove {self.config.name}, then cdc run takes a new snapshot",
            )

    def _resume_numbers(self, newest: Frontier) -> None:
        if not newest.whole:
            self.next_ordinal = int(newest.resume.get("next_ordinal", 0))
            # A snapshot begins anew behind what was published; a transaction goes on.
            again = not newest.positions
            self.shift = self.next_ordinal if again else int(newest.resume.get("shift", 0))

    def _topic_schemas(self, newest: Frontier | None) -> dict[str, TableSchema]:
        """The schema versions where the source goes on: the frontier's. A newer one may stand in
        the log, from an agent that did not come to append what has it."""
        prefix = f"{self.config.name}."
        found = {}
        for topic in self.reader.topics():
            if topic.startswith(prefix):
                version = newest.schema_versions.get(topic) if newest is not None else None
                schema = self.reader.schema(topic, version)
                found[topic.removeprefix(prefix)] = schema
                self.versions[topic] = schema.version
        return found

    def _refuse_new_tables(self, newest: Frontier | None) -> None:
        if newest is None or not newest.positions or self.source.catches_up:
            return
        known = {t.removeprefix(f"{self.config.name}.") for t in newest.schema_versions}
        new = sorted(set(self.source.tables()) - known)
        if new:
            raise SchemaChanged(
                f"added after the first snapshot: {', '.join(new)}",
                where=self.config.name,
                hint="tables cannot be added to a source yet: leave them out of its `tables` and "
                f"give them a source of their own, or cdc remove {self.config.name} and start "
                "again",
            )

    def _history(self, table: str) -> Iterator[ChangeBatch]:
        topic = self._topic(table)
        for partition, end in enumerate(self.reader.end_offsets(topic)):
            for batch in self.reader.read(topic, partition, 0, end):
                yield batch.changes

    # Snapshot

    def _snapshot(self) -> bool:
        """Take the snapshot; whether it was completed."""
        tables = self.source.tables()
        topics = [
            self._spec(name, self.schemas.get(name, schema)) for name, schema in tables.items()
        ]
        self.producer.create_topics(topics)
        self.schemas = {n: self.schemas.get(n, s) for n, s in tables.items()}
        self.versions = {self._topic(n): s.version for n, s in self.schemas.items()}
        before = {t.name: self._ends(t.name) for t in topics}
        self._publish_progress(incomplete=tuple(tables))
        names = [] if self.config.snapshot == "never" else list(tables)
        self.report(state="snapshot")
        pieces = self.source.snapshot(names, PIECE_BYTES_MAX)
        with Feed(pieces, self._stopping) as feed:
            most = min(self.config.max_log_transaction_bytes, SNAPSHOT_APPEND_BYTES)
            for group in feed.groups(most):
                for piece in merged(group):
                    self._snapshot_piece(piece, before)
        return bool(self.frontier.positions)

    def _snapshot_again(self, change: SnapshotNeeded) -> bool:
        """Read all tables again, beside the topics' rows: what is gone leaves them at the end, when
        the next frontier comes (S8). The log says that it was begun before the source lets go of
        its slot: a restart begins it anew."""
        for table, schema in self.source.tables().items():
            known = self.schemas.get(table)
            if known is None:
                continue
            if not _goes_on(known, schema):
                raise change
            if schema.columns != known.columns:
                self._numbered(table, replace(schema, version=known.version + 1))
        self.numbered = {}
        self.shift = self.next_ordinal
        self.frontier = replace(self.frontier, positions=Vector())
        self._publish_progress(incomplete=tuple(self.schemas))
        self.source.close()
        self.source.open(self.frontier, self.schemas, self._history)
        return self._snapshot()

    def _ends(self, topic: str) -> dict[int, int]:
        return dict(enumerate(self.reader.end_offsets(topic)))

    def _publish_progress(self, incomplete: tuple[str, ...]) -> None:
        resume = {"next_ordinal": self.shift}
        self._append([], self._record(False, resume=resume, incomplete=incomplete))

    def _snapshot_piece(self, piece: Piece, before: Mapping[str, Mapping[int, int]]) -> None:
        if not piece.whole:
            if piece.truncated:
                self._truncate(piece)
            elif piece.num_rows:
                self._partial(piece)
                faults.point("capture.snapshot_piece")
            return
        for table in piece.reconcile:
            topic = self._topic(table)
            if any(before[topic].values()):
                self._delete_stale(table, before[topic], piece)
        self._whole([piece])
        self.report(position=str(self.frontier.positions))

    def _delete_stale(self, table: str, before: Mapping[int, int] | None, piece: Piece) -> None:
        """Deletes of the keys that must leave, as further changes of the open transaction."""
        topic = self._topic(table)
        resume = {k: v for k, v in self.frontier.resume.items() if k != "shift"}
        for batch in stale_keys(self.reader, topic, self.schemas[table], before):
            deletes = self._numbered_deletes(batch, piece)
            record = self._record(False, resume=resume, incomplete=self.frontier.incomplete)
            self._append([(topic, deletes)], record)

    def _numbered_deletes(self, batch: ChangeBatch, piece: Piece) -> ChangeBatch:
        count = batch.num_rows
        first = max(self.next_ordinal, piece.ordinal + self.shift)
        self.next_ordinal = first + count
        self.shift += count
        number = self.frontier.txn_seq + 1
        return replace(
            batch,
            txn_seq=batch.txn_seq + number,
            ordinal=np.arange(first, first + count, dtype=np.int64),
            commit_us=batch.commit_us + (piece.commit_us or time.time_ns() // 1000),
        )

    # Streaming

    def _stream(self) -> None:
        self.report(state="streaming", position=str(self.frontier.positions))
        pieces = self.source.stream(self.frontier, PIECE_BYTES_MAX, WAIT_S)
        self.published_s = time.monotonic()
        with Feed(pieces, self._stopping) as feed:
            for group in feed.groups(self.config.max_log_transaction_bytes):
                self._group(group)

    def _group(self, group: Sequence[Piece]) -> None:
        """Append what arrived: runs of whole pieces at once, parts one by one."""
        whole: list[Piece] = []
        for piece in group:
            if piece.whole:
                whole.append(piece)
                continue
            if whole:
                self._whole_or_idle(whole)
                whole = []
            if piece.truncated:
                self._truncate(piece)
            elif piece.num_rows:
                self._partial(piece)
                faults.point("capture.mid_transaction")
        if whole:
            self._whole_or_idle(whole)

    def _whole_or_idle(self, pieces: Sequence[Piece]) -> None:
        if any(p.num_rows or p.transactions for p in pieces):
            self._whole(pieces)
        elif not self.frontier.whole:
            # A frontier now would make the half-published transaction a cut.
            for piece in pieces:
                self._new_topics(piece.schemas)
                self._new_schemas(piece.schemas)
        elif any(p.schemas for p in pieces) or self._due(pieces):
            self._whole(pieces)

    def _due(self, pieces: Sequence[Piece]) -> bool:
        """Whether a frontier without changes is worth its append."""
        now, then = pieces[-1].position, self.frontier.positions[self.config.name]
        if now == then:
            return False
        if any(p.barrier for p in pieces) or self._altered(pieces[-1]):
            return True
        if time.monotonic() - self.published_s >= IDLE_FRONTIER_EVERY_S:
            return True
        return _distance(then, now) >= IDLE_FRONTIER_EVERY_BYTES

    def _altered(self, piece: Piece) -> bool:
        """Whether statements came past that have yet to show in rows: a restart takes them in from
        the notes, and must not come past them again behind a part of what follows."""
        return piece.resume.get(ALTERED_NOTE) != self.frontier.resume.get(ALTERED_NOTE)

    def _whole(self, pieces: Sequence[Piece]) -> None:
        """Append whole pieces with their frontier, then acknowledge."""
        batches: dict[str, list[ChangeBatch]] = {}
        base, shift = self.frontier.txn_seq + 1, self.shift
        for piece in pieces:
            self._new_topics(piece.schemas)
            for table, changes in piece.changes:
                part = placed(self._registered(table, changes), base, shift)
                batches.setdefault(self._topic(table), []).append(part)
            self._new_schemas(piece.schemas)
            base += piece.transactions
            if piece.transactions:
                shift = 0
        last = pieces[-1]
        commit_us = max((p.commit_us for p in pieces), default=0) or self.frontier.commit_us
        record = self._record(
            True,
            positions=Vector.of({self.config.name: last.position}),
            txn_seq=base - 1,
            commit_us=commit_us,
            resume=last.resume or self._kept_notes(),
            incomplete=last.incomplete,
        )
        self._append(joined(batches), record)
        self.shift, self.next_ordinal = shift, 0
        faults.point("capture.after_append")
        self.source.acknowledge(last.position)
        self.published_s = time.monotonic()
        self.report(position=str(record.positions), rows=self.rows)

    def _partial(self, piece: Piece) -> None:
        """Append a part of a transaction or snapshot, with its resume point."""
        number = self.frontier.txn_seq + 1
        batches: dict[str, list[ChangeBatch]] = {}
        self._new_topics(piece.schemas)
        for table, changes in piece.changes:
            part = placed(self._registered(table, changes), number, self.shift)
            batches.setdefault(self._topic(table), []).append(part)
            self.next_ordinal = max(self.next_ordinal, int(part.ordinal[-1]) + 1)
        self._new_schemas(piece.schemas)
        resume = {**self._kept_notes(), **piece.resume}
        self._append(joined(batches), self._record(False, resume, piece.incomplete))
        self.report(rows=self.rows)

    def _truncate(self, piece: Piece) -> None:
        """TRUNCATE: deletes of all live keys, then the resume point behind it."""
        self._new_topics(piece.schemas)
        self._new_schemas(piece.schemas)
        for table in piece.truncated:
            self._delete_stale(table, None, piece)
        resume = {**self._kept_notes(), **piece.resume}
        self._append([], self._record(False, resume, piece.incomplete))

    def _kept_notes(self) -> dict[str, Any]:
        kept = self.frontier.resume
        return {name: kept[name] for name in KEPT_NOTES if name in kept}

    def _record(
        self,
        whole: bool,
        resume: Mapping[str, Any] | None = None,
        incomplete: tuple[str, ...] = (),
        positions: Vector | None = None,
        txn_seq: int | None = None,
        commit_us: int | None = None,
    ) -> Frontier:
        notes = dict(resume or {})
        if not whole:
            notes = {**notes, "next_ordinal": self.next_ordinal, "shift": self.shift}
        return Frontier(
            name=self.config.name,
            positions=self.frontier.positions if positions is None else positions,
            txn_seq=self.frontier.txn_seq if txn_seq is None else txn_seq,
            commit_us=self.frontier.commit_us if commit_us is None else commit_us,
            identity=self.identity,
            incomplete=incomplete,
            schema_versions=dict(self.versions),
            whole=whole,
            resume=notes,
        )

    def _spec(self, table: str, schema: TableSchema) -> TopicSpec:
        connector = MYSQL if self.config.type == "mysql" else POSTGRES
        topic = self._topic(table)
        return TopicSpec(topic, schema, self.partitions, self.config.database, connector)

    def _new_topics(self, schemas: Mapping[str, TableSchema]) -> None:
        added = {t: s for t, s in schemas.items() if t not in self.schemas}
        if added:
            self.producer.create_topics([self._spec(t, s) for t, s in added.items()])
            # From an append that did not come to be there may be a topic already.
            found = {t: self.reader.schema(self._topic(t)) for t in added}
            self.versions |= {self._topic(t): s.version for t, s in found.items()}
            self.schemas |= found

    def _new_schemas(self, schemas: Mapping[str, TableSchema]) -> None:
        for table, schema in schemas.items():
            self._logged_schema(table, schema)

    def _registered(self, table: str, changes: ChangeBatch) -> ChangeBatch:
        """The changes under the version that their schema has in the log."""
        return replace(changes, schema=self._logged_schema(table, changes.schema))

    def _logged_schema(self, table: str, schema: TableSchema) -> TableSchema:
        """The source's schema under its number in the log, registered when it is new."""
        found = self.numbered.get((table, schema.version))
        if found is None:
            found = self._numbered(table, schema)
            self.numbered[table, schema.version] = found
        return found

    def _numbered(self, table: str, schema: TableSchema) -> TableSchema:
        """The source counts on from the frontier's version. What stands above that in the log was
        registered for an append that did not come to be: the same is taken up, another passed
        over."""
        topic = self._topic(table)
        if schema == self.schemas.get(table):
            return schema
        newest = self.reader.schema(topic).version
        for number in range(self.versions[topic] + 1, newest + 1):
            found = self.reader.schema(topic, number)
            if replace(schema, version=number) == found:
                break
        else:
            found = replace(schema, version=newest + 1)
            self.producer.set_schema(topic, found)
        self.versions[topic], self.schemas[table] = found.version, found
        return found

    def _append(self, batches: Sequence[tuple[str, ChangeBatch]], record: Frontier) -> None:
        faults.point("capture.before_append")
        self.producer.append(batches, [record])
        self.frontier = record
        self.rows += sum(changes.num_rows for _, changes in batches)

    def _topic(self, table: str) -> str:
        return f"{self.config.name}.{table}"

    def _stopping(self) -> bool:
        return self.stop()


def _goes_on(then: TableSchema, now: TableSchema) -> bool:
    """Whether a topic can go on with the table as it is now: the same keys, and older values that
    can be brought forward."""
    before = {column.attnum: column.type for column in then.columns}
    keys = [[(c.name, c.attnum, c.sql_type) for c in table.key_columns] for table in (then, now)]
    return keys[0] == keys[1] and all(
        conforms(before.get(column.attnum, column.type), column.type) for column in now.columns
    )


def _distance(then: NativePosition, now: NativePosition) -> int:
    if isinstance(then, Lsn) and isinstance(now, Lsn):
        return now.value - then.value
    return 0
