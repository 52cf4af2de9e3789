"""The loop that keeps a store equal to its inputs; the same for every kind of store.

1. Open the sink: older owners are fenced, and the store says how far it has come (SEMANTICS 6).
2. Read the next cut of all inputs, keep the last change per key, apply rows and position in one
   transaction, record how far we are for compaction's floor and for people. Whatever arrives
   during a write is the next cut (group commit).
3. Where the stored position means nothing any more (a topic was made anew, tombstones after it
   were removed, a table of the store is new), read from offset zero and replace the store's rows.
   The same where tombstones went during a replay: a number of times, then the sink stops.
4. What a store refuses to take goes to the topic `dead-letters` before the position is stored.
5. A store that does not answer is asked again, later and later; one that a rebuild has swapped is
   opened again; everything else stops the sink.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cdc.captured import Beginning, listed
from cdc.config import SourceConfig
from cdc.config_yaml import nearest
from cdc.cuts import Cut, CutReader, DeletesGone, TopicReplaced
from cdc.errors import SinkError, StoreUnavailable
from cdc.log.api import DeadLetter, Log, Reader
from cdc.positions import Vector
from sinks.api import Sink, SinkCut, SinkInput, SinkPosition, Swapped
from sinks.chunks import Chunk, Limits, changes_of, filled, frozen
from sinks.progress import Progress

logger = logging.getLogger(__name__)

IDLE_S = 0.25
RETRY_S_MAX = 30.0
REST_S_MAX = 0.1
HOLD_S = 0.005
REPLAYS_MAX = 3

Stop = Callable[[], bool]


class _OpenAgain(Exception):
    """A schema changed, and the store does not go on from where it stood."""


@dataclass(frozen=True)
class Feed:
    """What a sink reads: per frontier's name (`shop`, `view.orders`) the inputs' topics."""

    name: str
    inputs: tuple[tuple[str, str, str], ...]
    """(input name, topic, frontier name)"""
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)
    """The sources among the frontiers' names."""

    def topics(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for _, topic, producer in self.inputs:
            found.setdefault(producer, []).append(topic)
        return found


def deliver(
    sink: Sink,
    feed: Feed,
    log: Log,
    stop: Stop,
    progress: Progress,
    limits: Limits | None = None,
    hold: Stop = lambda: False,
) -> None:
    """Deliver until `stop()`; leave the store alone while `hold()`, which is asked between two
    cuts. Raises Fenced, SinkError, LogError."""
    attempts = outrun = 0
    while not stop():
        try:
            Delivery(sink, feed, log, progress, limits or Limits(), hold).run(stop)
        except StoreUnavailable as error:
            attempts = 0 if progress.applied_since_failure() else attempts + 1
            delay_s = retry_delay_s(attempts)
            logger.warning("%s: %s; trying again in %.1f s", feed.name, error, delay_s)
            progress.retrying(error, delay_s)
            _pause(delay_s, stop)
        except TopicReplaced as error:
            logger.warning("%s: %s; loading it anew", feed.name, error)
        except DeletesGone as error:
            outrun = outrun + 1 if error.in_replay else 0
            if outrun == REPLAYS_MAX:
                raise
            logger.warning("%s: %s; loading it anew", feed.name, error)
        except Swapped:
            logger.info("%s: a rebuild has taken its place; going on there", feed.name)
        except _OpenAgain:
            logger.info("%s: a schema changed during a load; beginning it again", feed.name)


def retry_delay_s(attempts: int) -> float:
    """How long to wait after so many failures in a row: 0.1 s, doubled each time, 30 s at most."""
    return float(min(0.1 * 2 ** min(attempts, 20), RETRY_S_MAX))


def _pause(seconds: float, stop: Stop) -> None:
    deadline = time.monotonic() + seconds
    while not stop() and (left_s := deadline - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.1))


class Delivery:
    """One attempt: from opening the sink to `stop` or an error."""

    def __init__(
        self,
        sink: Sink,
        feed: Feed,
        log: Log,
        progress: Progress,
        limits: Limits,
        hold: Stop,
    ) -> None:
        self._sink, self._feed, self._log = sink, feed, log
        self._progress, self._limits, self._hold = progress, limits, hold
        self._reader = log.reader()
        self._inputs: tuple[SinkInput, ...] = ()
        self._position = SinkPosition(Vector(), {}, {})
        self._stored: SinkPosition | None = None
        self._first_load = self._replace = False

    def run(self, stop: Stop) -> None:
        try:
            if self._await_topics(stop) and self._await_release(stop):
                self._open_and_follow(stop)
        finally:
            self._progress.flush()
            self._reader.close()

    def _await_topics(self, stop: Stop) -> bool:
        """Wait until every input's topic exists; False: told to stop before. Raises SinkError for
        one that its source will never make."""
        names, beginning = list(self._feed.topics()), Beginning()
        while not stop():
            missing = {topic for _, topic, _ in self._feed.inputs} - set(self._reader.topics())
            if not missing:
                return True
            self._refuse_unknown(missing, beginning)
            self._progress.waiting(sorted(missing))
            self._reader.wait(names, IDLE_S)
        return False

    def _refuse_unknown(self, missing: Collection[str], beginning: Beginning) -> None:
        """A source's first frontier names all of its tables' topics (cdc.captured)."""
        for name, topic, source in self._feed.inputs:
            config = self._feed.sources.get(source)
            if topic not in missing or config is None or topic in listed(config):
                continue
            newest = self._reader.newest_frontier(source)
            if newest is None or beginning.allows_for_more(config, newest):
                continue
            known = newest.schema_versions
            if known and topic not in known:
                raise SinkError(
                    f"source '{source}' does not capture '{name}'",
                    where=f"sink {self._feed.name}",
                    hint=nearest(topic, known) or f"there are: {', '.join(sorted(known))}",
                )

    def _await_release(self, stop: Stop) -> bool:
        """Wait while the store is to be left alone; False: told to stop before."""
        while self._hold() and not stop():
            time.sleep(HOLD_S)
        return not stop()

    def _open_and_follow(self, stop: Stop) -> None:
        self._inputs = self._inputs_now()
        self._stored = self._sink.open(self._inputs)
        self._begin(self._stored)
        self._hold_floor()
        cuts = CutReader(
            self._reader,
            self._feed.topics(),
            start=self._position.offsets or None,
            vector=self._position.vector,
            generations=self._position.generations,
            since_us=dict.fromkeys(self._feed.topics(), self._position.appended_us),
            replays=self._position.replays,
        )
        chunk = Chunk({t: list(o) for t, o in self._position.offsets.items()})
        while not stop():
            if not self._await_release(stop):
                break
            cut = cuts.next_cut(IDLE_S)
            if cut is None:
                self._progress.idle(cuts.waiting_for)
                continue
            took_s = self._step(chunk, cut, cuts, stop)
            _pause(min(took_s * self._sink.rest_ratio, REST_S_MAX), stop)

    def _begin(self, stored: SinkPosition | None) -> None:
        """Go on from the stored position, or decide for a load or a reload from offset zero."""
        if stored is not None and not self._must_reload(stored):
            self._position = stored
            self._progress.resumed(stored)
            return
        self._first_load, self._replace = self._sink.empty, not self._sink.empty
        if self._replace:
            logger.info("%s: reading its inputs from the beginning", self._feed.name)
        self._position = SinkPosition(
            Vector(), {}, self._generations(), appended_us=self._newest_us()
        )

    def _must_reload(self, stored: SinkPosition) -> bool:
        topics = {item.topic for item in self._inputs}
        if set(stored.offsets) != topics or dict(stored.generations) != self._generations():
            return True
        return any(
            self._missed_deletes(name, topic, stored)
            for name, read in self._feed.topics().items()
            for topic in read
        )

    def _missed_deletes(self, name: str, topic: str, stored: SinkPosition) -> bool:
        """Whether deletes between the stored position and the topic's end may have been removed."""
        mark = stored.replays.get(topic)
        if mark is not None:
            return not self._reader.replay_holds(topic, mark)
        if self._reader.horizon(topic).tombstones_us <= stored.appended_us:
            return False
        newest = self._reader.newest_frontier(name)
        at_end = newest is not None and newest.end_offsets.get(topic) == stored.offsets[topic]
        return newest is None or not newest.whole or not at_end

    def _step(self, chunk: Chunk, cut: Cut, cuts: CutReader, stop: Stop) -> float:
        """Apply one cut; how long its last write took, in seconds (0.0: nothing was written).
        Told to stop, it leaves a large one between two chunks."""
        for full in filled(chunk, cut, self._limits):
            self._apply(full, self._partial(full, cuts), cut)
            full.begin_anew()
            if stop():
                return 0.0
        if not cuts.exact(cut):
            return 0.0
        position = SinkPosition(
            cut.vector,
            frozen(chunk.offsets),
            self._position.generations,
            cut.commit_us,
            appended_us=_oldest_us(cut),
        )
        took_s = self._apply(chunk, position, cut)
        chunk.begin_anew()
        self._hold_floor()
        return took_s

    def _partial(self, chunk: Chunk, cuts: CutReader) -> SinkPosition:
        return replace(
            self._position,
            offsets=frozen(chunk.offsets),
            chunk=self._position.chunk + 1,
            replays=dict(cuts.replays),
        )

    def _apply(self, chunk: Chunk, position: SinkPosition, cut: Cut) -> float:
        self._follow_schemas(cut)
        changes = changes_of(chunk, self._inputs)
        started = time.monotonic()
        cut_now = SinkCut(changes, position, self._first_load, self._replace)
        self._sink.apply(cut_now, self._reject)
        took_s = time.monotonic() - started
        self._position, self._first_load = position, False
        self._replace = self._replace and position.chunk != 0
        if not self._replace:
            self._stored = position
        rows = sum(c.upserts.num_rows + c.deletes.num_rows for c in changes)
        self._progress.applied(position, rows, took_s, cut.span)
        return took_s

    def _reject(self, letters: Sequence[DeadLetter]) -> None:
        self._log.dead_letter(letters)
        self._progress.rejected(len(letters))

    def _follow_schemas(self, cut: Cut) -> None:
        """Widen the store's tables when an input has a newer schema version."""
        if self._has_schemas_of(cut):
            return
        now = self._inputs_now()
        if now != self._inputs:
            self._inputs = now
            reloading = self._replace and self._position.chunk
            if self._sink.open(now) != self._stored or reloading:
                raise _OpenAgain

    def _has_schemas_of(self, cut: Cut) -> bool:
        """Whether the cut's frontiers say that its records have the versions that we know."""
        versions: dict[str, int] = {}
        for frontier in cut.frontiers.values():
            versions |= frontier.schema_versions
        return all(versions.get(item.topic) == item.schema.version for item in self._inputs)

    def _inputs_now(self) -> tuple[SinkInput, ...]:
        return inputs_of(self._feed, self._reader)

    def _generations(self) -> dict[str, str]:
        return {item.topic: self._reader.generation(item.topic) for item in self._inputs}

    def _newest_us(self) -> int:
        """Append time of the oldest frontier that a load which begins now may end at."""
        frontiers = [self._reader.newest_frontier(name) for name in self._feed.topics()]
        return min((f.appended_us for f in frontiers if f is not None), default=0)

    def _hold_floor(self) -> None:
        self._progress.floor(self._position.appended_us)


def inputs_of(feed: Feed, reader: Reader) -> tuple[SinkInput, ...]:
    """The inputs with the newest schemas of their topics."""
    return tuple(SinkInput(name, topic, reader.schema(topic)) for name, topic, _ in feed.inputs)


def _oldest_us(cut: Cut) -> int:
    return min((f.appended_us for f in cut.frontiers.values()), default=0)


__all__: Sequence[str] = ("Feed", "deliver", "inputs_of", "retry_delay_s")
