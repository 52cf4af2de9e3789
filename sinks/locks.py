"""Locks between processes of one configuration, as files: gone with the process that held them.

rebuild     `<state path>/sinks/<name>.rebuild.lock`: one rebuild of a sink at a time
hold        `<state path>/sinks/<name>.hold`: while it is held, the sink's process leaves the store
            alone between two cuts, so that a rebuild can catch up with it and be swapped
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdc.config import Config

LOOK_S_MAX = 0.3


class Locked(Exception):
    """Another process holds the lock."""


def rebuild_lock(config: Config, sink: str) -> Path:
    return config.state.path / "sinks" / f"{sink}.rebuild.lock"


def hold_lock(config: Config, sink: str) -> Path:
    return config.state.path / "sinks" / f"{sink}.hold"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock. Raises Locked when somebody else does. The file stays: taking it away would
    let two processes lock two files of one name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(file, path)
        yield
    finally:
        os.close(file)


def _lock(file: int, path: Path) -> None:
    """Lock the open file, past those who only look (`is_locked`), which takes them moments."""
    deadline_s = time.monotonic() + LOOK_S_MAX
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                raise Locked(str(path)) from error
        time.sleep(0.002)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock. Cheap when there is no such file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
