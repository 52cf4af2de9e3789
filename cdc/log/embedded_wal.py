"""Bringing a producer's WAL back into its file (SQLite documentation, "Write-Ahead Logging", 2.3).

The bulk of it runs on a thread with a connection of its own, while the next appends go on. A WAL
begins anew only when all of it was brought back and nobody has added to it meanwhile, which under
constant appends never happens by itself: so above a size the writer does the small rest itself.
An append has succeeded before any of this: a failure is reported, and tried again later.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from pathlib import Path

from cdc.log.embedded_files import BUSY_TIMEOUT_MS, PAGE_BYTES, translated

ASIDE_ABOVE_BYTES = 32 * 2**20
PASSIVE_ABOVE_BYTES = 128 * 2**20
RESTART_ABOVE_BYTES = 512 * 2**20
IDLE_ABOVE_BYTES = 2**20
IDLE_AFTER_S = 1.0

logger = logging.getLogger(__name__)


class WalKeeper:
    """Decides after each append; `connection` is the writer's."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection
        self._appended_at_s = time.monotonic()
        self._new_bytes = self._old_bytes = 0
        """In the WAL since the last checkpoint began; before it, if it did not begin anew."""
        self._aside: threading.Thread | None = None

    def appended(self, size: int) -> None:
        """Account for `size` bytes, and do what is due."""
        now_s = time.monotonic()
        idle = now_s - self._appended_at_s > IDLE_AFTER_S
        self._appended_at_s = now_s
        self._new_bytes += size
        busy = self._aside is not None and self._aside.is_alive()
        mode = checkpoint_mode(self._new_bytes, self._new_bytes + self._old_bytes, idle)
        if mode == "ASIDE":
            if not busy:
                self._new_bytes, self._old_bytes = 0, self._new_bytes + self._old_bytes
                self._aside = threading.Thread(target=self._run_aside, daemon=True)
                self._aside.start()
        elif mode:
            self.close()
            self._checkpoint(self._connection, mode)

    def _run_aside(self) -> None:
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_MS / 1000)
        try:
            self._checkpoint(connection, "PASSIVE", aside=True)
        finally:
            connection.close()

    def _checkpoint(self, connection: sqlite3.Connection, mode: str, aside: bool = False) -> None:
        try:
            row = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            logger.warning("%s", translated(error, self._path, self._path.stem))
            return
        if row[1] != row[2]:
            self._old_bytes = row[1] * PAGE_BYTES
        elif not (aside and self._new_bytes):
            self._old_bytes = 0
        if not aside:
            self._new_bytes = 0

    def close(self) -> None:
        """Wait for the thread."""
        if self._aside is not None:
            self._aside.join()


def checkpoint_mode(new_bytes: int, wal_bytes: int, idle: bool) -> str:
    """Which checkpoint is due: none; ASIDE, on the thread; or the writer's own, one that waits for
    nobody (PASSIVE) or one that begins a new WAL.

    PASSIVE cannot finish while readers are inside a transaction, so a WAL that grew far beyond
    its size is restarted: the writer then waits for readers, whose transactions are short.
    """
    if idle and wal_bytes > IDLE_ABOVE_BYTES:
        return "TRUNCATE"
    if wal_bytes > RESTART_ABOVE_BYTES:
        return "RESTART"
    if wal_bytes > PASSIVE_ABOVE_BYTES:
        return "PASSIVE"
    return "ASIDE" if new_bytes > ASIDE_ABOVE_BYTES else ""
