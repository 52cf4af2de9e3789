"""`cdc verify` of views that no one database can compute (SEMANTICS 35): those over several
sources, over MySQL (views are Postgres's SQL), or over topics.

1.  Read the view's rows in the store; the sink's vector says which cut they show.
2.  The history of frontiers says where each of the view's tables stood in its topic at that cut.
    A topic whose cut compaction has disturbed is read again at the sink's next position.
3.  Each topic is compared with its source's table, as a sink of that table would be; a source of
    topics is read anew.
4.  The view is computed from the rows of the topics, by operators that begin with nothing, and
    compared with the store.

All of it in memory, as the views' own state is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cdc.changes import ChangeBatch
from cdc.cli import parts
from cdc.cli.comparison import (
    READS_MAX,
    Ends,
    StoreRows,
    Verdict,
    changes_between,
    floats,
    newest_rows,
    offsets_of,
    read_store,
    rows_at,
    store_difference,
)
from cdc.cli.context import Tables, fenced
from cdc.cli.source_reads import SourceRead
from cdc.compare import compare
from cdc.config import Config
from cdc.errors import CheckFailed
from cdc.frontiers import Frontier
from cdc.log.api import Reader
from cdc.positions import Vector
from cdc.schema import TableSchema


@dataclass(frozen=True)
class LoggedView:
    """A view that is computed from the log. `tables` are `source.schema.table`: topics, too."""

    name: str
    topic: str
    schema: TableSchema
    tables: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted({table.partition(".")[0] for table in self.tables}))


@dataclass(frozen=True, eq=False)
class _Cut:
    """What the store and the topics hold at one vector."""

    vector: Vector
    store: StoreRows
    ends: Mapping[str, Ends]
    changes: Mapping[str, Sequence[ChangeBatch]]


def verdicts_with_log(
    config: Config,
    tables: Tables,
    sink: str,
    views: Sequence[LoggedView],
    reads: Mapping[str, SourceRead],
    reader: Reader,
) -> list[Verdict]:
    """The verdicts on the views and, once each, on their tables' topics. Raises CheckFailed when
    the log does not keep what the sink's cut was made of."""
    found: list[Verdict] = []
    compared: set[str] = set()
    for view in views:
        cut = _read(config, sink, view, reader)
        for topic in view.tables:
            if topic not in compared:
                compared.add(topic)
                verdict = _topic_verdict(topic, tables[topic], cut, reads, reader)
                source = topic.partition(".")[0]
                found.append(replace(verdict, fenced=fenced(config, reader, [source])))
        found.append(_view_verdict(config, tables, sink, view, cut, reader))
    return found


def _read(config: Config, sink: str, view: LoggedView, reader: Reader) -> _Cut:
    for _ in range(READS_MAX):
        store = read_store(config, sink, view.name, view.schema)
        if store.before.chunk:
            continue
        vector = _vector_of(store.before.vector, view, sink)
        ends: dict[str, Ends] = {}
        reached: dict[str, Frontier] = {}
        for source in view.sources:
            mine = [topic for topic in view.tables if topic.startswith(f"{source}.")]
            reached[source] = frontier_at(reader, source, vector, mine)
            ends |= {topic: reached[source].end_offsets[topic] for topic in mine}
        changes = {
            topic: changes_between(reader, topic, (0,) * len(end), end)
            for topic, end in ends.items()
        }
        if all(_is_exact(reader, t, reached[t.partition(".")[0]]) for t in view.tables):
            return _Cut(vector, store, ends, changes)
    raise CheckFailed(
        "the sink's position cannot be read from the log any more: compaction has taken records "
        "that it needs, or a large cut is being applied",
        where=f"sink {sink}, view {view.name}",
        hint="let `cdc run` bring the sink to a newer position, and verify again",
    )


def _vector_of(reached: Vector, view: LoggedView, sink: str) -> Vector:
    """The part of the sink's vector that the view reflects."""
    for source in view.sources:
        if source not in reached:
            raise CheckFailed(
                f"the sink reflects nothing of {source} yet",
                where=f"sink {sink}, view {view.name}",
                hint="let `cdc run` bring the sink to a newer position, and verify again",
            )
    return Vector.of({source: reached[source] for source in view.sources})


def frontier_at(reader: Reader, source: str, vector: Vector, topics: Sequence[str]) -> Frontier:
    """The source's frontier at the vector; where the history was thinned, its neighbour if nothing
    came to the topics between. Raises CheckFailed."""
    wanted = vector[source]
    below = above = None
    for _, frontier in reader.frontiers(source):
        if not frontier.whole or any(topic not in frontier.end_offsets for topic in topics):
            continue
        if not wanted.covers(frontier.positions[source]):
            above = frontier
            break
        below = frontier
    if below is not None and below.positions[source] == wanted:
        return below
    if (
        below is not None
        and above is not None
        and all(below.end_offsets[topic] == above.end_offsets[topic] for topic in topics)
    ):
        return below
    raise CheckFailed(
        f"the log no longer says where its topics stood at {source}@{wanted}",
        where=f"{source}.frontier",
        hint="let `cdc run` bring the sink to a newer position, and verify again",
    )


def _is_exact(reader: Reader, topic: str, frontier: Frontier) -> bool:
    """Whether the topic, now that it has been read, still showed the frontier's state."""
    if reader.horizon(topic).superseded_us <= frontier.appended_us:
        return True
    newest = reader.newest_frontier(frontier.name)
    return newest is not None and newest.whole and newest.appended_us == frontier.appended_us


def _topic_verdict(
    topic: str, schema: TableSchema, cut: _Cut, reads: Mapping[str, SourceRead], reader: Reader
) -> Verdict:
    source = topic.partition(".")[0]
    read, end = reads[source], cut.ends[topic]
    rows = read.table(schema)
    expected = rows_at(reader, topic, source, read.position, rows, schema, end)
    actual, _ = newest_rows(cut.changes[topic], schema)
    difference = compare(expected, actual, schema)
    return Verdict(topic, f"{source}@{read.position}", difference, 0, what="topic")


def _view_verdict(
    config: Config, tables: Tables, sink: str, view: LoggedView, cut: _Cut, reader: Reader
) -> Verdict:
    before = offsets_of(cut.store.before, view.topic, sink)
    after = offsets_of(cut.store.after, view.topic, sink)
    _, unsettled = newest_rows(changes_between(reader, view.topic, before, after), view.schema)
    computed = parts.views().recomputed(config, tables, view.name, cut.changes)
    difference = store_difference(
        [computed], cut.store, view.schema, unsettled, floats(view.schema)
    )
    return Verdict(
        view.name,
        str(cut.vector),
        difference,
        len(unsettled),
        against="log",
        fenced=fenced(config, reader, view.sources),
    )
