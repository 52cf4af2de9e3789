"""The sink killed, cut off and locked out: afterwards the store equals the log, at its position.

The log and the stores are real; the sink runs in a process of its own and is killed by SIGKILL at
named points (cdc.faults). A SQL store has two inputs, which agree with each other at any moment;
the others have one.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.changes import D, U
from cdc.config import Config
from cdc.errors import SinkError, StoreUnavailable
from cdc.positions import Vector
from sinks.part import PART, status_file
from tests.fix_services import PostgresServer
from tests.fix_sinks import store_case
from tests.services.forked import Forked
from tests.sink_feed import ITEMS, SUMS, Shop, StoreCase, config_for, config_of, until

pytestmark = pytest.mark.crash

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120.0
INPUTS = ["shop.items", "shop.sums"]
POINTS = ["sink.before_write", "sink.after_write", "sink.after_commit"]
STORES = ["duckdb", "sqlite", "postgres", "elasticsearch", "redis"]

# argv: a pickled Config, with the name of one sink
SINK_PROCESS = """
import pickle, signal, sys
from pathlib import Path
from cdc.log.open import open_log
from sinks.part import PART

stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
print("listening", flush=True)
config = pickle.loads(Path(sys.argv[1]).read_bytes())
PART.deliver(config, *config.sinks, open_log(config.log), lambda: bool(stopping))
"""


def config_over(folder: Path, case: StoreCase) -> Config:
    if case.type == "sql":
        return config_of(folder, case.url, INPUTS)
    return config_for(folder, case, ITEMS)


@pytest.fixture(params=STORES)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return config_over(tmp_path, store_case(request.param, request))


@pytest.fixture
def shop(config: Config) -> Iterator[Shop]:
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        yield shop


def start_sink(config: Config, fault: str = "") -> subprocess.Popen[bytes]:
    (sink,) = config.sinks
    file = config.file.parent / f"{sink}.pickle"
    file.write_bytes(pickle.dumps(config))
    process = Forked(
        ["-c", SINK_PROCESS, str(file)],
        cwd=ROOT,
        env={**os.environ, "CDC_FAULT": fault},
        stdout=subprocess.PIPE,
    )
    # Before this line SIGTERM would end it as a signal does, not in order.
    assert process.stdout is not None and process.stdout.readline() == b"listening\n"
    return process


def transaction(shop: Shop, number: int) -> Vector:
    """Five items come or change, one goes; the sum says how many amounts there are."""
    rows: list[dict[str, Any]] = [
        {"id": number * 3 + i, "name": f"n{number}", "amount": 1} for i in range(5)
    ]
    gone: dict[str, Any] = {"id": number * 3 - 2, "name": None, "amount": None}
    items = pa.RecordBatch.from_pylist([*rows, gone], schema=ITEMS.arrow)
    shop.live = {**shop.live, **{row["id"]: row for row in rows}}
    shop.live.pop(gone["id"], None)
    total = sum(row["amount"] for row in shop.live.values())
    sums = pa.RecordBatch.from_pylist([{"id": 1, "total": total}], schema=SUMS.arrow)
    return shop.commit(("public.items", [U] * 5 + [D], items), ("public.sums", [U], sums))


def run_until(config: Config, shop: Shop, position: Vector) -> None:
    process = start_sink(config)
    try:
        wait(lambda: at(config, position))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def at(config: Config, position: Vector) -> bool:
    try:
        found = PART.position(config, "warehouse")
    except StoreUnavailable:  # the sink is writing
        return False
    return found is not None and found.chunk == 0 and found.vector.covers(position)


def dead_or_at(victim: subprocess.Popen[bytes], config: Config, position: Vector) -> bool:
    return victim.poll() is not None or at(config, position)


def wait(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    spin = until(condition, timeout_s)
    while not spin():
        threading.Event().wait(0.01)


def assert_whole(config: Config, shop: Shop) -> None:
    """The store's rows are the live rows, and its inputs agree with each other."""
    batches = PART.rows(config, "warehouse", "shop.items", ITEMS)
    found = {row["id"]: row for batch in batches for row in batch.to_pylist()}
    assert found == shop.live
    assert_no_half_cut(config)


def assert_no_half_cut(config: Config) -> None:
    if config.sinks["warehouse"].type == "sql":
        ask = "SELECT (SELECT sum(amount) FROM items), (SELECT total FROM sums)"
        ((items, total),) = PART.query(config, "warehouse", ask).rows
        assert items == total


@pytest.mark.parametrize("point", POINTS)
def test_killed_around_the_write(config: Config, shop: Shop, point: str) -> None:
    """Killed at the first load, at a later cut, and again at the restart."""
    for count in (1, 2, 1):
        position = transaction(shop, shop.txn + 1)
        victim = start_sink(config, f"{point}:{count}")
        for _ in range(count):
            wait(partial(dead_or_at, victim, config, position))
            if victim.poll() is None:
                position = transaction(shop, shop.txn + 1)
        assert victim.wait(DEADLINE_S) == -signal.SIGKILL
    run_until(config, shop, transaction(shop, shop.txn + 1))
    assert_whole(config, shop)


def test_killed_at_random_under_load(config: Config, shop: Shop) -> None:
    """Many kills while transactions keep coming; after each, no half cut is visible."""
    position = transaction(shop, 0)
    run_until(config, shop, position)
    for round_number in range(4):
        victim = start_sink(config)
        before = PART.position(config, "warehouse")
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            assert victim.poll() is None and time.monotonic() < deadline_s
            position = transaction(shop, shop.txn + 1)
            now = PART.position(config, "warehouse")
            if now is not None and now != before and shop.txn % 7 == round_number:
                break
        victim.kill()
        assert victim.wait(DEADLINE_S) == -signal.SIGKILL
        assert_no_half_cut(config)
    run_until(config, shop, position)
    assert_whole(config, shop)


def test_a_postgres_that_restarts_is_waited_for(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    url = own_postgres.url(own_postgres.new_database())
    config = config_of(tmp_path, url, INPUTS)
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        run_until(config, shop, transaction(shop, 0))
        process = start_sink(config)
        try:
            position = transaction(shop, 1)
            wait(lambda: at(config, position))
            own_postgres.stop()
            position = transaction(shop, 2)
            wait(lambda: PART.status(config, "warehouse")["state"] == "retrying")
            assert "postgres:postgres" not in PART.status(config, "warehouse")["error"]
            own_postgres.start()
            wait(lambda: at(config, position))
            wait(lambda: PART.status(config, "warehouse")["state"] == "running")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        assert_whole(config, shop)


READER_PROCESS = """
import sys
import duckdb

with duckdb.connect(sys.argv[1], read_only=True) as connection:
    print(connection.execute("SELECT count(*) FROM items").fetchone(), flush=True)
    sys.stdin.read()
"""


def test_a_duckdb_file_held_by_a_reader_is_waited_for(tmp_path: Path) -> None:
    """Longer than opening waits by itself: the loop backs off, says why, and goes on."""
    config = config_of(tmp_path, "duckdb:///store.duckdb", INPUTS)
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        run_until(config, shop, transaction(shop, 0))
        reader = subprocess.Popen(
            [sys.executable, "-c", READER_PROCESS, str(tmp_path / "store.duckdb")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert reader.stdout is not None
        reader.stdout.readline()
        position = transaction(shop, 1)
        process = start_sink(config)
        try:
            file = status_file(config, "warehouse")
            file.unlink(missing_ok=True)
            wait(lambda: PART.status(config, "warehouse").get("state") == "retrying")
            assert "lock" in PART.status(config, "warehouse")["error"]
            reader.communicate()
            wait(lambda: at(config, position))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        assert_whole(config, shop)


def test_two_sinks_write_one_duckdb_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, "duckdb:///store.duckdb", INPUTS)
    with closing(Shop(config, ITEMS, SUMS)) as shop:
        position = transaction(shop, 0)
        process, second = start_sink(config), start_sink(copying(config))
        try:
            for number in range(1, 30):
                position = transaction(shop, number)
                wait(partial(at, config, position))
            wait(lambda: _copies(config) == len(shop.live))
        finally:
            for each in (process, second):
                each.send_signal(signal.SIGTERM)
                assert each.wait(DEADLINE_S) == 0
        assert_whole(config, shop)


def copying(config: Config) -> Config:
    """The same store, written by another sink into tables of its own."""
    sink = replace(config.sinks["warehouse"], name="second", options={"table": "{name}_copy"})
    return replace(config, sinks={"second": sink})


def _copies(config: Config) -> int:
    try:
        ((count,),) = PART.query(config, "warehouse", "SELECT count(*) FROM items_copy").rows
    except SinkError:
        return -1
    return int(count)
