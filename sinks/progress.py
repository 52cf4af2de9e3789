"""What a running sink tells others: its positions and floor to the log, its state to a file.

The file `<state path>/sinks/<name>.json` is replaced atomically; `cdc status` reads it also when
nothing runs. Records are throttled: the truth about the position stands in the store.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cdc.errors import CdcError, mask_url
from cdc.log.api import Log
from sinks.api import SinkPosition

RECORD_EVERY_S = 0.2
FLOOR_EVERY_S = 1.0


class Progress:
    """Of one sink; used by one thread."""

    def __init__(
        self, name: str, log: Log, file: Path, *, record_every_s: float = RECORD_EVERY_S
    ) -> None:
        self._name, self._log, self._file = name, log, file
        self._record_every_s = record_every_s
        self._facts: dict[str, Any] = {
            "state": "starting",
            "rows": 0,
            "cuts": 0,
            "retries": 0,
            "dead_letters": 0,
            "started_at": time.time(),
        }
        self._position: SinkPosition | None = None
        self.waiting_for: tuple[str, ...] = ()
        """Topics that have no complete data yet, when somebody last looked."""
        self.is_idle = False
        """Nothing was left to apply, when somebody last looked."""
        self._dirty = self._applied = False
        self._recorded_at = self._floor_at = 0.0

    @property
    def position(self) -> SinkPosition | None:
        """Where the sink stands, as far as this process knows."""
        return self._position

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the file says, or soon will."""
        return self._facts

    def applied(self, position: SinkPosition, rows: int, took_s: float, span: int) -> None:
        """A cut or a chunk is in the store; `span` is how many offsets the cut covers."""
        self._position, self._applied, self.is_idle = position, True, False
        self._facts["rows"] += rows
        self._facts["cuts"] += position.chunk == 0
        chunk = position.chunk
        state = "running" if chunk == 0 else f"applying a large cut, chunk {chunk}"
        self._facts |= {
            "state": state,
            "error": "",
            "position": str(position.vector),
            "commit_us": position.commit_us,
            "chunk": position.chunk,
            "last_rows": rows,
            "last_write_s": round(took_s, 4),
            "last_span": span,
            "last_applied_at": time.time(),
        }
        self._dirty = True
        if time.monotonic() - self._recorded_at >= self._record_every_s:
            self.flush()

    def resumed(self, position: SinkPosition) -> None:
        """The store stands at `position` from an earlier run."""
        self._position, self.is_idle = position, False
        self._facts |= {
            "state": "running",
            "error": "",
            "position": str(position.vector),
            "commit_us": position.commit_us,
            "chunk": position.chunk,
        }
        self.flush()

    def applied_since_failure(self) -> bool:
        """Whether anything was applied since the last call."""
        applied, self._applied = self._applied, False
        return applied

    def rejected(self, count: int) -> None:
        """So many dead letters more, since the sink was started."""
        self._become({"dead_letters": self._facts["dead_letters"] + count})

    def idle(self, waiting_for: Sequence[str]) -> None:
        self.is_idle, self.waiting_for = not waiting_for, tuple(waiting_for)
        if waiting_for:
            self.waiting(waiting_for)
        elif not str(self._facts["state"]).startswith("applying"):
            self._become({"state": "running", "error": ""})
        if self._dirty:
            self.flush()

    def waiting(self, topics: Sequence[str]) -> None:
        """Inputs that have no cut yet."""
        self.waiting_for = tuple(topics)
        self._become({"state": "waiting", "error": f"no complete data yet: {', '.join(topics)}"})

    def retrying(self, error: CdcError, delay_s: float) -> None:
        self._facts["retries"] += 1
        cause = mask_url(str(error))
        self._become({"state": "retrying", "error": cause, "retry_in_s": round(delay_s, 1)})

    def note(self, facts: Mapping[str, Any]) -> None:
        """Say something else with the next record, soon."""
        self._facts |= facts
        self._dirty = True
        if time.monotonic() - self._recorded_at >= self._record_every_s:
            self.flush()

    def stopped(self, error: CdcError | None) -> None:
        """The last word: why the sink does not run any more."""
        state = "stopped" if error is None else "failed"
        self._become({"state": state, "error": mask_url(str(error)) if error else ""})

    def floor(self, appended_us: int) -> None:
        """Records that supersede something newer than this are still needed (SEMANTICS 15)."""
        now = time.monotonic()
        if now - self._floor_at > FLOOR_EVERY_S or not self._floor_at:
            self._log.set_floor(self._name, appended_us)
            self._floor_at = now

    def flush(self) -> None:
        """Record what `applied` has left unsaid."""
        self._recorded_at, self._dirty = time.monotonic(), False
        position = self._position
        if position is not None:
            self._log.record_positions(
                self._name,
                {(t, p): at for t, ends in position.offsets.items() for p, at in enumerate(ends)},
            )
        self._write()

    def _become(self, facts: dict[str, Any]) -> None:
        if any(self._facts.get(name) != value for name, value in facts.items()):
            self._facts |= facts
            self._write()

    def _write(self) -> None:
        new = self._file.with_suffix(f".{os.getpid()}")  # beside a predecessor that still runs
        with suppress(OSError):  # a full disk stops the work where it matters, not here
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(self._facts, sort_keys=True))
            new.replace(self._file)


def read_status(file: Path) -> dict[str, Any]:
    """What the sink last told; empty when it has not run yet."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return facts
