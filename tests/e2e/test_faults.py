"""The whole pipeline while its processes are killed, stopped, doubled and compacted: afterwards
every sink equals the SELECT on Postgres, and the log has no duplicate and no gap (see house.py).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.e2e.house import CONNECTORS, DUCK, MIRROR, SOURCE, VIEWS, House, Kind, built
from tests.fix_services import PostgresServer

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.service]

SEED = 20_261_121
SOAK_S = 12.0
KILL_EVERY_S = 0.5


@pytest.fixture
def house(postgres: PostgresServer, tmp_path: Path) -> Iterator[House]:
    with built(postgres, tmp_path, SEED) as house:
        yield house


ROUNDS: list[dict[Kind, str]] = [
    {
        SOURCE: "capture.before_append:2",
        VIEWS: "view.before_append:2",
        DUCK: "sink.before_write:2",
        MIRROR: "sink.after_write:2",
    },
    {
        SOURCE: "capture.after_append:2",
        VIEWS: "view.after_append",
        DUCK: "sink.after_write",
        MIRROR: "sink.after_commit",
    },
    {
        SOURCE: "log.append.before_commit:3",
        VIEWS: "view.mid_checkpoint",
        DUCK: "sink.after_commit:2",
        MIRROR: "sink.before_write",
    },
    {
        SOURCE: "log.append.after_commit:3",
        VIEWS: "view.after_checkpoint:2",
    },
    {SOURCE: "capture.mid_transaction:2", VIEWS: "log.append.before_commit:2"},
    {SOURCE: "capture.mid_transaction:1", VIEWS: "log.append.after_commit"},
]


@pytest.mark.parametrize("rounds", [ROUNDS[:3], ROUNDS[3:]], ids=["first", "second"])
def test_killed_at_every_named_point(house: House, rounds: list[dict[Kind, str]]) -> None:
    """Round after round over the same state, each connector at a point of its own."""
    house.start_all()
    house.caught_up()
    for faults in rounds:
        for kind, fault in faults.items():
            house.restart(kind, fault)
        if "mid_transaction" in faults[SOURCE]:
            house.workload.large()
        for kind in faults:
            house.dies(kind)
            house.start(kind)
        house.work()
        house.check(verify=faults is rounds[-1])
    house.stop_all()


def test_killed_in_the_snapshot_with_rows_deleted_before_the_next(house: House) -> None:
    house.start(VIEWS, DUCK, MIRROR)
    house.workload.large()
    house.workload.large()
    for fault in ("capture.before_append:3", "capture.snapshot_piece"):
        house.start(SOURCE, fault=fault)
        house.dies(SOURCE)
        with psycopg.connect(house.url, autocommit=True) as connection:
            connection.execute("DELETE FROM orders WHERE id % 7 = 0 AND pieces = 0")
            connection.execute("DELETE FROM customers WHERE id % 11 = 0")
            connection.execute("VACUUM orders, customers, lines")
        house.workload.truncate()
    house.start(SOURCE)
    house.work()
    house.check()


COMPACTED: list[tuple[Kind, str]] = [
    (SOURCE, "capture.after_append:2"),
    (VIEWS, "view.after_append:2"),
    (VIEWS, "view.mid_checkpoint"),
    (DUCK, "sink.after_commit:2"),
    (MIRROR, "sink.before_write:2"),
]


def test_compaction_between_any_two_steps(house: House) -> None:
    """Tombstones go as soon as every floor allows it, so that nothing but floors protects readers.
    The compactor itself is killed as well."""
    house.write_config(tombstone_retention_s=0)
    house.start_all()
    house.caught_up()
    house.work(60)
    house.caught_up()
    for point in ("before_rewrite", "in_rewrite", "after_rewrite"):
        house.work()
        compactor = house.command("compact", fault=f"compaction.{point}")
        assert compactor.wait() == -signal.SIGKILL, compactor.said()
        del house.children["command", "compact"]
    for kind, fault in COMPACTED:
        house.restart(kind, fault)
        house.work_until(house.compacted_and_dead(kind), f"{kind} to die")
        house.work(5)
        house.compact()
        house.start(kind)
        house.compact()
    house.check(verify=False)
    house.stop_all()
    assert house.cdc("remove", "duck", "--yes") == 0
    (house.directory / "duck.duckdb").unlink()
    house.start_all()
    house.compact()
    house.check()


def test_the_stopped_one_wakes_up_beside_its_successor(house: House) -> None:
    """Stopped for seconds it goes on as if nothing had been; replaced meanwhile, it ends."""
    house.start_all()
    house.caught_up()
    for kind in CONNECTORS:
        first = house.children[kind]
        first.process.send_signal(signal.SIGSTOP)
        house.work_for(0.7)
        first.process.send_signal(signal.SIGCONT)
        house.work(5)
    house.caught_up()
    for kind in CONNECTORS:
        first = house.children[kind]
        first.process.send_signal(signal.SIGSTOP)
        house.start(kind, log="second")
        if kind == DUCK:  # it may hold the file
            first.process.send_signal(signal.SIGCONT)
        house.work_until(lambda: house.is_owner(kind), f"the second {kind} to take over")  # noqa: B023
        first.process.send_signal(signal.SIGCONT)
        house.work_until(lambda: not first.is_alive, f"the first {kind} to end")  # noqa: B023
        assert first.wait() == 3, first.said()
        assert "replaced by" in first.said() or "taken over by" in first.said(), first.said()
    house.check()


def test_a_second_run_beside_the_first(house: House) -> None:
    first = house.run("first")
    house.work()
    house.caught_up()
    second = house.run("second")
    house.work_until(lambda: not first.is_alive, "the first run to end")
    assert first.wait() == 1
    assert "shop: error: shop: replaced by process" in first.said(), first.said()
    assert "taken over by" in first.said()
    del house.children["run", "first"]
    house.work()
    house.check()
    second.process.terminate()
    assert second.wait() == 0, second.said()


def test_random_kills(house: House) -> None:
    """No look at the mirror ever shows half a transaction, and the end is right."""
    chance = random.Random(SEED)
    house.start_all()
    house.caught_up()
    until_s = time.monotonic() + SOAK_S
    while time.monotonic() < until_s:
        house.work_for(KILL_EVERY_S)
        house.check_cuts()
        victim = chance.choice(CONNECTORS)
        if chance.random() < 0.15:
            house.workload.large()
        if chance.random() < 0.1:
            house.compact()
        os.kill(house.children[victim].process.pid, signal.SIGKILL)
        assert house.children[victim].wait() == -signal.SIGKILL, house.said()
        house.start(victim)
    house.check()
    house.stop_all()
