"""`cdc log TOPIC`: events as JSON lines. Frontier topics and `dead-letters` too.

Only what a frontier covers is printed of a data topic (SEMANTICS 2): what lies beyond it has not
happened yet for any reader.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from cdc.changes import D
from cdc.cli.context import opened_log, unknown
from cdc.cli.output import emit
from cdc.config import Config
from cdc.errors import LogError
from cdc.frontiers import Frontier
from cdc.keys import row_keys
from cdc.log.api import DeadLetter, LogBatch, Reader

Event = dict[str, Any]
FOLLOW_WAIT_S = 1.0
LETTERS = "dead-letters"


@runtime_checkable
class Histories(Protocol):
    """A reader that can also list the topics of its own: the embedded log's."""

    def frontiers(self, name: str, start: int = 0) -> Iterator[tuple[int, Frontier]]: ...

    def dead_letters(self, start: int = 0) -> Iterator[tuple[int, DeadLetter]]: ...


def run(config: Config, arguments: argparse.Namespace) -> int:
    with opened_log(config) as (_, reader):
        events = _events(reader, arguments.topic, arguments.start, arguments.follow)
        for event in islice(events, arguments.limit):
            emit(event)
    return 0


def _events(reader: Reader, topic: str, start: int, follow: bool) -> Iterator[Event]:
    if topic == LETTERS or topic.endswith(".frontier"):
        return _own_events(reader, topic, start, follow)
    if topic not in reader.topics():
        raise unknown("topic", topic, reader.topics())
    return _changes(reader, topic, start, follow)


def frontier_name(topic: str) -> str:
    """Whose frontier covers a topic: the source's, or the view's."""
    return topic if topic.startswith("view.") else topic.partition(".")[0]


def _changes(reader: Reader, topic: str, start: int, follow: bool) -> Iterator[Event]:
    name = frontier_name(topic)
    stands = [start] * len(reader.end_offsets(topic))
    while True:
        frontier = reader.newest_frontier(name)
        ends = frontier.end_offsets.get(topic, ()) if frontier else ()
        for partition, end in enumerate(ends):
            if end > stands[partition]:
                for batch in reader.read(topic, partition, stands[partition], end):
                    yield from change_events(batch, name)
                stands[partition] = end
        if not follow:
            return
        reader.wait([name], FOLLOW_WAIT_S)


def change_events(batch: LogBatch, name: str) -> Iterator[Event]:
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
            "position": f"{name}#{int(changes.txn_seq[i])}:{int(changes.ordinal[i])}",
            "commit_us": int(changes.commit_us[i]),
        }


def _own_events(reader: Reader, topic: str, start: int, follow: bool) -> Iterator[Event]:
    if not isinstance(reader, Histories):
        raise LogError(
            "frontier topics of this log are read with the broker's own tools",
            where=topic,
            hint=f"kafka-console-consumer --topic {topic} --from-beginning",
        )
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
