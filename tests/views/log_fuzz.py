"""One seed of the fuzz over a real log: random views of two sources, kept by the maintainer.

Between any two of its moves there may be commits, compaction, a restart, the loss of its state; in
the end the views' topics equal Postgres. By hand, over many seeds:

    python -m tests.views.log_fuzz URL FIRST COUNT
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cdc.changes import D
from cdc.config import Config, LogConfig, Place, SourceConfig, StateConfig, ViewConfig
from cdc.frontiers import Frontier
from cdc.latest import latest_per_key
from cdc.log.api import Log, Producer, Reader, TopicSpec
from cdc.log.open import open_log
from cdc.positions import Lsn, Vector
from compaction.part import compact_log
from tests.views.fuzz_tables import TABLES, Rows, batch, random_step
from tests.views.sql_fuzz import (
    Connection,
    Row,
    apply_to,
    compare,
    random_views,
    run_seeds,
    tuples_of,
)
from tests.views.sql_generator import View
from views.maintainer import maintain
from views.plan import ViewPlan

DEADLINE_S = 60.0
SOURCES = ("shop", "crm")


@dataclass
class Sources:
    """Two sources in the role of their agents, and the tables as they are now."""

    log: Log
    rng: random.Random
    live: Rows = field(default_factory=lambda: {topic: {} for topic in TABLES})
    positions: dict[str, int] = field(default_factory=dict)
    _producers: dict[str, Producer] = field(default_factory=dict)

    def open(self, source: str) -> None:
        producer = self._producers[source] = self.log.producer(source)
        mine = [TopicSpec(t, s) for t, s in TABLES.items() if t.startswith(source)]
        producer.create_topics(mine)
        self.positions[source] = 0

    def commit(self, source: str, incomplete: tuple[str, ...] = ()) -> None:
        position = self.positions[source] = self.positions[source] + 1
        changes = random_step(self.rng, self.live, source)
        batches = []
        for topic, rows in changes.items():
            made = batch(TABLES[topic], rows)
            at = np.full(made.num_rows, position, np.int64)
            batches.append((topic, replace(made, txn_seq=at)))
        where = Vector.of({source: Lsn(position)})
        self._producers[source].append(
            batches, [Frontier(source, where, txn_seq=position, incomplete=incomplete)]
        )

    def close(self) -> None:
        for producer in self._producers.values():
            producer.close()


def _config(home: Path, views: dict[str, View], rng: random.Random) -> Config:
    place = Place("connectors.yaml", 1, 1)
    retention_s = rng.choice([0.0, 86400.0])
    return Config(
        home / "connectors.yaml",
        LogConfig(
            "embedded", home / "log", min_compaction_lag_s=0, tombstone_retention_s=retention_s
        ),
        StateConfig(home / "state", checkpoint_interval_s=rng.choice([0.0, 0.01, 1000.0])),
        {
            name: SourceConfig(name, "postgres", "", ("public.*",), "initial", "s", "p", place)
            for name in SOURCES
        },
        {
            name: ViewConfig(name, v.sql, place, place, v.key if v.declared else None)
            for name, v in views.items()
        },
        {},
    )


def run_seed(connection: Connection, seed: int, home: Path, seen: Counter[str]) -> None:
    """Raises Wrong, or whatever the maintainer raises. Leaves the database as it was."""
    rng = random.Random(seed)
    connection.execute("SELECT 1")  # begins the transaction that is rolled back at the end
    views, plans = random_views(connection, rng, seen)
    try:
        if plans:
            _Run(connection, rng, home, views, plans, seen).run()
    except Exception as error:
        listing = "\n".join(f"{n}: {v.sql}" for n, v in views.items())
        error.add_note(f"seed {seed}\n{listing}")
        raise
    finally:
        connection.rollback()


class _Run:
    def __init__(
        self,
        connection: Connection,
        rng: random.Random,
        home: Path,
        views: dict[str, View],
        plans: dict[str, ViewPlan],
        seen: Counter[str],
    ) -> None:
        self._connection, self._rng, self._home, self._seen = connection, rng, home, seen
        self._views, self._plans = views, plans
        self._config = _config(home, views, rng)
        self._log = open_log(self._config.log)
        self._reader: Reader = self._log.reader()
        self._sources = Sources(self._log, rng)
        self._applied: Rows = {topic: {} for topic in TABLES}

    def run(self) -> None:
        try:
            self._first_frontiers()
            for _ in range(self._rng.randrange(1, 5)):
                self._round()
        finally:
            self._reader.close()
            self._sources.close()
            self._log.close()

    def _first_frontiers(self) -> None:
        for source in SOURCES:
            self._sources.open(source)
        for source in SOURCES:
            name = next(t for t in TABLES if t.startswith(source)).partition(".")[2]
            self._sources.commit(source, (name,) if self._rng.random() < 0.3 else ())
            self._sources.commit(source)

    def _round(self) -> None:
        """Some commits and accidents, then the maintainer until it has caught up."""
        for _ in range(self._rng.randrange(4)):
            self._something()
        left = [self._rng.randrange(6)]
        deadline_s = time.monotonic() + DEADLINE_S

        def stop() -> bool:
            assert time.monotonic() < deadline_s, "the views did not catch up"
            if left[0]:
                left[0] -= 1
                self._something()
            elif self._rng.random() < 0.1:
                return True  # a restart
            return not left[0] and self._caught_up()

        log = open_log(self._config.log)
        try:
            while not self._caught_up() or left[0]:
                maintain(self._config, "main", log, stop)
        finally:
            log.close()
        apply_to(self._connection, self._applied, self._sources.live)
        self._applied = {t: dict(rows) for t, rows in self._sources.live.items()}
        self._check()

    def _something(self) -> None:
        roll = self._rng.random()
        if roll < 0.6:
            self._sources.commit(self._rng.choice(SOURCES))
        elif roll < 0.9:
            compact_log(self._config.log)
            self._seen["compactions"] += 1

    def _caught_up(self) -> bool:
        for name in self._plans:
            found = self._reader.newest_frontier(f"view.{name}")
            if found is None or any(
                position != Lsn(self._sources.positions[source])
                for source, position in found.positions.positions
            ):
                return False
        return True

    def _check(self) -> None:
        for name, view in self._views.items():
            if name in self._plans:
                found = self._connection.execute(f"SELECT * FROM {name}".encode()).fetchall()
                compare(name, view, self._topic(f"view.{name}"), found, "in the log")
        self._seen["checked rounds"] += 1
        if self._rng.random() < 0.15 and self._config.state.path.exists():
            shutil.rmtree(self._config.state.path)
            self._seen["states lost"] += 1

    def _topic(self, topic: str) -> list[Row]:
        """The live rows of a view's topic, read from offset zero."""
        (end,) = self._reader.end_offsets(topic)
        found = [b.changes for b in self._reader.read(topic, 0, 0, end) if b.changes.num_rows]
        if not found:
            return []
        latest = latest_per_key(found)
        return tuples_of(latest.take(np.flatnonzero(latest.op != D)).rows)


if __name__ == "__main__":
    run_seeds(run_seed)
