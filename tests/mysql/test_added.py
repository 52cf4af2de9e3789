"""Tables that are added to a source which has its snapshot: caught up beside the stream."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.changes import R
from cdc.mysql import added, prepared, ranges
from demo.server_process import wait_until
from tests.fix_capture import DEADLINE_S, SOURCE, AgentThread, Capture
from tests.fix_mysql import MyDatabase, NewMyServer

pytestmark = pytest.mark.service

ROWS = 4000


@pytest.fixture
def before(my_database: MyDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capture:
    """A source of `a` alone, with its snapshot; `b` and `c` have rows."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", 2**14)
    monkeypatch.setattr(ranges, "LEAST_ROWS", 100)
    made = Capture(my_database.url, tmp_path, (f"{my_database.name}.a",))
    made.sql(
        "CREATE TABLE a (id int PRIMARY KEY, n int)",
        "CREATE TABLE b (id int PRIMARY KEY, n int, note varchar(100))",
        "CREATE TABLE c (id int PRIMARY KEY)",
        "INSERT INTO a VALUES (1, 1)",
        f"INSERT INTO b SELECT g, g, repeat('x', 50) FROM {made.database.series(1, ROWS)}",
        "ANALYZE TABLE b",
    )
    with made.running() as agent:
        agent.caught_up()
    return made


def with_all(capture: Capture) -> Capture:
    return replace(capture, tables=(capture.database.every_table,))


def until_complete(capture: Capture, agent: AgentThread) -> None:
    """Wait until the log has the new tables, whole."""
    topic = f"{SOURCE}.{capture.name('b')}"
    until_s = time.monotonic() + DEADLINE_S
    reader = capture.log.reader()
    try:
        while time.monotonic() < until_s:
            found = agent.caught_up()
            if topic in found.schema_versions and not found.incomplete:
                return
            reader.wait([SOURCE], 0.1)
    finally:
        reader.close()
    raise AssertionError(f"{topic} is not complete")


def test_caught_up_while_rows_change(before: Capture) -> None:
    capture = with_all(before)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = number * 37 % ROWS
            capture.transaction(
                f"UPDATE b SET n = -{number} WHERE id = {key}",
                f"DELETE FROM b WHERE id = {key + 1}",
                f"INSERT INTO b VALUES ({ROWS + number}, 0, 'new')",
                f"UPDATE a SET n = {number}",
            )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with capture.running() as agent:
            until_complete(capture, agent)
            stop.set()
            writer.join()
            agent.caught_up()
    finally:
        stop.set()
        writer.join()
    capture.assert_equal(*map(capture.name, "abc"))
    capture.assert_history(*map(capture.name, "abc"))


KEYS = {
    "labels": ("k enum('no','one','two') NOT NULL, id int, PRIMARY KEY (k, id)", "g % 3 + 1, g"),
    "blobs": ("k blob NOT NULL, id int, PRIMARY KEY (k(9), id)", "repeat('k', g % 5), g"),
}


def test_keys_of_which_no_ranges_are_cut(before: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows wait on disk, and not for long: each time a few are published."""
    monkeypatch.setattr(added, "HELD_BYTES", 2**14)
    monkeypatch.setattr(prepared, "PIECE_BYTES", 2**13)
    monkeypatch.setattr(prepared, "ROOM_BYTES", 2**13)
    capture = with_all(before)
    for name, (definition, values) in KEYS.items():
        many = capture.database.series(1, ROWS)
        capture.sql(
            f"CREATE TABLE {name} ({definition}, n int)",
            f"INSERT INTO {name} SELECT {values}, 0 FROM {many}",
        )
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = number * 37 % ROWS
            for name in KEYS:
                capture.transaction(
                    f"UPDATE {name} SET n = {number} WHERE id = {key}",
                    f"DELETE FROM {name} WHERE id = {key + 1}",
                    f"UPDATE {name} SET id = -{number} WHERE id = {key + 2}",
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with capture.running() as agent:
            until_complete(capture, agent)
            stop.set()
            writer.join()
            agent.caught_up()
    finally:
        stop.set()
        writer.join()
    names = [capture.name(name) for name in KEYS]
    capture.assert_equal(*names)
    capture.assert_history(*map(capture.name, "abc"), *names)
    for name in names:
        published = {n for b in capture.batches(name) for n in b.txn_seq[b.op == R].tolist()}
        assert len(published) > 3


def test_emptied_while_rows_wait_on_disk(before: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added, "HELD_BYTES", 2**12)
    monkeypatch.setattr(prepared, "PIECE_BYTES", 2**12)
    capture = with_all(before)
    definition, values = KEYS["labels"]
    capture.sql(
        f"CREATE TABLE e ({definition}, n int)",
        f"INSERT INTO e SELECT {values}, 0 FROM {capture.database.series(1, ROWS)}",
    )
    with capture.running() as agent:
        wait_until(lambda: begun(capture), timeout_s=DEADLINE_S, what="the first rows of e")
        capture.sql("TRUNCATE e", "INSERT INTO e VALUES ('one', 1, 1)")
        wait_until(lambda: complete(capture), timeout_s=DEADLINE_S, what="e to be complete")
        agent.caught_up()
    capture.assert_equal(capture.name("e"))


@pytest.mark.crash
@pytest.mark.parametrize("fault", ["capture.before_append:2", "capture.after_append:1"])
def test_killed_before_it_is_complete(before: Capture, fault: str) -> None:
    capture = with_all(before)
    capture.dies(fault)
    capture.sql("UPDATE b SET n = 0 WHERE id < 50", "DELETE FROM b WHERE id = 60")
    with capture.running() as agent:
        until_complete(capture, agent)
        agent.caught_up()
    capture.assert_equal(*map(capture.name, "abc"))
    capture.assert_history(*map(capture.name, "abc"))


def test_a_table_altered_meanwhile_is_read_with_all_others(before: Capture) -> None:
    capture = with_all(before)
    capture.dies("capture.before_append:2")
    capture.sql("ALTER TABLE b ADD m int NOT NULL DEFAULT 5", "UPDATE b SET n = 1 WHERE id = 7")
    with capture.running() as agent:
        until_complete(capture, agent)
        agent.caught_up()
    capture.assert_equal(*map(capture.name, "abc"))


@pytest.mark.parametrize(
    "settings",
    [("--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"), ("--binlog-row-image=NOBLOB",)],
    ids=["without_gtids", "with_values_left_out"],
)
def test_where_chunks_would_not_do_all_is_read_again(
    new_my_server: NewMyServer, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    database = new_my_server("mysql", *settings).new_database()
    capture = Capture(database.url, tmp_path, (f"{database.name}.a",))
    capture.sql(
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY, n int, x text)",
        "INSERT INTO b VALUES (1, 1, 'one'), (2, 2, 'two')",
    )
    with capture.running() as agent:
        agent.caught_up()
    capture.sql("UPDATE b SET n = 5 WHERE id = 2")
    capture = with_all(capture)
    with capture.running() as agent:
        until_complete(capture, agent)
        capture.sql("UPDATE b SET n = 6", "INSERT INTO a VALUES (1)")
        agent.caught_up()
    capture.assert_equal(*map(capture.name, "ab"))
    capture.assert_history(*map(capture.name, "ab"))


def test_tables_made_and_renamed_while_streaming(before: Capture) -> None:
    capture, other = with_all(before), f"{before.name('other').split('.')[0]}_other"
    with capture.running() as agent:
        until_complete(capture, agent)
        capture.sql(
            "CREATE TABLE d (id int PRIMARY KEY, x varchar(9))",
            "INSERT INTO d VALUES (1, 'one'), (2, 'two')",
            "CREATE TABLE _a_gho LIKE a",
            "INSERT INTO _a_gho SELECT * FROM a",
            f"CREATE DATABASE {other}",
            f"CREATE TABLE {other}.e (id int PRIMARY KEY)",
            f"DROP DATABASE {other}",
            "UPDATE d SET x = 'more' WHERE id = 2",
        )
        agent.caught_up()
        capture.assert_equal(capture.name("d"))
        capture.sql("DROP TABLE d", "RENAME TABLE _a_gho TO e", "INSERT INTO e VALUES (5, 5)")
        agent.caught_up()
        reader = capture.log.reader()
        wait_until(lambda: complete(capture), timeout_s=DEADLINE_S, what="e to be complete")
        known = {topic.rsplit(".", 1)[1] for topic in reader.topics()}
        reader.close()
    assert {"a", "b", "c", "d", "e"} <= known and "_a_gho" not in known
    assert not capture.live(capture.name("d")).num_rows
    capture.assert_equal(*map(capture.name, "abce"))
    capture.assert_history(*map(capture.name, "abcde"))


def begun(capture: Capture) -> bool:
    frontier = capture.frontier()
    return frontier is not None and f"{SOURCE}.{capture.name('e')}" in frontier.schema_versions


def complete(capture: Capture) -> bool:
    frontier = capture.frontier()
    return begun(capture) and frontier is not None and not frontier.incomplete
