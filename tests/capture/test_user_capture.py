"""What people do to a captured database, and must not lose rows by."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from cdc.errors import CdcError, SchemaChanged, SlotError
from cdc.postgres import rewrites
from tests.fix_capture import DEADLINE_S, AgentThread, Capture


@pytest.fixture
def table(capture: Capture) -> Capture:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int)",
        "INSERT INTO t SELECT g, 'a' || g, g FROM generate_series(1, 50) g",
    )
    return capture


def caught_up(capture: Capture) -> None:
    with capture.running() as agent:
        agent.caught_up()


def failed(capture: Capture) -> BaseException:
    with capture.running() as agent:
        return agent.failed()


def eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, "it did not happen in time"


def test_names_that_are_globs_themselves(capture: Capture) -> None:
    names = ["we[ir]d*?", "we[ir]d*?2", "a*", "ab"]
    for name in names:
        capture.sql(
            f'CREATE TABLE "{name}" (id int PRIMARY KEY)', f'INSERT INTO "{name}" VALUES (1)'
        )
    caught_up(capture)
    capture.sql(*(f'INSERT INTO "{name}" VALUES (2)' for name in names))
    caught_up(capture)
    capture.assert_equal(*(f"public.{name}" for name in names))


def test_empty_tables_with_arrays_of_exact_types(capture: Capture) -> None:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric[], ts timestamptz[], d date[], v numeric)",
    )
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("INSERT INTO t VALUES (1), (2)", "UPDATE t SET n = '{1.10, NaN, NULL}', v = 1")
        capture.sql("TRUNCATE t", "INSERT INTO t VALUES (3, '{}', '{infinity}', '{-infinity}')")
        agent.caught_up()
    capture.assert_equal("public.t")


def test_a_table_and_its_children_are_tables_of_their_own(table: Capture) -> None:
    table.sql(
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t)",
        "INSERT INTO child VALUES (1, 'child', 2), (900, 'child', 1)",
    )
    with table.running() as agent:
        agent.caught_up()
        table.sql("UPDATE t SET b = b + 1", "INSERT INTO child VALUES (901)", "TRUNCATE t")
        agent.caught_up()
    table.assert_equal("public.t", "public.child")


def test_partitions_are_captured_by_name(capture: Capture) -> None:
    capture.sql(
        "CREATE TABLE p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)",
        "INSERT INTO p SELECT generate_series(0, 19)",
    )
    error = failed(capture)
    assert isinstance(error, CdcError) and "by name" in error.hint
    capture.tables = ("public.p1", "public.p2")
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("UPDATE p SET id = 10 WHERE id = 9 AND false", "UPDATE p SET a = 'x'")
        capture.sql("DELETE FROM p WHERE id = 15", "UPDATE p SET id = 15 WHERE id = 5")
        agent.caught_up()
    capture.assert_equal("public.p1", "public.p2")


def test_unlogged_tables_are_refused(capture: Capture) -> None:
    capture.sql("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)")
    (finding,) = [f for f in capture.source().check() if f.severity == "error"]
    assert "unlogged" in finding.what and "SET LOGGED" in finding.remedy


@pytest.mark.parametrize("live", [True, False])
def test_values_rewritten_without_a_change_are_read_again(
    table: Capture, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrites, "LOOK_EVERY_S", 0.0)
    rewriting = "ALTER TABLE t ALTER b TYPE int USING b * 2"

    def is_read(agent: AgentThread) -> bool:
        agent.caught_up()
        return bool(table.live("public.t").equals(table.selected("public.t")))

    with table.running() as agent:
        agent.caught_up()
        agent.caught_up()
        if live:
            table.sql(rewriting)
            eventually(lambda: is_read(agent))
    if not live:
        table.sql(rewriting)
    with table.running() as agent:
        eventually(lambda: is_read(agent))
    table.assert_equal("public.t")


def test_values_rewritten_stop_an_agent_that_may_take_no_snapshot(
    table: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrites, "LOOK_EVERY_S", 0.0)
    with table.running() as agent:
        agent.caught_up()
        agent.caught_up()
    table.snapshot = "never"
    table.sql("ALTER TABLE t ALTER b TYPE int USING b * 2")
    error = failed(table)
    assert isinstance(error, SchemaChanged)
    assert "rewritten" in error.what and "cdc remove shop" in error.hint


def test_vacuum_full_and_truncate_are_no_rewriting(
    table: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrites, "LOOK_EVERY_S", 0.0)
    for change in ("VACUUM FULL t", "CLUSTER t USING t_pkey", "TRUNCATE t", "VACUUM FULL t"):
        with table.running() as agent:
            agent.caught_up()
            table.sql(change)
            table.sql("INSERT INTO t VALUES (1000) ON CONFLICT (id) DO UPDATE SET a = 'again'")
            agent.caught_up()
        table.sql(change)
    with table.running() as agent:
        agent.caught_up()
        table.sql("ALTER TABLE t ALTER b SET STATISTICS 100")
        agent.caught_up()
    caught_up(table)
    table.sql("VACUUM FULL t")
    caught_up(table)
    table.assert_equal("public.t")


def test_a_table_made_anew_under_its_name(table: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrites, "LOOK_EVERY_S", 0.0)
    with table.running() as agent:
        agent.caught_up()
        table.sql("DROP TABLE t", "CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
        table.sql("INSERT INTO t VALUES (1)")
        error = agent.failed()
    assert isinstance(error, SchemaChanged) and "made again" in error.what
    assert isinstance(failed(table), SlotError)


@pytest.mark.parametrize(
    "damage",
    ["DROP PUBLICATION {0}", "ALTER PUBLICATION {0} DROP TABLE t"],
)
def test_a_publication_that_left_changes_out(table: Capture, damage: str) -> None:
    table.sql("CREATE TABLE other (id int PRIMARY KEY)")
    caught_up(table)
    table.sql(damage.format(table.config.publication), "DELETE FROM t")
    error = failed(table)
    assert isinstance(error, SlotError) and "cdc remove shop" in error.hint


def test_a_table_left_out_for_a_while_is_not_taken_back(table: Capture) -> None:
    table.sql("CREATE TABLE other (id int PRIMARY KEY)")
    caught_up(table)
    table.tables = ("public.other",)
    caught_up(table)
    table.sql("DELETE FROM t")
    table.tables = ("public.*",)
    error = failed(table)
    assert isinstance(error, SlotError) and "public.t" in error.what


def test_an_added_table_is_refused(table: Capture) -> None:
    table.tables = ("public.t",)
    caught_up(table)
    table.sql("CREATE TABLE other (id int PRIMARY KEY)")
    table.tables = ("public.t", "public.other")
    error = failed(table)
    assert isinstance(error, SchemaChanged) and "public.other" in error.what


@pytest.mark.parametrize(
    "publication",
    [
        "FOR TABLE t WITH (publish = 'insert, update')",
        "FOR TABLE t WHERE (id > 10)",
        "FOR TABLE t (id, a)",
        "FOR TABLES IN SCHEMA elsewhere",
    ],
)
def test_a_publication_that_leaves_changes_out_is_refused(table: Capture, publication: str) -> None:
    name = table.config.publication
    table.sql(
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.e ()",
        f"CREATE PUBLICATION {name} {publication}",
    )
    assert [f for f in table.source().check() if f.severity == "error"]
    error = failed(table)
    assert isinstance(error, CdcError) and error.where == f"publication {name}"


@pytest.mark.parametrize("publication", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public"])
def test_a_publication_of_more_than_is_captured(table: Capture, publication: str) -> None:
    table.sql(
        "CREATE TABLE other (id int)",
        f"CREATE PUBLICATION {table.config.publication} {publication}",
    )
    table.tables = ("public.t",)
    with table.running() as agent:
        agent.caught_up()
        table.sql("INSERT INTO other VALUES (1)", "UPDATE t SET b = 0 WHERE id = 1")
        agent.caught_up()
    table.assert_equal("public.t")


def test_snapshot_only_runs_again_and_finds_nothing_to_do(table: Capture) -> None:
    table.snapshot = "only"
    for _ in range(2):
        with table.running() as agent:
            agent._thread.join(60)
            assert agent.facts["state"] == "stopped"
    table.assert_equal("public.t")


def test_keys_swapped_and_rows_changed_often_in_one_transaction(table: Capture) -> None:
    with table.running() as agent:
        agent.caught_up()
        table.transaction(
            "UPDATE t SET id = 1000 WHERE id = 1",
            "UPDATE t SET id = 1 WHERE id = 2",
            "UPDATE t SET id = 2 WHERE id = 1000",
            "UPDATE t SET id = -id",
            "SAVEPOINT s",
            "DELETE FROM t",
            "ROLLBACK TO s",
            "UPDATE t SET id = -id, b = b + 1",
            "INSERT INTO t VALUES (99)",
            "DELETE FROM t WHERE id = 99",
            "INSERT INTO t VALUES (99, 'again')",
        )
        agent.caught_up()
    table.assert_equal("public.t")
    table.assert_history("public.t")
