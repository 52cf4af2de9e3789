"""Live progress of snapshots and rebuilds on stderr: bars on a terminal, else a line at times."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cdc.errors import mask_url

LINE_EVERY_S = 2.0


class SnapshotProgress:
    """Shows what status files say of tables that are being read, and of sinks that are being
    rebuilt. Use as a context."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._done: set[str] = set()

    def __enter__(self) -> SnapshotProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """A log line that does not disturb the bars."""
        if self._live:
            self._console.print(mask_url(line), markup=False, highlight=False)
        else:
            print(mask_url(line), file=sys.stderr, flush=True)

    def show(self, source: str, status: Mapping[str, Any]) -> None:
        for table, row in status.get("progress", {}).items():
            self._show_table(f"{source}.{table}", row)

    def show_rebuild(self, sink: str, facts: Mapping[str, Any]) -> None:
        """`facts`: phase, done, of, rows, elapsed_s, as a rebuild tells them."""
        name, phase = f"rebuild {sink}", str(facts.get("phase", "starting"))
        done, total = int(facts.get("done", 0)), facts.get("of")
        elapsed_s = float(facts.get("elapsed_s", 0.0))
        rate = f", {int(facts.get('rows', 0)) / elapsed_s:,.0f} rows/s" if elapsed_s > 1 else ""
        if self._live:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name)
            task = self._tasks[name]
            self._bars.update(task, description=f"{name}: {phase}{rate}", completed=done)
            self._bars.update(task, total=total)
        elif time.monotonic() - self._said.get(name, 0.0) >= LINE_EVERY_S:
            self._said[name] = time.monotonic()
            of = f" of {int(total):,}" if total else ""
            self.say(f"{name}: {phase}, {done:,}{of}{rate}")

    def end_rebuild(self, sink: str) -> None:
        """None is running, or no more."""
        task = self._tasks.pop(f"rebuild {sink}", None)
        if task is not None:
            self._bars.remove_task(task)

    def _show_table(self, name: str, row: Mapping[str, Any]) -> None:
        rows, total = int(row.get("table_rows", 0)), row.get("table_rows_total")
        if name in self._done:
            return
        if row.get("table_done"):
            self._done.add(name)
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            self.say(f"{name}: snapshot of {rows:,} rows done")
        elif self._live:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(f"snapshot {name}")
            expected = None if not total else max(int(total), rows)
            self._bars.update(self._tasks[name], completed=rows, total=expected)
        elif time.monotonic() - self._said.get(name, 0.0) >= LINE_EVERY_S:
            self._said[name] = time.monotonic()
            of = f" of about {int(total):,}" if total else ""
            self.say(f"{name}: snapshot, {rows:,}{of} rows")
