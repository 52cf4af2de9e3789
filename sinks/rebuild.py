"""`cdc rebuild SINK`: replay a sink from offset zero beside the live one, compare it, swap it.

1.  One rebuild at a time, by a lock; another one on another machine is fenced by the store.
2.  Deliver to `sink.beside()` from offset zero, or from where an interrupted rebuild stopped, until
    it holds what was the newest when it began, and once more until what came meanwhile. It has a
    floor and positions of its own in the log, as the consumer `<sink>/rebuild`.
3.  Compare it with the topics at exactly its position (sinks.rebuild_compare).
4.  Ask the live sink's process to leave the store alone between two cuts; catch up with it; swap.
    Where it cannot be asked (it runs elsewhere), it may be faster: then again, a number of times.

Until the swap nobody sees anything. Interrupted before it, the live store is untouched, and the
next rebuild goes on where this one stopped. The swap itself is the store's (sinks.api.Sink.swap).
What does not compare equal is discarded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cdc import faults
from cdc.compare import SAMPLES_MAX
from cdc.config import Config
from cdc.cuts import undisturbed
from cdc.errors import CdcError, CheckFailed, Fenced, StoreUnavailable
from cdc.log.api import Log, Reader
from sinks.api import Sink, SinkInput, SinkPosition
from sinks.chunks import Limits
from sinks.delivery import Feed, Stop, deliver, inputs_of, retry_delay_s
from sinks.locks import Locked, hold_lock, locked, rebuild_lock
from sinks.progress import Progress
from sinks.rebuild_compare import Comparison, compare_input
from sinks.stores import sink_of

LIMITS = Limits(rows=250_000, bytes_=64 * 2**20)
CATCH_UPS = 2
COMPARISONS_MAX = 3
SWAPS_MAX = 100
UNAVAILABLE_S_MAX = 60.0

T = TypeVar("T")
Tell = Callable[[Mapping[str, Any]], None]
"""Is told the facts of the status file again and again while the work goes on."""


class Interrupted(CheckFailed):
    """Told to stop before the swap."""


@dataclass(frozen=True)
class Rebuilt:
    """How a rebuild ended. `rows` were compared, `refused` are in `dead-letters` instead;
    `changes` were delivered, in `seconds` all in all."""

    rows: Mapping[str, int]
    refused: int
    changes: int
    seconds: float
    resumed: bool


def consumer(sink: str) -> str:
    """The name under which a rebuild has positions and a floor in the log."""
    return f"{sink}/rebuild"


def status_file(config: Config, sink: str) -> Path:
    return config.state.path / "sinks" / f"{sink}.rebuild.json"


def rebuild(config: Config, feed: Feed, log: Log, stop: Stop, tell: Tell) -> Rebuilt:
    """Rebuild the sink that `feed` names. Raises Interrupted when `stop()` before the swap,
    CheckFailed when the rows differ or another rebuild runs, Fenced, SinkError, LogError."""
    try:
        with locked(rebuild_lock(config, feed.name)):
            return _rebuild(config, feed, log, stop, tell)
    except Locked as error:
        raise CheckFailed(
            "a rebuild of this sink is running already",
            where=f"sink {feed.name}",
            hint="`cdc status` shows how far it is",
        ) from error


def _rebuild(config: Config, feed: Feed, log: Log, stop: Stop, tell: Tell) -> Rebuilt:
    file = status_file(config, feed.name)
    progress = Progress(consumer(feed.name), log, file)
    with (
        closing(sink_of(config, feed.name)) as live,
        closing(live.beside()) as new,
        closing(log.reader()) as reader,
    ):
        work = _Rebuild(config, feed, log, reader, live, new, progress, stop, tell)
        try:
            found = work.run()
        except Fenced:
            raise  # what stands in the log is the newer rebuild's now
        except CdcError as error:
            progress.stopped(error)
            log.remove(consumer(feed.name))
            raise
        log.remove(consumer(feed.name))
        file.unlink(missing_ok=True)
        return found


class _Rebuild:
    """One rebuild, from beginning to end."""

    def __init__(
        self,
        config: Config,
        feed: Feed,
        log: Log,
        reader: Reader,
        live: Sink,
        new: Sink,
        progress: Progress,
        stop: Stop,
        tell: Tell,
    ) -> None:
        self._feed, self._log, self._reader = feed, log, reader
        self._live, self._new, self._progress = live, new, progress
        self._hold = hold_lock(config, feed.name)
        self._stop, self._tell = stop, tell
        self._began_s = time.monotonic()
        self._phase = "loading"
        self._resumed = False

    def run(self) -> Rebuilt:
        for _ in range(CATCH_UPS):
            self._catch_up()
        faults.point("rebuild.after_load")
        compared = self._compare()
        self._swap()
        return Rebuilt(
            {one.input: one.rows for one in compared},
            sum(one.refused for one in compared),
            self._progress.facts["rows"],
            time.monotonic() - self._began_s,
            self._resumed,
        )

    def _catch_up(self) -> None:
        """Deliver until all that is the newest now is in the store."""
        target = self._newest()

        def enough() -> bool:
            self._say(target)
            return self._stop() or bool(self._progress.waiting_for) or self._has(target)

        deliver(self._new, self._feed, self._log, enough, self._progress, LIMITS)
        if self._progress.waiting_for:
            raise CheckFailed(
                f"there is no complete data yet of {', '.join(self._progress.waiting_for)}",
                where=f"sink {self._feed.name}",
                hint="start `cdc run`, and rebuild when `cdc status` shows that it is there",
            )
        self._go_on()

    def _newest(self) -> dict[str, tuple[int, ...]]:
        """Per topic, where the newest frontier ends."""
        found: dict[str, tuple[int, ...]] = {}
        for name, topics in self._feed.topics().items():
            frontier = self._reader.newest_frontier(name)
            if frontier is not None:
                found |= {t: frontier.end_offsets[t] for t in topics if t in frontier.end_offsets}
        return found

    def _has(self, target: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the store holds a whole cut that reaches `target`, or the newest there is."""
        position = self._progress.position
        if position is None or position.chunk:
            return False
        if self._progress.is_idle:
            return True
        reached = SinkPosition(position.vector, target, self._generations(target))
        return bool(target) and position.covers(reached)

    def _generations(self, topics: Mapping[str, object]) -> dict[str, str]:
        return {topic: self._reader.generation(topic) for topic in topics}

    def _compare(self) -> list[Comparison]:
        """Raises CheckFailed when the rows differ."""
        self._phase = "comparing"
        marks = self._marks()
        found, different = self._compared()
        for _ in range(COMPARISONS_MAX - 1):
            if not different or self._is_exact(marks):
                break
            self._catch_up()  # compaction has taken records that the comparison needed
            marks = self._marks()
            found, different = self._compared()
        if different:
            self._new.discard()
            raise CheckFailed(
                _told(different),
                where=f"sink {self._feed.name}",
                hint="the live store is untouched, and what was rebuilt is discarded",
            )
        return found

    def _compared(self) -> tuple[list[Comparison], list[Comparison]]:
        """Of every input; and those that differ."""
        found = self._patiently(self._compare_once)
        return found, [one for one in found if one.difference is not None]

    def _compare_once(self) -> list[Comparison]:
        position = self._progress.position
        assert position is not None
        return [
            compare_input(
                self._new,
                item,
                position.offsets[item.topic],
                self._reader,
                self._refused_keys,
                self._step,
            )
            for item in self._inputs()
        ]

    def _inputs(self) -> tuple[SinkInput, ...]:
        return inputs_of(self._feed, self._reader)

    def _marks(self) -> dict[str, int]:
        return {item.topic: self._reader.replay_mark(item.topic) for item in self._inputs()}

    def _is_exact(self, marks: Mapping[str, int]) -> bool:
        """Whether the topics, read since `marks`, still said what they said at the position."""
        position = self._progress.position
        assert position is not None
        return all(
            undisturbed(self._reader, name, topic, position.appended_us)
            and self._reader.replay_holds(topic, marks[topic])
            for name, topics in self._feed.topics().items()
            for topic in topics
        )

    def _refused_keys(self) -> frozenset[str]:
        """The keys of the sink's dead letters."""
        names = {self._feed.name, consumer(self._feed.name)}
        return frozenset(
            letter.key.decode()
            for _, letter in self._reader.dead_letters()
            if letter.connector in names and letter.key is not None
        )

    def _swap(self) -> None:
        self._phase = "swapping"
        for _ in range(SWAPS_MAX):
            with self._held():
                self._catch_up()
                faults.point("rebuild.before_swap")
                if self._patiently(lambda: self._live.swap(self._new, self._inputs())):
                    faults.point("rebuild.after_swap")
                    return
        raise CheckFailed(
            f"the live sink was further in {SWAPS_MAX} attempts to swap",
            where=f"sink {self._feed.name}",
            hint="`cdc rebuild` goes on with what it has; try it when fewer changes come",
        )

    @contextmanager
    def _held(self) -> Iterator[None]:
        """While the live sink's process, if it is on this machine, leaves the store alone."""
        with locked(self._hold):
            yield

    def _patiently(self, work: Callable[[], T]) -> T:
        """Try again while the store does not answer, for a minute at most."""
        attempts, deadline_s = 0, time.monotonic() + UNAVAILABLE_S_MAX
        while True:
            try:
                return work()
            except StoreUnavailable as error:
                delay_s = retry_delay_s(attempts)
                if time.monotonic() + delay_s > deadline_s:
                    raise
                self._progress.retrying(error, delay_s)
            self._pause(delay_s)
            attempts += 1

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._go_on()
            time.sleep(min(seconds, 0.1))

    def _step(self) -> None:
        self._go_on()
        self._say(None)

    def _go_on(self) -> None:
        if self._stop():
            raise Interrupted(
                "interrupted before the swap: the live store is untouched",
                where=f"sink {self._feed.name}",
                hint=f"`cdc rebuild {self._feed.name}` goes on where this one stopped; "
                f"`cdc remove {self._feed.name}` forgets it",
            )

    def _say(self, target: Mapping[str, tuple[int, ...]] | None) -> None:
        position = self._progress.position
        if position is not None and not (
            self._progress.facts["rows"] or self._progress.facts["cuts"]
        ):
            self._resumed = True
        done = sum(map(sum, position.offsets.values())) if position is not None else 0
        facts: dict[str, Any] = {"phase": self._phase, "done": done}
        facts["elapsed_s"] = time.monotonic() - self._began_s
        if target is not None:
            facts["of"] = max(done, sum(map(sum, target.values())))
        self._progress.note(facts)
        self._tell(self._progress.facts)


def _told(different: list[Comparison]) -> str:
    lines = []
    for one in different:
        assert one.difference is not None
        found = one.difference
        counts = f"{found.missing} missing, {found.extra} extra, {found.different} different"
        samples = "; ".join(str(sample) for sample in found.samples[:SAMPLES_MAX])
        lines.append(f"{one.input}: {counts} of {one.rows:,} rows: {samples}")
    return "the rebuilt rows are not those of the topics: " + " | ".join(lines)


__all__ = ["Interrupted", "Rebuilt", "consumer", "rebuild", "status_file"]
