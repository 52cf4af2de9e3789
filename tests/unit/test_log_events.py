"""`cdc log`: every record with the position of the first frontier that covers it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdc.cli.log import Covering, change_events
from cdc.config import LogConfig
from cdc.log.api import Reader
from cdc.log.open import open_log
from tests.fix_log import OTHER, SPEC, TOPIC, changes, frontier


def printed(reader: Reader, start: int, max_rows: int = 65536) -> list[tuple[int, str]]:
    covering = Covering(reader, "shop", TOPIC, 0)
    (end,) = reader.end_offsets(TOPIC)
    found: list[dict[str, Any]] = []
    for batch in reader.read(TOPIC, 0, start, end, max_rows):
        found += change_events(batch, covering.positions(batch))
    return [(event["offset"], event["position"]) for event in found]


@pytest.mark.parametrize("max_rows", [1, 4, 65536])
def test_the_first_frontier_that_covers_a_record(tmp_path: Path, max_rows: int) -> None:
    log = open_log(LogConfig("embedded", tmp_path))
    with closing(log), closing(log.producer("shop")) as producer, closing(log.reader()) as reader:
        producer.create_topics([SPEC, OTHER])
        producer.append([(TOPIC, changes([1, 2]))], [frontier(0, whole=False)])  # a snapshot
        producer.append([(TOPIC, changes([3]))], [frontier(0x10)])
        producer.append([(OTHER.name, changes([1]))], [frontier(0x20)])
        producer.append([(TOPIC, changes([4, 5]))], [frontier(0x30)])
        for number in range(0x40, 0x60):
            producer.append([(TOPIC, changes([number]))], [frontier(number)])
            producer.append([], [frontier(number + 0x1000)])
        wanted = [*[(i, "shop@0/10") for i in range(3)], (3, "shop@0/30"), (4, "shop@0/30")]
        wanted += [(5 + i, f"shop@0/{0x40 + i:X}") for i in range(0x20)]
        for start in (0, 1, 3, 4, 20, 36):
            assert printed(reader, start, max_rows) == wanted[start:]


def test_history_is_walked_from_where_the_records_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(LogConfig("embedded", tmp_path))
    with closing(log), closing(log.producer("shop")) as producer, closing(log.reader()) as reader:
        producer.create_topics([SPEC])
        for number in range(500):
            producer.append([(TOPIC, changes([number]))], [frontier(number)])
        looked = 0
        frontiers = reader.frontiers

        def counted(name: str, start: int = 0) -> Any:
            nonlocal looked
            for record in frontiers(name, start):
                looked += 1
                yield record

        monkeypatch.setattr(reader, "frontiers", counted)
        assert printed(reader, 490) == [(i, f"shop@0/{i:X}") for i in range(490, 500)]
        assert looked < 40
