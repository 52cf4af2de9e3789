"""`cdc log TOPIC`: events as JSON lines. Frontier topics and `dead-letters` too.

Only what a frontier covers is printed of a data topic (SEMANTICS 2): what lies beyond it has not
happened yet for any reader. So every event has a position, that of the first frontier that covers
it: it is in the log because the source had come so far. Of the distant past not every frontier is
kept; the position is then that of the next one.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from cdc.changes import D
from cdc.cli.context import opened_log, unknown
from cdc.cli.output import emit
from cdc.config import Config
from cdc.frontiers import Frontier
from cdc.keys import row_keys
from cdc.log.api import DeadLetter, LogBatch, Reader

Event = dict[str, Any]
FOLLOW_WAIT_S = 1.0
LETTERS = "dead-letters"


def run(config: Config, arguments: argparse.Namespace) -> int:
    with opened_log(config) as (log, reader), closing(log.reader()) as history:
        events = _events(reader, history, arguments.topic, arguments.start, arguments.follow)
        for event in islice(events, arguments.limit):
            emit(event)
    return 0


def _events(
    reader: Reader, history: Reader, topic: str, start: int, follow: bool
) -> Iterator[Event]:
    if topic == LETTERS or topic.endswith(".frontier"):
        return _own_events(reader, topic, start, follow)
    if topic not in reader.topics():
        raise unknown("topic", topic, reader.topics())
    return table_events(reader, history, topic, start, follow)


def frontier_name(topic: str) -> str:
    """Whose frontier covers a topic: the source's, or the view's."""
    return topic if topic.startswith("view.") else topic.partition(".")[0]


def table_events(
    reader: Reader, history: Reader, topic: str, start: int, follow: bool
) -> Iterator[Event]:
    """The changes of a topic; `history` reads the frontiers beside them."""
    name = frontier_name(topic)
    stands = [start] * len(reader.end_offsets(topic))
    while True:
        frontier = reader.newest_frontier(name)
        ends = frontier.end_offsets.get(topic, ()) if frontier else ()
        for partition, end in enumerate(ends):
            if end > stands[partition]:
                covering = Covering(history, name, topic, partition)
                for batch in reader.read(topic, partition, stands[partition], end):
                    yield from change_events(batch, covering.positions(batch))
                stands[partition] = end
        if not follow:
            return
        reader.wait([name], FOLLOW_WAIT_S)


class Covering:
    """The position of the first frontier that covers each record of a partition.

    Records come in ascending order, so the history is walked once beside them, a step per batch;
    where it begins is found by bisection.
    """

    def __init__(self, reader: Reader, name: str, topic: str, partition: int) -> None:
        self._reader, self._name = reader, name
        self._topic, self._partition = topic, partition
        self._walk: Iterator[tuple[int, Frontier]] | None = None
        self._at: tuple[int, str] = (0, "")
        """The newest frontier that was looked at: where the partition ends, and its position."""

    def positions(self, batch: LogBatch) -> list[str]:
        """One for each of the batch's records."""
        if not len(batch.offsets):
            return []
        if self._walk is None:
            self._walk = self._reader.frontiers(self._name, self._first(int(batch.offsets[0])))
        last, seen = int(batch.offsets[-1]), [self._at]
        while self._at[0] <= last:
            found = next(self._walk, None)
            if found is None:
                break
            self._at = self._end(found[1]), str(found[1].positions)
            seen.append(self._at)
        covering = np.searchsorted([end for end, _ in seen], batch.offsets, side="right")
        return [seen[min(i, len(seen) - 1)][1] for i in covering.tolist()]

    def _first(self, offset: int) -> int:
        """The first record of the frontier topic that covers `offset`, or one shortly before it."""
        newest = next(self._reader.frontiers(self._name, -1), None)
        low, high = 0, newest[0] if newest is not None else 0
        while low < high:
            middle = (low + high) // 2
            found = next(self._reader.frontiers(self._name, middle), None)
            if found is None or self._end(found[1]) > offset:
                high = middle
            else:
                low = found[0] + 1
        return low

    def _end(self, frontier: Frontier) -> int:
        ends = frontier.end_offsets.get(self._topic, ())
        return ends[self._partition] if self._partition < len(ends) else 0


def change_events(batch: LogBatch, positions: list[str]) -> Iterator[Event]:
    """One event per change. A person reads these: a Python object per row is what is asked for."""
    changes = batch.changes
    keys = row_keys(changes.schema, changes.rows).to_pylist()
    for i, row in enumerate(changes.rows.to_pylist()):
        deleted = changes.op[i] == D
        yield {
            "topic": batch.topic,
            "partition": batch.partition,
            "offset": int(batch.offsets[i]),
            "key": json.loads(keys[i]),
            "value": None if deleted else row,
            "op": chr(changes.op[i]),
            "position": positions[i],
            "transaction": int(changes.txn_seq[i]),
            "ordinal": int(changes.ordinal[i]),
            "commit_us": int(changes.commit_us[i]),
        }


def _own_events(reader: Reader, topic: str, start: int, follow: bool) -> Iterator[Event]:
    name = topic.removesuffix(".frontier")
    while True:
        if topic == LETTERS:
            for offset, letter in reader.dead_letters(start):
                start = offset + 1
                yield _letter_event(topic, offset, letter)
        else:
            for offset, frontier in reader.frontiers(name, start):
                start = offset + 1
                yield _frontier_event(topic, offset, frontier)
        if not follow:
            return
        reader.wait([name], FOLLOW_WAIT_S)


def _frontier_event(topic: str, offset: int, frontier: Frontier) -> Event:
    return {
        "topic": topic,
        "partition": 0,
        "offset": offset,
        "key": frontier.name,
        "value": json.loads(frontier.to_json()),
        "position": str(frontier.positions),
    }


def _letter_event(topic: str, offset: int, letter: DeadLetter) -> Event:
    value = {
        "connector": letter.connector,
        "where": letter.where,
        "error": letter.error,
        "key": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "value": None if letter.value is None else base64.b64encode(letter.value).decode(),
    }
    return {
        "topic": topic,
        "partition": 0,
        "offset": offset,
        "key": None,
        "value": value,
        "position": letter.where,
    }
