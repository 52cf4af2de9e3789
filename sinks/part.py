"""The sinks as the command line reaches them (cdc.cli.parts.SinksPart)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdc.cli.parts import SinksPart, Stop
from cdc.config import Config
from cdc.errors import CdcError, CheckFailed, ConfigError
from cdc.log.api import Log
from cdc.schema import TableSchema
from cdc.source import Finding
from sinks.api import QueryResult, Sink, SinkInput, SinkPosition
from sinks.delivery import Feed, deliver
from sinks.locks import hold_lock, is_locked, rebuild_lock
from sinks.progress import Progress, read_status
from sinks.rebuild import Rebuilt, Tell, rebuild
from sinks.rebuild import status_file as rebuild_status_file
from sinks.stores import sink_of


class Sinks:
    """See cdc.cli.parts.SinksPart."""

    def check(self, config: Config, sink: str, schemas: Mapping[str, TableSchema]) -> list[Finding]:
        """`schemas` by view name, and by `source.schema.table`."""
        feed = feed_of(config, sink)
        inputs = [
            SinkInput(name, topic, _schema(schemas, name, topic)) for name, topic, _ in feed.inputs
        ]
        try:
            with closing(sink_of(config, sink)) as opened:
                return opened.check(inputs)
        except CdcError as error:
            return [Finding("error", error.where or f"sink {sink}", error.what, error.hint)]

    def deliver(self, config: Config, sink: str, log: Log, stop: Stop) -> None:
        progress = Progress(sink, log, status_file(config, sink))
        hold = hold_lock(config, sink)

        def held() -> bool:
            return is_locked(hold)

        try:
            with closing(sink_of(config, sink)) as opened:
                deliver(opened, feed_of(config, sink), log, stop, progress, hold=held)
        except CdcError as error:
            progress.stopped(error)
            raise
        progress.stopped(None)

    def position(self, config: Config, sink: str) -> SinkPosition | None:
        with closing(sink_of(config, sink)) as opened:
            return opened.position()

    def rows(
        self, config: Config, sink: str, input_name: str, schema: TableSchema
    ) -> Iterator[pa.RecordBatch]:
        with self._reading(config, sink, input_name, schema) as opened:
            yield from opened.rows(input_name)

    def readable_columns(
        self, config: Config, sink: str, input_name: str, schema: TableSchema
    ) -> tuple[str, ...]:
        with self._reading(config, sink, input_name, schema) as opened:
            return opened.readable_columns(input_name)

    @contextmanager
    def _reading(
        self, config: Config, sink: str, input_name: str, schema: TableSchema
    ) -> Iterator[Sink]:
        names = {name: topic for name, topic, _ in feed_of(config, sink).inputs}
        with closing(sink_of(config, sink)) as opened:
            opened.prepare_reading([SinkInput(input_name, names[input_name], schema)])
            yield opened

    def query(self, config: Config, sink: str, text: str) -> QueryResult:
        with closing(sink_of(config, sink)) as opened:
            return opened.query(text)

    def rebuild(self, config: Config, sink: str, log: Log, stop: Stop, tell: Tell) -> Rebuilt:
        return rebuild(config, feed_of(config, sink), log, stop, tell)

    def remove(self, config: Config, sink: str) -> list[str]:
        """Raises CheckFailed while a rebuild of it runs."""
        if is_locked(rebuild_lock(config, sink)):
            raise CheckFailed("a rebuild of it is running", where=f"sink {sink}")
        with closing(sink_of(config, sink)) as opened:
            removed = opened.remove()
        files = (status_file, rebuild_status_file, rebuild_lock, hold_lock)
        for path_of in files:
            path_of(config, sink).unlink(missing_ok=True)
        return removed

    def status(self, config: Config, sink: str) -> dict[str, Any]:
        """What the sink's process last told: state (starting, waiting, running, retrying, applying
        a large cut, stopped, failed), error, position, rows, cuts, retries, last_*; and under
        `rebuild`, while one runs, its phase (loading, comparing, swapping), done, of, rows."""
        told = read_status(status_file(config, sink))
        if (rebuilt := self.rebuild_status(config, sink)) is not None:
            told["rebuild"] = rebuilt
        return told

    def rebuild_status(self, config: Config, sink: str) -> dict[str, Any] | None:
        if not is_locked(rebuild_lock(config, sink)):
            return None
        return read_status(rebuild_status_file(config, sink))


def feed_of(config: Config, sink: str) -> Feed:
    """The topics that the sink's `from:` names."""
    settings = config.sinks[sink]
    inputs = tuple((name, *_topic(config, settings.place, name)) for name in settings.inputs)
    sources = {name: config.sources[name] for _, _, name in inputs if name in config.sources}
    return Feed(sink, inputs, sources)


def _topic(config: Config, place: object, name: str) -> tuple[str, str]:
    """(topic, frontier's name) of an input: a view, `source.table` or `source.schema.table`."""
    if name in config.views:
        return f"view.{name}", f"view.{name}"
    source, _, table = name.partition(".")
    if source not in config.sources or not table:
        raise ConfigError(
            f"'{name}' is neither a view nor a table of a source",
            where=str(place),
            hint="write a view's name, or source.table",
        )
    return f"{source}.{config.sources[source].full_name(table)}", source


def _schema(schemas: Mapping[str, TableSchema], name: str, topic: str) -> TableSchema:
    found = schemas.get(name) or schemas.get(topic)
    if found is None:
        raise ConfigError(f"nothing is known about the columns of '{name}'")
    return found


def status_file(config: Config, sink: str) -> Path:
    return config.state.path / "sinks" / f"{sink}.json"


PART: SinksPart = Sinks()
