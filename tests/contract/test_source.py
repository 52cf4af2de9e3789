"""What every Source promises (cdc/source.py), on real servers of every kind, without a log."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from cdc.changes import ChangeBatch, D
from cdc.errors import SourceUnavailable
from cdc.frontiers import Frontier
from cdc.latest import latest_per_key
from cdc.positions import NativePosition, Vector
from cdc.postgres.connection import connect
from cdc.postgres.source import PostgresSource
from cdc.source import Piece, Source
from tests.fix_capture import SOURCE, Capture


@pytest.fixture
def database(any_capture: Capture) -> Capture:
    many, ten = any_capture.database.series(1, 3000), any_capture.database.series(1, 10)
    any_capture.sql(
        "CREATE TABLE a (id int PRIMARY KEY, n numeric(20,6), x text)",
        "CREATE TABLE b (id int PRIMARY KEY, x text)",
        *any_capture.database.off_line("a", "x"),
        f"INSERT INTO a SELECT g, g / 3.0, repeat('x', g) FROM {many}",
        f"INSERT INTO b SELECT g, 'b' FROM {ten}",
    )
    return any_capture


@pytest.fixture
def source(database: Capture) -> Iterator[Source]:
    made = database.source()
    yield made
    made.close()


def tables(source: Source) -> list[str]:
    return sorted(source.tables())


def snapshot(source: Source, max_piece_bytes: int = 10**6) -> list[Piece]:
    source.open(None)
    return list(source.snapshot(tables(source), max_piece_bytes))


def frontier_of(source: Source, piece: Piece) -> Frontier:
    return Frontier(
        SOURCE,
        Vector.of({SOURCE: piece.position}),
        identity=source.identity(),
        resume=dict(piece.resume),
    )


def history(pieces: list[Piece]) -> object:
    """What a log that has these pieces would answer."""

    def read(table: str) -> Iterator[ChangeBatch]:
        return (batch for piece in pieces for name, batch in piece.changes if name == table)

    return read


def streamed(
    source: Source, frontier: Frontier, until: NativePosition, max_bytes: int = 10**6
) -> list[Piece]:
    found = []
    stream = source.stream(frontier, max_bytes, 0.2)
    for piece in stream:
        found.append(piece)
        if piece.whole and piece.position.covers(until):
            break
    stream.close()  # type: ignore[attr-defined]
    return found


def some_changes(database: Capture) -> None:
    database.transaction(
        "INSERT INTO a VALUES (5000, 1, 'new')",
        "INSERT INTO b VALUES (5000, 'new')",
        "UPDATE a SET n = 0 WHERE id > 2500",
        "DELETE FROM b WHERE id = 1",
    )
    database.sql("UPDATE a SET id = 6000 WHERE id = 1", "DELETE FROM a WHERE id = 2")


def assert_equal(database: Capture, pieces: list[Piece]) -> None:
    for table in (database.name("a"), database.name("b")):
        batches = [batch for p in pieces for name, batch in p.changes if name == table]
        newest = latest_per_key(batches)
        live = newest.take(np.flatnonzero(newest.op != D)).rows
        selected = database.selected(table)
        assert sorted(live.column("id").to_pylist()) == sorted(selected.column("id").to_pylist())
        by_id = {row["id"]: row for row in selected.to_pylist()}
        assert all(by_id[row["id"]] == row for row in live.to_pylist())


def test_snapshot_and_stream_have_every_change_once(database: Capture, source: Source) -> None:
    pieces = snapshot(source)
    some_changes(database)
    frontier = frontier_of(source, pieces[-1])
    source.open(frontier, history=history(pieces))  # type: ignore[arg-type]
    later = streamed(source, frontier, source.place_barrier())
    assert sum(p.num_rows for p in pieces) == 3010
    assert sum(p.num_rows for p in later) == 1 + 1 + 501 + 1 + 2 + 1
    assert_equal(database, pieces + later)


def test_only_the_last_piece_of_a_snapshot_is_whole(source: Source) -> None:
    pieces = snapshot(source, max_piece_bytes=1000)
    assert [p.whole for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len({str(p.position) for p in pieces}) == 1
    assert sorted(pieces[-1].reconcile) == tables(source)


def test_a_table_made_anew_before_the_snapshot_is_streamed(
    database: Capture, source: Source
) -> None:
    """The server took the old one out of the publication."""
    source.open(None)
    database.sql("DROP TABLE b", "CREATE TABLE b (id int PRIMARY KEY, x text)")
    pieces = list(source.snapshot(tables(source), 10**6))
    some_changes(database)
    frontier = frontier_of(source, pieces[-1])
    source.open(frontier, history=history(pieces))  # type: ignore[arg-type]
    assert_equal(database, pieces + streamed(source, frontier, source.place_barrier()))


@pytest.mark.parametrize("work", ["CREATE TABLE c (id int PRIMARY KEY)", "DROP TABLE b"])
def test_a_table_that_comes_or_goes_before_the_snapshot_begins_it_again(
    database: Capture, source: Source, work: str
) -> None:
    source.open(None)
    names = ("a", "b", "c") if "c" in work.split() else ("a", "b")
    named = [database.name(name) for name in names]
    database.sql(work)
    with pytest.raises(SourceUnavailable, match="about to begin"):
        list(source.snapshot(named, 10**6))


@pytest.mark.parametrize("max_bytes", [2000, 10**6])
def test_transactions_stand_together_numbered_in_execution_order(
    database: Capture, source: Source, max_bytes: int
) -> None:
    pieces = snapshot(source)
    few = database.database.series(7000, 7100)
    for _ in range(2):
        database.transaction(
            f"INSERT INTO a SELECT g, g, 'p' FROM {few}",
            f"INSERT INTO b SELECT g, 'p' FROM {few}",
            "DELETE FROM a WHERE id >= 7000",
            "DELETE FROM b WHERE id >= 7000",
        )
    frontier = frontier_of(source, pieces[-1])
    source.open(frontier, history=history(pieces))  # type: ignore[arg-type]
    later = streamed(source, frontier, source.place_barrier(), max_bytes)
    base, places = 0, []
    for piece in later:
        here = [
            (base + int(t), int(o))
            for _, batch in piece.changes
            for t, o in zip(batch.txn_seq, batch.ordinal, strict=True)
        ]
        places += sorted(here)
        base += piece.transactions
    assert places == [(t, o) for t in range(2) for o in range(404)]
    positions = [piece.position for piece in later]
    assert all(after.covers(before) for before, after in pairwise(positions))


def test_a_part_of_a_transaction_resumes_exactly(database: Capture, source: Source) -> None:
    pieces = snapshot(source)
    many = database.database.series(7000, 27000)
    database.sql(f"INSERT INTO a SELECT g, g, 'p' FROM {many}")
    frontier = frontier_of(source, pieces[-1])
    source.open(frontier, history=history(pieces))  # type: ignore[arg-type]
    barrier = source.place_barrier()
    whole = streamed(source, frontier, barrier, 2000)
    parts = [piece for piece in whole if not piece.whole and piece.num_rows]
    assert parts
    for part in parts:
        source.close()
        half = Frontier(
            SOURCE,
            frontier.positions,
            identity=frontier.identity,
            whole=False,
            resume=dict(part.resume),
        )
        source.open(half)
        rest = streamed(source, half, barrier, 2000)
        seen = sum(p.num_rows for p in whole[: whole.index(part) + 1])
        assert seen + sum(p.num_rows for p in rest) == 20001


def test_nothing_is_missing_and_keys_are_never_null(database: Capture, source: Source) -> None:
    pieces = snapshot(source)
    some_changes(database)
    frontier = frontier_of(source, pieces[-1])
    source.open(frontier, history=history(pieces))  # type: ignore[arg-type]
    for piece in streamed(source, frontier, source.place_barrier()):
        for _, batch in piece.changes:
            assert batch.rows.column("id").null_count == 0
            live = batch.take(np.flatnonzero(batch.op != D))
            assert live.rows.column("x").null_count == 0


@pytest.fixture
def of_postgres(capture: Capture) -> Iterator[PostgresSource]:
    capture.sql("CREATE TABLE a (id int PRIMARY KEY)")
    source = capture.source()
    assert isinstance(source, PostgresSource)
    yield source
    source.close()


def test_only_acknowledge_moves_the_slot(capture: Capture, of_postgres: PostgresSource) -> None:
    def confirmed() -> str:
        with connect(capture.url) as connection:
            row = connection.execute(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
                (capture.config.slot,),
            ).fetchone()
        assert row is not None
        return str(row[0])

    source = of_postgres
    pieces = snapshot(source)
    before = confirmed()
    capture.sql("INSERT INTO a VALUES (1)")
    frontier = frontier_of(source, pieces[-1])
    source.open(frontier, history=history(pieces))  # type: ignore[arg-type]
    barrier = source.place_barrier()
    later = streamed(source, frontier, barrier)
    assert confirmed() == before == str(pieces[-1].position)
    source.acknowledge(later[-1].position)
    for _ in range(600):
        if confirmed() == str(later[-1].position):
            break
        source._receiver.take(0.1)  # type: ignore[union-attr]
    assert confirmed() == str(later[-1].position)
