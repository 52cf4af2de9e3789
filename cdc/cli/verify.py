"""`cdc verify SINK`: the sink against the same SELECT on the source, at one position.

Nothing pauses (SEMANTICS 35):

1. begin to read the source at an exact position X
2. wait until the sink contains X; when nobody runs it, compare it as it stands, and say so
3. read the store's rows between two looks at its position; if it moved, again, a few times
4. a key that the topic names after X is expected as its newest record up to the sink's position;
   every other key as the SELECT has it at X
5. compare by key

A view over several sources has no such SELECT, nor has one over MySQL, whose SQL is another, or
over topics: it is compared with the log (verify_log.py). A table of a source of topics is compared
with these topics, read anew.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from cdc.cli import parts
from cdc.cli.comparison import (
    Verdict,
    changes_between,
    floats,
    newest_rows,
    offsets_of,
    read_store,
    rows_at,
    store_difference,
)
from cdc.cli.context import (
    UNFENCED,
    Tables,
    fenced,
    input_schemas,
    input_topic,
    known_tables,
    opened_log,
    opened_source,
    sink_named,
)
from cdc.cli.output import emit, say
from cdc.cli.reporting import is_alive, read_status, run_dir
from cdc.cli.source_reads import SourceRead, can_select, opened_read
from cdc.cli.targets import wait_for
from cdc.cli.verify_log import LoggedView, verdicts_with_log
from cdc.config import Config
from cdc.errors import CheckFailed
from cdc.log.api import Reader
from cdc.positions import Vector
from cdc.schema import TableSchema


@dataclass(frozen=True)
class Input:
    """One input of the sink: a view that its source computes by `query`, or (None) a table."""

    name: str
    topic: str
    schema: TableSchema
    source: str
    query: str | None = None


@dataclass(frozen=True)
class Inputs:
    """What is compared with the source itself, and what with the log."""

    selected: tuple[Input, ...]
    logged: tuple[LoggedView, ...]

    @property
    def sources(self) -> list[str]:
        return sorted(
            {i.source for i in self.selected} | {s for v in self.logged for s in v.sources}
        )


def run(config: Config, arguments: argparse.Namespace) -> int:
    sink = sink_named(config, arguments.sink)
    tables = known_tables(config)
    inputs = _inputs(config, tables, input_schemas(config, sink, tables))
    verdicts = _verdicts(config, tables, sink.name, inputs, arguments.timeout)
    for verdict in verdicts:
        _tell(sink.name, verdict, arguments.json)
    return 0 if all(verdict.difference.equal for verdict in verdicts) else 1


def _inputs(config: Config, tables: Tables, schemas: dict[str, TableSchema]) -> Inputs:
    selected, logged = [], []
    for name, schema in schemas.items():
        topic = input_topic(config, name)
        if name not in config.views:
            source = topic.partition(".")[0]
            selected.append(Input(name, topic, schema, source))
            continue
        view = LoggedView(name, topic, schema, parts.views().inputs(config, tables, name))
        if len(view.sources) != 1 or not can_select(config, view.sources[0]):
            logged.append(view)
        else:
            source, query = parts.views().source_query(config, tables, name)
            selected.append(Input(name, topic, schema, source, query))
    return Inputs(tuple(selected), tuple(logged))


def _verdicts(
    config: Config, tables: Tables, sink: str, inputs: Inputs, timeout_s: float
) -> list[Verdict]:
    with ExitStack() as stack:
        reads = {name: stack.enter_context(opened_read(config, name)) for name in inputs.sources}
        target = Vector.of({name: read.position for name, read in reads.items()})
        for name in reads:
            with opened_source(config, name) as source:
                source.place_barrier()
        _wait(config, sink, target, timeout_s)
        _, reader = stack.enter_context(opened_log(config))
        found = [_verdict(config, sink, i, reads[i.source], reader) for i in inputs.selected]
        return found + verdicts_with_log(config, tables, sink, inputs.logged, reads, reader)


def _wait(config: Config, sink: str, target: Vector, timeout_s: float) -> None:
    """Until the sink contains `target`, or stands still because nobody runs it."""
    began_s = time.monotonic()
    reached, vector = wait_for(config, sink, target, timeout_s, lambda: not _runs(config, sink))
    if reached:
        return
    if _runs(config, sink):
        raise CheckFailed(
            f"{sink} has not reached {target} after {time.monotonic() - began_s:.0f} s",
            where=f"sink {sink} at {str(vector) or 'nothing yet'}",
            hint="`cdc status` shows what is behind",
        )
    if not vector:
        raise CheckFailed(
            f"{sink} has no rows yet, and nobody runs it",
            where=f"sink {sink}",
            hint="start `cdc run`, or `cdc run --until-caught-up`, first",
        )
    say(f"{sink} stands at {vector}, and `cdc run` is not running: compared as it is")


def _runs(config: Config, sink: str) -> bool:
    told = read_status(run_dir(config.log.path), "sink", sink)
    return told is not None and is_alive(told)


def _verdict(config: Config, sink: str, one: Input, read: SourceRead, reader: Reader) -> Verdict:
    store = read_store(config, sink, one.name, one.schema)
    before = offsets_of(store.before, one.topic, sink)
    after = offsets_of(store.after, one.topic, sink)
    schema = one.schema
    rows = read.table(schema) if one.query is None else read.select(one.query, schema)
    expected = rows_at(reader, one.topic, one.source, read.position, rows, schema, before)
    _, unsettled = newest_rows(changes_between(reader, one.topic, before, after), one.schema)
    approximate = floats(one.schema) if one.name in config.views else []
    difference = store_difference(expected, store, one.schema, unsettled, approximate)
    position, whole = f"{one.source}@{read.position}", fenced(config, reader, [one.source])
    return Verdict(one.name, position, difference, len(unsettled), fenced=whole)


def _tell(sink: str, verdict: Verdict, as_json: bool) -> None:
    found = verdict.difference
    if as_json:
        samples = [asdict(sample) for sample in found.samples]
        emit(
            {
                "sink": sink,
                "input": verdict.input,
                "position": verdict.position,
                "what": verdict.what,
                "against": verdict.against,
                "fenced": verdict.fenced,
                "compared": found.compared,
                "missing": found.missing,
                "extra": found.extra,
                "different": found.different,
                "unsettled": verdict.unsettled,
                "samples": samples,
            }
        )
        return
    subject = f"{sink}.{verdict.input}" if verdict.what == "sink" else f"topic {verdict.input}"
    at = f"{subject} at {verdict.position}"
    how = " (recomputed from the log)" if verdict.against == "log" else ""
    how += "" if verdict.fenced else f" ({UNFENCED})"
    if found.equal:
        print(f"{at}: {found.compared:,} rows equal{how}")
    else:
        counts = f"{found.missing} missing, {found.extra} extra, {found.different} different"
        print(f"{at}: {counts} of {found.compared:,} rows{how}")
        for sample in found.samples:
            print(f"  {sample}")
    if verdict.unsettled:
        print(f"  {verdict.unsettled} keys changed while the store was read and were left out")
