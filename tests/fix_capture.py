"""Capture agents for tests: one database, one log, an agent in a thread or in a process.

capture        function: a `Capture` over a fresh database of the shared Postgres
any_capture    function, parametrised: the same over Postgres, MySQL and MariaDB
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest

from cdc.capture.agent import run_capture
from cdc.changes import ChangeBatch, D
from cdc.config import LogConfig, SourceConfig
from cdc.frontiers import Frontier
from cdc.keys import encode_keys
from cdc.latest import latest_per_key
from cdc.log.api import Log
from cdc.log.open import open_log
from cdc.positions import NativePosition
from cdc.source import Source
from tests.captured_databases import Database, database_at, joined
from tests.fix_log import told
from tests.fix_mysql import MyServer
from tests.services.forked import Forked

SOURCE = "shop"
DEADLINE_S = 120.0


@dataclass
class Capture:
    """A database at `url`, of which `tables` (all) are captured, and the log into which it is (an
    embedded one in `folder` unless `into` says otherwise)."""

    url: str
    folder: Path
    tables: tuple[str, ...] = ()
    snapshot: Any = "initial"
    max_log_transaction_bytes: int = 64 * 2**20
    into: LogConfig | None = None

    @property
    def database(self) -> Database:
        return database_at(self.url)

    @property
    def config(self) -> SourceConfig:
        return self.database.config(
            SOURCE,
            self.tables or (self.database.every_table,),
            snapshot=self.snapshot,
            max_log_transaction_bytes=self.max_log_transaction_bytes,
        )

    @property
    def log(self) -> Log:
        return open_log(self.into or LogConfig("embedded", self.folder / "log"))

    def source(self) -> Source:
        return self.database.source(self.config, self.folder / "state")

    def name(self, table: str) -> str:
        """A table's full name."""
        return self.database.name(table)

    def sql(self, *statements: str) -> None:
        """Each statement in a transaction of its own."""
        self.database.sql(*statements)

    def transaction(self, *statements: str) -> None:
        self.database.transaction(*statements)

    def running(self) -> AgentThread:
        """An agent on a thread; leaving its block stops it, and raises its error."""
        return AgentThread(self)

    def barrier(self) -> NativePosition:
        return self.database.barrier()

    def frontier(self) -> Frontier | None:
        reader = self.log.reader()
        try:
            return reader.newest_frontier(SOURCE)
        finally:
            reader.close()

    def wait_for(self, position: NativePosition, alive: Any = None) -> Frontier:
        """The first frontier at or after `position`."""
        reader = self.log.reader()
        until = time.monotonic() + DEADLINE_S
        try:
            while time.monotonic() < until:
                found = reader.newest_frontier(SOURCE)
                if found and found.positions and found.positions[SOURCE].covers(position):
                    return found
                if alive is not None:
                    alive()
                reader.wait([SOURCE], 0.1)
        finally:
            reader.close()
        raise AssertionError

    def batches(self, table: str) -> list[ChangeBatch]:
        """All changes of a table's topic, beyond the frontier too."""
        return [batch for batches in self._by_partition(table) for batch in batches]

    def _by_partition(self, table: str) -> list[list[ChangeBatch]]:
        reader = self.log.reader()
        topic = f"{SOURCE}.{table}"
        schema = reader.schema(topic)
        found = [
            [b.changes.conformed(schema) for b in reader.read(topic, partition, 0, end)]
            for partition, end in enumerate(reader.end_offsets(topic))
        ]
        reader.close()
        return found

    def live(self, table: str) -> pa.RecordBatch:
        """The topic's live rows, by key."""
        newest = latest_per_key(self.batches(table))
        alive = np.flatnonzero(newest.op != D)
        return _by_key(newest.schema.key, newest.take(alive).rows)

    def selected(self, table: str) -> pa.RecordBatch:
        """The table's rows now, by key, in the topic's types."""
        schema, parts = self.database.selected(table)
        return _by_key(schema.key, joined(schema, parts))

    def assert_equal(self, *tables: str) -> None:
        """The topics' newest rows are the tables' rows."""
        for table in tables:
            live, selected = self.live(table), self.selected(table)
            assert live.num_rows == selected.num_rows, table
            assert not _differences(live, selected), f"{table}:\n{_differences(live, selected)}"

    def assert_history(self, *tables: str) -> None:
        """No duplicate, no gap: positions grow within a partition, none occurs twice, and every
        transaction number up to the newest is there."""
        numbers = []
        for table in tables:
            for changes in self._by_partition(table):
                seq = np.concatenate([c.txn_seq for c in changes] or [np.empty(0, np.int64)])
                ordinal = np.concatenate([c.ordinal for c in changes] or [np.empty(0, np.int64)])
                places = seq * 2**32 + ordinal
                assert (np.diff(places) > 0).all(), table
                numbers.append(places)
        together = np.concatenate(numbers)
        assert len(np.unique(together)) == len(together)
        found = np.unique(together >> 32)
        newest = self.frontier()
        assert newest is not None
        missing = set(range(1, newest.txn_seq + 1)) - set(found.tolist())
        assert not missing, missing

    def process(self, fault: str = "", **changed: Any) -> subprocess.Popen[str]:
        """An agent in a process of its own, which dies at `fault`."""
        settings = {
            "url": self.url,
            "folder": str(self.folder),
            "tables": self.tables,
            "max_log_transaction_bytes": self.max_log_transaction_bytes,
            "into": None if self.into is None else told(self.into),
            **changed,
        }
        return Forked(
            ["-m", "tests.capture.process", json.dumps(settings)],
            env={**os.environ, "CDC_FAULT": fault},
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def dies(self, fault: str, **changed: Any) -> None:
        """Run a process until it kills itself at `fault`."""
        process = self.process(fault, **changed)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == -signal.SIGKILL, errors

    def ends(self, **changed: Any) -> str:
        """Run a process that ends with an error: its text."""
        process = self.process(**changed)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1, errors
        return errors


class Captured(Protocol):
    """What a test captures, from whatever kind of source."""

    @property
    def config(self) -> SourceConfig: ...

    @property
    def log(self) -> Log: ...

    def source(self) -> Source: ...

    def barrier(self) -> NativePosition:
        """A position at or after everything that was committed before the call."""
        ...

    def wait_for(self, position: NativePosition, alive: Any = None) -> Frontier: ...


class AgentThread:
    """A capture agent on a thread; as a context manager, stopped at the block's end."""

    def __init__(self, capture: Captured) -> None:
        self.facts: dict[str, object] = {}
        self.error: BaseException | None = None
        self._capture, self._stop = capture, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        capture = self._capture
        try:
            run_capture(
                capture.source(), capture.log, capture.config, self._stop.is_set, self._report
            )
        except BaseException as error:
            self.error = error

    def _report(self, **facts: object) -> None:
        self.facts.update(facts)

    def _alive(self) -> None:
        if self.error is not None:
            raise self.error

    def caught_up(self) -> Frontier:
        """Wait until everything committed by now is in the log."""
        return self._capture.wait_for(self._capture.barrier(), self._alive)

    def failed(self) -> BaseException:
        """Wait for the agent's error; it is then not raised again."""
        self._thread.join(DEADLINE_S)
        assert self.error is not None
        error, self.error = self.error, None
        return error

    def __enter__(self) -> AgentThread:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._alive()


def _by_key(key: tuple[str, ...], rows: pa.RecordBatch) -> pa.RecordBatch:
    keys = encode_keys([rows.column(name) for name in key], rows.num_rows)
    order = np.argsort(np.array(keys.to_pylist(), object), kind="stable")
    return rows.take(pa.array(order, pa.int64()))


def _bits(array: pa.Array) -> pa.Array:
    """Floats by their bits: NaN is NaN."""
    return array.view(f"int{array.type.bit_width}") if pa.types.is_floating(array.type) else array


def _differences(left: pa.RecordBatch, right: pa.RecordBatch) -> str:
    wrong = [
        f"{name}: {a}\n  {b}"
        for name, a, b in zip(left.schema.names, left.columns, right.columns, strict=True)
        if not _bits(a).equals(_bits(b))
    ]
    return "\n".join(wrong)


@pytest.fixture
def capture(pg_database: str, tmp_path: Path) -> Capture:
    """A fresh database and a fresh log."""
    return Capture(pg_database, tmp_path)


@pytest.fixture(params=["postgres", "mysql", "mariadb"])
def any_capture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Capture]:
    """The same over a fresh database of each kind."""
    if request.param == "postgres":
        yield Capture(request.getfixturevalue("pg_database"), tmp_path)
        return
    server: MyServer = request.getfixturevalue(request.param)
    database = server.new_database()
    yield Capture(database.url, tmp_path)
    database.drop()
