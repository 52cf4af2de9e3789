"""The seam between everything that writes changes and everything that reads them.

Obligations of every implementation, proved by tests/contract/test_log.py:

1.  An append is atomic over all its topics and frontier records: a reader that sees one record of
    it through `read` up to a frontier sees them all.
2.  `producer(name)` fences: when it returns, no append of an earlier producer of that name can
    succeed any more (it raises Fenced), and `newest_frontier` reflects all that ever succeeded.
3.  Offsets of a partition grow and are never reused, also by compaction. A partition has reached
    offset E when a reader's position is >= E; a record *at* E-1 need not exist (SEMANTICS 3).
4.  `read` returns only committed records, each at most once, in offset order.
5.  Compaction keeps, per key, the newest record, and everything that a registered reader's floor
    still needs (SEMANTICS 15). A delete is its own tombstone, kept for the retention time.
6.  The log never blocks a reader for a writer or the other way round longer than one batch takes.

Not promised: order between topics other than by frontiers; order between producers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdc.changes import ChangeBatch, Int64s
from cdc.frontiers import EndOffsets, Frontier
from cdc.schema import TableSchema


@dataclass(frozen=True)
class TopicSpec:
    """A topic as its producer wants it. `schema` is its first schema version; `database` and
    `connector` are what Debezium's source block says of a table's records."""

    name: str
    schema: TableSchema
    partitions: int = 1
    database: str = ""
    connector: str = "postgresql"


@dataclass(frozen=True, eq=False)
class LogBatch:
    """Committed changes of one partition. `offsets[i]` is the offset of change i (ascending).

    `next_offset` is where the reader stands after this batch (> the last offset, or beyond it
    when records in between were aborted or compacted away).
    """

    topic: str
    partition: int
    offsets: Int64s
    next_offset: int
    changes: ChangeBatch


@dataclass(frozen=True)
class DeadLetter:
    """What failed, where, why, and the original bytes, for the topic `dead-letters`."""

    connector: str
    where: str
    error: str
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Horizon:
    """What compaction has taken from a topic (SEMANTICS 15), as append times in microseconds.

    superseded_us  a cut appended before this is not exact any more: a record that it needs may
                   have been removed because a newer one superseded it. 0: every cut is exact.
    tombstones_us  deletes up to this time were removed: whoever last read before it must reload
                   and reconcile.
    """

    superseded_us: int
    tombstones_us: int


class Producer(Protocol):
    """The only live writer of one source's, or one view group's, topics."""

    epoch: int

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that do not exist yet; a topic that exists is left as it is."""
        ...

    def set_schema(self, topic: str, schema: TableSchema) -> None:
        """Register a newer schema version; batches appended from now on may have it."""
        ...

    def append(
        self, batches: Sequence[tuple[str, ChangeBatch]], frontiers: Sequence[Frontier] = ()
    ) -> EndOffsets:
        """Append all of it, durably, or nothing.

        `batches` are (topic, changes). `frontiers` go to the topics `<name>.frontier` (a view's to
        `view.<name>.frontier`) with end_offsets, epoch and appended_us filled in; where `whole` is
        False the end offsets and appended_us of that name's newest whole frontier are repeated
        (none and 0 before the first). Several frontier records (a view group's) may be appended at
        once; each lists the topics of its own name only: a source's `<name>.*`, a view's
        `view.<name>`.
        Returns the end offsets of all topics of this producer. Raises Fenced, LogError.
        """
        ...

    def close(self) -> None: ...


class Reader(Protocol):
    """A view of the log for one thread. Never writes."""

    def topics(self) -> list[str]:
        """All data topics that exist now, sorted."""
        ...

    def schema(self, topic: str, version: int | None = None) -> TableSchema:
        """A schema version of the topic; none named: the newest. Raises LogError when there is no
        such topic, or version."""
        ...

    def end_offsets(self, topic: str) -> tuple[int, ...]:
        """Per partition, the offset that the next record will have."""
        ...

    def generation(self, topic: str) -> str:
        """The topic's identity (a uuid): another value means another topic under the same name."""
        ...

    def newest_frontier(self, name: str) -> Frontier | None:
        """The newest frontier of a source, or of a view when `name` is `view.<name>`.

        A partial record answers with its whole part (see cdc.frontiers): its end offsets and
        `appended_us` are the newest whole frontier's. Before the first whole one these are empty
        and 0: there is no cut yet. None before the first record.
        """
        ...

    def newest_frontiers(self, names: Sequence[str]) -> dict[str, Frontier | None]:
        """As `newest_frontier`, of several names for the price of one."""
        ...

    def frontiers(self, name: str, start: int = 0) -> Iterator[tuple[int, Frontier]]:
        """The records of `<name>.frontier` that are still kept, with their offsets >= `start`
        (negative: counted back from the end), up to the newest."""
        ...

    def dead_letters(self, start: int = 0) -> Iterator[tuple[int, DeadLetter]]:
        """The records of `dead-letters` with their offsets >= `start`, up to the newest."""
        ...

    def horizon(self, topic: str) -> Horizon:
        """What compaction has taken. A cut that was read completely is exact when its frontier's
        `appended_us` >= `superseded_us`, asked *after* the read."""
        ...

    def replay_mark(self, topic: str) -> int:
        """To be kept, from before the topic is read from offset zero until it has been read, for
        `replay_holds`; a later process may ask with it."""
        ...

    def replay_holds(self, topic: str, mark: int) -> bool:
        """Whether a replay that began at `mark` and ends now has seen the delete of every row that
        it saw. Where not, the delete of a row that it had read may have been removed before it
        came there: what was read is void."""
        ...

    def read(
        self, topic: str, partition: int, start: int, end: int, max_rows: int = 65536
    ) -> Iterator[LogBatch]:
        """Committed changes with start <= offset < end, in offset order.

        Each batch keeps the schema version that it was written with; `changes.conformed(newest)`
        brings it forward. Small appends are joined into batches of about `max_rows`. The last
        batch's `next_offset` is `end` (at most the partition's end); when nothing is left in the
        range, one empty batch says so.
        Raises LogDamaged.
        """
        ...

    def expect(self, ranges: Sequence[tuple[str, int, int, int]]) -> None:
        """A hint: these ranges (topic, partition, start, end) will be read next, one by one."""
        ...

    def wait(self, names: Sequence[str], timeout_s: float) -> bool:
        """Block until a frontier of one of `names` (as in newest_frontier) may have been appended
        since the last call, at most `timeout_s`. Returns within milliseconds of the append."""
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """A log, embedded or Kafka. Cheap to open; processes open their own."""

    def producer(self, name: str) -> Producer:
        """Become the producer `name` (a source's name, or `view.<group>`), fencing any other."""
        ...

    def reader(self) -> Reader: ...

    def positions(self, consumer: str) -> dict[tuple[str, int], int]:
        """The offsets that `consumer` (a sink's or a group's name) last recorded, for people and
        for lag; a consumer's truth stands in its own store."""
        ...

    def record_positions(self, consumer: str, positions: Mapping[tuple[str, int], int]) -> None: ...

    def set_floor(self, consumer: str, floor_us: int | None) -> None:
        """Register that `consumer` may still need every record newer than the cut of `floor_us`
        (append time of the oldest frontier that it may resume from); None: it needs none."""
        ...

    def is_away(self) -> bool:
        """Whether nobody answers who keeps the log; may be asked by any thread."""
        ...

    def consumers(self) -> list[str]:
        """Everybody who recorded positions or a floor, sorted."""
        ...

    def floors(self) -> dict[str, int]:
        """The floors that are registered now, by consumer."""
        ...

    def dead_letter(self, letters: Sequence[DeadLetter]) -> None:
        """Append to the topic `dead-letters`; durable when this returns."""
        ...

    def remove(self, name: str) -> None:
        """Delete a producer's topics and frontiers, or a consumer's positions and floor."""
        ...

    def close(self) -> None: ...
