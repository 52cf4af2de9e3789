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
