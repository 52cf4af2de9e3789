"""The log as a directory of SQLite files: no broker to install (SEMANTICS 14).

`EmbeddedLog` hands out producers and readers, and keeps what consumers record: positions (for
people and for lag) and floors (which protect records from compaction). See embedded_files for the
layout, embedded_producer and embedded_reader for the two sides.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from cdc.config import LogConfig
from cdc.log.api import DeadLetter
from cdc.log.embedded_files import (
    Layout,
    open_consumer_file,
    open_letters_file,
    open_producer_file,
    open_readonly,
    sqlite_errors,
)
from cdc.log.embedded_producer import EmbeddedProducer
from cdc.log.embedded_reader import EmbeddedReader

DEAD_LETTER_RETENTION_S = 7 * 86400.0


class EmbeddedLog:
    """See cdc.log.api.Log. Safe to share between threads; its producers and readers are not."""

    def __init__(self, config: LogConfig) -> None:
        self._layout = Layout(config.path)
        self._history_s = config.min_compaction_lag_s
        self._consumers: dict[str, sqlite3.Connection] = {}
        self._lock = threading.Lock()

    @property
    def layout(self) -> Layout:
        """Where the files are, for compaction."""
        return self._layout

    def producer(self, name: str) -> EmbeddedProducer:
        self._layout.make()
        return EmbeddedProducer(self._layout, name, self._history_s)

    def reader(self) -> EmbeddedReader:
        return EmbeddedReader(self._layout)

    def is_away(self) -> bool:
        return False

    def consumers(self) -> list[str]:
        return self._layout.consumer_names()

    def positions(self, consumer: str) -> dict[tuple[str, int], int]:
        path = self._layout.consumer(consumer)
        connection = open_readonly(path)
        if connection is None:
            return {}
        with sqlite_errors(path):
            rows = connection.execute("SELECT topic, number, next FROM positions").fetchall()
        connection.close()
        return {(topic, number): at for topic, number, at in rows}

    def record_positions(self, consumer: str, positions: Mapping[tuple[str, int], int]) -> None:
        rows = [(topic, number, at) for (topic, number), at in positions.items()]
        with self._lock, sqlite_errors(self._layout.consumer(consumer)):
            connection = self._consumer(consumer)
            # Only for people: losing the newest ones with the machine's power is no harm.
            connection.execute("PRAGMA synchronous = NORMAL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", rows)

    def set_floor(self, consumer: str, floor_us: int | None) -> None:
        with self._lock, sqlite_errors(self._layout.consumer(consumer)):
            connection = self._consumer(consumer)
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM floor")
                if floor_us is not None:
                    connection.execute("INSERT INTO floor VALUES (1, ?)", (floor_us,))

    def floors(self) -> dict[str, int]:
        return registered_floors(self._layout)

    def dead_letter(self, letters: Sequence[DeadLetter]) -> None:
        now_us = time.time_ns() // 1000
        rows = [(now_us, x.connector, x.where, x.error, x.key, x.value) for x in letters]
        path = self._layout.letters
        self._layout.make()
        with sqlite_errors(path, "dead-letters"), closing(open_letters_file(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "DELETE FROM letters WHERE appended_us < ?",
                (now_us - int(DEAD_LETTER_RETENTION_S * 1e6),),
            )
            connection.executemany(
                "INSERT INTO letters (appended_us, connector, place, error, key, value) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            connection.execute("COMMIT")

    def remove(self, name: str) -> None:
        self._remove_consumer(name)
        path = self._layout.producer(name)
        if not path.exists():
            return
        connection = open_producer_file(path)
        with sqlite_errors(path):
            _empty(connection)
            connection.close()

    def _remove_consumer(self, name: str) -> None:
        path = self._layout.consumer(name)
        with self._lock:
            open_one = self._consumers.pop(name, None)
            if open_one is not None:
                open_one.close()
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _consumer(self, name: str) -> sqlite3.Connection:
        if name not in self._consumers:
            self._layout.make()
            self._consumers[name] = open_consumer_file(self._layout.consumer(name))
        return self._consumers[name]

    def close(self) -> None:
        with self._lock:
            for connection in self._consumers.values():
                connection.close()
            self._consumers.clear()


def registered_floors(layout: Layout) -> dict[str, int]:
    """Per consumer that registered one, its floor: append time, microseconds since 1970."""
    floors = {}
    for name in layout.consumer_names():
        path = layout.consumer(name)
        connection = open_readonly(path)
        if connection is None:
            continue
        with sqlite_errors(path):
            row = connection.execute("SELECT floor_us FROM floor").fetchone()
        connection.close()
        if row is not None:
            floors[name] = int(row[0])
    return floors


def _empty(connection: sqlite3.Connection) -> None:
    """Remove everything but the epoch: the file stays, small, as the fence against a producer
    that is still running, and readers that hold it open see that the topics are gone."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE producer SET epoch = epoch + 1, owner = 'cdc remove'")
        for table in ("frontiers", "frontier_names", "batches", "schemas", "partitions", "topics"):
            connection.execute(f"DELETE FROM {table}")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
