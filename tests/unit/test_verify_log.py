"""Where the topics stood at a sink's position, from a history that may have been thinned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc.cli.verify_log import frontier_at
from cdc.config import LogConfig
from cdc.errors import CheckFailed
from cdc.log.api import Reader
from cdc.log.open import open_log
from cdc.positions import Vector
from tests.fix_log import OTHER, SPEC, TOPIC, changes, frontier


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Frontiers at 0/10 and 0/20 with a record each in TOPIC, at 0/30 with one in OTHER."""
    log = open_log(LogConfig("embedded", tmp_path))
    with closing(log), closing(log.producer("shop")) as producer, closing(log.reader()) as reader:
        producer.create_topics([SPEC, OTHER])
        producer.append([(TOPIC, changes([1]))], [frontier(0x10)])
        producer.append([(TOPIC, changes([2]))], [frontier(0x20)])
        producer.append([(OTHER.name, changes([1]))], [frontier(0x30)])
        yield reader


@pytest.mark.parametrize(("position", "end"), [("10", 1), ("20", 2), ("28", 2), ("30", 2)])
def test_known_positions(reader: Reader, position: str, end: int) -> None:
    """0/28 is none of them, but nothing came to the topic between its neighbours."""
    found = frontier_at(reader, "shop", Vector.parse(f"shop@0/{position}"), [TOPIC])
    assert found.end_offsets[TOPIC] == (end,)


@pytest.mark.parametrize("position", ["8", "18", "28", "38"])
def test_positions_that_are_not_kept(reader: Reader, position: str) -> None:
    with pytest.raises(CheckFailed, match=f"stood at shop@0/{position}"):
        frontier_at(reader, "shop", Vector.parse(f"shop@0/{position}"), [TOPIC, OTHER.name])
