"""Topics that another cdc-views wrote: its whole transactions are whole here, whoever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cdc.changes import D
from cdc.config import LogConfig, Place, SourceConfig, TopicsConfig
from cdc.errors import SlotError
from cdc.frontiers import Frontier
from cdc.log.api import Log
from cdc.positions import NativePosition
from cdc.topics.newest import TopicsAt
from cdc.topics.source import TopicsSource
from tests.fix_capture import DEADLINE_S, SOURCE, AgentThread, Capture
from tests.fix_log import kafka_config
from tests.services.forked import Forked

TABLES = ("public.x", "public.y")


@dataclass
class Downstream:
    """The topics of a log at `upstream`, captured into an embedded one."""

    upstream: LogConfig
    folder: Path
    capture: Capture = field(init=False)

    def __post_init__(self) -> None:
        self.capture = Capture("", self.folder)

    @property
    def config(self) -> SourceConfig:
        topics = tuple(f"{self.upstream.topic_prefix}{SOURCE}.{table}" for table in TABLES)
        kafka = TopicsConfig(self.upstream.bootstrap_servers, {}, self.upstream.format, "", {})
        place = Place("connectors.yaml", 1, 1)
        return SourceConfig(SOURCE, "topics", "", topics, "initial", "", "", place, topics=kafka)

    @property
    def log(self) -> Log:
        return self.capture.log

    def source(self) -> TopicsSource:
        return TopicsSource(self.config, f"{self.upstream.topic_prefix}down")

    def barrier(self) -> NativePosition:
        with closing(self.source()) as source:
            return source.place_barrier()

    def wait_for(self, position: NativePosition, alive: Any = None) -> Frontier:
        return self.capture.wait_for(position, alive)

    def running(self) -> AgentThread:
        return AgentThread(self)

    def process(self, fault: str = "") -> subprocess.Popen[str]:
        settings = {
            "bootstrap": self.upstream.bootstrap_servers,
            "prefix": self.upstream.topic_prefix,
            "format": self.upstream.format,
            "folder": str(self.folder),
        }
        return Forked(
            ["-m", "tests.capture.topics_process", json.dumps(settings)],
            env={**os.environ, "CDC_FAULT": fault},
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent.parent,
        )

    def assert_every_cut_is_whole(self) -> int:
        """At each frontier the sums of both tables agree; how many frontiers there were."""
        with closing(self.log.reader()) as reader:
            topics = [f"{SOURCE}.{table}" for table in TABLES]
            sums = {topic: dict[int, int]() for topic in topics}
            start = dict.fromkeys(topics, 0)
            seen = 0
            for _, frontier in reader.frontiers(SOURCE):
                if not frontier.whole or frontier.incomplete:
                    continue
                seen += 1
                for topic in topics:
                    (end,) = frontier.end_offsets[topic]
                    for batch in reader.read(topic, 0, start[topic], end):
                        rows = batch.changes.rows.to_pylist()
                        for row, op in zip(rows, batch.changes.op, strict=True):
                            sums[topic][row["id"]] = 0 if op == D else row["n"]
                    start[topic] = end
                assert len({sum(rows.values()) for rows in sums.values()}) == 1
        return seen


def transaction(capture: Capture, rng: random.Random) -> None:
    """Both sums change alike."""
    number, other, by = rng.randrange(300), rng.randrange(300), rng.randrange(1, 9)
    add = "INSERT INTO {} VALUES ({}, {}) ON CONFLICT (id) DO UPDATE SET n = {}.n + excluded.n"
    capture.transaction(
        add.format("x", number, by, "x"),
        add.format("y", other, by, "y"),
        f"UPDATE x SET n = n + coalesce((SELECT sum(n) FROM x WHERE id = {number + 1}), 0) "
        f"WHERE id = {number}",
        f"DELETE FROM x WHERE id = {number + 1}",
    )


@pytest.fixture(params=["avro", "json"])
def shop(
    request: pytest.FixtureRequest, pg_database: str, kafka_bootstrap: str, tmp_path: Path
) -> Capture:
    """A database whose agent writes to Kafka."""
    log = kafka_config(kafka_bootstrap, tmp_path / "up", request.param)
    found = Capture(pg_database, tmp_path / "up", TABLES, into=log)
    found.sql(
        *(f"CREATE TABLE {t} (id int PRIMARY KEY, n bigint NOT NULL, pad text)" for t in "xy"),
        *(f"INSERT INTO {t} SELECT g, 1 FROM generate_series(1, 200) g" for t in "xy"),
    )
    return found


def downstream(shop: Capture, tmp_path: Path) -> Downstream:
    assert shop.into is not None
    return Downstream(shop.into, tmp_path / "down")


def by_id(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def assert_same(shop: Capture, down: Downstream) -> None:
    for table in TABLES:
        assert down.capture.live(table).equals(shop.selected(table))
    down.capture.assert_history(*TABLES)


def test_transactions_stay_whole(shop: Capture, tmp_path: Path) -> None:
    rng, down = random.Random(1), downstream(shop, tmp_path)
    with shop.running() as agent:
        agent.caught_up()
        with down.running() as follower:
            for _ in range(60):
                transaction(shop, rng)
            agent.caught_up()
            found = follower.caught_up()
        assert found.resume["fenced"]
        for _ in range(20):
            transaction(shop, rng)
        shop.sql("ALTER TABLE x ADD c int DEFAULT 7", "INSERT INTO x VALUES (1001, 0)")
        agent.caught_up()
        with down.running() as follower:
            follower.caught_up()
    assert_same(shop, down)
    assert set(down.capture.live("public.x").column("c").to_pylist()) == {7}
    assert down.assert_every_cut_is_whole() > 2
    with closing(down.source()) as source:
        read = TopicsAt(source)
        for table in TABLES:
            with closing(down.log.reader()) as reader:
                schema = reader.schema(f"{SOURCE}.{table}")
            rows = [row for batch in read.table(schema) for row in batch.to_pylist()]
            expected = shop.selected(table).to_pylist()
            assert by_id(rows) == by_id(expected)


@pytest.mark.crash
@pytest.mark.parametrize("fault", ["capture.mid_transaction:2"])
def test_killed_within_a_large_transaction(shop: Capture, tmp_path: Path, fault: str) -> None:
    rng, down = random.Random(fault), downstream(shop, tmp_path)
    with shop.running() as agent:
        agent.caught_up()
        with down.running() as follower:
            follower.caught_up()
        large = "SELECT g, 1, repeat(md5(g::text), 64) FROM generate_series(1000, 11000) g"
        shop.transaction(*(f"INSERT INTO {t} {large}" for t in "xy"))
        for _ in range(10):
            transaction(shop, rng)
        agent.caught_up()
        process = down.process(fault)
        deadline_s = time.monotonic() + DEADLINE_S
        while process.poll() is None:
            assert time.monotonic() < deadline_s
            transaction(shop, rng)
        assert process.returncode == -signal.SIGKILL, process.communicate()
        agent.caught_up()
        with down.running() as follower:
            follower.caught_up()
    assert_same(shop, down)
    down.assert_every_cut_is_whole()


def test_a_log_that_was_made_anew_stops_it(shop: Capture, tmp_path: Path) -> None:
    down = downstream(shop, tmp_path)
    with shop.running() as agent:
        agent.caught_up()
        with down.running() as follower:
            follower.caught_up()
    assert shop.into is not None
    with closing(shop.log) as log:
        log.remove(SOURCE)
    with closing(shop.source()) as source:
        source.remove()
    with shop.running() as agent:
        agent.caught_up()
        with down.running() as follower:
            error = follower.failed()
    assert isinstance(error, SlotError) and "made anew" in error.what
