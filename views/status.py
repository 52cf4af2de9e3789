"""What a group says about itself, in a small JSON file that `cdc status` reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_EVERY_S = 0.5


class StatusFile:
    """`<state>/views/<group>.status.json`, replaced atomically, at most twice a second."""

    def __init__(self, state: Path, group: str) -> None:
        self._path = status_path(state, group)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._next_s = 0.0
        self._last = ""

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_s

    def write(self, facts: Mapping[str, Any]) -> None:
        self._next_s = time.monotonic() + _EVERY_S
        body = json.dumps(facts, sort_keys=True, default=str)
        if body == self._last:
            return
        draft = self._path.with_suffix(f".{os.getpid()}")  # beside a predecessor that still runs
        with suppress(OSError):  # a full disk stops the work where it matters, not here
            draft.write_text(body)
            draft.replace(self._path)
            self._last = body


def status_path(state: Path, group: str) -> Path:
    return state / "views" / f"{group}.status.json"


def read_status(state: Path, group: str) -> dict[str, Any]:
    """What the group last said; its state is "stopped" before it said anything."""
    try:
        found: dict[str, Any] = json.loads(status_path(state, group).read_text())
    except FileNotFoundError:
        return {"state": "stopped", "views": {}}
    return found
