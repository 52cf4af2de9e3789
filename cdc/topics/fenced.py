"""Topics that another cdc-views wrote as a Source: cuts are its frontiers.

The other log is read by its own reader (cdc.log.kafka_reader), from cut to cut (cdc.cuts), so whole
transactions there are whole transactions here: one cut is one transaction. Its tables have exactly
the columns that they have there, views' topics too.

A cut is given out in pieces; those before the last say from where to go on. A cut that compaction
disturbed while it was read is not ended: the next one follows in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cdc.changes import ChangeBatch
from cdc.config import LogConfig
from cdc.cuts import Cut, CutReader, DeletesGone, TopicReplaced
from cdc.errors import LogError, SlotError, SourceUnavailable
from cdc.frontiers import Frontier
from cdc.log.kafka import KafkaLog
from cdc.log.kafka_client import SCHEMAS
from cdc.log.kafka_reader import KafkaReader
from cdc.positions import NativePosition, TopicOffsets
from cdc.schema import TableSchema
from cdc.source import History, Piece
from cdc.topics import FENCED
from cdc.topics.brokers import TopicsBroker, log_config
from cdc.topics.evolution import extended

WAIT_S = 0.5
IDS, SINCE, PART = "topic_ids", "since_us", "part"
"""In a frontier's notes: each topic's id; when the frontiers of the other
log were appended; where a cut goes on that was published in part."""


@dataclass(frozen=True)
class Upstream:
    """Another log: `inputs` are its topics by producer, without its prefix; `tables` the table of
    each."""

    config: LogConfig
    inputs: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, str]


def upstream_of(broker: TopicsBroker) -> Upstream | None:
    """The log that wrote all of the source's topics; None: there is no such log. Raises
    SourceError."""
    there, names = broker.names_there(), broker.topics()
    for found in sorted((n for n in there if n.endswith(SCHEMAS)), key=len, reverse=True):
        prefix = found.removesuffix(SCHEMAS)
        if not all(topic.startswith(prefix) for topic in names):
            continue
        inputs: dict[str, tuple[str, ...]] = {}
        for topic in names:
            bare = topic.removeprefix(prefix)
            name = bare if bare.startswith("view.") else bare.partition(".")[0]
            inputs[name] = (*inputs.get(name, ()), bare)
        if not all(f"{prefix}{name}.frontier" in there for name in inputs):
            continue
        config = replace(
            log_config(broker.config, prefix),
            schema_registry=broker.config.schema_registry,
            registry_config=broker.config.registry_config,
        )
        tables = {topic.removeprefix(prefix): table for topic, table in names.items()}
        upstream = Upstream(config, inputs, tables)
        if _has_all(upstream):
            return upstream
    return None


def _has_all(upstream: Upstream) -> bool:
    with _asking():
        reader = KafkaLog(upstream.config).reader()
        try:
            return set(upstream.tables) <= set(reader.topics())
        finally:
            reader.close()


class FencedTopics:
    """See cdc.source.Source."""

    def __init__(
        self, broker: TopicsBroker, upstream: Upstream, progress: Callable[..., None]
    ) -> None:
        self.name, self._broker, self._upstream = broker.name, broker, upstream
        self._progress = progress
        self._log = KafkaLog(upstream.config)
        self._reader: KafkaReader | None = None
        self._schemas: dict[str, TableSchema] = {}
        self._cuts: CutReader | None = None
        self._stand: dict[str, list[int]] = {}
        """Per topic and partition, up to where its records were given out."""

    @property
    def reader(self) -> KafkaReader:
        if self._reader is None:
            self._reader = self._log.reader()
        return self._reader

    def tables(self) -> Mapping[str, TableSchema]:
        with _asking():
            return {table: self._schema(topic) for topic, table in self._upstream.tables.items()}

    def _schema(self, topic: str) -> TableSchema:
        return replace(self.reader.schema(topic), name=self._upstream.tables[topic])

    def open(
        self,
        frontier: Frontier | None,
        schemas: Mapping[str, TableSchema] | None = None,
        history: History | None = None,
    ) -> None:
        known = schemas or {}
        for table, now in self.tables().items():
            self._schemas[table] = _followed(known.get(table), now, self.name)
        cluster = self._broker.cluster()
        if frontier is not None and frontier.positions and frontier.identity != cluster:
            raise SlotError(
                f"the brokers are of cluster {cluster}, and the log continues topics of "
                f"{frontier.identity}",
                where=self.name,
                hint=f"cdc remove {self.name}, then cdc run reads the topics anew",
            )

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        """The first cut."""
        self._cuts = CutReader(self.reader, self._upstream.inputs)
        rows, exact = 0, False
        commit_us = 0
        while not exact:
            cut = self._next(WAIT_S)
            if cut is None:
                yield self._part(tables)  # the agent may have been told to stop
                continue
            for changes in self._changes(cut):
                numbered = changes.numbered(rows)
                rows += changes.num_rows
                yield replace(self._part(tables), changes=((changes.schema.name, numbered),))
                self._progress(table=changes.schema.name, table_rows=rows)
            exact, commit_us = self._exact(cut), cut.commit_us
        yield Piece(
            (),
            1,
            self._position(),
            commit_us,
            resume=self._notes(),
            reconcile=tuple(tables),
        )

    def _part(self, tables: Sequence[str]) -> Piece:
        return Piece((), 0, TopicOffsets.of({}), 0, whole=False, incomplete=tuple(tables))

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        if self._cuts is None:
            self._cuts = self._from(frontier)
        rows = 0 if frontier.whole else int(frontier.resume.get("rows", 0))
        while True:
            cut = self._next(max_wait_s)
            if cut is None:
                yield Piece((), 0, self._position(), 0, resume=self._notes())
                continue
            schemas = self._newer()
            held: list[tuple[str, ChangeBatch]] = []
            size = 0
            for changes in self._changes(cut):
                held.append((changes.schema.name, changes.numbered(rows)))
                rows += changes.num_rows
                size += changes.nbytes
                if size >= max_piece_bytes:
                    notes = self._notes(rows)
                    yield Piece(tuple(held), 0, self._position(), 0, False, notes, schemas=schemas)
                    held, size, schemas = [], 0, {}
            exact = self._exact(cut)
            notes = self._notes(0 if exact else rows)
            if exact or held:
                yield Piece(
                    tuple(held),
                    int(exact and bool(rows)),
                    self._position(),
                    cut.commit_us,
                    exact,
                    notes,
                    schemas=schemas,
                    barrier=exact and not rows,
                )
            rows = 0 if exact else rows

    def _from(self, frontier: Frontier) -> CutReader:
        """Goes on behind what is published, also in part."""
        position, notes = frontier.positions[self.name], frontier.resume
        assert isinstance(position, TopicOffsets)
        prefix = self._upstream.config.topic_prefix
        start = {topic.removeprefix(prefix): ends for topic, ends in position.offsets}
        part = {} if frontier.whole else notes.get(PART) or {}
        start |= {topic: tuple(ends) for topic, ends in part.items()}
        self._stand = {topic: list(ends) for topic, ends in start.items()}
        return CutReader(
            self.reader,
            self._upstream.inputs,
            {topic: start[topic] for topic in self._upstream.tables if topic in start},
            generations=dict(notes.get(IDS) or {}),
            since_us={name: int(us) for name, us in (notes.get(SINCE) or {}).items()},
        )

    def _next(self, timeout_s: float) -> Cut | None:
        assert self._cuts is not None
        with _asking(self.name):
            return self._cuts.next_cut(timeout_s)

    def _exact(self, cut: Cut) -> bool:
        assert self._cuts is not None
        with _asking(self.name):
            return self._cuts.exact(cut)

    def _changes(self, cut: Cut) -> Iterator[ChangeBatch]:
        """The cut's changes, each table's in order, as its newest version."""
        for topic, start in cut.start.items():
            table = self._upstream.tables[topic]
            stand = self._stand.setdefault(topic, list(start))
            with _asking(self.name):
                for batch in cut.batches(topic):
                    stand[batch.partition] = batch.next_offset
                    own = replace(batch.changes.schema, name=table)
                    changes = replace(batch.changes, schema=own)
                    yield changes.conformed(self._schemas[table])
            self._stand[topic] = list(cut.end[topic])

    def _newer(self) -> dict[str, TableSchema]:
        """Tables whose columns changed in the other log."""
        found = {}
        with _asking(self.name):
            for topic, table in self._upstream.tables.items():
                now = _followed(self._schemas[table], self._schema(topic), self.name)
                if now != self._schemas[table]:
                    found[table] = self._schemas[table] = now
        return found

    def _position(self) -> TopicOffsets:
        """The end of the newest cut that was given out."""
        assert self._cuts is not None
        prefix = self._upstream.config.topic_prefix
        return TopicOffsets.of({prefix + t: ends for t, ends in self._cuts.positions.items()})

    def _notes(self, rows: int = 0) -> dict[str, object]:
        """`rows`: of the transaction that is given out in part."""
        assert self._cuts is not None
        notes: dict[str, object] = {
            FENCED: True,
            IDS: dict(self._cuts.generations),
            SINCE: dict(self._cuts.since_us),
        }
        if rows:
            part = {topic: tuple(at) for topic, at in self._stand.items()}  # it moves on
            notes |= {PART: part, "rows": rows}
        return notes

    def changes(self, schema: TableSchema, position: TopicOffsets) -> Iterator[ChangeBatch]:
        """All changes of a table up to a position, read anew, as `schema`."""
        topic = next((t for t, table in self._upstream.tables.items() if table == schema.name), "")
        ends = dict(position.offsets).get(self._upstream.config.topic_prefix + topic, ())
        with _asking(self.name):
            for partition, end in enumerate(ends):
                for batch in self.reader.read(topic, partition, 0, end):
                    yield batch.changes.conformed(schema)

    def acknowledge(self, position: NativePosition) -> None:
        assert isinstance(position, TopicOffsets)
        self._broker.show(position)

    def current_position(self) -> TopicOffsets:
        """What the newest frontiers of the other log cover. Raises SourceUnavailable before the
        first."""
        prefix = self._upstream.config.topic_prefix
        found: dict[str, tuple[int, ...]] = {}
        with _asking(self.name):
            for name, topics in self._upstream.inputs.items():
                newest = self.reader.newest_frontier(name)
                ends = {} if newest is None else newest.end_offsets
                found |= {prefix + t: ends[t] for t in topics if t in ends}
        if len(found) < len(self._upstream.tables):
            raise SourceUnavailable(
                "the other log shows nothing of some topics yet: their snapshot is not complete",
                where=self.name,
                hint="it goes on when it is",
            )
        return TopicOffsets.of(found)

    def close(self) -> None:
        self._broker.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._log.close()


def _followed(known: TableSchema | None, now: TableSchema, source: str) -> TableSchema:
    """The version here for what the other log has: columns may come and go by their numbers."""
    if known is None or replace(now, version=known.version) == known:
        return known or now
    if now.key != known.key or _retyped(known, now):
        return extended(known, now, source)  # says what cannot be followed
    return replace(now, version=known.version + 1)


def _retyped(known: TableSchema, now: TableSchema) -> bool:
    types = {column.name: column.type for column in known.columns}
    return any(types.get(column.name, column.type) != column.type for column in now.columns)


@contextmanager
def _asking(source: str = "") -> Iterator[None]:
    """The other log's errors as a source's."""
    hint = f"cdc remove {source}, then cdc run reads the topics anew"
    try:
        yield
    except (TopicReplaced, DeletesGone) as error:
        raise SlotError(error.what, where=error.where, hint=hint) from error
    except LogError as error:
        if type(error) is LogError:
            raise SourceUnavailable(error.what, where=error.where, hint=error.hint) from error
        raise
