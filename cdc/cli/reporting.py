"""What a connector's process says about itself, in a small JSON file that others read.

`<log.path>/run/<kind>.<name>.json` is replaced atomically at least once a second while the process
lives, so that `cdc status` and the supervisor need no connection to it. A file whose process is
gone is stale: its state reads "stopped" (or "failed", if that was its last word).

Facts that a part may report, all optional; any other JSON value is kept as it is:

    state           starting, snapshot, streaming, running, loading, blocked, failed, stopped
    position        a source position or vector, as text
    rows            changes handled since the process started; gives rate_per_s
    table, table_rows, table_rows_total, table_done     progress of one table's snapshot
    error           the newest error, as text
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cdc.errors import mask_url

HEARTBEAT_S = 0.5
RATE_WINDOW_S = 5.0
ERRORS_KEPT = 5


class Report(Protocol):
    """What long-running work calls to say how it goes; cheap, from any thread."""

    def __call__(self, **facts: object) -> None: ...


class Reporter:
    """The Report of one process. Merges facts; a thread of its own writes them out."""

    def __init__(self, run_dir: Path, kind: str, name: str) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = status_path(run_dir, kind, name)
        self._lock = threading.Lock()
        self._changed, self._closed = threading.Event(), threading.Event()
        now = time.time()
        self._facts: dict[str, Any] = {
            "kind": kind,
            "name": name,
            "pid": os.getpid(),
            "pid_started": process_start(os.getpid()),
            "state": "starting",
            "since": now,
            "started": now,
            "errors": [],
            "progress": {},
        }
        self._samples: list[tuple[float, int]] = []
        self._write()
        self._thread = threading.Thread(target=self._beat, name="reporter", daemon=True)
        self._thread.start()

    def __call__(self, **facts: object) -> None:
        with self._lock:
            self._merge(facts)
        if "state" in facts or "error" in facts or facts.get("table_done"):
            self._changed.set()

    def close(self, state: str) -> None:
        """Say the last word and stop the heartbeat."""
        self(state=state)
        self._closed.set()
        self._changed.set()
        self._thread.join()

    def _merge(self, facts: Mapping[str, Any]) -> None:
        kept = {key: value for key, value in facts.items() if not key.startswith("table")}
        if "table" in facts:
            row = self._facts["progress"].setdefault(str(facts["table"]), {})
            row |= {k: v for k, v in facts.items() if k.startswith("table_")}
        if kept.get("state", self._facts["state"]) != self._facts["state"]:
            self._facts["since"] = time.time()
        if "error" in kept:
            text = mask_url(str(kept.pop("error")))
            newest = {"at": time.time(), "error": text}
            self._facts["errors"] = [*self._facts["errors"], newest][-ERRORS_KEPT:]
        self._facts |= kept

    def _beat(self) -> None:
        while not self._closed.is_set():
            self._changed.wait(HEARTBEAT_S)
            self._changed.clear()
            try:
                self._write()
            except OSError as error:
                # A full disk stops the work itself; its report must not be what stops it.
                print(f"the status file cannot be written: {error}", file=sys.stderr)

    def _write(self) -> None:
        with self._lock:
            self._facts["updated"] = time.time()
            self._facts["rate_per_s"] = self._rate()
            body = json.dumps(self._facts, default=str)
        draft = self._path.with_suffix(f".{os.getpid()}")  # beside a predecessor that still runs
        draft.write_text(body)
        draft.replace(self._path)

    def _rate(self) -> float:
        now = time.monotonic()
        self._samples.append((now, int(self._facts.get("rows", 0))))
        self._samples = [s for s in self._samples if now - s[0] <= RATE_WINDOW_S]
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return round((last - first) / (last_at - first_at), 1) if last_at > first_at else 0.0


def run_dir(log_path: Path) -> Path:
    """Where the status files of one configuration stand."""
    return log_path / "run"


def status_path(run_dir: Path, kind: str, name: str) -> Path:
    return run_dir / f"{kind}.{name}.json"


def read_status(run_dir: Path, kind: str, name: str) -> dict[str, Any] | None:
    """What the connector last said, `state` corrected when its process is gone; None: nothing."""
    try:
        facts: dict[str, Any] = json.loads(status_path(run_dir, kind, name).read_text())
    except FileNotFoundError:
        return None
    if is_alive(facts):
        return facts
    facts["rate_per_s"] = 0.0
    if facts["state"] not in ("failed", "stopped", "finished"):
        facts["state"] = "stopped"
    return facts


def is_alive(facts: Mapping[str, Any]) -> bool:
    """Whether the very process that wrote `facts` still runs (pids are reused)."""
    return process_start(int(facts["pid"])) == facts["pid_started"] is not None


def process_start(pid: int) -> str | None:
    """What tells a process from a later one with its pid; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _signalled(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _signalled(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "other"
    return "running"
