"""Processes killed by SIGKILL while they write to a log on a real broker, or read from it.

The points and the promises are those of the other files here. Beside them: what a dead producer has
left open is aborted by its successor, and no committed reader ever sees it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cdc.config import Config, LogConfig
from tests.crash.test_capture import assert_whole, make_shop, some_transactions
from tests.crash.test_sink import (
    INPUTS,
    dead_or_at,
    run_until,
    start_sink,
    transaction,
    wait,
)
from tests.crash.test_sink import assert_whole as assert_store_whole
from tests.fix_capture import Capture
from tests.fix_log import kafka_config
from tests.sink_feed import ITEMS, SUMS, config_of
from tests.sink_feed import Shop as Items
from tests.views.group import Group, Shop, Watcher
from tests.views.group import config_of as config_of_views

pytestmark = [pytest.mark.crash, pytest.mark.service, pytest.mark.xdist_group("kafka")]


@pytest.fixture
def avro(kafka_bootstrap: str, tmp_path: Path) -> LogConfig:
    return replace(kafka_config(kafka_bootstrap, tmp_path / "log"), partitions=2)


@pytest.fixture
def json(kafka_bootstrap: str, tmp_path: Path) -> LogConfig:
    return kafka_config(kafka_bootstrap, tmp_path / "log", "json")


def captured(url: str, folder: Path, log: LogConfig) -> Capture:
    found = Capture(url, folder, into=log)
    make_shop(found, 20_000)
    return found


def test_killed_in_the_snapshot_with_rows_deleted_before_the_next(
    pg_database: str, tmp_path: Path, avro: LogConfig
) -> None:
    shop = captured(pg_database, tmp_path, avro)
    shop.sql(
        "ALTER TABLE orders ADD COLUMN filler text", "UPDATE orders SET filler=repeat('x',900)"
    )
    for number, fault in enumerate(("capture.snapshot_piece", "log.append.before_commit:2"), 2):
        shop.dies(fault)
        shop.sql(f"DELETE FROM orders WHERE id % {number} = 0", "VACUUM orders")
    shop.sql("DELETE FROM items")
    assert_whole(shop)


AROUND_AN_APPEND = (
    *("capture.before_append", "log.append.before_commit"),
    *("log.append.after_commit", "capture.after_append"),
)


def test_killed_around_an_append(pg_database: str, tmp_path: Path, json: LogConfig) -> None:
    """Again and again over the same state."""
    shop = captured(pg_database, tmp_path, json)
    with shop.running() as agent:
        agent.caught_up()
    for number, fault in enumerate(AROUND_AN_APPEND):
        some_transactions(shop, 5 * number)
        shop.dies(fault)
    assert_whole(shop)


def test_killed_inside_a_large_transaction(
    pg_database: str, tmp_path: Path, avro: LogConfig
) -> None:
    shop = captured(pg_database, tmp_path, avro)
    with shop.running() as agent:
        agent.caught_up()
    some_transactions(shop, 1)
    shop.transaction(
        "INSERT INTO orders SELECT g, repeat(md5(g::text), 8), g FROM "
        "generate_series(200000, 300000) g",
        "UPDATE orders SET id = id + 500000 WHERE id < 1000",
    )
    some_transactions(shop, 10000)
    for fault in ("capture.mid_transaction:2", "log.append.before_commit:2"):
        shop.dies(fault)
    assert_whole(shop)


VIEW_POINTS = (
    *("view.before_append:1", "log.append.before_commit:2", "log.append.after_commit:1"),
    *("view.after_append:3", "view.mid_checkpoint:1"),
)


def test_a_maintainer_killed_and_started_again(tmp_path: Path, avro: LogConfig) -> None:
    config = replace(config_of_views(tmp_path), log=avro)
    with closing(Shop(config, seed=5)) as shop, closing(Watcher(config)) as watcher:
        shop.commit(60)
        for point in VIEW_POINTS:
            victim = Group(tmp_path, point, avro)
            while victim.lives_on():
                shop.commit(3)
                watcher.pause()
            assert victim.wait_for_death() == -signal.SIGKILL
        shop.commit(5)
        successor = Group(tmp_path, log=avro)
        try:
            watcher.wait_until(shop.position, successor)
            watcher.check(shop.tables)
        finally:
            successor.stop()


@pytest.fixture
def store(tmp_path: Path, json: LogConfig) -> Config:
    return replace(config_of(tmp_path, "duckdb:///store.duckdb", INPUTS), log=json)


@pytest.fixture
def items(store: Config) -> Iterator[Items]:
    with closing(Items(store, ITEMS, SUMS)) as shop:
        yield shop


def test_a_sink_killed_around_the_write(store: Config, items: Items) -> None:
    """At its first load, and at later cuts."""
    points = ("sink.before_write:1", "sink.after_commit:1", "sink.after_write:2")
    for point in points:
        position = transaction(items, items.txn + 1)
        victim = start_sink(store, point)
        while victim.poll() is None:
            wait(partial(dead_or_at, victim, store, position))
            position = transaction(items, items.txn + 1)
        assert victim.wait() == -signal.SIGKILL
    run_until(store, items, transaction(items, items.txn + 1))
    assert_store_whole(store, items)
