"""`cdc rebuild SINK`: replay a sink from offset zero beside the live one, compare it, swap it.

With --view the sink's views are computed anew first, from their tables' topics: by the process that
maintains them, if `cdc run` is running, else here; their topics get only what differs.

Exit status: 0 swapped; 1 it differed or was interrupted: the live store is as it was.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cdc.cli import parts
from cdc.cli.context import opened_log, sink_named
from cdc.cli.output import emit
from cdc.cli.progress import SnapshotProgress
from cdc.cli.reporting import is_alive, read_status, run_dir
from cdc.cli.run import stop_on_signals
from cdc.config import Config, SinkConfig
from cdc.errors import CheckFailed, ConfigError, Fenced
from cdc.log.api import Log

POLL_S = 0.05
RETURN_S_MAX = 60.0
"""How long `cdc run` may take to start a maintainer again that ended during its reload."""

KEPT = {
    "sql": "the previous rows are kept as <table>__cdc_old until the next rebuild",
    "elasticsearch": "the previous index is kept until the next rebuild",
    "redis": "nothing of the previous keys is kept",
}


def run(config: Config, arguments: argparse.Namespace) -> int:
    sink = sink_named(config, arguments.sink)
    groups = sorted({config.views[name].group for name in sink.inputs if name in config.views})
    if arguments.view and not groups:
        raise ConfigError(
            f"{sink.name} reads tables only, and no view",
            where=str(sink.place),
            hint=f"`cdc rebuild {sink.name}` without --view",
        )
    with (
        _told_to_stop() as stopping,
        SnapshotProgress() as progress,
        opened_log(config) as (log, _),
    ):
        for group in groups if arguments.view else ():
            progress.say(f"computing the views of group {group} anew")
            _reload(config, group, log, stopping)

        def tell(facts: Mapping[str, Any]) -> None:
            progress.show_rebuild(sink.name, facts)

        rebuilt = parts.sinks().rebuild(config, sink.name, log, stopping.is_set, tell)
        progress.end_rebuild(sink.name)
    _print(sink, rebuilt, arguments.json)
    return 0


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Set by SIGTERM and Ctrl-C, meanwhile."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop_on_signals()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reload(config: Config, group: str, log: Log, stopping: threading.Event) -> None:
    """Let the group's views be computed anew, and wait until that is published."""
    views = parts.views()
    views.request_reload(config, group)
    try:
        if _is_maintained(config, group) or not _reloaded_here(config, group, log, stopping):
            _wait(config, group, stopping)
        if stopping.is_set():
            raise CheckFailed("interrupted before the rebuild began: the sink is untouched")
    finally:
        views.request_reload(config, group, withdraw=True)


def _reloaded_here(config: Config, group: str, log: Log, stopping: threading.Event) -> bool:
    """Compute the views in this process; False: a maintainer was started meanwhile, and does it."""
    views = parts.views()

    def done() -> bool:
        return stopping.is_set() or not views.reload_stands(config, group)

    try:
        views.maintain(config, group, log, done)
    except Fenced:
        return False
    return True


def _wait(config: Config, group: str, stopping: threading.Event) -> None:
    seen_s = time.monotonic()
    while parts.views().reload_stands(config, group) and not stopping.wait(POLL_S):
        if _is_maintained(config, group):
            seen_s = time.monotonic()
        elif time.monotonic() - seen_s > RETURN_S_MAX:
            raise CheckFailed(
                "nobody maintains the views any more",
                where=f"view group {group}",
                hint="`cdc status` says why; the sink is untouched",
            )


def _is_maintained(config: Config, group: str) -> bool:
    told = read_status(run_dir(config.log.path), "views", group)
    return told is not None and is_alive(told)


def _print(sink: SinkConfig, rebuilt: Any, as_json: bool) -> None:
    rows = sum(rebuilt.rows.values())
    if as_json:
        emit(
            {
                "sink": sink.name,
                "rows": dict(rebuilt.rows),
                "refused": rebuilt.refused,
                "changes": rebuilt.changes,
                "seconds": round(rebuilt.seconds, 3),
                "rows_per_s": round(rows / rebuilt.seconds, 1),
                "resumed": rebuilt.resumed,
            }
        )
        return
    again = ", resumed" if rebuilt.resumed else ""
    print(
        f"{sink.name}: {rows:,} rows rebuilt in {rebuilt.seconds:.1f} s "
        f"({rows / rebuilt.seconds:,.0f} rows/s{again})"
    )
    for name, count in rebuilt.rows.items():
        print(f"  {name}: {count:,} rows equal to its topic, by count and checksum")
    if rebuilt.refused:
        print(f"  {rebuilt.refused:,} keys were refused by the store: `cdc log dead-letters`")
    print(f"  swapped; {KEPT[sink.type]}")
