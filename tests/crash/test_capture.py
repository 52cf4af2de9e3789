"""Capture agents killed by SIGKILL at named places, and servers that let them down. Afterwards the
topics are the tables, without a duplicate and without a gap."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.fix_capture import DEADLINE_S, Capture
from tests.fix_services import PostgresServer

pytestmark = pytest.mark.crash


@pytest.fixture
def shop(capture: Capture) -> Capture:
    make_shop(capture)
    return capture


@pytest.fixture
def any_shop(any_capture: Capture) -> Capture:
    make_shop(any_capture)
    return any_capture


def make_shop(capture: Capture, rows: int = 60_000) -> None:
    many, few = capture.database.series(1, rows), capture.database.series(1, 1000)
    capture.sql(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text, amount numeric(12,2))",
        "CREATE TABLE items (order_id bigint, line int, sku text, PRIMARY KEY (order_id, line))",
        "INSERT INTO orders SELECT g, concat(md5(concat(g)), md5(concat(g + 1))), g / 7.0 "
        f"FROM {many}",
        f"INSERT INTO items SELECT g, 1, 'sku' FROM {few}",
    )


def some_transactions(capture: Capture, first: int) -> None:
    three = capture.database.series(1, 3)
    for i in range(first, first + 5):
        capture.transaction(
            f"INSERT INTO orders VALUES ({1_000_000 + i}, 'new', {i})",
            f"INSERT INTO items SELECT {1_000_000 + i}, g, 'x' FROM {three}",
            f"UPDATE orders SET note = 'changed {i}' WHERE id = {i}",
            f"DELETE FROM items WHERE order_id = {i}",
        )


def assert_whole(capture: Capture) -> None:
    with capture.running() as agent:
        agent.caught_up()
    capture.assert_equal(capture.name("orders"), capture.name("items"))
    capture.assert_history(capture.name("orders"), capture.name("items"))


@pytest.mark.parametrize(
    "fault", ["capture.before_append:2", "capture.snapshot_piece", "log.append.before_commit:2"]
)
def test_killed_in_the_snapshot_with_rows_deleted_before_the_next(
    any_shop: Capture, fault: str
) -> None:
    any_shop.sql(
        "ALTER TABLE orders ADD COLUMN filler text", "UPDATE orders SET filler=repeat('x',200)"
    )
    any_shop.dies(fault)
    any_shop.sql("DELETE FROM orders WHERE id % 3 = 0", "DELETE FROM items")
    assert_whole(any_shop)


def test_killed_at_the_end_of_the_snapshot(any_shop: Capture) -> None:
    any_shop.dies("capture.after_append")
    some_transactions(any_shop, 1)
    assert_whole(any_shop)


@pytest.mark.parametrize(
    "fault",
    [
        "capture.after_append",
        "capture.before_append",
        "log.append.before_commit",
        "log.append.after_commit",
    ],
)
def test_killed_around_an_append(any_shop: Capture, fault: str) -> None:
    with any_shop.running() as agent:
        agent.caught_up()
    some_transactions(any_shop, 1)
    any_shop.dies(fault)
    some_transactions(any_shop, 6)
    assert_whole(any_shop)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_killed_inside_a_large_transaction(any_shop: Capture, passes: int) -> None:
    with any_shop.running() as agent:
        agent.caught_up()
    some_transactions(any_shop, 1)
    many = any_shop.database.series(200_000, 340_000)
    few = any_shop.database.series(1, 1000)
    any_shop.transaction(
        f"INSERT INTO orders SELECT g, repeat(md5(concat(g)), 8), g FROM {many}",
        f"INSERT INTO items SELECT g, 7, 'large' FROM {few}",
        "UPDATE orders SET id = id + 500000 WHERE id < 1000",
    )
    some_transactions(any_shop, 10000)
    any_shop.dies(f"capture.mid_transaction:{passes}")
    assert_whole(any_shop)


def test_killed_between_the_deletes_of_a_truncate(any_shop: Capture) -> None:
    with any_shop.running() as agent:
        agent.caught_up()
    # In MySQL the TRUNCATE commits what was begun.
    any_shop.transaction(
        "INSERT INTO orders VALUES (900001, 'before', 1)",
        "TRUNCATE TABLE orders",
        "INSERT INTO orders VALUES (900002, 'after', 1)",
    )
    any_shop.dies("capture.before_append:3")
    assert_whole(any_shop)
    assert any_shop.live(any_shop.name("orders")).num_rows == 1


def test_a_second_agent_replaces_the_first(any_shop: Capture) -> None:
    first = any_shop.process()
    any_shop.wait_for(any_shop.barrier())
    second = any_shop.process()
    try:
        _, errors = first.communicate(timeout=DEADLINE_S)
        assert first.returncode == 1
        assert "replaced by process" in errors, errors
        some_transactions(any_shop, 1)
        any_shop.wait_for(any_shop.barrier())
        second.terminate()
        assert second.wait(DEADLINE_S) == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert_whole(any_shop)


def test_a_slot_that_vanished(shop: Capture) -> None:
    with shop.running() as agent:
        agent.caught_up()
    shop.sql(f"SELECT pg_drop_replication_slot('{shop.config.slot}')")
    some_transactions(shop, 1)
    assert "the replication slot is gone" in shop.ends()


def test_a_slot_that_ran_ahead(shop: Capture) -> None:
    with shop.running() as agent:
        agent.caught_up()
    some_transactions(shop, 1)
    slot = shop.config.slot
    shop.sql(f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")
    assert "ahead of the log's frontier" in shop.ends()


@pytest.fixture
def own_shop(own_postgres: PostgresServer, tmp_path: Path) -> Capture:
    shop = Capture(own_postgres.url(own_postgres.new_database()), tmp_path)
    make_shop(shop, 1000)
    return shop


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_restarted(own_shop: Capture, own_postgres: PostgresServer, mode: str) -> None:
    with own_shop.running() as agent:
        agent.caught_up()
        some_transactions(own_shop, 1)
        own_postgres.restart(mode)  # type: ignore[arg-type]
        agent.failed()
    some_transactions(own_shop, 6)
    assert_whole(own_shop)


def test_another_server(own_shop: Capture, postgres: PostgresServer) -> None:
    with own_shop.running() as agent:
        agent.caught_up()
    name = postgres.new_database()
    with psycopg.connect(postgres.url(name), autocommit=True) as other:
        other.execute("CREATE TABLE orders (id bigint PRIMARY KEY)")
        other.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
    try:
        assert "another server" in own_shop.ends(url=postgres.url(name))
    finally:
        postgres.drop_database(name)
