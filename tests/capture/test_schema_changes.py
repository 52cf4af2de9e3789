"""Schema changes while capture runs, or while it did not (SEMANTICS 13)."""

from __future__ import annotations

import pytest

from cdc.errors import SchemaChanged
from tests.fix_capture import Capture


@pytest.fixture
def table(capture: Capture) -> Capture:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int, n numeric(10,2), v varchar(10), "
        "at timestamp(3))",
        "INSERT INTO t SELECT g, 'a' || g, g, g / 8.0, 'v' || g, '2024-01-01 00:00:00.125' "
        "FROM generate_series(1, 100) g",
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
        "ALTER v TYPE varchar(20)",
        "ALTER v TYPE text, ALTER n TYPE numeric(14,2), ADD c int DEFAULT 7",
        "ALTER n TYPE numeric",
        "ALTER at TYPE timestamp",
        "ALTER at TYPE timestamptz",
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
    ("change", "live"),
    [
        ("ALTER b TYPE bigint", True),
        ("ALTER b TYPE bigint USING b * 3000000000", False),
        ("ALTER b TYPE text, ALTER n TYPE numeric(20,6), DROP v", True),
        ("ADD c double precision DEFAULT random()", False),
        ("ADD c int GENERATED ALWAYS AS IDENTITY", True),
    ],
)
def test_a_table_that_is_rewritten_is_read_again(table: Capture, change: str, live: bool) -> None:
    table.sql("CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1), (2)")
    altered = (
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO other VALUES (3)",
        f"ALTER TABLE t {change}",
        "DELETE FROM t WHERE id = 2",
        "UPDATE t SET a = 'after' WHERE id = 3",
        "DELETE FROM other WHERE id = 1",
    )
    with table.running() as agent:
        agent.caught_up()
        if live:
            table.sql(*altered)
            agent.caught_up()
    if not live:
        table.sql(*altered)
    with table.running() as agent:
        table.sql("INSERT INTO t (id) VALUES (1000)", "INSERT INTO other VALUES (9)")
        agent.caught_up()
    table.assert_equal("public.t", "public.other")
    table.assert_history("public.t", "public.other")


def test_a_table_that_is_rewritten_within_a_large_transaction(capture: Capture) -> None:
    """Parts of the transaction are in the log when it turns out."""
    capture.sql("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (0, 'a')")
    with capture.running() as agent:
        agent.caught_up()
        capture.transaction(
            "INSERT INTO t SELECT g, repeat('x', 600) FROM generate_series(1, 20000) g",
            "DELETE FROM t WHERE id = 0",
            "ALTER TABLE t ADD b bigint GENERATED ALWAYS AS IDENTITY",
            "UPDATE t SET a = 'y' WHERE id < 10",
        )
        agent.caught_up()
        capture.sql("DELETE FROM t WHERE id = 5")
        agent.caught_up()
    capture.assert_equal("public.t")
    capture.assert_history("public.t")


def test_several_changes_before_their_rows_are_read(table: Capture) -> None:
    """The catalog is ahead of the stream: each row is read as the table was when it was written."""
    with table.running() as agent:
        agent.caught_up()
    table.sql(
        "UPDATE t SET a = 'as it was' WHERE id = 1",
        "ALTER TABLE t ADD c text DEFAULT 'c', ALTER n TYPE numeric(14,2)",
        "UPDATE t SET c = 'new', n = 123456789012.25 WHERE id = 2",
        "ALTER TABLE t DROP a",
        "UPDATE t SET b = -3 WHERE id = 3",
        "ALTER TABLE t RENAME b TO renamed",
        "UPDATE t SET renamed = -4 WHERE id = 4",
        "ALTER TABLE t DROP v, ADD v int",
        "UPDATE t SET v = 5 WHERE id = 5",
    )
    with table.running() as agent:
        agent.caught_up()
    table.assert_equal("public.t")
    table.assert_history("public.t")


@pytest.mark.parametrize("change", ["RENAME large TO renamed", "ALTER n TYPE numeric", "DROP n"])
def test_a_large_value_that_is_not_sent_again_after_a_change(capture: Capture, change: str) -> None:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, large text, n numeric(10,2))",
        "ALTER TABLE t ALTER large SET STORAGE EXTERNAL",
    )
    with capture.running() as agent:
        agent.caught_up()
        capture.sql(
            "INSERT INTO t SELECT g, repeat('x', 9000) || g, 1.5 FROM generate_series(1, 3) g"
        )
        agent.caught_up()
        capture.sql(
            f"ALTER TABLE t {change}",
            "ALTER TABLE t ADD c int",
            "UPDATE t SET c = 1 WHERE id = 1",
            "UPDATE t SET c = 2 WHERE id = 1",
        )
        agent.caught_up()
    capture.assert_equal("public.t")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER n TYPE int USING 7",
        "ADD c int[] DEFAULT '{1,2}'",
        "ADD c date DEFAULT 'infinity'",
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
