"""How one command line reaches packages that `cdc` may not import.

Each package offers one object under the entry-point group `cdc.parts`; the command line asks it by
name. This module is the only place that knows that the other packages exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

import pyarrow as pa

from cdc.changes import ChangeBatch
from cdc.config import Config
from cdc.log.api import Log
from cdc.schema import TableSchema
from cdc.source import Finding


class Stop(Protocol):
    """Asked by long-running work between two steps: finish the work in hand and return."""

    def __call__(self) -> bool: ...


class ViewsPart(Protocol):
    def check(self, config: Config, tables: Mapping[str, TableSchema]) -> list[Finding]:
        """Plan every view. `tables` is keyed `source.schema.table`."""
        ...

    def schemas(self, config: Config, tables: Mapping[str, TableSchema]) -> dict[str, TableSchema]:
        """Each view's output schema, by view name. Raises ViewError."""
        ...

    def inputs(
        self, config: Config, tables: Mapping[str, TableSchema], view: str
    ) -> tuple[str, ...]:
        """Every table (`source.schema.table`) that the view reads, also through other views."""
        ...

    def explain(self, config: Config, tables: Mapping[str, TableSchema], view: str) -> str: ...

    def explain_json(
        self, config: Config, tables: Mapping[str, TableSchema], view: str
    ) -> dict[str, Any]: ...

    def source_query(
        self, config: Config, tables: Mapping[str, TableSchema], view: str, sql: str | None = None
    ) -> tuple[str, str]:
        """(source, SELECT in that source's own SQL with views inlined, the view's columns in order)
        for a view over one source; raises Unsupported for several sources. `sql` instead of the
        registered text is for preview."""
        ...

    def recomputed(
        self,
        config: Config,
        tables: Mapping[str, TableSchema],
        view: str,
        changes: Mapping[str, Sequence[ChangeBatch]],
    ) -> pa.RecordBatch:
        """The view's rows, in its schema, computed anew and in memory. `changes`: per table that
        the view reads (`inputs`) all changes of its topic from offset zero, in log order."""
        ...

    def adhoc(
        self, config: Config, tables: Mapping[str, TableSchema], sql: str
    ) -> tuple[TableSchema, str]:
        """`cdc preview`: the SELECT's output schema and its plan, as `explain` prints it."""
        ...

    def maintain(self, config: Config, group: str, log: Log, stop: Stop) -> None:
        """Keep the views of a group up to date until `stop()`."""
        ...

    def request_reload(self, config: Config, group: str, *, withdraw: bool = False) -> None:
        """Ask whoever maintains the group, now or later, to build its state anew from offset zero
        and to publish only the difference; or take that back."""
        ...

    def reload_stands(self, config: Config, group: str) -> bool:
        """Whether a reload was asked for and is not published yet."""
        ...

    def status(self, config: Config, group: str) -> dict[str, Any]:
        """The group's own facts: state per view (running, loading, blocked + why), fallbacks."""
        ...


class SinksPart(Protocol):
    def check(
        self, config: Config, sink: str, schemas: Mapping[str, TableSchema]
    ) -> list[Finding]: ...

    def deliver(self, config: Config, sink: str, log: Log, stop: Stop) -> None:
        """Keep a sink equal to its inputs until `stop()`."""
        ...

    def position(self, config: Config, sink: str) -> Any | None:
        """The sinks.api.SinkPosition in the store; None before the first cut."""
        ...

    def rows(
        self, config: Config, sink: str, input_name: str, schema: TableSchema
    ) -> Iterator[pa.RecordBatch]:
        """An input's rows as the store has them: its readable columns."""
        ...

    def readable_columns(
        self, config: Config, sink: str, input_name: str, schema: TableSchema
    ) -> tuple[str, ...]:
        """The columns that the store can give back, the key among them."""
        ...

    def query(self, config: Config, sink: str, text: str) -> Any:
        """A sinks.api.QueryResult."""
        ...

    def rebuild(
        self,
        config: Config,
        sink: str,
        log: Log,
        stop: Stop,
        tell: Callable[[Mapping[str, Any]], None],
    ) -> Any:
        """Replay the sink from offset zero beside the live one, compare it and swap it; a
        sinks.rebuild.Rebuilt. `tell` is called often with phase, done, of, rows, elapsed_s.
        Raises CheckFailed when it differs, was interrupted by `stop()`, or runs already."""
        ...

    def remove(self, config: Config, sink: str) -> list[str]: ...

    def status(self, config: Config, sink: str) -> dict[str, Any]:
        """What the sink's process last told: state (starting, waiting, running, retrying, stopped,
        failed, …), error, position, rows, cuts, retries; empty before its first run. While a
        rebuild runs, under `rebuild` what that tells: phase, done, of, rows, elapsed_s."""
        ...

    def rebuild_status(self, config: Config, sink: str) -> dict[str, Any] | None:
        """What a rebuild of the sink tells; None when none is running."""
        ...


class CompactionPart(Protocol):
    """Works on the embedded log only; on Kafka the broker compacts, and these raise LogError."""

    def compact(self, config: Config, topics: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Compact now (no topics: all): per topic the records before and after."""
        ...

    def run(self, config: Config, stop: Stop) -> None:
        """Compact in the background whenever it is worth it, until `stop()`."""
        ...


def compaction() -> CompactionPart:
    return cast(CompactionPart, _part("compaction"))


def views() -> ViewsPart:
    return cast(ViewsPart, _part("views"))


def sinks() -> SinksPart:
    return cast(SinksPart, _part("sinks"))


def _part(name: str) -> object:
    (found,) = entry_points(group="cdc.parts", name=name)
    return found.load()


__all__: Sequence[str] = (
    "CompactionPart",
    "SinksPart",
    "Stop",
    "ViewsPart",
    "compaction",
    "sinks",
    "views",
)
