"""How much of a frontier's past is kept.

At 200 commits a second a day of frontier records would be gigabytes, and nobody asks for each of
them: readers and producers need the newest. So the newest `KEEP_EVERY_OF` records are all kept;
older ones are thinned to one per second, and those older than the retention are deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from cdc.log.embedded_files import OFFSET_BITS

KEEP_EVERY_OF = 4096
HISTORY_CHECK_EVERY = 2048
_LIMIT = 3 * HISTORY_CHECK_EVERY


def superfluous(records: Sequence[tuple[int, int]], cutoff_us: int) -> list[int]:
    """Which of `records` (id, append time; ascending) to delete: those older than `cutoff_us`,
    and all but the first of every second."""
    gone, second = [], -1
    for record, appended_us in records:
        if appended_us < cutoff_us or appended_us // 1_000_000 == second:
            gone.append(record)
        else:
            second = appended_us // 1_000_000
    return gone


def thin_history(connection: sqlite3.Connection, number: int, newest: int, cutoff_us: int) -> None:
    """Thin the records of one name that lie below its newest `KEEP_EVERY_OF`."""
    low, high = number << OFFSET_BITS, number << OFFSET_BITS | max(0, newest - KEEP_EVERY_OF)
    expired = connection.execute(
        "SELECT id, appended_us FROM frontiers WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (low, high, _LIMIT),
    ).fetchall()
    recent = connection.execute(
        "SELECT id, appended_us FROM frontiers WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?",
        (low, high, _LIMIT),
    ).fetchall()
    old = [r for r in expired if r[1] < cutoff_us]
    gone = superfluous(old, cutoff_us) + superfluous(recent[::-1], cutoff_us)
    connection.executemany("DELETE FROM frontiers WHERE id = ?", [(g,) for g in gone])
