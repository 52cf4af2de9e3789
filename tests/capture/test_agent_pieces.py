"""What the agent makes of pieces in orders that are rare: a scripted source into a real log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cdc.capture.agent import run_capture
from cdc.changes import ChangeBatch
from cdc.config import LogConfig, Place, SourceConfig
from cdc.frontiers import Frontier
from cdc.log.api import Log
from cdc.log.open import open_log
from cdc.positions import GtidSet, NativePosition
from cdc.schema import TableSchema
from cdc.source import Finding, History, Piece
from tests.fix_log import ORDERS, changes

LATE = replace(ORDERS, name="public.late")
HALF = {"transaction": "u:9", "changes": 2}


def at(number: int) -> GtidSet:
    return GtidSet.parse(f"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-{number}")


@dataclass
class Scripted:
    """A source whose stream is these pieces, and no more."""

    pieces: Sequence[Piece]
    name: str = "shop"
    catches_up: bool = True
    acknowledged: list[NativePosition] = field(default_factory=list)

    def check(self) -> list[Finding]:
        return []

    def identity(self) -> str:
        return "mysql"

    def tables(self) -> Mapping[str, TableSchema]:
        return {ORDERS.name: ORDERS}

    def open(
        self,
        frontier: Frontier | None,
        schemas: Mapping[str, TableSchema] | None = None,
        history: History | None = None,
    ) -> None:
        return

    def snapshot(self, tables: Sequence[str], max_piece_bytes: int) -> Iterator[Piece]:
        yield Piece((), 1, at(1), 0, reconcile=tuple(tables))

    def stream(
        self, frontier: Frontier, max_piece_bytes: int, max_wait_s: float
    ) -> Iterator[Piece]:
        yield from self.pieces

    def acknowledge(self, position: NativePosition) -> None:
        self.acknowledged.append(position)

    def current_position(self) -> NativePosition:
        return at(1)

    def place_barrier(self) -> NativePosition:
        return at(1)

    def remove(self) -> list[str]:
        return []

    def close(self) -> None:
        return


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(LogConfig("embedded", tmp_path / "log"))


def captured(log: Log, *pieces: Piece) -> Frontier:
    """The newest frontier after a run of these pieces."""
    place = Place("connectors.yaml", 1, 1)
    config = SourceConfig("shop", "mysql", "mysql://h/d", ("*",), "initial", "", "", place)
    run_capture(Scripted(pieces), log, config, lambda: False, lambda **facts: None)
    reader = log.reader()
    found = reader.newest_frontier("shop")
    reader.close()
    assert found is not None
    return found


def part(*ids: int) -> tuple[tuple[str, ChangeBatch], ...]:
    return ((ORDERS.name, changes(ids)),)


def test_a_table_that_is_added_begins_with_a_truncate(log: Log) -> None:
    emptied = Piece((), 0, at(1), 0, False, HALF, truncated=(ORDERS.name,))
    found = captured(log, replace(emptied, schemas={LATE.name: LATE}))
    assert found.schema_versions[f"shop.{LATE.name}"] == 1


def test_nothing_makes_a_half_published_transaction_a_cut(log: Log) -> None:
    captured(log, Piece(part(1, 2), 0, at(1), 0, False, HALF))
    idle = Piece((), 0, at(2), 0, schemas={LATE.name: LATE}, barrier=True)
    found = captured(log, idle)
    assert not found.whole and found.resume["changes"] == 2 and found.positions["shop"] == at(1)
    found = captured(log, idle, Piece(part(3), 1, at(9), 0))
    assert found.whole and f"shop.{LATE.name}" in found.schema_versions


def test_a_restart_takes_a_statement_in_once(log: Log) -> None:
    """Its notes and its position are published together, before a part of what follows."""
    noted = Piece((), 0, at(5), 0, resume={"altered": {"touched": {}}})
    found = captured(log, noted, Piece(part(1), 0, at(5), 0, False, HALF))
    assert not found.whole and found.positions["shop"] == at(5)
