"""A view group as a process of its own, and the test in the role of the capture agent.

As a program it maintains the group of a log directory, or of another log, until SIGTERM:

    python -m tests.views.group DIRECTORY [LOG]

where LOG is what `told` makes of a LogConfig.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

from cdc.changes import ChangeBatch, concat
from cdc.config import Config, LogConfig, Place, SourceConfig, StateConfig, ViewConfig
from cdc.frontiers import Frontier
from cdc.log.api import TopicSpec
from cdc.log.open import open_log
from cdc.positions import Lsn, Vector
from tests.fix_log import heard, told
from tests.services.forked import Forked
from tests.views.model import (
    TABLES,
    Changes,
    Tables,
    Topic,
    Views,
    apply_changes,
    apply_records,
    batch,
    check_topics,
    plans_of,
    random_changes,
)
from views.maintainer import maintain

DEADLINE_S = 120.0

VIEWS: Views = {
    "joined": "SELECT a.id, a.v, a.amount, b.name FROM shop.a JOIN shop.b ON a.b_id = b.id",
    "outer_one": "SELECT a.id, a.v, b.name FROM shop.a LEFT JOIN shop.b ON a.b_id = b.id",
    "grouped": """SELECT v, count(*) AS n, sum(amount) AS t, min(w) AS lo, count(DISTINCT w) AS d
                  FROM shop.a GROUP BY v""",
    "over": "SELECT n, count(*) AS k FROM grouped GROUP BY n",
}


def config_of(home: Path, views: Views = VIEWS, interval_s: float = 0.05) -> Config:
    place = Place("connectors.yaml", 1, 1)
    source = SourceConfig("shop", "postgres", "", ("public.*",), "initial", "s", "p", place)
    found = {}
    for name, given in views.items():
        sql, key = (given, None) if isinstance(given, str) else given
        found[name] = ViewConfig(name, sql, place, place, key, source="shop")
    return Config(
        home / "connectors.yaml",
        LogConfig("embedded", home / "log", min_compaction_lag_s=0),
        StateConfig(home / "state", checkpoint_interval_s=interval_s),
        {"shop": source},
        found,
        {},
    )


class Shop:
    """The source: random transactions, each with its frontier, and the tables as they are now."""

    def __init__(self, config: Config, seed: int) -> None:
        self._log = open_log(config.log)
        self._producer = self._log.producer("shop")
        self._producer.create_topics([TopicSpec(t, schema) for t, schema in TABLES.items()])
        self._rng = random.Random(seed)
        self.tables: Tables = {topic: {} for topic in TABLES}
        self.position = 0

    def commit(self, count: int, keys: int = 40, incomplete: tuple[str, ...] = ()) -> None:
        """One transaction of `count` random changes."""
        self.apply(random_changes(self._rng, keys, count), incomplete)

    def apply(self, changes: Changes, incomplete: tuple[str, ...] = ()) -> None:
        """One transaction."""
        self.position += 1
        apply_changes(self.tables, changes)
        batches = [
            (t, batch(TABLES[t], rows).shifted(self.position)) for t, rows in changes.items()
        ]
        frontier = Frontier(
            "shop",
            Vector.of({"shop": Lsn(self.position)}),
            txn_seq=self.position,
            commit_us=self.position,
            incomplete=incomplete,
        )
        self._producer.append(batches, [frontier])

    def close(self) -> None:
        self._producer.close()
        self._log.close()


class Group:
    """A process that maintains the views; started with a fault, it dies at it by SIGKILL."""

    def __init__(self, home: Path, fault: str = "", log: LogConfig | None = None) -> None:
        self._deadline_s = time.monotonic() + DEADLINE_S
        command = ["-m", "tests.views.group", str(home)]
        if log is not None:
            command.append(json.dumps(told(log)))
        self._process = Forked(
            command, env={"PATH": "/usr/bin:/bin", "CDC_FAULT": fault}, stderr=subprocess.PIPE
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def lives_on(self) -> bool:
        """`is_alive`, for a loop until it dies: fails the test when that takes too long."""
        assert time.monotonic() < self._deadline_s, "the group should have ended"
        return self.is_alive

    def wait_for_death(self) -> int:
        return self._process.wait(DEADLINE_S)

    def stop(self) -> str:
        """SIGTERM; what it wrote to stderr."""
        self._process.send_signal(signal.SIGTERM)
        _, errors = self._process.communicate(timeout=DEADLINE_S)
        assert self._process.returncode == 0, errors.decode()
        return errors.decode()

    def errors(self) -> bytes:
        """What a process that ended by itself wrote to stderr."""
        return self._process.communicate(timeout=DEADLINE_S)[1]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        if self.is_alive:
            self._process.kill()
        self._process.communicate()


class Watcher:
    """Reads the views' topics as a sink would, and holds them against the oracle."""

    def __init__(self, config: Config, views: Views = VIEWS) -> None:
        self._log = open_log(config.log)
        self._reader = self._log.reader()
        self._views, self._plans = views, plans_of(views)

    def wait_until(self, position: int, group: Group | None = None) -> None:
        """Every view reflects the source's position."""
        deadline_s = time.monotonic() + DEADLINE_S
        names = [f"view.{name}" for name in self._views]
        while not self.is_at(position):
            assert time.monotonic() < deadline_s, f"not at {position} in time"
            assert group is None or group.is_alive, group.stop()
            self._reader.wait(names, 0.2)

    def is_at(self, position: int) -> bool:
        """Whether every view reflects the source's position."""
        return all(self._reached(f"view.{name}", position) for name in self._views)

    def count(self, topic: str) -> int:
        """How many records ever stood in the topic."""
        return sum(self._reader.end_offsets(topic))

    def _reached(self, name: str, position: int) -> bool:
        frontier = self._reader.newest_frontier(name)
        return frontier is not None and frontier.positions.covers({"shop": Lsn(position)})

    def pause(self) -> None:
        """Let the group take a step."""
        self._reader.wait([f"view.{name}" for name in self._views], 0.05)

    def check(self, tables: Tables) -> None:
        """The topics equal the recomputation, and no position stands in them twice."""
        topics: dict[str, Topic] = {}
        for name in self._views:
            topics[name] = {}
            for step in self._steps(f"view.{name}"):
                apply_records(name, topics[name], step)
        check_topics(self._views, self._plans, tables, topics)

    def _steps(self, topic: str) -> list[ChangeBatch]:
        """The topic's records, one batch per step; positions, where they stand in the records,
        ascend strictly, and each belongs to the step whose frontier covers it first."""
        (end,) = self._reader.end_offsets(topic)
        numbers, ends = [], []
        for _, frontier in self._reader.frontiers(topic):
            numbers.append(frontier.txn_seq)
            ends.append(frontier.end_offsets[topic][0])
        steps: dict[int, list[ChangeBatch]] = {}
        before = (-1, -1)
        for found in self._reader.read(topic, 0, 0, end):
            records = found.changes
            for i in range(records.num_rows):
                step = numbers[bisect_right(ends, int(found.offsets[i]))]
                here = (int(records.txn_seq[i]), int(records.ordinal[i]))
                if here[0] >= 0:  # plain rows on Kafka do not have it
                    assert here > before, f"{topic}: {here} after {before}"
                    assert here[0] == step, f"{topic}: {here} in step {step}"
                steps.setdefault(step, []).append(records.slice(i, 1))
                before = here
        return [concat(records) for records in steps.values()]

    def close(self) -> None:
        self._reader.close()
        self._log.close()


def main() -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    config = config_of(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        config = replace(config, log=heard(json.loads(sys.argv[2])))
    log = open_log(config.log)
    maintain(config, "main", log, lambda: bool(stopping))
    log.close()


if __name__ == "__main__":
    main()
