"""Capture agents killed between a new schema version and the first records that have it."""

from __future__ import annotations

import pytest

from tests.fix_capture import Capture

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("fault", ["capture.before_append", "log.append.before_commit"])
def test_killed_before_the_first_append_of_a_new_version(capture: Capture, fault: str) -> None:
    """The backlog has rows of both versions: those of the old one come again."""
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT g, 'a' || g FROM generate_series(1, 10) g",
    )
    with capture.running() as agent:
        agent.caught_up()
    capture.sql(
        "UPDATE t SET a = 'before' WHERE id < 4",
        "ALTER TABLE t ADD b int DEFAULT 7",
        "UPDATE t SET b = 8 WHERE id = 2",
        "ALTER TABLE t DROP a",
        "INSERT INTO t VALUES (11, 9)",
    )
    capture.dies(fault)
    capture.dies(fault)
    with capture.running() as agent:
        agent.caught_up()
    capture.assert_equal("public.t")
    capture.assert_history("public.t")


@pytest.mark.parametrize("fault", ["capture.snapshot_piece", "capture.before_append:2"])
def test_killed_while_a_rewritten_table_is_read_again(capture: Capture, fault: str) -> None:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, b int)",
        "INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g",
    )
    with capture.running() as agent:
        agent.caught_up()
    capture.sql("UPDATE t SET b = 0 WHERE id = 7", "ALTER TABLE t ALTER b TYPE bigint")
    capture.sql("UPDATE t SET b = 3000000000 WHERE id < 4", "DELETE FROM t WHERE id = 9")
    capture.dies(fault)
    capture.sql("DELETE FROM t WHERE id = 10")
    capture.dies(fault)
    with capture.running() as agent:
        agent.caught_up()
    capture.assert_equal("public.t")
    capture.assert_history("public.t")


def test_killed_before_the_first_trace_of_a_second_snapshot(capture: Capture) -> None:
    """The slot goes before the snapshot: by then the log must say that one was begun."""
    capture.sql("CREATE TABLE t (id int PRIMARY KEY, b int)", "INSERT INTO t VALUES (1, 1), (2, 2)")
    with capture.running() as agent:
        agent.caught_up()
    capture.sql("ALTER TABLE t ALTER b TYPE bigint", "DELETE FROM t WHERE id = 1")
    for appends in (1, 2, 1):
        capture.dies(f"capture.before_append:{appends}")
    with capture.running() as agent:
        agent.caught_up()
    capture.assert_equal("public.t")
    capture.assert_history("public.t")
