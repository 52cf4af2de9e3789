"""`cdc run` over a broker that is killed, and that is away for longer than connectors wait: nothing
stops for good, and afterwards every sink equals the source (see house.py)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.house import Child, House, built
from tests.fix_log import kafka_config
from tests.fix_services import PostgresServer
from tests.services.kafka import Broker

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(400)]

SEED = 20_261_121
NAMES = ("shop", "views main", "duck", "mirror")
AWAY_S = 3.0
"""Long enough for all to wait for the broker."""
STOP_S = 15.0
"""Shorter than what a connector waits for the broker."""


@pytest.fixture
def house(postgres: PostgresServer, own_kafka: Broker, tmp_path: Path) -> Iterator[House]:
    log = kafka_config(own_kafka.bootstrap, tmp_path / "log")
    with built(postgres, tmp_path, SEED, log) as house:
        yield house


def assert_it_went_on(run: Child) -> None:
    said = run.said()
    assert run.is_alive, said
    for word in ("given up", "stopped", "defect", "Traceback"):
        assert word not in said, said


def test_the_broker_is_killed_and_then_away(house: House, own_kafka: Broker) -> None:
    """Killed under load, nobody starts again; away until all have noticed, all do; and who is told
    to end does not wait for it."""
    run = house.run("on")
    house.work(50)
    house.check(verify=False)
    own_kafka.stop()
    house.work(30)
    own_kafka.start()
    house.caught_up()
    assert "starting again" not in run.said()
    own_kafka.shut_down()
    noticed = [f"{name}: unavailable; starting again" for name in NAMES]
    house.work_until(lambda: all(line in run.said() for line in noticed), "all to notice")
    own_kafka.start()
    house.work(30)
    house.check()
    assert_it_went_on(run)
    own_kafka.shut_down()
    house.work_for(AWAY_S)
    told_s = time.monotonic()
    house.stop_all()
    assert time.monotonic() - told_s < STOP_S, run.said()
