"""Schema changes while capture runs, or while it did not (SEMANTICS 13)."""

from __future__ import annotations

import pytest

from cdc.errors import SchemaChanged
from tests.fix_capture import Capture


@pytest.fixture
def table(capture: Capture) -> Capture:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int)",
        "INSERT INTO t SELECT g, 'a' || g, g FROM generate_series(1, 100) g",
    )
    return capture


@pytest.mark.parametrize(
    "change",
    [
        "ADD c text",
        "ADD c text DEFAULT 'constant'",
        "ADD c numeric(10,2) DEFAULT 1.50, ADD d timestamptz DEFAULT '2024-01-01 00:00+00'",
        "ADD c jsonb DEFAULT '{\"a\": 1}', ADD d bool DEFAULT true, ADD e bytea DEFAULT '\\x00ff'",
        "ADD c int[]",
        "DROP b",
        "RENAME a TO renamed",
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_changes_that_are_followed(table: Capture, change: str, live: bool) -> None:
    if live:
        with table.running() as agent:
            agent.caught_up()
            table.sql(f"ALTER TABLE t {change}", "INSERT INTO t (id) VALUES (1000)")
            agent.caught_up()
    else:
        with table.running() as agent:
            agent.caught_up()
        table.sql(f"ALTER TABLE t {change}", "INSERT INTO t (id) VALUES (1000)")
        with table.running() as agent:
            agent.caught_up()
    table.assert_equal("public.t")
    table.assert_history("public.t")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER b TYPE bigint",
        "ADD c int[] DEFAULT '{1,2}'",
        "ADD c date DEFAULT 'infinity'",
        "ADD c double precision DEFAULT random()",
        "ADD c int GENERATED ALWAYS AS IDENTITY",
        "RENAME id TO key",
        "DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)",
    ],
)
def test_changes_that_stop_the_agent(table: Capture, change: str) -> None:
    with table.running() as agent:
        agent.caught_up()
        before = table.live("public.t")
        table.sql(f"ALTER TABLE t {change}", "UPDATE t SET a = 'after'")
        error = agent.failed()
    assert isinstance(error, SchemaChanged)
    assert "cdc remove shop" in error.hint
    assert table.live("public.t").equals(before)


def test_a_truncated_table_is_not_taken_for_a_rewritten_one(table: Capture) -> None:
    with table.running() as agent:
        agent.caught_up()
        table.sql("TRUNCATE t", "ALTER TABLE t ADD c int DEFAULT 7", "INSERT INTO t VALUES (1)")
        agent.caught_up()
    table.assert_equal("public.t")
