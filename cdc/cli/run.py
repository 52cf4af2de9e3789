"""`cdc run`: all connectors, or the named ones with what they need, until told to stop.

Exit status: 0 when it was told to stop (or, with --until-caught-up, when every sink has what the
sources had committed at the start) and all ended in order; 1 when a connector stopped on an error.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Sequence

from cdc.cli import parts
from cdc.cli.context import Tables, find, known_tables, needs
from cdc.cli.progress import SnapshotProgress
from cdc.cli.reporting import read_status, run_dir
from cdc.cli.restart import RestartPolicy
from cdc.cli.supervisor import Connector, Supervisor
from cdc.cli.targets import positions_now, vector_or_none
from cdc.config import Config
from cdc.errors import CdcError, ConfigError
from cdc.positions import Vector

TICK_S = 0.05


def run(config: Config, arguments: argparse.Namespace) -> int:
    chosen = choose(config, arguments.names)
    if not chosen:
        raise ConfigError("there is nothing to run", where=str(config.file), hint="add `sources:`")
    waiting = arguments.until_caught_up
    targets = caught_up_targets(config, chosen) if waiting else {}
    stopping = stop_on_signals()
    began = time.time()
    with SnapshotProgress() as progress:
        policy = RestartPolicy(for_ever=not waiting)
        supervisor = Supervisor(config.file, chosen, policy, progress.say)
        supervisor.start()
        done = False
        try:
            while not (stopping.is_set() or done):
                stopping.wait(TICK_S)
                supervisor.tick()
                _show(config, chosen, progress, began)
                if supervisor.is_over or (waiting and supervisor.failed):
                    break
                done = waiting and _reached(config, targets)
        finally:
            orderly = supervisor.stop()
            _show(config, chosen, progress, began)
        for connector in supervisor.failed:
            progress.say(f"error: {connector} stopped on an error")
    if waiting and done:
        progress.say("caught up: " + "; ".join(f"{s} has {v}" for s, v in sorted(targets.items())))
    fulfilled = done or not waiting or stopping.is_set()
    return 0 if fulfilled and orderly and not supervisor.failed else 1


def choose(config: Config, names: Sequence[str]) -> list[Connector]:
    """What to start, in the order of dependency."""
    if not names:
        sources, sinks = tuple(config.sources), tuple(config.sinks)
        groups = {view.group for view in config.views.values()}
    else:
        sources, groups, sinks = _needed(config, names)
    found = [Connector("source", name) for name in sorted(sources)]
    found += [Connector("views", group) for group in sorted(groups)]
    found += [Connector("sink", name) for name in sorted(sinks)]
    if found and config.log.type == "embedded":
        found.append(Connector("compaction", "log"))
    return found


def _needed(
    config: Config, names: Sequence[str]
) -> tuple[tuple[str, ...], set[str], tuple[str, ...]]:
    """The named connectors and what they read. A view brings its group, with all its sources."""
    sources: set[str] = set()
    groups: set[str] = set()
    sinks: set[str] = set()
    for name in names:
        kind, bare = find(config, name)
        if kind == "source":
            sources.add(bare)
        elif kind == "view":
            groups.add(config.views[bare].group)
        else:
            sinks.add(bare)
    if groups or sinks:
        tables = known_tables(config)
        for sink in sinks:
            wanted = needs(config, config.sinks[sink], tables)
            sources |= set(wanted.sources)
            groups |= set(wanted.groups)
        sources |= group_sources(config, groups, tables)
    return tuple(sources), groups, tuple(sinks)


def group_sources(config: Config, groups: set[str], tables: Tables) -> set[str]:
    """Every source that a view of these groups reads."""
    members = [view.name for view in config.views.values() if view.group in groups]
    read = [table for view in members for table in parts.views().inputs(config, tables, view)]
    return {table.partition(".")[0] for table in read}


def caught_up_targets(config: Config, chosen: Sequence[Connector]) -> dict[str, Vector]:
    """Per sink, the positions that its sources have now."""
    sinks = [c.name for c in chosen if c.kind == "sink"]
    if not sinks:
        raise ConfigError(
            "--until-caught-up waits for sinks, and none would run",
            hint="name one, or add `sinks:`",
        )
    tables = known_tables(config)
    wanted = {sink: needs(config, config.sinks[sink], tables).sources for sink in sinks}
    now = positions_now(config, sorted({s for sources in wanted.values() for s in sources}))
    return {sink: Vector.of({s: now[s] for s in sources}) for sink, sources in wanted.items()}


def _reached(config: Config, targets: dict[str, Vector]) -> bool:
    for sink, target in targets.items():
        try:
            vector = vector_or_none(config, sink)
        except CdcError:
            return False
        if vector is None or not vector.covers(target):
            return False
    return True


def _show(
    config: Config, chosen: Sequence[Connector], progress: SnapshotProgress, began: float
) -> None:
    for connector in chosen:
        if connector.kind == "source":
            status = read_status(run_dir(config.log.path), "source", connector.name)
            if status is not None and status["started"] >= began:
                progress.show(connector.name, status)
        elif connector.kind == "sink":
            rebuilt = parts.sinks().rebuild_status(config, connector.name)
            if rebuilt:
                progress.show_rebuild(connector.name, rebuilt)
            else:
                progress.end_rebuild(connector.name)


def stop_on_signals() -> threading.Event:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
