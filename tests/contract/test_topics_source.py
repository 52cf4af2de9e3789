"""What every Source promises (cdc/source.py), by a source of topics, without a log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cdc.changes import ChangeBatch
from cdc.errors import BadData
from cdc.frontiers import Frontier
from cdc.positions import NativePosition, Vector
from cdc.source import Piece
from cdc.topics.source import TopicsSource
from tests.fix_capture import SOURCE
from tests.fix_topics import Foreign

TABLES = ("public.a", "public.b")
JSON_ONLY = pytest.mark.parametrize("foreign", ["json"], indirect=True)


@pytest.fixture
def source(foreign: Foreign) -> Iterator[TopicsSource]:
    foreign.tables = TABLES
    for table in TABLES:
        foreign.make(table, partitions=2)
        foreign.send(
            *(foreign.upsert({"id": n, "name": "x" * 50}) for n in range(500)), table=table
        )
    made = foreign.source()
    yield made
    made.close()


def snapshot(source: TopicsSource, max_piece_bytes: int = 10**6) -> list[Piece]:
    source.open(None)
    return list(source.snapshot(tuple(source.tables()), max_piece_bytes))


def frontier_of(source: TopicsSource, piece: Piece) -> Frontier:
    position = Vector.of({SOURCE: piece.position})
    return Frontier(SOURCE, position, identity=source.identity(), resume=dict(piece.resume))


def streamed(source: TopicsSource, frontier: Frontier, until: NativePosition) -> list[Piece]:
    found = []
    stream = source.stream(frontier, 10**6, 0.2)
    for piece in stream:
        found.append(piece)
        if piece.whole and piece.position.covers(until):
            break
    stream.close()  # type: ignore[attr-defined]
    return found


def changes_of(pieces: list[Piece]) -> list[ChangeBatch]:
    return [batch for piece in pieces for _, batch in piece.changes]


def assert_numbered(batches: list[ChangeBatch]) -> None:
    """Each table's ordinals grow, and over all tables they are 0, 1, 2, …"""
    for table in TABLES:
        mine = [batch.ordinal for batch in batches if batch.schema.name == table]
        assert (np.diff(np.concatenate([np.array([-1]), *mine])) > 0).all()
    together = np.concatenate([batch.ordinal for batch in batches])
    assert sorted(together.tolist()) == list(range(len(together)))


def test_what_is_there_is_one_transaction_in_pieces(source: TopicsSource) -> None:
    pieces = snapshot(source, max_piece_bytes=20_000)
    assert len(pieces) > 2
    assert [piece.whole for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].reconcile == TABLES and pieces[-1].transactions == 1
    assert all(piece.incomplete == TABLES for piece in pieces[:-1])
    batches = changes_of(pieces)
    assert sum(batch.num_rows for batch in batches) == 1000
    assert not any(batch.txn_seq.any() for batch in batches)
    assert_numbered(batches)


def test_the_stream_goes_on_where_the_snapshot_ended(
    foreign: Foreign, source: TopicsSource
) -> None:
    pieces = snapshot(source)
    for table in TABLES:
        foreign.send(*foreign.delete({"id": 1}), foreign.upsert({"id": 500}), table=table)
    frontier = frontier_of(source, pieces[-1])
    for again in (source, foreign.source()):
        again.open(frontier, source.tables())
        later = streamed(again, frontier, again.place_barrier())
        assert sum(piece.num_rows for piece in later) == 4
        assert all(piece.whole for piece in later)
        again.close()


def test_a_poll_is_one_transaction(foreign: Foreign, source: TopicsSource) -> None:
    frontier = frontier_of(source, snapshot(source)[-1])
    source.close()
    for table in TABLES:
        foreign.send(*(foreign.upsert({"id": n}, "u") for n in range(300)), table=table)
    source.open(frontier, source.tables())
    for piece in streamed(source, frontier, source.place_barrier()):
        if piece.num_rows:
            assert piece.transactions == 1
            assert_numbered([batch for _, batch in piece.changes])
            assert piece.commit_us == max(b.commit_us.max() for _, b in piece.changes)


def test_it_gives_a_sign_of_life(source: TopicsSource) -> None:
    frontier = frontier_of(source, snapshot(source)[-1])
    stream = source.stream(frontier, 10**6, 0.1)
    pieces = [next(stream) for _ in range(3)]
    assert all(piece.whole and not piece.num_rows for piece in pieces)
    assert all(piece.position == frontier.positions[SOURCE] for piece in pieces)


def rows_of(foreign: Foreign) -> dict[int, Any]:
    foreign.once()
    return {number: row["name"] for number, row in foreign.live().items()}


@JSON_ONLY
def test_records_without_keys_have_those_that_are_named(foreign: Foreign) -> None:
    foreign.keys = ("id",)
    foreign.make(policy="delete")
    values = [foreign.value("c", {"id": n, "name": "x"}) for n in (1, 2)]
    values.append(foreign.value("d", {"id": 1}))
    foreign.send(*((None, value) for value in values))
    assert rows_of(foreign) == {2: "x"}


@JSON_ONLY
def test_rows_without_an_envelope(foreign: Foreign) -> None:
    foreign.make()
    rows = [{"id": n, "name": "x", "amount": None, "at": None} for n in (1, 2)]
    foreign.send(*((foreign.key(row), json.dumps(row).encode()) for row in rows))
    foreign.send((foreign.key({"id": 1}), None))
    assert rows_of(foreign) == {2: "x"}


@JSON_ONLY
def test_a_record_that_cannot_be_read_is_named(foreign: Foreign) -> None:
    foreign.make()
    foreign.send(*(foreign.upsert({"id": n}) for n in range(7)))
    with foreign.running() as agent:
        agent.caught_up()
        foreign.send(foreign.upsert({"id": 8}), (b'{"id":9}', b'{"op":"c","after":{"id":"nine"}}'))
        foreign.send(foreign.upsert({"id": 10}))
        error = agent.failed()
    assert isinstance(error, BadData)
    assert f"{foreign.topic()}/0/8" in error.where
