"""The whole pipeline over a log on a real broker: everything that the embedded log's users have.

Postgres → Kafka → views → Kafka → DuckDB and Postgres; what must hold is said in house.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdc.config import Format, LogConfig
from tests.e2e.house import (
    DEADLINE_S,
    DUCK,
    MIRROR,
    SOURCE,
    VIEWS,
    House,
    Kind,
    built,
)
from tests.fix_log import kafka_config
from tests.fix_services import PostgresServer

pytestmark = [pytest.mark.service, pytest.mark.xdist_group("kafka")]

SEED = 20_261_121


def log_of(bootstrap_servers: str, directory: Path, form: Format, partitions: int) -> LogConfig:
    made = kafka_config(bootstrap_servers, directory / "log", form)
    return replace(made, partitions=partitions)


@pytest.fixture
def house(postgres: PostgresServer, kafka_bootstrap: str, tmp_path: Path) -> Iterator[House]:
    """Avro, in several partitions."""
    log = log_of(kafka_bootstrap, tmp_path, "avro", 3)
    with built(postgres, tmp_path, SEED, log) as house:
        yield house


def printed(house: House, capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    """The JSON lines that a command prints."""
    capsys.readouterr()
    assert house.cdc(*words) == 0, words
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_everything_that_a_user_does(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.run("until", "--until-caught-up")
    assert house.children["run", "until"].wait() == 0, house.said()
    del house.children["run", "until"]
    house.assert_sinks_equal()

    run = house.run("on")
    house.work(80)
    house.check()
    (status,) = printed(house, capsys, "status", "--json")
    assert status["sinks"]["duck"]["lag_changes"] == 0
    assert status["sources"]["shop"]["lag_bytes"] is not None
    (waited,) = printed(house, capsys, "wait", "duck", "--timeout", "60", "--json")
    assert waited["reached"]
    ((count),) = printed(house, capsys, "query", "duck", "SELECT count(*) AS n FROM order_search")
    assert count["n"] > 1000
    _assert_events(house, capsys)
    _assert_no_lag(house)
    for words in (("duck",), ("mirror", "--view")):
        house.command("rebuild", *words)
        house.ends(("command", "rebuild"), status=0)
        del house.children["command", "rebuild"]
    house.check(verify=False)

    run.process.terminate()
    assert run.wait() == 0, run.said()
    house.children.clear()

    for name in ("duck", "mirror", "order_search", "shop"):
        assert house.cdc("remove", name, "--yes") == 0
    assert house.cdc("log", "shop.public.orders") == 2


def _assert_events(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    for topic in ("shop.public.orders", "view.per_country"):
        events = printed(house, capsys, "log", topic, "--from", "1", "--limit", "4")
        assert len(events) == 4
        for event in events:
            assert event["topic"] == topic and event["offset"] >= 1 and event["key"]
            assert event["position"].startswith("shop@")
    assert printed(house, capsys, "log", "shop.frontier")[-1]["key"] == "shop"


def _assert_no_lag(house: House) -> None:
    """What ordinary tools see: every group comes to the end of every partition that it reads."""
    log = house.capture.log
    with closing(log), closing(log.reader()) as reader:
        for consumer in ("duck", "mirror", "view.main"):
            topics = {topic for topic, _ in log.positions(consumer)}
            assert {"shop.public.orders", "shop.public.lines"} <= topics
            ends = {t: reader.end_offsets(t) for t in topics}
            wanted = {(t, i): end for t, found in ends.items() for i, end in enumerate(found)}
            deadline_s = time.monotonic() + DEADLINE_S
            while log.positions(consumer) != wanted:
                assert time.monotonic() < deadline_s, consumer
                time.sleep(0.05)


def test_json_with_one_partition(
    postgres: PostgresServer, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Large transactions, every connector killed in the middle of its work, then all is equal."""
    log = log_of(kafka_bootstrap, tmp_path, "json", 1)
    with built(postgres, tmp_path, SEED, log) as house:
        house.start_all()
        house.caught_up()
        for kind, fault in FAULTS.items():
            house.restart(kind, fault)
        house.workload.large()
        for kind in FAULTS:
            house.dies(kind)
            house.start(kind)
        house.work()
        house.check(verify=False)
        house.stop_all()


FAULTS: dict[Kind, str] = {
    SOURCE: "capture.mid_transaction:2",
    VIEWS: "log.append.before_commit:2",
    DUCK: "sink.before_write:2",
    MIRROR: "sink.after_write:2",
}
