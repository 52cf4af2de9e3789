"""What is captured is what the tables hold: rows, keys, large values, truncation, barriers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from cdc.changes import C, D, U
from cdc.errors import SlotError, SourceError
from cdc.positions import Vector
from cdc.postgres.source import PostgresSource
from tests.fix_capture import SOURCE, Capture

TYPES = """CREATE TABLE kinds (id int PRIMARY KEY, i2 smallint, i8 bigint, f4 real,
  f8 double precision, n numeric, n2 numeric(20,4), n3 numeric(50,2), b boolean, t text,
  v varchar(20), c char(5),
  by bytea, u uuid, j json, jb jsonb, d date, ti time, ts timestamp, tz timestamptz, iv interval,
  a int[], ta text[], a2 int[][], m mood, dom positive, o oid)"""

VALUES = (
    "(1, 1, 2, 1.5, 'NaN', 1.2300, 1.5, 99999999999999999999999999999999999999999.25, true, "
    "'text', 'v', 'c', '\\x00ff', '6b2c5c8e-7a0f-4f6b-8d57-000000000001', '{\"a\": 1}', "
    "'{\"b\": [1, 2]}', '2024-02-29', '12:34:56.789', '2024-02-29 12:00', "
    "'2024-02-29 12:00+02', '1 year 2 days 03:04:05', '{1,NULL,3}', '{\"a,b\",NULL}', "
    "'{{1,2},{3,4}}', 'happy', 5, 17)",
    "(2" + ", NULL" * 26 + ")",
    "(3, -32768, -9223372036854775808, 'Infinity', '-Infinity', 'NaN', 0, 0, false, '', '', '', "
    "'', '00000000-0000-0000-0000-000000000000', 'null', '\"x\"', 'infinity', '24:00:00', "
    "'-infinity', 'infinity', '-1 month', '{}', '{}', '{}', 'sad', 1, 4294967295)",
    "(4, 0, 0, 0, 0, 'Infinity', -0.0001, -1, NULL, 'Zürich ☃', 'é', 'é', '\\x', "
    "'ffffffff-ffff-ffff-ffff-ffffffffffff', '[]', '{}', '0044-03-15 BC', '00:00:00', "
    "'0044-03-15 12:00 BC', '4000-01-01', '00:00:00.000001', '{7}', '{x}', '{{5}}', 'happy', 9, 0)",
)


@pytest.mark.parametrize("binary", [True, False])
def test_every_type_is_the_same_in_snapshot_and_stream(capture: Capture, binary: bool) -> None:
    capture.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        TYPES,
    )
    if not binary:  # one type that is carried as text makes the whole stream text
        capture.sql("ALTER TABLE kinds ADD p point")
    suffix = "" if binary else ", NULL"
    rows = [f"{row[:-1]}{suffix})" for row in VALUES]
    capture.sql(*(f"INSERT INTO kinds VALUES {row}" for row in rows))
    with capture.running() as agent:
        agent.caught_up()
        capture.assert_equal("public.kinds")
        capture.sql("DELETE FROM kinds", *(f"INSERT INTO kinds VALUES {row}" for row in rows))
        agent.caught_up()
    capture.assert_equal("public.kinds")


def test_a_change_of_key_is_a_delete_and_an_insert(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, 'a')")
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("UPDATE t SET id = 2, a = 'b'", "UPDATE t SET id = 2", "UPDATE t SET a = 'c'")
        agent.caught_up()
    ops = np.concatenate([c.op for c in capture.batches("public.t")]).tolist()
    assert ops[1:] == [D, C, U, U]
    capture.assert_equal("public.t")
    capture.assert_history("public.t")


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX other"])
def test_large_values_that_updates_leave_alone(capture: Capture, identity: str) -> None:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, n int, big text, more jsonb)",
        "CREATE UNIQUE INDEX other ON t (k)",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
        "INSERT INTO t SELECT g, g, 0, repeat(md5(g::text), 200), "
        "jsonb_build_object('x', repeat(md5(g::text), 400)) FROM generate_series(1, 50) g",
    )
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("UPDATE t SET n = 1 WHERE id < 10", "UPDATE t SET id = 100, k = 100 WHERE id=3")
        capture.transaction(
            "INSERT INTO t SELECT g, g, 0, repeat(md5(g::text), 300) FROM generate_series(60,70) g",
            "UPDATE t SET n = n + 1",
            "UPDATE t SET big = 'short' WHERE id = 65",
            "UPDATE t SET n = n + 1",
            "UPDATE t SET id = 200, k = 200 WHERE id = 66",
            "DELETE FROM t WHERE id = 67",
        )
        agent.caught_up()
        capture.assert_equal("public.t")
    for clean in (True, False):  # the store resumes, and is rebuilt from the topic when it is lost
        if not clean:
            (capture.folder / "state" / f"{SOURCE}.toast.sqlite").unlink()
        with capture.running() as agent:
            capture.sql("UPDATE t SET n = n + 1")
            agent.caught_up()
        capture.assert_equal("public.t")
    capture.assert_history("public.t")


def test_truncate_within_a_transaction_of_several_tables(capture: Capture) -> None:
    capture.sql(
        "CREATE TABLE a (id int PRIMARY KEY, x text)",
        "CREATE TABLE b (id int PRIMARY KEY, x text)",
        "INSERT INTO a SELECT g, 'x' FROM generate_series(1, 1000) g",
        "INSERT INTO b SELECT g, 'x' FROM generate_series(1, 1000) g",
    )
    with capture.running() as agent:
        agent.caught_up()
        capture.transaction(
            "INSERT INTO a VALUES (5000, 'y')",
            "TRUNCATE a, b",
            "INSERT INTO a VALUES (1, 'z')",
            "TRUNCATE b",
            "INSERT INTO b VALUES (2, 'z')",
        )
        capture.sql("TRUNCATE a", "INSERT INTO a VALUES (3, 'w')")
        agent.caught_up()
    capture.assert_equal("public.a", "public.b")
    capture.assert_history("public.a", "public.b")


def test_readers_see_whole_transactions_only(capture: Capture) -> None:
    """At every frontier the transferred total is what it was."""
    capture.sql(
        "CREATE TABLE l (id int PRIMARY KEY, v int)", "CREATE TABLE r (id int PRIMARY KEY, v int)"
    )
    with capture.running() as agent:
        agent.caught_up()
        for i in range(50):
            capture.transaction(f"INSERT INTO l VALUES ({i}, 1)", f"INSERT INTO r VALUES ({i}, 1)")
        agent.caught_up()
    reader = capture.log.reader()
    for _, frontier in reader.frontiers(SOURCE):
        if frontier.whole:
            ends = frontier.end_offsets
            assert ends[f"{SOURCE}.public.l"] == ends[f"{SOURCE}.public.r"]
    reader.close()
    capture.assert_history("public.l", "public.r")


def test_snapshot_never_begins_with_the_stream(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    capture.snapshot = "never"
    with capture.running() as agent:
        agent.caught_up()
        capture.sql("INSERT INTO t VALUES (2)")
        agent.caught_up()
    assert capture.live("public.t").column("id").to_pylist() == [2]


def test_snapshot_only_ends_by_itself_and_leaves_no_slot(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    capture.snapshot = "only"
    with capture.running() as agent:
        agent._thread.join(60)
        assert agent.facts["state"] == "stopped"
    capture.assert_equal("public.t")
    assert capture.source().remove() == []


def test_names_that_need_quotes(capture: Capture) -> None:
    capture.sql(
        'CREATE SCHEMA "My Shop"',
        'CREATE TABLE "My Shop"."Order ""Lines""" ("Id" int PRIMARY KEY, "a b" text, "select" int)',
        'INSERT INTO "My Shop"."Order ""Lines""" VALUES (1, \'x\', 2)',
    )
    capture.tables = ("My Shop.*",)
    with capture.running() as agent:
        agent.caught_up()
        capture.sql('INSERT INTO "My Shop"."Order ""Lines""" VALUES (2, \'y\', 3)')
        agent.caught_up()
    capture.assert_equal('My Shop.Order "Lines"')


def test_a_table_without_a_key_is_refused_with_the_remedy(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int)")
    with capture.running() as agent:
        error = agent.failed()
    assert isinstance(error, SourceError)
    assert "ADD PRIMARY KEY" in error.hint
    findings = [f for f in capture.source().check() if f.severity == "error"]
    assert ["ADD PRIMARY KEY" in f.remedy for f in findings] == [True]


def test_a_slot_without_a_frontier_is_not_touched(capture: Capture) -> None:
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY)",
        f"SELECT pg_create_logical_replication_slot('{capture.config.slot}', 'pgoutput')",
    )
    with capture.running() as agent:
        assert isinstance(agent.failed(), SlotError)


def test_nothing_is_acknowledged_but_frontiers(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with capture.running() as agent:
        agent.caught_up()
        for i in range(20):
            capture.sql(f"INSERT INTO t VALUES ({i})")
        agent.caught_up()
    source = capture.source()
    assert isinstance(source, PostgresSource)
    found = (
        source._catalog()
        .execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
            (capture.config.slot,),
        )
        .fetchone()
    )
    source.close()
    newest = capture.frontier()
    assert newest is not None and found is not None
    assert newest.positions.covers(Vector.parse(f"{SOURCE}@{found[0]}"))


def test_check_of_a_healthy_database_finds_no_error(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY, p point)")
    findings = capture.source().check()
    assert {f.severity for f in findings} == {"ok", "warning"}


def test_generated_columns_are_refused(capture: Capture) -> None:
    capture.sql("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED)")
    assert [f.what for f in capture.source().check() if f.severity == "error"] == [
        "generated columns are not sent by the server: g"
    ]


def test_a_truncate_that_waits_for_the_snapshot_does_not_stop_it(capture: Capture) -> None:
    """It stands in the lock's queue before workers that come later."""
    capture.sql(
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 200000) g",
    )
    with capture.running() as agent:
        for _ in range(5):
            capture.sql("TRUNCATE t", "INSERT INTO t SELECT g FROM generate_series(1, 1000) g")
        agent.caught_up()
    capture.assert_equal("public.t")


def test_a_snapshot_without_workers_yields_no_empty_batch(capture: Capture) -> None:
    """When no worker gets the locks in time, the connection that has them reads alone."""
    capture.sql(
        "CREATE TABLE empty (id int PRIMARY KEY)",
        "CREATE TABLE full_ (id int PRIMARY KEY)",
        "INSERT INTO full_ VALUES (1)",
    )
    config = replace(capture.config, snapshot_workers=0)
    with closing(PostgresSource(config, capture.folder / "state")) as source:
        source.open(None)
        pieces = list(source.snapshot(list(source.tables()), 10**6))
    batches = [(table, changes.num_rows) for piece in pieces for table, changes in piece.changes]
    assert batches == [("public.full_", 1)]
