"""From frontier to frontier: how views and sinks read the log (SEMANTICS 2, 3, 15, 19, 34).

A `CutReader` follows the frontiers of several producers. `next_cut` gives the next state of all
inputs to which a reader may step: a vector of source positions, and per topic and partition the
range of offsets from where the reader stands to where the frontier ends; nothing beyond it.

*   A producer advances as soon as it has a newer frontier; one that is idle blocks nothing. One
    whose frontier calls a table that we read incomplete does not advance (`waiting_for` says so).
    A reader that begins from nothing gets its first cut when every input is complete.
*   Inputs that reflect the same source (a table and a view over it) are advanced to the same
    position of that source, `aligned`: to the newest frontiers that agree.
*   Frontiers without changes are cuts too, with empty ranges: progress.
*   The ranges are read lazily, so that a first load need not fit in memory. A cut whose records
    compaction superseded while it was read is not exact (`exact` says so, asked after the read):
    the reader keeps what it has read and adds the next cut to it before it shows anything.
*   A delete is removed from a topic in the end. A reader that was not there in time cannot know of
    it: `exact` raises DeletesGone, and the reader must load its inputs anew and reconcile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdc.changes import ChangeBatch
from cdc.cut_alignment import agreed
from cdc.errors import LogError
from cdc.frontiers import Frontier
from cdc.latest import latest_per_key
from cdc.log.api import LogBatch, Reader
from cdc.positions import Vector

Offsets = Mapping[str, tuple[int, ...]]
HISTORY = 512


class TopicReplaced(LogError):
    """A topic was made anew under its name: a reader's offsets mean nothing in it."""

    def __init__(self, topic: str) -> None:
        super().__init__("the topic was removed and made anew", where=topic)
        self.topic = topic


class DeletesGone(LogError):
    """Deletes that a reader had not read yet were removed: it may hold rows that are no more.
    `in_replay`: while it read from offset zero."""

    def __init__(self, topic: str, *, in_replay: bool) -> None:
        what = "while it was read from the beginning" if in_replay else "before they were read"
        super().__init__(
            f"deletes were removed from the topic {what}",
            where=topic,
            hint="raise log.tombstone_retention_s, on Kafka also delete.retention.ms of the topic",
        )
        self.in_replay = in_replay


@dataclass(frozen=True, eq=False)
class Cut:
    """One step of a reader.

    vector      the source positions that the inputs reflect after it
    frontiers   per producer name, the frontier that is reached (unchanged ones included)
    start, end  per topic, per partition: the offsets to read, start <= offset < end
    commit_us   commit time of the newest transaction in it; 0: unknown
    """

    vector: Vector
    frontiers: Mapping[str, Frontier]
    start: Offsets
    end: Offsets
    reader: Reader = field(repr=False)

    @property
    def commit_us(self) -> int:
        return max((f.commit_us for f in self.frontiers.values()), default=0)

    @property
    def span(self) -> int:
        """How many offsets it covers: an upper bound of its records."""
        return sum(
            end - start
            for topic in self.end
            for start, end in zip(self.start[topic], self.end[topic], strict=True)
        )

    @property
    def ranges(self) -> list[tuple[str, int, int, int]]:
        """What there is to read: topic, partition, start, end."""
        return [
            (topic, partition, start, end)
            for topic in self.end
            for partition, (start, end) in enumerate(
                zip(self.start[topic], self.end[topic], strict=True)
            )
            if start < end
        ]

    def batches(self, topic: str, max_rows: int = 65536) -> Iterator[LogBatch]:
        """The topic's changes in this cut, partition by partition, in offset order."""
        for name, partition, start, end in self.ranges:
            if name == topic:
                for batch in self.reader.read(topic, partition, start, end, max_rows):
                    if batch.changes.num_rows:
                        yield batch

    def latest(self, topic: str) -> ChangeBatch | None:
        """The last change per key, in memory; None: the topic has no change in this cut."""
        batches = [batch.changes for batch in self.batches(topic)]
        return latest_per_key(batches) if batches else None


class CutReader:
    """Steps through the cuts of some topics. For one thread."""

    def __init__(
        self,
        reader: Reader,
        inputs: Mapping[str, Sequence[str]],
        start: Offsets | None = None,
        vector: Vector | None = None,
        generations: Mapping[str, str] | None = None,
        *,
        since_us: Mapping[str, int] | None = None,
        replays: Mapping[str, int] | None = None,
        aligned: bool = True,
    ) -> None:
        """`inputs`: per producer name (as in Reader.newest_frontier) the topics to read.
        `start`, `vector`, `generations`: where the reader stands, as it stored them; None: at the
        beginning. Raises TopicReplaced from `next_cut` when a generation is another one now.
        `since_us`: per producer name, when the frontier at which it stands was appended.
        `replays`: per topic whose first cut was begun and not finished, its mark."""
        self._reader, self._aligned = reader, aligned
        self._inputs = {name: tuple(topics) for name, topics in inputs.items()}
        self._fresh = start is None
        self.positions: dict[str, tuple[int, ...]] = dict(start or {})
        self.vector = vector or Vector()
        self.generations: dict[str, str] = dict(generations or {})
        self._reached: dict[str, Frontier] = {}
        self._waiting: tuple[str, ...] = ()
        self._history: dict[str, list[Frontier]] = {name: [] for name in inputs}
        self._next_record: dict[str, int] = {}
        self.since_us: dict[str, int] = dict(since_us or {})
        """Per producer name, the time after which everything was appended that is still unread."""
        self.replays: dict[str, int] = dict(replays or {})
        """Per topic that is being read from offset zero, its mark (see cdc.log.api)."""

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Topics that have no cut yet: not made, or their snapshot is not complete."""
        return self._waiting

    def next_cut(self, timeout_s: float) -> Cut | None:
        """The next cut, waiting for it at most `timeout_s`; None: there is none yet.

        The reader then stands at its end: `positions`, `vector` and `generations` say where.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            cut = self._try()
            left_s = deadline - time.monotonic()
            if cut is not None or left_s <= 0:
                return cut
            self._reader.wait(list(self._inputs), left_s)

    def exact(self, cut: Cut) -> bool:
        """Whether the cut, now that it has been read, showed exactly its frontiers' state. To be
        asked of every cut that was read. Raises DeletesGone."""
        self._check_deletes(cut)
        return all(
            undisturbed(self._reader, name, topic, cut.frontiers[name].appended_us)
            for name, topics in self._inputs.items()
            if name in cut.frontiers
            for topic in topics
        )

    def _check_deletes(self, cut: Cut) -> None:
        for name, topics in self._inputs.items():
            since_us = self.since_us.get(name, 0)
            for topic in topics:
                mark = self.replays.get(topic)
                if mark is not None:
                    if not self._reader.replay_holds(topic, mark):
                        raise DeletesGone(topic, in_replay=True)
                elif (
                    cut.start[topic] != cut.end[topic]
                    and self._reader.horizon(topic).tombstones_us > since_us
                ):
                    raise DeletesGone(topic, in_replay=False)
        self.replays.clear()
        for name, frontier in cut.frontiers.items():
            self.since_us[name] = max(frontier.appended_us, self.since_us.get(name, 0))

    def _try(self) -> Cut | None:
        self._waiting = ()
        now_us = time.time_ns() // 1000
        for name, newest in self._reader.newest_frontiers(list(self._inputs)).items():
            self._observe(name, newest, now_us)
        chosen = self._choose()
        if not chosen or (self._fresh and self._waiting):
            return None
        start: dict[str, tuple[int, ...]] = {}
        end: dict[str, tuple[int, ...]] = {}
        for name, topics in self._inputs.items():
            for topic in topics:
                self._check_generation(topic)
                reached = chosen[name].end_offsets[topic] if name in chosen else None
                if topic not in self.positions:
                    self.replays[topic] = self._reader.replay_mark(topic)
                stand = self.positions.get(topic) or (0,) * len(reached or ())
                start[topic], end[topic] = stand, _furthest(stand, reached)
        self._reached.update(chosen)
        self._forget_older()
        self.positions, self._fresh = end, False
        self.vector = self._joined_vector()
        cut = Cut(self.vector, dict(self._reached), start, dict(end), self._reader)
        self._reader.expect(cut.ranges)
        return cut

    def _observe(self, name: str, newest: Frontier | None, now_us: int) -> None:
        """Note the newest frontiers of `name`, as they were after `now_us`, and which of its topics
        have no cut yet."""
        missing = [t for t in self._inputs[name] if not _has_cut(newest, name, t)]
        if newest is None or missing:
            self._waiting += tuple(missing or self._inputs[name])
            return
        if newest.whole and not self._is_ahead(name, newest):
            # Whatever is still to come is appended after this.
            self.since_us[name] = max(now_us, self.since_us.get(name, 0))
        history = self._history[name]
        if history and history[-1].appended_us == newest.appended_us:
            return
        if self._aligned and len(self._inputs) > 1:
            self._read_history(name)
        if not history or history[-1].appended_us < newest.appended_us:
            history.append(newest)
        del history[:-HISTORY]

    def _read_history(self, name: str) -> None:
        """Frontiers between the last one noted and the newest: others may stand at one of them."""
        history = self._history[name]
        for offset, frontier in self._reader.frontiers(name, self._next_record.get(name, -HISTORY)):
            self._next_record[name] = offset + 1
            complete = all(_has_cut(frontier, name, t) for t in self._inputs[name])
            if frontier.whole and complete:
                history.append(frontier)

    def _choose(self) -> dict[str, Frontier]:
        """Per name that advances, the frontier to step to."""
        seen = {name: history for name, history in self._history.items() if history}
        target = agreed(seen) if self._aligned else {n: h[-1] for n, h in seen.items()}
        return {name: f for name, f in target.items() if self._is_ahead(name, f)}

    def _is_ahead(self, name: str, frontier: Frontier) -> bool:
        reached = self._reached.get(name)
        if reached is not None:
            return frontier.appended_us > reached.appended_us
        if not self.vector.covers(frontier.positions):
            return True
        return any(
            t not in self.positions or frontier.end_offsets[t] != self.positions[t]
            for t in self._inputs[name]
        )

    def _forget_older(self) -> None:
        for name, frontier in self._reached.items():
            history = self._history[name]
            self._history[name] = [f for f in history if f.appended_us >= frontier.appended_us]

    def _check_generation(self, topic: str) -> None:
        generation = self._reader.generation(topic)
        if self.generations.setdefault(topic, generation) != generation:
            raise TopicReplaced(topic)

    def _joined_vector(self) -> Vector:
        joined = self.vector
        for frontier in self._reached.values():
            joined = joined.advanced(frontier.positions)
        return joined


def undisturbed(reader: Reader, name: str, topic: str, appended_us: int) -> bool:
    """Whether a topic that was read up to the frontier of `name` appended at `appended_us` showed
    exactly that frontier's state; asked after the read."""
    if reader.horizon(topic).superseded_us <= appended_us:
        return True
    # The horizon may be a rule of time only (Kafka's lag). Nothing was superseded while nothing
    # was appended.
    newest = reader.newest_frontier(name)
    return newest is not None and newest.whole and newest.appended_us == appended_us


def _has_cut(frontier: Frontier | None, name: str, topic: str) -> bool:
    """Whether the frontier shows a state of the topic."""
    if frontier is None or topic not in frontier.end_offsets:
        return False
    return all(f"{name}.{table}" != topic for table in frontier.incomplete)


def _furthest(stand: tuple[int, ...], reached: tuple[int, ...] | None) -> tuple[int, ...]:
    if reached is None:
        return stand
    return tuple(max(pair) for pair in zip(stand, reached, strict=True))
