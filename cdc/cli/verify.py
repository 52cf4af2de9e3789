"""`cdc verify SINK`: the sink against the same SELECT on the source, at one position.

Nothing pauses (SEMANTICS 35):

1. begin to read the source at an exact position X
2. wait until the sink contains X; when nobody runs it, compare it as it stands, and say so
3. read the store's rows between two looks at its position; if it moved, again, a few times
4. a key that the topic names after X is expected as its newest record up to the sink's position;
   every other key as the SELECT has it at X
5. compare by key
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdc.changes import D
from cdc.cli import parts
from cdc.cli.context import (
    Tables,
    input_schemas,
    input_topic,
    known_tables,
    opened_log,
    opened_source,
    sink_named,
)
from cdc.cli.log import Histories, frontier_name
from cdc.cli.output import emit, say
from cdc.cli.reporting import is_alive, read_status, run_dir
from cdc.cli.targets import wait_for
from cdc.compare import Difference, compare
from cdc.config import Config
from cdc.errors import CheckFailed, Unsupported
from cdc.keys import row_keys
from cdc.latest import latest_per_key
from cdc.log.api import Reader
from cdc.positions import NativePosition, Vector
from cdc.postgres.select import ReadAt, snapshot_at_now
from cdc.schema import TableSchema

READS_MAX = 10
_FLOATS = (pa.float32(), pa.float64())


@dataclass(frozen=True)
class Input:
    """One input of the sink, and how its source computes it."""

    name: str
    topic: str
    schema: TableSchema
    source: str
    query: str


@dataclass(frozen=True)
class Verdict:
    input: str
    position: str
    difference: Difference
    unsettled: int
    """Keys left out because they changed while the store was read."""


def run(config: Config, arguments: argparse.Namespace) -> int:
    sink = sink_named(config, arguments.sink)
    tables = known_tables(config)
    schemas = input_schemas(config, sink, tables)
    inputs, refused = _inputs(config, tables, schemas)
    verdicts = _verdicts(config, sink.name, inputs, arguments.timeout)
    for verdict in verdicts:
        _tell(sink.name, verdict, arguments.json)
    for error in refused:
        say(f"not compared: {error}")
    equal = all(verdict.difference.equal for verdict in verdicts)
    return 0 if equal and not refused else 1


def _inputs(
    config: Config, tables: Tables, schemas: dict[str, TableSchema]
) -> tuple[list[Input], list[Unsupported]]:
    found, refused = [], []
    for name, schema in schemas.items():
        topic = input_topic(config, name)
        if name not in config.views:
            query = _select_all(schema)
            found.append(Input(name, topic, schema, topic.partition(".")[0], query))
            continue
        try:
            source, query = parts.views().source_query(config, tables, name)
        except Unsupported as error:
            refused.append(error)
        else:
            found.append(Input(name, topic, schema, source, query))
    return found, refused


def _select_all(schema: TableSchema) -> str:
    columns = ", ".join(_quoted(column.name) for column in schema.columns)
    return f"SELECT {columns} FROM {'.'.join(_quoted(part) for part in schema.name.split('.', 1))}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _verdicts(
    config: Config, sink: str, inputs: Sequence[Input], timeout_s: float
) -> list[Verdict]:
    with ExitStack() as stack:
        reads = {
            name: stack.enter_context(snapshot_at_now(config.sources[name].url))
            for name in sorted({i.source for i in inputs})
        }
        target = Vector.of({name: read.position for name, read in reads.items()})
        for name in reads:
            with opened_source(config, name) as source:
                source.place_barrier()
        reached, vector = wait_for(config, sink, target, timeout_s, lambda: not _runs(config, sink))
        if not reached and (not vector or _runs(config, sink)):
            raise CheckFailed(
                f"{sink} has not reached {target} after {timeout_s:g} s",
                where=f"sink {sink} at {str(vector) or 'nothing yet'}",
                hint="`cdc status` shows what is behind",
            )
        if not reached:
            say(f"{sink} stands at {vector}, and `cdc run` is not running: compared as it is")
        _, reader = stack.enter_context(opened_log(config))
        return [_verdict(config, sink, i, reads[i.source], reader) for i in inputs]


def _runs(config: Config, sink: str) -> bool:
    told = read_status(run_dir(config.log.path), "sink", sink)
    return told is not None and is_alive(told)


def _verdict(config: Config, sink: str, one: Input, read: ReadAt, reader: Reader) -> Verdict:
    before, actual, after = _read_store(config, sink, one)
    start = offsets_at(reader, one.topic, one.source, read.position)
    changed, keys = _changed(reader, one, start, before)
    _, unsettled = _changed(reader, one, before, after)
    expected = _without(
        [*_without(read.rows(one.query, one.schema), one.schema, keys), *changed],
        one.schema,
        unsettled,
    )
    approximate = (
        [c.name for c in one.schema.columns if c.type in _FLOATS]
        if one.name in config.views
        else []
    )
    difference = compare(expected, _without(actual, one.schema, unsettled), one.schema, approximate)
    return Verdict(one.name, f"{one.source}@{read.position}", difference, len(unsettled))


def _read_store(
    config: Config, sink: str, one: Input
) -> tuple[tuple[int, ...], list[pa.RecordBatch], tuple[int, ...]]:
    """(offsets before, rows, offsets after): equal offsets, unless the sink moves all the time."""
    after, rows = _offsets(config, sink, one), list[pa.RecordBatch]()
    before = after
    for _ in range(READS_MAX):
        before = after
        rows = list(parts.sinks().rows(config, sink, one.name, one.schema))
        after = _offsets(config, sink, one)
        if before == after:
            break
    return before, rows, after


def _offsets(config: Config, sink: str, one: Input) -> tuple[int, ...]:
    position = parts.sinks().position(config, sink)
    if position is None:
        raise CheckFailed("the sink has no position any more", where=f"sink {sink}")
    offsets: tuple[int, ...] = position.offsets[one.topic]
    return offsets


def offsets_at(
    reader: Reader, topic: str, source: str, position: NativePosition
) -> tuple[int, ...]:
    """Per partition an offset below which every record is at or before `position`.

    The newest frontier that `position` covers says so; without one, or on a log that keeps no
    history, the topic's beginning is right too, only slower.
    """
    found: tuple[int, ...] = tuple(0 for _ in reader.end_offsets(topic))
    if isinstance(reader, Histories):
        for _, frontier in reader.frontiers(frontier_name(topic)):
            at = frontier.positions.get(source)
            if frontier.whole and at is not None and position.covers(at):
                found = tuple(frontier.end_offsets.get(topic, found))
    return found


def _changed(
    reader: Reader, one: Input, start: Sequence[int], end: Sequence[int]
) -> tuple[list[pa.RecordBatch], pa.Array]:
    """(rows that live, keys that are named) of the topic between two sets of offsets."""
    batches = [
        batch.changes.conformed(one.schema)
        for partition, last in enumerate(end)
        if last > start[partition]
        for batch in reader.read(one.topic, partition, start[partition], last)
        if batch.changes.num_rows
    ]
    if not batches:
        return [], pa.array([], pa.string())
    newest = latest_per_key(batches)
    live = newest.rows.filter(pa.array(newest.op != D))
    return [live], row_keys(one.schema, newest.rows)


def _without(
    batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch],
    schema: TableSchema,
    keys: pa.Array,
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if len(keys) and batch.num_rows:
            named = pc.is_in(row_keys(schema, batch), value_set=keys)
            yield batch.filter(pc.invert(named))
        else:
            yield batch


def _tell(sink: str, verdict: Verdict, as_json: bool) -> None:
    found = verdict.difference
    if as_json:
        samples = [asdict(sample) for sample in found.samples]
        emit(
            {
                "sink": sink,
                "input": verdict.input,
                "position": verdict.position,
                "compared": found.compared,
                "missing": found.missing,
                "extra": found.extra,
                "different": found.different,
                "unsettled": verdict.unsettled,
                "samples": samples,
            }
        )
        return
    at = f"{sink}.{verdict.input} at {verdict.position}"
    if found.equal:
        print(f"{at}: {found.compared:,} rows equal")
    else:
        counts = f"{found.missing} missing, {found.extra} extra, {found.different} different"
        print(f"{at}: {counts} of {found.compared:,} rows")
        for sample in found.samples:
            print(f"  {sample}")
    if verdict.unsettled:
        print(f"  {verdict.unsettled} keys changed while the store was read and were left out")
