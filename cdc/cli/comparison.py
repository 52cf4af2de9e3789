"""What `cdc verify` compares: a sink's rows, a topic's rows, and what the source had at a position.

A topic between two sets of offsets says which keys changed there and what their rows are now. So a
state at one position becomes the state at another: leave these keys out, add these rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import ChangeBatch, D
from cdc.cli import parts
from cdc.cli.log import frontier_name
from cdc.compare import Difference, compare
from cdc.config import Config
from cdc.errors import CheckFailed
from cdc.keys import row_keys
from cdc.latest import latest_per_key
from cdc.log.api import Reader
from cdc.positions import NativePosition
from cdc.schema import TableSchema

READS_MAX = 10
Ends = Sequence[int]
"""Per partition of a topic, an offset."""

_FLOATS = (pa.float32(), pa.float64())


@dataclass(frozen=True)
class Verdict:
    """How one comparison ended.

    what        `sink`: an input of the sink was compared; `topic`: a table's topic
    against     `source`: with the source's own rows; `log`: recomputed from the tables' topics
    unsettled   keys left out because they changed while the store was read
    fenced      whether the source's cuts are whole transactions
    """

    input: str
    position: str
    difference: Difference
    unsettled: int
    what: Literal["sink", "topic"] = "sink"
    against: Literal["source", "log"] = "source"
    fenced: bool = True


@dataclass(frozen=True, eq=False)
class StoreRows:
    """An input's rows in the store, with the columns that it can give back (`schema`), and the
    sink's positions (SinkPosition) around the reading."""

    schema: TableSchema
    before: Any
    rows: list[pa.RecordBatch]
    after: Any


def read_store(config: Config, sink: str, name: str, schema: TableSchema) -> StoreRows:
    """Read between two looks at the position; they are equal unless the sink moves all the time."""
    readable = parts.sinks().readable_columns(config, sink, name, schema)
    found = _read_once(config, sink, name, schema, readable)
    for _ in range(READS_MAX - 1):
        if found.before.offsets == found.after.offsets:
            break
        found = _read_once(config, sink, name, schema, readable)
    return found


def _read_once(
    config: Config, sink: str, name: str, schema: TableSchema, readable: Collection[str]
) -> StoreRows:
    before = _position(config, sink)
    rows = list(parts.sinks().rows(config, sink, name, schema))
    return StoreRows(schema.only(readable), before, rows, _position(config, sink))


def _position(config: Config, sink: str) -> Any:
    position = parts.sinks().position(config, sink)
    if position is None:
        raise CheckFailed("the sink has no position any more", where=f"sink {sink}")
    return position


def offsets_of(position: Any, topic: str, sink: str) -> Ends:
    """How far the sink has read the topic."""
    found: Ends | None = position.offsets.get(topic)
    if found is None:
        raise CheckFailed(f"the sink has not loaded {topic} yet", where=f"sink {sink}")
    return found


def offsets_at(reader: Reader, topic: str, source: str, position: NativePosition) -> Ends:
    """Per partition an offset below which every record is at or before `position`.

    The newest frontier that `position` covers says so; without one the topic's beginning is right
    too, only slower.
    """
    found: Ends = tuple(0 for _ in reader.end_offsets(topic))
    for _, frontier in reader.frontiers(frontier_name(topic)):
        at = frontier.positions.get(source)
        if frontier.whole and at is not None and position.covers(at):
            found = frontier.end_offsets.get(topic, found)
    return found


def changes_between(reader: Reader, topic: str, start: Ends, end: Ends) -> list[ChangeBatch]:
    """The topic's changes between two sets of offsets, in log order."""
    return [
        batch.changes
        for partition, last in enumerate(end)
        if last > start[partition]
        for batch in reader.read(topic, partition, start[partition], last)
        if batch.changes.num_rows
    ]


def store_difference(
    expected: Iterable[pa.RecordBatch],
    store: StoreRows,
    schema: TableSchema,
    unsettled: pa.Array,
    approximate: Collection[str] = (),
) -> Difference:
    """Compare what the store should have, in `schema`, with what it gave back."""
    names = store.schema.arrow.names
    wanted = (rows.select(names) for rows in without(expected, schema, unsettled))
    actual = without(store.rows, store.schema, unsettled)
    return compare(wanted, actual, store.schema, [n for n in approximate if n in names])


def newest_rows(
    changes: Sequence[ChangeBatch], schema: TableSchema
) -> tuple[list[pa.RecordBatch], pa.Array]:
    """(rows that live after `changes`, keys that they name), in memory."""
    if not changes:
        return [], pa.array([], pa.string())
    newest = latest_per_key([batch.conformed(schema) for batch in changes])
    live = newest.rows.filter(pa.array(newest.op != D))
    return [live], row_keys(schema, newest.rows)


def without(
    batches: Iterable[pa.RecordBatch], schema: TableSchema, keys: pa.Array
) -> Iterator[pa.RecordBatch]:
    """The rows of all other keys."""
    for batch in batches:
        if len(keys) and batch.num_rows:
            named = pc.is_in(row_keys(schema, batch), value_set=keys)
            yield batch.filter(pc.invert(named))
        else:
            yield batch


def rows_at(
    reader: Reader,
    topic: str,
    source: str,
    position: NativePosition,
    rows: Iterable[pa.RecordBatch],
    schema: TableSchema,
    end: Ends,
) -> list[pa.RecordBatch]:
    """What the topic's rows should be below `end`: the `rows` that the source itself has at
    `position`, but for keys that the topic names behind it."""
    start = offsets_at(reader, topic, source, position)
    later, keys = newest_rows(changes_between(reader, topic, start, end), schema)
    return [*without(rows, schema, keys), *later]


def floats(schema: TableSchema) -> list[str]:
    """The columns of a view that two computations may give in slightly different values."""
    return [column.name for column in schema.columns if column.type in _FLOATS]
