"""A capture agent in a process of its own, measured: rate, processor, memory.

Its seconds run from the call of run_capture until a whole frontier stands in the log. Processor
seconds are those of the process and its workers over the same time. Memory is either the process's
own high-water mark, or what is in use with its workers (PSS), looked at while it runs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from bench.measure import peak_rss_mib
from cdc.arrow_memory import lean_environment
from cdc.capture.agent import run_capture
from cdc.config import LogConfig, MySqlConfig, Place, SourceConfig
from cdc.config_mysql import derived_server_id
from cdc.log.open import open_log
from cdc.mysql.source import MySqlSource
from cdc.positions import GtidSet, Lsn, NativePosition, parse_native
from cdc.postgres.source import PostgresSource
from cdc.source import Source
from tests.fix_capture import SOURCE, Capture

LOOK_EVERY_S = 0.2
"""Between two looks at memory: the kernel walks all pages for one, and stops the process for it."""


@dataclass(frozen=True)
class Measured:
    """`seconds` from the call on; `rows_per_s` from the first append on, its rows left out.
    `peak_mib` is the agent's own; `with_workers_mib` is 0 unless it was looked at."""

    seconds: float
    rows_per_s: float
    cpu_s: float
    peak_mib: float
    with_workers_mib: float = 0.0


@dataclass(frozen=True)
class MySqlCapture:
    """What an agent of a MySQL server captures: `tables` of the database at `url`."""

    url: str
    folder: Path
    tables: tuple[str, ...]

    def settings(self, slot: str) -> dict[str, Any]:
        """For the process; `slot` gives the agent its server_id."""
        return {"mysql": True, "url": self.url, "tables": list(self.tables), "slot": slot}


def run_agent(
    capture: Capture | MySqlCapture,
    slot: str,
    log: LogConfig,
    until: NativePosition | None = None,
    look_at_workers: bool = False,
) -> Measured:
    """An agent over `slot`, until it has a whole frontier at or after `until`."""
    nothing = GtidSet() if isinstance(capture, MySqlCapture) else Lsn(0)
    process = _start(capture, slot, log, str(until or nothing))
    peak = 0.0
    tree = psutil.Process(process.pid)
    while look_at_workers and process.poll() is None:
        peak = max(peak, _in_use_mib(tree))
        time.sleep(LOOK_EVERY_S)
    printed, _ = process.communicate()
    assert process.returncode == 0
    return replace(Measured(**json.loads(printed)), with_workers_mib=peak)


@contextmanager
def running_agent(capture: Capture, slot: str, log: LogConfig) -> Iterator[None]:
    """An agent over `slot` that runs until the block is left."""
    process = _start(capture, slot, log, "")
    try:
        yield
    finally:
        process.communicate()
    assert process.returncode == 0


def as_json(log: LogConfig) -> dict[str, Any]:
    """A log's configuration for another process."""
    return {**asdict(log), "path": str(log.path)}


def from_json(log: dict[str, Any]) -> LogConfig:
    return LogConfig(**{**log, "path": Path(log["path"])})


def _start(
    capture: Capture | MySqlCapture, slot: str, log: LogConfig, until: str
) -> subprocess.Popen[str]:
    settings = {"folder": str(capture.folder), "log": as_json(log), "until": until}
    if isinstance(capture, MySqlCapture):
        settings |= capture.settings(slot)
    else:
        settings |= {"url": capture.url, "slot": slot}
    return subprocess.Popen(
        [sys.executable, "-m", "bench.agent", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=lean_environment(),  # as `cdc run` starts it
    )


def _in_use_mib(tree: psutil.Process) -> float:
    total = 0
    try:
        for process in (tree, *tree.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return 0.0
    return total / 2**20


class _Reached:
    """Notes when the frontier first stood at or after `until`; "": when stdin ends."""

    def __init__(self, until: str) -> None:
        self._until = parse_native(until) if until else None
        self._event = threading.Event()
        self.at_s = self._first_s = 0.0
        self._rows = self._first_rows = 0
        if self._until is None:
            threading.Thread(target=self._wait_for_stdin, daemon=True).start()

    @property
    def rows_per_s(self) -> float:
        """From when the first append was told of."""
        seconds = self.at_s - self._first_s
        return (self._rows - self._first_rows) / seconds if seconds else 0.0

    def note(self, **facts: object) -> None:
        rows = facts.get("rows")
        if isinstance(rows, int) and rows and not self._event.is_set():
            self._rows = rows
            if not self._first_rows:
                self._first_rows, self._first_s = rows, time.perf_counter()
        text = str(facts.get("position", ""))
        if self._until is None or "@" not in text or self._event.is_set():
            return
        if parse_native(text.split("@")[1]).covers(self._until):
            self.at_s = time.perf_counter()
            self._event.set()

    def __call__(self) -> bool:
        return self._event.is_set()

    def _wait_for_stdin(self) -> None:
        sys.stdin.read()
        self._event.set()


def _cpu_s() -> float:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def _config(settings: dict[str, Any]) -> SourceConfig:
    if "mysql" not in settings:
        capture = Capture(settings["url"], Path(settings["folder"]))
        return replace(capture.config, slot=settings["slot"])
    mysql = MySqlConfig(derived_server_id(settings["slot"]))
    return SourceConfig(
        SOURCE,
        "mysql",
        settings["url"],
        tuple(settings["tables"]),
        "initial",
        "",
        "",
        Place("connectors.yaml", 1, 1),
        mysql=mysql,
    )


def main(settings: dict[str, Any]) -> None:
    """The process: prints what was measured."""
    config = _config(settings)
    log = from_json(settings["log"])
    reached = _Reached(settings["until"])
    kind = PostgresSource if config.mysql is None else MySqlSource
    source: Source = kind(config, log.path / "state", reached.note)
    began_s, used_s = time.perf_counter(), _cpu_s()
    run_capture(source, open_log(log), config, reached, reached.note)
    own_mib = peak_rss_mib(os.getpid())
    seconds, used_s = reached.at_s - began_s, _cpu_s() - used_s
    measured = Measured(seconds, reached.rows_per_s, used_s, own_mib)
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
