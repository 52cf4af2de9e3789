"""The process of a view group: it keeps the group's views equal to their SQL (SEMANTICS 15, 19).

1.  Become the group's only writer; plan its views once their tables stand in the log.
2.  Recover: load the checkpoint and step, in silence, to exactly the cuts that were published last.
    Where that cannot be exact any more, or the plan is another one, build the state anew from
    offset zero and publish, at one cut, the difference by key to what the topics hold.
    A request for a reload (views.reload) leads there, too.
3.  Step from cut to cut: stage the inputs' changes, run the graph, append all views' outputs with
    their frontiers at once, commit the arrangements. Merge and checkpoint beside it.

The group registers how far back it may still have to read as its floor with the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from cdc.captured import Beginning, captured
from cdc.changes import ChangeBatch
from cdc.cli.parts import Stop
from cdc.config import Config
from cdc.cuts import Cut, CutReader, DeletesGone, TopicReplaced
from cdc.errors import UnknownTable, ViewError
from cdc.log.api import Log, Producer, Reader
from cdc.schema import TableSchema
from compaction.runs import Run
from views.checkpoint import Checkpoints, Snapshot, Stand, snapshot
from views.operators.graph import Graph
from views.plan import ViewPlan, scans
from views.publishing import Publisher, check_compatible
from views.recovery import resume
from views.reload import ReloadRequest, ReloadRequested
from views.sql.planner import plan_views
from views.status import StatusFile
from views.table_changes import table_change

logger = logging.getLogger(__name__)

REPLAYS_MAX = 3
_POLL_S = 0.25
_MERGE_S = 0.004
_MERGE_SHARE = 0.25


def maintain(config: Config, group: str, log: Log, stop: Stop) -> None:
    """Keep the group's views up to date until `stop()`. Raises ViewError, LogError, Fenced."""
    producer, reader = log.producer(f"view.{group}"), log.reader()
    outrun = 0
    try:
        while not stop():
            status = StatusFile(config.state.path, group)
            planned = _planned(config, group, reader, status, stop)
            if planned is None:
                return
            maintainer = Maintainer(config, group, log, producer, reader, planned, status)
            try:
                maintainer.run(stop)
            except (TopicReplaced, ReloadRequested):
                # An input was made anew, or somebody asks: what was built is void.
                maintainer.discard()
            except DeletesGone as error:
                outrun = outrun + 1 if error.in_replay else 0
                if outrun == REPLAYS_MAX:
                    raise
                logger.warning("views of group %s: %s; loading them anew", group, error)
                maintainer.discard()
            finally:
                maintainer.close()
    finally:
        reader.close()
        producer.close()


@dataclass(frozen=True)
class Planned:
    """A group's plans, its tables, and its views that ran once and cannot be planned any more."""

    plans: Mapping[str, ViewPlan]
    tables: Mapping[str, TableSchema]
    refused: Mapping[str, ViewError]


def _planned(
    config: Config, group: str, reader: Reader, status: StatusFile, stop: Stop
) -> Planned | None:
    """The group's plans and tables, as soon as all tables are in the log; None: stopped before.
    Raises ViewError for a view that never ran, or when there is none left."""
    mine = {name: view for name, view in config.views.items() if view.group == group}
    own, beginning = replace(config, views=mine), Beginning()
    while not stop():
        known = captured(reader, config.sources, beginning)
        tables = known.tables
        refused: dict[str, ViewError] = {}
        plans = plan_views(own, tables, refused, partial(_check_topic, reader, reader.topics()))
        if not refused:
            return Planned(plans, tables, refused)
        unknown = any(isinstance(error, UnknownTable) for error in refused.values())
        if known.complete == config.sources.keys() and not (unknown and known.may_find_more):
            ran = [n for n in refused if reader.newest_frontier(f"view.{n}") is not None]
            fatal = [error for name, error in refused.items() if name not in ran or not plans]
            if fatal:
                raise fatal[0]
            return Planned(plans, tables, refused)
        error = next(iter(refused.values()))
        status.write({"state": "waiting", "waiting_for": str(error)})
        reader.wait(list(config.sources), _POLL_S)
    return None


def _check_topic(reader: Reader, topics: Sequence[str], plan: ViewPlan) -> None:
    topic = f"view.{plan.name}"
    if topic in topics:
        check_compatible(reader.schema(topic), plan.output, plan.name)


class Maintainer:
    """One group, from its recovery until it is stopped."""

    def __init__(
        self,
        config: Config,
        group: str,
        log: Log,
        producer: Producer,
        reader: Reader,
        planned: Planned,
        status: StatusFile,
    ) -> None:
        self._config, self._consumer, self._log, self._reader = config, f"view.{group}", log, reader
        plans = planned.plans
        self._plans, self._tables, self._status = plans, planned.tables, status
        self._versions = {topic: table.version for topic, table in planned.tables.items()}
        self._refused = planned.refused
        self._producer = producer
        self._sources = view_sources(plans)
        self._inputs = _topics_by_source(plans)
        self._checkpoints = Checkpoints(config.state.path / "views" / group)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[Future[dict[int, Run]], Snapshot] | None = None
        self._saved_at_s = time.monotonic()
        self._dirty = False
        self._rows_read = 0
        self._graph, self._publisher = self._new_graph()
        self._stand: Stand | None = None
        self._request = ReloadRequest(config.state.path, group)
        self._reloading = False

    def _new_graph(self) -> tuple[Graph, Publisher]:
        graph = Graph(self._plans, self._tables)
        return graph, Publisher(graph, self._producer, self._reader, self._sources)

    def run(self, stop: Stop) -> None:
        for name, error in self._refused.items():
            logger.warning("view %s is blocked: %s", name, error)
        self._reloading = self._request.stands
        if not self._reloading:
            self._stand = resume(self._checkpoints, self._graph, self._publisher, self._reader)
        if self._stand is None:
            self._graph, self._publisher = self._new_graph()
            self._checkpoints.discard()
            self._publisher.expect_live_rows()
        cuts = self._cut_reader()
        self._register_floor()
        while not stop():
            if self._request.stands and not self._reloading:
                raise ReloadRequested
            cut = cuts.next_cut(0.0 if self._owes() else _POLL_S)
            if cut is not None:
                self._step(cut, cuts)
            else:
                self._idle(cuts)
        if self._stand is not None and self._dirty:
            self._finish_checkpoint(wait=True)
            self._start_checkpoint()
        self._finish_checkpoint(wait=True)

    def _cut_reader(self) -> CutReader:
        if self._stand is None:
            return CutReader(self._reader, self._inputs)
        stand = self._stand
        return CutReader(
            self._reader,
            self._inputs,
            stand.offsets,
            stand.vector,
            stand.generations,
            since_us=stand.reached_us,
        )

    def _step(self, cut: Cut, cuts: CutReader) -> None:
        """One cut: read, run, publish, commit."""
        began_s = time.monotonic()
        self._follow_tables(cut)
        changes = {topic: self._changes(cut, topic) for topic in self._graph.inputs}
        hold = not cuts.exact(cut)
        stand = self._reached(cut, cuts)
        deltas = {topic: self._graph.inputs[topic].stage(found) for topic, found in changes.items()}
        del changes
        slots = self._graph.run(deltas)
        del deltas
        self._publisher.step(slots, stand, cut.commit_us, hold)
        del slots
        self._graph.commit()
        loaded, self._stand, self._dirty = self._stand is None, stand, True
        if self._reloading and not hold:
            self._request.end()
            self._reloading = False
        self._graph.merge(max(_MERGE_S, _MERGE_SHARE * (time.monotonic() - began_s)))
        if loaded:
            self._start_checkpoint()
        self._beside()

    def _follow_tables(self, cut: Cut) -> None:
        """Notice what became of the columns that views read, before the first rows of a table's
        new version. Raises ReloadRequested when the views must be planned again."""
        for source, topics in self._inputs.items():
            frontier = cut.frontiers.get(source)
            for topic in topics if frontier is not None else ():
                version = frontier.schema_versions.get(topic, 0) if frontier else 0
                if version > self._versions[topic]:
                    self._versions[topic] = version
                    self._follow(topic, self._reader.schema(topic, version))

    def _follow(self, topic: str, now: TableSchema) -> None:
        change = table_change(self._plans, topic, self._tables[topic], now)
        if change.replan:
            raise ReloadRequested
        for name, why in change.refused.items():
            logger.warning("view %s is blocked: %s", name, why)
            self._graph.outputs[name].refused = why

    def _changes(self, cut: Cut, topic: str) -> Sequence[ChangeBatch]:
        found = [batch.changes for batch in cut.batches(topic)]
        self._rows_read += sum(batch.num_rows for batch in found)
        return found

    def _reached(self, cut: Cut, cuts: CutReader) -> Stand:
        before = {} if self._stand is None else dict(self._stand.reached_us)
        reached = {name: frontier.appended_us for name, frontier in cut.frontiers.items()}
        return Stand(cut.vector, dict(cut.end), dict(cuts.generations), before | reached)

    def _idle(self, cuts: CutReader) -> None:
        if self._owes():
            self._graph.merge(_MERGE_S)
        if self._stand is None:
            self._register_floor()
            waiting = ", ".join(cuts.waiting_for)
            self._status.write({"state": "waiting", "waiting_for": waiting})
        else:
            self._beside()

    def _owes(self) -> bool:
        return any(a.owes_merge for a in self._graph.arrangements.values())

    def _beside(self) -> None:
        """What stands beside the steps: checkpoints, the floor, the status."""
        self._finish_checkpoint(wait=False)
        due = time.monotonic() - self._saved_at_s >= self._config.state.checkpoint_interval_s
        if self._writing is None and self._dirty and (due or self._over_budget()):
            self._start_checkpoint()
        if self._status.is_due:
            self._status.write(self._facts())

    def _over_budget(self) -> bool:
        """Whether runs that stand in no file yet take more than half of the memory allowed."""
        held = sum(
            run.nbytes
            for arrangement in self._graph.arrangements.values()
            for run in arrangement.old.runs
            if run.path is None
        )
        return held > self._config.state.memory_max_bytes // 2

    def _start_checkpoint(self) -> None:
        assert self._stand is not None
        taken = snapshot(self._graph, self._stand)
        schemas = {name: a.layout.schema for name, a in self._graph.arrangements.items()}
        future = self._thread.submit(self._checkpoints.write, taken, schemas)
        self._writing, self._dirty = (future, taken), False
        self._saved_at_s = time.monotonic()

    def _finish_checkpoint(self, wait: bool) -> None:
        """Take over a checkpoint that is written: mapped runs, a higher floor."""
        if self._writing is None or not (wait or self._writing[0].done()):
            return
        written = self._writing[0].result()
        for arrangement in self._graph.arrangements.values():
            arrangement.replace_runs(written)
        self._writing = None
        self._register_floor()

    def _register_floor(self) -> None:
        """Tell the log how far back this group may still read: its oldest checkpoint, else, while
        it loads, the newest frontiers at the time it began."""
        floor_us = self._checkpoints.floor_us
        if floor_us is None and self._consumer not in self._log.floors():
            newest = [self._reader.newest_frontier(name) for name in self._inputs]
            reached = [f.appended_us for f in newest if f is not None and f.appended_us]
            floor_us = min(reached) if len(reached) == len(newest) else None
        if floor_us is not None:
            self._log.set_floor(self._consumer, floor_us)
        if self._stand is not None:
            offsets = self._stand.offsets.items()
            self._log.record_positions(
                self._consumer,
                {(topic, i): end for topic, ends in offsets for i, end in enumerate(ends)},
            )

    def _facts(self) -> dict[str, object]:
        assert self._stand is not None
        arrangements = self._graph.arrangements.values()
        blocked = {name: output.blocked for name, output in self._graph.outputs.items()}
        return {
            "state": "blocked" if any(blocked.values()) or self._refused else "running",
            "position": str(self._stand.vector),
            "rows": self._rows_read,
            "rows_published": self._publisher.rows_published,
            "state_rows": sum(a.old.num_rows for a in arrangements),
            "state_bytes": sum(a.old.nbytes for a in arrangements),
            "views": {name: _refusal(error) for name, error in self._refused.items()}
            | {
                name: {
                    "state": "blocked" if why else "running",
                    "why": why,
                    "position": str(f.positions)
                    if (f := self._publisher.published[name]) is not None
                    else "",
                }
                for name, why in blocked.items()
            },
        }

    def discard(self) -> None:
        """The state is void: forget its checkpoints."""
        self._finish_checkpoint(wait=True)
        self._checkpoints.discard()
        self._log.set_floor(self._consumer, None)

    def close(self) -> None:
        self._thread.shutdown()


def _refusal(error: ViewError) -> dict[str, str]:
    return {"state": "blocked", "why": str(error), "position": ""}


def view_sources(plans: Mapping[str, ViewPlan]) -> dict[str, set[str]]:
    """Per view, the sources that it reflects, also through views that come before it."""
    found: dict[str, set[str]] = {}
    for name, plan in plans.items():
        found[name] = set()
        for scan in scans(plan.root):
            view, head = scan.input.removeprefix("view."), scan.input.partition(".")[0]
            found[name] |= found[view] if head == "view" else {head}
    return found


def _topics_by_source(plans: Mapping[str, ViewPlan]) -> dict[str, list[str]]:
    topics = {s.input for plan in plans.values() for s in scans(plan.root)}
    found: dict[str, list[str]] = {}
    for topic in sorted(t for t in topics if not t.startswith("view.")):
        found.setdefault(topic.partition(".")[0], []).append(topic)
    return found
